"""modules/proxy/tcp.py: what is set on the sockets, how long is waited, and what is logged."""

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.event.poller import IN
from ngxstream.modules.proxy.tcp import TcpProxy
from ngxstream.stream import endings
from ngxstream.stream.peer_state import UNHEALTHY
from tests.support.in_process import InProcess


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Close everything at the end."""
    with ExitStack() as made:
        yield made


def listener(stack: ExitStack, backlog: int = 8) -> socket.socket:
    """Return a server that accepts by hand."""
    server = stack.enter_context(socket.socket())
    server.bind(("127.0.0.1", 0))
    server.listen(backlog)
    return server


def proxied(stack: ExitStack, server: socket.socket, lines: str = "") -> tuple[InProcess, Any]:
    """Serve a proxy before a server and connect a client; return its session's content."""
    port = server.getsockname()[1]
    text = f"listen 127.0.0.1:@main@; {lines} proxy_pass 127.0.0.1:{port};"
    served = stack.enter_context(InProcess(f"stream {{ server {{ {text} }} }}"))
    served.connect()
    served.turn_until(lambda: served.sessions, "the session")
    return served, served.sessions[0].content


@pytest.mark.parametrize(("lines", "expected"), [("", True), ("tcp_nodelay off;", False)])
def test_small_pieces_are_not_waited_with(stack: ExitStack, lines: str, expected: bool) -> None:
    """TCP_NODELAY is set towards the server unless it is off; a client's has its listener's."""
    served, content = proxied(stack, listener(stack), lines)
    served.turn_until(lambda: content.connected, "the connection")
    assert expected == bool(content.pc.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


def test_a_server_that_does_not_answer_is_waited_for_as_long_as_is_said(stack: ExitStack) -> None:
    """A connect has proxy_connect_timeout, then it has failed."""
    server = listener(stack, 0)
    for _ in range(2):  # its queue is full: the next one waits
        filler = stack.enter_context(socket.socket())
        filler.setblocking(False)
        filler.connect_ex(server.getsockname())
    served, content = proxied(stack, server, "proxy_connect_timeout 7s;")
    assert not content.connected
    loop = served.loop
    assert loop.now_ms < content.deadline <= loop.now_ms + 7000
    content.on_timeout()
    (line,) = [text for level, text in served.target.lines if level == "error"]
    assert "upstream timed out (110: Connection timed out) while connecting to upstream" in line
    assert 502 == served.sessions[0].status


@pytest.mark.parametrize(
    ("where", "half", "doing"),
    [
        ("on_write_error", "down", "sending to client"),
        ("on_write_error", "up", "sending to upstream"),
        ("on_read_error", "up", "reading from client"),
        ("on_read_error", "down", "reading from upstream"),
    ],
)
def test_an_error_is_told_with_what_was_done(
    stack: ExitStack, where: str, half: str, doing: str
) -> None:
    """The log says whose side failed; a failed write ends the session, a failed read its side."""
    served, content = proxied(stack, listener(stack))
    served.turn_until(lambda: content.connected, "the connection")
    getattr(content, where)(getattr(content, half), OSError(errno.ETIMEDOUT, "x"))
    lines = [text for _, text in served.target.lines if "110: Connection timed out" in text]
    assert f"while proxying and {doing}, client: 127.0.0.1" in lines[0]
    assert (where == "on_write_error") == bool(served.sessions[0].status)


@pytest.mark.parametrize(
    ("status", "received", "eof", "is_first"),
    [(0, 0, False, False), (0, 5, False, True), (0, 0, True, True), (200, 5, False, False)],
)
def test_a_tls_server_s_first_byte_is_its_first_of_the_session(
    status: int, received: int, eof: bool, is_first: bool
) -> None:
    """An event of TLS alone is none; who has ended notes nothing more."""
    told: list[Any] = []
    registered: list[Any] = []
    asked: list[int] = []
    down = SimpleNamespace(limiter=None, on_event=asked.append, received=received, eof=eof)
    proxy: Any = SimpleNamespace(
        down=down,
        state=SimpleNamespace(first_byte_ms=-1, start_ms=100),
        loop=SimpleNamespace(now_ms=130, register=lambda fd, call: registered.append(call)),
        s=SimpleNamespace(status=status),
        peer=object(),
        pc_fd=7,
        selection=SimpleNamespace(notify=lambda peer, event: told.append(peer)),
    )
    TcpProxy.on_first_tls_event(proxy, IN)
    assert [IN] == asked
    assert is_first == bool(told) == bool(registered)
    if not status:
        assert (30 if is_first else -1) == proxy.state.first_byte_ms


@pytest.mark.parametrize(("words", "ends"), [
    ("", False), ("proxy_next_upstream off;", True), ("proxy_session_drop off;", None),
])
def test_a_session_that_is_being_connected_to_a_withdrawn_server_tries_the_next_one(
    stack: ExitStack, words: str, ends: bool | None
) -> None:
    """As after any failure: a server that is off lets every client wait."""
    silent, alive = listener(stack, 0), listener(stack)
    for _ in range(2):  # its queue is full: the next one waits
        filler = stack.enter_context(socket.socket())
        filler.setblocking(False)
        filler.connect_ex(silent.getsockname())
    lines = "".join(f"server 127.0.0.1:{one.getsockname()[1]};" for one in (silent, alive))
    drop = "" if "drop" in words else "proxy_session_drop on;"
    served = stack.enter_context(InProcess(
        f"stream {{ upstream u {{ zone u 64k; {lines} }} "
        f"server {{ listen 127.0.0.1:@main@; proxy_pass u; {drop} {words} }} }}"
    ))
    served.connect()
    served.turn_until(lambda: served.sessions, "the session")
    (s,), content = served.sessions, served.sessions[0].content
    assert content.peer.sockaddr == silent.getsockname()
    content.peer.state.status |= UNHEALTHY
    content.look_at_server()
    served.loop.turn(0)
    if ends is None:
        assert (content.peer.sockaddr, s.status) == (silent.getsockname(), 0)
    elif ends:
        assert (502, endings.UPSTREAM_UNHEALTHY) == (s.status, s.ending)
    else:
        served.turn_until(lambda: content.connected, "the connection")
        assert content.peer.sockaddr == alive.getsockname()
        content.look_at_server()
        served.loop.turn(0)
        assert 0 == s.status


@pytest.mark.effect("proxy_session_drop")
def test_a_session_is_not_ended_for_a_server_that_is_back(stack: ExitStack) -> None:
    """Between the withdrawal and its turn."""
    one, two = listener(stack), listener(stack)
    lines = "".join(f"server 127.0.0.1:{at.getsockname()[1]};" for at in (one, two))
    served = stack.enter_context(InProcess(
        f"stream {{ upstream u {{ zone u 64k; {lines} }} "
        "server { listen 127.0.0.1:@main@; proxy_pass u; proxy_session_drop on; } }"
    ))
    served.connect()
    served.turn_until(lambda: served.sessions and served.sessions[0].content.connected, "it")
    (s,), content = served.sessions, served.sessions[0].content
    state = content.peer.state
    state.status |= UNHEALTHY
    content.look_at_server()
    state.status &= ~UNHEALTHY
    served.loop.turn(0)
    assert 0 == s.status
    state.status |= UNHEALTHY
    content.look_at_server()
    content.look_at_server()
    served.loop.turn(0)
    assert (200, endings.UPSTREAM_UNHEALTHY) == (s.status, s.ending)


def outcome(stack: ExitStack, slots: int, kinds: str, folder: Path) -> list[Any]:
    """Have a client ask a group of servers; return all that can be told of it.

    Args: kinds: of servers: a for one that answers, d dead, n where no connection may lead to (a
    multicast address), s silent, u answers on a unix socket
    """
    words, names, opened = [], {}, []
    for n, kind in enumerate(kinds):
        if kind == "u":
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(str(folder / f"{slots}{n}"))
            server.listen(8)
            words.append(f"unix:{folder}/{slots}{n}")
        elif kind == "n":
            words.append("224.0.0.1:9")
        else:
            server = listener(stack, 0 if kind == "s" else 8)
            words.append(f"127.0.0.1:{server.getsockname()[1]}")
        if kind == "d":
            server.close()
        elif kind == "s":
            for _ in range(2):  # its queue is full: the next one waits
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(server.getsockname())
        elif kind in "au":
            opened.append(server)
        names[words[-1]] = f"S{n}"
    group = "".join(f"server {word};" for word in words)
    served = stack.enter_context(InProcess(
        f"stream {{ upstream u {{ {group} }} server {{ listen 127.0.0.1:@main@; proxy_pass u; "
        "proxy_connect_timeout 7s; } }", slots=slots,
    ))
    loop = served.loop
    before = loop.free_connections
    client = served.connect()
    served.turn_until(lambda: served.sessions, "the session")
    (s,) = served.sessions
    assert served.conf.servers[0].proxy.is_usual
    content: Any = s.content
    found: list[Any] = []
    while content.pc is not None and not s.status:
        if content.state.peer_name in words and kinds[words.index(content.state.peer_name)] == "s":
            found.append((content.connected, bool(content.tick), content.deadline > loop.now_ms))
            content.on_timeout()
        elif content.connected:
            break
        else:
            loop.turn(wait_ms=5)
    found.append((before - loop.free_connections, s.action, s.status))
    if content.connected:
        client.send(b"question")
        at = [names[word] for word in words].index(names[content.peer_name])
        peer, _ = opened[sum(kind in "au" for kind in kinds[:at])].accept()
        stack.enter_context(peer)
        served.turn_until(lambda: content.up.moved == 8, "the question")
        peer.send(b"answer")
        peer.close()
        served.turn_until(lambda: s.status, "the end")
        found.append((content.counts(), content.down.quick is None))
    served.turn_until(lambda: s.status, "the end")
    loop.turn(wait_ms=0)
    found += [s.status, before - loop.free_connections, loop.live, content.tick]
    found += [
        (names.get(one.peer_name, one.peer_name), one.connect_ms >= 0, one.first_byte_ms >= 0,
         one.session_ms >= 0, one.bytes_sent, one.bytes_received)
        for one in s.states
    ]
    lines = [text for level, text in served.target.lines if level in ("error", "alert", "crit")]
    for word, name in names.items():
        lines = [line.replace(word, name) for line in lines]
    found.append([line.replace(str(served.port("main")), "-") for line in lines])
    tier: Any = served.conf.upstreams[0].balancer.tier
    return [*found, [(peer.state.conns, peer.state.fails) for peer in tier.peers]]


@pytest.mark.parametrize("kinds", ["a", "d", "u", "ua", "da", "dda", "ddd", "sa", "dsa", "s", "du",
                                   "na", "dna", "nu"])
def test_the_usual_way_is_the_general_one(stack: ExitStack, kinds: str, tmp_path: Path) -> None:
    """The usual one is that of a client who has its slot for the server already."""
    general = outcome(stack, 1, kinds, tmp_path)
    assert general == outcome(stack, 2, kinds, tmp_path)
    assert 0 == general[-1][0][0]
