"""docs/adding-a-module.md: its blocks are a module of a copy of the program, and its tests pass."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/adding-a-module.md"
# language, path in the tree, text
BLOCKS = re.findall(r"^```(\w+) (\S+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
MODULE, LIST, TESTS, MANUAL = (text for _, _, text in BLOCKS)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a copy of the program and the test kit, with what the page adds."""
    root = tmp_path_factory.mktemp("tree")
    unwanted = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "ngxstream", root / "ngxstream", ignore=unwanted)
    shutil.copytree(ROOT / "tests/support", root / "tests/support", ignore=unwanted)
    for name in ("setup.cfg", "pyproject.toml", "tests/__init__.py", "tests/conftest.py"):
        shutil.copy(ROOT / name, root / name)
    for language, name, text in BLOCKS:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(patched(path.read_text(), text) if language == "diff" else text)
    return root


def patched(text: str, diff: str) -> str:
    """Return a text with the hunks of a diff applied."""
    for hunk in diff.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] != "+")
        assert 1 == text.count(before)
        text = text.replace(before, "".join(line[1:] for line in lines if line[0] != "-"))
    return text


def run(tree: Path, *words: str) -> str:
    """Run Python in the copy; return what it says."""
    environment = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, *words], cwd=tree, env=environment, check=False, timeout=120,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    assert 0 == done.returncode, done.stdout
    return done.stdout


def test_the_page_s_tests_pass(tree: Path) -> None:
    """All of them, the running program that reloads with a session under way among them."""
    said = run(tree, "-m", "pytest", "-q", "-p", "no:cacheprovider", BLOCKS[2][1])
    assert re.search(rf"^{len(re.findall('^def test_', TESTS, re.MULTILINE))} passed", said,
                     re.MULTILINE), said


def test_the_page_s_entry_is_in_the_manual(tree: Path) -> None:
    """It is found beside the module, and belongs to its directive."""
    said = run(tree, "-c", "from ngxstream.conf import manual\n"
               "from pathlib import Path\n"
               "print(manual.read(Path('ngxstream/modules/ticket.toml'))['ticket']['syntax'])")
    assert said == "ticket <word>\n"


@pytest.mark.parametrize(
    ("hook", "instead", "failing"),
    [
        ("    keeps=(Kept(NAME, _value, _unpack),),\n", "", "test_a_ticket_is_kept_over_a_reload"),
        ("    s.loop.cells[conf.given.at] += 1\n", "", "test_each_session_has_a_ticket_of_its_own"),
        ("    handlers=(PhaseHandler(phases.PREACCESS, handle, _is_wanted),),\n", "",
         "test_each_session_has_a_ticket_of_its_own"),
    ],
)
def test_the_page_s_tests_notice_what_is_missing(
    tree: Path, hook: str, instead: str, failing: str
) -> None:
    """Without the record's line the test that is about it fails."""
    path = tree / BLOCKS[0][1]
    assert hook in MODULE
    path.write_text(MODULE.replace(hook, instead))
    try:
        with pytest.raises(AssertionError, match=rf"FAILED \S+::{failing}"):
            run(tree, "-m", "pytest", "-q", "-p", "no:cacheprovider", BLOCKS[2][1], "-k", failing)
    finally:
        path.write_text(MODULE)


def test_the_module_is_an_import_and_a_line_of_the_list() -> None:
    """Whoever adds a module adds two lines to another file, and it is about that long."""
    assert ["    ticket,", "    ticket.MODULE,"] == [
        line[1:] for line in LIST.splitlines() if line[0] == "+"
    ]
    code = [line for line in MODULE.splitlines() if line.strip()]
    assert 50 <= len(code) <= 75
