"""The life of a group: it begins empty, gets servers by the API, and has them after a restart."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any, Self

from ngxstream.wire import dns
from tests.support import api_calls, processes
from tests.support.api_calls import PLUS
from tests.support.backends import BackendFactory, tagged, udp_tagged
from tests.support.clients import TcpClient, UdpClient
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.scripted_dns import ScriptedDns, table
from tests.support.waiting import PATIENCE, wait_until

CONF = """worker_processes 2; events {}
stream {
    upstream tcp { zone tcp 64k; state tcp.conf; }
    upstream udp { zone udp 64k; state udp.conf; }
    server { listen 127.0.0.1:@tcp@; proxy_pass tcp; }
    server { listen 127.0.0.1:@udp@ udp; proxy_pass udp; proxy_timeout 1h; }
    server { listen 127.0.0.1:@api@; api write=on; }
}"""


class Group:
    """A group, its clients, and the API that changes it."""

    def __init__(self, program: Proxy, name: str) -> None:
        self.program = program
        self.name = name
        self.path = f"{PLUS}/stream/upstreams/{name}"
        self.clients: list[TcpClient | UdpClient] = []
        self.kept: dict[str, TcpClient | UdpClient] = {}  # one of each server, for long

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask for something that succeeds."""
        status, _, data = api_calls.call(self.program, f"{self.path}{path}", method, body)
        assert status in (200, 201), data
        return json.loads(data)

    def client(self) -> TcpClient | UdpClient:
        """Begin a session."""
        kind = TcpClient if self.name == "tcp" else UdpClient
        self.clients.append(kind(self.program.address(self.name)))
        return self.clients[-1]

    def talk(self, client: TcpClient | UdpClient) -> str:
        """Exchange something; return who answered."""
        client.send(b"x")
        return client.recv().decode().partition(":")[0]

    def answers(self, count: int = 8) -> set[str]:
        """Return who answers new clients, which come to both workers."""
        found = set()
        for _ in range(count):
            client = self.client()
            found.add(self.talk(client))
            if self.name == "tcp":  # a later UDP client at the same port would have its session
                client.close()
        return found

    def status(self) -> dict[str, Any]:
        """Return the statistics."""
        found: dict[str, Any] = self.ask("GET", "")
        return found

    def states(self) -> dict[str, str]:
        """Return the state of each server."""
        return {one["server"]: one["state"] for one in self.status()["peers"]}


def live(group: Group, backends: dict[str, Any]) -> None:
    """Play the first part: from nothing to servers that are added, drained and removed."""
    assert [] == group.ask("GET", "/servers")
    assert [] == group.status()["peers"]
    if group.name == "tcp":
        with TcpClient(group.program.address("tcp")) as nobody:
            assert b"" == nobody.recv()
        group.program.wait_log('no live upstreams while connecting to upstream')
    ids = {
        name: group.ask("POST", "/servers/", {"server": backend.text})["id"]
        for name, backend in backends.items()
    }
    assert set(backends) == group.answers()
    kept = group.kept
    while set(kept) != set(backends):
        client = group.client()
        kept[group.talk(client)] = client
    assert group.ask("PATCH", f"/servers/{ids['a']}/", {"drain": True})["drain"]
    assert {"b", "c"} == group.answers()
    assert ["draining", "up", "up"] == list(group.states().values())
    assert "a" == group.talk(kept["a"])  # a session goes on where it is
    group.ask("PATCH", f"/servers/{ids['b']}", {"down": True})
    assert {"c"} == group.answers()
    assert "b" == group.talk(kept["b"])
    group.ask("PATCH", f"/servers/{ids['a']}", {"drain": False})
    assert {"a", "c"} == group.answers()
    left = group.ask("DELETE", f"/servers/{ids['c']}/")
    assert [ids["a"], ids["b"]] == [one["id"] for one in left]
    assert {"a"} == group.answers()
    assert "c" == group.talk(kept["c"])
    assert group.status()["zombies"] >= 1
    if group.name == "tcp":
        kept["c"].close()
        wait_until(lambda: group.status()["zombies"] == 0, PATIENCE, "the removed one is free")


def test_a_group_lives_by_the_api(ngxstream: ProxyFactory, backends: BackendFactory) -> None:
    """Empty, filled, used, drained, emptied by and by; all is back after a reload and a restart."""
    program = ngxstream(CONF)
    servers: dict[str, dict[str, Any]] = {
        "tcp": {name: backends.tcp(tagged(name)) for name in "abc"},
        "udp": {name: backends.udp(udp_tagged(name)) for name in "abc"},
    }
    groups = [Group(program, name) for name in servers]
    with contextlib.ExitStack() as stack:
        for group in groups:
            live(group, servers[group.name])
            stack.callback(lambda clients=group.clients: [client.close() for client in clients])
        kept = {group.name: group.ask("GET", "/servers") for group in groups}
        program.reload()
        for group in groups:
            assert kept[group.name] == group.ask("GET", "/servers")
            assert {"a"} == group.answers()
        udp = groups[1]  # its sessions go on in the new workers, one of a removed server too
        assert "c" == udp.talk(udp.kept["c"])
        assert udp.status()["zombies"] == 1
        program.stop()
        files = {name: (Path(program.prefix) / f"{name}.conf").read_text() for name in servers}
        program.start()
        for group in groups:
            a, b = (servers[group.name][name].text for name in "ab")
            assert [(a, False), (b, True)] == [
                (one["server"], one["down"]) for one in group.ask("GET", "/servers/")
            ]
            assert {"a"} == group.answers()
            assert files[group.name].endswith(f"server {a};\nserver {b} down;\n")
            group.ask("PATCH", "/servers/1", {"down": False})
            assert {"a", "b"} == group.answers()


def test_a_name_that_is_added_is_known_to_workers_that_come_later(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """It is resolved at run time; a worker that takes a dead one's place has it too."""
    server = backends.tcp(tagged("a"))
    with ScriptedDns() as names:
        names.script = table([("a.test", dns.A, 1, "127.0.0.1")])
        program = ngxstream(CONF.replace("stream {", f"stream {{ resolver {names.text} ipv6=off;"))
        group = Group(program, "tcp")
        added = group.ask("POST", "/servers", {"server": f"a.test:{server.port}"})
        assert {"a"} == group.answers()  # who came before the answer has waited for it
        parent, address = group.ask("GET", "/servers")
        assert (added, str(added["id"])) == (parent, address["parent"])
        for pid in program.worker_pids():
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(program.worker_pids()) == 2, PATIENCE, "two others serve")
        program.expected.append("exited on signal 9")
        assert {"a"} == group.answers()
        assert [] == group.ask("DELETE", f"/servers/{added['id']}")
        with TcpClient(program.address("tcp")) as nobody:
            assert b"" == nobody.recv()


KEPT = """worker_processes 2; events {}
stream {
    upstream u { zone u 64k; state u.conf; }
    server { listen 127.0.0.1:@tcp@; proxy_pass u; }
    server { listen 127.0.0.1:@api@; api write=on; }
}"""
SERVERS = f"{PLUS}/stream/upstreams/u/servers"


class Adding:
    """Somebody who adds servers all the time, while something else happens."""

    def __init__(self, program: Proxy) -> None:
        self.program = program
        self.added: list[str] = []  # as he was told
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._add)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _add(self) -> None:
        for n in range(1, 200):
            if self._is_over.is_set():
                return
            server = f"127.0.0.1:{n}"
            status, _, data = api_calls.call(self.program, SERVERS, "POST", {"server": server})
            assert status in (201, 503), data
            if status == 201:
                self.added.append(server)


def test_a_server_that_was_added_is_there_after_a_reload(ngxstream: ProxyFactory) -> None:
    """Whenever it came: who is told that it was added finds it; refused reloads keep nobody out."""
    program = ngxstream(KEPT, expected=(r"chdir\(",))
    with Adding(program) as adding:
        for n in range(2):
            wait_until(lambda n=n: len(adding.added) > n, PATIENCE, "one more is added")
            program.reload()
    found = [one["server"] for one in api_calls.get(program, SERVERS)]
    assert adding.added == found
    text = (Path(program.prefix) / "u.conf").read_text()
    assert found == [line.split()[1][:-1] for line in text.splitlines()[1:]]
    program.reload_refused(KEPT.replace("zone u 64k", "zone u 1k"))
    program.reload_refused("working_directory /no/such/folder;" + KEPT)
    program.wait_log("the old worker processes go on")

    def is_added(n: int) -> bool:
        status = api_calls.call(program, SERVERS, "POST", {"server": f"127.0.0.1:{n}"})[0]
        assert status in (201, 503)  # 503: the refused one is still being cleared away
        return status == 201

    for n in (301, 302):
        wait_until(functools.partial(is_added, n), PATIENCE, "one more is added")


def test_nothing_is_changed_between_two_masters(ngxstream: ProxyFactory) -> None:
    """The next one may have read the files already: what was answered then would be lost."""
    zone = "keyval_zone zone=k:64k state=k.json; upstream u"
    program = ngxstream(KEPT.replace("upstream u", zone))
    pairs = f"{PLUS}/stream/keyvals/k"

    def add(n: int) -> set[int]:
        return {
            api_calls.call(program, SERVERS, "POST", {"server": f"127.0.0.1:{n}"})[0],
            api_calls.call(program, pairs, "POST", {f"k{n}": "v"})[0],
        }

    assert {201} == add(1)
    orphans = program.worker_pids()
    os.kill(program.pid, signal.SIGKILL)
    program._running().wait()
    program.wait_log("the master process is gone, serving on", count=2)
    for n in range(2, 6):
        assert {503} == add(n)
    program.start()
    wait_until(lambda: not any(map(processes.is_alive, orphans)), PATIENCE, "the orphans leave")
    assert {201} == add(7)
    assert ["127.0.0.1:1", "127.0.0.1:7"] == [
        one["server"] for one in api_calls.get(program, SERVERS)
    ]
    assert {"k1", "k7"} == api_calls.get(program, pairs).keys()
