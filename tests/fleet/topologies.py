"""The topologies: what runs beside the program, what befalls it, what became of clients."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fleet.network import (
    PATIENCE_S,
    PORT,
    ROUTER,
    STATUS,
    Fleet,
    Node,
    changes_of_server,
    went_by,
)
from tests.support import tools
from tests.support.accounting import Account
from tests.support.proxies import ROOT, Proxy
from tests.support.waiting import wait_until

CONF = ROOT / "conf" / "fleet"
VIP = "10.77.0.100"
ANYCAST = "10.99.0.1"


@dataclass
class Step:
    """What became of clients from one event on. Attributes: of_the_node: of lost datagrams, those
    of sessions that went through the node that the event was about
    """

    what: str
    sessions: int = 0
    moved: int = 0
    lost: int = 0
    of_the_node: int = 0
    probe: dict[str, Any] = field(default_factory=dict)

    def row(self, program: str) -> list[object]:
        """Return it as a row of the table."""
        refused = sum(n for what, n in self.probe.items() if what not in ("served", "outage_s"))
        outage = self.probe.get("outage_s", "-")
        return [self.what, program, self.sessions, self.moved, self.lost, self.of_the_node,
                refused if self.probe else "-", outage]


HEAD = ["event", "program", "sessions", "moved", "lost", "of which on the node's way",
        "connections refused", "outage, s"]


def settle(fleet: Fleet, steps: list[tuple[str, Node | None]], probes: list[dict[str, Any]]
           ) -> tuple[list[Step], Account]:
    """Divide the account of a run by its events."""
    account = fleet.account()
    times = [at for at, _ in fleet.marks]
    ends = [*times[1:], float("inf")]
    moved = changes_of_server(account)
    found = []
    for (what, node), probe, begins, ends_at in zip(steps, probes, times, ends, strict=True):
        step = Step(what, len(account.sessions), probe=probe)
        step.moved = len({session for at, session, *_ in moved if begins <= at < ends_at})
        for missing in (*account.up.missing, *account.down.missing):
            if begins - 1 <= missing.at < ends_at - 1:
                step.lost += 1
                step.of_the_node += went_by(node, missing.session, missing.at, account)
        found.append(step)
    return found, account


@contextlib.contextmanager
def probing(fleet: Fleet, result: dict[str, Any]) -> Iterator[None]:
    """Have a client connect again and again meanwhile; its notes are put into the result."""
    process = fleet.net.popen(
        "clients", sys.executable, "-m", "tests.fleet.probe", "connect", fleet.vip, str(PORT),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    yield
    process.stdin.close()
    result.update(json.loads(process.stdout.readline()))


# -- active/passive ------------------------------------------------------------------------------


def keepalived(fleet: Fleet, node: Node) -> None:
    """Run keepalived on a node, by the example in conf/fleet."""
    device = fleet.port_of(node)
    text = (CONF / "keepalived.conf").read_text()
    priority = f"priority {110 - node.number}"
    text = text.replace("eth0", device).replace("priority          100", priority)
    text = text.replace("script_user nobody", "script_user root")
    text = text.replace("/usr/bin/curl", tools.require("curl"))
    path = node.folder / "keepalived.conf"
    path.write_text(text)
    if not fleet.is_ours:  # it has nothing that could be asked
        path.write_text(re.sub(r"    track_script \{.*?\}\n", "", text, flags=re.DOTALL))
    fleet.run(
        node.label, "keepalived", "-n", "-l", "-P", "-f", str(path),
        "-p", str(node.folder / "keepalived.pid"), "-r", str(node.folder / "vrrp.pid"),
    )


def has_vip(fleet: Fleet, node: Node) -> bool:
    """Tell whether a node has the address."""
    return f" {VIP}/" in fleet.net.ip("-n", node.netns, "-o", "-4", "addr")


def active_passive(program: type[Proxy], folder: Path, count: int, hz: float
                   ) -> tuple[list[Step], Account]:
    """Two hosts with one address: the first is drained and comes back, then it dies."""
    with Fleet(program, folder, 2, VIP) as fleet:
        first, second = fleet.nodes
        for node in fleet.nodes:
            fleet.serve(node)
            keepalived(fleet, node)
        wait_until(lambda: has_vip(fleet, first), PATIENCE_S, "the first node has the address")
        fleet.clients(count, hz)
        steps: list[tuple[str, Node | None]] = []
        probes: list[dict[str, Any]] = []
        if fleet.is_ours:
            steps.append(("node 1 is drained", first))
            with probing(fleet, probes_of(probes)):
                fleet.mark("node 1 is drained")
                drain(fleet, first)
                wait_until(lambda: has_vip(fleet, second), PATIENCE_S, "the second one has it")
                fleet.rounds(4)
            steps.append(("node 1 is back", second))
            with probing(fleet, probes_of(probes)):
                fleet.mark("node 1 is back")
                drain(fleet, first, "--undo")
                wait_until(lambda: has_vip(fleet, first), PATIENCE_S, "the first one has it again")
                fleet.rounds(4)
        steps.append(("node 1 dies", first))
        with probing(fleet, probes_of(probes)):
            fleet.die(first)
            wait_until(lambda: has_vip(fleet, second), PATIENCE_S, "the second one has it")
            fleet.rounds(6)
        return settle(fleet, steps, probes)


def probes_of(probes: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the next one's notes, to be filled."""
    probes.append({})
    return probes[-1]


def drain(fleet: Fleet, node: Node, *words: str) -> None:
    """Have a node ask for no new clients."""
    fleet.net.run(
        node.label, sys.executable, "-c",
        "import sys; from ngxstream.ctl import main; sys.exit(main.main(sys.argv[1:]))",
        "--url", f"http://127.0.0.1:{STATUS}", "drain-node", *words,
    )


# -- active/active -------------------------------------------------------------------------------


class Routes:
    """BIRD on all hosts, by the examples in conf/fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self._start("router", (CONF / "bird-router.conf").read_text())

    def _start(self, label: str, text: str) -> None:
        folder = self.fleet.folder / f"{label}-bird"
        folder.mkdir()
        (folder / "bird.conf").write_text(text)
        self.fleet.run(label, "bird", "-f", "-c", str(folder / "bird.conf"), "-s",
                       str(folder / "ctl"), "-P", str(folder / "pid"))
        wait_until((folder / "ctl").exists, PATIENCE_S, f"BIRD of {label} listens")

    def join(self, node: Node) -> None:
        """Run BIRD on a node, and what has it announce the address while the node is well."""
        fleet = self.fleet
        text = (CONF / "bird-node.conf").read_text()
        text = text.replace("router id 10.77.0.1;", f"router id {node.address};")
        self._start(node.label, text.replace("local as 65001", f"local as {65000 + node.number}"))
        fleet.net.address(node.netns, "lo", f"{ANYCAST}/32")
        if fleet.is_ours:
            fleet.run(node.label, "sh", str(CONF / "announce"),
                      f"http://127.0.0.1:{STATUS}/healthz?upstream=servers", self._socket(node))
        else:
            self.say(node, "enable")

    def _socket(self, node: Node) -> str:
        return str(self.fleet.folder / f"{node.label}-bird" / "ctl")

    def say(self, node: Node, word: str) -> None:
        """Have a node announce the address, or not, by hand."""
        self.fleet.net.run(node.label, "birdc", "-s", self._socket(node), word, "anycast")

    def ways(self) -> set[str]:
        """Return the nodes that the router sends clients to."""
        said = self.fleet.net.ip("-n", self.fleet.net.name("router"), "route", "show", ANYCAST)
        return {word for word in said.split() if word.startswith("10.77.0.")} - {ROUTER}

    def wait(self, *nodes: Node) -> None:
        """Wait until the router sends clients to these nodes."""
        wanted = {node.address for node in nodes}
        wait_until(lambda: self.ways() == wanted, PATIENCE_S, f"routes by {sorted(wanted)}",
                   every=0.1)


def active_active(program: type[Proxy], folder: Path, count: int, hz: float
                  ) -> tuple[list[Step], Account]:
    """Four hosts that announce one address: one is drained, one dies, one is added."""
    for name in ("bird", "birdc"):
        tools.require(name)
    with Fleet(program, folder, 5, ANYCAST) as fleet:
        routes = Routes(fleet)
        *first, fifth = fleet.nodes
        for node in first:
            fleet.serve(node)
            routes.join(node)
        routes.wait(*first)
        fleet.clients(count, hz)
        one, two, three, four = first
        steps: list[tuple[str, Node | None]] = []
        probes: list[dict[str, Any]] = []
        steps.append(("node 1 is drained", one))
        with probing(fleet, probes_of(probes)):
            fleet.mark("node 1 is drained")
            if fleet.is_ours:
                drain(fleet, one)
            else:
                routes.say(one, "disable")
            routes.wait(two, three, four)
            fleet.rounds(3)
        steps.append(("node 2 dies", two))
        with probing(fleet, probes_of(probes)):
            fleet.die(two)
            routes.wait(three, four)
            fleet.rounds(3)
        steps.append(("node 5 is added", fifth))
        with probing(fleet, probes_of(probes)):
            fleet.mark("node 5 is added")
            fleet.serve(fifth)
            routes.join(fifth)
            routes.wait(three, four, fifth)
            fleet.rounds(3)
        if fleet.is_ours:
            steps.append(("a server is taken away everywhere, then node 3 is drained", three))
            with probing(fleet, probes_of(probes)):
                fleet.mark("a server is taken away")
                take_server_away(fleet, [three, four, fifth])
                drain(fleet, three)
                routes.wait(four, fifth)
                fleet.rounds(3)
        return settle(fleet, steps, probes)


def take_server_away(fleet: Fleet, nodes: list[Node]) -> None:
    """Mark the first server as down on nodes: new sessions go to others."""
    for node in nodes:
        fleet.net.run(
            node.label, tools.require("curl"), "-fs", "-X", "PATCH", "-d", '{"down": true}',
            f"http://127.0.0.1:{STATUS}/api/9/stream/upstreams/servers/servers/0",
        )


TOPOLOGIES = {"active/passive": active_passive, "active/active": active_active}


