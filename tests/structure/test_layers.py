"""Imports walk down the layers. Read from the source, nothing is imported."""

import ast
import functools
import graphlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ngxstream"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# From the lowest to the highest; conf, event and ipc stand side by side, none imports another.
LAYERS = {
    "core": 0, "wire": 1, "conf": 2, "event": 2, "ipc": 2, "stream": 3, "scripting": 4,
    "modules": 5, "process": 6, "ctl": 7,
}
# What imports modules that a configuration names, not the program's own.
IMPORTS_BY_NAME = {"modules/py/loading.py"}
# The only module that imports what is not of the standard library.
THIRD_PARTY = {"crossplane": "conf/reader.py"}


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement: the module's full name, the name taken from it, where it stands."""

    module: str
    name: str
    line: int
    level: int  # of a relative import
    inside: bool  # of a function


def source_id(path: Path) -> str:
    """Return a source's path inside the package."""
    return str(path.relative_to(PACKAGE))


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """Return the syntax tree of a source, which nobody changes."""
    return ast.parse(path.read_text(), str(path))


@functools.cache
def imports_in(path: Path) -> tuple[Import, ...]:
    """Return every import of a source."""
    return tuple(imports_of(tree_of(path)))


@pytest.fixture(scope="module", autouse=True)
def trees_are_let_go() -> Iterator[None]:
    """Keep the trees while the tests of this file use them, and no longer."""
    yield
    tree_of.cache_clear()
    imports_in.cache_clear()


def imports_of(tree: ast.Module) -> Iterator[Import]:
    """Yield every import of a source, those under TYPE_CHECKING included."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    within = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, functions)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, "", node.lineno, 0, id(node) in within)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                module = node.module or ""
                yield Import(module, alias.name, node.lineno, node.level, id(node) in within)


def layer_of(module: str) -> str:
    """Return the layer of a module's full name, empty for the package itself."""
    words = module.split(".")
    return words[1] if len(words) > 1 and words[0] == "ngxstream" else ""


def full_name(found: Import) -> str:
    """Return the module that ``from a.b import c`` reaches: a.b.c if that is one, else a.b."""
    name = f"{found.module}.{found.name}"
    path = ROOT.joinpath(*name.split("."))
    return name if path.with_suffix(".py").exists() or path.is_dir() else found.module


every_source = pytest.mark.parametrize("path", SOURCES, ids=source_id)
# Without __init__.py and __main__.py of the package, and the list of all modules.
INSIDE = [p for p in SOURCES if "/" in source_id(p)]
FEATURES = [p for p in INSIDE if source_id(p).startswith("modules/")]
FEATURES.remove(PACKAGE / "modules" / "__init__.py")


@pytest.mark.parametrize("path", INSIDE, ids=source_id)
def test_imports_walk_down(path: Path) -> None:
    """No source imports from a layer above its own, nor conf, event and ipc from each other."""
    own = source_id(path).split("/")[0]
    climbed = []
    for found in imports_in(path):
        layer = layer_of(full_name(found))
        if not layer:
            continue
        assert layer in LAYERS, f"line {found.line}: {layer} is no layer"
        above = LAYERS[layer] > LAYERS[own]
        beside = LAYERS[layer] == LAYERS[own] and layer != own
        if above or beside:
            climbed.append(f"line {found.line}: {own} imports {full_name(found)}")
    assert [] == climbed


@pytest.mark.parametrize("path", FEATURES, ids=source_id)
def test_features_import_no_other_feature(path: Path) -> None:
    """A feature imports no other feature; what two share is one layer down."""
    own = source_id(path).removesuffix(".py").split("/")
    crossed = []
    for found in imports_in(path):
        words = full_name(found).split(".")[1:]
        if words[:1] == ["modules"] and words[1:2] != own[1:2]:
            crossed.append(f"line {found.line}: {'.'.join(words)}")
    assert [] == crossed


def is_for_checkers(node: ast.stmt) -> bool:
    """Tell whether a statement is the block that only type checkers read."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def test_no_modules_import_each_other() -> None:
    """Nor does a longer chain of imports lead back: each module can be read before its users."""
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in SOURCES}
    graph = {}
    for name, path in names.items():
        body = [node for node in tree_of(path).body if not is_for_checkers(node)]
        found = imports_of(ast.Module(body, []))
        graph[name] = {full_name(each) for each in found} & names.keys()
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@every_source
def test_imports_are_absolute_and_at_the_top(path: Path) -> None:
    """Imports are no relative ones, take no star and stand in no function."""
    bad = [
        f"line {found.line}: {found.module or '.'}"
        for found in imports_in(path)
        if found.level or found.inside or found.name == "*"
    ]
    assert [] == bad


@every_source
def test_nothing_is_imported_by_name(path: Path) -> None:
    """What shall be read late waits in an ordinary import (process/lazy.py)."""
    by_name = {"import_module", "__import__"}
    nodes = ast.walk(tree_of(path))
    bad = [node.lineno for node in nodes if isinstance(node, ast.Attribute | ast.Name)
           and {getattr(node, "attr", ""), getattr(node, "id", "")} & by_name]
    assert [] == bad or str(path.relative_to(PACKAGE)) in IMPORTS_BY_NAME


@every_source
def test_third_parties_enter_by_one_door(path: Path) -> None:
    """The standard library is all that is used, but for crossplane in conf/reader.py."""
    known = sys.stdlib_module_names | {"ngxstream"}
    bad = []
    for found in imports_in(path):
        top = found.module.split(".")[0]
        if not found.level and top not in known and THIRD_PARTY.get(top) != source_id(path):
            bad.append(f"line {found.line}: {found.module}")
    assert [] == bad


@every_source
def test_underscore_names_stay_in_their_file(path: Path) -> None:
    """No source reads a name with a leading underscore of another module."""
    tree = tree_of(path)
    modules, bad = set(), []
    for found in imports_of(tree):
        if not layer_of(found.module + "." + found.name):
            continue
        if found.name.startswith("_"):
            bad.append(f"line {found.line}: {found.module}.{found.name}")
        elif full_name(found) != found.module:
            modules.add(found.name)
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)):
            continue
        is_private = node.attr.startswith("_") and not node.attr.startswith("__")
        if is_private and node.value.id in modules:
            bad.append(f"line {node.lineno}: {node.value.id}.{node.attr}")
    assert [] == bad


def test_the_law_is_checked_against_something() -> None:
    """The rules above see the sources: an upward and a sideways import would be found."""
    assert any(source_id(path) == "core/errors.py" for path in SOURCES)
    tree = ast.parse(
        "from ngxstream.process import cli\ndef f():\n    import ngxstream.event.loop\n"
    )
    upward, inner = imports_of(tree)
    assert "process" == layer_of(full_name(upward))
    assert ("event", True) == (layer_of(full_name(inner)), inner.inside)
