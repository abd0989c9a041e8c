"""Requests of HTTP that were tampered with."""

import random
from typing import Final

SEEDS: Final = (
    b"GET /api/9/stream/?fields=a,b HTTP/1.1\r\nHost: 127.0.0.1:80\r\nAccept: */*\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    b"PUT / HTTP/1.1\r\nHost:\r\nTransfer-Encoding: chunked\r\n\r\n5;e\r\nhello\r\n0\r\nT:\r\n\r\n",
    b"GET http://a.b:1/c?d HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"\r\nDELETE /api/9/x/ HTTP/1.1\r\nhost:a\r\nconnection: close, x\r\ncontent-length:0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost:\r\nOrigin: null\r\n\r\n",
)
# the same for a server that answers
ASKING: Final = (
    b"GET /api/9/stream/upstreams/?fields= HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n",
    b"GET /api/ngxstream/1/ HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Basic eDp5\r\n\r\n",
    b"GET /api/9/%6e%67inx HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"POST /api/9/stream/upstreams/u/servers/ HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
    b"HEAD /dashboard.html HTTP/1.1\r\nHost: a\r\nUser-Agent: Mozilla/5.0\r\n\r\n",
    b"GET /metrics HTTP/1.0\r\n\r\n",
)
_PIECES: Final = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"\r\n ", b"Content-Length: 3\r\n", b"\xff",
    b"Transfer-Encoding: chunked\r\n", b"Host: b\r\n", b"0", b"0\r\n\r\n", b";", b"HTTP/1.1", b"%",
    b"Expect: 100-continue\r\n", b"a" * 9000, b"b: c\r\n" * 101, b"fffffffff\r\n", b"/..", b"?",
)  # fmt: skip


def tampered(random_: random.Random, seeds: tuple[bytes, ...] = SEEDS) -> bytes:
    """Return requests of which something was cut, changed, put in or said twice."""
    data = bytearray(b"".join(random_.choices(seeds, k=random_.randint(1, 3))))
    for _ in range(random_.randint(0, 5)):
        at = random_.randint(0, len(data))
        end = min(len(data), at + random_.choice((0, 0, 1, 2, 20)))
        kind = random_.random()
        if kind < 0.5:
            data[at:end] = random_.choice(_PIECES)
        elif kind < 0.8:
            data[at:end] = random_.randbytes(random_.randint(0, 3))
        else:
            data[at:at] = data[at:end]
    return bytes(data)
