"""UDP sessions of a server that checks found unhealthy: who gets the next datagram.

Nobody checks here: the test says what checks would have found.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ngxstream.core import log
from ngxstream.modules.proxy import udp_leaving
from ngxstream.scripting import running
from ngxstream.stream.peer_state import UNHEALTHY
from ngxstream.wire import proxy_protocol
from tests.support import owned, ports
from tests.support.moving_clock import MovingClock
from tests.support.udp_in_process import UdpInProcess

KINDS = {
    "plain": "",
    "headed": "proxy_protocol v2; proxy_protocol_datagrams every;",
    "first": "proxy_protocol v2;",
    "rated": "proxy_upload_rate 10m; proxy_download_rate 10m;",
    "debug": "error_log logs/e.log debug;",
}


class Lab:
    """A group of two servers, and clients."""

    def __init__(self, words: str = "", *, level: int = log.WARN, group: str = "",
                 count: int = 2) -> None:
        self.servers = [self._socket() for _ in range(count)]
        lines = "".join(f"server 127.0.0.1:{one.getsockname()[1]};" for one in self.servers)
        self.served = UdpInProcess(
            f"stream {{ upstream u {{ zone u 64k; {group} {lines} }} server {{ "
            f"listen 127.0.0.1:{ports.free_udp_port()} udp; proxy_pass u; {words} }} }}",
            level=level,
        )
        self.loop = self.served.loop
        self.is_filtered = "py_filter" in words
        self.client = self._socket()

    @staticmethod
    def _socket() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        return sock

    @property
    def proxy(self) -> Any:
        """The content of the only session."""
        (s,) = self.loop.sessions
        return s.content

    @property
    def peers(self) -> tuple[Any, ...]:
        """The servers of the group."""
        conf = self.served.built.conf
        assert conf is not None
        return conf.upstreams.first("u").balancer.tier.peers  # type: ignore[union-attr]

    def send(self, *data: bytes) -> None:
        """Have the client send, all in one drain of the listener."""
        self.served.listeners[0]._limit = 64
        for one in data:
            self.client.sendto(one, self.served.address())
        self.turn()

    def turn(self) -> None:
        """Let everything happen that can."""
        for _ in range(3):
            self.loop.turn(0)

    def heard(self, n: int) -> list[bytes]:
        """Return what a server has got since, and answer each by its own name."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                data, source = self.servers[n].recvfrom(65536)
                found.append(data)
                self.servers[n].sendto(b"%d" % n, source)
        self.turn()
        return found

    def answers(self) -> list[bytes]:
        """Return what the client has got since."""
        found = []
        while select.select([self.client], [], [], 0)[0]:
            found.append(self.client.recv(65536))
        return found

    def begin(self) -> int:
        """Begin a session, which is answered once. Returns: the number of its server"""
        self.send(b"begin")
        (n,) = [n for n in range(len(self.servers)) if self.heard(n)]
        assert [b"%d" % n] == self.answers()
        return n

    def judge(self, n: int, *, healthy: bool) -> None:
        """Say what checks have found of a server; sessions are looked at where it is withdrawn."""
        state = self.peers[n].state
        state.status = state.status & ~UNHEALTHY if healthy else state.status | UNHEALTHY
        for s in [] if healthy else list(self.loop.sessions):
            s.content.look_at_server()

    def close(self) -> None:
        """Close all."""
        self.served.close()
        if self.is_filtered:
            running.limit_of(self.loop).close()  # its timers would outlive the test
        for sock in (self.client, *self.servers):
            sock.close()


@pytest.fixture
def labs() -> Iterator[Any]:
    """Give ``labs(words)``."""
    with contextlib.ExitStack() as stack:

        def make(*args: Any, **more: Any) -> Lab:
            lab = Lab(*args, **more)
            stack.callback(lab.close)
            return lab

        yield make


def bare(data: bytes) -> bytes:
    """Return what is behind the PROXY header, if there is one."""
    return data[data.index(owned.MAGIC) :]


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_datagrams_are_another_server_s(kind: str, labs: Any) -> None:
    """All of a drain, in order, by a new socket; the client hears from it, and all are counted."""
    lab: Lab = labs(KINDS[kind], level=log.DEBUG if kind == "debug" else log.WARN)
    n = lab.begin()
    former = lab.proxy.pc_fd, lab.proxy.pc
    lab.judge(n, healthy=False)
    sent = [owned.datagram(1, k) for k in range(6)]
    lab.send(*sent)
    got = lab.heard(1 - n)
    assert sent == [bare(data) for data in got]
    headers = [data.count(proxy_protocol.SIGNATURE) for data in got]
    expected = {"headed": [1] * 6, "first": [1, 0, 0, 0, 0, 0]}.get(kind, [0] * 6)
    assert expected == headers
    assert [] == lab.heard(n)
    assert [b"%d" % (1 - n)] * 6 == lab.answers()
    proxy = lab.proxy
    assert former[1] is not proxy.pc
    assert (7, 7, 0) == (*proxy.datagrams(), proxy.dropped_in_all)
    assert [lab.peers[n].name, lab.peers[1 - n].name] == [
        state.peer_name for state in proxy.s.states
    ]
    assert [0, 1] == sorted(peer.state.conns for peer in lab.peers)
    assert 1 == lab.peers[1 - n].state.conns
    assert [0, 0] == [peer.state.fails for peer in lab.peers]
    lab.send(owned.datagram(1, 9))
    assert 1 == len(lab.heard(1 - n))
    assert [] == lab.served.alerts()


@pytest.mark.parametrize("words", ["proxy_next_upstream off;", "proxy_next_upstream_tries 1;"])
def test_who_may_not_change_stays(words: str, labs: Any) -> None:
    """As without checks."""
    lab: Lab = labs(words)
    n = lab.begin()
    lab.judge(n, healthy=False)
    lab.send(b"again")
    assert [b"again"] == lab.heard(n)
    assert 1 == len(lab.proxy.s.states)


def test_nobody_moves_before_the_client_speaks(labs: Any) -> None:
    """What the former server still answers arrives."""
    lab: Lab = labs()
    n = lab.begin()
    lab.send(b"question")
    lab.judge(n, healthy=False)
    assert [b"question"] == lab.heard(n)
    assert [b"%d" % n] == lab.answers()


def test_a_server_that_is_healthy_again_keeps_its_session(labs: Any) -> None:
    """And so it does when all are used (`fail_open`), which is the same to see."""
    lab: Lab = labs()
    n = lab.begin()
    lab.judge(n, healthy=False)
    lab.judge(n, healthy=True)
    lab.send(b"again")
    assert [b"again"] == lab.heard(n)
    (sink,) = lab.served.listeners[0].table.values()
    assert sink is lab.proxy


def test_a_session_stays_while_there_is_nobody_else(
    labs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks for another server once a second, and goes there when there is one."""
    lab: Lab = labs()
    clock = MovingClock(monkeypatch)
    n = lab.begin()
    for one in (0, 1):
        lab.judge(one, healthy=False)
    lab.send(b"a", b"b")
    assert [b"a", b"b"] == lab.heard(n)
    lab.judge(1 - n, healthy=True)
    lab.send(b"c")
    assert [b"c"] == lab.heard(n)
    clock.move(lab.loop, udp_leaving.LOOK_MS)
    lab.send(b"d")
    assert ([], [b"d"]) == (lab.heard(n), lab.heard(1 - n))


def test_a_full_server_is_no_other_one(labs: Any) -> None:
    """`max_conns` is looked at before the session leaves."""
    lab: Lab = labs()
    n = lab.begin()
    lab.peers[1 - n].max_conns = 1
    lab.peers[1 - n].state.status |= 32  # LIMITED
    lab.peers[1 - n].state.configured |= 32
    lab.peers[1 - n].state.hold(1)
    lab.judge(n, healthy=False)
    lab.send(b"a")
    assert [b"a"] == lab.heard(n)
    lab.peers[1 - n].state.hold(-1)


def test_what_the_former_server_owes_is_not_waited_for(
    labs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new one is not blamed for it: the session ends when the new one has answered."""
    lab: Lab = labs("proxy_responses 1; proxy_timeout 1s;", level=log.INFO)
    MovingClock(monkeypatch)
    lab.send(b"a", b"b", b"c")
    (n,) = [n for n in (0, 1) if select.select([lab.servers[n]], [], [], 0)[0]]
    lab.judge(n, healthy=False)
    lab.send(b"d")
    session = lab.proxy.s
    assert [b"d"] == lab.heard(1 - n)
    assert [b"%d" % (1 - n)] == lab.answers()
    assert 200 == session.status
    assert [0, 0] == [peer.state.fails for peer in lab.peers]
    (line,) = [text for _, text in lab.served.target.lines if "udp done" in text]
    assert "packets from/to client:4/1" in line


def test_a_server_that_refuses_then_is_passed_over(labs: Any) -> None:
    """The first datagram of the new server goes to the next one after it."""
    lab: Lab = labs(count=3)
    n = lab.begin()
    gone, alive = [one for one in range(3) if one != n]
    lab.peers[alive].state.hold(0)
    lab.servers[gone].close()
    lab.judge(n, healthy=False)
    for k in range(4):  # turns decide which of the two is first asked
        lab.send(b"again%d" % k)
    assert b"again3" in lab.heard(alive)
    assert [] == lab.heard(n)
    lab.servers[gone] = lab._socket()


def test_with_a_quota_the_next_datagram_begins_another_session(labs: Any) -> None:
    """The former one waits for what it is owed, as when its datagrams are used up."""
    lab: Lab = labs("proxy_requests 5; proxy_responses 2;")
    n = lab.begin()
    (former,) = lab.loop.sessions
    lab.judge(n, healthy=False)
    lab.send(b"a")
    assert [b"a"] == lab.heard(1 - n)
    assert 2 == len(lab.loop.sessions)
    assert not former.status


def test_rates_go_on(labs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waited goes first, in order; the new server's bytes are counted from 0."""
    clock = MovingClock(monkeypatch)
    lab: Lab = labs("proxy_upload_rate 1000; proxy_download_rate 1000;")
    n = lab.begin()
    lab.send(bytes(9500))
    lab.send(b"1", b"2", b"3")
    assert [bytes(9500)] == lab.heard(n)
    assert 3 == len(lab.proxy.rates.delayed)
    began_s = lab.proxy.rates.download.start_s
    lab.judge(n, healthy=False)
    clock.pass_by(1_300)  # the client speaks before the waiting ones may go
    lab.send(b"4")
    assert lab.proxy.rates.download.start_s > began_s
    assert [b"1"] == lab.heard(1 - n)
    clock.move(lab.loop, 10_000)
    lab.turn()
    assert [b"2", b"3", b"4"] == lab.heard(1 - n)
    assert (6, 0) == (lab.proxy.datagrams()[0], lab.proxy.dropped_in_all)


def filtered_by(folder: Path, method: str) -> str:
    """Return the words of a server with a filter. Args: method: the body of from_client(data)"""
    (folder / "f.py").write_text(
        "from ngxstream.scripting import Filter, sleep\nclass F(Filter):\n"
        f"    async def from_client(self, data):\n        {method}\n"
    )
    return f"py_import f from {folder}/f.py; py_filter f.F;"


def test_what_a_filter_has_dropped_is_no_answer_of_the_new_server(
    labs: Any, tmp_path: Path
) -> None:
    """The session waits for the answer that the new one owes."""
    words = filtered_by(tmp_path, 'return None if data == b"drop" else data')
    lab: Lab = labs(f"{words} proxy_responses 1;")
    lab.send(b"a", b"drop", b"drop")
    (n,) = [n for n in (0, 1) if select.select([lab.servers[n]], [], [], 0)[0]]
    lab.judge(n, healthy=False)
    session = lab.proxy.s
    lab.send(b"d")
    assert not session.status
    assert [b"d"] == lab.heard(1 - n)
    assert [b"%d" % (1 - n)] == lab.answers()
    assert 200 == session.status


@pytest.mark.parametrize("data", [b"a", b""])
def test_the_same_datagram_passes_its_filter_for_the_new_server_too(
    data: bytes, labs: Any, tmp_path: Path
) -> None:
    """Python has one object for all bytes as short as these."""
    words = filtered_by(
        tmp_path, 'self.count = getattr(self, "count", 0) + 1; '
        "return data if self.count == 1 else b'again'")
    lab: Lab = labs(words)
    lab.send(data)
    (n,) = [n for n in (0, 1) if lab.heard(n)]
    lab.judge(n, healthy=False)
    lab.send(data)
    assert [b"again"] == lab.heard(1 - n)


def test_what_a_filter_has_sent_besides_is_not_owed_by_the_new_server(
    labs: Any, tmp_path: Path
) -> None:
    """Nor what it made of one datagram."""
    words = filtered_by(tmp_path, 'return [data] * 3 if data == b"a" else data')
    lab: Lab = labs(f"{words} proxy_responses 1;")
    lab.send(b"a")
    (n,) = [n for n in (0, 1) if select.select([lab.servers[n]], [], [], 0)[0]]
    lab.judge(n, healthy=False)
    session = lab.proxy.s
    lab.send(b"d")
    assert [b"d"] == lab.heard(1 - n)
    assert 200 == session.status


@pytest.mark.parametrize("kind", ["", "proxy_protocol v2;",
                                  "proxy_protocol v2; proxy_protocol_datagrams every;"])
def test_what_waits_for_its_rate_has_passed_its_filter_once(
    kind: str, labs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the client speaks before it may go, and the new server gets it."""
    clock = MovingClock(monkeypatch)
    words = filtered_by(tmp_path, 'return b">" + data')
    lab: Lab = labs(f"{words} {kind} proxy_upload_rate 1000; proxy_download_rate 1000;")
    n = lab.begin()
    lab.send(bytes(9500))
    lab.send(b"1", b"2", b"3")
    assert [b">" + bytes(9500)] == [data[-9501:] for data in lab.heard(n)]
    assert 3 == len(lab.proxy.rates.delayed)
    lab.judge(n, healthy=False)
    clock.pass_by(1_300)
    lab.send(b"4")
    (first,) = lab.heard(1 - n)
    assert first.endswith(b">1") and not first.endswith(b">>1")
    assert bool(kind) == (proxy_protocol.SIGNATURE in first)
    clock.move(lab.loop, 20_000)
    lab.turn()
    assert [b">2", b">3", b">4"] == [data[-2:] for data in lab.heard(1 - n)]
    proxy = lab.proxy
    assert (6, 0) == (proxy.datagrams()[0], proxy.dropped_in_all)
    assert 4 == proxy.requests - proxy.spared


def test_an_ended_session_is_not_looked_at(labs: Any) -> None:
    """Nor one that is not connected yet."""
    lab: Lab = labs()
    n = lab.begin()
    proxy = lab.proxy
    proxy.s.finalize(200)
    proxy.look_at_server()
    lab.turn()
    assert {} == lab.served.listeners[0].table
    assert n in (0, 1)


@pytest.mark.parametrize("more", ["", "proxy_upload_rate 10m; proxy_download_rate 10m;"])
def test_what_goes_to_another_server_has_passed_the_filter(
    labs: Any, tmp_path: Any, more: str
) -> None:
    """The first datagram there as all others, once; a dropped one begins nothing."""
    (tmp_path / "f.py").write_text(
        "from ngxstream.scripting import Filter\n"
        "class F(Filter):\n"
        "    def from_client(self, data): return None if data == b'drop' else b'<' + data + b'>'\n"
    )
    lab = labs(f"py_import f from {tmp_path}/f.py; py_filter f.F; {more}")
    n = lab.begin()
    lab.judge(n, healthy=False)
    lab.send(b"drop", b"a", b"b")
    assert [b"<a>", b"<b>"] == lab.heard(1 - n)
    assert [] == lab.heard(n)
    assert (3, 1) == (lab.proxy.requests, lab.proxy.spared)
