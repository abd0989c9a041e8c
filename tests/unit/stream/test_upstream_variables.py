"""One item of each attempt in every $upstream_* variable."""

import pytest

from ngxstream.stream import upstream_variables
from ngxstream.stream.upstream import UpstreamState
from tests.support.sessions import FakeSession

GET = {variable.name: variable.get for variable in upstream_variables.VARIABLES}


def attempt(**facts: object) -> UpstreamState:
    """Return the record of an attempt."""
    state = UpstreamState(0)
    for name, value in facts.items():
        setattr(state, name, value)
    return state


@pytest.mark.parametrize("name", GET)
def test_without_an_attempt_there_is_nothing(name: str) -> None:
    """Not found, rather than empty."""
    session = FakeSession()
    assert [None, None] == [GET[name](session), GET[name](FakeSession(states=[]))]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("upstream_addr", b"192.0.2.1:53, unix:/\xff"),
        ("upstream_bytes_sent", b"7, 0"),
        ("upstream_bytes_received", b"1234567, 0"),
        ("upstream_connect_time", b"0.000, -"),
        ("upstream_first_byte_time", b"0.012, -"),
        ("upstream_session_time", b"61.234, -"),
    ],
)
def test_attempts_are_listed_in_their_order(name: str, expected: bytes) -> None:
    """Times are seconds with three digits, `-` for what did not happen."""
    first = attempt(peer_name="192.0.2.1:53", bytes_sent=7, bytes_received=1234567,
                    connect_ms=0, first_byte_ms=12, session_ms=61234)
    second = attempt(peer_name="unix:/\udcff")
    assert expected == GET[name](FakeSession(states=[first, second]))
    assert expected.split(b", ")[0] == GET[name](FakeSession(states=[first]))
