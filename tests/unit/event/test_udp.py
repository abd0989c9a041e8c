"""The UDP gate: order and boundaries of every client's datagrams, whatever the mix."""

import socket
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.event import datagram
from tests.support.engine import Gate, engine, run_until

UDP = socket.SOCK_DGRAM


class Keeper:
    """A session that keeps copies of what it is given."""

    def __init__(self, c, first: bytes) -> None:
        self.c = c
        self.got = [first]

    def take(self, views) -> None:
        self.got += [bytes(view) for view in views]

    def take_burst(self, view, size) -> None:
        self.got += [bytes(part) for part in datagram.split(view, size)]


def listing(keepers):
    """Make a begin() that lists a Keeper for each new client."""

    def begin(c, loop) -> None:
        keeper = Keeper(c, bytes(loop.datagram))
        keepers[c.key] = keeper
        c.table.enlist(c, keeper)

    return begin


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1200)), max_size=150),
       st.sampled_from(("127.0.0.1", "0.0.0.0")))
def test_every_client_s_datagrams_come_whole_and_in_order(plan, host) -> None:
    """Four clients mix their datagrams in any way; each session sees its own, as sent."""
    keepers: dict = {}
    with ExitStack() as stack, engine() as loop:
        gate = Gate(loop, listing(keepers), UDP, host)
        stack.callback(gate.sock.close)
        gate.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
        clients = [stack.enter_context(socket.socket(socket.AF_INET, UDP)) for _ in range(4)]
        sent: list[list[bytes]] = [[] for _ in clients]
        for sock in clients:
            sock.connect(("127.0.0.1", gate.address[1]))
        for i, (who, size) in enumerate(plan):
            data = bytes([i % 256]) * size
            clients[who].send(data)
            sent[who].append(data)
        run_until(loop, lambda: sum(len(k.got) for k in keepers.values()) == len(plan))
        seen = {k.c.sockaddr: k.got for k in keepers.values()}
        assert [s for s in sent if s] == [
            seen[c.getsockname()] for c, s in zip(clients, sent, strict=True) if s
        ]


def test_gro_goes_on_for_a_coalescing_client_and_off_again() -> None:
    """Long runs of one size switch coalescing on; when they stop it goes off; nothing is lost."""
    keepers: dict = {}
    with ExitStack() as stack, engine() as loop:
        gate = Gate(loop, listing(keepers), UDP)
        stack.callback(gate.sock.close)
        client = stack.enter_context(socket.socket(socket.AF_INET, UDP))
        client.connect(gate.address)
        expected = 0

        def settle() -> None:
            run_until(loop, lambda: sum(len(k.got) for k in keepers.values()) == expected)

        for _ in range(40):
            client.sendmsg([bytes(20 * 100)], datagram.segment_control(100))
            expected += 20
            settle()
        if not datagram.set_gro(gate.sock, True):
            pytest.skip("this kernel has no UDP_GRO")
        assert gate.gate._gro
        for _ in range(700):
            client.send(b"x" * 100)
            expected += 1
            settle()
        assert not gate.gate._gro


def test_a_client_gets_its_answer_from_the_address_it_used() -> None:
    """On a wildcard socket the answer's source is the destination of the question."""
    with ExitStack() as stack, engine() as loop:
        gate = Gate(loop, lambda c, loop: c.send(bytes(loop.datagram)), UDP, "0.0.0.0")
        stack.callback(gate.sock.close)
        client = stack.enter_context(socket.socket(socket.AF_INET, UDP))
        client.setblocking(False)
        client.sendto(b"ping", ("127.0.0.77", gate.address[1]))
        answers: list = []

        def answered() -> bool:
            try:
                answers.append(client.recvfrom(100))
            except BlockingIOError:
                return False
            return True

        run_until(loop, answered)
        assert [(b"ping", ("127.0.0.77", gate.address[1]))] == answers


def test_without_a_slot_a_new_client_is_dropped_and_counted_and_said_once() -> None:
    """With worker_connections used up, strangers' datagrams are counted, with one alert."""
    keepers: dict = {}
    with ExitStack() as stack, engine(connections=1) as loop:
        gate = Gate(loop, listing(keepers), UDP)
        stack.callback(gate.sock.close)
        for _ in range(5):
            sock = stack.enter_context(socket.socket(socket.AF_INET, UDP))
            sock.sendto(b"x", gate.address)
        run_until(loop, lambda: gate.gate.dropped == 4)
        alerts = [text for _, text in loop.log.lines if "worker_connections" in text]
        assert [
            "1 worker_connections are not enough while accepting new connection on "
            + gate.options.text
        ] == alerts
