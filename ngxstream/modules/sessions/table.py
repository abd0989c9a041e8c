"""The sessions of one worker: which fit a filter, step by step, and what is told of each.

1. Sessions are in the order of their numbers ($connection), which are of all workers of a master.
2. A step looks at sessions for STEP_NS; who asks of 100 000 sessions delays none of them for longer
   than that.
3. Sessions go on while they are looked at: who has ended is left out, who came meanwhile may be.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Iterator
from time import monotonic_ns
from typing import TYPE_CHECKING, Final, NamedTuple

from ngxstream.core import inet
from ngxstream.core.codes import STREAM_OK
from ngxstream.core.log import INFO
from ngxstream.ipc import codec
from ngxstream.ipc.codec import CodecError, Field, List, Record
from ngxstream.modules.sessions import filters
from ngxstream.stream import endings
from ngxstream.stream.asking import MAX_ANSWER, Question
from ngxstream.stream.content import STATES

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.modules.sessions.filters import Filter
    from ngxstream.stream.asking import Steps
    from ngxstream.stream.core import StreamConf
    from ngxstream.stream.session import Session

LIST: Final = "sessions"
END: Final = "end sessions"
STEP_NS: Final = 1_000_000
LOOK: Final = 32  # sessions between two looks at the clock
ROOM: Final = MAX_ANSWER * 3 // 4  # bytes of rows, after which a page is full

_NAME: Final = codec.Repeated(codec.Text(4096))


class Row(NamedTuple):
    """One session, as it is sent. Args: datagrams_…: -1 where they are not counted"""

    number: int
    started_ms: int  # since 1970
    age_ms: int
    idle_ms: int
    received: int
    sent: int
    upstream_sent: int
    upstream_received: int
    datagrams_received: int
    datagrams_sent: int
    is_udp: bool
    client: str
    listen: str
    server: str
    upstream: str | None
    peer: str | None
    state: str


_NUMBERS: Final = 10
_ROW: Final = Record(
    "row", Field(1, "numbers", codec.Numbers(_NUMBERS, -1)), Field(2, "is_udp", codec.BOOL, False),
    Field(3, "client", codec.Text(4096)), Field(4, "listen", _NAME), Field(5, "server", _NAME),
    Field(6, "upstream", codec.Optional(_NAME), None),
    Field(7, "peer", codec.Optional(_NAME), None), Field(8, "state", _NAME),
)


class Page(NamedTuple):
    """A worker's answer to LIST.

    Args: rows: packed, by rising number; matched: all that fit, on other pages too; has_more:
    others follow; upto: the number that was looked up to
    """

    rows: list[bytes]
    matched: int
    has_more: bool
    upto: int


_PAGE: Final = Record(
    "page", Field(1, "rows", List(codec.Bytes(1 << 16), filters.MOST), []),
    Field(2, "matched", codec.UINT, 0), Field(3, "has_more", codec.BOOL, False),
    Field(4, "upto", codec.UINT, 0),
)
_ENDED: Final = Record("end of sessions", Field(1, "count", codec.UINT, 0))


def read_page(answer: bytes) -> Page:
    """Read a worker's answer. Raises: CodecError"""
    return Page(*_PAGE.decode(answer))


def read_row(packed: bytes) -> Row:
    """Read one session of an answer. Raises: CodecError"""
    numbers, *others = _ROW.decode(packed)
    row = Row(*numbers[:_NUMBERS], *others)
    if row.state not in STATES or min(numbers[:8]) < 0:
        raise CodecError("a session that can be none")
    return row


def read_ended(answer: bytes) -> int:
    """Read how many sessions a worker has ended. Raises: CodecError"""
    count: int = _ENDED.decode(answer)[0]
    return count


# -- answering -------------------------------------------------------------------------------------


def _fitting(loop: Loop, chosen: Filter) -> Iterator[Session | None]:
    """Yield the sessions that fit, and None where a step is over."""
    over_ns = monotonic_ns() + STEP_NS
    for n, s in enumerate(list(loop.sessions)):
        if chosen.fits(s):
            yield s
        if n % LOOK == LOOK - 1 and monotonic_ns() > over_ns:
            yield None
            over_ns = monotonic_ns() + STEP_NS


def answer_list(loop: Loop, stream: StreamConf, payload: bytes) -> Steps:
    """Answer LIST. Raises: CodecError"""
    return _list(loop, filters.Filter(payload, loop.now_ms))


def _list(loop: Loop, chosen: Filter) -> Steps:
    after, limit = chosen.chosen.after, chosen.chosen.limit
    matched = 0
    has_more = False
    lowest: list[tuple[int, int, Session]] = []  # a heap, the highest number first
    for s in _fitting(loop, chosen):
        if s is None:
            yield
            continue
        matched += 1
        number = s.c.number
        if number <= after:
            continue
        if len(lowest) < limit:
            heapq.heappush(lowest, (-number, matched, s))
        else:
            has_more = True
            if number < -lowest[0][0]:
                heapq.heapreplace(lowest, (-number, matched, s))
    upto = size = 0
    rows: list[bytes] = []
    over_ns = monotonic_ns() + STEP_NS
    for _, _, s in sorted(lowest, reverse=True):
        if size > ROOM:
            has_more = True
            break
        upto = s.c.number
        if not s.status:
            rows.append(_ROW.encode(_row(s)))
            size += len(rows[-1]) + 8
        if monotonic_ns() > over_ns:
            yield
            over_ns = monotonic_ns() + STEP_NS
    return _PAGE.encode(Page(rows, matched, has_more, upto))


def _row(s: Session) -> tuple[object, ...]:
    """Return what is told of a session, as _ROW has it."""
    c, loop, shown = s.c, s.loop, filters.shown_of(s)
    content = s.content
    received, sent, from_upstream, to_upstream = (
        (c.received, c.sent, 0, 0) if content is None else content.counts()
    )
    now_ms = loop.now_ms
    age_ms = max(0, now_ms - s.start_ms)
    numbers = (
        c.number, max(0, int(s.log.clock.now() * 1000) - age_ms), age_ms,
        filters.idle_ms(s, shown, now_ms), received, sent, to_upstream, from_upstream,
        *(shown.datagrams or (-1, -1)),
    )
    return (
        numbers, c.is_udp, inet.sock_ntop(c.sockaddr) or filters.UNIX, s.address.text,
        filters.server_of(s), shown.upstream, shown.peer, shown.state,
    )


def answer_end(loop: Loop, stream: StreamConf, payload: bytes) -> Steps:
    """Answer END. Raises: CodecError"""
    return _end(loop, filters.Filter(payload, loop.now_ms))


def _end(loop: Loop, chosen: Filter) -> Generator[None, None, bytes]:
    count = 0
    pid = chosen.chosen.pid
    if pid in (0, loop.pid):
        over_ns = monotonic_ns() + STEP_NS
        for s in _fitting(loop, chosen):
            if s is not None:
                s.log_error(INFO, "ended through the API")
                if s.content is not None:
                    s.content.count_live()
                s.end(STREAM_OK, endings.API)
                count += 1
            if s is None or monotonic_ns() > over_ns:
                yield
                over_ns = monotonic_ns() + STEP_NS
    return _ENDED.encode((count,))


QUESTIONS: Final = (Question(LIST, answer_list), Question(END, answer_end))
