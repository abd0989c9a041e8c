"""The hand-over record of a session, without its content: packed and unpacked.

nginx has no counterpart: there a session never leaves its process.

Both processes are forks of one master and have the configuration the session began under in
memory, so that a session names its settings by place: the generation of the configuration, the
listen address and the server by their numbers. Everything else is values of a schema. What a module
keeps about a session, it packs and unpacks itself (StreamModule.keeps).

The other process may run as another user: a record is refused if it names a place that does not
exist or has a value that no session can have.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import inet, log
from ngxstream.event.connection import Connection
from ngxstream.ipc import addresses, codec
from ngxstream.ipc.codec import CodecError, Field, List, Record
from ngxstream.stream import tracing
from ngxstream.stream.session import Session
from ngxstream.stream.upstream import UpstreamState
from ngxstream.stream.variables import UNSET
from ngxstream.wire.proxy_protocol import ProxyHeader

if TYPE_CHECKING:
    from ngxstream.event.listening import Listening
    from ngxstream.event.loop import Loop
    from ngxstream.event.udp import UdpListener
    from ngxstream.stream.addresses import AddressConf
    from ngxstream.stream.content import Kept
    from ngxstream.stream.core import ServerConf, StreamConf

# slots of a Session and of its Connection that are not packed, and why
REMADE: Final = {
    "s.c": "fact by fact",
    "s.loop": "of the process",
    "s.log": "of the server",
    "s.phase": "a session moves when its content works, behind all phases",
    "s.status": "a session that has ended does not move",
    "s.ending": "said when it ends",
    "s.content": "by its ContentKind",
    "s.preread": "its content has what it needs of it",
    "s.ctx": "by StreamModule.keeps",
    "s.counted": "by the Kept of stream/core_facts.py",
    "s.cleanups": "whoever unpacks what they give back adds them anew",
    "c.placed": "said anew",
    "c.sock": "of the listener", "c.fd": "of the listener", "c.table": "of the listener",
    "c.listening": "of the listener",
    "c.is_udp": "UDP sessions alone move",
    "c.closed": "the connection of a session that moves is open",
    "c.reserved": "the connection to the server is counted",
}

_WORD: Final = codec.Repeated(codec.Text(1024, is_word=True))
_VALUE: Final = codec.Optional(codec.Bytes(1 << 20))
_OWN: Final = codec.Plain(1 << 20)

_NUMBERS: Final = (
    "start_ms", "connect_ms", "first_byte_ms", "session_ms", "bytes_sent", "bytes_received"
)
_STATE: Final = Record(
    "record of an attempt", Field(1, "numbers", codec.Numbers(len(_NUMBERS), -1)),
    Field(2, "peer_name", _WORD, ""),
)
_CACHED: Final = Record("variable", Field(1, "index", codec.UINT), Field(2, "value", _VALUE, None))
_NAMED: Final = Record("module's value", Field(1, "name", _WORD), Field(2, "value", _OWN))
_HEADER: Final = Record(
    "PROXY header", Field(1, "version", codec.Int(1, 2)), Field(2, "command", codec.Int(0, 15)),
    Field(3, "family", codec.Int(0, 15)), Field(4, "transport", codec.Int(0, 15)),
    Field(5, "length", codec.Int(0, 1 << 17)), Field(6, "has_client", codec.BOOL, False),
    Field(7, "src_addr", codec.Text(256), ""), Field(8, "src_port", codec.Int(0, 65_535), 0),
    Field(9, "dst_addr", codec.Text(256), ""), Field(10, "dst_port", codec.Int(0, 65_535), 0),
    Field(11, "tlvs", codec.Bytes(1 << 16), b""),
)
# generation, address, server, $connection, bytes received, sent, family, passes, start (ms)
SESSION: Final = Record(
    "session",
    Field(1, "numbers", codec.Numbers(9)),
    Field(2, "sockaddr", addresses.ADDRESS, None),
    Field(3, "local", addresses.ADDRESS, None),
    Field(4, "key", addresses.CLIENT_KEY, None),
    Field(5, "action", codec.Optional(_WORD), None),
    Field(6, "states", List(_STATE, 1024), []),
    Field(7, "values", List(_CACHED, 1 << 16), []),
    Field(8, "captures", codec.Optional(List(_VALUE, 1024)), None),
    Field(9, "kept", List(_NAMED, 64), []),
    Field(10, "header", codec.Optional(_HEADER), None),
)


class Places:
    """The listen addresses of all configurations a process knows, by number and back."""

    __slots__ = ("_addresses", "_places", "_streams")

    def __init__(self) -> None:
        self._places: dict[AddressConf, tuple[int, int]] = {}
        self._addresses: dict[tuple[int, int], tuple[AddressConf, Listening]] = {}
        self._streams: dict[int, StreamConf] = {}

    def add(self, generation: int, stream: StreamConf, listenings: list[Listening]) -> None:
        """Learn a configuration. Args: listenings: in the order of stream.listenings"""
        self._streams[generation] = stream
        number = 0
        for conf, listening in zip(stream.listenings, listenings, strict=True):
            for address in (conf.default, *(conf.addresses or {}).values()):
                self._places[address] = generation, number
                self._addresses[generation, number] = address, listening
                number += 1

    def place_of(self, address: AddressConf) -> tuple[int, int]:
        """Return generation and number of an address."""
        return self._places[address]

    def address_at(self, generation: int, number: int) -> tuple[AddressConf, Listening]:
        """Return what stands at a place. Raises: KeyError for a configuration nobody knows"""
        return self._addresses[generation, number]

    def stream_of(self, generation: int) -> StreamConf:
        """Return a configuration. Raises: KeyError"""
        return self._streams[generation]


def pack(s: Session, places: Places) -> bytes:
    """Return everything that makes this session what it is."""
    c = s.c
    generation, number = places.place_of(s.address)
    keeps = places.stream_of(generation).keeps.values()
    kept = [(one.key, one.pack(s)) for one in keeps if one.pack is not None]
    return SESSION.encode(
        (
            (
                generation, number, s.server.index, c.number, c.received, c.sent, c.family,
                c.passes, s.start_ms,
            ),
            c.sockaddr,
            c.local,
            c.key,
            s.action,
            [_pack_state(state) for state in s.states or ()],
            [one for one in enumerate(s.values or ()) if one[1] is not UNSET],
            s.captures,
            [one for one in kept if one[1] is not None],
            None if s.proxy_protocol is None else dataclasses.astuple(s.proxy_protocol),
        )
    )


class PackedSession:
    """A session that came, before it is made anew here."""

    __slots__ = ("_values", "address", "key", "listening", "number", "server", "stream")

    def __init__(self, data: bytes, places: Places) -> None:
        """Check a record that another process has sent.

        Raises: KeyError when its configuration is unknown here, CodecError for what is no session
        """
        values = self._values = SESSION.decode(data)
        generation, number, server, self.number, _, _, family, _, _ = values[0]
        self.address, self.listening = places.address_at(generation, number)
        stream = self.stream = places.stream_of(generation)
        if server >= len(stream.servers):
            raise CodecError(f"a session of server {server}")
        self.server: ServerConf = stream.servers[server]
        if self.server not in self.address.servers:
            raise CodecError("a session of a server that does not listen at its address")
        if family != inet.family_of(values[1]):
            raise CodecError("a client of another family than its address")
        self.key = values[3]
        size = stream.variables.size
        if any(index >= size for index, _ in values[6]):
            raise CodecError("a variable that there is not")

    def unpack(self, loop: Loop, listener: UdpListener, listening: Listening) -> Session:
        """Make the session anew in this process; the caller gives it its content.

        Args: listener: what its client is answered through; listening: the address it came in by.
        Raises: CodecError where a module refuses what is said in its name; nothing is left then
        """
        numbers, sockaddr, local, key, action, states, values, captures, kept, header = self._values
        _, _, _, serial, received, sent, family, passes, start_ms = numbers
        c = Connection(
            listener.sock, listener.fd, family, sockaddr, serial, listening, listener, key
        )
        c.received, c.sent = received, sent
        c.local, c.passes = local, passes
        s = Session(c, loop, self.address)
        s.counted = None
        if self.server is not s.server:
            s.select_server(self.server)
        s.start_ms = min(start_ms, loop.now_ms)
        s.action = action
        s.states = [_unpack_state(state) for state in states] or None
        if values:
            s.values = [UNSET] * self.stream.variables.size
            for index, value in values:
                s.values[index] = value
        s.captures = None if captures is None else tuple(captures)
        s.proxy_protocol = None if header is None else ProxyHeader(*header)
        try:
            _unpack_kept(s, self.stream.keeps, dict(kept))
        except CodecError:
            loop.call_all(reversed(s.abandon()))
            raise
        if s.log.level >= log.DEBUG:
            tracing.watch(s)
        return s


def begin_anew(s: Session, places: Places) -> None:
    """Take back what a session has counted by: its client's datagrams begin another one."""
    generation, _ = places.place_of(s.address)
    for one in places.stream_of(generation).keeps.values():
        if one.anew is not None:
            try:
                one.anew(s)
            except Exception:  # noqa: BLE001 - what its client has sent goes on all the same
                s.loop.fault(None)


def _unpack_kept(s: Session, keeps: dict[str, Kept], packed: dict[str, Any]) -> None:
    """Give the modules what they packed. Raises: CodecError for what one cannot take"""
    for key, value in packed.items():
        kept = keeps.get(key)
        if kept is not None and kept.unpack is not None:
            try:
                kept.unpack(s, value)
            except (TypeError, ValueError, LookupError) as error:
                raise CodecError(f"{key} cannot take its part: {error}") from None


def _pack_state(state: UpstreamState) -> tuple[Any, ...]:
    return [getattr(state, name) for name in _NUMBERS], state.peer_name


def _unpack_state(packed: tuple[Any, ...]) -> UpstreamState:
    state = UpstreamState(0)
    numbers, state.peer_name = packed
    for name, number in zip(_NUMBERS, numbers, strict=False):  # a newer release may send more
        setattr(state, name, number)
    return state
