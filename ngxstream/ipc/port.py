"""Ports: the only way from one process of the service to another, Unix SOCK_SEQPACKET sockets.

Beside src/os/unix/ngx_channel.c, whose channel is one of their users.

1. A port states who may speak: the role, and the user ids (and the process, where it is known). The
   kernel says with each message who sent it (SO_PASSCRED): SO_PEERCRED of a pair names its maker,
   whoever holds its end by now. What anybody else says is refused, its descriptors closed.
2. A message is a kind, a payload and descriptors. A small payload stands in the packet; a large one
   in a memfd, which is read only if it is sealed against change and of the stated size. More
   descriptors than a packet takes come in several packets, to one who has one speaker.
3. Memory is bounded: each port states how long a payload and how many descriptors it takes.
4. Every socket made here is close-on-exec, and known: a forked child closes all but those that are
   handed to it (`keep_only`), whoever made them.
5. Whatever is refused raises CodecError; nothing of it stays open.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import socket
import struct
import time
import weakref
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Protocol

from ngxstream.ipc import codec
from ngxstream.ipc.codec import CodecError

MAGIC: Final = 0xB7
MAX_FDS: Final = 250  # of a packet, but for its memfd; SCM_MAX_FD is 253
INLINE: Final = 65_536  # the longest payload in a packet
SEND_S: Final = 2.0  # how long the later packets of one message may wait
MORE: Final = 1  # descriptors of the same message follow
SEALED: Final = 2  # the first descriptor is a memfd with the payload

_HEAD: Final = struct.Struct("<BBBBI")  # magic, version, kind, flags, length of the payload
_UCRED: Final = struct.Struct("=iII")  # pid, uid, gid
_INT: Final = array.array("i").itemsize
_CONTROL: Final = socket.CMSG_SPACE((MAX_FDS + 1) * _INT) + socket.CMSG_SPACE(_UCRED.size)
_HOW: Final = (_HEAD.size + INLINE, _CONTROL, socket.MSG_CMSG_CLOEXEC)  # of recvmsg()
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_MFD_NOEXEC_SEAL: Final = 8  # Linux 6.3; where vm.memfd_noexec is 2 nothing else is allowed

# What this process talks through. No state of a module's own: it mirrors the table of descriptors,
# of which there is one in a process, and is emptied where that is (keep_only).
_open: Final[weakref.WeakSet[socket.socket]] = weakref.WeakSet()


class HasSocket(Protocol):
    """What `keep_only` is told to keep."""

    sock: socket.socket


class Speaker(NamedTuple):
    """Who may speak at a port. Args: role: in words; pid: 0 for any process of these users"""

    role: str
    uids: frozenset[int]
    pid: int = 0

    @classmethod
    def of(cls, role: str, *uids: int | None, pid: int = 0) -> Speaker:
        """State a role's users; root and this process's own user may always speak."""
        known = {uid for uid in uids if uid is not None}
        return cls(role, frozenset(known | {0, os.geteuid()}), pid)


class Message(NamedTuple):
    """What came. The receiver owns the descriptors; the kernel vouches for pid and uid."""

    kind: int
    payload: bytes
    fds: list[int]
    pid: int
    uid: int

    def close(self) -> None:
        """Close the descriptors of a message that is not wanted."""
        close_all(self.fds)


class Packet:
    """One packet on its way. It owns the memfd, if there is one."""

    __slots__ = ("_data", "_fds", "_payload", "_sealed")

    def __init__(self, kind: int, payload: bytes = b"", fds: Sequence[int] = (),
                 flags: int = 0) -> None:
        """Args: fds: at most MAX_FDS, which stay the caller's"""
        size = len(payload)
        self._fds: list[int] = list(fds)
        self._sealed = -1
        self._payload = b""  # what goes in a memfd
        if size > INLINE:
            self._payload = payload
            flags, payload = flags | SEALED, b""
        self._data = _HEAD.pack(MAGIC, codec.VERSION, kind, flags, size) + payload

    def send(self, sock: socket.socket) -> None:
        """Send it whole. Raises: BlockingIOError where the other end does not read, OSError"""
        if self._payload:  # a memfd takes a descriptor: not before it is the packet's turn
            self._sealed = seal(self._payload)
            self._fds.insert(0, self._sealed)
            self._payload = b""
        if self._fds:
            socket.send_fds(sock, [self._data], self._fds)
        else:
            sock.send(self._data)

    def close(self) -> None:
        """Close the memory."""
        fd, self._sealed = self._sealed, -1
        if fd >= 0:
            os.close(fd)


class Port:
    """One end. Nothing here blocks, but for the later packets of a message of many descriptors."""

    __slots__ = ("sock", "speaker", "_fds", "_max_bytes", "_max_fds", "_pid")

    def __init__(self, sock: socket.socket, speaker: Speaker, *, max_bytes: int,
                 max_fds: int = 0) -> None:
        """Take a socket that was made here (pair, connect, accept, adopt).

        Args: max_bytes: the longest payload that is taken; max_fds: the most descriptors with one.
        Where that is more than a packet takes, the other end has to have one speaker.
        """
        sock.setblocking(False)
        self.sock = sock
        self.speaker = speaker
        self._max_bytes = max_bytes
        self._max_fds = max_fds
        self._fds: list[int] = []  # of a message whose last packet is still to come
        self._pid = 0  # who sent those

    def fileno(self) -> int:
        """Return the descriptor, for a poller."""
        return self.sock.fileno()

    def send(self, kind: int, payload: bytes = b"", fds: Sequence[int] = ()) -> bool:
        """Send one message; `fds` stay the caller's. Returns: False when it cannot be delivered"""
        end = 0.0
        try:
            while len(fds) > MAX_FDS:
                self._send(Packet(kind, b"", fds[:MAX_FDS], MORE), end)
                fds = fds[MAX_FDS:]
                end = end or time.monotonic() + SEND_S
            self._send(Packet(kind, payload, fds), end)
        except OSError:
            if end:  # half a message is worse than none
                with contextlib.suppress(OSError):
                    self.sock.shutdown(socket.SHUT_RDWR)
            return False
        return True

    def _send(self, packet: Packet, end: float) -> None:
        """Send one packet, waiting until `end`. Raises: OSError"""
        try:
            while True:
                try:
                    packet.send(self.sock)
                except BlockingIOError:
                    left = end - time.monotonic()
                    if not end or left <= 0:
                        raise
                    poller = select.poll()
                    poller.register(self.sock, select.POLLOUT)
                    poller.poll(left * 1000)
                else:
                    return
        finally:
            packet.close()

    def receive(self) -> Message:
        """Return the next message.

        Raises: BlockingIOError for none, EOFError for never again, CodecError for one that is
        refused (the next one may be sound), OSError
        """
        fds: list[int] = []
        while True:
            try:
                data, fds, pid, uid = self._receive()
                message = self._take(data, fds, pid, uid)
            except BlockingIOError:  # the rest of a message may come
                raise
            except BaseException:
                close_all(fds)
                close_all(self._fds)
                raise
            if message is not None:
                return message

    def _receive(self) -> tuple[bytes, list[int], int, int]:
        """Receive one packet. Returns: the bytes, the descriptors, and who sent it"""
        # socket.recv_fds() forgets its flags, and these descriptors must not survive an exec
        try:
            data, ancillary, flags, _ = self.sock.recvmsg(*_HOW)
        except ConnectionResetError:  # told first, where the other end died with something unread
            data, ancillary, flags, _ = self.sock.recvmsg(*_HOW)
        fds: list[int] = []
        pid, uid = 0, -1
        for level, kind, packed in ancillary:
            if level != socket.SOL_SOCKET:
                continue
            if kind == socket.SCM_RIGHTS:
                fds += array.array("i", packed[: len(packed) - len(packed) % _INT])
            elif kind == socket.SCM_CREDENTIALS and len(packed) == _UCRED.size:
                pid, uid, _ = _UCRED.unpack(packed)
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            close_all(fds)  # also where this process may have no more of them
            raise CodecError("a message was cut off")
        if not data and not ancillary:  # an empty packet has its sender's credentials
            raise EOFError("the other end is gone")
        return data, fds, pid, uid

    def _take(self, data: bytes, fds: list[int], pid: int, uid: int) -> Message | None:
        """Make a message of a packet. Returns: None while more packets belong to it"""
        if len(data) < _HEAD.size:
            raise CodecError("a message without a head")
        magic, version, kind, flags, size = _HEAD.unpack_from(data)
        if magic != MAGIC:
            raise CodecError("a message of another program, or of an old release")
        if version != codec.VERSION:
            raise CodecError(f"a message of version {version}, not {codec.VERSION} as ours")
        speaker = self.speaker
        if uid not in speaker.uids or (speaker.pid and pid != speaker.pid):
            raise CodecError(f"process {pid} of user {uid} speaks where only {speaker.role} may")
        if flags & ~(MORE | SEALED):
            raise CodecError("a message with unknown flags")
        if size > self._max_bytes:
            raise CodecError(f"a message of {size} bytes where {self._max_bytes} are the most")
        payload = data[_HEAD.size :]
        if flags & SEALED:
            if payload or not fds:
                raise CodecError("a message without its memory")
            fd = fds.pop(0)
            try:
                payload = unseal(fd, size)
            finally:
                os.close(fd)
        if len(payload) != size:
            raise CodecError("a message of another length than it states")
        if len(fds) + len(self._fds) > self._max_fds:
            raise CodecError(f"a message of more than {self._max_fds} descriptors")
        if self._fds and pid != self._pid:
            raise CodecError("two processes speak at once")
        if flags & MORE:
            if self._max_fds <= MAX_FDS:
                raise CodecError("a message in several packets")
            self._fds += fds
            self._pid = pid
            return None
        gathered, self._fds = self._fds, []
        return Message(kind, payload, gathered + fds, pid, uid)

    def close(self) -> None:
        """Close this end."""
        close_all(self._fds)
        self.sock.close()


# -- large payloads --------------------------------------------------------------------------------


def seal(payload: bytes) -> int:
    """Return a memfd of these bytes that nobody can change. Raises: OSError"""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create("message", flags | _MFD_NOEXEC_SEAL)
    except OSError:
        fd = os.memfd_create("message", flags)  # a kernel before 6.3
    try:
        view = memoryview(payload)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def unseal(fd: int, size: int) -> bytes:
    """Read another process's memfd, which has to be sealed and of this size. Raises: CodecError"""
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        if seals & _SEALS != _SEALS:
            raise CodecError("a message in memory that is not sealed")
        if os.fstat(fd).st_size != size:
            raise CodecError("a message of another length than its memory")
        parts: list[bytes] = []
        at = 0
        while at < size:
            part = os.pread(fd, size - at, at)
            if not part:
                raise CodecError("a message ends too early")
            parts.append(part)
            at += len(part)
    except OSError as error:
        raise CodecError("a message in no memory", errno=error) from None
    return b"".join(parts)


# -- sockets ---------------------------------------------------------------------------------------


def _known(sock: socket.socket) -> socket.socket:
    """Note a socket for keep_only(), and have the kernel name who speaks."""
    _open.add(sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return sock


def pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection, for one process each. Raises: OSError"""
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return _known(one), _known(two)


def listen(address: str, backlog: int, mode: int = 0o600) -> socket.socket:
    """Listen at an address, abstract or a path of this mode; never blocks. Raises: OSError"""
    sock = _known(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    try:
        sock.setblocking(False)
        os.fchmod(sock.fileno(), mode)  # bind() gives the path the mode of the socket
        sock.bind(address)
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


def connect(address: str) -> socket.socket:
    """Connect at once. Raises: BlockingIOError where the backlog is full, OSError"""
    sock = _known(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    try:
        sock.setblocking(False)
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


def accept(listener: socket.socket) -> socket.socket:
    """Return the next connection. Raises: BlockingIOError, OSError"""
    sock, _ = listener.accept()
    return _known(sock)


def adopt(fd: int) -> socket.socket:
    """Take an end over that came with the process. Raises: OSError for what is none"""
    os.set_inheritable(fd, False)
    sock = socket.socket(fileno=fd)
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_SEQPACKET:
        sock.detach()
        raise OSError(f"descriptor {fd} is no port")
    return _known(sock)


def writer(fd: int) -> socket.socket:
    """Take over an end that came in a message, to write to. Raises: CodecError for what is none"""
    try:
        return adopt(fd)
    except OSError:
        os.close(fd)
        raise CodecError("a descriptor that is no port") from None


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """Return pid and uid of who connected or listens at the other end. Raises: OSError"""
    packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _ = _UCRED.unpack(packed)
    return pid, uid


def is_gone(sock: socket.socket) -> bool:
    """Tell whether nobody is at the other end any more."""
    poller = select.poll()
    poller.register(sock, 0)
    return any(mask & (select.POLLHUP | select.POLLERR) for _, mask in poller.poll(0))


def keep_only(kept: Iterable[HasSocket | socket.socket]) -> None:
    """Close all sockets of this module in a forked child, but for those that are its own."""
    own = {one if isinstance(one, socket.socket) else one.sock for one in kept}
    for sock in list(_open):
        if sock not in own:
            sock.close()


def close_all(fds: list[int]) -> None:
    """Close descriptors and forget them."""
    while fds:
        with contextlib.suppress(OSError):
            os.close(fds.pop())
