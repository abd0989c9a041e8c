"""Hashes agree with published vectors and with what a real nginx chose."""

import bisect
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core import hashing

# What nginx answered for upstream { server 127.0.0.1:24001; server 127.0.0.1:24002 weight=2;
# server 127.0.0.1:24003; }: key, plain step, plain peer, crc32, consistent peer.
PICKS = [
    (b"a", 26807, 24003, 3904355907, 24001),
    (b"b", 29118, 24002, 1908338681, 24003),
    (b"key", 2704, 24001, 2324736937, 24002),
    (b"client-1", 28812, 24001, 4035764838, 24001),
    (b"client-2", 27013, 24002, 1770370012, 24003),
    (b"192.0.2.1", 23393, 24002, 3680567351, 24002),
    (b"192.0.2.55", 22715, 24003, 1488661157, 24002),
    (b"2001:db8::1", 180, 24001, 11841294, 24001),
    (b"foo", 3187, 24003, 2356372769, 24003),
]
WEIGHTS = {24001: 1, 24002: 2, 24003: 1}

MURMURS = [
    (b"a", 2456313694),
    (b"b", 2260187636),
    (b"key", 3372572528),
    (b"client-1", 3989397346),
    (b"client-2", 1785759060),
    (b"192.0.2.1", 3369748723),
    (b"192.0.2.55", 3449317898),
    (b"2001:db8::1", 4051387920),
    (b"foo", 2414502773),
]


def ring() -> list[tuple[int, int]]:
    """Build the sorted ring of the three servers as (point, port)."""
    return sorted(
        (point, port)
        for port, weight in WEIGHTS.items()
        for point in hashing.ketama_points(f"127.0.0.1:{port}", weight)
    )


@pytest.mark.parametrize(("key", "expected"), MURMURS)
def test_murmur2_equals_what_nginx_computed(key: bytes, expected: int) -> None:
    """murmur2 gives the number by which nginx's split_clients chose."""
    assert expected == hashing.murmur2(key)


def murmur2_by_the_book(data: bytes) -> int:
    """Write MurmurHash2 out word by word, as slowly and as plainly as it is published."""
    m, mask, h = 0x5BD1E995, 0xFFFFFFFF, len(data)
    while len(data) >= 4:
        k = int.from_bytes(data[:4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
        data = data[4:]
    if len(data) == 3:
        h ^= data[2] << 16
    if len(data) >= 2:
        h ^= data[1] << 8
    if len(data) >= 1:
        h = (h ^ data[0]) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


@given(st.binary(max_size=70))
def test_murmur2_equals_its_definition(data: bytes) -> None:
    """The quick murmur2 and the plain one agree on any bytes."""
    assert murmur2_by_the_book(data) == hashing.murmur2(data)


@pytest.mark.parametrize(("key", "step"), [row[:2] for row in PICKS])
def test_the_first_plain_step_is_the_keys_crc(key: bytes, step: int) -> None:
    """On the first try nothing is written before the key."""
    assert step == hashing.plain_hash(key, 0)


@pytest.mark.parametrize(("key", "peer"), [(row[0], row[2]) for row in PICKS])
def test_the_plain_step_walks_to_nginxs_peer(key: bytes, peer: int) -> None:
    """The step, modulo the total weight, ends on the peer that nginx chose."""
    ports = [port for port, weight in WEIGHTS.items() for _ in range(weight)]
    assert peer == ports[hashing.plain_hash(key, 0) % len(ports)]


def test_a_later_plain_step_hashes_the_count_before_the_key() -> None:
    """From the second try on the decimal count of tries is hashed before the key."""
    assert crc32(b"12key") >> 16 & 0x7FFF == hashing.plain_hash(b"key", 12)


def test_the_ring_has_nginxs_size_and_lowest_points() -> None:
    """The ring of the three servers has 640 distinct points; the lowest two are known."""
    points = ring()
    assert 640 == len({point for point, _ in points})
    assert [(144828, 24003), (15371137, 24001)] == points[:2]


@pytest.mark.parametrize(("key", "crc", "peer"), [(row[0], row[3], row[4]) for row in PICKS])
def test_the_ring_gives_nginxs_peer(key: bytes, crc: int, peer: int) -> None:
    """The first point at or after the key's crc belongs to the peer that nginx chose."""
    points = ring()
    assert crc == crc32(key)
    at = bisect.bisect_left(points, (crc, 0))
    assert peer == points[at % len(points)][1]


def test_a_heavier_peer_keeps_the_points_of_a_lighter_one() -> None:
    """Raising a weight adds points and moves none."""
    light = hashing.ketama_points("192.0.2.1:53", 1)
    assert light == hashing.ketama_points("192.0.2.1:53", 3)[: len(light)]


@pytest.mark.parametrize(
    ("server", "host", "port"),
    [
        ("127.0.0.1:80", b"127.0.0.1", b"80"),
        ("example.com", b"example.com", b""),
        ("example.com:", b"example.com", b""),
        ("[::1]:8080", b"[::1]", b"8080"),
        ("[::1]", b"[::1]", b""),
        ("::1", b":", b"1"),
        ("host:80a", b"host:80a", b""),
        ("unix:/run/a:1", b"/run/a:1", b""),
        ("UNIX:/run/a", b"/run/a", b""),
        ("12345", b"12345", b""),
        ("", b"", b""),
    ],
)
def test_a_server_text_is_split_as_nginx_splits_it(server: str, host: bytes, port: bytes) -> None:
    """Only digits after the last colon are a port; unix: is dropped."""
    assert (host, port) == hashing.split_server(server)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_crc32c_equals_the_published_vectors(data: bytes, expected: int) -> None:
    """crc32c gives the values printed in RFC 3720 appendix B.4 and its check value."""
    assert expected == hashing.crc32c(data)


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_crc32c_goes_on_from_a_finished_value(head: bytes, tail: bytes) -> None:
    """The crc of two parts in turn is the crc of the whole."""
    assert hashing.crc32c(head + tail) == hashing.crc32c(tail, hashing.crc32c(head))
