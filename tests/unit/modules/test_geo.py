"""geo: addresses of clients and of variables, caching, long blocks."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core import ip
from ngxstream.modules.geo import Geo
from tests.support.in_process import InProcess

SERVER = 'server { listen 127.0.0.1:@a@; return "%s"; }'


class Item:
    """A statement of a geo block, as far as the block looks at it."""

    def __init__(self, *words: str) -> None:
        self.directive, *self.args = words


class Silent:
    """A scope whose warnings nobody reads."""

    def warn(self, message: str) -> None:
        """Forget it."""


def answer(text: str, result: str, **options: Any) -> bytes:
    """Return what a server prints that returns a text."""
    served = InProcess(f"stream {{ {text} {SERVER % result} }}", **options)
    try:
        return served.read(served.connect())
    finally:
        served.close()


NETWORKS = st.one_of(
    st.tuples(st.binary(min_size=4, max_size=4), st.integers(0, 32)),
    st.tuples(st.binary(min_size=16, max_size=16), st.integers(0, 128)),
)
# few bits differ, so that networks meet
NEAR = st.integers(0, 255).map(lambda n: bytes((10, 0, 0, n)))
NEAR_NETWORKS = st.one_of(NETWORKS, st.tuples(NEAR, st.integers(20, 32)))


@given(st.lists(NEAR_NETWORKS, max_size=20), st.one_of(NEAR, st.binary(min_size=16, max_size=16)))
def test_the_longest_network_decides(networks: list[tuple[bytes, int]], address: bytes) -> None:
    """The block says what a walk through all networks says; later ones replace equal ones."""
    geo = Geo(Silent())  # type: ignore[arg-type]
    known: dict[tuple[bytes, int], bytes] = {}
    for n, (packed, prefix) in enumerate(networks):
        text = f"{ip.ntop(packed)}/{prefix}"
        if ip.ntop(packed) == "255.255.255.255":
            continue  # no address to nginx's parser
        cidr = ip.parse_cidr(text)
        geo.take(Item(text, f"v{n}"))  # type: ignore[arg-type]
        known[cidr.packed, cidr.prefix] = b"v%d" % n
    plain = ip.unmapped(address)
    fitting = [
        (prefix, value)
        for (packed, prefix), value in known.items()
        if plain in ip.Cidr(packed, prefix, low_bits=False)
    ]
    assert max(fitting, default=(0, b""))[1] == geo.finder()(address)


def test_the_address_is_the_client_s() -> None:
    """Without a variable the client's own address is looked up."""
    assert b"loop" == answer("geo $x { default other; 127.0.0.0/8 loop; }", "$x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.1.2.3", b"ten"), ("::ffff:10.1.2.3", b"ten"), ("2001:db8::5", b"doc"),
        ("255.255.255.255", b"nowhere"), ("no address", b"nowhere"), ("", b"nowhere"),
        ("unix:", b"nowhere"), ("11.0.0.1", b""), ("::1", b""),
    ],
)
def test_the_address_may_be_a_variable_s(text: str, expected: bytes) -> None:
    """What is no address is looked up as 255.255.255.255."""
    blocks = (
        f'map "" $a {{ default "{text}"; }} '
        "geo $a $x { 10.0.0.0/8 ten; 2001:db8::/32 doc; 255.255.255.255 nowhere; }"
    )
    assert expected == answer(blocks, "$x")


def test_a_unix_client_is_nowhere(tmp_path: Path) -> None:
    """A client without an address is looked up as 255.255.255.255."""
    path = tmp_path / "s"
    served = InProcess(
        f"stream {{ geo $x {{ default any; 255.255.255.255 nowhere; }} "
        f"geo $y {{ ranges; default any; 0.0.0.0-255.255.255.254 some; }} "
        f'server {{ listen unix:{path}; return "$x $y"; }} }}'
    )
    assert b"nowhere any" == served.read(served.connect())
    served.close()


def test_a_geo_is_asked_once_unless_volatile() -> None:
    """A volatile block follows its variable, another keeps its first answer."""
    text = (
        'map "10.0.0.1" $first { "~(.*)" ""; } map "11.0.0.1" $then { "~(.*)" ""; } '
        "map $protocol $a { volatile; default $1; } "
        "geo $a $x { 10.0.0.0/8 ten; 11.0.0.0/8 eleven; } "
        "geo $a $y { volatile; 10.0.0.0/8 ten; 11.0.0.0/8 eleven; }"
    )
    assert b"ten ten ten eleven" == answer(text, "$first$x $y $then$x $y")


@pytest.mark.parametrize("kind", ["networks", "ranges"])
def test_a_hundred_thousand_lines_are_read(kind: str) -> None:
    """Long blocks are included and looked up like short ones."""
    form = b"%d.%d.%d.0/24 v%d;\n" if kind == "networks" else b"%d.%d.%d.0-%d.%d.%d.255 v%d;\n"
    lines = []
    for n in range(100_000):
        place = (10 + (n >> 16), n >> 8 & 255, n & 255)
        lines.append(form % (*place, *(place if kind == "ranges" else ()), n % 7))
    head = "" if kind == "networks" else "ranges;"
    text = (
        f'map "" $a {{ default 11.134.159.1; }} geo $a $x {{ {head} include items; }}'
    )
    assert b"v4" == answer(text, "$x", others={"/p/conf/items": b"".join(lines)})


def test_a_binary_base_beside_the_text_is_not_read(tmp_path: Path) -> None:
    """The text is what counts, however fresh the base beside it is."""
    text = tmp_path / "base"
    text.write_text("127.0.0.0-127.255.255.255 text;\n")
    base = tmp_path / "base.bin"
    base.write_bytes(b"GEORNG" + bytes(100))
    os.utime(base, (2e9, 2e9))
    blocks = "geo $x { ranges; include base; }"
    others = {f"/p/conf/{path.name}": path.read_bytes() for path in (text, base)}
    assert b"text" == answer(blocks, "$x", others=others)
