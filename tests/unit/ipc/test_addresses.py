"""Addresses between processes: what goes in comes out, and anything else is refused."""

import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core import inet
from ngxstream.ipc import addresses
from ngxstream.ipc.codec import CodecError, Kind, List
from tests.support.sockaddrs import keys, sockaddrs


@given(sockaddrs)
def test_an_address_comes_out_as_it_went_in(address: object) -> None:
    """In any form that the socket module knows."""
    assert address == addresses.ADDRESS.decode(addresses.ADDRESS.encode(address))


@given(keys)
def test_a_client_s_key_comes_out_as_it_went_in(key: object) -> None:
    """With what stands behind the address, or without."""
    assert key == addresses.CLIENT_KEY.decode(addresses.CLIENT_KEY.encode(key))


@given(st.sampled_from([socket.SOCK_STREAM, socket.SOCK_DGRAM]), sockaddrs)
def test_a_listening_address_comes_out_as_it_went_in(kind: int, address: object) -> None:
    """And equals what the configuration has made of it."""
    key = (kind, inet.family_of(address), address)
    assert key == addresses.LISTEN_KEY.decode(addresses.LISTEN_KEY.encode(key))


def test_a_spelling_of_nginx_s_is_kept() -> None:
    """::1234 in the dotted form is the same key after it went through."""
    address = ("::0.0.18.52", 53, 0, 0)
    assert address == addresses.ADDRESS.decode(addresses.ADDRESS.encode(address))


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (addresses.ADDRESS, b""),
        (addresses.ADDRESS, b"4\0\0localhost"),
        (addresses.ADDRESS, b"4\0\0"),
        (addresses.ADDRESS, b"4\0\0127.0.0.1%lo"),
        (addresses.ADDRESS, b"6" + bytes(10) + b"::1%a\n"),
        (addresses.ADDRESS, b"6" + bytes(10) + b"127.0.0.1"),
        (addresses.ADDRESS, b"P" + bytes(109)),
        (addresses.LISTEN_KEY, b"\2\2P/path"),
        (addresses.LISTEN_KEY, b"\3\1P/path"),
        (addresses.LISTEN_KEY, b""),
        (addresses.CLIENT_KEY, b"\1"),
        (addresses.CLIENT_KEY, b"\1\xff0"),
        (addresses.CLIENT_KEY, b"\1\x010" + bytes((1 << 16) + 1)),
    ],
)
def test_what_is_no_address_is_refused(kind: Kind[object], data: bytes) -> None:
    """Too long, of another family, or cut off."""
    with pytest.raises(CodecError):
        kind.decode(data)


def many(count: int) -> list[tuple[int, int, object]]:
    """Return so many listening addresses, IPv4 and IPv6."""
    udp = socket.SOCK_DGRAM
    four = [(udp, 2, (f"10.0.{n >> 8 & 255}.{n & 255}", n >> 16)) for n in range(count // 2)]
    six = [(udp, 10, (f"2001:db8::{n & 65535:x}", n >> 16, 0, 0)) for n in range(count // 2)]
    return four + six


def test_a_hundred_thousand_addresses_go_through() -> None:
    """Each as it was."""
    kind = List(addresses.LISTEN_KEY, 1 << 20)
    keys = many(100_000)
    assert keys == kind.decode(kind.encode(keys))


def test_decoding_is_linear() -> None:
    """Ten times the addresses take some ten times the CPU time, by a wide margin."""
    kind = List(addresses.LISTEN_KEY, 1 << 20)

    def cost(count: int) -> float:
        data = kind.encode(many(count))
        spans = []
        for _ in range(3):
            begun = time.process_time()
            kind.decode(data)
            spans.append(time.process_time() - begun)
        return min(spans)

    assert cost(50_000) < 40 * max(cost(5_000), 0.001)


def test_an_address_has_no_more_than_64_bytes() -> None:
    """An IPv6 address with the name of an interface, up to a length that is stated."""
    for size, fits in ((64, True), (65, False)):
        host = "fe80::1%" + "x" * (size - 8)
        packed = addresses.ADDRESS.encode((host, 53, 0, 1))
        if fits:
            assert (host, 53, 0, 1) == addresses.ADDRESS.decode(packed)
        else:
            with pytest.raises(CodecError):
                addresses.ADDRESS.decode(packed)


def test_a_client_s_key_is_of_one_of_two_kinds() -> None:
    """Whatever else the first byte is, it is no key."""
    key = (("192.0.2.1", 5), b"tag")
    packed = addresses.CLIENT_KEY.encode(key)
    assert key == addresses.CLIENT_KEY.decode(packed)
    with pytest.raises(CodecError):
        addresses.CLIENT_KEY.decode(b"\2" + packed[1:])
