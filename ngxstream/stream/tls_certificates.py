"""Certificates that are chosen for each connection: read when they are wanted, kept for a while.

Answers for ngx_ssl_cache_connection_fetch() (src/event/ngx_event_openssl_cache.c) and
ngx_ssl_connection_certificate() (ngx_event_openssl.c). Reading is a matter of the worker here, not
of the master: files must be readable by the workers' user, as with nginx.
"""

from __future__ import annotations

import os
from typing import Any

from ngxstream.event import libssl, libssl_context, libssl_pem
from ngxstream.stream import tls_conf


class _Entry:
    __slots__ = ("value", "stamp", "checked_ms", "used_ms")

    def __init__(self, value: Any, stamp: Any, now_ms: int) -> None:
        self.value = value
        self.stamp = stamp
        self.checked_ms = now_ms
        self.used_ms = now_ms


class Certificates:
    """The certificates and keys of one *_certificate directive with variables, in one worker."""

    __slots__ = ("_lib", "_prefix", "_passwords", "_options", "_entries")

    def __init__(
        self, lib: libssl.Library, prefix: str, passwords: tuple[bytes, ...] | None,
        options: tls_conf.CacheOptions | None,
    ) -> None:
        """Args: prefix: put before relative names; options: None to keep nothing"""
        self._lib = lib
        self._prefix = prefix
        self._passwords = passwords or ()  # never ask at a terminal
        self._options = options
        self._entries: dict[tuple[bool, str], _Entry] = {}  # least recently used first

    def use(self, connection: int, name: bytes, key_name: bytes, now_ms: int) -> None:
        """Use a certificate and its key on a connection (an SSL*). Raises: SslError"""
        path = tls_conf.full_name(self._prefix, os.fsdecode(name))
        key_path = tls_conf.full_name(self._prefix, os.fsdecode(key_name))
        cached = self._options is not None
        try:
            self._use(connection, path, key_path, now_ms)
        except libssl.SslError:
            # one of the two may be of before a change of both
            if not cached or not self._forget(path, key_path):
                raise
            self._use(connection, path, key_path, now_ms)

    def _use(self, connection: int, path: str, key_path: str, now_ms: int) -> None:
        stack = self._fetch(False, path, now_ms)
        key = self._fetch(True, key_path, now_ms)
        libssl_context.use_certificate(self._lib, connection, path, stack, key_path, key)

    def _forget(self, path: str, key_path: str) -> bool:
        pop = self._entries.pop
        known = (pop((False, path), None), pop((True, key_path), None))
        return any(entry is not None for entry in known)

    def _fetch(self, is_key: bool, path: str, now_ms: int) -> Any:
        options = self._options
        if options is None:
            return self._read(is_key, path)
        entries = self._entries
        entry = entries.pop((is_key, path), None)
        if entry is not None:
            fresh = now_ms - entry.checked_ms <= options.valid * 1000
            if not fresh and entry.stamp == _stamp(path):
                entry.checked_ms = now_ms
                fresh = True
            if fresh:
                entry.used_ms = now_ms
                entries[is_key, path] = entry
                return entry.value
        stamp = _stamp(path)
        value = self._read(is_key, path)
        if is_key and self._passwords and _is_encrypted(path):
            return value  # nginx keeps no key that needed a password
        self._expire(now_ms, options)
        entries[is_key, path] = _Entry(value, stamp, now_ms)
        return value

    def _expire(self, now_ms: int, options: tls_conf.CacheOptions) -> None:
        """Remove entries that were not used for long, and the oldest ones of too many."""
        entries = self._entries
        while entries:
            key = next(iter(entries))
            idle = now_ms - entries[key].used_ms > options.inactive * 1000
            if not idle and len(entries) < options.most:
                return
            del entries[key]

    def _read(self, is_key: bool, path: str) -> Any:
        if is_key:
            return libssl_pem.read_key(self._lib, path, self._passwords)
        return libssl_pem.read_certificates(self._lib, path)


def _is_encrypted(path: str) -> bool:
    """Tell whether a key that could be read needed a password.

    Either form of PEM says so in words: `BEGIN ENCRYPTED PRIVATE KEY` (PKCS #8, RFC 7468 section
    11) and `Proc-Type: 4,ENCRYPTED` (RFC 1421 section 4.6.1.1).
    Source: ngx_ssl_cache_pkey_create
    """
    if path.startswith("data:"):
        return "ENCRYPTED" in path
    try:
        with open(path, "rb") as file:
            return b"ENCRYPTED" in file.read(1 << 20)
    except OSError:
        return True  # it has gone since


def _stamp(path: str) -> Any:
    """Return what changes when a file does."""
    if path.startswith("data:"):
        return None
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_ino, facts.st_size
