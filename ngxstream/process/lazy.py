"""Imports that wait until they are needed: what a call of the program does not touch is not read.

Testing a plain configuration touches half of the modules that serving needs, and reading all of
them is most of what such a test costs. Within `waiting()` the modules of this package, and some of
the standard library that are heavy and rarely needed, are bound where they are imported but
executed when a first attribute of theirs is asked for.

A process that serves has all of them executed before it serves (`load_all`): what is on the disk
later may be another release, out of reach for the worker's user, or slow. What only functions of
users need (SCRIPTING) is left out of that until a configuration has used one of it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from importlib import machinery
from types import ModuleType
from typing import Any, Final

PACKAGE: Final = "ngxstream."
STANDARD: Final = frozenset(
    (
        "calendar", "ctypes", "datetime", "glob", "hashlib", "ipaddress", "json", "math", "pickle",
        "random", "secrets", "shutil", "ssl", "subprocess", "tempfile", "threading", "traceback",
    )
)
# The machinery of py_*: all of it is executed when a first module of it was, but for the
# declarations of directives, which every configuration needs.
SCRIPTS: Final = "ngxstream.scripting"
LOADER: Final = "ngxstream.modules.py.loading"  # executed for a configuration with functions alone
SCRIPTING: Final = (
    SCRIPTS, "ngxstream.event.tasks", "ngxstream.event.time_limit", "ngxstream.modules.py.",
)


class _Waiting(ModuleType):
    """A module that is executed when the first name in it is asked for."""

    def __getattr__(self, name: str) -> Any:
        """Execute the module, once; then it is a plain one and this method is gone."""
        is_asked = name.startswith("__") and name != "__all__"  # by the import system itself
        if is_asked or _is_submodule(self, name):
            raise AttributeError(name)
        execute(self)
        return getattr(self, name)


def _is_submodule(module: ModuleType, name: str) -> bool:
    """Tell whether a name in a package that waits is a module, which is imported without it."""
    path = vars(module).get("__path__")
    return path is not None and bool(
        machinery.PathFinder.find_spec(f"{module.__name__}.{name}", path)
    )


class _Loader(machinery.SourceFileLoader):
    """Makes modules that wait."""

    def create_module(self, spec: machinery.ModuleSpec) -> ModuleType:
        """Make the module."""
        return _Waiting(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Execute a module, unless it waits."""
        if type(module) is not _Waiting:
            super().exec_module(module)


class _Finder:
    """Finds modules as the others do, and has some of them wait."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> machinery.ModuleSpec | None:
        """Return how to load a module, None for one that does not wait."""
        if not name.startswith(PACKAGE) and name not in STANDARD:
            return None
        spec = machinery.PathFinder.find_spec(name, path, target)
        if spec is None or type(spec.loader) is not machinery.SourceFileLoader:
            return None
        if spec.submodule_search_locations is None or name in STANDARD or name == SCRIPTS:
            spec.loader = _Loader(name, spec.loader.path)
        return spec


class _ScriptingFinder:
    """Has the machinery of py_* wait while everything else is executed."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> machinery.ModuleSpec | None:
        """Return how to load a module of it, None for any other."""
        return _Finder.find_spec(name, path, target) if name.startswith(SCRIPTING) else None


def execute(module: ModuleType) -> None:
    """Execute a module that has waited; any other is left alone."""
    if type(module) is not _Waiting:
        return
    spec = module.__spec__
    assert spec is not None
    assert spec.loader is not None
    plain: ModuleType = module
    plain.__class__ = ModuleType
    try:
        spec.loader.exec_module(plain)
    except BaseException:
        plain.__class__ = _Waiting
        raise


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Have imports wait, until the end of the block or end()."""
    sys.meta_path.insert(0, _Finder)
    try:
        yield
    finally:
        end()


def end() -> None:
    """Import as ever from now on; what waits goes on waiting. May be called twice."""
    if _Finder in sys.meta_path:
        sys.meta_path.remove(_Finder)


def load_all(*unneeded: ModuleType) -> None:
    """Execute everything that waits; after end(), or what they import waits anew.

    Args: unneeded: what is never asked for from now on, and what it alone imports
    """
    sys.meta_path.insert(0, _ScriptingFinder)
    try:
        for module in list(sys.modules.values()):
            if module not in unneeded and not _is_scripting(module):
                execute(module)
    finally:
        sys.meta_path.remove(_ScriptingFinder)


def load_scripting() -> None:
    """Execute what py_* needs, if a configuration has used one of it."""
    loader = sys.modules.get(LOADER)
    if loader is None or type(loader) is _Waiting:
        return
    for module in list(sys.modules.values()):
        if _is_scripting(module):
            execute(module)
    for module in list(sys.modules.values()):
        if module.__name__ in STANDARD:  # what they import
            execute(module)


def _is_scripting(module: ModuleType) -> bool:
    return module.__name__.startswith(SCRIPTING)
