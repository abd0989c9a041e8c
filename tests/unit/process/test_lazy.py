"""Imports that wait: bound at once, executed when they are needed, all of them before serving."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import ngxstream

ROOT = Path(ngxstream.__file__).parents[1]


def run(code: str, *words: str, path: Path = ROOT) -> str:
    """Run code in an interpreter of its own; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False,
        cwd=path, timeout=60, env={"PYTHONPATH": f"{ROOT}:{path}"},
    )
    assert "" == done.stderr
    return done.stdout.strip()


WAITING = """
import sys
from ngxstream.process import lazy
def waiting():
    return [n for n, m in sorted(sys.modules.items()) if type(m).__name__ == "_Waiting"]
"""


def lazily(code: str) -> str:
    """Return code that runs where imports wait."""
    return f"{WAITING}with lazy.waiting():\n{textwrap.indent(code, '    ')}"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("from ngxstream.wire import dns; print(waiting())", ["ngxstream.wire.dns"]),
        ("import shutil, subprocess; print(waiting())", ["shutil", "subprocess"]),
        ("from ngxstream.wire import dns; dns.strerror; print(waiting())", []),
        ("from ngxstream.core.codes import OK; print(waiting())", []),
        ("lazy.end(); lazy.end(); from ngxstream.wire import dns; print(waiting())", []),
        ("from ngxstream.wire import dns; lazy.end(); print(waiting())", ["ngxstream.wire.dns"]),
        ("from ngxstream.wire import dns; lazy.end(); lazy.load_all(); print(waiting())", []),
        ("from ngxstream.wire import dns as d; lazy.end(); lazy.load_all(d); print(waiting())",
         ["ngxstream.wire.dns"]),
        ("import shlex; print(waiting())", []),
    ],
    ids=str,
)
def test_a_module_waits_until_a_name_in_it_is_asked_for(code: str, expected: list[str]) -> None:
    """An import binds the module; its first attribute, a name imported from it, or the order to
    load everything has it executed.
    """
    assert str(expected) == run(lazily(code))


def test_a_module_is_executed_once(tmp_path: Path) -> None:
    """Two importers that ask in turn share one module."""
    code = lazily(
        "from ngxstream.core import clock as a\n"
        "from ngxstream.core import clock as b\n"
        "made = a.Clock\n"
        "print(a is b, made is b.Clock, a.__spec__.name, type(a).__name__)"
    )
    assert "True True ngxstream.core.clock module" == run(code, path=tmp_path)


def test_what_fails_to_execute_fails_each_time(tmp_path: Path) -> None:
    """The error is the module's own, and comes again for whoever asks next."""
    (tmp_path / "calendar.py").write_text("import nowhere_to_be_found\n")
    code = lazily(
        "sys.path.insert(0, sys.argv[1])\n"
        "import calendar\n"
        "for _ in range(2):\n"
        "    try: calendar.month\n"
        "    except ModuleNotFoundError as error: print(error.name, waiting())"
    )
    expected = "nowhere_to_be_found ['calendar']"
    assert [expected] * 2 == run(code, str(tmp_path)).splitlines()


def test_nothing_waits_in_a_process_that_serves() -> None:
    """In whatever order they come, all modules of the program can be executed at last."""
    code = lazily(
        "from ngxstream.process import cycle, start\n"
        "start.run, cycle.MODULES\n"
        "print(len(waiting()) > 20); lazy.end(); lazy.load_all()\n"
        "import ngxstream.process.master\n"
        "print([name for name in waiting() if not name.startswith(lazy.SCRIPTING)])"
    )
    assert ["True", "[]"] == run(code).splitlines()


def test_a_call_leaves_the_interpreter_as_it_was(tmp_path: Path) -> None:
    """A call that tests a configuration leaves the collector and the import system alone."""
    code = (
        "import gc, sys; from ngxstream.process import cli\n"
        "before = list(sys.meta_path)\n"
        "cli.main(['ngxstream', '-q', '-t', '-p', '.', '-c', 'none.conf', '-e', 'e.log'])\n"
        "print(gc.isenabled(), before == sys.meta_path)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=tmp_path, timeout=60, env={"PYTHONPATH": str(ROOT)},
    )
    assert "True True" == done.stdout.strip()
