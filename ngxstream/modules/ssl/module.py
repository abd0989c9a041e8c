"""The Module record of TLS towards clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ngxstream.modules.ssl import conf, context, counted, handshake
from ngxstream.modules.ssl.variables import VARIABLES
from ngxstream.stream import phases
from ngxstream.stream.content import ContentKind
from ngxstream.stream.module import PhaseHandler, StreamModule

if TYPE_CHECKING:
    from ngxstream.stream.core import ServerConf


def _is_wanted(server: ServerConf) -> bool:
    return bool(server.is_ssl) and server.handshakes is None


def _is_counted(server: ServerConf) -> bool:
    return bool(server.is_ssl) and server.handshakes is not None


PLAIN: Final = handshake.handler_of(handshake.Handshake)
COUNTED: Final = handshake.handler_of(counted.Handshake)

MODULE = StreamModule(
    name="ssl",
    directives=conf.DIRECTIVES,
    conf=conf.SslConf,
    variables=VARIABLES,
    handlers=(
        PhaseHandler(phases.SSL, PLAIN, _is_wanted),
        PhaseHandler(phases.SSL, COUNTED, _is_counted),
    ),
    explains=((PLAIN, handshake.explain), (COUNTED, handshake.explain)),
    check=context.check,
    finish=context.finish,
    contents=(ContentKind("TLS handshake", handshake.Handshake, stays="TCP alone has TLS"),),
)
