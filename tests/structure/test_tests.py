"""What every test file keeps to."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
FILES = sorted(TESTS.rglob("test_*.py"))
MAY_WAIT = ("tests/support/waiting.py", "tests/bench/")  # the one loop that polls; measurements


def file_id(path: Path) -> str:
    """Return a file's path inside the repository."""
    return str(path.relative_to(ROOT))


every_file = pytest.mark.parametrize("path", FILES, ids=file_id)


@every_file
def test_every_test_is_a_sentence(path: Path) -> None:
    """Each test function has a docstring that ends with a full stop."""
    bad = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            said = ast.get_docstring(node) or ""
            if not said.endswith((".", ":", '"')):
                bad.append(f"line {node.lineno}: {node.name}")
    assert [] == bad


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=file_id)
def test_no_test_sleeps(path: Path) -> None:
    """Nothing waits for a time: a state is awaited by tests.support.waiting."""
    text = path.read_text()
    slept = [
        node.lineno
        for node in ast.walk(ast.parse(text) if "sleep" in text else ast.Module([], []))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "sleep")
    ]
    assert [] == slept or file_id(path).startswith(MAY_WAIT)


@pytest.mark.parametrize(
    "path", [path for path in FILES if file_id(path).startswith("tests/unit/")], ids=file_id
)
def test_unit_tests_mirror_the_package(path: Path) -> None:
    """tests/unit/<layer>/test_<module>….py names a module of that layer."""
    folder = ROOT / "ngxstream" / path.parent.relative_to(TESTS / "unit")
    modules = [source.stem for source in folder.glob("*.py")]
    modules += [source.name for source in folder.iterdir() if source.is_dir()]
    subject = path.stem.removeprefix("test_")
    assert any(subject.startswith(module.rstrip("_")) for module in modules if module != "__init__")
