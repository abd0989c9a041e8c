"""Handshakes with clients are counted by how they end, where an `api` shows them."""

from __future__ import annotations

import concurrent.futures
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ngxstream.conf import directive as d
from ngxstream.modules.ssl import counted, handshake
from ngxstream.stream.module import StreamModule
from tests.support import certs
from tests.support.in_process import InProcess, build
from tests.support.operations import call


def _show(scope: Any, module: Any, st: Any) -> None:
    """What an `api` does."""
    scope.builder.data["stream"].is_shown = True


SHOWN = StreamModule("shown", (d.Directive("shown", d.SERVER, d.NOARGS, _show, "Shows."),))


class World:
    """An authority and what it has issued."""

    def __init__(self, folder: Path) -> None:
        self.ca = certs.Authority(folder / "ca")
        self.pair = self.ca.issue("a.test")
        self.client = self.ca.issue("client")
        self.revoked = self.ca.issue("revoked")
        self.ca.revoke(self.revoked)
        self.crl = self.ca.crl()
        self.other = certs.Authority(folder / "other", "another authority")
        self.stranger = self.other.issue("stranger")

    def serve(self, text: str = "", *, shown: str = "shown;") -> InProcess:
        """Serve an address with TLS."""
        pair = f"ssl_certificate {self.pair.cert}; ssl_certificate_key {self.pair.key};"
        return InProcess(
            f"stream {{ server {{ listen 127.0.0.1:@a@ ssl; {shown} status_zone a; {pair} {text} "
            "return hello; } }", more=(SHOWN,),
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Make the certificates once."""
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def threads() -> Iterator[concurrent.futures.Executor]:
    """Give a thread for clients, which block."""
    with concurrent.futures.ThreadPoolExecutor() as executor:
        yield executor


def context(change: Callable[[ssl.SSLContext], object] = lambda _: None) -> ssl.SSLContext:
    """Return a client's context that believes anybody."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    change(made)
    return made


Shake = Callable[..., Any]


@pytest.fixture
def shake(threads: concurrent.futures.Executor) -> Shake:
    """Give ``shake(served, context, session)``: one client; its session is returned."""

    def run(served: InProcess, how: ssl.SSLContext | None = None, session: Any = None) -> Any:
        address = served.address()

        def talk() -> Any:
            try:
                with (
                    socket.create_connection(address, 10) as sock,
                    (how or context()).wrap_socket(sock, session=session) as client,
                ):
                    while client.recv(100):
                        pass
                    return client.session
            except OSError:
                return None

        done = threads.submit(talk)
        served.turn_until(done.done)
        served.turn_until(lambda: not served.loop.sessions)
        return done.result()

    return run


def happened(served: InProcess) -> dict[str, int]:
    """Return the counters of the server that are not 0: they are also those of all."""
    zone = call(served, "GET", "/stream/server_zones/a")["ssl"]
    of_all = call(served, "GET", "/ssl")
    assert 0 == of_all["verify_failures"].pop("hostname_mismatch")
    assert of_all == zone
    refused = zone.pop("verify_failures")
    return {name: n for name, n in {**zone, **refused}.items() if n}


def test_a_handshake_counts_once_and_one_that_resumes_besides(world: World, shake: Shake) -> None:
    """Over both versions."""
    with world.serve() as served:
        shake(served)
        assert {"handshakes": 1} == happened(served)
        how = context(lambda one: setattr(one, "maximum_version", ssl.TLSVersion.TLSv1_2))
        session = shake(served, how)
        shake(served, how, session)
        assert {"handshakes": 3, "session_reuses": 1} == happened(served)


@pytest.mark.parametrize(
    ("server", "client", "counter"),
    [
        ("ssl_protocols TLSv1.3;",
         lambda one: setattr(one, "maximum_version", ssl.TLSVersion.TLSv1_2),
         "no_common_protocol"),
        ("ssl_protocols TLSv1.2; ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256;",
         lambda one: one.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384"), "no_common_cipher"),
        ("", lambda one: setattr(one, "verify_mode", ssl.CERT_REQUIRED), "peer_rejected_cert"),
    ],
)
def test_a_handshake_that_fails_counts_with_its_reason(
    world: World, shake: Shake, server: str, client: Callable[[ssl.SSLContext], object],
    counter: str,
) -> None:
    """Where there is a word for it."""
    with world.serve(server) as served:
        shake(served, context(client))
        assert {"handshakes_failed": 1, counter: 1} == happened(served)


def test_what_is_no_handshake_fails(world: World) -> None:
    """Without a reason that has a word."""
    with world.serve() as served:
        served.connect().send(b"GET / HTTP/1.0\r\n\r\n")
        served.turn_until(lambda: served.sessions and served.sessions[0].status)
        assert {"handshakes_failed": 1} == happened(served)


def test_who_says_nothing_is_too_late(world: World) -> None:
    """ssl_handshake_timeout is over."""
    with world.serve("ssl_handshake_timeout 20ms;") as served:
        served.connect()
        served.turn_until(lambda: served.sessions and served.sessions[0].status)
        assert {"handshakes_failed": 1, "handshake_timeout": 1} == happened(served)


@pytest.mark.parametrize(
    ("who", "counter"),
    [("", "no_cert"), ("stranger", "other"), ("revoked", "revoked_cert"), ("client", "")],
)
def test_a_certificate_that_is_refused_counts_besides(
    world: World, shake: Shake, who: str, counter: str
) -> None:
    """The handshake was a success."""
    with world.serve(
        f"ssl_verify_client on; ssl_client_certificate {world.ca.cert}; ssl_crl {world.crl};"
    ) as served:
        pair = getattr(world, who) if who else None
        shake(served, context(lambda one: pair and one.load_cert_chain(pair.cert, pair.key)))
        expected = {"handshakes": 1, counter: 1} if counter else {"handshakes": 1}
        assert expected == happened(served)


def test_a_rule_of_access_is_no_failure_of_tls(world: World, shake: Shake) -> None:
    """Its session is a 403."""
    with world.serve("deny all;") as served:
        shake(served)
        assert {} == happened(served)


def test_nothing_is_counted_where_nothing_is_shown(world: World, shake: Shake) -> None:
    """The phase has the handler that does not count."""
    with world.serve(shown="") as served:
        shake(served)
        assert 0 == call(served, "GET", "/ssl")["handshakes"]
        assert "ssl" not in call(served, "GET", "/stream/server_zones/a")
    engines = [
        {step[1].__closure__[0].cell_contents for step in listening.default.engine
         if step[1].__closure__}
        for text in ("", "shown;")
        if (conf := build(
            "stream { server { listen 127.0.0.1:1 ssl; ssl_reject_handshake on; return x; } "
            f"server {{ listen 127.0.0.1:2; {text} return x; }} }}", more=(SHOWN,)).conf)
        for listening in conf.listenings[:1]
    ]
    assert [{handshake.Handshake}, {counted.Handshake}] == engines
