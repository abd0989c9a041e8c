"""recvmmsg and sendmmsg by ctypes: load must cost less than what it measures.

A Batch is a row of message headers made once. What it received it can send back as it stands:
the headers keep the senders' addresses and the lengths.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import time
from typing import Any, Final

_libc: Final = ctypes.CDLL(None, use_errno=True)
_MSG_DONTWAIT: Final = int(socket.MSG_DONTWAIT)


class _Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]


class _Header(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("padding", ctypes.c_int),
        ("len", ctypes.c_uint32),  # struct mmsghdr's msg_len, behind the msghdr
    ]


class Batch:
    """Up to `count` datagrams of up to `size` bytes.

    Args: with `shared` all of them lie in one and the same buffer (a client sends equal
    datagrams and looks at the last answer only); `named` keeps the peers' addresses.
    """

    def __init__(self, count: int, size: int, *, named: bool = False, shared: bool = False) -> None:
        self.count = count
        self.size = size
        self.buffer = bytearray(size if shared else size * count)
        self._pinned = (ctypes.c_char * len(self.buffer)).from_buffer(self.buffer)
        base = ctypes.addressof(self._pinned)
        self._names = ctypes.create_string_buffer(28 * count)
        self._iovecs = (_Iovec * count)()
        self._headers = (_Header * count)()
        for i in range(count):
            self._iovecs[i] = _Iovec(base if shared else base + i * size, size)
            header = self._headers[i]
            header.iov = ctypes.pointer(self._iovecs[i])
            header.iovlen = 1
            if named:
                header.name = ctypes.addressof(self._names) + 28 * i
                header.namelen = 28
        self._receive, self._send = _libc.recvmmsg, _libc.sendmmsg
        self._row = ctypes.byref(self._headers)

    def receive(self, fd: int) -> int:
        """Return how many datagrams came, 0 for none."""
        n = self._receive(fd, self._row, self.count, _MSG_DONTWAIT, None)
        return int(n) if n > 0 else _nothing()

    def send(self, fd: int, count: int) -> int:
        """Send the first `count` datagrams. Returns: how many the kernel took"""
        n = self._send(fd, self._row, count, 0)
        return int(n) if n > 0 else _nothing()


def _nothing() -> int:
    code = ctypes.get_errno()
    if code not in (errno.EAGAIN, errno.EINTR, errno.ECONNREFUSED):
        raise OSError(code, os.strerror(code))
    return 0


def percentiles(samples: list[int]) -> dict[str, float]:
    """Return p50 and p99 in microseconds. Args: samples in ns; sorted in place"""
    if not samples:
        return {}
    samples.sort()
    last = len(samples) - 1
    return {"p50_us": samples[last // 2] / 1000, "p99_us": samples[last * 99 // 100] / 1000}


def udp_socket(**options: Any) -> socket.socket:
    """Make a UDP socket with large buffers on the loopback."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, options.get("buffer", 1 << 20))
    return sock


def now() -> int:
    """Return a monotonic time in ns."""
    return time.monotonic_ns()
