"""The API of a running program, as curl and other clients find it, and beside traffic."""

import json
import os
import random
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import api_crowd, certs, processes, proxies, tools
from tests.support.crowd import Crowd
from tests.support.http_requests import ASKING, SEEDS, tampered
from tests.support.waiting import wait_until

Factory = proxies.ProxyFactory
HEAD = "events { worker_connections 2048; } stream { "
VERSIONS = [1, 2, 3, 4, 5, 6, 7, 8, 9]
# the whole of it: NGXSTREAM_HOSTILE=20000, NGXSTREAM_CROWD=30 (seconds)
HOSTILE = int(os.environ.get("NGXSTREAM_HOSTILE", "2000"))
CROWD_S = float(os.environ.get("NGXSTREAM_CROWD", "3"))


def curl(*words: str, code: tuple[int, ...] = (0,), stdin: bytes = b"") -> bytes:
    """Run curl to its end; return what it printed."""
    ran = subprocess.run(
        [tools.require("curl"), "-sS", "--max-time", "20", *words],
        input=stdin, capture_output=True, check=False,
    )  # fmt: skip
    assert ran.returncode in code, ran.stderr.decode(errors="replace")
    return ran.stdout


def url(program: proxies.Proxy, path: str = "/api", name: str = "api", scheme: str = "http") -> str:
    """Return the URL of a path."""
    return f"{scheme}://127.0.0.1:{program.port(name)}{path}"


@pytest.fixture
def program(ngxstream: Factory) -> proxies.Proxy:
    """Give a program with an API that may be written to."""
    return ngxstream(
        HEAD + "log_format f '$status $bytes_sent $bytes_received'; access_log logs/access.log f; "
        "server { listen 127.0.0.1:@api@; api write=on; } }"
    )


def test_curl_is_served(program: proxies.Proxy) -> None:
    """GET, HEAD, HTTP/1.0, and several requests of one connection."""
    assert VERSIONS == json.loads(curl(url(program)))
    assert curl("-I", url(program)).startswith(b"HTTP/1.1 200 OK\r\n")
    assert VERSIONS == json.loads(curl("--http1.0", url(program)))
    many = curl("-w", " %{num_connects}\n", *[url(program, path) for path in ("/api", "/healthz")])
    assert ["1", "0"] == re.findall(r" (\d)$", many.decode(), re.MULTILINE)


def test_bodies_of_curl_are_read(program: proxies.Proxy) -> None:
    """With a length, in chunks, and one that waits to be asked for; what they say is no matter."""
    target = url(program, "/api/9/stream/upstreams/none/servers/")
    big = json.dumps([{"server": "x" * 100}] * 5000).encode()
    for words, body in (
        (("-d", '{"server":"127.0.0.1:1"}'), b""),
        (("-H", "Transfer-Encoding: chunked", "--data-binary", "@-"), big),
        (("-H", "Expect: 100-continue", "--data-binary", "@-"), big),
    ):
        told = json.loads(curl("-X", "POST", *words, target, stdin=body))
        assert told["error"]["status"] in (400, 404), told
    told = json.loads(curl("-X", "POST", "--data-binary", "@-", target, stdin=big * 3))
    assert 413 == told["error"]["status"]


def test_what_was_sent_is_logged(program: proxies.Proxy) -> None:
    """Status and bytes of the connection, as of any session."""
    printed = curl("-i", url(program))
    (line,) = wait_until(program.access_log)
    status, sent, received = map(int, line.split())
    assert (200, len(printed)) == (status, sent)
    assert received > 50


def test_certificates_of_clients_are_wanted(ngxstream: Factory, tmp_path: Path) -> None:
    """TLS to the address; who has no certificate gets no answer."""
    ca = certs.Authority(tmp_path / "ca")
    server, client = ca.issue("a.test"), ca.issue("client")
    program = ngxstream(
        HEAD + f"server {{ listen 127.0.0.1:@api@ ssl; api write=on; ssl_certificate {server.cert};"
        f" ssl_certificate_key {server.key}; ssl_client_certificate {ca.cert}; "
        "ssl_verify_client on; } }"
    )
    words = ("--cacert", str(ca.cert), "--resolve", f"a.test:{program.port('api')}:127.0.0.1")
    target = f"https://a.test:{program.port('api')}/api"
    with_cert = (*words, "--cert", str(client.cert), "--key", str(client.key), target)
    assert VERSIONS == json.loads(curl(*with_cert))
    ran = subprocess.run([tools.require("curl"), "-sS", *words, target], capture_output=True,
                         check=False)
    assert ran.returncode
    assert b"[" not in ran.stdout


def test_an_answer_over_tls_is_whole(ngxstream: Factory, tmp_path: Path) -> None:
    """Also a long one to a client that takes it slowly."""
    pair = certs.Authority(tmp_path / "ca").issue("a.test")
    program = ngxstream(
        HEAD + GROUPS + f"server {{ listen 127.0.0.1:@api@ ssl; api; ssl_certificate {pair.cert}; "
        f"ssl_certificate_key {pair.key}; }} }}"
    )
    target = url(program, "/api/9/stream/upstreams/", scheme="https")
    assert 40 == len(json.loads(curl("-k", target)))
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    raw = socket.create_connection(program.address("api"))
    with context.wrap_socket(raw) as client:
        client.sendall(b"GET /api/9/stream/upstreams/ HTTP/1.0\r\n\r\n")
        data = bytearray()
        while piece := client.recv(3000):
            data += piece
    assert 40 == len(json.loads(data.partition(b"\r\n\r\n")[2]))


GROUPS = "".join(
    f"upstream u{g} {{ zone u{g} 256k; "
    + "".join(f"server 127.{g}.0.{n + 1}:80;" for n in range(50))
    + "} "
    for g in range(40)
)


@pytest.mark.parametrize("poller", ["epoll", "poll", "select"])
def test_every_poller_serves_a_slow_reader(ngxstream: Factory, poller: str) -> None:
    """The answer is whole, and while it waits for the client the worker does nothing."""
    program = ngxstream(
        f"events {{ use {poller}; }} stream {{ {GROUPS} "
        "server { listen 127.0.0.1:@api@; api; } }"
    )
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(program.address("api"))
        client.sendall(b"GET /api/9/stream/upstreams/ HTTP/1.0\r\n\r\n")
        data = bytearray(client.recv(100))
        client.sendall(b"x" * 100)  # which nobody reads before the answer is taken
        pid = program.worker_pids()[0]

        seen: list[int] = []

        def is_quiet() -> bool:
            seen.append(processes.cpu_ns(pid))
            return len(seen) > 30 and seen[-1] - seen[-30] < 30_000_000

        wait_until(is_quiet, what="the worker waits for the client")
        while piece := client.recv(65536):
            data += piece
    assert 40 == len(json.loads(data.partition(b"\r\n\r\n")[2]))


def test_a_unix_socket_serves(ngxstream: Factory, tmp_path: Path) -> None:
    """Whatever the URL says."""
    path = tmp_path / "api.sock"
    ngxstream(HEAD + f"server {{ listen unix:{path}; api; }} }}")
    assert VERSIONS == json.loads(curl("--unix-socket", str(path), "http://any.name/api"))


def test_the_client_behind_a_proxy_is_known(ngxstream: Factory) -> None:
    """By its PROXY header, which rules of access judge by as well."""
    program = ngxstream(
        HEAD + "log_format f '$proxy_protocol_addr $remote_addr $status'; "
        "access_log logs/access.log f; server { listen 127.0.0.1:@api@ proxy_protocol; api; "
        "set_real_ip_from 127.0.0.1; deny 192.0.2.1; } }"
    )
    with socket.create_connection(program.address("api")) as client:
        client.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\nGET /api HTTP/1.0\r\n\r\n")
        assert client.makefile("rb").read().endswith(b"[1,2,3,4,5,6,7,8,9]")
    with socket.create_connection(program.address("api")) as client:
        client.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.8 1 2\r\nGET /api HTTP/1.0\r\n\r\n")
        client.settimeout(20)
        try:
            assert b"" == client.recv(100)
        except ConnectionResetError:
            pass
    lines = wait_until(lambda: len(found := program.access_log()) == 2 and found)
    assert ["192.0.2.7 192.0.2.7 200", "192.0.2.1 192.0.2.1 403"] == sorted(lines, reverse=True)


def test_connections_are_limited_as_elsewhere(ngxstream: Factory) -> None:
    """limit_conn ends the second connection of a client before a request is read."""
    program = ngxstream(
        HEAD + "limit_conn_zone $binary_remote_addr zone=one:64k; server { "
        "listen 127.0.0.1:@api@; api; limit_conn one 1; } }"
    )
    with socket.create_connection(program.address("api")) as client:
        client.sendall(b"GET /api HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        assert b"" == curl(url(program), code=(52, 56))


def test_a_reload_waits_for_no_idle_client(ngxstream: Factory) -> None:
    """The old worker closes what is idle; the new one serves the new configuration."""
    program = ngxstream(HEAD + "server { listen 127.0.0.1:@api@; api; } }")
    old = program.worker_pids()
    with socket.create_connection(program.address("api")) as client:
        client.sendall(b"GET /api HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        program.write(HEAD + "server { listen 127.0.0.1:@api@; api prefix=/x; } }")
        program.reload()
        client.settimeout(20)
        assert b"" == client.recv(1000)
        wait_until(lambda: not any(processes.is_alive(pid) for pid in old))
    assert VERSIONS == json.loads(curl(url(program, "/x")))


def resident_kb(pid: int) -> int:
    """Return the resident memory of a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"VmRSS:\s+(\d+) kB", text)
    assert match
    return int(match[1])


def throw(address: tuple[str, int], random_: random.Random) -> None:
    """Send a request that was tampered with, in one piece or two, and look at what comes."""
    data = tampered(random_, (*SEEDS, *ASKING))
    with socket.create_connection(address, timeout=20) as client:
        try:
            cut = random_.randint(0, len(data))
            client.sendall(data[:cut])
            if random_.random() < 0.2:
                return  # gone in the middle
            client.sendall(data[cut:])
            client.shutdown(socket.SHUT_WR)
            got = b""
            while piece := client.recv(1 << 16):
                got += piece
            assert not got or got.startswith((b"HTTP/1.1 ",))
            assert b"Traceback" not in got
        except OSError:
            pass  # it was refused, and what was still on its way too


def test_hostile_requests_do_no_harm(program: proxies.Proxy) -> None:
    """However many: no fault, no descriptor and no memory is left behind, and it still serves."""
    random_ = random.Random(7)
    (pid,) = program.worker_pids()
    for _ in range(200):
        throw(program.address("api"), random_)
    before, memory = len(processes.open_files(pid)), resident_kb(pid)
    for _ in range(HOSTILE):
        throw(program.address("api"), random_)
    wait_until(lambda: len(processes.open_files(pid)) <= before, what="descriptors are closed")
    assert resident_kb(pid) < memory + 3000
    assert VERSIONS == json.loads(curl(url(program)))
    log = "\n".join(program.error_log())
    assert "Traceback" not in log
    assert not re.search(r"[\0-\x08\x0b-\x1f\x7f]", log)


@pytest.fixture
def echo() -> Iterator[Crowd]:
    """Give a backend that answers UDP."""
    with Crowd("echo") as running:
        yield running


def test_a_crowd_at_the_api_harms_no_session(ngxstream: Factory, echo: Crowd) -> None:
    """A hundred clients, half of them slow, ask for much; of 200 UDP sessions nothing is lost.

    Under NGXSTREAM_CROWD the round trip is looked at too, beside one without the clients.
    """
    program = ngxstream(
        "worker_processes 1; events { worker_connections 4096; } stream { " + GROUPS +
        f"server {{ listen 127.0.0.1:@udp@ udp rcvbuf=8m; proxy_pass 127.0.0.1:{echo.number}; }} "
        "server { listen 127.0.0.1:@api@; api; } }"
    )  # fmt: skip

    def udp(seconds: float) -> dict[str, Any]:
        with api_crowd.Player("udp", program.port("udp"), 200, 20, seconds) as player:
            return player.finish()

    alone = udp(CROWD_S) if "NGXSTREAM_CROWD" in os.environ else {}
    words = (program.port("api"), 50, 50, "/api/9/stream/upstreams/")
    with api_crowd.Player("http", *words) as clients:
        beside = udp(CROWD_S)
        told = clients.finish()
    print(f"alone {alone}, beside {beside}, clients {told}")
    assert 0 == beside["lost"]
    assert beside["sent"] > 1000
    assert told["bytes"] > 0
    if alone:
        assert beside["p99"] <= 1.5 * alone["p99"]
