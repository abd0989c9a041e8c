"""Complex values: text with $variables, compiled once into a closure (ngx_stream_script.c).

1. Text is parsed when its directive is read, so a malformed name is reported with file and line.
2. Closures are made by `link()` after the whole stream block is read, when every variable is
   known: until then `get` raises.
3. A variable that is "not found" is empty inside a value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ngxstream.conf.directive import Setter
from ngxstream.core import errors

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.stream.session import Session
    from ngxstream.stream.variables import VariableRef, VariableTable

NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


def encode(text: str) -> bytes:
    """Turn configuration text into the bytes that stood in the file."""
    return text.encode("utf-8", "surrogateescape")


def _unlinked(s: Session) -> bytes:
    raise errors.InternalError("complex value used before it was linked")


class ComplexValue:
    """A value of the configuration that may hold variables.

    shape: `get(session)` returns bytes; `constant` is the value when no variable is in it, else
    None; `text` is as written.
    """

    __slots__ = ("text", "parts", "constant", "get")

    def __init__(self, text: str, parts: list[bytes | VariableRef]) -> None:
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
        if len(self.parts) == 1:
            alone = self.parts[0].get  # type: ignore[union-attr]
            self.get = lambda s: alone(s) or b""
            return
        getters = tuple(
            (lambda s, text=part: text) if isinstance(part, bytes) else part.get
            for part in self.parts
        )
        join = b"".join
        self.get = lambda s: join([get(s) or b"" for get in getters])


def has_variables(text: str) -> bool:
    """Tell whether a text holds a `$`. source: ngx_stream_script_variables_count"""
    return "$" in text


def split(text: str) -> list[tuple[bool, str]]:
    """Cut a text into (is_variable, text-or-name) pieces.

    raises: ConfError `invalid variable name` or `the closing bracket …`
    source: ngx_stream_script_compile
    """
    pieces: list[tuple[bool, str]] = []
    literal = []
    i, end = 0, len(text)
    while i < end:
        if text[i] != "$":
            literal.append(text[i])
            i += 1
            continue
        i += 1
        if i == end:
            raise errors.ConfError("invalid variable name")
        if literal:
            pieces.append((False, "".join(literal)))
            literal = []
        if "1" <= text[i] <= "9":
            pieces.append((True, text[i]))
            i += 1
            continue
        bracket = text[i] == "{"
        start = i = i + bracket
        while i < end and text[i] in NAME_CHARS:
            i += 1
        if bracket:
            if i == end or text[i] != "}":
                name = text[start:i] if i < end or i > start else ""
                raise errors.ConfError(f'the closing bracket in "{name}" variable is missing')
        if i == start:
            raise errors.ConfError("invalid variable name")
        pieces.append((True, text[start:i]))
        i += bracket
    if literal:
        pieces.append((False, "".join(literal)))
    return pieces


def compile_value(text: str, table: VariableTable) -> ComplexValue:
    """Parse a text into a value that `table.link()` will compile. raises: ConfError"""
    parts: list[bytes | VariableRef] = []
    for is_variable, piece in split(text):
        parts.append(table.ref(piece) if is_variable else encode(piece))
    value = ComplexValue(text, parts)
    if value.constant is None:
        table.values.append(value)
    return value


def value(field: str) -> Setter:
    """Make the setter of a complex value. source: ngx_stream_set_complex_value_slot"""

    def set_value(scope: Scope, module: Module, st: Statement) -> None:
        given = scope.given_of(module)
        if field in given:
            raise errors.ConfError(f'"{st.directive}" directive is duplicate')
        given[field] = compile_value(st.args[0], scope.builder.data["stream"].variables)

    return set_value
