"""Addresses that a QUIC session has heard from and does not believe yet, and what they are told.

nginx has no counterpart: its own QUIC server asks an address to prove itself (PATH_CHALLENGE,
ngx_event_quic_migration.c), which a proxy without keys cannot. udp_quic.py says when one is proved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from ngxstream.event import datagram, udp_clients

MOST_PATHS: Final = 4
QUIET_MS: Final = 200  # of the address that is answered, before another one is proved
PATH_MS: Final = 10_000  # an address that nothing comes from for so long is forgotten
ANSWER: Final = 3  # times the bytes that came from it. Source: RFC 9000 section 8.1


class Path:
    """An address that is not proved."""

    __slots__ = ("heard_ms", "is_answered", "key", "received", "rounds", "sent")

    def __init__(self, key: Any) -> None:
        self.key = key
        self.received = 0  # bytes
        self.sent = 0
        self.heard_ms = 0
        self.is_answered = False  # since something came from there
        self.rounds = 0  # how often something came after it was answered


class Paths:
    """Those of one session."""

    __slots__ = (
        "by_address",  # dict: address -> Path
        "heard_ms",  # when the address that is answered was heard; kept while there are any
        "near",  # Path | None: the latest at another port of the same host
    )

    def __init__(self) -> None:
        self.by_address: dict[Any, Path] = {}
        self.heard_ms = 0
        self.near: Path | None = None

    def clear(self) -> None:
        """Forget all."""
        self.by_address = {}
        self.near = None

    def on_heard(self, now_ms: int) -> None:
        """The address that answers go to is in use: no other one is proved."""
        self.heard_ms = now_ms
        for address, path in list(self.by_address.items()):
            path.rounds = 0
            if now_ms - path.heard_ms > PATH_MS:
                del self.by_address[address]
                self.near = None if path is self.near else self.near

    def begin(self, key: Any, address: Any, now_ms: int) -> None:
        """Hear from an address for the first time; one of which least is known gives way."""
        paths = self.by_address
        if not paths:
            self.heard_ms = now_ms
        elif len(paths) >= MOST_PATHS:
            del paths[min(paths, key=lambda at: (paths[at].rounds, paths[at].heard_ms))]
        paths[address] = Path(key)

    def count(self, address: Any, size: int, now_ms: int, *, is_near: bool) -> None:
        """Count what came from an address that is known here. Args: is_near: of the same host"""
        path = self.by_address[address]
        path.received += size
        path.heard_ms = now_ms
        if is_near:
            self.near = path
        if path.is_answered:
            path.is_answered = False
            path.rounds += 1

    @property
    def near_address(self) -> Any:
        """The address at another port of the same host that gets all answers, None without one."""
        address = None if self.near is None else udp_clients.peer_of(self.near.key)
        return address if address in self.by_address else None

    def go_on(self, key: Any, address: Any, now_ms: int) -> None:
        """Go on with what near_address was in another process; it is proved anew."""
        self.begin(key, address, now_ms)
        self.count(address, 0, now_ms, is_near=True)

    def is_proved(self, address: Any, now_ms: int) -> bool:
        """Tell whether an address has gone on after it was answered, and no other one has."""
        path = self.by_address.get(address)
        return bool(path and path.rounds) and now_ms - self.heard_ms >= QUIET_MS

    def copy(self, sock: Any, control: Any, views: Sequence[memoryview]) -> None:
        """Send answers to all as far as each may get any."""
        for path in self.by_address.values():
            address = udp_clients.peer_of(path.key)
            for view in views:
                if path is not self.near and path.sent + len(view) > ANSWER * path.received:
                    continue
                try:
                    sock.sendmsg((view,), control or (), 0, address)
                except OSError:
                    continue  # it is not the client's address yet: nobody's loss
                path.sent += len(view)
                path.is_answered = True


class Tap:
    """Sends answers in the listening socket's place, and shows them to somebody."""

    __slots__ = ("_answered", "sock")

    def __init__(self, sock: Any, answered: Callable[[Sequence[memoryview]], None]) -> None:
        """Args: answered: called with datagrams that were sent"""
        self.sock = sock
        self._answered = answered

    def sendto(self, view: memoryview, address: Any) -> int:
        """Send one datagram."""
        sent: int = self.sock.sendto(view, address)
        self._answered((view,))
        return sent

    def sendmsg(self, views: Sequence[memoryview], control: Any, flags: int, address: Any) -> int:
        """Send one datagram, or a burst."""
        sent: int = self.sock.sendmsg(views, control, flags, address)
        size = next((int.from_bytes(data, "little") for level, _, data in control
                     if level == datagram.SOL_UDP), 0)
        if size and len(views) == 1:
            views = datagram.split(views[0], size)
        self._answered(views)
        return sent
