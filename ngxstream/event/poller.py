"""Pollers: what the kernel says is ready, as (fd, mask) pairs in epoll's bits.

Answers for src/event/modules/ngx_epoll_module.c, ngx_poll_module.c and ngx_select_module.c. Every
poller is a selectors.BaseSelector; the loop uses `poll()`, which hands out raw pairs.

Some facts about readiness, and what we made of them
----------------------------------------------------
* A connection is registered once, for IN, OUT and RDHUP, edge-triggered (EDGE), and never touched
  again: a change of interest is a system call, and a proxied connection would make two for every
  stall. The owner's part: *an edge is reported once; drain until BlockingIOError or a
  short read, or ask the loop to call again.* A short read from a stream socket does mean "dry"
  (epoll(7), questions and answers), unless RDHUP is in the mask.
* Datagram sockets and listening sockets are level-triggered (LEVEL). A drained datagram socket
  costs one failing receive and one exception, about as much as the receive itself; a level is
  asked again for free by the next epoll_wait, so an owner may stop at what it expects.
* poll and select know levels only. They keep the same bargain with the owner's help: an owner
  that leaves data unread because its sink is full says `hold_read`, one with output waiting says
  `want_write`. Under epoll's edges both say nothing new and are methods that do nothing.
* Every packet that comes in is an edge, also while its owner waits to write elsewhere: a bulky flow
  woke the worker sixteen times for nothing at every stall. The owner of such a flow says
  `mute_read`, which is worth the two calls of epoll_ctl().
* An fd number closed and opened again within one batch of events would get the old one's event.
  The loop closes sockets at the end of a turn, so a number cannot come back within one.
* select(2) cannot watch descriptors of FD_SETSIZE (1024) and above: registering one is an
  error that says so.
"""

from __future__ import annotations

import errno
import math
import select
import selectors
from collections.abc import Callable, Mapping
from typing import Any, Final

IN: Final = select.EPOLLIN
OUT: Final = select.EPOLLOUT
RDHUP: Final = select.EPOLLRDHUP
HUP: Final = select.EPOLLHUP
ERR: Final = select.EPOLLERR
READABLE: Final = IN | RDHUP | HUP | ERR
CLOSING: Final = RDHUP | HUP | ERR
EDGE: Final = IN | OUT | RDHUP | select.EPOLLET
LEVEL: Final = IN
EXCLUSIVE: Final = getattr(select, "EPOLLEXCLUSIVE", 1 << 28)
FD_SETSIZE: Final = 1024

Handler = Callable[[int], None]


class LimitError(OSError):
    """A descriptor that this poller cannot watch; its owner ends."""


class _Base(selectors.BaseSelector):
    """What all pollers share: the table of handlers, and the selectors interface over it."""

    name = ""
    max_events = 1 << 30  # a poll that returns fewer has returned all that is ready

    def __init__(self) -> None:
        # bound methods by fd; the loop looks an fd up for every event and skips the unknown
        self.handlers: dict[int, Handler] = {}
        self._masks: dict[int, int] = {}

    # the loop's side

    def add(self, fd: int, handler: Handler, mask: int = EDGE) -> None:
        """Watch an fd; with one already watched, only the handler changes."""
        raise NotImplementedError

    def remove(self, fd: int) -> None:
        """Stop watching an fd that stays open."""
        raise NotImplementedError

    def forget(self, fd: int) -> None:
        """Drop an fd that is about to be closed."""
        self.remove(fd)

    def pop(self, fd: int, nothing: None, /) -> object:
        """Do what forget() does, for an fd that is watched with EDGE."""
        self.forget(fd)
        return nothing

    def begin(self, fd: int, handler: Handler) -> None:
        """Do what add() does, for an fd that is not watched yet."""
        self.add(fd, handler)

    def poll(self, timeout_ms: int) -> list[tuple[int, int]]:
        """Wait for events. Args: timeout_ms: -1 for ever. Returns: [(fd, mask)]"""
        raise NotImplementedError

    def wait(self, timeout_s: float, most: int, /) -> list[tuple[int, int]]:
        """Do what poll() does, for the loop. Args: most: max_events"""
        return self.poll(math.ceil(timeout_s * 1000))

    def hold_read(self, fd: int) -> None:
        """Say that an fd is left unread for now."""

    def release_read(self, fd: int) -> None:
        """Say that an fd is read again."""

    def mute_read(self, fd: int) -> None:
        """Say that much is coming to an fd that is left unread for now."""
        self.hold_read(fd)

    def unmute_read(self, fd: int) -> None:
        """Read it again: what came meanwhile is reported by the next poll."""
        self.release_read(fd)

    def want_write(self, fd: int) -> None:
        """Say that output waits for buffer space."""

    def no_write(self, fd: int) -> None:
        """Say that no output waits any more."""

    # selectors.BaseSelector

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch a file object for selectors' EVENT_READ | EVENT_WRITE, level-triggered."""
        fd = _fileno(fileobj)
        if fd in self.handlers:
            raise KeyError(f"{fileobj!r} (FD {fd}) is already registered")
        if not events or events & ~(selectors.EVENT_READ | selectors.EVENT_WRITE):
            raise ValueError(f"Invalid events: {events!r}")
        mask = IN * bool(events & selectors.EVENT_READ) | OUT * bool(events & selectors.EVENT_WRITE)
        self.add(fd, data, mask)
        return self._key(fd)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Stop watching a file object."""
        fd = _fileno(fileobj)
        if fd not in self.handlers:
            raise KeyError(f"{fileobj!r} is not registered")
        key = self._key(fd)
        self.remove(fd)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for events in the form of the selectors module."""
        timeout_ms = -1 if timeout is None else max(0, round(timeout * 1000))
        found = []
        for fd, mask in self.poll(timeout_ms):
            if fd in self.handlers:
                events = selectors.EVENT_READ * bool(mask & READABLE)
                events |= selectors.EVENT_WRITE * bool(mask & (OUT | HUP | ERR))
                key = self._key(fd)
                if events & key.events:
                    found.append((key, events & key.events))
        return found

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """Return the registered fds and their keys."""
        return {fd: self._key(fd) for fd in self.handlers}

    def _key(self, fd: int) -> selectors.SelectorKey:
        mask = self._masks.get(fd, EDGE)
        events = selectors.EVENT_READ * bool(mask & IN) | selectors.EVENT_WRITE * bool(mask & OUT)
        return selectors.SelectorKey(fd, fd, events, self.handlers[fd])


class EpollPoller(_Base):
    """epoll(7): the default."""

    name = "epoll"

    def __init__(self, max_events: int = 512) -> None:
        super().__init__()
        self._epoll = select.epoll()
        self.max_events = max_events
        self._ctl_add = self._epoll.register
        # hot: the loop calls what waits by itself
        self.wait = self._epoll.poll  # type: ignore[method-assign]
        self.pop = self.handlers.pop  # type: ignore[method-assign]

    def add(self, fd: int, handler: Handler, mask: int = EDGE) -> None:
        """Watch an fd; with one already watched, only the handler changes."""
        handlers = self.handlers
        if fd not in handlers:
            self._ctl_add(fd, mask)
            if mask != EDGE:
                self._masks[fd] = mask
        handlers[fd] = handler

    def begin(self, fd: int, handler: Handler) -> None:
        """Watch an fd that is not watched, with EDGE."""
        self._ctl_add(fd, EDGE)
        self.handlers[fd] = handler

    def remove(self, fd: int) -> None:
        """Stop watching an fd that stays open."""
        if self.handlers.pop(fd, None) is not None:
            self._masks.pop(fd, None)
            self._epoll.unregister(fd)

    def forget(self, fd: int) -> None:
        """Drop an fd about to be closed: the kernel takes it out of the set itself."""
        self.handlers.pop(fd, None)
        self._masks.pop(fd, None)

    def mute_read(self, fd: int) -> None:
        """Report no input of a fd that is registered with EDGE."""
        if fd in self.handlers:
            self._epoll.modify(fd, EDGE & ~IN)

    def unmute_read(self, fd: int) -> None:
        """Report it again, beginning with what is there."""
        if fd in self.handlers:
            self._epoll.modify(fd, EDGE)

    def poll(self, timeout_ms: int) -> list[tuple[int, int]]:
        """Wait for events. Args: timeout_ms: -1 for ever. Returns: [(fd, mask)]"""
        timeout = timeout_ms / 1000 if timeout_ms > 0 else timeout_ms
        return self._epoll.poll(timeout, self.max_events)

    def fileno(self) -> int:
        """Return the epoll descriptor."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Close the epoll descriptor."""
        self._epoll.close()
        self.handlers.clear()


class _LevelPoller(_Base):
    """Levels made to look like edges, by what owners say of held reads and waiting output."""

    def __init__(self) -> None:
        super().__init__()
        self._reads: set[int] = set()
        self._writes: set[int] = set()

    def add(self, fd: int, handler: Handler, mask: int = EDGE) -> None:
        """Watch an fd; with one already watched, only the handler changes."""
        if fd not in self.handlers:
            self._check(fd)
            self._masks[fd] = mask
            if mask & IN:
                self._reads.add(fd)
            # an edge-triggered registration tells once that there is space: say so until it is used
            if mask & OUT:
                self._writes.add(fd)
            self._change(fd)
        self.handlers[fd] = handler

    def remove(self, fd: int) -> None:
        """Stop watching an fd."""
        if self.handlers.pop(fd, None) is not None:
            self._masks.pop(fd, None)
            self._reads.discard(fd)
            self._writes.discard(fd)
            self._drop(fd)

    def hold_read(self, fd: int) -> None:
        """Say that an fd is left unread for now."""
        self._reads.discard(fd)
        self._change(fd)

    def release_read(self, fd: int) -> None:
        """Say that an fd is read again."""
        if fd in self.handlers:
            self._reads.add(fd)
            self._change(fd)

    def want_write(self, fd: int) -> None:
        """Say that output waits for buffer space."""
        if fd in self.handlers:
            self._writes.add(fd)
            self._change(fd)

    def no_write(self, fd: int) -> None:
        """Say that no output waits any more."""
        self._writes.discard(fd)
        self._change(fd)

    def _told(self, fd: int, mask: int) -> None:
        if mask & OUT and self._masks.get(fd, 0) & select.EPOLLET:
            self.no_write(fd)

    def _check(self, fd: int) -> None:
        """Refuse an fd this poller cannot watch. Raises: LimitError"""

    def _change(self, fd: int) -> None:
        """Pass a changed interest on to the kernel's set."""

    def _drop(self, fd: int) -> None:
        """Take an fd out of the kernel's set."""


class PollPoller(_LevelPoller):
    """poll(2)."""

    name = "poll"

    def __init__(self) -> None:
        super().__init__()
        self._poll = select.poll()
        self._known: set[int] = set()  # what the set holds

    def poll(self, timeout_ms: int) -> list[tuple[int, int]]:
        """Wait for events. poll's bits are epoll's."""
        found = self._poll.poll(timeout_ms if timeout_ms >= 0 else None)
        for fd, mask in found:
            self._told(fd, mask)
        return found

    def _change(self, fd: int) -> None:
        mask = (IN | RDHUP) * (fd in self._reads) | OUT * (fd in self._writes)
        if mask:
            self._poll.register(fd, mask)
            self._known.add(fd)
        else:  # nobody asks: with an empty mask poll() would still report a reset, every time
            self._drop(fd)

    def _drop(self, fd: int) -> None:
        if fd in self._known:
            self._known.discard(fd)
            self._poll.unregister(fd)


class SelectPoller(_LevelPoller):
    """select(2), for descriptors below FD_SETSIZE."""

    name = "select"

    def poll(self, timeout_ms: int) -> list[tuple[int, int]]:
        """Wait for events, as every poller does."""
        timeout = timeout_ms / 1000 if timeout_ms >= 0 else None
        reads, writes, _ = select.select(list(self._reads), list(self._writes), [], timeout)
        masks = dict.fromkeys(reads, IN)
        for fd in writes:
            masks[fd] = masks.get(fd, 0) | OUT
        for fd, mask in masks.items():
            self._told(fd, mask)
        return list(masks.items())

    def _check(self, fd: int) -> None:
        if fd >= FD_SETSIZE:
            raise LimitError(
                errno.EMFILE, f"select() cannot watch descriptor {fd}: its limit is {FD_SETSIZE}"
            )


Poller = _Base
# By the name that `use` has for it; made for so many events at once.
POLLERS: Final[Mapping[str, Callable[[int], Poller]]] = {
    "epoll": EpollPoller,
    "poll": lambda events: PollPoller(),
    "select": lambda events: SelectPoller(),
}


def _fileno(fileobj: Any) -> int:
    fd = fileobj if isinstance(fileobj, int) else int(fileobj.fileno())
    if fd < 0:
        raise ValueError(f"Invalid file descriptor: {fd}")
    return fd
