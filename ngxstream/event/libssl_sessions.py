"""Session resumption: tickets under keys that are given, and a cache that all workers share.

Part of event/libssl.py. Answers for ngx_ssl_session_cache(), ngx_ssl_new_session() and
ngx_ssl_ticket_key_callback() of src/event/ngx_event_openssl.c. What the keys are and where sessions
are stored is the caller's (modules/ssl/sessions.py); this is how the library asks for them.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from ngxstream.event import libssl, libssl_context

MAX_SESSION: Final = 4096  # NGX_SSL_MAX_SESSION_SIZE
MAX_ID: Final = 32
_CTRL_SET_TICKET_KEYS: Final = 59
_CTRL_SET_TICKET_KEY_CB: Final = 72
_TLS1_3: Final = 0x0304

_TICKET_CB: Final = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p,
    ctypes.c_void_p, ctypes.c_int,
)
_DECODED_CB: Final = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int,
    ctypes.c_void_p,
)
_NEW_CB: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_GET_CB: Final = ctypes.CFUNCTYPE(
    ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_int)
)
_REMOVE_CB: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)

# SSL_CTX_set_session_ticket_cb(3)
_STATUS_SUCCESS: Final = 5
_STATUS_SUCCESS_RENEW: Final = 6
_RETURN_IGNORE_RENEW: Final = 2
_RETURN_USE: Final = 3
_RETURN_USE_RENEW: Final = 4


class TicketKey(NamedTuple):
    """One key of session tickets. Attributes: name 16 bytes; aes and hmac 16 or 32 bytes each"""

    name: bytes
    aes: bytes
    hmac: bytes

    @classmethod
    def parse(cls, raw: bytes) -> TicketKey:
        """Read the 48 or 80 bytes of a key file. Source: ngx_ssl_session_ticket_keys"""
        if len(raw) == 48:
            return cls(raw[:16], raw[16:32], raw[32:48])
        return cls(raw[:16], raw[48:80], raw[16:48])


    def is_the_library_s(self) -> bool:
        """Tell whether the library seals tickets by such keys itself: AES-256, HMAC of 256 bits."""
        return len(self.aes) == 32


Keys = Callable[[], Sequence[TicketKey]]


class Store(Protocol):
    """The storage of sessions of all workers."""

    def put(self, key: bytes, data: bytes, expires_s: int) -> None:
        """Keep a session until a time of the wall clock."""

    def get(self, key: bytes, now_s: int) -> bytes | None:
        """Return a session that has not expired."""

    def remove(self, key: bytes) -> None:
        """Forget a session."""


def use_one_ticket_key(context: libssl_context.Context, key: TicketKey) -> None:
    """Seal and open tickets with one key, which is_the_library_s(): it asks nobody for it then.

    What the library does without a callback is what nginx's callback does with such a key.
    """
    raw = key.name + key.hmac + key.aes
    if not context.lib.SSL_CTX_ctrl(context.pointer, _CTRL_SET_TICKET_KEYS, len(raw), raw):
        raise context.lib.error("SSL_CTX_set_tlsext_ticket_keys() failed")


def use_ticket_keys(context: libssl_context.Context, keys: Keys) -> None:
    """Seal tickets with the first of keys(), open with any. Source: ngx_ssl_ticket_key_callback"""
    lib = context.lib
    ciphers = {16: lib.EVP_aes_128_cbc(), 32: lib.EVP_aes_256_cbc()}
    sha256 = lib.EVP_sha256()

    def ticket(connection: int, name: int, iv: int, cipher: int, mac: int, enc: int) -> int:
        known = keys()
        if enc:
            key = known[0]
            fresh = os.urandom(16)
            ctypes.memmove(iv, fresh, 16)
            ctypes.memmove(name, key.name, 16)
            started = lib.EVP_EncryptInit_ex(cipher, ciphers[len(key.aes)], None, key.aes, fresh)
            if started != 1 or not start_mac(mac, key):
                return -1
            return 1
        wanted = ctypes.string_at(name, 16)
        for number, key in enumerate(known):
            if key.name != wanted:
                continue
            started = lib.EVP_DecryptInit_ex(cipher, ciphers[len(key.aes)], None, key.aes, iv)
            if started != 1 or not start_mac(mac, key):
                return -1
            # 2: usable, but give the client a new one
            return 2 if number or lib.SSL_version(connection) == _TLS1_3 else 1
        return 0

    def start_mac(mac: int, key: TicketKey) -> bool:
        return bool(lib.HMAC_Init_ex(mac, key.hmac, len(key.hmac), sha256, None) == 1)

    callback = context.keep(_TICKET_CB(ticket))
    lib.SSL_CTX_callback_ctrl(context.pointer, _CTRL_SET_TICKET_KEY_CB, callback)


def limit_lifetime(context: libssl_context.Context) -> None:
    """Let a session that is resumed again and again end when its first handshake's time is over.

    The library starts a TLS 1.3 session's time anew with every resumption; a client could so go
    on for ever with a certificate that has expired or been revoked.
    Source: ngx_ssl_info_callback
    """
    lib = context.lib
    most_s = lib.SSL_CTX_get_timeout(context.pointer)

    def decoded(connection: int, session: int, name: int, size: int, status: int, arg: int) -> int:
        if status not in (_STATUS_SUCCESS, _STATUS_SUCCESS_RENEW):
            return _RETURN_IGNORE_RENEW
        if not _age(lib, session, most_s):
            return _RETURN_IGNORE_RENEW
        return _RETURN_USE if status == _STATUS_SUCCESS else _RETURN_USE_RENEW

    callback = context.keep(_DECODED_CB(decoded))
    lib.SSL_CTX_set_session_ticket_cb(context.pointer, None, callback, None)


def _age(lib: libssl.Library, session: int, most_s: int) -> bool:
    """Shorten a TLS 1.3 session by the time it has lived; False when that is all of it."""
    if lib.SSL_SESSION_get_protocol_version(session) != _TLS1_3:
        return True
    now = int(time.time())
    lived = now - lib.SSL_SESSION_get_time(session)
    had = lib.SSL_SESSION_get_timeout(session)
    left = min(had, most_s) - lived
    if left <= 0:
        return False
    if left != had or lived:
        lib.SSL_SESSION_set_time(session, now)
        lib.SSL_SESSION_set_timeout(session, left)
    return True


def use_store(context: libssl_context.Context, store: Store) -> None:
    """Keep sessions (of TLS 1.2 without tickets, of TLS 1.3 without them too) in a store.

    Source: ngx_ssl_new_session, ngx_ssl_get_cached_session, ngx_ssl_remove_session
    """
    lib = context.lib
    pointer = context.pointer

    def new(connection: int, session: int) -> int:
        stateless = not lib.SSL_get_options(connection) & libssl_context.NO_TICKET
        if stateless and lib.SSL_version(connection) == _TLS1_3:
            return 0  # for information only: the client has it all in its ticket
        size = lib.i2d_SSL_SESSION(session, None)
        key = session_id(lib, session)
        if 0 < size <= MAX_SESSION and 0 < len(key) <= MAX_ID:
            buffer = ctypes.create_string_buffer(size)
            at = ctypes.c_void_p(ctypes.addressof(buffer))
            lib.i2d_SSL_SESSION(session, ctypes.byref(at))
            store.put(key, buffer.raw, int(time.time()) + lib.SSL_CTX_get_timeout(pointer))
        return 0  # no reference is kept

    def get(connection: int, key: int, size: int, copy: Any) -> int | None:
        copy[0] = 0
        raw = store.get(ctypes.string_at(key, size), int(time.time()))
        if raw is None:
            return None
        buffer = ctypes.create_string_buffer(raw, len(raw))
        at = ctypes.c_void_p(ctypes.addressof(buffer))
        session: int | None = lib.d2i_SSL_SESSION(None, ctypes.byref(at), len(raw))
        if session and not _age(lib, session, lib.SSL_CTX_get_timeout(pointer)):
            lib.SSL_SESSION_free(session)
            return None
        return session

    def remove(_: int, session: int) -> None:
        store.remove(session_id(lib, session))

    lib.SSL_CTX_sess_set_new_cb(pointer, context.keep(_NEW_CB(new)))
    lib.SSL_CTX_sess_set_get_cb(pointer, context.keep(_GET_CB(get)))
    lib.SSL_CTX_sess_set_remove_cb(pointer, context.keep(_REMOVE_CB(remove)))
    context.cache = store


def forget(context: libssl_context.Context, connection: int) -> None:
    """Forget a session whose client was refused. Source: ngx_ssl_remove_cached_session"""
    lib = context.lib
    session = lib.SSL_get_session(connection)
    if session:
        lib.SSL_CTX_remove_session(context.pointer, session)
        if context.cache is not None:
            context.cache.remove(session_id(lib, session))


def session_id(lib: libssl.Library, session: int) -> bytes:
    """Return the id of a session."""
    size = ctypes.c_uint()
    at = lib.SSL_SESSION_get_id(session, ctypes.byref(size))
    return ctypes.string_at(at, size.value) if at else b""
