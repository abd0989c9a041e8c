"""A client of the API: its requests, its replies, its ends in time."""

import errno
import gc
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ngxstream.event import slices
from ngxstream.modules.api import serving, states
from ngxstream.stream.api import ROOT, Endpoint, Items, Operation, Reply, Request
from ngxstream.stream.module import StreamModule
from ngxstream.wire import http
from tests.support import http_replies as h
from tests.support.in_process import InProcess


class Operations:
    """Operations of a test: one replies when it is told to, one with much, one breaks off."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.made = 0

    def later(self, request: Request) -> Reply | None:
        """Keep the request."""
        self.asked.append(request)
        return None

    def at_once(self, request: Request) -> Reply | None:
        """Reply before it returns."""
        request.respond(Reply(200, "at once"))
        request.respond(Reply(200, "twice"))
        return None

    def much(self, request: Request) -> Reply:
        """Reply with more than sockets hold."""

        def make() -> Iterator[str]:
            for _ in range(20_000):
                self.made += 1
                yield "x" * 1000

        return Reply(200, Items(make()))

    def broken(self, request: Request) -> Reply:
        """Fail when some of it is sent."""

        def make() -> Iterator[str]:
            yield from ["x" * 100_000] * 2
            raise RuntimeError("secret")

        return Reply(200, Items(make()))

    def worse(self, request: Request) -> Reply:
        """Reply with what cannot be sent."""
        return Reply(200, object())


@pytest.fixture
def operations() -> Operations:
    """Give the operations of this test."""
    return Operations()


@pytest.fixture
def served(operations: Operations) -> Iterator[InProcess]:
    """Give a server with these operations."""
    names = ("later", "at_once", "much", "broken", "worse")
    endpoints = tuple(
        Endpoint(ROOT, f"/{name}", {"GET": Operation(getattr(operations, name), "")})
        for name in names
    )
    with InProcess(h.CONF % "api;", more=(StreamModule("shown", endpoints=endpoints),)) as served:
        yield served


def later(served: InProcess, ms: int) -> None:
    """Let time pass in one turn."""
    served.loop.now_ms += ms
    served.loop.timers.expire(served.loop.now_ms, lambda handler: handler())
    served.loop.turn(wait_ms=0)


def ended(served: InProcess, number: int = 0) -> int:
    """Return how a session ends."""
    status: int = served.turn_until(lambda: served.sessions[number].status)
    return status


def logged(served: InProcess) -> list[str]:
    """Return what was logged but for the start of connections."""
    return [text for _, text in served.target.lines if "connected to" not in text]


def test_requests_are_answered_in_order(served: InProcess) -> None:
    """However many come at once, and the connection stays for them."""
    raw = b"".join(h.request(path) for path in ("/healthz", "/none", "/api", "/healthz"))
    assert [200, 404, 200, 200] == [got.status for got in h.replies(h.exchange(served, raw))]
    assert 200 == ended(served)


def test_little_is_parsed_at_once(served: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body of one-byte chunks makes work of milliseconds of each read."""
    sizes: list[int] = []
    feed = http.Parser.feed

    def record(parser: http.Parser, data: bytes) -> None:
        sizes.append(len(data))
        feed(parser, data)

    monkeypatch.setattr(http.Parser, "feed", record)
    raw = h.request("/healthz", Transfer_Encoding="chunked") + b"1\r\nx\r\n" * 6000 + b"0\r\n\r\n"
    found = h.replies(h.exchange(served, raw + h.request("/healthz")))
    assert [200, 200] == [got.status for got in found]
    assert max(sizes) <= states.PORTION


def test_a_connection_stays_behind_a_body(served: InProcess) -> None:
    """Of a request that is accepted, though nobody reads the body."""
    raw = h.request("/healthz", body=b"hello") + h.request("/healthz")
    assert [200, 200] == [got.status for got in h.replies(h.exchange(served, raw))]


def test_head_is_get_without_a_body(served: InProcess) -> None:
    """And what comes next is read as it is."""
    raw = h.request("/healthz", "HEAD") + h.request("/none", "HEAD") + h.request("/healthz")
    found = h.replies(h.exchange(served, raw), "HEAD", "HEAD")
    assert [(200, b""), (404, b""), (200, b"ok")] == [(got.status, got.body) for got in found]


def test_a_request_may_come_byte_by_byte(served: InProcess) -> None:
    """Nothing is answered before it is whole."""
    client = served.connect()
    raw = h.request("/healthz")
    for n in range(len(raw)):
        client.sendall(raw[n : n + 1])
        served.loop.turn(wait_ms=0)
    client.shutdown(socket.SHUT_WR)
    assert 200 == h.replies(served.read(client))[0].status


def test_bytes_are_counted(served: InProcess) -> None:
    """Both ways, as for any session."""
    raw = h.request("/healthz")
    data = h.exchange(served, raw)
    c = served.sessions[0].c
    assert (len(raw), len(data)) == (c.received, c.sent)


def test_who_asks_for_it_is_told_that_the_connection_closes(served: InProcess) -> None:
    """And it does, behind the reply; what was sent after is not answered."""
    client = served.connect()
    client.sendall(h.request("/healthz", Connection="close") + h.request("/healthz"))
    (got,) = h.replies(served.read(client))
    assert (200, "close") == (got.status, got.headers["connection"])


def test_a_worker_that_leaves_keeps_no_connection(served: InProcess) -> None:
    """The next request is for another worker."""
    served.loop.exiting = True
    assert "close" == h.ask(served, "/healthz").headers["connection"]


def test_a_reply_may_come_later(served: InProcess, operations: Operations) -> None:
    """In another turn; what comes meanwhile waits for it, and a second reply is nobody's."""
    client = served.connect()
    client.sendall(h.request("/later") + h.request("/healthz"))
    served.turn_until(lambda: operations.asked)
    for _ in range(3):
        served.loop.turn(wait_ms=0)
    with pytest.raises(BlockingIOError):
        client.recv(1)
    respond = operations.asked[0].respond
    respond(Reply(200, "now"))
    respond(Reply(200, "twice"))
    client.shutdown(socket.SHUT_WR)
    first, second = h.replies(served.read(client))
    assert ("now", b"ok") == (first.json, second.body)
    respond(Reply(200, "late"))


def test_a_late_reply_is_not_the_next_one_s(served: InProcess, operations: Operations) -> None:
    """Who replies twice replies to nothing the second time."""
    client = served.connect()
    client.sendall(h.request("/later") + h.request("/later"))
    served.turn_until(lambda: operations.asked)
    operations.asked[0].respond(Reply(200, "first"))
    served.turn_until(lambda: len(operations.asked) == 2)
    operations.asked[0].respond(Reply(200, "wrong"))
    operations.asked[1].respond(Reply(200, "second"))
    client.shutdown(socket.SHUT_WR)
    assert ["first", "second"] == [got.json for got in h.replies(served.read(client))]


def test_a_reply_may_come_before_the_operation_returns(served: InProcess) -> None:
    """The first one counts."""
    assert "at once" == h.ask(served, "/at_once").json


def test_who_has_left_gets_no_reply(served: InProcess, operations: Operations) -> None:
    """Nothing happens, and nothing is kept."""
    client = served.connect()
    client.sendall(h.request("/later"))
    served.turn_until(lambda: operations.asked)
    served.sessions[0].finalize(200)
    operations.asked[0].respond(Reply(200, 1))
    served.loop.turn(wait_ms=0)
    assert 0 == served.loop.get(serving.Clients).count


def test_a_slow_reader_has_little_made_ahead(served: InProcess, operations: Operations) -> None:
    """What sockets do not take is not made; the rest comes when there is room."""
    client = served.connect()
    client.sendall(h.request("/much", Connection="close"))
    before = -1
    while before != operations.made:
        before = operations.made
        for _ in range(50):
            served.loop.turn(wait_ms=1)
    assert 0 < operations.made < 15_000
    (got,) = h.replies(served.read(client))
    assert 20_000 == len(got.json)


def test_who_takes_some_has_time_for_more(served: InProcess, operations: Operations) -> None:
    """STALL_MS begins anew with the bytes he takes, ANSWER_MS does not."""
    client = served.connect()
    client.sendall(h.request("/much"))
    served.turn_until(lambda: operations.made > 1000)
    content = served.sessions[0].content
    first, until = content.deadline, content.until

    def takes() -> bool:
        client.setblocking(True)
        client.recv(1 << 20)
        client.setblocking(False)
        return bool(content.deadline > first)

    served.turn_until(takes)
    assert until == content.until
    assert until <= content.s.loop.now_ms + states.ANSWER_MS


def test_who_reads_nothing_is_cut_off(served: InProcess, operations: Operations) -> None:
    """After STALL_MS without a byte."""
    client = served.connect()
    client.sendall(h.request("/much"))
    served.turn_until(lambda: served.sessions[0].content.deadline and operations.made > 1000)
    for _ in range(200):
        served.loop.turn(wait_ms=0)
    later(served, states.STALL_MS + 20)
    assert 408 == ended(served)
    assert "client timed out" in logged(served)[-1]
    assert "while sending response to client" in logged(served)[-1]


def test_a_body_that_breaks_off_is_seen_to(served: InProcess) -> None:
    """The connection ends without the last chunk; the fault is logged."""
    data = h.exchange(served, h.request("/broken"))
    assert b"Transfer-Encoding: chunked" in data
    assert not data.endswith(b"0\r\n\r\n")
    assert b"secret" not in data
    assert any("secret" in line for line in logged(served))
    assert 500 == ended(served)


def test_what_cannot_be_sent_is_a_fault(served: InProcess) -> None:
    """500, and the connection closes."""
    got = h.ask(served, "/worse")
    assert (500, "InternalError", "close") == (got.status, got.code, got.headers["connection"])


@pytest.mark.parametrize(
    ("raw", "status", "said", "part"),
    [
        (b"\x16\x03\x01\x02\x00", 400, "sent invalid request", "line"),
        (b"GET / HTTP/2.0\r\n", 505, "sent invalid version", "line"),
        (b"get / HTTP/1.1\r\n", 501, "sent invalid method", "line"),
        (b"GET /" + b"a" * 9000, 414, "sent too long URI", "line"),
        (b"GET / HTTP/1.1\r\nHost : a\r\n", 400, "sent invalid header line", "headers"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, 'sent HTTP/1.1 request without "Host" header', "headers"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 101, 431, "sent too many headers", "headers"),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\nabc", 413,
         "intended to send too large body: 2000000 bytes", "headers"),
        (b"PUT /api HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\n", 405, "", ""),
        (b"GET /api HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\n", 400,
         "sent invalid chunked body", "body"),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(
    served: InProcess, raw: bytes, status: int, said: str, part: str
) -> None:
    """With a reply that says so, a line at info as nginx has it, and the end of the connection."""
    client = served.connect()
    client.sendall(raw)
    client.shutdown(socket.SHUT_WR)
    (got,) = h.replies(served.read(client))
    assert (status, "close") == (got.status, got.headers["connection"])
    where = {"line": "client request line", "headers": "client request headers",
             "body": "client request body"}.get(part)  # fmt: skip
    if where:
        assert status == ended(served)
        assert f"client {said} while reading {where}, client: 127.0.0.1" in logged(served)[-1]
    assert got.code == ("BodyReadError" if part == "body" else got.code)


def test_no_byte_of_a_request_is_logged(served: InProcess) -> None:
    """Whatever is refused."""
    for raw in (b"G\x1b[31mT / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nFORGED\x07: x\r\n\r\n"):
        h.exchange(served, raw)
    assert not any("\x1b" in line or "FORGED" in line or "31m" in line for line in logged(served))


@pytest.mark.parametrize(
    ("raw", "ms", "where"),
    [
        (b"GET", states.HEADER_MS, "line"),
        (b"GET / HTTP/1.1\r\nHo", states.HEADER_MS, "headers"),
        (b"GET /api HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab", states.BODY_MS, "body"),
    ],
)  # fmt: skip
def test_a_request_has_its_time(served: InProcess, raw: bytes, ms: int, where: str) -> None:
    """Then the client is told 408; each byte gives no more."""
    client = served.connect()
    client.sendall(raw)
    for _ in range(3):
        served.loop.turn(wait_ms=1)
    later(served, ms + 20)
    client.shutdown(socket.SHUT_WR)
    (got,) = h.replies(served.read(client))
    assert (408, "close") == (got.status, got.headers["connection"])
    assert f"client timed out ({errno.ETIMEDOUT}: " in logged(served)[-1]
    assert f"while reading client request {where}" in logged(served)[-1]


def test_who_says_nothing_is_told_nothing(served: InProcess) -> None:
    """The connection is closed."""
    client = served.connect()
    served.turn_until(lambda: served.sessions)
    later(served, states.HEADER_MS + 20)
    assert b"" == served.read(client)
    assert 408 == ended(served)


def test_a_worker_that_leaves_closes_idle_connections(served: InProcess) -> None:
    """Within a second."""
    client = served.connect()
    client.sendall(h.request("/healthz"))
    served.turn_until(lambda: served.sessions[0].content.number and not
                      served.sessions[0].content.state)
    later(served, states.LOOK_MS + 20)
    assert 0 == served.sessions[0].status
    served.loop.exiting = True
    later(served, 2 * states.LOOK_MS + 40)
    assert 200 == ended(served)


def test_an_idle_connection_is_closed(served: InProcess) -> None:
    """Without a word, after IDLE_MS."""
    client = served.connect()
    client.sendall(h.request("/healthz"))
    served.turn_until(lambda: served.sessions[0].content.state == states.IDLE and
                      served.sessions[0].content.number)
    later(served, states.IDLE_MS + 20)
    assert 1 == len(h.replies(served.read(client)))
    assert ([], 200) == (logged(served), ended(served))


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/none", 404)])
def test_a_request_on_an_idle_connection_has_its_own_time(
    served: InProcess, monkeypatch: pytest.MonkeyPatch, path: str, status: int
) -> None:
    """That of being idle counts no more once it is there, however short the slices are."""
    monkeypatch.setattr(slices, "SLICE_NS", 0)
    client = served.connect()
    client.sendall(h.request("/healthz"))
    served.turn_until(lambda: served.sessions[0].content.state == states.IDLE and
                      served.sessions[0].content.number)
    client.sendall(h.request(path))
    served.turn_until(lambda: served.sessions[0].content.number == 2)
    later(served, states.LOOK_MS + 20)
    client.shutdown(socket.SHUT_WR)
    assert [200, status] == [got.status for got in h.replies(served.read(client))]


def test_an_operation_that_never_replies_is_given_up(
    served: InProcess, operations: Operations
) -> None:
    """The client is told so, and the connection ends."""
    client = served.connect()
    client.sendall(h.request("/later"))
    served.turn_until(lambda: operations.asked)
    later(served, states.ANSWER_MS + 20)
    (got,) = h.replies(served.read(client))
    assert (504, "Timeout", "close") == (got.status, got.code, got.headers["connection"])
    operations.asked[0].respond(Reply(200))
    assert 0 == served.loop.live


def test_who_leaves_in_the_middle_of_a_request_is_noted(served: InProcess) -> None:
    """At info."""
    assert b"" == h.exchange(served, b"GET / HT")
    assert "client prematurely closed connection while reading client request line" in (
        logged(served)[-1]
    )
    assert 200 == ended(served)


def test_a_body_is_asked_for(served: InProcess) -> None:
    """Expect: 100-continue is answered when the head is accepted, and not when it is refused."""
    head = b"%b /healthz HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    client = served.connect()
    client.sendall(head % b"GET")
    served.turn_until(lambda: served.sessions[0].c.sent)
    assert b"HTTP/1.1 100 Continue\r\n\r\n" == client.recv(1000)
    client.sendall(b"{}")
    client.shutdown(socket.SHUT_WR)
    assert 200 == h.replies(served.read(client))[0].status
    got = h.replies(h.exchange(served, head % b"POST"))
    assert [405] == [one.status for one in got]


def test_a_body_that_nobody_wants_is_short(served: InProcess) -> None:
    """It is passed over; a long one is refused, by its length or when it has come."""
    chunked = b"GET /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2001\r\n"
    for raw, status in (
        (h.request("/healthz", "GET", b"x" * 8192), 200),
        (h.request("/healthz", "GET", b"x" * 8193), 413),
        (chunked, 413),
    ):
        (got,) = h.replies(h.exchange(served, raw))
        assert status == got.status


def test_a_refused_body_is_not_waited_for(served: InProcess) -> None:
    """The reply comes at once, and is not lost for what is still sent."""
    client = served.connect()
    head = b"POST /api/9/x HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n"
    client.sendall(head + b"x" * 60_000)
    served.turn_until(lambda: served.sessions[0].c.sent)
    client.setblocking(True)
    client.sendall(b"x" * 60_000)
    client.setblocking(False)
    client.shutdown(socket.SHUT_WR)
    (got,) = h.replies(served.read(client))
    assert (405, "close") == (got.status, got.headers["connection"])


def test_what_comes_behind_the_last_request_costs_no_reply(served: InProcess) -> None:
    """It is passed over; the client sees the end behind its reply."""
    client = served.connect()
    client.sendall(h.request("/much", Connection="close"))
    served.turn_until(lambda: served.sessions[0].c.sent)
    client.sendall(h.request("/healthz"))
    (got,) = h.replies(served.read(client))
    assert 20_000 == len(got.json)
    assert 0 == served.sessions[0].status  # until the client ends too
    client.close()
    assert 200 == ended(served)


def test_who_lingers_is_not_waited_for_long(served: InProcess) -> None:
    """A client that takes the reply and neither ends nor sends is closed after LINGER_MS."""
    client = served.connect()
    client.sendall(b"\0")
    served.turn_until(lambda: served.sessions[0].content.state == states.LINGERING)
    later(served, states.LINGER_MS + 20)
    assert 400 == ended(served)


def test_there_are_only_so_many_clients(served: InProcess) -> None:
    """Who comes beyond is told so; when one has left there is room again."""
    served.loop.get(serving.Clients).count = states.MAX_CLIENTS - 2
    first, second = served.connect(), served.connect()
    for client in (first, second):
        client.sendall(h.request("/healthz"))
    served.turn_until(lambda: sum(s.c.sent > 0 for s in served.sessions) == 2)
    third = served.connect()
    third.shutdown(socket.SHUT_WR)
    (got,) = h.replies(served.read(third))
    assert (503, "close") == (got.status, got.headers["connection"])
    assert 503 == ended(served, 2)
    first.shutdown(socket.SHUT_WR)
    assert 200 == h.replies(served.read(first))[0].status
    assert 200 == h.ask(served, "/healthz").status


def test_a_flood_of_clients_takes_no_connections_from_others(served: InProcess) -> None:
    """Those that are told that they are too many are limited, too; who else comes is closed."""
    clients = served.loop.get(serving.Clients)
    clients.count = states.MAX_CLIENTS + states.MAX_REFUSED
    assert b"" == served.read(served.connect())
    assert (503, states.MAX_CLIENTS + states.MAX_REFUSED) == (ended(served), clients.count)
    clients.count -= 1
    client = served.connect()
    client.shutdown(socket.SHUT_WR)
    assert 503 == h.replies(served.read(client))[0].status


def test_a_unix_socket_serves_too(tmp_path: Any) -> None:
    """Without addresses."""
    conf = f"stream {{ server {{ listen unix:{tmp_path}/api.sock; api; }} }}"
    with InProcess(conf) as served:
        assert 200 == h.ask(served, "/healthz").status


def test_preread_bytes_are_the_beginning(served: InProcess) -> None:
    """What another phase has taken is not lost."""
    begin: Callable[[Any], None] = serving.handle
    client = served.connect()
    served.turn_until(lambda: served.sessions)
    s = served.sessions[0]
    s.content.close()
    s.preread = h.request("/healthz")[:10]
    begin(s)
    client.sendall(h.request("/healthz")[10:])
    client.shutdown(socket.SHUT_WR)
    assert 200 == h.replies(served.read(client))[0].status
    assert len(h.request("/healthz")) == s.c.received


@pytest.mark.parametrize(
    "raw",
    [
        h.request("/api"), h.request("/none"), b"\0", b"GET / HT",
        h.request("/broken"), h.request("/api/9/x", "POST", b"{}"), h.request("/at_once"),
        b"GET /api HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        h.request("/api", host="x", Accept_Language="en"), h.request("/api", "POST", b"x" * 9000),
    ],
    ids=range(10),
)  # fmt: skip
def test_nothing_is_left_in_a_cycle(served: InProcess, raw: bytes) -> None:
    """The collector of cycles does not run in a worker."""

    def once() -> None:
        h.exchange(served, raw)
        served.clients.pop().close()
        served.sessions.clear()
        served.target.lines.clear()

    once()
    gc.collect()
    gc.disable()
    try:
        once()
        assert 0 == gc.collect()
    finally:
        gc.enable()
