"""py_periodic: a function that workers call again and again.

1. It is called for the first time when the worker begins to serve, after a random part of `jitter`
   where one is given, and then every `interval`, plus such a part. It takes no arguments.
2. One that has not ended when its time comes goes on; it is not called a second time beside itself
   (one line says so). njs would end it.
3. A worker that has been told to leave calls it no more. What still runs is cancelled when the
   worker ends, so that its `finally` blocks run.
4. A worker that takes the place of one that died goes on under its number. After a reload the new
   workers call the new function, while old ones finish their sessions.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

from ngxstream.conf import directive as d
from ngxstream.conf import units
from ngxstream.core import errors, log
from ngxstream.event import tasks
from ngxstream.modules.py import conf, faults, loading

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.event.tasks import Task
    from ngxstream.modules.py.conf import PeriodicConf
    from ngxstream.modules.py.working import Working

SHORTEST_MS: Final = 10  # what the timers of the loop tell apart


class Periodic:
    """One function in one worker."""

    __slots__ = ("_is_told", "_task", "_timer", "conf", "working")

    def __init__(self, working: Working, its: PeriodicConf) -> None:
        self.working = working
        self.conf = its
        self._task: Task | None = None
        self._is_told = False  # that it takes too long
        self._timer: Any = None
        self._wait(0)

    def _wait(self, delay_ms: int) -> None:
        jitter_ms = random.randint(0, self.conf.jitter)
        self._timer = self.working.loop.call_later(
            delay_ms + jitter_ms, self.on_timeout, cancelable=True
        )

    def on_timeout(self) -> None:
        """Call the function, unless it still runs."""
        if self.working.loop.exiting:
            return
        self._wait(self.conf.interval)
        if self._task is not None:
            if not self._is_told:
                self._is_told = True
                self.working.log(log.WARN, f'py_periodic "{self.conf.hook.word}" still runs when '
                                           "it is to be called again")
            return
        self._is_told = False
        working, hook = self.working, self.conf.hook
        try:
            said = working.limit.call(self.conf.time_limit, hook.call)
        except BaseException as error:  # noqa: BLE001 - told
            faults.tell_of(working, hook.word, error)
            return
        coroutine = tasks.coroutine_of(said)
        if coroutine is not None:
            self._task = working.task(coroutine, self._ended, self.conf.time_limit)
            self._task.start()

    def _ended(self, task: Task) -> None:
        self._task = None
        if task.error is not None and not isinstance(task.error, tasks.CancelledError):
            faults.tell_of(self.working, self.conf.hook.word, task.error)

    def stop(self) -> None:
        """Call it no more; what runs goes on."""
        self._timer.cancel()


def _periodic(scope: Scope, module: Module, st: Statement) -> None:
    """Read `py_periodic module.function [interval=time] [jitter=time] [workers=all|one|number]`."""
    hook = loading.Hook(st.directive, st.args[0], 0, st.file, st.line)
    made = conf.PeriodicConf(hook, scope)
    seen: set[str] = set()
    for word in st.args[1:]:
        name, _, value = word.partition("=")
        if name in seen or name not in ("interval", "jitter", "workers"):
            raise errors.ConfError(f'invalid parameter "{word}"')
        seen.add(name)
        if name == "workers":
            made.workers = _workers(word, value)
            continue
        try:
            time = units.parse_time_msec(value)
        except ValueError:
            raise errors.ConfError(f'invalid parameter "{word}"') from None
        if name == "interval" and time < SHORTEST_MS:
            raise errors.ConfError(f'"interval" must be {SHORTEST_MS}ms or more')
        setattr(made, name, time)
    scripts = conf.scripts_of(scope)
    scripts.hooks.append((hook, scope))
    scripts.periodics.append(made)


def _workers(word: str, value: str) -> int:
    if value in ("all", "one"):
        return int(value == "one")
    if not value.isascii() or not value.isdigit() or not int(value):
        raise errors.ConfError(f'invalid parameter "{word}"')
    return int(value)


DIRECTIVES: Final = (
    d.Directive("py_periodic", conf.BOTH, d.ONE_MORE, _periodic,
                "A function that workers call again and again.", extension=True),
)
