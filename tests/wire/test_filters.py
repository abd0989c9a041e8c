"""py_filter in the running program: TCP, UDP, TLS, several workers, reloads, hostile sessions."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import certs, processes
from tests.support.backends import BackendFactory, half_close, udp_echo
from tests.support.clients import TcpClient, UdpClient, tcp_exchange, udp_exchange
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.scripts import scripted, write
from tests.support.waiting import wait_until

CODE = """
from ngxstream.scripting import HOLD, Filter, sleep

class Lines(Filter):
    # whole lines, their number in front
    def __init__(self, session):
        super().__init__(session)
        self.count = 0

    def from_client(self, data):
        if not data.endswith(b"\\n"):
            return HOLD
        made = []
        for line in data.splitlines(keepends=True):
            self.count += 1
            made.append(b"%d:" % self.count + line)
        return made

    def client_end(self, held):
        return b"left:" + held

    async def from_upstream(self, data):
        await sleep(0)
        return data.upper()

class Datagrams(Filter):
    count = 0

    def from_client_batch(self, datagrams):
        made = []
        for data in datagrams:
            if data != b"drop":
                self.count += 1
                made.append(b"%d:" % self.count + data)
        return made

    def from_upstream(self, data):
        return data.upper()

    def pack(self):
        return b"%d" % self.count

    def unpack(self, state):
        self.count = int(state)
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[certs.Pair]:
    """Give a certificate."""
    return certs.Authority(tmp_path_factory.mktemp("ca")).issue("a.test")


def conf(server: str, workers: int = 1, events: str = "") -> str:
    """Return a configuration with one server."""
    connections = 512 if "select" in events else 4096
    return (
        f"worker_processes {workers}; events {{ worker_connections {connections}; {events} }} "
        "error_log logs/error.log info; "
        f"stream {{ py_import changing; server {{ {server} }} }}"
    )


@pytest.mark.parametrize("workers", [1, 4])
def test_streams_through_a_filter(
    ngxstream: ProxyFactory, backends: BackendFactory, workers: int
) -> None:
    """Whole lines reach the server however they are cut; both ends are seen."""
    back = backends.tcp(half_close(b"answer"))
    proxy = scripted(ngxstream, conf(
        f"listen 127.0.0.1:@main@; proxy_pass {back.text}; py_filter changing.Lines; "
        "proxy_half_close on;", workers), changing=CODE)
    clients = [TcpClient(proxy.address("main")) for _ in range(12)]
    for piece in (b"fir", b"st\nsec", b"ond\n"):
        for client in clients:
            client.send(piece)
    for client in clients:
        client.half_close()
        assert b"ANSWER" == client.recv_to_eof()
        client.close()
    received = {bytes(one.received) for one in back.conversations}
    assert {b"1:first\n2:second\nleft:"} == received


@pytest.mark.parametrize("method", ["poll", "select"])
def test_other_event_methods(
    ngxstream: ProxyFactory, backends: BackendFactory, method: str
) -> None:
    """A direction that waits for its filter is not asked about meanwhile, and then it is."""
    back = backends.tcp()
    code = CODE + """
class Slow(Filter):
    async def from_client(self, data):
        await sleep(0.01)
        return data.upper()
"""
    proxy = scripted(ngxstream, conf(
        f"listen 127.0.0.1:@main@; proxy_pass {back.text}; py_filter changing.Slow;",
        events=f"use {method};"), changing=code)
    with TcpClient(proxy.address("main")) as client:
        for n in range(5):
            assert b"PING%d" % n == client.exchange(b"ping%d" % n)


@pytest.mark.parametrize("workers", [1, 4])
def test_datagrams_through_a_filter(
    ngxstream: ProxyFactory, backends: BackendFactory, workers: int
) -> None:
    """Each session has a filter of its own, and each client its answers."""
    back = backends.udp(udp_echo)
    proxy = scripted(ngxstream, conf(
        f"listen 127.0.0.1:@main@ udp reuseport; proxy_pass {back.text}; "
        "py_filter changing.Datagrams;", workers), changing=CODE)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(UdpClient(proxy.address("main"))) for _ in range(20)]
        for turn in range(1, 4):
            for client in clients:
                client.send(b"drop")
                assert b"%d:HELLO" % turn == client.exchange(b"hello")


@pytest.mark.parametrize("is_shown", [False, True])
@pytest.mark.parametrize("level", ["info", "debug"])
def test_sessions_that_are_counted_or_told_of(
    ngxstream: ProxyFactory, backends: BackendFactory, level: str, is_shown: bool
) -> None:
    """Their filters do what they do in others."""
    tcp, udp = backends.tcp(), backends.udp(udp_echo)
    api = "server { listen 127.0.0.1:@api@; api; } " if is_shown else ""
    proxy = scripted(ngxstream, conf(
        f"listen 127.0.0.1:@tcp@; proxy_pass {tcp.text}; py_filter changing.Lines; }} {api}"
        f"server {{ listen 127.0.0.1:@udp@ udp; proxy_pass {udp.text}; "
        "py_filter changing.Datagrams;").replace(" info;", f" {level};"), changing=CODE)
    with TcpClient(proxy.address("tcp")) as stream, UdpClient(proxy.address("udp")) as client:
        for n in (1, 2, 3):
            assert b"%d:A\n" % n == stream.exchange(b"a\n", 4)
            client.send(b"drop")
            assert b"%d:B" % n == client.exchange(b"b")


@pytest.mark.parametrize("upstream", [False, True])
@pytest.mark.parametrize("workers", [1, 4])
def test_tls_on_either_side(
    ngxstream: ProxyFactory, backends: BackendFactory, pair: certs.Pair, workers: int,
    upstream: bool,
) -> None:
    """The filter sees what is within; records of any size."""
    identity = f"ssl_certificate {pair.cert}; ssl_certificate_key {pair.key};"
    back = backends.tcp()
    inner = f"server {{ listen 127.0.0.1:@inner@ ssl; {identity} proxy_pass {back.text};"
    target = "127.0.0.1:@inner@; proxy_ssl on" if upstream else back.text
    proxy = scripted(ngxstream, conf(
        f"listen 127.0.0.1:@main@ ssl; {identity} proxy_pass {target}; "
        f"py_filter changing.Lines; }} {inner}", workers), changing=CODE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    line = b"x" * 99_999 + b"\n"
    for _ in range(6):
        with socket.create_connection(proxy.address("main")) as sock, context.wrap_socket(
            sock
        ) as client:
            client.settimeout(20)
            client.sendall(b"a\n")
            assert b"1:A\n" == client.recv(100)
            client.sendall(b"b\n" * 3)
            data = b""
            while data.count(b"\n") < 3:
                data += client.recv(100)
            assert b"2:B\n3:B\n4:B\n" == data
    # a line that py_buffer_size cannot hold ends its session alone
    with socket.create_connection(proxy.address("main")) as sock, context.wrap_socket(
        sock
    ) as client:
        client.settimeout(20)
        with contextlib.suppress(OSError):
            client.sendall(line)
            assert b"" == client.recv(100)
    assert 1 == len(proxy.wait_log("as many as py_buffer_size"))


def test_a_reload_loads_new_code_beside_the_old(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """Sessions that there are keep theirs, TCP and UDP; those keep their server's port, too."""
    tcp, udp = backends.tcp(), backends.udp(udp_echo)
    proxy = scripted(ngxstream, conf(
        f"listen 127.0.0.1:@tcp@; proxy_pass {tcp.text}; py_filter changing.Lines; }} "
        f"server {{ listen 127.0.0.1:@udp@ udp reuseport; proxy_pass {udp.text}; "
        "py_filter changing.Datagrams;", 2), changing=CODE)
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(TcpClient(proxy.address("tcp")))
        clients = [stack.enter_context(UdpClient(proxy.address("udp"))) for _ in range(8)]
        assert b"1:A\n" == stream.exchange(b"a\n", 4)
        for client in clients:
            assert b"1:X" == client.exchange(b"x")
        write(proxy, changing=CODE.replace('b"%d:"', 'b"new %d:"'))
        proxy.reload()
        assert b"2:B\n" == stream.exchange(b"b\n", 4)
        for client in clients:
            assert b"2:Y" == client.exchange(b"y")
        assert {2} == set(udp.sources.values())
        assert 8 == len(udp.sources)
        assert b"NEW 1:C\n" == tcp_exchange(proxy.address("tcp"), b"c\n", size=8)
        assert b"NEW 1:Z" == udp_exchange(proxy.address("udp"), b"z")


HOSTILE = """
from ngxstream.scripting import HOLD, Filter, sleep

class Hostile(Filter):
    def from_client(self, data):
        if data.startswith(b"raise"):
            raise ValueError(data[:20])
        if data.startswith(b"hang"):
            while True: pass
        if data.startswith(b"hold") and self.session.protocol == "TCP":
            return HOLD
        if data.startswith((b"await", b"hold")):
            return self.wait()
        if data.startswith(b"flood"):
            return bytes(10_000_000) if self.session.protocol == "TCP" else [data] * 100_000
        return data

    async def wait(self):
        try:
            await sleep(3600)
        finally:
            self.waited = True
"""
WAYS = (b"raise", b"hold", b"await", b"flood")


def worker(proxy: Proxy) -> int:
    """Return the pid of the only worker."""
    (pid,) = proxy.worker_pids()
    return pid


def memory_kb(pid: int) -> int:
    """Return the memory that is a process's own."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_"))


def answers(client: UdpClient) -> bool:
    """Tell whether a datagram is answered."""
    try:
        return b"fine" == client.exchange(b"fine")
    except TimeoutError:
        return False


def attack(proxy: Proxy) -> None:
    """Begin forty sessions of each kind and way; their clients leave."""
    for way in WAYS:
        streams = [TcpClient(proxy.address("tcp")) for _ in range(40)]
        datagrams = [UdpClient(proxy.address("udp")) for _ in range(40)]
        for client in (*streams, *datagrams):
            client.send(way)
        for client in (*streams, *datagrams):
            client.close()


def test_hostile_sessions_leave_nothing(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """They raise, hold, wait for ever and flood; memory and descriptors are what they were."""
    tcp, udp = backends.tcp(), backends.udp(udp_echo)
    lines = "py_time_limit 50ms; py_filter changing.Hostile; proxy_timeout 8s; "
    lines += "proxy_socket_rcvbuf 64k;"  # sockets of sessions are not kept for others
    proxy = scripted(ngxstream, conf(
        f"listen 127.0.0.1:@tcp@; proxy_pass {tcp.text}; {lines} }} "
        f"server {{ listen 127.0.0.1:@udp@ udp; proxy_pass {udp.text}; {lines}"
    ).replace(" info;", " crit;"), changing=HOSTILE)
    pid = worker(proxy)

    def settle() -> int:
        with TcpClient(proxy.address("tcp")) as client:
            assert b"fine" == client.exchange(b"fine")
        with UdpClient(proxy.address("udp"), timeout=0.2) as client:
            # What a flood has left may fill the receive buffer of the backend for a while.
            wait_until(lambda: answers(client), what="an answer")
        wait_until(lambda: len(processes.open_files(pid)) <= before, what="few descriptors")
        return memory_kb(pid)

    with TcpClient(proxy.address("tcp")) as client:
        assert b"fine" == client.exchange(b"fine")
    before = len(processes.open_files(pid)) + 4
    attack(proxy)
    first = settle()
    for _ in range(3):
        attack(proxy)
    last = settle()
    assert last < first + 4096, (first, last)
    assert worker(proxy) == pid


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_hang_costs_its_own_session(
    ngxstream: ProxyFactory, backends: BackendFactory, kind: str
) -> None:
    """The worker goes on with the others."""
    back = backends.tcp() if kind == "tcp" else backends.udp(udp_echo)
    udp = " udp" if kind == "udp" else ""
    proxy = scripted(ngxstream, conf(
        f"listen 127.0.0.1:@main@{udp}; proxy_pass {back.text}; py_time_limit 20ms; "
        "py_filter changing.Hostile;"), changing=HOSTILE)
    make = TcpClient if kind == "tcp" else UdpClient
    with make(proxy.address("main")) as other:
        assert b"before" == other.exchange(b"before")
        pid = worker(proxy)
        for _ in range(5):
            with make(proxy.address("main")) as client:
                client.send(b"hang")
        assert b"after" == other.exchange(b"after")
        assert 5 == len(proxy.wait_log('"changing.Hostile" failed: TimeLimitError', count=5))
        assert pid == worker(proxy)
