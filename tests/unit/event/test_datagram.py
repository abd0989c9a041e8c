"""Bursts: runs of datagrams that one GSO message may carry, and what arrives of them."""

import socket

from hypothesis import given
from hypothesis import strategies as st

from ngxstream.event import datagram

SIZES = st.lists(st.integers(0, 1400), min_size=1, max_size=200)


@given(SIZES)
def test_runs_cover_every_datagram_in_order_and_keep_to_the_kernel_s_rules(sizes) -> None:
    """Runs join end to end; inside one, all sizes are equal but for a shorter last."""
    views = [memoryview(bytes(n)) for n in sizes]
    at = 0
    for first, end, size in datagram.runs(views):
        assert at == first
        assert first < end <= len(views)
        at = end
        lengths = sizes[first:end]
        assert lengths[0] == size
        assert all(n == size for n in lengths[:-1])
        assert lengths[-1] <= size
        if len(lengths) > 1:
            assert lengths[-1] > 0
            assert len(lengths) <= datagram.MAX_SEGMENTS
            assert sum(lengths) <= datagram.MAX_PAYLOAD
    assert len(views) == at


@given(st.binary(min_size=1, max_size=5000), st.integers(1, 1500))
def test_split_gives_back_what_was_joined(data: bytes, size: int) -> None:
    """The parts of a coalesced message are its bytes, all of one size but the last."""
    parts = datagram.split(memoryview(data), size)
    assert data == b"".join(parts)
    assert all(len(part) == size for part in parts[:-1])


@given(st.lists(st.integers(1, 1400), min_size=1, max_size=40))
def test_boundaries_survive_a_burst(sizes) -> None:
    """Datagrams sent as runs arrive one by one, each with its own length, in order."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(20)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sender.connect(receiver.getsockname())
        sent = [bytes([i % 256]) * n for i, n in enumerate(sizes)]
        views = [memoryview(data) for data in sent]
        for first, end, size in datagram.runs(views):
            if end - first == 1:
                sender.send(views[first])
            else:
                sender.sendmsg(views[first:end], datagram.segment_control(size))
        assert sent == [receiver.recv(2000) for _ in sent]


def test_runs_are_as_long_as_they_can_be() -> None:
    """One size, and then a smaller one, are one message; it has no more bytes than UDP takes."""
    sizes = [100, 100, 100, 50, 100, 100, *[1400] * 60]
    views = [memoryview(bytes(n)) for n in sizes]
    most = datagram.MAX_PAYLOAD // 1400
    expected = [(0, 4, 100), (4, 6, 100), (6, 6 + most, 1400), (6 + most, 66, 1400)]
    assert expected == datagram.runs(views)
