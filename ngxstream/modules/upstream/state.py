"""state: the file that keeps the servers of a group that may change.

1. It holds `server` lines and nothing else, and is read where the directive stands as if they stood
   there. A file that is not there means no servers: the first change makes it.
2. It is written by the worker that makes a change, before the change is in force
   (core/state_files.py).
3. Workers write what the master reads as root: what it says can open no other file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ngxstream.conf import directive as d
from ngxstream.conf import files, reader
from ngxstream.conf.directive import UPSTREAM, Directive
from ngxstream.core import errors, state_files
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.modules.upstream.roster import Line
    from ngxstream.stream.upstream import UpstreamConf

MOST: Final = 16 << 20  # bytes of a file
MODE: Final = 0o644
HEAD: Final = "# Written by ngxstream at each change by the API.\n"
_PLAIN: Final = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:@=%+,~[]-"
)


# -- the text ----------------------------------------------------------------------------------


def text_of(lines: Sequence[Line]) -> bytes:
    """Return what a file with these lines says; addresses of names are left out."""
    found = [statement(line) for line in lines if line.parent < 0]
    return (HEAD + "".join(found)).encode("utf-8", "surrogateescape")


def statement(line: Line) -> str:
    """Return a line as it is written in a configuration; defaults are left out."""
    words = ["server", line.address or line.server]
    words += [
        f"{name}={value}{unit}"
        for name, value, default, unit in (
            ("weight", line.weight, 1, ""), ("max_conns", line.max_conns, 0, ""),
            ("max_fails", line.max_fails, 1, ""), ("fail_timeout", line.fail_timeout, 10, "s"),
            ("slow_start", line.slow_start, 0, "s"),
        )
        if value != default
    ]
    words += [word for word in ("backup", "down", "drain") if getattr(line, word)]
    if line.is_name:
        words.append("resolve")
    if line.service:
        words.append(f"service={line.service}")
    return " ".join(map(_quoted, words)) + ";\n"


def _quoted(word: str) -> str:
    if word and _PLAIN.issuperset(word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


# -- the directive -----------------------------------------------------------------------------


def _state(scope: Scope, module: Module, st: Statement) -> None:
    conf: UpstreamConf = scope.owner
    if conf.state:
        raise errors.ConfError('"state" directive is duplicate')
    if conf.servers:
        raise errors.ConfError('"state" directive is incompatible with "server"')
    path = conf.state = scope.prefix_path(st.args[0])
    states = scope.builder.data.setdefault("states", {})  # by real path: the master looks at them
    real = os.path.realpath(os.fsencode(path))
    if real in states:
        raise errors.ConfError(f'state file "{path}" is used twice')
    states[real] = path
    try:
        data = state_files.read(path, MOST)
    except OSError as error:
        raise errors.ConfError(f'cannot read state file "{path}"', errno=error) from None
    if data is None:
        return
    source = reader.read(path, conf_prefix="/", files=files.Memory({path: data}))
    for line in source.main.statements:
        if line.error is None and line.directive != "server":
            raise errors.ConfError(
                f'"{line.directive}" directive is not allowed in a state file', line.file, line.line
            )
    scope.builder.walk(source.main.statements, scope)
    scope.builder.place = (st.file, st.line)


MODULE = StreamModule(
    name="state",
    directives=(
        Directive("state", UPSTREAM, d.TAKE1, _state,
                  "The file that keeps the servers of a group that is changed at run time.",
                  extension=True),
    ),
)
