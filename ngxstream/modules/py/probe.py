"""health_check py=module.function: a probe that a function makes, over a connection of its own.

The function is given a Stream, or a DatagramSocket, that is connected to the server as the checks
of its type are (port, PROXY header, TLS). The server is well when it returns nothing or True, and
not when it returns anything else, raises, or takes longer than `health_check_timeout`: then it is
cancelled. What is short here (slots, descriptors) speaks against no server.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ngxstream.core import tracebacks
from ngxstream.event import connect, libssl_facts, opening, probing, tasks
from ngxstream.modules.py import conf, faults, working
from ngxstream.scripting import context, running, streams

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.reader import Statement
    from ngxstream.event.loop import Loop
    from ngxstream.event.probing import Outcome, Target
    from ngxstream.event.tasks import Task
    from ngxstream.event.timers import Timer
    from ngxstream.modules.py.conf import Scripts
    from ngxstream.modules.py.loading import Hook
    from ngxstream.stream.core import ServerConf

SCARCE: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

Done = Callable[["Outcome"], None]


class Prober:
    """The function of one health_check."""

    __slots__ = ("hook", "scripts")

    def __init__(self, scope: Scope, st: Statement, word: str) -> None:
        """Note it; it is looked up when the block is read. Args: word: `module.function`"""
        self.hook: Hook = conf.hook(scope, st, word, 1)
        self.scripts: Scripts = conf.scripts_of(scope)

    def make(self, loop: Loop, server: ServerConf, target: Target, timeout_ms: int,
             done: Done) -> Probe:
        """Make a probe; the caller begins it."""
        return Probe(self, loop, server, target, timeout_ms, done)


class Probe:
    """One probe under way; it has the methods of event/probing.py Probing."""

    __slots__ = ("_done", "_ends_s", "_loop", "_opened", "_prober", "_server", "_target",
                 "_task", "_timeout_ms", "_timer")

    def __init__(self, prober: Prober, loop: Loop, server: ServerConf, target: Target,
                 timeout_ms: int, done: Done) -> None:
        self._prober = prober
        self._loop = loop
        self._server = server
        self._target = target
        self._timeout_ms = timeout_ms
        self._done: Done | None = done
        self._ends_s: int | None = None
        self._opened: opening.Opened | None = None
        self._task: Task | None = None
        self._timer: Timer | None = None

    def begin(self) -> None:
        """Connect and call the function, at the end of this turn."""
        loop, core, py = self._loop, self._server.core, self._server.py
        around = context.Context(
            opening.Slots(loop, None), core.resolver, core.resolver_timeout, py.buffer_size
        )
        does = working.of(self._prober.scripts, loop)
        self._task = does.task(self._connect(around), self._connected, py.time_limit, around)
        self._timer = loop.call_later(self._timeout_ms, self.on_timeout, cancelable=True)
        loop.post(self._task.start)

    async def _connect(self, around: context.Context) -> None:
        task: Task = await tasks.CurrentTask()
        target = self._target
        opened = await opening.connection(task, target, around.buffer_size, around.slots)
        if target.secure is not None:
            transport = opened.sock
            moment = libssl_facts.not_after(transport.lib, transport.pointer)
            self._ends_s = libssl_facts.seconds_of(moment)
        task.disown(opened)  # for that of the function
        self._opened = opened

    def _connected(self, task: Task) -> None:
        """Call the function; no frame of ours is between it and the time limit."""
        opened, around = self._opened, task.context
        if task.error is not None or opened is None or self._done is None:
            self._ended(task)
            return
        is_stream = self._target.kind == connect.STREAM
        given = streams.Stream(opened) if is_stream else streams.DatagramSocket(opened)
        does = working.of(self._prober.scripts, self._loop)
        limit_ms = self._server.py.time_limit
        try:
            said = does.limit.call(limit_ms, self._prober.hook.call, given)
        except BaseException as error:  # noqa: BLE001 - it speaks against the server
            self._fail(error)
            return
        coroutine = tasks.coroutine_of(said)
        if coroutine is None:
            self._take(said)
            return
        self._task = does.task(coroutine, self._ended, limit_ms, around)
        self._task.own(opened)
        self._task.start()

    def cancel(self) -> None:
        """Let go of it; done() is not called."""
        self._done = None
        self._stop()

    def on_timeout(self) -> None:
        """Say what has not come."""
        self._end(False, "no end of the probe in time" if self._opened is not None
                  else "no connection in time")

    def on_fault(self) -> None:
        """End after an exception nobody expected."""
        self._end(None, "unexpected error")

    def _ended(self, task: Task) -> None:
        if task.error is None:
            self._take(task.result)
        elif isinstance(task.error, tasks.CancelledError):
            self._end(None, "the probe was cancelled")
        else:
            self._fail(task.error)

    def _take(self, said: object) -> None:
        is_well = said is None or said is True
        what = "False" if said is False else type(said).__name__
        self._end(is_well, "well" if is_well else f"it returned {what}")

    def _fail(self, error: BaseException) -> None:
        is_ours = isinstance(error, OSError) and error.errno in SCARCE
        text = faults.said(running.limit_of(self._loop), error)
        tracebacks.forget(error)
        self._end(None if is_ours else False, text)

    def _end(self, passed: bool | None, text: str) -> None:
        done, self._done = self._done, None
        self._stop()
        if done is not None:
            done(probing.Outcome(passed, text, b"", b"", self._ends_s))

    def _stop(self) -> None:
        timer, self._timer = self._timer, None
        task, self._task = self._task, None
        if timer is not None:
            timer.cancel()
        opened, self._opened = self._opened, None
        if task is not None:
            task.cancel()
        if opened is not None:
            opened.close()
