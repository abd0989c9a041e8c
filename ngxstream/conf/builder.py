"""The builder: walks statements, finds their directive records and lets them gather values.

Answers for ngx_conf_handler (src/core/ngx_conf_file.c). It knows records, never a directive: what
a block means is the business of its setter, which opens a Scope and walks the block itself.

1. nginx applies while it reads, so a Fault (a syntax error) is raised when the walk reaches it.
2. The first fatal error ends the build: ConfError with nginx's words, file and line.
3. Warnings go to `warn` at once, in the order of the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from ngxstream.conf import directive as d
from ngxstream.conf import include, reader
from ngxstream.conf.module import Given, Module
from ngxstream.core import errors, facts, files


class Scope:
    """One block while it is applied.

    `context` is one context bit; `given` maps a module's name to the dict of what this
    block said for it; `statement` is the one being applied; `owner` is what the block is making
    (a draft object of the module that opened it), None in main.
    """

    __slots__ = ("builder", "context", "parent", "given", "statement", "line", "owner")

    def __init__(
        self, builder: Builder, context: int, parent: Scope | None = None, owner: Any = None
    ) -> None:
        self.builder = builder
        self.context = context
        self.parent = parent
        self.given: dict[str, Given] = {}
        self.statement: reader.Statement | None = None
        self.line: tuple[str, int] | None = None  # file and line that a message names now
        self.owner = owner

    def given_of(self, module: Module) -> Given:
        """Return the dict of this block's values for `module`."""
        given = self.given.get(module.name)
        if given is None:
            given = self.given[module.name] = {}
        return given

    def warn(self, message: str, level: str = "warn") -> None:
        """Report something that is not fatal, with the current file and line."""
        file, line = self.builder.place
        self.builder.warn(level, f"{errors.cut(message)} in {file}:{line}")

    def conf_path(self, path: str) -> str:
        """Make a path absolute against the directory of the main file (certificates, includes)."""
        return os.path.join(self.builder.conf_prefix, files.c_string(path))

    def prefix_path(self, path: str) -> str:
        """Make a path absolute against the prefix (logs, pid, lock)."""
        return os.path.join(self.builder.prefix, files.c_string(path))


class Builder:
    """One configuration being read: the directive table and what the whole file shares.

    `warn(level, message)` receives warnings as they are found; `data` is where modules keep
    what belongs to the whole configuration (zones, open files, the stream block), by module name;
    `conf_prefix` and `prefix` end in a slash.
    """

    def __init__(
        self, modules: Iterable[Module], *, prefix: str, conf_prefix: str,
        warn: Callable[[str, str], None], elsewhere: frozenset[str] = frozenset(),
    ) -> None:
        self.modules = (include.MODULE, *modules)
        self.prefix = prefix
        self.conf_prefix = conf_prefix
        self.warn = warn
        # names that nginx's http and mail modules know: "is not allowed here", not "unknown"
        self.elsewhere = elsewhere
        self.data: dict[str, Any] = {}
        self.facts = facts.Facts(fact for module in self.modules for fact in module.facts)
        self.place: tuple[str, int] = ("", 0)
        self._table: dict[str, list[tuple[Module, d.Directive]]] = {}
        for module in self.modules:
            for record in module.directives:
                self._table.setdefault(record.name, []).append((module, record))
        for module in self.modules:
            if module.prepare is not None:
                module.prepare(self)

    def build(self, statements: Iterable[reader.Statement], scope: Scope | None = None) -> Scope:
        """Apply the statements of the main context. Raises: ConfError"""
        scope = scope or Scope(self, d.MAIN)
        self.walk(statements, scope)
        return scope

    def walk(self, statements: Iterable[reader.Statement], scope: Scope) -> None:
        """Apply the statements of one block, includes in place. Raises: ConfError"""
        for st in statements:
            if isinstance(st, reader.Fault):
                raise st.error
            scope.statement = st
            self.place = (st.file, st.line)
            self._apply(st, scope)

    def walk_block(self, st: reader.Statement, scope: Scope) -> None:
        """Apply the inside of a block statement; messages after it name its closing line."""
        assert st.block is not None
        self.walk(st.block, scope)
        self.place = (st.file, st.end_line)

    def _apply(self, st: reader.Statement, scope: Scope) -> None:
        try:
            self._apply_unplaced(st, scope)
        except errors.ConfError as error:
            if not error.words:
                error.words, error.context = (st.directive, *st.args), scope.context
                error.start_line = st.start_line
            # the place may have moved on: a check at the end of a block names its closing line
            raise error.at(*self.place) from None

    def _apply_unplaced(self, st: reader.Statement, scope: Scope) -> None:
        name = st.directive
        known = False
        for module, record in self._table.get(name, ()):
            known = True
            if not record.contexts & scope.context:
                continue
            if record.takes.block and st.block is None:
                raise errors.ConfError(f'directive "{name}" has no opening "{{"')
            if not record.takes.block and st.block is not None:
                raise errors.ConfError(f'directive "{name}" is not terminated by ";"')
            if not record.takes.accepts(len(st.args)):
                raise errors.ConfError(f'invalid number of arguments in "{name}" directive')
            record.set(scope, module, st)
            return
        if known or name in self.elsewhere:
            raise errors.ConfError(f'"{name}" directive is not allowed here')
        raise errors.ConfError(f'unknown directive "{files.c_string(name)}"')
