"""ssl_preread: read what a ClientHello asks for without answering it
(ngx_stream_ssl_preread_module.c).

The hello itself is wire/client_hello.py's; the bytes are stream/preread.py's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from ngxstream.conf import directive as d
from ngxstream.conf.directive import SERVER, STREAM, Directive
from ngxstream.core.codes import AGAIN, DECLINED, OK
from ngxstream.event.turn_budget import TurnBudget
from ngxstream.stream import phases, servers
from ngxstream.stream.content import Kept
from ngxstream.stream.module import PhaseHandler, StreamModule
from ngxstream.stream.variables import Getter, Variable
from ngxstream.wire import client_hello, reader

if TYPE_CHECKING:
    from ngxstream.stream.core import ServerConf
    from ngxstream.stream.session import Session

KEY = "ssl_preread"
QUICK: Final = 768  # bytes: whatever is in them is parsed within a quarter of a millisecond


@dataclass(frozen=True, slots=True)
class SslPrereadConf:
    """Whether to read the ClientHello."""

    ssl_preread: bool = False


class Look:
    """What was seen of one session's ClientHello."""

    __slots__ = ("parser", "hello")

    def __init__(self) -> None:
        self.parser: client_hello.Parser | None = client_hello.Parser()
        self.hello: client_hello.ClientHello | None = None  # once it is whole

    def seen(self) -> client_hello.ClientHello:
        """Return the hello, or what its records have said so far."""
        parser = self.parser
        if self.hello is not None:
            return self.hello
        return _with_host(client_hello.ClientHello("") if parser is None else parser.so_far())


def handle(s: Session) -> int:
    """Parse what has come. Source: ngx_stream_ssl_preread_handler"""
    if not s.server.ssl_preread.ssl_preread or s.c.is_udp:
        return DECLINED
    if not s.preread:
        return AGAIN
    look: Look | None = s.module_ctx(KEY)
    if look is None:
        look = Look()
        s.set_module_ctx(KEY, look)
    parser = look.parser
    if parser is None:
        return OK
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
    hello = look.hello = _with_host(hello)
    look.parser = None
    if hello.server_name:
        servers.select(s, hello.server_name)
        return servers.recheck(s)
    return OK


def _with_host(hello: client_hello.ClientHello) -> client_hello.ClientHello:
    """Leave out a name that no host has."""
    if len(hello.server_name) > servers.MAX_HOST:
        return replace(hello, server_name=b"")
    return hello


def _is_wanted(server: ServerConf) -> bool:
    enabled: bool = server.ssl_preread.ssl_preread
    return enabled


def _seen(spell: Callable[[client_hello.ClientHello], bytes]) -> Getter:
    """Make the getter of a variable; not found where there is no ClientHello."""

    def get(s: Session) -> bytes | None:
        look: Look | None = s.module_ctx(KEY)
        return None if look is None else spell(look.seen())

    return get


MODULE = StreamModule(
    name="ssl_preread",
    directives=(
        Directive("ssl_preread", STREAM | SERVER, d.FLAG, d.flag("ssl_preread"),
                  "Read the ClientHello before proxying.", syntax="ssl_preread on | off",
                  default="off"),
    ),
    conf=SslPrereadConf,
    variables=(
        Variable("ssl_preread_protocol", _seen(lambda hello: hello.protocol.encode("ascii")), 0,
                 "Highest TLS version the client offers."),
        Variable("ssl_preread_server_name", _seen(lambda hello: hello.server_name), 0,
                 "Name of the server the client asks for (SNI)."),
        Variable("ssl_preread_alpn_protocols", _seen(lambda hello: hello.alpn), 0,
                 "Protocols the client offers (ALPN), joined by commas."),
    ),
    handlers=(PhaseHandler(phases.PREREAD, handle, _is_wanted),),
    keeps=(Kept(KEY, stays="UDP sessions have no ClientHello"),),
)
