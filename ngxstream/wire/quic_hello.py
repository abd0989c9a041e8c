"""The ClientHello in the Initial packets of a QUIC client, put together from its datagrams.

RFC 9001 section 4: the hello travels in CRYPTO frames, cut and ordered as the client likes, in as
many Initial packets and datagrams as it needs. What it asks for is wire/client_hello.py's.

1. Between packets that open and the server there is nothing to negotiate: whoever is in doubt about
   a hello declines it (NotHello), and the datagrams go where those without a hello go.
2. Two readers of one hello must not find two names: bytes that were said twice must be the same.
3. A packet that does not open is passed over once another one has opened, as an endpoint does: it
   may be forged. A datagram in which none opens begins no hello, unless it has 0-RTT packets,
   which may have overtaken the Initial packet before them (RFC 9000 section 5.2.2).
4. Everything is bounded by the constants below, whatever the client sends.
"""

from __future__ import annotations

from typing import Final

from ngxstream.wire import client_hello, quic, quic_initial, reader

MAX_HELLO: Final = 16_384  # bytes of the handshake message; post-quantum ones have some 2000
MAX_PIECES: Final = 64  # of it that lie apart
MAX_DATAGRAMS: Final = 12  # of a client, before its hello is whole
MAX_EARLY: Final = 8  # datagrams of these before the first packet opens
MAX_CONNECTIONS: Final = 4  # a client may begin several from one port


class NotHello(reader.WireError):
    """Datagrams that begin no hello, or one that is not to be relied on."""


class Pieces:
    """The bytes of a stream that have come, in whatever order."""

    __slots__ = ("_runs", "_most_bytes", "_most_pieces")

    def __init__(self, most_bytes: int, most_pieces: int) -> None:
        self._runs: list[tuple[int, bytearray]] = []  # (offset, bytes), in order, none touch
        self._most_bytes = most_bytes
        self._most_pieces = most_pieces

    def add(self, offset: int, data: bytes) -> None:
        """Put bytes to the others.

        Raises: NotHello: bytes that came before were others; too far, or too many pieces
        """
        end = offset + len(data)
        if end > self._most_bytes:
            raise NotHello("too long")
        if not data:
            return
        before: list[tuple[int, bytearray]] = []
        after: list[tuple[int, bytearray]] = []
        start, merged = offset, bytearray(data)
        for run in self._runs:
            at, held = run
            if at + len(held) < offset:
                before.append(run)
            elif at > end:
                after.append(run)
            else:
                start, merged = _joined(start, merged, at, held)
        if len(before) + 1 + len(after) > self._most_pieces:
            raise NotHello("too many pieces")
        self._runs = [*before, (start, merged), *after]

    def beginning(self) -> bytearray:
        """Return the bytes from the first one on, as far as none is missing; not to be changed."""
        if self._runs and not self._runs[0][0]:
            return self._runs[0][1]
        return bytearray()


def _joined(
    at: int, data: bytearray, other_at: int, other: bytearray
) -> tuple[int, bytearray]:
    """Join two runs that touch or overlap. Raises: NotHello where they disagree"""
    if other_at < at:
        at, data, other_at, other = other_at, other, at, data
    common = at + len(data) - other_at
    if data[other_at - at : other_at - at + len(other)] != other[:common]:
        raise NotHello("the same bytes are said twice, and not the same")
    return at, data + other[common:]


class _Connection:
    """One connection that a client begins."""

    __slots__ = ("keys", "largest", "parser", "_parsed", "_pieces")

    def __init__(self, keys: quic_initial.Keys) -> None:
        self.keys = keys
        self.largest = -1  # packet number that has come
        self.parser = client_hello.Parser()
        self._parsed = 0  # bytes of the hello
        self._pieces = Pieces(MAX_HELLO, MAX_PIECES)

    def take(self, payload: bytes) -> client_hello.ClientHello | reader.NeedMore:
        """Take the payload of one packet. Raises: as Hellos.feed"""
        for offset, data in quic_initial.crypto_frames(payload):
            self._pieces.add(offset, data)
        held = self._pieces.beginning()
        if len(held) >= 4 and int.from_bytes(held[1:4], "big") > MAX_HELLO - 4:
            raise NotHello("too long")
        new = held[self._parsed :]
        if not new:
            return reader.NEED_MORE
        self._parsed = len(held)
        return self.parser.feed_message(new)


class Hellos:
    """What one client has sent, until one hello of its is whole."""

    __slots__ = ("count", "_cipher", "_connections")

    def __init__(self, cipher: quic_initial.Cipher) -> None:
        self.count = 0  # datagrams that were fed
        self._cipher = cipher
        self._connections: dict[tuple[int, bytes], _Connection] = {}

    def feed(self, datagram: bytes) -> client_hello.ClientHello | reader.NeedMore:
        """Take the client's next datagram. An answer is final, and so is an error.

        Returns: the first hello that is whole, or NEED_MORE
        Raises: NotHello, InitialError, NotClientHello
        """
        self.count += 1
        is_early = False
        for header in quic.packets(datagram):
            if header.kind == quic.ZERO_RTT:
                is_early = True
            elif header.kind == quic.INITIAL:
                try:
                    hello = self._read(datagram, header)
                except quic_initial.Unreadable:
                    continue
                if not isinstance(hello, reader.NeedMore):
                    return hello
        if not self._connections and not (is_early and self.count < MAX_EARLY):
            raise NotHello("no Initial packet of a client")
        if self.count >= MAX_DATAGRAMS:
            raise NotHello("too many datagrams")
        return reader.NEED_MORE

    def so_far(self) -> client_hello.ClientHello:
        """Return what is known of the first hello; the rest of it may never come."""
        for connection in self._connections.values():
            return connection.parser.so_far()
        return client_hello.ClientHello("")

    def _read(
        self, datagram: bytes, header: quic.LongHeader
    ) -> client_hello.ClientHello | reader.NeedMore:
        """Read one Initial packet. Raises: Unreadable; as feed"""
        which = header.version, header.destination
        connection = self._connections.get(which)
        keys = connection.keys if connection else quic_initial.client_keys(*which)
        largest = connection.largest if connection else -1
        number, payload = quic_initial.open_packet(self._cipher, keys, datagram, header, largest)
        if connection is None:
            if len(self._connections) >= MAX_CONNECTIONS:
                raise NotHello("too many connections")
            connection = self._connections[which] = _Connection(keys)
        connection.largest = max(connection.largest, number)
        return connection.take(payload)
