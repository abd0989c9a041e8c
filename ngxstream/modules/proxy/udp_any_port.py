"""proxy_udp_any_port: answers of the server's host belong to the session, by whichever port.

nginx has no counterpart. A TFTP server answers each request from a port of its own, and the client
has to go on with that one; some SIP and RTP is alike. What the socket does is in event/any_port.py:
the session does not notice.

Such a session has a socket of its own, which no other session gets after it.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

from ngxstream.event import connect
from ngxstream.event.any_port import AnyPort
from ngxstream.event.connect import UNIX
from ngxstream.ipc.codec import CodecError

if TYPE_CHECKING:
    from ngxstream.modules.proxy.conf import ProxyConf
    from ngxstream.stream.upstream import Peer

_ANY: Final = {socket.AF_INET: ("0.0.0.0", 0), socket.AF_INET6: ("::", 0)}


def open_socket(conf: ProxyConf, peer: Peer, local: Any) -> AnyPort | None:
    """Open a socket towards a server's host; None for a Unix server, which has no ports.

    Raises: BindError, InternalError
    """
    family: int = peer.family
    if family == UNIX:
        return None
    sock = connect.open_bound(
        family, connect.DGRAM, conf.options, local, transparent=conf.bind.transparent
    )
    made = AnyPort(sock, peer.sockaddr)
    if local is None:  # with the filter in place
        sock.bind(_ANY[socket.AddressFamily(family)])
    return made


def port_of(sock: Any) -> int:
    """Return the port that answered last, by which such a socket is known elsewhere; 0: another"""
    return sock.target[1] if isinstance(sock, AnyPort) else 0


def bare(sock: Any) -> Any:
    """Return the socket itself, to be sent to another process."""
    return sock.sock if isinstance(sock, AnyPort) else sock


def resume(sock: Any, sockaddr: Any, port: int) -> Any:
    """Go on with a socket that came from another process, and that check() has looked at."""
    return AnyPort(sock, sockaddr, port) if port else sock


def check(sock: Any, conf: ProxyConf, family: int, sockaddr: Any) -> None:
    """See that a datagram socket is one of these. Raises: CodecError"""
    if not conf.any_port or family == UNIX or not isinstance(sockaddr, tuple) or not sockaddr[1]:
        raise CodecError("a session with a port that its server has no use for")
    try:
        sock.getpeername()
    except OSError:
        return
    raise CodecError("a session of any port with a socket that is connected")
