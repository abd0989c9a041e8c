"""Content: what holds a session while its content handler works, and how it changes processes.

nginx has no counterpart: there what a content handler keeps is its own, and ends with its process.

When a worker hands its UDP sessions over (process/departure.py), each content says which way its
session goes:
  MOVES   it goes on in another process: waiting(), pack() and release() here; there `read` of its
          ContentKind looks at what came, and what that returns makes it anew
  ANEW    nothing has come of it yet: release(); the datagrams of its client begin a session there
  STAYS   it ends in the process where it began, as TCP sessions do
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ngxstream.core.codes import INTERNAL_SERVER_ERROR
from ngxstream.stream import endings

if TYPE_CHECKING:
    from ngxstream.stream.core import ServerConf, StreamConf
    from ngxstream.stream.endings import Ending
    from ngxstream.stream.session import Session

MOVES: Final = 1
ANEW: Final = 2
STAYS: Final = 3


class Packed(NamedTuple):
    """A content as it moves. Args: kind: name of its ContentKind; sockets: the receiver's soon"""

    kind: str
    data: bytes
    sockets: Sequence[Any]


# what a session is doing, as it is shown
BEGINNING: Final = "beginning"  # before anything that follows
SCRIPT: Final = "script"  # a function of the configuration is waited for
PREREAD: Final = "preread"
HANDSHAKE: Final = "handshake"
RESOLVING: Final = "resolving"  # a name, or it waits for an upstream that has no servers yet
CONNECTING: Final = "connecting"
RELAYING: Final = "relaying"
RETURNING: Final = "returning"
SERVING: Final = "serving"  # the API
STATES: Final = (
    BEGINNING, SCRIPT, PREREAD, HANDSHAKE, RESOLVING, CONNECTING, RELAYING, RETURNING, SERVING
)
FUNCTIONS: Final = "py"  # in ctx: what functions of a session run (scripting/running.py)


class Shown(NamedTuple):
    """What a content tells of its session while it goes on.

    Args: state: one of STATES; active_ms: when something moved last, loop ms, None where nobody
    knows; upstream, peer: their names; datagrams: from and to the client, where they are counted
    """

    state: str
    active_ms: int | None = None
    upstream: str | None = None
    peer: str | None = None
    datagrams: tuple[int, int] | None = None


class UnsendableError(Exception):
    """nothing can be sent there any more"""


class Content:
    """A relay, a text being returned, a handshake: each kind is a class of its own."""

    __slots__ = ()

    s: Session

    def close(self) -> None:
        """Let go of everything; called once, from finalize(), before the log phase."""
        raise NotImplementedError

    def on_fault(self) -> None:
        """End the session after an exception nobody expected."""
        self.s.finalize(INTERNAL_SERVER_ERROR)

    def ending(self) -> Ending:
        """Return how its session ends with status 200 where nothing else was told."""
        return endings.CLOSED

    def count_live(self) -> None:
        """Count what it has done so far, where it counts anything; called once a second."""

    def look_at_server(self) -> None:
        """See whether its server is withdrawn; called when one of some group was."""

    def send_to_client(self, data: bytes, most: int) -> bool:
        """Send what a script wants the client to get besides what the content sends.

        Args: data: bytes, or one datagram; most: how many bytes may wait to be sent. Returns: False
        where the content sends nothing, so that whoever asks may do so himself. Raises: BufferError
        where more would wait; UnsendableError
        """
        return False

    def send_to_upstream(self, data: bytes, most: int) -> bool:
        """Do the same towards the upstream server; False where there is none."""
        return False

    def log_suffix(self) -> str:
        """Return what the content adds to the context of an error_log line."""
        return ""

    def counts(self) -> tuple[int, int, int, int]:
        """Return bytes from and to the client, from and to the upstream."""
        return self.s.c.received, self.s.c.sent, 0, 0

    def shown(self) -> Shown:
        """Return what is to be told of it."""
        return Shown(SERVING)

    # -- giving way to a new client (event/eviction.py) --------------------------------------------

    @property
    def active_ms(self) -> int | None:
        """When something moved last, loop ms; None for what never gives way."""
        return None

    @property
    def conversing(self) -> bool:
        """Whether both sides have spoken more than once: no forged source does."""
        return False

    def give_way(self) -> None:
        """End for the sake of a new client; called where active_ms is some time ago."""
        raise NotImplementedError

    # -- changing hands ------------------------------------------------------------------------

    def way(self) -> int:
        """Return which way its UDP session goes when its worker hands over."""
        return STAYS

    def waiting(self) -> list[bytes]:
        """Return, and forget, datagrams that wait to be sent: send_waiting() gets them there."""
        return []

    def pack(self) -> Packed:
        """Return what makes it what it is, but for the session's own. The sockets stay open."""
        raise NotImplementedError

    def release(self) -> None:
        """Let go of everything here but packed sockets, and end nothing."""

    def enlist(self) -> None:
        """Have the client's further datagrams come here, as they did where it came from."""
        raise NotImplementedError

    def send_waiting(self, data: bytes) -> None:
        """Send on what waiting() returned where it came from."""
        raise NotImplementedError


# takes a session up where it was left; its sockets are owned from now on. The stream block is the
# one that this process serves by, if it has one
Restore = Callable[["Session", "StreamConf | None"], Content]
# looks at what another process packed for a session of a server, and raises CodecError for what
# cannot be; the descriptors stay the caller's. True: who packed it may keep copies of them, and is
# not trusted
Read = Callable[[bytes, Sequence[int], "ServerConf", bool], Restore]


class ContentKind(NamedTuple):
    """A class of contents, as its module declares it.

    Args: name: by which it is read elsewhere; of: the class; read: None where it never moves, which
    `stays` gives the reason for; remade: slot -> why it is not packed, for one that moves
    """

    name: str
    of: type[Content]
    read: Read | None = None
    stays: str = ""
    remade: Mapping[str, str] = {}


class Kept(NamedTuple):
    """What a module keeps of a session in its ctx, under a key, and in what it takes for it.

    Args: pack: returns it as plain values (ipc/codec.py Plain), or None; unpack: takes what pack
    returned in another process, tuples for lists, and raises TypeError, ValueError, LookupError or
    CodecError for what it cannot be; stays: why it does not move, where these two are missing;
    anew: takes back what the session has counted by, as it begins again in another process and is
    counted there
    """

    key: str
    pack: Callable[[Session], Any] | None = None
    unpack: Callable[[Session, Any], None] | None = None
    stays: str = ""
    anew: Callable[[Session], None] | None = None
