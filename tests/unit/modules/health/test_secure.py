"""TLS of checks: which name is sent, what is offered, and which certificates are taken."""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path

import pytest

from ngxstream.event.probing import Outcome, Probing, Target
from ngxstream.modules.health.schedule import target_of
from tests.support.certs import Authority, Pair
from tests.support.engine import engine, run_until
from tests.support.in_process import Built, build

STREAM = """stream {{
    upstream back {{ server {server}; }}
    server {{ listen 127.0.0.1:1; proxy_pass back; {lines} }}
}}"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Give an authority."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    """Give a certificate of www.test."""
    return authority.issue("www.test")


class Seen:
    """What a server has seen of one handshake."""

    name: str | None = None
    alpn: str | None = None
    client: bool = False


def judged(lines: str, server: str = "127.0.0.1:1") -> Built:
    """Judge a configuration."""
    return build(STREAM.format(server=server, lines=lines))


def check(lines: str, pair: Pair, server: str = "127.0.0.1:1", ca: Path | None = None) -> tuple[
    Outcome, Seen
]:
    """Make the first check of a configuration with a server that has a certificate.

    Args: server: of the group, whose port is none; ca: of clients' certificates, which are asked
    for
    """
    built = judged(lines, server)
    assert built.conf is not None, built.error
    group = built.conf.data["health"][0]
    one = group.checks[0]
    peer = next(iter(one.upstream.balancer.tier.peers))
    seen = Seen()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    context.set_alpn_protocols(["two", "one"])
    if ca is not None:
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(ca)
    context.sni_callback = lambda sock, name, ctx: setattr(seen, "name", name)
    found: list[Outcome] = []
    with engine() as loop, socket.create_server(("127.0.0.1", 0)) as listener:
        target = target_of(one, peer)
        there = Target(socket.AF_INET, listener.getsockname(), "it", target.kind,
                       secure=target.secure)
        Probing(loop, there, one.dialogue(), 20_000, 4096, found.append, ValueError).begin()
        sock, _ = listener.accept()
        sock.setblocking(False)
        with context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False) as wrapped:

            def is_over() -> bool:
                with contextlib.suppress(ssl.SSLWantReadError, ConnectionError):
                    wrapped.do_handshake()
                    seen.alpn = wrapped.selected_alpn_protocol()
                    seen.client = bool(wrapped.getpeercert(True))
                return bool(found)

            run_until(loop, is_over)
            with contextlib.suppress(ssl.SSLError, OSError):
                wrapped.do_handshake()
                seen.client = bool(wrapped.getpeercert(True))
        loop.turn(0)
    return found[0], seen


def test_a_check_of_type_tls_shakes_hands_and_knows_the_days_left(pair: Pair) -> None:
    """Whoever the certificate is of; an address is no name to send."""
    outcome, seen = check("health_check type=tls;", pair)
    assert outcome.passed
    assert outcome.days_left in (29, 30)
    assert (seen.name, seen.alpn) == (None, None)


def test_it_sends_the_name_of_the_peer_or_that_of_proxy_ssl_name(pair: Pair) -> None:
    """Without a port."""
    assert check("health_check type=tls;", pair, "localhost:443")[1].name == "localhost"
    lines = "proxy_ssl_name www.test:443; proxy_ssl_alpn one; health_check type=tls;"
    seen = check(lines, pair)[1]
    assert (seen.name, seen.alpn) == ("www.test", "one")
    lines = "proxy_ssl_name $remote_addr; health_check type=tls;"
    assert check(lines, pair, "localhost:443")[1].name == "localhost"


@pytest.mark.parametrize(
    ("more", "name"), [("", None), ("proxy_ssl_server_name on;", "back"),
                       ("proxy_ssl_server_name on; proxy_ssl_name other.test;", "other.test")],
)
def test_any_check_of_a_server_that_uses_tls_uses_it_too(
    pair: Pair, more: str, name: str | None
) -> None:
    """By the settings that its sessions have."""
    outcome, seen = check(f"proxy_ssl on; {more} health_check;", pair)
    assert outcome.passed
    assert seen.name == name


@pytest.mark.parametrize("how", ["health_check type=tls;", "proxy_ssl on; health_check;"])
def test_certificates_are_verified_where_sessions_verify_them(
    pair: Pair, authority: Authority, tmp_path: Path, how: str
) -> None:
    """By authority and by name."""
    lines = f"proxy_ssl_verify on; {how} proxy_ssl_trusted_certificate"
    named = f"proxy_ssl_name www.test; {lines} {authority.cert};"
    assert check(named, pair)[0].passed
    outcome = check(f"proxy_ssl_name b.test; {lines} {authority.cert};", pair)[0]
    assert outcome[:2] == (False, 'upstream SSL certificate does not match "b.test"')
    assert outcome.days_left in (29, 30)
    stranger = Authority(tmp_path / "other", "somebody else")
    outcome = check(f"proxy_ssl_name www.test; {lines} {stranger.cert};", pair)[0]
    assert not outcome.passed
    assert "certificate verify error: (2" in outcome.text


def test_a_check_shows_the_certificate_that_sessions_show(
    pair: Pair, authority: Authority
) -> None:
    """Also where they use no TLS."""
    shown = f"proxy_ssl_certificate {pair.cert}; proxy_ssl_certificate_key {pair.key};"
    assert check(f"{shown} health_check type=tls;", pair, ca=authority.cert)[1].client
    assert not check("health_check type=tls;", pair, ca=authority.cert)[1].client


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ("proxy_ssl_verify on;", "no proxy_ssl_trusted_certificate for proxy_ssl_verify"),
        ("proxy_ssl_ciphers NONE;", 'SSL_CTX_set_cipher_list("NONE") failed'),
    ],
)
def test_what_cannot_be_is_refused_with_the_configuration(lines: str, error: str) -> None:
    """As `proxy_ssl on` is."""
    assert error in judged(f"{lines} health_check type=tls;").error
    assert not judged(f"{lines} health_check;").error


def test_a_check_by_udp_uses_no_tls(pair: Pair) -> None:
    """Though sessions by TCP do."""
    built = judged("proxy_ssl on; health_check udp;")
    assert built.conf is not None
    assert built.conf.data["health"][0].checks[0].secure is None
