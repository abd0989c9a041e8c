"""What there is to know of a connection's handshake: the peer's certificate, what was offered and
what was chosen. Part of event/libssl.py.

Answers for the ngx_ssl_get_*() functions of src/event/ngx_event_openssl.c. Every function takes
the library and the SSL* and returns bytes, empty where nginx has none.
"""

from __future__ import annotations

import ctypes
import hashlib
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from ngxstream.core import clock as clocks
from ngxstream.event import libssl, libssl_pem, libssl_sessions

Fact = Callable[[libssl.Library, int], bytes]

VERIFY_OK: Final = 0

_CTRL_GET_GROUPS: Final = 90
_CTRL_GET_RAW_CIPHERLIST: Final = 110
_CTRL_GET_NEGOTIATED_GROUP: Final = 134
_UNKNOWN_GROUP: Final = 0x1000000
_CTRL_PENDING: Final = 10  # BIO_CTRL_PENDING
_FLAG_RFC2253: Final = 0x1110317  # XN_FLAG_RFC2253: ASN1_STRFLGS_RFC2253 and the separators
_NID_COMMON_NAME: Final = 13
_KEY_TYPES: Final = {6: "RSA", 116: "DSA", 408: "EC", 912: "RSASSA-PSS"}


# -- the handshake -----------------------------------------------------------------------------


def protocol(lib: libssl.Library, connection: int) -> bytes:
    """Return `TLSv1.3` and the like."""
    return lib.SSL_get_version(connection) or b""


def cipher(lib: libssl.Library, connection: int) -> bytes:
    """Return the name of the cipher; `(NONE)` before there is one."""
    return lib.SSL_CIPHER_get_name(lib.SSL_get_current_cipher(connection)) or b""


def ciphers(lib: libssl.Library, connection: int) -> bytes:
    """Return the client's ciphers, unknown ones in hex."""
    at = ctypes.c_void_p()
    width = lib.SSL_ctrl(connection, _CTRL_GET_RAW_CIPHERLIST, 0, None)
    size = lib.SSL_ctrl(connection, _CTRL_GET_RAW_CIPHERLIST, 0, ctypes.byref(at))
    if size <= 0 or width <= 0 or not at.value:
        return b""
    raw = ctypes.string_at(at.value, size)
    names = []
    for start in range(0, size - width + 1, width):
        code = raw[start : start + width]
        known = lib.SSL_CIPHER_find(connection, code)
        names.append(lib.SSL_CIPHER_get_name(known) if known else b"0x" + code.hex().encode())
    return b":".join(names)


def curve(lib: libssl.Library, connection: int) -> bytes:
    """Return the group of the key exchange (libraries before 3.0 do not tell)."""
    if not lib.SSL_get_session(connection):
        return b""  # a handshake that failed early: OpenSSL 3.0 would read behind a null pointer
    nid = lib.SSL_ctrl(connection, _CTRL_GET_NEGOTIATED_GROUP, 0, None)
    return _group(lib, nid) if nid > 0 else b""


def curves(lib: libssl.Library, connection: int) -> bytes:
    """Return the client's groups."""
    count = lib.SSL_ctrl(connection, _CTRL_GET_GROUPS, 0, None)
    if count <= 0:
        return b""
    nids = (ctypes.c_int * count)()
    count = lib.SSL_ctrl(connection, _CTRL_GET_GROUPS, 0, ctypes.addressof(nids))
    return b":".join(_group(lib, nid) for nid in nids[:count])


def _group(lib: libssl.Library, nid: int) -> bytes:
    if nid & _UNKNOWN_GROUP:
        return b"0x%04x" % (nid & 0xFFFF)
    return lib.OBJ_nid2sn(nid) or b""


def sigalg(lib: libssl.Library, connection: int) -> bytes:
    """Return the algorithm of the server's signature, where the library tells."""
    return _signature(lib.SSL_get0_signature_name, connection)


def client_sigalg(lib: libssl.Library, connection: int) -> bytes:
    """Return the algorithm of the client's signature, where the library tells."""
    return _signature(lib.SSL_get0_peer_signature_name, connection)


def _signature(call: Callable[..., int] | None, connection: int) -> bytes:
    name = ctypes.c_char_p()
    if call is None or not call(connection, ctypes.byref(name)):
        return b""
    return name.value or b""


def sigalgs(lib: libssl.Library, connection: int) -> bytes:
    """Return the codes of the client's signature algorithms."""
    count = lib.SSL_get_sigalgs(connection, 0, None, None, None, None, None)
    codes = []
    low, high = ctypes.c_ubyte(), ctypes.c_ubyte()
    for index in range(count):
        lib.SSL_get_sigalgs(
            connection, index, None, None, None, ctypes.byref(low), ctypes.byref(high)
        )
        codes.append(b"0x%02x%02x" % (high.value, low.value))
    return b":".join(codes)


def session_id(lib: libssl.Library, connection: int) -> bytes:
    """Return the id of the session in hex."""
    session = lib.SSL_get_session(connection)
    return libssl_sessions.session_id(lib, session).hex().encode() if session else b""


def session_reused(lib: libssl.Library, connection: int) -> bytes:
    """Return `r` for a session that was resumed, else `.`"""
    return b"r" if lib.SSL_session_reused(connection) else b"."


def server_name(lib: libssl.Library, connection: int) -> bytes:
    """Return the name the client asked for."""
    return lib.SSL_get_servername(connection, 0) or b""


def session_name(lib: libssl.Library, connection: int) -> bytes | None:
    """Return the name the session was made under, None for none."""
    session = lib.SSL_get_session(connection)
    return lib.SSL_SESSION_get0_hostname(session) if session else None


def alpn_protocol(lib: libssl.Library, connection: int) -> bytes:
    """Return the protocol chosen by ALPN."""
    at, size = ctypes.c_void_p(), ctypes.c_uint()
    lib.SSL_get0_alpn_selected(connection, ctypes.byref(at), ctypes.byref(size))
    return ctypes.string_at(at.value, size.value) if at.value and size.value else b""


def verify_result(lib: libssl.Library, connection: int) -> tuple[int, str]:
    """Return what the check of the peer's certificate came to, as number and text."""
    code = lib.SSL_get_verify_result(connection)
    return code, (lib.X509_verify_cert_error_string(code) or b"").decode("ascii", "replace")


def peer_matches(lib: libssl.Library, connection: int, name: bytes) -> bool:
    """Tell whether the peer's certificate is for a name. Source: ngx_ssl_check_host"""
    with _peer(lib, connection) as x509:
        if not x509 or not name:
            return False
        return bool(lib.X509_check_host(x509, name, len(name), 0, None) == 1)


def peer_has_address(lib: libssl.Library, connection: int, address: bytes) -> bool:
    """Tell whether the peer's certificate is for an IP address. Args: address: its text"""
    with _peer(lib, connection) as x509:
        return bool(x509 and lib.X509_check_ip_asc(x509, address, 0) == 1)


# -- the peer's certificate --------------------------------------------------------------------


@contextmanager
def _peer(lib: libssl.Library, connection: int) -> Iterator[int]:
    """Borrow the peer's certificate; 0 where it sent none."""
    x509 = lib.SSL_get1_peer_certificate(connection) or 0
    try:
        yield x509
    finally:
        if x509:
            lib.X509_free(x509)


def has_peer(lib: libssl.Library, connection: int) -> bool:
    """Tell whether the peer has shown a certificate, now or when the session began."""
    with _peer(lib, connection) as x509:
        return bool(x509)


def _der(lib: libssl.Library, connection: int) -> bytes:
    with _peer(lib, connection) as x509:
        return libssl_pem.der_of(lib, x509) if x509 else b""


def raw_certificate(lib: libssl.Library, connection: int) -> bytes:
    """Return the certificate in PEM."""
    der = _der(lib, connection)
    return ssl.DER_cert_to_PEM_cert(der).encode() if der else b""


def certificate(lib: libssl.Library, connection: int) -> bytes:
    """Return the certificate in PEM, a tab before every line but the first."""
    return raw_certificate(lib, connection)[:-1].replace(b"\n", b"\n\t")


_UNESCAPED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def escaped_certificate(lib: libssl.Library, connection: int) -> bytes:
    """Return the certificate in PEM, URL-encoded. Source: NGX_ESCAPE_URI_COMPONENT"""
    pem = raw_certificate(lib, connection)
    return b"".join(b"%c" % byte if byte in _UNESCAPED else b"%%%02X" % byte for byte in pem)


def subject(lib: libssl.Library, connection: int) -> bytes:
    """Return the certificate's subject by RFC 2253."""
    with _peer(lib, connection) as x509:
        return subject_of(lib, x509) if x509 else b""


def issuer(lib: libssl.Library, connection: int) -> bytes:
    """Return the certificate's issuer by RFC 2253."""
    with _peer(lib, connection) as x509:
        return _name(lib, lib.X509_get_issuer_name(x509)) if x509 else b""


def _name(lib: libssl.Library, name: int) -> bytes:
    return _printed(lib, lambda bio: lib.X509_NAME_print_ex(bio, name, 0, _FLAG_RFC2253))


def serial(lib: libssl.Library, connection: int) -> bytes:
    """Return the certificate's serial number in hex."""
    with _peer(lib, connection) as x509:
        if not x509:
            return b""
        number = lib.X509_get_serialNumber(x509)
        return _printed(lib, lambda bio: lib.i2a_ASN1_INTEGER(bio, number))


def fingerprint(lib: libssl.Library, connection: int) -> bytes:
    """Return the SHA-1 of the certificate in hex."""
    der = _der(lib, connection)
    return hashlib.sha1(der, usedforsecurity=False).hexdigest().encode() if der else b""


def client_verify(lib: libssl.Library, connection: int) -> bytes:
    """Return `NONE`, `SUCCESS` or `FAILED:reason`."""
    if not has_peer(lib, connection):
        return b"NONE"
    code, text = verify_result(lib, connection)
    return b"SUCCESS" if code == VERIFY_OK else b"FAILED:" + text.encode()


def not_before(lib: libssl.Library, connection: int) -> bytes:
    """Return when the certificate begins to be valid."""
    with _peer(lib, connection) as x509:
        return _time(lib, lib.X509_get0_notBefore(x509)) if x509 else b""


def not_after(lib: libssl.Library, connection: int) -> bytes:
    """Return when the certificate ends to be valid."""
    with _peer(lib, connection) as x509:
        return _time(lib, lib.X509_get0_notAfter(x509)) if x509 else b""


def days_left(lib: libssl.Library, connection: int) -> bytes:
    """Return for how many whole days the certificate is valid still."""
    end = seconds_of(not_after(lib, connection))
    if end is None:
        return b""
    return b"%d" % max(0, (end - int(time.time())) // 86400)


_MONTHS: Final = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


def seconds_of(moment: bytes) -> int | None:
    """Read a moment as OpenSSL prints it; None for what is none.

    ssl.cert_time_to_seconds() imports two modules when it is called, and a worker's user may have
    no way to where they are. Source: ngx_ssl_parse_time
    """
    words = moment.split()
    try:
        month, day, clock, year, _ = words
        hour, minute, second = map(int, clock.split(b":"))
        return clocks.seconds_of(
            int(year), _MONTHS.index(month) + 1, int(day), hour, minute, second
        )
    except ValueError:
        return None


def _time(lib: libssl.Library, moment: int) -> bytes:
    return _printed(lib, lambda bio: lib.ASN1_TIME_print(bio, moment))


def common_name(lib: libssl.Library, connection: int) -> bytes:
    """Return the common name of the certificate's subject."""
    with _peer(lib, connection) as x509:
        if not x509:
            return b""
        buffer = ctypes.create_string_buffer(256)
        name = lib.X509_get_subject_name(x509)
        size = lib.X509_NAME_get_text_by_NID(name, _NID_COMMON_NAME, buffer, len(buffer))
        return buffer.raw[:size] if size > 0 else b""


# -- any certificate that was loaded -----------------------------------------------------------


def subject_of(lib: libssl.Library, x509: int) -> bytes:
    """Return a certificate's subject by RFC 2253."""
    return _name(lib, lib.X509_get_subject_name(x509))


def end_of(lib: libssl.Library, x509: int) -> int | None:
    """Return when a certificate ends to be valid, in seconds since 1970; None if it says nothing"""
    return seconds_of(_time(lib, lib.X509_get0_notAfter(x509)))


# -- the server's own certificate --------------------------------------------------------------


def own_signature(lib: libssl.Library, connection: int) -> bytes:
    """Return the algorithm our certificate is signed with."""
    x509 = lib.SSL_get_certificate(connection)
    return (lib.OBJ_nid2sn(lib.X509_get_signature_nid(x509)) or b"") if x509 else b""


def own_key(lib: libssl.Library, connection: int) -> bytes:
    """Return kind and size of our certificate's key: `RSA2048`, `EC256`."""
    x509 = lib.SSL_get_certificate(connection)
    key = lib.X509_get0_pubkey(x509) if x509 else None
    if not key:
        return b""
    kind = _KEY_TYPES.get(lib.EVP_PKEY_get_base_id(key))
    return f"{kind}{lib.EVP_PKEY_get_bits(key)}".encode() if kind else b""


def _printed(lib: libssl.Library, print_to: Callable[[int], int]) -> bytes:
    bio = lib.BIO_new(lib.BIO_s_mem())
    try:
        print_to(bio)
        size = lib.BIO_ctrl(bio, _CTRL_PENDING, 0, None)
        buffer = ctypes.create_string_buffer(size or 1)
        lib.BIO_read(bio, buffer, size)
        return buffer.raw[:size]
    finally:
        lib.BIO_free(bio)
