"""What a worker does beside sessions: on_load, on_unload, the collector, what Python says."""

from __future__ import annotations

import gc
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ngxstream.event.loop import Loop
from ngxstream.modules.py import working
from ngxstream.modules.py.conf import Scripts
from ngxstream.scripting import process
from tests.support.engine import engine, run_until
from tests.support.in_process import build

Read = Callable[[str], Scripts]


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Give a loop; what a worker has changed of its process is undone."""
    before = (sys.unraisablehook, warnings.showwarning, list(sys.meta_path), gc.get_threshold())
    modules = set(sys.modules)
    with engine() as made:
        yield made
        working.faults.running.limit_of(made).close()
        if made.collects:
            made.get(working.garbage.Garbage).close()
    sys.unraisablehook, warnings.showwarning = before[:2]
    sys.meta_path[:] = before[2]
    gc.set_threshold(*before[3])
    gc.unfreeze()
    process.serve(process.TEST, -1, 0)
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Give what reads a configuration with one module, of a text."""

    def make(source: str) -> Scripts:
        (tmp_path / "m.py").write_text(source)
        built = build(f"stream {{ py_path {tmp_path}; py_import m; py_time_limit 20ms; "
                      "server { listen 127.0.0.1:1; return x; } }")
        assert built.conf is not None, built.error
        scripts: Scripts = built.conf.data["py"]
        return scripts

    return make


def lines(loop: Loop) -> list[str]:
    """Return what the log has."""
    return [line for _, line in loop.log.lines]


LOADS = """
from ngxstream.scripting import process, sleep
seen = [(process.role, process.worker, process.workers)]
async def on_load():
    seen.append((process.role, process.worker, process.workers))
    try:
        await sleep(0.001)
        seen.append('loaded')
        await sleep(3600)
    finally:
        seen.append('cancelled')
def on_unload(): seen.append('unloaded')
"""


def test_a_module_is_told_when_its_worker_begins_and_ends(loop: Loop, read: Read) -> None:
    """on_load() may be async; what still runs of it is cancelled, then on_unload() is called."""
    loop.worker, loop.workers = 1, 3
    scripts = read(LOADS)
    seen: list[Any] = scripts.modules[0].seen  # type: ignore[attr-defined]
    working.begin(scripts, loop)
    run_until(loop, lambda: "loaded" in seen)
    assert scripts.worker is not None
    scripts.worker.stop()
    assert [("test", -1, 0), ("worker", 1, 3), "loaded", "cancelled", "unloaded"] == seen
    assert (0, []) == (loop.live, lines(loop))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def on_load(): raise ValueError('no')", '"m.on_load" failed: ValueError: no in '),
        ("async def on_load(): raise ValueError('no')", '"m.on_load" failed: ValueError: no in '),
        ("def on_unload(): raise SystemExit", '"m.on_unload" failed: SystemExit in '),
        ("async def on_unload(): pass",
         '"m.on_unload" failed: TypeError: on_unload() must be a plain function'),
        ("def on_unload():\n while True: pass", '"m.on_unload" failed: TimeLimitError: '),
    ],
)
def test_one_that_fails_is_a_line_in_the_log(
    loop: Loop, read: Read, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    """The worker serves on, or ends, all the same."""
    monkeypatch.setattr(working, "LOAD_MS", 1)
    scripts = read(source)
    working.begin(scripts, loop)
    assert scripts.worker is not None
    scripts.worker.stop()
    assert [True] == [line.startswith(message) for line in lines(loop)]


def test_a_worker_may_have_threads_but_its_signals_are_kept(loop: Loop, read: Read) -> None:
    """on_load() is where a module starts what a fork would lose."""
    scripts = read("import signal, threading\ndef on_load():\n"
                   " t = threading.Thread(target=int)\n t.start()\n t.join()\n"
                   " signal.signal(signal.SIGPROF, signal.SIG_IGN)\n")
    working.begin(scripts, loop)
    assert [] == lines(loop)
    assert signal.getsignal(signal.SIGPROF) not in (signal.SIG_IGN, signal.SIG_DFL)
    assert scripts.worker is not None
    scripts.worker.stop()


def test_a_former_configurations_modules_are_told_when_it_is_needed(
    loop: Loop, read: Read
) -> None:
    """Once, and its periodic functions are not called by a new worker."""
    scripts = read("seen = []\ndef on_load(): seen.append(1)")
    first = working.of(scripts, loop)
    assert first is working.of(scripts, loop)
    assert ([1], False, []) == (
        scripts.modules[0].seen, first.is_current, first.periodics,  # type: ignore[attr-defined]
    )


def test_the_collector_runs_where_users_code_does(loop: Loop, read: Read) -> None:
    """What is there at the beginning is not looked through."""
    working.begin(read(""), loop)
    assert (True, True) == (loop.collects, gc.isenabled())
    assert gc.get_freeze_count()


def test_without_functions_it_does_not_run(loop: Loop) -> None:
    """A loop turns it off, as ever."""
    loop.stop()
    try:
        loop.run()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_python_says_by_itself_is_a_line_in_the_log(loop: Loop, read: Read) -> None:
    """A coroutine that nobody awaited, and an exception in __del__."""
    scripts = read("async def forgotten(): pass\ndef forgets():\n forgotten()\n"
                   "class Bad:\n def __del__(self): raise ValueError('a\\nb')\n")
    working.begin(scripts, loop)
    module: Any = scripts.modules[0]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = working._Told(loop.log).warning
        module.forgets()
    module.Bad()
    assert 2 == len(lines(loop))
    assert "RuntimeWarning: coroutine 'forgotten' was never awaited in " in lines(loop)[0]
    assert lines(loop)[1].startswith("ValueError: a\\x0Ab in ")
    assert lines(loop)[1].endswith("m.py:5 (in a finalizer)")


def test_a_module_may_ask_what_runs_it(read: Read) -> None:
    """The names are there when it is imported."""
    scripts = read("from ngxstream.scripting import process\nS = process.prefix, process.file, "
                   "process.role, process.version")
    prefix, file, role, version = scripts.modules[0].S  # type: ignore[attr-defined]
    assert ("/p/", "/p/conf/nginx.conf", "test", process.version) == (prefix, file, role, version)
