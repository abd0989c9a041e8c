"""proxy_pass with variables leads to one place in nginx and here, and fails in the same words."""

import re
import socket
from collections.abc import Callable, Iterable

import pytest

from ngxstream.wire import dns
from tests.support import proxies
from tests.support.backends import BackendFactory, tagged, udp_tagged
from tests.support.clients import UdpClient
from tests.support.scripted_dns import Query, ScriptedDns, respond
from tests.support.waiting import PATIENCE, wait_until

Pair = tuple[proxies.Proxy, proxies.Proxy]


def script(query: Query) -> Iterable[bytes]:
    """Answer by what the name says."""
    kind = query.name.split(".")[0]
    codes = {"none": 3, "fail": 2, "refused": 5}
    if kind == "silent":
        return ()
    if kind in codes:
        return (respond(query, rcode=codes[kind]),)
    if kind == "cut" and not query.tcp:
        return (respond(query, truncated=True),)
    if kind == "far":  # the address is in another answer
        return (respond(query, [(query.name, dns.CNAME, 5, "plain.test")]),)
    if kind == "empty" or query.kind != dns.A:
        return (respond(query),)
    if kind == "alias":
        alias = (query.name, dns.CNAME, 5, "plain.test")
        return (respond(query, [alias, ("plain.test", dns.A, 5, "127.0.0.1")]),)
    hosts = ["127.0.0.2", "127.0.0.1"] if kind == "two" else ["127.0.0.1"]
    return (respond(query, [(query.name, dns.A, 5, host) for host in hosts]),)


CONF = """
events {}
stream {
    resolver %s; resolver_timeout 1s;
    log_format l '$status [$upstream_addr] $bytes_sent';
    access_log logs/access.log l;
    upstream group { server %s; }
    map $remote_addr $target { default '%s'; }
    server { listen 127.0.0.1:@main@; proxy_connect_timeout 5s; proxy_pass $target; }
}
"""


def talk(proxy: proxies.Proxy, data: bytes, host: str = "127.0.0.1") -> bytes:
    """Send, and return the answer of the tagged backend; empty when there is none."""
    with socket.socket() as client:
        client.settimeout(PATIENCE)
        client.bind((host, 0))
        try:
            client.connect(proxy.address("main"))
            client.sendall(data)
            answer = b""
            while len(answer) < len(data) + 2 and (piece := client.recv(100)):
                answer += piece
        except ConnectionError:
            return b""
        return answer


def told(proxy: proxies.Proxy, data: bytes = b"hello") -> list[str]:
    """Make one session; return answer, access log line and the errors, without own ports."""
    answer = talk(proxy, data)
    ended = proxy.wait_log("", name="logs/access.log")
    errors = [r.message for r in proxy.records() if r.level in ("error", "crit", "alert")]
    lines = [answer.decode(), *ended, *errors]
    return [re.sub(rf":{proxy.port('main')}\b", ":MAIN", line) for line in lines]


@pytest.mark.effect("resolver", "proxy_pass")
@pytest.mark.parametrize(
    "target",
    [
        "plain.test:%d", "PLAIN.Test:%d", "two.test:%d", "alias.test:%d", "far.test:%d",
        "cut.test:%d", "none.test:%d", "fail.test:%d", "refused.test:%d", "empty.test:%d",
        "silent.test:%d", "127.0.0.1:%d", "127.0.0.1", "[::1]:%d", "[::1]", "[::1", "127.1:%d",
        "nameonly", "a:b", "a:0", "a:70000", ":%d", "unix:", "unix:/nonexistent", "", "group",
        "GROUP", "group:%d", "x..y:%d", "a/b:%d",
    ],
)
def test_a_target_is_understood_alike(
    both: Callable[..., Pair], backends: BackendFactory, target: str
) -> None:
    """Names of upstreams, addresses and names to resolve lead on; else a 500 says why."""
    backend = backends.tcp(tagged("b"))
    text = target.replace("%d", str(backend.port))
    # the others have their answer at once, or as soon as a busy machine lets it be sent
    conf = CONF if target.startswith("silent") else CONF.replace("timeout 1s", "timeout 20s")
    with ScriptedDns(script) as server:
        pair = both(conf % (server.text, backend.text, text))
        theirs, ours = (told(proxy) for proxy in pair)
    assert theirs == ours


def test_without_a_resolver_names_stay_unresolved(
    both: Callable[..., Pair], backends: BackendFactory
) -> None:
    """The error says what is missing."""
    backend = backends.tcp()
    conf = CONF % ("x", backend.text, f"plain.test:{backend.port}")
    conf = re.sub("resolver x; resolver_timeout 1s;", "", conf)
    theirs, ours = (told(proxy) for proxy in both(conf))
    assert theirs == ours
    assert "no resolver defined to resolve plain.test" in ours[2]


@pytest.mark.parametrize(("tries", "status"), [(1, "502"), (2, "200")])
def test_tries_are_limited_for_names_and_not_for_addresses(
    both: Callable[..., Pair], backends: BackendFactory, tries: int, status: str
) -> None:
    """proxy_next_upstream_tries counts the addresses of a name."""
    backend = backends.tcp(tagged("b"))
    conf = CONF % ("%s", backend.text, f"two.test:{backend.port}")
    conf = conf.replace("5s;", f"5s; proxy_next_upstream_tries {tries};")
    with ScriptedDns(script) as server:
        theirs, ours = (told(proxy) for proxy in both(conf % server.text))
    assert theirs == ours
    assert ours[1].startswith(status)


@pytest.mark.parametrize("requests", [0, 1, 2, 5])
def test_datagrams_wait_for_their_name(
    proxy: proxies.ProxyFactory, backends: BackendFactory, requests: int
) -> None:
    """What a client sends before its session's name is resolved reaches the server, in order."""
    backend = backends.udp(udp_tagged("b"))
    conf = CONF.replace("@main@;", f"@main@ udp; proxy_requests {requests};")
    held: list[Query] = []

    def hold(query: Query) -> Iterable[bytes]:
        held.append(query)
        return ()

    def release(query: Query) -> None:
        records = [("a.test", dns.A, 60, "127.0.0.1")] if query.kind == dns.A else []
        server.udp.sendto(respond(query, records), query.source)

    with ScriptedDns(hold) as server:
        running = proxy(
            conf.replace("1s", "60s") % (server.text, "127.0.0.1:1", f"a.test:{backend.port}")
        )
        with UdpClient(running.address("main")) as client:
            client.send(b"0")
            wait_until(lambda: len(held) == 2, PATIENCE, "both questions")
            for n in range(1, 5):
                client.send(b"%d" % n)
            for query in held:
                release(query)
            assert [b"b:%d" % n for n in range(5)] == sorted(client.recv() for _ in range(5))
    assert 5 == len(backend.seen)


def test_kept_addresses_spare_the_question(
    proxy: proxies.ProxyFactory, backends: BackendFactory
) -> None:
    """Ten sessions within the TTL ask once for each family."""
    backend = backends.tcp(tagged("b"))
    with ScriptedDns(script) as server:
        running = proxy(CONF % (server.text, backend.text, f"plain.test:{backend.port}"))
        assert [b"b:x"] * 10 == [talk(running, b"x") for _ in range(10)]
        assert 4 >= len(server.queries)  # a slow machine may need a second round


def test_a_stuck_lookup_does_not_hold_other_sessions(
    proxy: proxies.ProxyFactory, backends: BackendFactory
) -> None:
    """While one name is silent another session is served."""
    backend = backends.tcp(tagged("b"))
    conf = CONF.replace("default '%s';", "default silent.test:1; 127.0.0.9 group;")
    with ScriptedDns(script) as server:
        running = proxy(conf.replace("1s", "60s") % (server.text, backend.text))
        with socket.create_connection(running.address("main")) as stuck:
            wait_until(lambda: server.queries, PATIENCE, "a question about silent.test")
            assert b"b:x" == talk(running, b"x", "127.0.0.9")
            stuck.setblocking(False)
            with pytest.raises(BlockingIOError):
                stuck.recv(1)


def test_a_session_that_ends_while_its_name_is_resolved_leaves_nothing(
    ngxstream: proxies.ProxyFactory,
) -> None:
    """At worker_shutdown_timeout the waiting session goes, and the worker with it."""
    conf = "worker_shutdown_timeout 100ms;" + CONF.replace("1s", "60s")
    with ScriptedDns(script) as server:
        running = ngxstream(conf % (server.text, "127.0.0.1:1", "silent.test:1"))
        with socket.create_connection(running.address("main")):
            wait_until(lambda: server.queries, PATIENCE, "a question about silent.test")
            assert 0 == running.stop(3)  # SIGQUIT
    assert "500" not in (running.prefix / "logs/access.log").read_text()
