"""The examples of conf/scripting do what their first lines say, with the programs they are for."""

import ast
import contextlib
import hashlib
import re
import shutil
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from http import server as http_server
from pathlib import Path

import pytest

from tests.support import certs, clients, real_servers, tools
from tests.support.backends import BackendFactory, echo, tagged, udp_tagged
from tests.support.dns import Dnsmasq, dig
from tests.support.proxies import ROOT, Proxy, ProxyFactory
from tests.support.waiting import wait_until

FOLDER = ROOT / "conf" / "scripting"
EXAMPLES = sorted(FOLDER.glob("*.conf"))
MODULES = sorted(FOLDER.glob("*.py"))

workers = pytest.mark.parametrize("workers", [1, 4])


def serve(factory: ProxyFactory, name: str, workers: int, **ports: int | str) -> Proxy:
    """Start an example. Args: ports: `p` and a port of the example: what it is here"""
    running = factory("", start=False)
    for source in MODULES:
        text = source.read_text()
        for number, port in ports.items():
            text = text.replace(f"127.0.0.1:{number[1:]}", f"127.0.0.1:{port}")
        (running.prefix / "conf" / source.name).write_text(text)
    text = (FOLDER / f"{name}.conf").read_text().replace("worker_processes auto;\n", "")
    for number, port in ports.items():
        assert f"127.0.0.1:{number[1:]}" in text or name == "tokens"
        text = text.replace(f"127.0.0.1:{number[1:]}", f"127.0.0.1:{port}")
    running.write(f"worker_processes {workers}; user root;\n{text}")
    return running.start()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_passes_the_configuration_test(path: Path, tmp_path: Path,
                                                  ngxstream: ProxyFactory) -> None:
    """As it stands, and it explains itself."""
    text = path.read_text()
    assert all(line.startswith("#") for line in text.splitlines()[:3])
    assert "Only ngxstream serves" in text.replace("\n# ", " ")
    running = ngxstream(text, start=False)
    for source in MODULES:
        shutil.copy(source, running.prefix / "conf")
    verdict = running.test(text)
    assert "test is successful" in verdict.stderr
    assert "[emerg]" not in verdict.stderr


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_an_example_is_short_and_needs_the_public_interface_alone(path: Path) -> None:
    """10 to 60 lines, the standard library and `ngxstream.scripting`; it says what it is for."""
    text = path.read_text()
    assert 10 <= sum(map(bool, text.splitlines())) <= 60
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.module in ("ngxstream.scripting", "collections.abc"), ast.unparse(node)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            assert ast.get_docstring(node) or node.name == "__init__", node.name


def http(address: tuple[str, int], request: str = "GET / HTTP/1.1") -> bytes:
    """Return the answer to a request."""
    return clients.tcp_exchange(address, f"{request}\r\nHost: a\r\n\r\n".encode())


@workers
def test_echo_and_discard(ngxstream: ProxyFactory, workers: int) -> None:
    """Over TCP and UDP."""
    running = serve(ngxstream, "echo", workers, p7007="@echo@", p7009="@discard@")
    with clients.TcpClient(running.address("echo")) as client:
        for size in (1, 100_000):
            assert bytes(size) == client.exchange(bytes(size), size)
    with clients.UdpClient(running.address("echo")) as udp:
        assert [b"", b"x" * 1400] == [udp.exchange(b""), udp.exchange(b"x" * 1400)]
    with clients.TcpClient(running.address("discard")) as client:
        client.send(bytes(300_000))
        client.half_close()
        assert b"" == client.recv_to_eof()


@workers
def test_dns_is_routed_by_name_and_blocked(
    ngxstream: ProxyFactory, tmp_path: Path, workers: int
) -> None:
    """By dig and dnsmasq; after a reload another name is blocked."""
    inside = {"www.corp.example": ["192.0.2.1"]}
    outside = {"www.corp.example": ["192.0.2.99"], "www.example.org": ["192.0.2.2"]}
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    with Dnsmasq(inside, folder=tmp_path / "in") as corp, \
            Dnsmasq(outside, folder=tmp_path / "out") as public:
        running = serve(
            ngxstream, "dns", workers, p5353="@dns@", p5301=corp.port, p5302=public.port
        )
        port = running.port("dns")
        assert ["192.0.2.1"] == dig("www.corp.example", "127.0.0.1", port).records
        assert ["192.0.2.2"] == dig("www.example.org", "127.0.0.1", port).records
        blocked = dig("a.ADS.example", "127.0.0.1", port)
        assert ("NXDOMAIN", []) == (blocked.status, blocked.records)
        running.wait_log("closed by a function: blocked: a.ads.example")
        module = running.prefix / "conf/dns.py"
        module.write_text(module.read_text().replace('"ads.example"', '"example.org"'))
        running.reload()
        assert "NXDOMAIN" == dig("www.example.org", "127.0.0.1", port).status
        assert not public.queries("ads.example")


@workers
def test_knocking_in_order_opens_the_door(
    ngxstream: ProxyFactory, backends: BackendFactory, workers: int
) -> None:
    """To the address that knocked, and to no other."""
    backend = backends.tcp(tagged("in"))
    running = serve(
        ngxstream, "knock", workers, p7001="@a@", p7002="@b@", p7003="@c@", p2222="@door@",
        p22=backend.port,
    )

    def knock(*names: str) -> None:
        for name in names:
            assert b"" == clients.tcp_exchange(running.address(name))

    def is_open(source: str = "127.0.0.1") -> bool:
        with socket.create_connection(running.address("door"), 20, (source, 0)) as client:
            client.settimeout(20)
            try:
                client.sendall(b"x")
                return client.recv(10) != b""
            except ConnectionResetError:
                return False

    assert not is_open()
    knock("a", "c", "b")
    assert not is_open()
    knock("a", "b", "c")
    assert is_open()
    assert is_open()
    assert not is_open("127.0.0.2")


@workers
def test_players_of_a_match_meet_on_one_server(
    ngxstream: ProxyFactory, backends: BackendFactory, workers: int
) -> None:
    """Whatever address they send from, and a match keeps its server over a reload."""
    ports = {f"p{27015 + n}": backends.udp(udp_tagged(f"{n}")).port for n in range(3)}
    running = serve(ngxstream, "game", workers, p27000="@game@", **ports)

    with contextlib.ExitStack() as players:  # none has the port of one before, and so his session

        def play(match: bytes) -> bytes:
            player = players.enter_context(clients.UdpClient(running.address("game")))
            return player.exchange(match + b"move")[:1]

        first = {match: play(match) for match in (b"match%03d" % n for n in range(6))}
        assert len(set(first.values())) > 1
        for _ in range(4):
            assert first == {match: play(match) for match in first}
        running.reload()
        assert first == {match: play(match) for match in first}


@workers
def test_the_share_of_a_canary_is_set_while_it_runs(
    ngxstream: ProxyFactory, backends: BackendFactory, workers: int
) -> None:
    """By a page, for all workers at once."""
    stable, new = (backends.tcp(tagged(name)).port for name in ("stable", "new"))
    running = serve(
        ngxstream, "canary", workers, p9000="@main@", p9001=stable, p9002=new, p8090="@page@"
    )

    def versions() -> set[bytes]:
        found = set()
        for n in range(1, 40):
            with socket.create_connection(running.address("main"), 20, (f"127.0.3.{n}", 0)) as c:
                c.sendall(b"?")
                found.add(c.recv(100).partition(b" ")[0].partition(b":")[0])
        return found

    assert b"0 % of the clients" in http(running.address("page"))
    (before,) = versions()
    assert b"stable" in before
    assert b"100 % of the clients" in http(running.address("page"), "POST /100 HTTP/1.1")
    (after,) = versions()
    assert b"new" in after
    http(running.address("page"), "POST /50 HTTP/1.1")
    assert {before, after} == versions()
    assert http(running.address("page"), "GET /x HTTP/1.1").startswith(b"HTTP/1.1 404")


@workers
def test_syslog_is_enriched_with_the_sender(
    ngxstream: ProxyFactory, backends: BackendFactory, workers: int
) -> None:
    """Each message by itself; what is none is dropped."""
    got: list[bytes] = []

    def keep(data: bytes, _: object) -> list[bytes]:
        got.append(data)
        return []

    backend = backends.udp(keep)
    running = serve(ngxstream, "enrich", workers, p5514="@in@", p5515=backend.port)
    with clients.UdpClient(running.address("in")) as sender:
        for n in range(40):
            sender.send(b"<34>Oct 11 22:14:15 host su: message %d\n" % n)
            sender.send(b"no syslog")
    wait_until(lambda: len(got) >= 40)
    assert [b"<34>Oct 11 22:14:15 host su: message %d client=127.0.0.1" % n for n in range(40)] \
        == got


class Tokens(http_server.BaseHTTPRequestHandler):
    """Knows one token."""

    asked: list[str]

    def do_GET(self) -> None:
        """Answer a question about a token."""
        self.asked.append(self.path)
        self.send_response(200 if self.path == "/check/good" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[tuple[int, list[str]]]:
    """Run the service that knows tokens: its port, and what it was asked."""
    asked: list[str] = []
    handler = type("Handler", (Tokens,), {"asked": asked})
    with http_server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server.server_address[1], asked
        server.shutdown()
        thread.join()


@workers
def test_a_token_is_checked_once_a_minute(
    ngxstream: ProxyFactory, backends: BackendFactory, service: tuple[int, list[str]], workers: int
) -> None:
    """By a service; the backend never sees the line, and nobody without a token the backend."""
    port, asked = service
    backend = backends.tcp(echo)
    running = serve(
        ngxstream, "tokens", workers, p7400="@in@", p7401=backend.port, p7402=port
    )

    def ask(*pieces: bytes) -> bytes:
        with clients.TcpClient(running.address("in")) as client:
            for piece in pieces:
                client.send(piece)
            with contextlib.suppress(ConnectionResetError):
                return client.recv()
            return b""

    for _ in range(3):
        assert b"hello" == ask(b"TOK", b"EN good\r", b"\nhello")
    assert ["/check/good"] == asked
    assert b"" == ask(b"TOKEN bad\nhello")
    assert b"" == ask(b"GET / HTTP/1.1\r\nhello")
    assert ["/check/good", "/check/bad"] == asked
    assert 3 == backend.accepted


@workers
def test_mqtt_clients_are_named_and_checked(
    ngxstream: ProxyFactory, tmp_path: Path, workers: int
) -> None:
    """mosquitto knows a client by its site; one without a name is refused."""
    with real_servers.mosquitto(tmp_path, "allow_anonymous true", "log_type all") as broker:
        running = serve(ngxstream, "mqtt", workers, p1883="@mqtt@", p1884=broker.port)

        def connect(name: bytes, level: int) -> bytes:
            properties = b"\x05\x11\x00\x00\x00\x0a" if level == 5 else b""
            body = b"\x00\x04MQTT" + bytes((level, 2)) + b"\x00\x3c" + properties
            body += struct.pack(">H", len(name)) + name
            packet = bytes((0x10, len(body))) + body
            with clients.TcpClient(running.address("mqtt")) as client:
                for byte in packet:  # in the smallest pieces there are
                    client.send(bytes((byte,)))
                answer = b""
                with contextlib.suppress(ConnectionResetError):
                    answer = client.recv()
                if answer:
                    client.send(b"\xe0\x00")
                return answer

        assert b"\x20\x02\x00\x00" == connect(b"lamp", 4)
        assert b"\x20" == connect(b"lamp5", 5)[:1]
        assert b"" == connect(b"", 4)
        assert b"" == connect(b"a\nb", 4)
        wait_until(lambda: "site-7-lamp " in broker.said() and "site-7-lamp5 " in broker.said())
        assert not re.search(r"as lamp", broker.said())


@workers
def test_redis_commands_are_counted_and_refused(
    ngxstream: ProxyFactory, tmp_path: Path, workers: int
) -> None:
    """In the middle of a pipeline, and each gets its own answer."""
    with real_servers.redis(tmp_path) as server:
        running = serve(
            ngxstream, "redis", workers, p6379="@redis@", p6380=server.port, p8091="@page@"
        )

        def command(*words: bytes) -> bytes:
            parts = (b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
            return b"*%d\r\n" % len(words) + b"".join(parts)

        pipeline = command(b"SET", b"k", b"v" * 100) + command(b"FlushAll") + command(b"GET", b"k")
        with clients.TcpClient(running.address("redis")) as client:
            for start in range(0, len(pipeline), 7):
                client.send(pipeline[start : start + 7])
            answer = client.recv_exactly(5)
            assert b"+OK\r\n" == answer
            rest = b""
            while not rest.endswith(b"v\r\n"):
                rest += client.recv()
            error, _, value = rest.partition(b"\r\n")
            assert error.startswith(b"-ERR unknown command")
            assert b"$100\r\n" + b"v" * 100 + b"\r\n" == value
        counts = http(running.address("page"))
        assert [1, 1, 1] == [
            int(re.search(rf'"{name}": (\d+)'.encode(), counts)[1])  # type: ignore[index]
            for name in ("FLUSHALL", "GET", "SET")
        ]
        with clients.TcpClient(running.address("redis")) as client:
            client.send(b"FLUSHALL\r\n")
            assert b"" == client.recv_to_eof()


@workers
def test_postgres_clients_are_routed_by_database(
    ngxstream: ProxyFactory, tmp_path: Path, workers: int
) -> None:
    """psql asks for TLS, is told that there is none, and reaches the server of its database."""
    with real_servers.postgres(tmp_path) as server:
        running = serve(
            ngxstream, "postgres", workers, p5432="@pg@", p5433=server.port, p5434="@nobody@"
        )

        def psql(database: str, mode: str) -> subprocess.CompletedProcess[str]:
            where = f"host=127.0.0.1 port={running.port('pg')} user=postgres"
            words = f"{where} dbname={database} sslmode={mode}"
            return subprocess.run(
                [tools.optional("psql"), words, "-Atc", "select current_database()"],
                capture_output=True, text=True, timeout=60, check=False,
            )

        assert "postgres\n" == psql("postgres", "prefer").stdout
        assert "template1\n" == psql("template1", "disable").stdout
        assert "server does not support SSL" in psql("postgres", "require").stderr
        assert psql("reports", "prefer").returncode
        running.wait_log(r'connect\(\) failed .* upstream: "127\.0\.0\.1:'
                         f'{running.port("nobody")}"')


def radius(code: int, number: int, user: bytes) -> bytes:
    """Return a packet of RADIUS with a user's name."""
    attribute = bytes((1, 2 + len(user))) + user
    return struct.pack(">BBH", code, number, 20 + len(attribute)) + bytes(16) + attribute


@workers
def test_who_is_rejected_three_times_has_to_wait(
    ngxstream: ProxyFactory, backends: BackendFactory, workers: int
) -> None:
    """Whatever access point asks; other users are served."""

    def answer(data: bytes, _: object) -> list[bytes]:
        code = 2 if b"good" in data else 3
        return [struct.pack(">BBH", code, data[1], 20) + bytes(16)]

    backend = backends.udp(answer)
    running = serve(ngxstream, "radius", workers, p1812="@radius@", p1822=backend.port)
    for number in range(3):
        with clients.UdpClient(running.address("radius")) as point:
            assert 3 == point.exchange(radius(1, number, b"Mallory"))[0]
    with clients.UdpClient(running.address("radius")) as point:
        point.send(radius(1, 7, b"mallory"))
        point.send(b"\x01\x08\x00\x03 no packet")
        reply = point.exchange(radius(1, 9, b"good"))
        assert (2, 9) == (reply[0], reply[1])
    running.wait_log("mallory has to wait")


def login(number: int, user: bytes, password: bytes, secret: bytes) -> bytes:
    """Return an Access-Request with a user's password (RFC 2865, 5.2)."""
    authenticator = bytes(range(16))
    key = hashlib.md5(secret + authenticator).digest()
    hidden = bytes(a ^ b for a, b in zip(password.ljust(16, b"\0"), key, strict=True))
    attributes = bytes((1, 2 + len(user))) + user + bytes((2, 18)) + hidden
    return struct.pack(">BBH", 1, number, 20 + len(attributes)) + authenticator + attributes


def test_a_real_radius_server_rejects_and_is_spared(
    ngxstream: ProxyFactory, tmp_path: Path
) -> None:
    """freeradius rejects a wrong password three times, and is not asked for the user again."""
    secret = "s3cret"
    with real_servers.freeradius_of_users(tmp_path, secret, alice="right", bob="right") as server:
        running = serve(ngxstream, "radius", 1, p1812="@radius@", p1822=server.port)

        def ask(number: int, user: bytes, password: bytes) -> int:
            with clients.UdpClient(running.address("radius")) as point:
                return point.exchange(login(number, user, password, secret.encode()))[0]

        wait_until(lambda: "Ready to process requests" in server.said())
        assert 2 == ask(1, b"alice", b"right")
        assert [3, 3, 3] == [ask(number, b"alice", b"wrong") for number in (2, 3, 4)]
        with clients.UdpClient(running.address("radius")) as point:
            point.send(login(5, b"alice", b"right", secret.encode()))
            running.wait_log("alice has to wait")
        assert 2 == ask(6, b"bob", b"right")


def blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield kind and body of each block of a file of pcapng."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from("=II", data, at)
        assert size % 4 == 0
        assert size == struct.unpack_from("=I", data, at + size - 4)[0]
        yield kind, data[at + 8 : at + size - 4]
        at += size


def test_sampled_sessions_are_written_for_wireshark(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """Both directions, as datagrams of IP and UDP; of all sessions where the share is 1."""
    backend = backends.udp(udp_tagged("x"))
    running = serve(ngxstream, "capture", 1, p5354="@in@", p5302=backend.port)
    module = running.prefix / "conf/capture.py"
    module.write_text(module.read_text().replace("SHARE = 0.01", "SHARE = 1"))
    running.reload()
    with clients.UdpClient(running.address("in")) as client:
        answer = client.exchange(b"question")
        port = client.name[1]
    file = running.prefix / "logs/capture-0.pcapng"
    wait_until(lambda: file.exists() and file.read_bytes().count(answer))
    kinds, bodies = zip(*blocks(file.read_bytes()), strict=True)
    assert (0x0A0D0D0A, 1, 6, 6) == kinds
    seen = [body[20 : 20 + struct.unpack_from("=I", body, 12)[0]] for body in bodies[2:]]
    ports = [struct.unpack_from(">HH", packet, 20) for packet in seen]
    assert [(port, running.port("in")), (running.port("in"), port)] == ports
    assert [b"question", answer] == [packet[28:] for packet in seen]
    assert {b"\x7f\x00\x00\x01" * 2} == {packet[12:20] for packet in seen}


@pytest.mark.parametrize("name", ["echo", "mqtt"])
def test_examples_serve_over_tls(ngxstream: ProxyFactory, tmp_path: Path, name: str) -> None:
    """With `ssl` and a certificate added to their configuration, and nothing else changed."""
    authority = certs.Authority(tmp_path / "ca")
    pair = authority.issue("localhost")
    (tmp_path / "broker").mkdir()
    with real_servers.mosquitto(tmp_path / "broker", "allow_anonymous true") as broker:
        text = (FOLDER / f"{name}.conf").read_text()
        text = re.sub(r"listen 127.0.0.1:(7007|1883);", "listen 127.0.0.1:@tls@ ssl; "
                      f"ssl_certificate {pair.cert}; ssl_certificate_key {pair.key};", text)
        text = re.sub(r"127.0.0.1:(7007 udp|7009( udp)?|1884)", lambda found: {
            "7007 udp": "127.0.0.1:@udp@ udp", "7009": "127.0.0.1:@other@",
            "7009 udp": "127.0.0.1:@other@ udp", "1884": f"127.0.0.1:{broker.port}",
        }[found[1]], text)
        running = ngxstream(f"user root; {text}", start=False)
        for source in MODULES:
            shutil.copy(source, running.prefix / "conf")
        running.start()
        context = ssl.create_default_context(cafile=str(authority.cert))
        with socket.create_connection(running.address("tls"), 20) as plain, \
                context.wrap_socket(plain, server_hostname="localhost") as client:
            if name == "echo":
                client.sendall(b"hello")
                assert b"hello" == client.recv(100)
            else:
                client.sendall(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04lamp")
                assert b"\x20\x02\x00\x00" == client.recv(100)
