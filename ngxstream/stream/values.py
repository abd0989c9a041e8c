"""Complex values: text with $variables, compiled once into a closure (ngx_stream_script.c).

1. Text is parsed when its directive is read, so a malformed name is reported with file and line.
2. Closures are made by `link()` after the whole stream block is read, when every variable is
   known: until then `get` raises.
3. A variable that is "not found" is empty inside a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from ngxstream.conf.directive import Setter
from ngxstream.core import errors
from ngxstream.core.log import encode

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.stream.session import Session
    from ngxstream.stream.variables import Getter, VariableRef, VariableTable

    Part: TypeAlias = "bytes | Capture | VariableRef"

_NAME: Final = re.compile(r"[A-Za-z0-9_]*")


class Capture:
    """A use of `$1`..`$9`: what the session's latest regex captured."""

    __slots__ = ("get", "number")

    def __init__(self, number: int) -> None:
        self.number = number

        def get(s: Session) -> bytes | None:
            captures = s.captures
            if captures is None or number >= len(captures):
                return None
            return captures[number]

        self.get: Getter = get



def _unlinked(s: Session) -> bytes:
    raise errors.InternalError("complex value used before it was linked")


class ComplexValue:
    """A value of the configuration that may hold variables.

    `get(session)` returns bytes; `constant` is the value when no variable is in it, else
    None; `text` is as written.
    """

    __slots__ = ("text", "parts", "constant", "get")

    def __init__(self, text: str, parts: list[Part]) -> None:
        self.text = text
        self.parts = parts
        self.constant: bytes | None = None
        self.get: Callable[[Session], bytes] = _unlinked
        if all(isinstance(part, bytes) for part in parts):
            constant = self.constant = b"".join(parts)  # type: ignore[arg-type]
            self.get = lambda s: constant

    def link(self) -> None:
        """Compile the closure; the variables behind the references are known now."""
        if self.constant is not None:
            return
        getters = tuple(_getter(part) for part in self.parts)
        if len(getters) == 1:
            alone = getters[0]
            self.get = lambda s: alone(s) or b""
            return
        join = b"".join
        self.get = lambda s: join([get(s) or b"" for get in getters])


def _getter(part: Part) -> Getter:
    if isinstance(part, bytes):
        text = part
        return lambda s: text
    return part.get


def has_variables(text: str) -> bool:
    """Tell whether a text holds a `$`. Source: ngx_stream_script_variables_count"""
    return "$" in text


def split(text: str) -> list[tuple[str, str]]:
    """Cut a text into (mark, piece) pairs.

    Returns: mark is "" for plain text, "$" for the name of a variable, "1" for a capture's digit
    Raises: ConfError `invalid variable name` or `the closing bracket …`
    Source: ngx_stream_script_compile
    """
    pieces: list[tuple[str, str]] = []
    at, end = 0, len(text)
    while at < end:
        dollar = text.find("$", at)
        if dollar != at:
            stop = end if dollar < 0 else dollar
            pieces.append(("", text[at:stop]))
            at = stop
            continue
        at += 1
        if "1" <= text[at : at + 1] <= "9":
            pieces.append(("1", text[at]))
            at += 1
            continue
        bracket = text[at : at + 1] == "{"
        at += bracket
        if at == end:
            raise errors.ConfError("invalid variable name")
        name = _NAME.match(text, at)[0]  # type: ignore[index]  # it matches nothing at least
        at += len(name)
        if bracket:
            if text[at : at + 1] != "}":
                raise errors.ConfError(f'the closing bracket in "{name}" variable is missing')
            at += 1
        if not name:
            raise errors.ConfError("invalid variable name")
        pieces.append(("$", name))
    return pieces


def compile_value(text: str, table: VariableTable) -> ComplexValue:
    """Parse a text into a value that `table.link()` will compile. Raises: ConfError

    Source: ngx_stream_compile_complex_value
    """
    parts: list[Part] = []
    for mark, piece in split(text):
        if not mark:
            parts.append(encode(piece))
        elif mark == "$":
            parts.append(table.ref(piece))
        else:
            parts.append(Capture(int(piece)))
    value = ComplexValue(text, parts)
    if value.constant is None:
        table.values.append(value)
    return value


def value(field: str) -> Setter:
    """Make the setter of a complex value. Source: ngx_stream_set_complex_value_slot"""

    def set_value(scope: Scope, module: Module, st: Statement) -> None:
        given = scope.given_of(module)
        if field in given:
            raise errors.ConfError(f'"{st.directive}" directive is duplicate')
        given[field] = compile_value(st.args[0], scope.builder.data["stream"].variables)

    return set_value
