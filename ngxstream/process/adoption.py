"""The receiving side of a hand-over: sessions are created again, and their datagrams taken.

nginx has no counterpart. What another process sends is checked before it is used (handover.py, 6);
a session whose record is refused is dropped, and its client's next datagram begins another one.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from ngxstream.core import inet, log
from ngxstream.event import drops, udp_clients
from ngxstream.event.udp_ids import ClientIds
from ngxstream.ipc import port
from ngxstream.ipc.codec import CodecError
from ngxstream.process import directives, handover
from ngxstream.stream import endings, travel
from ngxstream.stream.session import UNTIL

if TYPE_CHECKING:
    from ngxstream.event.listen_options import ListenOptions
    from ngxstream.event.loop import Loop
    from ngxstream.event.udp import UdpListener
    from ngxstream.process.departure import Departure
    from ngxstream.process.handover import Key
    from ngxstream.process.mailbox import Mail
    from ngxstream.process.service import Service
    from ngxstream.stream.session import Session


def fits(options: ListenOptions, key: Any) -> bool:
    """Tell whether a client that is known by this key can be one of a listening address."""
    family = options.family
    if family == socket.AF_UNIX:
        return not isinstance(key, tuple)
    if not isinstance(key, tuple):
        return False
    address, behind = key if isinstance(key[1], bytes) else (key, None)
    if inet.family_of(address) != family:
        return False
    if behind is None:
        return not options.wildcard
    size = 4 if family == socket.AF_INET else 16
    if len(behind) in (4, 16):
        return len(behind) == size
    # a PROXY header's tag behind a length and a local address: see udp_proxied.py
    return behind[:1] in (b"\0", bytes((size,))) and len(behind) > behind[0]


def _drop(table: dict[tuple[Any, ...], Any], key: tuple[Any, ...]) -> None:
    table.pop(key, None)


class Adopter:
    """Takes sessions and datagrams that other workers send."""

    __slots__ = (
        "departure",  # Departure | None: passes on whatever still comes
        "_adopted",  # Counter: sessions
        "_lost",  # Counter: those that were refused
        "_given",  # {(where, key): pid}: sessions that a worker of another user has given
        "_loop",
        "_owed",  # {(pid, $connection): [session, datagrams to come]}: what has yet to send some
        "_service",
        "_timers",  # {ms}: worker_shutdown_timeouts of former generations
    )

    def __init__(self, loop: Loop, service: Service) -> None:
        self.departure: Departure | None = None
        self._adopted = service.cycle.facts.counter(directives.ADOPTED)
        self._lost = service.cycle.facts.counter(directives.LOST)
        self._given: dict[tuple[Key, Any], int] = {}
        self._loop = loop
        self._owed: dict[tuple[int, int], tuple[Session, int]] = {}
        self._service = service
        self._timers: set[int] = set()

    def is_owed(self, pid: int, number: int) -> bool:
        """Tell whether a process has announced datagrams for a session, by its $connection."""
        return (pid, number) in self._owed

    def may_send(self, pid: int, where: Key, key: Any) -> bool:
        """Tell whether another user's process may send datagrams of a client: it gave the session,
        or nobody has one.
        """
        listener = self._service.listener_of(where)
        return listener is None or key not in listener.table or self._given.get((where, key)) == pid

    def forget(self, pid: int) -> None:
        """Forget what a process may add: it has sent everything."""
        self._given = {at: sender for at, sender in self._given.items() if sender != pid}
        self._owed = {at: owed for at, owed in self._owed.items() if at[0] != pid}

    # -- sessions ------------------------------------------------------------------------------

    def take_sessions(self, mail: Mail, *, is_foreign: bool) -> None:
        """Take up the sessions of a message, and their descriptors out of it.

        Args: is_foreign: it is of another user. Raises: CodecError where some were refused
        """
        faults: list[str] = []
        sessions = mail.values[0]
        for record, count in zip(*mail.values, strict=True):
            fds = [mail.fds.pop(0) for _ in range(count)]
            try:
                self._take_session(record, fds, mail, is_foreign=is_foreign)
            except CodecError as error:
                faults.append(str(error))
            port.close_all(fds)  # what nobody has taken
        if self.departure is None:
            self._adopted.add(len(sessions) - len(faults))
        if faults:
            self._lost.add(len(faults))
            raise CodecError(f"{len(faults)} UDP sessions were dropped: {faults[0]}")

    def _take_session(self, record: bytes, fds: list[int], mail: Mail, *, is_foreign: bool) -> None:
        """Take up one session. Raises: CodecError; nothing is left of it then"""
        service, loop, pid = self._service, self._loop, mail.pid
        where, session, name, data, is_listed, waiting = handover.SESSION.decode(record)
        listener = service.listener_of(where)
        if listener is None:
            raise CodecError("nobody listens at their address")
        try:
            packed = travel.PackedSession(session, service.places)
        except KeyError:
            raise CodecError("they are of an unknown configuration") from None
        kind = packed.stream.contents.get(name)
        if kind is None or kind.read is None:
            raise CodecError(f'their content is of an unknown kind, "{name}"')
        restore = kind.read(data, fds, packed.server, is_foreign)
        self._check_client(listener, packed.key, mail.uid if is_foreign else None, is_listed)
        known = packed.listening.options.key == where  # else it was passed on
        s = packed.unpack(loop, listener, packed.listening if known else listener.listening)
        fds.clear()
        loop.live += 1
        loop.free_connections -= 1
        service.count_adopted(s)
        try:
            content = restore(s, service.cycle.stream)
            if s.status:
                return  # a filter has ended it
            if is_listed:
                content.enlist()
        except Exception:  # noqa: BLE001 - the others of this message go on
            loop.fault(None)
            loop.end_sessions_of(s.c)
            raise CodecError(f'a "{name}" cannot be made anew') from None
        client, owed = (where, packed.key), (pid, packed.number)
        if is_foreign and is_listed:
            self._given[client] = pid
            s.add_cleanup(lambda: _drop(self._given, client))
        if waiting:
            self._owed[owed] = s, waiting
            s.add_cleanup(lambda: _drop(self._owed, owed))
        elif self.departure is not None:
            self.departure.take(s)
            return
        self._limit(s)

    def _check_client(
        self, listener: UdpListener, key: Any, other_user: int | None, is_listed: bool
    ) -> None:
        """See that a session's client can be one of an address.

        Args: other_user: user id of who gives it, where that is another one. Raises: CodecError
        """
        if not fits(listener.listening.options, key):
            raise CodecError("their clients cannot be such of their address")
        if other_user is not None:
            if is_listed and key in listener.table:
                raise CodecError(f"user {other_user} gives sessions of clients that are ours")
            if self._loop.free_connections < 2:
                raise CodecError(f"user {other_user} gives more sessions than fit")

    def _limit(self, s: Session) -> None:
        """Have a session end when the worker_shutdown_timeout is over that it began under."""
        until = s.module_ctx(UNTIL)
        if until is not None and until not in self._timers:
            self._timers.add(until)
            delay = max(1, until - self._loop.now_ms)
            self._loop.call_later(delay, lambda: self._time_out(until), cancelable=True)

    def _time_out(self, until: int) -> None:
        self._timers.discard(until)
        for s in list(self._loop.sessions):
            if s.module_ctx(UNTIL) == until:
                s.log_error(log.INFO, "shutdown timeout")
                if s.content is not None:
                    s.content.count_live()
                s.end(200, endings.SHUTDOWN)

    # -- datagrams -----------------------------------------------------------------------------

    def take_datagrams(
        self, where: Key, key: Any, peer: Any, local: Any, datagrams: list[bytes], *,
        is_settled: bool,
    ) -> None:
        """Take datagrams of a client of ours that somebody else has read. Raises: CodecError"""
        listener = self._service.listener_of(where)
        if listener is None:
            return
        if not fits(listener.listening.options, key) or udp_clients.peer_of(key) != (
            udp_clients.NOBODY if peer is None else peer
        ):
            raise CodecError("datagrams of a client that cannot be one of their address")
        for data in datagrams:
            if self.departure is not None:
                self.departure.pass_on(listener, key, peer, local, data)
            elif not is_settled:
                listener.keep(key, peer, local, data)
            else:
                # whoever sent it knows it is ours
                stray, listener.stray = listener.stray, listener.finder
                listener.deliver(key, peer, local, data)
                listener.stray = stray

    def take_found(
        self, where: Key, key: Any, peer: Any, local: Any, datagrams: list[bytes], hops: int, *,
        is_settled: bool,
    ) -> None:
        """Take datagrams of a client whose session is known here by an id. Raises: CodecError

        Whose session has just gone elsewhere is asked once more; a client whose session is over
        begins another one where his datagrams come in, not here.
        """
        if self.departure is not None or not is_settled:
            self.take_datagrams(where, key, peer, local, datagrams, is_settled=is_settled)
            return
        listener = self._service.listener_of(where)
        if listener is None:
            return
        if not fits(listener.listening.options, key) or udp_clients.peer_of(key) != peer:
            raise CodecError("datagrams of a client that cannot be one of their address")
        ids = self._loop.get(ClientIds)
        for data in datagrams:
            if not ids.find_within(listener, key, peer, data, hops):
                listener.lost.drop(drops.STRAY)

    def take_waiting(self, pid: int, number: int, datagrams: list[bytes]) -> None:
        """Send on what a session had yet to send where it came from."""
        s, left = self._owed.pop((pid, number), (None, 0))
        if s is None:
            return
        for data in datagrams:
            if s.content is not None:
                s.content.send_waiting(data)
        left -= len(datagrams)
        if left > 0:
            self._owed[pid, number] = s, left
        elif self.departure is not None and not s.status:
            self.departure.take(s)
