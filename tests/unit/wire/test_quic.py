"""Long headers of QUIC: where a packet ends, whose it is, and what is none."""

import pytest

from ngxstream.wire import quic as wire
from tests.support import quic

VERSIONS = (quic.V1, quic.V2)
KINDS = (wire.INITIAL, wire.ZERO_RTT, wire.HANDSHAKE)


def refused(data: bytes) -> str:
    """Parse what must be refused and return the reason."""
    with pytest.raises(wire.QuicError) as reason:
        wire.parse(data)
    return str(reason.value)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_initial_packet_tells_all_that_is_not_protected(version: int) -> None:
    """Both connection ids, the token, where its number stands and where it ends."""
    data = quic.initial(
        b"\1", version=version, destination=b"destination", source=b"source", token=b"t" * 70,
        size=300,
    )
    header = wire.parse(b"....." + data + b"behind", 5)
    assert (wire.INITIAL, version, b"destination", b"source", b"t" * 70) == header[:5]
    assert (5, 305) == (header.start, header.end)
    assert len(quic.long_header(0, version, b"destination", b"source")) + 2 + 70 + 2 == (
        header.number_at - 5
    )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", KINDS[1:])
def test_other_packets_are_told_apart(version: int, kind: int) -> None:
    """Version 2 numbers the kinds in another way."""
    header = wire.parse(quic.opaque(kind, 70, version=version))
    assert (kind, version, b"to-server", b"me", b"") == header[:5]
    assert 70 == header.end - header.number_at


@pytest.mark.parametrize("version", VERSIONS)
def test_a_retry_takes_the_whole_datagram(version: int) -> None:
    """It has no length: its token ends 16 bytes before the end."""
    data = quic.long_header(quic.RETRY, version, b"d", b"s") + b"token" + bytes(16)
    header = wire.parse(data)
    assert (wire.RETRY, b"token", len(data)) == (header.kind, header.token, header.end)
    assert "a Retry is cut off" == refused(data[:20])


@pytest.mark.parametrize("size", [0, 1, 20])
def test_connection_ids_have_up_to_20_bytes(size: int) -> None:
    """None is a connection id as well."""
    data = quic.initial(b"\1", destination=b"d" * size, source=b"s" * size, size=100)
    assert (b"d" * size, b"s" * size) == wire.parse(data)[2:4]


def test_longer_connection_ids_are_refused() -> None:
    """Other versions may have them, these two have not."""
    long = quic.initial(b"\1", destination=b"d" * 21, size=100)
    assert "a connection id is too long" == refused(long)
    assert "a connection id is too long" == refused(quic.initial(b"\1", source=b"s" * 21, size=100))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no long header"),
        (b"\xc0\0\0\0\1\0", "no long header"),
        (b"\x40\0\0\0\1\0\0\0\0", "no long header"),
        (b"GET / HTTP/1.1\r\n", "no long header"),
        (bytes.fromhex("8000000000") + b"\1d\1s" + b"\0\0\0\1", "another version"),
        (bytes.fromhex("c0ff00001d") + b"\1d\1s\0", "another version"),
        (bytes.fromhex("cababababa") + b"\1d\1s\0", "another version"),
        (bytes.fromhex("c000000001") + b"\1d", "a connection id is missing"),
        (bytes.fromhex("c000000001") + b"\5d\1", "a connection id is too long"),
        (bytes.fromhex("c000000001") + b"\1d\1s", "an integer is missing"),
        (bytes.fromhex("c000000001") + b"\1d\1s\x40", "an integer is cut off"),
        (bytes.fromhex("c000000001") + b"\1d\1s\2t", "a token is cut off"),
        (bytes.fromhex("c000000001") + b"\1d\1s\1t", "an integer is missing"),
        (bytes.fromhex("c000000001") + b"\1d\1s\1t\3ab", "a packet is cut off"),
        (bytes.fromhex("e000000001") + b"\1d\1s" + b"\xff" * 8, "a packet is cut off"),
    ],
)  # fmt: skip
def test_what_is_no_packet_of_the_two_versions_is_refused(data: bytes, reason: str) -> None:
    """Short headers, version negotiation, other versions, and whatever does not end in time."""
    assert reason == refused(data)


def test_the_fixed_bit_may_be_cleared() -> None:
    """By clients that may do so (RFC 9287), and nobody else opens their packets."""
    assert wire.INITIAL == wire.parse(quic.initial(b"\1", fixed=0, size=100)).kind


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ("c2197c5eff14e88c", 151_288_809_941_952_652),
        ("9d7f3e7d", 494_878_333),
        ("7bbd", 15_293),
        ("25", 37),
        ("4025", 37),
    ],
)
def test_integers_are_read_as_the_examples_of_the_rfc(data: str, value: int) -> None:
    """RFC 9000 section A.1."""
    raw = bytes.fromhex(data)
    assert (value, 1 + len(raw)) == wire.varint(b"." + raw + b"..", 1)
    assert quic.varint(value, len(raw)) == raw


def test_coalesced_packets_are_found_in_their_order() -> None:
    """An Initial, a 0-RTT and a Handshake packet; a short header ends it."""
    data = quic.initial(b"\1", size=100) + quic.opaque(1) + quic.opaque(2) + b"\x40short"
    assert list(KINDS) == [header.kind for header in wire.packets(data)]


def test_a_packet_for_another_connection_is_passed_over() -> None:
    """A datagram is one connection's (RFC 9000 section 12.2)."""
    data = quic.opaque(1, destination=b"a") + quic.initial(b"\1", destination=b"b", size=100)
    data += quic.opaque(2, destination=b"a")
    assert [wire.ZERO_RTT, wire.HANDSHAKE] == [header.kind for header in wire.packets(data)]


def test_so_many_packets_of_a_datagram_are_looked_at() -> None:
    """A datagram could hold thousands of small ones."""
    assert wire.MAX_PACKETS == len(list(wire.packets(quic.opaque(1, 1) * 100)))


@pytest.mark.parametrize("end", range(0, 120, 7))
def test_a_datagram_that_is_cut_has_the_packets_before(end: int) -> None:
    """What is behind the last whole packet is no packet."""
    first = quic.initial(b"\1", size=100)
    assert (end >= 100) == bool(list(wire.packets((first + quic.opaque(1))[:end])))


def test_a_connection_begins_with_a_large_initial_packet() -> None:
    """To an id of eight bytes at least; what is of another kind, or shorter, begins nothing."""
    first = quic.initial(b"\1", destination=bytes(8), source=b"", size=1200)
    assert wire.begins(first)
    assert wire.begins(memoryview(first))
    assert not wire.begins(first[:1199])
    assert not wire.begins(quic.initial(b"\1", destination=bytes(7), source=b"", size=1300))
    assert not wire.begins(quic.opaque(quic.HANDSHAKE, 1300, destination=bytes(8)))
    assert not wire.begins(quic.opaque(quic.ZERO_RTT, 1300, destination=bytes(8)))
    assert not wire.begins(b"")
    assert not wire.begins(b"\x41" + bytes(1300))
