"""Processes that share a suite run each test once, and tell of every failure."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.__main__ import Part
from tests.support import sharing
from tests.support.proxies import ROOT

FILE = """
import pathlib
import pytest
from hypothesis.stateful import RuleBasedStateMachine, rule

@pytest.fixture(scope="module")
def shared():
    yield 7

@pytest.mark.parametrize("n", range(5))
def test_it(n, shared):
    with open(pathlib.Path(__file__).with_suffix(".log"), "a") as log:
        print(n, file=log)
    assert (__name__, n) != ("FAILS", 3)

class Walk(RuleBasedStateMachine):
    @rule()
    def step(self):
        with open(pathlib.Path(__file__).with_suffix(".steps"), "a") as log:
            print(file=log)

TestWalk = Walk.TestCase  # of a function that another file has
"""


def test_each_test_is_run_by_one(tmp_path: Path) -> None:
    """Two processes over ten files in two folders: each test once, a failure in one status."""
    suite, claims = tmp_path / "suite", tmp_path / "claims"
    claims.mkdir()
    files = [suite / folder / f"test_{folder}{n}.py" for folder in "ab" for n in range(5)]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FILE.replace("FAILS", "test_b1"))
    (suite / "pytest.ini").write_text("[pytest]\n")
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-p", "tests.support.sharing", str(suite)],
            cwd=suite,
            env=os.environ | {"PYTHONPATH": str(ROOT), sharing.CLAIMS: str(claims)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate()[0] for process in running]
    assert [0, 1] == sorted(process.returncode for process in running), said
    for path in files:
        assert [str(n) for n in range(5)] == path.with_suffix(".log").read_text().split()
        assert path.with_suffix(".steps").exists()
    assert 1 == sum(text.count("FAILED ") for text in said)


def test_what_takes_long_comes_first(tmp_path: Path) -> None:
    """The files that are known to take long are there, and are taken before all others."""
    assert [] == [name for name in sharing.LONG if not (ROOT / name).is_file()]
    names = ("tests/a.py", *sharing.LONG[::-1], "tests/b.py")
    items = [SimpleNamespace(nodeid=f"{name}::test_{n}") for n in "12" for name in names]
    ours = [item.nodeid for item in sharing.claimed(items, tmp_path)]
    wanted = (*sharing.LONG, "tests/a.py", "tests/b.py")
    assert [f"{name}::test_{n}" for name in wanted for n in "12"] == ours
    assert [] == list(sharing.claimed(items, tmp_path))


AGAIN = """
import pathlib
import pytest
from hypothesis import given, strategies

TRIES = pathlib.Path(__file__).with_suffix(".tries")

def is_first(name):
    with open(TRIES, "a+") as tries:
        tries.seek(0)
        earlier = tries.read().split()
        print(name, file=tries)
    return name not in earlier

@pytest.fixture
def unready():
    assert not is_first("setup")

@pytest.fixture
def untidy():
    yield
    assert not is_first("teardown")

def test_passes():
    is_first("passes")

def test_call():
    assert not is_first("call")

def test_setup(unready):
    pass

def test_teardown(untidy):
    pass

def test_skips():
    pytest.skip("")
"""


LATE = """
def end():
    print("late")
    __import__("os")._exit(1)

def test_late():
    __import__("atexit").register(end)
"""


@pytest.mark.parametrize(
    ("text", "code", "end"),
    [
        ("", 0, "4 passed, 1 skipped, 3 of them at the second try"),
        ("def test_broken(): assert 0", 1, "1 failed, 4 passed, 1 skipped, 3 of them"),
        ("@given(strategies.none())\ndef test_law(_): assert not is_first('law')", 1,
         "2 failed, 2 error, 2 passed, 1 skipped in"),
        ("def test_gone(): (assert_ if is_first('gone') else pytest.skip)('')", 1,
         "4 passed, 2 skipped, 3 of them"),
        (LATE, 1, "1 failed, 2 error, 3 passed, 1 skipped in"),
        ("@pytest.mark.parametrize('n', range(9))\ndef test_n(n): assert not is_first(str(n))", 1,
         "10 failed, 2 error, 2 passed, 1 skipped in"),
    ],
    ids=["by chance", "broken", "a property", "skipped", "a process", "a crowd"],
)
def test_what_fails_is_tried_once_more(tmp_path: Path, text: str, code: int, end: str) -> None:
    """Alone; what fails again, a property that was broken, and a crowd of failures fail the run."""
    path = tmp_path / "test_again.py"
    path.write_text(AGAIN + text)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    run = subprocess.run(
        [sys.executable, "-m", "tests", "--together", str(path), f"--rootdir={tmp_path}",
         "-c", str(tmp_path / "pytest.ini")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )
    assert (run.returncode, True) == (code, f"all together: {end}" in run.stdout), run.stdout
    if "second try" in end:
        tries = path.with_suffix(".tries").read_text().split()
        assert sorted(["passes", *["call", "setup", "teardown"] * 2]) == sorted(tries)


def test_a_process_that_fails_without_a_test_is_explained_by_none(tmp_path: Path) -> None:
    """Nor is one whose report is not the last that it says, or one that left a process behind."""
    notes = tmp_path / sharing.NOTES
    notes.write_text('[1, "a", "call", "passed"]\n[2, "b", "call", "failed"]\n')
    found = []
    for number in (1, 2):
        for code, last in ((0, "== 1 =="), (1, "== 1 =="), (1, "late"), (100, "== 1 ==")):
            part = Part.__new__(Part)
            part._process = SimpleNamespace(pid=number)  # type: ignore[assignment]
            part.code, part.report = code, [f"{last}\n", "\n"]
            found.append(part.is_explained(sharing.Notes(tmp_path)))
    assert [True, False, False, False, True, True, False, False] == found
