"""What a session takes with it to another process, but for its content: packed and unpacked.

nginx has no counterpart: there a session ends with its process's interest in it.

Both processes are forks of one master and have the configuration the session began under in
memory, so that a session names its settings by place: the generation of the configuration, the
listen address and the server by their numbers. Everything else is plain values. What a module
keeps about a session beyond plain values, it packs and unpacks itself (StreamModule.pack).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ngxstream.event.connection import Connection
from ngxstream.stream.session import DEBUG_CONNECTION, Session
from ngxstream.stream.upstream import UpstreamState
from ngxstream.stream.variables import UNSET

if TYPE_CHECKING:
    from ngxstream.event.listening import Listening
    from ngxstream.event.loop import Loop
    from ngxstream.stream.core import AddressConf, StreamConf

UNTIL: Final = "until"  # in ctx: loop ms when worker_shutdown_timeout ends the session

Packed = tuple[Any, ...]


class Places:
    """The listen addresses of all configurations a process knows, by number and back."""

    __slots__ = ("_addresses", "_places", "_streams")

    def __init__(self) -> None:
        """Know none yet."""
        self._places: dict[AddressConf, tuple[int, int]] = {}
        self._addresses: dict[tuple[int, int], tuple[AddressConf, Listening]] = {}
        self._streams: dict[int, StreamConf] = {}

    def add(self, generation: int, stream: StreamConf, listenings: list[Listening]) -> None:
        """Learn a configuration. shape: listenings stand in the order of stream.listenings"""
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
        """Return what stands at a place. raises: KeyError for a configuration nobody knows"""
        return self._addresses[generation, number]

    def stream_of(self, generation: int) -> StreamConf:
        """Return a configuration. raises: KeyError"""
        return self._streams[generation]


def pack(s: Session, places: Places) -> Packed:
    """Return everything that makes this session what it is, as plain values."""
    c = s.c
    modules = places.stream_of(places.place_of(s.address)[0]).modules
    own = {m.name: m.pack(s) for m in modules if m.pack is not None}
    hidden = {m.name for m in modules if m.pack is not None}
    ctx = {name: value for name, value in (s.ctx or {}).items() if name not in hidden}
    values = None
    if s.values is not None:
        values = {n: value for n, value in enumerate(s.values) if value is not UNSET}
    return (
        *places.place_of(s.address),
        s.server.index,
        c.number,
        c.received,
        c.sent,
        c.family,
        c.sockaddr,
        c.local,
        c.key,
        c.passes,
        s.start_ms,
        s.action,
        [_pack_state(state) for state in s.states or ()],
        values,
        0 if s.values is None else len(s.values),
        s.captures,
        ctx,
        own,
        s.proxy_protocol,
    )


def unpack(packed: Packed, places: Places, loop: Loop, sock: Any) -> Session:
    """Make the session anew in this process; the caller gives it its content.

    shape: sock is the listening socket that its client is answered through
    raises: KeyError when its configuration is unknown here
    """
    (generation, number, server, serial, received, sent, family, sockaddr, local, key, passes,
     start_ms, action, states, values, size, captures, ctx, own, header) = packed
    address, listening = places.address_at(generation, number)
    stream = places.stream_of(generation)
    c = Connection(sock, sock.fileno(), family, sockaddr, serial, listening)
    c.is_udp = True
    c.received, c.sent = received, sent
    c.local, c.key, c.passes = local, key, passes
    s = Session(c, loop, address)
    if server != s.server.index:
        s.select_server(stream.servers[server])
    s.start_ms = start_ms
    s.action = action
    s.preread = b""
    s.states = [_unpack_state(state) for state in states] or None
    if values is not None:
        s.values = [values.get(n, UNSET) for n in range(size)]
    s.captures = captures
    s.ctx = ctx or None
    s.proxy_protocol = header
    if s.module_ctx(DEBUG_CONNECTION):
        s.debug()
    for module in stream.modules:
        if module.unpack is not None and own.get(module.name) is not None:
            module.unpack(s, own[module.name])
    return s


def _pack_state(state: UpstreamState) -> tuple[Any, ...]:
    return (
        state.peer_name,
        state.start_ms,
        state.connect_ms,
        state.first_byte_ms,
        state.session_ms,
        state.bytes_sent,
        state.bytes_received,
    )


def _unpack_state(packed: tuple[Any, ...]) -> UpstreamState:
    state = UpstreamState(packed[1])
    (state.peer_name, _, state.connect_ms, state.first_byte_ms, state.session_ms,
     state.bytes_sent, state.bytes_received) = packed
    return state
