"""What goes wrong under TLS once hands are shaken: the log says it in nginx's words, and in all
those that the library has for it.
"""

import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import backends as b
from tests.support import certs
from tests.support.clients import TcpClient, tcp_exchange
from tests.support.proxies import Proxy
from tests.support.stories import ended, said
from tests.support.waiting import PATIENCE, wait_until

GARBAGE = b"\x17\x03\x03\x00\x20" + bytes(32)  # a record that does not decrypt
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> certs.Pair:
    """Give a certificate."""
    return certs.Authority(tmp_path_factory.mktemp("ca")).issue("a.test")


def context_of(side: int, version: ssl.TLSVersion) -> ssl.SSLContext:
    """Make a context of one version that verifies nobody."""
    context = ssl.SSLContext(side)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    return context


def complaints(program: Proxy) -> list[str]:
    """Wait for what the library is cited for, and return what the session's log holds of it."""
    levels = ("info", "error", "crit", "alert")
    wait_until(
        lambda: any("SSL:" in line for line in said(program, *levels)), PATIENCE, "a complaint"
    )
    return [line for line in said(program, *levels) if "SSL" in line]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_sends_a_record_that_does_not_decrypt(
    same: Callable[..., None], backends: b.BackendFactory, pair: certs.Pair, version
) -> None:
    """The session ends; the reasons of the library are told, each of them."""
    backend = backends.tcp(b.silent)

    def story(program: Proxy) -> Any:
        plain = socket.create_connection(program.address("in"), PATIENCE)
        context = context_of(ssl.PROTOCOL_TLS_CLIENT, version)
        client = context.wrap_socket(plain, server_hostname="a.test")
        with socket.socket(fileno=client.detach()) as raw:
            raw.sendall(GARBAGE)
            ended(program, 1)
        (line,) = complaints(program)
        assert "error:0A000119:SSL routines::decryption failed or bad record mac" in line
        return line

    same(
        f"ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {pair.cert}; "
        f"ssl_certificate_key {pair.key}; server {{ "
        f"listen 127.0.0.1:@in@ ssl; proxy_pass {backend.text}; }}",
        story,
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_sends_a_record_that_does_not_decrypt(
    same: Callable[..., None], backends: b.BackendFactory, pair: certs.Pair, version
) -> None:
    """The upstream's end is the client's; the reasons of the library are told, each of them."""
    context = context_of(ssl.PROTOCOL_TLS_SERVER, version)
    context.load_cert_chain(pair.cert, pair.key)

    def script(conversation: b.Conversation) -> None:
        with context.wrap_socket(conversation.sock.dup(), server_side=True) as server:
            assert b"ask" == server.recv(3)
            with socket.socket(fileno=server.detach()) as raw:
                raw.sendall(GARBAGE)
        conversation.recv_to_eof()

    backend = backends.tcp(script)

    def story(program: Proxy) -> Any:
        with TcpClient(program.address("in")) as client:
            client.send(b"ask")
            assert b"" == client.recv_to_eof()
        ended(program, 1)
        (line,) = complaints(program)
        assert "error:0A000119:SSL routines::decryption failed or bad record mac" in line
        return line

    same(
        "proxy_ssl on; proxy_ssl_protocols TLSv1.2 TLSv1.3; "
        f"server {{ listen 127.0.0.1:@in@; proxy_pass {backend.text}; }}",
        story,
    )


def test_a_server_wants_a_certificate_after_all(
    same: Callable[..., None], backends: b.BackendFactory, pair: certs.Pair
) -> None:
    """In TLS 1.3 that alert comes when our side has shaken hands; it is told with its number."""
    context = context_of(ssl.PROTOCOL_TLS_SERVER, ssl.TLSVersion.TLSv1_3)
    context.load_cert_chain(pair.cert, pair.key)
    context.verify_mode = ssl.CERT_REQUIRED

    def script(conversation: b.Conversation) -> None:
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(conversation.sock.dup(), server_side=True)
        conversation.recv_to_eof()

    backend = backends.tcp(script)

    def story(program: Proxy) -> Any:
        assert b"" == tcp_exchange(program.address("in"))
        ended(program, 1)
        (line,) = complaints(program)
        words = "SSL routines::tlsv13 alert certificate required:SSL alert number 116)"
        assert f"SSL_read() failed (SSL: error:0A00045C:{words}" in line
        return line

    same(
        "proxy_ssl on; proxy_ssl_protocols TLSv1.3; "
        f"server {{ listen 127.0.0.1:@in@; proxy_pass {backend.text}; }}",
        story,
    )


def test_a_header_in_front_of_a_failed_handshake_is_counted(
    same: Callable[..., None], backends: b.BackendFactory
) -> None:
    """What went to each server of a PROXY protocol header is in the log, the handshake or not."""

    def script(conversation: b.Conversation) -> None:
        conversation.recv_exactly(60)  # the header, and some of the hello
        conversation.send(b"no TLS here\n")

    servers = [backends.tcp(script) for _ in range(2)]

    def story(program: Proxy) -> Any:
        with socket.create_connection(program.address("in"), PATIENCE) as client:
            client.settimeout(PATIENCE)
            assert b"" == client.recv(1)
        warned = [line for line in said(program, "error", "warn") if "disabled" in line]
        return ended(program, 1), warned

    same(
        f"upstream u {{ server {servers[0].text}; server {servers[1].text}; }} "
        "server { listen 127.0.0.1:@in@; proxy_pass u; proxy_ssl on; proxy_protocol on; }",
        story,
    )
