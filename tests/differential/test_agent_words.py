"""The lines of agents, as a real HAProxy takes them.

Known differences: `weight:` is of later versions than Debian's; a text behind `#` has to follow the
word there after a space. That `ready` takes back what an operator said is left out here: see
docs/health.md.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ngxstream.modules.health import agent
from ngxstream.stream import health, peer_state
from ngxstream.wire import agent as wire_agent
from tests.support import ports, tools
from tests.support.agents import Agent
from tests.support.backends import TcpBackend
from tests.support.waiting import PATIENCE, wait_until

WEIGHT = 100
LINES = (
    b"75%", b"300%", b"1%", b"0%", b"100%", b"drain", b"50% ready", b"maint", b"up", b"ready up",
    b"down", b"ready", b"up", b"fail drain ready", b"up down", b"drain", b"UP, Ready\t90%",
    b"stopped", b"rubbish 50%", b"up", b"50% 60%", b"maxconn:7", b"down maxconn:3",
    b"up maxconn:0", b"-5%", b"75 %", b"", b"maint drain", b"ready",
)


class Haproxy:
    """A HAProxy with one server, whose agent it asks."""

    def __init__(self, folder: Path, agents: Agent) -> None:
        self.agents = agents
        self.path = str(folder / "s")

    def ask(self, command: str) -> str:
        """Say something on its socket."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(self.path)
            sock.sendall(command.encode() + b"\n")
            found = b""
            while more := sock.recv(65_536):
                found += more
        return found.decode()

    def serves(self) -> bool:
        """Whether its socket is there."""
        try:
            return bool(self.ask("show info"))
        except OSError:
            return False

    def say(self, line: bytes) -> None:
        """Have the agent say a line, until it was heard."""
        self.agents.lines["127.0.0.1"] = line + b"\n"
        before = self.agents.asked["127.0.0.1"]

        def is_heard() -> bool:
            self.agents.step()
            return self.agents.asked["127.0.0.1"] > before + 2

        wait_until(is_heard, PATIENCE, "the agent is asked")

    def found(self) -> tuple[str, int, int]:
        """Return state, weight and limit of the server, while the agent goes on."""
        self.agents.step()
        names, *rows = [row.split(",") for row in self.ask("show stat").splitlines()]
        (row,) = (row for row in rows if row[:2] == ["b", "s"])
        values = dict(zip(names, row, strict=False))
        state = values["status"].split()[0]
        return state, int(values["weight"]), int(values["slim"] or 0)


@contextmanager
def haproxy(folder: Path, port: int) -> Iterator[Haproxy]:
    """Run one. Args: port: of its server, which it finds well"""
    program = tools.require("haproxy")
    agents = Agent("127.0.0.1")
    conf = folder / "haproxy.cfg"
    conf.write_text(f"""
global
  stats socket {folder}/s level admin
defaults
  mode tcp
  timeout connect 1s
  timeout client 1s
  timeout server 1s
listen b
  bind 127.0.0.1:{ports.free_port()}
  server s 127.0.0.1:{port} weight {WEIGHT} check inter 20ms rise 1 agent-check agent-port {
    agents.port} agent-inter 20ms
""")
    process = subprocess.Popen(
        [program, "-db", "-f", str(conf)], stderr=subprocess.DEVNULL
    )
    found = Haproxy(folder, agents)
    try:
        wait_until(found.serves, PATIENCE, "haproxy serves")
        yield found
    finally:
        process.kill()
        process.wait()
        agents.close()


def ours(cells: memoryview[int], line: bytes) -> tuple[str, int, int]:
    """Return the same of a row, in HAProxy's words."""
    agent.hear(cells, wire_agent.parse(line), 1)
    bits, share, most = agent.effect([cells], WEIGHT)
    weight = 0 if cells[agent.SHARE] == 0 else min(WEIGHT * share // 100, wire_agent.MOST_WEIGHT)
    state = "DRAIN" if bits & peer_state.AGENT_DRAIN and weight else "UP"
    if cells[health.STATE] == health.UNHEALTHY:
        state = "DOWN"
    if bits & peer_state.AGENT_MAINT:
        state = "MAINT"
    return state, weight, most


def test_lines_mean_what_haproxy_takes_them_for(tmp_path: Path) -> None:
    """One after the other: what is not said stays."""
    cells = memoryview(bytearray(8 * agent.CELLS)).cast("q")
    agent.begin(cells)
    with TcpBackend() as backend, haproxy(tmp_path, backend.address[1]) as theirs:
        for line in LINES:
            expected = ours(cells, line)
            theirs.say(line)
            wait_until(  # its own check may have to find first that the server is back
                lambda expected=expected: theirs.found() == expected, 5,  # type: ignore[misc]
                f"after {line!r} it is {expected}",
            )
