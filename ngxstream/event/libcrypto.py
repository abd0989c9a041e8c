"""AES-128 out of the libcrypto behind Python's ssl module, called through ctypes.

The standard library has hashes and HMAC, but no cipher. QUIC protects its Initial packets with AES
under keys that everybody can derive (wire/quic_initial.py), so these two functions are all that is
needed to look inside. What event/libssl.py says of its library is said of this one too.

1. Nothing is called before it is probed: load() binds the functions of the table below and has them
   give the answers of the standards. Where that fails, `Unavailable` has the reason.
2. Every size is checked here before the library is called. It writes into one buffer of ours, which
   holds the largest datagram; what is returned is a copy, of exactly what was written.
3. Nothing of a packet whose tag is wrong is returned, and the library's queue of errors is left
   empty.
4. Functions are called with the interpreter's lock held (PyDLL): they are short, and a worker has
   one thread.
"""

from __future__ import annotations

import ctypes
import functools
import ssl
from typing import Any, Final

from ngxstream.core import errors

KEY: Final = 16  # bytes
BLOCK: Final = 16
NONCE: Final = 12
TAG: Final = 16
MOST: Final = 65_536  # bytes of a message

_GCM_SET_TAG: Final = 0x11  # EVP_CTRL_AEAD_SET_TAG

# result:arguments, by these letters
_TYPES: Final = {"v": None, "p": ctypes.c_void_p, "s": ctypes.c_char_p, "i": ctypes.c_int}
_FUNCTIONS: Final = """
ERR_clear_error v:
EVP_CIPHER_CTX_ctrl i:piis
EVP_CIPHER_CTX_free v:p
EVP_CIPHER_CTX_new p:
EVP_DecryptFinal_ex i:ppp
EVP_DecryptInit_ex i:pppss
EVP_DecryptUpdate i:pppsi
EVP_EncryptInit_ex i:pppss
EVP_EncryptUpdate i:pppsi
EVP_aes_128_ecb p:
EVP_aes_128_gcm p:
"""

# FIPS 197 appendix B; test case 4 of the specification of GCM (McGrew and Viega), with its tag
_ECB: Final = tuple(map(bytes.fromhex, (
    "2b7e151628aed2a6abf7158809cf4f3c", "3243f6a8885a308d313198a2e0370734",
    "3925841d02dc09fbdc118597196a0b32",
)))
_GCM_KEY: Final = bytes.fromhex("feffe9928665731c6d6a8f9467308308")
_GCM_NONCE: Final = bytes.fromhex("cafebabefacedbaddecaf888")
_GCM_ASSOCIATED: Final = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
_GCM_PLAIN: Final = bytes.fromhex(
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
)
_GCM_SEALED: Final = bytes.fromhex(
    "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e"
    "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091"
    "5bc94fbc3221a5db94fae95ae7121a47"
)


class Unavailable(errors.NgxError):
    """Python's libcrypto cannot be reached"""


class Library:
    """The functions of the table above as attributes."""

    def __init__(self, path: str | None) -> None:
        """Bind every function. Raises: OSError, AttributeError"""
        dll = ctypes.PyDLL(path)
        words = _FUNCTIONS.split()
        for name, shape in zip(words[::2], words[1::2], strict=True):
            function: Any = getattr(dll, name, None)
            if function is None:
                raise AttributeError(f"{name}() is missing")
            result, _, arguments = shape.partition(":")
            function.restype = _TYPES[result]
            function.argtypes = [_TYPES[letter] for letter in arguments]
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class Aes:
    """AES with keys of 128 bits: owns two contexts of the library and a buffer."""

    __slots__ = ("_lib", "_ecb", "_gcm", "_buffer", "_out", "_size", "_size_at")

    def __init__(self, lib: Library) -> None:
        """Make both contexts. Raises: Unavailable"""
        self._lib = lib
        self._buffer = ctypes.create_string_buffer(MOST + BLOCK)
        self._out = ctypes.addressof(self._buffer)
        self._size = ctypes.c_int()
        self._size_at = ctypes.addressof(self._size)
        self._ecb: int | None = lib.EVP_CIPHER_CTX_new()
        self._gcm: int | None = lib.EVP_CIPHER_CTX_new()
        # the ciphers are chosen once: every packet brings its own key
        if not (
            self._ecb and self._gcm
            and lib.EVP_EncryptInit_ex(self._ecb, lib.EVP_aes_128_ecb(), None, None, None) == 1
            and lib.EVP_DecryptInit_ex(self._gcm, lib.EVP_aes_128_gcm(), None, None, None) == 1
        ):
            lib.ERR_clear_error()
            raise Unavailable("libcrypto has no AES-128")

    def __del__(self) -> None:
        for context in (getattr(self, "_ecb", None), getattr(self, "_gcm", None)):
            if context:
                self._lib.EVP_CIPHER_CTX_free(context)

    def encrypt_block(self, key: bytes, block: bytes) -> bytes:
        """Encrypt one block by itself (ECB). Args: key, block: 16 bytes each"""
        if len(key) != KEY or len(block) != BLOCK:
            raise ValueError("a key or block of another size")
        lib, context = self._lib, self._ecb
        if (
            lib.EVP_EncryptInit_ex(context, None, None, key, None) != 1
            or lib.EVP_EncryptUpdate(context, self._out, self._size_at, block, BLOCK) != 1
            or self._size.value != BLOCK
        ):
            lib.ERR_clear_error()
            raise Unavailable("libcrypto does not encrypt")
        return ctypes.string_at(self._out, BLOCK)

    def open(self, key: bytes, nonce: bytes, sealed: bytes, associated: bytes) -> bytes | None:
        """Decrypt and verify (GCM). Returns: None where the tag is not right

        Args: key: 16 bytes; nonce: 12; sealed: ciphertext and tag, 16 to MOST bytes; associated:
        MOST bytes at most
        """
        size = len(sealed) - TAG
        if len(key) != KEY or len(nonce) != NONCE:
            raise ValueError("a key or nonce of another size")
        if size < 0 or len(sealed) > MOST or len(associated) > MOST:
            raise ValueError("a message of another size")
        lib, context, written = self._lib, self._gcm, self._size_at
        if (
            lib.EVP_DecryptInit_ex(context, None, None, key, nonce) != 1
            or lib.EVP_CIPHER_CTX_ctrl(context, _GCM_SET_TAG, TAG, sealed[size:]) != 1
            or lib.EVP_DecryptUpdate(context, None, written, associated, len(associated)) != 1
            or lib.EVP_DecryptUpdate(context, self._out, written, sealed, size) != 1
            or self._size.value != size
            or lib.EVP_DecryptFinal_ex(context, self._out + size, written) != 1
        ):
            lib.ERR_clear_error()
            return None
        return ctypes.string_at(self._out, size)


@functools.cache
def load() -> Library:
    """Return the library behind the ssl module, probed. Raises: Unavailable"""
    path = getattr(ssl._ssl, "__file__", None)  # type: ignore[attr-defined]  # noqa: SLF001
    try:
        library = Library(path)
    except (OSError, AttributeError) as error:
        raise Unavailable(f"libcrypto of Python's ssl module cannot be used: {error}") from None
    _probe(Aes(library))
    return library


def _probe(aes: Aes) -> None:
    """Have it give the answers of the standards. Raises: Unavailable"""
    key, block, expected = _ECB
    if aes.encrypt_block(key, block) != expected:
        raise Unavailable("AES-128 of this libcrypto is not that of FIPS 197")
    sealed = _GCM_SEALED
    forged = sealed[:-1] + bytes((sealed[-1] ^ 1,))
    if (
        aes.open(_GCM_KEY, _GCM_NONCE, sealed, _GCM_ASSOCIATED) != _GCM_PLAIN
        or aes.open(_GCM_KEY, _GCM_NONCE, forged, _GCM_ASSOCIATED) is not None
    ):
        raise Unavailable("AES-128-GCM of this libcrypto is not that of NIST SP 800-38D")
