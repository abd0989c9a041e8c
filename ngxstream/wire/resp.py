"""RESP: replies of Redis and Valkey, versions 2 and 3 of the protocol, and commands to them.

A Parser is given bytes as they come and returns the replies that are whole. It believes no length
further than its bounds, needs no recursion, and takes time in proportion to the bytes, however they
were cut. After a RespError nothing more can be read from that connection.

Source: Redis serialization protocol specification (RESP2, RESP3)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

MOST_LINE: Final = 4096  # bytes of a simple string, an error or a number
MOST_BULK: Final = 1 << 20  # bytes of one string
MOST_ITEMS: Final = 1 << 16  # of one aggregate
MOST_DEPTH: Final = 8  # aggregates within one another
MOST_REPLY: Final = 16 << 20  # bytes of one reply, in memory rather than as they come
OBJECT: Final = 64  # bytes of memory for each value besides its own
_DIGITS: Final = 20  # of an integer of 64 bits with its sign

_END: Final = b"\r\n"
_AGGREGATES: Final = {b"*": 1, b"~": 1, b">": 1, b"%": 2, b"|": 2}  # values of an element


class RespError(ValueError):
    """Bytes that are no reply, or more of them than is taken."""


class ErrorReply:
    """What a server says instead of a result. Attributes: text: as sent, `CODE and words`"""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    @property
    def code(self) -> str:
        """The first word: ERR, READONLY, NOSCRIPT, OOM…"""
        return self.text.partition(" ")[0]

    def __repr__(self) -> str:
        return f"ErrorReply({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ErrorReply) and other.text == self.text

    __hash__ = None  # type: ignore[assignment]


class Push(list[Any]):
    """What a server sends unasked (RESP3): its kind, and what belongs to it."""


# bytes, int, bool, None, ErrorReply, or a list of these; maps are lists of key, value, key, value…
Reply = Any


class _Open:
    """An aggregate of which elements are missing."""

    __slots__ = ("items", "kind", "left")

    def __init__(self, kind: bytes, left: int) -> None:
        self.kind = kind
        self.left = left
        self.items: list[Reply] = []


class Parser:
    """Replies from one connection."""

    __slots__ = ("_data", "_open", "_seen", "_size", "_start")

    def __init__(self) -> None:
        self._data = bytearray()
        self._start = 0  # of what was not read yet
        self._seen = 0  # no line ends between start and here
        self._open: list[_Open] = []
        self._size = 0  # bytes of the reply that is read

    def feed(self, data: bytes) -> list[Reply]:
        """Take more bytes. Returns: the replies that they complete. Raises: RespError"""
        self._data += data
        found: list[Reply] = []
        while self._value(found):
            pass
        del self._data[: self._start]
        self._seen -= self._start
        self._start = 0
        return found

    def _value(self, found: list[Reply]) -> bool:
        """Read a value, or the head of an aggregate. Returns: whether there was a whole one"""
        data, start = self._data, self._start
        end = data.find(_END, max(start, self._seen))
        if end < 0:
            if len(data) - start > MOST_LINE:
                raise RespError("a line is too long")
            self._seen = max(start, len(data) - 1)
            return False
        if end - start > MOST_LINE:
            raise RespError("a line is too long")
        kind, line = bytes(data[start : start + 1]), bytes(data[start + 1 : end])
        after = end + 2
        if kind in (b"$", b"!", b"="):
            size = _length(line, MOST_BULK)
            if size < 0:
                value: Reply = None
            else:
                self._charge(size)
                stop = after + size
                if len(data) < stop + 2:
                    self._size -= size
                    self._seen = end
                    return False
                if data[stop : stop + 2] != _END:
                    raise RespError("a string does not end where it should")
                value = _bulk(kind, bytes(data[after:stop]))
                after = stop + 2
        elif kind in _AGGREGATES:
            count = _length(line, MOST_ITEMS)
            self._move(after, end - start)
            if count < 0:
                self._add(found, None)
            else:
                self._begin(found, kind, count)
            return True
        else:
            value = _simple(kind, line)
        self._move(after, end - start)
        self._add(found, value)
        return True

    def _move(self, to: int, size: int) -> None:
        self._start = self._seen = to
        self._charge(size + OBJECT)

    def _charge(self, size: int) -> None:
        self._size += size
        if self._size > MOST_REPLY:
            raise RespError("a reply is too long")

    def _begin(self, found: list[Reply], kind: bytes, count: int) -> None:
        if len(self._open) >= MOST_DEPTH:
            raise RespError("a reply is nested too deep")
        if kind == b">" and self._open:
            raise RespError("a push within a reply")
        self._open.append(_Open(kind, count * _AGGREGATES[kind]))
        if not count:
            self._close(found)

    def _add(self, found: list[Reply], value: Reply) -> None:
        if not self._open:
            found.append(value)
            self._size = 0
            return
        inner = self._open[-1]
        inner.items.append(value)
        inner.left -= 1
        if not inner.left:
            self._close(found)

    def _close(self, found: list[Reply]) -> None:
        while self._open and not self._open[-1].left:
            inner = self._open.pop()
            if inner.kind == b"|":  # attributes belong to the value that follows; none is used
                continue
            value = Push(inner.items) if inner.kind == b">" else inner.items
            if not self._open:
                found.append(value)
                self._size = 0
                return
            self._open[-1].items.append(value)
            self._open[-1].left -= 1


def _length(line: bytes, most: int) -> int:
    """Return a length, -1 for a value that is null. Raises: RespError"""
    if line == b"-1":
        return -1
    if not line.isdigit() or len(line) > _DIGITS:  # bytes: ASCII digits alone
        raise RespError("no length")
    size = int(line)
    if size > most:
        raise RespError("a string or a list is too long")
    return size


def _bulk(kind: bytes, data: bytes) -> Reply:
    if kind == b"!":
        return ErrorReply(data.decode("utf-8", "replace"))
    return data[4:] if kind == b"=" else data  # `txt:` or `mkd:` stands before a verbatim string


def _simple(kind: bytes, line: bytes) -> Reply:
    if kind in (b"+", b","):  # of a double its text: nothing here computes with one
        return line
    if kind == b"-":
        return ErrorReply(line.decode("utf-8", "replace"))
    if kind in (b":", b"("):
        digits = line.removeprefix(b"-") if line[:1] == b"-" else line.removeprefix(b"+")
        if not digits.isdigit() or len(line) > (_DIGITS if kind == b":" else MOST_LINE):
            raise RespError("no integer")
        return int(line) if kind == b":" else line
    if kind == b"_" and not line:
        return None
    if kind == b"#" and line in (b"t", b"f"):
        return line == b"t"
    raise RespError("no reply")


def command(args: Iterable[bytes]) -> bytes:
    """Return a command as it is sent. Args: its name first"""
    words = list(args)
    pieces = [b"*%d\r\n" % len(words)]
    for word in words:
        pieces.append(b"$%d\r\n" % len(word))
        pieces.append(word)
        pieces.append(_END)
    return b"".join(pieces)
