"""The stream block: what it costs to read one of many servers, addresses and upstreams."""

from collections.abc import Callable

import pytest

from tests.support import work
from tests.support.in_process import build

MANY = 80


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
