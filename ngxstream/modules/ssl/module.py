"""The Module record of TLS towards clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ngxstream.modules.ssl import conf, context, handshake
from ngxstream.modules.ssl.variables import VARIABLES
from ngxstream.stream import phases
from ngxstream.stream.content import ContentKind
from ngxstream.stream.module import PhaseHandler, StreamModule

if TYPE_CHECKING:
    from ngxstream.stream.core import ServerConf


def _is_wanted(server: ServerConf) -> bool:
    is_wanted: bool = server.is_ssl
    return is_wanted


MODULE = StreamModule(
    name="ssl",
    directives=conf.DIRECTIVES,
    conf=conf.SslConf,
    variables=VARIABLES,
    handlers=(PhaseHandler(phases.SSL, handshake.handle, _is_wanted),),
    check=context.check,
    finish=context.finish,
    contents=(ContentKind("TLS handshake", handshake.Handshake, stays="TCP alone has TLS"),),
)
