"""return: a text to every client."""

import errno
import socket
from types import SimpleNamespace
from typing import Any

from ngxstream.core.codes import AGAIN
from ngxstream.modules import return_
from ngxstream.stream import endings
from ngxstream.stream.endings import Ending
from tests.support.in_process import InProcess

TEXT = "stream {{ server {{ listen 127.0.0.1:@main@; {} }} }}"


def test_the_text_is_sent_and_the_session_is_over() -> None:
    """The evaluated text, then the end of the stream; the session counts what was sent."""
    with InProcess(TEXT.format('return "hello $protocol";')) as served:
        assert b"hello TCP" == served.read(served.connect())
        (s,) = served.sessions
        assert (200, 9) == (s.status, s.c.sent)
        assert 0 == served.loop.live


def test_an_empty_text_closes_at_once() -> None:
    """Nothing is sent; the status is 200."""
    with InProcess(TEXT.format("return $upstream_addr;")) as served:
        assert b"" == served.read(served.connect())
        assert 200 == served.sessions[0].status


def test_the_last_content_directive_counts() -> None:
    """return after pass: no error, the later one wins."""
    with InProcess(TEXT.format("pass 127.0.0.1:1; return hi;")) as served:
        assert b"hi" == served.read(served.connect())


class Client:
    """A client that takes as many bytes a time as it is told to."""

    is_udp = False
    fd = 5

    def __init__(self, *takes: int | OSError) -> None:
        self.takes = list(takes)
        self.data = b""

    def send(self, data: bytes) -> int:
        """Take some, or answer AGAIN, or fail."""
        take = self.takes.pop(0)
        if isinstance(take, OSError):
            raise take
        if take == AGAIN:
            return AGAIN
        self.data += data[:take]
        return min(take, len(data))


class Timer:
    """A timer that fires when the test says so."""

    def __init__(self, delay_ms: int, callback: Any) -> None:
        self.delay_ms = delay_ms
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        """Note it."""
        self.is_cancelled = True


class Session:
    """A session whose server returns ten bytes."""

    def __init__(self, client: Client) -> None:
        self.c = client
        self.log = SimpleNamespace(level=0)
        self.action = ""
        self.status = 0
        self.content: Any = None
        self.timers: list[Timer] = []
        self.errors: list[tuple[int, str, int | None]] = []
        text = SimpleNamespace(get=lambda s: b"0123456789")
        self.server = SimpleNamespace(return_=return_.ReturnConf(text))  # type: ignore[arg-type]
        self.loop = SimpleNamespace(
            call_later=self.call_later,
            register=lambda fd, handler: None,
            poller=SimpleNamespace(want_write=lambda fd: None),
        )

    def call_later(self, delay_ms: int, callback: Any) -> Timer:
        """Make a timer."""
        self.timers.append(Timer(delay_ms, callback))
        return self.timers[-1]

    def end(self, status: int, ending: Ending) -> None:
        """Note the end, and why."""
        self.ending = ending
        self.finalize(status)

    def finalize(self, status: int) -> None:
        """Note the end."""
        self.status = status
        if self.content is not None:
            self.content.close()

    def log_error(self, level: int, message: str, err: int | None = None) -> None:
        """Note a line."""
        self.errors.append((level, message, err))

    def client_error(self, error: OSError, message: str) -> None:
        """Note a line."""
        self.errors.append((0, message, error.errno))

    def running(self) -> list[Timer]:
        """Return the timers that would still fire."""
        return [timer for timer in self.timers if not timer.is_cancelled]


def begun(*takes: int | OSError) -> Session:
    """Begin to return a text to a client that takes so much."""
    s = Session(Client(*takes))
    return_.handle(s)  # type: ignore[arg-type]
    return s


def test_a_text_goes_in_pieces() -> None:
    """What does not fit waits for room; every piece that went gives five more seconds."""
    s = begun(3, AGAIN, 4, AGAIN, 9)
    (timer,) = s.running()
    assert (5000, 0) == (timer.delay_ms, s.status)
    s.content.on_event(0)
    (timer,) = s.running()
    assert (2, 0) == (len(s.timers), s.status)
    s.content.on_event(0)
    assert (b"0123456789", 200, []) == (s.c.data, s.status, s.running())
    s.content.on_event(0)


def test_no_progress_keeps_the_timer() -> None:
    """An event without room does not give more time."""
    s = begun(3, AGAIN, AGAIN)
    s.content.on_event(0)
    assert 1 == len(s.timers) == len(s.running())


def test_a_client_that_takes_nothing_is_let_go() -> None:
    """Five seconds without room end the session with 200, as in nginx."""
    s = begun(AGAIN)
    s.timers[0].callback()
    assert (200, [(7, "connection timed out", errno.ETIMEDOUT)]) == (s.status, s.errors)
    assert endings.CLIENT_TIMEOUT == s.ending


def test_a_failing_send_is_a_500() -> None:
    """The error is logged for what it is."""
    s = begun(OSError(errno.EPIPE, "x"))
    assert (500, [(0, "writev() failed", errno.EPIPE)]) == (s.status, s.errors)
    assert endings.CLIENT_RST == s.ending


def test_a_full_udp_socket_is_tried_again() -> None:
    """Where nginx gives up (`shared connection is busy`), the datagram waits a little."""
    client = Client(AGAIN, AGAIN, 10)
    client.is_udp = True  # type: ignore[misc]
    s = Session(client)
    return_.handle(s)  # type: ignore[arg-type]
    for _ in range(2):
        retry = s.running()[-1]
        assert return_.UDP_RETRY_MS == retry.delay_ms
        retry.cancel()
        retry.callback()
    assert (b"0123456789", 200, []) == (s.c.data, s.status, s.running())


def test_a_large_text_arrives_whole() -> None:
    """A text larger than the socket's buffers is sent as room comes."""
    texts = ["x" * 1000, *(f"$m{n}" * 10 for n in range(4))]
    maps = "".join(
        f'map $protocol $m{n} {{ default "{text}"; }}' for n, text in enumerate(texts)
    )
    text = f"stream {{ {maps} server {{ listen 127.0.0.1:@main@; return $m4; }} }}"
    with InProcess(text) as served:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(served.address())
        client.setblocking(False)
        served.clients.append(client)
        assert 10_000_000 == len(served.read(client))
