"""log_format: the text of an access log line, compiled once into a template and its getters.

Answers for ngx_stream_log_set_format and ngx_stream_log_compile_format
(ngx_stream_log_module.c).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from ngxstream.core import errors, escape
from ngxstream.core.log import encode

if TYPE_CHECKING:
    from ngxstream.stream.session import Session
    from ngxstream.stream.variables import Getter, VariableRef, VariableTable

_NAME: Final = re.compile(r"[A-Za-z0-9_]*")

Render = Callable[["Session"], bytes]


class Escaping(NamedTuple):
    """How values get into a line."""

    missing: bytes  # stands for a variable that was not found
    is_safe: Callable[[bytes], bool] | None  # None: nothing is ever escaped
    apply: Callable[[bytes], bytes]


ESCAPINGS: Final = {
    "default": Escaping(b"-", escape.is_default_safe, escape.default),
    "json": Escaping(b"", escape.is_json_safe, escape.json),
    "none": Escaping(b"", None, bytes),
}


class Format:
    """One log_format; its renderers are there once the stream block is linked.

    shape: `line(session)` ends in a line feed, `text(session)` does not
    """

    __slots__ = ("_escaping", "_parts", "line", "name", "text")

    def __init__(self, name: str, escaping: Escaping, parts: list[str | VariableRef]) -> None:
        """shape: parts in order, literal texts and variables"""
        self.name = name
        self._escaping = escaping
        self._parts = parts
        self.line: Render = _unlinked
        self.text: Render = _unlinked

    def link(self) -> None:
        """Compile; called with the values of the block when all variables are known."""
        literals: list[bytes] = []
        getters: list[Getter] = []
        for part in self._parts:
            if isinstance(part, str):
                literals.append(encode(part).replace(b"%", b"%%"))
            else:
                literals.append(b"%b")
                getters.append(part.get)
        template = b"".join(literals)
        self.text = _renderer(template, getters, self._escaping)
        self.line = _renderer(template + b"\n", getters, self._escaping)


def _unlinked(s: Session) -> bytes:
    raise errors.InternalError("log format used before it was linked")


def _renderer(template: bytes, getters: Iterable[Getter], escaping: Escaping) -> Render:
    getters = tuple(getters)
    missing, is_safe, apply = escaping
    join = b"".join

    def render(s: Session) -> bytes:
        found = [missing if (value := get(s)) is None else value for get in getters]
        if is_safe is not None and not is_safe(join(found)):  # hot: one test for the whole line
            found = [apply(value) for value in found]
        return template % tuple(found)

    return render


def compile_format(name: str, words: list[str], table: VariableTable) -> Format:
    """Make a format of the words of a log_format directive, its name not among them.

    raises: ConfError with nginx's words
    source: ngx_stream_log_compile_format
    """
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
            parts.append(table.ref(piece) if is_variable else piece)
    made = Format(name, escaping, parts)
    table.values.append(made)
    return made


def split(text: str) -> list[tuple[bool, str]]:
    """Cut a text into (is_variable, text-or-name) pieces.

    Not quite the law of other values: a lone `$` is named with what follows it.
    raises: ConfError
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
