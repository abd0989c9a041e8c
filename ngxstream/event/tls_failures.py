"""Why a handshake failed, in the words by which NGINX Plus counts it.

Answers for what the statistics of ngx_event_openssl.c would tell apart; the numbers are those of
OpenSSL's headers (sslerr.h, x509_vfy.h) and of RFC 8446 §6.2.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ngxstream.event.libssl import Library

NO_COMMON_PROTOCOL: Final = "no_common_protocol"
NO_COMMON_CIPHER: Final = "no_common_cipher"
PEER_REJECTED_CERT: Final = "peer_rejected_cert"
# what may be wrong with a peer's certificate
NO_CERT: Final = "no_cert"
EXPIRED_CERT: Final = "expired_cert"
REVOKED_CERT: Final = "revoked_cert"
HOSTNAME_MISMATCH: Final = "hostname_mismatch"
OTHER: Final = "other"

_ALERT: Final = 1000  # an alert that came has this and its number for a reason
_REASONS: Final = {
    166: NO_COMMON_PROTOCOL,  # SSL_R_VERSION_TOO_HIGH
    191: NO_COMMON_PROTOCOL,  # SSL_R_NO_PROTOCOLS_AVAILABLE
    193: NO_COMMON_CIPHER,  # SSL_R_NO_SHARED_CIPHER
    258: NO_COMMON_PROTOCOL,  # SSL_R_UNSUPPORTED_PROTOCOL
    266: NO_COMMON_PROTOCOL,  # SSL_R_WRONG_SSL_VERSION
    396: NO_COMMON_PROTOCOL,  # SSL_R_VERSION_TOO_LOW
    _ALERT + 70: NO_COMMON_PROTOCOL,  # protocol_version
    **{
        _ALERT + number: PEER_REJECTED_CERT
        # bad, unsupported, revoked, expired, unknown certificate; unknown_ca
        for number in (42, 43, 44, 45, 46, 48)
    },
}
_VERIFIED: Final = {
    9: EXPIRED_CERT,  # X509_V_ERR_CERT_NOT_YET_VALID
    10: EXPIRED_CERT,  # X509_V_ERR_CERT_HAS_EXPIRED
    23: REVOKED_CERT,  # X509_V_ERR_CERT_REVOKED
    62: HOSTNAME_MISMATCH,  # X509_V_ERR_HOSTNAME_MISMATCH
}
_CODE: Final = re.compile(r"error:([0-9A-F]{8}):")


def of_handshake(lib: Library, message: str) -> str:
    """Return the word for a handshake that failed, "" if it has none.

    Args: message: of tls.Transport.failure, in which the library's codes stand
    """
    for found in _CODE.finditer(message):
        _, reason = lib.split_code(int(found[1], 16))
        if reason in _REASONS:
            return _REASONS[reason]
    return ""


def of_certificate(code: int) -> str:
    """Return the word for a certificate that is refused. Args: code: of libssl_facts.verify_result

    A peer that has shown none, and a name that libssl_facts.peer_matches does not find, have no
    code: NO_CERT and HOSTNAME_MISMATCH.
    """
    return _VERIFIED.get(code, OTHER)
