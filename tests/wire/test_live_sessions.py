"""Live sessions of the running program: one table of all workers, and their end by an operator."""

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import backends as b
from tests.support import certs, processes, strangers, tools
from tests.support.clients import TcpClient, UdpClient
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import wait_until

LOG = ("log_format e '$server_name $session_end_reason $session_ended_by'; "
       "access_log logs/access.log e;")
NOBODY = strangers.NOBODY
API = "server { listen 127.0.0.1:@api@; server_name api; api write=on; access_log off; }"


def call(program: Proxy, method: str, path: str) -> tuple[int, Any]:
    """Return status and value of a reply, by a connection of its own."""
    client = http.client.HTTPConnection("127.0.0.1", program.port("api"), timeout=20)
    try:
        client.request(method, f"/api/ngxstream/1{path}")
        reply = client.getresponse()
        body = reply.read()
        return reply.status, json.loads(body) if body else None
    finally:
        client.close()


def listed(program: Proxy, query: str) -> list[dict[str, Any]]:
    """Return the sessions of the table. A worker that took too long to tell is asked again."""
    while True:
        status, value = call(program, "GET", f"/sessions?{query}")
        assert 200 == status
        found: list[dict[str, Any]] = value["sessions"]
        if not value["silent"]:
            return found


class Crowd:
    """A program of two workers, with clients of all kinds that stay."""

    def __init__(self, factory: ProxyFactory, backends: b.BackendFactory, folder: Path) -> None:
        pair = certs.Authority(folder / "ca").issue("a.test")
        tcp, udp = backends.tcp().text, backends.udp().text
        self.program = factory(
            f"worker_processes 2; events {{}} stream {{ {LOG} {API} upstream echoes {{ "
            f"server {tcp}; }} server {{ listen 127.0.0.1:@tcp@; server_name tcp; "
            "proxy_pass echoes; } "
            f"server {{ listen 127.0.0.1:@udp@ udp; server_name udp; proxy_pass {udp}; }} "
            f"server {{ listen 127.0.0.1:@tls@ ssl; server_name tls; ssl_certificate {pair.cert}; "
            f"ssl_certificate_key {pair.key}; proxy_pass echoes; }} }}"
        )
        self.clients: list[Any] = []
        for _ in range(6):
            self.add_tcp()
            client = UdpClient(self.program.address("udp"))
            client.exchange(b"hello")
            self.clients.append(client)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        shaken = context.wrap_socket(TcpClient(self.program.address("tls")).sock)
        shaken.sendall(b"hello")
        shaken.recv(5)
        self.clients.append(shaken)

    def add_tcp(self) -> TcpClient:
        """Have one more client, whose session relays."""
        client = TcpClient(self.program.address("tcp"))
        client.exchange(b"hello")
        self.clients.append(client)
        return client

    def close(self) -> None:
        """Close all clients."""
        for client in self.clients:
            client.close()


@pytest.fixture
def crowd(
    ngxstream: ProxyFactory, backends: b.BackendFactory, tmp_path: Path
) -> Iterator[Crowd]:
    """Give a program with clients."""
    made = Crowd(ngxstream, backends, tmp_path)
    yield made
    made.close()


def ends(program: Proxy) -> list[str]:
    """Return the access log, in order."""
    return sorted(program.access_log())


def test_all_workers_sessions_are_listed_and_ended(crowd: Crowd) -> None:
    """TCP, UDP and TLS; clients see the end, and the access log says whose doing it was."""
    program = crowd.program
    found = listed(program, "state=relaying")
    assert ["tcp"] * 7 + ["udp"] * 6 == sorted(one["protocol"] for one in found)
    assert set(program.worker_pids()) >= {one["pid"] for one in found}
    assert {(5, 5)} == {
        (one["upstream_sent"], one["upstream_received"]) for one in found
    }
    assert {(1, 1)} == {
        (one["datagrams_received"], one["datagrams_sent"])
        for one in found if one["protocol"] == "udp"
    }
    assert (200, {"ended": 6, "silent": []}) == call(program, "DELETE", "/sessions?protocol=udp")
    wait_until(lambda: ends(program) == ["udp api operator"] * 6)
    first = crowd.clients[0]
    mine = b.address_text(first.name)
    (one,) = [one for one in listed(program, "upstream=echoes") if one["client"] == mine]
    assert (204, None) == call(program, "DELETE", f"/sessions/{one['id']}")
    assert b"" == first.recv()
    assert 404 == call(program, "DELETE", f"/sessions/{one['id']}")[0]
    assert 6 == call(program, "DELETE", "/sessions?upstream=echoes&client=127.0.0.0/8")[1]["ended"]
    wait_until(lambda: ends(program)[:7] == ["tcp api operator"] * 6 + ["tls api operator"])
    assert [] == listed(program, "state=relaying")


def test_workers_that_leave_are_asked_too(crowd: Crowd) -> None:
    """TCP sessions of before a reload are shown, and their end lets the worker go."""
    program = crowd.program
    former = set(program.worker_pids())
    program.reload()
    crowd.add_tcp()
    pids = {one["pid"] for one in listed(program, "protocol=tcp&state=relaying")}
    assert pids & former
    assert pids - former
    wait_until(lambda: not {one["pid"] for one in listed(program, "protocol=udp")} & former)
    nobody = {"ended": 0, "silent": []}
    wait_until(lambda: call(program, "DELETE", "/sessions?protocol=tcp")[1] == nobody)
    assert ["tcp api operator"] * 7 + ["tls api operator"] == ends(program)
    wait_until(lambda: not former & set(program.all_worker_pids()))


def test_a_worker_of_before_the_api_is_named(
    ngxstream: ProxyFactory, backends: b.BackendFactory
) -> None:
    """It cannot be asked; one whose successors have no API is let go as ever."""
    text = f"server {{ listen 127.0.0.1:@tcp@; proxy_pass {backends.tcp().text}; }}"
    program = ngxstream(f"events {{}} stream {{ {text} }}")
    (former,) = program.worker_pids()
    with TcpClient(program.address("tcp")) as client:
        client.exchange(b"x")
        program.reload(f"events {{}} stream {{ {text} {API} }}")
        status, value = call(program, "GET", "/sessions")
        assert (200, [former], 1) == (status, value["silent"], value["matched"])
        program.reload(f"events {{}} stream {{ {text} }}")
    wait_until(lambda: former not in program.all_worker_pids())


def test_who_has_a_worker_s_ports_has_nothing_else(ngxstream: ProxyFactory, tmp_path: Path) -> None:
    """Nonsense at all of them: the worker is not listened to, and the service goes on."""
    tools.require_root()
    program = ngxstream(f"user nobody nogroup; worker_processes 2; events {{}} stream {{ {API} }}")
    attacked = program.worker_pids()[0]
    stolen = strangers.ports_of(attacked)
    canary = tmp_path / "canary"
    try:
        strangers.run_as(NOBODY, lambda: strangers.attack(stolen, str(canary)))
        program.wait_log(f"worker process {attacked} is not listened to any more")
    finally:
        for sock in stolen:
            sock.close()
    status, value = call(program, "GET", "/sessions")
    assert 200 == status
    assert len(value["silent"]) <= 1
    program.reload()
    wait_until(lambda: call(program, "GET", "/sessions")[1]["silent"] == [])
    assert not canary.exists()
    assert 1 == len(program.wait_log("is not listened to any more"))


@pytest.mark.parametrize("way", ["forth", "back"])
def test_an_upgrade_has_two_tables(crowd: Crowd, way: str) -> None:
    """Each master's workers are asked by their own; when one is gone the other's are all there."""
    program = crowd.program
    before = set(program.worker_pids())
    older = program.pid
    program.signal(signal.SIGUSR2)
    wait_until(lambda: program.pid not in (0, older))
    wait_until(lambda: len(program.worker_pids()) == 2)
    newer, after = program.pid, set(program.worker_pids())
    for _ in range(8):
        _, value = call(program, "GET", "/sessions")
        pids = {one["pid"] for one in value["sessions"]}
        assert (pids <= before or pids <= after, value["silent"]) == (True, [])
    for client in crowd.clients:
        client.close()
    gone, stays = (older, after) if way == "forth" else (newer, before)
    os.kill(gone, signal.SIGQUIT)
    wait_until(lambda: not processes.is_alive(gone))
    crowd.clients.clear()
    with TcpClient(program.address("tcp")) as client:
        client.exchange(b"x")
        assert {one["pid"] for one in listed(program, "protocol=tcp")} <= stays


def test_questions_go_on_while_the_program_reloads_and_workers_die(crowd: Crowd) -> None:
    """Each is answered; a process that was not heard is named."""
    program = crowd.program
    stopped = threading.Event()
    replies: list[tuple[int, Any]] = []

    def ask() -> None:
        while not stopped.is_set():
            try:
                replies.append(call(program, "GET", "/sessions?limit=1"))
            except OSError:
                pass  # its worker was killed

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        program.reload()
        pid = program.worker_pids()[0]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: pid not in program.all_worker_pids() and len(program.worker_pids()) == 2)
        program.reload()
        before = len(replies)
        wait_until(lambda: len(replies) > before + 2)
    finally:
        stopped.set()
        asking.join()
    assert {200} == {status for status, _ in replies}
    assert [] == replies[-1][1]["silent"]
    program.expected.append("exited on signal 9")


def test_a_worker_that_is_stuck_is_named(crowd: Crowd) -> None:
    """The others are heard; it answers again when it goes on."""
    program = crowd.program
    client = http.client.HTTPConnection("127.0.0.1", program.port("api"), timeout=20)

    def table(query: str) -> Any:
        client.request("GET", f"/api/ngxstream/1/sessions?{query}")
        return json.loads(client.getresponse().read())

    try:
        (own,) = table("state=serving")["sessions"]
        (stuck,) = [pid for pid in program.worker_pids() if pid != own["pid"]]
        os.kill(stuck, signal.SIGSTOP)
        try:
            value = table("limit=1000")
        finally:
            os.kill(stuck, signal.SIGCONT)
        assert [stuck] == value["silent"]
        assert {own["pid"]} == {one["pid"] for one in value["sessions"]}
        wait_until(lambda: table("limit=1")["silent"] == [])
    finally:
        client.close()


def test_what_sessions_do_is_told(
    ngxstream: ProxyFactory, backends: b.BackendFactory, tmp_path: Path
) -> None:
    """From the first byte that is waited for to the relay, and what they wait for meanwhile."""
    pair = certs.Authority(tmp_path / "ca").issue("a.test")
    silent = backends.udp(b.udp_silent).text
    (tmp_path / "m.py").write_text(
        "from ngxstream.scripting import sleep\nasync def waits(s):\n    await sleep(3600)\n"
    )
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        program = ngxstream(
            f"events {{}} stream {{ {API} resolver {silent}; ssl_certificate {pair.cert}; "
            f"ssl_certificate_key {pair.key}; "
            "server { listen 127.0.0.1:@beginning@ proxy_protocol; return x; } "
            "server { listen 127.0.0.1:@preread@; ssl_preread on; proxy_pass 127.0.0.1:9; } "
            f"py_import m from {tmp_path}/m.py; "
            "server { listen 127.0.0.1:@script@; py_access m.waits; return x; } "
            "server { listen 127.0.0.1:@looks@; py_preread m.waits; return x; } "
            "server { listen 127.0.0.1:@handshake@ ssl; return x; } "
            "server { listen 127.0.0.1:@resolving@; set $to a.test:9; proxy_pass $to; } "
            f"server {{ listen 127.0.0.1:@connecting@; "
            f"proxy_pass {b.address_text(full.getsockname())}; }} "
            f"server {{ listen 127.0.0.1:@relaying@; proxy_pass {backends.tcp().text}; }} }}"
        )
        states = (
            "beginning", "script", "preread", "handshake", "resolving", "connecting", "relaying"
        )
        for state in (*states, "looks"):
            stack.enter_context(TcpClient(program.address(state)))
        expected = {f"127.0.0.1:{program.port(state)}": state for state in states}
        expected[f"127.0.0.1:{program.port('looks')}"] = "script"
        expected[f"127.0.0.1:{program.port('api')}"] = "serving"
        wait_until(lambda: expected == {one["listen"]: one["state"] for one in listed(program, "")})
        for state in states:
            found = {one["state"] for one in listed(program, f"state={state}")}
            assert {state} == found
        assert len(states) + 1 == call(program, "DELETE", "/sessions?all=1")[1]["ended"]


def test_an_orphan_and_a_single_process_ask_themselves(
    ngxstream: ProxyFactory, backends: b.BackendFactory
) -> None:
    """There is nobody who could ask others."""
    text = (
        "%s events {} stream { " + LOG + API + " server { listen 127.0.0.1:@tcp@; server_name tcp; "
        f"proxy_pass {backends.tcp().text}; }} }}"
    )
    for main in ("master_process off;", "worker_processes 1;"):
        program = ngxstream(text % main)
        with TcpClient(program.address("tcp")) as client:
            client.exchange(b"x")
            if "off" not in main:
                (pid,) = program.worker_pids()
                os.kill(program.pid, signal.SIGKILL)
                program.wait_log("the master process is gone, serving on")
            (one,) = listed(program, "state=relaying")
            assert "tcp" == one["protocol"]
            assert 204 == call(program, "DELETE", f"/sessions/{one['id']}")[0]
            assert b"" == client.recv()
        if "off" not in main:
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: not processes.is_alive(pid))  # type: ignore[misc]


def test_without_an_api_there_is_nothing_of_it(ngxstream: ProxyFactory) -> None:
    """No pair of ports, and no signal to the master."""

    def sockets(text: str) -> int:
        program = ngxstream(f"events {{}} stream {{ {text} }}")
        pid = program.pid
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        return sum(link.startswith("socket:") for link in links)

    usual = "server { listen 127.0.0.1:@a@; return x; }"
    assert 2 == sockets(usual + API) - sockets(usual)  # the listening socket, the worker's pair
