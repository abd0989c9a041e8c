"""Limits that hosts share by a store (`limit_conn_zone … store=URL` and its like).

1. No session waits for the store. A worker decides by what it knows, tells the store SYNC_MS later
   what came of each key, and is told then what all hosts had. So what passes is too much by no
   more than what came at other hosts since they told last. The store hears of it SYNC_MS later,
   and answers later: what leaked meanwhile is taken off, so that no bucket is too full.
2. While the store is away each host limits by itself: of what others had it knows what was so last,
   for as long as that counts. What came meanwhile is not told later.
3. MOST_KEYS keys are told of in one go, MOST_NOTED wait; what comes of more keys than that, or of
   one of more than MOST_KEY bytes, is of this host alone.
4. The clock of buckets and counts is the store's. A host that dies leaves counts that are void
   after COUNT_MS.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from typing import TYPE_CHECKING, Final

from ngxstream.core import log
from ngxstream.core.shm_buckets import MOST, REFUSED, UNIT
from ngxstream.event.store import LOST
from ngxstream.stream import stores
from ngxstream.wire.resp import ErrorReply, Push, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ngxstream.core.shm_buckets import BucketTable
    from ngxstream.event.loop import Loop
    from ngxstream.event.store import Store
    from ngxstream.event.timers import Timer
    from ngxstream.stream.stores import StoreConf

SYNC_MS: Final = 100
MOST_KEYS: Final = 2000
MOST_NOTED: Final = 20_000
MOST_KEY: Final = 1024  # bytes: what clients say must not fill the connection
MOST_KNOWN: Final = 200_000  # keys that others have sessions of
COUNT_MS: Final = 30_000
RENEW_MS: Final = 10_000
SAID_MS: Final = 1000  # between two lines in the log

_NOW: Final = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
"""

# KEYS: a bucket. ARGV: units that leak in a minute, thousandths that were poured in.
# Returns the level. Where nothing was poured nothing is written: of a slow rate that would be less
# than a thousandth, which is rounded away. Source: core/shm_buckets.py
POUR: Final = _NOW + """
local rate, cost = tonumber(ARGV[1]), tonumber(ARGV[2])
local was = redis.call('HMGET', KEYS[1], 'level', 'at')
local level = tonumber(was[1]) or 0
local elapsed = math.max(0, now - (tonumber(was[2]) or now))
level = math.max(0, level - math.floor(rate * elapsed / 60))
if cost == 0 then
    return level
end
level = level + cost
level = math.min(math.max(0, level), 2 ^ 50)
if level == 0 then
    redis.call('DEL', KEYS[1])
    return 0
end
redis.call('HSET', KEYS[1], 'level', string.format('%.0f', level), 'at', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.min(level * 60 / rate + 1000, 2 ^ 42)))
return level
"""

# KEYS: counts of one key by host and worker. ARGV: host, worker, count, how long it counts.
# Returns the sum of other hosts' counts.
COUNT: Final = _NOW + """
local sum = 0
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
    local count, ends = string.match(all[i + 1], '^(%d+):(%d+)$')
    if not ends or tonumber(ends) < now or tonumber(ends) > now + tonumber(ARGV[4]) then
        redis.call('HDEL', KEYS[1], all[i])
    elseif string.sub(all[i], 1, #ARGV[1]) ~= ARGV[1] then
        sum = sum + tonumber(count)
    end
end
if tonumber(ARGV[3]) > 0 then
    local ends = string.format('%.0f', now + tonumber(ARGV[4]))
    redis.call('HSET', KEYS[1], ARGV[1] .. ARGV[2], ARGV[3] .. ':' .. ends)
    redis.call('PEXPIRE', KEYS[1], ARGV[4])
else
    redis.call('HDEL', KEYS[1], ARGV[1] .. ARGV[2])
end
return sum
"""


class _Telling:
    """Tells a store by a script what came of keys, and what it answers to who asked."""

    __slots__ = ("_is_loaded", "_is_loading", "_is_over", "_prefix", "_said_ms", "_script", "_sha",
                 "_timer", "loop", "store", "what")

    def __init__(self, loop: Loop, conf: StoreConf, what: str, script: str) -> None:
        """Args: what: the kind of the zone and its name"""
        self.loop = loop
        self.what = what
        kind, _, name = what.partition(" ")
        self._prefix = stores.keys_of(conf, kind, name)
        self._script = script.encode()
        self._sha = hashlib.sha1(self._script).hexdigest().encode()
        self._timer: Timer | None = None
        self._is_loaded = False  # what is said to it is executed, or will be
        self._is_loading = False  # until it has answered
        self._is_over = False
        self._said_ms = -SAID_MS
        self.store: Store = stores.connect(loop, conf)
        self.store.listeners.append(self)
        if self.store.is_up:  # another configuration of this process has it
            self._load()

    def stop(self) -> None:
        """Tell what was not told, and no more. Idempotent."""
        if self._is_over:
            return
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        if self in self.store.listeners:
            self.store.listeners.remove(self)
        if self._is_loaded:
            self._last()
        self._is_loaded = False

    def _last(self) -> None:
        self._sync()

    def on_up(self) -> None:
        """Have the store know the script."""
        self._load()

    def on_down(self) -> None:
        """Know that it may be another store next time."""
        self._is_loaded = self._is_loading = False

    def on_push(self, _: Push) -> None:
        """Take nothing that was not asked for."""

    def _load(self) -> None:
        """Have the store know the script, in a moment where it takes no commands now."""
        if self._is_over or self._is_loading or not self.store.is_up:
            return
        self._is_loading = self.store.send((b"SCRIPT", b"LOAD", self._script), self._on_loaded)
        if self._is_loading:
            self._is_loaded = True
        else:
            self._soon()

    def _on_loaded(self, _: Reply) -> None:
        self._is_loading = False

    def _soon(self) -> None:
        """Have _sync() called in a moment."""
        if self._timer is None and not self._is_over:
            self._timer = self.loop.call_later(SYNC_MS, self._on_timer, cancelable=True)

    def _on_timer(self) -> None:
        self._timer = None
        if not self._is_loaded:
            self._load()
        self._sync()

    def _sync(self) -> None:
        raise NotImplementedError

    def _tell(self, key: bytes, *args: bytes) -> bool:
        """Tell of one key. Returns: whether that was sent"""
        done = functools.partial(self._answered, key, self.loop.now_ms)
        return self.store.send((b"EVALSHA", self._sha, b"1", self._prefix + key, *args), done)

    def _answered(self, key: bytes, asked_ms: int, reply: Reply) -> None:
        if self._is_over:
            return
        if isinstance(reply, int):
            self._learn(key, max(0, min(reply, MOST)), asked_ms)
        elif reply is not LOST:
            if isinstance(reply, ErrorReply) and reply.code == "NOSCRIPT":
                self._load()
            now_ms = self.loop.now_ms
            if now_ms - self._said_ms >= SAID_MS:
                self._said_ms = now_ms
                text = reply.text if isinstance(reply, ErrorReply) else repr(reply)[:100]
                self.loop.log.error(log.ERR, f'store "{self.store.options.text}" of {self.what} '
                                             f'says: "{text}"')

    def _learn(self, key: bytes, number: int, asked_ms: int) -> None:
        raise NotImplementedError


class SharedBuckets(_Telling):
    """The buckets of a zone in one worker. Methods: as those of a BucketTable"""

    __slots__ = ("_new", "_rate", "_table")

    def __init__(self, loop: Loop, conf: StoreConf, what: str, table: BucketTable,
                 rate: int) -> None:
        """Args: table: of this host; rate: units that leak in a minute"""
        super().__init__(loop, conf, what, POUR)
        self._table = table
        self._rate = rate
        self._new: dict[bytes, int] = {}  # what was poured and not told yet, in thousandths

    def pour(self, key: bytes, cost: int, rate: int, most: int, now_ms: int) -> int:
        """Pour into a key's bucket what comes now, unless that would be too much."""
        level = self._table.pour(key, cost, rate, most, now_ms)
        if level != REFUSED:
            self._note(key, cost)
        return level

    def pour_some(self, key: bytes, count: int, rate: int, most: int, now_ms: int) -> int:
        """Pour in as many units of `count` as there is room for. Returns: how many"""
        poured = self._table.pour_some(key, count, rate, most, now_ms)
        if poured:
            self._note(key, poured * UNIT)
        return poured

    def spend(self, key: bytes, cost: int, rate: int, now_ms: int) -> int:
        """Pour in what has come already, however much that is."""
        if cost:
            self._note(key, cost)
        return self._table.spend(key, cost, rate, now_ms)

    def level(self, key: bytes, rate: int, now_ms: int) -> int:
        """Return the level of a key's bucket; nothing changes."""
        return self._table.level(key, rate, now_ms)

    @property
    def used(self) -> int:
        """How many buckets there are on this host."""
        return self._table.used

    @property
    def capacity(self) -> int:
        """How many there may be."""
        return self._table.capacity

    def _note(self, key: bytes, cost: int) -> None:
        new = self._new
        if self._is_loaded and (key in new or len(new) < MOST_NOTED) and len(key) <= MOST_KEY:
            new[key] = new.get(key, 0) + cost
            self._soon()

    def on_down(self) -> None:
        """Forget what nobody was told: each host limits by itself now."""
        super().on_down()
        self._new.clear()

    def _sync(self) -> None:
        rate = b"%d" % self._rate
        for key in list(itertools.islice(self._new, MOST_KEYS)):
            if not self._tell(key, rate, b"%d" % self._new[key]):
                break
            del self._new[key]
        if self._new:
            self._soon()

    def _learn(self, key: bytes, number: int, asked_ms: int) -> None:
        """Take over what all hosts have poured, and what this worker has not told yet."""
        now_ms = self.loop.now_ms
        leaked = self._rate * (now_ms - asked_ms + SYNC_MS) // 60
        level = number + self._new.get(key, 0) - leaked
        if level > 0:
            self._table.raise_to(key, level, self._rate, now_ms)


def _serials(_: Loop) -> Iterator[int]:
    return itertools.count()  # one process may count for several configurations


class SharedCounts(_Telling):
    """How many sessions of a key go on at other hosts, as one worker knows it."""

    __slots__ = ("_changed", "_host", "_others", "_own", "_renewing", "_worker")

    def __init__(self, loop: Loop, conf: StoreConf, what: str, host: bytes) -> None:
        """Args: host: what its counts are known by, the same for all of its workers"""
        super().__init__(loop, conf, what, COUNT)
        self._host = host + b":"
        self._worker = b"%d.%d" % (loop.pid, next(loop.get(_serials)))
        self._own: dict[bytes, int] = {}  # sessions of this worker
        self._others: dict[bytes, tuple[int, int]] = {}  # others' sum, and until when it counts
        self._changed: dict[bytes, None] = {}
        self._renewing: Timer
        self._renew()

    def _last(self) -> None:
        """Tell that there are no sessions here any more."""
        self._changed.update(dict.fromkeys(self._own))
        self._own.clear()
        while self._changed and self.store.is_up:
            before = len(self._changed)
            self._sync()
            if len(self._changed) == before:
                break

    def stop(self) -> None:
        """Tell what was not told, and no more. Idempotent."""
        self._renewing.cancel()
        super().stop()

    def elsewhere(self, key: bytes) -> int:
        """Return how many sessions of a key other hosts have."""
        count, until_ms = self._others.get(key, (0, 0))
        return count if until_ms > self.loop.now_ms else 0

    def began(self, key: bytes) -> None:
        """Count one more session here."""
        self._own[key] = self._own.get(key, 0) + 1
        self.look(key)

    def ended(self, key: bytes) -> None:
        """Count one less."""
        left = self._own.get(key, 0) - 1
        if left > 0:
            self._own[key] = left
        else:
            self._own.pop(key, None)
        self.look(key)

    def look(self, key: bytes) -> None:
        """Have the store asked of a key."""
        if self._is_loaded and len(self._changed) < MOST_NOTED:
            self._changed[key] = None
            self._soon()

    def on_up(self) -> None:
        """Tell of all sessions that there are."""
        super().on_up()
        self._all()

    def on_down(self) -> None:
        """Tell nothing until the store is back."""
        super().on_down()
        self._changed.clear()

    def _all(self) -> None:
        for key in self._own:
            self.look(key)

    def _renew(self) -> None:
        """Say again what still is, and forget what is not."""
        now_ms = self.loop.now_ms
        self._others = {key: one for key, one in self._others.items() if one[1] > now_ms}
        self._all()
        self._renewing = self.loop.call_later(RENEW_MS, self._renew, cancelable=True)

    def _sync(self) -> None:
        changed = self._changed
        for key in list(itertools.islice(changed, MOST_KEYS)):
            count = b"%d" % self._own.get(key, 0)
            if not self._tell(key, self._host, self._worker, count, b"%d" % COUNT_MS):
                break
            del changed[key]
        if changed:
            self._soon()

    def _learn(self, key: bytes, number: int, asked_ms: int) -> None:
        if number <= 0:
            self._others.pop(key, None)
        elif key in self._others or len(self._others) < MOST_KNOWN:
            self._others[key] = number, self.loop.now_ms + COUNT_MS
