"""Filters of UDP sessions: datagrams of each direction through a method, in order.

1. What comes while a coroutine is at work waits, QUEUED datagrams and py_buffer_size bytes of them;
   more are lost, and counted. So does what is left of a drain when filtered.SHARE_NS are used up,
   and what comes when the turn is (event/turn_budget.py).
2. On a reload a session goes on in another process, with a filter made anew there: it is given what
   its pack() returned, and the datagrams that were not done with.
"""

from __future__ import annotations

import inspect
from collections import deque
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ngxstream.event import filtered, turn_budget
from ngxstream.modules.py import faults, filters_results
from ngxstream.scripting import running

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ngxstream.event import tasks
    from ngxstream.modules.py.filters_results import Plan
    from ngxstream.modules.py.loading import Hook
    from ngxstream.scripting.filters import Filter
    from ngxstream.scripting.running import Running
    from ngxstream.stream.filtering import Outlet
    from ngxstream.stream.session import Session

KEY: Final = "py_filter"  # in ctx: Datagrams; Moved before there are any
QUEUED: Final = 256
STATE: Final = 1 << 16  # bytes that one session may take to another process


class Moved(NamedTuple):
    """What came with a session: its filter's state, and datagrams of both directions."""

    state: bytes | None
    up: tuple[bytes, ...]
    down: tuple[bytes, ...]


class Datagrams:
    """The filter of a UDP session. See filtering.Datagrams"""

    __slots__ = ("_filter", "_hook", "_its", "_moved", "down", "up")

    def __init__(self, hook: Hook, s: Session, made: Filter, plans: tuple[Plan, Plan],
                 outlets: tuple[Outlet, Outlet]) -> None:
        """Args: plans, outlets: of the client's datagrams, and of the server's"""
        its = self._its = running.of(s, s.server.py)
        self._hook = hook
        self._filter: Filter | None = made
        moved = s.module_ctx(KEY)
        self._moved: Moved | None = moved if isinstance(moved, Moved) else None
        s.set_module_ctx(KEY, self)
        if self._moved is not None and self._moved.state is not None:
            try:
                its.call(made.unpack, self._moved.state)
            except BaseException as error:  # noqa: BLE001 - told, and the session ends
                filters_results.fail(s, hook, error)
        self.up, self.down = (
            Way(hook, its, made, plan, outlet) if plan.has_single or plan.has_batch else None
            for plan, outlet in zip(plans, outlets, strict=True)
        )

    def go_on(self) -> None:
        """Begin with the datagrams that came with the session."""
        moved, self._moved = self._moved, None
        if moved is not None:
            for way, datagrams in ((self.up, moved.up), (self.down, moved.down)):
                if way is not None and datagrams:
                    way.give(list(datagrams))

    def pack(self) -> tuple[bytes | None, Sequence[bytes], Sequence[bytes]] | None:
        """Return what a session takes to another process, None for nothing."""
        made, s, state = self._filter, self._its.s, None
        if made is None:
            return None
        try:
            state = self._its.call(made.pack)
            if state is not None and not (isinstance(state, bytes) and len(state) <= STATE):
                raise TypeError(f"pack() returned more than {STATE} bytes, or none")
        except BaseException as error:  # noqa: BLE001 - told; the session goes on without it
            faults.tell(s, self._hook, error)
            state = None
        room = STATE - len(state or b"")
        queues: list[list[bytes]] = []
        for way in (self.up, self.down):
            kept: list[bytes] = []
            for data in () if way is None else way.not_done():
                room -= len(data)
                if room >= 0:
                    kept.append(data)
            queues.append(kept)
        up, down = queues
        return (state, up, down) if state is not None or up or down else None

    def close(self) -> None:
        """Let go of everything."""
        self._filter = None
        for way in (self.up, self.down):
            if way is not None:
                way.close()


class Way:
    """One direction. See filtering.Way"""

    __slots__ = (
        "_budget",  # TurnBudget of the loop
        "_hook",
        "_is_batch",
        "_is_calling",  # bool: a coroutine that ends now has its result returned, not sent later
        "_its",
        "_late",  # list[bytes] | None: such a result
        "_method",  # bound method, None once closed
        "_name",
        "_outlet",
        "_queue",  # deque[bytes]
        "_queued",  # int: bytes in it
        "_working",  # list[bytes]: what a coroutine is at work with
        "is_busy",
    )

    def __init__(self, hook: Hook, its: Running, made: Filter, plan: Plan, outlet: Outlet) -> None:
        self._budget = its.s.loop.get(turn_budget.TurnBudget)
        self._hook = hook
        self._its = its
        self._is_batch = plan.has_batch
        self._name = plan.batch if plan.has_batch else plan.single
        self._method: Callable[[Any], Any] | None = getattr(made, self._name)
        self._outlet: Outlet | None = outlet
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._working: list[bytes] = []
        self._is_calling = False
        self._late: list[bytes] | None = None
        self.is_busy = False

    def give(self, datagrams: list[bytes]) -> None:
        """Filter datagrams, and have what comes of them sent; now or later, in order."""
        if self.is_busy:
            self._keep(datagrams)
        elif self._budget.is_busy:  # what others' datagrams cost has used the turn up
            self.is_busy = True
            self._keep(datagrams)
            self._budget.put_off(self, self._on_turn)
        else:
            self._run(datagrams)

    def _on_turn(self) -> None:
        """Go on where the time of a turn was used up."""
        if not self._is_closed() and self._budget.let_in(self, self._on_turn):
            self._go_on()

    def _run(self, datagrams: list[bytes]) -> None:
        """Filter them now. # hot: once a client and turn"""
        begun_ns = monotonic_ns()
        try:
            if self._is_batch:
                self._all_at_once(datagrams)
            else:
                self._one_by_one(datagrams, begun_ns + filtered.SHARE_NS)
        finally:
            filtered.charge(self._budget, self, monotonic_ns() - begun_ns)

    def _all_at_once(self, datagrams: list[bytes]) -> None:
        """Call the method with all of them."""
        its = self._its
        assert self._method is not None
        try:
            made = its.call(self._method, datagrams)
        except BaseException as error:  # noqa: BLE001 - told, and the session ends
            filters_results.fail(its.s, self._hook, error)
            return
        if its.verdict is not None and not filters_results.goes_on(its):
            return
        found = self._found(made, datagrams)
        if found:
            self._outlet.send(found)  # type: ignore[union-attr]

    def _one_by_one(self, datagrams: list[bytes], until_ns: int) -> None:
        """Call the method with each of them, as long as this turn allows."""
        its = self._its
        found: list[bytes] = []
        for n, data in enumerate(datagrams, 1):
            try:
                made = its.call(self._method, data)  # type: ignore[arg-type]
            except BaseException as error:  # noqa: BLE001 - told, and the session ends
                self._send(found)
                filters_results.fail(its.s, self._hook, error)
                return
            if type(made) is bytes and its.verdict is None:
                found.append(made)
            elif made is not None or its.verdict is not None:
                self._send(found)
                if self._is_closed() or not filters_results.goes_on(its):
                    return
                found = self._found(made, [data])
                if self._is_closed():
                    return
            if self.is_busy or (n < len(datagrams) and monotonic_ns() > until_ns):
                self._send(found)
                self._keep(datagrams[n:])
                if not self.is_busy:
                    self.is_busy = True
                    its.s.loop.post(self._go_on)
                return
        self._send(found)

    def _found(self, made: Any, given: list[bytes]) -> list[bytes]:
        """Return the datagrams that a call came to so far; a coroutine may be at work then."""
        if type(made) is not list and inspect.iscoroutine(made):
            return self._await(made, given)
        try:
            return filters_results.datagrams(self._name, made, len(given))
        except (TypeError, BufferError) as error:
            filters_results.fail(self._its.s, self._hook, error)
            return []

    def _send(self, datagrams: list[bytes]) -> None:
        if datagrams and self._outlet is not None:
            self._outlet.send(datagrams)

    def _keep(self, datagrams: Sequence[bytes]) -> None:
        """Have datagrams wait, as far as there is room."""
        queue, most = self._queue, self._its.settings.buffer_size
        lost = 0
        for data in datagrams:
            if queue and (len(queue) >= QUEUED or self._queued + len(data) > most):
                lost += 1
            else:
                queue.append(data)
                self._queued += len(data)
        if lost and self._outlet is not None:
            self._outlet.lose(lost)

    def _await(self, coroutine: Any, given: list[bytes]) -> list[bytes]:
        """Run a coroutine. Returns: what came of it, if it has ended already"""
        its = self._its
        self.is_busy = self._is_calling = True
        self._working = given
        self._late = None
        try:
            its.start(coroutine, self._ended)
        except BaseException as error:  # noqa: BLE001 - told, and the session ends
            filters_results.fail(its.s, self._hook, error)
        finally:
            self._is_calling = False
        return self._take_late()

    def _take_late(self) -> list[bytes]:
        late, self._late = self._late, None
        if late is None:
            if self._its.verdict is not None:
                filters_results.goes_on(self._its)  # it ended the session, and waits
            return []
        self.is_busy = False
        self._working = []
        return late

    def _is_closed(self) -> bool:
        return self._outlet is None

    def _ended(self, task: tasks.Task) -> None:
        """Take what a coroutine has returned."""
        its = self._its
        if self._is_closed():
            return
        made: list[bytes] = []
        if task.error is not None:
            filters_results.fail(its.s, self._hook, task.error)
        elif filters_results.goes_on(its):
            try:
                made = filters_results.datagrams(self._name, task.result, len(self._working))
            except (TypeError, BufferError) as error:
                filters_results.fail(its.s, self._hook, error)
        if self._is_closed():
            return
        if self._is_calling:
            self._late = made
            return
        self._send(made)
        self._go_on()

    def _go_on(self) -> None:
        """Go on with what waits."""
        if self._outlet is None:
            return
        self.is_busy = False
        self._working = []
        waiting = list(self._queue)
        self._queue.clear()
        self._queued = 0
        if waiting:
            self._run(waiting)
        if not self.is_busy and self._outlet is not None:
            self._outlet.rest()

    def not_done(self) -> list[bytes]:
        """Return what nothing has come of yet."""
        return [*self._working, *self._queue]

    def close(self) -> None:
        """Let go of everything."""
        self._method = self._outlet = None
        self._queue.clear()
        self._working = []


def pack(s: Session) -> Any:
    """Return what a session takes to another process. See Kept"""
    held = s.module_ctx(KEY)
    if isinstance(held, Moved):  # it goes on before it was begun with
        return tuple(held)
    return held.pack() if isinstance(held, Datagrams) else None


def unpack(s: Session, packed: Any) -> None:
    """Take what another process has packed. Raises: TypeError, ValueError for what it cannot be"""
    state, up, down = packed
    if not (state is None or isinstance(state, bytes)):
        raise TypeError("no state of a filter")
    for one in (up, down):
        if not (isinstance(one, tuple) and all(isinstance(data, bytes) for data in one)):
            raise TypeError("no datagrams of a filter")
    if len(state or b"") + sum(map(len, (*up, *down))) > STATE or len(up) + len(down) > 2 * QUEUED:
        raise ValueError("more than a filter can have")
    s.set_module_ctx(KEY, Moved(state, up, down))
