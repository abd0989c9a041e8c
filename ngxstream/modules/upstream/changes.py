"""Changes of a group's servers at run time: one at a time, whole or not at all.

1. Who changes a group holds a lock of its own from reading the lines to publishing others. It goes
   with its holder, so a worker that dies leaves the lines as they were.
2. Rows and records that new lines need are taken first, then the state file is written, then the
   lines are published: what fails on the way is undone, and nothing has changed.
3. The disk is waited for beside the loop, and not for longer than DISK_MS; who waits for the lock
   gives up after LOCK_MS.
4. A worker that is leaving changes nothing: its lines are those of a former configuration. Nor
   does anybody once the master reads the state file for the next one, who waits for who is about to
   replace it.
"""

from __future__ import annotations

import errno
import functools
import os
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from ngxstream.core import errors, log, state_files
from ngxstream.event.offload import Offload
from ngxstream.modules.upstream import keys, names, roster, state
from ngxstream.modules.upstream.records import OWNER
from ngxstream.stream.api import ApiError

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.modules.upstream.dynamic import Group
    from ngxstream.modules.upstream.roster import Line

LOCK_MS: Final = 2000
RETRY_MS: Final = 5
DISK_MS: Final = 5000

Edit = Callable[[list["Line"]], list["Line"]]
Done = Callable[["list[Line] | ApiError"], None]


class Job(NamedTuple):
    """One change that was asked for."""

    edit: Edit
    done: Done
    until_ms: int  # when it gives up waiting for the lock


class Changes:
    """The changes of groups that this worker was asked for: `loop.get(Changes)`."""

    __slots__ = ("_loop", "_queues")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._queues: dict[Group, Queue] = {}

    def ask(self, group: Group, edit: Edit, done: Done) -> None:
        """Change a group.

        Args: edit: returns other lines, those without an id are new; raises ApiError, and is called
        again by nobody; done: called once, with the lines that are in force or what went wrong,
        before this returns where nothing has to be waited for
        """
        queue = self._queues.get(group)
        if queue is None:
            queue = self._queues[group] = Queue(group, self._loop)
        queue.ask(edit, done)

    def forget(self, groups: Iterable[Group]) -> None:
        """Let go of groups that nobody changes any more: those of a former configuration."""
        for group in groups:
            queue = self._queues.pop(group, None)
            if queue is not None:
                queue.close()


class Queue:
    """The changes of one group."""

    __slots__ = ("_busy", "_disk", "_group", "_jobs", "_loop", "_number", "_waits")

    def __init__(self, group: Group, loop: Loop) -> None:
        self._group = group
        self._loop = loop
        self._jobs: deque[Job] = deque()
        self._disk = Offload(loop)  # of its own: a disk that hangs holds up this group alone
        self._number = group.lock
        self._busy = False
        self._waits = False  # for the lock

    def ask(self, edit: Edit, done: Done) -> None:
        """See Changes.ask."""
        self._jobs.append(Job(edit, done, self._loop.now_ms + LOCK_MS))
        self._go_on()

    def close(self) -> None:
        """Give back what it has."""
        self._disk.close()

    def _go_on(self) -> None:
        """Begin what can begin."""
        while self._jobs and not self._busy and not self._waits:
            if self._loop.exiting:
                job = self._jobs.popleft()
                job.done(ApiError(503, "Unavailable", "this worker is leaving, ask again"))
            elif self._group.table.zone.lock.take(self._number):
                self._busy = True
                self._begin(self._jobs.popleft())
            elif self._loop.now_ms >= self._jobs[0].until_ms:
                job = self._jobs.popleft()
                job.done(ApiError(503, "Unavailable", "another change takes too long"))
            else:
                self._waits = True
                self._loop.call_later(RETRY_MS, self._on_timer)

    def _on_timer(self) -> None:
        self._waits = False
        self._go_on()

    def _end(self, job: Job, result: list[Line] | ApiError) -> None:
        """Let the next one begin, and tell."""
        self._busy = False
        self._group.table.zone.lock.drop(self._number)
        try:
            job.done(result)
        finally:
            if self._jobs:
                self._loop.post(self._go_on)

    def _begin(self, job: Job) -> None:
        """Make the change, but for what has to wait. The lock is held."""
        result: list[Line] | ApiError | None = ApiError(500, "InternalError", "internal error")
        try:
            result = self._change(job)
        except ApiError as error:
            result = error
        finally:
            if result is not None:
                self._end(job, result)

    def _change(self, job: Job) -> list[Line] | None:
        """Return the lines that are in force, None when the disk is waited for. Raises: ApiError"""
        group = self._group
        if group.roster.is_closed:
            raise _closed()
        group.catch_up()
        before = group.lines
        after = job.edit(before)
        if after == before:
            return before
        plan = Plan(group, before, after, self._loop.now_ms)
        path = group.conf.state
        if not path:
            plan.publish()
            return group.lines
        new, text = state_files.beside(path), state.text_of(plan.after)
        work = functools.partial(state_files.write, path, new, text, state.MODE)
        done = functools.partial(self._written, job, plan, new)
        if not self._disk.run(work, done, DISK_MS):
            done(None, OSError(errno.EBUSY, os.strerror(errno.EBUSY)))
        return None

    def _written(self, job: Job, plan: Plan, new: str, _: None,
                 error: OSError | None) -> None:
        """Go on with a change whose file is there, or is not."""
        group = self._group
        path = group.conf.state
        result: list[Line] | ApiError = ApiError(500, "InternalError", "internal error")
        try:
            if error is None and group.roster.is_closed:
                state_files.discard(new)
                plan.undo()
                result = _closed()
                return
            if error is None:
                try:
                    state_files.replace(path, new)
                except OSError as refused:
                    error = refused
            else:
                state_files.discard(new)
            if error is not None:
                plan.undo()
                to = self._loop.log
                if to.level >= log.ERR:
                    number = errors.strerror(error.errno or 0)
                    to.write(log.ERR, f'cannot write state file "{path}" {number}')
                reason = error.strerror or "unknown error"
                result = ApiError(500, "StateNotWritten", f"state file cannot be written: {reason}")
                return
            settle = functools.partial(state_files.sync, os.path.dirname(path))
            self._disk.run(settle, lambda *_: None, DISK_MS)
            plan.publish()
            result = group.lines
        finally:
            self._end(job, result)


def _closed() -> ApiError:
    return ApiError(503, "Unavailable", "another configuration is being loaded, ask again")


class Plan:
    """A change on its way: what new lines need is theirs, and they are not in force yet."""

    __slots__ = ("after", "_before", "_group", "_items", "_now_ms", "_records", "_rows")

    def __init__(self, group: Group, before: list[Line], after: list[Line], now_ms: int) -> None:
        """Take what new lines need. Raises: ApiError, and nothing is taken"""
        self._group = group
        self._now_ms = now_ms
        self._before = {line.id: line for line in before}
        self._rows: list[int] = []  # of new lines
        self._records: list[str] = []  # keys of new names
        try:
            used = {line.id for line in after} - {-1}
            self.after = [line if line.id >= 0 else self._admit(line, used) for line in after]
            self._items = [group.data_of(line) for line in self.after]
            if not group.roster.fits(self._items):
                raise self._full()
        except ApiError:
            self.undo()
            raise

    def _full(self) -> ApiError:
        text = f'upstream "{self._group.conf.name}" memory exhausted'
        return ApiError(400, "UpstreamOutOfMemory", text)

    def _admit(self, line: Line, used: set[int]) -> Line:
        """Give a new line a row, and a record if it is a name. Raises: ApiError"""
        group = self._group
        table, conf = group.table, group.conf
        spec = line.spec()
        peer = keys.mark_of(spec) if line.is_name else roster.peer_of(spec)
        nth = 0
        with table.zone.lock:
            while table.find(keys.key_of(conf, peer, nth)) in used:
                nth += 1
        try:
            digest = keys.key_of(conf, peer, nth)
            row = table.attach(peer, digest, pin=True, newcomer=conf.newcomer).row
        except errors.UnplacedError:
            raise self._full() from None
        self._rows.append(row)
        used.add(row)
        if line.is_name:
            key = names.Name(group, spec, line.nth).key
            if table.record(key) is None:
                raise self._full()
            self._records.append(key)
        return line._replace(id=row)

    def undo(self) -> None:
        """Give back what new lines were given."""
        table = self._group.table
        for key in self._records:
            record = table.record(key)
            if record is not None:
                record.cells[OWNER] = 0
        with table.zone.lock:
            for row in self._rows:
                table.release(row, self._group.conf.name)

    def publish(self) -> None:
        """Have the lines be in force, in all workers."""
        group = self._group
        table, conf = group.table, group.conf
        after = {line.id: line for line in self.after}
        gone = [line for number, line in self._before.items() if number not in after]
        with table.zone.lock:
            group.roster.put(self._items)
            for number, line in after.items():
                former = self._before.get(number)
                if former is line:
                    continue
                if former is not None and former.address != line.address and line.parent < 0:
                    peer = roster.peer_of(line.spec())
                    key = keys.key_of(conf, peer, 0)
                    table.move(number, key, line.weight, conf.newcomer)
                elif not line.is_name and not line.service:
                    table.weigh(number, line.weight)
                if line.slow_start and (former is None or is_barred(former) > is_barred(line)):
                    table.begin_slowly(number, self._now_ms)
                if line.down and not (former is not None and former.down):
                    self._drop(line, after)
            for line in gone:
                if line.parent >= 0:
                    continue
                name = group.name_of(line.id)
                if name is not None:
                    for entry in name.read():
                        table.release(entry.row, conf.name)
                    name.record.cells[OWNER] = 0
                table.release(line.id, conf.name)
        group.catch_up()


    def _drop(self, line: Line, after: dict[int, Line]) -> None:
        """Note that a server is marked down; of a name, all addresses without a line of their own.

        Under the zone's lock.
        """
        table = self._group.table
        name = self._group.name_of(line.id) if line.is_name else None
        if name is None:
            table.drop(line.id)
            return
        for entry in name.read():
            own = after.get(entry.row)
            if own is None or own.parent != line.id:
                table.drop(entry.row)


def is_barred(line: Line) -> bool:
    """Tell whether a line says that its server gets no sessions."""
    return line.down or line.drain
