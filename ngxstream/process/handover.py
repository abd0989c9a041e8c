"""The hand-over: how the UDP sessions of leaving workers go on in the workers that come after them.

nginx has no counterpart: there a reload ends them.

1. Client -> worker is a function everybody knows (owner_of here, steering.py in the kernel).
2. A leaving worker reads its listening sockets until it is told to hand over. It stops, says so
   (STOPPED) to every new worker, sends each session to the worker that owns its client
   (SESSIONS), and says DONE. It takes nothing back.
3. A new worker reads nothing until all leaving ones have stopped: nobody else read in between, so
   no datagram overtakes another. Then it reads and holds what comes, and lets go of it when all
   are DONE, have died, or have said nothing for HOLD_MS: sessions come before their datagrams.
4. When the number of workers changes, worker 0 has the kernel steer anew once all have stopped.
   A datagram that was queued in what is now the wrong socket goes to its owner by mail.
5. A worker that is told to hand over before it has everything itself does so when it has.
   Sessions that reach a worker after it has handed over go on by the same way.
6. A leaving worker may be of another user than the new ones (`user` has changed). What it says is
   looked at as a stranger's: it speaks for itself alone, gives sessions no client of ours has,
   adds to none but those, and is not listened to after its DONE. It can harm who was its client.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import inet, log
from ngxstream.event import poller, steering, udp_clients
from ngxstream.ipc import addresses, codec, port
from ngxstream.ipc.codec import CodecError, Field, List, Record
from ngxstream.modules.proxy import udp_state
from ngxstream.process import mailbox
from ngxstream.process.mailbox import Mail, Outbox
from ngxstream.stream import travel

if TYPE_CHECKING:
    from ngxstream.event.listen_options import ListenOptions
    from ngxstream.event.listening import Listening
    from ngxstream.event.loop import Loop
    from ngxstream.event.udp import UdpListener
    from ngxstream.process.service import Service
    from ngxstream.stream.session import Session

HOLD_MS: Final = 3000  # how long datagrams are held for leaving workers that say nothing
HOLD_LIMIT_MS: Final = 30_000  # and for those that go on giving sessions, in all
START_MS: Final = 5000  # how long a new worker waits to be told that it may read
LOOK_MS: Final = 50  # how often it is seen whether a leaving worker has died
STRAY_MS: Final = 5000  # how long datagrams may turn up in the wrong socket after that
BATCH: Final = 120  # sessions in a message
BATCH_BYTES: Final = 48_000
MESSAGES: Final = 64  # taken in a turn, unless there are sessions among them
MAIL_S: Final = 0.002  # how long taking them may last, but for the last one
STRAYS: Final = 4096  # datagrams that may wait to be passed on
REFUSALS: Final = 16  # lines a second about messages that are refused

Key = tuple[Any, ...]  # ListenOptions.key

_PLAN: Final = Record(
    "plan",
    Field(1, "keys", List(addresses.LISTEN_KEY, 1 << 20), []),
    Field(2, "pids", List(codec.PID, 65_536), []),
)
ENVELOPE: Final = Record(
    "session",
    Field(1, "where", codec.Repeated(addresses.LISTEN_KEY)),
    Field(2, "session", codec.Bytes(mailbox.MAX_BYTES)),
    Field(3, "proxied", codec.Bytes(mailbox.MAX_BYTES)),
)


def owner_of(listening: Listening, peer: Any, workers: int, *, current: bool) -> int:
    """Tell which of `workers` workers the client at an address belongs to.

    shape: current says that the address is one of the configuration that serves; the group of one
    that is gone stays steered as it was, and worker number mod workers reads each of its sockets
    """
    options = listening.options
    if not options.is_group:
        return 0
    if current:
        number = steering.owner_of(options.family, peer, listening.spread(workers))
    else:
        number = steering.owner_of(options.family, peer, max(1, listening.steered))
    return listening.reader_of(number, workers)


def is_alive(pid: int) -> bool:
    """Tell whether a process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Plan:
    """Where sessions go: what the master tells a worker that is to hand over."""

    __slots__ = ("keys", "pids", "workers", "writers")

    def __init__(
        self, writers: Sequence[socket.socket], keys: Iterable[Key], pids: Sequence[int]
    ) -> None:
        """shape: one mailbox for each new worker; keys of the addresses they listen at; pids of
        all workers that hand over.
        """
        self.writers = writers
        self.workers = len(writers)
        self.keys = frozenset(keys)
        self.pids = tuple(pids)

    def pack(self) -> bytes:
        """Return what goes with the descriptors of the mailboxes."""
        return _PLAN.encode((sorted(self.keys, key=repr), self.pids))

    @classmethod
    def unpack(cls, data: bytes, fds: list[int]) -> Plan:
        """Take a plan, and its descriptors, from the master's message. Raises: CodecError"""
        writers: list[socket.socket] = []
        try:
            keys, pids = _PLAN.decode(data)
            while fds:
                writers.append(port.writer(fds.pop(0)))
        except CodecError:
            port.close_all(fds)
            for sock in writers:
                sock.close()
            raise
        return cls(writers, keys, pids)


class Departure:
    """A leaving worker's side."""

    __slots__ = ("_boxes", "_by_owner", "_done", "_loop", "_more", "_plan", "_said", "_service",
                 "_until_ms", "sent")

    def __init__(
        self, loop: Loop, service: Service, plan: Plan, done: Callable[[], None]
    ) -> None:
        """Stop reading, say so, and begin to send; done() is called when all is sent."""
        self._loop = loop
        self._service = service
        self._plan = plan
        self._done: Callable[[], None] | None = done
        self._boxes = [
            Outbox(loop, sock, feed=lambda n=n: self._feed(n))  # type: ignore[misc]
            for n, sock in enumerate(plan.writers)
        ]
        self._by_owner: list[deque[Session]] = [deque() for _ in self._boxes]
        self._more: list[deque[tuple[Any, ...]]] = [deque() for _ in self._boxes]
        self._said: set[int] = set()
        timeout = service.cycle.main.worker_shutdown_timeout
        self._until_ms = loop.now_ms + timeout if timeout else 0
        self.sent = 0
        for listener in service.udp_listeners:
            listener.close()
        for listener in service.udp_listeners:  # before STOPPED: what is read after that is younger
            for held in listener.take_held():
                self._put(listener, *held)
        pid = loop.pid
        for box in self._boxes:
            box.put(mailbox.STOPPED, pid, plan.pids)
            box.send()  # at once: the sockets are unread until all have heard it
        for s in loop.sessions:
            if s.c.is_udp and not s.status:
                self._by_owner[self._owner(s)].append(s)
        for box in self._boxes:
            box.pump()

    def take(self, s: Session) -> None:
        """Send one more session, which came late."""
        n = self._owner(s)
        self._by_owner[n].append(s)
        self._boxes[n].pump()

    def pass_on(self, listener: UdpListener, key: Any, peer: Any, local: Any, data: bytes) -> None:
        """Send one datagram to the owner of its client."""
        self._boxes[self._put(listener, key, peer, local, data)].pump()

    def _put(self, listener: UdpListener, key: Any, peer: Any, local: Any, data: bytes) -> int:
        """Have one datagram sent to the owner of its client. returns: whose box it is in"""
        listening = listener.listening
        n = self._owner_of(listening, peer)
        self._boxes[n].put(mailbox.DATAGRAMS, listening.options.key, key, peer, local, [data])
        return n

    def _owner_of(self, listening: Listening, peer: Any) -> int:
        current = listening.options.key in self._plan.keys
        return owner_of(listening, peer, self._plan.workers, current=current)

    def _owner(self, s: Session) -> int:
        return self._owner_of(s.c.listening, udp_clients.peer_of(s.c.key))

    def _feed(self, n: int) -> bool:
        """Put the next message for one owner. returns: whether there was any"""
        box, more = self._boxes[n], self._more[n]
        if more:
            box.put(mailbox.WAITING, *more.popleft())
            return True
        sessions = self._by_owner[n]
        packed: list[bytes] = []
        socks: list[Any] = []
        size = 0
        while sessions and len(packed) < BATCH and size < BATCH_BYTES:
            s = sessions.popleft()
            if s.status or not s.c.is_udp:
                continue
            proxy = s.content
            try:
                if not udp_state.is_ready(s):
                    self._begin_anew(box, s)
                    continue
                data, sock = self._pack(s, more)
            except Exception:  # noqa: BLE001 - the others of this message go on
                self._loop.fault(proxy)
                self._loop.end_sessions_of(s.c)
                continue
            packed.append(data)
            socks.append(sock)
            size += len(data)
        if packed:
            self.sent += len(packed)
            box.put(mailbox.SESSIONS, packed, fds=[sock.fileno() for sock in socks], socks=socks)
        if packed or box.waiting:
            return True
        if n not in self._said:
            self._said.add(n)
            box.put(mailbox.DONE, self._loop.pid)
            if len(self._said) == len(self._boxes):
                self._loop.post(self._finish)
            return True
        return False

    def _finish(self) -> None:
        if any(box.waiting and not box.gone for box in self._boxes):
            self._loop.call_later(LOOK_MS, self._finish, cancelable=True)
            return
        done, self._done = self._done, None
        if done is not None:
            done()

    def _pack(self, s: Session, more: deque[tuple[Any, ...]]) -> tuple[bytes, Any]:
        """Pack one session and let go of it."""
        proxy: Any = s.content
        if self._until_ms and s.module_ctx(travel.UNTIL) is None:
            s.set_module_ctx(travel.UNTIL, self._until_ms)
        where = s.c.listening.options.key
        key = s.c.key
        for data in proxy.waiting():
            more.append((where, key, [data]))
        packed = ENVELOPE.encode(
            (where, travel.pack(s, self._service.places), udp_state.pack(proxy))
        )
        return packed, udp_state.release(proxy)

    def _begin_anew(self, box: Outbox, s: Session) -> None:
        """Send the datagrams of a session that has no server yet: it begins at its new owner."""
        c = s.c
        listener: Any = c.table
        kept = [s.preread or getattr(s.content, "first", b"")]
        sink = listener.table.get(c.key) if listener is not None else None
        if sink is not None and sink.c is c:
            kept += getattr(sink, "kept", [])
        peer = udp_clients.peer_of(c.key)
        local = local_of(c.key, peer)
        for data in kept:
            box.put(mailbox.DATAGRAMS, c.listening.options.key, c.key, peer, local, [data])
        self._loop.call_all(reversed(s.abandon()))
        self._loop.close_connection(c)


def local_of(key: Any, peer: Any) -> bytes | None:
    """Return the packed local address in a table's key, None where it has none."""
    return None if key is peer else udp_clients.local_of(key)


def fits(options: ListenOptions, key: Any) -> bool:
    """Tell whether a client that is known by this key can be one of a listening address."""
    family = options.family
    if family == socket.AF_UNIX:
        return not isinstance(key, tuple)
    if not isinstance(key, tuple):
        return False
    behind = key[1] if isinstance(key[0], tuple) else None
    if inet.family_of(key if behind is None else key[0]) != family:
        return False
    if behind is None:
        return not options.wildcard
    size = 4 if family == socket.AF_INET else 16
    if len(behind) in (4, 16):
        return len(behind) == size
    # a PROXY header's tag behind a length and a local address: see udp_proxied.py
    return behind[:1] in (b"\0", bytes((size,))) and len(behind) > behind[0]


class Arrival:
    """A new worker's side, and for its whole life the reader of its mailbox."""

    __slots__ = (
        "_boxes",  # Outboxes of all workers of the generation; None at its own place
        "_deadline_ms",
        "_departure",
        "_done",  # pids that sent everything
        "_expected",  # pids that will
        "_given",  # {(where, key): pid}: sessions that a worker of another user has given
        "_limit_ms",  # when the deadline is put off no more
        "_log",
        "_loop",
        "_nobody_left",  # bool: the master said that no worker is left to hand over
        "_reader",  # mailbox.Inbox
        "_reading_on",  # bool: within _read_on()
        "_refused",  # int: messages, within a second from
        "_refused_ms",
        "_service",
        "_settled",  # called once when everything is here
        "_stopped",  # pids that read no more
        "_timers",  # {ms: Timer}: worker_shutdown_timeouts of former generations
        "holding",
        "idle",
        "received",
    )

    def __init__(
        self,
        loop: Loop,
        service: Service,
        reader: socket.socket,
        writers: Sequence[socket.socket],
        *,
        idle: bool,
        patience_ms: int = START_MS,
        users: Iterable[int | None] = (),
    ) -> None:
        """Args: users: of all configurations whose workers may write; idle: others read the sockets
        still; patience_ms: how long this worker waits for them, 0 for ever
        """
        self._loop = loop
        self._service = service
        self._log = service.cycle.log
        self._reader = mailbox.Inbox(reader, users)
        self._given: dict[tuple[Key, Any], int] = {}
        self._boxes = [Outbox(loop, sock) for sock in writers]
        self._expected: frozenset[int] = frozenset()
        self._stopped: set[int] = set()
        self._done: set[int] = set()
        self._deadline_ms = loop.now_ms + patience_ms if patience_ms else 0
        self._limit_ms = 0
        self._refused = 0
        self._refused_ms = loop.now_ms
        self._departure: Departure | None = None
        self._settled: list[Callable[[], None]] = []
        self._timers: set[int] = set()
        self._nobody_left = False
        self._reading_on = False
        self.idle = idle
        self.holding = False
        self.received = 0
        loop.register(reader.fileno(), self.on_mail, poller.LEVEL)
        for listener in service.udp_listeners:
            listener.stray = self.stray
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
        """Hand on from now on whatever still comes."""
        self._departure = departure

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
        """Say what was refused; who says nonsense without end does not fill the log."""
        now_ms = self._loop.now_ms
        if now_ms - self._refused_ms >= 1000:
            self._refused_ms, self._refused = now_ms, 0
        self._refused += 1
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
        if mail.kind in (mailbox.STOPPED, mailbox.DONE):
            return bool(values[0] == mail.pid)
        if mail.kind == mailbox.SESSIONS:
            return True  # looked at one by one
        where, key = values[:2]
        listener = self._service.listener_of(where)
        is_known = listener is not None and key in listener.table
        if mail.kind == mailbox.DATAGRAMS and not is_known:
            return True
        return self._given.get((where, key)) == mail.pid

    def _obey(self, mail: Mail) -> None:
        """Do what a message says. Raises: CodecError for what makes no sense here"""
        kind, values = mail.kind, mail.values
        if self._limit_ms and not self.settled and not self._is_foreign(mail):
            # thousands of sessions take a busy machine longer than one that says nothing is granted
            self._deadline_ms = min(self._loop.now_ms + HOLD_MS, self._limit_ms)
        if kind == mailbox.SESSIONS:
            faults = list(filter(None, [self._adopt(packed, mail) for packed in values[0]]))
            if faults:
                raise CodecError(f"{len(faults)} UDP sessions were dropped: {faults[0]}")
        elif kind == mailbox.DATAGRAMS:
            self._take(*values)
        elif kind == mailbox.WAITING:
            self._take_waiting(*values)
        elif kind == mailbox.STOPPED:
            self._on_stopped(*values)
        elif kind == mailbox.DONE:
            self._done.add(values[0])
            if self._is_foreign(mail):
                self._given = {at: pid for at, pid in self._given.items() if pid != mail.pid}
            self._check()

    def _adopt(self, data: bytes, mail: Mail) -> str:
        """Take up one session, and its descriptor out of the message. Returns: why not, if not"""
        service, loop = self._service, self._loop
        fd = mail.fds.pop(0)
        try:
            where, session, proxied = ENVELOPE.decode(data)
            listener = service.listener_of(where)
            if listener is None:
                raise CodecError("nobody listens at their address")
            proxy = udp_state.Parcel(proxied, fd, is_shared=self._is_foreign(mail))
            parcel = travel.Parcel(session, service.places)
            if not udp_state.can_restore(parcel.server):
                raise CodecError("their server proxies nothing")
            self._check_client(listener, parcel.key, mail, proxy)
            known = parcel.listening.options.key == where  # else it was passed on
            listening = parcel.listening if known else listener.listening
            s = parcel.unpack(loop, listener.sock, listening)
        except (KeyError, CodecError) as error:
            os.close(fd)
            if isinstance(error, KeyError):
                return "they are of an unknown configuration"
            return str(error)
        loop.live += 1
        loop.free_connections -= 1
        self.received += 1
        service.count_adopted(s)
        proxy.restore(s, listener, service.cycle.stream)
        if self._is_foreign(mail):
            self._given[where, parcel.key] = mail.pid
        if self._departure is not None:
            self._departure.take(s)
            return ""
        until = s.module_ctx(travel.UNTIL)
        if isinstance(until, int) and until not in self._timers:
            self._timers.add(until)
            delay = max(1, until - loop.now_ms)
            loop.call_later(delay, lambda: self._time_out(until), cancelable=True)
        return ""

    def _check_client(
        self, listener: UdpListener, key: Any, mail: Mail, proxy: udp_state.Parcel
    ) -> None:
        """See that a session's client can be one of an address. Raises: CodecError"""
        if not fits(listener.listening.options, key):
            raise CodecError("their clients cannot be such of their address")
        if self._is_foreign(mail):
            if proxy.listed and key in listener.table:
                raise CodecError(f"user {mail.uid} gives sessions of clients that are ours")
            if self._loop.free_connections < 2:
                raise CodecError(f"user {mail.uid} gives more sessions than there is room for")

    def _time_out(self, until: int) -> None:
        self._timers.discard(until)
        for s in list(self._loop.sessions):
            if s.module_ctx(travel.UNTIL) == until:
                s.log_error(log.INFO, "shutdown timeout")
                s.finalize(200)

    def _take(self, where: Key, key: Any, peer: Any, local: Any, datagrams: list[bytes]) -> None:
        """Take datagrams of a client of ours that somebody else has read."""
        listener = self._service.listener_of(where)
        if listener is None:
            return
        if not fits(listener.listening.options, key) or udp_clients.peer_of(key) != (
            udp_clients.NOBODY if peer is None else peer
        ):
            raise CodecError("datagrams of a client that cannot be one of their address")
        for data in datagrams:
            if self._departure is not None:
                self._departure.pass_on(listener, key, peer, local, data)
            elif not self.settled:
                listener.keep(key, peer, local, data)
            else:
                stray, listener.stray = listener.stray, None  # whoever sent it knows it is ours
                listener.deliver(key, peer, local, data)
                listener.stray = stray

    def _take_waiting(self, where: Key, key: Any, datagrams: list[bytes]) -> None:
        """Send on what a session had yet to send to its server."""
        listener = self._service.listener_of(where)
        sink: Any = None if listener is None else listener.table.get(key)
        for data in datagrams:
            udp_state.send_waiting(sink, data)

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
                self._log.error(
                    log.WARN, f"{len(alive)} leaving workers did not hand over in time"
                )
            self._open()

    def _read_on(self) -> None:
        """Take all mail there is."""
        self._reading_on = True
        while self._take_message():
            pass
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
        """Pass a datagram on if its client is another worker's. returns: whether it is"""
        service = self._service
        listening = listener.listening
        n = owner_of(
            listening, peer, service.cycle.workers, current=service.is_current(listening)
        )
        if n == service.worker:
            return False
        box = self._boxes[n]
        local = local_of(key, peer)
        if box.waiting < STRAYS:
            where = listening.options.key
            box.put(mailbox.DATAGRAMS, where, key, peer, local, [bytes(data)])
            box.pump()
        else:
            listener.dropped += 1
        return True

    def _end_of_strays(self) -> None:
        self._loop.call_later(STRAY_MS, self._no_more_strays, cancelable=True)

    def _no_more_strays(self) -> None:
        for listener in self._service.udp_listeners:
            if listener.listening.is_steered:
                listener.stray = None
