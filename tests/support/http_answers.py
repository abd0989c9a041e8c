"""Replies of HTTP/1.1, whole and tampered with, for the client's parser."""

import random

SEEDS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.1 200\r\nTransfer-Encoding: Chunked\r\n\r\n2;x=1\r\nab\r\n1\r\nc\r\n0\r\nT: 1\r\n\r\n",
    b"HTTP/1.0 404 Not Found\r\nServer: x\r\n\r\nuntil the end",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n",
    b"HTTP/1.1 500 \xe4\r\nA: 1\r\nA: 2\r\nContent-Length: 0\r\n\r\n",
)
PIECES = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"Content-Length: 3\r\n", b"Content-Length: +3\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n",
    b"ffffffffffffffff\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/2 200\r\n", b"\x80", b"A" * 300,
)


def tampered(random_: random.Random) -> bytes:
    """Return a reply that something was done to, or not."""
    data = bytearray(random_.choice(SEEDS))
    for _ in range(random_.randrange(4)):
        at = random_.randrange(len(data) + 1)
        match random_.randrange(4):
            case 0:
                data[at:at] = random_.choice(PIECES)
            case 1:
                del data[at : at + random_.randrange(1, 9)]
            case 2:
                data[at:at] = bytes((random_.randrange(256),))
            case _:
                data[at : at + 1] = bytes((random_.randrange(256),))
    return bytes(data)
