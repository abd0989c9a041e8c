"""proxy_bind: the local address of a connection to a server, the client's own among them.

Answers for ngx_stream_proxy_bind and ngx_stream_proxy_set_local (ngx_stream_proxy_module.c).

With `transparent` the address identifies the client to the server, so it is taken from the session
exactly, or the session is refused:

* `$remote_addr:$remote_port` of an IPv6 client has no brackets. nginx reads 2001:db8::1:5000 as
  one address, of a host that does not exist; here the last colon is that of the port.
* A client that came as ::ffff:10.0.0.1 is 10.0.0.1 towards a server with an IPv4 address.
* Two listening addresses of ours may forward one client's socket to one server. Over UDP the
  kernel would take both, and give all answers to the later one; the second is refused.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import errors, inet, ip, log
from ngxstream.event import connect
from ngxstream.stream import values

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.core.inet import SockAddr
    from ngxstream.event.loop import Loop
    from ngxstream.stream.session import Session
    from ngxstream.stream.upstream import Peer
    from ngxstream.stream.values import ComplexValue

NET_RAW: Final = "CAP_NET_RAW"
NET_BIND_SERVICE: Final = "CAP_NET_BIND_SERVICE"


@dataclass(frozen=True, slots=True)
class Bind:
    """What proxy_bind says. Attributes: value: gives address[:port] as text; None is `off`"""

    value: ComplexValue | None = None
    sockaddr: SockAddr | None = None  # the address itself when no variable is in it
    transparent: bool = False
    ported: bool = False  # written as address:port, the port a variable, no brackets
    whole: bool = False  # just the client's address and port: there is nothing to be read

    @property
    def may_name_a_port(self) -> bool:
        """Tell whether a client's port, which may be a low one, can be what is bound to."""
        if self.sockaddr is not None:
            return 0 < inet.port_of(self.sockaddr) < 1024
        return self.value is not None and self.value.text.strip("${}") not in _ADDRESSES

    def local(self, s: Session, peer: Peer) -> SockAddr | None:
        """Return a local address or None. Raises: BindError. Source: ngx_stream_proxy_set_local"""
        found = self.sockaddr
        if self.whole and isinstance(s.c.sockaddr, tuple):
            found = s.c.sockaddr
        if found is None:
            assert self.value is not None
            text = self.value.get(s).decode("latin-1")
            if not text:
                return None
            found = self._parse(text, s)
            if found is None:
                if self.transparent:
                    # from an address of ours the server would answer us, not the client
                    raise connect.BindError(f'invalid local address "{text}"')
                _complain(s, text)
                return None
        if inet.family_of(found) != peer.family:
            found = _for_family(found, peer.family)
        if self.transparent and s.c.is_udp and inet.port_of(found) and s.server.proxy.responses:
            _claim(s, found, peer.sockaddr)
        return found

    def _parse(self, text: str, s: Session) -> SockAddr | None:
        if text[:1] != "[":
            host, _, port = text.rpartition(":")
            if self.ported:
                if ":" in host:
                    text = f"[{host}]:{port}"
            elif ":" in host:
                c = s.c
                # one variable that holds both, made of the client's address and port
                client = inet.address_text(c.sockaddr)
                if host == client and port == str(inet.port_of(c.sockaddr)):
                    client_sockaddr: SockAddr = c.sockaddr
                    return client_sockaddr
        found = inet.parse_addr_port(text)
        return None if found is None else found.sockaddr


def _complain(s: Session, text: str) -> None:
    """Log once that a value is no address, as nginx does before it has chosen a server."""
    if s.states is not None and len(s.states) > 1:
        return
    proxy: Any = s.content
    kept = s.action, proxy.peer_name
    s.action, proxy.peer_name = None, ""
    s.log_error(log.ERR, f'invalid local address "{text}"')
    s.action, proxy.peer_name = kept


NONE: Final = Bind()

_WHOLE: Final = ("$remote_addr:$remote_port", "[$remote_addr]:$remote_port")
# variables that are an address and nothing else
_ADDRESSES: Final = ("remote_addr", "realip_remote_addr", "proxy_protocol_addr", "server_addr")


def _for_family(found: SockAddr, family: int) -> SockAddr:
    """Return an IPv4-mapped address as the IPv4 one that it is. Raises: BindError"""
    packed = ip.unmapped(inet.packed(found))
    if family == inet.AF_INET and len(packed) == 4:
        return ip.ntop(packed), inet.port_of(found)
    # the kernel's own words for it: see inet_bind and inet6_bind
    code = errno.EAFNOSUPPORT if family == inet.AF_INET else errno.EINVAL
    raise connect.BindError(f"bind({_text(found)}) failed", errno=code)


def _text(sockaddr: SockAddr) -> str:
    port = inet.port_of(sockaddr)
    return inet.sock_ntop(sockaddr) if port else inet.address_text(sockaddr)


def claims(_: Loop) -> dict[tuple[SockAddr, SockAddr], tuple[object, int]]:
    """Make a worker's table: (client's socket, server) -> (whose it is, its sessions)."""
    return {}


def _claim(s: Session, local: SockAddr, remote: SockAddr) -> None:
    """Note that answers from a server to a client's socket are a session's. Raises: BindError

    Who asks at one address may have several sessions, which share the answers. Since a
    client has one worker, this worker's table knows all of them.
    """
    held = s.loop.get(claims)
    key = (local, remote)
    owner = (s.c.local_sockaddr(), s.c.key)
    holder, sessions = held.get(key, (owner, 0))
    if holder != owner:
        raise connect.BindError(
            f"bind({_text(local)}) failed: answers of {inet.sock_ntop(remote)} to it belong to a "
            "session of another listening address",
            errno=errno.EADDRINUSE,
        )
    held[key] = owner, sessions + 1

    def release() -> None:
        left = held[key][1] - 1
        if left:
            held[key] = owner, left
        else:
            del held[key]

    s.add_cleanup(release)


def take_over(s: Session, sock: Any) -> None:
    """Do the same for a session from another process, whose connected socket this is."""
    given = s.server.proxy
    if given.bind.transparent and given.responses:
        try:
            local = sock.getsockname()
            if inet.port_of(local):
                _claim(s, local, sock.getpeername())
        except (OSError, connect.BindError):
            return  # it is no longer connected, or another session has the answers


def is_ported(text: str) -> bool:
    """Tell whether a value is written as ADDRESS:$PORT, so that its last colon is the port's."""
    pieces = values.split(text)
    if len(pieces) < 2 or not pieces[-1][0]:
        return False
    mark, before = pieces[-2]
    return not mark and before.endswith(":") and not before.endswith("]:")


def set_bind(scope: Scope, module: Module, st: Statement) -> None:
    """Read proxy_bind. Source: ngx_stream_proxy_bind"""
    given = scope.given_of(module)
    if "bind" in given:
        raise errors.ConfError('"proxy_bind" directive is duplicate')
    text = st.args[0]
    if len(st.args) == 1 and text == "off":
        given["bind"] = NONE
        return
    value = values.compile_value(text, scope.builder.data["stream"].variables)
    sockaddr = None
    if value.constant is not None:
        found = inet.parse_addr_port(text)
        if found is None:
            raise errors.ConfError(f'invalid address "{text}"')
        sockaddr = found.sockaddr
    if len(st.args) == 1:
        given["bind"] = Bind(value, sockaddr)
        return
    if st.args[1] != "transparent":
        raise errors.ConfError(f'invalid parameter "{st.args[1]}"')
    plain = text.replace("{", "").replace("}", "")
    made = Bind(value, sockaddr, transparent=True, ported=is_ported(text), whole=plain in _WHOLE)
    wanted: set[str] = scope.builder.data.setdefault("capabilities", set())
    wanted.add(NET_RAW)
    if made.may_name_a_port:
        wanted.add(NET_BIND_SERVICE)
    given["bind"] = made
