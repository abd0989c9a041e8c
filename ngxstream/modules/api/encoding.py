"""JSON in pieces: a value is encoded while it is sent, whatever its size.

What stands in Items and Members (stream/api.py) is made and encoded one by one, what is Encoded is
in pieces already; anything else is one piece.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ngxstream.stream.api import Encoded, Items, Members


class _Streamed(Exception):
    """A value has parts that are made while it is sent."""


def _refuse(value: object) -> object:
    if isinstance(value, Items | Members | Encoded):
        raise _Streamed
    raise TypeError(f"{type(value).__name__} is no JSON")


_ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"),
    default=_refuse,
)


def whole(value: Any) -> str | None:
    """Return the JSON text of a value, None where it has to be made in pieces.

    Raises: TypeError, ValueError for what is no JSON
    """
    try:
        return _ENCODER.encode(value)
    except _Streamed:
        return None


def pieces(value: Any) -> Iterator[str]:
    """Yield the JSON text of a value in pieces. Raises: TypeError, ValueError for what is none"""
    text = whole(value)
    if text is not None:
        yield text
        return
    if isinstance(value, Encoded):
        yield from value.pieces
    elif isinstance(value, Members):
        yield from _members(value.pairs)
    elif isinstance(value, dict):
        yield from _members(value.items())
    else:
        yield from _items(value.values if isinstance(value, Items) else value)


def _members(pairs: Any) -> Iterator[str]:
    before = "{"
    for name, value in pairs:
        yield f"{before}{_ENCODER.encode(str(name))}:"
        yield from pieces(value)
        before = ","
    yield "{}" if before == "{" else "}"


def _items(values: Any) -> Iterator[str]:
    before = "["
    for value in values:
        yield before
        yield from pieces(value)
        before = ","
    yield "[]" if before == "[" else "]"


def to_bytes(text: str) -> bytes:
    """Encode text, whatever a configuration file or a path had in it (PEP 383)."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode()
