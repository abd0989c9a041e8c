"""py_access: a function that lets a client in or turns it away, in the access phase.

The function is called once. What it says by allow(), decline() or deny() is done when it returns,
or when its coroutine has ended; one that says nothing declines. An exception ends the session with
status 500, and so does a value that it returns: nobody is let in because a function failed.

A server that is selected by name (TLS, ssl_preread) behind this phase has its own function asked
then, after that of the default server; the session waits for its coroutine there.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from ngxstream.conf import directive as d
from ngxstream.core import codes, log
from ngxstream.event import tasks
from ngxstream.modules.py import conf, faults
from ngxstream.scripting import running
from ngxstream.stream import phases
from ngxstream.stream.content import Kept
from ngxstream.stream.explaining import Answer
from ngxstream.stream.module import PhaseHandler

if TYPE_CHECKING:
    from ngxstream.event.tasks import Task
    from ngxstream.modules.py.conf import PyConf
    from ngxstream.modules.py.loading import Hook
    from ngxstream.scripting.running import Running
    from ngxstream.stream.core import ServerConf
    from ngxstream.stream.explaining import Explanation
    from ngxstream.stream.session import Session

KEY: Final = "py_access"  # in ctx: Waiting, while a coroutine is at work


class Waiting:
    """A coroutine that the access phase of a session waits for."""

    __slots__ = ("code", "hook", "s", "timer")

    def __init__(self, s: Session, hook: Hook, timeout_ms: int) -> None:
        self.s = s
        self.hook = hook
        self.code: int | None = None  # what it said, once it has ended
        self.timer = s.loop.call_later(timeout_ms, self.on_timeout)
        s.add_cleanup(self.timer.cancel)

    def ended(self, task: Task) -> None:
        """Take what the coroutine said, and go on with the phase."""
        s, error = self.s, task.error
        self.timer.cancel()
        if s.status:  # cancelled with the session; what it raised instead is told
            if error is not None and not isinstance(error, tasks.CancelledError):
                faults.tell(s, self.hook, error)
            return
        self.code = _code_of(running.of(s, s.server.py), self.hook, task.result, error)
        if s.module_ctx(KEY) is self:  # otherwise it has ended within the first call
            phases.resume(s)

    def on_timeout(self) -> None:
        """End the session: the coroutine waits too long."""
        s = self.s
        s.log_error(log.ERR, f'"{self.hook.word}" timed out', errno.ETIMEDOUT)
        s.finalize(codes.INTERNAL_SERVER_ERROR)

    def on_fault(self) -> None:
        """End the session after an exception nobody expected."""
        self.s.finalize(codes.INTERNAL_SERVER_ERROR)


def handle(s: Session) -> int:
    """Call the function, or take what its coroutine has said. # hot: once a session"""
    waiting: Waiting | None = s.module_ctx(KEY)
    if waiting is not None:
        if waiting.code is None:
            return codes.AGAIN
        s.set_module_ctx(KEY, None)
        return waiting.code
    settings: PyConf = s.server.py
    hook: Hook | None = settings.access
    if hook is None:  # another server of the address has one
        return codes.DECLINED
    s.action = "running py_access"
    its = running.of(s, settings)
    try:
        said = its.ask(hook.call, its.session)
    except BaseException as error:  # noqa: BLE001 - told, and the session ends
        return _code_of(its, hook, None, error)
    if said is None and its.verdict is None:  # the usual: it has only looked
        return codes.DECLINED
    coroutine = tasks.coroutine_of(said)
    if coroutine is None:
        return _code_of(its, hook, said, None)
    waiting = Waiting(s, hook, settings.timeout)
    its.start(coroutine, waiting.ended)
    if waiting.code is not None:
        return waiting.code
    if not s.status:
        s.set_module_ctx(KEY, waiting)
    return codes.AGAIN


def _code_of(its: Running, hook: Hook, said: object, error: BaseException | None) -> int:
    """Return what becomes of a session whose function has returned, or raised.

    One that returns something may mean a verdict by it: nobody is let in on a misunderstanding.
    """
    verdict = its.take_verdict()
    if error is None and said is not None:
        error = TypeError(f"it returned {type(said).__name__}, and says what it means by allow(), "
                          "deny() or decline() alone")
    if error is not None:
        return faults.failed(its.s, hook, error)
    return codes.DECLINED if verdict is None else verdict


def _is_wanted(server: ServerConf) -> bool:
    return server.py.access is not None


def _explain(s: Session, explanation: Explanation) -> Answer:
    """Say which function would be called; it is not."""
    hook: Any = s.server.py.access
    if hook is None:
        return Answer(codes.DECLINED, "no function")
    return Answer(codes.DECLINED, f"{hook.word} would be called, which nobody can foresee")


DIRECTIVES: Final = (
    d.Directive("py_access", conf.BOTH, d.TAKE1, conf.hook_setter("access"),
                "A function that lets clients in or turns them away.", extension=True),
)
HANDLERS: Final = (PhaseHandler(phases.ACCESS, handle, _is_wanted, again=True),)
KEEPS: Final = (Kept(KEY, stays="a session moves behind all phases"),)
EXPLAINS: Final = ((handle, _explain),)
