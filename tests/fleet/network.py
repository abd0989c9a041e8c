"""The hosts of a fleet: clients, a router, a switch with the nodes on it, and servers behind them.

    clients --- router --- switch --- node 1..N --- servers
    10.66/16           10.77.0/24              10.88/16

Each node is a host of its own with ngxstream or nginx, and what else the topology runs there. The
clients are accounted for: every datagram is numbered, in both directions.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.support import accounting, tools
from tests.support.accounting import Account
from tests.support.netns import Namespaces
from tests.support.proxies import ROOT, Nginx, Proxy
from tests.support.udp_network import NGINX_ALERTS, Player
from tests.support.waiting import wait_until

PORT = 5300  # of the service, in namespaces that nobody else is in
STATUS = 8080
ROUTER = "10.77.0.254"
SOURCES = [f"10.66.1.{n}" for n in range(1, 101)]
PATIENCE_S = 90.0
QUIET_S = 1.5  # without a datagram: what is missing then does not come any more

CONF = """
worker_processes 1;
events {{ worker_connections 8192; }}
stream {{
    upstream servers {{
        hash $remote_addr:$remote_port consistent;
        {zone}{lines}
    }}
    server {{ listen {port} udp; proxy_pass servers; proxy_timeout 10m; }}
    server {{ listen {port}; proxy_pass 10.88.0.254:{tcp}; proxy_connect_timeout 1s; }}
    {status}
}}
"""


@dataclass
class Node:
    """One host of the fleet. Attributes: netns: its name on this machine; proxy: its program"""

    number: int
    netns: str
    folder: Path
    proxy: Proxy | None = None

    @property
    def label(self) -> str:
        """What it is called here."""
        return f"node{self.number}"

    @property
    def address(self) -> str:
        """Its address on the switch."""
        return f"10.77.0.{self.number}"

    @property
    def inside(self) -> str:
        """What servers see its datagrams come from."""
        return f"10.88.{self.number}.1"


class Fleet:
    """One run of one program on all nodes; close() ends everything."""

    def __init__(self, program: type[Proxy], folder: Path, nodes: int, vip: str,
                 servers: int = 8) -> None:
        """Make the hosts; nothing runs yet but the servers. Args: vip: where the service is"""
        self.program = program
        self.is_ours = program is not Nginx
        self.vip = vip
        self.folder = folder
        self.nodes: list[Node] = []
        self.marks: list[accounting.Mark] = []
        self.crowd: Player | None = None
        with ExitStack() as stack:
            self.net = net = stack.enter_context(Namespaces())
            for label in ("clients", "router", "switch", "servers"):
                net.add(label)
            net.link("clients", "10.66.0.1/16", "router", "10.66.0.254/16")
            net.route("clients", "default", "via", "10.66.0.254")
            net.sysctl("router", "net.ipv4.ip_forward", 1)
            net.sysctl("router", "net.ipv4.fib_multipath_hash_policy", 1)
            net.ip("-n", net.name("switch"), "link", "add", "br0", "type", "bridge")
            net.ip("-n", net.name("switch"), "link", "set", "br0", "up")
            self.uplink = self._plug("router", f"{ROUTER}/24")
            for source in SOURCES:
                net.address(net.name("clients"), "lo", f"{source}/32")
            self.hosts = [f"10.88.0.{n + 1}" for n in range(servers)]
            for host in (*self.hosts, "10.88.0.254"):
                net.address(net.name("servers"), "lo", f"{host}/32")
            self.servers = Player(net, "backends", label="servers", hosts=self.hosts)
            self.tcp = self._tcp_server()
            for number in range(1, nodes + 1):
                self._add(number)
            stack.pop_all()

    def _plug(self, label: str, address: str) -> str:
        """Join a host to the switch; return its interface."""
        device = self.net.link(label, address, "switch", "")
        self.net.ip("-n", self.net.name("switch"), "link", "set", device, "master", "br0")
        return device

    def _add(self, number: int) -> None:
        node = Node(number, self.net.add(f"node{number}"), self.folder / f"node{number}")
        node.folder.mkdir(parents=True, exist_ok=True)
        self._plug(node.label, f"{node.address}/24")
        self.net.link(node.label, f"{node.inside}/30", "servers", f"10.88.{number}.2/30")
        self.net.route(node.label, "10.66.0.0/16", "via", ROUTER)
        self.net.route(node.label, "10.88.0.0/24", "via", f"10.88.{number}.2")
        self.nodes.append(node)

    def _tcp_server(self) -> int:
        """Run a server that greets each connection; return its port."""
        process = self.net.popen(
            "servers", sys.executable, "-m", "tests.fleet.probe", "serve", "10.88.0.254",
            stdout=subprocess.PIPE, cwd=ROOT,
        )
        assert process.stdout is not None
        return int(process.stdout.readline())

    # -- nodes ---------------------------------------------------------------------------------

    def conf(self) -> str:
        """Return the configuration of each node: the same on all."""
        lines = "".join(
            f"server {host}:{port};"
            for host, port in zip(self.hosts, self.servers.introduction, strict=True)
        )
        status = f"server {{ listen 127.0.0.1:{STATUS}; api write=on; }}" if self.is_ours else ""
        zone = "zone servers 1m; " if self.is_ours else ""
        return CONF.format(lines=lines, port=PORT, tcp=self.tcp, status=status, zone=zone)

    def serve(self, node: Node) -> None:
        """Start the program on a node."""
        node.proxy = self.program(
            self.conf(), node.folder, netns=node.netns, log_level="notice",
            expected=[*NGINX_ALERTS, r"connect\(\) failed", r"no live upstreams"],
        )
        node.proxy.start(PATIENCE_S)

    def run(self, label: str, *words: str) -> subprocess.Popen[str]:
        """Start a program on a host, which logs to a file in the folder."""
        path = self.folder / f"{label}-{Path(words[0]).name}.log"
        with open(path, "w") as log:
            return self.net.popen(label, tools.require(words[0]), *words[1:], stdout=log,
                                  stderr=log, cwd=ROOT)

    def die(self, node: Node) -> None:
        """Have a node vanish as by a loss of power: no packet of it comes any more."""
        self.mark(f"{node.label} dies")
        self.net.ip("-n", node.netns, "link", "set", self.port_of(node), "down")
        for pid in self.net.ip("netns", "pids", node.netns).split():
            with contextlib.suppress(ProcessLookupError):  # it ended with another one
                os.kill(int(pid), signal.SIGKILL)

    def port_of(self, node: Node) -> str:
        """Return a node's interface to the switch."""
        words = self.net.ip("-n", node.netns, "-o", "route", "get", ROUTER).split()
        return words[words.index("dev") + 1]

    # -- who talks -----------------------------------------------------------------------------

    def clients(self, count: int, hz: float) -> None:
        """Begin to talk, and wait until each has had an answer."""
        self.crowd = Player(
            self.net, "clients", label="clients", to=[[self.vip, PORT]], count=count, hz=hz,
            source=SOURCES,
        )
        self.crowd.say("go")
        self.crowd.wait(answered=count)

    def mark(self, what: str) -> None:
        """Note what happens now."""
        self.marks.append((time.monotonic(), what))

    def rounds(self, count: int) -> None:
        """Wait until every client has sent so many times more."""
        assert self.crowd is not None
        goal = self.crowd.say("status")["turns"] + count * len(self.crowd.introduction)
        self.crowd.wait(turns=goal)

    def account(self) -> Account:
        """Stop the clients, wait for what is on its way, and settle."""
        assert self.crowd is not None
        players = (self.crowd, self.servers)
        for player in players:
            player.say("stop")
        seen: list[Any] = []
        since = time.monotonic()

        def settled() -> bool:
            nonlocal since
            now = [player.say("status") for player in players]
            up, down = now
            if (up["sent"], up["got"]) == (down["got"], down["sent"]):
                return True
            if [now] != seen:
                seen[:] = [now]
                since = time.monotonic()
            return time.monotonic() - since > QUIET_S

        wait_until(settled, PATIENCE_S, "the datagrams on their way have come", every=0.05)
        return accounting.account(
            [self.crowd.say("journal")], self.servers.say("journal"), None, self.marks
        )

    # -- the end -------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop everything; fail on alerts nobody expected on nodes that live."""
        try:
            for node in self.nodes:
                if node.proxy is not None and node.proxy.is_running():
                    node.proxy.close()
        finally:
            self._leave()

    def _leave(self) -> None:
        for node in self.nodes:
            if node.proxy is not None:
                node.proxy.kill()
        self.net.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._leave()


def went_by(node: Node | None, session: int, at: float, account: Account) -> bool:
    """Tell whether a server has heard a session through a node by that time."""
    return node is not None and any(
        path.at <= at and path.host == node.inside for path in account.paths.get(session, ())
    )


def changes_of_server(account: Account) -> list[tuple[float, int, int, int]]:
    """Return when which session changed from which server to which other one."""
    found = []
    for session, paths in account.paths.items():
        ordered = sorted(paths, key=lambda path: path.at)
        found += [
            (after.at, session, before.backend, after.backend)
            for before, after in itertools.pairwise(ordered) if before.backend != after.backend
        ]
    return found


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows as a table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
