"""set_real_ip_from: whose PROXY header replaces the client's address (ngx_stream_realip_module.c).

The word is the PROXY protocol header. A client whose header is believed goes by the address in
it from then on: in variables, access rules, logs, hashes and what is told to upstreams.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ngxstream.conf import directive as d
from ngxstream.conf.directive import SERVER, STREAM, TAKE1, Directive
from ngxstream.core import errors, inet, ip
from ngxstream.core.codes import DECLINED
from ngxstream.core.log import encode
from ngxstream.ipc import addresses
from ngxstream.stream import phases
from ngxstream.stream.content import Kept
from ngxstream.stream.explaining import Answer
from ngxstream.stream.module import PhaseHandler, StreamModule
from ngxstream.stream.variables import PURE, Variable

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Given, Module
    from ngxstream.conf.reader import Statement
    from ngxstream.core.inet import SockAddr
    from ngxstream.stream.addresses import ListeningConf
    from ngxstream.stream.core import ServerConf, StreamConf, StreamDraft
    from ngxstream.stream.explaining import Explanation
    from ngxstream.stream.session import Session

KEY = "realip"


@dataclass(frozen=True, slots=True)
class RealipConf:
    """Who is trusted. Args: networks: v4-mapped ones as IPv4"""

    networks: tuple[ip.Cidr, ...] = ()
    unix: bool = False

    def trusts(self, sockaddr: SockAddr) -> bool:
        """Tell whether a peer is trusted. Source: ngx_cidr_match"""
        packed = inet.packed(sockaddr)
        if not packed:
            return self.unix
        packed = ip.unmapped(packed)
        return any(packed in network for network in self.networks)


class Original(NamedTuple):
    """Where the connection really came from."""

    family: int
    sockaddr: SockAddr


def handle(s: Session) -> int:
    """Replace the peer's address by a trusted header's. Source: ngx_stream_realip_handler"""
    header = s.proxy_protocol
    if header is None or not header.src_addr:
        return DECLINED
    c = s.c
    if not s.server.realip.trusts(c.sockaddr):
        return DECLINED
    packed = ip.parse(header.src_addr)
    if packed is None:
        return DECLINED
    s.set_module_ctx(KEY, Original(c.family, c.sockaddr))
    host = ip.ntop(packed)
    if len(packed) == 4:
        c.family, c.sockaddr = inet.AF_INET, (host, header.src_port)
    else:
        c.family, c.sockaddr = inet.AF_INET6, (host, header.src_port, 0, 0)
    return DECLINED


def _explain(s: Session, explanation: Explanation) -> Answer:
    """Take the address of a header, whose sender is trusted."""
    header = s.proxy_protocol
    if header is None:
        return Answer(DECLINED, "there is no PROXY header")
    return Answer(DECLINED, f"goes by {header.src_addr}, if who sends the header is trusted")


def _is_wanted(server: ServerConf) -> bool:
    conf: RealipConf = server.realip
    return bool(conf.networks) or conf.unix


def original(s: Session) -> SockAddr:
    """Return where the connection really came from, whatever address it goes by."""
    kept: Original | None = s.module_ctx(KEY)
    return s.c.sockaddr if kept is None else kept.sockaddr


def _pack(s: Session) -> bytes | None:
    """Say where a session that goes on elsewhere really came from."""
    kept: Original | None = s.module_ctx(KEY)
    return None if kept is None else addresses.ADDRESS.encode(kept.sockaddr)


def _unpack(s: Session, packed: bytes) -> None:
    """Keep it here. Raises: CodecError for no address"""
    sockaddr = addresses.ADDRESS.decode(packed) or ""  # a unix socket without a name
    s.set_module_ctx(KEY, Original(inet.family_of(sockaddr), sockaddr))


def _realip_remote_addr(s: Session) -> bytes:
    return encode(inet.address_text(original(s)))


def _realip_remote_port(s: Session) -> bytes:
    port = inet.port_of(original(s))
    return b"%d" % port if port else b""


def _set_real_ip_from(scope: Scope, module: Module, st: Statement) -> None:
    text = st.args[0]
    d.note(scope, module, st)
    given = scope.given_of(module)
    networks: list[ip.Cidr] = given.setdefault("networks", [])
    if text == "unix:":
        given["unix"] = True
        return
    try:
        cidr = ip.parse_cidr(text)
    except ValueError:
        networks.extend(_resolve(text))
        return
    if cidr.low_bits:
        scope.warn(f"low address bits of {text} are meaningless")
    networks.append(cidr)


def _resolve(host: str) -> list[ip.Cidr]:
    try:
        found = inet.resolve_host(host)
    except inet.UrlError as error:
        raise errors.ConfError(f'{error.reason} in set_real_ip_from "{host}"') from None
    return [ip.parse_cidr(address) for address, _ in found]


def _merge(outer: Given, inner: Given) -> RealipConf:
    given = inner or outer
    return RealipConf(tuple(given.get("networks", ())), given.get("unix", False))


def _finish(draft: StreamDraft) -> None:
    """Have the listeners of `listen … udp proxy_protocol` know whose headers are taken."""

    def tell(conf: StreamConf) -> None:
        for listening in conf.listenings:
            options = listening.options
            if not (options.is_udp and options.proxy_protocol):
                continue
            listening.believes = _believer(listening)
            if not _is_wanted(listening.default.default_server):
                draft.warn(
                    f'"listen {options.text} udp proxy_protocol" takes no datagrams without '
                    '"set_real_ip_from"'
                )

    draft.finished.append(tell)


def _believer(listening: ListeningConf) -> Callable[[Any, bytes | None], bool]:
    def believes(sockaddr: SockAddr, local: bytes | None) -> bool:
        address = listening.default
        if local is not None and listening.addresses is not None:
            address = listening.addresses.get(ip.ntop(local), address)
        conf: RealipConf = address.default_server.realip
        return conf.trusts(sockaddr)

    return believes


MODULE = StreamModule(
    name="realip",
    directives=(
        Directive("set_real_ip_from", STREAM | SERVER, TAKE1, _set_real_ip_from,
                  "Peers whose PROXY protocol header names the client: an address, a network, a "
                  "host name or unix:."),
    ),
    conf=RealipConf,
    merge=_merge,
    finish=_finish,
    keeps=(Kept(KEY, _pack, _unpack),),
    variables=(
        Variable("realip_remote_addr", _realip_remote_addr, PURE,
                 "Address the connection came from, before it was replaced."),
        Variable("realip_remote_port", _realip_remote_port, PURE,
                 "Port the connection came from, before it was replaced."),
    ),
    handlers=(PhaseHandler(phases.POST_ACCEPT, handle, _is_wanted),),
    explains=((handle, _explain),),
)
