"""QUIC clients of our own: packets built and protected, and the hellos inside of them.

The encoder stands apart from the parser: it has its own key derivation, and seals with EVP calls of
its own. `Client` cuts a hello into datagrams as it is told.
"""

import ctypes
import hashlib
import hmac
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

V1: Final = 0x00000001
V2: Final = 0x6B3343CF
INITIAL, ZERO_RTT, HANDSHAKE, RETRY = range(4)
DATAGRAM: Final = 1200  # bytes that an Initial packet's datagram has at least

_SALTS: Final = {
    V1: "38762cf7f55934b34d179ae6a4c80cadccbb7f0a", V2: "0dede3def700a6db819381be6e269dcbf9bd2ed9",
}
_PREFIX: Final = {V1: "quic ", V2: "quicv2 "}
_TYPES: Final = {V1: (0, 1, 2, 3), V2: (1, 2, 3, 0)}  # by INITIAL, ZERO_RTT …
_GET_TAG: Final = 0x10


# -- the cipher ------------------------------------------------------------------------------------

_dll: Final = ctypes.PyDLL(ssl._ssl.__file__)  # type: ignore[attr-defined]
for _name, _result, _arguments in (
    ("EVP_CIPHER_CTX_new", ctypes.c_void_p, 0), ("EVP_aes_128_gcm", ctypes.c_void_p, 0),
    ("EVP_aes_128_ecb", ctypes.c_void_p, 0), ("EVP_CIPHER_CTX_free", None, 1),
    ("EVP_EncryptInit_ex", ctypes.c_int, 5), ("EVP_EncryptFinal_ex", ctypes.c_int, 3),
):
    _function: Any = getattr(_dll, _name)
    _function.restype = _result
    _function.argtypes = [ctypes.c_void_p] * _arguments
_dll.EVP_EncryptUpdate.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int]
_dll.EVP_CIPHER_CTX_ctrl.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p]


def _encrypt(cipher: Any, key: bytes, nonce: bytes | None, data: bytes, associated: bytes) -> bytes:
    context = _dll.EVP_CIPHER_CTX_new()
    out, size = ctypes.create_string_buffer(len(data) + 32), ctypes.c_int()
    try:
        assert _dll.EVP_EncryptInit_ex(context, cipher, None, key, nonce) == 1
        if associated:
            at = ctypes.byref(size)
            assert _dll.EVP_EncryptUpdate(context, None, at, associated, len(associated)) == 1
        assert _dll.EVP_EncryptUpdate(context, out, ctypes.byref(size), data, len(data)) == 1
        tag = ctypes.create_string_buffer(16)
        if nonce is not None:
            end, behind = ctypes.c_int(), ctypes.byref(out, size.value)
            assert _dll.EVP_EncryptFinal_ex(context, behind, ctypes.byref(end)) == 1
            assert _dll.EVP_CIPHER_CTX_ctrl(context, _GET_TAG, 16, tag) == 1
            return out.raw[: len(data)] + tag.raw
        return out.raw[: len(data)]
    finally:
        _dll.EVP_CIPHER_CTX_free(context)


def seal(key: bytes, nonce: bytes, data: bytes, associated: bytes = b"") -> bytes:
    """Encrypt with AES-128-GCM; the tag stands behind the ciphertext."""
    return _encrypt(_dll.EVP_aes_128_gcm(), key, nonce, data, associated)


# -- packets ---------------------------------------------------------------------------------------


def _expand(secret: bytes, label: str, size: int) -> bytes:
    full = b"tls13 " + label.encode()
    info = size.to_bytes(2, "big") + bytes((len(full),)) + full + b"\0"
    return hmac.new(secret, info + b"\1", hashlib.sha256).digest()[:size]


def keys(version: int, destination: bytes, side: str = "client") -> tuple[bytes, bytes, bytes]:
    """Return key, IV and key of header protection of one side's Initial packets."""
    salt = bytes.fromhex(_SALTS[version])
    initial = hmac.new(salt, destination, hashlib.sha256).digest()
    secret, prefix = _expand(initial, f"{side} in", 32), _PREFIX[version]
    return (
        _expand(secret, f"{prefix}key", 16), _expand(secret, f"{prefix}iv", 12),
        _expand(secret, f"{prefix}hp", 16),
    )


def varint(value: int, size: int = 0) -> bytes:
    """Write an integer, in as few bytes as it takes or in 1, 2, 4 or 8."""
    size = size or next(n for n in (1, 2, 4, 8) if value < 1 << (8 * n - 2))
    return (value | (size.bit_length() - 1) << (8 * size - 2)).to_bytes(size, "big")


def crypto(offset: int, data: bytes) -> bytes:
    """Write a CRYPTO frame."""
    return b"\x06" + varint(offset) + varint(len(data)) + data


def ack(*gaps: tuple[int, int], ecn: bool = False) -> bytes:
    """Write an ACK frame with so many further ranges."""
    body = varint(9000) + varint(3) + varint(len(gaps)) + varint(0)
    body += b"".join(varint(gap) + varint(size) for gap, size in gaps)
    return (b"\x03" + body + varint(1) * 3) if ecn else b"\x02" + body


def long_header(
    kind: int, version: int, destination: bytes, source: bytes, low: int = 0, fixed: int = 0x40
) -> bytes:
    """Write what all long headers begin with."""
    first = 0x80 | fixed | _TYPES[version][kind] << 4 | low
    ids = bytes((len(destination),)) + destination + bytes((len(source),)) + source
    return bytes((first,)) + version.to_bytes(4, "big") + ids


def initial(
    payload: bytes, *, version: int = V1, destination: bytes = b"to-server", source: bytes = b"me",
    token: bytes = b"", number: int = 0, number_size: int = 0, size: int = 0, low: int = 0,
    fixed: int = 0x40, secret_id: bytes | None = None, side: str = "client",
) -> bytes:
    """Build a protected Initial packet.

    Args: number_size: bytes of its number; size: of the packet, reached by PADDING; low: reserved
    bits; secret_id: the connection id that the keys are of, if another one
    """
    number_size = number_size or max(1, (number.bit_length() + 8) // 8)
    head = long_header(INITIAL, version, destination, source, low | number_size - 1, fixed)
    head += varint(len(token)) + token
    payload += bytes(max(0, size - len(head) - 2 - number_size - len(payload) - 16))
    head += varint(number_size + len(payload) + 16, 2 if len(payload) < 16_000 else 4)
    key, iv, hp = keys(version, destination if secret_id is None else secret_id, side)
    nonce = (int.from_bytes(iv, "big") ^ number).to_bytes(12, "big")
    cut = number.to_bytes(8, "big")[-number_size:]
    sealed = seal(key, nonce, payload, head + cut)
    mask = _encrypt(_dll.EVP_aes_128_ecb(), hp, None, sealed[4 - number_size :][:16], b"")
    first = head[0] ^ mask[0] & 0x0F
    number_masked = bytes(a ^ b for a, b in zip(cut, mask[1:], strict=False))
    return bytes((first,)) + head[1:] + number_masked + sealed


def opaque(
    kind: int, size: int = 60, *, version: int = V1, destination: bytes = b"to-server",
    source: bytes = b"me",
) -> bytes:
    """Build a 0-RTT or Handshake packet, whose contents nobody here can read."""
    body = bytes(range(256)) * (size // 256 + 1)
    return long_header(kind, version, destination, source) + varint(size) + body[:size]


def short(destination: bytes, body: bytes = b"", size: int = 60) -> bytes:
    """Build a packet with a short header, whose contents nobody here can read."""
    return b"\x41" + destination + body + bytes(n & 0xFF for n in range(size - len(body)))


# -- hellos ----------------------------------------------------------------------------------------


def _u16(value: int) -> bytes:
    return value.to_bytes(2, "big")


def _extension(kind: int, body: bytes) -> bytes:
    return _u16(kind) + _u16(len(body)) + body


def hello(name: str = "one.test", alpn: Sequence[str] = ("h3",), size: int = 0) -> bytes:
    """Write the ClientHello message of a QUIC client, of a size at least (a post-quantum one)."""
    server = b"\0" + _u16(len(name)) + name.encode()
    listed = b"".join(bytes((len(one),)) + one.encode() for one in alpn)
    extensions = _extension(0x2B, b"\x02\x03\x04") + _extension(0x39, b"\x01\x02\x43\xe8")
    if alpn:
        extensions += _extension(0x10, _u16(len(listed)) + listed)
    begin = b"\3\3" + bytes(range(32)) + b"\0" + b"\0\2\x13\1" + b"\1\0"
    named = _extension(0, _u16(len(server)) + server) if name else b""
    lacking = size - len(begin) - len(extensions) - len(named) - 10
    if lacking > 0:  # in front of the name, as key shares stand in those of browsers
        extensions += _extension(0x33, bytes(n & 0xFF for n in range(lacking)))
    extensions += named
    body = begin + _u16(len(extensions)) + extensions
    return b"\x01" + len(body).to_bytes(3, "big") + body


@dataclass(frozen=True, slots=True)
class Client:
    """One connection that a client begins. Args: as of initial()"""

    version: int = V1
    destination: bytes = b"to-server"
    source: bytes = b"me"
    token: bytes = b""

    def initial(self, *frames: bytes, number: int = 0, size: int = DATAGRAM, **more: Any) -> bytes:
        """Build an Initial packet of this connection, padded to a datagram."""
        return initial(
            b"".join(frames), version=self.version, destination=self.destination,
            source=self.source, token=self.token, number=number, size=size, **more,
        )

    def datagrams(self, message: bytes, pieces: int = 0) -> list[bytes]:
        """Cut a hello into so many datagrams, as many as it takes by default."""
        most = DATAGRAM - 90 - len(self.token)
        size = -(-len(message) // pieces) if pieces else most
        return [
            self.initial(crypto(at, message[at : at + size]), number=at // size)
            for at in range(0, len(message), size)
        ]

    def packed(self, cuts: Iterable[tuple[int, bytes]], number: int = 0) -> bytes:
        """Build one datagram with CRYPTO frames, as (offset, data) in this order."""
        return self.initial(*(crypto(at, data) for at, data in cuts), number=number)
