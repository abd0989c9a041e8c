"""set_real_ip_from: whose PROXY header names the client."""

import socket

import pytest

from ngxstream.wire import proxy_protocol
from tests.support.in_process import Built, InProcess, build

SAY = 'return "$remote_addr:$remote_port $realip_remote_addr";'
HEADER = b"PROXY TCP4 192.0.2.7 192.0.2.8 1234 2\r\n"


def said(conf: str, header: bytes = HEADER, listen: str = "127.0.0.1:@main@ proxy_protocol") -> str:
    """Return what a server says to a client with a header."""
    with InProcess(f"stream {{ server {{ listen {listen}; {conf} {SAY} }} }}") as served:
        client = served.connect()
        client.send(header)
        own = client.getsockname()[1]
        return served.read(client).decode().replace(f":{own}", ":OWN")


TRUSTED = "192.0.2.7:1234 127.0.0.1"
OWN = "127.0.0.1:OWN 127.0.0.1"


@pytest.mark.parametrize(
    ("conf", "expected"),
    [
        ("", OWN),
        ("set_real_ip_from 127.0.0.1;", TRUSTED),
        ("set_real_ip_from 127.0.0.0/8;", TRUSTED),
        ("set_real_ip_from 10.0.0.0/8; set_real_ip_from 127.0.0.1/32;", TRUSTED),
        ("set_real_ip_from 0.0.0.0/0;", TRUSTED),
        ("set_real_ip_from localhost;", TRUSTED),
        ("set_real_ip_from 127.0.0.2;", OWN),
        ("set_real_ip_from ::/0;", OWN),
        ("set_real_ip_from unix:;", OWN),
    ],
)
def test_only_trusted_peers_are_believed(conf: str, expected: str) -> None:
    """The address of the header counts if the peer is in the list."""
    assert expected == said(conf)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"PROXY UNKNOWN\r\n", OWN),
        (b"PROXY TCP4 999.1.1.1 1.1.1.1 1 2\r\n", OWN),
        (b"PROXY TCP6 2001:DB8::1 ::1 9 2\r\n", "2001:db8::1:9 127.0.0.1"),
        (b"PROXY TCP4 192.0.2.7 1.1.1.1 0 2\r\n", "192.0.2.7: 127.0.0.1"),
        (proxy_protocol.build_v2(("192.0.2.9", 7), ("1.1.1.1", 2)), "192.0.2.9:7 127.0.0.1"),
    ],
)
def test_what_a_header_says(header: bytes, expected: str) -> None:
    """Either version and family; what is no address leaves the peer's."""
    assert expected == said("set_real_ip_from 127.0.0.1;", header)


def test_a_server_has_its_own_list() -> None:
    """The list of a server replaces that of the stream block as a whole."""
    text = f"""stream {{ set_real_ip_from 127.0.0.1;
        server {{ listen 127.0.0.1:@main@ proxy_protocol; set_real_ip_from 10.0.0.1; {SAY} }}
        server {{ listen 127.0.0.1:@other@ proxy_protocol; {SAY} }} }}"""
    with InProcess(text) as served:
        answers = []
        for number in range(2):
            client = served.connect(number)
            client.send(HEADER)
            answers.append(served.read(client).split(b":")[0])
    assert [b"127.0.0.1", b"192.0.2.7"] == answers


def test_mapped_peers_are_judged_as_ipv4() -> None:
    """An IPv4 client of an IPv6 socket is found in an IPv4 network."""
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    text = f"""stream {{ server {{ listen [::]:@main@ ipv6only=off proxy_protocol;
        set_real_ip_from 127.0.0.0/8; {SAY} }} }}"""
    with InProcess(text) as served:
        served.socks[0].close()
        built = served.conf.servers[0].realip
        assert built.trusts(("::ffff:127.0.0.1", 1, 0, 0))
        assert not built.trusts(("::1", 1, 0, 0))
        assert not built.trusts("")


def test_the_log_names_the_real_address() -> None:
    """`client:` in error_log lines is the replaced address."""
    text = """stream { server { listen 127.0.0.1:@main@ proxy_protocol;
        set_real_ip_from 127.0.0.1; pass 127.0.0.1:1; } }"""
    with InProcess(text) as served:
        client = served.connect()
        client.send(HEADER)
        served.read(client)
        (line,) = [text for level, text in served.target.lines if level == "error"]
    assert "client: 192.0.2.7, server: 127.0.0.1:" in line


UDP = "listen {address}:@port@ udp proxy_protocol; {conf} proxy_pass 127.0.0.1:1;"


def stream_of(*servers: tuple[str, str]) -> Built:
    """Build UDP servers of (address, what is in it) at one port."""
    blocks = [f"server {{ {UDP.format(address=at, conf=conf)} }}" for at, conf in servers]
    built = build(f"stream {{ {' '.join(blocks)} }}".replace("@port@", "5300"))
    assert built.conf is not None, built.error
    return built


def test_datagrams_have_headers_of_those_whom_the_server_of_their_address_trusts() -> None:
    """At a wildcard socket the address that a datagram came to decides, else the default."""
    built = stream_of(
        ("0.0.0.0", "set_real_ip_from 10.0.0.1;"), ("127.0.0.2", "set_real_ip_from 10.0.0.2;")
    )
    assert built.conf is not None
    (listening,) = built.conf.listenings
    believes = listening.believes
    assert believes is not None
    special, other = bytes([127, 0, 0, 2]), bytes([127, 0, 0, 3])
    one, two = ("10.0.0.1", 1), ("10.0.0.2", 1)
    assert [True, False] == [believes(peer, other) for peer in (one, two)]
    assert [False, True] == [believes(peer, special) for peer in (one, two)]
    assert [True, False] == [believes(peer, None) for peer in (one, two)]
    assert [] == built.warnings


def test_a_udp_listen_that_trusts_nobody_is_warned_of() -> None:
    """It takes nothing at all; one that trusts somebody, or has no header, is not."""
    built = stream_of(("127.0.0.1", ""), ("127.0.0.2", "set_real_ip_from unix:;"))
    told = '"listen 127.0.0.1:5300 udp proxy_protocol" takes no datagrams without'
    (warning,) = built.warnings
    assert f'[warn] {told} "set_real_ip_from"' in warning
    text = "server { listen 127.0.0.1:1 udp; return a; } server { listen 127.0.0.1:1 proxy_protocol"
    assert [] == build(f"stream {{ {text}; return a; }} }}").warnings
