"""The client's side of TLS towards a server: SNI, ALPN, and whether its certificate is the one.

What a context trusts its maker has said (event/libssl_context.py); a handshake goes on whatever the
certificate is, and complaint() says afterwards what is wrong with it.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ngxstream.core.log import encode
from ngxstream.event import libssl_facts, tls

if TYPE_CHECKING:
    import socket

    from ngxstream.event.libssl_context import Context
    from ngxstream.event.loop import Loop

_CTRL_SET_HOSTNAME: Final = 55


@dataclass(frozen=True, slots=True)
class Secure:
    """What is done for TLS (event/probing.py, Security).

    Attributes: name: to verify, and to send by SNI, None for that of the peer; alpn: in wire form;
    has_address: the name is an IP address, which the certificate has to be for
    """

    context: Context
    name: bytes | None
    sends_name: bool
    verify: bool
    alpn: bytes = b""
    has_address: bool = False

    def towards(self, server: str) -> Secure:
        """Return what is done for a peer. Args: server: as its line of the group has it"""
        if self.name is not None:
            return self
        return dataclasses.replace(self, name=encode(server))

    def begin(self, loop: Loop, sock: socket.SocketType) -> tls.Transport:
        """Take over a socket; the handshake is still to be made. Raises: SslError"""
        transport = tls.Transport(loop, self.context, sock)
        lib, pointer = transport.lib, transport.pointer
        name = self._host()
        is_sent = self.sends_name and name and not _is_address(name)
        if is_sent and not lib.SSL_ctrl(pointer, _CTRL_SET_HOSTNAME, 0, name + b"\0"):
            transport.close()
            text = name.decode("utf-8", "surrogateescape")
            raise lib.error(f'SSL_set_tlsext_host_name("{text}") failed')
        if self.alpn and lib.SSL_set_alpn_protos(pointer, self.alpn, len(self.alpn)):
            transport.close()
            raise lib.error("SSL_set_alpn_protos() failed")
        return transport

    def complaint(self, transport: tls.Transport) -> str:
        """Return what is wrong with the server's certificate, "" for nothing."""
        if not self.verify:
            return ""
        lib, pointer = transport.lib, transport.pointer
        code, text = libssl_facts.verify_result(lib, pointer)
        if code != libssl_facts.VERIFY_OK:
            return f"upstream SSL certificate verify error: ({code}:{text})"
        name = self._host()
        if self.has_address:
            name = (self.name or b"").strip(b"[]")
            is_right = libssl_facts.peer_has_address(lib, pointer, name)
        else:
            is_right = libssl_facts.peer_matches(lib, pointer, name)
        if not is_right:
            shown = name.decode("utf-8", "surrogateescape")
            return f'upstream SSL certificate does not match "{shown}"'
        return ""

    def _host(self) -> bytes:
        """Return the name without a port. Source: ngx_stream_proxy_ssl_name"""
        name = self.name or b""
        start = name.find(b"]") if name.startswith(b"[") else 0
        colon = name.find(b":", max(start, 0))
        return name[:colon] if colon >= 0 else name


def _is_address(name: bytes) -> bool:
    try:
        ipaddress.ip_address(name.decode("ascii").strip("[]"))
    except ValueError:
        return name.startswith(b"unix")
    return True
