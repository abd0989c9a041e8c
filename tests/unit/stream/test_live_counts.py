"""Live counts: what sessions move is counted while they go on, a bounded number of them a turn."""

import socket
from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.event import splice
from ngxstream.event.loop import Loop
from ngxstream.stream import live_counts
from ngxstream.stream.live_counts import EVERY_MS, PORTION, LiveCounts
from tests.support.engine import engine
from tests.support.in_process import InProcess
from tests.support.moving_clock import MovingClock

BULK = 4 << 20


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MovingClock:
    """Have loops see a clock that can be moved."""
    return MovingClock(monkeypatch)


class Relay(InProcess):
    """A proxied session of a server that is watched; both ends of it are the test's."""

    def __init__(self, text: str = "") -> None:
        self.backend = socket.create_server(("127.0.0.1", 0))
        port = self.backend.getsockname()[1]
        super().__init__("stream { server { listen 127.0.0.1:@a@; status_zone a; "
                         f"proxy_pass 127.0.0.1:{port}; {text} }} }}")
        self.loop.get(LiveCounts).start()
        self.client = self.connect()
        self.backend.setblocking(False)
        self.peer = self.turn_until(self._accepted)
        self.peer.setblocking(False)
        self.clients.append(self.peer)

    def _accepted(self) -> socket.socket | None:
        try:
            return self.backend.accept()[0]
        except BlockingIOError:
            return None

    def move(self, source: socket.socket, sink: socket.socket, size: int) -> None:
        """Send so much, and receive it."""
        left, missing = size, size
        while missing:
            if left:
                try:
                    left -= source.send(bytes(min(left, 1 << 18)))
                except BlockingIOError:
                    pass
            self.loop.turn(0)
            try:
                missing -= len(sink.recv(1 << 20))
            except BlockingIOError:
                pass

    def counted(self) -> tuple[int, int]:
        """Return what the server has received and sent."""
        found = self.facts("a")
        return found.get("server_received", 0), found.get("server_sent", 0)

    def close(self) -> None:
        """Close all."""
        self.backend.close()
        super().close()


def pass_a_second(loop: Loop, clock: MovingClock) -> None:
    """Have a round made, and what it counts flushed."""
    clock.move(loop, EVERY_MS)
    loop.turn(0)


def test_bytes_count_while_a_session_goes_on(clock: MovingClock) -> None:
    """Once a second, once each, and at its end no more than the rest."""
    with Relay() as served:
        served.move(served.client, served.peer, 5)
        assert (0, 0) == served.counted()
        pass_a_second(served.loop, clock)
        assert (5, 0) == served.counted()
        served.move(served.peer, served.client, 7)
        pass_a_second(served.loop, clock)
        pass_a_second(served.loop, clock)
        assert (5, 7) == served.counted()
        served.move(served.client, served.peer, 1)
        served.client.close()
        served.turn_until(lambda: served.sessions[0].status)
        served.loop.turn(0)
        assert (6, 7) == served.counted()


def test_what_is_spliced_counts_as_well(clock: MovingClock) -> None:
    """Of a flow that Python does not see."""
    with Relay() as served:
        served.move(served.peer, served.client, BULK)
        content: Any = served.sessions[0].content
        assert isinstance(content.down, splice.SpliceHalf)
        pass_a_second(served.loop, clock)
        assert (0, BULK) == served.counted()
        served.sessions[0].finalize(200)
        served.loop.turn(0)
        assert (0, BULK) == served.counted()


def test_a_session_without_a_content_counts_as_well(clock: MovingClock) -> None:
    """While it waits for its turn in a phase."""
    with Relay() as served:
        s = served.sessions[0]
        content, s.content = s.content, None
        s.c.received += 3
        pass_a_second(served.loop, clock)
        assert (3, 0) == served.counted()
        s.content = content


def test_who_is_not_watched_is_passed_over(clock: MovingClock) -> None:
    """At an address of others, or at one of nobody's."""
    with Relay("error_log off;") as served:
        s: Any = SimpleNamespace(
            server=served.sessions[0].server, address=SimpleNamespace(is_watched=False)
        )
        live_counts.look(s)
        pass_a_second(served.loop, clock)
        assert (0, 0) == served.counted()


class Counted:
    """Stands for a session; notes when it is looked at."""

    def __init__(self, seen: list[int], number: int, *, fails: bool = False) -> None:
        self.seen = seen
        self.number = number
        self.fails = fails
        self.status = 0

    @property
    def address(self) -> Any:
        """What look() asks for first."""
        self.seen.append(self.number)
        if self.fails:
            raise RuntimeError("no address")
        return SimpleNamespace(is_watched=False)


def test_a_turn_looks_at_a_bounded_number(clock: MovingClock) -> None:
    """The others come in the following turns, each once in a round; who has ended does not."""
    seen: list[int] = []
    with engine() as loop:
        loop.sessions.update(Counted(seen, n) for n in range(5 * PORTION + 1))
        loop.get(LiveCounts).start()
        loop.get(LiveCounts).start()
        clock.move(loop, EVERY_MS)
        assert len(seen) in (PORTION, 2 * PORTION)
        for s in loop.sessions:
            s.status = 200 if s.number not in seen and s.number % 2 else 0
        ended = sum(1 for s in loop.sessions if s.status)
        for _ in range(5):
            before = len(seen)
            loop.turn(0)
            assert len(seen) - before <= PORTION
        assert 5 * PORTION + 1 - ended == len(seen) == len(set(seen))
        loop.sessions.clear()


def test_a_round_that_is_under_way_is_not_begun_again(clock: MovingClock) -> None:
    """However late the turns come."""
    seen: list[int] = []
    with engine() as loop:
        loop.sessions.update(Counted(seen, n) for n in range(3 * PORTION))
        loop.get(LiveCounts).start()
        for _ in range(3):
            clock.move(loop, EVERY_MS)
        assert len(seen) == len(set(seen))
        loop.sessions.clear()


def test_a_fault_of_one_keeps_the_others_counted(clock: MovingClock) -> None:
    """It is an alert."""
    seen: list[int] = []
    with engine() as loop:
        loop.sessions.update(Counted(seen, n, fails=n == 1) for n in range(5))
        loop.get(LiveCounts).start()
        clock.move(loop, EVERY_MS)
        assert {0, 1, 2, 3, 4} == set(seen)
        lines: Any = loop.log
        assert any("no address" in text for _, text in lines.lines)
        lines.lines.clear()
        loop.sessions.clear()


def test_a_worker_that_leaves_does_not_wait_for_rounds(clock: MovingClock) -> None:
    """Their timer counts for nothing."""
    with engine() as loop:
        before = loop.live
        loop.get(LiveCounts).start()
        assert before == loop.live
