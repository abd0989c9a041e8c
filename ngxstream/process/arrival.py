"""A new worker's side of the hand-over: it waits, queues datagrams, then reads.

nginx has no counterpart. handover.py tells what both sides do. For its whole life a worker reads
its mailbox here; adoption.py creates the sessions and handles the datagrams.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import log
from ngxstream.core.facts import Counter
from ngxstream.event import drops, poller
from ngxstream.ipc import port
from ngxstream.ipc.codec import CodecError
from ngxstream.process import adoption, handover, mailbox, moving
from ngxstream.process.mailbox import Mail, Outbox

if TYPE_CHECKING:
    import socket

    from ngxstream.event.loop import Loop
    from ngxstream.event.udp import UdpListener
    from ngxstream.process.departure import Departure
    from ngxstream.process.service import Service

HOLD_MS: Final = 3000  # how long datagrams are held for leaving workers that say nothing
HOLD_LIMIT_MS: Final = 30_000  # and for those that go on giving sessions, in all
LOOK_MS: Final = 50  # how often it is seen whether a leaving worker has died
STRAY_MS: Final = 5000  # how long datagrams may turn up in the wrong socket after that
MESSAGES: Final = 64  # taken in a turn, unless there are sessions among them
MAIL_S: Final = 0.002  # how long taking them may last, but for the last one
STRAYS: Final = 4096  # datagrams that may wait to be passed on
MOST_NAMED: Final = 4096  # leaving workers, where other users name them: looking costs 3 µs each
REFUSALS: Final = 16  # lines a second about messages that are refused


def is_alive(pid: int) -> bool:
    """Tell whether a process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Arrival:
    """How far a hand-over is, as this worker knows it; it reads the worker's mailbox."""

    __slots__ = (
        "_adopter",  # adoption.Adopter
        "_boxes",  # Outboxes of all workers of the generation; None at its own place
        "_deadline_ms",
        "_done",  # pids that sent everything
        "_expected",  # pids that will
        "_limit_ms",  # when the deadline is put off no more
        "_log",
        "_is_leaving",  # bool: it hands over
        "_loop",
        "_moving",  # moving.Moving
        "_nobody_left",  # bool: the master said that no worker is left to hand over
        "_reader",  # mailbox.Inbox
        "_reading_on",  # bool: within _read_on()
        "_refused",  # int: messages, within a second from
        "_refused_ms",
        "_service",
        "_settled",  # called once when everything is here
        "_stopped",  # pids that read no more
        "holding",
        "idle",
        "refused",  # Counter: messages
    )

    def __init__(
        self, loop: Loop, service: Service, reader: socket.socket, writers: Sequence[socket.socket],
        *, idle: bool, patience_ms: int = handover.START_MS, users: Iterable[int | None] = (),
        refused: Counter | None = None,
    ) -> None:
        """Args: idle: others read the sockets still; patience_ms: how long this worker waits for
        them, 0 for ever; users: of all configurations whose workers may write; refused: messages
        """
        self._loop = loop
        self._service = service
        self._log = service.cycle.log
        self._reader = mailbox.Inbox(reader, users)
        self._adopter = adoption.Adopter(loop, service)
        self._boxes = [Outbox(loop, sock) for sock in writers]
        self._expected: frozenset[int] = frozenset()
        self._stopped: set[int] = set()
        self._done: set[int] = set()
        self._deadline_ms = loop.now_ms + patience_ms if patience_ms else 0
        self._limit_ms = 0
        self.refused = refused or Counter()
        self._refused = 0
        self._refused_ms = loop.now_ms
        self._settled: list[Callable[[], None]] = []
        self._nobody_left = False
        self._is_leaving = False
        self._reading_on = False
        self.idle = idle
        self.holding = False
        loop.register(reader.fileno(), self.on_mail, poller.LEVEL)
        for listener in service.udp_listeners:
            listener.pass_on_by(self.stray)
        self._moving = moving.Moving(
            loop, service, self._boxes, lambda: self.settled and not self._is_leaving
        )
        if idle:
            loop.live += 1
            loop.call_later(LOOK_MS, self._look, cancelable=True)
        else:
            self._end_of_strays()

    @property
    def settled(self) -> bool:
        """Whether everything is here that will come."""
        return not self.idle and not self.holding

    def when_settled(self, do: Callable[[], None]) -> None:
        """Do something once everything is here: at once, or later."""
        if self.settled:
            do()
        else:
            self._settled.append(do)

    def depart(self, departure: Departure) -> None:
        """Pass on whatever still comes from now on."""
        self._adopter.departure = departure
        self._is_leaving = True

    # -- reading mail --------------------------------------------------------------------------

    def on_mail(self, mask: int) -> None:
        """Take what the other workers have sent."""
        end = time.monotonic() + MAIL_S
        for _ in range(MESSAGES):
            kind = self._take_message()
            # a batch takes milliseconds: the sockets are to be read in between
            if not kind or kind == mailbox.SESSIONS or time.monotonic() > end:
                return

    def _take_message(self) -> int:
        """Take one message. Returns: its kind, 0 when there is none"""
        try:
            mail = self._reader.receive(self._is_over)
        except BlockingIOError:
            return 0
        except CodecError as error:
            self._refuse(error)
            return -1
        except (EOFError, OSError):
            self._loop.unregister(self._reader.fileno())
            return 0
        try:
            if not self._may_say(mail):
                raise CodecError(f"process {mail.pid} of user {mail.uid} may not say it")
            self._obey(mail)
        except CodecError as error:
            self._refuse(error)
        finally:
            port.close_all(mail.fds)  # what nobody has taken
        return mail.kind

    def _refuse(self, error: CodecError) -> None:
        """Say what was refused; a sender of endless malformed messages does not fill the log."""
        now_ms = self._loop.now_ms
        if now_ms - self._refused_ms >= 1000:
            self._refused_ms, self._refused = now_ms, 0
        self._refused += 1
        self.refused.add()
        if self._refused <= REFUSALS:
            self._log.error(log.WARN, f"a worker's message was refused: {error}")

    def _is_foreign(self, mail: Mail) -> bool:
        """Tell whether a message is of another user, but for root."""
        return self._reader.is_foreign(mail.uid)

    def _is_over(self, kind: int, pid: int) -> bool:
        """Tell whether another user's process has said before what is said once, or all."""
        return pid in self._done or (kind == mailbox.STOPPED and pid in self._stopped)

    def _may_say(self, mail: Mail) -> bool:
        """Tell whether the sender may say this. Processes of one user need no protection."""
        if not self._is_foreign(mail):
            return True
        values = mail.values
        if mail.kind == mailbox.STOPPED and len(self._expected.union(values[1])) > MOST_NAMED:
            return False
        if mail.kind in (mailbox.STOPPED, mailbox.DONE):
            return bool(values[0] == mail.pid)
        if mail.kind == mailbox.SESSIONS:
            return True  # looked at one by one
        if mail.kind in (mailbox.FOUND, mailbox.OFFER, mailbox.WANTED):
            return False  # it is said among the workers of one configuration
        if mail.kind == mailbox.WAITING:
            return self._adopter.is_owed(mail.pid, values[0])
        return self._adopter.may_send(mail.pid, *values[:2])

    def _obey(self, mail: Mail) -> None:
        """Do what a message says. Raises: CodecError for what makes no sense here"""
        kind, values, adopter = mail.kind, mail.values, self._adopter
        is_foreign = self._is_foreign(mail)
        if self._limit_ms and not self.settled and not is_foreign:
            # thousands of sessions take a busy machine longer than one that says nothing is granted
            self._deadline_ms = min(self._loop.now_ms + HOLD_MS, self._limit_ms)
        if kind == mailbox.SESSIONS:
            adopter.take_sessions(mail, is_foreign=is_foreign)
        elif kind == mailbox.DATAGRAMS:
            adopter.take_datagrams(*values, is_settled=self.settled)
        elif kind == mailbox.FOUND:
            adopter.take_found(*values, is_settled=self.settled)
        elif kind == mailbox.OFFER:
            self._moving.on_offer(*values)
        elif kind == mailbox.WANTED:
            self._moving.on_wanted(*values)
        elif kind == mailbox.WAITING:
            adopter.take_waiting(mail.pid, *values)
        elif kind == mailbox.STOPPED:
            self._on_stopped(*values)
        elif kind == mailbox.DONE:
            self._done.add(values[0])
            adopter.forget(mail.pid)
            self._check()

    # -- changing hands ------------------------------------------------------------------------

    def _on_stopped(self, pid: int, pids: tuple[int, ...]) -> None:
        self._stopped.add(pid)
        if self.settled:
            return  # this worker was started in a dead one's place, or waited long enough
        if not self._expected:
            self._deadline_ms = self._loop.now_ms + HOLD_MS
            self._limit_ms = self._loop.now_ms + HOLD_LIMIT_MS
        self._expected |= frozenset(pids)
        self._check()

    def go(self) -> None:
        """Read from now on: the master says that nobody is left to hand over."""
        self._nobody_left = True
        self._check()

    @property
    def is_unheard(self) -> bool:
        """Whether others read the sockets, and none of them has said that it hands over."""
        return self.idle and not self._expected

    def wait(self) -> None:
        """Wait without end for those who read the sockets."""
        self._deadline_ms = 0

    def give_up(self) -> None:
        """Wait no more, and read nothing: this worker leaves before anything came."""
        if self.idle:
            self.idle = False
            self._loop.live -= 1
            self._tell_settled()

    def _look(self) -> None:
        if not self.settled:
            # before it is said who is late: thousands of listeners may have kept the loop busy
            self.on_mail(0)
            self._check()
        if not self.settled:
            self._loop.call_later(LOOK_MS, self._look, cancelable=True)

    def _check(self) -> None:
        """See how far the leaving workers are."""
        if self.settled or self._reading_on:
            return
        late = 0 < self._deadline_ms <= self._loop.now_ms
        missing = self._expected - self._done
        alive = {pid for pid in missing if is_alive(pid)}
        known = bool(self._expected) or self._nobody_left
        if not late and not alive and known and (missing or self._nobody_left):
            self._read_on()  # what a dead worker has sent is here, or will never come
        if self.idle and (late or (known and not alive - self._stopped)):
            self._hold()
        if self.holding and (late or (known and not alive)):
            if alive - self._done:
                self._log.error(log.WARN, f"{len(alive)} leaving workers did not hand over in time")
            self._open()

    def _read_on(self) -> None:
        self._reading_on = True
        try:
            while self._take_message():
                pass
        finally:
            self._reading_on = False

    def _hold(self) -> None:
        self.idle = False
        self.holding = True
        service = self._service
        if service.worker == 0:
            for listening in service.cycle.listenings:
                listening.steer(service.cycle.workers, self._log)
        for listener in service.udp_listeners:
            listener.hold()

    def _open(self) -> None:
        """Read the sockets as ever, after what was held."""
        self.holding = False
        for listener in self._service.udp_listeners:
            listener.start()
        self._loop.live -= 1
        self._end_of_strays()
        self._tell_settled()

    def _tell_settled(self) -> None:
        settled, self._settled = self._settled, []
        for do in settled:
            do()

    # -- strays --------------------------------------------------------------------------------

    def stray(self, listener: UdpListener, key: Any, peer: Any, data: bytes | memoryview) -> bool:
        """Pass a datagram on if its client is another worker's. Returns: whether it is"""
        service = self._service
        listening = listener.listening
        n = handover.owner_of(
            listening, peer, service.cycle.workers, current=service.is_current(listening)
        )
        if n == service.worker:
            return False
        box = self._boxes[n]
        local = handover.local_of(key, peer)
        if box.waiting < STRAYS:
            where = listening.options.key
            box.put(mailbox.DATAGRAMS, where, key, peer, local, [bytes(data)])
            box.pump()
        else:
            listener.lost.drop(drops.STRAY)
        return True

    def _end_of_strays(self) -> None:
        self._loop.call_later(STRAY_MS, self._no_more_strays, cancelable=True)

    def _no_more_strays(self) -> None:
        for listener in self._service.udp_listeners:
            if listener.listening.is_steered:
                listener.pass_on_by(None)
