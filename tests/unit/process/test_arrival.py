"""The hand-over as a new worker sees it: whatever order its predecessors speak in."""

import os
import socket
import subprocess
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.core.facts import Facts
from ngxstream.event.drops import Drops
from ngxstream.event.listen_options import ListenOptions
from ngxstream.event.listening import Listening
from ngxstream.event.udp import UdpListener
from ngxstream.process import arrival, mailbox
from tests.support import strangers
from tests.support.engine import MemoryLog, engine, run_until
from tests.support.moving import World, world_of_root
from tests.support.strangers import NOBODY

__all__ = ["world_of_root"]

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
        self.listener = UdpListener(loop, listening, self.sock, self.begin, idle=True)
        cycle = SimpleNamespace(log=Log(), listenings=[listening], workers=1, facts=Facts(()))
        service = SimpleNamespace(
            cycle=cycle, worker=0, udp_listeners=[self.listener],
            listener_of=lambda key: self.listener, is_current=lambda one: one is listening,
        )
        self.box = mailbox.Mailbox()
        stack.callback(self.box.close)
        self.arrival = arrival.Arrival(
            loop, service, self.box.reader, [self.box.writer], idle=True, patience_ms=0
        )
        self.key = listening.options.key

    def begin(self, c, loop, first, header) -> None:
        self.got.append(first)
        loop.close_connection(c)

    def tell(self, kind: int, *values) -> None:
        """Put a message into its mailbox and have it read."""
        outbox = mailbox.Outbox(self.loop, self.box.writer)
        outbox.put(kind, *values)
        assert outbox.send()
        self.loop.turn(0)


@st.composite
def stories(draw):
    """Args: (number of dead predecessors, [(sender, event) or a client's datagram, ...])"""
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


# -- a leaving worker of another user --------------------------------------------------------------


def test_its_sessions_go_on(world: World) -> None:
    """A reload that changes the user keeps them: the server hears the same port."""
    before = world.exchange(b"two")
    values, proxied, sock = world.parcel()
    world.say(mailbox.STOPPED, os.getpid(), [os.getpid()])
    world.post(values, proxied, sock.fileno(), uid=NOBODY)
    sock.close()
    world.say(mailbox.DONE, os.getpid())
    world.turn(lambda: world.new.arrival.settled)
    for listener in world.old.service.udp_listeners:
        listener.close()
    assert before == world.exchange(b"three")
    assert [] == world.warnings()


def test_it_speaks_for_itself_alone(world: World) -> None:
    """That somebody else has stopped, or has done, is not taken from it."""
    world.say(mailbox.STOPPED, os.getpid(), [os.getpid()], uid=NOBODY)
    assert world.new.arrival.idle
    world.say(mailbox.STOPPED, os.getpid(), [os.getpid()])
    world.say(mailbox.DONE, os.getpid(), uid=NOBODY)
    assert not world.new.arrival.settled
    world.say(mailbox.DONE, os.getpid())
    world.turn(lambda: world.new.arrival.settled)
    assert 2 == len([line for line in world.warnings() if "may not say it" in line])


def test_long_messages_are_taken_one_in_a_turn(world: World) -> None:
    """Reading thousands of numbers takes milliseconds: clients have their turn in between."""
    many = [os.getpid()] * 65_536
    for _ in range(4):
        world.put(mailbox.STOPPED, os.getpid(), many)
    world.new.loop.turn(0)
    assert world.unread() >= 2  # a timer may have had one read too


def test_its_long_messages_are_not_even_decoded(world: World) -> None:
    """Whoever could say them again and again would have all the time of this worker."""
    world.say(mailbox.STOPPED, os.getpid(), [os.getpid()] * 65_536, uid=NOBODY)
    assert "user 65534 says too much at once" in world.warnings()[0]
    assert world.new.arrival.idle


def test_it_names_no_more_than_could_leave(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each one who is named is looked for again and again: strangers together name so many."""
    monkeypatch.setattr(arrival, "MOST_NAMED", 4)

    def name(*pids: int) -> None:
        strangers.run_as(
            NOBODY, lambda: world.put(mailbox.STOPPED, os.getpid(), [os.getppid(), *pids])
        )
        world.new.loop.turn(0)

    name(*range(2_000_000, 2_000_003))
    assert not world.new.arrival.settled and [] == world.warnings()
    name(2_000_003)
    assert "may not say it" in world.warnings()[0]
    name(2_000_000)
    assert 1 == len(world.warnings())


def test_what_it_said_once_it_does_not_say_again(world: World) -> None:
    """Refused before it is decoded: that it has stopped, and anything when it has done."""

    def speak() -> None:
        pid = os.getpid()
        for _ in range(2):
            world.put(mailbox.STOPPED, pid, [pid])
        for _ in range(2):
            world.put(mailbox.DONE, pid)
        world.put(mailbox.SESSIONS, [], b"")

    strangers.run_as(NOBODY, speak)
    for _ in range(6):
        world.new.loop.turn(0)
    assert 3 == len([line for line in world.warnings() if "may not say it any more" in line])


# -- who says nothing ------------------------------------------------------------------------------


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


def test_it_knows_whether_anybody_hands_over() -> None:
    """From the first that says so; without, its master's death leaves the others to serve."""
    with ExitStack() as stack, engine() as loop:
        new = Newcomer(loop, stack)
        assert new.arrival.is_unheard
        new.tell(mailbox.STOPPED, ALIVE[0], ALIVE)
        assert (True, False) == (new.arrival.idle, new.arrival.is_unheard)
        new.tell(mailbox.STOPPED, ALIVE[1], ALIVE)
        assert (False, False) == (new.arrival.idle, new.arrival.is_unheard)


def test_it_reads_from_the_moment_it_is_told_that_nobody_is_left() -> None:
    """Nothing in its mailbox, nobody to wait for: it need not look again later."""
    with ExitStack() as stack, engine() as loop:
        new = Newcomer(loop, stack)
        assert new.arrival.idle
        new.arrival.go()
        loop.turn(0)
        loop.turn(0)
        assert not new.arrival.idle


def test_a_datagram_of_another_worker_s_client_goes_to_its_mailbox() -> None:
    """Of two workers the one is asked; it passes on what is not its own, in bounds."""
    options = ListenOptions(
        family=socket.AF_INET, socktype=socket.SOCK_DGRAM, sockaddr=("127.0.0.1", 1), text="a"
    )
    listening = Listening(options)
    listening.socks = [None, None]  # type: ignore[list-item]
    listening.is_steered = True
    listener: Any = SimpleNamespace(listening=listening, lost=Drops())
    put: list[Any] = []
    box = SimpleNamespace(waiting=0, put=lambda *words: put.append(words), pump=lambda: None)
    results = []
    for worker in (0, 1):
        service = SimpleNamespace(
            cycle=SimpleNamespace(workers=2), worker=worker, is_current=lambda one: True
        )
        new: Any = SimpleNamespace(_service=service, _boxes=[box, box])
        for n in range(8):
            peer = (f"127.0.0.{n + 1}", 9)
            results.append(arrival.Arrival.stray(new, listener, peer, peer, b"%d" % n))
    assert 8 == sum(results) == len(put)
    peers = {words[3] for words in put}
    assert 8 == len(peers)
    assert all(words[0] == mailbox.DATAGRAMS and words[5] == [b"%d" % (int(words[3][0][-1]) - 1)]
               for words in put)
    box.waiting = arrival.STRAYS
    peer = next(iter(peers))
    for worker in (0, 1):
        new._service.worker = worker
        arrival.Arrival.stray(new, listener, peer, peer, b"x")
    assert (8, 1) == (len(put), listener.lost.own)


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
