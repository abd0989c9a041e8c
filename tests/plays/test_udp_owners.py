"""Whatever clients and servers do, each byte that comes out belongs to who gets it.

Many clients send bursts of unequal sizes, alone or behind peers that write PROXY headers. Some
servers echo, some echo late, one has gone and comes back, and nobody listens where another should
be. Sessions end in the middle, one of them by a fault of ours; the listener is held and goes on.
"""

import contextlib
import os
import select
import socket
import tempfile
from collections import Counter
from contextlib import ExitStack
from typing import Any, Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from ngxstream.event import datagram
from ngxstream.modules.proxy.udp import UdpProxy
from ngxstream.wire import proxy_protocol as pp
from tests.support import owned, ports
from tests.support.udp_in_process import UdpInProcess

UDP = socket.SOCK_DGRAM
CLIENTS = 6
PEERS = 2  # of the clients, where they are behind any
ANSWER: Final = 1 << 20  # added to a datagram's number by who answers it
LISTENERS: Final = {  # listen, its options, what else the server says
    "plain": ("127.0.0.1", "", ""),
    "wildcard": ("0.0.0.0", "", ""),
    "unix": ("unix", "", ""),
    "unix servers": ("127.0.0.1", "", ""),
    "unix servers gro": ("127.0.0.1", "", ""),
    "unix one way": ("unix", "", "proxy_requests 1; proxy_responses 0;"),
    "gro": ("127.0.0.1", "", ""),
    "wildcard gro": ("0.0.0.0", "", ""),
    "counted": ("127.0.0.1", "", "proxy_requests 3; proxy_responses 1;"),
    "single": ("127.0.0.1", "", "proxy_requests 1; proxy_responses 1;"),
    "answered": ("127.0.0.1", "", "proxy_responses 1;"),
    "one way": ("127.0.0.1", "", "proxy_requests 1; proxy_responses 0;"),
    "one way, logged": (
        "127.0.0.1", "", "proxy_requests 1; proxy_responses 0; set $looked 1;"
    ),
    "bounded": ("127.0.0.1", "", "proxy_udp_amplification 65535;"),
    "any port": ("127.0.0.1", "", "proxy_udp_any_port on;"),
    "rated": ("127.0.0.1", "", "proxy_upload_rate 1m; proxy_download_rate 1m;"),
    "rated, slow": ("127.0.0.1", "", "proxy_upload_rate 4k; proxy_download_rate 4k;"),
    "headed": ("127.0.0.1", "", "proxy_protocol v2; proxy_protocol_datagrams every;"),
    "headed gro": ("127.0.0.1", "", "proxy_protocol v2; proxy_protocol_datagrams every;"),
    "headed, rated": (
        "127.0.0.1", "",
        "proxy_protocol v2; proxy_protocol_datagrams every; proxy_upload_rate 1m;",
    ),
    "behind peers": (
        "127.0.0.1", "proxy_protocol",
        "set_real_ip_from 127.0.0.0/8; proxy_protocol v2; proxy_protocol_datagrams every;",
    ),
    "behind peers, wildcard": (
        "0.0.0.0", "proxy_protocol",
        "set_real_ip_from 127.0.0.0/8; proxy_protocol v2; proxy_protocol_datagrams every;",
    ),
    "behind peers, first": (
        "127.0.0.1", "proxy_protocol=first",
        "set_real_ip_from 127.0.0.0/8; proxy_requests 5;",
    ),
}
CONF: Final = """
stream {{
    variables_hash_max_size 2048;
    upstream group {{ {servers} }}
    server {{ listen {listen} udp {options}; proxy_pass group; {server} }}
}}
"""
bursts = st.lists(
    st.tuples(st.integers(0, CLIENTS - 1), st.integers(1, 9)), min_size=1, max_size=8
)


class Server:
    """One that echoes what it was sent, when it is told to; it may be away."""

    def __init__(self, stack: ExitStack, path: str) -> None:
        self.stack = stack
        # no port that the kernel draws: a socket towards one that is gone might talk to itself
        self.sock = self._open(path or ("127.0.0.1", ports.free_udp_port()))
        self.address = self.sock.getsockname()
        self.text = f"unix:{path}" if path else f"127.0.0.1:{self.address[1]}"
        self.got: list[bytes] = []
        self.owed: list[tuple[bytes, Any]] = []

    def _open(self, address: Any) -> socket.socket:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        sock = self.stack.enter_context(socket.socket(family, UDP))
        if family == socket.AF_UNIX:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(address)
        sock.bind(address)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
        sock.setblocking(False)
        return sock

    def leave(self) -> None:
        """Close the socket: the port refuses."""
        self.read()
        self.owed.clear()
        self.sock.close()

    def come_back(self) -> None:
        """Listen at the same port again, unless somebody else has it now."""
        if self.sock.fileno() < 0:
            with contextlib.suppress(OSError):
                self.sock = self._open(self.address)

    def read(self) -> None:
        """Take what came."""
        with contextlib.suppress(BlockingIOError):
            while self.sock.fileno() >= 0:
                try:
                    data, source = self.sock.recvfrom(65536)
                except ConnectionRefusedError:
                    continue
                self.got.append(data)
                self.owed.append((data, source))

    def answer(self) -> None:
        """Echo what is owed, each as the answer to its own; one is answered twice."""
        latest = {source: owned.owner_of(payload_of(data)) for data, source in self.owed}
        for n, (data, source) in enumerate(self.owed):
            found, last = owned.owner_of(payload_of(data)), latest[source]
            if not source or found is None or last is None or found[0] != last[0]:
                continue  # a later session has got the port: as likely as for any program
            owner, number = found
            for _ in range(1 + (n == 3)):
                with contextlib.suppress(ConnectionRefusedError, FileNotFoundError):
                    self.sock.sendto(owned.datagram(owner, ANSWER + number), source)
        self.owed.clear()


def payload_of(data: bytes) -> bytes:
    """Return what is behind the header, if there is one."""
    if not data.startswith(pp.SIGNATURE):
        return data
    return data[16 + int.from_bytes(data[14:16], "big") :]


class OwnersMachine(RuleBasedStateMachine):
    """One listener of some kind, six clients, three servers and a dead address."""

    kind = "plain"

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.faults = 0
        self.number = 0
        self.sent: Counter[tuple[int, int]] = Counter()
        self.answered: Counter[tuple[int, int]] = Counter()
        self.wrong: list[str] = []
        self.holding = False

    def teardown(self) -> None:
        """End everything: nothing is left of any session."""
        try:
            if hasattr(self, "served"):
                self._settle()
                self.served.close()
                assert self.served.loop.free_connections == self.served.loop.connections
                assert not self.served.loop.sessions
                assert not self.served.listeners[0].table
        finally:
            self.stack.close()

    @initialize(backwards=st.booleans())
    def serve(self, backwards: bool) -> None:
        """Start servers, listener and clients."""
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        is_unix = "unix servers" in self.kind
        self.servers = [
            Server(self.stack, f"{folder}/server-{n}" if is_unix else "") for n in range(3)
        ]
        addresses = [f"server {server.text} max_fails=0;" for server in self.servers]
        addresses.insert(1, f"server 127.0.0.1:{ports.free_udp_port()} max_fails=0;")
        if backwards:
            addresses.reverse()
        listen, options, server = LISTENERS[self.kind]
        self.behind_peers = "proxy_protocol" in options
        self.served = UdpInProcess(
            CONF.format(
                servers=" ".join(addresses), options=options, server=server,
                listen=f"unix:{folder}/proxy" if listen == "unix" else
                f"{listen}:{ports.free_udp_port()}",
            ),
            gro="gro" in self.kind,
        )
        self.listener = self.served.listeners[0]
        count = PEERS if self.behind_peers else CLIENTS
        family = self.listener.family
        self.socks = [
            self.stack.enter_context(socket.socket(family, UDP)) for _ in range(count)
        ]
        for n, sock in enumerate(self.socks):
            if family == socket.AF_UNIX:
                sock.bind(f"{folder}/client-{n}")
            sock.connect(self.served.address())
            sock.setblocking(False)
        self.begun: set[int] = set()

    # Who sends what.

    def _header(self, client: int) -> bytes:
        """Return what a peer writes before a client's datagram."""
        if not self.behind_peers or (self.kind.endswith("first") and client in self.begun):
            return b""
        self.begun.add(client)
        return pp.build_v2(self._address(client), ("198.51.100.1", 53), pp.DGRAM)

    def _address(self, client: int) -> tuple[str, int]:
        """Return the address a server is told."""
        return f"192.0.2.{client}", 1000 + client

    def _next(self, client: int, size: int = 0) -> bytes:
        self.number += 1
        self.sent[client, self.number] += 1
        return owned.datagram(client, self.number, size)

    def _of(self, client: int) -> tuple[int, socket.socket]:
        """Return who sends and by which socket: one of a peer's is one client's with `first`."""
        if self.kind.endswith("first"):
            client %= PEERS
        return client, self.socks[client % len(self.socks)]

    @rule(plan=bursts, turns=st.integers(0, 3))
    def send(self, plan: list[tuple[int, int]], turns: int) -> None:
        """Some clients send so much that it is read in one piece; the loop turns, or not yet."""
        for n in range(max(count for _, count in plan)):
            for chosen, count in plan:
                if n < count:
                    client, sock = self._of(chosen)
                    with contextlib.suppress(ConnectionRefusedError, BlockingIOError):
                        sock.send(self._header(client) + self._next(client))
        self._turn(turns)

    @precondition(lambda self: not self.kind.startswith("unix") or "servers" in self.kind)
    @rule(chosen=st.integers(0, CLIENTS - 1), count=st.integers(2, 40), size=st.integers(16, 200),
          last=st.integers(16, 200))
    def send_a_run(self, chosen: int, count: int, size: int, last: int) -> None:
        """A client sends a run of one size with GSO; the last may be shorter."""
        client, sock = self._of(chosen)
        header = self._header(client)
        run = [header + self._next(client, size) for _ in range(count)]
        if self.kind.endswith("first") and header:  # only the first has one
            sock.send(run[0])
            run = [data[len(header) :] for data in run[1:]]
        else:
            run.append(header + self._next(client, min(size, last)))
        sock.sendmsg([b"".join(run)], datagram.segment_control(len(run[0])))
        self._turn(1)

    # What becomes of servers and sessions.

    @rule(turns=st.integers(1, 5))
    def turn(self, turns: int) -> None:
        """The loop turns."""
        self._turn(turns)

    @rule(k=st.integers(0, 2))
    def serve_some(self, k: int) -> None:
        """A server reads and answers, if it is there."""
        self.servers[k].read()
        self.servers[k].answer()
        self._turn(2)

    @rule(k=st.integers(0, 2))
    def vanish(self, k: int) -> None:
        """A server goes: whatever is sent to it is refused."""
        self._look()
        self.servers[k].leave()

    @rule(k=st.integers(0, 2))
    def come_back(self, k: int) -> None:
        """A server is there again."""
        self.servers[k].come_back()

    @rule(pick=st.integers(0, 99))
    def end(self, pick: int) -> None:
        """A session ends."""
        sessions = sorted(self.served.loop.sessions, key=lambda s: s.c.number)
        if sessions:
            sessions[pick % len(sessions)].finalize(200)

    @rule(pick=st.integers(0, 99))
    def fail(self, pick: int) -> None:
        """A session will raise what nobody expects when it is called next."""
        sessions = [s for s in self.served.loop.sessions if isinstance(s.content, UdpProxy)]
        if sessions:
            s: Any = sorted(sessions, key=lambda s: s.c.number)[pick % len(sessions)]
            s.content.state = None
            self.faults += 1

    @precondition(lambda self: not self.holding)
    @rule()
    def hold(self) -> None:
        """The listener is about to change hands: what comes is kept."""
        self.listener.close()
        self.listener.hold()
        self.holding = True

    @precondition(lambda self: self.holding)
    @rule(turns=st.integers(0, 3))
    def start(self, turns: int) -> None:
        """The listener takes what it kept."""
        self.listener.start()
        self.holding = False
        self._turn(turns)

    @precondition(lambda self: self.holding)
    @rule()
    def hand_over(self) -> None:
        """What is kept comes from another worker instead."""
        for held in self.listener.take_held():
            self.listener.deliver(*held)

    # What came out.

    def _turn(self, turns: int) -> None:
        for _ in range(turns):
            self.served.loop.turn(0)

    def _settle(self) -> None:
        while select.select([self.listener.sock], [], [], 0)[0] or self.served.loop.posted:
            if self.holding:
                self.start(0)
            self.served.loop.turn(0)
        for server in self.servers:
            if server.sock.fileno() >= 0:
                server.read()
                server.answer()
        self._turn(5)
        self._look()

    def _look(self) -> None:
        """Read whatever anybody was sent, and note what is not his."""
        for server in self.servers:
            server.read()
            for data in server.got:
                self._judge_server(data)
            server.got.clear()
        for n, sock in enumerate(self.socks):
            with contextlib.suppress(BlockingIOError):
                while True:
                    try:
                        data = sock.recv(65536)
                    except ConnectionRefusedError:
                        continue
                    self._judge_client(n, data)

    def _judge_server(self, data: bytes) -> None:
        found = owned.owner_of(payload_of(data))
        if found is None:
            self.wrong.append(f"a server got {data!r}")
        elif found not in self.sent:
            self.wrong.append(f"a server got what nobody sent: {found}")
        elif "proxy_protocol v2" in LISTENERS[self.kind][2]:
            header = pp.parse_datagram(memoryview(data), (pp.DGRAM,))
            owner = found[0]
            told = (header.src_addr, header.src_port)
            is_own = self._address(owner) if self.behind_peers else self.socks[owner].getsockname()
            if told != is_own:
                self.wrong.append(f"a server was told {told} of what {owner} sent")

    def _judge_client(self, n: int, data: bytes) -> None:
        found = owned.owner_of(data)
        if found is None:
            self.wrong.append(f"client {n} got {data!r}")
            return
        owner, number = found
        if self._of(owner)[1] is not self.socks[n]:
            self.wrong.append(f"client {n} got what is {owner}'s")
        elif (owner, number - ANSWER) not in self.sent:
            self.wrong.append(f"client {n} got an answer to nothing: {found}")

    @invariant()
    def everybody_gets_his_own(self) -> None:
        """Nobody has got anything of another one, nor a part of anything."""
        if hasattr(self, "served"):
            self._look()
        assert [] == self.wrong

    @invariant()
    def only_what_was_broken_failed(self) -> None:
        """There is an alert for a session that was made to fail, and for nothing else."""
        if hasattr(self, "served"):
            alerts = self.served.alerts()
            strange = [text for text in alerts if "'NoneType'" not in text]
            assert [] == strange
            assert len(alerts) <= 2 * self.faults


@pytest.mark.parametrize("kind", LISTENERS)
def test_each_byte_belongs_to_who_gets_it(kind: str) -> None:
    """A listener of this kind never gives one client's bytes to another one."""
    machine = type("Machine", (OwnersMachine,), {"kind": kind})
    case = machine.TestCase
    case.settings = settings(max_examples=25, stateful_step_count=30)
    case("runTest").runTest()
