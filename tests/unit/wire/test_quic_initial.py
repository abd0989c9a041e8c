"""Initial packets: the keys and packets of the RFCs' appendices, protection, frames."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.event import libcrypto
from ngxstream.wire import quic as wire
from ngxstream.wire import quic_initial as initial
from tests.support import quic

AES = libcrypto.Aes(libcrypto.load())
ID = bytes.fromhex("8394c8f03e515708")

# RFC 9001 section A.2: the CRYPTO frame, as in RFC 9369 section A.2; PADDING is behind it
FRAME = bytes.fromhex(
    "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c0000"
    "0413011302010000c000000010000e00000b6578616d706c652e636f6dff01000100000a00080006001d0017"
    "001800100007000504616c706e000500050100000000003300260024001d00209370b2c9caa47fbabaf4559f"
    "edba753de171fa71f50f1ce15d43e994ec74d748002b0003020304000d0010000e0403050306030203080408"
    "050806002d00020101001c00024001003900320408ffffffffffffffff05048000ffff07048000ffff080110"
    "0104800075300901100f088394c8f03e51570806048000ffff"
)
# RFC 9001 and RFC 9369, sections A.1
KEYS = {
    quic.V1: ("1f369613dd76d5467730efcbe3b1a22d", "fa044b2f42a3fd3b46fb255c",
              "9f50449e04a0e810283a1e9933adedd2"),
    quic.V2: ("8b1a0bc121284290a29e0971b5cd045d", "91f73e2351d8fa91660e909f",
              "45b95e15235d6f45a6b19cbcb0294ba9"),
}
# sections A.2: where the protected packets of 1200 bytes begin and end; the end is the tag, which
# is right for no other packet
PACKETS = {
    quic.V1: (
        "c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11",
        "e221af44860018ab0856972e194cd934",
    ),
    quic.V2: (
        "d76b3343cf088394c8f03e5157080000449ea0c95e82ffe67b6abcdb4298b485",
        "a18b2faa745b6fe189cf772a9f84cbfc",
    ),
}
every_version = pytest.mark.parametrize("version", [quic.V1, quic.V2], ids=["v1", "v2"])


def packet_of_the_appendix(version: int) -> bytes:
    """Build what section A.2 shows, and see that it is that."""
    made = quic.initial(
        FRAME, version=version, destination=ID, source=b"", number=2, number_size=4, size=1200
    )
    begin, end = PACKETS[version]
    assert (1200, begin, end) == (len(made), made[:32].hex(), made[-16:].hex())
    return made


def opened(data: bytes, largest: int = -1) -> tuple[int, bytes]:
    """Open the first packet of a datagram with the keys of its own connection id."""
    header = wire.parse(data)
    keys = initial.client_keys(header.version, header.destination)
    return initial.open_packet(AES, keys, data, header, largest)


@every_version
def test_the_keys_are_those_of_the_appendix(version: int) -> None:
    """Of the client's side, for the connection id of the examples."""
    assert KEYS[version] == tuple(key.hex() for key in initial.client_keys(version, ID))


@every_version
def test_the_packet_of_the_appendix_is_opened(version: int) -> None:
    """Its number is 2, and a CRYPTO frame stands before the PADDING."""
    number, payload = opened(packet_of_the_appendix(version))
    assert (2, FRAME, 1162) == (number, payload[: len(FRAME)], len(payload))
    assert [(0, FRAME[4:])] == initial.crypto_frames(payload)


@pytest.mark.parametrize("number", [0, 1, 127, 128, 32_767, 8_000_000, 0x7FFF_FFFF])
def test_a_first_packet_may_have_any_number(number: int) -> None:
    """A client whose packets nobody acknowledged writes all of it (RFC 9000 section 17.1)."""
    assert (number, b"\1" * 30) == opened(quic.initial(b"\1" * 30, number=number))


@pytest.mark.parametrize(
    ("truncated", "bits", "largest", "number"),
    [
        (0x9B32, 16, 0xA82F30EA, 0xA82F9B32),  # RFC 9000 section A.3
        (0, 8, -1, 0),
        (0, 8, 255, 256),
        (0xFF, 8, 256, 255),
        (1, 8, 300, 257),
        (0x80, 8, -1, 0x80),
        (0xFF, 8, -1, 0xFF),
        (5, 32, (1 << 62) - 10, (1 << 62) - (1 << 32) + 5),  # there is none above
    ],
)
def test_a_cut_number_is_the_nearest_one(
    truncated: int, bits: int, largest: int, number: int
) -> None:
    """To the one that is expected next."""
    assert number == initial.full_number(truncated, bits, largest)


@given(
    largest=st.one_of(st.integers(-1, 600), st.integers(-1, (1 << 61))),
    size=st.integers(1, 4), far=st.sampled_from((-127, -1, 0, 1, 2, 100, 127, 128)),
)
def test_a_number_within_half_a_window_is_found(largest: int, size: int, far: int) -> None:
    """Of the next expected one, whichever end of the window it lies at."""
    window = 1 << 8 * size
    number = largest + 1 + far * window // 256
    if number < 0:
        number += window
    if largest + 1 - window // 2 < number <= largest + 1 + window // 2:
        assert number == initial.full_number(number % window, 8 * size, largest)


@pytest.mark.parametrize(("far", "number"), [(-128, 1128), (-127, 873), (128, 1128), (129, 873)])
def test_the_window_has_a_later_and_an_earlier_end(far: int, number: int) -> None:
    """The number half a window ahead of 1000 is in it, the one half a window behind is not."""
    assert number == initial.full_number((1000 + far) % 256, 8, 999)


def test_a_cut_number_is_part_of_the_nonce() -> None:
    """A packet opens where the numbers that came before it tell the rest."""
    data = quic.initial(b"\1" * 30, number=0x12345, number_size=1)
    assert 0x12345 == opened(data, 0x12340)[0]
    with pytest.raises(initial.Unreadable):
        opened(data, 0x345)


@pytest.mark.parametrize("at", [0, 3, 9, 25, 30, 200, -1])
def test_a_packet_with_one_byte_changed_does_not_open(at: int) -> None:
    """Header, number, contents and tag are all under the tag."""
    good = quic.initial(quic.crypto(0, b"x" * 100), size=300)
    data = bytearray(good)
    header = wire.parse(good)
    data[at] ^= 1
    keys = initial.client_keys(header.version, header.destination)
    with pytest.raises(initial.Unreadable):
        initial.open_packet(AES, keys, bytes(data), header, -1)


@pytest.mark.parametrize("more", [{"secret_id": b"another"}, {"side": "server"}])
def test_a_packet_under_other_keys_does_not_open(more: dict[str, object]) -> None:
    """Those of a connection that began with another id, or of the server's side."""
    with pytest.raises(initial.Unreadable, match="that these keys do not open"):
        opened(quic.initial(b"\1", size=200, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 1, 4, 19])
def test_a_packet_too_short_for_a_sample_does_not_open(size: int) -> None:
    """Whatever is in the datagram behind it."""
    data = quic.long_header(0, quic.V1, b"to-server", b"me") + b"\0" + quic.varint(size)
    with pytest.raises(initial.Unreadable, match="without a sample"):
        opened(data + bytes(size) if size == 19 else data + bytes(size) + quic.opaque(1))


def test_reserved_bits_are_an_error() -> None:
    """As they are at the server, under the tag."""
    with pytest.raises(initial.InitialError, match="reserved bits are set"):
        opened(quic.initial(b"\1" * 30, low=0x04))


# -- frames ----------------------------------------------------------------------------------------


def test_the_frames_of_initial_packets_are_passed_over() -> None:
    """PADDING, PING and ACK say nothing of the hello; CRYPTO frames come in their order."""
    payload = b"\0\0\1" + quic.crypto(7, b"world") + quic.ack((1, 2), (300, 70_000)) + b"\1"
    payload += quic.ack(ecn=True) + bytes(90) + quic.crypto(0, b"hello, ") + quic.crypto(9, b"")
    assert [(7, b"world"), (0, b"hello, "), (9, b"")] == initial.crypto_frames(payload)


@pytest.mark.parametrize("ecn", [False, True])
def test_an_ack_ends_where_the_next_frame_begins(ecn: bool) -> None:
    """With the counts of ECN behind its ranges, or without."""
    for gaps in ((), ((1, 2),), ((1, 2), (300, 70_000))):
        payload = quic.ack(*gaps, ecn=ecn) + quic.crypto(0, b"hello")
        assert [(0, b"hello")] == initial.crypto_frames(payload)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "a packet without frames"),
        (b"\x06", "an integer is missing"),
        (b"\x06\x40", "an integer is cut off"),
        (b"\x06\0\5abcd", "a CRYPTO frame is cut off"),
        (b"\x06\0" + b"\xff" * 8, "a CRYPTO frame is cut off"),
        (b"\x02\0\0\0", "an integer is missing"),
        (b"\x02\0\0\1\0\0", "an integer is missing"),
        (b"\x03\0\0\0\0\1\1", "an integer is missing"),
        (b"\x02\0\0" + b"\xff" * 8, "too many ranges"),
        (b"\x02\0\0\x40\xff\0" + bytes(510) + b"\x06\0\0" * 2, "too many frames"),
        (b"\x06\0\0" * (initial.MAX_FRAMES + 1), "too many frames"),
        (b"\x08data", "a frame that is not of Initial packets"),
        (b"\x1d\0\0", "a frame that is not of Initial packets"),
        (b"\x40\x06\0\1a", "a frame that is not of Initial packets"),
        (b"\1\0\xff", "a frame that is not of Initial packets"),
    ],
)
def test_other_payloads_are_errors(payload: bytes, reason: str) -> None:
    """Cut frames, frames of other packets, types in more bytes than they take, and too many."""
    with pytest.raises(initial.InitialError, match=re.escape(reason)):
        initial.crypto_frames(payload)


def test_as_many_frames_as_are_allowed_are_read() -> None:
    """Runs of PADDING and PING between them do not count."""
    payload = (b"\x06\0\0" + b"\0\1" * 20) * initial.MAX_FRAMES
    assert initial.MAX_FRAMES == len(initial.crypto_frames(payload))


def test_a_client_that_closes_is_told_apart() -> None:
    """Nothing more will come of it."""
    with pytest.raises(initial.Closed):
        initial.crypto_frames(b"\1\x1c\0\0\0")
