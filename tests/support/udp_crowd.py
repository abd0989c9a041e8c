"""UDP clients by the hundred, the backends behind them, or a flood, each in its own process.

    python -m tests.support.udp_crowd clients|backends|flood '{"option": value, ...}'

Descriptors are limited by process, and a player must not wait for the test that drives it. It
takes words on standard input, answers each with a line of JSON, and ends when the input does.

Every datagram is numbered: a client's as UP, session, number; a backend's as DOWN, session,
number, each direction counting for itself from 0. What follows the number is made of it, and the
length changes now and then, so that a datagram that was cut, glued or given to a stranger shows.
Everything sent and everything received is in the player's journal (the word `journal`); whoever
has both journals can account for every datagram (tests.support.accounting).

Nothing is sent twice, nothing is repaired. A player that was late skips time, it does not make up
for it with a burst: what is measured is not the kernel's receive buffers.
"""

import itertools
import json
import os
import resource
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, Final

UP: Final = b"UP.."
DOWN: Final = b"DOWN"
FLOOD: Final = b"flood"
HEAD: Final = struct.Struct("!4sII")
BURST: Final = 16  # datagrams at most before what came in is looked at
LATE_S: Final = 0.02  # who is later than this gives the time up
BUFFER: Final = 32 << 20
SO_RCVBUFFORCE: Final = 33
IP_PKTINFO: Final = 8

Address = list[Any]  # host, port


def encode(kind: bytes, session: int, number: int) -> bytes:
    """Return a datagram; its length and its tail follow from session and number."""
    head = HEAD.pack(kind, session, number)
    return head * (8 if number % 5 else 13)


def decode(kind: bytes, data: bytes) -> tuple[int, int] | None:
    """Return session and number, None for what encode() did not make."""
    if len(data) < HEAD.size:
        return None
    found, session, number = HEAD.unpack_from(data)
    if found != kind or data != encode(kind, session, number):
        return None
    return session, number


class Player:
    """The loop of one process: words from the test, datagrams, and a schedule."""

    def __init__(self) -> None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.epoll = select.epoll()
        self.epoll.register(0, select.EPOLLIN)
        self.handlers: dict[int, Callable[[int], None]] = {0: self._on_word}
        self.gap_s = 0.0  # between two turns of the schedule, 0 for none
        self.next_at = 0.0
        self.slept = 0  # turns the schedule gave up because the process was late
        self._words = b""
        self._ended = False

    def run(self) -> None:
        """Play until the input ends."""
        say({"ready": self.introduction()})
        while not self._ended:
            timeout = -1.0
            if self.gap_s:
                timeout = self._keep_schedule()
            for fd, _ in self.epoll.poll(timeout, 256):
                self.handlers[fd](fd)

    def _keep_schedule(self) -> float:
        """Do what is due; return the seconds until something is."""
        for _ in range(BURST):
            at = time.monotonic()
            if self.next_at > at or not self.gap_s:
                break
            self.play()
            self.next_at += self.gap_s
        if self.gap_s and at - self.next_at > LATE_S:
            self.slept += int((at - self.next_at) / self.gap_s)
            self.next_at = at
        return max(0.0, self.next_at - at) if self.gap_s else -1.0

    def pace(self, per_second: float) -> None:
        """Call play() so often from now on."""
        self.gap_s = 1 / per_second if per_second else 0.0
        self.next_at = time.monotonic()

    def _on_word(self, _: int) -> None:
        data = os.read(0, 65536)
        self._ended = not data
        *lines, self._words = (self._words + data).split(b"\n")
        for line in lines:
            word, *numbers = line.decode().split()
            say(getattr(self, f"do_{word}")(*map(float, numbers)))

    # What a player of a kind does.

    def introduction(self) -> Any:
        """Return what the test has to know at the start."""
        return None

    def play(self) -> None:
        """Take one turn of the schedule."""

    def do_stop(self) -> Any:
        """Send nothing any more by itself; go on receiving."""
        self.gap_s = 0.0
        return self.do_status()

    def do_status(self) -> dict[str, int]:
        """Tell how far things are."""
        raise NotImplementedError

    def do_journal(self) -> Any:
        """Tell everything."""
        raise NotImplementedError


class Clients(Player):
    """Sessions, each a connected socket, that send in turn."""

    def __init__(
        self,
        to: list[Address],
        count: int,
        hz: float,
        first: int = 0,
        source: list[str] | None = None,
        burst: int = 1,
    ) -> None:
        """Open the sockets.

        Args: session first + i goes to to[i mod n], from the host source[i mod n] if given; in a
        turn, of which each session has hz a second, it sends burst datagrams
        """
        super().__init__()
        self.burst = burst
        self.hz = hz
        self.first = first
        self.count = count
        self.turn = 0
        self.last_turn = 0
        self.sent: list[list[float]] = [[] for _ in range(count)]  # times; the index is the number
        self.got: list[list[int]] = [[] for _ in range(count)]  # numbers, in order of arrival
        self.came: list[list[float]] = [[] for _ in range(count)]  # when each of these came
        self.answered = self.total_sent = self.total_got = 0
        self.mangled = self.refused = self.unsent = 0
        self.socks: list[socket.socket] = []
        self.by_fd: dict[int, int] = {}
        for i in range(count):
            host, port = to[i % len(to)]
            sock = _udp(host, 1 << 18)
            if source:
                sock.bind((source[i % len(source)], 0))
            sock.connect((host, port))
            self.socks.append(sock)
            self.by_fd[sock.fileno()] = i
            self.handlers[sock.fileno()] = self._on_answer
            self.epoll.register(sock, select.EPOLLIN)

    def introduction(self) -> Any:
        return [sock.getsockname()[:2] for sock in self.socks]

    def do_go(self, rounds: float = 0) -> dict[str, int]:
        """Take so many turns for each session from now on, or until told to stop."""
        self.last_turn = self.turn + int(rounds) * self.count if rounds else 0
        self.pace(self.hz * self.count)
        return self.do_status()

    def play(self) -> None:
        i = self.turn % self.count
        for _ in range(self.burst):
            self._send(i)
        self.turn += 1
        if self.turn == self.last_turn:
            self.gap_s = 0.0

    def _send(self, i: int) -> None:
        data = encode(UP, self.first + i, len(self.sent[i]))
        try:
            try:
                self.socks[i].send(data)
            except ConnectionRefusedError:  # of an earlier datagram; this one was not sent
                self.refused += 1
                self.socks[i].send(data)
        except OSError:
            self.unsent += 1
        else:
            self.sent[i].append(now())
            self.total_sent += 1

    def _on_answer(self, fd: int) -> None:
        i = self.by_fd[fd]
        try:
            found = decode(DOWN, self.socks[i].recv(4096))
        except BlockingIOError:
            return
        except OSError:  # ICMP told of an earlier datagram
            self.refused += 1
            return
        if found is None or found[0] != self.first + i:
            self.mangled += 1
            return
        if not self.got[i]:
            self.answered += 1
        self.got[i].append(found[1])
        self.came[i].append(now())
        self.total_got += 1

    def do_status(self) -> dict[str, int]:
        return {
            "turns": self.turn,
            "sent": self.total_sent,
            "got": self.total_got,
            "answered": self.answered,
            "idle": int(not self.gap_s),
        }

    def do_journal(self) -> Any:
        return {
            "first": self.first,
            "sent": self.sent,
            "got": self.got,
            "came": self.came,
            "mangled": self.mangled,
            "refused": self.refused,
            "skipped": self.slept,
        }


class Backends(Player):
    """Sockets that answer each datagram, at once or later, and may speak unasked."""

    def __init__(self, hosts: list[str]) -> None:
        """Bind one socket per host, on a port of the kernel's choice."""
        super().__init__()
        self.socks = [_udp(host, BUFFER) for host in hosts]
        for sock, host in zip(self.socks, hosts, strict=True):
            sock.bind((host, 0))
            self.handlers[sock.fileno()] = self._on_datagrams
            self.epoll.register(sock, select.EPOLLIN)
        self.by_fd = {sock.fileno(): k for k, sock in enumerate(self.socks)}
        self.sent: dict[int, list[float]] = {}
        self.got: dict[int, list[int]] = {}
        self.came: dict[int, list[float]] = {}
        self.paths: dict[int, dict[tuple[int, Any], float]] = {}  # (backend, sender): since when
        self.total_sent = self.total_got = self.mangled = self.unsent = 0
        self.held: list[tuple[int, Any, int]] | None = None
        self.circle = itertools.cycle(())  # of those who are spoken to unasked

    def introduction(self) -> Any:
        return [sock.getsockname()[1] for sock in self.socks]

    def _on_datagrams(self, fd: int) -> None:
        k = self.by_fd[fd]
        receive = self.socks[k].recvfrom
        for _ in range(64):
            try:
                data, peer = receive(4096)
            except BlockingIOError:
                return
            found = decode(UP, data)
            if found is None:
                self.mangled += not data.startswith(FLOOD)
                continue
            session, number = found
            self.total_got += 1
            at = now()
            self.got.setdefault(session, []).append(number)
            self.came.setdefault(session, []).append(at)
            self.paths.setdefault(session, {}).setdefault((k, peer), at)
            if self.held is None:
                self._answer(k, peer, session)
            else:
                self.held.append((k, peer, session))

    def _answer(self, k: int, peer: Any, session: int) -> None:
        sent = self.sent.setdefault(session, [])
        try:
            self.socks[k].sendto(encode(DOWN, session, len(sent)), peer)
        except OSError:
            self.unsent += 1
            return
        sent.append(now())
        self.total_sent += 1

    def do_hold(self) -> dict[str, int]:
        """Keep the answers back from now on."""
        self.held = []
        return self.do_status()

    def do_release(self) -> dict[str, int]:
        """Give the answers that were kept back, and others at once from now on."""
        held, self.held = self.held or [], None
        for k, peer, session in held:
            self._answer(k, peer, session)
        return self.do_status()

    def do_speak(self, hz: float) -> dict[str, int]:
        """Speak to every session unasked, so often, where it was heard first."""
        who = [(session, *next(iter(paths))) for session, paths in self.paths.items()]
        self.circle = itertools.cycle(who)
        self.pace(hz * len(who))
        return self.do_status()

    def play(self) -> None:
        session, k, peer = next(self.circle)
        self._answer(k, peer, session)

    def do_status(self) -> dict[str, int]:
        return {"sent": self.total_sent, "got": self.total_got, "sessions": len(self.got)}

    def do_journal(self) -> Any:
        return {
            "sent": self.sent,
            "got": self.got,
            "came": self.came,
            "paths": {
                session: [[at, k, *peer[:2]] for (k, peer), at in paths.items()]
                for session, paths in self.paths.items()
            },
            "mangled": self.mangled,
            "skipped": self.slept,
        }


class Flood(Player):
    """Datagrams that each come from another address of 127.128.0.0/9, as if they were forged."""

    def __init__(self, to: list[Address], hz: float) -> None:
        """Open the one socket."""
        super().__init__()
        self.to = tuple(to[0])
        self.hz = hz
        self.sock = _udp("127.0.0.1", BUFFER)
        self.sent = self.wanted = 0

    def do_go(self, count: float) -> dict[str, int]:
        """Send so many."""
        self.wanted = self.sent + int(count)
        self.pace(self.hz)
        return self.do_status()

    def play(self) -> None:
        self.sent += 1
        source = (0x7F800000 + self.sent).to_bytes(4, "big")
        control = (socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=I4s4s", 0, source, bytes(4)))
        self.sock.sendmsg((FLOOD * 10,), (control,), 0, self.to)
        if self.sent == self.wanted:
            self.gap_s = 0.0

    def do_status(self) -> dict[str, int]:
        return {"sent": self.sent, "idle": int(not self.gap_s)}


def _udp(host: str, buffer: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, buffer)
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    return sock


def now() -> float:
    """Return CLOCK_MONOTONIC in seconds, one clock for all processes, to a tenth of a ms."""
    return round(time.monotonic(), 4)


def say(value: Any) -> None:
    """Give the test one line."""
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    KINDS = {"clients": Clients, "backends": Backends, "flood": Flood}
    KINDS[sys.argv[1]](**json.loads(sys.argv[2])).run()
