"""Sessions that come before a group's names were ever answered wait for the answer."""

from collections.abc import Iterable

import pytest

from ngxstream.wire import dns
from tests.support.backends import BackendFactory, tagged, udp_tagged
from tests.support.clients import TcpClient, UdpClient
from tests.support.proxies import ProxyFactory
from tests.support.scripted_dns import Query, ScriptedDns, respond, silent
from tests.support.waiting import PATIENCE, wait_until

CONF = """
worker_processes 2;
events {}
stream {
    log_format l '$status $upstream_addr'; access_log logs/access.log l;
    resolver %s ipv6=off; resolver_timeout %s;
    upstream group { zone %s 64k; server a.test:%d resolve; }
    server { listen 127.0.0.1:@main@; proxy_pass group; }
    server { listen 127.0.0.1:@main@ udp; proxy_pass group; }
}
"""


class Held:
    """A script that answers nothing until it is told to."""

    def __init__(self) -> None:
        self.queries: list[Query] = []

    def __call__(self, query: Query) -> Iterable[bytes]:
        """Keep the query."""
        self.queries.append(query)
        return ()

    def release(self, server: ScriptedDns, rcode: int = 0) -> None:
        """Answer what was asked so far, and from now on at once."""

        def script(query: Query) -> Iterable[bytes]:
            records = [] if rcode else [("a.test", dns.A, 60, "127.0.0.1")]
            return (respond(query, records, rcode=rcode),)

        server.script = script
        for query in self.queries:
            for message in script(query):
                server.udp.sendto(message, query.source)


def test_sessions_wait_for_the_first_answer(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """TCP and UDP clients of both workers are served when it comes, datagrams in order."""
    tcp = backends.tcp(tagged("b"))
    udp = backends.udp(udp_tagged("b"), port=tcp.port)
    held = Held()
    with ScriptedDns(held) as server:
        proxy = ngxstream(CONF % (server.text, "30s", "z", tcp.port))
        wait_until(lambda: held.queries, PATIENCE, "the first question")
        streams = [TcpClient(proxy.address("main")) for _ in range(8)]
        datagrams = [UdpClient(proxy.address("main")) for _ in range(8)]
        for stream in streams:
            stream.send(b"x")
        for client in datagrams:
            for n in range(3):
                client.send(b"%d" % n)
        proxy.wait_log("client .* connected to", count=16)
        held.release(server)
        assert [b"b:x"] * 8 == [stream.recv_exactly(3) for stream in streams]
        assert [[b"b:0", b"b:1", b"b:2"]] * 8 == [
            [client.recv() for _ in range(3)] for client in datagrams
        ]
        for one in (*streams, *datagrams):
            one.close()
    assert 24 == len(udp.seen)
    assert 1 == len(held.queries)


@pytest.mark.parametrize("rcode", [dns.NXDOMAIN, dns.SERVFAIL])
def test_a_first_answer_that_is_a_failure_ends_the_wait(
    ngxstream: ProxyFactory, rcode: int
) -> None:
    """There are no live upstreams then; later sessions hear it at once."""
    held = Held()
    with ScriptedDns(held) as server:
        proxy = ngxstream(CONF % (server.text, "30s", "z", 1))
        wait_until(lambda: held.queries, PATIENCE, "the first question")
        with TcpClient(proxy.address("main")) as early:
            proxy.wait_log("client .* connected to")
            held.release(server, rcode)
            assert b"" == early.recv_to_eof()
        with TcpClient(proxy.address("main")) as late:
            assert b"" == late.recv_to_eof()
        assert ["502 group"] * 2 == proxy.wait_log("502", count=2, name="logs/access.log")
        assert 2 == len(proxy.wait_log(r"\[error\] .* no live upstreams", count=2))


def test_the_wait_is_bounded(ngxstream: ProxyFactory) -> None:
    """A DNS server that is silent does not hold sessions longer than resolver_timeout."""
    with ScriptedDns(silent) as server:
        proxy = ngxstream(CONF % (server.text, "1s", "z", 1))
        with TcpClient(proxy.address("main")) as client:
            assert b"" == client.recv_to_eof()
        proxy.wait_log("no live upstreams while connecting to upstream")


def test_a_client_that_leaves_while_it_waits_is_no_trouble(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """The others are served, and the worker ends in grace."""
    backend = backends.tcp(tagged("b"))
    held = Held()
    with ScriptedDns(held) as server:
        proxy = ngxstream(CONF % (server.text, "30s", "z", backend.port))
        wait_until(lambda: held.queries, PATIENCE, "the first question")
        with TcpClient(proxy.address("main")) as stays:
            TcpClient(proxy.address("main")).reset()
            proxy.wait_log("client .* connected to", count=2)
            held.release(server)
            assert b"b:x" == stays.exchange(b"x", 3)
        assert 0 == proxy.stop(3)


def test_a_group_in_a_new_zone_loses_no_session_over_a_reload(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """New workers know no address yet, and their first sessions wait."""
    backend = backends.tcp(tagged("b"))
    held = Held()
    with ScriptedDns(held) as server:
        proxy = ngxstream(CONF % (server.text, "30s", "z", backend.port))
        held.release(server)
        for n in range(4):
            with TcpClient(proxy.address("main")) as client:
                assert b"b:x" == client.exchange(b"x", 3)
            proxy.reload(CONF % (server.text, "30s", f"z{n}", backend.port))
