"""/sessions: one table of all workers, and the end of sessions on an operator's word."""

import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.modules.sessions import filters, table
from ngxstream.modules.sessions.endpoints import ENDPOINTS
from ngxstream.stream import endings
from ngxstream.stream.api import ApiError
from ngxstream.stream.asking import Answers, Asking
from tests.support import backends as b
from tests.support.in_process import InProcess
from tests.support.shown import Caller, MadeSession


class Served(InProcess):
    """A stream block whose sessions are shown."""

    def __init__(self, text: str) -> None:
        """Serve it."""
        super().__init__(f"stream {{ {text} }}")
        self.call = Caller(ENDPOINTS, self.loop, self.conf, self.turn_until)

    def listed(self, **args: str) -> list[dict[str, Any]]:
        """Return the sessions of the table."""
        found: list[dict[str, Any]] = self.call("GET", "/sessions", args)["sessions"]
        return found


@pytest.fixture
def served() -> Iterator[Served]:
    """Serve one server that relays to who echoes, and one that looks at what comes first."""
    with (
        b.TcpBackend() as backend,
        Served(
            f"upstream group {{ server {backend.text}; }} server {{ listen 127.0.0.1:@a@; "
            "proxy_pass group; } server { listen 127.0.0.1:@b@; ssl_preread on; "
            f"proxy_pass {backend.text}; }}"
        ) as made,
    ):
        made.backend = backend  # type: ignore[attr-defined]
        yield made


def relayed(served: Served) -> socket.socket:
    """Return a client whose session relays."""
    client = served.connect()
    client.send(b"hello")
    served.turn_until(lambda: _heard(client))
    return client


def _heard(client: socket.socket) -> bytes:
    try:
        return client.recv(100)
    except BlockingIOError:
        return b""


def test_a_session_is_shown_as_it_is(served: Served) -> None:
    """Its ends, its names, its bytes, what it does."""
    client = relayed(served)
    (one,) = served.listed()
    (s,) = served.sessions
    pid = served.loop.pid
    backend: b.TcpBackend = served.backend  # type: ignore[attr-defined]
    text = b.address_text(served.address())
    started, age_ms, idle_ms = (one.pop(name) for name in ("started", "age_ms", "idle_ms"))
    assert {
        "id": f"{pid}-{s.c.number}", "pid": pid, "protocol": "tcp",
        "client": b.address_text(client.getsockname()), "listen": text, "server": text,
        "upstream": "group", "peer": backend.text, "state": "relaying", "received": 5, "sent": 5,
        "upstream_sent": 5, "upstream_received": 5, "datagrams_received": None,
        "datagrams_sent": None,
    } == one
    assert started.endswith("Z")
    assert 0 <= idle_ms <= age_ms


def test_filters_choose(served: Served) -> None:
    """By what it does, and whom it came to."""
    relayed(served)
    served.connect(1)
    served.turn_until(lambda: len(served.sessions) == 2 and not served.loop.posted)
    assert ["relaying"] == [one["state"] for one in served.listed(upstream="group")]
    assert ["preread"] == [one["state"] for one in served.listed(state="preread")]
    assert [] == served.listed(client="192.0.2.0/24")
    assert 2 == len(served.listed(server=b.address_text(served.address())) + served.listed(
        server=b.address_text(served.address(1))))


def test_sessions_are_ended_by_a_filter(served: Served) -> None:
    """Their clients see the end, and the reason is the operator's."""
    ended, kept = relayed(served), relayed(served)
    name = b.address_text(ended.getsockname())
    number = next(one["id"] for one in served.listed() if one["client"] == name)
    assert 204 == served.call("DELETE", "/sessions/{id}", id=number)
    assert b"" == served.read(ended)
    assert {"ended": 1, "silent": []} == served.call("DELETE", "/sessions", {"protocol": "tcp"})
    assert b"" == served.read(kept)
    assert [endings.API] * 2 == [endings.of(s) for s in served.sessions]
    assert [200] * 2 == [s.status for s in served.sessions]
    assert {"ended": 0, "silent": []} == served.call("DELETE", "/sessions", {"all": "1"})


def test_who_asks_is_not_ended(served: Served) -> None:
    """The reply would have nobody to go to."""
    relayed(served)
    (s,) = served.sessions
    asker = Caller(ENDPOINTS, served.loop, served.conf, served.turn_until, s.c.number)
    assert {"ended": 0, "silent": []} == asker("DELETE", "/sessions", {"all": "1"})


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ({}, "a filter is missing, or all=1"), ({"all": "0"}, 'invalid "all" value'),
        ({"all": "1", "limit": "5"}, 'unknown argument "limit"'),
        ({"client": "x"}, 'invalid "client" value'),
    ],
)
def test_nothing_is_ended_that_was_not_meant(
    served: Served, args: dict[str, str], text: str
) -> None:
    """What is not understood is refused before anybody is asked."""
    relayed(served)
    with pytest.raises(ApiError) as raised:
        served.call("DELETE", "/sessions", args)
    assert (400, "BadArgument", text) == (raised.value.status, raised.value.code, raised.value.text)
    assert [0] == [s.status for s in served.sessions]


@pytest.mark.parametrize("name", ["7", "x-1", "{pid}-999999"])
def test_a_session_that_is_not_there_is_not_found(served: Served, name: str) -> None:
    """Whether the id could be one or not."""
    relayed(served)
    with pytest.raises(ApiError) as raised:
        served.call("DELETE", "/sessions/{id}", id=name.format(pid=served.loop.pid))
    assert (404, "SessionNotFound") == (raised.value.status, raised.value.code)


def test_a_worker_that_does_not_answer_is_told_from_a_session_that_is_not_there(
    served: Served,
) -> None:
    """The session may live."""
    served.loop.get(Asking).transport = lambda name, payload, done: served.loop.post(
        lambda: done(Answers({}, (12,)))
    )
    with pytest.raises(ApiError) as raised:
        served.call("DELETE", "/sessions/{id}", id="12-1")
    assert (503, "WorkerSilent") == (raised.value.status, raised.value.code)


# -- several workers -------------------------------------------------------------------------------


class Workers:
    """Answers of workers that are not there."""

    def __init__(self, served: Served, numbers: dict[int, range]) -> None:
        """Args: numbers: of the sessions of each pid"""
        self.silent: tuple[int, ...] = ()
        self.lies: dict[int, bytes] = {}
        self.ended: list[int] = []  # numbers of sessions that end before they are told of
        self._loops = {}
        for pid, some in numbers.items():
            loop: Any = SimpleNamespace(now_ms=50_000, pid=pid)
            loop.sessions = {MadeSession(loop, number) for number in some}
            self._loops[pid] = loop
        self._post = served.loop.post
        served.loop.get(Asking).transport = self.ask

    def ask(self, name: str, payload: bytes, done: Callable[[Answers], None]) -> None:
        """Have all answer in the next turn."""
        answer = table.answer_list if name == table.LIST else table.answer_end
        given = {}
        for pid, loop in self._loops.items():
            steps: Any = answer(loop, None, payload)  # type: ignore[arg-type]
            while pid not in given:
                try:
                    next(steps)
                except StopIteration as stop:
                    given[pid] = stop.value
        self._post(lambda: done(Answers({**given, **self.lies}, self.silent)))


def test_pages_of_all_workers_are_one_table(served: Served) -> None:
    """In the order of the numbers; a cursor leads on, and none is left out or shown twice."""
    Workers(served, {11: range(0, 90, 3), 12: range(1, 90, 3), 13: range(200, 205)})
    seen: list[str] = []
    cursor: str | None = "0"
    args = {"limit": "25"}
    while cursor is not None:
        found = served.call("GET", "/sessions", args)
        assert 65 == found["matched"]
        seen += [one["id"] for one in found["sessions"]]
        cursor = found["cursor"]
        args["cursor"] = str(cursor)
    expected = [(n, 11) for n in range(0, 90, 3)] + [(n, 12) for n in range(1, 90, 3)]
    expected += [(n, 13) for n in range(200, 205)]
    assert [f"{pid}-{n}" for n, pid in sorted(expected)] == seen


def test_a_cursor_does_not_pass_what_a_worker_did_not_look_at(served: Served) -> None:
    """Where sessions of one worker ended meanwhile, the page ends where that one did."""
    workers = Workers(served, {12: range(50, 60)})
    row = table.read_page(finish(workers, 12)).rows[0]
    assert row
    workers.lies[11] = table._PAGE.encode(([], 40, True, 9))  # all of its ten have ended
    found = served.call("GET", "/sessions", {"limit": "10"})
    assert ([], "9", 50) == (found["sessions"], found["cursor"], found["matched"])


def finish(workers: Workers, pid: int) -> bytes:
    """Return a worker's own answer."""
    given: list[Answers] = []
    workers._post = lambda call: call()
    workers.ask(table.LIST, filters.pack(filters.Chosen()), given.append)
    return given[0].given[pid]


def test_the_silent_are_named(served: Served) -> None:
    """What they have is missing."""
    workers = Workers(served, {11: range(3)})
    workers.silent = (14, 13)
    assert [13, 14] == served.call("GET", "/sessions")["silent"]
    assert {"ended": 3, "silent": [13, 14]} == served.call("DELETE", "/sessions", {"all": "1"})


@pytest.mark.parametrize(
    "lie",
    [
        b"x", b"\xff" * 40, table._PAGE.encode(([b"no row"], 1, False, 1)),
        table._PAGE.encode(([], 5, True, 0)),
    ],
)
def test_a_worker_that_answers_nonsense_is_silent(served: Served, lie: bytes) -> None:
    """What the others say stands; a page that leads nowhere would lead a client in circles."""
    workers = Workers(served, {11: range(3)})
    workers.lies[12] = lie
    found = served.call("GET", "/sessions", {"cursor": "0"})
    assert ([12], 2, None) == (found["silent"], len(found["sessions"]), found["cursor"])


def test_a_count_that_is_none_is_silent(served: Served) -> None:
    """When sessions end, too."""
    workers = Workers(served, {11: range(3)})
    workers.lies[12] = b"many"
    assert {"ended": 3, "silent": [12]} == served.call("DELETE", "/sessions", {"all": "1"})
