"""modules/py/filters.py: what a TCP session's filter gets, and what comes of what it returns."""

from __future__ import annotations

import contextlib
import gc
import socket
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.event import pump, splice
from ngxstream.event.filtered import FilteredHalf
from ngxstream.modules.py import filters_results
from ngxstream.scripting import HOLD, Filter, running
from tests.support.in_process import InProcess
from tests.support.udp_filters import IMPORTS
from tests.support.waiting import wait_until


class Talk:
    """A client and a server, and a TCP session with a filter between them, all by hand."""

    def __init__(self, folder: Path, code: str, lines: str = "", *, name: str = "F",
                 before: bytes = b"", buffers: int = 0) -> None:
        """Args: code: the module; lines: of the server; before: sent before a server is there"""
        (folder / "f.py").write_text(IMPORTS + code)
        self.listener = socket.create_server(("127.0.0.1", 0))
        if buffers:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
            lines += f" proxy_socket_sndbuf {buffers};"
        self.listener.setblocking(False)
        port = self.listener.getsockname()[1]
        self.served = InProcess(
            f"stream {{ py_import f from {folder}/f.py; server {{ listen 127.0.0.1:@a@; "
            f"proxy_pass 127.0.0.1:{port}; py_filter f.{name}; {lines} }} }}"
        )
        self.loop = self.served.loop
        self.client = self.served.connect()
        self.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if before:
            self.client.send(before)
        self.server: Any = self.turn_until(self._accept, "the connection")
        self.turn_until(lambda: self.s.status or self.s.content.up is not None, "the relay")
        self.streams: dict[socket.socket, bytes] = {self.client: b"", self.server: b""}
        self.over: set[socket.socket] = set()

    def _accept(self) -> socket.socket | None:
        with contextlib.suppress(BlockingIOError):
            sock, _ = self.listener.accept()
            sock.setblocking(False)
            return sock
        return None

    @property
    def s(self) -> Any:
        """The session."""
        return self.served.sessions[0]

    def look(self) -> None:
        """Turn once and read what came."""
        self.loop.turn(wait_ms=1)
        for sock in self.streams:
            with contextlib.suppress(BlockingIOError, ConnectionResetError):
                while piece := sock.recv(1 << 16):
                    self.streams[sock] += piece
                self.over.add(sock)

    def turn_until(self, done: Callable[[], Any], what: str = "") -> Any:
        """Turn until something holds."""

        def turn() -> Any:
            self.loop.turn(wait_ms=1)
            return done()

        return wait_until(turn, what=what, every=0.001)

    def _until(self, sock: socket.socket, data: bytes) -> None:
        def is_there() -> bool:
            self.look()
            return len(self.streams[sock]) >= len(data)

        wait_until(is_there, what=f"{data[:100]!r}", every=0.001)
        assert data == self.streams[sock]

    def seen(self, data: bytes) -> None:
        """Wait until the server has this, all in all."""
        self._until(self.server, data)

    def got(self, data: bytes) -> None:
        """Wait until the client has this, all in all."""
        self._until(self.client, data)

    def ends(self) -> None:
        """Wait until the session has ended and both sides have seen it."""

        def are_over() -> bool:
            self.look()
            return bool(self.s.status)

        wait_until(are_over, what="the end", every=0.001)
        for _ in range(3):
            self.look()

    def errors(self) -> list[str]:
        """Return the error lines."""
        return [line for level, line in self.served.target.lines if level in ("error", "alert")]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.served.close()
        running.limit_of(self.loop).close()  # its timers would outlive the test
        for sock in (self.listener, self.server):
            sock.close()


UPPER = """
class F(Filter):
    def from_client(self, data):
        assert type(data) is bytes
        return data.upper()

    def from_upstream(self, data):
        return data.title()

    def client_end(self, held):
        assert held == b""
        return b"<end>"

    def upstream_end(self, held):
        return b"<END>"
"""
LATE = UPPER.replace("    def ", "    async def ").replace(
    "return data", "await sleep(0); return data"
)
KINDS = {"plain": UPPER, "async": LATE}


@pytest.mark.effect("py_filter")
@pytest.mark.parametrize("half_close", ["", "proxy_half_close on;"])
@pytest.mark.parametrize("kind", KINDS)
def test_both_directions_pass_and_their_ends_are_told(
    kind: str, half_close: str, tmp_path: Path
) -> None:
    """What a method returns for the end is behind everything, and in front of the FIN."""
    with Talk(tmp_path, KINDS[kind], half_close) as talk:
        talk.client.send(b"hello")
        talk.seen(b"HELLO")
        talk.server.send(b"good day")
        talk.got(b"Good Day")
        talk.client.shutdown(socket.SHUT_WR)
        talk.seen(b"HELLO<end>")
        if half_close:
            talk.turn_until(lambda: talk.look() or talk.server in talk.over)
            talk.server.send(b"bye")
            talk.got(b"Good DayBye")
            talk.server.shutdown(socket.SHUT_WR)
        talk.ends()
        assert b"Good Day" + (b"Bye<END>" if half_close else b"") == talk.streams[talk.client]
        assert 200 == talk.s.status
        assert {talk.client, talk.server} == talk.over


@settings(max_examples=25)
@given(
    pieces=st.lists(st.text("ab\n", min_size=1, max_size=12).map(str.encode), max_size=8),
    is_whole=st.booleans(),
)
def test_what_is_held_comes_again(
    pieces: list[bytes], is_whole: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """However lines are cut, the server gets them whole; what is held at the end is returned."""
    code = """
class F(Filter):
    def from_client(self, data):
        if not data.endswith(b"\\n"):
            return HOLD
        return b"[" + data + b"]"

    def client_end(self, held):
        return b"<" + held + b">"
"""
    if is_whole:
        pieces = [b"".join(pieces)] if pieces else []
    with Talk(tmp_path_factory.mktemp("hold"), code, "proxy_half_close on;") as talk:
        expected = held = b""
        sent = 0
        for piece in pieces:  # each is read by itself
            talk.client.send(piece)
            sent += len(piece)
            talk.turn_until(lambda at=sent: talk.s.content.up.received == at)
            held += piece
            if held.endswith(b"\n"):
                expected += b"[" + held + b"]"
                held = b""
        talk.client.shutdown(socket.SHUT_WR)
        talk.seen(expected + b"<" + held + b">")


@pytest.mark.parametrize("kind", KINDS)
def test_what_preread_has_read_passes_and_the_header_does_not(kind: str, tmp_path: Path) -> None:
    """The PROXY header first, then what the filter makes of the bytes, without another event."""
    lines = "ssl_preread on; proxy_protocol on;"
    with Talk(tmp_path, KINDS[kind], lines, before=b"hello") as talk:
        talk.turn_until(lambda: talk.look() or talk.streams[talk.server].endswith(b"HELLO"))
        assert talk.streams[talk.server].startswith(b"PROXY TCP4 127.0.0.1 127.0.0.1 ")
        assert 5 == talk.s.content.up.received


def test_a_direction_without_a_method_goes_its_usual_way(tmp_path: Path) -> None:
    """A bulky one moves to splice; what a script sends into it keeps its place."""
    code = """
class F(Filter):
    def from_client(self, data):
        self.session.send_to_client(b"!")
        return None
"""
    with Talk(tmp_path, code) as talk:
        content = talk.s.content
        assert (FilteredHalf, pump.Half) == (type(content.up), type(content.down))
        bulk = b"x" * (8 << 20)
        left = memoryview(bulk)

        def push_on() -> bool:
            nonlocal left
            with contextlib.suppress(BlockingIOError):
                left = left[talk.server.send(left):]
            return isinstance(content.down, splice.SpliceHalf) and content.down.pipe is not None

        talk.turn_until(push_on, "bytes in a pipe")
        talk.client.send(b"?")
        talk.turn_until(lambda: content.down.behind)

        def is_through() -> bool:
            push_on()
            talk.look()
            return len(talk.streams[talk.client]) == len(bulk) + 1

        wait_until(is_through)
        found = talk.streams[talk.client]
        assert b"!" == found.replace(b"x", b"")
        assert 0 < found.index(b"!") <= len(bulk)


def test_a_session_that_needs_no_filter_has_the_usual_halves(tmp_path: Path) -> None:
    """Its function returned None."""
    with Talk(tmp_path, "def F(session): return None\n") as talk:
        assert (pump.Half, pump.Half) == (type(talk.s.content.up), type(talk.s.content.down))
        talk.client.send(b"a")
        talk.seen(b"a")


@pytest.mark.parametrize("method", ["from_client", "from_client_batch"])
def test_a_batch_method_is_for_tcp_too_where_there_is_no_other(method: str, tmp_path: Path) -> None:
    """It is given a list of one piece."""
    other = "    def from_client(self, data): return data.upper()\n"
    code = f"""
class F(Filter):
    def from_client_batch(self, datagrams):
        return [b"<", *datagrams, b">"]
{other if method == "from_client" else ""}
"""
    with Talk(tmp_path, code) as talk:
        talk.client.send(b"a")
        talk.seen(b"A" if method == "from_client" else b"<a>")


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("data", b"a"), ("bytearray(data)", b"a"), ("memoryview(data)", b"a"), ("None", b""),
        ("b''", b""), ("[]", b""), ("[data, b'', bytearray(b'b')]", b"ab"), ("(data, data)", b"aa"),
    ],
)
def test_what_may_be_returned(result: str, expected: bytes, tmp_path: Path) -> None:
    """Bytes of any kind, several, nothing."""
    code = f"""
class F(Filter):
    def from_client(self, data):
        return {result} if data != b"." else data
"""
    with Talk(tmp_path, code) as talk:
        talk.client.send(b"a")
        talk.turn_until(lambda: talk.s.content.up.received == 1)
        talk.client.send(b".")
        talk.seen(expected + b".")


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return 7", "TypeError: from_client() returned int, not bytes, None or a list of bytes"),
        ("return 'text'", "TypeError: from_client() returned str, not bytes"),
        ("return [b'a', None]", "TypeError: from_client() returned a list of NoneType, not"),
        ("return {}", "TypeError: from_client() returned dict, not bytes"),
        ("1 / 0", "ZeroDivisionError: division by zero in "),
        ("while True: pass", "TimeLimitError: it takes more than 20"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt in "),
        ("self.session.send_to_client('x')", "TypeError: bytes are sent, not str in "),
    ],
)
def test_a_failure_ends_its_session(body: str, said: str, is_late: bool, tmp_path: Path) -> None:
    """With status 500 and one line; nothing of what failed is sent."""
    code = f"""
class F(Filter):
    {"async " if is_late else ""}def from_client(self, data):
        {"await sleep(0)" if is_late else "pass"}
        {body}
"""
    with Talk(tmp_path, code, "py_time_limit 20ms;") as talk:
        talk.client.send(b"a")
        talk.ends()
        (line,) = talk.errors()
        assert f'"f.F" failed: {said}' in line
        assert (500, b"") == (talk.s.status, talk.streams[talk.server])


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def F(session): return 7\n", "TypeError: it returned int, not a Filter or None"),
        ("def F(session): 1 / 0\n", "ZeroDivisionError: division by zero in "),
        ("class F(Filter):\n    def __init__(self, session): 1 / 0\n", "ZeroDivisionError: "),
        ("def F(session): session.send_to_upstream(b'x')\n", "there is no upstream yet in "),
    ],
)
def test_a_filter_that_cannot_be_made_ends_its_session(
    code: str, said: str, tmp_path: Path
) -> None:
    """Its bytes go nowhere."""
    with Talk(tmp_path, code, "ssl_preread on;", before=b"hello") as talk:
        talk.ends()
        (line,) = talk.errors()
        assert said in line
        assert (500, b"") == (talk.s.status, talk.streams[talk.server])


@pytest.mark.parametrize("end", ["client_end", "upstream_end"])
def test_a_failure_at_an_end(end: str, tmp_path: Path) -> None:
    """Is one like others; HOLD can be no answer there."""
    code = f"class F(Filter):\n    def {end}(self, held): return HOLD\n"
    with Talk(tmp_path, code) as talk:
        (talk.client if end == "client_end" else talk.server).shutdown(socket.SHUT_WR)
        talk.ends()
        (line,) = talk.errors()
        assert f"TypeError: {end}() cannot return HOLD" in line


def test_what_is_held_is_bounded(tmp_path: Path) -> None:
    """A filter that has py_buffer_size and wants more ends its session."""
    code = "class F(Filter):\n    def from_client(self, data): return HOLD\n"
    with Talk(tmp_path, code, "py_buffer_size 4k;") as talk:
        talk.client.send(bytes(4095))
        talk.turn_until(lambda: talk.s.content.up.received == 4095)
        talk.loop.turn(wait_ms=0)
        assert not talk.s.status
        talk.client.send(b"xy")
        talk.ends()
        (line,) = talk.errors()
        assert "BufferError: it holds 4096 bytes, as many as py_buffer_size" in line
        assert 500 == talk.s.status


def test_what_a_filter_makes_is_bounded(tmp_path: Path) -> None:
    """100 MB of one byte, towards a server that does not read them."""
    code = "class F(Filter):\n    def from_client(self, data): return bytes(100 << 20)\n"
    with Talk(tmp_path, code) as talk:
        talk.client.send(b"x")
        talk.turn_until(lambda: talk.s.status)
        (line,) = talk.errors()
        assert "bytes wait to be sent, more than py_buffer_size allows" in line
        assert 500 == talk.s.status


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_that_pass_are_never_too_many(kind: str, tmp_path: Path) -> None:
    """What was given may wait besides: a server that stalls stops its client, and no session."""
    lines = "py_buffer_size 4k; proxy_half_close on;"
    with Talk(tmp_path, KINDS[kind], lines, buffers=4096) as talk:
        data = b"ab" * (1 << 18)
        left: memoryview | None = memoryview(data)
        content = talk.s.content

        def is_stuck() -> bool:
            nonlocal left
            with contextlib.suppress(BlockingIOError):
                left = left[talk.client.send(left):]
            return content.up.pending is not None

        talk.turn_until(is_stuck, "a stall")
        assert content.up.waiting() <= 4096
        received = content.up.received
        for _ in range(10):
            talk.loop.turn(wait_ms=0)
        assert received == content.up.received

        def is_through() -> bool:
            nonlocal left
            if left:
                with contextlib.suppress(BlockingIOError):
                    left = left[talk.client.send(left):]
            elif left is not None:
                talk.client.shutdown(socket.SHUT_WR)
                left = None
            talk.look()
            return talk.server in talk.over

        wait_until(is_through, every=0.0001)
        assert data.upper() + b"<end>" == talk.streams[talk.server]


def test_a_script_cannot_send_more_than_may_wait(tmp_path: Path) -> None:
    """BufferError, and the session goes on; to a direction that has ended nothing can be sent."""
    code = """
said = []
class F(Filter):
    def from_client(self, data):
        s = self.session
        for send, size in ((s.send_to_client, 4097), (s.send_to_upstream, 4096)):
            try:
                send(b"x" * size)
            except BufferError as error:
                said.append(str(error))
        return data

    def client_end(self, held):
        self.session.send_to_upstream(b"last")

    def from_upstream(self, data):
        try:
            self.session.send_to_upstream(b"too late")
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
        return data
"""
    with Talk(tmp_path, code, "py_buffer_size 4k; proxy_half_close on;") as talk:
        talk.client.send(b"a")
        talk.seen(b"x" * 4096 + b"a")
        talk.client.shutdown(socket.SHUT_WR)
        talk.seen(b"x" * 4096 + b"alast")
        talk.server.send(b"b")
        talk.got(b"b")
        hook = talk.served.conf.servers[0].py.filter
        assert [
            "0 bytes wait to be sent already", "ScriptError: this direction has ended"
        ] == hook.call.from_client.__globals__["said"]


def test_what_is_sent_besides_comes_first(tmp_path: Path) -> None:
    """Within a call, and from elsewhere at any time."""
    code = """
class F(Filter):
    async def from_client(self, data):
        self.session.send_to_upstream(b"1")
        await sleep(0)
        self.session.send_to_upstream(b"2")
        self.session.send_to_client(b"ok")
        return data
"""
    with Talk(tmp_path, code) as talk:
        talk.client.send(b"3")
        talk.seen(b"123")
        talk.got(b"ok")
        talk.s.module_ctx("py").session.send_to_client(b" later")
        talk.got(b"ok later")


def test_a_filter_may_deny(tmp_path: Path) -> None:
    """What the call returns is not sent, what was sent before is."""
    code = """
class F(Filter):
    def from_client(self, data):
        if data == b"bad":
            self.session.send_to_client(b"no")
            self.session.deny()
        return data
"""
    with Talk(tmp_path, code) as talk:
        talk.client.send(b"good")
        talk.seen(b"good")
        talk.client.send(b"bad")
        talk.ends()
        assert (403, [], b"good", b"no") == (
            talk.s.status, talk.errors(), talk.streams[talk.server], talk.streams[talk.client]
        )


def test_a_coroutine_that_waits_is_stopped_with_its_session(tmp_path: Path) -> None:
    """By proxy_timeout: nothing moves; its finally runs."""
    code = """
seen = []
class F(Filter):
    async def from_client(self, data):
        try:
            await sleep(3600)
        finally:
            seen.append(self.session.is_ended)
"""
    with Talk(tmp_path, code, "proxy_timeout 50ms;") as talk:
        talk.client.send(b"x")
        talk.ends()
        assert (200, []) == (talk.s.status, talk.errors())
        hook = talk.served.conf.servers[0].py.filter
        assert [True] == hook.call.from_client.__globals__["seen"]


def test_a_coroutine_that_denies_and_waits_is_not_waited_for(tmp_path: Path) -> None:
    """The session ends at once."""
    code = """
class F(Filter):
    async def from_client(self, data):
        self.session.deny()
        await sleep(3600)
"""
    with Talk(tmp_path, code) as talk:
        talk.client.send(b"x")
        talk.ends()
        assert (403, []) == (talk.s.status, talk.errors())


@pytest.mark.parametrize("how", ["close", "failure"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_a_session_that_has_ended_is_kept(kind: str, how: str, tmp_path: Path) -> None:
    """Its filter goes without the help of the cyclic collector, which no worker has."""
    code = KINDS[kind].replace("return data.title()", "return 7 if data == b'7' else data.title()")
    with Talk(tmp_path, code) as talk:
        talk.client.send(b"a")
        talk.seen(b"A")
        made = weakref.ref(talk.s.content.up.filter._take.__self__)
        gc.collect()
        gc.disable()
        try:
            if how == "close":
                talk.client.shutdown(socket.SHUT_WR)
            else:
                talk.server.send(b"7")
            talk.ends()
            talk.served.sessions.clear()
            assert made() is None
        finally:
            gc.enable()


def test_a_kind_of_filter_that_is_made_for_one_session_is_not_kept(tmp_path: Path) -> None:
    """A function may make a class of its own each time."""
    code = """
def F(session):
    class Own(Filter):
        def from_client(self, data):
            return data.upper()
    return Own(session)
"""
    with Talk(tmp_path, code) as talk:
        talk.client.send(b"a")
        talk.seen(b"A")
        filters = talk.served.conf.servers[0].filters
        assert 1 == len(filters._plans)
        talk.client.shutdown(socket.SHUT_WR)
        talk.ends()
        talk.served.sessions.clear()
        gc.collect()
        assert 0 == len(filters._plans)


def test_a_rated_session_has_its_rate(tmp_path: Path) -> None:
    """Of what the client sends; what the filter makes of it is twice as much."""
    code = "class F(Filter):\n    def from_client(self, data): return data + data\n"
    with Talk(tmp_path, code, "proxy_upload_rate 10;") as talk:
        talk.client.send(b"x" * 30)
        up = talk.s.content.up
        talk.turn_until(lambda: talk.look() or up.limiter.paused)
        assert up.received <= 20
        talk.seen(b"x" * 60)


# -- what a method returned ------------------------------------------------------------------------


class Own(Filter):
    """One that sees the client's datagrams."""

    def from_client(self, data: bytes) -> bytes:
        """Return them."""
        return data


def test_a_plan_has_the_methods_of_a_class() -> None:
    """Those it has not are the base's."""
    names = ("from_client", "from_client_batch", "client_end")
    plan = filters_results.plan_of(Own, names)
    assert (True, False, False) == (plan.has_single, plan.has_batch, plan.has_end)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (None, []), (b"a", [b"a"]), (b"", [b""]), ([], []), ([b"a", b""], [b"a", b""]),
        ((b"a", bytearray(b"b"), memoryview(b"c")), [b"a", b"b", b"c"]), (bytearray(b"x"), [b"x"]),
    ],
)
def test_datagrams_that_may_be_returned(made: Any, expected: list[bytes]) -> None:
    """All of them are bytes of their own afterwards."""
    found = filters_results.datagrams("m", made, 1)
    assert expected == found
    assert {bytes} >= set(map(type, found))


@pytest.mark.parametrize("made", [7, "x", [1], [b"a", None], {}, HOLD, [HOLD], iter([b"a"])])
def test_what_no_datagrams_are(made: Any) -> None:
    """It says what was returned."""
    with pytest.raises(TypeError, match=r"^m\(\) (returned|cannot return) "):
        filters_results.datagrams("m", made, 1)


def test_only_so_many_datagrams_come_of_one_call() -> None:
    """Some for each, and some more."""
    most = filters_results.EACH * 3 + filters_results.MORE
    assert most == len(filters_results.datagrams("m", [b""] * most, 3))
    with pytest.raises(BufferError):
        filters_results.datagrams("m", [b""] * (most + 1), 3)
