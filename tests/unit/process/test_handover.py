"""The hand-over as a new worker sees it: whatever order its predecessors speak in."""

import os
import socket
import subprocess
from contextlib import ExitStack
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.event.listening import Listening, ListenOptions
from ngxstream.event.udp import UdpGate
from ngxstream.process import handover, mailbox
from tests.support.engine import MemoryLog, engine, run_until

ALIVE = (os.getpid(), os.getppid())


class Log(MemoryLog):
    """A log with the master's way of writing."""

    def error(self, level: int, text: str, error: OSError | None = None) -> None:
        self.write(level, text)


def dead_pid() -> int:
    """Return the id of a process that was reaped."""
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


class Newcomer:
    """A new worker, the only one, at one UDP address."""

    def __init__(self, loop, stack: ExitStack) -> None:
        self.loop = loop
        self.got: list[bytes] = []
        self.sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.address = self.sock.getsockname()
        listening = Listening(
            ListenOptions(
                family=socket.AF_INET, socktype=socket.SOCK_DGRAM, sockaddr=self.address, text="a"
            )
        )
        listening.socks.append(self.sock)
        self.gate = UdpGate(loop, listening, self.sock, self.begin, idle=True)
        cycle = SimpleNamespace(log=Log(), listenings=[listening], workers=1)
        service = SimpleNamespace(
            cycle=cycle, worker=0, udp_gates=[self.gate], gate_of=lambda key: self.gate,
            is_current=lambda one: one is listening,
        )
        self.box = mailbox.Mailbox()
        stack.callback(self.box.close)
        self.arrival = handover.Arrival(
            loop, service, self.box.reader, [self.box.writer], idle=True, patience_ms=0
        )
        self.key = listening.options.key

    def begin(self, c, loop) -> None:
        self.got.append(bytes(loop.datagram))
        loop.close_connection(c)

    def tell(self, kind: int, *values) -> None:
        """Put a message into its mailbox and have it read."""
        outbox = mailbox.Outbox(self.loop, self.box.writer)
        outbox.put(kind, *values)
        assert outbox.send()
        self.loop.turn(0)


@st.composite
def stories(draw):
    """shape: (number of dead predecessors, [(sender, event) or a client's datagram, ...])"""
    talks = {
        sender: ["stopped", *["mail"] * draw(st.integers(0, 3)), "done"] for sender in (0, 1)
    }
    events = []
    while any(talks.values()):
        who = draw(st.sampled_from([*(n for n in talks if talks[n]), "client"]))
        if who == "client":
            events.append((who, "sends"))
        else:
            events.append((who, talks[who].pop(0)))
    return draw(st.integers(0, 1)), events


@settings(max_examples=40, deadline=None)
@given(stories())
def test_any_order_of_words_loses_and_overtakes_nothing(story) -> None:
    """It reads once all have stopped, processes once all are done, and everything arrives once."""
    dead, events = story
    with ExitStack() as stack, engine() as loop:
        new = Newcomer(loop, stack)
        client = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        pids = (*ALIVE, *[dead_pid()] * dead)
        stopped, done = set(), set()
        sent: list[bytes] = []
        passed: list[bytes] = []
        for number, (who, event) in enumerate(events):
            data = b"%d" % number
            if who == "client":
                client.sendto(data, new.address)
                sent.append(data)
            elif event == "stopped":
                stopped.add(who)
                new.tell(mailbox.STOPPED, ALIVE[who], pids)
            elif event == "done":
                done.add(who)
                new.tell(mailbox.DONE, ALIVE[who])
            else:
                peer = client.getsockname() if sent else ("127.0.0.1", 9)
                new.tell(mailbox.DATAGRAMS, new.key, peer, peer, None, [data])
                passed.append(data)
            loop.turn(0)
            assert new.arrival.idle == (len(stopped) < 2)
            assert new.arrival.settled == (len(done) == 2)
            if len(done) < 2:
                assert not new.got
        run_until(loop, lambda: len(new.got) == len(sent) + len(passed))
        assert sent == [data for data in new.got if data in sent]
        assert passed == [data for data in new.got if data in passed]


def test_the_dead_are_not_waited_for() -> None:
    """Nobody listed lives: it reads and processes as soon as that is seen."""
    with ExitStack() as stack, engine() as loop:
        new = Newcomer(loop, stack)
        new.tell(mailbox.STOPPED, ALIVE[0], (ALIVE[0], dead_pid()))
        new.tell(mailbox.DONE, ALIVE[0])
        assert new.arrival.settled


def test_a_silent_predecessor_is_waited_for_in_bounds() -> None:
    """One that lives and says nothing keeps it waiting for HOLD_MS."""
    with ExitStack() as stack, engine() as loop:
        new = Newcomer(loop, stack)
        new.tell(mailbox.STOPPED, ALIVE[0], ALIVE)
        new.tell(mailbox.DONE, ALIVE[0])
        assert new.arrival.idle
        run_until(loop, lambda: new.arrival.settled)
        assert any("did not hand over in time" in text for _, text in
                   new.arrival._service.cycle.log.lines)


def test_go_takes_the_mail_first() -> None:
    """Told that nobody is left, it takes what lies in its mailbox before its sockets' datagrams."""
    with ExitStack() as stack, engine() as loop:
        new = Newcomer(loop, stack)
        client = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.sendto(b"second", new.address)
        peer = ("127.0.0.1", 9)
        outbox = mailbox.Outbox(loop, new.box.writer)
        outbox.put(mailbox.DATAGRAMS, new.key, peer, peer, None, [b"first"])
        assert outbox.send()
        new.arrival.go()
        run_until(loop, lambda: len(new.got) == 2)
        assert [b"first", b"second"] == new.got


@given(
    st.integers(1, 20), st.integers(1, 20), st.integers(1, 65535), st.booleans(), st.integers(0, 5)
)
def test_every_worker_names_the_same_owner(steered, workers, port, current, most) -> None:
    """An owner is a worker, and one that reads the socket which the kernel steers to."""
    options = ListenOptions(
        family=socket.AF_INET, socktype=socket.SOCK_DGRAM, sockaddr=("127.0.0.1", port), text="a"
    )
    listening = Listening(options)
    listening.steered = steered
    listening.most = most
    listening.socks = list(range(min(workers, most or workers) if current else steered))
    peer = ("192.0.2.7", port)
    owner = handover.owner_of(listening, peer, workers, current=current)
    assert 0 <= owner < workers
    spread = listening.spread(workers) if current else steered
    group = handover.steering.owner_of(socket.AF_INET, peer, spread)
    assert group in listening.for_worker(owner, workers)
