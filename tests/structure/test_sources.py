"""What every source file of the package keeps to."""

import ast
import configparser
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ngxstream"
SOURCES = sorted(PACKAGE.rglob("*.py"))
HOT = ("core", "wire", "event", "stream", "modules")
CHANGING = {
    *("append", "appendleft", "extend", "insert", "remove", "pop", "popleft", "popitem", "clear"),
    *("add", "discard", "update", "setdefault", "sort", "reverse", "move_to_end"),
}


def source_id(path: Path) -> str:
    """Return a source's path inside the package."""
    return str(path.relative_to(PACKAGE))


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """Return the syntax tree of a source, which nobody changes."""
    return ast.parse(path.read_text(), str(path))


@pytest.fixture(scope="module", autouse=True)
def trees_are_let_go() -> Iterator[None]:
    """Keep the trees while the tests of this file use them, and no longer."""
    yield
    tree_of.cache_clear()


every_source = pytest.mark.parametrize("path", SOURCES, ids=source_id)


@every_source
def test_a_module_says_what_it_owns(path: Path) -> None:
    """Every module begins with a docstring of at least a sentence."""
    said = ast.get_docstring(tree_of(path)) or ""
    assert len(said.split()) >= 3, "the module's docstring"


SECTIONS = re.compile(r"(^|\. )\s*(shape|returns|raises|source): ", re.MULTILINE)


@every_source
def test_sections_of_docstrings_are_capitalised(path: Path) -> None:
    """`Args:`, `Returns:`, `Raises:`, `Source:`, as the Google style spells them."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree_of(path)) if isinstance(node, documented)]
    said = [ast.get_docstring(node) or "" for node in nodes]
    assert [] == [text for text in said if SECTIONS.search(text)]


@every_source
def test_nothing_is_left_behind(path: Path) -> None:
    """No note to a later self stands in the source, and no handler catches everything."""
    text = path.read_text()
    assert [] == [word for word in ("TODO", "FIXME", "XXX") if word in text]
    bare = [node.lineno for node in ast.walk(tree_of(path)) if is_bare(node)]
    assert [] == bare


def is_bare(node: ast.AST) -> bool:
    """Tell whether a node is an except clause without a class."""
    return isinstance(node, ast.ExceptHandler) and node.type is None


OBJECTS = {"pickle", "marshal", "shelve", "copyreg", "dill"}
PORTS = {"SOCK_SEQPACKET", "SCM_RIGHTS", "send_fds", "recv_fds"}
MAKERS = ("ipc/",)


@every_source
def test_processes_exchange_bytes_by_ports(path: Path) -> None:
    """No source imports what makes objects of bytes, and none but ipc/ makes or reads a port."""
    bad = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            bad += [alias.name for alias in node.names if alias.name in OBJECTS]
        elif isinstance(node, ast.ImportFrom) and node.module in OBJECTS:
            bad.append(node.module)
        elif isinstance(node, ast.Attribute) and not source_id(path).startswith(MAKERS):
            bad += [node.attr for name in PORTS if node.attr == name]
    assert [] == bad


def module_names(tree: ast.Module) -> set[str]:
    """Return the names a module assigns at its top level."""
    names = set()
    for node in tree.body:
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign | ast.AugAssign):
            targets = [node.target]
        for target in targets:
            names |= {found.id for found in ast.walk(target) if isinstance(found, ast.Name)}
    return names


def changes(function: ast.AST, names: set[str]) -> list[str]:
    """Return where a function changes an object bound to one of a module's names."""
    local = {
        found.id
        for found in ast.walk(function)
        if isinstance(found, ast.Name) and isinstance(found.ctx, ast.Store)
    }
    local |= {found.arg for found in ast.walk(function) if isinstance(found, ast.arg)}
    shared = names - local
    bad = []
    for node in ast.walk(function):
        if isinstance(node, ast.Global):
            bad.append(f"line {node.lineno}: global {', '.join(node.names)}")
        elif isinstance(node, ast.Subscript | ast.Attribute):
            changed = isinstance(node.ctx, ast.Store | ast.Del)
            changed |= isinstance(node, ast.Attribute) and node.attr in CHANGING
            if changed and isinstance(node.value, ast.Name) and node.value.id in shared:
                bad.append(f"line {node.lineno}: {node.value.id}")
    return bad


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if source_id(p).startswith(HOT)], ids=source_id
)
def test_no_state_lives_in_a_module(path: Path) -> None:
    """No function below process/ changes what a module's own name is bound to."""
    tree = tree_of(path)
    names = module_names(tree)
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    found = [
        c for node in ast.walk(tree) if isinstance(node, functions) for c in changes(node, names)
    ]
    assert [] == sorted(set(found))


def test_a_change_of_module_state_is_found() -> None:
    """The rule sees a store into a table, a changing call and a global statement."""
    source = (
        "SEEN = []\nTABLE = {}\ndef f(x):\n    SEEN.append(x)\n    TABLE[x] = 1\n    global N\n"
    )
    source += "def g(SEEN):\n    SEEN.append(1)\n"
    tree = ast.parse(source)
    f, g = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert 3 == len(changes(f, module_names(tree)))
    assert [] == changes(g, module_names(tree))


def test_an_installation_has_the_files_that_are_no_sources() -> None:
    """setup.cfg names each of them: the manual, the page of the API, the mark of typed packages."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    packages = {path.parent for path in PACKAGE.rglob("*.py")}
    named = {
        str(path.relative_to(ROOT))
        for package, names in setup["options.package_data"].items() for name in names.split()
        for folder in (packages if package == "*" else [ROOT / package.replace(".", "/")])
        for path in folder.glob(name)
    }
    files = {
        str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert {"ngxstream/scripting/py.typed", "ngxstream/modules/geo.toml"} <= named
    assert files == named
