"""Any datagrams are a QUIC hello, the beginning of one, or declined; in bounds, without a fault.

Most of them are opened by a cipher that protects nothing: what chance changes would otherwise end
at the tag, and never come to the frames and the hello behind it.
"""

import itertools
import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.event import libcrypto
from ngxstream.wire import quic, quic_hello, quic_initial, reader
from tests.support import quic as clients

AES = libcrypto.Aes(libcrypto.load())
MUTANTS = 1_000_000 if os.environ.get("HYPOTHESIS_PROFILE") == "fuzz" else 100_000


class Plain:
    """A cipher that protects nothing, and counts what it is asked for."""

    def __init__(self) -> None:
        self.opened = 0

    def encrypt_block(self, key: bytes, block: bytes) -> bytes:
        """Return a mask that changes nothing."""
        assert (16, 16) == (len(key), len(block))
        return bytes(16)

    def open(self, key: bytes, nonce: bytes, sealed: bytes, associated: bytes) -> bytes | None:
        """Return what stands before the tag; a tag that begins with 0xff is wrong."""
        assert (16, 12) == (len(key), len(nonce))
        self.opened += 1
        return None if sealed[-16] == 0xFF else sealed[:-16]


def plain(payload: bytes, number: int = 0, client: clients.Client | None = None) -> bytes:
    """Build an Initial packet that Plain opens."""
    client = client or clients.Client()
    head = clients.long_header(0, client.version, client.destination, client.source)
    size = clients.varint(1 + len(payload) + 16, 2)
    return head + b"\0" + size + bytes((number & 0x7F,)) + payload + bytes(16)


def outcome(datagrams: list[bytes], cipher: quic_initial.Cipher) -> str:
    """Feed datagrams until there is an answer; see that every bound is kept on the way."""
    hellos = quic_hello.Hellos(cipher)
    for datagram in datagrams:
        try:
            hello = hellos.feed(datagram)
        except reader.WireError:
            return "declined"
        finally:
            keeps_bounds(hellos, cipher)
        if not isinstance(hello, reader.NeedMore):
            return f"{hello.protocol} {hello.server_name!r} {hello.alpn!r}"
    hellos.so_far()
    return "more"


def keeps_bounds(hellos: quic_hello.Hellos, cipher: quic_initial.Cipher) -> None:
    """See that no more is held, and was opened, than may be."""
    assert hellos.count <= quic_hello.MAX_DATAGRAMS
    assert len(hellos._connections) <= quic_hello.MAX_CONNECTIONS
    for connection in hellos._connections.values():
        runs = connection._pieces._runs
        assert len(runs) <= quic_hello.MAX_PIECES
        assert sum(len(run) for _, run in runs) <= quic_hello.MAX_HELLO
        assert all(at + len(run) < after for (at, run), (after, _) in itertools.pairwise(runs))
    if isinstance(cipher, Plain):
        assert cipher.opened <= quic.MAX_PACKETS * hellos.count


# -- what chance makes -----------------------------------------------------------------------------

TOKENS = (b"", b"\0", b"\xff", b"\x06", b"\x06\0", b"\x02", b"\x1c", b"\x40\x06", b"\xc0\0\0\0\1",
          b"\xd0\x6b\x33\x43\xcf", b"\xbf\xff\xff\xff", b"\x80\0\0\0", b"\x7f\xff", b"\1\0\0")


def seeds() -> list[list[bytes]]:
    """Return flights of clients of several kinds."""
    short, long = clients.hello("one.test", ("h3", "hq")), clients.hello("long.test", size=900)
    other = clients.Client(clients.V2, b"another id of 20 byt", b"")
    steps = range(0, len(long), 99)
    half, early = len(short) // 2, clients.opaque(clients.ZERO_RTT, 40)
    shuffled = [clients.crypto(at, short[at : at + 9]) for at in range(0, len(short), 9)][::-1]
    return [
        [plain(clients.crypto(0, short))],
        [plain(clients.crypto(0, short) + bytes(300)) + early],
        [plain(b"\1" + clients.ack((1, 2)) + b"".join(shuffled))],
        [plain(clients.crypto(half, short[half:]), 1), plain(clients.crypto(0, short[:half]), 0)],
        [early, plain(clients.crypto(0, short), 3)],
        [plain(clients.crypto(at, long[at : at + 99]), at // 99, other) for at in steps],
        [plain(clients.crypto(0, long[:99])), plain(clients.crypto(0, short), 0, other)],
    ]


def mutant(flight: list[bytes], dice: random.Random) -> list[bytes]:
    """Change a little of a flight: bytes of a datagram, or which datagrams come."""
    made = list(flight)
    for _ in range(dice.randint(1, 4)):
        number = dice.randrange(len(made))
        data = made[number]
        at = dice.randrange(len(data) + 1)
        what = dice.randrange(7)
        if what == 0:
            made[number] = data[:at]
        elif what == 1:
            made[number] = data[:at] + dice.choice(TOKENS) + data[at:]
        elif what == 2:
            made[number] = data[:at] + dice.choice(TOKENS) + data[at + dice.randrange(4) :]
        elif what == 3:
            made.insert(dice.randrange(len(made) + 1), data)
        elif what == 4:
            made.insert(number, made.pop())
        else:
            made[number] = data[:at] + dice.randbytes(1) + data[at + 1 :]
    return made * dice.choice((1, 1, 1, 20))


@pytest.mark.slow
def test_mutated_flights_keep_the_bounds() -> None:
    """A hundred thousand of them, a million with the profile `fuzz`: no fault, and all outcomes."""
    seed = 0 if os.environ.get("CI") else int.from_bytes(os.urandom(4), "big")
    dice = random.Random(seed)
    kinds = {"declined": 0, "more": 0, "hello": 0}
    flights = seeds()
    for number in range(MUTANTS):
        made = mutant(flights[number % len(flights)], dice)
        try:
            said = outcome(made, Plain())
        except Exception as error:
            raise AssertionError(f"mutant {number} of seed {seed}: {made!r}") from error
        kinds[said if said in kinds else "hello"] += 1
    assert min(kinds.values()) > MUTANTS // 100, kinds


@given(st.lists(st.binary(max_size=60), max_size=14))
def test_any_datagrams_keep_the_bounds(datagrams: list[bytes]) -> None:
    """No fault, whatever they are; and none of them is a hello."""
    assert outcome(datagrams, AES) in ("declined", "more")


@given(
    payload=st.lists(
        st.one_of(
            st.binary(max_size=30), st.sampled_from(TOKENS),
            st.builds(clients.crypto, st.integers(0, 70), st.binary(max_size=40)),
        ),
        max_size=12,
    ),
)
def test_any_payload_under_real_keys_keeps_the_bounds(payload: list[bytes]) -> None:
    """Client and proxy have the same keys: what is inside is up to the client."""
    assert outcome([clients.Client().initial(*payload, size=100)], AES)


@given(at=st.integers(0, 1199), value=st.integers(0, 255), more=st.binary(max_size=9))
def test_a_changed_packet_is_none(at: int, value: int, more: bytes) -> None:
    """One byte of it is another one: it does not open, wherever that is; 0-RTT is waited behind."""
    (good,) = clients.Client().datagrams(clients.hello())
    data = bytearray(good)
    data[at] = value
    expected = "TLSv1.3 b'one.test' b'h3'" if data == good else "declined"
    if at == 0 and value & 0xB0 == 0x90:
        expected = "more"
    assert expected == outcome([bytes(data) + more], AES)


@given(data=st.data())
def test_a_changed_hello_ends_the_same_way_however_it_is_cut(data: st.DataObject) -> None:
    """Whole, in pieces, in any order: the same hello, or none."""
    message = bytearray(clients.hello("cut.test", ("h3", "x")))
    for _ in range(data.draw(st.integers(0, 3))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    whole = outcome([plain(clients.crypto(0, bytes(message)))], Plain())
    size = data.draw(st.integers(len(message) // 10, len(message)))
    pieces = [
        plain(clients.crypto(at, bytes(message[at : at + size])), at // size)
        for at in range(0, len(message), size)
    ]
    assert whole == outcome(data.draw(st.permutations(pieces)), Plain())


def test_a_large_datagram_takes_a_bounded_number_of_steps() -> None:
    """65 000 bytes of the smallest frames, or packets, are looked at as far as the bounds go."""
    small = b"\x06\0\0" * 21_000
    for payload in (small, b"\1\0" * 32_000, b"\x02\0\0\0\0" * 12_000):
        head = clients.long_header(0, clients.V1, b"to-server", b"me") + b"\0"
        data = head + clients.varint(1 + len(payload) + 16, 4) + b"\0" + payload + bytes(16)
        cipher = Plain()
        assert outcome([data], cipher) == ("more" if payload[0] == 1 else "declined")
        assert 1 == cipher.opened
    many = plain(b"\1" * 30) * 700
    cipher = Plain()
    assert "more" == outcome([many], cipher)
    assert quic.MAX_PACKETS == cipher.opened
