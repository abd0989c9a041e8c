"""Nothing public is defined in the package that the package itself does not use."""

import ast
from collections.abc import Iterator
from pathlib import Path

from ngxstream import scripting

ROOT = Path(__file__).resolve().parents[2]
# What is there for others than the package: who reads it.
ALLOWED = {
    "ngxstream.event.poller._Base.get_map": "selectors.BaseSelector demands it",
    "ngxstream.process.lazy._Loader.create_module": "the import system calls it",
    "ngxstream.stream.travel.REMADE": "tests/unit/stream/test_travel.py sees that it is whole",
}
# The interface that functions of users are given; but for what is behind it.
OFFERED = "ngxstream.scripting."
BEHIND = "ngxstream.scripting.running."


def module_name(path: Path) -> str:
    """Return the full name of a source's module."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def sources() -> dict[str, ast.Module]:
    """Return the syntax tree of each module of the package."""
    paths = sorted((ROOT / "ngxstream").rglob("*.py"))
    return {module_name(path): ast.parse(path.read_text(), str(path)) for path in paths}


def defined(owner: str, body: list[ast.stmt], *, inside: bool = False) -> Iterator[str]:
    """Yield the full name of each public function, class, method and constant of a module."""
    for node in body:
        names: list[str] = []
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign) and not inside:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
        yield from (f"{owner}.{name}" for name in names if not name.startswith("_"))
        if isinstance(node, ast.ClassDef):
            yield from defined(f"{owner}.{node.name}", node.body, inside=True)


def read(module: str, tree: ast.Module, modules: set[str]) -> Iterator[str]:
    """Yield the full names that a module reads, and `.name` for attributes of anything else."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                known[alias.asname or alias.name] = full
                if full not in modules:
                    yield full
        elif isinstance(node, ast.Import):
            known.update({alias.asname or alias.name: alias.name for alias in node.names})
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield f"{module}.{node.id}"
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            owner = known.get(node.value.id, "") if isinstance(node.value, ast.Name) else ""
            yield f"{owner if owner in modules else ''}.{node.attr}"


def unused(trees: dict[str, ast.Module]) -> set[str]:
    """Return the full names of what is defined in these modules and read by none of them."""
    seen = {name for module, tree in trees.items() for name in read(module, tree, set(trees))}
    promised = tuple(f".{name}." for name in scripting.__all__)
    missing = set()
    for module, tree in trees.items():
        for full in defined(module, tree.body):
            owner, _, name = full.rpartition(".")
            if full.startswith("ngxstream.scripting.") and any(one in full for one in promised):
                continue  # a user's functions read it
            if full not in seen and (owner == module or f".{name}" not in seen):
                missing.add(full)
    return {full for full in missing if not full.startswith(OFFERED) or full.startswith(BEHIND)}


def test_what_is_public_is_used() -> None:
    """Each public name is read somewhere in the package, tests not counted."""
    assert set(ALLOWED) == unused(sources())


def test_what_is_unused_is_found() -> None:
    """The rule sees a function, a constant, a method and a namesake in another module."""
    one = "from p import two\nA = B = 1\ndef f():\n    return two.g(A)\nf()\n"
    two = "class C:\n    def m(s): pass\n    def n(s): s.n()\ndef f(): C()\ndef g(): pass\n"
    trees = {"p.one": ast.parse(one), "p.two": ast.parse(two)}
    assert {"p.one.B", "p.two.C.m", "p.two.f"} == unused(trees)
