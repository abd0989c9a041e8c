"""A TLS context: what one server, or one way to upstream servers, says of every handshake.

Part of event/libssl.py. Answers for the ngx_ssl_*() calls of
src/event/ngx_event_openssl.c that configure an SSL_CTX; each method raises SslError in nginx's
words. Contexts are made by the master and used by the workers it forks.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import ssl
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Final, TypeVar

from ngxstream.core.log import encode
from ngxstream.event import libssl, libssl_pem
from ngxstream.event.tls_protocols import SSLV3, TLSV1, TLSV1_1, TLSV1_2, TLSV1_3

T = TypeVar("T")

_NO_PROTOCOL: Final = (
    (SSLV3, ssl.OP_NO_SSLv3), (TLSV1, ssl.OP_NO_TLSv1), (TLSV1_1, ssl.OP_NO_TLSv1_1),
    (TLSV1_2, ssl.OP_NO_TLSv1_2), (TLSV1_3, ssl.OP_NO_TLSv1_3),
)
_NO_ANTI_REPLAY: Final = 1 << 24
_DONT_INSERT_EMPTY_FRAGMENTS: Final = 1 << 11
_OPTIONS: Final = (
    _NO_ANTI_REPLAY
    | _DONT_INSERT_EMPTY_FRAGMENTS
    | ssl.OP_NO_COMPRESSION
    | ssl.OP_ENABLE_MIDDLEBOX_COMPAT
    | ssl.OP_SINGLE_DH_USE
    | ssl.OP_SINGLE_ECDH_USE
    # the end of a stream without close_notify is an end like any other, as in nginx
    | getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 1 << 7)
)
NO_TICKET: Final = int(ssl.OP_NO_TICKET)
NO_RENEGOTIATION: Final = int(ssl.OP_NO_RENEGOTIATION)

_MODES: Final = 0x02 | 0x08 | 0x10  # ACCEPT_MOVING_WRITE_BUFFER, NO_AUTO_CHAIN, RELEASE_BUFFERS
_CTRL_MODE: Final = 33
_CTRL_SET_READ_AHEAD: Final = 41
_CTRL_SET_SESS_CACHE_SIZE: Final = 42
_CTRL_SET_SESS_CACHE_MODE: Final = 44
_CTRL_SET_SERVERNAME_CB: Final = 53
_CTRL_SET_STATUS_REQ_CB: Final = 63
_CTRL_SET_STATUS_REQ_OCSP_RESP: Final = 71
_CTRL_SET_GROUPS_LIST: Final = 92
_CTRL_SET_TMP_DH: Final = 3
_CTRL_CHAIN: Final = 88
_CTRL_SET_MIN_PROTO_VERSION: Final = 123
_CTRL_SET_MAX_PROTO_VERSION: Final = 124
_TLS1_3_VERSION: Final = 0x0304

# The library reads ahead, as nginx has it do: one read(2) for a record instead of two. A larger
# buffer than its own takes several records at once; it is given back whenever it is empty.
READ_AHEAD: Final = 64 * 1024 + 512
# Where the kernel decrypts, a read takes the bytes of as many records as there is room for, and the
# library notes how many in 16 bits: with that buffer it would lose 64 KiB and say nothing.
_ENABLE_KTLS: Final = 1 << 3

CACHE_OFF: Final = 0
CACHE_SERVER: Final = 2
CACHE_NO_AUTO_CLEAR: Final = 0x80
CACHE_NO_INTERNAL_LOOKUP: Final = 0x100
CACHE_NO_INTERNAL_STORE: Final = 0x200
CACHE_NO_INTERNAL: Final = CACHE_NO_INTERNAL_LOOKUP | CACHE_NO_INTERNAL_STORE

VERIFY_PEER: Final = 1
_CRL_CHECK: Final = 0x4 | 0x8  # the leaf and every authority
_CONF_FLAGS: Final = 0x2 | 0x4 | 0x8 | 0x10 | 0x20  # FILE CLIENT SERVER SHOW_ERRORS CERTIFICATE
_CONF_TYPE_FILE: Final = 2
_CONF_TYPE_DIR: Final = 3

_TLSEXT_OK: Final = 0
_TLSEXT_ALERT_FATAL: Final = 2
_TLSEXT_NOACK: Final = 3
_CLIENT_HELLO_SUCCESS: Final = 1
_CLIENT_HELLO_ERROR: Final = 0
_ALERT_INTERNAL_ERROR: Final = 80
_NEGOTIATED: Final = 1

_VERIFY_CB: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
_HELLO_CB: Final = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int), ctypes.c_void_p
)
_CERT_CB: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_ALPN_CB: Final = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint,
    ctypes.c_void_p,
)
_STATUS_CB: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)

HelloHandler = Callable[[int, bytes | None], int]
CertificateHandler = Callable[[int], bool]


# A handshake goes on whatever the certificate is; its result is asked for afterwards.
_go_on: Final = _VERIFY_CB(lambda ok, store: 1)


class Context:
    """An SSL_CTX, which it owns."""

    __slots__ = (
        "lib",
        "pointer",  # int: SSL_CTX*, which it owns
        "server_side",
        "id_context",  # bytes: what sessions are bound to, b"" at the client's side
        "leaves",  # list[Stack]: certificates in the order they were given
        "sessions",  # dict of PeerSession: of a client side: the latest session of each peer
        "owner",  # whatever those who made it want to find again
        "cache",  # called with a session that is not valid any more, or None
        "_kept",  # list: callbacks and buffers the SSL_CTX points at
        "_ca_names",  # list[bytes]: DER of the names sent to clients
    )

    def __init__(self, protocols: int, *, server_side: bool) -> None:
        """Make one. Args: protocols: An OR of the bits above. Source: ngx_ssl_create"""
        lib = self.lib = libssl.load()
        self.pointer: int = 0
        method = lib.TLS_server_method() if server_side else lib.TLS_client_method()
        self.pointer = lib.SSL_CTX_new(method) or 0
        if not self.pointer:
            raise lib.error("SSL_CTX_new() failed")
        self.server_side = server_side
        self.id_context = b""
        self.leaves: list[libssl_pem.Stack] = []
        self.sessions: dict[Hashable, object] = {}
        self.owner: Any = None
        self.cache: Any = None
        self._kept: list[object] = []
        self._ca_names: list[bytes] = []
        options = int(_OPTIONS) | (NO_RENEGOTIATION if server_side else 0)
        for bit, refused in _NO_PROTOCOL:
            if not protocols & bit:
                options |= int(refused)
        lib.SSL_CTX_clear_options(self.pointer, lib.SSL_CTX_get_options(self.pointer))
        lib.SSL_CTX_set_options(self.pointer, options)
        ctrl = lib.SSL_CTX_ctrl
        # the options decide: those of a virtual server then hold for its clients too
        ctrl(self.pointer, _CTRL_SET_MIN_PROTO_VERSION, 0, None)
        ctrl(self.pointer, _CTRL_SET_MAX_PROTO_VERSION, _TLS1_3_VERSION, None)
        ctrl(self.pointer, _CTRL_MODE, _MODES, None)
        ctrl(self.pointer, _CTRL_SET_READ_AHEAD, 1, None)
        lib.SSL_CTX_set_default_read_buffer_len(self.pointer, READ_AHEAD)
        if server_side:
            # A name is acknowledged, so that the library keeps it with the session. The callback
            # is a function of the library that says 0 (SSL_TLSEXT_ERR_OK), so that a handshake
            # with a name runs nothing of Python for it.
            accept = ctypes.cast(lib.SSL_is_dtls, ctypes.c_void_p)
            lib.SSL_CTX_callback_ctrl(self.pointer, _CTRL_SET_SERVERNAME_CB, accept)
        lib.ERR_clear_error()

    def __del__(self) -> None:
        """Free the SSL_CTX. What other processes share of its sessions stays."""
        if self.pointer:
            self.lib.SSL_CTX_sess_set_remove_cb(self.pointer, None)
            self.lib.SSL_CTX_free(self.pointer)

    # -- both sides ----------------------------------------------------------------------------

    def set_options(self, options: int) -> None:
        """Add options. Source: SSL_CTX_set_options"""
        self.lib.SSL_CTX_set_options(self.pointer, options)

    def set_ciphers(self, ciphers: str, prefer_server: bool = False) -> None:
        """Choose the ciphers of TLS 1.2 and below. Source: ngx_ssl_ciphers"""
        if not self.lib.SSL_CTX_set_cipher_list(self.pointer, encode(ciphers)):
            raise self.lib.error(f'SSL_CTX_set_cipher_list("{ciphers}") failed')
        if prefer_server:
            self.set_options(int(ssl.OP_CIPHER_SERVER_PREFERENCE))

    def add_certificate(self, name: str, key_name: str,
                        passwords: tuple[bytes, ...] | None) -> None:
        """Use a certificate, one for each kind of key. Source: ngx_ssl_certificate"""
        lib, pointer = self.lib, self.pointer
        stack = libssl_pem.read_certificates(lib, name)
        if not lib.SSL_CTX_use_certificate(pointer, stack.pointers[0]):
            raise lib.error(f'SSL_CTX_use_certificate("{name}") failed')
        if not with_chain(lib, stack, lambda sk: lib.SSL_CTX_ctrl(pointer, _CTRL_CHAIN, 1, sk)):
            raise lib.error(f'SSL_CTX_set0_chain("{name}") failed')
        self.leaves.append(stack)
        key = libssl_pem.read_key(lib, key_name, passwords)
        if not lib.SSL_CTX_use_PrivateKey(pointer, key.pointer):
            raise lib.error(f'SSL_CTX_use_PrivateKey("{key_name}") failed')

    def verify_peer(self, depth: int, *, ask: bool) -> None:
        """Check peers' certificates; `ask` requests one. Source: ngx_ssl_trusted_certificate"""
        lib, pointer = self.lib, self.pointer
        mode = VERIFY_PEER if ask else lib.SSL_CTX_get_verify_mode(pointer)
        lib.SSL_CTX_set_verify(pointer, mode, _go_on)
        lib.SSL_CTX_set_verify_depth(pointer, depth)

    def trust(self, name: str, *, announce: bool = False) -> libssl_pem.Stack:
        """Trust a file's CAs; `announce` them to clients. Source: ngx_ssl_client_certificate"""
        lib = self.lib
        stack = libssl_pem.read_certificates(lib, name)
        store = lib.SSL_CTX_get_cert_store(self.pointer)
        for x509 in stack.pointers:
            if lib.X509_STORE_add_cert(store, x509) != 1:
                raise lib.error(f'X509_STORE_add_cert("{name}") failed')
        if announce:
            self._announce(stack)
        return stack

    def _announce(self, stack: libssl_pem.Stack) -> None:
        lib = self.lib
        names = lib.OPENSSL_sk_new_null()  # the SSL_CTX frees it, and the names in it
        known: list[int] = []
        for x509 in stack.pointers:
            name = lib.X509_get_subject_name(x509)
            if any(lib.X509_NAME_cmp(name, other) == 0 for other in known):
                continue
            known.append(name)
            self._ca_names.append(libssl_pem.name_der(lib, name))
            lib.OPENSSL_sk_push(names, lib.X509_NAME_dup(name))
        lib.SSL_CTX_set_client_CA_list(self.pointer, names)

    def add_crl(self, name: str) -> None:
        """Check every certificate of a chain against revocation lists. Source: ngx_ssl_crl"""
        lib = self.lib
        stack = libssl_pem.read_crls(lib, name)
        store = lib.SSL_CTX_get_cert_store(self.pointer)
        for crl in stack.pointers:
            if lib.X509_STORE_add_crl(store, crl) != 1:
                raise lib.error(f'X509_STORE_add_crl("{name}") failed')
        lib.X509_STORE_set_flags(store, _CRL_CHECK)

    def run_commands(self, commands: Iterable[tuple[str, str]], prefix: str) -> None:
        """Run SSL_CONF commands. Args: prefix: of relative names. Source: ngx_ssl_conf_commands"""
        lib = self.lib
        conf = lib.SSL_CONF_CTX_new()
        try:
            lib.SSL_CONF_CTX_set_flags(conf, _CONF_FLAGS)
            lib.SSL_CONF_CTX_set_ssl_ctx(conf, self.pointer)
            for key, value in commands:
                kind = lib.SSL_CONF_cmd_value_type(conf, encode(key))
                is_path = kind in (_CONF_TYPE_FILE, _CONF_TYPE_DIR)
                text = os.path.join(prefix, value) if is_path else value
                if lib.SSL_CONF_cmd(conf, encode(key), encode(text)) <= 0:
                    raise lib.error(f'SSL_CONF_cmd("{key}", "{text}") failed')
            if lib.SSL_CONF_CTX_finish(conf) != 1:
                raise lib.error("SSL_CONF_finish() failed")
        finally:
            lib.SSL_CONF_CTX_free(conf)
        if self.may_use_kernel():
            self.read_by_record()

    def may_use_kernel(self) -> bool:
        """Tell whether the kernel may encrypt and decrypt (`Options KTLS`), if it can."""
        return bool(self.lib.SSL_CTX_get_options(self.pointer) & _ENABLE_KTLS)

    def read_by_record(self) -> None:
        """Read no more at once than the library does by itself: about a record."""
        self.lib.SSL_CTX_set_default_read_buffer_len(self.pointer, 0)

    def trust_system(self) -> None:
        """Trust the authorities that the system's administrator has chosen."""
        if not self.lib.SSL_CTX_set_default_verify_paths(self.pointer):
            raise self.lib.error("SSL_CTX_set_default_verify_paths() failed")

    def keep(self, thing: T) -> T:
        """Keep what the SSL_CTX points at alive as long as this context."""
        self._kept.append(thing)
        return thing

    # -- the server's side ---------------------------------------------------------------------

    def set_dhparam(self, name: str) -> None:
        """Take parameters for ephemeral Diffie-Hellman from a file. Source: ngx_ssl_dhparam"""
        lib = self.lib
        lib.ERR_clear_error()
        bio = lib.BIO_new_file(encode(name), b"r")
        if not bio:
            raise lib.error(f'BIO_new_file("{name}") failed')
        try:
            if lib.PEM_read_bio_DHparams is not None:
                dh = lib.PEM_read_bio_DHparams(bio, None, None, None)
                if not dh:
                    raise lib.error(f'PEM_read_bio_DHparams("{name}") failed')
                done = lib.SSL_CTX_ctrl(self.pointer, _CTRL_SET_TMP_DH, 0, dh)
                lib.DH_free(dh)
                if done != 1:
                    raise lib.error(f'SSL_CTX_set_tmp_dh("{name}") failed')
                return
            pkey = lib.PEM_read_bio_Parameters(bio, None)
            if not pkey:
                raise lib.error(f'PEM_read_bio_Parameters("{name}") failed')
            if lib.SSL_CTX_set0_tmp_dh_pkey(self.pointer, pkey) != 1:
                said = lib.error(f'SSL_CTX_set0_tmp_dh_pkey("{name}") failed')
                lib.EVP_PKEY_free(pkey)
                raise said
        finally:
            lib.BIO_free(bio)

    def set_curves(self, names: str) -> None:
        """Set the key exchange groups; `auto` leaves the library's. Source: ngx_ssl_ecdh_curve"""
        if names == "auto":
            return
        if not self.lib.SSL_CTX_ctrl(self.pointer, _CTRL_SET_GROUPS_LIST, 0, encode(names)):
            raise self.lib.error(f'SSL_CTX_set1_curves_list("{names}") failed')

    def set_alpn(self, protocols: bytes) -> None:
        """Choose among the client's protocols; a client with none of ours is refused.

        Args: protocols: Each after a byte of its length. Source: ngx_stream_ssl_alpn_select
        """
        lib = self.lib
        ours = self.keep(ctypes.create_string_buffer(protocols, len(protocols)))
        size = len(protocols)

        def select(ssl_: int, out: int, outlen: int, theirs: int, count: int, arg: int) -> int:
            chosen = lib.SSL_select_next_proto(out, outlen, ours, size, theirs, count)
            return _TLSEXT_OK if chosen == _NEGOTIATED else _TLSEXT_ALERT_FATAL

        lib.SSL_CTX_set_alpn_select_cb(self.pointer, self.keep(_ALPN_CB(select)), None)

    def on_client_hello(self, handler: HelloHandler) -> None:
        """Call handler(SSL*, server name or None) for each ClientHello, before anything is decided.

        It returns 0, or the alert to refuse it with. Source: ngx_ssl_client_hello_callback
        """
        lib = self.lib

        def hello(connection: int, alert: Any, arg: int) -> int:
            refused = handler(connection, _server_name(lib, connection))
            if refused:
                alert[0] = refused
                return _CLIENT_HELLO_ERROR
            return _CLIENT_HELLO_SUCCESS

        lib.SSL_CTX_set_client_hello_cb(self.pointer, self.keep(_HELLO_CB(hello)), None)

    def on_certificate(self, handler: CertificateHandler) -> None:
        """Call handler(SSL*) -> bool to choose a certificate. Source: SSL_CTX_set_cert_cb"""

        def choose(connection: int, arg: int) -> int:
            return int(handler(connection))

        self.lib.SSL_CTX_set_cert_cb(self.pointer, self.keep(_CERT_CB(choose)), None)

    def set_session_cache(self, mode: int, size: int | None, timeout_s: int) -> None:
        """Set how sessions are kept. Source: ngx_ssl_session_cache"""
        lib, pointer = self.lib, self.pointer
        lib.SSL_CTX_set_timeout(pointer, timeout_s)
        lib.SSL_CTX_ctrl(pointer, _CTRL_SET_SESS_CACHE_MODE, mode, None)
        if size is not None:
            lib.SSL_CTX_ctrl(pointer, _CTRL_SET_SESS_CACHE_SIZE, size, None)

    def set_session_id_context(self, label: bytes, names: Iterable[str]) -> None:
        """Bind sessions to the certificates and authorities of this context.

        Args: names: The certificates' where they are chosen per connection. The same
        configuration gives the same context in every process. Source: ngx_ssl_session_id_context
        """
        digest = hashlib.sha1(label, usedforsecurity=False)
        for stack in self.leaves:
            der = libssl_pem.der_of(self.lib, stack.pointers[0])
            digest.update(hashlib.sha1(der, usedforsecurity=False).digest())
        if not self.leaves:
            for name in names:
                digest.update(encode(name))
        for name_der in self._ca_names:
            digest.update(hashlib.sha1(name_der, usedforsecurity=False).digest())
        self.id_context = digest.digest()
        self.lib.SSL_CTX_set_session_id_context(self.pointer, self.id_context, 20)

    def staple(self, name: str) -> None:
        """Send a file's OCSP response to clients that ask. Source: ngx_ssl_stapling_file"""
        lib = self.lib
        lib.ERR_clear_error()
        bio = lib.BIO_new_file(encode(name), b"r")
        if not bio:
            raise lib.error(f'BIO_new_file("{name}") failed')
        lib.BIO_free(bio)
        with open(name, "rb") as file:
            raw = file.read()
        buffer = ctypes.create_string_buffer(raw, len(raw) or 1)
        at = ctypes.c_void_p(ctypes.addressof(buffer))
        response = lib.d2i_OCSP_RESPONSE(None, ctypes.byref(at), len(raw))
        if not response:
            raise lib.error(f'd2i_OCSP_RESPONSE_bio("{name}") failed')
        lib.OCSP_RESPONSE_free(response)
        size = len(raw)

        def status(connection: int, arg: int) -> int:
            copy = lib.CRYPTO_malloc(size, b"", 0)  # the connection frees it
            if not copy:
                return _TLSEXT_NOACK
            ctypes.memmove(copy, raw, size)
            lib.SSL_ctrl(connection, _CTRL_SET_STATUS_REQ_OCSP_RESP, size, copy)
            return _TLSEXT_OK

        callback = self.keep(_STATUS_CB(status))
        lib.SSL_CTX_callback_ctrl(self.pointer, _CTRL_SET_STATUS_REQ_CB, callback)

    def names_responder(self, stack: libssl_pem.Stack) -> bool:
        """Tell whether a certificate says where to ask about its revocation."""
        urls = self.lib.X509_get1_ocsp(stack.pointers[0])
        if urls:
            self.lib.X509_email_free(urls)
        return bool(urls)

    def knows_issuer(self, stack: libssl_pem.Stack, trusted: libssl_pem.Stack | None) -> bool:
        """Tell whether the issuer of a certificate is in its chain or among the trusted."""
        others = stack.pointers[1:] + (trusted.pointers if trusted is not None else [])
        leaf = stack.pointers[0]
        return any(self.lib.X509_check_issued(other, leaf) == 0 for other in others)


def with_chain(lib: libssl.Library, stack: libssl_pem.Stack, use: Callable[[int], int]) -> bool:
    """Hand a chain (without its leaf) to a call that takes references of its own."""
    sk = lib.OPENSSL_sk_new_null()
    try:
        for x509 in stack.pointers[1:]:
            lib.OPENSSL_sk_push(sk, x509)
        return bool(use(sk))
    finally:
        lib.OPENSSL_sk_free(sk)


def use_certificate(lib: libssl.Library, connection: int, name: str, stack: libssl_pem.Stack,
                    key_name: str, key: libssl_pem.Key) -> None:
    """Use a certificate. Raises: SslError. Source: ngx_ssl_connection_certificate"""
    if not lib.SSL_use_certificate(connection, stack.pointers[0]):
        raise lib.error(f'SSL_use_certificate("{name}") failed')
    if not with_chain(lib, stack, lambda sk: lib.SSL_ctrl(connection, _CTRL_CHAIN, 1, sk)):
        raise lib.error(f'SSL_set0_chain("{name}") failed')
    if not lib.SSL_use_PrivateKey(connection, key.pointer):
        raise lib.error(f'SSL_use_PrivateKey("{key_name}") failed')


def switch(lib: libssl.Library, connection: int, context: Context) -> None:
    """Go on with a handshake under another context. Source: ngx_stream_ssl_servername"""
    pointer = context.pointer
    lib.SSL_set_SSL_CTX(connection, pointer)
    # that call takes over the certificates only
    lib.SSL_set_verify(connection, lib.SSL_CTX_get_verify_mode(pointer), _go_on)
    lib.SSL_set_verify_depth(connection, lib.SSL_CTX_get_verify_depth(pointer))
    options = lib.SSL_CTX_get_options(pointer)
    lib.SSL_clear_options(connection, lib.SSL_get_options(connection) & ~options)
    lib.SSL_set_options(connection, options)


def _server_name(lib: libssl.Library, connection: int) -> bytes | None:
    """Return the name a ClientHello asks for; one that is malformed the library refuses itself."""
    at = ctypes.c_void_p()
    size = ctypes.c_size_t()
    found = lib.SSL_client_hello_get0_ext(connection, 0, ctypes.byref(at), ctypes.byref(size))
    if not found or size.value < 5 or not at.value:
        return None
    raw = ctypes.string_at(at.value, size.value)
    # list length (2), type (1), name length (2), name
    length = int.from_bytes(raw[3:5], "big")
    if raw[2] != 0 or 5 + length != len(raw):
        return None
    return raw[5:]
