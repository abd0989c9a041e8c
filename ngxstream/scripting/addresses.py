"""Addresses as a user's function sees them."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from ngxstream.core import inet

if TYPE_CHECKING:
    from ngxstream.core.inet import SockAddr


class Address:
    """The address of one end of a connection.

    `ip` is an ipaddress.IPv4Address or IPv6Address, None for a Unix socket; `port` is 0 for one;
    str() is the text that logs have, `192.0.2.1:53`, `[2001:db8::1]:53`, `unix:/run/a.sock`.
    """

    __slots__ = ("_ip", "_sockaddr", "port")

    def __init__(self, sockaddr: SockAddr) -> None:
        """Args: sockaddr: as the socket module gives it"""
        self._sockaddr = sockaddr
        self._ip: ipaddress.IPv4Address | ipaddress.IPv6Address | None = None
        self.port: int = inet.port_of(sockaddr)

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The IP address; None for a Unix socket."""
        if self._ip is None and isinstance(self._sockaddr, tuple):
            self._ip = ipaddress.ip_address(self._sockaddr[0].partition("%")[0])
        return self._ip

    @classmethod
    def named(cls, text: str) -> Address | None:
        """Return the address that a log would name so, None for what is none."""
        if text.startswith("unix:"):
            return cls(text.removeprefix("unix:"))
        found = inet.parse_addr_port(text)
        return None if found is None else cls(found.sockaddr)

    def __str__(self) -> str:
        return inet.sock_ntop(self._sockaddr) or "unix:"

    def __repr__(self) -> str:
        return f"<Address {self}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))
