"""A TLS client that comes back with the session of the connection before, one after another."""

from __future__ import annotations

import socket
import ssl
from time import monotonic

REQUEST = b"GET / HTTP/1.0\r\n\r\n"


def resume(port: int, seconds: float) -> dict[str, float]:
    """Make connections by TLS 1.3, each resumed by a ticket of the former, with a request in each.

    Returns: those that were not resumed are lost
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    session: ssl.SSLSession | None = None
    units = resumed = 0
    begin = monotonic()
    while monotonic() - begin < seconds:
        plain = socket.create_connection(("127.0.0.1", port))
        with context.wrap_socket(plain, session=session) as sock:
            resumed += bool(sock.session_reused)
            sock.sendall(REQUEST)
            while sock.recv(4096):
                pass
            session = sock.session
            units += 1
    return {"units": units, "seconds": monotonic() - begin, "lost": units - resumed - 1}
