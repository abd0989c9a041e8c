"""Pairs of a zone that are kept in a store (`keyval_zone … store=URL`).

1. Each host has a copy of all pairs in the zone's memory, and looks up in that alone: no session
   waits for the store, and while it is away the pairs are those that were known last.
2. One worker of a host copies, by a lease (core/shm_replica.py). It reads all pairs when the store
   takes commands, and then those that the server says have changed (CLIENT TRACKING with BCAST).
   It reads such a pair at once, and again AGAIN_MS later: what another worker entered meanwhile
   may have been older.
3. A change by the API goes to the store first, from whichever worker was asked. It is in this
   host's copy before the answer, and in the others' when their copier has heard of it. Without the
   store there is no change.
4. A pair is a string of the store, `PREFIX:keyval:ZONE:KEY`, with the time to live of the pair. So
   other programs can read and set them.

Source: Redis, "Client-side caching in Redis", broadcasting mode
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import log, shm
from ngxstream.core.shm_keyval import MAX_VALUE, NEVER_MS, FullError
from ngxstream.core.shm_replica import ReplicaStore
from ngxstream.event.slices import Slices
from ngxstream.event.store import LOST
from ngxstream.stream import stores
from ngxstream.wire.resp import ErrorReply, Push, Reply

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.event.store import Store
    from ngxstream.event.timers import Timer
    from ngxstream.stream.keyval_zone import KeyvalZone
    from ngxstream.stream.stores import StoreConf

LOOK_MS: Final = 1000  # at least so often the lease is extended
AGAIN_MS: Final = 2000
AT_ONCE: Final = 16  # keys of one MGET: their values are no longer than a reply may be
ON_WAY: Final = 8  # such commands that wait for a reply
SCANNED: Final = b"256"  # keys that the server looks at for one SCAN
SWEPT: Final = 64  # pairs looked at in a slice
LONGEST_MS: Final = 1 << 50  # of a time to live
UNREAD: Final = "cannot be read: "

Answered = Callable[[Reply], None]


def pattern_of(prefix: bytes) -> bytes:
    """Return the pattern of SCAN that fits what begins so."""
    escaped = b"".join(b"\\" + bytes((byte,)) if byte in b"*?[]^\\" else bytes((byte,))
                       for byte in prefix)
    return escaped + b"*"


class Sharing:
    """One zone's pairs in one worker."""

    __slots__ = (
        "is_copying",  # bool: this worker copies
        "loop",
        "number",  # int: of the configuration
        "prefix",  # bytes
        "store",  # Store
        "zone",
        "_cursor",  # bytes | None: where SCAN goes on, b"0" once it is through
        "_is_behind",  # bool: the store did not do what was asked; all pairs are to be read again
        "_again",  # dict[bytes, int]: keys that are read once more, and when
        "_due",  # dict[bytes, None]: keys that are to be read
        "_on_way",  # int: commands that read pairs
        "_round",  # int: which reading of all pairs this is; what belongs to another is dropped
        "_seen",  # set[bytes] | None: keys that the store has, while all are read
        "_timer",
        "_told",  # set[str]: why pairs are not taken, as far as that was said
    )

    def __init__(self, loop: Loop, zone: KeyvalZone, conf: StoreConf, number: int) -> None:
        self.loop = loop
        self.zone = zone
        self.number = number
        self.prefix = stores.keys_of(conf, "keyval", zone.name)
        self.store: Store = stores.connect(loop, conf)
        self.store.listeners.append(self)
        self.is_copying = False
        self._again: dict[bytes, int] = {}
        self._cursor: bytes | None = None
        self._due: dict[bytes, None] = {}
        self._is_behind = False
        self._told: set[str] = set()
        self._on_way = 0
        self._round = 0
        self._seen: set[bytes] | None = None
        self._timer: Timer | None = None
        self._look()

    def stop(self) -> None:
        """Leave the copying to others."""
        if self._timer is not None:
            self._timer.cancel()
        if self in self.store.listeners:
            self.store.listeners.remove(self)
        if self.is_copying:
            self.is_copying = False
            self._round += 1
            self._guarded(lambda: self._replica.release(self.loop.pid))

    @property
    def _replica(self) -> ReplicaStore:
        store = self.zone.store
        assert isinstance(store, ReplicaStore)
        return store

    # -- changes by the API --------------------------------------------------------------------

    def add(self, key: bytes, value: bytes, expire_ms: int | None, condition: bytes,
            done: Answered) -> bool:
        """Set a pair in the store, and here once that has taken it.

        Args: expire_ms: after how long it expires, None for never; condition: NX, only a new one,
        or XX, only one that is there; done: is given b"OK", None where the condition does not hold,
        an ErrorReply, or LOST
        Returns: False where the store is away, and done is not called
        """
        words: tuple[bytes, ...] = (b"SET", self._name(key), value, condition)
        if expire_ms is not None:
            words = (*words, b"PX", b"%d" % expire_ms)

        def answered(reply: Reply) -> None:
            if reply == b"OK":
                self._enter(key, value, expire_ms)
            done(reply)

        return self.store.send(words, answered)

    def expire(self, key: bytes, expire_ms: int | None, done: Answered) -> bool:
        """Have a pair expire at another time. Args: done: is given 1, or 0 for no pair; or as add()

        Returns: as add()
        """
        def answered(reply: Reply) -> None:
            if reply == 1:
                now_ms = self.loop.now_ms
                expires_ms = NEVER_MS if expire_ms is None else now_ms + expire_ms
                self._guarded(lambda: self._replica.change(key, None, expires_ms, now_ms))
            done(reply)

        name = self._name(key)
        if expire_ms is None:
            return self.store.send((b"PERSIST", name), answered)
        return self.store.send((b"PEXPIRE", name, b"%d" % expire_ms), answered)

    def remove(self, keys: Iterable[bytes], done: Answered) -> bool:
        """Remove pairs. Args: done: is given how many there were; or as add(). Returns: as add()"""
        keys = list(keys)

        def answered(reply: Reply) -> None:
            if isinstance(reply, int):
                for key in keys:
                    self._forget(key)
            done(reply)

        return self.store.send((b"UNLINK", *map(self._name, keys)), answered)

    def _name(self, key: bytes) -> bytes:
        return self.prefix + self.zone.keys.text(key).encode()

    # -- who copies ----------------------------------------------------------------------------

    def _look(self) -> None:
        """Take the lease or extend it; read again what is due."""
        now_ms = self.loop.now_ms
        has_lease = self._guarded(
            lambda: self._replica.lease(self.loop.pid, self.number, now_ms)
        )
        if has_lease and not self.is_copying:
            self.is_copying = True
            if self.store.is_up:
                self.on_up()
        elif not has_lease and self.is_copying:
            self.is_copying = False
            self._round += 1
        if self._is_behind and self.is_copying and self.store.is_up:
            self._begin()
        again = [key for key, due_ms in self._again.items() if due_ms <= now_ms]
        for key in again:
            del self._again[key]
            self._due[key] = None
        self._read()
        self._timer = self.loop.call_later(LOOK_MS, self._look, cancelable=True)

    def on_up(self) -> None:
        """Read all pairs, after the server was told to say what changes."""
        self._told.clear()
        if self.is_copying:
            self._begin()

    def _begin(self) -> None:
        self._is_behind = not self.store.send(
            (b"CLIENT", b"TRACKING", b"ON", b"BCAST", b"PREFIX", self.prefix), self._tracked
        )
        self._begin_round()

    def on_down(self) -> None:
        """Keep what is known."""
        self._round += 1
        self._cursor = None
        self._seen = None
        self._due.clear()
        self._again.clear()
        self._on_way = 0

    def on_push(self, push: Push) -> None:
        """Read what has changed; all, if the server says that everything has."""
        if not self.is_copying or push[:1] != [b"invalidate"] or len(push) != 2:
            return
        keys = push[1]
        if keys is None:
            self._told.clear()
            self._begin_round()
        elif isinstance(keys, list):
            again_ms = self.loop.now_ms + AGAIN_MS
            for key in self._note(keys):
                if key in self._again or len(self._again) < self._replica.capacity:
                    self._again[key] = again_ms
            if len(self._due) >= self._replica.capacity:  # there may have been more
                self._is_behind = True
            self._read()

    def _tracked(self, reply: Reply) -> None:
        if isinstance(reply, ErrorReply) and "overlaps with an existing" not in reply.text:
            self._failed("does not say what changes: ", reply)

    def _failed(self, text: str, reply: Reply) -> None:
        """Read all pairs again in a moment: the store did not do what was asked."""
        self._is_behind = True
        self._tell_once(text, log.ERR, _shown(reply))

    # -- reading -------------------------------------------------------------------------------

    def _begin_round(self) -> None:
        """Begin to read all pairs."""
        self._round += 1
        self._seen = set()
        self._due.clear()
        self._again.clear()
        self._on_way = 0
        self._scan(b"0")

    def _scan(self, cursor: bytes) -> None:
        self._cursor = None
        words = (b"SCAN", cursor, b"MATCH", pattern_of(self.prefix), b"COUNT", SCANNED)
        if not self.store.send(words, functools.partial(self._scanned, self._round)):
            self._is_behind = True

    def _scanned(self, number: int, reply: Reply) -> None:
        if number != self._round or reply is LOST:
            return
        match reply:
            case [bytes(cursor), [*keys]]:
                self._cursor = cursor
                self._note(keys)
                self._read()
            case _:
                self._failed(UNREAD, reply)

    def _note(self, names: list[Any]) -> list[bytes]:
        """Note that keys are to be read. Args: names: as the store has them. Returns: the keys"""
        noted: list[bytes] = []
        for name in names:
            if not isinstance(name, bytes) or not name.startswith(self.prefix):
                continue
            try:
                key = self.zone.keys.parse(name[len(self.prefix) :].decode())
            except ValueError:
                self._tell_once("has a key that is none of this zone: ", detail=f"{name[:100]!r}")
                continue
            if self._name(key) != name:
                wanted = f"{name[:100]!r} instead of {self._name(key)!r}"
                self._tell_once("has a key in a form that is not read: ", detail=wanted)
                continue
            if len(self._due) >= self._replica.capacity:
                self._tell_once("has more pairs than there is memory for", log.CRIT)
                break
            self._due[key] = None
            noted.append(key)
            if self._seen is not None and len(self._seen) < self._replica.capacity:
                self._seen.add(key)
        return noted

    def _read(self) -> None:
        """Go on with what is to be read: pairs that are due, then more keys."""
        if not self.is_copying or not self.store.is_up:
            return
        while self._due and self._on_way < ON_WAY:
            keys = list(itertools.islice(self._due, AT_ONCE))
            names = [self._name(key) for key in keys]
            times: list[Reply] = []
            for name in names:
                if not self.store.send((b"PTTL", name), times.append):
                    return
            got = functools.partial(self._got, self._round, keys, times)
            if not self.store.send((b"MGET", *names), got):
                return
            for key in keys:
                del self._due[key]
            self._on_way += 1
        if self._due or self._cursor is None:
            return
        if self._cursor != b"0":
            self._scan(self._cursor)
        elif not self._on_way:
            self._cursor = None
            self._told.discard(UNREAD)
            seen, self._seen = self._seen or set(), None
            self._sweep(self._unseen(self._round, seen))

    def _got(self, number: int, keys: list[bytes], times: list[Reply], reply: Reply) -> None:
        """Enter what was read. Args: times: that each has to live"""
        if number != self._round or reply is LOST:
            return
        self._on_way -= 1
        refused = next((one for one in times if isinstance(one, ErrorReply)), None)
        if refused or not isinstance(reply, list) or not len(keys) == len(times) == len(reply):
            self._failed(UNREAD, refused or reply)
        else:
            for key, value, time in zip(keys, reply, times, strict=True):
                if not isinstance(value, bytes) or not isinstance(time, int) or time == -2:
                    self._forget(key)
                elif len(value) > MAX_VALUE:
                    self._tell_once(f"has a value of more than {MAX_VALUE} bytes")
                else:
                    self._enter(key, value, min(time, LONGEST_MS) if time >= 0 else None)
        self._read()

    def _unseen(self, number: int, seen: set[bytes]) -> Iterator[bytes | None]:
        """Yield keys of the copy that the store has not, and now and then None."""
        for n, (key, _, _) in enumerate(self._replica.pairs(self.loop.now_ms)):
            if number != self._round:
                return
            if key not in seen:
                yield key
            if n % SWEPT == SWEPT - 1:
                yield None

    def _sweep(self, unseen: Iterator[bytes | None]) -> None:
        """Read what the store seems not to have: it may have it by now. What it has not is gone."""
        try:
            for key in unseen:
                if key is None:
                    self.loop.get(Slices).add(functools.partial(self._sweep, unseen))
                    break
                self._due[key] = None
        except shm.DAMAGE as error:
            self._damaged(error)
        self._read()

    # -- the copy ------------------------------------------------------------------------------

    def _enter(self, key: bytes, value: bytes, expire_ms: int | None) -> None:
        now_ms = self.loop.now_ms
        expires_ms = NEVER_MS if expire_ms is None else now_ms + expire_ms
        try:
            if self._replica.put(key, value, expires_ms, now_ms):
                self.zone.changed()
        except FullError:
            self._tell_once("has more than there is memory for", log.CRIT)
        except shm.DAMAGE as error:
            self._damaged(error)

    def _forget(self, key: bytes) -> None:
        if self._guarded(lambda: self._replica.remove(key, self.loop.now_ms)):
            self.zone.changed()

    def _guarded(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except shm.DAMAGE as error:
            self._damaged(error)
            return None

    def _damaged(self, error: Exception) -> None:
        text = f'keyval_zone "{self.zone.name}" is damaged: {error}'
        self.loop.log.error(log.ALERT, text)

    def _tell_once(self, text: str, level: int = log.WARN, detail: str = "") -> None:
        """Say why a pair is not taken; of many one line. Args: detail: what differs among them"""
        if text not in self._told:
            self._told.add(text)
            self._tell(level, text + detail)

    def _tell(self, level: int, text: str) -> None:
        self.loop.log.error(
            level, f'store "{self.store.options.text}" of keyval_zone "{self.zone.name}" {text}'
        )


def _shown(reply: Reply) -> str:
    return f'"{reply.text}"' if isinstance(reply, ErrorReply) else repr(reply)[:100]
