"""The file that keeps the pairs of a zone while nobody serves (`state=file`).

1. It is a JSON object, a pair a line: `"key": "value"`, or `"key": {"value": "…", "expires": N}`
   with N the milliseconds since 1970. An absent or an empty file is an empty zone.
2. It is read when a configuration makes the zone, by -t too; never at a reload that keeps it.
3. A worker writes it some time after it has changed the pairs, a few in each slice of the loop,
   into a file beside it that takes its place when the disk has it (core/state_files.py). A worker
   that begins, or leaves, looks whether there are changes that nobody has written.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import errors, log, shm, state_files
from ngxstream.core.shm_keyval import MAX_VALUE, NEVER_MS, FullError
from ngxstream.event.offload import Offload
from ngxstream.event.slices import Slices

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.event.loop import Loop
    from ngxstream.event.timers import Timer
    from ngxstream.stream.keyval_zone import KeyvalZone

DELAY_MS: Final = 200  # after a change
MODE: Final = 0o600
LINES: Final = 64  # written in a slice of the loop
LEAST: Final = 16 << 20  # bytes that a file may have anyway
TIMES: Final = 8  # that a file may be as long as its zone: a byte of a value is 6 at most, `\u0000`
DISK_MS: Final = 5000  # how long the disk may take

Sync = Callable[[], None]


def wall_offset_ms(now_ms: int) -> int:
    """Return what is to be added to a loop time to have the milliseconds since 1970."""
    return time.time_ns() // 1_000_000 - now_ms


# -- reading ---------------------------------------------------------------------------------------


def load(zone: KeyvalZone) -> None:
    """Enter the pairs of a zone's file into its store, which is empty. Raises: ConfError"""
    path = zone.state
    try:
        text = state_files.read(
            state_files.followed(path), max(LEAST, TIMES * zone.store.zone.size)
        )
    except OSError as error:
        raise errors.ConfError(
            f'cannot read state file "{path}"', *_place(zone), errno=error
        ) from None
    if text is None:
        return
    try:
        if text.strip():
            _enter(zone, json.loads(text.decode(), object_pairs_hook=_members))
    except json.JSONDecodeError as error:
        raise _broken(zone, f"line {error.lineno}: {error.msg}") from None
    except RecursionError:
        raise _broken(zone, "nested too deep") from None
    except ValueError as error:
        raise _broken(zone, str(error)) from None
    store = zone.store
    store.saved = store.version


def _place(zone: KeyvalZone) -> tuple[str, int]:
    assert zone.place is not None
    return zone.place


def _broken(zone: KeyvalZone, why: str) -> errors.ConfError:
    return errors.ConfError(f'invalid state file "{zone.state}": {why}', *_place(zone))


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"duplicate key {json.dumps(max(names, key=names.count))}")
    return members


def _enter(zone: KeyvalZone, pairs: object) -> None:
    if not isinstance(pairs, dict):
        raise ValueError("no object")  # noqa: TRY004 - of the file, not of a caller
    now_ms = time.monotonic_ns() // 1_000_000  # as the loops of the workers have it
    offset = wall_offset_ms(now_ms)
    for text, member in pairs.items():
        value, expires_ms = member, NEVER_MS
        if isinstance(member, dict) and member.keys() == {"value", "expires"}:
            value, expires = member["value"], member["expires"]
            if type(expires) is not int or not 0 <= expires < 1 << 60:
                raise ValueError(f"invalid time of key {json.dumps(text)}")
            expires_ms = expires - offset
        try:
            key = zone.keys.parse(text)
        except ValueError:
            raise ValueError(f"invalid key {json.dumps(text)}") from None
        if not isinstance(value, str):
            raise ValueError(f"invalid value of key {json.dumps(text)}")  # noqa: TRY004 - as above
        try:
            data = zone.value_of(value)
        except ValueError:
            raise ValueError(f"invalid value of key {json.dumps(text)}") from None
        if len(data) > MAX_VALUE:
            raise ValueError(f"value of key {json.dumps(text)} is too long")
        if expires_ms <= now_ms:
            continue
        try:
            if not zone.store.add(key, data, expires_ms, now_ms):
                raise ValueError(f"duplicate key {json.dumps(text)}")
        except FullError:
            raise ValueError(f'there is no room in zone "{zone.name}" for all of it') from None


# -- writing ---------------------------------------------------------------------------------------


class Saver:
    """What one worker writes of one zone's file."""

    __slots__ = ("loop", "zone", "_disk", "_failed", "_timer", "_version", "_writing")

    def __init__(self, loop: Loop, zone: KeyvalZone) -> None:
        self.loop = loop
        self.zone = zone
        self._disk = Offload(loop)
        self._version = -1  # which is being written
        self._failed = -1  # which could not be written
        self._timer: Timer | None = None
        self._writing: Iterator[Sync | None] | None = None

    def changed(self) -> None:
        """Have the file written soon, unless it is up to date."""
        is_new = self.zone.store.version != self._failed
        if self._timer is None and self._writing is None and is_new and self._is_due():
            self._timer = self.loop.call_later(DELAY_MS, self._on_timer, cancelable=True)

    def hurry(self) -> None:
        """Begin at once to write what is to be written: somebody may read it soon."""
        if self._timer is not None:
            self._timer.cancel()
            self._on_timer()

    def finish(self) -> None:
        """Write at once what is to be written: the worker leaves."""
        self._writing = None  # what it has written is removed with it
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_due():
            for sync in self._guarded():
                if sync is not None:
                    with contextlib.suppress(OSError):  # what can be kept is kept
                        sync()
        self._disk.close()

    def _is_due(self) -> bool:
        store = self.zone.store
        return store.saved != store.version

    def _on_timer(self) -> None:
        self._timer = None
        if self._is_due():
            self._writing = self._guarded()
            self._step()

    def _step(self) -> None:
        writing = self._writing
        if writing is None:  # finish() was faster
            return
        try:
            sync = next(writing)
        except StopIteration:
            self._writing = None
            self.changed()
            return
        if sync is None:
            self.loop.get(Slices).add(self._step)
        else:
            done = functools.partial(self._synced, writing)
            if not self._disk.run(sync, done, DISK_MS):
                done(None, OSError(errno.EBUSY, os.strerror(errno.EBUSY)))

    def _synced(self, writing: Iterator[Sync | None], _: None,
                error: OSError | None) -> None:
        """Go on when the disk has the file, or not: a name of what it has not is worth little."""
        if self._writing is not writing:  # finish() was faster
            return
        if error is None:
            self._step()
            return
        self._fail(error)
        self._writing = None
        self.changed()

    def _fail(self, error: Exception) -> None:
        """Say that it could not be written: the next change, or the next worker, tries again."""
        code = error if isinstance(error, OSError) else None
        detail = "" if code else f": {error}"
        self.loop.log.error(
            log.CRIT, f'state file "{self.zone.state}" could not be written{detail}', code
        )
        self._failed = self._version

    def _guarded(self) -> Iterator[Sync | None]:
        """Write, and say so where that fails."""
        try:
            self._version = self.zone.store.version
            yield from self._write(self._version)
        except shm.DAMAGE as error:
            self._fail(error)

    def _write(self, version: int) -> Iterator[Sync | None]:
        """Write the pairs, into a file that takes the other's place in the end.

        Yields: None where others may go on, or what is to be waited for. Raises: shm.DAMAGE
        """
        zone = self.zone
        path = os.path.realpath(zone.state)
        new = state_files.beside(path)
        done = False
        with open(state_files.create(path, new, MODE), "wb") as file:
            try:
                for lines in self._lines():
                    file.write(lines)
                    yield None
                file.flush()
                yield functools.partial(state_files.sync, new)
                with zone.store.zone.lock.soon():
                    if zone.store.saved < version:  # else another worker was later, and faster
                        state_files.replace(path, new)
                        zone.store.saved = version
                        done = True
            finally:
                if not done:
                    state_files.discard(new)

    def _lines(self) -> Iterator[bytes]:
        zone = self.zone
        now_ms = self.loop.now_ms
        offset = wall_offset_ms(now_ms)
        start = "{\n"
        lines: list[str] = []
        for key, value, expires_ms in zone.store.pairs(now_ms):
            text = json.dumps(zone.keys.text(key), ensure_ascii=False)
            shown: Any = zone.text_of(value)
            if expires_ms < NEVER_MS:
                shown = {"value": shown, "expires": expires_ms + offset}
            lines.append(f"{start}{text}: {json.dumps(shown, ensure_ascii=False)}")
            start = ",\n"
            if len(lines) == LINES:
                yield "".join(lines).encode()
                lines.clear()
        yield f"{''.join(lines)}\n}}\n".encode() if start != "{\n" else b"{}\n"


# -- what the modules of such zones do -------------------------------------------------------------


def claim(scope: Scope, path: str) -> None:
    """Note a file that workers will write. Args: path: absolute. Raises: ConfError: used twice"""
    # the servers of upstreams have such files too; the master looks whether all can be written
    states = scope.builder.data.setdefault("states", {})
    real = os.path.realpath(os.fsencode(path))
    if real in states:
        raise errors.ConfError(f'state file "{path}" is used twice')
    states[real] = path


def suspend(zones: Iterable[KeyvalZone]) -> None:
    """Change nothing that a file keeps: the master is gone, and another one reads it."""
    for zone in zones:
        zone.is_closed = bool(zone.state)
        if zone.saver is not None:
            zone.saver.hurry()


def resume(zones: Iterable[KeyvalZone]) -> None:
    """Let changes be made again."""
    for zone in zones:
        zone.is_closed = False


def start_worker(zones: Iterable[KeyvalZone], loop: Loop) -> None:
    """Have this worker write the files."""
    for zone in zones:
        if zone.state:
            zone.saver = Saver(loop, zone)
            zone.saver.changed()


def stop_worker(zones: Iterable[KeyvalZone]) -> None:
    """Write what nobody has written; the worker leaves."""
    for zone in zones:
        if zone.saver is not None:
            zone.saver.finish()
