"""The hand-over as a new worker sees it: whatever order its predecessors speak in."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.core import codes
from ngxstream.event.listen_options import ListenOptions
from ngxstream.event.listening import Listening
from ngxstream.event.recycle import SocketPool
from ngxstream.event.udp import UdpListener
from ngxstream.ipc.codec import CodecError
from ngxstream.modules.proxy.udp import UdpProxy
from ngxstream.process import handover, mailbox
from ngxstream.stream import preread, session
from ngxstream.stream.session import Session
from tests.support import clients, moving, processes, strangers, tools
from tests.support.backends import BackendFactory
from tests.support.engine import MemoryLog, engine, run_until
from tests.support.moving import World
from tests.support.proxies import ProxyFactory
from tests.support.strangers import NOBODY

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
        cycle = SimpleNamespace(log=Log(), listenings=[listening], workers=1)
        service = SimpleNamespace(
            cycle=cycle, worker=0, udp_listeners=[self.listener],
            listener_of=lambda key: self.listener, is_current=lambda one: one is listening,
        )
        self.box = mailbox.Mailbox()
        stack.callback(self.box.close)
        self.arrival = handover.Arrival(
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


# -- a leaving worker of another user --------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Give a worker that comes, and a session in the one that leaves."""
    tools.require_root()
    with World(tmp_path) as made:
        made.exchange(b"one")
        yield made


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


class UnpackableProxy(UdpProxy):
    """A proxied session whose record cannot be made."""

    __slots__ = ()

    def waiting(self) -> list[bytes]:
        raise ValueError("no good")


@pytest.mark.parametrize("is_ready", [True, False])
def test_a_session_whose_record_cannot_be_made_ends_alone(world: World, is_ready: bool) -> None:
    """The others of its message go on at their new place; it has a server, or waits for one."""
    others = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(4)]
    mine = world.client
    sources = {}
    for client in (mine, *others):
        if client is not mine:
            client.bind(("127.0.0.1", 0))
            client.setblocking(False)
        world.client = client
        sources[client] = world.exchange(b"before")
    bad = others[1].getsockname()
    (failing,) = [s for s in world.old.loop.sessions if s.c.sockaddr == bad]
    if is_ready:
        failing.content.__class__ = UnpackableProxy
    else:
        failing.content.close()
        failing.content = None
        failing.preread = "no good"
    free = world.old.loop.free_connections
    world.hand_over()
    assert not world.old.loop.sessions
    assert free + 2 * 5 - (not is_ready) == world.old.loop.free_connections
    assert 4 == len(world.new.loop.sessions)
    for client in (mine, others[0], *others[2:]):
        world.client = client
        assert sources[client] == world.exchange(b"after")
    for client in others:
        client.close()
    world.client = mine
    alerts = [line for line in world.log.read_text().splitlines() if "[alert]" in line]
    assert 1 == len(alerts)
    assert ("no good" if is_ready else "TypeError") in alerts[0]


def test_its_socket_is_nobody_else_s_later(world: World) -> None:
    """Another user may have a copy of it: it is closed with its session, not used again."""
    values, proxied, sock = world.parcel()
    world.post(values, proxied, sock.fileno(), uid=NOBODY)
    sock.close()
    world.new.only_session().finalize(200)
    assert 0 == len(world.new.loop.get(SocketPool))


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


def test_what_it_said_once_it_does_not_say_again(world: World) -> None:
    """Refused before it is decoded: that it has stopped, and anything when it has done."""

    def speak() -> None:
        pid = os.getpid()
        for _ in range(2):
            world.put(mailbox.STOPPED, pid, [pid])
        for _ in range(2):
            world.put(mailbox.DONE, pid)
        world.put(mailbox.SESSIONS, [])

    strangers.run_as(NOBODY, speak)
    for _ in range(6):
        world.new.loop.turn(0)
    assert 3 == len([line for line in world.warnings() if "may not say it any more" in line])


def test_it_takes_no_client_of_ours(world: World) -> None:
    """A session of a client that has one here is dropped, and so are words to that client's."""
    values, proxied, sock = world.parcel()
    world.post(values, proxied, os.dup(sock.fileno()))
    ours = world.new.only_session()
    world.post(values, proxied, os.dup(sock.fileno()), uid=NOBODY)
    assert ours is world.new.only_session()
    key = ours.c.key
    world.backend.setblocking(False)
    world.say(mailbox.WAITING, world.key, key, [b"injected"], uid=NOBODY)
    world.say(mailbox.DATAGRAMS, world.key, key, key, None, [b"injected"], uid=NOBODY)
    world.new.arrival.go()
    world.turn(lambda: world.new.arrival.settled)
    with pytest.raises(BlockingIOError):
        world.backend.recv(100)
    refused = world.warnings()
    assert "user 65534 gives sessions of clients that are ours" in refused[0]
    assert 2 == len([line for line in refused if "may not say it" in line])
    sock.close()


def test_it_may_add_to_what_it_gave(world: World) -> None:
    """What its session had yet to send is sent; after its DONE it is not listened to."""
    values, proxied, sock = world.parcel()
    key = values[moving.KEY]
    envelope = handover.ENVELOPE.encode(
        (world.key, moving.session_of(values), moving.proxied_of(proxied))
    )

    values[moving.KEY] = values[moving.SOCKADDR] = ("127.0.0.1", 9)
    another = handover.ENVELOPE.encode(
        (world.key, moving.session_of(values), moving.proxied_of(proxied))
    )

    def leave() -> None:
        box = mailbox.Outbox(world.new.loop, world.new.box.writer)
        box.put(mailbox.SESSIONS, [envelope], fds=[sock.fileno()])
        box.put(mailbox.WAITING, world.key, key, [b"waited"])
        box.put(mailbox.DONE, os.getpid())
        box.put(mailbox.WAITING, world.key, key, [b"too late"])
        box.put(mailbox.SESSIONS, [another], fds=[sock.fileno()])
        assert box.send()

    strangers.run_as(NOBODY, leave)
    world.turn(lambda: len(world.warnings()) == 2)
    sock.close()
    assert b"waited" == world.backend.recv(100)
    with pytest.raises(BlockingIOError):
        world.backend.recv(100)
    assert 1 == len(world.new.loop.sessions)


def test_it_takes_no_more_than_there_is_room(world: World) -> None:
    """Sessions without end do not take the slots below none."""
    values, proxied, sock = world.parcel()
    proxied[moving.LISTED] = False  # not listed: clients may be the same
    for _ in range(40):
        world.post(values, proxied, sock.fileno(), uid=NOBODY)
    sock.close()
    assert world.new.loop.free_connections >= 0
    assert any("more sessions than there is room for" in line for line in world.warnings())


@pytest.mark.parametrize(
    ("n", "value", "why"),
    [
        (moving.KEY, ("::1", 1, 0, 0), "clients cannot be such"),
        (moving.KEY, "/path", "clients cannot be such"),
        (moving.KEY, None, "clients cannot be such"),
        (moving.KEY, (("127.0.0.1", 1), bytes(16)), "clients cannot be such"),
        (moving.KEY, (("127.0.0.1", 1), b""), "clients cannot be such"),
        (moving.GENERATION, 77, "of an unknown configuration"),
        (moving.SERVER, 1, "does not listen at its address"),
    ],
)
def test_nonsense_is_dropped_with_its_socket(world: World, n: int, value, why: str) -> None:
    """The log says why, once for all of a message."""
    values, proxied, sock = world.parcel()
    values[n] = value
    before = len(os.listdir("/proc/self/fd"))
    world.post(values, proxied, sock.fileno(), uid=NOBODY)
    assert before == len(os.listdir("/proc/self/fd"))
    assert not world.new.loop.sessions
    assert why in world.warnings()[0]
    sock.close()


def test_a_server_that_proxies_nothing_takes_no_session(world: World) -> None:
    """Whatever place a session names."""
    values, proxied, sock = world.parcel()
    values[moving.ADDRESS] = values[moving.SERVER] = 1
    world.post(values, proxied, sock.fileno(), uid=NOBODY)
    assert "their server proxies nothing" in world.warnings()[0]
    sock.close()


def test_nobody_listens_where_it_says(world: World) -> None:
    """An address of no listener of ours; its datagrams are dropped, too."""
    values, proxied, sock = world.parcel()
    where = (socket.SOCK_DGRAM, socket.AF_INET, ("192.0.2.1", 53))
    world.post(values, proxied, sock.fileno(), uid=NOBODY, where=where)
    world.say(mailbox.DATAGRAMS, where, ("127.0.0.1", 1), ("127.0.0.1", 1), None, [b"x"])
    assert "nobody listens at their address" in world.warnings()[0]
    sock.close()


@pytest.mark.parametrize(
    ("key", "peer"),
    [
        (("127.0.0.1", 1), ("127.0.0.1", 2)),
        (("::1", 1, 0, 0), ("::1", 1, 0, 0)),
        ("/path", "/path"),
    ],
)
def test_datagrams_are_of_who_is_named(world: World, key, peer) -> None:
    """The key is the client's, and of the family of the address."""
    world.say(mailbox.DATAGRAMS, world.key, key, peer, None, [b"x"])
    assert "cannot be one of their address" in world.warnings()[0]


@pytest.mark.parametrize(
    ("address", "key", "expected"),
    [
        ("127.0.0.1", ("127.0.0.1", 1), True),
        ("127.0.0.1", (("127.0.0.1", 1), bytes(4)), True),
        ("127.0.0.1", (("127.0.0.1", 1), b"\4" + bytes(4) + b"tag"), True),
        ("127.0.0.1", (("127.0.0.1", 1), b"\0tag"), True),
        ("127.0.0.1", (("127.0.0.1", 1), b"\4\0\0"), False),
        ("127.0.0.1", (("127.0.0.1", 1), b"\7" + bytes(9)), False),
        ("0.0.0.0", ("127.0.0.1", 1), False),
        ("0.0.0.0", (("127.0.0.1", 1), bytes(4)), True),
        ("::", (("::1", 1, 0, 0), bytes(16)), True),
        ("::", (("::1", 1, 0, 0), bytes(4)), False),
        ("::1", ("127.0.0.1", 1), False),
    ],
)
def test_a_client_fits_its_address_or_not(address: str, key, expected: bool) -> None:
    """By family, by the local address a wildcard needs, by the tag a PROXY header leaves."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sockaddr = (address, 53, 0, 0) if ":" in address else (address, 53)
    options = ListenOptions(
        family=family, socktype=socket.SOCK_DGRAM, sockaddr=sockaddr, text="a",
        wildcard=address in ("0.0.0.0", "::"),
    )
    assert expected == handover.fits(options, key)


def test_a_plan_comes_out_as_it_went_in() -> None:
    """With the mailboxes; a descriptor that is none is closed with all others."""
    keys = [
        (socket.SOCK_DGRAM, socket.AF_INET, ("127.0.0.1", 53)),
        (socket.SOCK_DGRAM, socket.AF_UNIX, "/run/sock"),
    ]
    box = mailbox.Mailbox()
    packed = handover.Plan([box.writer], keys, [7, 8]).pack()
    plan = handover.Plan.unpack(packed, [os.dup(box.writer.fileno())])
    assert (frozenset(keys), (7, 8), 1) == (plan.keys, plan.pids, plan.workers)
    plan.writers[0].close()
    before = len(os.listdir("/proc/self/fd"))
    fds = [os.dup(box.writer.fileno()), os.dup(0), os.dup(box.writer.fileno())]
    with pytest.raises(CodecError):
        handover.Plan.unpack(packed, fds)
    assert before == len(os.listdir("/proc/self/fd"))
    box.close()


# -- real processes --------------------------------------------------------------------------------


USERS = """
user {user} nogroup; worker_processes 2; events {{}} stream {{
    server {{ listen 127.0.0.1:@udp@ udp; proxy_pass {udp}; }}
    server {{ listen 127.0.0.1:@tcp@; proxy_pass {tcp}; }}
}}
"""


def test_a_former_worker_has_no_power_over_another_user_s(
    ngxstream: ProxyFactory, backends: BackendFactory, tmp_path: Path
) -> None:
    """After a reload that changed the user it says what it likes: nothing runs, nothing is lost."""
    tools.require_root()
    strangers.let_in(tmp_path)
    udp, tcp = backends.udp(), backends.tcp()

    def conf(user: str) -> str:
        return USERS.format(user=user, udp=udp.text, tcp=tcp.text)

    running = ngxstream(conf("nobody"), expected=("alert",))
    crowd = [clients.UdpClient(running.address("udp")) for _ in range(10)]
    held = [clients.TcpClient(running.address("tcp")) for _ in range(8)]  # they keep the old ones
    for client in (*crowd, *held):
        assert b"one" == client.exchange(b"one")
    former = running.worker_pids()
    running.write(conf("daemon"))
    running.reload()
    for client in crowd:
        assert b"two" == client.exchange(b"two")
    sources = set(udp.sources)
    stolen = [
        sock for pid in former if processes.is_alive(pid) for sock in strangers.ports_of(pid)
    ]
    assert stolen
    canary = tmp_path / "executed"
    strangers.run_as(NOBODY, lambda: strangers.attack(stolen, str(canary)))
    for sock in stolen:
        sock.close()
    running.wait_log("a worker's message was refused")
    for client in (*crowd, *held):
        assert b"three" == client.exchange(b"three")
    assert sources == set(udp.sources)
    for client in (*crowd, *held):
        client.close()
    assert not canary.exists()
    assert not [line for line in running.error_log() if "unexpected exception" in line]


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
    listener: Any = SimpleNamespace(listening=listening, dropped=0)
    put: list[Any] = []
    box = SimpleNamespace(waiting=0, put=lambda *words: put.append(words), pump=lambda: None)
    results = []
    for worker in (0, 1):
        service = SimpleNamespace(
            cycle=SimpleNamespace(workers=2), worker=worker, is_current=lambda one: True
        )
        arrival: Any = SimpleNamespace(_service=service, _boxes=[box, box])
        for n in range(8):
            peer = (f"127.0.0.{n + 1}", 9)
            results.append(handover.Arrival.stray(arrival, listener, peer, peer, b"%d" % n))
    assert 8 == sum(results) == len(put)
    peers = {words[3] for words in put}
    assert 8 == len(peers)
    assert all(words[0] == mailbox.DATAGRAMS and words[5] == [b"%d" % (int(words[3][0][-1]) - 1)]
               for words in put)
    box.waiting = handover.STRAYS
    peer = next(iter(peers))
    for worker in (0, 1):
        arrival._service.worker = worker
        handover.Arrival.stray(arrival, listener, peer, peer, b"x")
    assert (8, 1) == (len(put), listener.dropped)


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


def test_a_session_that_prereads_begins_anew_at_its_new_owner(tmp_path: Path) -> None:
    """It wants three datagrams and has two: both go along, and the third completes them there."""
    shown: list[tuple[Any, list[bytes]]] = []

    def want_three(s: Session) -> int:
        shown.append((s.loop, preread.datagrams(s)))
        return codes.OK if len(shown[-1][1]) == 3 else codes.AGAIN

    with World(tmp_path) as world:
        stream: Any = world.cycle.stream
        address = stream.listenings[0].default
        address.engine = ((preread.check, want_three, 1), *address.engine)
        address.begin = session.begin
        for data in (b"one", b"two"):
            world.client.sendto(data, world.address)
            world.turn(lambda data=data: shown and shown[-1][1][-1] == data)
        world.hand_over()
        assert not world.old.loop.sessions
        assert not world.old.service.udp_listeners[0].table
        world.client.sendto(b"three", world.address)
        world.turn(lambda: len(shown) == 5)
        assert (world.new.loop, [b"one", b"two", b"three"]) == shown[-1]
        assert [b"one", b"two", b"three"] == [world.backend.recv(100) for _ in range(3)]
        assert 3 == world.new.only_session().content.requests  # type: ignore[union-attr]
