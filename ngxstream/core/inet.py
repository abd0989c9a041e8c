"""Socket addresses: what a configuration writes to sockaddr, sockaddr to what logs say
(ngx_inet.c).

A sockaddr is what the socket module uses: (host, port) for AF_INET, (host, port, flow, scope) for
AF_INET6, a path (or the kernel's bytes) for AF_UNIX, so its shape tells its family. Texts are str
with surrogateescape: a path of any bytes survives. IP addresses without a port are the business of
core/ip.py.
"""

import re
import socket
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ngxstream.core import ip

AF_INET: Final = ip.AF_INET
AF_INET6: Final = ip.AF_INET6
AF_UNIX: Final = int(socket.AF_UNIX)

InetAddr = tuple[str, int] | tuple[str, int, int, int]
SockAddr = InetAddr | str | bytes
ListenKey = tuple[int, int, SockAddr | None]  # of a listening address: ListenOptions.key

_SUN_PATH: Final = 108  # sizeof(sockaddr_un.sun_path), the final NUL included
_PORT_MAX: Final = 65535
_ANY: Final = ".".join("0000")


class UrlError(ValueError):
    """An address that cannot be used; `reason`, its text, is nginx's, such as `invalid port`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Addr(NamedTuple):
    """One address a name or a literal stands for."""

    family: int         # AF_INET, AF_INET6 or AF_UNIX
    sockaddr: SockAddr
    name: str           # as logs and messages name it: 127.0.0.1:53, [::1]:53, unix:/x


@dataclass(slots=True)
class Url:
    """What an address in a configuration says. Source: ngx_inet.h ngx_url_t"""

    url: str                   # as written
    host: str = ""             # without port; a v6 literal keeps its brackets; "" for a bare port
    port: int = 0              # the default port where none is written
    last_port: int = 0         # end of a range (listen only), 0 without a range
    no_port: bool = False      # whether the port is missing
    family: int = AF_INET      # of the first address
    wildcard: bool = False     # whether it stands for every address of the machine
    uri: str = ""              # what follows host and port; only with uri_part
    addrs: list[Addr] = field(default_factory=list)  # [] when a name is left unresolved

    def add(self, host: str, family: int) -> None:
        """Add an address, once for each port of the range. Source: ngx_inet_add_addr"""
        ports = range(self.port, max(self.last_port, self.port) + 1)
        if family == AF_INET:
            self.addrs += [Addr(family, (host, port), f"{host}:{port}") for port in ports]
        else:
            text = address_text((host, 0, 0, 0))  # once for a range of thousands
            self.addrs += [Addr(family, (host, port, 0, 0), f"[{text}]:{port}") for port in ports]
        self.family = self.addrs[0].family


def family_of(sockaddr: SockAddr | None) -> int:
    """Return AF_INET, AF_INET6 or AF_UNIX; None is a unix socket without a name."""
    if isinstance(sockaddr, tuple):
        return AF_INET if len(sockaddr) == 2 else AF_INET6
    return AF_UNIX


def sock_ntop(sockaddr: SockAddr) -> str:
    """Return 1.2.3.4:53, [::1]:53 or unix:/path. Source: ngx_inet.c ngx_sock_ntop, port 1"""
    if not isinstance(sockaddr, tuple):
        return address_text(sockaddr)
    if len(sockaddr) == 2:
        host, port = sockaddr
        return f"{host}:{port}"
    return f"[{ip.ntop(packed(sockaddr))}]:{sockaddr[1]}"


def address_text(sockaddr: SockAddr | None) -> str:
    """Return 1.2.3.4, ::1 or unix:/path; `unix:` where there is no path, as with most clients.

    Source: ngx_inet.c ngx_sock_ntop, port 0
    """
    if isinstance(sockaddr, tuple):
        return sockaddr[0] if len(sockaddr) == 2 else ip.ntop(packed(sockaddr))
    if isinstance(sockaddr, bytes):
        sockaddr = sockaddr.decode("utf-8", "surrogateescape")
    return "unix:" + (sockaddr or "").partition("\0")[0]


def host_of(sockaddr: SockAddr) -> str:
    """Return the address without its port as a key; equal for equal addresses."""
    return address_text(sockaddr)


def packed(sockaddr: SockAddr) -> bytes:
    """Return the IP address in 4 or 16 bytes; b"" for a unix socket, which has none."""
    if not isinstance(sockaddr, tuple):
        return b""
    if len(sockaddr) == 2:
        return socket.inet_aton(sockaddr[0])
    return socket.inet_pton(socket.AF_INET6, sockaddr[0].partition("%")[0])


def port_of(sockaddr: SockAddr) -> int:
    """Return the port, 0 for a unix socket. Source: ngx_inet_get_port"""
    return sockaddr[1] if isinstance(sockaddr, tuple) else 0


def is_wildcard(sockaddr: SockAddr) -> bool:
    """Whether the address is 0.0.0.0 or ::. Source: ngx_inet_wildcard"""
    return isinstance(sockaddr, tuple) and not any(packed(sockaddr))


def parse_addr_port(text: str) -> Addr | None:
    """Return the address of a literal with or without port, None when it is none.

    Text is 1.2.3.4, ::1, [::1], 1.2.3.4:53 or [::1]:53; without a port the port is 0.
    Source: ngx_inet.c ngx_parse_addr_port
    """
    port = 0
    address = ip.parse(text)
    if address is None:
        if text.startswith("[") and text.endswith("]"):
            address = ip.inet6_addr(text[1:-1])
            return None if address is None else Addr(AF_INET6, (ip.ntop(address), 0, 0, 0), text)
        if text.startswith("["):
            host, colon, port_text = text[1:].partition("]:")
        else:
            host, colon, port_text = text.partition(":")
        port = ip.atoi(port_text)
        address = ip.parse(host)
        if address is None or not colon or not 1 <= port <= _PORT_MAX:
            return None
    if len(address) == 4:
        return Addr(AF_INET, (ip.ntop(address), port), text)
    return Addr(AF_INET6, (ip.ntop(address), port, 0, 0), text)


def parse_url(text: str, default_port: int = 0, *, listen: bool = False, no_resolve: bool = False,
              uri_part: bool = False) -> Url:
    """Parse an address of the configuration, resolving a host name to all its addresses.

    Args: listen: take bare ports, `*`, and port ranges (an Addr per port); no_resolve: leave a
    host name without addresses; uri_part: a path may follow.
    Raises: UrlError with nginx's words. Blocks while the system resolves a name.
    Source: ngx_inet.c ngx_parse_url
    """
    u = Url(text)
    if text[:5].lower() == "unix:":
        _parse_unix(u, uri_part)
    elif text.startswith("["):
        _parse_inet6(u, default_port, listen, uri_part)
    else:
        _parse_inet(u, default_port, listen, no_resolve, uri_part)
    return u


def resolve_host(host: str) -> list[tuple[str, int]]:
    """Return address and family of everything a name stands for, IPv4 first.

    Raises: UrlError. Source: ngx_inet.c ngx_inet_resolve_host
    """
    try:
        found = socket.getaddrinfo(host.encode("utf-8", "surrogateescape"), None,
                                   type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except (OSError, ValueError):
        raise UrlError("host not found") from None
    addrs = [(str(sockaddr[0]), int(family)) for family, _, _, _, sockaddr in found
             if family in (AF_INET, AF_INET6)]
    if not addrs:
        raise UrlError("host not found")
    return sorted(addrs, key=lambda addr: addr[1] != AF_INET)


def _parse_unix(u: Url, uri_part: bool) -> None:
    path = u.url[5:]
    if uri_part:
        path, _, u.uri = path.partition(":")
    path = path.partition("\0")[0]  # ngx_cpystrn() copies as much
    if not path:
        raise UrlError("no path in the unix domain socket")
    if len(path.encode("utf-8", "surrogateescape")) >= _SUN_PATH:
        raise UrlError("too long path in the unix domain socket")
    u.host = path
    u.family = AF_UNIX
    u.addrs.append(Addr(AF_UNIX, path, u.url))


def _parse_ports(u: Url, text: str, listen: bool) -> None:
    """Set port, and last_port where a range is given."""
    first, dash, last = text.partition("-") if listen else (text, "", "")
    if dash:
        u.last_port = ip.atoi(last)
        if not 1 <= u.last_port <= _PORT_MAX:
            raise UrlError("invalid port")
    u.port = ip.atoi(first)
    if not 1 <= u.port <= _PORT_MAX:
        raise UrlError("invalid port")
    if dash and u.port > u.last_port:
        raise UrlError("invalid port range")


def _is_bare_port(text: str) -> bool:
    """Whether a listen address is a port or a range and no host: numbers only, of any size."""
    first, dash, last = text.partition("-")
    return ip.atoi(first) >= 0 and (not dash or ip.atoi(last) >= 0)


def _parse_inet(u: Url, default_port: int, listen: bool, no_resolve: bool, uri_part: bool) -> None:
    host = u.url
    uri = re.search(r"[/?]", host)
    if uri is not None:
        if listen or not uri_part:
            raise UrlError("invalid host")
        host, u.uri = host[:uri.start()], host[uri.start():]

    host, colon, port_text = host.partition(":")
    if colon:
        _parse_ports(u, port_text, listen)
    elif listen and _is_bare_port(host):
        _parse_ports(u, host, listen)
        u.add(_ANY, AF_INET)
        u.wildcard = True
        return
    else:
        u.no_port = True
        u.port = default_port
    if not host:
        raise UrlError("no host")
    u.host = host

    address = ip.inet_addr(_ANY if listen and host == "*" else host)
    if address is not None:
        u.add(ip.ntop(address), AF_INET)
    elif no_resolve:
        return
    else:
        for text, family in resolve_host(host):
            u.add(text, family)
    u.wildcard = is_wildcard(u.addrs[0].sockaddr)


def _parse_inet6(u: Url, default_port: int, listen: bool, uri_part: bool) -> None:
    host, bracket, rest = u.url[1:].partition("]")
    if not bracket:
        raise UrlError("invalid host")
    rest, slash, uri = rest.partition("/")
    if slash:
        if listen or not uri_part:
            raise UrlError("invalid host")
        u.uri = slash + uri
    if rest:
        if not rest.startswith(":"):
            raise UrlError("invalid host")
        _parse_ports(u, rest[1:], listen)
    else:
        u.no_port = True
        u.port = default_port
    if not host:
        raise UrlError("no host")
    u.host = f"[{host}]"
    address = ip.inet6_addr(host)
    if address is None:
        raise UrlError("invalid IPv6 address")
    u.add(ip.ntop(address), AF_INET6)
    u.wildcard = not any(address)
