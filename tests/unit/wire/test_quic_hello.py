"""Hellos of QUIC clients: put together from datagrams, in bounds, or declined."""

import random
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.event import libcrypto
from ngxstream.wire import client_hello, quic_hello, reader
from tests.support import quic

AES = libcrypto.Aes(libcrypto.load())
CLIENT = quic.Client()
OTHER = quic.Client(destination=b"elsewhere", version=quic.V2)
LONG = quic.hello("long.test", size=3200)  # of three datagrams


def fed(datagrams: Iterable[bytes]) -> str:
    """Feed datagrams to the end; return the name, `more` or why it was declined."""
    hellos = quic_hello.Hellos(AES)
    for datagram in datagrams:
        try:
            hello = hellos.feed(datagram)
        except reader.WireError as error:
            return f"declined: {error}"
        if not isinstance(hello, reader.NeedMore):
            return hello.server_name.decode()
    return "more"


@pytest.mark.parametrize("version", [quic.V1, quic.V2])
def test_a_hello_in_one_datagram_is_read_at_once(version: int) -> None:
    """Version, name and protocols are said as they are over TCP."""
    client = quic.Client(version=version)
    hello = quic_hello.Hellos(AES).feed(client.datagrams(quic.hello("a.test", ("h3", "doq")))[0])
    assert client_hello.ClientHello("TLSv1.3", b"a.test", b"h3,doq", (0x1301,)) == hello


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 0, 2, 1), (1, 2, 1, 0)])
def test_a_hello_of_three_datagrams_may_come_in_any_order(order: Sequence[int]) -> None:
    """And some of them twice; it is whole with the last one that it lacked, not before."""
    made = CLIENT.datagrams(LONG)
    assert 3 == len(made)
    datagrams = [made[n] for n in order]
    assert "more" == fed(datagrams[:-1])
    assert "long.test" == fed(datagrams)


def test_frames_of_one_packet_may_come_in_any_order() -> None:
    """Browsers shuffle them on purpose."""
    message = quic.hello("shuffled.test")
    cuts = [(at, message[at : at + 7]) for at in range(0, len(message), 7)]
    random.Random(7).shuffle(cuts)
    assert "shuffled.test" == fed([CLIENT.packed(cuts)])


@given(data=st.data())
def test_however_a_hello_is_cut_it_is_the_same(data: st.DataObject) -> None:
    """Pieces that overlap, of any size, in any order, over several datagrams."""
    message = quic.hello("cut.test", size=data.draw(st.sampled_from((0, 600, 2500))))
    ends = sorted(data.draw(st.sets(st.integers(1, len(message) - 1), max_size=20)))
    starts = [0, *ends]
    cuts = [
        (max(0, start - data.draw(st.integers(0, 5))), min(end + data.draw(st.integers(0, 5)),
                                                          len(message)))
        for start, end in zip(starts, [*ends, len(message)], strict=True)
    ]
    cuts = data.draw(st.permutations(cuts))
    size = data.draw(st.integers(1, len(cuts)))
    pieces = [(start, message[start:end]) for start, end in cuts]
    groups = [pieces[at : at + size] for at in range(0, len(pieces), size)]
    datagrams = [CLIENT.packed(group, number) for number, group in enumerate(groups)]
    expected = "cut.test" if len(datagrams) <= quic_hello.MAX_DATAGRAMS else None
    assert fed(datagrams) == expected or expected is None


def test_several_initial_packets_of_a_datagram_are_read() -> None:
    """With 0-RTT packets behind them."""
    message = quic.hello("coalesced.test")
    first = quic.initial(quic.crypto(0, message[:50]), number=0)
    second = quic.initial(quic.crypto(50, message[50:]), number=1)
    assert "coalesced.test" == fed([first + second + quic.opaque(quic.ZERO_RTT, 600)])


def test_packets_that_say_nothing_of_the_hello_are_waited_behind() -> None:
    """A PING or an ACK may come first."""
    empty = CLIENT.initial(b"\1", quic.ack())
    assert "one.test" == fed([empty, *CLIENT.datagrams(quic.hello())])


# -- what is no hello ------------------------------------------------------------------------------

NONE = "declined: no Initial packet of a client"


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"hello",
        bytes(1200),
        b"\x12\x34\x01\0\0\1\0\0\0\0\0\0",  # DNS
        b"\x40" + bytes(1199),
        quic.opaque(quic.HANDSHAKE, 1000),
        bytes.fromhex("c0babababa") + bytes(1195),
        bytes.fromhex("8000000000") + b"\2me\2se" + bytes.fromhex("00000001"),
        quic.long_header(quic.RETRY, quic.V1, b"d", b"s") + b"token" + bytes(16),
        quic.initial(quic.crypto(0, quic.hello()), size=1200, secret_id=b"another"),
        CLIENT.datagrams(quic.hello())[0][:-1],
    ],
    ids=["empty", "text", "zeros", "dns", "short", "handshake", "version", "negotiation", "retry",
         "keys", "cut"],
)
def test_what_does_not_begin_with_an_initial_packet_is_declined_at_once(datagram: bytes) -> None:
    """Nobody waits for more."""
    assert NONE == fed([datagram])


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (b"\x08data", "a frame that is not of Initial packets"),
        (b"\x1c\0\0\0", "the client closes"),
        (quic.crypto(0, b"\2\0\0\1x"), "not a client hello"),
        (quic.crypto(0, b"\1\0\0\2xx"), "failed to parse handshake"),
        (quic.crypto(0, b"\1\1\0\0"), "too long"),
        (quic.crypto(0, b"\1\0\x3f\xfd"), "too long"),
        (quic.crypto(quic_hello.MAX_HELLO, b"x"), "too long"),
        (quic.crypto((1 << 62) - 2, b"x"), "too long"),
        (quic.crypto(0, b"\1\0") + quic.crypto(1, b"\1"), "the same bytes are said twice"),
    ],
)
def test_contents_that_are_no_hello_are_declined(frames: bytes, reason: str) -> None:
    """A packet that opens is judged at once."""
    assert f"declined: {reason}" in fed([CLIENT.initial(frames)])


@pytest.mark.parametrize("where", [0, 3, 49, 50, 99])
def test_bytes_said_twice_must_be_the_same(where: int) -> None:
    """Or the server might find another name than we; an overlap is of any shape."""
    message = quic.hello("one.test", size=400)
    other = bytearray(message[:100])
    other[where] ^= 1
    for offset, piece in ((0, bytes(other)), (where, bytes(other[where : where + 1]))):
        datagrams = [
            CLIENT.initial(quic.crypto(0, message[:100])),
            CLIENT.initial(quic.crypto(offset, piece), number=1),
        ]
        assert "declined: the same bytes are said twice, and not the same" == fed(datagrams)
        assert fed(reversed(datagrams)).startswith("declined: ")


def test_a_hello_of_the_largest_size_is_read() -> None:
    """As far as it fits into as many datagrams as are waited for."""
    message = quic.hello("big.test", size=quic_hello.MAX_HELLO - 100)
    size = 4000
    pieces = [quic.crypto(at, message[at : at + size]) for at in range(0, len(message), size)]
    assert "big.test" == fed(CLIENT.initial(p, number=n) for n, p in enumerate(pieces))


# -- bounds ----------------------------------------------------------------------------------------


def test_a_client_that_never_completes_is_given_up() -> None:
    """After MAX_DATAGRAMS, whatever is in them."""
    first = CLIENT.initial(quic.crypto(0, quic.hello()[:40]))
    for rest in (CLIENT.initial(b"\1"), quic.opaque(quic.ZERO_RTT), b"noise", b""):
        sent = [first, *[rest] * (quic_hello.MAX_DATAGRAMS - 2)]
        assert "more" == fed(sent)
        assert "declined: too many datagrams" == fed([*sent, rest])


def test_0_rtt_packets_that_overtake_the_first_initial_packet_are_waited_behind() -> None:
    """Up to MAX_EARLY datagrams."""
    early = quic.opaque(quic.ZERO_RTT, 1000)
    hello = CLIENT.datagrams(quic.hello())
    assert "one.test" == fed([early, *hello])
    assert "one.test" == fed([*[early] * (quic_hello.MAX_EARLY - 1), *hello])
    assert NONE == fed([early] * quic_hello.MAX_EARLY)
    assert NONE == fed([early, b"noise"])


def test_what_does_not_open_is_passed_over_behind_a_packet_that_did() -> None:
    """Somebody else may have sent it in the client's name."""
    first, *rest = CLIENT.datagrams(LONG)
    forged = bytearray(rest[0])
    forged[-1] ^= 1
    assert "long.test" == fed([first, b"noise", bytes(forged), quic.opaque(2), *rest])


def test_pieces_that_lie_apart_are_bounded() -> None:
    """MAX_PIECES of them are kept."""
    apart = [(2 * n, b"\1") for n in range(quic_hello.MAX_PIECES + 1)]
    assert "more" == fed([CLIENT.packed(apart[1:])])
    assert "declined: too many pieces" == fed([CLIENT.packed([*apart[1:], (500, b"\1")])])


def test_a_client_may_begin_several_connections_from_one_port() -> None:
    """The first hello that is whole counts; each has its own pieces and keys."""
    first, rest = CLIENT.datagrams(quic.hello("first.test", size=1500))
    (second,) = OTHER.datagrams(quic.hello("second.test"))
    assert "second.test" == fed([first, second])
    begun = OTHER.datagrams(quic.hello("second.test", size=1500))
    assert "first.test" == fed([first, begun[0], rest, begun[1]])
    assert "second.test" == fed([first, begun[0], begun[1], rest])


def test_connections_of_one_client_are_bounded() -> None:
    """MAX_CONNECTIONS that have begun, and none of them whole."""
    begun = [
        quic.Client(destination=b"to-%d" % n).initial(b"\1")
        for n in range(quic_hello.MAX_CONNECTIONS + 1)
    ]
    assert "more" == fed(begun[:-1])
    assert "declined: too many connections" == fed(begun)


def test_what_has_come_so_far_can_be_asked_for() -> None:
    """The rest of it may never come."""
    hellos = quic_hello.Hellos(AES)
    assert client_hello.ClientHello("") == hellos.so_far()
    message = quic.hello("whole.test", ("h3",))
    at = message.index(b"whole.test") - 9  # the extension with the name comes last
    hellos.feed(CLIENT.initial(quic.crypto(0, message[:at])))
    assert client_hello.ClientHello("TLSv1.3", b"", b"h3") == hellos.so_far()


# -- pieces ----------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=30),
    st.integers(0, 3),
)
def test_pieces_hold_what_was_put_there(cuts: list[tuple[int, int]], first: int) -> None:
    """Beginning with the first byte, up to the first one that is missing."""
    whole = bytes(range(60))
    pieces = quic_hello.Pieces(60, 60)
    there = set()
    for start, size in [*cuts, (0, first)]:
        pieces.add(start, whole[start : start + size])
        there |= set(range(start, start + size))
        until = next(n for n in range(61) if n not in there)
        assert whole[:until] == pieces.beginning()


def test_pieces_have_an_end() -> None:
    """The last byte there may be is taken, one behind it is not."""
    pieces = quic_hello.Pieces(10, 2)
    pieces.add(8, b"ab")
    with pytest.raises(quic_hello.NotHello):
        pieces.add(9, b"bc")
    pieces.add(4, b"x")
    with pytest.raises(quic_hello.NotHello):
        pieces.add(0, b"x")
