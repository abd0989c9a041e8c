"""Health checks in the program: several workers, reloads, a worker that is killed, clients."""

from __future__ import annotations

import os
import signal
from typing import Any

from tests.support import api_calls, processes
from tests.support.api_calls import PLUS
from tests.support.backends import BackendFactory, Script, TcpBackend, tagged, udp_tagged
from tests.support.clients import TcpClient, UdpClient
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import wait_until

CONF = """worker_processes 2; error_log logs/error.log notice; events {{}}
stream {{
    match tag {{ send x; expect ~ ^one:|^two:; }}
    upstream tcp {{ server {one}; server {two}; }}
    upstream udp {{ server {three}; server {four}; }}
    health_check_timeout 5s;
    server {{ listen 127.0.0.1:@tcp@; proxy_pass tcp; health_check interval=200ms {words}; }}
    server {{ listen 127.0.0.1:@udp@ udp; proxy_pass udp; proxy_responses 1;
              health_check udp match=tag interval=200ms {words}; }}
    server {{ listen 127.0.0.1:@api@; api; }}
}}"""


def states(program: Proxy, name: str) -> list[str]:
    """Return the states of the servers of a group."""
    found = api_calls.get(program, f"{PLUS}/stream/upstreams/{name}")["peers"]
    return [peer["state"] for peer in found]


def checks(program: Proxy) -> dict[str, dict[str, Any]]:
    """Return what is counted of the checks, by server."""
    groups = api_calls.get(program, f"{PLUS}/stream/upstreams")
    return {peer["server"]: peer["health_checks"] for name in ("tcp", "udp")
            for peer in groups[name]["peers"]}


def answers(program: Proxy, name: str, count: int = 12) -> set[str]:
    """Return who answers new clients."""
    kind = TcpClient if name == "tcp" else UdpClient
    found = set()
    for _ in range(count):
        with kind(program.address(name)) as client:
            client.send(b"x")
            found.add(client.recv().decode().partition(":")[0])
    return found


def test_clients_are_kept_from_servers_that_do_not_serve(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """They are found out by checks, and so is that they are back; a reload keeps what was found."""
    one, two = backends.tcp(tagged("one")), backends.tcp(tagged("two"))
    three, four = backends.udp(udp_tagged("one")), backends.udp(udp_tagged("two"))
    where = {"one": one.text, "two": two.text, "three": three.text, "four": four.text}
    program = ngxstream(CONF.format(**where, words="mandatory"))
    for name in ("tcp", "udp"):
        wait_until(lambda name=name: states(program, name) == ["up", "up"])  # type: ignore[misc]
        assert {"one", "two"} == answers(program, name)
    two.close()
    four.close()
    for name in ("tcp", "udp"):
        wait_until(lambda name=name: states(program, name) == ["up", "unhealthy"])  # type: ignore[misc]
        assert {"one"} == answers(program, name)
    before = checks(program)
    assert {"unhealthy": 1, "last_passed": False} == {
        key: before[four.text][key] for key in ("unhealthy", "last_passed")
    }
    program.reload(CONF.format(**where, words="mandatory persistent"))
    assert {"one"} == answers(program, "tcp") == answers(program, "udp")
    after = checks(program)
    assert after[one.text]["checks"] >= before[one.text]["checks"] > 0
    assert 1 == after[two.text]["unhealthy"]
    lines = [text for text in program.error_log() if "peer is unhealthy" in text]
    assert 2 == len(lines), lines
    program.assert_healthy()


def test_a_killed_worker_s_checks_are_made_by_others(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """All of them go on, whoever dies: the workers one after the other, in the middle of checks."""
    one, two = backends.tcp(tagged("one")), backends.tcp(tagged("two"))
    three, four = backends.udp(udp_tagged("one")), backends.udp(udp_tagged("two"))
    program = ngxstream(CONF.format(
        one=one.text, two=two.text, three=three.text, four=four.text, words=""
    ), expected=("exited on signal 9",))
    for pid in program.worker_pids():
        wait_until(lambda: all(found["checks"] for found in checks(program).values()))
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: pid not in program.worker_pids())  # type: ignore[misc]
        wait_until(lambda: len(program.worker_pids()) == 2)
        before = checks(program)
        wait_until(lambda before=before: all(  # type: ignore[misc]
            found["checks"] > before[server]["checks"] + 1
            for server, found in checks(program).items()
        ))
    assert ["up", "up", "up", "up"] == states(program, "tcp") + states(program, "udp")
    assert all(found["fails"] == 0 for found in checks(program).values())


class Sayings:
    """What the agents of two servers say now, on a host of each."""

    def __init__(self, backends: BackendFactory) -> None:
        self.now = {"127.0.0.2": b"up ready\n", "127.0.0.3": b"up ready\n"}
        first = backends.tcp(self.say("127.0.0.2"), "127.0.0.2", 0)
        self.port = first.address[1]
        self.agents = [first, backends.tcp(self.say("127.0.0.3"), "127.0.0.3", self.port)]

    def say(self, host: str) -> Script:
        """Return the script of an agent."""
        return lambda conversation: conversation.send(self.now[host])


def test_agents_are_heard_by_all_workers(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """Who drains gets no sessions, also after a reload while its agent is gone; then it is back."""
    one = backends.tcp(tagged("one"), "127.0.0.2")
    two = backends.tcp(tagged("two"), "127.0.0.3")
    said = Sayings(backends)
    text = (
        "worker_processes 2; error_log logs/error.log notice; events {} stream { upstream tcp { "
        f"server {one.text}; server {two.text}; }} server {{ listen 127.0.0.1:@tcp@; "
        f"proxy_pass tcp; health_check interval=100ms agent={said.port}; }} "
        "server { listen 127.0.0.1:@api@; api; } }"
    )
    program = ngxstream(text)
    assert {"one", "two"} == answers(program, "tcp")
    said.now["127.0.0.3"] = b"drain\n"
    wait_until(lambda: states(program, "tcp") == ["up", "draining"])
    assert {"one"} == answers(program, "tcp")
    said.now["127.0.0.3"] = b"fail drain # the disk\x1b[31m\r\n"
    program.wait_log("agent says fail")
    said.agents[1].close()
    program.wait_log("agent is not heard, what it said last holds: connect")
    program.reload(text)
    assert {"one"} == answers(program, "tcp")
    assert ["up", "draining"] == states(program, "tcp")
    with TcpBackend(said.say("127.0.0.3"), "127.0.0.3", said.port):
        said.now["127.0.0.3"] = b"up ready 100%\n"
        wait_until(lambda: states(program, "tcp") == ["up", "up"])
        assert {"one", "two"} == answers(program, "tcp")
    lines = [text.partition(", health check")[0] for text in program.error_log() if "agent" in text]
    heard = [text.partition("agent says ")[2] for text in lines if "agent says" in text]
    assert ["drain", r'fail "the disk\x1b[31m"', "up, ready"] == heard
    program.assert_healthy()
def test_another_binary_begins_with_what_was_found(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """A server that was unhealthy stays so until its next check is due, and is not asked again."""
    one, two = backends.tcp(tagged("one")), backends.tcp(tagged("two"))
    program = ngxstream(
        "worker_processes 2; error_log logs/error.log notice; events {} stream { "
        f"upstream tcp {{ server {one.text}; server {two.text}; }} "
        "server { listen 127.0.0.1:@tcp@; proxy_pass tcp; health_check interval=1h; } "
        "server { listen 127.0.0.1:@api@; api; } }", start=False,
    )
    two.close()
    program.start()
    wait_until(lambda: states(program, "tcp") == ["up", "unhealthy"])
    backends.tcp(tagged("two"), port=two.port)

    def found() -> list[tuple[int, int]]:
        peers = api_calls.get(program, f"{PLUS}/stream/upstreams/tcp")["peers"]
        return [(peer["health_checks"]["checks"], peer["health_checks"]["fails"])
                for peer in peers]

    wait_until(lambda: found() == [(1, 0), (1, 1)])
    old = program.pid
    os.kill(old, signal.SIGUSR2)
    wait_until(lambda: program.pid not in (0, old))
    wait_until(lambda: len(processes.children(program.pid)) == 2)
    os.kill(old, signal.SIGQUIT)
    wait_until(lambda: not processes.is_alive(old))
    assert ["up", "unhealthy"] == states(program, "tcp")
    assert [(1, 0), (1, 1)] == found()
    assert {"one"} == answers(program, "tcp")
    assert not program.messages("warn")[1:], "the first one says that the server is unhealthy"
