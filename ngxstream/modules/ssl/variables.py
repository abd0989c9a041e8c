"""The $ssl_* variables: what is known of a client's handshake.

Answers for ngx_stream_ssl_vars (ngx_stream_ssl_module.c). Not found on a plain connection, and,
but for the protocol and the cipher, where there is nothing to say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ngxstream.event import libssl_facts as facts
from ngxstream.event import tls
from ngxstream.stream.variables import CHANGEABLE, Getter, Variable

if TYPE_CHECKING:
    from ngxstream.stream.session import Session


def _told(fact: Callable[[], facts.Fact]) -> Getter:
    """Make the getter of a fact; its module loads on first use. Source: ngx_stream_ssl_variable"""

    def get(s: Session) -> bytes | None:
        sock = s.c.sock
        if type(sock) is not tls.Transport or not sock.pointer:
            return None
        return fact()(sock.lib, sock.pointer) or None

    return get


def _static(fact: Callable[[], facts.Fact]) -> Getter:
    """Make the getter of a fact there always is. Source: ngx_stream_ssl_static_variable"""

    def get(s: Session) -> bytes | None:
        sock = s.c.sock
        if type(sock) is not tls.Transport or not sock.pointer:
            return None
        return fact()(sock.lib, sock.pointer)

    return get


def _never(s: Session) -> bytes | None:
    """Get nothing: Encrypted Client Hello is not served."""
    return None


VARIABLES = tuple(
    Variable(name, get, CHANGEABLE, doc)
    for name, get, doc in (
        ("ssl_protocol", _static(lambda: facts.protocol), "Version of the protocol: `TLSv1.3`."),
        ("ssl_cipher", _static(lambda: facts.cipher), "Cipher in use."),
        ("ssl_ciphers", _told(lambda: facts.ciphers),
         "Ciphers the client offers, joined by colons."),
        ("ssl_curve", _told(lambda: facts.curve), "Group of the key exchange."),
        ("ssl_curves", _told(lambda: facts.curves), "Groups the client offers, joined by colons."),
        ("ssl_sigalg", _told(lambda: facts.sigalg), "Algorithm of the server's signature."),
        ("ssl_client_sigalg", _told(lambda: facts.client_sigalg),
         "Algorithm of the client's signature."),
        ("ssl_sigalgs", _told(lambda: facts.sigalgs),
         "Codes of the signature algorithms the client offers, joined by colons."),
        ("ssl_session_id", _told(lambda: facts.session_id), "Id of the session, in hex."),
        ("ssl_session_reused", _told(lambda: facts.session_reused),
         "`r` for a resumed session, or `.`."),
        ("ssl_server_name", _told(lambda: facts.server_name), "Name the client asked for (SNI)."),
        ("ssl_alpn_protocol", _told(lambda: facts.alpn_protocol), "Protocol chosen by ALPN."),
        ("ssl_ech_status", _never, "Never found: ECH is not served."),
        ("ssl_ech_outer_server_name", _never, "Never found: ECH is not served."),
        ("ssl_client_cert", _told(lambda: facts.certificate),
         "Client's certificate in PEM, a tab before every line but the first."),
        ("ssl_client_raw_cert", _told(lambda: facts.raw_certificate),
         "Client's certificate in PEM."),
        ("ssl_client_escaped_cert", _told(lambda: facts.escaped_certificate),
         "Client's certificate in PEM, URL-encoded."),
        ("ssl_client_s_dn", _told(lambda: facts.subject), "Subject of the client's certificate."),
        ("ssl_client_i_dn", _told(lambda: facts.issuer), "Issuer of the client's certificate."),
        ("ssl_client_serial", _told(lambda: facts.serial),
         "Serial number of the client's certificate."),
        ("ssl_client_fingerprint", _told(lambda: facts.fingerprint),
         "SHA-1 of the client's certificate."),
        ("ssl_client_verify", _told(lambda: facts.client_verify),
         "`NONE`, `SUCCESS` or `FAILED:reason`."),
        ("ssl_client_v_start", _told(lambda: facts.not_before),
         "When the client's certificate begins to be valid."),
        ("ssl_client_v_end", _told(lambda: facts.not_after),
         "When the client's certificate ends to be valid."),
        ("ssl_client_v_remain", _told(lambda: facts.days_left),
         "Whole days the client's certificate is valid for."),
    )
)
