"""The hash functions nginx balances and splits by: crc32, crc32c, murmur2, ketama points.

Answers for core/ngx_crc32.[ch], core/ngx_murmurhash.c and the point and pick arithmetic of
stream/ngx_stream_upstream_hash_module.c.  Pure functions: bytes in, integers out.
"""

from typing import Final
from zlib import crc32

POINTS_PER_WEIGHT: Final = 160  # ngx_stream_upstream_hash_module.c: 160 points for each weight

_MURMUR_M: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF
_LITTLE: Final = memoryview(b"\1\0\0\0").cast("I")[0] == 1  # this machine's own byte order


def _crc32c_row(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC32C_TABLE: Final = tuple(_crc32c_row(byte) for byte in range(256))


def crc32c(data: bytes | bytearray | memoryview, crc: int = 0) -> int:
    """Compute CRC-32C (Castagnoli, RFC 3720 appendix B.4).

    Args: crc: the finished value over the bytes before ``data``, as zlib.crc32 takes it.
    """
    table = _CRC32C_TABLE
    crc ^= _MASK
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ _MASK


def murmur2(data: bytes) -> int:
    """Compute MurmurHash2, 32 bits, seed 0, little-endian words.

    Source: core/ngx_murmurhash.c ngx_murmur_hash2; what ``split_clients`` splits by.
    """
    size = len(data)
    whole = size & ~3
    h = size
    # hot: one memoryview cast reads all words at once, half the time of int.from_bytes per word
    words = memoryview(data)[:whole].cast("I") if _LITTLE else _little_words(data[:whole])
    for word in words:
        k = word * 0x5BD1E995 & 0xFFFFFFFF
        h = h * 0x5BD1E995 & 0xFFFFFFFF ^ (k ^ k >> 24) * 0x5BD1E995 & 0xFFFFFFFF
    if whole != size:
        h = (h ^ int.from_bytes(data[whole:], "little")) * _MURMUR_M & _MASK
    h = (h ^ h >> 13) * _MURMUR_M & _MASK
    return h ^ h >> 15


def _little_words(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]


def plain_hash(key: bytes, rehash: int) -> int:
    """Compute one step of the plain ``hash`` method: 15 bits to add to the running hash.

    ``rehash`` counts the tries before this one; it is written before the key from the
    second try on.  Source: ngx_stream_upstream_get_hash_peer (Cache::Memcached's arithmetic).
    """
    crc = crc32(key, crc32(b"%d" % rehash)) if rehash else crc32(key)
    return crc >> 16 & 0x7FFF


def ketama_points(server: str, weight: int) -> list[int]:
    """Compute the points one peer has on the ``hash … consistent`` ring, in order of making.

    ``server`` is the address text as the configuration writes it; returns
    ``weight * 160`` 32-bit integers, the first of a heavier peer being those of a lighter one.
    Source: ngx_stream_upstream_update_chash (Cache::Memcached::Fast's arithmetic).
    """
    host, port = split_server(server)
    # nginx keeps the CRC state of host, NUL and port and goes on from it for each point;
    # zlib goes on from a finished value just as well.
    base = crc32(b"%b\0%b" % (host, port))
    points = []
    previous = b"\0\0\0\0"
    for _ in range(weight * POINTS_PER_WEIGHT):
        point = crc32(previous, base)
        points.append(point)
        previous = point.to_bytes(4, "little")
    return points


def split_server(server: str) -> tuple[bytes, bytes]:
    """Split a ``server`` text into the host and port that ketama hashes.

    What follows the last ``:`` is the port if it is all digits (none at all included);
    ``unix:`` in any case is dropped and the path is the host.
    Source: ngx_stream_upstream_update_chash.
    """
    text = server.encode("utf-8", "surrogateescape")
    if text[:5].lower() == b"unix:":
        return text[5:], b""
    host, colon, port = text.rpartition(b":")
    if colon and (not port or port.isdigit()):
        return host, port
    return text, b""
