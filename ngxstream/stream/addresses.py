"""The listen addresses of a stream block: who serves at each, and which has a socket of its own.

Answers for ngx_stream_add_addresses and ngx_stream_init_listening (ngx_stream.c), and for
ngx_stream_init_connection (ngx_stream_handler.c). An AddressDraft gathers what the servers say
while the block is read; of it an AddressConf is compiled. A ListeningConf is the socket of one or
more of these.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ngxstream.core import codes, errors, inet, log
from ngxstream.stream import (
    core_facts,
    phases,
    preread,
    proxy_protocol,
    servers,
    session,
    tracing,
)

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.core.inet import SockAddr
    from ngxstream.event.connection import Connection
    from ngxstream.event.listen_options import ListenOptions
    from ngxstream.event.loop import Loop
    from ngxstream.stream.core import ServerConf, StreamDraft
    from ngxstream.stream.session import Session
    from ngxstream.wire.proxy_protocol import ProxyHeader


class AddressDraft:
    """One listen address while the block is read. Source: ngx_stream_conf_addr_t"""

    __slots__ = (
        "options", "servers", "default_server", "protocols", "protocols_set", "protocols_changed",
    )

    def __init__(self, options: ListenOptions, server: ServerConf) -> None:
        self.options = options
        self.servers = [server]
        self.default_server = server
        self.protocols = 0
        self.protocols_set = False
        self.protocols_changed = False

    def join(self, options: ListenOptions, server: ServerConf, scope: Scope) -> None:
        """Add one more server. Raises: ConfError. Source: ngx_stream_add_addresses"""
        text = options.text
        if server is self.servers[-1]:  # servers are read one after another
            raise errors.ConfError(f"a duplicate listen {text}")
        self.servers.append(server)
        server.listens.append(self)
        old = self.options
        default_server = old.default_server
        now = options.proxy_protocol | options.ssl << 1
        before = old.proxy_protocol | old.ssl << 1
        if options.set:
            if old.set:
                raise errors.ConfError(f"duplicate listen options for {text}")
            self.options = options
        if options.default_server:
            if default_server:
                raise errors.ConfError(f"a duplicate default server for {text}")
            default_server = True
            self.default_server = server
        if (now | before) != before:  # options added
            redefined = (old.set and not options.set) or self.protocols_changed or (
                (now | before) != now
            )
            self.protocols = before
            self.protocols_changed = True
        elif (before | now) != now:  # options removed
            redefined = options.set or (self.protocols_set and now != self.protocols)
            self.protocols = now
            self.protocols_changed = True
        else:
            redefined = (options.set and self.protocols_changed) or (
                self.protocols_set and now != self.protocols
            )
            self.protocols = now
        self.protocols_set = True
        if redefined:
            scope.warn(f"protocol options redefined for {text}")
        self.options = replace(
            self.options,
            default_server=default_server,
            ssl=options.ssl or old.ssl,
            proxy_protocol=options.proxy_protocol or old.proxy_protocol,
            proxy_protocol_first=options.proxy_protocol_first or old.proxy_protocol_first,
        )



class _Compiled(NamedTuple):
    """What is the same at all addresses of the same servers, in the same order."""

    engine: phases.Engine
    log_handlers: tuple[phases.Handler, ...]
    names: servers.Names | None


class AddressConf:
    """One listen address of a finished block."""

    __slots__ = (
        "text",  # the listening socket's address as logged
        "options",
        "default_server",
        "servers",
        "names",  # Names | None: selects a virtual server by SNI, where there are several
        "engine",  # what the servers of this address want
        "log_handlers",
        "is_watched",  # bool: its sessions are counted, by the last of these
        "counts_later",  # bool: when they end, or are looked at (stream/core_facts.py)
        "begin",  # begin(session): the first step of every session here
        "ssl",
        "proxy_protocol",
    )

    def __init__(self, draft: AddressDraft, compiled: _Compiled) -> None:
        self.options = draft.options
        self.text = draft.options.text
        self.default_server = draft.default_server
        self.servers = tuple(draft.servers)
        self.engine, self.log_handlers, self.names = compiled
        self.ssl = draft.options.ssl
        self.proxy_protocol = draft.options.proxy_protocol
        self.begin: Callable[[Session], object] = session.begin
        if len(self.engine) == 1:  # the content phase alone: no phases to walk
            self.begin = self.default_server.handler or phases.run_content
        if self.proxy_protocol and not draft.options.is_udp:  # whose header the listener reads
            self.begin = proxy_protocol.begin
        self.is_watched = self.counts_later = False
        watched = self.default_server.watched
        if watched is not None and any(one.watched and one.watched.label for one in self.servers):
            self._watch(watched)

    def _watch(self, watched: core_facts.Watched) -> None:
        """Have sessions counted. Args: watched: of the default server"""
        server = self.default_server
        self.is_watched = True
        self.counts_later = self.options.is_udp and server.facts is not None
        if not self.counts_later:
            self.begin = core_facts.watching(self.begin, watched)
            last = core_facts.ending(server, watched)
        else:
            last = core_facts.ended_later
            if self.begin is server.handler and server.begin_udp is not None:
                self.begin = server.begin_udp
            else:
                self.begin = core_facts.begin_later(self.begin)
        self.log_handlers = (*self.log_handlers, last)


class ListeningConf:
    """One listening socket to open: its options and the addresses that share it."""

    __slots__ = (
        "options",
        "default",  # the address of the socket itself
        "addresses",  # of a wildcard socket that serves several: by local host
        "is_debugged",  # is_debugged(sockaddr): a client of debug_connection; None where none are
        "believes",  # tells whose PROXY headers in front of datagrams are taken, None without any
    )

    def __init__(self, options: ListenOptions, default: AddressConf) -> None:
        self.options = options
        self.default = default
        self.addresses: dict[str, AddressConf] | None = None
        self.is_debugged: Callable[[SockAddr], bool] | None = None
        self.believes: Callable[[SockAddr, bytes | None], bool] | None = None

    @property
    def slots(self) -> int:
        """How many of worker_connections a session that begins here may take."""
        addresses = [self.default, *(self.addresses or {}).values()]
        return max(server.slots for address in addresses for server in address.servers)

    def begin(
        self, c: Connection, loop: Loop, first: bytes = b"", header: ProxyHeader | None = None
    ) -> Session:
        """Begin the session of a client. Source: ngx_stream_init_connection

        Args: first: a UDP client's first datagram; header: the PROXY header that stood before it
        """
        address = self.default
        if self.addresses is not None:
            local = c.local_sockaddr()
            address = self.addresses.get(inet.host_of(local), address)
        s = session.Session(c, loop, address, first, header)
        if self.is_debugged is not None and self.is_debugged(c.sockaddr):
            s.debug()
        if s.log.level >= log.INFO:
            if s.log.level >= log.DEBUG:
                tracing.begin(s)
            s.log_connected()
        try:
            address.begin(s)
        except Exception:
            # the loop's guard would blame the listener, which cannot end the session
            s.finalize(codes.INTERNAL_SERVER_ERROR)
            raise
        return s


def listenings(draft: StreamDraft) -> list[ListeningConf]:
    """Decide which addresses get a socket of their own. Source: ngx_stream_init_listening"""
    found: list[ListeningConf] = []
    wildcards: dict[tuple[int, int, int], ListeningConf] = {}
    confs: list[tuple[AddressDraft, AddressConf]] = []
    known: dict[tuple[ServerConf, ...], _Compiled] = {}
    for address in draft.addresses:
        key = tuple(address.servers)
        compiled = known.get(key)
        if compiled is None:
            compiled = _compile(address, draft)
            if compiled.names is None or not compiled.names.has_conflict:  # each address tells
                known[key] = compiled
        conf = AddressConf(address, compiled)
        confs.append((address, conf))
        if address.options.wildcard:
            own = ListeningConf(address.options, conf)
            wildcards[address.options.port_key] = own
    for address, conf in confs:
        options = address.options
        shared = wildcards.get(options.port_key) if options.family != socket.AF_UNIX else None
        if options.wildcard and shared is not None:
            found.append(shared)
        elif shared is None or options.bind or _reads_otherwise(options, shared.options):
            found.append(ListeningConf(options, conf))
        else:
            if shared.addresses is None:
                shared.addresses = {}
            conf.text = shared.options.text
            shared.addresses[inet.host_of(options.sockaddr)] = conf
    for listening in found:
        if listening.options.is_udp:
            draft.builder.facts.cell(core_facts.DROPPED, core_facts.label_of(listening.options))
    # a system call less for every connection; `pass` may bring one to any server
    if all(server.core.tcp_nodelay for server in draft.servers):
        for listening in found:
            options = listening.options
            if not options.is_udp and options.family != socket.AF_UNIX:
                listening.options = replace(options, nodelay=True)
    return found


def _compile(address: AddressDraft, draft: StreamDraft) -> _Compiled:
    """Compile what the servers of an address want. Raises: UnplacedError"""
    return _Compiled(
        phases.compile_engine(draft.modules, address.servers, preread.check),
        phases.log_handlers(draft.modules, address.servers),
        servers.compile_names(address, draft),
    )


def _reads_otherwise(options: ListenOptions, wildcard: ListenOptions) -> bool:
    """Tell whether an address needs a socket of its own since its datagrams look different."""
    return options.is_udp and (
        (options.proxy_protocol, options.proxy_protocol_first)
        != (wildcard.proxy_protocol, wildcard.proxy_protocol_first)
    )
