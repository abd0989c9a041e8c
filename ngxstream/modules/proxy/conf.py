"""The proxy's conf and directives. Answers for the directive table of ngx_stream_proxy_module.c."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ngxstream.conf import directive as d
from ngxstream.conf import units
from ngxstream.conf.directive import SERVER, STREAM, Directive
from ngxstream.core import errors
from ngxstream.event import connect
from ngxstream.modules.proxy import bind, quic_conf, target
from ngxstream.stream import upstream_block, values

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Given, Module
    from ngxstream.conf.reader import Statement
    from ngxstream.event.udp_clients import Sink
    from ngxstream.modules.proxy.quic_conf import Quic
    from ngxstream.modules.proxy.udp import UdpProxy
    from ngxstream.stream.core import ServerConf, StreamDraft
    from ngxstream.stream.upstream import Peer, UpstreamConf
    from ngxstream.stream.values import ComplexValue

    Step = Callable[[UdpProxy, Sink], Sink]

UNLIMITED: Final = 0x7FFFFFFF  # proxy_responses' default: any number
MOST_AMPLIFICATION: Final = 65_535  # the largest datagram for one byte
BOTH: Final = STREAM | SERVER


class Lender(NamedTuple):
    """Whose sockets UDP sessions leave by, where it is not each its own (udp_one_way.py, dsr.py).

    Args: open: returns a socket, None for the session's own; begin: goes on with one that was lent.
    """

    open: Callable[[UdpProxy, Peer, Any], Any]
    begin: Callable[[UdpProxy], None]


@dataclass(frozen=True, slots=True)
class ProxyConf:
    """Settings in ms, bytes and bytes a second. Source: ngx_stream_proxy_merge_srv_conf"""

    upstream: UpstreamConf | None = None  # of a proxy_pass without variables
    target: target.Target | None = None  # of one with
    connect_timeout: int = 60_000
    timeout: int = 600_000
    buffer_size: int = 16_384
    upload_rate: ComplexValue | None = None
    download_rate: ComplexValue | None = None
    requests: int = 0
    responses: int = UNLIMITED
    next_upstream: bool = True
    next_upstream_tries: int = 0
    next_upstream_timeout: int = 0
    proxy_protocol: int = 0  # version, 0 is off
    every_datagram: bool = False  # it goes in front of, not of a session's first alone
    half_close: bool = False
    session_drop: bool = False
    session_lifetime: int = 0
    connect_on_data: bool = False
    amplification: int = 0
    any_port: bool = False
    socket_keepalive: bool = False
    socket_rcvbuf: int = 0
    socket_sndbuf: int = 0
    bind: bind.Bind = bind.NONE
    options: connect.PeerOptions = connect.PLAIN
    is_rated: bool = False
    is_usual: bool = False  # no rate, header, address, option or lender: start() is one function
    # of UDP sessions: what a client's datagrams pass first (udp_steps.py), and by which sockets
    steps: tuple[Step, ...] = ()
    quic: Quic | None = None  # their sessions are known by connection ids (udp_quic.py)
    lender: Lender | None = None

    @property
    def may_be_usual(self) -> bool:
        """Whether a session begins in the usual way; where it has filters it does not."""
        return self.options.plain and self.bind.value is None and not (
            self.is_rated or self.proxy_protocol or self.lender or self.next_upstream_tries
        )

    @property
    def is_headed(self) -> bool:
        """Whether a PROXY header goes in front of every datagram."""
        return bool(self.every_datagram and self.proxy_protocol)


def merge(outer: Given, inner: Given) -> ProxyConf:
    """Merge what two blocks gave. Source: ngx_stream_proxy_merge_srv_conf"""
    given = {k: v for k, v in {**outer, **inner}.items() if not k.startswith("_")}
    given["options"] = connect.PeerOptions(
        given.get("socket_rcvbuf", 0),
        given.get("socket_sndbuf", 0),
        given.get("socket_keepalive", False),
    )
    given["is_rated"] = "upload_rate" in given or "download_rate" in given
    return ProxyConf(**given)


def check(conf: ProxyConf, server: ServerConf, draft: StreamDraft) -> None:
    """Judge a server's settings together. Raises: UnplacedError"""
    quic_conf.check(server, ends=bool(conf.requests or conf.responses != UNLIMITED))
    if conf.proxy_protocol != 1 or not any(draft.options.is_udp for draft in server.listens):
        return
    place = f"in {server.file}:{server.line}"
    if conf.every_datagram:
        raise errors.UnplacedError(
            f'"proxy_protocol_datagrams every" needs "proxy_protocol v2" {place}'
        )
    draft.warn(
        '"proxy_protocol on" says TCP in front of datagrams, few receivers take that: '
        f'"proxy_protocol v2" is meant {place}'
    )


def _buffer_size(scope: Scope, module: Module, st: Statement) -> None:
    d.size("buffer_size")(scope, module, st)
    if st.directive != "proxy_buffer_size":
        scope.warn(
            f'the "{st.directive}" directive is deprecated, '
            'use the "proxy_buffer_size" directive instead'
        )


def directives(handler: Any, target_handler: Any) -> tuple[Directive, ...]:
    """Return the directives. Args: content handlers of proxy_pass without and with variables"""

    def proxy_pass(scope: Scope, module: Module, st: Statement) -> None:
        given = scope.given_of(module)
        if "upstream" in given or "target" in given:
            raise errors.ConfError('"proxy_pass" directive is duplicate')
        server: ServerConf = scope.owner
        draft: StreamDraft = scope.builder.data["stream"]
        text = st.args[0]
        if values.has_variables(text):
            server.serve_by(target_handler, scope, st, slots=2)
            value = values.compile_value(text, draft.variables)
            given["target"] = target.Target(value, draft.upstreams)
        else:
            server.serve_by(handler, scope, st, slots=2)
            given["upstream"] = upstream_block.add_upstream(draft, text)

    return (
        Directive("proxy_pass", SERVER, d.TAKE1, proxy_pass,
                  "Where sessions are proxied to: an address, an upstream, text with variables."),
        Directive("proxy_bind", BOTH, d.TAKE12, bind.set_bind,
                  "Local address of the connections to upstream servers."),
        Directive("proxy_socket_keepalive", BOTH, d.FLAG, d.flag("socket_keepalive"),
                  "SO_KEEPALIVE on upstream connections.", default="off"),
        Directive("proxy_socket_rcvbuf", BOTH, d.TAKE1, d.size("socket_rcvbuf"),
                  "SO_RCVBUF of upstream sockets."),
        Directive("proxy_socket_sndbuf", BOTH, d.TAKE1, d.size("socket_sndbuf"),
                  "SO_SNDBUF of upstream sockets."),
        Directive("proxy_connect_timeout", BOTH, d.TAKE1, d.msec("connect_timeout"),
                  "How long connecting to an upstream server may take.", default="60s"),
        Directive("proxy_timeout", BOTH, d.TAKE1, d.msec("timeout"),
                  "Idle time between two reads or writes of either side.", default="10m"),
        Directive("proxy_buffer_size", BOTH, d.TAKE1, _buffer_size,
                  "Accepted; buffers are shared and datagrams are never cut.", default="16k"),
        Directive("proxy_downstream_buffer", BOTH, d.TAKE1, _buffer_size,
                  "Deprecated name of proxy_buffer_size."),
        Directive("proxy_upstream_buffer", BOTH, d.TAKE1, _buffer_size,
                  "Deprecated name of proxy_buffer_size."),
        Directive("proxy_upload_rate", BOTH, d.TAKE1, _rate("upload_rate"),
                  "Bytes a second read from a client.", default="0"),
        Directive("proxy_download_rate", BOTH, d.TAKE1, _rate("download_rate"),
                  "Bytes a second read from an upstream server.", default="0"),
        Directive("proxy_requests", BOTH, d.TAKE1, d.num("requests"),
                  "Datagrams of a client after which its session ends.", default="0"),
        Directive("proxy_responses", BOTH, d.TAKE1, d.num("responses"),
                  "Datagrams expected in answer to each of a client's."),
        Directive("proxy_next_upstream", BOTH, d.FLAG, d.flag("next_upstream"),
                  "Whether a session that cannot connect goes to the next server.", default="on"),
        Directive("proxy_next_upstream_tries", BOTH, d.TAKE1, d.num("next_upstream_tries"),
                  "How many servers a session may try; 0 is all.", default="0"),
        Directive("proxy_next_upstream_timeout", BOTH, d.TAKE1, d.msec("next_upstream_timeout"),
                  "For how long a session may go on to next servers; 0 is no limit.",
                  default="0"),
        Directive("proxy_protocol", BOTH, d.TAKE1,
                  d.enum("proxy_protocol", {"off": 0, "on": 1, "v2": 2}),
                  "Send a PROXY protocol header to upstream servers.", default="off"),
        Directive("proxy_protocol_datagrams", BOTH, d.TAKE1,
                  d.enum("every_datagram", {"first": False, "every": True}),
                  "Which datagrams of a UDP session have the PROXY protocol header in front.",
                  default="first", extension=True),
        Directive("proxy_session_drop", BOTH, d.FLAG, d.flag("session_drop"),
                  "Whether sessions end when a check finds their server unhealthy, or when it is "
                  "removed from its group or marked down.", default="off", extension=True),
        Directive("proxy_session_lifetime", BOTH, d.TAKE1, d.msec("session_lifetime"),
                  "How long a session may last, whatever it does; 0 is no limit.",
                  default="0", extension=True),
        Directive("proxy_udp_amplification", BOTH, d.TAKE1, _amplification,
                  "How many bytes a client that has sent one datagram gets for each of its own.",
                  default="off", extension=True),
        Directive("proxy_udp_any_port", BOTH, d.FLAG, d.flag("any_port"),
                  "Whether answers of the server's host from other ports belong to a UDP session.",
                  default="off", extension=True),
        Directive("proxy_connect", BOTH, d.TAKE1,
                  d.enum("connect_on_data", {"at_once": False, "on_data": True}),
                  "Whether a server is chosen and connected before a TCP client has sent anything.",
                  default="at_once", extension=True),
        Directive("proxy_half_close", BOTH, d.FLAG, d.flag("half_close"),
                  "Close each direction of a TCP connection by itself.", default="off"),
        *quic_conf.DIRECTIVES,
    )


def _amplification(scope: Scope, module: Module, st: Statement) -> None:
    if st.args[0] == "off":
        d.put(scope, module, st, "amplification", 0)
        return
    d.num("amplification")(scope, module, st)
    if not 0 < scope.given_of(module)["amplification"] <= MOST_AMPLIFICATION:
        raise errors.ConfError(f'"{st.directive}" must be between 1 and {MOST_AMPLIFICATION}')


def _rate(field: str) -> d.Setter:
    compiled = values.value(field)

    def set_rate(scope: Scope, module: Module, st: Statement) -> None:
        compiled(scope, module, st)
        value = scope.given_of(module)[field]
        if value.constant is not None:
            try:
                units.parse_size(st.args[0])
            except ValueError:
                raise errors.ConfError(f'"{st.directive}" directive invalid value') from None

    return set_rate
