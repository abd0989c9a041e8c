"""Buffered, Stream and DatagramSocket: what is read, how much, and when it is closed."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.event.loop import Loop
from ngxstream.scripting import (
    Address,
    IncompleteReadError,
    LimitOverrunError,
    connect,
    connect_udp,
    streams,
)
from ngxstream.scripting.streams import Buffered
from tests.support import descriptors
from tests.support.awaited import result
from tests.support.backends import BackendFactory, Conversation
from tests.support.engine import engine
from tests.support.waiting import wait_until


def buffered(pieces: list[bytes], rest: bytes = b"") -> Buffered:
    """Make one that reads these pieces, none larger than it asks for."""
    left = list(pieces)

    async def read(most: int) -> bytes:
        if not left:
            return b""
        piece = left.pop(0)
        if len(piece) > most:
            left.insert(0, piece[most:])
        return piece[:most]

    return Buffered(read, rest)


def run(coroutine: object) -> object:
    """Run a coroutine that waits for nothing."""
    try:
        coroutine.send(None)  # type: ignore[attr-defined]
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


pieces_of_lines = st.lists(st.binary(min_size=1, max_size=6), max_size=12)


@given(pieces_of_lines, st.binary(max_size=5), st.sampled_from([b"\n", b"\r\n", b"abab"]))
def test_lines_are_the_same_however_they_come(
    pieces: list[bytes], rest: bytes, separator: bytes
) -> None:
    """As if all had been there at once; what follows the last separator is what is left."""
    reader = buffered(pieces, rest)
    whole = rest + b"".join(pieces)
    while separator in whole:
        line, _, whole = whole.partition(separator)
        assert line + separator == run(reader.until(separator, 1000))
    with pytest.raises(IncompleteReadError) as raised:
        run(reader.until(separator, 1000))
    assert whole == raised.value.partial
    assert b"" == run(reader.read())


@given(pieces_of_lines, st.lists(st.integers(0, 9), max_size=6))
def test_sizes_are_the_same_however_they_come(pieces: list[bytes], sizes: list[int]) -> None:
    """Exactly so many, or what there was."""
    reader = buffered(pieces)
    whole = b"".join(pieces)
    for size in sizes:
        if size > len(whole):
            with pytest.raises(IncompleteReadError) as raised:
                run(reader.exactly(size))
            assert whole == raised.value.partial
            return
        assert whole[:size] == run(reader.exactly(size))
        whole = whole[size:]


def test_a_line_that_is_too_long_is_still_there() -> None:
    """Whether its end has come or not."""
    for pieces in ([b"abcd\n"], [b"abcd", b"efgh"]):
        reader = buffered(pieces)
        with pytest.raises(LimitOverrunError, match="4 bytes"):
            run(reader.until(b"\n", 4))
        assert b"ab" == run(reader.read(2))
    assert b"abc\n" == run(buffered([b"abc\n"]).until(b"\n", 4))


def test_a_long_line_without_end_is_bounded() -> None:
    """No more than the limit and a piece is held."""
    reader = buffered([bytes(streams.PIECE)] * 100)
    with pytest.raises(LimitOverrunError):
        run(reader.until(b"\n", streams.LIMIT))
    assert len(reader._rest) <= streams.LIMIT + streams.PIECE


def test_wrong_sizes_are_refused() -> None:
    """And a separator of nothing."""
    for wrong in (buffered([]).read(0), buffered([]).exactly(-1), buffered([]).until(b"", 9)):
        with pytest.raises(ValueError, match=r"at least|negative"):
            run(wrong)


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Give a loop that has all its slots, and no descriptor, left at the end."""
    with engine() as made:
        before = descriptors.count()
        yield made
        made.turn(0)
        assert 512 == made.free_connections
        wait_until(lambda: before >= descriptors.count())  # a server in a thread may be behind


def test_a_stream_is_read_and_written(loop: Loop, backends: BackendFactory) -> None:
    """Much more than may wait, too; leaving the block sends what was written, and closes."""
    heard: list[bytes] = []

    def script(conversation: Conversation) -> None:
        conversation.send(b"hello\nworld")
        heard.append(conversation.recv_to_eof())

    server = backends.tcp(script)
    large = bytes(range(256)) * 4096

    async def talk() -> tuple[bytes, bytes, bool]:
        async with await connect("127.0.0.1", server.port) as stream:
            assert Address(("127.0.0.1", server.port)) == stream.peer
            assert "127.0.0.1" == str(stream.local.ip)
            line = await stream.readuntil()
            word = await stream.readexactly(5)
            await stream.send(large)
            with pytest.raises(BufferError):
                stream.write(large)
            stream.write(b"last")
        return line, word, stream.is_closed

    assert (b"hello\n", b"world", True) == result(loop, talk(), buffer_size=4096)
    loop.turn(0)
    wait_until(lambda: heard)
    assert [large + b"last"] == heard


def test_the_end_of_what_is_sent_leaves_the_rest_to_be_read(
    loop: Loop, backends: BackendFactory
) -> None:
    """The other side sees it behind all that was written."""

    def script(conversation: Conversation) -> None:
        conversation.send(b"%d" % len(conversation.recv_to_eof()))

    server = backends.tcp(script)

    async def talk() -> bytes:
        async with await connect("127.0.0.1", server.port) as stream:
            await stream.send(bytes(200_000))
            stream.write(b"x")
            await stream.send_eof()
            return await stream.read()

    assert b"200001" == result(loop, talk())


def test_a_stream_is_iterated_to_its_end(loop: Loop, backends: BackendFactory) -> None:
    """What comes, as it comes."""
    server = backends.tcp(lambda one: one.send(b"a" * 100_000))

    async def talk() -> int:
        stream = await connect("127.0.0.1", server.port)
        return sum([len(data) async for data in stream])

    assert 100_000 == result(loop, talk())


def test_a_block_that_raises_does_not_wait_for_room(
    loop: Loop, backends: BackendFactory
) -> None:
    """The connection is closed at once."""

    def script(conversation: Conversation) -> None:
        conversation.hold()

    server = backends.tcp(script)

    async def talk() -> None:
        async with await connect("127.0.0.1", server.port) as stream:
            while True:
                stream.write(bytes(4096))

    with pytest.raises(BufferError):
        result(loop, talk(), buffer_size=4096)
    loop.turn(0)


def test_datagrams_go_and_come(loop: Loop, backends: BackendFactory) -> None:
    """Each as it was sent."""
    server = backends.udp()

    async def talk() -> list[bytes]:
        async with await connect_udp("127.0.0.1", server.port) as udp:
            assert server.port == udp.peer.port
            assert "127.0.0.1" == str(udp.local.ip)
            found = []
            for data in (b"a", b"", b"bc"):
                await udp.send(data)
                found.append(await udp.receive())
            return found

    assert [b"a", b"", b"bc"] == result(loop, talk())
    loop.turn(0)


def test_a_closed_port_is_an_error_of_what_is_called_next(loop: Loop) -> None:
    """The ICMP message of the first datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]

    async def talk() -> None:
        async with await connect_udp("127.0.0.1", port) as udp:
            await udp.send(b"x")
            await udp.receive()

    with pytest.raises(ConnectionRefusedError):
        result(loop, talk())
    loop.turn(0)
