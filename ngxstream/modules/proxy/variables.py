"""Variables that count the datagrams of proxied UDP sessions; nginx has none like them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ngxstream.modules.proxy.udp import UdpProxy
from ngxstream.stream.variables import NOCACHEABLE, Variable

if TYPE_CHECKING:
    from ngxstream.stream.session import Session


def _received(s: Session) -> bytes | None:
    content = s.content
    return b"%d" % content.datagrams()[0] if isinstance(content, UdpProxy) else None


def _sent(s: Session) -> bytes | None:
    content = s.content
    return b"%d" % content.datagrams()[1] if isinstance(content, UdpProxy) else None


def _dropped(s: Session) -> bytes | None:
    content = s.content
    return b"%d" % content.dropped_in_all if isinstance(content, UdpProxy) else None


VARIABLES: Final = (
    Variable("datagrams_received", _received, NOCACHEABLE,
             "Datagrams of a UDP session from the client."),
    Variable("datagrams_sent", _sent, NOCACHEABLE,
             "Datagrams of a UDP session from the servers."),
    Variable("datagrams_dropped", _dropped, NOCACHEABLE,
             "Datagrams of a UDP session that were dropped, in both directions."),
)
