"""A PrefixMap finds what a search through all networks would find."""

import ipaddress
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core import prefixes

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def table(*networks: str, bits: int = prefixes.IPV4_BITS) -> prefixes.PrefixMap[str]:
    """Load networks that have their own text as value."""
    loaded: prefixes.PrefixMap[str] = prefixes.PrefixMap(bits)
    for text in networks:
        network = ipaddress.ip_network(text)
        loaded.insert(int(network.network_address), network.prefixlen, text)
    return loaded


def find(loaded: prefixes.PrefixMap[str], address: str) -> str | None:
    """Look an address text up."""
    return loaded.find_packed(ipaddress.ip_address(address).packed)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.1.2.3", "10.1.2.3/32"),
        ("10.1.2.4", "10.1.2.0/24"),
        ("10.1.3.1", "10.0.0.0/8"),
        ("11.0.0.1", "0.0.0.0/0"),
        ("255.255.255.255", "0.0.0.0/0"),
    ],
)
def test_the_longest_network_wins(address: str, expected: str) -> None:
    """Of all networks that hold an address the longest gives the value."""
    loaded = table("0.0.0.0/0", "10.0.0.0/8", "10.1.2.0/24", "10.1.2.3/32")
    assert expected == find(loaded, address)


def test_ipv6_networks_are_found_likewise() -> None:
    """128-bit addresses work the same way."""
    loaded = table("2001:db8::/32", "2001:db8:1::/48", "::1/128", bits=prefixes.IPV6_BITS)
    assert ["2001:db8:1::/48", "2001:db8::/32", "::1/128", None] == [
        find(loaded, one) for one in ("2001:db8:1::5", "2001:db8:2::5", "::1", "::2")
    ]


def test_an_address_in_no_network_finds_nothing() -> None:
    """Without a default there may be no value."""
    assert find(table("10.0.0.0/8"), "11.0.0.0") is None


def test_inserting_again_returns_the_value_replaced() -> None:
    """The caller learns of a duplicate and its old value; the new one counts."""
    loaded = table("10.0.0.0/8")
    assert "10.0.0.0/8" == loaded.insert(10 << 24 | 5, 8, "again")
    assert ("again", 1) == (find(loaded, "10.9.9.9"), len(loaded))
    assert loaded.insert(10 << 24, 9, "other") is None


def test_a_deleted_network_uncovers_the_shorter_one() -> None:
    """Deleting tells whether the network was there and takes only that one away."""
    loaded = table("10.0.0.0/8", "10.1.0.0/16")
    assert loaded.delete(10 << 24 | 1 << 16, 16)
    assert not loaded.delete(10 << 24 | 1 << 16, 16)
    assert ("10.0.0.0/8", 1) == (find(loaded, "10.1.0.1"), len(loaded))


def test_exactly_one_network_can_be_asked_for() -> None:
    """get() knows nothing of longer or shorter networks."""
    loaded = table("10.0.0.0/8")
    assert ("10.0.0.0/8", None) == (loaded.get(10 << 24, 8), loaded.get(10 << 24, 9))


@pytest.mark.parametrize("length", [-1, 33])
def test_a_length_no_address_has_is_refused(length: int) -> None:
    """IPv4 prefixes are 0 to 32 bits long."""
    with pytest.raises(ValueError, match="no prefix"):
        table().insert(0, length, "x")


networks = st.tuples(st.integers(0, 255), st.integers(0, 8))


@given(st.lists(networks, max_size=25), st.lists(networks, max_size=10))
def test_every_address_finds_what_a_full_search_finds(
    inserted: list[tuple[int, int]], deleted: list[tuple[int, int]]
) -> None:
    """Over all addresses of a small family, the map agrees with trying every network."""
    loaded: prefixes.PrefixMap[tuple[int, int]] = prefixes.PrefixMap(8)
    plain: dict[tuple[int, int], tuple[int, int]] = {}
    for address, length in inserted:
        key = (address >> 8 - length, length)
        assert plain.get(key) == loaded.insert(address, length, (address, length))
        plain[key] = (address, length)
    for address, length in deleted:
        key = (address >> 8 - length, length)
        assert (plain.pop(key, None) is not None) == loaded.delete(address, length)
    assert len(plain) == len(loaded)
    for address in range(256):
        holding = [n for n in range(8, -1, -1) if (address >> 8 - n, n) in plain]
        expected = plain[address >> 8 - holding[0], holding[0]] if holding else None
        assert expected == loaded.find(address)


def test_a_hundred_thousand_networks_are_all_found() -> None:
    """A table of a routing table's size answers for each of its networks."""
    chance = random.Random(7)
    loaded: prefixes.PrefixMap[int] = prefixes.PrefixMap(prefixes.IPV4_BITS)
    wanted = {}
    for number in range(100_000):
        length = chance.randint(8, 32)
        network = chance.getrandbits(length) << 32 - length
        loaded.insert(network, length, number)
        wanted[network, length] = number
    assert len(wanted) == len(loaded)
    assert all(number == loaded.get(*key) for key, number in wanted.items())
