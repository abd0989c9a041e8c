"""The stream block itself: its core directives, its servers, and the StreamConf.

Answers for ngx_stream.c and ngx_stream_core_module.c.

What one stream{} block becomes, from draft to worker:
  StreamDraft   while the block is read: variables, upstreams, servers, addresses
  StreamConf    when it is complete: everything compiled, nothing bound to a process yet
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ngxstream.conf import directive as d
from ngxstream.conf import error_log
from ngxstream.conf.directive import SERVER, STREAM, Directive
from ngxstream.core import errors
from ngxstream.core.log import DEBUG
from ngxstream.ipc.codec import CodecError
from ngxstream.stream import (
    core_facts,
    listen,
    peer_facts,
    preread,
    resolver_conf,
    servers,
    session,
    tls_facts,
    tracing,
    variables,
)
from ngxstream.stream.addresses import AddressConf, AddressDraft, listenings
from ngxstream.stream.core_variables import VARIABLES
from ngxstream.stream.module import StreamModule
from ngxstream.stream.upstream import UpstreamTable

if TYPE_CHECKING:
    from ngxstream.conf.builder import Builder, Scope
    from ngxstream.conf.module import Given, Module
    from ngxstream.conf.reader import Statement
    from ngxstream.core.inet import ListenKey, SockAddr
    from ngxstream.core.log import Log
    from ngxstream.event.listen_options import ListenOptions
    from ngxstream.event.loop import Loop
    from ngxstream.event.udp_clients import Sink
    from ngxstream.stream import filtering, shared_rate
    from ngxstream.stream.phases import Handler
    from ngxstream.stream.session import Session

KEY = "stream"  # where builder.data keeps the draft
_NGINX_S = frozenset(("pass", "proxy_pass", "return"))  # directives that set a content handler


@dataclass(frozen=True, slots=True)
class CoreConf:
    """Core settings of a server. Source: ngx_stream_core_merge_srv_conf"""

    error_log: tuple[error_log.Spec, ...] = ()
    resolver: resolver_conf.ResolverConf | None = None
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
        self.handler: Callable[[Session], object] | None = None  # the content handler
        self.content: Statement | None = None  # the directive that set it
        # first step of UDP sessions that go through no other phase, where it is another one
        self.begin_udp: Callable[[Session], object] | None = None
        self.slots = 2  # of worker_connections a session takes: the client's, and one to a server
        self.listens: list[AddressDraft] = []
        self.rechecks: tuple[Handler, ...] = ()  # of a session that selects it by name
        # what counts its sessions; set by modules/status_zone.py, as the next one
        self.watched: core_facts.Watched | None = None
        self.handshakes: tls_facts.Handshakes | None = None  # where an `api` shows them
        self.facts: peer_facts.ServerFacts | None = None
        self.filters: filtering.Filters | None = None  # of proxied sessions; set by modules/py
        # whether an address may be a client's, by the rules of modules/access; None without any
        self.admits: Callable[[SockAddr], bool] | None = None
        # what UDP clients' datagrams pass before a session; set by modules/limit_datagram.py
        self.gate: Callable[[Session, Sink], Sink] | None = None
        # what holds proxied sessions back besides their own rates, both ways; set by
        # modules/limit_bandwidth.py
        self.bandwidth: shared_rate.Limits | None = None
        self.is_ssl = False  # whether one of them is for TLS; set by StreamDraft.finish
        self.given: dict[str, Given] = {}
        self.log: Log = None  # type: ignore[assignment]  # set by StreamConf.use_main_log

    def serve_by(
        self, handler: Callable[[Session], object], scope: Scope, st: Statement, *, slots: int
    ) -> None:
        """Set the content handler. nginx takes the last one of several without a message.

        Args: st: the directive that says so; slots: as in ServerConf
        Raises: ConfError where one of two is not nginx's, so that no nginx.conf has both
        """
        known, self.content = self.content, st
        if known is not None:
            place = f"in {known.file}:{known.line}"
            if not (known.directive in _NGINX_S and st.directive in _NGINX_S):
                raise errors.ConfError(
                    f'"{st.directive}" cannot be used with "{known.directive}" {place} '
                    "of the same server"
                )
            scope.warn(f'"{st.directive}" takes the place of "{known.directive}" {place}, '
                       "which has no effect,")
        self.handler = handler
        self.slots = slots

    core: CoreConf
    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...


class StreamDraft:
    """One stream{} block while it is read; `builder.data["stream"]`."""

    def __init__(self, builder: Builder, modules: tuple[StreamModule, ...]) -> None:
        self.builder = builder
        self.modules = modules
        builtin = [variable for module in modules for variable in module.variables]
        self.variables = variables.VariableTable(builtin)
        self.servers: list[ServerConf] = []
        self._addresses: dict[ListenKey, AddressDraft] = {}
        self.upstreams = UpstreamTable()
        self.given: dict[str, Given] = {}  # by the block itself, once it is read
        self.data: dict[str, Any] = {}  # what modules keep for the block, by module name
        self.is_shown = False  # an `api` stands in it: what modules can show is counted
        self.is_steered = False  # one with write=on does: what modules let be changed may change
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
            known.join(options, server, scope)
            return
        draft = self._addresses[key] = AddressDraft(options, server)
        server.listens.append(draft)

    def finish(self, scope: Scope) -> StreamConf:
        """Merge, check and compile the block. Raises: ConfError. Source: ngx_stream_block"""
        self.given = scope.given
        for module in self.modules:
            if module.conf is None and module.merge is None:
                continue
            name = module.name
            outer = scope.given.get(name, {})
            of_all: object = None  # what servers have in common that say nothing of a module
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
        self.contents = {kind.name: kind for one in draft.modules for kind in one.contents}
        self.keeps = {kept.key: kept for one in draft.modules for kept in one.keeps}
        self.explains = {of: (one, how) for one in draft.modules for of, how in one.explains}
        self.questions = {asked.name: asked for one in draft.modules for asked in one.questions}
        self.servers = tuple(draft.servers)
        self.upstreams = draft.upstreams
        self.variables = draft.variables
        self.facts = draft.builder.facts
        self.data = draft.data
        self.is_shown = draft.is_shown
        self.listenings = tuple(listenings(draft))

    def use_main_log(self, log: Log, make: Callable[[tuple[error_log.Spec, ...]], Log]) -> None:
        """Give every server its log: its own error_log lines, or the main one."""
        for server in self.servers:
            specs = server.core.error_log
            server.log = make(specs) if specs else log
        self._trace(lambda address: any(one.log.level >= DEBUG for one in address.servers))

    def _trace(self, which: Callable[[AddressConf], bool]) -> None:
        """Have the phases told at addresses where sessions may be at debug level."""
        for conf in self.listenings:
            for address in (conf.default, *(conf.addresses or {}).values()):
                if which(address):
                    address.engine = tracing.told(address.engine)

    def use_debug_connection(self, is_debugged: Callable[[SockAddr], bool]) -> None:
        """Log everything about some clients. Source: ngx_debug_accepted_connection"""
        for listening_conf in self.listenings:
            listening_conf.is_debugged = is_debugged
        self._trace(lambda _: True)

    def start_worker(self, loop: Loop) -> None:
        """Start the modules' own work in a worker (timers, resolvers, log flushing)."""
        for module in self.modules:
            if module.start_worker is not None:
                module.start_worker(self, loop)

    def retire_worker(self, loop: Loop) -> None:
        """Begin no more of the modules' own work: others serve from now on."""
        for module in self.modules:
            if module.retire_worker is not None:
                module.retire_worker(self, loop)

    def stop_worker(self, loop: Loop) -> None:
        """Finish the modules' own work before a worker leaves."""
        for module in self.modules:
            if module.stop_worker is not None:
                module.stop_worker(self, loop)

    def suspend(self) -> None:
        """Keep workers from changing what another configuration is about to read. In the master"""
        for module in self.modules:
            if module.suspend is not None:
                module.suspend(self)

    def resume(self) -> None:
        """Let them go on: the other configuration was refused."""
        for module in self.modules:
            if module.resume is not None:
                module.resume(self)

    def hand_on(self) -> list[tuple[str, bytes]]:
        """Return what another binary is to begin with, by module. In the master"""
        found = [(one.name, one.hand_on(self)) for one in self.modules if one.hand_on is not None]
        return [(name, data) for name, data in found if data]

    def take_up(self, states: Mapping[str, bytes]) -> list[str]:
        """Begin with what another binary has handed on. In the master, before there are workers

        Returns: what was not understood, for the log
        """
        faults = []
        for module in self.modules:
            data = states.get(module.name)
            if module.take_up is not None and data is not None:
                try:
                    module.take_up(self, data)
                except CodecError as error:
                    faults.append(f"{module.name}: {error}")
        return faults

    def reopen(self, loop: Loop) -> None:
        """Have the modules reopen what they log to."""
        for module in self.modules:
            if module.reopen is not None:
                module.reopen(self, loop)


# -- directives ------------------------------------------------------------------------------


def _stream_block(scope: Scope, module: Module, st: Statement) -> None:
    """Read the block, and finish what it makes. Source: ngx_stream_block"""
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
    Directive("error_log", BOTH, d.ONE_MORE, error_log.add, "Where sessions log their errors."),
    Directive("resolver", BOTH, d.ONE_MORE, _resolver, "DNS servers for names at run time."),
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
    *(Directive(name, STREAM, d.TAKE1, d.num(f"_{name}"), "Accepted; hashes need no tuning here.",
                default=default)
      for name, default in (
          ("variables_hash_max_size", "1024"), ("variables_hash_bucket_size", "64"),
          ("server_names_hash_max_size", "512"), ("server_names_hash_bucket_size", "64"))),
)

MODULE = StreamModule(
    name="core", directives=DIRECTIVES, conf=CoreConf, variables=VARIABLES,
    keeps=(*session.KEEPS, *preread.KEEPS, *core_facts.KEEPS), contents=preread.CONTENTS,
    facts=(*core_facts.FACTS, *resolver_conf.FACTS.values()),
)
