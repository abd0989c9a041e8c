"""Certificates, keys and revocation lists as the library holds them, read from PEM. Part of
event/libssl.py.

Answers for src/event/ngx_event_openssl_cache.c. Nothing here is cached; who reads again and again
keeps what it got (stream/tls_certificates.py).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Final

from ngxstream.core.log import encode
from ngxstream.event import libssl

BIO_CTRL_RESET: Final = 1


class Stack:
    """Certificates (or revocation lists) in the order of their file; owns a reference to each."""

    __slots__ = ("pointers", "_free")

    def __init__(self, pointers: list[int], free: Callable[[int], object]) -> None:
        self.pointers = pointers
        self._free = free

    def __del__(self) -> None:
        for pointer in self.pointers:
            self._free(pointer)


class Key:
    """A private key; owns a reference to it."""

    __slots__ = ("pointer", "_free")

    def __init__(self, pointer: int, free: Callable[[int], object]) -> None:
        self.pointer = pointer
        self._free = free

    def __del__(self) -> None:
        self._free(self.pointer)


def read_certificates(lib: libssl.Library, name: str) -> Stack:
    """Read a certificate and its chain. Args: name: A full path or `data:PEM`

    Raises: SslError `cannot load certificate "…": …`. Source: ngx_ssl_cache_cert_create
    """
    bio, _raw = _open(lib, name, "certificate")
    free = lib.X509_free
    stack = Stack([], free)
    try:
        first = lib.PEM_read_bio_X509_AUX(bio, None, None, None)
        if not first:
            raise lib.error(f'cannot load certificate "{name}": PEM_read_bio_X509_AUX() failed')
        stack.pointers.append(first)
        while one := lib.PEM_read_bio_X509(bio, None, None, None):
            stack.pointers.append(one)
        if not _is_end(lib):
            raise lib.error(f'cannot load certificate "{name}": PEM_read_bio_X509() failed')
    finally:
        lib.BIO_free(bio)
    return stack


def read_crls(lib: libssl.Library, name: str) -> Stack:
    """Read revocation lists. Raises: SslError. Source: ngx_ssl_cache_crl_create"""
    bio, _raw = _open(lib, name, "CRL")
    stack = Stack([], lib.X509_CRL_free)
    try:
        while one := lib.PEM_read_bio_X509_CRL(bio, None, None, None):
            stack.pointers.append(one)
        if not stack.pointers or not _is_end(lib):
            raise lib.error(f'cannot load CRL "{name}": PEM_read_bio_X509_CRL() failed')
    finally:
        lib.BIO_free(bio)
    return stack


def read_key(lib: libssl.Library, name: str, passwords: tuple[bytes, ...] | None) -> Key:
    """Read a private key, trying each password.

    Args: name: A full path or `data:PEM`; passwords: None lets the library ask at the terminal,
    an empty tuple does not. Raises: SslError `cannot load certificate key "…": …`
    Source: ngx_ssl_cache_pkey_create
    """
    for scheme in ("engine:", "store:"):
        if name.startswith(scheme):
            raise lib.error(
                f'cannot load certificate key "{name}": '
                f'loading "{scheme}..." certificate keys is not supported'
            )
    bio, _raw = _open(lib, name, "certificate key")
    tries: tuple[bytes | None, ...] = (None,) if passwords is None else passwords or (b"",)
    try:
        for password in tries:
            lib.ERR_clear_error()
            # the library's own callback takes the last argument for the password
            pointer = lib.PEM_read_bio_PrivateKey(bio, None, None, password)
            if pointer:
                return Key(pointer, lib.EVP_PKEY_free)
            lib.BIO_ctrl(bio, BIO_CTRL_RESET, 0, None)
    finally:
        lib.BIO_free(bio)
    raise lib.error(f'cannot load certificate key "{name}": PEM_read_bio_PrivateKey() failed')


def der_of(lib: libssl.Library, x509: int) -> bytes:
    """Return a certificate in DER."""
    return _der(lib.i2d_X509, x509)


def name_der(lib: libssl.Library, name: int) -> bytes:
    """Return an X509_NAME in DER."""
    return _der(lib.i2d_X509_NAME, name)


def _der(i2d: Callable[..., int], pointer: int) -> bytes:
    size = i2d(pointer, None)
    if size <= 0:
        return b""
    buffer = ctypes.create_string_buffer(size)
    at = ctypes.c_void_p(ctypes.addressof(buffer))
    i2d(pointer, ctypes.byref(at))
    return buffer.raw


def _open(lib: libssl.Library, name: str, what: str) -> tuple[int, bytes]:
    """Return a name's BIO and the bytes it reads, to be kept. Source: ngx_ssl_cache_create_bio"""
    lib.ERR_clear_error()
    if name.startswith("data:") and what != "CRL":
        raw = encode(name[5:])
        bio = lib.BIO_new_mem_buf(raw, len(raw))
        failed = "BIO_new_mem_buf() failed"
    else:
        raw = encode(name)
        bio = lib.BIO_new_file(raw, b"r")
        failed = "BIO_new_file() failed"
    if not bio:
        raise lib.error(f'cannot load {what} "{name}": {failed}')
    return bio, raw


def _is_end(lib: libssl.Library) -> bool:
    """Tell whether reading stopped because there is no more; the queue is empty then."""
    code = lib.ERR_peek_last_error()
    if lib.split_code(code) != (libssl.ERR_LIB_PEM, libssl.PEM_R_NO_START_LINE):
        return False
    lib.ERR_clear_error()
    return True
