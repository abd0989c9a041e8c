"""py_content: clients that a function serves, by TCP, TLS and UDP, and how each session ends."""

from __future__ import annotations

import contextlib
import gc
import socket
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.core import log
from ngxstream.event import duplex
from ngxstream.event.eviction import Eviction
from ngxstream.event.time_limit import TimeLimit
from ngxstream.event.turn_budget import TURN_NS, TurnBudget
from ngxstream.modules.py import content
from ngxstream.scripting import Session, running
from ngxstream.stream import content as contents
from ngxstream.stream import endings
from tests.support import ports
from tests.support.awaited import module, reset
from tests.support.in_process import InProcess, build
from tests.support.udp_in_process import UdpInProcess
from tests.support.waiting import wait_until

HELPERS = """
seen = []

async def echo(s):
    async for data in s:
        s.send_to_client(data)
        await s.drain()
    seen.append("end")

async def hang(s):
    try:
        await sleep(1000)
    finally:
        seen.append("finally")

async def read(s):
    try:
        seen.append(await s.receive())
        seen.append(await s.receive())
    except BaseException as error:
        seen.append(type(error).__name__)
        raise
"""


class Served(InProcess):
    """One server whose content is a function of a module."""

    def __init__(self, folder: Path, text: str, server: str = "", **options: Any) -> None:
        imported = module(folder, HELPERS + text)
        super().__init__(
            f"stream {{ {imported} server {{ listen 127.0.0.1:@a@; {server} }} }}", **options
        )

    @property
    def seen(self) -> list[Any]:
        """What functions have noted."""
        hook = self.conf.servers[0].py.content
        found: list[Any] = hook.call.__globals__["seen"]
        return found

    def recv(self, client: socket.socket, size: int) -> bytes:
        """Turn until a client has got so many bytes."""
        data = bytearray()

        def is_there() -> bool:
            with contextlib.suppress(BlockingIOError):
                data.extend(client.recv(65536))
            return len(data) >= size

        self.turn_until(is_there)
        return bytes(data)

    def ended(self) -> tuple[int, str, str]:
        """Turn until the last session is over. Returns: its status, and how it ended"""
        s = self.sessions[-1]
        kept: list[Any] = []
        s.add_cleanup(lambda: kept.append(endings.of(s)))
        self.turn_until(lambda: s.status)
        return s.status, kept[0].reason.word, kept[0].who

    def close(self) -> None:
        """Close; nothing that was taken is missing."""
        super().close()
        assert (512, 0) == (self.loop.free_connections, self.loop.live)
        self.loop.get(TimeLimit).close()


Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Give what serves directives and the text of a module."""
    with contextlib.ExitStack() as stack:
        yield lambda server, text="", **options: stack.enter_context(
            Served(tmp_path, text, server, **options)
        )


@pytest.mark.effect("py_content")
def test_a_function_serves_a_client(serve: Serve) -> None:
    """What it sends arrives, the end of the client's stream is its end, and all is counted."""
    served = serve("py_content app.echo;")
    client = served.connect()
    client.send(b"hello")
    assert b"hello" == served.recv(client, 5)
    client.shutdown(socket.SHUT_WR)
    assert b"" == served.read(client)
    (s,) = served.sessions
    assert (200, 5, 5) == (s.status, s.c.received, s.c.sent)
    assert ["end"] == served.seen


def test_a_plain_function_may_answer_at_once(serve: Serve) -> None:
    """Its last bytes are flushed."""
    served = serve("py_content app.plain;", 'def plain(s): s.send_to_client(b"hi")')
    assert b"hi" == served.read(served.connect())
    assert 200 == served.sessions[0].status


def test_bytes_that_were_preread_come_first(serve: Serve) -> None:
    """They count once."""
    served = serve("ssl_preread on; py_content app.echo;")
    client = served.connect()
    client.send(b"hello, world")
    assert b"hello, world" == served.recv(client, 12)
    client.shutdown(socket.SHUT_WR)
    served.read(client)
    assert 12 == served.sessions[0].c.received


def test_sizes_and_separators_are_waited_for(serve: Serve) -> None:
    """However the bytes come."""
    served = serve("py_content app.f;", """
async def f(s):
    size = int((await s.readuntil(b";"))[:-1])
    s.send_to_client(b"<" + await s.readexactly(size) + b">")
    try:
        await s.readexactly(3)
    except IncompleteReadError as error:
        s.send_to_client(error.partial)
""")
    client = served.connect()
    for byte in b"11;hello worldxy":
        client.send(bytes((byte,)))
        served.loop.turn(0)
    client.shutdown(socket.SHUT_WR)
    assert b"<hello world>xy" == served.read(client)


def test_an_exception_is_a_500(serve: Serve) -> None:
    """One line with the place."""
    served = serve("py_content app.f;", "async def f(s):\n    await sleep(0)\n    1 / 0")
    assert b"" == served.read(served.connect())
    assert 500 == served.sessions[0].status
    ((level, message),) = [line for line in served.target.lines if line[0] != "info"]
    assert "err" in level
    assert '"app.f" failed: ZeroDivisionError: division by zero in' in message
    assert "while running py_content, client: 127.0.0.1" in message


def test_a_function_may_still_deny(serve: Serve) -> None:
    """What it says last is the status."""
    served = serve("py_content app.f;", "async def f(s):\n    s.deny()")
    assert b"" == served.read(served.connect())
    assert 403 == served.sessions[0].status


def test_what_waits_is_bounded(serve: Serve) -> None:
    """Past py_buffer_size BufferError says so, and drain() makes room."""
    served = serve("py_buffer_size 8k; py_content app.f;", """
async def f(s):
    total = 0
    try:
        while True:
            s.send_to_client(bytes(4096))
            total += 4096
    except BufferError as error:
        seen.append(str(error))
    await s.drain()
    s.send_to_client(b"last")
    seen.append(total)
""")
    client = served.connect()
    served.turn_until(lambda: served.seen)
    assert "of 8192 bytes wait" in served.seen[0]
    got = served.read(client)
    assert got.endswith(b"\0last")
    assert served.seen[1] + 4 == len(got) == served.sessions[0].c.sent


def test_a_client_that_reads_nothing_is_idle(serve: Serve) -> None:
    """While drain() waits, and while what was sent last is flushed."""
    for body in ("await s.drain(); await s.drain()", "pass"):
        served = serve("proxy_timeout 50ms; py_content app.f;", f"""
async def f(s):
    try:
        while True:
            s.send_to_client(bytes(4096))
    except BufferError:
        {body}
""")
        served.connect()
        served.turn_until(lambda served=served: served.sessions)
        assert (200, "idle", "proxy") == served.ended()


def test_a_client_that_sends_nothing_is_idle(serve: Serve) -> None:
    """The coroutine is cancelled, and its `finally` blocks have run."""
    served = serve("proxy_timeout 50ms; py_content app.hang;")
    served.connect()
    served.turn_until(lambda: served.sessions)
    assert (200, "idle", "proxy") == served.ended()
    assert ["finally"] == served.seen


@pytest.mark.parametrize("function", ["read", "hang"])
def test_a_reset_ends_the_session_at_once(serve: Serve, function: str) -> None:
    """Whatever the function waits for."""
    served = serve(f"py_content app.{function};")
    client = served.connect()
    served.turn_until(lambda: served.sessions)
    reset(client)
    assert (200, "client_rst", "client") == served.ended()
    assert len(served.seen) == 1
    assert not [line for line in served.target.lines if line[0] not in ("info", "debug")]


def test_sending_to_a_client_that_is_gone_ends_the_session(serve: Serve) -> None:
    """Nobody calls that a fault of the function."""
    served = serve("py_content app.f;", """
async def f(s):
    while True:
        try:
            s.send_to_client(b"x" * 1000)
        except BufferError:
            pass
        await sleep(0)
""")
    client = served.connect()
    served.recv(client, 1)
    client.close()
    assert "client_rst" == served.ended()[1]


def test_after_its_end_a_client_still_gets_what_is_sent(serve: Serve) -> None:
    """A half-closed connection is one."""
    served = serve("py_content app.f;", """
async def f(s):
    while await s.receive():
        pass
    assert await s.receive() == b""
    await sleep(0)
    s.send_to_client(b"all read")
""")
    client = served.connect()
    client.send(b"x" * 1000)
    client.shutdown(socket.SHUT_WR)
    assert b"all read" == served.read(client)


def test_a_client_that_still_sends_gets_the_last_bytes(serve: Serve) -> None:
    """Closing at once would reset the connection, and throw them away."""
    served = serve("py_content app.f;", """
async def f(s):
    await s.receive()
    s.send_to_client(b"enough")
""")
    client = served.connect()
    with contextlib.suppress(BlockingIOError):
        while True:
            client.send(bytes(65536))
    assert b"enough" == served.read(client)
    client.close()
    served.turn_until(lambda: served.sessions[0].status)


def test_a_client_that_sends_for_ever_is_left(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a moment."""
    monkeypatch.setattr(content, "LINGER_MS", 30)
    served = serve("py_content app.f;", "async def f(s):\n    await s.receive()")
    client = served.connect()
    client.send(b"x")

    def sends() -> bool:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            client.send(bytes(65536))
        return bool(served.sessions and served.sessions[0].status)

    served.turn_until(sends)
    assert 200 == served.sessions[0].status


def test_a_session_that_is_ended_cancels_its_function(serve: Serve) -> None:
    """By the API or a worker's end; what its `finally` block sends goes nowhere."""
    served = serve("py_content app.f;", """
async def f(s):
    try:
        await s.receive()
    finally:
        s.send_to_client(b"late")
        seen.append(s.is_ended)
""")
    client = served.connect()
    served.turn_until(lambda: served.sessions)
    served.sessions[0].end(200, endings.API)
    assert [True] == served.seen
    assert b"" == served.read(client)


def test_a_function_that_never_waits_is_interrupted(serve: Serve) -> None:
    """The worker goes on."""
    served = serve("py_time_limit 20ms; py_content app.f;", "async def f(s):\n    while True: pass")
    assert b"" == served.read(served.connect())
    assert 500 == served.sessions[0].status
    assert any("TimeLimitError" in message for _, message in served.target.lines)


def test_a_client_that_floods_is_no_long_call(serve: Serve) -> None:
    """What is done with each piece has its own time: others go on in between."""
    served = serve("py_time_limit 20ms; py_content app.f;", """
async def f(s):
    import time
    async for data in s:
        end = time.thread_time() + 0.004
        while time.thread_time() < end:
            pass
        seen.append(len(data))
""")
    client = served.connect()

    def sends() -> bool:
        with contextlib.suppress(BlockingIOError):
            client.send(bytes(1 << 20))
        return bool(served.sessions) and len(served.seen) > 20

    served.turn_until(sends)
    assert 0 == served.sessions[0].status


def test_other_parts_of_a_session_have_no_client_to_read(serve: Serve) -> None:
    """receive() is for py_content."""
    served = serve("py_access app.f; py_content app.echo;", """
async def f(s):
    try:
        await s.receive()
    except ScriptError as error:
        seen.append(str(error))
""")
    served.connect()
    served.turn_until(lambda: served.seen)
    assert "py_content alone" in served.seen[0]


def test_there_is_no_upstream(serve: Serve) -> None:
    """send_to_upstream() says so."""
    served = serve("py_content app.f;", """
async def f(s):
    try:
        s.send_to_upstream(b"x")
    except ScriptError as error:
        s.send_to_client(str(error).encode())
""")
    assert b"py_content has no upstream" == served.read(served.connect())


@pytest.mark.parametrize(("words", "slots"), [("", 1), (" connections=2", 3)])
def test_a_session_takes_as_many_slots_as_it_says(serve: Serve, words: str, slots: int) -> None:
    """One for its client, and those of the connections that are reserved for it."""
    served = serve(f"py_content app.hang{words};")
    assert slots == served.conf.servers[0].slots


def test_a_connection_takes_a_slot_that_is_reserved(serve: Serve) -> None:
    """Where there is one; else one that is free; it is given back for the next one."""
    served = serve("py_content app.f connections=1;", """
async def f(s):
    port = int(await s.readuntil())
    for _ in range(2):
        async with await connect("127.0.0.1", port):
            async with await connect("127.0.0.1", port):
                await s.receive()
""")
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = served.connect()
        served.turn_until(lambda: served.sessions)
        s = served.sessions[0]
        s.loop.free_connections -= 1
        s.c.reserved = 1  # what the listener of a program does
        client.send(b"%d\n" % server.getsockname()[1])
        for _ in range(2):
            served.turn_until(lambda: served.loop.free_connections == 509)
            assert 0 == s.c.reserved
            client.send(b"x")
            served.turn_until(lambda: s.status or s.c.reserved == 1 or s.c.received % 2)
        served.turn_until(lambda: s.status)


@pytest.mark.refusal("py_content")
@pytest.mark.parametrize(("text", "error"), [
    ("py_content app.echo x;", 'invalid parameter "x"'),
    ("py_content app.echo connections=-1;", 'invalid parameter "connections=-1"'),
    ("py_content app.echo connections=65;", 'invalid parameter "connections=65"'),
    ("py_content app.echo connections=x;", 'invalid parameter "connections=x"'),
    ("py_content app.none;", 'function "app.none" not found'),
    ("py_content app.echo; py_content app.echo;", "is duplicate"),
])
def test_what_cannot_be_is_refused(tmp_path: Path, text: str, error: str) -> None:
    """When the configuration is read."""
    imported = module(tmp_path, HELPERS)
    built = build(f"stream {{ {imported} server {{ listen 127.0.0.1:1; {text} }} }}")
    assert error in built.error


def test_a_fault_of_ours_ends_its_session(serve: Serve) -> None:
    """As everything that the loop calls."""
    served = serve("py_content app.hang;")
    served.connect()
    served.turn_until(lambda: served.sessions)
    held: Any = served.sessions[0].content
    held.stream.on_fault()
    assert 500 == served.sessions[0].status


def test_nothing_of_a_session_is_left_to_the_collector(serve: Serve) -> None:
    """However it ends, but for an exception that was caught on its way, from Python 3.12 on.

    There the frame that it came through refers to its caller's; the collector, which runs where
    functions do, finds it.
    """
    served = serve("proxy_timeout 30ms; py_content app.f;", """
async def f(s):
    import weakref
    seen.append(weakref.ref(s))
    n = int(await s.readuntil())
    if n == 0:
        return
    if n == 1:
        raise LookupError
    if n == 2:
        await sleep(1000)
    async with timeout(0.01):
        await gather(sleep(1000), s.receive())
""")
    gc.collect()
    gc.disable()
    try:
        marks: list[weakref.ref[Any]] = []
        for n in range(4):
            client = served.connect()
            client.send(b"%d\n" % n)
            served.turn_until(lambda n=n: len(served.sessions) > n)
            marks.append(weakref.ref(served.sessions[n]))
            served.read(client)
            served.turn_until(lambda n=n: served.sessions[n].status)
        served.sessions.clear()
        served.loop.turn(0)
        marks += served.seen
        assert 8 == len(marks)
        if sys.version_info >= (3, 12):
            assert {3, 7} >= {n for n, mark in enumerate(marks) if mark() is not None}
            gc.collect()
        assert [] == [mark() for mark in marks if mark() is not None]
    finally:
        gc.enable()


# -- UDP -----------------------------------------------------------------------------------------


class UdpServed(UdpInProcess):
    """One UDP server whose content is a function of a module."""

    def __init__(self, folder: Path, text: str, server: str, **options: Any) -> None:
        imported = module(folder, HELPERS + text)
        options.setdefault("level", log.INFO)
        super().__init__(
            f"stream {{ {imported} "
            f"server {{ listen 127.0.0.1:{ports.free_port()} udp; {server} }} }}",
            **options,
        )
        self.clients: list[socket.socket] = []

    @property
    def seen(self) -> list[Any]:
        """What functions have noted."""
        assert self.built.conf is not None
        hook = self.built.conf.servers[0].py.content
        found: list[Any] = hook.call.__globals__["seen"]
        return found

    def client(self) -> socket.socket:
        """Make a client."""
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.connect(self.address())
        made.setblocking(False)
        self.clients.append(made)
        return made

    def turn_until(self, condition: Callable[[], Any]) -> Any:
        """Turn until something holds."""

        def turn() -> Any:
            self.loop.turn(5)
            return condition()

        return wait_until(turn)

    def recv(self, client: socket.socket, count: int) -> list[bytes]:
        """Turn until a client has got so many datagrams."""
        found: list[bytes] = []

        def is_there() -> bool:
            with contextlib.suppress(BlockingIOError):
                found.append(client.recv(65536))
            return len(found) >= count

        self.turn_until(is_there)
        return found

    def close(self) -> None:
        """Close; nothing that was taken is missing."""
        for client in self.clients:
            client.close()
        super().close()
        assert (self.loop.connections, 0) == (self.loop.free_connections, self.loop.live)
        self.loop.get(TimeLimit).close()


@pytest.fixture
def serve_udp(tmp_path: Path) -> Iterator[Callable[..., UdpServed]]:
    """Give what serves directives and the text of a module by UDP."""
    with contextlib.ExitStack() as stack:
        yield lambda server, text="", **options: stack.enter_context(
            UdpServed(tmp_path, text, server, **options)
        )


ServeUdp = Callable[..., UdpServed]


def test_datagrams_are_received_one_by_one(serve_udp: ServeUdp) -> None:
    """Also empty ones, in the client's one session."""
    served = serve_udp("py_content app.echo;")
    client = served.client()
    for data in (b"a", b"", b"b"):
        client.send(data)
    assert [b"a", b"", b"b"] == served.recv(client, 3)
    (s,) = served.loop.sessions
    assert (2, 2) == (s.c.received, s.c.sent)
    assert (3, 3) == s.content.shown().datagrams
    other = served.client()
    other.send(b"c")
    assert [b"c"] == served.recv(other, 1)
    assert 2 == len(served.loop.sessions)


def test_a_function_that_returns_ends_the_session(serve_udp: ServeUdp) -> None:
    """The client's next datagram begins another."""
    served = serve_udp("py_content app.f;", """
async def f(s):
    seen.append(s.number)
    s.send_to_client(await s.receive())
""")
    client = served.client()
    for _ in range(2):
        client.send(b"x")
        served.recv(client, 1)
        assert not served.loop.sessions
    assert 2 == len(set(served.seen))


def test_datagrams_that_come_too_fast_are_dropped_and_counted(serve_udp: ServeUdp) -> None:
    """What waits is bounded; the session says how many it lost."""
    served = serve_udp("py_buffer_size 1k; py_content app.f;", """
async def f(s):
    seen.append("begun")
    while len(seen) < 2:
        await sleep(0.001)
    got = 0
    async with timeout(1000):
        while got < 3:
            await s.receive()
            got += 1
""")
    client = served.client()
    client.send(bytes(100))
    served.turn_until(lambda: served.seen)
    (s,) = served.loop.sessions
    for _ in range(20):
        client.send(bytes(100))
    served.turn_until(lambda: s.content.requests == 21)
    assert s.content.size <= 1024
    assert 15 == s.content.dropped
    assert 15 == served.listeners[0].lost.total
    served.seen.append("go")
    served.turn_until(lambda: s.status)
    assert any("15 datagrams came faster" in message for _, message in served.target.lines)


def test_a_datagram_larger_than_the_bound_is_received(serve_udp: ServeUdp) -> None:
    """One always may wait."""
    served = serve_udp("py_buffer_size 1k; py_content app.echo;")
    client = served.client()
    for _ in range(2):
        client.send(bytes(5000))
        assert [bytes(5000)] == served.recv(client, 1)


def test_a_session_gives_way_to_a_new_client(serve_udp: ServeUdp) -> None:
    """The one that idles longest, where slots run out."""
    served = serve_udp("py_content app.read;", connections=2)
    for _ in range(2):
        served.client().send(b"x")
    served.turn_until(lambda: len(served.loop.sessions) == 2)
    for s in served.loop.sessions:
        s.content.moved_ms -= 5000
    served.loop.get(Eviction)._looked_ms -= 5000
    served.client().send(b"new")
    served.turn_until(lambda: b"new" in served.seen)
    assert "CancelledError" in served.seen
    assert any("gives way" in message for _, message in served.target.lines)


def test_who_has_spoken_and_was_answered_converses(serve_udp: ServeUdp) -> None:
    """No forged source does."""
    served = serve_udp("py_content app.echo;")
    client = served.client()
    client.send(b"a")
    served.recv(client, 1)
    (s,) = served.loop.sessions
    assert not s.content.conversing
    client.send(b"a")
    served.recv(client, 1)
    assert s.content.conversing


def test_an_idle_client_is_left(serve_udp: ServeUdp) -> None:
    """After proxy_timeout."""
    served = serve_udp("proxy_timeout 30ms; py_content app.read;")
    served.client().send(b"x")
    served.turn_until(lambda: "CancelledError" in served.seen)
    assert not served.loop.sessions


def test_on_a_hand_over_it_ends_when_it_waits_for_more(serve_udp: ServeUdp) -> None:
    """It stays; at once, or once it has done what it had to do."""
    served = serve_udp("py_content app.f;", """
async def f(s):
    async for data in s:
        if data == b"slow":
            while "go" not in seen:
                await sleep(0.001)
        s.send_to_client(data)
""")
    idle, busy = served.client(), served.client()
    idle.send(b"x")
    served.recv(idle, 1)
    busy.send(b"slow")
    busy.send(b"more")
    served.turn_until(lambda: sum(s.content.requests for s in served.loop.sessions) == 3)
    for s in list(served.loop.sessions):
        assert contents.STAYS == s.content.way()
    served.turn_until(lambda: len(served.loop.sessions) == 1)
    served.seen.append("go")
    assert [b"slow", b"more"] == served.recv(busy, 2)
    served.turn_until(lambda: not served.loop.sessions)


@pytest.mark.parametrize("call", ["readexactly(1)", "readuntil()"])
def test_datagrams_are_no_stream(serve_udp: ServeUdp, call: str) -> None:
    """Parts of them cannot be waited for."""
    served = serve_udp("py_content app.f;", f"""
async def f(s):
    try:
        await s.{call}
    except ScriptError as error:
        s.send_to_client(str(error).encode())
        await s.drain()
""")
    client = served.client()
    client.send(b"x")
    assert [b"datagrams are received whole"] == served.recv(client, 1)


def test_a_full_socket_is_an_error_of_who_sends() -> None:
    """Nobody waits for room of a socket that is everybody's."""
    held: Any = object.__new__(content.UdpServing)
    held.s = SimpleNamespace(status=0)
    held.c = SimpleNamespace(send=lambda data: content.codes.AGAIN)
    with pytest.raises(BufferError, match="no room"):
        held.to_client(b"x")


def test_a_reader_of_datagrams_lets_others_go_on(
    serve_udp: ServeUdp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a queue that is never empty, too."""
    monkeypatch.setattr(duplex, "SHARE_NS", 0)
    served = serve_udp("py_content app.f;", """
async def f(s):
    seen.append("begun")
    while "go" not in seen:
        await sleep(0.001)
    async for data in s:
        seen.append(data)
""")
    client = served.client()
    client.send(b"0")
    served.turn_until(lambda: served.seen)
    (s,) = served.loop.sessions
    for n in range(1, 5):
        client.send(b"%d" % n)
    served.turn_until(lambda: s.content.requests == 5)
    served.seen.append("go")
    counts = set()
    for _ in range(200):
        served.loop.turn(1)
        counts.add(len(served.seen))
    assert len(counts) > 3


assert Session


def test_who_comes_when_a_turn_is_used_up_is_served_in_another(tmp_path: Path) -> None:
    """So the functions of many clients that come at once do not make one long turn."""
    (tmp_path / "once.py").write_text("def serve(s): s.send_to_client(b'hi')\n")
    text = (f"stream {{ py_path {tmp_path}; py_import once; "
            "server { listen 127.0.0.1:@a@; py_content once.serve; } }")
    with InProcess(text) as served:
        budget = served.loop.get(TurnBudget)
        client = served.connect()
        budget.has_share(None)
        budget.charge(TURN_NS)
        served.loop.turn(100)
        (s,) = served.sessions
        assert (None, 0) == (s.content, s.status)
        assert b"hi" == served.read(client)
        running.limit_of(served.loop).close()
