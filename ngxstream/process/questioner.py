"""A worker's end of the questions that the master forwards (questions.py)."""

from __future__ import annotations

import os
import socket
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import log as logs
from ngxstream.event import poller
from ngxstream.ipc.codec import CodecError
from ngxstream.ipc.port import Port, Speaker
from ngxstream.process import questions
from ngxstream.stream.asking import ANSWER_MS, Answers, Asking, Done

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop

QUEUED: Final = 256  # questions that wait for the one before
GIVE_UP_MS: Final = ANSWER_MS + 500  # a master that is busy may not forward in time


class _Asked:
    """One question of this worker."""

    __slots__ = ("done", "given", "has_own", "is_over", "name", "number", "payload", "silent")

    def __init__(self, number: int, name: str, payload: bytes, done: Done) -> None:
        self.number = number
        self.name = name
        self.payload = payload
        self.done: Done | None = done  # None once it was called
        self.given: dict[int, bytes] = {}
        self.silent: list[int] = []
        self.has_own = False  # this worker's own answer is there
        self.is_over = False  # the others have answered, or are waited for no more


class Questioner:
    """Asks in a worker's name, and answers what others ask."""

    __slots__ = ("_asking", "_loop", "_master", "_number", "_open", "_outbox", "_port", "_waiting")

    def __init__(self, loop: Loop, sock: socket.socket, owner: int) -> None:
        """Be what the worker asks by. Args: sock: its end of its pair; owner: the master's user"""
        self._loop = loop
        self._asking = loop.get(Asking)
        self._master = os.getppid()
        self._number = 0
        self._open: _Asked | None = None  # the one that the master was sent
        self._waiting: deque[_Asked] = deque()
        self._port = Port(sock, Speaker.of("the master", owner), max_bytes=questions.MAX_BYTES)
        self._outbox = questions.Outbox(self._port, partial(loop.call_later, cancelable=True))
        self._asking.transport = self.ask
        loop.register(sock.fileno(), self.on_readable, poller.LEVEL)

    def ask(self, name: str, payload: bytes, done: Done) -> None:
        """Ask all workers; the question may wait for another one's end. See Asking.ask"""
        self._number += 1
        asked = _Asked(self._number, name, payload, done)
        if len(self._waiting) < QUEUED:
            self._waiting.append(asked)
            self._loop.call_later(GIVE_UP_MS, partial(self._give_up, asked), cancelable=True)
            self._next()
        else:
            self._give_up(asked)
        self._asking.answer(name, payload, partial(self._take_own, asked))

    def _next(self) -> None:
        """Send the next question, if the one before is over."""
        while self._open is None and self._waiting:
            asked = self._waiting.popleft()
            if asked.done is not None:
                self._open = asked
                self._outbox.put(questions.ASK, asked.number, asked.name, asked.payload)

    def _take_own(self, asked: _Asked, answer: bytes | None) -> None:
        asked.has_own = True
        if answer is None:
            asked.silent.append(self._loop.pid)
        else:
            asked.given[self._loop.pid] = answer
        self._finish(asked)

    def _give_up(self, asked: _Asked) -> None:
        """Wait no more for the master, which has not said in time that it is over."""
        if asked.done is not None and not asked.is_over:
            asked.silent.append(self._master)
            asked.is_over = True
            self._finish(asked)

    def _finish(self, asked: _Asked) -> None:
        done = asked.done
        if done is not None and asked.has_own and asked.is_over:
            asked.done = None
            done(Answers(asked.given, tuple(sorted(asked.silent))))

    # -- what the master says ------------------------------------------------------------------

    def on_readable(self, mask: int) -> None:
        """Take what has come."""
        try:
            while True:
                try:
                    message = self._port.receive()
                    schema = questions.SCHEMAS.get(message.kind)
                    if schema is None:
                        raise CodecError(f"a message of the unknown kind {message.kind}")
                    self._obey(message.kind, schema.decode(message.payload))
                except CodecError as error:
                    text = f"what the master forwards is refused: {error}"
                    self._loop.log.error(logs.WARN, text)
        except BlockingIOError:
            return
        except (EOFError, OSError):
            self._be_alone()

    def _obey(self, kind: int, values: tuple[Any, ...]) -> None:
        number = values[0]
        if kind == questions.QUESTION:
            _, name, payload = values
            self._asking.answer(name, payload, partial(self._outbox.put, questions.ANSWER, number))
            return
        asked = self._open
        if asked is None or asked.number != number:
            return
        if kind == questions.ANSWERED:
            _, pid, payload = values
            asked.given[pid] = payload
        elif kind == questions.OVER:
            self._open = None
            if not asked.is_over:
                asked.is_over = True
                asked.silent += values[1]
                self._finish(asked)
            self._next()

    def _be_alone(self) -> None:
        """Ask nobody else from now on: the master is gone."""
        self._asking.transport = None
        self._loop.unregister(self._port.fileno())
        self._outbox.close()
        self._port.close()
        asked = [*self._waiting] if self._open is None else [self._open, *self._waiting]
        self._open = None
        self._waiting.clear()
        for one in asked:
            one.is_over = True
            self._finish(one)
