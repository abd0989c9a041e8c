"""py_preread: a function that looks at a client's first bytes or datagrams, in the preread phase.

1. A plain function is called when there are some, and again with more if it returns MORE. A
   coroutine function is called at once, and its coroutine waits by `await s.more()`.
2. While a coroutine waits for anything else the phase asks for nothing (stream/preread.py, 5).
   preread_timeout is for all of it.
3. What the function says by allow(), decline(), deny() or close() is done when it returns; one
   that says nothing declines. An exception, and anything else it returns, is a status 500.
"""

from __future__ import annotations

import inspect
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

from ngxstream.conf import directive as d
from ngxstream.core import codes
from ngxstream.event import tasks
from ngxstream.modules.py import conf, faults
from ngxstream.scripting import errors, running
from ngxstream.scripting.phases import MORE
from ngxstream.stream import phases, preread
from ngxstream.stream.content import Kept
from ngxstream.stream.explaining import Answer
from ngxstream.stream.module import PhaseHandler

if TYPE_CHECKING:
    from ngxstream.modules.py.conf import PyConf
    from ngxstream.modules.py.loading import Hook
    from ngxstream.stream.core import ServerConf
    from ngxstream.stream.explaining import Explanation
    from ngxstream.stream.session import Session

KEY: Final = "py_preread"  # in ctx: Looking; of a plain function how much it was shown


class Looking:
    """A coroutine that looks at what comes."""

    __slots__ = ("code", "is_asked", "s", "seen", "waiter")

    def __init__(self, s: Session) -> None:
        self.s = s
        self.code: int | None = None  # what it said, once it has ended
        self.is_asked = True  # by the phase, which hears what becomes of it
        self.seen = _amount(s)
        self.waiter: _More | None = None

    def more(self) -> tasks.Suspension:
        """Return what waits until more has come than was seen."""
        return _More(self)

    def ended(self, task: tasks.Task) -> None:
        """Take what the coroutine said, and go on with the phase."""
        s = self.s
        error = task.error
        if s.status:
            if error is not None:
                error.__traceback__ = None  # as faults.tell() does
            return
        hook: Hook = s.server.py.preread
        its = running.of(s, s.server.py)
        its.prereading = None
        if error is None and task.result is not None:
            error = _unexpected(task.result)
        self.code = _code_of(s, hook, error)
        if not self.is_asked:
            preread.resume(s)

    def ask(self) -> int:
        """Show the coroutine what has come. Returns: what the phase is to do"""
        s = self.s
        while self.code is None and not s.status:
            waiter = self.waiter
            if waiter is None:
                return codes.DONE
            if _amount(s) <= self.seen:
                return codes.AGAIN
            self.is_asked = True
            waiter.wake()
            self.is_asked = False
        return codes.DONE if self.code is None else self.code

    def on_want(self) -> None:
        """Have the phase read: the coroutine has begun to wait for data."""
        if self.waiter is not None and not self.s.status:
            preread.resume(self.s)


class _More(tasks.Suspension):
    """Waits for more than was seen."""

    __slots__ = ("looking", "task")

    def __init__(self, looking: Looking) -> None:
        self.looking = looking
        self.task: tasks.Task | None = None

    def begin(self, task: tasks.Task) -> None:
        """Have the phase tell of more, unless there is some. Raises: ScriptError"""
        looking = self.looking
        if looking.code is not None:
            raise errors.ScriptError("the preread phase is over")
        if looking.waiter is not None:
            raise errors.ScriptError("more() is awaited already")
        self.task = task
        looking.waiter = self
        if _amount(looking.s) > looking.seen:
            self.wake()
        elif not looking.is_asked:
            looking.s.loop.post(looking.on_want)

    def wake(self) -> None:
        """Go on: there is more."""
        task = self.task
        assert task is not None
        looking = self.looking
        looking.seen = _amount(looking.s)
        looking.waiter = None  # the task may go on in the next turn
        task.wake(self)

    def end(self) -> None:
        """Wait no more."""
        self.task = None
        if self.looking.waiter is self:
            self.looking.waiter = None


def handle(s: Session) -> int:
    """Call the function if there is something new to see, or take what its coroutine has said."""
    settings: PyConf = s.server.py
    hook = settings.preread
    if hook is None:  # another server of the address has one
        return codes.DECLINED
    state: Looking | int | None = s.module_ctx(KEY)
    if isinstance(state, Looking):
        return _settled(s, state.ask())
    s.action = "running py_preread"
    if not hook.is_async:
        amount = _amount(s)
        if amount == (state or 0):
            return codes.AGAIN
        return _call(s, hook, amount)
    return _begin(s, hook.call(running.of(s, settings).session))


def _begin(s: Session, coroutine: Coroutine[Any, Any, Any]) -> int:
    """Begin a coroutine. Returns: what the phase is to do"""
    its = running.of(s, s.server.py)
    looking = its.prereading = Looking(s)
    s.set_module_ctx(KEY, looking)
    its.start(coroutine, looking.ended)
    looking.is_asked = False
    return _settled(s, looking.ask())


def _call(s: Session, hook: Hook, amount: int) -> int:
    """Call a plain function, which may turn out to be none. Args: amount: how much it is shown"""
    its = running.of(s, s.server.py)
    result: Any = None
    error: BaseException | None = None
    try:
        result = its.ask(hook.call, its.session)
    except BaseException as raised:  # noqa: BLE001 - told, and the session ends
        error = raised
    if result is MORE:
        its.verdict = its.closing = None
        s.set_module_ctx(KEY, amount)
        return codes.AGAIN
    if inspect.iscoroutine(result):  # of a decorator, say
        return _begin(s, result)
    if result is not None:
        error = _unexpected(result)
    return _settled(s, _code_of(s, hook, error))


def _code_of(s: Session, hook: Hook, error: BaseException | None) -> int:
    """Return what becomes of a session whose function has returned, or raised."""
    if error is not None:
        faults.tell(s, hook, error)
        return codes.INTERNAL_SERVER_ERROR
    verdict = running.of(s, s.server.py).take_verdict()
    return codes.DECLINED if verdict is None else verdict


def _settled(s: Session, code: int) -> int:
    """Forget what the phase was about, if it is over. Returns: the code"""
    if code not in (codes.AGAIN, codes.DONE) and not s.status:
        s.set_module_ctx(KEY, None)
    return code


def _amount(s: Session) -> int:
    """Return how much there is to see: bytes, or datagrams."""
    return len(preread.datagrams(s)) if s.c.is_udp else len(s.preread)


def _unexpected(result: Any) -> TypeError:
    if inspect.iscoroutine(result):
        result.close()
    return TypeError(f"a py_preread function returns None or MORE, not {type(result).__name__}")


def _is_wanted(server: ServerConf) -> bool:
    return server.py.preread is not None


def _explain(s: Session, explanation: Explanation) -> Answer:
    """Say which function would be called; it is not."""
    hook: Any = s.server.py.preread
    if hook is None:
        return Answer(codes.DECLINED, "no function")
    return Answer(codes.DECLINED, f"{hook.word} would be called, which nobody can foresee")


DIRECTIVES: Final = (
    d.Directive("py_preread", conf.BOTH, d.TAKE1, conf.hook_setter("preread"),
                "A function that looks at the first bytes or datagrams of a client.",
                extension=True),
)
HANDLERS: Final = (PhaseHandler(phases.PREREAD, handle, _is_wanted),)
KEEPS: Final = (Kept(KEY, stays="a session moves behind all phases"),)
EXPLAINS: Final = ((handle, _explain),)
