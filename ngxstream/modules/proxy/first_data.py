"""proxy_connect on_data: a server is chosen, and connected, when the client has said something.

nginx has no counterpart: there whoever connects has cost a connection to a server. Here it is a
handler of the preread phase, with that phase's mechanism and bounds (stream/preread.py): bytes stay
in the kernel or come with the session, preread_timeout says how long a client may say nothing, and
one that leaves meanwhile has cost no server anything. TLS, the PROXY header and what functions of
users decide come before it. A UDP session begins with its first datagram anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ngxstream.core import codes
from ngxstream.stream.explaining import Answer

if TYPE_CHECKING:
    from ngxstream.stream.core import ServerConf
    from ngxstream.stream.explaining import Explanation
    from ngxstream.stream.session import Session


def handle(s: Session) -> int:
    """Wait for the first byte of a client."""
    if s.c.is_udp or s.preread or not s.server.proxy.connect_on_data:
        return codes.DECLINED
    return codes.AGAIN


def is_wanted(server: ServerConf) -> bool:
    """Tell whether sessions of a server wait."""
    proxy = server.proxy
    proxies = proxy.upstream is not None or proxy.target is not None
    return bool(proxy.connect_on_data and proxies)


def explain(s: Session, explanation: Explanation) -> Answer:
    """Say that the session would wait."""
    if s.c.is_udp or not s.server.proxy.connect_on_data:
        return Answer(codes.DECLINED, "the server is connected at once")
    return Answer(codes.DECLINED, "the server is connected when the client has sent something")
