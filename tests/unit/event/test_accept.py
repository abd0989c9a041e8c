"""Accepting without room: slots are a session's own, and who cannot be served is left to others."""

import os
import socket
from types import SimpleNamespace

import pytest

from ngxstream.event import accept, poller, wakeups
from ngxstream.event.listen_options import ListenOptions
from ngxstream.event.loop import Loop
from tests.support.engine import MemoryLog, engine, run_until


class Worker:
    """A loop that accepts on sockets which others accept on too."""

    def __init__(self, socks, connections, slots=2, fd=-1, kind="epoll", pause_ms=60_000) -> None:
        self.loop = Loop(MemoryLog(), poller.POLLERS[kind](512), connections)
        self.taken: list = []
        relay = wakeups.Relay(self.loop, fd) if fd >= 0 else None
        self.listeners: list = []
        for sock in socks:
            self.add(sock, slots, relay, pause_ms)

    def add(self, sock, slots, relay, pause_ms=60_000) -> None:
        """Accept on one more socket."""
        self.listeners.append(
            accept.TcpListener(
                self.loop, self.listening(sock), sock, lambda c, loop: self.taken.append(c),
                exclusive=relay is not None, slots=slots, relay=relay, pause_ms=pause_ms,
            )
        )

    @staticmethod
    def listening(sock) -> SimpleNamespace:
        """Return what a listener wants to know of its socket."""
        address = sock.getsockname()
        return SimpleNamespace(options=ListenOptions(
            family=socket.AF_INET, socktype=socket.SOCK_STREAM, sockaddr=address,
            text=f"{address[0]}:{address[1]}",
        ))

    def close(self) -> None:
        """Close what the worker has accepted, and its poller."""
        for listener in self.listeners:
            listener.close()
        for c in self.taken:
            c.sock.close()
        self.loop.poller.close()


@pytest.fixture
def listeners():
    """Give two listening sockets."""
    socks = []
    for _ in range(2):
        sock = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM)
        sock.bind(("127.0.0.1", 0))
        sock.listen(128)
        sock.setblocking(False)
        socks.append(sock)
    yield socks
    for sock in socks:
        sock.close()


@pytest.fixture
def shared_fd():
    """Give what workers pass wake-ups on by."""
    made = wakeups.make()
    yield made[2]
    wakeups.close(made)
    assert {} == made


@pytest.fixture
def clients():
    """Give connect(listener, count); what it made is closed at the end."""
    made = []

    def connect(sock, count=1):
        made.extend(socket.create_connection(sock.getsockname()) for _ in range(count))

    yield connect
    for client in made:
        client.close()


def settle(*workers, turns=6) -> None:
    """Turn all workers some times, in turn."""
    for _ in range(turns):
        for worker in workers:
            worker.loop.turn(0)


def test_a_client_is_accepted_with_all_its_slots(listeners, clients) -> None:
    """Of an odd number of slots, the last one accepts nobody who needs two."""
    worker = Worker(listeners[:1], 5)
    clients(listeners[0], 4)
    settle(worker)
    assert (2, 1) == (len(worker.taken), worker.loop.free_connections)
    assert [1, 1] == [c.reserved for c in worker.taken]
    assert 2 == worker.loop.live  # a worker that is to leave waits for them
    worker.close()


def test_a_client_without_a_server_needs_one_slot(listeners, clients) -> None:
    """Where nothing is proxied, the last slot is as good as the others."""
    worker = Worker(listeners[:1], 5, slots=1)
    clients(listeners[0], 6)
    settle(worker)
    assert (5, 0) == (len(worker.taken), worker.loop.free_connections)
    worker.close()


def test_slots_of_a_client_that_leaves_are_free(listeners, clients) -> None:
    """A connection that ends before its session connected gives both slots back, once."""
    worker = Worker(listeners[:1], 4)
    clients(listeners[0])
    settle(worker)
    assert 2 == worker.loop.free_connections
    worker.loop.close_connection(worker.taken[0])
    worker.loop.close_connection(worker.taken[0])
    assert 4 == worker.loop.free_connections
    worker.close()


def test_a_client_that_leaves_lets_the_next_one_in(listeners, clients) -> None:
    """Who waits in the backlog is accepted when a slot is free, not when a pause is over."""
    worker = Worker(listeners[:1], 2)
    clients(listeners[0], 2)
    settle(worker)
    assert 1 == len(worker.taken)
    worker.loop.close_connection(worker.taken[0])
    settle(worker)
    assert 2 == len(worker.taken)
    worker.close()


def test_pauses_without_end_keep_nothing(listeners, clients) -> None:
    """A listener that pauses again and again waits for room in one place."""
    worker = Worker(listeners[:1], 1, pause_ms=1)
    clients(listeners[0])
    run_until(worker.loop, lambda: len(worker.loop.log.lines) > 0)
    for _ in range(20):
        worker.loop.turn(2)
    assert len(worker.loop.waiting) <= 1
    assert 1 == len(worker.loop.log.lines)  # once a second
    worker.close()


@pytest.mark.parametrize("kind", ["epoll", "poll", "select"])
def test_a_full_worker_watches_no_more(kind, listeners, shared_fd, clients) -> None:
    """With its last client a worker leaves the listeners to the others, and says nothing."""
    full = Worker(listeners, 3, fd=shared_fd, kind=kind)
    clients(listeners[0])
    settle(full)
    clients(listeners[0])
    clients(listeners[1])
    settle(full)
    watched = full.loop.handlers
    assert (1, []) == (len(full.taken), full.loop.log.lines)
    assert not {listeners[0].fileno(), listeners[1].fileno(), shared_fd} & watched.keys()
    other = Worker(listeners, 50, fd=shared_fd, kind=kind)
    settle(other)
    assert 2 == len(other.taken)
    full.close()
    other.close()


def test_the_last_client_there_is_room_for_ends_the_watching(
    listeners, shared_fd, clients
) -> None:
    """No wake-up comes to a full listener, nor one that is passed on: others hear of it."""
    worker = Worker(listeners, 3, fd=shared_fd)
    assert {listeners[0].fileno(), shared_fd} <= worker.loop.handlers.keys()
    clients(listeners[0])
    settle(worker)
    assert 1 == len(worker.taken)
    assert not {listeners[0].fileno(), shared_fd} & worker.loop.handlers.keys()
    worker.loop.close_connection(worker.taken.pop())
    settle(worker)
    assert {listeners[0].fileno(), shared_fd} <= worker.loop.handlers.keys()
    worker.close()


class Listener:
    """Remembers that it was looked at."""

    def __init__(self, heard) -> None:
        self.look = lambda: heard.append(1)


def test_a_wakeup_that_cannot_be_used_is_passed_on(listeners, shared_fd, clients) -> None:
    """Woken for two clients with room for one, a worker has another one woken for the second."""
    first = Worker(listeners, 3, fd=shared_fd)
    clients(listeners[0])
    clients(listeners[1])
    first.loop.turn(0)  # both listeners are ready, and one client is all there is room for
    assert 1 == len(first.taken)
    other = Worker([], 50, fd=shared_fd)  # hears nothing of the sockets themselves
    relay = wakeups.Relay(other.loop, shared_fd)
    heard = []
    relay.join(Listener(heard))
    other.loop.turn(0)
    assert [1] == heard
    other.loop.turn(0)
    assert [1] == heard  # it was taken
    first.close()
    other.close()


@pytest.fixture
def uneven(listeners):
    """Give two workers: a session of the first listener takes two slots, of the second one."""
    made = wakeups.make()
    workers = [Worker([], 2), Worker([], 3)]
    for worker in workers:
        for sock, slots in zip(listeners, (2, 1), strict=True):
            worker.add(sock, slots, wakeups.Relay(worker.loop, made[slots]))
    yield workers
    for worker in workers:
        worker.close()
    wakeups.close(made)


def test_who_has_no_room_for_two_slots_hears_of_who_takes_one(uneven, listeners, clients) -> None:
    """A worker with one slot left has listeners without room, and is told of others' clients."""
    full, other = uneven
    clients(listeners[0], 3)
    settle(full, other)
    assert [0, 1] == [worker.loop.free_connections for worker in uneven]
    # the kernel wakes one of those who wait, and that is the one without any slot
    other.loop.unregister(listeners[1].fileno())
    clients(listeners[1])
    settle(full, other)
    assert [1, 2] == [len(worker.taken) for worker in uneven]
    other.loop.register(listeners[1].fileno(), other.listeners[1].on_readable, poller.LEVEL)


@pytest.mark.parametrize("pause_ms", [10, 100])
def test_what_nobody_hears_tells_that_all_are_full(
    pause_ms: int, listeners, shared_fd, clients
) -> None:
    """Only when no worker took a wake-up that was passed on does a full one complain."""
    worker = Worker(listeners[:1], 3, fd=shared_fd, pause_ms=pause_ms)
    clients(listeners[0], 2)
    settle(worker)
    assert [] == worker.loop.log.lines
    run_until(worker.loop, lambda: worker.loop.log.lines)
    ((level, text),) = worker.loop.log.lines
    assert (accept.ALERT, True) == (level, text.startswith("3 worker_connections are not enough"))
    worker.close()


def test_a_closed_listener_is_out_of_it(listeners, shared_fd, clients) -> None:
    """A worker that leaves takes no more of what is passed on."""
    worker = Worker(listeners, 50, fd=shared_fd)
    for listener in worker.listeners:
        listener.close()
    os.eventfd_write(shared_fd, 1)
    clients(listeners[0])
    settle(worker)
    assert [] == worker.taken
    assert 1 == os.eventfd_read(shared_fd)
    worker.close()


class Idle:
    """A UDP session that idles, in a loop's set of sessions."""

    def __init__(self, loop) -> None:
        self.loop = loop
        self.content = self
        self.active_ms = loop.now_ms - 5000
        self.conversing = False
        loop.sessions.add(self)
        loop.free_connections -= 2

    def give_way(self) -> None:
        """End."""
        self.loop.sessions.remove(self)
        self.loop.free_connections += 2


def test_idle_udp_sessions_give_way_to_a_tcp_client(listeners, clients) -> None:
    """Without slots, the UDP session idle longest makes room for a client of TCP."""
    worker = Worker(listeners[:1], 6)
    idle = [Idle(worker.loop) for _ in range(3)]
    idle[1].active_ms -= 10_000
    clients(listeners[0])
    settle(worker)
    assert (1, {idle[0], idle[2]}) == (len(worker.taken), worker.loop.sessions)
    worker.close()


def test_idle_udp_sessions_stay_while_another_worker_has_room(
    listeners, shared_fd, clients
) -> None:
    """Nobody gives way in a full worker as long as wake-ups it passes on are heard."""
    full = Worker(listeners[:1], 4, fd=shared_fd, pause_ms=60)
    other = Worker(listeners[:1], 50, fd=shared_fd)
    for _ in range(2):
        Idle(full.loop)
    clients(listeners[0])
    run_until(full.loop, lambda: not full.loop.handlers.get(listeners[0].fileno()))
    run_until(other.loop, lambda: len(other.taken) == 1)
    assert 2 == len(full.loop.sessions)
    for worker in (full, other):
        worker.close()


def test_exceptions_of_a_session_do_not_stop_the_others(clients) -> None:
    """A session that fails to begin is one alert, and closed; who comes next is accepted."""
    with engine() as loop:
        begun = []

        def begin(c, loop):
            begun.append(c)
            if len(begun) == 1:
                raise RuntimeError("boom")

        sock = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM)
        sock.bind(("127.0.0.1", 0))
        sock.listen(8)
        sock.setblocking(False)
        listener = accept.TcpListener(loop, Worker.listening(sock), sock, begin)
        free = loop.free_connections
        clients(sock, 3)
        loop.turn(0)
        assert 3 == len(begun), "those of the same turn"
        assert [True, False, False] == [c.closed for c in begun]
        assert (free - 2, 2) == (loop.free_connections, loop.live)
        assert 1 == len(loop.log.lines)
        listener.close()
        for c in begun:
            c.sock.close()
        sock.close()
