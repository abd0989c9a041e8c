"""set: variables given a value in each session; the messages are compared with nginx's in
test_values_nginx.
"""

import pytest

from tests.support.in_process import InProcess


def said(text: str) -> bytes:
    """Return what the server says whose block this is."""
    with InProcess(f"stream {{ {text} }}") as served:
        return served.read(served.connect())


def server(text: str) -> str:
    """Write a server."""
    return f"server {{ listen 127.0.0.1:@main@; {text} }}"


@pytest.mark.effect("set")
def test_a_variable_is_set() -> None:
    """Constants, other variables, several of them."""
    assert b"[1 TCP-x]" == said(server('set $a 1; set $b $protocol-x; return "[$a $b]";'))


def test_order_is_that_of_the_file() -> None:
    """A later set sees the earlier one's value, and wins."""
    assert b"21" == said(server("set $a 1; set $b $a; set $a 2; return $a$b;"))


def test_a_variable_nobody_set_is_empty() -> None:
    """A server that does not set what another one sets reads it empty."""
    other = "server { listen 127.0.0.1:@other@; set $a 1; return x; }"
    assert b"[]" == said(server("return [$a];") + other)


@pytest.mark.effect("set")
def test_set_replaces_what_a_map_says() -> None:
    """The value of a map's variable, volatile or not, is the one that was set."""
    for volatile in ("", "volatile;"):
        maps = f"map $protocol $a {{ {volatile} default map; }}"
        assert b"set set" == said(maps + server('set $a set; return "$a $a";'))


def test_set_may_build_on_the_map_it_replaces() -> None:
    """The right side is evaluated before the variable changes."""
    maps = "map $protocol $a { default map; }"
    assert b"map+" == said(maps + server("set $a $a+; return $a;"))


def test_set_sees_the_real_address() -> None:
    """`set` runs after realip has replaced the client's address."""
    text = """server { listen 127.0.0.1:@main@ proxy_protocol; set_real_ip_from 127.0.0.1;
        set $a $remote_addr; return $a; }"""
    with InProcess(f"stream {{ {text} }}") as served:
        client = served.connect()
        client.send(b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n")
        assert b"192.0.2.7" == served.read(client)


def test_servers_set_their_own() -> None:
    """Values belong to a session, not to the block."""
    text = """server { listen 127.0.0.1:@one@; set $a one; return $a; }
        server { listen 127.0.0.1:@two@; set $a two; return $a; }"""
    with InProcess(f"stream {{ {text} }}") as served:
        assert b"one" == served.read(served.connect(0))
        assert b"two" == served.read(served.connect(1))
        assert b"one" == served.read(served.connect(0))
