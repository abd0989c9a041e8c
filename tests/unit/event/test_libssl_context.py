"""Contexts: what a virtual server that a client asks for says of its handshake."""

import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ngxstream.core import codes
from ngxstream.core.log import Log
from ngxstream.event import libssl_context, libssl_facts, tls
from ngxstream.event.loop import Loop
from tests.support import certs
from tests.support.waiting import PATIENCE, wait_until


class World:
    """Two authorities, a certificate for servers and one for clients, and a chain that is long."""

    def __init__(self, folder: Path) -> None:
        self.ca = certs.Authority(folder / "ca")
        self.server = self.ca.issue("a.test")
        self.client = self.ca.issue("client")
        between = self.ca.issue("between", is_authority=True, more="keyUsage=keyCertSign\n")
        below = certs.Authority(folder / "below", "unused")
        below.cert.write_bytes(between.cert.read_bytes())
        below.key.write_bytes(between.key.read_bytes())
        leaf = below.issue("leaf")
        chain = folder / "chain.pem"
        chain.write_bytes(leaf.cert.read_bytes() + between.cert.read_bytes())
        self.distant = certs.Pair(chain, leaf.key)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Give the certificates."""
    return World(tmp_path_factory.mktemp("world"))


def make_context(world: World) -> libssl_context.Context:
    """Make a server's context, one that asks its clients for nothing."""
    context = libssl_context.Context(libssl_context.TLSV1_2, server_side=True)
    context.add_certificate(str(world.server.cert), str(world.server.key), None)
    return context


def make_asking(world: World, depth: int = 3) -> libssl_context.Context:
    """Make a context that asks clients for a certificate."""
    context = make_context(world)
    context.verify_peer(depth, ask=True)
    context.trust(str(world.ca.cert), announce=True)
    return context


def shake(
    default: libssl_context.Context,
    asked_for: libssl_context.Context,
    shown: certs.Pair | None,
    look: Callable[[Any, int], Any],
) -> Any:
    """Shake hands with the default context, go on with another one, and look at the outcome."""

    def select(connection: int, name: bytes | None) -> int:
        libssl_context.switch(default.lib, connection, asked_for)
        return 0

    default.on_client_hello(select)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE
    if shown is not None:
        client_context.load_cert_chain(shown.cert, shown.key)
    loop = Loop(Log([]))
    with ExitStack() as held:
        held.callback(loop.poller.close)
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
        transport = tls.Transport(loop, default, ours)
        held.callback(transport.close)
        client = held.enter_context(
            client_context.wrap_socket(
                theirs, do_handshake_on_connect=False, server_hostname="a.test"
            )
        )

        def is_done() -> bool:
            try:
                client.do_handshake()
            except ssl.SSLWantReadError:
                return transport.handshake() == codes.OK
            return transport.handshake() == codes.OK

        wait_until(is_done, PATIENCE, "the handshake")
        transport.quiet = True
        return look(default.lib, transport.pointer)


def verdict(lib: Any, connection: int) -> tuple[bool, int]:
    """Return whether the client showed a certificate, and what its check came to."""
    return libssl_facts.has_peer(lib, connection), libssl_facts.verify_result(lib, connection)[0]


def test_the_server_asked_for_decides_whether_clients_show_a_certificate(world: World) -> None:
    """Its clients are asked though the default's are not, and the other way round."""
    plain, asking = make_context(world), make_asking(world)
    assert (True, libssl_facts.VERIFY_OK) == shake(plain, asking, world.client, verdict)
    assert (False, libssl_facts.VERIFY_OK) == shake(asking, plain, world.client, verdict)


def test_a_client_without_a_certificate_shakes_hands_and_is_known_to_have_none(
    world: World,
) -> None:
    """Who is asked and shows nothing is let through the handshake: refusing is the phase's."""
    assert (False, libssl_facts.VERIFY_OK) == shake(
        make_context(world), make_asking(world), None, verdict
    )


@pytest.mark.parametrize("depth", [0, 2])
def test_the_server_asked_for_decides_how_long_a_chain_may_be(world: World, depth: int) -> None:
    """The verify depth is that of the server selected by SNI, not the default server's."""
    default, asking = make_asking(world, depth=2 - depth), make_asking(world, depth=depth)
    shown, code = shake(default, asking, world.distant, verdict)
    assert (True, depth == 2) == (shown, code == libssl_facts.VERIFY_OK)


def test_the_server_asked_for_decides_upon_the_options(world: World) -> None:
    """Options are taken over whole: what the default has and the other has not is gone."""
    default, other = make_context(world), make_context(world)
    default.set_options(libssl_context.NO_TICKET)
    other.set_options(int(ssl.OP_CIPHER_SERVER_PREFERENCE))

    def options(lib: Any, connection: int) -> int:
        return int(lib.SSL_get_options(connection))

    kept = shake(default, other, None, options)
    assert 0 == kept & libssl_context.NO_TICKET
    assert kept & int(ssl.OP_CIPHER_SERVER_PREFERENCE)


def test_how_sessions_are_kept_is_told_to_the_library(world: World) -> None:
    """The mode, the time, and a size where one is given; OpenSSL's numbers."""
    context = make_context(world)
    lib, pointer = context.lib, context.pointer
    modes = libssl_context.CACHE_SERVER | libssl_context.CACHE_NO_INTERNAL
    usual = lib.SSL_CTX_ctrl(pointer, 43, 0, None)  # SSL_CTRL_GET_SESS_CACHE_SIZE
    context.set_session_cache(modes, None, 300)
    assert usual == lib.SSL_CTX_ctrl(pointer, 43, 0, None)
    assert 0x302 == modes == lib.SSL_CTX_ctrl(pointer, 45, 0, None)  # …_MODE
    context.set_session_cache(libssl_context.CACHE_SERVER, 77, 300)
    assert 77 == lib.SSL_CTX_ctrl(pointer, 43, 0, None)
