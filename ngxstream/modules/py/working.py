"""What a process that serves does for the modules of a user, beside its sessions.

1. When it begins: the namespace is installed for imports at run time, the cyclic collector is on
   (garbage.py), `on_load()` of each module is called,
   then the functions of py_periodic.
2. `on_load()` takes no argument and may be async; `on_unload()` is a plain function. Each is called
   once in each worker, within a limit of LOAD_MS or `py_time_limit`, whichever is more. What one
   raises is a line in the log, and the worker serves on.
3. A new worker knows the functions of former configurations, whose UDP sessions it may take over:
   their on_load() is called when the first of these sessions is here, their periodics never.
4. When it ends, or in one process when its last session has ended: tasks are cancelled, on_unload()
   is called.
5. What Python prints by itself, of a coroutine that nobody awaited or an exception in __del__, is a
   line in the log.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import escape, log, tracebacks
from ngxstream.event import opening, tasks, time_limit
from ngxstream.modules.py import faults, garbage, loading, periodic
from ngxstream.scripting import context, process, running

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.event.tasks import Task
    from ngxstream.modules.py.conf import Scripts
    from ngxstream.scripting.context import Context

LOAD_MS: Final = 1000  # no session waits when a worker begins


class Working:
    """What one process does for the modules of one configuration."""

    __slots__ = ("is_current", "limit", "loop", "periodics", "scripts", "tasks")

    def __init__(self, scripts: Scripts, loop: Loop, *, is_current: bool) -> None:
        """Begin. Args: is_current: the configuration is the one that serves, no former one"""
        self.scripts = scripts
        self.loop = loop
        self.is_current = is_current
        self.limit: time_limit.TimeLimit = loop.get(time_limit.TimeLimit)
        self.tasks: set[Task] = set()
        self.periodics: list[periodic.Periodic] = []
        scripts.worker = self
        for module in scripts.modules:
            self._call_load(getattr(module, "on_load", None), f"{module.__name__}.on_load")
        if is_current:
            self.periodics = [
                periodic.Periodic(self, one) for one in scripts.periodics
                if not one.workers or loop.worker < one.workers
            ]

    def log(self, level: int, message: str) -> None:
        """Write a line that belongs to no session."""
        if level <= self.loop.log.level:
            self.loop.log.write(level, message)

    def task(self, coroutine: Coroutine[Any, Any, Any], done: Callable[[Task], None],
             limit_ms: int, around: Context | None = None) -> Task:
        """Make a task that ends with the process at the latest; the caller starts it.

        Args: around: what it has around it, by default the block's resolver and free slots
        """

        def ended(task: Task) -> None:
            self.tasks.discard(task)
            done(task)

        limit = self.limit

        def run(function: Callable[..., Any], *args: Any) -> Any:
            return limit.call(limit_ms, function, *args)

        around = around or context.Context(
            opening.Slots(self.loop, None), self.scripts.resolver, self.scripts.resolver_timeout
        )
        task = tasks.Task(self.loop, coroutine, ended, run, around)
        self.tasks.add(task)
        return task

    def _call_load(self, function: Any, word: str) -> None:
        if not callable(function):
            return
        limit_ms = max(LOAD_MS, self.scripts.time_limit)
        try:
            with loading.guarded(may_thread=True):
                said = self.limit.call(limit_ms, function)
        except BaseException as error:  # noqa: BLE001 - told
            faults.tell_of(self, word, error)
            return
        coroutine = tasks.coroutine_of(said)
        if coroutine is not None:

            def done(task: Task) -> None:
                if task.error is not None and not isinstance(task.error, tasks.CancelledError):
                    faults.tell_of(self, word, task.error)

            self.task(coroutine, done, self.scripts.time_limit).start()

    def retire(self) -> None:
        """Begin nothing new: other workers serve, or another configuration does."""
        for one in self.periodics:
            one.stop()
        self.periodics = []

    def stop(self) -> None:
        """End all that runs, and tell the modules."""
        self.retire()
        self.loop.call_all(task.cancel for task in tuple(self.tasks))
        for s in tuple(self.loop.sessions):  # a worker that is told to leave now drops them
            its = s.module_ctx(running.KEY)
            if its is not None and its.settings.scripts is self.scripts:
                its.cancel()
        limit_ms = max(LOAD_MS, self.scripts.time_limit)
        for module in reversed(self.scripts.modules):
            function = getattr(module, "on_unload", None)
            if callable(function):
                try:
                    said = tasks.coroutine_of(self.limit.call(limit_ms, function))
                    if said is not None:
                        said.close()
                        raise TypeError("on_unload() must be a plain function")
                except BaseException as error:  # noqa: BLE001 - told
                    faults.tell_of(self, f"{module.__name__}.on_unload", error)
        self.scripts.worker = None


def begin(scripts: Scripts, loop: Loop) -> None:
    """Begin to serve by a configuration with functions."""
    process.serve(process.SINGLE if loop.is_single else process.WORKER, loop.worker, loop.workers)
    scripts.namespace.install()
    loop.get(garbage.Garbage)
    _Told(loop.log).take()
    Working(scripts, loop, is_current=True)


def of(scripts: Scripts, loop: Loop) -> Working:
    """Return what the process does for a configuration, which a former one begins when asked."""
    return scripts.worker or Working(scripts, loop, is_current=False)


class _Told:
    """Writes what Python says by itself to the error log, one line each."""

    __slots__ = ("_log",)

    def __init__(self, to: log.Log) -> None:
        self._log = to

    def take(self) -> None:
        """Have it told here from now on."""
        sys.unraisablehook = self.unraisable
        warnings.showwarning = self.warning

    def unraisable(self, what: Any) -> None:
        """Tell of an exception where there is nobody to raise it to."""
        error = what.exc_value
        said = what.exc_type.__name__ if error is None else loading.described(error)
        self._write(log.ERR, f"{said} (in a finalizer)")
        if error is not None:
            tracebacks.forget(error)

    def warning(self, message: Warning | str, category: type[Warning], filename: str, lineno: int,
                file: Any = None, line: str | None = None) -> None:
        """Tell of a warning."""
        self._write(log.WARN, f"{category.__name__}: {message} in {filename}:{lineno}")

    def _write(self, level: int, text: str) -> None:
        if level <= self._log.level:
            self._log.write(level, escape.shown(text[: loading.MOST_TEXT]))
