"""Health checks of servers that are hostile: each ends in its time, and nothing is left of it.

NGXSTREAM_CHECKS says how many checks are made in the program, and in this process.
"""

from __future__ import annotations

import functools
import gc
import os
import socket
from typing import Any

import pytest

from ngxstream.event.probing import KEPT, MOST_READS, Outcome, Probing, Target
from ngxstream.wire import agent, probes
from ngxstream.wire.dialogues import Dialogue
from tests.support import api_calls
from tests.support.api_calls import OWN, PLUS
from tests.support.engine import engine, run_until
from tests.support.hostile_servers import HOWS, HostileServers
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import wait_until

CHECKS = int(os.environ.get("NGXSTREAM_CHECKS", "2000"))
TIMEOUT_MS = 200
LATE_MS = 2000  # a check that ended by its time, on a machine that is busy
LINES = (
    "type=dns name=www.test", "udp type=dns name=www.test", "type=ntp", "type=radius secret=s",
    "type=sip", "udp type=sip", "type=http", "type=redis", "type=mysql", "type=pgsql", "type=smtp",
    "type=mqtt", "type=tls", "match=text", "match=text udp", "match=pattern",
)
AT_ONCE = 64


def resident(pid: int) -> int:
    """Return how many bytes of memory a process has."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as found:
        return int(found.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int | str) -> int:
    """Return how many descriptors a process has."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def group(program: Proxy) -> dict[str, Any]:
    """Return what ngxstream's own tree says of the group."""
    found: dict[str, Any] = api_calls.get(program, f"{OWN}/upstreams")["u"]
    return found


def made(program: Proxy) -> int:
    """Return how many checks have ended."""
    return sum(one["duration_ms"]["count"] for one in group(program)["checks"])


def test_a_worker_is_as_large_after_many_hostile_checks(ngxstream: ProxyFactory) -> None:
    """All end by their time, all servers are unhealthy, memory and descriptors are what they were.

    Every type of check of every kind of hostile server, and their agents.
    """
    with HostileServers() as servers:
        lines = "".join(f"server {host}:{servers.port}; " for host in servers.hosts.values())
        checks = " ".join(
            f"health_check interval=50ms {line};" for line in (*LINES, f"agent={servers.port}")
        )
        program = ngxstream(
            "worker_processes 1; error_log logs/error.log notice; events { worker_connections "
            f"2048; }} stream {{ health_check_timeout {TIMEOUT_MS}ms; "
            "match text { send x; expect hello; } match pattern { expect ~ ^he(l+)o$; } "
            f"upstream u {{ {lines} }} server {{ listen 127.0.0.1:@in@; proxy_pass u; {checks} }} "
            "server { listen 127.0.0.1:@api@; api; } }"
        )
        (pid,) = program.worker_pids()
        first = CHECKS // 4
        wait_until(lambda: made(program) >= first, 600)
        before = resident(pid), descriptors(pid)
        wait_until(lambda: made(program) >= CHECKS, 600)
        after = resident(pid), descriptors(pid)
        peers = api_calls.get(program, f"{PLUS}/stream/upstreams/u")["peers"]
        assert {"unhealthy"} == {peer["state"] for peer in peers}
        assert [0] * len(HOWS) == [
            peer["health_checks"]["checks"] - peer["health_checks"]["fails"] for peer in peers
        ]
        for one in group(program)["checks"]:
            times = one["duration_ms"]
            place = times["bounds"].index(LATE_MS)
            assert 0 == sum(times["counts"][place + 1 :]), one["check"]
        asked = [peer["agents"][0] for peer in group(program)["peers"]]
    assert all(one["checks"] for one in asked)
    assert {(None, "ready", "100%")} == {
        (one["status"], one["admin"], one["weight"]) for one in asked
    }
    under_way = len(HOWS) * (len(LINES) + 1)  # so many may be so at one of the looks
    assert after[1] - before[1] < under_way
    assert after[0] - before[0] < 4_000_000
    assert (pid,) == tuple(program.worker_pids())
    program.assert_healthy()


# -- in this process -------------------------------------------------------------------------------


def dialogues() -> list[tuple[int, Any]]:
    """Return what makes each dialogue there is, with the kind of socket that it is over."""
    given = {"secret": "s", "name": "www.test"}
    found: list[tuple[int, Any]] = [
        (socket.SOCK_STREAM, agent.ask),
        (socket.SOCK_STREAM, lambda: probes.match(b"x", b"hello", None)),
    ]
    for about in probes.KINDS.values():
        options = {name: value for name, value in given.items() if name in about.options}
        for kind, make in ((socket.SOCK_DGRAM, about.udp), (socket.SOCK_STREAM, about.tcp)):
            if make is not None:
                found.append((kind, lambda make=make, options=options: make(options)))
    return found


def test_nothing_is_left_of_a_hostile_check() -> None:
    """No object, no descriptor: workers do not run the cyclic collector."""
    with HostileServers() as servers, engine(connections=512) as loop:
        plan = [
            (kind, make, host) for kind, make in dialogues() for host in servers.hosts.values()
        ]
        begun = ended = 0
        wrong: list[str] = []

        def done(is_agent: bool, outcome: Outcome) -> None:
            nonlocal ended
            ended += 1
            is_line = is_agent and not {10, 13}.isdisjoint(outcome.received)  # of rubbish
            if outcome.passed and not is_line:
                wrong.append(f"passed: {outcome.received!r}")
            if outcome.passed is None or len(outcome.received) > KEPT:
                wrong.append(outcome.text)

        def make_up_to(count: int) -> None:
            def is_done() -> bool:
                nonlocal begun
                while begun < count and begun - ended < AT_ONCE:
                    kind, make, host = plan[begun % len(plan)]
                    begun += 1
                    dialogue: Dialogue = make()
                    target = Target(socket.AF_INET, (host, servers.port), "it", kind)
                    Probing(
                        loop, target, dialogue, 5, 16_384,
                        functools.partial(done, make is agent.ask), probes.ProbeError,
                    ).begin()
                return ended >= count

            while not is_done():
                loop.turn(1)

        gc.collect()
        gc.disable()
        try:
            make_up_to(CHECKS // 4)
            before = len(gc.get_objects()), descriptors("self"), loop.free_connections
            make_up_to(CHECKS)
            after = len(gc.get_objects()), descriptors("self"), loop.free_connections
        finally:
            gc.enable()
        assert [] == wrong
        assert before[2] == after[2] == 512
        assert after[0] - before[0] < 500
        assert after[1] - before[1] < AT_ONCE  # of servers that close a little later


@pytest.mark.parametrize("how", ["flood", "drip"])
def test_an_answer_without_end_is_cut_off(how: str) -> None:
    """After so many bytes, or so many pieces; the server has sent no more than buffers take."""
    with HostileServers() as servers, engine() as loop:
        found: list[Outcome] = []
        target = Target(
            socket.AF_INET, (servers.hosts[how], servers.port), "it", socket.SOCK_STREAM
        )
        dialogue = probes.match(b"", None, lambda _data: None)
        Probing(loop, target, dialogue, 60_000, 16_384, found.append, probes.ProbeError).begin()
        run_until(loop, lambda: bool(found))
        assert found[0].passed is False
        assert found[0].text in (
            "no end of the answer in 16384 bytes", f"no end of the answer in {MOST_READS} pieces"
        )
        loop.turn(0)
    assert servers.most_flooded < 20_000_000
