"""Handshakes with servers where an `api` shows how they end: each is counted, and why one fails.

modules/ssl/counted.py does the same with clients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ngxstream.event import libssl_facts, tls_failures
from ngxstream.modules.proxy import tls
from ngxstream.stream import tls_facts

if TYPE_CHECKING:
    from ngxstream.modules.proxy.ssl_conf import ProxySslConf
    from ngxstream.modules.proxy.tcp import TcpProxy


class Handshake(tls.Handshake):
    """A handshake with a server, counted for it."""

    __slots__ = ()

    def complain(self, proxy: TcpProxy) -> None:
        """Count one that failed, and say why it did."""
        count(proxy, tls_facts.FAILED,
                   tls_failures.of_handshake(self.transport.lib, self.transport.failure[0]))
        super().complain(proxy)

    def complaint(self, proxy: TcpProxy, conf: ProxySslConf) -> str:
        """Count one that is done, and a certificate that is refused. Returns: what is wrong"""
        lib, connection = self.transport.lib, self.transport.pointer
        reused = lib.SSL_session_reused(connection)
        count(proxy, tls_facts.HANDSHAKES, tls_facts.REUSES if reused else "")
        said = super().complaint(proxy, conf)
        if said:
            code, _ = libssl_facts.verify_result(lib, connection)
            matches = code != libssl_facts.VERIFY_OK
            why = tls_failures.of_certificate(code) if matches else tls_failures.HOSTNAME_MISMATCH
            count(proxy, why)
        return said


def count(proxy: TcpProxy, *names: str) -> None:
    """Count for the peer of a session, if it is one of a group. Args: names: of tls_facts"""
    facts, peer = proxy.upstream.facts, proxy.peer
    if facts is not None and peer is not None:
        facts.count_tls(peer, proxy.loop.cells, *names)
