"""ssl_preread: read what a ClientHello asks for without answering it
(ngx_stream_ssl_preread_module.c).

The hello itself is wire/client_hello.py's; the bytes are stream/preread.py's. In a `udp` server,
where nginx looks at nothing, it is the hello of a QUIC client, out of its Initial packets
(wire/quic_hello.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from ngxstream.conf import directive as d
from ngxstream.conf.directive import SERVER, STREAM, Directive
from ngxstream.core import errors
from ngxstream.core.codes import AGAIN, DECLINED, DONE, OK
from ngxstream.event import libcrypto
from ngxstream.event.turn_budget import TurnBudget
from ngxstream.stream import phases, preread, servers
from ngxstream.stream.content import Kept
from ngxstream.stream.explaining import Answer
from ngxstream.stream.module import PhaseHandler, StreamModule
from ngxstream.stream.variables import Getter, Variable
from ngxstream.wire import client_hello, quic_hello, reader

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.stream.core import ServerConf, StreamDraft
    from ngxstream.stream.explaining import Explanation
    from ngxstream.stream.session import Session

    # what a session's ctx has: what parses the hello, and then the hello
    Seen = client_hello.Parser | quic_hello.Hellos | client_hello.ClientHello

KEY = "ssl_preread"
QUICK: Final = 768  # bytes: whatever is in them is parsed within a quarter of a millisecond


@dataclass(frozen=True, slots=True)
class SslPrereadConf:
    """Whether to read the ClientHello."""

    ssl_preread: bool = False


def handle(s: Session) -> int:
    """Parse what has come. Source: ngx_stream_ssl_preread_handler"""
    if not s.server.ssl_preread.ssl_preread:
        return DECLINED
    if s.c.is_udp:
        return _handle_datagrams(s)
    if not s.preread:
        return AGAIN
    parser: Seen | None = s.module_ctx(KEY)
    if parser is None:
        parser = client_hello.Parser()
        s.set_module_ctx(KEY, parser)
    if not isinstance(parser, client_hello.Parser):
        return _recheck(s)  # asked again, since a check has waited
    try:
        if len(s.preread) <= QUICK:
            hello = parser.feed(s.preread)
        else:
            budget = s.loop.get(TurnBudget)
            budget.has_share(s)
            hello = budget.measure(parser.feed, s.preread)
    except client_hello.NotClientHello:
        s.set_module_ctx(KEY, None)
        return DECLINED
    if isinstance(hello, reader.NeedMore):
        return AGAIN
    return _select(s, hello)


def _handle_datagrams(s: Session) -> int:
    """Parse the datagrams that have come since the last time, of what may be a QUIC client."""
    hellos: Seen | None = s.module_ctx(KEY)
    if hellos is None:
        hellos = quic_hello.Hellos(s.loop.get(_aes))
        s.set_module_ctx(KEY, hellos)
    if not isinstance(hellos, quic_hello.Hellos):
        return _recheck(s)
    budget = s.loop.get(TurnBudget)
    budget.has_share(s)
    try:
        for datagram in preread.datagrams(s)[hellos.count :]:
            hello = budget.measure(hellos.feed, datagram)
            if not isinstance(hello, reader.NeedMore):
                return _select(s, hello)
    except reader.WireError:
        s.set_module_ctx(KEY, None)
        return DECLINED
    return AGAIN


def _select(s: Session, hello: client_hello.ClientHello) -> int:
    """Keep a hello that is whole, and go on under the server that it asks for."""
    hello = _with_host(hello)
    s.set_module_ctx(KEY, hello)
    if hello.server_name:
        servers.select(s, hello.server_name)
    return _recheck(s)


def _recheck(s: Session) -> int:
    """Ask the checks of the server that was selected by name; one that waits goes on by itself."""
    hello = s.module_ctx(KEY)
    if not isinstance(hello, client_hello.ClientHello) or not hello.server_name:
        return OK
    code = servers.recheck(s)
    return DONE if code == AGAIN else code


def _aes(loop: Loop) -> libcrypto.Aes:
    """Make what opens Initial packets, once for each worker."""
    return libcrypto.Aes(libcrypto.load())


def _check(conf: SslPrereadConf, server: ServerConf, draft: StreamDraft) -> None:
    """Refuse what cannot be served. Raises: UnplacedError"""
    if not conf.ssl_preread or not any(one.options.is_udp for one in server.listens):
        return
    try:
        libcrypto.load()
    except libcrypto.Unavailable as error:
        raise errors.UnplacedError(
            f'"ssl_preread" is not supported in the udp server in {server.file}:{server.line}: '
            f"{error.message}"
        ) from None


# -- a session that goes on in another process -------------------------------------------------


def _pack(s: Session) -> tuple[str, bytes, bytes] | None:
    """Return what the variables are made of."""
    hello = _seen(s)
    return None if hello is None else (hello.protocol, hello.server_name, hello.alpn)


def _unpack(s: Session, packed: object) -> None:
    """Take what another process says, which is not to be trusted. Raises: TypeError, ValueError"""
    match packed:
        case (str(protocol), bytes(name), bytes(alpn)):
            pass
        case _:
            raise TypeError("no ClientHello")
    if protocol not in client_hello.PROTOCOLS or len(name) > servers.MAX_HOST:
        raise ValueError("no protocol, or no name")
    if len(alpn) > quic_hello.MAX_HELLO:
        raise ValueError("too many protocols")
    s.set_module_ctx(KEY, client_hello.ClientHello(protocol, name, alpn))


def _explain(s: Session, explanation: Explanation) -> Answer:
    """Select the server of a name, as if it stood in a ClientHello that says nothing else."""
    if not s.server.ssl_preread.ssl_preread:
        return Answer(DECLINED, "is off here")
    if not explanation.name:
        return Answer(DECLINED, "no name is given")
    hello = _with_host(client_hello.ClientHello("", explanation.name))
    s.set_module_ctx(KEY, hello)
    if hello.server_name:
        servers.select(s, hello.server_name)
    return explanation.recheck()


def _with_host(hello: client_hello.ClientHello) -> client_hello.ClientHello:
    """Leave out a name that no host has."""
    if len(hello.server_name) > servers.MAX_HOST:
        return replace(hello, server_name=b"")
    return hello


def _is_wanted(server: ServerConf) -> bool:
    enabled: bool = server.ssl_preread.ssl_preread
    return enabled


def _seen(s: Session) -> client_hello.ClientHello | None:
    """Return a session's hello, or what is known of it so far; None where there is none."""
    seen: Seen | None = s.module_ctx(KEY)
    if seen is None or isinstance(seen, client_hello.ClientHello):
        return seen
    return _with_host(seen.so_far())


def _getter(spell: Callable[[client_hello.ClientHello], bytes]) -> Getter:
    """Make the getter of a variable; not found where there is no ClientHello."""

    def get(s: Session) -> bytes | None:
        hello = _seen(s)
        return None if hello is None else spell(hello)

    return get


MODULE = StreamModule(
    name="ssl_preread",
    directives=(
        Directive("ssl_preread", STREAM | SERVER, d.FLAG, d.flag("ssl_preread"),
                  "Read the ClientHello, of TLS or QUIC, before proxying.", default="off"),
    ),
    conf=SslPrereadConf,
    check=_check,
    variables=(
        Variable("ssl_preread_protocol", _getter(lambda hello: hello.protocol.encode("ascii")), 0,
                 "Highest TLS version the client offers."),
        Variable("ssl_preread_server_name", _getter(lambda hello: hello.server_name), 0,
                 "Name of the server the client asks for (SNI)."),
        Variable("ssl_preread_alpn_protocols", _getter(lambda hello: hello.alpn), 0,
                 "Protocols the client offers (ALPN), joined by commas."),
    ),
    handlers=(PhaseHandler(phases.PREREAD, handle, _is_wanted),),
    explains=((handle, _explain),),
    keeps=(Kept(KEY, _pack, _unpack),),
)
