"""Addresses: what functions read of them."""

import ipaddress

import pytest

from ngxstream.scripting.addresses import Address


@pytest.mark.parametrize(
    ("sockaddr", "ip", "port", "text"),
    [
        (("192.0.2.1", 53), "192.0.2.1", 53, "192.0.2.1:53"),
        (("2001:db8::1", 53, 0, 0), "2001:db8::1", 53, "[2001:db8::1]:53"),
        (("fe80::1%eth0", 53, 0, 2), "fe80::1", 53, "[fe80::1]:53"),
        ("/run/a.sock", None, 0, "unix:/run/a.sock"),
        ("", None, 0, "unix:"),
    ],
)
def test_an_address_is_an_ip_a_port_and_text(
    sockaddr: object, ip: str | None, port: int, text: str
) -> None:
    """An ipaddress object, a number, and what logs have."""
    address = Address(sockaddr)  # type: ignore[arg-type]
    assert (None if ip is None else ipaddress.ip_address(ip)) == address.ip
    assert (port, text, f"<Address {text}>") == (address.port, str(address), repr(address))


def test_addresses_are_equal_by_what_they_name() -> None:
    """They may be members of sets."""
    same = Address(("192.0.2.1", 53)), Address(("192.0.2.1", 53))
    assert 1 == len(set(same))
    assert same[0] != Address(("192.0.2.1", 54))
    assert same[0] != "192.0.2.1:53"


@pytest.mark.parametrize("text", ["192.0.2.1:53", "[2001:db8::1]:53", "unix:/run/a.sock"])
def test_an_address_is_made_of_what_a_log_says(text: str) -> None:
    """The names of servers, say."""
    assert text == str(Address.named(text))


def test_what_names_no_address_is_none() -> None:
    """An attempt that found no socket has no name."""
    assert [None, None] == [Address.named(text) for text in ("", "example.com:80")]
