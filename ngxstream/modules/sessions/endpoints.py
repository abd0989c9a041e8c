"""/sessions of the API: the table of all workers, page by page, and the end of some or of one.

What a worker has answered is believed as far as it is in order; one whose answer is none is silent.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import clock
from ngxstream.event.slices import Slices
from ngxstream.ipc.codec import CodecError
from ngxstream.modules.sessions import filters, table
from ngxstream.stream import schema
from ngxstream.stream.api import (
    BAD_ARGUMENT,
    OWN,
    ApiError,
    Argument,
    Endpoint,
    Items,
    Operation,
    Reply,
    bad_argument,
)
from ngxstream.stream.asking import Answers, Asking
from ngxstream.stream.content import STATES

if TYPE_CHECKING:
    from ngxstream.modules.sessions.filters import Chosen
    from ngxstream.modules.sessions.table import Row
    from ngxstream.stream.api import Request

ALL: Final = "all"
NOT_FOUND: Final = "SessionNotFound"
SILENT: Final = "WorkerSilent"
STEP: Final = 64  # rows that are read in a slice of the loop: some 0.5 ms


def _get(request: Request) -> Reply | None:
    chosen = filters.parse(request.args, _LISTED)
    listing = _Listing(request, chosen)
    request.loop.get(Asking).ask(table.LIST, filters.pack(chosen), listing.on_answers)
    return None


class _Listing:
    """One page, made of the pages of all workers."""

    __slots__ = ("_chosen", "_matched", "_more", "_request", "_rows", "_silent", "_steps")

    def __init__(self, request: Request, chosen: Chosen) -> None:
        self._request = request
        self._chosen = chosen
        self._steps: Iterator[None] = iter(())
        self._rows: list[tuple[Row, int]] = []  # and whose it is
        self._matched = 0
        self._more: list[int] = []  # up to which numbers those workers looked that have more
        self._silent: list[int] = []

    def on_answers(self, answers: Answers) -> None:
        """Read the answers, some rows in each slice of the loop."""
        self._silent = list(answers.silent)
        self._steps = self._read(answers)
        self._go_on()

    def _go_on(self) -> None:
        for _ in self._steps:
            self._request.loop.get(Slices).add(self._go_on)
            return
        self._reply()

    def _read(self, answers: Answers) -> Iterator[None]:
        after = self._chosen.after
        for pid, answer in answers.given.items():
            rows: list[tuple[Row, int]] = []
            try:
                page = table.read_page(answer)
                if page.has_more and page.upto <= after:
                    raise CodecError("a page that leads nowhere")
                for n, packed in enumerate(page.rows, 1):
                    row = table.read_row(packed)
                    if not (after < row.number <= page.upto and clock.is_time(row.started_ms)):
                        raise CodecError("a session of another page, or from no time")
                    rows.append((row, pid))
                    if not n % STEP:
                        yield
            except CodecError:
                self._silent.append(pid)
                continue
            self._rows += rows
            self._matched += page.matched
            if page.has_more:
                self._more.append(page.upto)
            yield

    def _reply(self) -> None:
        limit = self._chosen.limit
        # behind the least number that a worker with more has looked up to, some may be missing
        horizon = min(self._more, default=None)
        rows = sorted(self._rows, key=lambda one: (one[0].number, one[1]))
        if horizon is not None:
            rows = [one for one in rows if one[0].number <= horizon]
        cursor = None
        if len(rows) > limit:
            cursor = rows[limit - 1][0].number
        elif horizon is not None:
            cursor = horizon
        value = {
            "sessions": Items(map(_shown, rows[:limit])),
            "cursor": None if cursor is None else str(cursor),
            "matched": self._matched,
            "silent": sorted(self._silent),
        }
        self._request.respond(Reply(value=value))


def _shown(one: tuple[Row, int]) -> dict[str, Any]:
    row, pid = one
    return {
        "id": f"{pid}-{row.number}",
        "pid": pid,
        "protocol": "udp" if row.is_udp else "tcp",
        "client": row.client,
        "listen": row.listen,
        "server": row.server,
        "upstream": row.upstream,
        "peer": row.peer,
        "state": row.state,
        "started": clock.rfc3339(row.started_ms),
        "age_ms": row.age_ms,
        "idle_ms": row.idle_ms,
        "received": row.received,
        "sent": row.sent,
        "upstream_sent": row.upstream_sent,
        "upstream_received": row.upstream_received,
        "datagrams_received": None if row.datagrams_received < 0 else row.datagrams_received,
        "datagrams_sent": None if row.datagrams_sent < 0 else row.datagrams_sent,
    }


# -- ending ----------------------------------------------------------------------------------------


def _delete(request: Request) -> Reply | None:
    args = request.args
    if not args:
        raise ApiError(400, BAD_ARGUMENT, f"a filter is missing, or {ALL}=1")
    if args.get(ALL, "1") != "1":
        raise bad_argument(ALL)
    chosen = filters.parse(args, _ENDED)._replace(besides=request.s.c.number)
    payload = filters.pack(chosen)
    request.loop.get(Asking).ask(table.END, payload, partial(_on_ended, request))
    return None


def _on_ended(request: Request, answers: Answers) -> None:
    count, silent = _count(answers)
    request.respond(Reply(value={"ended": count, "silent": silent}))


def _count(answers: Answers) -> tuple[int, list[int]]:
    """Return how many sessions were ended, and who has not said so."""
    counts, silent = [], list(answers.silent)
    for pid, answer in answers.given.items():
        try:
            counts.append(table.read_ended(answer))
        except CodecError:
            silent.append(pid)
    return sum(counts), sorted(silent)


def _delete_one(request: Request) -> Reply | None:
    filters.parse(request.args, ())
    chosen = filters.parse_id(request.path["id"])
    if chosen is None:
        raise ApiError(404, NOT_FOUND, "session not found")
    payload = filters.pack(chosen)
    request.loop.get(Asking).ask(table.END, payload, partial(_on_one_ended, request, chosen.pid))
    return None


def _on_one_ended(request: Request, pid: int, answers: Answers) -> None:
    count, silent = _count(answers)
    if count:
        request.respond(Reply(204))
    elif pid in silent:
        request.respond(ApiError(503, SILENT, "the worker does not answer"))
    else:
        request.respond(ApiError(404, NOT_FOUND, "session not found"))


_LISTED: Final = (*filters.ARGUMENTS, *filters.PAGING)
_ENDED: Final = (
    *filters.ARGUMENTS, Argument(ALL, "Needed where there is no filter.", schema.enum("1")),
)
_PIDS: Final = schema.described(
    schema.array(schema.INT), "Processes that did not answer in time; what they have is missing."
)
_SESSION: Final = schema.obj(
    "One session.",
    id=schema.described(schema.TEXT, "Its worker and its number, `PID-NUMBER`."),
    pid=schema.INT,
    protocol=schema.enum("tcp", "udp"),
    client=schema.described(schema.TEXT, "Address and port."),
    listen=schema.described(schema.TEXT, "The listening address it came to."),
    server=schema.described(schema.TEXT, "The server zone it is counted in."),
    upstream=schema.nullable(schema.TEXT),
    peer=schema.nullable(schema.TEXT),
    state=schema.enum(*STATES),
    started=schema.TIME,
    age_ms=schema.COUNT,
    idle_ms=schema.described(schema.COUNT, "Since something moved last, as far as it is known."),
    received=schema.described(schema.COUNT, "Bytes from the client."),
    sent=schema.described(schema.COUNT, "Bytes to the client."),
    upstream_sent=schema.described(schema.COUNT, "Bytes to the server."),
    upstream_received=schema.described(schema.COUNT, "Bytes from the server."),
    datagrams_received=schema.nullable(schema.COUNT),
    datagrams_sent=schema.nullable(schema.COUNT),
)
_TABLE: Final = schema.obj(
    "Sessions in the order of their numbers.",
    sessions=schema.array(_SESSION),
    cursor=schema.described(schema.nullable(schema.TEXT), "What the next page begins behind."),
    matched=schema.described(schema.COUNT, "How many there are, on all pages."),
    silent=_PIDS,
)

ENDPOINTS: Final = (
    Endpoint(OWN, "/sessions", {
        "GET": Operation(_get, "Return the sessions that go on.", _TABLE, args=_LISTED,
                         errors=(BAD_ARGUMENT,)),
        "DELETE": Operation(
            _delete, "End sessions; not the one that asks.",
            schema.obj(ended=schema.COUNT, silent=_PIDS), args=_ENDED, errors=(BAD_ARGUMENT,),
        ),
    }),
    Endpoint(OWN, "/sessions/{id}", {
        "DELETE": Operation(_delete_one, "End a session.", success=204,
                            errors=(NOT_FOUND, SILENT, BAD_ARGUMENT)),
    }, listed=False),
)
