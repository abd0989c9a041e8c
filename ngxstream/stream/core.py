"""The stream block itself: its core directives, its servers and addresses, and the StreamConf.

Answers for ngx_stream.c and ngx_stream_core_module.c.

What one stream{} block becomes, from draft to worker:
  StreamDraft   while the block is read: variables, upstreams, servers, addresses
  StreamConf    when it is complete: everything compiled, nothing bound to a process yet
  AddressConf   one listen address: default server, virtual names, engine
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ngxstream.conf import directive as d
from ngxstream.conf import error_log
from ngxstream.conf.directive import SERVER, STREAM, Directive
from ngxstream.core import codes, errors, inet, log
from ngxstream.stream import (
    listen,
    phases,
    preread,
    proxy_protocol,
    resolver_conf,
    servers,
    session,
    variables,
)
from ngxstream.stream.core_variables import VARIABLES
from ngxstream.stream.module import StreamModule
from ngxstream.stream.upstream import UpstreamTable

if TYPE_CHECKING:
    from ngxstream.conf.builder import Builder, Scope
    from ngxstream.conf.module import Given, Module
    from ngxstream.conf.reader import Statement
    from ngxstream.core.log import Log
    from ngxstream.event.connection import Connection
    from ngxstream.event.listening import ListenOptions
    from ngxstream.event.loop import Loop
    from ngxstream.stream.session import Session
    from ngxstream.wire.proxy_protocol import ProxyHeader

KEY = "stream"  # where builder.data keeps the draft


@dataclass(frozen=True, slots=True)
class CoreConf:
    """Core settings of a server. Source: ngx_stream_core_merge_srv_conf"""

    error_log: tuple[Any, ...] = ()
    resolver: Any = None
    resolver_timeout: int = 30_000
    proxy_protocol_timeout: int = 30_000
    tcp_nodelay: bool = True
    preread_buffer_size: int = 16_384
    preread_timeout: int = 30_000


class ServerConf:
    """One server{} block.

    The merged conf of each module is an attribute under the module's name (`server.proxy`,
    `server.access`), set once when the block is complete.
    """

    def __init__(self, file: str, line: int) -> None:
        self.file = file
        self.line = line  # of the `{`
        self.index = 0  # place among the servers of the stream block
        self.names: list[servers.ServerName] = []
        self.server_name = ""  # $server_name: the first one as nginx prints it
        self.handler: Callable[[Session], Any] | None = None  # the content handler
        self.slots = 2  # of worker_connections a session takes: the client's, and one to a server
        self.listens: list[AddressDraft] = []
        self.rechecks: tuple[phases.Handler, ...] = ()  # of a session that selects it by name
        self.is_ssl = False  # whether one of them is for TLS; set by StreamDraft.finish
        self.given: dict[str, Given] = {}
        self.log: Log = None  # type: ignore[assignment]  # set by StreamConf.use_main_log

    core: CoreConf
    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...


class AddressDraft:
    """One listen address while the block is read. Source: ngx_stream_conf_addr_t"""

    __slots__ = (
        "options",
        "servers",
        "default_server",
        "protocols",
        "protocols_set",
        "protocols_changed",
    )

    def __init__(self, options: ListenOptions, server: ServerConf) -> None:
        self.options = options
        self.servers = [server]
        self.default_server = server
        self.protocols = 0
        self.protocols_set = False
        self.protocols_changed = False


class _Compiled(NamedTuple):
    """What is the same at all addresses of the same servers, in the same order."""

    engine: phases.Engine
    log_handlers: tuple[phases.Handler, ...]
    names: servers.Names | None


class AddressConf:
    """One listen address of a finished block.

    Attributes: `text` is the listening socket's address as logged; `engine` and `log_handlers` hold
    what the servers of this address want; `names` selects a virtual server by SNI (None when
    there is but one); `begin(session)` is the first step of every session here.
    """

    __slots__ = (
        "text",
        "options",
        "default_server",
        "servers",
        "names",
        "engine",
        "log_handlers",
        "begin",
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
        self.begin: Callable[[Session], Any] = session.begin
        if len(self.engine) == 1:  # the content phase alone: no phases to walk
            self.begin = self.default_server.handler or phases.run_content
        if self.proxy_protocol and not draft.options.is_udp:  # whose header the listener reads
            self.begin = proxy_protocol.begin


class ListeningConf:
    """One listening socket to open: its options and the addresses that share it.

    Attributes: `addresses` maps packed local addresses to AddressConf for a wildcard socket that
    serves several; `default` is the address of the socket itself; `is_debugged(sockaddr)` tells
    the clients of debug_connection, None where there are none; `believes(sockaddr, packed local
    address)` tells whose PROXY headers in front of datagrams are taken, None where there are none.
    """

    __slots__ = ("options", "default", "addresses", "is_debugged", "believes")

    def __init__(self, options: ListenOptions, default: AddressConf) -> None:
        self.options = options
        self.default = default
        self.addresses: dict[Any, AddressConf] | None = None
        self.is_debugged: Callable[[Any], bool] | None = None
        self.believes: Callable[[Any, bytes | None], bool] | None = None

    @property
    def slots(self) -> int:
        """How many of worker_connections a session that begins here may take."""
        addresses = [self.default, *(self.addresses or {}).values()]
        return max(server.slots for address in addresses for server in address.servers)

    def begin(
        self, c: Connection, loop: Loop, first: bytes = b"", header: ProxyHeader | None = None
    ) -> Session:
        """Begin the session of a client.

        Args: first: a UDP client's first datagram; header: the PROXY header that stood before it

        Source: ngx_stream_init_connection
        """
        address = self.default
        if self.addresses is not None:
            local = c.local_sockaddr()
            address = self.addresses.get(inet.host_of(local), address)
        s = session.Session(c, loop, address, first, header)
        if self.is_debugged is not None and self.is_debugged(c.sockaddr):
            s.debug()
        if s.log.level >= log.INFO:
            s.log_connected()
        try:
            address.begin(s)
        except Exception:
            # the loop's guard would blame the listener, which cannot end the session
            s.finalize(codes.INTERNAL_SERVER_ERROR)
            raise
        return s


class StreamDraft:
    """One stream{} block while it is read; `builder.data["stream"]`."""

    def __init__(self, builder: Builder, modules: tuple[StreamModule, ...]) -> None:
        self.builder = builder
        self.modules = modules
        builtin = [variable for module in modules for variable in module.variables]
        self.variables = variables.VariableTable(builtin)
        self.servers: list[ServerConf] = []
        self._addresses: dict[tuple[int, int, Any], AddressDraft] = {}
        self.upstreams = UpstreamTable()
        self.given: dict[str, Given] = {}  # by the block itself, once it is read
        self.data: dict[str, Any] = {}  # what modules keep for the block, by module name
        self.finished: list[Callable[[StreamConf], None]] = []  # called with the StreamConf

    @property
    def addresses(self) -> Collection[AddressDraft]:
        """All listen addresses, in the order in which they were first named."""
        return self._addresses.values()

    def warn(self, message: str, level: str = "warn") -> None:
        """Warn without a place: for checks after the block."""
        self.builder.warn(level, message)

    def add_listen(self, options: ListenOptions, server: ServerConf, scope: Scope) -> None:
        """Enter one listen address. Raises: ConfError. Source: ngx_stream_add_addresses"""
        key = options.key
        known = self._addresses.get(key)
        if known is not None:
            self._join(known, options, server, scope)
            return
        draft = self._addresses[key] = AddressDraft(options, server)
        server.listens.append(draft)

    def _join(
        self, known: AddressDraft, options: ListenOptions, server: ServerConf, scope: Scope
    ) -> None:
        text = options.text
        if server is known.servers[-1]:  # servers are read one after another
            raise errors.ConfError(f"a duplicate listen {text}")
        known.servers.append(server)
        server.listens.append(known)
        old = known.options
        default_server = old.default_server
        now = options.proxy_protocol | options.ssl << 1
        before = old.proxy_protocol | old.ssl << 1
        if options.set:
            if old.set:
                raise errors.ConfError(f"duplicate listen options for {text}")
            known.options = options
        if options.default_server:
            if default_server:
                raise errors.ConfError(f"a duplicate default server for {text}")
            default_server = True
            known.default_server = server
        if (now | before) != before:  # options added
            redefined = (old.set and not options.set) or known.protocols_changed or (
                (now | before) != now
            )
            known.protocols = before
            known.protocols_changed = True
        elif (before | now) != now:  # options removed
            redefined = options.set or (known.protocols_set and now != known.protocols)
            known.protocols = now
            known.protocols_changed = True
        else:
            redefined = (options.set and known.protocols_changed) or (
                known.protocols_set and now != known.protocols
            )
            known.protocols = now
        known.protocols_set = True
        if redefined:
            scope.warn(f"protocol options redefined for {text}")
        known.options = replace(
            known.options,
            default_server=default_server,
            ssl=options.ssl or old.ssl,
            proxy_protocol=options.proxy_protocol or old.proxy_protocol,
            proxy_protocol_first=options.proxy_protocol_first or old.proxy_protocol_first,
        )

    def finish(self, scope: Scope) -> StreamConf:
        """Merge, check and compile the block. Raises: ConfError. Source: ngx_stream_block"""
        self.given = scope.given
        for module in self.modules:
            if module.conf is None and module.merge is None:
                continue
            name = module.name
            outer = scope.given.get(name, {})
            of_all: Any = None  # what servers have in common that say nothing of a module
            for server in self.servers:
                inner = server.given.get(name)
                if inner:
                    setattr(server, name, module.make_conf(outer, inner))
                    continue
                if of_all is None:
                    of_all = module.make_conf(outer, {})
                setattr(server, name, of_all)
        for address in self.addresses:
            if address.options.ssl:
                for server in address.servers:
                    server.is_ssl = True
        for module in self.modules:  # of each in turn, as nginx goes on to the next
            if module.init is not None:
                module.init(self)
            if module.check is not None:
                for server in self.servers:
                    module.check(getattr(server, module.name, None), server, self)
        for module in self.modules:
            if module.finish is not None:
                module.finish(self)
        servers.settle_early(self)
        self.variables.link()
        conf = StreamConf(self)
        for hook in self.finished:
            hook(conf)
        return conf


class StreamConf:
    """A finished stream block: what the cycle opens sockets for and the workers serve."""

    def __init__(self, draft: StreamDraft) -> None:
        self.modules = draft.modules
        self.servers = tuple(draft.servers)
        self.upstreams = draft.upstreams
        self.variables = draft.variables
        self.data = draft.data
        self.listenings = tuple(_listenings(draft))

    def use_main_log(self, log: Log, make: Callable[[tuple[Any, ...]], Log]) -> None:
        """Give every server its log: its own error_log lines, or the main one."""
        for server in self.servers:
            specs = server.core.error_log
            server.log = make(specs) if specs else log

    def use_debug_connection(self, is_debugged: Callable[[Any], bool]) -> None:
        """Log everything about some clients. Source: ngx_debug_accepted_connection"""
        for listening_conf in self.listenings:
            listening_conf.is_debugged = is_debugged

    def start_worker(self, loop: Loop) -> None:
        """Start the modules' own work in a worker (timers, resolvers, log flushing)."""
        for module in self.modules:
            if module.start_worker is not None:
                module.start_worker(self, loop)

    def stop_worker(self, loop: Loop) -> None:
        """Finish the modules' own work before a worker leaves."""
        for module in self.modules:
            if module.stop_worker is not None:
                module.stop_worker(self, loop)

    def reopen(self, loop: Loop) -> None:
        """Have the modules reopen what they log to."""
        for module in self.modules:
            if module.reopen is not None:
                module.reopen(self, loop)


def _listenings(draft: StreamDraft) -> list[ListeningConf]:
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


# -- directives ------------------------------------------------------------------------------


def _stream_block(scope: Scope, module: Module, st: Statement) -> None:
    builder = scope.builder
    if KEY in builder.data:
        raise errors.ConfError('"stream" directive is duplicate')
    stream_modules = tuple(m for m in builder.modules if isinstance(m, StreamModule))
    draft = builder.data[KEY] = StreamDraft(builder, stream_modules)
    from_block = type(scope)(builder, STREAM, scope, draft)
    builder.walk_block(st, from_block)
    builder.data["stream_conf"] = draft.finish(from_block)


def _server_block(scope: Scope, module: Module, st: Statement) -> None:
    draft: StreamDraft = scope.owner
    server = ServerConf(st.file, st.line)
    server.index = len(draft.servers)
    draft.servers.append(server)
    inner = type(scope)(scope.builder, SERVER, scope, server)
    server.given = inner.given
    scope.builder.walk_block(st, inner)
    if not server.listens:
        raise errors.UnplacedError(
            f'no "listen" is defined for server in {server.file}:{server.line}'
        )
    servers.default_name(server)


def _listen(scope: Scope, module: Module, st: Statement) -> None:
    server: ServerConf = scope.owner
    draft: StreamDraft = scope.builder.data[KEY]
    for options in listen.parse(st.args, scope):
        draft.add_listen(options, server, scope)


def _server_name(scope: Scope, module: Module, st: Statement) -> None:
    servers.add_names(scope, st)


def _error_log(scope: Scope, module: Module, st: Statement) -> None:
    error_log.add(scope, module, st)


def _resolver(scope: Scope, module: Module, st: Statement) -> None:
    d.put(scope, module, st, "resolver", None)  # a second one is refused before it is looked at
    scope.given_of(module)["resolver"] = resolver_conf.parse(scope, st)


BOTH = STREAM | SERVER

DIRECTIVES = (
    Directive("stream", d.MAIN, d.BLOCK, _stream_block, "The block this program serves."),
    Directive("server", STREAM, d.BLOCK, _server_block, "One (virtual) server."),
    Directive("listen", SERVER, d.ONE_MORE, _listen,
              "An address, port, port range or unix: path to accept clients at."),
    Directive("server_name", SERVER, d.ONE_MORE, _server_name,
              "Names by which SNI selects this server."),
    Directive("error_log", BOTH, d.ONE_MORE, _error_log, "Where sessions log their errors."),
    Directive("resolver", BOTH, d.ONE_MORE, _resolver, "DNS servers for names at run time.",
              syntax="address ... [valid=time] [ipv4=on|off] [ipv6=on|off] [hold_nx=time]"),
    Directive("resolver_timeout", BOTH, d.TAKE1, d.msec("resolver_timeout"),
              "How long a name may take to resolve.", default="30s"),
    Directive("proxy_protocol_timeout", BOTH, d.TAKE1, d.msec("proxy_protocol_timeout"),
              "How long a client may take to send its PROXY header.", default="30s"),
    Directive("tcp_nodelay", BOTH, d.FLAG, d.flag("tcp_nodelay"),
              "TCP_NODELAY on client and upstream connections.", default="on"),
    Directive("preread_buffer_size", BOTH, d.TAKE1, d.size("preread_buffer_size"),
              "How much may be read from a client before it is proxied.", default="16k"),
    Directive("preread_timeout", BOTH, d.TAKE1, d.msec("preread_timeout"),
              "How long the preread phase may take.", default="30s"),
    Directive("variables_hash_max_size", STREAM, d.TAKE1, d.num("_variables_hash_max_size"),
              "Accepted; hashes need no tuning here.", default="1024"),
    Directive("variables_hash_bucket_size", STREAM, d.TAKE1, d.num("_variables_hash_bucket_size"),
              "Accepted; hashes need no tuning here.", default="64"),
    Directive("server_names_hash_max_size", STREAM, d.TAKE1, d.num("_server_names_hash_max_size"),
              "Accepted; hashes need no tuning here.", default="512"),
    Directive("server_names_hash_bucket_size", STREAM, d.TAKE1,
              d.num("_server_names_hash_bucket_size"),
              "Accepted; hashes need no tuning here.", default="64"),
)

MODULE = StreamModule(
    name="core",
    directives=DIRECTIVES,
    conf=CoreConf,
    variables=VARIABLES,
)
