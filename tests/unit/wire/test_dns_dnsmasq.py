"""A real DNS server understands our questions, and we its answers."""

import socket
from collections.abc import Iterator

import pytest

from ngxstream.wire import dns, reader
from tests.support.dns import Dnsmasq
from tests.support.waiting import PATIENCE

MANY = [f"192.0.2.{n}" for n in range(1, 101)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dnsmasq]:
    """Run a server with a few records of each kind."""
    with Dnsmasq(
        {"www.example.com": ["192.0.2.1", "2001:db8::1"], "many.example.com": MANY},
        folder=tmp_path_factory.mktemp("dns"),
        srv=["_dns._tcp.example.com,www.example.com,5300,10,20"],
        ttl=77,
        options=("--cname=alias.example.com,www.example.com",),
    ) as running:
        yield running


def ask(server: Dnsmasq, question: dns.Question) -> dns.Response:
    """Ask over UDP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(server.address)
        sock.send(dns.build_query(4711, question))
        return dns.parse(sock.recv(dns.MAX_DATAGRAM), 4711, question)


@pytest.mark.parametrize(
    ("name", "kind", "found"),
    [
        ("www.example.com", dns.A, dns.Found("www.example.com", 77, ("192.0.2.1",))),
        ("WWW.Example.com.", dns.AAAA, dns.Found("www.example.com", 77, ("2001:db8::1",))),
        ("alias.example.com", dns.A, dns.Found("www.example.com", 77, ("192.0.2.1",))),
        (
            "_dns._tcp.example.com",
            dns.SRV,
            dns.Found("_dns._tcp.example.com", 77, (dns.Srv(10, 20, 5300, "www.example.com"),)),
        ),
        (
            "1.2.0.192.in-addr.arpa",
            dns.PTR,
            dns.Found("1.2.0.192.in-addr.arpa", 77, ("www.example.com",)),
        ),
    ],
)
def test_every_kind_of_question_is_answered(
    server: Dnsmasq, name: str, kind: int, found: dns.Found
) -> None:
    """Addresses, aliases, services and names come back with their time to live."""
    assert found == dns.follow(ask(server, dns.Question(name, kind)))


def test_a_name_that_is_not_there_is_told(server: Dnsmasq) -> None:
    """The response code says that there is no such name."""
    response = ask(server, dns.Question("nowhere.example.com", dns.A))
    assert (dns.NXDOMAIN, ()) == (response.rcode, response.records)


def test_what_is_too_long_for_a_datagram_comes_over_tcp(server: Dnsmasq) -> None:
    """A truncated answer over UDP is whole over TCP, framed by its length."""
    question = dns.Question("many.example.com", dns.A)
    assert ask(server, question).truncated
    stream = b""
    with socket.create_connection(server.address, PATIENCE) as sock:
        sock.sendall(dns.frame(dns.build_query(7, question)))
        while isinstance(message := dns.unframe(stream), reader.NeedMore):
            part = sock.recv(65536)
            assert part, "the server closed in the middle of a message"
            stream += part
    assert sorted(MANY) == sorted(
        map(str, dns.follow(dns.parse(message, 7, question)).values)
    )
