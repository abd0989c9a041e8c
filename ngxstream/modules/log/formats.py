"""log_format: the text of an access log line, compiled once into a template and its getters.

Answers for ngx_stream_log_set_format and ngx_stream_log_compile_format (ngx_stream_log_module.c).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ngxstream.core import errors, escape
from ngxstream.core.log import encode
from ngxstream.stream.variables import PLAIN

if TYPE_CHECKING:
    from ngxstream.stream.session import Session
    from ngxstream.stream.variables import VariableRef, VariableTable

_NAME: Final = re.compile(r"[A-Za-z0-9_]*")

Render = Callable[["Session"], bytes]


class Escaping(NamedTuple):
    """How values get into a line."""

    missing: bytes  # the text of a variable that was not found
    is_safe: Callable[[bytes], bool] | None  # None: nothing is ever escaped
    apply: Callable[[bytes], bytes]


ESCAPINGS: Final = {
    "default": Escaping(b"-", escape.is_default_safe, escape.default),
    "json": Escaping(b"", escape.is_json_safe, escape.json),
    "none": Escaping(b"", None, bytes),
}


class Format:
    """One log_format. Once linked, line(session) ends in a line feed, text(session) does not."""

    __slots__ = ("_escaping", "_parts", "line", "name", "text")

    def __init__(self, name: str, escaping: Escaping, parts: list[str | VariableRef]) -> None:
        """Args: parts: in order, literal texts and variables"""
        self.name = name
        self._escaping = escaping
        self._parts = parts
        self.line: Render = _unlinked
        self.text: Render = _unlinked

    def link(self) -> None:
        """Compile; called with the values of the block when all variables are known."""
        literals: list[bytes] = []
        refs: list[VariableRef] = []
        for part in self._parts:
            if isinstance(part, str):
                literals.append(encode(part).replace(b"%", b"%%"))
            else:
                literals.append(b"%b")
                refs.append(part)
        template = b"".join(literals)
        self.text = _renderer(template, refs, self._escaping)
        self.line = _renderer(template + b"\n", refs, self._escaping)


def _unlinked(s: Session) -> bytes:
    raise errors.InternalError("log format used before it was linked")


def _renderer(template: bytes, refs: Sequence[VariableRef], escaping: Escaping) -> Render:
    gather = _gatherer(refs)
    doubtful = [n for n, ref in enumerate(refs) if not ref.flags & PLAIN]
    if not doubtful:
        return lambda s: template % gather(s)
    missing, is_safe, apply = escaping
    join = b"".join
    pick: Callable[[Any], Any] = itemgetter(*doubtful)
    if len(doubtful) == 1:  # a tuple here too
        pick = itemgetter(slice(doubtful[0], doubtful[0] + 1))

    def render(s: Session) -> bytes:
        values = gather(s)
        some = pick(values)
        # hot: one test for all that may be escaped
        if None in some or (is_safe is not None and not is_safe(join(some))):
            values = tuple([missing if value is None else value for value in values])
            if is_safe is not None and not is_safe(join(values)):
                values = tuple([apply(value) for value in values])
        return template % values

    return render


def _gatherer(refs: Sequence[VariableRef]) -> Callable[[Session], tuple[Any, ...]]:
    """Return what gets all values of a session.

    hot: made as collections.namedtuple makes its methods. Each getter is called in a place of its
    own, which the interpreter adapts to it; a loop over them takes twice the time.
    """
    names = {f"get{n}": ref.get for n, ref in enumerate(refs)}
    calls = "".join(f"{name}(s)," for name in names)
    made: Callable[[Session], tuple[Any, ...]] = eval(f"lambda s: ({calls})", names)
    return made


def compile_format(name: str, words: list[str], table: VariableTable) -> Format:
    """Compile a format's words. Raises: ConfError. Source: ngx_stream_log_compile_format"""
    escaping = ESCAPINGS["default"]
    if words[0].startswith("escape="):
        kind = words[0].removeprefix("escape=")
        if kind not in ESCAPINGS:
            raise errors.ConfError(f'unknown log format escaping "{kind}"')
        escaping = ESCAPINGS[kind]
        words = words[1:]
    parts: list[str | VariableRef] = []
    for word in words:
        for is_variable, piece in split(word):
            parts.append(table.ref(piece, late=True) if is_variable else piece)
    made = Format(name, escaping, parts)
    table.values.append(made)
    return made


def split(text: str) -> list[tuple[bool, str]]:
    """Cut a text into (is_variable, text-or-name) pieces. Raises: ConfError

    Unlike in other values, a lone `$` is named with what follows it.
    """
    pieces: list[tuple[bool, str]] = []
    end = len(text)
    at = 0
    while at < end:
        dollar = text.find("$", at)
        if dollar < 0:
            pieces.append((False, text[at:]))
            break
        if dollar > at:
            pieces.append((False, text[at:dollar]))
        bracket = text[dollar + 1 : dollar + 2] == "{"
        at = dollar + 1 + bracket
        name = _NAME.match(text, at)[0]  # type: ignore[index]  # it matches nothing at least
        is_cut = at == end
        at += len(name)
        if bracket and not is_cut:
            if text[at : at + 1] != "}":
                raise errors.ConfError(f'the closing bracket in "{name}" variable is missing')
            at += 1
        if not name:
            raise errors.ConfError(f'invalid parameter "{text[dollar:]}"')
        pieces.append((True, name))
    return pieces
