"""Listen addresses: who serves at each, and which has a socket of its own."""

import pytest

from ngxstream.stream.addresses import ListeningConf
from ngxstream.stream.core import StreamConf
from tests.support.in_process import build


def conf_of(text: str) -> StreamConf:
    """Build a stream block."""
    made = build(f"stream {{ {text} }}")
    assert made.conf is not None, made.error
    return made.conf


def sockets(text: str) -> list[str]:
    """Return the addresses that are bound, `udp` before those that are."""
    found = conf_of(text).listenings
    return [("udp " if one.options.is_udp else "") + one.options.text for one in found]


@pytest.mark.parametrize(
    ("listens", "expected"),
    [
        (["127.0.0.1:1", "127.0.0.2:1"], ["127.0.0.1:1", "127.0.0.2:1"]),
        (["127.0.0.1:1", "1"], ["0.0.0.0:1"]),
        (["127.0.0.1:1", "2"], ["127.0.0.1:1", "0.0.0.0:2"]),
        (["127.0.0.1:1 bind", "1"], ["127.0.0.1:1", "0.0.0.0:1"]),
        (["127.0.0.1:1 udp", "1"], ["udp 127.0.0.1:1", "0.0.0.0:1"]),
        (["[::1]:1", "1"], ["[::1]:1", "0.0.0.0:1"]),
        (["127.0.0.1:1 udp proxy_protocol", "1 udp"], ["udp 127.0.0.1:1", "udp 0.0.0.0:1"]),
    ],
)
def test_a_wildcard_socket_serves_the_addresses_of_its_port(
    listens: list[str], expected: list[str]
) -> None:
    """But for those that say `bind`, and those whose datagrams look otherwise."""
    servers = "".join(f"server {{ listen {listen}; return x; }}" for listen in listens)
    assert expected == sockets(servers)


def shared(text: str) -> ListeningConf:
    """Return the only socket of a block."""
    (only,) = conf_of(text).listenings
    return only


def test_a_shared_socket_knows_its_addresses_by_host() -> None:
    """They are logged by the name of the socket."""
    only = shared("server { listen 127.0.0.1:1; return x; } server { listen 1; return y; }")
    assert only.addresses is not None
    assert {"127.0.0.1": "0.0.0.0:1"} == {host: one.text for host, one in only.addresses.items()}


def test_the_default_server_is_the_first_or_the_one_that_says_so() -> None:
    """Whichever comes later joins it."""
    plain = "server { listen 127.0.0.1:1; server_name a; return x; }"
    only = shared(plain + plain.replace("name a", "name b").replace(":1;", ":1 default_server;"))
    assert ["a", "b"] == [server.server_name for server in only.default.servers]
    assert "b" == only.default.default_server.server_name


@pytest.mark.parametrize(
    ("second", "error"),
    [
        ("127.0.0.1:1 backlog=5", "duplicate listen options for 127.0.0.1:1"),
        ("127.0.0.1:1 default_server", "a duplicate default server for 127.0.0.1:1"),
    ],
)
def test_what_an_address_has_once_is_said_once(second: str, error: str) -> None:
    """A server that joins says it a second time."""
    first = "listen 127.0.0.1:1 backlog=5 default_server;"
    made = build(f"stream {{ server {{ {first} return x; }} server {{ listen {second}; "
                 "return y; } }")
    assert made.error.startswith(error)


def test_a_server_names_an_address_once() -> None:
    """Not twice, however it spells it."""
    made = build("stream { server { listen 127.0.0.1:1; listen 127.0.0.1:1; return x; } }")
    assert made.error.startswith("a duplicate listen 127.0.0.1:1")


def test_protocols_that_change_are_warned_of() -> None:
    """And hold for the address as a whole."""
    made = build("stream { server { listen 127.0.0.1:1 proxy_protocol; return x; } "
                 "server { listen 127.0.0.1:1 backlog=5; server_name b; return y; } }")
    assert ["[warn] protocol options redefined for 127.0.0.1:1 in /p/conf/nginx.conf:1"] == (
        made.warnings
    )
    assert made.conf is not None
    assert made.conf.listenings[0].options.proxy_protocol


def test_a_session_takes_the_slots_of_the_hungriest_server() -> None:
    """`return` opens no second connection."""
    returns = "server { listen 127.0.0.1:1; return x; }"
    proxies = "server { listen 127.0.0.1:1; server_name p; proxy_pass 127.0.0.1:2; }"
    assert (1, 2) == (shared(returns).slots, shared(returns + proxies).slots)


def test_nodelay_is_set_on_the_listening_socket_where_all_want_it() -> None:
    """Accepted sockets inherit it: a system call less for each."""
    server = "server { listen 127.0.0.1:1; return x; }"
    assert shared(server).options.nodelay
    assert not shared(server.replace("return", "tcp_nodelay off; return")).options.nodelay
