"""Passwords as htpasswd files keep them: which forms are known, and whether a password fits.

Forms are those of nginx: $apr1$, {SHA}, {SSHA}, {PLAIN}, and what crypt(3) of the system knows.
What would take a second or more is refused when the file is read, not when somebody logs in.

Source: ngx_crypt.c, ngx_user.c; crypt(5)
"""

from __future__ import annotations

import base64
import binascii
import ctypes
import hashlib
import re
import secrets
from typing import Final, NamedTuple

MAX_PASSWORD: Final = 256  # bytes
MAX_ROUNDS: Final = 200_000  # of sha256crypt and sha512crypt; the default is 5000
MAX_BCRYPT: Final = 12  # log2 of the rounds
MAX_MEMORY: Final = 13  # digit of yescrypt's N: 2^14, 64 MB with the usual r

_DIGITS: Final = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LIBRARIES: Final = ("libcrypt.so.1", "libcrypt.so.2")
_DATA: Final = 1 << 18  # struct crypt_data is 32 KiB, that of an old glibc 128
_APR1: Final = re.compile(r"\$apr1\$([^$]{0,8})\$[./0-9A-Za-z]{22}")
_DES: Final = re.compile(r"[./0-9A-Za-z]{13}")
_MD5: Final = re.compile(r"\$1\$[^$:\s]{0,8}\$[./0-9A-Za-z]{22}")
_SHA2: Final = re.compile(r"\$[56]\$(?:rounds=([0-9]{1,9})\$)?[^$:\s]{0,16}\$[./0-9A-Za-z]{43,86}")
_BCRYPT: Final = re.compile(r"\$2[abxy]\$([0-9]{2})\$[./0-9A-Za-z]{53}")
_YESCRYPT: Final = re.compile(
    r"\$g?y\$[./0-9A-Za-z]([./0-9A-Za-z])[./0-9A-Za-z]{1,8}\$[./0-9A-Za-z]{0,86}\$[./0-9A-Za-z]{43}"
)
_ORDER: Final = ((0, 6, 12), (1, 7, 13), (2, 8, 14), (3, 9, 15), (4, 10, 5))


class FormError(ValueError):
    """A password in a form that is not served; the text says why."""


class Secret(NamedTuple):
    """What is kept of a password. Args: crypt: verifies it, where it takes long, in C"""

    text: str
    crypt: Crypt | None = None


class Crypt:
    """crypt(3) of the system."""

    __slots__ = ("_call", "_data")

    def __init__(self) -> None:
        """Raises: OSError where there is none"""
        for name in _LIBRARIES:
            try:
                self._call = ctypes.CDLL(name).crypt_r
            except (OSError, AttributeError):
                continue
            self._call.restype = ctypes.c_char_p
            self._data = ctypes.c_char * _DATA
            return
        raise OSError(f"there is no {_LIBRARIES[0]}")

    def fits(self, text: str, password: bytes) -> bool:
        """Tell whether a password is the one; the interpreter runs on meanwhile."""
        stored = text.encode()
        made: bytes | None = self._call(password, stored, self._data())
        return made is not None and secrets.compare_digest(made, stored)


def read(text: str, crypt: Crypt | None) -> Secret:
    """Look at the form of a password. Args: crypt: of the system, if it has any. Raises: FormError

    (One Crypt is made for a file: the library's object is a cycle, and nothing collects those.)
    """
    if text.startswith("{PLAIN}"):
        return Secret(text)
    for name, least in (("{SHA}", 20), ("{SSHA}", 21)):
        if text.startswith(name):
            raw = _base64(text.removeprefix(name))
            if len(raw) < least or (name == "{SHA}" and len(raw) != least):
                raise FormError(f"is no {name} form")
            return Secret(text)
    if text.startswith("$apr1$"):
        if not _APR1.fullmatch(text):
            raise FormError("is no $apr1$ form")
        return Secret(text)
    _check_cost(text)
    if crypt is None:
        raise FormError(f"needs crypt(3), and there is no {_LIBRARIES[0]}")
    return Secret(text, crypt)


def _check_cost(text: str) -> None:
    """Raises: FormError for a form of crypt(3) that is not known or takes too long"""
    if _DES.fullmatch(text) or _MD5.fullmatch(text):
        return
    for pattern, most in ((_SHA2, MAX_ROUNDS), (_BCRYPT, MAX_BCRYPT)):
        match = pattern.fullmatch(text)
        if match is not None:
            if int(match[1] or 0) > most:
                raise FormError("takes too long to verify")
            return
    match = _YESCRYPT.fullmatch(text)
    if match is None:
        raise FormError("has an unknown form")
    if _DIGITS.index(match[1]) > MAX_MEMORY:
        raise FormError("takes too long to verify")


def fits(secret: Secret, password: bytes) -> bool:
    """Tell whether a password is the one. Raises nothing; compares in constant time"""
    text = secret.text
    if len(password) > MAX_PASSWORD or b"\0" in password:
        return False
    if secret.crypt is not None:
        return secret.crypt.fits(text, password)
    if text.startswith("{PLAIN}"):
        return secrets.compare_digest(text[7:].encode("utf-8", "surrogateescape"), password)
    if text.startswith("$apr1$"):
        match = _APR1.fullmatch(text)
        assert match is not None
        return secrets.compare_digest(text.encode(), apr1(password, match[1].encode()))
    raw = _base64(text.partition("}")[2])
    made = hashlib.sha1(password + raw[20:], usedforsecurity=False).digest()
    return secrets.compare_digest(raw[:20], made)


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise FormError("is not base64") from None


def apr1(password: bytes, salt: bytes) -> bytes:
    """Return Apache's form of a password. Source: ngx_crypt_apr1"""
    inner = _md5(password + salt + password).digest()
    start = _md5(password + b"$apr1$" + salt)
    start.update((inner * (len(password) // 16 + 1))[: len(password)])
    size = len(password)
    while size:
        start.update(b"\0" if size & 1 else password[:1])
        size >>= 1
    final = start.digest()
    for n in range(1000):
        step = _md5(password if n & 1 else final)
        if n % 3:
            step.update(salt)
        if n % 7:
            step.update(password)
        step.update(final if n & 1 else password)
        final = step.digest()
    out = []
    for a, b, c in _ORDER:
        out.append(_to64(final[a] << 16 | final[b] << 8 | final[c], 4))
    out.append(_to64(final[11], 2))
    return b"$apr1$" + salt + b"$" + "".join(out).encode()


def _md5(data: bytes) -> hashlib._Hash:
    return hashlib.md5(data, usedforsecurity=False)  # the form is given


def _to64(value: int, count: int) -> str:
    return "".join(_DIGITS[value >> 6 * n & 63] for n in range(count))
