"""The codec of everything one process says to another: values to bytes by a schema, and back.

nginx has no counterpart: its channel carries one C structure between forks of one binary.

1. A kind (UINT, BYTES, List(…), Record(…)) encodes a value to bytes and decodes bytes to a value.
   The length of the bytes is always known from outside: every nested value has its length in
   front of it. Depth is that of the schema, not of the data.
2. A record is its fields, each a tag, a length and a value. A tag that is not known is skipped: a
   newer release has added a field. A field that is missing takes its default, or is an error where
   it has none. What a tag stands for never changes.
3. Whatever cannot be added like this raises VERSION. Ports state the version with each message, and
   one of another version is refused whole: what it was about begins anew.
4. Decoding is linear and bounded: lengths and counts are compared with what is left of the bytes
   before anything is made of them. Any bytes give a value, or CodecError and nothing else.
"""

from __future__ import annotations

import functools
import math
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

from ngxstream.core import errors

T = TypeVar("T")

VERSION: Final = 2

_FIELD: Final = struct.Struct("<BI")  # tag, length
_LENGTH: Final = struct.Struct("<I")
_FLOAT: Final = struct.Struct("<d")
_CONTROL: Final = re.compile("[\0-\x1f\x7f]")


class CodecError(errors.NgxError):
    """A message of another process is not valid."""


class Kind(Protocol[T]):
    """How values of one kind become bytes."""

    def encode(self, value: T, /) -> bytes:
        """Return the bytes of a value that is of the kind."""

    def decode(self, data: bytes, /) -> T:
        """Return the value of these bytes, all of them. Raises: CodecError"""


# -- plain kinds -----------------------------------------------------------------------------------


class Int:
    """A whole number within bounds."""

    __slots__ = ("_highest", "_lowest")

    def __init__(self, lowest: int = -(1 << 63), highest: int = (1 << 63) - 1) -> None:
        self._lowest = lowest
        self._highest = highest

    def encode(self, value: int) -> bytes:
        """Return the fewest bytes that hold it, none for 0."""
        size = (value if value >= 0 else ~value).bit_length() // 8 + 1 if value else 0
        return value.to_bytes(size, "little", signed=True)

    def decode(self, data: bytes) -> int:
        """Return a number within the bounds. Raises: CodecError"""
        if len(data) > 8:
            raise CodecError(f"a number of {len(data)} bytes")
        value = int.from_bytes(data, "little", signed=True)
        if not self._lowest <= value <= self._highest:
            raise CodecError(f"the number {value} is out of bounds")
        return value


class Numbers:
    """Several whole numbers, always together: one step where each by itself would be one.

    A newer release may send more of them; those it adds come last.
    """

    __slots__ = ("_lowest", "_struct")

    def __init__(self, count: int, lowest: int = 0) -> None:
        """Args: lowest: what none of them is below"""
        self._struct = struct.Struct(f"<{count}q")
        self._lowest = lowest

    def encode(self, values: Sequence[int]) -> bytes:
        """Return eight bytes for each."""
        return self._struct.pack(*values)

    def decode(self, data: bytes) -> tuple[int, ...]:
        """Return as many as are known. Raises: CodecError"""
        if len(data) < self._struct.size or len(data) % 8:
            raise CodecError(f"{self._struct.size // 8} numbers in {len(data)} bytes")
        values: tuple[int, ...] = self._struct.unpack_from(data)
        if min(values) < self._lowest:
            raise CodecError(f"the number {min(values)} is out of bounds")
        return values


class Bool:
    """True or False."""

    __slots__ = ()

    def encode(self, value: object) -> bytes:
        """Return one byte."""
        return b"\1" if value else b"\0"

    def decode(self, data: bytes) -> bool:
        """Return what one byte says. Raises: CodecError"""
        if data == b"\1":
            return True
        if data == b"\0":
            return False
        raise CodecError("neither true nor false")


class Float:
    """A finite number."""

    __slots__ = ()

    def encode(self, value: float) -> bytes:
        """Return eight bytes."""
        return _FLOAT.pack(value)

    def decode(self, data: bytes) -> float:
        """Return a finite number. Raises: CodecError"""
        if len(data) != _FLOAT.size:
            raise CodecError(f"a fraction of {len(data)} bytes")
        value: float = _FLOAT.unpack(data)[0]
        if not math.isfinite(value):
            raise CodecError("no finite number")
        return value


class Bytes:
    """Bytes, up to so many."""

    __slots__ = ("_most",)

    def __init__(self, most: int) -> None:
        self._most = most

    def encode(self, value: bytes) -> bytes:
        """Return them."""
        return value

    def decode(self, data: bytes) -> bytes:
        """Return them. Raises: CodecError"""
        if len(data) > self._most:
            raise CodecError(f"{len(data)} bytes where {self._most} are the most")
        return data


class Text:
    """A text, up to so many bytes; a word has no control characters: it is fit for a log."""

    __slots__ = ("_is_word", "_most")

    def __init__(self, most: int, *, is_word: bool = False) -> None:
        self._most = most
        self._is_word = is_word

    def encode(self, value: str) -> bytes:
        """Return it in UTF-8; bytes of a path that are none stay as they are."""
        return value.encode("utf-8", "surrogateescape")

    def decode(self, data: bytes) -> str:
        """Return the text. Raises: CodecError"""
        if len(data) > self._most:
            raise CodecError(f"a text of {len(data)} bytes where {self._most} are the most")
        text = data.decode("utf-8", "surrogateescape")
        if self._is_word and _CONTROL.search(text):
            raise CodecError("control characters in a word")
        return text


class Optional(Generic[T]):
    """None, or a value of another kind."""

    __slots__ = ("_kind",)

    def __init__(self, kind: Kind[T]) -> None:
        self._kind = kind

    def encode(self, value: T | None) -> bytes:
        """Return a mark, and the value behind it."""
        return b"\0" if value is None else b"\1" + self._kind.encode(value)

    def decode(self, data: bytes) -> T | None:
        """Return None or the value. Raises: CodecError"""
        if data == b"\0":
            return None
        if data[:1] != b"\1":
            raise CodecError("neither a value nor none")
        return self._kind.decode(data[1:])


class List(Generic[T]):
    """A list of values of one kind, up to so many."""

    __slots__ = ("_kind", "_most")

    def __init__(self, kind: Kind[T], most: int) -> None:
        self._kind = kind
        self._most = most

    def encode(self, values: Sequence[T]) -> bytes:
        """Return the values, each behind its length."""
        encode, length = self._kind.encode, _LENGTH.pack
        parts: list[bytes] = []
        for value in values:
            data = encode(value)
            parts.append(length(len(data)))
            parts.append(data)
        return b"".join(parts)

    def decode(self, data: bytes) -> list[T]:
        """Return the values. Raises: CodecError"""
        decode, length = self._kind.decode, _LENGTH.unpack_from
        values: list[T] = []
        at, end, most = 0, len(data), self._most
        while at < end:
            if len(values) == most:
                raise CodecError(f"a list of more than {most}")
            if end - at < 4:
                raise CodecError("a list ends within a length")
            (size,) = length(data, at)
            at += 4
            if size > end - at:
                raise CodecError("a list ends within a value")
            values.append(decode(data[at : at + size]))
            at += size
        return values


class Repeated(Generic[T]):
    """A kind whose values come again and again, as a server's address in thousands of sessions.

    The last ones are remembered, and shared: none that can be changed may be among them.
    """

    __slots__ = ("decode", "encode")

    def __init__(self, kind: Kind[T], last: int = 64) -> None:
        """Args: kind: of values that can be hashed; last: how many are remembered"""
        self.encode: Callable[[T], bytes] = functools.lru_cache(last)(kind.encode)
        self.decode: Callable[[bytes], T] = functools.lru_cache(last)(kind.decode)


# -- records ---------------------------------------------------------------------------------------


class _Required:
    """The type of REQUIRED."""

    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Final = _Required()


class Field:
    """One field of a record."""

    __slots__ = ("default", "kind", "name", "tag")

    def __init__(self, tag: int, name: str, kind: Kind[Any], default: object = REQUIRED) -> None:
        """Args: tag: 0 to 255, never used again for anything else; default: what is not sent"""
        self.tag = tag
        self.name = name
        self.kind = kind
        self.default = default


class Record:
    """Values by their place in the schema: a tuple on either side."""

    __slots__ = ("_defaults", "_fields", "_known", "_name")

    def __init__(self, name: str, *fields: Field) -> None:
        self._name = name
        self._fields = [(field.tag, field.kind.encode, field.default) for field in fields]
        self._defaults = [field.default for field in fields]
        self._known = {field.tag: (place, field.kind.decode) for place, field in enumerate(fields)}
        assert len(self._known) == len(fields), "a tag is used twice"

    def encode(self, values: Sequence[Any]) -> bytes:
        """Return the fields that are not at their default. Args: values: one for each field"""
        head = _FIELD.pack
        parts: list[bytes] = []
        for (tag, encode, default), value in zip(self._fields, values, strict=True):
            if value is default or (default is not REQUIRED and value == default):
                continue
            data = encode(value)
            parts.append(head(tag, len(data)))
            parts.append(data)
        return b"".join(parts)

    def decode(self, data: bytes) -> tuple[Any, ...]:
        """Return a value for each field. Raises: CodecError"""
        values = self._defaults.copy()
        known, head = self._known, _FIELD.unpack_from
        seen = 0
        at, end = 0, len(data)
        while at < end:
            if end - at < 5:
                raise CodecError(f"a {self._name} ends within a field")
            tag, size = head(data, at)
            at += 5
            if size > end - at:
                raise CodecError(f"a {self._name} ends within field {tag}")
            found = known.get(tag)
            if found is not None:
                if seen >> tag & 1:
                    raise CodecError(f"a {self._name} has field {tag} twice")
                seen |= 1 << tag
                place, decode = found
                values[place] = decode(data[at : at + size])
            at += size
        if REQUIRED in values:
            raise CodecError(f"a {self._name} lacks a field")
        return tuple(values)


# -- what modules keep -----------------------------------------------------------------------------


class Plain:
    """None, truth, numbers, bytes, texts and tuples of them: values that say what they are.

    For what a module keeps about a session: whoever unpacks it checks what it is.
    """

    __slots__ = ("_depth", "_most")

    def __init__(self, most: int, depth: int = 6) -> None:
        """Args: most: bytes of a value in all; depth: how deep tuples may be nested"""
        self._most = most
        self._depth = depth

    def encode(self, value: object) -> bytes:
        """Return a mark of the type, and the value. Raises: TypeError for any other type"""
        if value is None:
            return b"N"
        if value is True or value is False:
            return b"T" if value else b"F"
        if isinstance(value, int):
            return b"i" + INT.encode(value)
        if isinstance(value, bytes):
            return b"b" + value
        if isinstance(value, str):
            return b"s" + value.encode("utf-8", "surrogateescape")
        if isinstance(value, tuple | list):
            return b"t" + List(self, self._most).encode(value)
        raise TypeError(f"{type(value).__name__} is no plain value")

    def decode(self, data: bytes) -> object:
        """Return a plain value; what was a list is a tuple. Raises: CodecError"""
        if len(data) > self._most:
            raise CodecError(f"a value of {len(data)} bytes where {self._most} are the most")
        form, rest = data[:1], data[1:]
        if form in _SINGLE and not rest:
            return _SINGLE[form]
        if form == b"i":
            return INT.decode(rest)
        if form == b"b":
            return rest
        if form == b"s":
            return rest.decode("utf-8", "surrogateescape")
        if form == b"t" and self._depth:
            return tuple(List(Plain(self._most, self._depth - 1), self._most).decode(rest))
        raise CodecError("no plain value")


_SINGLE: Final = {b"N": None, b"T": True, b"F": False}

INT: Final = Int()
UINT: Final = Int(0)
BOOL: Final = Bool()
FLOAT: Final = Float()
PID: Final = Int(1, (1 << 31) - 1)
