"""Without TLS nothing is found of it; what it tells is in tests/wire/test_tls_termination.py."""

import pytest

from ngxstream.modules.ssl import variables
from tests.support.sessions import FakeSession

GET = {variable.name: variable.get for variable in variables.VARIABLES}


@pytest.mark.parametrize("name", GET)
def test_a_plain_connection_has_no_facts_of_tls(name: str) -> None:
    """Not found, rather than empty: `map` and logs tell the two apart."""
    session = FakeSession()
    session.c.sock = object()  # type: ignore[attr-defined]
    assert GET[name](session) is None


def test_a_transport_that_was_closed_tells_nothing() -> None:
    """The log phase comes after the library has let go of the connection."""
    transport = variables.tls.Transport.__new__(variables.tls.Transport)
    transport.pointer = None
    session = FakeSession()
    session.c.sock = transport  # type: ignore[attr-defined]
    assert {None} == {get(session) for get in GET.values()}
