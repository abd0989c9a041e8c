"""A call on a client's socket that fails is logged under the name that nginx knows it by."""

import os
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.clients import tcp_exchange
from tests.support.proxies import ProxyFactory
from tests.support.waiting import wait_until

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() resets


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Keep a process from running."""
    os.kill(pid, signal.SIGSTOP)
    try:
        stat = Path(f"/proc/{pid}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_client_that_has_reset_before_it_is_answered(proxy: ProxyFactory) -> None:
    """The text that `return` cannot send any more is a line at level info."""
    program = proxy("events {} stream { server { listen 127.0.0.1:@in@; return text; } }")
    (worker,) = program.worker_pids()
    with stopped(worker), socket.create_connection(program.address("in")) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    program.wait_log(
        r"\[info\] .*writev\(\) failed \(104: Connection reset by peer\) while returning text, "
        r"client: 127.0.0.1, server: 127.0.0.1:\d+$"
    )


def test_a_client_whose_socket_has_no_file_any_more(proxy: ProxyFactory, tmp_path: Path) -> None:
    """A datagram whose sender's path is gone cannot be answered."""
    at, me = tmp_path / "in", tmp_path / "me"
    program = proxy(
        f"events {{}} stream {{ server {{ listen unix:{at} udp; return text; }} }}",
        expected=(r"sendmsg\(\) failed \(2: No such file",),
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.bind(str(me))
        me.unlink()
        client.sendto(b"x", str(at))
    program.wait_log(
        r"\[alert\] .*sendmsg\(\) failed \(2: No such file or directory\) while returning text, "
        rf"udp client: unix:{me}, server: unix:{at}$"
    )


@pytest.mark.parametrize("served", ["return answer;", "proxy_pass 127.0.0.1:@back@;"])
def test_a_unix_client_without_a_name_cannot_be_answered(
    served: str, proxy: ProxyFactory, tmp_path: Path
) -> None:
    """A datagram without a sender is a session whose answer fails, and nothing is left of it."""
    at = tmp_path / "in"
    program = proxy(
        f"events {{}} stream {{ server {{ listen unix:{at} udp; {served} }} "
        "server { listen 127.0.0.1:@back@ udp; return answer; } }"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", str(at))
    program.wait_log(
        r"\[info\] .*sendmsg\(\) failed \(111: Connection refused\) while .*, udp client: unix:, "
    )


@pytest.mark.parametrize("side", ["client", "upstream"])
def test_a_side_that_has_reset_while_there_is_something_for_it(
    side: str, proxy: ProxyFactory
) -> None:
    """What cannot be sent on any more is a line, at level error where it is the server's doing."""
    program = proxy("events {} stream { server { listen 127.0.0.1:@in@; "
                    "proxy_pass 127.0.0.1:@back@; } }")
    (worker,) = program.worker_pids()
    with (
        socket.create_server(program.address("back")) as server,
        socket.create_connection(program.address("in")) as client,
        server.accept()[0] as peer,
    ):
        program.wait_log("proxy .* connected to")
        # or it looks at both sides once more when it goes on
        wait_until(lambda: processes.is_waiting(worker), what="the worker waits for events")
        sender, leaver = (peer, client) if side == "client" else (client, peer)
        with stopped(worker):
            sender.sendall(b"x")
            leaver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            leaver.close()
        level = "info" if side == "client" else "error"
        program.wait_log(
            rf"\[{level}\] .*writev\(\) failed \(104: Connection reset by peer\) "
            f"while proxying and sending to {side}, "
        )


def test_a_rate_that_is_no_size_is_told_while_connecting(proxy: ProxyFactory) -> None:
    """The value of a rate is looked at when the server is connected."""
    program = proxy(
        "events {} stream { map $protocol $rate { default fast; } server { listen 127.0.0.1:@in@; "
        "proxy_pass 127.0.0.1:@back@; proxy_upload_rate $rate; } "
        "server { listen 127.0.0.1:@back@; return x; } }"
    )
    assert b"x" == tcp_exchange(program.address("in"))
    program.wait_log(
        r'\[error\] .*invalid size "fast" while connecting to upstream, client: 127.0.0.1, '
    )
