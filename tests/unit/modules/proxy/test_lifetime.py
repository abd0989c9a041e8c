"""proxy_session_lifetime: sessions end in time, however busy they are, wherever they go on."""

import contextlib
import socket
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.event.loop import Loop
from ngxstream.modules.proxy import lifetime
from tests.support import ports
from tests.support.backends import BackendFactory
from tests.support.clients import UdpClient
from tests.support.in_process import InProcess, build
from tests.support.proxies import ProxyFactory
from tests.support.udp_in_process import UdpInProcess
from tests.support.waiting import wait_until


@pytest.mark.effect("proxy_session_lifetime")
def test_a_busy_tcp_session_ends() -> None:
    """Though its client goes on sending; the reason says so."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        text = f"proxy_session_lifetime 80ms; proxy_pass 127.0.0.1:{port};"
        with InProcess(f"stream {{ server {{ listen 127.0.0.1:@a@; {text} }} }}") as served:
            client = served.connect()

            def is_over() -> bool:
                with contextlib.suppress(OSError):
                    client.send(b"more")
                return bool(served.sessions and served.sessions[0].status)

            served.turn_until(is_over, "the end")
            (s,) = served.sessions
            assert (200, "lifetime", "proxy") == (s.status, s.ending.reason.word, s.ending.who)  # type: ignore[union-attr]
            assert s.loop.now_ms - s.start_ms >= 80


def test_a_udp_client_goes_on_with_a_new_session() -> None:
    """Its next datagram begins one."""
    port = ports.free_port()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("127.0.0.1", 0))
        text = f"proxy_session_lifetime 50ms; proxy_pass 127.0.0.1:{server.getsockname()[1]};"
        with UdpInProcess(f"stream {{ server {{ listen 127.0.0.1:{port} udp; {text} }} }}") as one:
            client.connect(one.address())
            numbers: set[int] = set()

            def has_two() -> bool:
                client.send(b"?")
                one.loop.turn(wait_ms=5)
                numbers.update(s.c.number for s in one.loop.sessions)
                return len(numbers) >= 2

            wait_until(has_two)


def test_the_time_counts_from_when_the_client_came() -> None:
    """A session that is made anew in another process has what is left."""
    loop = Loop(SimpleNamespace(level=0))  # type: ignore[arg-type]
    cleanups: list[Callable[[], None]] = []
    s: Any = SimpleNamespace(loop=loop, start_ms=loop.now_ms - 700, add_cleanup=cleanups.append)
    lifetime.begin(s, 1000)
    (cancel,) = cleanups
    timer: Any = cancel.__self__  # type: ignore[attr-defined]
    assert loop.now_ms + 300 == timer.deadline
    assert loop.live == 0  # it keeps no worker alive
    cancel()
    loop.poller.close()


def test_a_session_is_as_old_after_a_reload(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """It goes on in another worker, and ends there."""
    program = ngxstream(
        "events {} stream { log_format t '$session_end_reason $session_time'; "
        "access_log logs/access.log t; proxy_session_lifetime 3s; "
        f"server {{ listen 127.0.0.1:@in@ udp; proxy_pass {backends.udp().text}; }} }}"
    )
    with UdpClient(program.address("in")) as client:
        assert b"hello" == client.exchange(b"hello")
        program.reload()
        stop = threading.Event()

        def go_on() -> None:
            while not stop.wait(0.02):
                with contextlib.suppress(OSError):
                    client.send(b"more")

        sender = threading.Thread(target=go_on)
        sender.start()
        try:
            line = wait_until(program.access_log)[0]
        finally:
            stop.set()
            sender.join()
    reason, seconds = line.split()
    assert reason == "lifetime"
    assert float(seconds) >= 3


@pytest.mark.refusal("proxy_session_lifetime")
def test_nonsense_is_refused() -> None:
    """It is a time."""
    text = "stream { server { listen 9; proxy_session_lifetime soon; proxy_pass 127.0.0.1:9; } }"
    assert '"proxy_session_lifetime" directive invalid value' in build(text).error
