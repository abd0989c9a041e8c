"""A configuration without py_* has nothing of its machinery executed; one with them has all."""

import subprocess
import sys
from pathlib import Path

import pytest

import ngxstream
from tests.support import ports

ROOT = Path(ngxstream.__file__).parents[1]

# The way of a start, up to the fork: what serve() does first, and a cycle that is committed.
CODE = """
import sys
from ngxstream.process import cli, lazy, options
with lazy.waiting():
    from ngxstream.process import cycle, findings, master, netcheck, start
    lazy.end()
    lazy.load_all(netcheck, findings)
    given = options.Options(["ngxstream", "-p", sys.argv[1], "-e", "e.log", "-c", "a.conf"])
    builtin = start.builtin_log(given, None)
    built = cycle.Cycle(given, builtin)
    built.commit(None)
    for name in sys.argv[2:]:
        given.conf_file = f"{sys.argv[1]}/{name}"
        after = cycle.Cycle(given, builtin, built)
        after.prepare(built)
for name, module in sorted(sys.modules.items()):
    print("waits" if type(module).__name__ == "_Waiting" else "runs", name)
"""
PLAIN = "events {} stream { server { listen 127.0.0.1:@a@; return hi; } }"
SCRIPTED = ("events {} stream { py_import shop; py_access shop.check; "
            "server { listen 127.0.0.1:@a@; return hi; } }")
MACHINERY = {
    "ngxstream.event.time_limit", "ngxstream.modules.py.faults",
    "ngxstream.modules.py.loading", "ngxstream.modules.py.working", "ngxstream.scripting",
    "ngxstream.scripting.running", "ngxstream.scripting.session",
}


def loaded(folder: Path, *texts: str) -> dict[str, str]:
    """Return the modules of a process that has read configurations, and which of them wait."""
    port = ports.free_port()
    names = [f"{'abc'[n]}.conf" for n in range(len(texts))]
    for name, text in zip(names, texts, strict=True):
        (folder / name).write_text(text.replace("@a@", str(port)))
    (folder / "shop.py").write_text("import inspect\ndef check(s): pass\n")
    (folder / "logs").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(folder), *names[1:]],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=60,
    )
    assert (0, "") == (done.returncode, done.stderr)
    lines = (line.split() for line in done.stdout.splitlines())
    return {name: state for state, name in lines}


def test_a_configuration_without_functions_executes_none_of_their_machinery(
    tmp_path: Path,
) -> None:
    """Before the workers are forked all else is executed."""
    found = loaded(tmp_path, PLAIN)
    assert set() == {name for name in MACHINERY if found.get(name) == "runs"}
    waits = {name for name, state in found.items() if state == "waits"}
    allowed = ("ngxstream.scripting", "ngxstream.event.tasks", "ngxstream.event.time_limit",
               "ngxstream.modules.py.", "ngxstream.process.netcheck", "ngxstream.process.findings")
    assert set() == {name for name in waits if not name.startswith(allowed)}


@pytest.mark.parametrize("texts", [(SCRIPTED,), (PLAIN, SCRIPTED)], ids=["start", "reload"])
def test_one_with_functions_has_all_of_it_before_the_workers_are_forked(
    tmp_path: Path, texts: tuple[str, ...]
) -> None:
    """Also where a reload brings the first function."""
    found = loaded(tmp_path, *texts)
    assert {"runs"} == {found.get(name) for name in MACHINERY}
    waits = {name for name, state in found.items() if state == "waits"}
    assert waits <= {"ngxstream.process.netcheck", "ngxstream.process.findings"}
