"""What the `py_*` directives say: the settings of a server, and the functions of a configuration.

A function is looked up among the modules that `py_import` names in the block where the directive
stands and in those around it, once the whole block is read.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ngxstream.conf import directive as d
from ngxstream.conf import units
from ngxstream.core import errors, files
from ngxstream.modules.py import loading
from ngxstream.scripting import process, shared_dict
from ngxstream.stream import variables as stream_variables

if TYPE_CHECKING:
    from types import ModuleType

    from ngxstream.conf.builder import Builder, Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.event.loop import Loop
    from ngxstream.modules.py.loading import Hook
    from ngxstream.modules.py.working import Working
    from ngxstream.stream.core import StreamDraft
    from ngxstream.stream.resolver_conf import ResolverConf
    from ngxstream.stream.variables import VariableTable

NAME: Final = "py"
DICTS: Final = "py_dicts"  # in the data of a stream block: zones of dicts by name
WORK: Final = "py_work"  # in builder.data: what Scripts has as `work`
BOTH: Final = d.STREAM | d.SERVER
TIME_LIMIT_MS: Final = 100
LONGEST_LIMIT_MS: Final = 60_000  # the sessions of a worker wait no longer for one function
_IMPORTS: Final = "_imports"  # of a block: list of Import


@dataclass(frozen=True, slots=True)
class PyConf:
    """What a server says; times in ms, sizes in bytes."""

    access: Hook | None = None
    preread: Hook | None = None
    filter: Hook | None = None
    content: Hook | None = None
    log: Hook | None = None
    time_limit: int = TIME_LIMIT_MS  # of one call
    timeout: int = 60_000  # of what a phase's function may wait
    buffer_size: int = 65_536  # what may wait in each direction, or be held back by a filter
    variables: VariableTable = field(default_factory=lambda: stream_variables.VariableTable(()))
    scripts: Scripts | None = None

    def begin(self, loop: Loop) -> None:
        """Begin what is done beside sessions, before a function is called; once in a process."""
        if self.scripts is not None and self.scripts.worker is None:
            self.scripts.work(self.scripts, loop)


@dataclass(slots=True)
class PeriodicConf:
    """One `py_periodic`; times in ms. Args: workers: how many of them call it, 0 for all"""

    hook: Hook
    scope: Scope | None  # until the block is read
    interval: int = 5000
    jitter: int = 0
    workers: int = 0
    time_limit: int = TIME_LIMIT_MS


@dataclass(frozen=True, slots=True)
class Import:
    """One `py_import`. Args: path: absolute, None where the module is found by its name"""

    name: str
    path: str | None
    file: str
    line: int


class Scripts:
    """The functions of one stream block; StreamDraft.data[NAME], where there are any."""

    __slots__ = ("folder", "hooks", "imports", "modules", "namespace", "paths", "periodics",
                 "resolver", "resolver_timeout", "time_limit", "work", "worker")

    def __init__(self, builder: Builder, work: Callable[[Scripts, Loop], Working]) -> None:
        """Args: builder: of the configuration that is being read; work: begins `worker`"""
        self.work = work
        self.namespace = loading.Namespace()
        self.paths: list[str] = []
        self.folder: str = builder.conf_prefix
        self.imports: list[Import] = []
        self.modules: list[ModuleType] = []  # that are imported, in order
        self.hooks: list[tuple[Hook, Scope]] = []
        self.periodics: list[PeriodicConf] = []
        self.time_limit = TIME_LIMIT_MS  # of the block: for what belongs to no server
        self.resolver: ResolverConf | None = None  # of the block, likewise
        self.resolver_timeout = 30_000
        self.worker: Working | None = None  # what a process that serves has begun

    def resolve(self, module: Module) -> None:
        """Import all modules and look all functions up. Raises: ConfError"""
        for path in (*self.paths, self.folder):
            self.namespace.add_path(path)
        loaded: dict[tuple[str, str | None], ModuleType] = {}
        for one in self.imports:
            key = one.name, one.path
            if key not in loaded:
                try:
                    loaded[key] = self.namespace.load(one.name, one.path)
                except errors.ConfError as error:
                    raise error.at(one.file, one.line) from None
        self.modules = list(loaded.values())
        for hook, scope in self.hooks:
            names: dict[str, ModuleType] = {}
            for one in _imports_of(scope, module):
                names.setdefault(one.name, loaded[one.name, one.path])
            hook.resolve(names)
        for periodic in self.periodics:
            periodic.time_limit = limit_of(periodic.scope, module)
            periodic.scope = None


def limit_of(scope: Scope | None, module: Module) -> int:
    """Return the `py_time_limit` that is in force in a block, in ms."""
    while scope is not None:
        limit = scope.given.get(module.name, {}).get("time_limit")
        if limit is not None:
            return int(limit)
        scope = scope.parent
    return TIME_LIMIT_MS


def _imports_of(scope: Scope | None, module: Module) -> list[Import]:
    """Return what a block may name, its own imports before those of the blocks around it."""
    found: list[Import] = []
    while scope is not None:
        found.extend(scope.given.get(module.name, {}).get(_IMPORTS, ()))
        scope = scope.parent
    return found


def scripts_of(scope: Scope) -> Scripts:
    """Return the functions of the block that is being read."""
    builder = scope.builder
    data: dict[str, Any] = builder.data["stream"].data
    if NAME not in data:
        role, file = builder.data.get("process", (process.TEST, builder.place[0]))
        process.read(role, builder.prefix, file)
        data[NAME] = Scripts(builder, builder.data[WORK])
    found: Scripts = data[NAME]
    return found


def hook(
    scope: Scope, st: Statement, word: str, parameters: int, *, is_plain: bool = False
) -> Hook:
    """Note a function that a directive names; it is looked up when the block is read.

    Args: parameters: how many arguments it will be given; is_plain: it may not be a coroutine
    function
    """
    made = loading.Hook(st.directive, word, parameters, st.file, st.line, is_plain=is_plain)
    scripts_of(scope).hooks.append((made, scope))
    return made


def hook_setter(name: str, parameters: int = 1, *, is_plain: bool = False) -> d.Setter:
    """Make the setter of a directive that names one function. Args: name: field of PyConf"""

    def set_hook(scope: Scope, module: Module, st: Statement) -> None:
        made = hook(scope, st, st.args[0], parameters, is_plain=is_plain)
        d.put(scope, module, st, name, made)

    return set_hook


def _above_zero(field: str, parse: Callable[[str], int], most: int | None = None) -> d.Setter:
    """Return the setter of a number that means nothing when it is 0. Args: field: of PyConf"""

    def set_number(scope: Scope, module: Module, st: Statement) -> None:
        try:
            value = parse(st.args[0])
        except ValueError:
            value = 0
        if value <= 0 or (most is not None and value > most):
            raise errors.ConfError("invalid value")
        d.put(scope, module, st, field, value)

    return set_number


def _path(scope: Scope, module: Module, st: Statement) -> None:
    scripts_of(scope).paths.append(scope.conf_path(st.args[0]))


def _import(scope: Scope, module: Module, st: Statement) -> None:
    """Read `py_import module;` or `py_import name from file;`."""
    args = st.args
    path = None
    if len(args) == 3:
        if args[1] != "from":
            raise errors.ConfError(f'invalid parameter "{args[1]}"')
        path = os.path.normpath(scope.conf_path(args[2]))
    elif len(args) == 2:
        raise errors.ConfError('invalid number of arguments in "py_import" directive')
    elif args[0].endswith(".py") or "/" in args[0]:
        raise errors.ConfError(
            f'"{files.c_string(args[0])}" is a file: "py_import name from {args[0]}" imports it'
        )
    name = args[0]
    if not all(part.isidentifier() for part in name.split(".")):
        raise errors.ConfError(f'invalid module name "{name}"')
    imports: list[Import] = scope.given_of(module).setdefault(_IMPORTS, [])
    if any(one.name == name for one in imports):
        raise errors.ConfError(f'duplicate module "{name}"')
    made = Import(name, path, st.file, st.line)
    imports.append(made)
    scripts_of(scope).imports.append(made)


def init(draft: StreamDraft, module: Module) -> None:
    """Import what the block names and look its functions up. Raises: ConfError"""
    scripts: Scripts | None = draft.data.get(NAME)
    if scripts is None or draft.builder.data.get("signals"):
        return  # whoever stops a program must not wait for modules, nor need them to be right
    shared_dict.DICTS.set(shared_dict.of_zones(draft.data.get(DICTS, {}).values()))
    scripts.resolve(module)
    scripts.time_limit = int(draft.given.get(NAME, {}).get("time_limit", TIME_LIMIT_MS))
    for server in draft.servers:
        server.py = dataclasses.replace(
            server.py, variables=draft.variables, scripts=scripts
        )
    core = draft.given.get("core", {})
    scripts.resolver = core.get("resolver")
    scripts.resolver_timeout = core.get("resolver_timeout", scripts.resolver_timeout)


DIRECTIVES: Final = (
    d.Directive("py_path", d.STREAM | d.SERVER, d.TAKE1, _path,
                "A folder in which modules of Python are looked for.",
                extension=True),
    d.Directive("py_import", d.STREAM | d.SERVER, d.TAKE13, _import,
                "A module of Python whose functions directives may name.", extension=True),
    d.Directive("py_time_limit", BOTH, d.TAKE1,
                _above_zero("time_limit", units.parse_time_msec, LONGEST_LIMIT_MS),
                "CPU time that one call of a function may take.", default="100ms",
                extension=True),
    d.Directive("py_timeout", BOTH, d.TAKE1, _above_zero("timeout", units.parse_time_msec),
                "How long the function of a phase may wait in all.", default="60s",
                extension=True),
    d.Directive("py_buffer_size", BOTH, d.TAKE1, _above_zero("buffer_size", units.parse_size),
                "What functions may have waiting or held back in each direction of a session.",
                default="64k", extension=True),
)
