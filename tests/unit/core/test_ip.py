"""IP addresses and CIDR blocks, by ngx_inet.c's rules and against nginx itself."""

import ipaddress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ngxstream.core import ip
from tests.support.nginx_says import NginxSays

V4 = st.binary(min_size=4, max_size=4)
V6 = st.binary(min_size=16, max_size=16) | st.lists(
    st.sampled_from([b"\0\0", b"\0\1", b"\xff\xff", b"\x12\x34", b"\0\x0a", b"\xa0\0"]),
    min_size=8,
    max_size=8,
).map(b"".join)


@given(V4 | V6)
@example(bytes(16))
@example(bytes(15) + b"\1")
@example(bytes(10) + b"\xff\xff\1\2\3\4")
def test_text_and_bytes_agree(packed: bytes) -> None:
    """What is printed is read back, unless it is nginx's own mark of an error."""
    text = ip.ntop(packed)
    assert packed == ipaddress.ip_address(text).packed
    expected = None if text.rpartition(":")[2] == "255.255.255.255" else packed
    assert expected == ip.parse(text)


@given(V6)
def test_every_spelling_of_an_address_is_read(packed: bytes) -> None:
    """Python's shortest and longest spellings of an IPv6 address are read."""
    address = ipaddress.IPv6Address(packed)
    assert packed == ip.parse(address.exploded)
    assert packed == ip.parse(address.compressed.upper())


@pytest.mark.parametrize(
    ("packed", "text"),
    [
        (bytes(16), "::"),
        (bytes(15) + b"\1", "::1"),
        (bytes(14) + b"\x12\x34", "::0.0.18.52"),
        (bytes(12) + b"\1\2\3\4", "::1.2.3.4"),
        (bytes(10) + b"\xff\xff\1\2\3\4", "::ffff:1.2.3.4"),
        (b"\x20\x01" + bytes(13) + b"\1", "2001::1"),
        (b"\0\1\0\0\0\2\0\3\0\4\0\5\0\6\0\7", "1:0:2:3:4:5:6:7"),
        (b"\0\1\0\0\0\0\0\2\0\0\0\0\0\3\0\4", "1::2:0:0:3:4"),
        (b"\0\1" + bytes(14), "1::"),
        (b"\xfe\x80" + bytes(5) + b"\1" + bytes(7) + b"\1", "fe80:0:0:1::1"),
    ],
)
def test_addresses_are_printed_as_nginx_does(packed: bytes, text: str) -> None:
    """Zeros shrink once; low addresses end in a dotted quad."""
    assert text == ip.ntop(packed)


@pytest.mark.parametrize("text", [
    "", "1", "1.2.3", "1.2.3.4.5",
    "1.2.3.256", "1.2.3.a", "1.2.3.4 ", "-1.2.3.4", "255.255.255.255",
    ":", ":::", "1::2::3", "1:2:3:4:5:6:7",
    "1:2:3:4:5:6:7:8:9", "12345::", "g::", "1:2:3:4:5:6:7::",
    "::1.2.3", "1.2.3.4::", "1:", "[::1]", "::1%lo", "1:2:3:4:5:6:7:1.2.3.4", "\u0661.1.1.1",
])  # fmt: skip
def test_bad_addresses_are_none(text: str) -> None:
    """What nginx does not read as an address is none."""
    assert ip.parse(text) is None


@pytest.mark.parametrize(
    ("text", "packed"),
    [
        ("1..2.3", b"\1\0\2\3"),
        ("...", bytes(4)),
        ("01.002.3.4", b"\1\2\3\4"),
        ("0000000001.2.3.4", b"\1\2\3\4"),
        (":1:2:3:4:5:6:7:8", b"\0\1\0\2\0\3\0\4\0\5\0\6\0\7\0\x08"),
    ],
)
def test_nginx_s_leniency_is_kept(text: str, packed: bytes) -> None:
    """Missing and padded numbers, and one leading colon, are read as nginx reads them."""
    assert packed == ip.parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.1.2.3", ip.Cidr(b"\x0a\1\2\3", 32, low_bits=False)),
        ("10.1.2.0/24", ip.Cidr(b"\x0a\1\2\0", 24, low_bits=False)),
        ("10.1.2.3/24", ip.Cidr(b"\x0a\1\2\0", 24, low_bits=True)),
        ("10.1.2.3/0", ip.Cidr(bytes(4), 0, low_bits=True)),
        ("::1/128", ip.Cidr(bytes(15) + b"\1", 128, low_bits=False)),
        ("2001:db8::1/32", ip.Cidr(b"\x20\x01\x0d\xb8" + bytes(12), 32, low_bits=True)),
        ("::/0", ip.Cidr(bytes(16), 0, low_bits=False)),
    ],
)
def test_blocks(text: str, expected: ip.Cidr) -> None:
    """A block has an address and a prefix; low bits are cleared and remembered."""
    assert expected == ip.parse_cidr(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/8",
        "1.2.3.4/",
        "1.2.3.4/33",
        "::/129",
        "1.2.3.4/-1",
        "1.2.3/8",
        "1.2.3.4/8/8",
        "1.2.3.4/ 8",
        "a/8",
    ],
)
def test_bad_blocks_are_refused(text: str) -> None:
    """Anything else is no block."""
    with pytest.raises(ValueError):
        ip.parse_cidr(text)


@given(V4 | V6, V4 | V6, st.data())
def test_blocks_hold_what_ipaddress_says(packed: bytes, other: bytes, data: st.DataObject) -> None:
    """Containment, mask and low bits agree with the ipaddress module."""
    prefix = data.draw(st.integers(0, len(packed) * 8))
    if packed == b"\xff" * 4:
        return
    block = ip.parse_cidr(f"{ipaddress.ip_address(packed)}/{prefix}")
    theirs = ipaddress.ip_network((packed, prefix), strict=False)
    assert theirs.network_address.packed == block.packed
    assert theirs.netmask.packed == block.mask()
    assert (theirs.network_address.packed != packed) == block.low_bits
    assert (ipaddress.ip_address(other) in theirs) == (other in block)


def test_a_mapped_address_is_unwrapped() -> None:
    """An IPv4 address in IPv6 clothes is the IPv4 address."""
    assert b"\1\2\3\4" == ip.unmapped(bytes(10) + b"\xff\xff\1\2\3\4")
    assert bytes(16) == ip.unmapped(bytes(16))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text("0123456789abf:./%", max_size=20)
    | st.lists(
        st.sampled_from([*"0123456789:./", "::", "1.2.3.4", "255", "/8", "ffff"]), max_size=8
    ).map("".join)
)
def test_nginx_agrees(text: str, tmp_path: Path) -> None:
    """nginx takes and refuses the same blocks, and warns of the same low bits."""
    nginx = NginxSays(tmp_path)
    conf = f'{nginx.load_stream()}stream {{ server {{ listen 1; allow "{text}"; end; }} }}'
    try:
        ip.parse_cidr(text)
        expected = 'unknown directive "end"'
    except ValueError:
        expected = f'invalid parameter "{text}"'
    assert f"{expected} in {nginx.path}:1" == nginx.of(conf.encode())
