"""The upgrade on the fly: what two masters, the old binary's and the new one's, have to tell each
other so that UDP sessions can go from the one's workers to the other's, and back.

Answers for ngx_exec_new_binary (src/core/nginx.c); the listening sockets go as in nginx, by the
environment variable NGINX. nginx has nothing for sessions. Here:

1. The UDP clients belong to the workers of one master at a time. The new one's read nothing of
   theirs until the old one's are told to leave (WINCH, QUIT) and hand over; and the other way round
   when the upgrade is taken back (HUP to the old, QUIT to the new). TCP is accepted by both.
2. Each master tells the other the mailboxes of its workers, the addresses it listens at, and the
   texts of the configurations its sessions live by: the other one reads them as it read its own.
   A generation's number means the same configuration to both; a new binary counts from far above.
3. What modules have found out so far, and the new binary is to begin with, goes with the first
   announcement (StreamModule.hand_on): bytes that the link does not look into.
4. Messages wait in the link until the other master needs them: a master does not poll it.

The link is a pair of ports (ipc/port.py) that only the masters have: a worker closes its copy
before it gives its rights up, and each master asks the kernel whether it is the other one that
speaks. Messages of a release with another codec version are refused: its sessions begin anew here.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from ngxstream.event import inherited
from ngxstream.event import loop as loops
from ngxstream.event.listening import Listening
from ngxstream.ipc import addresses, codec, port
from ngxstream.ipc.codec import CodecError, Field, List
from ngxstream.ipc.port import Port, Speaker
from ngxstream.process import channel as channels

if TYPE_CHECKING:
    from ngxstream.core.inet import ListenKey
    from ngxstream.process.cycle import Cycle

VARIABLE: Final = "NGXSTREAM_UPGRADE"
STEP: Final = 1_000_003  # generations of a new binary count from so far above the old one's
WAIT_S: Final = 5.0  # how long a master may take to say something the other one needs
ANNOUNCE: Final = 1  # the one kind of message: an Announcement, and the mailboxes of its workers
MAX_BYTES: Final = 256 << 20  # all files of all configurations that some session lives by
MAX_WORKERS: Final = 65_536
# What Python and a service manager have put into the environment; `env` is about nginx's programs
KEPT: Final = ("PYTHON", "NOTIFY_SOCKET", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "PATH", loops.POISON)


class Record(NamedTuple):
    """One configuration some session lives by. Args: steered: the workers of each address"""

    generation: int
    texts: Mapping[str, bytes]
    steered: Mapping[ListenKey, int]


class Announcement(NamedTuple):
    """What one master tells the other.

    Args: writers: none while it has no workers; states: what modules hand on, by their names, where
    it starts the other one
    """

    pid: int
    records: tuple[Record, ...]
    keys: tuple[ListenKey, ...]
    writers: list[socket.socket]
    states: Mapping[str, bytes]


_TEXT: Final = codec.Record(
    "file", Field(1, "path", codec.Text(4096)), Field(2, "text", codec.Bytes(MAX_BYTES))
)
_STEERED: Final = codec.Record(
    "address", Field(1, "key", addresses.LISTEN_KEY),
    Field(2, "workers", codec.Int(0, MAX_WORKERS), 0),
)
_RECORD: Final = codec.Record(
    "configuration", Field(1, "generation", codec.UINT), Field(2, "texts", List(_TEXT, 1 << 20)),
    Field(3, "steered", List(_STEERED, 1 << 20), []),
)
_STATE: Final = codec.Record(
    "state", Field(1, "module", codec.Text(64)), Field(2, "data", codec.Bytes(MAX_BYTES)),
)
_ANNOUNCEMENT: Final = codec.Record(
    "announcement", Field(1, "pid", codec.PID), Field(2, "records", List(_RECORD, 65_536), []),
    Field(3, "keys", List(addresses.LISTEN_KEY, 1 << 20), []),
    Field(4, "states", List(_STATE, 256), []),
)


def record_of(cycle: Cycle) -> Record:
    """Write a configuration down."""
    texts = {file.path: file.raw for source in cycle.reading.sources for file in source.files}
    listenings = (*cycle.listenings, *cycle.lingering)
    return Record(cycle.generation, texts, {one.options.key: one.steered for one in listenings})


class Link:
    """One master's end. Nothing here blocks but `latest` where it is asked to wait."""

    __slots__ = ("_is_strange", "_port", "fault", "last")

    def __init__(self, sock: socket.socket, pid: int = 0) -> None:
        """Take an end. Args: pid: of the other master, 0 while it is not known yet"""
        speaker = Speaker.of("the other master", pid=pid)
        self._port = Port(sock, speaker, max_bytes=MAX_BYTES, max_fds=MAX_WORKERS)
        self.last: Announcement | None = None
        self.fault = ""  # why something was not understood, the last time
        self._is_strange = False  # nothing was understood so far

    @staticmethod
    def pair() -> tuple[Link, socket.socket]:
        """Return the end of this master and the one for the other."""
        ours, theirs = port.pair()
        return Link(ours), theirs

    @classmethod
    def of_environment(cls) -> Link | None:
        """Return the link to the master that started this one, if one did."""
        value = os.environ.get(VARIABLE, "")
        if not value.isdigit():
            return None
        try:
            sock = port.adopt(int(value))
            return cls(sock, port.peer_of(sock)[0])  # it may be our parent no more
        except OSError:
            return None

    @property
    def pid(self) -> int:
        """The other master, 0 while it is not known yet."""
        return self._port.speaker.pid

    def expect(self, pid: int) -> None:
        """State which process the other master is: nobody else is listened to from now on."""
        self._port.speaker = self._port.speaker._replace(pid=pid)

    def tell(
        self, cycles: Iterable[Cycle], keys: Iterable[ListenKey],
        writers: Sequence[socket.socket], states: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Send the announcement. A master that is gone, or of another version, does not get it."""
        if self._is_strange:
            return  # what it cannot read could end it
        records = [
            (one.generation, list(one.texts.items()), list(one.steered.items()))
            for one in map(record_of, cycles)
        ]
        data = _ANNOUNCEMENT.encode((os.getpid(), records, list(keys), list(states)))
        self._port.send(ANNOUNCE, data, [sock.fileno() for sock in writers])

    def latest(self, wait_s: float = 0.0, *, writers: bool = False) -> Announcement | None:
        """Return what the other master said last; with writers, the last that had some."""
        end = time.monotonic() + wait_s
        while True:
            is_open = self._receive_all()
            last = self.last
            if last is not None and (last.writers or not writers):
                return last
            left = end - time.monotonic()
            if not is_open or left <= 0:
                return None
            if self._is_strange:
                return None  # it will not be understood later
            if not channels.wait_readable([self._port.fileno()], left):
                return None

    def _receive_all(self) -> bool:
        """Take everything that was said. Returns: whether the other master is there still"""
        while True:
            try:
                message = self._port.receive()
            except BlockingIOError:
                return True
            except CodecError as error:
                self._note(error)
                continue
            except (EOFError, OSError):
                return False
            try:
                said = _understand(message)
            except CodecError as error:
                self._note(error)
                continue
            finally:
                message.close()
            self._is_strange = False
            if self.last is not None:
                for sock in self.last.writers:
                    sock.close()
                said = said._replace(states=said.states or self.last.states)
            self.last = said

    def _note(self, error: CodecError) -> None:
        self.fault = str(error)
        self._is_strange = self.last is None

    def close(self) -> None:
        """Let go of the link."""
        self._port.close()
        if self.last is not None:
            for sock in self.last.writers:
                sock.close()


def _understand(message: port.Message) -> Announcement:
    """Make an announcement of a message, its descriptors taken out. Raises: CodecError"""
    if message.kind != ANNOUNCE:
        raise CodecError(f"a message of the unknown kind {message.kind}")
    pid, records, keys, states = _ANNOUNCEMENT.decode(message.payload)
    writers: list[socket.socket] = []
    try:
        while message.fds:
            writers.append(port.writer(message.fds.pop(0)))
    except CodecError:
        for sock in writers:
            sock.close()
        raise
    return Announcement(
        pid,
        tuple(Record(number, dict(texts), dict(steered)) for number, texts, steered in records),
        tuple(keys),
        writers,
        dict(states),
    )


def execute(
    words: Sequence[str], environment: dict[str, str], listenings: Iterable[Listening],
    link: socket.socket, blocked: Iterable[int],
) -> int:
    """Start the new binary; return its process id.

    Args: words: what this program was called by; listenings: they go by the variable NGINX;
    blocked: signals that the new one is to hear. Raises: OSError. Source: ngx_exec_new_binary
    """
    listenings = list(listenings)
    environment = {
        **environment,
        inherited.VARIABLE: inherited.value_of(listenings),
        VARIABLE: str(link.fileno()),
    }
    lent = inherited.value_of(one for one in listenings if one.is_lent)
    if lent:
        environment[inherited.LENT_ON] = lent
    for name, value in os.environ.items():
        if name.startswith(KEPT):
            environment.setdefault(name, value)
    pid = os.fork()
    if pid:
        return pid
    try:
        for one in listenings:
            for sock in one.socks:
                os.set_inheritable(sock.fileno(), True)
        os.set_inheritable(link.fileno(), True)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, list(blocked))  # exec keeps the mask
        os.execve(words[0], list(words), environment)
    finally:
        os._exit(1)

