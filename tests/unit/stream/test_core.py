"""The stream block: what it costs to read one of many servers, addresses and upstreams."""

from collections.abc import Callable

import pytest

from tests.support import in_process, work
from tests.support.in_process import build

MANY = 80
SERVER = "stream {{ server {{ listen 127.0.0.1:1; {} }} }}"
PAIRS = [
    ("return a;", "proxy_pass 127.0.0.1:2;", 2),
    ("return a;", "proxy_pass $remote_addr:2;", 2),
    ("proxy_pass 127.0.0.1:2;", "return a;", 1),
    ("return a;", "pass 127.0.0.1:2;", 2),
    ("pass 127.0.0.1:2;", "return a;", 1),
]


@pytest.mark.parametrize(("first", "second", "slots"), PAIRS)
def test_the_last_content_of_nginx_counts(first: str, second: str, slots: int) -> None:
    """As in nginx, where the other one is lost without a message; here it is warned of."""
    built = build(SERVER.format(f"{first}\n{second}"))
    alone = build(SERVER.format(second))
    assert built.conf is not None
    assert alone.conf is not None
    server = built.conf.servers[0]
    assert alone.conf.servers[0].handler is server.handler
    assert slots == server.slots
    names = second.split(maxsplit=1)[0], first.split(maxsplit=1)[0]
    text = '"{}" takes the place of "{}" in {}:1, which has no effect, in {}:2'
    warning = text.format(*names, in_process.CONF, in_process.CONF)
    assert [warning] == [one.removeprefix("[warn] ") for one in built.warnings]


@pytest.mark.parametrize(
    ("first", "second"),
    [("api", "proxy_pass 127.0.0.1:2"), ("proxy_pass $remote_addr", "api write=on"),
     ("api", "return a"), ("pass 127.0.0.1:2", "api")],
)
def test_a_content_of_our_own_is_alone(first: str, second: str) -> None:
    """A server serves its clients in one way; no nginx.conf has this directive."""
    error = build(SERVER.format(f"{first};\n{second};")).error
    names = second.split(maxsplit=1)[0], first.split(maxsplit=1)[0]
    text = '"{}" cannot be used with "{}" in {}:1 of the same server in {}:2'
    assert text.format(*names, in_process.CONF, in_process.CONF) == error


def _each(n: int, text: str) -> str:
    return "".join(text.replace("@", str(number)) for number in range(n))


BLOCKS: dict[str, Callable[[int], str]] = {
    "a range of ports": lambda n: (
        f"server {{ listen 127.0.0.1:20000-{19999 + n} udp; return x; }}"
    ),
    "addresses of one server": lambda n: (
        f"server {{ {_each(n, 'listen 127.0.0.1:1@;')} return x; }}"
    ),
    "servers of an address each": lambda n: _each(
        n, "server { listen 127.0.0.1:1@; listen 127.0.0.1:1@ udp; return x; }"
    ),
    "a range of ports of two servers": lambda n: (
        f"server {{ listen 127.0.0.1:20000-{19999 + n}; return x; }}"
        f"server {{ listen 127.0.0.1:20000-{19999 + n}; server_name b; return x; }}"
    ),
    "names at one address": lambda n: _each(
        n, "server { listen 127.0.0.1:1; server_name @.test; return x; }"
    ),
    "addresses behind wildcards": lambda n: (
        f"server {{ listen 20000-{19999 + n} udp; return x; }}"
        f"server {{ listen 127.0.0.1:20000-{19999 + n} udp; return y; }}"
    ),
    "servers that share an address with one other": lambda n: (
        f"server {{ {_each(n, 'listen 127.0.0.1:1@;')} return x; }}"
        + _each(n, "server { listen 127.0.0.1:1@; server_name b; return x; }")
    ),
    "upstreams": lambda n: _each(
        n, "upstream U@ { server 127.0.0.1:1; } server { listen 127.0.0.1:1@; proxy_pass u@; }"
    ),
    "ports of one host to pass to": lambda n: _each(
        n, "server { listen 127.0.0.1:1@; proxy_pass 127.0.0.1:1@; }"
    ),
    "servers of an upstream": lambda n: (
        f"upstream u {{ {_each(n, 'server 127.0.0.1:1@;')} }}"
        "server { listen 127.0.0.1:1; proxy_pass u; }"
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_the_work_grows_with_the_block(name: str) -> None:
    """Twice as many addresses, servers or upstreams are twice the work, and no more."""

    def read(n: int) -> None:
        assert "" == build(f"stream {{ {BLOCKS[name](n)} }}").error

    assert work.growth(read, MANY) < work.LINEAR
