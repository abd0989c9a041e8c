"""Which sessions a request is about: from its arguments to a question, and in each worker from that
to a yes or no.

What is not understood is refused, also an argument nobody knows: it may be a filter that is spelled
wrong, and "all sessions" is not what was meant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from ngxstream.conf import units
from ngxstream.core import inet, ip
from ngxstream.ipc import codec
from ngxstream.ipc.codec import CodecError, Field, Record
from ngxstream.stream import schema
from ngxstream.stream.api import BAD_ARGUMENT, ApiError, Argument, bad_argument
from ngxstream.stream.content import BEGINNING, FUNCTIONS, PREREAD, SCRIPT, STATES, Shown
from ngxstream.stream.preread import KEY

if TYPE_CHECKING:
    from ngxstream.stream.session import Session

MOST: Final = 1000  # sessions in a reply
USUAL: Final = 100
NONE: Final = -1
UNIX: Final = "unix:"  # clients of unix sockets
_HIGHEST: Final = (1 << 63) - 1
_NAME: Final = 1024  # bytes of a name


class Chosen(NamedTuple):
    """What a session has to be like; "" and NONE are anything.

    Args: client: an address block, or UNIX; server: a zone's name, or a listening address; after:
    $connection has to be more; number, pid: of the only one that is meant; besides: $connection of
    one that is not
    """

    protocol: str = ""
    client: str = ""
    server: str = ""
    upstream: str = ""
    peer: str = ""
    state: str = ""
    min_age: int = NONE
    max_age: int = NONE
    min_idle: int = NONE
    limit: int = USUAL
    after: int = NONE
    number: int = NONE
    pid: int = 0
    besides: int = NONE


_NUMBER: Final = codec.Int(NONE, _HIGHEST)
_WORD: Final = codec.Text(_NAME)
_RECORD: Final = Record(
    "filter", Field(1, "protocol", _WORD, ""), Field(2, "client", _WORD, ""),
    Field(3, "server", _WORD, ""), Field(4, "upstream", _WORD, ""), Field(5, "peer", _WORD, ""),
    Field(6, "state", _WORD, ""), Field(7, "min_age", _NUMBER, NONE),
    Field(8, "max_age", _NUMBER, NONE), Field(9, "min_idle", _NUMBER, NONE),
    Field(10, "limit", codec.Int(1, MOST), USUAL), Field(11, "after", _NUMBER, NONE),
    Field(12, "number", _NUMBER, NONE), Field(13, "pid", codec.UINT, 0),
    Field(14, "besides", _NUMBER, NONE),
)

_TIME: Final = schema.described(schema.TEXT, "As nginx writes times: 500ms, 30s, 5m, 1h.")
ARGUMENTS: Final = (
    Argument("protocol", "Only TCP or only UDP.", schema.enum("tcp", "udp")),
    Argument("client", f"An address, a block of addresses (CIDR), or {UNIX}."),
    Argument("server", "The name of a server zone, or a listening address."),
    Argument("upstream", "The name of an upstream."),
    Argument("peer", "The address of a server, as upstreams show it."),
    Argument("state", "What they are doing.", schema.enum(*STATES)),
    Argument("min_age", "How old they are at least.", _TIME),
    Argument("max_age", "How old they are at most.", _TIME),
    Argument("min_idle", "For how long nothing has moved at least.", _TIME),
)
PAGING: Final = (
    Argument("limit", f"How many at most, {USUAL} if not given.",
             {**schema.INT, "minimum": 1, "maximum": MOST}),
    Argument("cursor", "The cursor of the reply before, to go on behind it."),
)


# -- in the worker that was asked by the API -------------------------------------------------------


def parse(args: Mapping[str, str], known: tuple[Argument, ...]) -> Chosen:
    """Read the arguments of a request. Args: known: those it may have. Raises: ApiError"""
    names = {one.name for one in known}
    values: dict[str, str | int] = {}
    for name, text in args.items():
        if name not in names:
            raise ApiError(400, BAD_ARGUMENT, f'unknown argument "{name}"')
        read = _READ.get(name)
        if read is None:
            continue  # it filters nothing
        try:
            values["after" if name == "cursor" else name] = read(text)
        except ValueError:
            raise bad_argument(name) from None
    return Chosen(**values)  # type: ignore[arg-type]


def _name(text: str) -> str:
    if not text or len(text.encode("utf-8", "surrogateescape")) > _NAME:
        raise ValueError(text)
    return text


def _client(text: str) -> str:
    if text != UNIX:
        ip.parse_cidr(text)
    return _name(text)


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return read


def _digits(text: str, lowest: int, highest: int) -> int:
    """Return a decimal number within bounds. Raises: ValueError"""
    if not (text.isascii() and text.isdigit()) or len(text) > 19:
        raise ValueError(text)
    value = int(text)
    if not lowest <= value <= highest:
        raise ValueError(text)
    return value


_READ: Final[Mapping[str, Callable[[str], str | int]]] = {
    "protocol": _one_of("tcp", "udp"), "client": _client, "server": _name, "upstream": _name,
    "peer": _name, "state": _one_of(*STATES), "min_age": units.parse_time_msec,
    "max_age": units.parse_time_msec, "min_idle": units.parse_time_msec,
    "limit": lambda text: _digits(text, 1, MOST),
    "cursor": lambda text: _digits(text, 0, _HIGHEST),
}


def parse_id(text: str) -> Chosen | None:
    """Return the filter of one session's id, PID-NUMBER; None for what is no id."""
    pid, _, number = text.partition("-")
    try:
        return Chosen(pid=_digits(pid, 1, (1 << 31) - 1), number=_digits(number, 0, _HIGHEST))
    except ValueError:
        return None


def pack(chosen: Chosen) -> bytes:
    """Return the payload of a question."""
    return _RECORD.encode(chosen)


# -- in each worker --------------------------------------------------------------------------------


class Filter:
    """A filter at work. What costs least is looked at first."""

    __slots__ = ("_block", "_is_udp", "_looks_inside", "_now_ms", "chosen")

    def __init__(self, payload: bytes, now_ms: int) -> None:
        """Read a question's payload. Raises: CodecError"""
        chosen = self.chosen = Chosen(*_RECORD.decode(payload))
        self._now_ms = now_ms
        self._is_udp = {"": None, "tcp": False, "udp": True}.get(chosen.protocol)
        self._block: ip.Cidr | None = None
        if chosen.client not in ("", UNIX):
            try:
                self._block = ip.parse_cidr(chosen.client)
            except ValueError:
                raise CodecError("a filter of a client that can be none") from None
        self._looks_inside = bool(
            chosen.upstream or chosen.peer or chosen.state or chosen.min_idle > 0
        )

    def fits(self, s: Session) -> bool:
        """Tell whether a session is meant, wherever the last page ended."""
        chosen, c = self.chosen, s.c
        if s.status or (self._is_udp is not None and c.is_udp != self._is_udp):
            return False
        number = chosen.number
        if (number >= 0 and c.number != number) or c.number == chosen.besides:
            return False
        if chosen.min_age > 0 or chosen.max_age >= 0:
            age_ms = self._now_ms - s.start_ms
            if age_ms < chosen.min_age or (0 <= chosen.max_age < age_ms):
                return False
        if chosen.client and not self._fits_client(s):
            return False
        if chosen.server and chosen.server not in (server_of(s), s.address.text, listen_of(s)):
            return False
        return not self._looks_inside or self._fits_inside(s)

    def _fits_client(self, s: Session) -> bool:
        sockaddr = s.c.sockaddr
        if self._block is None:
            return inet.family_of(sockaddr) == inet.AF_UNIX
        packed = inet.packed(sockaddr)
        return packed in self._block or ip.unmapped(packed) in self._block

    def _fits_inside(self, s: Session) -> bool:
        chosen, shown = self.chosen, shown_of(s)
        return (
            chosen.upstream in ("", shown.upstream)
            and chosen.peer in ("", shown.peer)
            and chosen.state in ("", shown.state)
            and idle_ms(s, shown, self._now_ms) >= chosen.min_idle
        )


def shown_of(s: Session) -> Shown:
    """Return what is to be told of a session."""
    content = s.content
    if content is not None:
        return content.shown()
    waiting = s.module_ctx(KEY)
    if waiting is not None:
        return Shown(SCRIPT if waiting.is_elsewhere else PREREAD)
    functions = s.module_ctx(FUNCTIONS)
    return Shown(SCRIPT if functions is not None and functions.tasks else BEGINNING)


def idle_ms(s: Session, shown: Shown, now_ms: int) -> int:
    """Return for how long nothing has moved."""
    since_ms = s.start_ms if shown.active_ms is None else shown.active_ms
    return max(0, now_ms - since_ms)


def listen_of(s: Session) -> str:
    """Return the listening address of a session."""
    return f"udp {s.address.text}" if s.c.is_udp else s.address.text


def server_of(s: Session) -> str:
    """Return the name that a session's server is counted under."""
    watched = s.server.watched
    return (watched.label if watched is not None else "") or listen_of(s)
