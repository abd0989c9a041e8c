"""event/netlink.py: what the kernel says of rules, routes and addresses."""

import socket

import pytest

from ngxstream.event import netlink
from tests.support.netns import Namespaces, in_netns

FAMILIES = {"-4": socket.AF_INET, "-6": socket.AF_INET6}


@pytest.fixture
def host(namespaces: Namespaces) -> str:
    """Give a host with an address of each family."""
    namespaces.add("other")
    name = namespaces.add("host")
    namespaces.link("host", "10.93.0.1/24 fd93::1/64", "other", "10.93.0.2/24 fd93::2/64")
    return name


@pytest.mark.root
@pytest.mark.parametrize("option", FAMILIES)
def test_rules_with_a_mark(option: str, host: str, namespaces: Namespaces) -> None:
    """Rules that look at the mark are told with mark, mask and table; the others are not."""
    family = FAMILIES[option]
    assert [] == in_netns(host, lambda: netlink.rules(family))
    for words in ("fwmark 1 lookup 100", "fwmark 0x10/0xf0 lookup 4000"):
        namespaces.run("host", "ip", option, "rule", "add", "pref", "10", *words.split())
    found = in_netns(host, lambda: netlink.rules(family))
    assert sorted([(1, 0xFFFFFFFF, 100), (0x10, 0xF0, 4000)]) == sorted(found)


@pytest.mark.root
@pytest.mark.parametrize("option", FAMILIES)
def test_local_default_routes(option: str, host: str, namespaces: Namespaces) -> None:
    """A local default route of a table is told as such."""
    family = FAMILIES[option]
    wanted = (4000, netlink.RTN_LOCAL, 0)
    assert wanted not in in_netns(host, lambda: netlink.routes(family))
    everything = "0.0.0.0/0" if option == "-4" else "::/0"
    namespaces.run(
        "host", "ip", option, "route", "add", "local", everything, "dev", "lo", "table", "4000"
    )
    assert wanted in in_netns(host, lambda: netlink.routes(family))


@pytest.mark.root
@pytest.mark.parametrize("option", FAMILIES)
def test_addresses_of_global_scope(option: str, host: str) -> None:
    """Neither the loopback's nor link-local addresses are told."""
    expected = ["10.93.0.1"] if option == "-4" else ["fd93::1"]
    assert expected == in_netns(host, lambda: netlink.addresses(FAMILIES[option]))
