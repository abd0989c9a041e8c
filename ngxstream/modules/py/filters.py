"""py_filter: functions between a client and the server that its session is proxied to.

The directive, what makes a session's filter, and the two directions of a TCP session;
filters_udp.py has those of a UDP session. The proxy knows none of them but by
stream/filtering.py and event/filtered.py.

1. What `py_filter` names is called once, when the relay begins. A direction whose methods are those
   of scripting.Filter is not filtered at all.
2. A failure of any call ends its session with status 500 and one line: nothing passes a filter
   because it failed.
3. A method gets bytes of its own, and what it returns is checked before it is sent.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from ngxstream.conf import directive as d
from ngxstream.core import errors
from ngxstream.modules.py import conf, filters_results, filters_udp
from ngxstream.scripting import filters as public
from ngxstream.scripting import running
from ngxstream.stream.content import Kept

if TYPE_CHECKING:
    from collections.abc import Callable

    from ngxstream.event import tasks
    from ngxstream.event.filtered import FilteredHalf
    from ngxstream.modules.py.conf import PyConf
    from ngxstream.modules.py.filters_results import Plan
    from ngxstream.modules.py.loading import Hook
    from ngxstream.scripting.filters import Filter
    from ngxstream.stream.core import ServerConf, StreamDraft
    from ngxstream.stream.filtering import Outlet
    from ngxstream.stream.session import Session

PIECE: Final = 65_536  # bytes that a method is given at once, or py_buffer_size if that is less
_UPWARD: Final = ("from_client", "from_client_batch", "client_end")
_DOWNWARD: Final = ("from_upstream", "from_upstream_batch", "upstream_end")


class Filters:
    """What makes the filters of one server. See filtering.Filters"""

    __slots__ = ("_plans", "directive", "hook", "is_own", "settings")

    def __init__(self, settings: PyConf, *, is_own: bool) -> None:
        assert settings.filter is not None
        self.settings = settings
        self.hook: Hook = settings.filter
        self.directive = self.hook.directive
        self.is_own = is_own
        self._plans: WeakKeyDictionary[type, tuple[Plan, Plan]] = WeakKeyDictionary()

    def plans(self, made: Filter) -> tuple[Plan, Plan]:
        """Return what a filter does with bytes from the client, and from the upstream."""
        kind = type(made)
        found = self._plans.get(kind)
        if found is None:
            found = self._plans[kind] = (
                filters_results.plan_of(kind, _UPWARD), filters_results.plan_of(kind, _DOWNWARD)
            )
        return found

    def make(self, s: Session) -> Filter | None:
        """Make the filter of a session; None for none, or where that has ended the session."""
        its = running.of(s, self.settings)
        try:
            made = its.call(self.hook.call, its.session)
            if made is not None and not isinstance(made, public.Filter):
                raise TypeError(f"it returned {type(made).__name__}, not a Filter or None")
        except BaseException as error:  # noqa: BLE001 - told, and the session ends
            filters_results.fail(s, self.hook, error)
            return None
        return made if filters_results.goes_on(its) else None

    def begin_tcp(self, s: Session) -> tuple[Pieces | None, Pieces | None]:
        """Make the directions of a TCP session."""
        made = self.make(s)
        if made is None:
            return None, None
        up, down = (
            Pieces(self, s, made, plan) if plan.has_single or plan.has_batch or plan.has_end
            else None
            for plan in self.plans(made)
        )
        return up, down

    def begin_udp(self, s: Session, up: Outlet, down: Outlet) -> filters_udp.Datagrams | None:
        """Make the filter of a UDP session, None for none or where it has ended."""
        made = self.make(s)
        if made is None:
            return None
        return filters_udp.Datagrams(self.hook, s, made, self.plans(made), (up, down))


class Pieces:
    """One direction of a TCP session. See event/filtered.py Filter"""

    __slots__ = (
        "_end",  # bound method, None where held bytes are dropped
        "_half",  # FilteredHalf | None
        "_hook",
        "_is_batch",  # bool: _take is given a list
        "_is_calling",  # bool: a coroutine that ends now has its result returned, not sent later
        "_its",
        "_late",  # bytes | None: such a result
        "_name",  # of the method that was called last
        "_names",  # of the two
        "_take",  # bound method
        "held",  # bytes: to be given again
        "most",
        "room",
        "size",  # int: py_buffer_size
    )

    def __init__(self, filters: Filters, s: Session, made: Filter, plan: Plan) -> None:
        self._hook = filters.hook
        self._its = running.of(s, filters.settings)
        self._is_batch = plan.has_batch and not plan.has_single
        name = plan.batch if self._is_batch else plan.single
        self._names = (name, plan.end)
        self._name = name
        self._take: Callable[[Any], Any] | None = getattr(made, name)
        self._end: Callable[[bytes], Any] | None = (
            getattr(made, plan.end) if plan.has_end else None
        )
        self._half: FilteredHalf | None = None
        self._is_calling = False
        self._late: bytes | None = None
        self.held = b""
        self.size = filters.settings.buffer_size
        self.room = min(PIECE, self.size)
        self.most = self.size

    def begin(self, half: FilteredHalf) -> None:
        """Know the half."""
        self._half = half

    def take(self, data: bytes) -> bytes | None:
        """Call the method with what came. Returns: what is to be sent; None: it comes later"""
        if self.held:
            data = self.held + data
            self.held = b""
            self.room = min(PIECE, self.size)
        self.most = self.size + len(data)
        assert self._take is not None
        self._name = self._names[0]
        if not self._is_batch:
            return self._call(self._take, data, data)
        return self._call(self._take, [data], data)

    def end(self) -> bytes | None:
        """Call the method that is told of the end."""
        held, self.held = self.held, b""
        if self._end is None:
            return b""
        self._name = self._names[1]
        self.most = self.size + len(held)
        return self._call(self._end, held, None)

    def _call(self, method: Callable[[Any], Any], argument: Any,
              data: bytes | None) -> bytes | None:
        """Call a method. Args: data: what HOLD keeps, None where it may not"""
        its = self._its
        try:
            made = its.call(method, argument)
        except BaseException as error:  # noqa: BLE001 - told, and the session ends
            return self._fail(error)
        if its.verdict is not None and not filters_results.goes_on(its):
            return b""
        if type(made) is bytes:
            return made
        if inspect.iscoroutine(made):
            return self._await(made, data)
        return self._taken(made, data)

    def _taken(self, made: Any, data: bytes | None) -> bytes:
        """Return the bytes of what a method returned; if it can be none the session ends."""
        if made is None:
            return b""
        if isinstance(made, filters_results.BYTES):
            return bytes(made)
        if made is public.HOLD and data is not None:
            self.held = data
            self.room = min(PIECE, self.size - len(data))
            if self.room > 0:
                return b""
            return self._fail(BufferError(f"it holds {len(data)} bytes, as many as py_buffer_size"))
        if filters_results.are_bytes(made):
            return b"".join(made)
        return self._fail(filters_results.wrong(self._name, made))

    def _fail(self, error: BaseException) -> bytes:
        filters_results.fail(self._its.s, self._hook, error)
        return b""

    def _await(self, coroutine: Any, data: bytes | None) -> bytes | None:
        """Run a coroutine. Returns: what came of it; None: it waits"""
        its = self._its

        def ended(task: tasks.Task) -> None:
            self._ended(task, data)

        self._is_calling = True
        self._late = None
        try:
            its.start(coroutine, ended)
        except BaseException as error:  # noqa: BLE001 - told, and the session ends
            return self._fail(error)
        finally:
            self._is_calling = False
        late, self._late = self._late, None
        if late is None and its.verdict is not None:
            filters_results.goes_on(its)  # it ended the session, and waits
        return late

    def _ended(self, task: tasks.Task, data: bytes | None) -> None:
        """Take what a coroutine has returned."""
        its, half = self._its, self._half
        if its.s.status or half is None:
            return
        if task.error is not None:
            made = self._fail(task.error)
        else:
            made = self._taken(task.result, data) if filters_results.goes_on(its) else b""
        if self._is_calling:
            self._late = made
        else:
            half.go_on(made)

    def on_full(self, waiting: int) -> None:
        """End the session: more waits to be sent than may."""
        self._fail(BufferError(f"{waiting} bytes wait to be sent, more than py_buffer_size allows"))

    def close(self) -> None:
        """Let go of everything."""
        self._half = self._take = self._end = None
        self.held = b""


# -- the directive ---------------------------------------------------------------------------------


def check(settings: PyConf, server: ServerConf, draft: StreamDraft) -> None:
    """Have a server's sessions filtered. Raises: ConfError"""
    hook = settings.filter
    if hook is None:
        return
    if hook.is_async:
        raise errors.ConfError(
            f'"{hook.word}" is async: what "py_filter" names returns a Filter at once'
        ).at(hook.file, hook.line)
    if isinstance(hook.call, type) and not issubclass(hook.call, public.Filter):
        raise errors.ConfError(
            f'class "{hook.word}" is not derived from ngxstream.scripting.Filter'
        ).at(hook.file, hook.line)
    server.filters = Filters(settings, is_own="filter" in server.given.get(conf.NAME, {}))


DIRECTIVES: Final = (
    d.Directive("py_filter", conf.BOTH, d.TAKE1, conf.hook_setter("filter"),
                "A class or function whose filters see, change and drop what sessions carry.",
                extension=True),
)
KEEPS: Final = (
    Kept(filters_udp.KEY, filters_udp.pack, filters_udp.unpack),
    Kept(conf.NAME, stays="its functions run in the process that has it"),
)
