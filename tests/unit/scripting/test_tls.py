"""TLS: which context is made of which wishes; the handshakes are in test_fetching.py."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from ngxstream.core import codes
from ngxstream.event.loop import Loop
from ngxstream.scripting import TLS, tls
from tests.support import certs
from tests.support.engine import engine
from tests.support.waiting import PATIENCE, wait_until


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Give a loop."""
    with engine() as made:
        yield made


def test_equal_wishes_share_a_context(loop: Loop) -> None:
    """Whatever the name; one that verifies nothing is another."""
    first = tls.towards(loop, TLS(), "a.test", False)
    assert first.context is tls.towards(loop, TLS(alpn=("x",)), "b.test", False).context
    assert first.context is not tls.towards(loop, TLS(verify=False), "a.test", False).context


def complaint(loop: Loop, options: TLS, pair: certs.Pair) -> str:
    """Shake hands with a server of that certificate; return what is wrong with it."""
    secure = tls.towards(loop, options, "a.test", False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    transport = secure.begin(loop, ours)
    with context.wrap_socket(theirs, server_side=True, do_handshake_on_connect=False) as server:

        def is_done() -> bool:
            is_over = transport.handshake() == codes.OK
            try:
                server.do_handshake()
            except ssl.SSLWantReadError:
                return False
            return is_over

        wait_until(is_done, PATIENCE, "the handshake")
    said = secure.complaint(transport)
    transport.close()
    return said


def test_the_systems_authorities_are_trusted(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that the system's OpenSSL trusts, where no others are named."""
    ca = certs.Authority(tmp_path / "ca")
    pair = ca.issue("a.test")
    untrusted = complaint(loop, TLS(), pair)
    assert untrusted.startswith("upstream SSL certificate verify error: (2")
    loop.get(tls.contexts).clear()
    monkeypatch.setenv("SSL_CERT_FILE", str(ca.cert))
    assert "" == complaint(loop, TLS(), pair)


def test_old_contexts_give_way(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than so many are kept."""
    monkeypatch.setattr(tls, "MOST", 1)
    tls.towards(loop, TLS(), "a.test", False)
    tls.towards(loop, TLS(verify=False), "a.test", False)
    assert 1 == len(loop.get(tls.contexts))


def test_the_name_is_the_one_wished_for(loop: Loop) -> None:
    """A final dot is no part of it."""
    assert b"a.test" == tls.towards(loop, TLS(), "a.test.", False).name
    secure = tls.towards(loop, TLS(server_name="b.test", alpn=("h2", "x")), "a.test", False)
    assert (b"b.test", b"\2h2\1x", True) == (secure.name, secure.alpn, secure.sends_name)
    assert not tls.towards(loop, TLS(), "2001:db8::1", True).sends_name


@pytest.mark.parametrize(("options", "host"), [
    (TLS(key="k"), "a.test"), (TLS(server_name="\xe4"), "a.test"), (TLS(), "a\0b"), (TLS(), ""),
    (TLS(alpn=("",)), "a.test"), (TLS(alpn=("x" * 256,)), "a.test"), (TLS(alpn=("\xe4",)), "a"),
])
def test_wishes_that_cannot_be_are_refused(loop: Loop, options: TLS, host: str) -> None:
    """Before anything is opened."""
    with pytest.raises(ValueError, match=r"name|key"):
        tls.towards(loop, options, host, False)


def test_files_that_cannot_be_read_are_an_error(loop: Loop, tmp_path: Path) -> None:
    """It names the file; nothing is kept."""
    missing = str(tmp_path / "missing.pem")
    for options in (TLS(ca_file=missing), TLS(certificate=missing)):
        with pytest.raises(OSError, match=r"missing\.pem"):
            tls.towards(loop, options, "a.test", False)
    assert {} == loop.get(tls.contexts)
