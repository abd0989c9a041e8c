"""py_periodic: called again and again, never twice at once, and no more once the worker leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ngxstream.event.loop import Loop
from ngxstream.modules.py import working
from ngxstream.modules.py.working import Working
from tests.support.engine import engine, run_until
from tests.support.in_process import build

FUNCTIONS = """
from ngxstream.scripting import sleep
calls = []
ends = []
gate = [False]
def plain(): calls.append('plain')
async def waits():
    calls.append('waits')
    try:
        while not gate[0]: await sleep(0.001)
    finally: ends.append('waits')
def raises():
    calls.append('raises')
    raise ValueError('no')
async def a_raises():
    calls.append('a_raises')
    await sleep(0)
    raise ValueError('no')
def burns():
    calls.append('burns')
    while True: pass
def one(s): pass
"""

Begin = Callable[[str], Any]


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Give a loop, whose limit is closed at the end."""
    with engine() as made:
        yield made
        working.faults.running.limit_of(made).close()


@pytest.fixture
def begin(loop: Loop, tmp_path: Path) -> Begin:
    """Give what begins a worker with a directive; the module has what its functions noted."""
    (tmp_path / "m.py").write_text(FUNCTIONS)

    def make(text: str) -> Any:
        built = build(f"stream {{ py_path {tmp_path}; py_import m; py_time_limit 20ms; {text} "
                      "server { listen 127.0.0.1:1; return x; } }")
        assert built.conf is not None, built.error
        Working(built.conf.data["py"], loop, is_current=True)
        return built.conf.data["py"]

    return make


@pytest.mark.effect("py_periodic")
def test_it_is_called_when_the_worker_begins_and_then_at_its_interval(
    loop: Loop, begin: Begin
) -> None:
    """Its timer keeps no worker that wants to leave."""
    scripts = begin("py_periodic m.plain interval=10ms;")
    calls = scripts.modules[0].calls
    run_until(loop, lambda: len(calls) >= 3)
    assert 0 == loop.live
    scripts.worker.stop()


def test_the_next_call_waits_for_its_interval(loop: Loop, begin: Begin) -> None:
    """A long one, or a long jitter before the first call, is waited for."""
    scripts = begin("py_periodic m.plain interval=1h; py_periodic m.raises jitter=9999h;")
    calls = scripts.modules[0].calls
    run_until(loop, lambda: calls)
    for _ in range(5):
        loop.turn(0)
    assert ["plain"] == calls
    scripts.worker.stop()


def test_one_that_still_runs_is_not_called_beside_itself(loop: Loop, begin: Begin) -> None:
    """One line says so; it is called again after its end."""
    scripts = begin("py_periodic m.waits interval=10ms;")
    its = scripts.modules[0]
    told = '"m.waits" still runs'
    run_until(loop, lambda: any(told in line for _, line in loop.log.lines))
    seen: list[int] = []
    loop.call_later(40, lambda: seen.append(len(its.calls)), cancelable=True)
    run_until(loop, lambda: seen)
    assert [1] == seen
    assert 1 == sum(told in line for _, line in loop.log.lines)
    its.gate[0] = True
    run_until(loop, lambda: len(its.calls) > 1)
    scripts.worker.stop()


@pytest.mark.parametrize("name", ["raises", "a_raises", "burns"])
def test_one_that_fails_is_told_and_called_again(loop: Loop, begin: Begin, name: str) -> None:
    """Each time a line with the place; the time limit is that of the block."""
    scripts = begin(f"py_periodic m.{name} interval=10ms;")
    its = scripts.modules[0]
    run_until(loop, lambda: len(its.calls) >= 3)
    scripts.worker.stop()
    lines = [line for _, line in loop.log.lines if f'"m.{name}" failed: ' in line]
    assert len(its.calls) - 1 <= len(lines) <= len(its.calls)
    assert all("m.py:" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "expected"), [("all", [0, 1, 2]), ("one", [0]), ("2", [0, 1]), ("7", [0, 1, 2])]
)
def test_which_workers_call_it(
    loop: Loop, begin: Begin, words: str, expected: list[int]
) -> None:
    """All of them, the first one, or so many."""
    callers = []
    for number in range(3):
        loop.worker = number
        scripts = begin(f"py_periodic m.plain workers={words};")
        if scripts.worker.periodics:
            callers.append(number)
        scripts.worker.stop()
    assert expected == callers


def test_a_worker_that_leaves_calls_it_no_more(loop: Loop, begin: Begin) -> None:
    """What runs goes on until the worker ends; then it is cancelled, `finally` blocks run."""
    scripts = begin("py_periodic m.plain interval=10ms; py_periodic m.waits interval=10ms;")
    its = scripts.modules[0]
    run_until(loop, lambda: its.calls.count("plain") > 1 and "waits" in its.calls)
    scripts.worker.retire()
    before, seen = len(its.calls), []
    loop.call_later(30, lambda: seen.append(len(its.calls)), cancelable=True)
    run_until(loop, lambda: seen)
    assert ([before], []) == (seen, its.ends)
    scripts.worker.stop()
    assert ["waits"] == its.ends
    assert scripts.worker is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("m.plain interval=0", '"interval" must be 10ms or more'),
        ("m.plain interval=x", 'invalid parameter "interval=x"'),
        ("m.plain interval=1s interval=1s", 'invalid parameter "interval=1s"'),
        ("m.plain jitter=", 'invalid parameter "jitter="'),
        ("m.plain workers=0", 'invalid parameter "workers=0"'),
        ("m.plain workers=some", 'invalid parameter "workers=some"'),
        ("m.plain often", 'invalid parameter "often"'),
        ("m.one", "function \"m.one\" must take 0 arguments: missing a required argument: 's'"),
        ("m.missing", "function \"m.missing\" not found: module 'm' has no attribute 'missing'"),
    ],
)
@pytest.mark.refusal("py_periodic")
def test_what_cannot_be_meant_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """Each with its place."""
    (tmp_path / "m.py").write_text(FUNCTIONS)
    built = build(f"stream {{ py_path {tmp_path}; py_import m; py_periodic {text}; "
                  "server { listen 127.0.0.1:1; return x; } }")
    assert f"{message} in /p/conf/nginx.conf:1" == built.error
