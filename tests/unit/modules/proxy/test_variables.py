"""Datagrams of a UDP session, counted; nothing is found on any other."""

import pytest

from ngxstream.modules.proxy import variables
from ngxstream.modules.proxy.udp import UdpProxy
from tests.support.sessions import FakeSession

GET = {variable.name: variable.get for variable in variables.VARIABLES}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("datagrams_received", b"3"), ("datagrams_sent", b"2"), ("datagrams_dropped", b"1")],
)
def test_a_udp_session_tells_its_counts(name: str, expected: bytes) -> None:
    """The variables are decimal numbers."""
    proxy = UdpProxy.__new__(UdpProxy)
    proxy.before = 1, 1, 0  # of a server that was left
    proxy.requests, proxy.responses, proxy.dropped = 2, 1, 1
    session = FakeSession()
    session.content = proxy  # type: ignore[attr-defined]
    assert expected == GET[name](session)
    session.content = None  # type: ignore[attr-defined]
    assert GET[name](session) is None
