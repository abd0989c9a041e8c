"""Addresses as a configuration writes them and as logs print them."""

import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ngxstream.core import inet
from tests.support.nginx_says import NginxSays


def addrs(text: str, **how: bool) -> list[tuple[inet.SockAddr, str]]:
    """Return sockaddr and name of every address text stands for."""
    return [(a.sockaddr, a.name) for a in inet.parse_url(text, listen=True, **how).addrs]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("53", [(("0.0.0.0", 53), "0.0.0.0:53")]),
        ("*:53", [(("0.0.0.0", 53), "0.0.0.0:53")]),
        ("*", [(("0.0.0.0", 0), "0.0.0.0:0")]),
        ("127.0.0.1:53", [(("127.0.0.1", 53), "127.0.0.1:53")]),
        ("127.0.0.1", [(("127.0.0.1", 0), "127.0.0.1:0")]),
        ("[::]:53", [(("::", 53, 0, 0), "[::]:53")]),
        ("[::1]", [(("::1", 0, 0, 0), "[::1]:0")]),
        ("unix:/x y", [("/x y", "unix:/x y")]),
        ("UNIX:/x", [("/x", "UNIX:/x")]),
        ("8-9", [(("0.0.0.0", 8), "0.0.0.0:8"), (("0.0.0.0", 9), "0.0.0.0:9")]),
        ("1.2.3.4:8-9", [(("1.2.3.4", 8), "1.2.3.4:8"), (("1.2.3.4", 9), "1.2.3.4:9")]),
        ("[::1]:8-8", [(("::1", 8, 0, 0), "[::1]:8")]),
    ],
)
def test_listen_addresses(text: str, expected: list[tuple[inet.SockAddr, str]]) -> None:
    """Ports, ranges, wildcards, literals and paths of `listen`."""
    assert expected == addrs(text)


@pytest.mark.parametrize(
    ("text", "wildcard"),
    [
        ("53", True),
        ("*:53", True),
        ("0.0.0.0:53", True),
        ("[::]:53", True),
        ("127.0.0.1:53", False),
        ("[::1]:53", False),
        ("unix:/x", False),
    ],
)
def test_wildcards(text: str, wildcard: bool) -> None:
    """0.0.0.0 and :: are every address, however they are written."""
    url = inet.parse_url(text, listen=True)
    assert wildcard == url.wildcard
    assert wildcard == inet.is_wildcard(url.addrs[0].sockaddr)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0", "invalid port"),
        ("65536", "invalid port"),
        ("1.2.3.4:0", "invalid port"),
        ("1.2.3.4:", "invalid port"),
        ("1.2.3.4:x", "invalid port"),
        ("9-8", "invalid port range"),
        ("1.2.3.4:9-8", "invalid port range"),
        ("[::1]:9-8", "invalid port range"),
        ("1-65536", "invalid port"),
        ("0-1", "invalid port"),
        ("1:2-", "invalid port"),
        ("[::1]:0", "invalid port"),
        ("[::1", "invalid host"),
        ("[::1]53", "invalid host"),
        ("1.2.3.4:1/x", "invalid host"),
        ("[::1]:1/x", "invalid host"),
        ("a?b", "invalid host"),
        (":53", "no host"),
        ("", "no host"),
        ("[]:53", "no host"),
        ("[1.2.3.4]:53", "invalid IPv6 address"),
        ("[::g]:53", "invalid IPv6 address"),
        ("unix:", "no path in the unix domain socket"),
        ("unix:/" + "x" * 107, "too long path in the unix domain socket"),
        ("no..name:53", "host not found"),
        ("no..name-1", "host not found"),
        ("1-no..name", "host not found"),
    ],
)
def test_bad_listen_addresses(text: str, reason: str) -> None:
    """What cannot be listened on is refused in nginx's words."""
    with pytest.raises(inet.UrlError) as raised:
        inet.parse_url(text, listen=True)
    assert reason == raised.value.reason
    assert reason == str(raised.value)


def test_a_server_address_has_no_bare_port() -> None:
    """Outside listen a number is a host, and a range is no port."""
    url = inet.parse_url("53", no_resolve=True)
    assert ("53", True, 0, []) == (url.host, url.no_port, url.port, url.addrs)
    with pytest.raises(inet.UrlError, match="invalid port"):
        inet.parse_url("1.2.3.4:1-2")


def test_a_default_port_is_taken_where_none_is_written() -> None:
    """The default port is used and its absence remembered."""
    for text in ("1.2.3.4", "[::1]"):
        url = inet.parse_url(text, 53)
        assert (53, True) == (url.port, url.no_port)
        assert url.addrs[0].name.endswith(":53")
    assert not inet.parse_url("1.2.3.4:1", 53).no_port


def test_names_are_resolved_unless_told_otherwise() -> None:
    """A name gives its addresses with the port written, IPv4 first, or none with no_resolve."""
    url = inet.parse_url("localhost:53")
    assert "localhost" == url.host
    assert ("127.0.0.1", 53) in [a.sockaddr for a in url.addrs]
    families = [a.family for a in url.addrs]
    assert families == sorted(families, key=lambda family: family != socket.AF_INET)
    assert [] == inet.parse_url("localhost:53", no_resolve=True).addrs


def test_a_path_may_follow_where_it_is_asked_for() -> None:
    """With uri_part, what follows host and port is kept apart."""
    for text, uri in (
        ("h:1/a?b", "/a?b"),
        ("h?b/c", "?b/c"),
        ("[::1]:1/x", "/x"),
        ("unix:/s:/x", "/x"),
    ):
        assert uri == inet.parse_url(text, uri_part=True, no_resolve=True).uri


@pytest.mark.parametrize(
    ("sockaddr", "with_port", "without"),
    [
        (("1.2.3.4", 5), "1.2.3.4:5", "1.2.3.4"),
        (("::1", 5, 0, 0), "[::1]:5", "::1"),
        (("fe80::1%lo", 5, 0, 1), "[fe80::1]:5", "fe80::1"),
        (("::1234", 5, 0, 0), "[::0.0.18.52]:5", "::0.0.18.52"),
        ("/x", "unix:/x", "unix:/x"),
        ("", "unix:", "unix:"),
        (b"\0abstract", "unix:", "unix:"),
        (b"/\xff", "unix:/\udcff", "unix:/\udcff"),
    ],
)
def test_sockaddr_texts(sockaddr: inet.SockAddr, with_port: str, without: str) -> None:
    """A sockaddr is printed as nginx prints it, with or without its port."""
    assert with_port == inet.sock_ntop(sockaddr)
    assert without == inet.address_text(sockaddr)


def test_sockaddr_parts() -> None:
    """Family, port and packed address come from the shape of a sockaddr."""
    v4, v6, path = ("1.2.3.4", 5), ("::1", 5, 0, 0), "/x"
    assert [inet.AF_INET, inet.AF_INET6, inet.AF_UNIX] == [
        inet.family_of(s) for s in (v4, v6, path)
    ]
    assert [5, 5, 0] == [inet.port_of(s) for s in (v4, v6, path)]
    assert [b"\1\2\3\4", bytes(15) + b"\1", b""] == [inet.packed(s) for s in (v4, v6, path)]
    assert "unix:" == inet.address_text(None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.2.3.4", ("1.2.3.4", 0)),
        ("1.2.3.4:5", ("1.2.3.4", 5)),
        ("::1", ("::1", 0, 0, 0)),
        ("[::1]:5", ("::1", 5, 0, 0)),
        ("[::1]", ("::1", 0, 0, 0)),
        ("[1.2.3.4]", None),
        ("[]", None),
        ("1.2.3.4:0", None),
        ("1.2.3.4:", None),
        ("h:1", None),
        ("", None),
        ("[::1]5", None),
        ("1.2.3.4:65536", None),
        ("::1:5", ("::0.1.0.5", 0, 0, 0)),
    ],
)
def test_literals_with_and_without_port(text: str, expected: inet.SockAddr | None) -> None:
    """proxy_bind's addresses are literals, bracketed when IPv6 has a port."""
    found = inet.parse_addr_port(text)
    assert expected == (found and found.sockaddr)


def test_the_kernel_takes_every_sockaddr() -> None:
    """What is parsed can be bound."""
    for text in ("127.0.0.1", "[::1]"):
        addr = inet.parse_url(text, listen=True).addrs[0]
        with socket.socket(addr.family, socket.SOCK_DGRAM) as s:
            try:
                s.bind(addr.sockaddr)
            except OSError:
                assert inet.AF_INET6 == addr.family  # a machine without IPv6
                continue
            assert inet.address_text(addr.sockaddr) == inet.address_text(s.getsockname())


PIECES = st.sampled_from(
    [
        "1.2.3.4",
        "::1",
        "[",
        "]",
        ":",
        "-",
        "53",
        "0",
        "65535",
        "65536",
        "*",
        "unix:",
        "/",
        "?",
        "x",
        ".",
        "[::]",
        "9",
    ]
)


def is_literal(text: str) -> bool:
    """Whether no resolver need be asked about an address, in whatever place it stands."""
    for listen in (True, False):
        try:
            if not inet.parse_url(text, listen=listen, no_resolve=True).addrs:
                return False
        except inet.UrlError:
            continue
    return True


@settings(
    max_examples=250,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
@given(text=st.lists(PIECES, max_size=6).map("".join))
def test_nginx_agrees(text: str, tmp_path: Path) -> None:
    """nginx takes and refuses the same addresses of listen and of a server, with the same words."""
    assume(is_literal(text))
    nginx = NginxSays(tmp_path)
    where = f" in {nginx.path}:1"
    try:
        inet.parse_url(text, listen=True)
        expected = f'unknown directive "end"{where}'
    except inet.UrlError as error:
        expected = f'{error.reason} in "{text}" of the "listen" directive{where}'
    conf = f'{nginx.load_stream()}stream {{ server {{ listen "{text}"; end; }} }}'
    assert expected == nginx.of(conf.encode())
    try:
        url = inet.parse_url(text)
        expected = f'unknown directive "end"{where}'
        if url.no_port:
            expected = f'no port in upstream "{text}"{where}'
    except inet.UrlError as error:
        expected = f'{error.reason} in upstream "{text}"{where}'
    conf = f'{nginx.load_stream()}stream {{ upstream u {{ server "{text}"; end; }} }}'
    assert expected == nginx.of(conf.encode())
