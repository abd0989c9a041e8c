"""Probing: one dialogue with a server over a socket of its own, in bounded time and memory.

It knows sockets and no protocol: what is said is a generator's business (wire/probes.py), whether a
server is well because of it is its caller's. Nothing here belongs to a client's session.

1. `done(outcome)` is called once, in a later turn than begin(): when the dialogue has returned or
   raised, the connection has failed or ended, or the time is up.
2. The dialogue hears no more than the first `most` bytes of an answer, in MOST_READS pieces; no
   more than KEPT of them are kept.
3. A dialogue over datagrams that has nothing to hear passes when the time is up, or something
   comes: until then the network may say that nobody is there.
4. One is no part of a reference cycle once it is over: workers do not run the cyclic collector.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from ngxstream.core import codes, errors
from ngxstream.event import connect, libssl_facts, tls

if TYPE_CHECKING:
    from ngxstream.core.inet import SockAddr
    from ngxstream.event.connect import PeerOptions
    from ngxstream.event.loop import Loop
    from ngxstream.event.timers import Timer

PIECE: Final = 4096  # bytes of a stream read at a time
KEPT: Final = 1024  # bytes of what was sent and came that an outcome shows
MOST_READS: Final = 1000  # an answer byte by byte costs no more than so many turns
IP_RECVERR: Final = 11
IPV6_RECVERR: Final = 25


class Outcome(NamedTuple):
    """How a probe ended.

    Args: passed: None where the fault is ours, and nothing is known of the server; text: why, for
    people; sent, received: the first KEPT bytes of what was said; ends_s: when the certificate
    that the server has shown ends to be valid (POSIX time), None for none
    """

    passed: bool | None
    text: str
    sent: bytes
    received: bytes
    ends_s: int | None = None

    @property
    def days_left(self) -> int | None:
        """For how many whole days the certificate is valid still; less than 0 where it is not."""
        return None if self.ends_s is None else int((self.ends_s - time.time()) // 86400)


class Security(Protocol):
    """What is done for TLS."""

    def begin(self, loop: Loop, sock: socket.SocketType) -> tls.Transport:
        """Take over a socket; the handshake is still to be made. Raises: SslError"""

    def complaint(self, transport: tls.Transport) -> str:
        """Return what is wrong with the server's certificate, "" for nothing."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to, and what is done before the dialogue.

    Attributes: kind: SOCK_STREAM or SOCK_DGRAM; name: as logged; header: sent first, below TLS
    """

    family: int
    sockaddr: SockAddr
    name: str
    kind: int
    header: bytes = b""
    options: PeerOptions = connect.PLAIN
    local: SockAddr | None = None
    secure: Security | None = None


class Probing:
    """One probe under way."""

    __slots__ = (
        "dialogue",
        "done",
        "ends_s",
        "errors",  # the classes of exceptions by which a dialogue says that a server is not well
        "fd",
        "heard",  # int: bytes that came, at least one for each piece
        "loop",
        "most",
        "reads",  # int: pieces in which they came
        "received",  # bytes, KEPT of them
        "sent",
        "sock",  # socket | Transport | None
        "target",
        "timer",
        "waiting",  # bytes that are to be sent still
        "_step",  # a function and no bound method, which would be a reference to itself
    )

    def __init__(
        self, loop: Loop, target: Target, dialogue: Generator[bytes, bytes, None], timeout_ms: int,
        most: int, done: Callable[[Outcome], None], complaints: type[Exception],
    ) -> None:
        """Args: most: bytes that are read; complaints: what the dialogue raises of a server"""
        self.loop = loop
        self.target = target
        self.dialogue = dialogue
        self.most = most
        self.done: Callable[[Outcome], None] | None = done
        self.errors = complaints
        self.ends_s: int | None = None
        self.fd = -1
        self.heard = 0
        self.reads = 0
        self.sent = b""
        self.received = b""
        self.sock: Any = None
        self.waiting = b""
        self._step: Callable[[Probing], None] = Probing._connected
        self.timer: Timer | None = loop.call_later(timeout_ms, self.on_timeout, cancelable=True)

    def begin(self) -> None:
        """Connect."""
        target, loop = self.target, self.loop
        if loop.free_connections <= 0:
            self._later(None, f"{loop.connections} worker_connections are not enough")
            return
        drawn = loop.get(connect.ephemeral_ports)
        try:
            self.sock, ready = connect.connect_peer(
                target.family, target.kind, target.sockaddr, target.name, target.options,
                target.local, False, drawn,
            )
        except errors.PeerError as error:
            self._later(False, str(error))
            return
        except errors.NgxError as error:
            self._later(None, str(error))
            return
        loop.free_connections -= 1
        self.fd = self.sock.fileno()
        try:
            if target.kind != connect.STREAM:
                self._ask_for_icmp()
            loop.register(self.fd, self.on_event)
        except OSError as error:  # a descriptor that the poller cannot watch
            self._later(None, str(error.strerror))
            return
        if ready:
            loop.post(self._go_on)

    def _ask_for_icmp(self) -> None:
        """Have the kernel tell of hosts that cannot be reached, too, not of closed ports alone."""
        if self.target.family == socket.AF_INET:
            self.sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        elif self.target.family == socket.AF_INET6:
            self.sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)

    def cancel(self) -> None:
        """Let go of it; done() is not called."""
        self.done = None
        self._close()

    # -- events --------------------------------------------------------------------------------

    def on_event(self, mask: int) -> None:
        """Go on: an edge says that something can be done now."""
        if self._step is Probing._connected and self.done is not None:
            code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self._end(False, f"connect() failed ({code}: {os.strerror(code)})")
                return
        self._go_on()

    def on_timeout(self) -> None:
        """Say what has not come; a datagram that nobody has to answer has been sent well."""
        self.timer = None
        step = self._step
        if step is Probing._listen:
            self._end(True, "nothing speaks against it")
        elif step is Probing._connected:
            self._end(False, "no connection in time")
        elif step is Probing._handshake:
            self._end(False, "no TLS handshake in time")
        elif step is Probing._send:
            self._end(False, "it does not read in time")
        else:
            self._end(False, "no answer in time" if not self.heard else "no full answer in time")

    def on_fault(self) -> None:
        """End after an exception nobody expected."""
        self._end(None, "unexpected error")

    # -- steps: each does one thing, and raises BlockingIOError when it has to wait ---------------

    def _go_on(self) -> None:
        try:
            while self.done is not None:
                self._step(self)
        except BlockingIOError:
            return
        except tls.Failure as error:
            why = f" ({error.code}: {os.strerror(error.code)})" if error.code else ""
            self._end(False, error.message + why)
        except OSError as error:
            what = "send()" if self._step is Probing._send else "recv()"
            self._end(False, f"{what} failed ({error.errno}: {error.strerror})")

    def _connected(self) -> None:
        target = self.target
        if target.kind == connect.STREAM:
            if target.header and self.sock.send(target.header) != len(target.header):
                self._end(None, "could not send PROXY protocol header at once")
                return
            if target.secure is not None:
                self._step = Probing._handshake
                try:
                    self.sock = target.secure.begin(self.loop, self.sock)
                except errors.NgxError as error:
                    self._end(None, str(error))
                return
        self._speak(None)

    def _handshake(self) -> None:
        transport = self.sock
        code = transport.handshake()
        if code == codes.AGAIN:
            raise BlockingIOError
        if code != codes.OK:
            message, number = transport.failure
            self._end(False, message + (f" ({number}: {os.strerror(number)})" if number else ""))
            return
        moment = libssl_facts.not_after(transport.lib, transport.pointer)
        self.ends_s = libssl_facts.seconds_of(moment)
        assert self.target.secure is not None
        said = self.target.secure.complaint(transport)
        if said:
            self._end(False, said)
        else:
            self._speak(None)

    def _speak(self, data: bytes | None) -> None:
        """Have the dialogue go on. Args: data: what came, b"" once all is sent, None to begin"""
        try:
            said = next(self.dialogue) if data is None else self.dialogue.send(data)
        except StopIteration:
            if self.target.kind != connect.STREAM and not self.heard:
                self._step = Probing._listen
            else:
                self._end(True, "well")
            return
        except self.errors as error:
            self._end(False, str(error))
            return
        except Exception:
            self._end(None, "the probe failed unexpectedly")
            raise
        if data is None and self.target.kind != connect.STREAM:
            said = self.target.header + said
        self.waiting = said
        self._step = Probing._send if said else Probing._receive

    def _send(self) -> None:
        poller = self.loop.poller
        try:
            count = self.sock.send(self.waiting)
        except BlockingIOError:
            poller.hold_read(self.fd)  # what comes meanwhile is no news
            poller.want_write(self.fd)
            raise
        self.sent = (self.sent + self.waiting[: min(count, KEPT)])[:KEPT]
        self.waiting = self.waiting[count:]
        if not self.waiting:
            poller.release_read(self.fd)
            self._speak(b"")

    def _receive(self) -> None:
        data = self._read()
        if not data and self.target.kind == connect.STREAM:
            self._end(False, "the server closed the connection" + self._before())
            return
        room = self.most - self.heard
        self.heard += len(data) or 1
        self.reads += 1
        self.received = (self.received + data[:KEPT])[:KEPT]
        self._speak(data[:room])
        if self._step is Probing._receive and self.done is not None:
            if self.heard >= self.most:
                self._end(False, f"no end of the answer in {self.most} bytes")
            elif self.reads >= MOST_READS:
                self._end(False, f"no end of the answer in {MOST_READS} pieces")

    def _listen(self) -> None:
        """See that nothing is said against it; an ICMP message raises."""
        self.received = self._read()[:KEPT]
        self._end(True, "it answers")

    def _read(self) -> bytes:
        room = self.loop.view
        if self.target.kind == connect.STREAM:
            room = room[:PIECE]
        return bytes(room[: self.sock.recv_into(room)])

    def _before(self) -> str:
        return "" if self.heard else " before it said anything"

    # -- the end -------------------------------------------------------------------------------

    def _later(self, passed: bool | None, text: str) -> None:
        self.loop.post(lambda: self._end(passed, text))

    def _end(self, passed: bool | None, text: str) -> None:
        done, self.done = self.done, None
        self._close()
        if done is not None:
            done(Outcome(passed, text, self.sent, self.received, self.ends_s))

    def _close(self) -> None:
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()
        sock, self.sock = self.sock, None
        if sock is not None:
            self.loop.free_connections += 1
            self.loop.poller.forget(self.fd)
            self.loop.closing.append(sock)
        try:
            self.dialogue.close()
        except (RuntimeError, ValueError):  # it is running, and ends by itself; or it will not end
            return
