"""Secure: which name goes by SNI and is verified; the handshakes are in test_opening.py."""

from __future__ import annotations

from typing import Any

import pytest

from ngxstream.event import libssl_facts
from ngxstream.event.tls_client import Secure

NOBODY: Any = None


def test_a_peer_gives_its_name_where_there_is_none() -> None:
    """One that the configuration gives stays."""
    assert b"b.test" == Secure(NOBODY, None, True, True).towards("b.test").name
    named = Secure(NOBODY, b"a.test", True, True)
    assert named is named.towards("b.test")


def test_who_verifies_nothing_has_no_complaint() -> None:
    """The certificate is not looked at."""
    assert "" == Secure(NOBODY, b"a.test", True, False).complaint(NOBODY)


class Transport:
    """A handshake that is done."""

    lib = None
    pointer = 1


@pytest.mark.parametrize(("name", "asked"), [
    (b"a.test:443", b"a.test"), (b"[2001:db8::1]:443", b"[2001:db8::1]"), (b"a.test", b"a.test"),
])
def test_a_port_is_no_part_of_the_name(
    name: bytes, asked: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a server as a group names it."""
    seen = []
    monkeypatch.setattr(libssl_facts, "verify_result", lambda *_: (libssl_facts.VERIFY_OK, "ok"))
    monkeypatch.setattr(libssl_facts, "peer_matches", lambda _, __, name: seen.append(name))
    transport: Any = Transport()
    said = Secure(NOBODY, name, True, True).complaint(transport)
    assert f'upstream SSL certificate does not match "{asked.decode()}"' == said
    assert [asked] == seen
