"""The hand-over: how the UDP sessions of leaving workers continue in the workers that replace them.

nginx has no counterpart: there a reload ends them. departure.py is the leaving worker's side,
arrival.py and adoption.py the new one's; definitions of both are here. How a session's content is
packed, and whether it moves, is declared by its module (stream/content.py).

1. Which worker a client belongs to is a function of its address (owner_of here, steering.py in the
   kernel).
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
6. A leaving worker may be of another user than the new ones (`user` has changed), and is not
   trusted then: it may send messages for itself only, sessions only of clients that no worker has,
   datagrams only for those, and nothing after DONE. It can still harm clients that were its own.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from ngxstream.event import steering, udp_clients
from ngxstream.ipc import addresses, codec, port
from ngxstream.ipc.codec import CodecError, Field, List, Record
from ngxstream.process import mailbox

if TYPE_CHECKING:
    from ngxstream.event.listening import Listening

START_MS: Final = 5000  # how long a new worker waits to be told that it may read

Key = tuple[Any, ...]  # ListenOptions.key

_PLAN: Final = Record(
    "plan", Field(1, "keys", List(addresses.LISTEN_KEY, 1 << 20), []),
    Field(2, "pids", List(codec.PID, 65_536), []),
    Field(3, "workers", codec.UINT),
)
# its listening address; itself (stream/travel.py); name of the kind of its content, and that
# (stream/content.py); whether its client's datagrams come to it; how many follow yet to be sent
SESSION: Final = Record(
    "session",
    Field(1, "where", codec.Repeated(addresses.LISTEN_KEY)),
    Field(2, "session", codec.Bytes(mailbox.MAX_BYTES)),
    Field(3, "kind", codec.Repeated(codec.Text(64, is_word=True))),
    Field(4, "content", codec.Bytes(mailbox.MAX_BYTES), b""),
    Field(5, "listed", codec.BOOL, True),
    Field(6, "waiting", codec.UINT, 0),
)


def owner_of(listening: Listening, peer: Any, workers: int, *, current: bool) -> int:
    """Tell which of `workers` workers the client at an address belongs to.

    Args: current: the address is one of the configuration that serves; the group of one that is
    gone stays steered as it was, and worker number mod workers reads each of its sockets
    """
    options = listening.options
    if not options.is_group:
        return 0
    if current:
        number = steering.owner_of(options.family, peer, listening.spread(workers))
    else:
        number = steering.owner_of(options.family, peer, max(1, listening.steered))
    return listening.reader_of(number, workers)


class Plan:
    """Where sessions go: what the master tells a worker that is to hand over."""

    __slots__ = ("keys", "pids", "workers", "writers")

    def __init__(
        self, writers: Sequence[socket.socket], keys: Iterable[Key], pids: Sequence[int]
    ) -> None:
        """Args: writers: a mailbox of each new worker; keys: of the addresses they listen at; pids:
        of all workers that hand over
        """
        self.writers = writers
        self.workers = len(writers)
        self.keys = frozenset(keys)
        self.pids = tuple(pids)

    def pack(self) -> bytes:
        """Return what goes with the descriptors of the mailboxes."""
        return _PLAN.encode((sorted(self.keys, key=repr), self.pids, self.workers))

    @classmethod
    def unpack(cls, data: bytes, fds: list[int]) -> Plan:
        """Take a plan, and its descriptors, from the master's message. Raises: CodecError"""
        writers: list[socket.socket] = []
        try:
            keys, pids, workers = _PLAN.decode(data)
            if len(fds) != workers:
                raise CodecError(f"a plan of {workers} workers with {len(fds)} mailboxes")
            while fds:
                writers.append(port.writer(fds.pop(0)))
        except CodecError:
            port.close_all(fds)
            for sock in writers:
                sock.close()
            raise
        return cls(writers, keys, pids)


def local_of(key: Any, peer: Any) -> bytes | None:
    """Return the packed local address in a table's key, None where it has none."""
    return None if key is peer else udp_clients.local_of(key)
