"""The conf that the events block makes; what is refused is compared with nginx in test_cli.py."""

from typing import Any

import pytest

from ngxstream.core import errors, ip
from tests.support.judged import Judged


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("worker_connections 4096;", "worker_connections", 4096),
        ("use poll;", "use", "poll"),
        ("use select;", "use", "select"),
        ("multi_accept on;", "multi_accept", True),
        ("accept_mutex on;", "accept_mutex", True),
        ("accept_mutex_delay 1s;", "accept_mutex_delay", 1000),
        ("epoll_events 64;", "epoll_events", 64),
    ],
)
def test_events_directives_find_their_fields(text: str, field: str, value: Any) -> None:
    """Each value is read in nginx's units."""
    assert value == getattr(Judged(f"events {{ {text} }}").events(), field)


def test_select_has_its_limit() -> None:
    """More connections than select(2) has bits are refused, and told why."""
    with pytest.raises(errors.UnplacedError) as caught:
        Judged("events { use select; worker_connections 2000; }").events()
    assert str(caught.value).startswith("the maximum number of files supported by select() is 1024")


def test_listening_sockets_need_connections() -> None:
    """Each takes one, and one is for the channel."""
    judged = Judged("events { worker_connections 3; }")
    assert 3 == judged.events(2).worker_connections
    with pytest.raises(errors.UnplacedError) as caught:
        judged.events(3)
    assert "3 worker_connections are not enough for 3 listening sockets" == str(caught.value)


@pytest.mark.parametrize(
    ("directive_", "sockaddr", "expected"),
    [
        ("10.0.0.0/8", ("10.1.2.3", 53), True),
        ("10.0.0.0/8", ("11.1.2.3", 53), False),
        ("10.0.0.1", ("10.0.0.1", 53), True),
        ("2001:db8::/32", ("2001:db8::7", 53, 0, 0), True),
        ("2001:db8::/32", ("10.0.0.1", 53), False),
        ("unix:", "/run/x.sock", True),
        ("unix:", "", True),
        ("10.0.0.0/8", "/run/x.sock", False),
        ("unix:", ("10.0.0.1", 53), False),
        ("localhost", ("127.0.0.1", 53), True),
    ],
)
def test_debug_connection_tells_who_is_meant(
    directive_: str, sockaddr: Any, expected: bool
) -> None:
    """Addresses, networks, names and unix: each match their own kind."""
    events = Judged(f"events {{ debug_connection {directive_}; }}").events()
    assert expected is events.debug_connection.matches(sockaddr)


def test_debug_connections_add_up() -> None:
    """Each debug_connection adds to the clients of those before."""
    events = Judged("events { debug_connection 10.0.0.1; debug_connection ::1; "
                    "debug_connection unix:; }").events()
    found = events.debug_connection
    assert (True, [ip.parse("10.0.0.1"), ip.parse("::1")]) == (
        found.unix, [cidr.packed for cidr in found.cidrs])
    assert found
    assert not Judged("events {}").events().debug_connection
