"""A UDP socket towards one host, whichever of its ports answers: for TFTP and its like.

nginx connects its sockets, and the kernel drops what comes from another port than it is connected
to. This one is not connected, and looks like one that is: what is received comes from the host, and
what is sent goes to the port that answered last.

1. What another host sends is dropped by a filter in the kernel (classic BPF), so that it takes no
   room in the socket's queue either; what passed, or was queued before, is looked at again here.
2. Refusals (ICMP) are asked for, which such a socket does not hear of by itself, with the address
   that refused: of the port that was configured it is an error of send and receive, as of a
   connected socket. Another port that refuses is through: what is sent goes to the configured one
   again. Any other address is not believed, whatever the error is.
3. A host of IPv4 may have an address of IPv6 (::ffff:192.0.2.1): its packets are those of IPv4.

Source: udp(7), ip(7) IP_RECVERR; Documentation/networking/filter.rst of Linux.
"""

from __future__ import annotations

import array
import contextlib
import errno
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import inet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ngxstream.core.inet import InetAddr

SO_ATTACH_FILTER: Final = 26
_RECVERR: Final = {
    socket.AF_INET: (int(socket.IPPROTO_IP), 11), socket.AF_INET6: (int(socket.IPPROTO_IPV6), 25)
}
MSG_ERRQUEUE: Final = 0x2000
# what an error of the network may be. Source: icmp_err_convert in Linux's net/ipv4/icmp.c
REFUSALS: Final = frozenset((
    errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENONET,
    errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EPROTO, errno.EACCES,
))
MOST_ERRORS: Final = 64  # read at once
MOST_STRANGERS: Final = 64  # datagrams of others that are passed over at once

_NET: Final = 0xFFF00000  # SKF_NET_OFF: from where the IP header is read
_SOURCE: Final = {socket.AF_INET: 12, socket.AF_INET6: 8}
_MAPPED: Final = bytes(10) + b"\xff\xff"  # Source: RFC 4291 section 2.5.5.2


class AnyPort:
    """The socket of one session, with those methods of a connected one that sessions call."""

    __slots__ = ("_host", "_own", "family", "sock", "target")

    def __init__(self, sock: Any, sockaddr: InetAddr, port: int = 0) -> None:
        """Take a socket that is not connected. Args: port: that answered last, 0 for none"""
        self.sock = sock
        self.family = sock.family
        self._own = sockaddr
        self._host = inet.packed(sockaddr)
        self.target: Any = sockaddr if not port else (sockaddr[0], port, *sockaddr[2:])
        level, option = _RECVERR[socket.AddressFamily(sock.family)]
        sock.setsockopt(level, option, 1)
        if (self._host or b"").startswith(_MAPPED):
            sock.setsockopt(*_RECVERR[socket.AF_INET], 1)
        with contextlib.suppress(OSError):  # then it is looked at here alone
            attach(sock, self._host or b"")

    def fileno(self) -> int:
        """Return the descriptor."""
        fd: int = self.sock.fileno()
        return fd

    def close(self) -> None:
        """Close it."""
        self.sock.close()

    def getsockname(self) -> Any:
        """Return the local address."""
        return self.sock.getsockname()

    def getsockopt(self, *args: Any) -> Any:
        """Return an option."""
        return self.sock.getsockopt(*args)

    def setsockopt(self, *args: Any) -> None:
        """Set an option."""
        self.sock.setsockopt(*args)

    # -- sending -------------------------------------------------------------------------------

    def send(self, data: bytes | memoryview) -> int:
        """Send a datagram to the port that answered last. Raises: OSError as a connected one"""
        return self._sent(lambda: self.sock.sendto(data, self.target))

    def sendmsg(self, views: Sequence[memoryview], control: Any = (), flags: int = 0) -> int:
        """Send several as one message."""
        return self._sent(lambda: self.sock.sendmsg(views, control, flags, self.target))

    def _sent(self, send: Any) -> int:
        try:
            count: int = send()
        except OSError as error:
            if not self._is_old(error):
                raise
            count = send()  # the error was that of a port that is through
        return count

    # -- receiving -----------------------------------------------------------------------------

    def recv_into(self, slot: memoryview) -> int:
        """Receive a datagram of the host. Raises: OSError as a connected one"""
        for _ in range(MOST_STRANGERS):
            try:
                n, source = self.sock.recvfrom_into(slot)
            except OSError as error:
                if not self._is_old(error, is_sent=False):
                    raise
                continue
            if source == self.target or self._is_ours(source):
                count: int = n
                return count
        raise BlockingIOError(errno.EAGAIN, "there are only others' datagrams")

    def recvmsg_into(self, slots: Sequence[memoryview], space: int) -> tuple[int, Any, int, Any]:
        """Receive a datagram of the host, or several that the kernel coalesced."""
        for _ in range(MOST_STRANGERS):
            try:
                found: tuple[int, Any, int, Any] = self.sock.recvmsg_into(slots, space)
            except OSError as error:
                if not self._is_old(error, is_sent=False):
                    raise
                continue
            if found[3] == self.target or self._is_ours(found[3]):
                return found
        raise BlockingIOError(errno.EAGAIN, "there are only others' datagrams")

    def _is_ours(self, source: Any) -> bool:
        """Tell whether the host has sent something; then its port is the one that answered last."""
        if inet.packed(source) != self._host:
            return False
        self.target = source
        return True

    # -- refusals ------------------------------------------------------------------------------

    def _is_old(self, error: OSError, *, is_sent: bool = True) -> bool:
        """Tell whether an error says nothing of the configured port: then one goes on.

        Args: is_sent: it came of sending, which may itself be the reason for EMSGSIZE
        """
        if isinstance(error, BlockingIOError):
            return False
        refused = self._refused()
        is_refusal = error.errno in REFUSALS
        is_size = error.errno == errno.EMSGSIZE and not is_sent
        if not (is_refusal or is_size) or not refused:
            return False
        if is_refusal and self.target[:2] in refused and self.target[:2] != self._own[:2]:
            self.target = self._own
        return self._own[:2] not in refused

    def _refused(self) -> set[Any]:
        """Read the queue of errors. Returns: the addresses that they are about"""
        found = set()
        for _ in range(MOST_ERRORS):
            try:
                _, _, _, address = self.sock.recvmsg(1, 512, MSG_ERRQUEUE)
            except OSError:
                break
            if address:
                found.add(address[:2])
        return found


def attach(sock: Any, host: bytes) -> None:
    """Have the kernel drop what does not come from a host. Raises: OSError

    Args: host: packed
    """
    start = _SOURCE[socket.AddressFamily(sock.family)]
    if host.startswith(_MAPPED):
        start, host = _SOURCE[socket.AF_INET], host[len(_MAPPED) :]
    words = struct.unpack(f"!{len(host) // 4}I", host)
    steps = []
    for n, word in enumerate(words):
        left = 2 * (len(words) - n) - 1  # to the last step, which drops
        steps += [(0x20, 0, 0, _NET + start + 4 * n), (0x15, 0, left, word)]
    steps += [(0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0)]
    code = array.array("B", b"".join(struct.pack("=HBBI", *step) for step in steps))
    address, _ = code.buffer_info()
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(steps), address))
