"""The ssl phase where an `api` shows how handshakes end: each is counted, and why one fails.

It takes the place of modules/ssl/handshake.py by configuration. nginx has no counterpart; NGINX
Plus counts in ngx_event_openssl.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ngxstream.core import codes
from ngxstream.event import libssl_facts, tls, tls_failures
from ngxstream.modules.ssl import handshake
from ngxstream.stream import tls_facts

if TYPE_CHECKING:
    from ngxstream.stream.session import Session


class Handshake(handshake.Handshake):
    """A client's handshake, counted by the server that it ends at."""

    __slots__ = ()

    @staticmethod
    def admit(s: Session, transport: tls.Transport) -> int:
        """Count a handshake that is done, and check its client. Returns: as the method it hides"""
        lib, connection = transport.lib, transport.pointer
        reused = lib.SSL_session_reused(connection)
        _count(s, tls_facts.HANDSHAKES, tls_facts.REUSES if reused else "")
        code = handshake.Handshake.admit(s, transport)
        if code == codes.ERROR:  # of the certificate: rules of access say so by a status
            verified, _ = libssl_facts.verify_result(lib, connection)
            if verified != libssl_facts.VERIFY_OK:
                _count(s, tls_failures.of_certificate(verified))
            elif libssl_facts.has_peer(lib, connection):
                _count(s, tls_failures.OTHER)  # it was shown to another server
            else:
                _count(s, tls_failures.NO_CERT)
        return code

    def complain(self, transport: tls.Transport) -> None:
        """Say why the handshake failed."""
        why = tls_failures.of_handshake(transport.lib, transport.failure[0])
        _count(self.s, tls_facts.FAILED, why)
        super().complain(transport)

    def on_timeout(self) -> None:
        """End the session: ssl_handshake_timeout is over."""
        _count(self.s, tls_facts.FAILED, tls_facts.TIMEOUT)
        super().on_timeout()


def _count(s: Session, *names: str) -> None:
    """Count for the server of a session."""
    handshakes = s.server.handshakes
    if handshakes is not None:
        handshakes.count(s.loop.cells, *names)

