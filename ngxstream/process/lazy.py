"""Imports that wait until they are needed: what a call of the program does not touch is not read.

Testing a plain configuration touches half of the modules that serving needs, and reading all of
them is most of what such a test costs. Within `waiting()` the modules of this package, and some of
the standard library that are heavy and rarely needed, are bound where they are imported but
executed when a first attribute of theirs is asked for.

A process that serves has all of them executed before it serves (`load_all`): what is on the disk
later may be another release, out of reach for the worker's user, or slow.
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
        "random", "secrets", "shutil", "ssl", "subprocess", "tempfile", "traceback",
    )
)


class _Waiting(ModuleType):
    """A module that is executed when the first name in it is asked for."""

    def __getattr__(self, name: str) -> Any:
        """Execute the module, once; then it is a plain one and this method is gone."""
        if name.startswith("__"):  # the import system's own questions
            raise AttributeError(name)
        execute(self)
        return getattr(self, name)


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
        if spec.submodule_search_locations is None or name in STANDARD:
            spec.loader = _Loader(name, spec.loader.path)
        return spec


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


def load_all() -> None:
    """Execute everything that waits; after end(), or what they import waits anew."""
    for module in list(sys.modules.values()):
        execute(module)
