"""Channels carry commands, bytes and descriptors, and tell of the other end's death."""

import errno
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.process import channel
from tests.support import descriptors, strangers, tools


def test_a_message_comes_whole_and_in_order() -> None:
    """Messages keep their borders and their order, empty ones included."""
    ours, theirs = channel.Channel.pair()
    sent = [(channel.QUIT, b""), (7, b"x" * 5000), (channel.REOPEN, b"\0")]
    assert [True] * 3 == [ours.send(command, payload) for command, payload in sent]
    assert [(*message, []) for message in sent] == [tuple(theirs.receive()) for _ in sent]
    ours.close()
    theirs.close()


@given(st.integers(min_value=1, max_value=255), st.binary(max_size=2000))
def test_any_payload_passes_either_way(command: int, payload: bytes) -> None:
    """Both ends speak and hear."""
    ours, theirs = channel.Channel.pair()
    for here, there in ((ours, theirs), (theirs, ours)):
        assert here.send(command, payload)
        assert (command, payload, []) == there.receive()
    ours.close()
    theirs.close()


def test_descriptors_travel() -> None:
    """As many descriptors as one message may have arrive as open sockets, closed on exec."""
    ours, theirs = channel.Channel.pair()
    here, there = socket.socketpair()
    assert ours.send(9, b"p", [there.fileno()] * channel.MAX_FDS)
    there.close()
    message = theirs.receive()
    assert channel.MAX_FDS == len(message.fds)
    with socket.socket(fileno=message.fds[-1]) as same:
        here.send(b"hello")
        assert b"hello" == same.recv(10)
    for fd in message.fds[:-1]:
        assert not os.get_inheritable(fd)
        os.close(fd)
    here.close()
    ours.close()
    theirs.close()


def test_an_empty_channel_would_block() -> None:
    """Nothing to receive is no end of file."""
    ours, theirs = channel.Channel.pair()
    with pytest.raises(BlockingIOError):
        theirs.receive()
    ours.close()
    theirs.close()


def test_the_end_of_the_other_side_is_an_end_of_file() -> None:
    """What was sent before is received first; sending to a closed end fails politely."""
    ours, theirs = channel.Channel.pair()
    ours.send(channel.QUIT)
    ours.close()
    assert channel.QUIT == theirs.receive().command
    with pytest.raises(EOFError):
        theirs.receive()
    assert not theirs.send(1)
    theirs.close()


def test_an_end_that_does_not_read_blocks_nobody() -> None:
    """A full channel refuses a message instead of waiting."""
    ours, theirs = channel.Channel.pair()
    accepted = 0
    while ours.send(5, b"x" * 1000):
        accepted += 1
        assert accepted < 100_000
    assert accepted > 0
    ours.close()
    theirs.close()


def test_whoever_speaks_or_leaves_is_waited_for() -> None:
    """Of three ends, the one with a message and the one that is left alone are told."""
    pairs = [channel.Channel.pair() for _ in range(3)]
    ends = [theirs.fileno() for _, theirs in pairs]
    assert [] == channel.wait_readable(ends, 0.001)
    pairs[0][0].send(channel.QUIT)
    pairs[2][0].close()
    assert {ends[0], ends[2]} == set(channel.wait_readable(ends, 20.0))
    for pair in pairs:
        for end in pair:
            end.close()


def test_descriptors_beyond_those_of_select_are_waited_for() -> None:
    """A number of 1024 or more is as good as any."""
    with descriptors.beyond_select():
        ours, theirs = channel.Channel.pair()
        assert theirs.fileno() > descriptors.FD_SETSIZE
        assert [] == channel.wait_readable([theirs.fileno()], 0.001)
        ours.send(channel.QUIT)
        assert [theirs.fileno()] == channel.wait_readable([theirs.fileno()], 20.0)
        ours.close()
        theirs.close()


# -- a hostile worker ------------------------------------------------------------------------------


def test_a_master_takes_no_descriptor_from_a_worker() -> None:
    """Nor a long word; each is an error of the channel, and nothing of it stays open."""
    ours, theirs = channel.Channel.pair()
    before = descriptors.count()
    for payload, fds in ((b"", [0]), (b"x" * (channel.ANSWER + 1), []), (b"", [0] * 250)):
        assert theirs.send(channel.READY, payload, fds)
        with pytest.raises(OSError, match="message of") as caught:
            ours.receive()
        assert errno.EPROTO == caught.value.errno
    assert before == descriptors.count()
    assert theirs.send(channel.READY)
    assert channel.READY == ours.receive().command
    ours.close()
    theirs.close()


def test_a_channel_hears_its_two_ends_alone() -> None:
    """A stranger with the descriptor is not heard; the worker's user is, by the master."""
    tools.require_root()
    ours, theirs = channel.Channel.pair(strangers.NOBODY)
    strangers.run_as(strangers.NOBODY, lambda: theirs.send(channel.READY) or None)
    assert channel.READY == ours.receive().command
    for speaks, hears, uid in ((theirs, ours, 65_533), (ours, theirs, strangers.NOBODY)):
        strangers.run_as(uid, lambda speaks=speaks: speaks.send(channel.QUIT) or None)
        with pytest.raises(OSError, match=f"of user {uid} speaks where only"):
            hears.receive()
    ours.close()
    theirs.close()


def test_what_a_master_tells_is_bounded() -> None:
    """A hundred thousand addresses of any length fit, and a gigabyte does not."""
    assert 100_000 * 150 < channel.MAX_BYTES <= 1 << 26
