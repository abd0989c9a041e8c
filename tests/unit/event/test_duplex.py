"""Duplex: reading, writing, and the bounds of both, over each poller."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from ngxstream.event import duplex, tasks
from ngxstream.event.duplex import Duplex
from ngxstream.event.loop import Loop
from tests.support.awaited import reset, result, start
from tests.support.engine import engine, run_until

LIMIT = 4096


@pytest.fixture(params=["epoll", "poll", "select"])
def loop(request: pytest.FixtureRequest) -> Iterator[Loop]:
    """Give a loop over each of the pollers."""
    with engine(request.param) as made:
        yield made


@pytest.fixture
def pair(loop: Loop) -> Iterator[tuple[Duplex, socket.socket]]:
    """Give a Duplex over TCP and the other side."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made = Duplex(loop, sock, LIMIT)
    made.open()
    yield made, other
    made.close()
    loop.turn(0)
    other.close()


Pair = tuple[Duplex, socket.socket]


def _fill(made: Duplex) -> None:
    """Write until something waits."""
    while not made.out:
        made.write(bytes(LIMIT))


def test_bytes_are_read_as_they_come(loop: Loop, pair: Pair) -> None:
    """No more than asked for; the end is told for ever."""
    made, other = pair
    task = start(loop, made.read(3))
    assert not task.is_over
    other.send(b"hello")
    run_until(loop, lambda: task.is_over)
    assert b"hel" == task.result
    assert b"lo" == result(loop, made.read())
    other.close()
    assert b"" == result(loop, made.read())
    assert b"" == result(loop, made.read())
    assert 5 == made.received


def test_a_reset_is_an_error_of_reading(loop: Loop, pair: Pair) -> None:
    """The class that Python has for it."""
    made, other = pair
    task = start(loop, made.read())
    reset(other)
    run_until(loop, lambda: task.is_over)
    assert isinstance(task.error, ConnectionResetError)
    task.error = None


def test_what_is_written_waits_up_to_the_limit(loop: Loop, pair: Pair) -> None:
    """What would be over it is refused whole; drain() ends once the other side has read."""
    made, other = pair
    _fill(made)
    waiting = len(made.out)
    sent = made.sent
    with pytest.raises(BufferError, match=f"{waiting} of {LIMIT}"):
        made.write(bytes(LIMIT + 1 - waiting))
    assert waiting == len(made.out)
    made.write(bytes(LIMIT - waiting))
    task = start(loop, made.drain())
    assert not task.is_over
    other.setblocking(False)
    got = 0

    def read() -> bool:
        nonlocal got
        try:
            got += len(other.recv(1 << 16))
        except BlockingIOError:
            pass
        return task.is_over and got >= sent + LIMIT

    run_until(loop, read)
    assert made.sent == got == sent + LIMIT
    assert task.error is None


def test_more_than_the_limit_at_once_is_refused(pair: Pair) -> None:
    """Nothing of it is sent."""
    made, _ = pair
    with pytest.raises(BufferError):
        made.write(bytes(LIMIT + 1))
    assert (0, 0) == (made.sent, len(made.out))


def test_an_error_of_writing_is_told_to_who_waits_and_who_writes_next(
    loop: Loop, pair: Pair
) -> None:
    """Each gets one of its own."""
    made, other = pair
    _fill(made)
    task = start(loop, made.drain())
    reset(other)
    run_until(loop, lambda: task.is_over)
    assert isinstance(task.error, ConnectionError)
    task.error = None
    with pytest.raises(ConnectionError):
        made.write(b"x")


def test_closing_tells_who_waits(loop: Loop, pair: Pair) -> None:
    """For bytes or for room; what is called afterwards is told too."""
    made, _ = pair
    _fill(made)
    waiting = [start(loop, made.read()), start(loop, made.drain())]
    made.close()
    run_until(loop, lambda: all(task.is_over for task in waiting))
    for task in waiting:
        assert isinstance(task.error, duplex.ClosedError)
        task.error = None
    for call in (lambda: made.write(b"x"), lambda: result(loop, made.read())):
        with pytest.raises(duplex.ClosedError):
            call()


def test_data_that_nobody_reads_does_not_spin(loop: Loop, pair: Pair) -> None:
    """Whatever the poller: a turn that waits does wait; who reads later has all of it."""
    made, other = pair
    other.send(b"hello")
    for _ in range(3):
        loop.turn(10)
    assert [] == loop.poller.poll(0)
    assert b"hello" == result(loop, made.read())
    task = start(loop, made.read())
    other.send(b"again")
    run_until(loop, lambda: task.is_over)
    assert b"again" == task.result


def test_a_reader_that_never_has_to_wait_lets_others_go_on(
    loop: Loop, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its share of a turn over, it goes on in the next one."""
    made, other = pair
    other.sendall(b"abcd")
    while made.sock.recv(4, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b"abcd":
        pass
    now = 0

    def clock() -> int:
        nonlocal now
        now += duplex.SHARE_NS // 3
        return now

    monkeypatch.setattr(duplex, "monotonic_ns", clock)
    made.share.begin()
    turns: list[int] = []
    turn = 0

    async def reads() -> None:
        for _ in range(4):
            await made.read(1)
            turns.append(turn)

    task = start(loop, reads())
    while not task.is_over:
        turn += 1
        loop.turn(0)
    assert len(set(turns)) > 1


async def _forever(made: Duplex) -> None:
    await made.read()


def test_a_reader_that_is_cancelled_leaves_nothing_behind(loop: Loop, pair: Pair) -> None:
    """Who reads next has what comes."""
    made, other = pair
    task = start(loop, _forever(made))
    task.cancel()
    assert isinstance(task.error, tasks.CancelledError)
    assert not made.readable.is_awaited
    other.send(b"x")
    assert b"x" == result(loop, made.read())
    task.error = None


def test_a_fault_closes_it(loop: Loop, pair: Pair) -> None:
    """As everything that the loop calls."""
    made, _ = pair
    made.on_fault()
    assert made.is_closed
    assert made.fd not in loop.handlers
