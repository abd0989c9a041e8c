"""The JSON of a request's body, read a piece at a time.

A short body is one piece. Of a longer one, an array or an object, each element is a piece; an
element that is long itself is refused, since the library reads it in one go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator
from typing import Any, Final

from ngxstream.stream.api import ApiError

PIECE: Final = 65_536  # bytes that are read in one go: a millisecond
_STRIDE: Final = 2_000  # tokens between two steps
# takes linear time: no character that is given back could be matched in another way
_TOKEN: Final = re.compile(
    r'"[^"\\]{0,65536}(?:\\.[^"\\]{0,65536}){0,32768}"|["\[\]{},]', re.DOTALL
)
_SPACE: Final = " \t\n\r"


def _refuse(text: str) -> object:
    raise ValueError(text)


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse)


def steps(body: bytes) -> Generator[None, None, Any]:
    """Return the value of a body, in steps. Raises: ApiError for what is no JSON"""
    try:
        text = body.decode()
        if len(text) <= PIECE:
            return _DECODER.decode(text)
        return (yield from _long(text.strip(_SPACE)))
    except (ValueError, RecursionError):
        raise ApiError(415, "JsonError", "request body is no JSON") from None


def _long(text: str) -> Generator[None, None, Any]:
    kind = text[:1] + text[-1:]
    if kind == "[]":
        values = []
        for at, end in _elements(text):
            if end:
                values.append(_DECODER.decode(text[at:end]))
            yield
        return values
    if kind == "{}":
        members: dict[str, Any] = {}
        for at, end in _elements(text):
            if end and text[at:end].strip(_SPACE):
                members.update(_DECODER.decode(f"{{{text[at:end]}}}"))
            elif end:
                raise ValueError("no member")
            yield
        return members
    raise ValueError("neither array nor object")


def _elements(text: str) -> Iterator[tuple[int, int]]:
    """Yield where each element of an array or object begins and ends; (0, 0) now and then.

    Raises: ValueError where brackets do not match, ApiError for an element that is too long
    """
    depth = 0
    start = 1
    last = len(text) - 1
    for n, token in enumerate(_TOKEN.finditer(text, 1, last)):
        char = token[0]
        if char == '"':  # of a string that does not end, or is too long
            _whole(token.start(), last)
            raise ValueError(text)
        if char in "[{":
            depth += 1
        elif char in "]}":
            depth -= 1
            if depth < 0:
                raise ValueError(text)
        elif char == "," and not depth:
            yield _whole(start, token.start())
            start = token.end()
        if n % _STRIDE == 0:
            yield 0, 0
    if depth:
        raise ValueError(text)
    yield _whole(start, last)


def _whole(start: int, end: int) -> tuple[int, int]:
    if end - start > PIECE:
        raise ApiError(413, "RequestEntityTooLarge", "an element of the request body is too long")
    return start, end
