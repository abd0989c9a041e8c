"""Questions of workers to all workers, forwarded by the master (stream/asking.py).

nginx has no counterpart. Where an API is served, each worker has one more pair of ports besides its
channel: what is asked delays no command. Whoever does not serve one has none of this.

    worker A ──ASK──► master ──QUESTION──► worker B, worker C …
    worker A ◄─ANSWERED─ master ◄──ANSWER── worker B        once for each, as they come
    worker A ◄──OVER── master                               all have answered, or time is up

1. The master forwards and never looks into questions and answers. It never waits: who does not
   take a question is silent; what the asker does not take at once waits for it, up to MAX_HELD.
2. The kernel wakes the master (O_ASYNC: SIGIO), which reads no more than BUDGET before it looks for
   signals again. All other signals come first: their numbers are lower.
3. A worker has one question open at a time, and GAP_MS between two of them. It answers what it was
   asked, once. What is malformed, too long, or anything else ends the worker's part in this: its
   port is closed with a line in the log, and it is among the silent from then on. It serves on.
4. An answer that comes when the question is over is dropped.
5. A question may be a command (to end sessions). A worker of another user than those that serve is
   asked, and asks nobody: all are silent to it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

from ngxstream.core import log as logs
from ngxstream.core.clock import monotonic_ms
from ngxstream.ipc import codec
from ngxstream.ipc.codec import CodecError, Field, List, Record
from ngxstream.ipc.port import Port, Speaker
from ngxstream.stream.asking import ANSWER_MS, MAX_ANSWER, MAX_QUESTION

if TYPE_CHECKING:
    from ngxstream.core.log import Log

ASK: Final = 1  # said by a worker: a number of its own, a question's name, the payload
QUESTION: Final = 2  # the same, to all others; the number is the master's
ANSWER: Final = 3  # said by a worker: the number, the answer; none where it cannot answer
ANSWERED: Final = 4  # one answer: the asker's number, who gave it, and what
OVER: Final = 5  # the asker's number, and who was silent

MAX_BYTES: Final = MAX_ANSWER + 1024  # of a message
MAX_HELD: Final = 4 * MAX_ANSWER  # bytes of answers that wait for one asker
MAX_WORKERS: Final = 65_536
BUDGET: Final = 64  # messages that the master reads before it looks for signals; a long one
BYTES: Final = 1 << 14  # counts as one for each so many bytes
MOST_OWED: Final = 1024  # questions that a worker has not answered: it is asked no more then
PAUSE_MS: Final = 5  # before it reads more
AGAIN_MS: Final = 5  # before another try to send
GAP_MS: Final = 20  # between two questions of one worker

_ASKED: Final = Record(
    "question", Field(1, "number", codec.UINT), Field(2, "name", codec.Text(64, is_word=True)),
    Field(3, "payload", codec.Bytes(MAX_QUESTION), b""),
)
SCHEMAS: Final = {
    ASK: _ASKED,
    QUESTION: _ASKED,
    ANSWER: Record(
        "answer", Field(1, "number", codec.UINT),
        Field(2, "payload", codec.Optional(codec.Bytes(MAX_ANSWER)), None),
    ),
    ANSWERED: Record(
        "answer", Field(1, "number", codec.UINT), Field(2, "pid", codec.PID),
        Field(3, "payload", codec.Bytes(MAX_ANSWER), b""),
    ),
    OVER: Record(
        "end", Field(1, "number", codec.UINT), Field(2, "silent", List(codec.PID, MAX_WORKERS), []),
    ),
}

Later = Callable[[int, Callable[[], None]], object]


def port_to(pid: int, sock: socket.socket, user: int | None) -> Port:
    """Make the master's end of a worker's pair; the kernel tells this process of what comes.

    Args: user: the worker's. Source: fcntl(2), F_SETOWN; whoever sends, the signal is the kernel's
    """
    port = Port(sock, Speaker.of(f"worker {pid}", user, pid=pid), max_bytes=MAX_BYTES)
    fcntl.fcntl(sock, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(sock, fcntl.F_SETFL, fcntl.fcntl(sock, fcntl.F_GETFL) | os.O_ASYNC)
    return port


class Outbox:
    """What waits to be said at a port, in order."""

    __slots__ = ("_is_closed", "_is_due", "_later", "_port", "_waiting", "held")

    def __init__(self, port: Port, later: Later) -> None:
        """Args: later: later(delay_ms, callback)"""
        self._port = port
        self._later = later
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._is_closed = False
        self._is_due = False
        self.held = 0  # bytes

    def put(self, kind: int, *values: object) -> None:
        """Send a message, or have it wait for room."""
        if self._is_closed:
            return
        packed = SCHEMAS[kind].encode(values)
        if self._waiting or not self._port.send(kind, packed):
            self._waiting.append((kind, packed))
            self.held += len(packed)
            self._look_again()

    def close(self) -> None:
        """Forget what waits, and what is put from now on."""
        self._is_closed = True
        self._waiting.clear()
        self.held = 0

    def _look_again(self) -> None:
        if self._waiting and not self._is_due:
            self._is_due = True
            self._later(AGAIN_MS, self._flush)

    def _flush(self) -> None:
        self._is_due = False
        waiting = self._waiting
        while waiting and self._port.send(*waiting[0]):
            self.held -= len(waiting.popleft()[1])
        self._look_again()


class _Open:
    """One question that is being asked."""

    __slots__ = ("asker", "asks", "end_ms", "silent", "waiting")

    def __init__(self, asker: _Line, asks: int) -> None:
        """Args: asks: the asker's own number of it"""
        self.asker = asker
        self.asks = asks
        self.end_ms = monotonic_ms() + ANSWER_MS
        self.waiting: set[int] = set()  # pids that owe an answer
        self.silent: list[int] = []


class _Line:
    """The port of one worker."""

    __slots__ = ("asked", "free_ms", "is_asking", "outbox", "pid", "port")

    def __init__(self, pid: int, port: Port, later: Later) -> None:
        self.pid = pid
        self.port = port
        self.outbox = Outbox(port, later)
        self.asked: set[int] = set()  # numbers of questions that it owes an answer to
        self.is_asking = False
        self.free_ms = 0  # when it may ask again


class Questions:
    """All questions of a master's workers."""

    __slots__ = (
        "_is_due", "_is_watching", "_later", "_lines", "_log", "_may_ask", "_number", "_open",
        "_rest_ms", "_workers",
    )

    def __init__(
        self, later: Later, workers: Callable[[], Iterable[int]], may_ask: Callable[[int], bool],
        to: Callable[[], Log],
    ) -> None:
        """Args: later: as Master's; workers: gives the pids of all; may_ask: tells of a pid whether
        others are to answer it; to: gives the log
        """
        self._later = later
        self._workers = workers
        self._may_ask = may_ask
        self._log = to
        self._lines: dict[int, _Line] = {}
        self._open: dict[int, _Open] = {}
        self._number = 0
        self._rest_ms = 0  # nothing is read before
        self._is_due = False
        self._is_watching = False

    def add(self, pid: int, port: Port) -> None:
        """Hear a worker. Args: port: as of port_to()"""
        self._lines[pid] = _Line(pid, port, self._later)
        self.serve()  # what came before is not signalled

    def forget(self, pid: int) -> None:
        """Hear a worker no more: it has died."""
        line = self._lines.pop(pid, None)
        if line is None:
            return
        line.outbox.close()
        line.port.close()
        for number in list(line.asked):
            self._hear(line, number, None)
        for number in [n for n, one in self._open.items() if one.asker is line]:
            del self._open[number]

    def has_heard(self, info: signal.struct_siginfo) -> bool:
        """Serve if a signal is the kernel's, for a port of ours. Returns: whether it was"""
        if info.si_signo != signal.SIGIO or info.si_pid:
            return False
        self.serve()
        return True

    # -- reading -------------------------------------------------------------------------------

    def serve(self) -> None:
        """Read what workers say, in turns, as much as BUDGET allows."""
        if monotonic_ms() < self._rest_ms:
            return  # _go_on() is due
        left = BUDGET
        lines = deque(self._lines.values())
        while lines and left > 0:
            line = lines.popleft()
            cost = self._read(line)
            if cost:
                left -= cost
                lines.append(line)
        if lines:
            self._rest_ms = monotonic_ms() + PAUSE_MS
            if not self._is_due:
                self._is_due = True
                self._later(PAUSE_MS, self._go_on)

    def _go_on(self) -> None:
        self._is_due = False
        self._rest_ms = 0
        self.serve()

    def _read(self, line: _Line) -> int:
        """Take one message of a worker. Returns: its part of BUDGET, 0 for no message"""
        try:
            message = line.port.receive()
            if message.kind not in (ASK, ANSWER):
                raise CodecError("it commands")
            values = SCHEMAS[message.kind].decode(message.payload)
            if message.kind == ASK:
                self._take(line, *values)
            else:
                number, payload = values
                if number not in line.asked:
                    raise CodecError("it answers what it was not asked")
                self._hear(line, number, payload)
        except BlockingIOError:
            return 0
        except CodecError as error:
            text = f"worker process {line.pid} is not listened to any more: {error}"
            self._log().error(logs.WARN, text)
        except (EOFError, OSError):
            pass
        else:
            return 1 + len(message.payload) // BYTES
        self.forget(line.pid)
        return 0

    # -- asking --------------------------------------------------------------------------------

    def _take(self, line: _Line, asks: int, name: str, payload: bytes) -> None:
        """Take a worker's question. Raises: CodecError where it has one open"""
        if line.is_asking:
            raise CodecError("it asks while it is answered")
        line.is_asking = True
        wait_ms = line.free_ms - monotonic_ms()
        if wait_ms <= 0:
            self._forward(line, asks, name, payload)
        else:
            self._later(wait_ms, partial(self._forward, line, asks, name, payload))

    def _forward(self, line: _Line, asks: int, name: str, payload: bytes) -> None:
        """Ask all others."""
        if self._lines.get(line.pid) is not line:
            return
        self._number += 1
        number = self._number
        opened = self._open[number] = _Open(line, asks)
        packed = SCHEMAS[QUESTION].encode((number, name, payload))
        may_ask = self._may_ask(line.pid)
        for pid in self._workers():
            other = self._lines.get(pid)
            if other is line:
                continue
            if (may_ask and other is not None and len(other.asked) < MOST_OWED
                    and other.port.send(QUESTION, packed)):
                other.asked.add(number)
                opened.waiting.add(pid)
            else:
                opened.silent.append(pid)
        if opened.waiting:
            self._watch(ANSWER_MS)
        else:
            self._end(number)

    def _hear(self, line: _Line, number: int, payload: bytes | None) -> None:
        """Relay an answer. Args: payload: None where there is none"""
        line.asked.discard(number)
        opened = self._open.get(number)
        if opened is None or line.pid not in opened.waiting:
            return
        opened.waiting.discard(line.pid)
        outbox = opened.asker.outbox
        if payload is None or outbox.held > MAX_HELD:
            opened.silent.append(line.pid)
        else:
            outbox.put(ANSWERED, opened.asks, line.pid, payload)
        if not opened.waiting:
            self._end(number)

    def _watch(self, wait_ms: int) -> None:
        if not self._is_watching:
            self._is_watching = True
            self._later(wait_ms, self._expire)

    def _expire(self) -> None:
        """End the questions whose time is up, oldest first."""
        self._is_watching = False
        now_ms = monotonic_ms()
        for number, opened in list(self._open.items()):
            if opened.end_ms > now_ms:
                self._watch(opened.end_ms - now_ms)
                return
            opened.silent += opened.waiting
            self._end(number)

    def _end(self, number: int) -> None:
        opened = self._open.pop(number)
        line = opened.asker
        line.is_asking = False
        line.free_ms = monotonic_ms() + GAP_MS
        line.outbox.put(OVER, opened.asks, sorted(opened.silent))
