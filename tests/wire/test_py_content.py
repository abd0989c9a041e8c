"""py_content in the running program: one worker and four, each event method, TLS, UDP, reloads."""

from __future__ import annotations

import contextlib
import signal
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import proxies
from tests.support.awaited import module
from tests.support.backends import BackendFactory
from tests.support.certs import Authority
from tests.support.clients import TcpClient, UdpClient, tcp_exchange, udp_exchange
from tests.support.waiting import wait_until

Start = Callable[..., proxies.Proxy]
APP = """
async def echo(s):
    async for data in s:
        s.send_to_client(data)
        await s.drain()

async def once(s):
    s.send_to_client(b"old:" + await s.receive())

async def chat(s):
    async for data in s:
        s.send_to_client(b"old:" + data)

async def relay(s):
    port = int(await s.readuntil())
    async with await connect("127.0.0.1", port) as stream:
        await gather(up(s, stream), down(s, stream))

async def up(s, stream):
    async for data in s:
        await stream.send(data)
    await stream.send_eof()

async def down(s, stream):
    async for data in stream:
        s.send_to_client(data)
        await s.drain()

async def ask(s):
    try:
        r = await fetch((await s.readuntil()).decode().strip(), timeout=10)
        s.send_to_client(f"{r.status} {r.text()}".encode())
    except Exception as error:
        s.send_to_client(type(error).__name__.encode())

async def waits(s):
    s.send_to_client(b"begun")
    try:
        await s.receive()
    finally:
        s.log.warning("the end of a function")
"""


@pytest.fixture(params=[1, 4], ids=["one worker", "four workers"])
def start(request: pytest.FixtureRequest, ngxstream: proxies.ProxyFactory,
          tmp_path: Path) -> Start:
    """Give what runs the program, with one worker and with four."""
    imported = module(tmp_path, APP)

    def run(servers: str, events: str = "", main: str = "") -> proxies.Proxy:
        return ngxstream(
            f"{main} worker_processes {request.param}; events {{ {events} }} "
            f"stream {{ {imported} {servers} }}"
        )

    return run


@pytest.mark.parametrize("use", ["epoll", "poll", "select"])
def test_bytes_go_there_and_back(start: Start, use: str) -> None:
    """Much more than fits anywhere, by every event method; the end comes behind all of it."""
    program = start(
        "server { listen 127.0.0.1:@in@; py_content app.echo; }", f"use {use};"
    )
    data = bytes(range(256)) * 8192
    with TcpClient(program.address("in")) as client:
        client.sock.setblocking(False)
        got, sent = bytearray(), 0

        def moves() -> bool:
            nonlocal sent
            with contextlib.suppress(BlockingIOError):
                sent += client.sock.send(data[sent : sent + 100_000])
            with contextlib.suppress(BlockingIOError):
                got.extend(client.sock.recv(1 << 20))
            return len(got) == len(data)

        wait_until(moves, every=0)
        assert data == bytes(got)
        client.half_close()
        client.sock.setblocking(True)
        assert b"" == client.recv()


def test_a_function_relays(start: Start, backends: BackendFactory) -> None:
    """Two coroutines, a direction each, for several clients at a time."""
    server = backends.tcp()
    program = start("server { listen 127.0.0.1:@in@; py_content app.relay connections=1; }")
    clients = [TcpClient(program.address("in")) for _ in range(5)]
    for n, client in enumerate(clients):
        client.send(b"%d\n" % server.port)
        assert b"%d" % n * 1000 == client.exchange(b"%d" % n * 1000)
    for client in clients:
        client.close()
    server.wait_ended(5)


def test_a_client_by_tls_is_served(start: Start, tmp_path: Path) -> None:
    """Its records are read and written; what is sent last arrives before the end."""
    pair = Authority(tmp_path / "ca").issue("a.test")
    program = start(
        f"server {{ listen 127.0.0.1:@in@ ssl; ssl_certificate {pair.cert}; "
        f"ssl_certificate_key {pair.key}; py_content app.once; }}"
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(program.address("in"), 20) as plain:
        plain.settimeout(20)
        with context.wrap_socket(plain) as client:
            client.sendall(b"x" * 10_000)
            got = bytearray()
            while piece := client.recv(65536):
                got += piece
    assert b"old:" + b"x" * 10_000 == bytes(got)


def test_datagrams_are_served(start: Start) -> None:
    """Each client has its own function."""
    program = start("server { listen 127.0.0.1:@in@ udp; py_content app.chat; }")
    clients = [UdpClient(program.address("in")) for _ in range(10)]
    for word in (b"a", b"", b"b"):
        for n, client in enumerate(clients):
            assert b"old:%d" % n + word == client.exchange(b"%d" % n + word)
    for client in clients:
        client.close()


def test_a_function_asks_another_server(start: Start) -> None:
    """One of this program's: fetch() is answered by a function, and by nobody."""
    program = start(
        "server { listen 127.0.0.1:@in@; py_content app.ask connections=1; }"
        "server { listen 127.0.0.1:@www@; "
        "return 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello'; }"
    )
    ask = f"http://127.0.0.1:{program.port('www')}/\n".encode()
    assert b"200 hello" == tcp_exchange(program.address("in"), ask)
    assert b"ConnectionRefusedError" == tcp_exchange(
        program.address("in"), b"http://127.0.0.1:1/\n"
    )


def test_an_idle_udp_session_goes_on_anew_after_a_reload(start: Start, tmp_path: Path) -> None:
    """The client's next datagram is for the new function, and none is lost."""
    servers = "server { listen 127.0.0.1:@in@ udp; py_content app.chat; }"
    program = start(servers)
    with UdpClient(program.address("in")) as client:
        assert b"old:x" == client.exchange(b"x")
        (tmp_path / "app.py").write_text(
            (tmp_path / "app.py").read_text().replace("old:", "the new:")
        )
        before = program.all_worker_pids()
        program.reload()
        for _ in range(20):
            assert b"the new:x" == client.exchange(b"x")
        wait_until(lambda: not set(before) & set(program.all_worker_pids()))


def test_a_tcp_session_keeps_its_function_over_a_reload(start: Start, tmp_path: Path) -> None:
    """Who comes later has the new one."""
    program = start("server { listen 127.0.0.1:@in@; py_content app.chat; }")
    with TcpClient(program.address("in")) as client:
        assert b"old:x" == client.exchange(b"x", 5)
        (tmp_path / "app.py").write_text(
            (tmp_path / "app.py").read_text().replace("old:", "the new:")
        )
        program.reload()
        assert b"old:y" == client.exchange(b"y", 5)
        with TcpClient(program.address("in")) as other:
            assert b"the new:z" == other.exchange(b"z", 9)


@pytest.mark.parametrize("how", ["TERM", "worker_shutdown_timeout"])
def test_a_worker_that_ends_cancels_its_functions(start: Start, how: str) -> None:
    """Their `finally` blocks have run."""
    program = start(
        "server { listen 127.0.0.1:@in@; py_content app.waits; }",
        main="worker_shutdown_timeout 100ms;",
    )
    with TcpClient(program.address("in")) as client:
        assert b"begun" == client.recv_exactly(5)
        if how == "TERM":
            program.stop(signal.SIGTERM)
        else:
            program.reload()
            assert b"" == client.recv()
    assert 1 == len(program.wait_log("the end of a function"))


def test_hostile_clients_take_nothing_with_them(start: Start) -> None:
    """Resets at every point, floods, silence: the program serves on, with all it had."""
    program = start(
        "server { listen 127.0.0.1:@in@; proxy_timeout 500ms; py_content app.echo; }"
        "server { listen 127.0.0.1:@udp@ udp; proxy_timeout 500ms; py_content app.once; }"
    )
    silent = [TcpClient(program.address("in")) for _ in range(20)]
    for n in range(50):
        client = TcpClient(program.address("in"))
        if n % 3:
            client.send(b"x" * (n * 100))
        if n % 2:
            client.half_close()
        client.reset()
    with TcpClient(program.address("in")) as flooding:
        flooding.sock.setblocking(False)
        for _ in range(200):
            with contextlib.suppress(BlockingIOError, ConnectionError):
                flooding.sock.send(bytes(1 << 20))
        assert b"hello" == tcp_exchange(program.address("in"), b"hello", half_close=True)
    assert b"old:x" == udp_exchange(program.address("udp"), b"x")
    for client in silent:
        assert b"" == client.recv()
        client.close()
    assert not [line for line in program.error_log() if "[error]" in line]
