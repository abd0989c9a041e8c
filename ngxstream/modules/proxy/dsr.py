"""Direct server return: a datagram is sent on from the client's own address and forgotten.

Answers for `proxy_responses 0` with `proxy_bind $remote_addr:$remote_port transparent`
(ngx_stream_proxy_module.c), where nginx makes a session, a socket and a connection for each
datagram.

The session of a datagram ends within the turn it came in; access rules, balancing and logs are what
they always are. The socket is kept for the client's next datagrams (event/client_sockets.py).
Nothing comes back to it, so no failure of a server is heard of but a missing route.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import log
from ngxstream.event import connect
from ngxstream.event.client_sockets import ClientSockets
from ngxstream.modules.proxy.conf import Lender

if TYPE_CHECKING:
    from ngxstream.modules.proxy.conf import ProxyConf
    from ngxstream.modules.proxy.udp import UdpProxy
    from ngxstream.stream.upstream import Peer


def is_direct(conf: ProxyConf) -> bool:
    """Tell whether the sessions of a server are of this kind."""
    return not conf.responses and conf.requests <= 1 and conf.bind.transparent


def _open(proxy: UdpProxy, peer: Peer, local: Any) -> Any:
    """Send the datagram by the client's kept socket: there is nothing to connect.

    Returns: the socket, None where the session needs its own. Raises: ConnectError, BindError
    """
    if local is None or not local[1]:  # a port for each session: not worth keeping
        return None
    sock = proxy.loop.get(ClientSockets).get(peer.family, local, proxy.conf.options)
    data = proxy.first
    if proxy.conf.proxy_protocol:
        data = proxy.proxy_header() + data
    state: Any = proxy.state
    try:
        state.bytes_sent += sock.sendto(data, peer.sockaddr)
    except BlockingIOError:
        return None  # a socket of its own has a queue
    except OSError as error:
        if error.errno != errno.EMSGSIZE:
            raise connect.transparent_error(
                f"sendto() {peer.name}", local, error.errno or 0
            ) from None
        proxy.dropped += 1
        proxy.s.log_error(log.ERR, "datagram is too large to be sent", error.errno)
    return sock


def _begin(proxy: UdpProxy) -> None:
    """End the session: its datagram was sent."""
    proxy.settle()


LENDER: Final = Lender(_open, _begin)
