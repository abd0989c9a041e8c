"""What a session that is known by connection ids takes to another process, and what is shown of it.

nginx has no counterpart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import inet
from ngxstream.event import udp_clients
from ngxstream.modules.proxy.quic_conf import KEY
from ngxstream.modules.proxy.udp_quic import MOST_IDS, NOTHING, ById
from ngxstream.stream.content import Kept
from ngxstream.stream.variables import NOCACHEABLE, Variable
from ngxstream.wire.quic import MAX_ID

if TYPE_CHECKING:
    from ngxstream.stream.session import Session


def _pack(s: Session) -> tuple[Any, ...] | None:
    """Return the ids, which of them is used, the former address, how often that has changed,
    whether the handshake goes on, and the port of the same host that is not proved yet.

    A client who loads and has acknowledged all is silent: the server's next packet has to find it.
    """
    found: ById | None = s.module_ctx(KEY)
    if found is None:
        return None
    current = b"" if found.current is NOTHING else found.current
    return (tuple(found.ids), current, found.former, found.migrations, found.is_learning,
            found.paths.near_address)


def _unpack(s: Session, packed: object) -> None:
    """Take what another process says, which is not to be trusted. Raises: TypeError, ValueError"""
    match packed:
        case (tuple(ids), bytes(current), former, int(migrations), bool(is_learning), last):
            near: Any = last
        case _:
            raise TypeError("no connection ids")
    if s.server.proxy.quic is None or len(ids) > MOST_IDS or migrations < 0:
        raise ValueError("connection ids that cannot be")
    if not all(isinstance(one, bytes) and 0 < len(one) <= MAX_ID for one in ids):
        raise ValueError("no connection id")
    if (current and current not in ids) or not _is_address(former, s.c.family):
        raise ValueError("another id, or no address")
    client = udp_clients.peer_of(s.c.key)
    if not _is_address(near, s.c.family) or (near is not None and near[0] != client[0]):
        raise ValueError("another host's address, or none")
    found = ById(s)
    found.ids = list(dict.fromkeys(ids))
    found.said = tuple(found.ids)  # who said which is not told
    if current:
        found.current, found.end = current, 1 + len(current)
    found.former = former
    found.migrations = migrations
    found.is_learning = is_learning
    if near is not None and near != client:
        found.paths.go_on(udp_clients.moved(s.c.key, near), near, s.loop.now_ms)
    s.set_module_ctx(KEY, found)


def _is_address(former: object, family: int) -> bool:
    """Tell whether a value is None, or an address of a family as the socket module has it."""
    match former:
        case None:
            return True
        case (str(), int(port)):
            return 0 < port <= 0xFFFF and family == inet.AF_INET
        case (str(), int(port), int(), int()):
            return 0 < port <= 0xFFFF and family == inet.AF_INET6
    return False


KEPT: Final = Kept(KEY, _pack, _unpack)


# -- what is shown -----------------------------------------------------------------------------


def _moves(s: Session) -> bytes | None:
    found: ById | None = s.module_ctx(KEY)
    return None if found is None else b"%d" % found.migrations


def _address(s: Session) -> bytes | None:
    found: ById | None = s.module_ctx(KEY)
    if found is None:
        return None
    return inet.sock_ntop(udp_clients.peer_of(found.c.key)).encode()


VARIABLES: Final = (
    Variable("proxy_quic_migrations", _moves, NOCACHEABLE,
             "How often the address of a QUIC client has changed (proxy_quic)."),
    Variable("proxy_quic_addr", _address, NOCACHEABLE,
             "Address and port that a QUIC client is answered at (proxy_quic)."),
)
