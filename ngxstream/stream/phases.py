"""Phases: the order in which a session's handlers run, compiled into one flat tuple.

Answers for ngx_stream_init_phase_handlers (ngx_stream.c) and ngx_stream_core_run_phases
(ngx_stream_core_module.c).

1. Handlers of one phase run in the reverse of the modules' order (ngx_stream.c counts down);
   the log phase alone runs in their order.
2. A handler that no server of an address uses is not in that address's engine at all: what a
   session does not use costs it nothing.
3. A suspended session remembers an index into the engine of its address, nothing else.
4. A session that comes while others have used up what clients may cost in one turn of the loop
   (event/turn_budget.py) goes on in one of the next turns. UDP sessions are not deferred here: the
   first datagram is valid in this turn only, and the listener begins no sessions in such a turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from ngxstream.core.codes import AGAIN, DECLINED, DONE, ERROR, INTERNAL_SERVER_ERROR, OK
from ngxstream.core.log import ERR
from ngxstream.event.turn_budget import TurnBudget

if TYPE_CHECKING:
    from ngxstream.stream.core import ServerConf
    from ngxstream.stream.module import StreamModule
    from ngxstream.stream.session import Session

POST_ACCEPT: Final = 0
PREACCESS: Final = 1
ACCESS: Final = 2
SSL: Final = 3
PREREAD: Final = 4
CONNECT: Final = 5  # of ours: who lets a session pass its preread has no say here
CONTENT: Final = 6
LOG: Final = 7

Handler = Callable[["Session"], int]
Checker = Callable[["Session", Handler], int]
Engine = tuple[tuple[Checker, Handler, int], ...]


def compile_engine(
    modules: Iterable[StreamModule], servers: Iterable[ServerConf], preread: Checker
) -> Engine:
    """Flatten the handlers that some server of an address wants.

    Args: preread: the checker of that phase, and of the one behind it. Returns: entries (checker,
    handler, next) where `next` is the index of the following phase; the last one is always the
    content phase.
    """
    servers = tuple(servers)
    by_phase: list[list[Handler]] = [[] for _ in range(CONTENT)]
    for module in modules:
        for entry in module.handlers:
            if entry.phase < CONTENT and any(entry.wanted(server) for server in servers):
                by_phase[entry.phase].append(entry.run)
    engine: list[tuple[Checker, Handler, int]] = []
    for phase, handlers in enumerate(by_phase):
        checker = preread if phase in (PREREAD, CONNECT) else check_generic
        after = len(engine) + len(handlers)
        engine.extend((checker, handler, after) for handler in reversed(handlers))
    engine.append((check_content, run_content, len(engine)))
    return tuple(engine)


def log_handlers(
    modules: Iterable[StreamModule], servers: Iterable[ServerConf]
) -> tuple[Handler, ...]:
    """Return the handlers of the log phase that some server wants, in the modules' order."""
    servers = tuple(servers)
    return tuple(
        entry.run
        for module in modules
        for entry in module.handlers
        if entry.phase == LOG and any(entry.wanted(server) for server in servers)
    )


def run(s: Session) -> None:
    """Run a session on from where it stopped, until it waits or ends; now or in a turn to come."""
    if not s.c.is_udp:
        budget = s.loop.get(TurnBudget)
        if budget.is_busy:
            budget.put_off(s, _PutOff(s).go_on)
            return
    _run(s)


def resume(s: Session) -> None:
    """Go on with a session that a handler has had wait.

    What a UDP client has sent meanwhile goes to the content, or to the client's next session. An
    exception nobody expected ends the session: whatever woke its handler knows of none.
    """
    try:
        _resume(s)
    except Exception:  # noqa: BLE001 - the last guard, as the loop's for an event's owner
        s.loop.fault(None)
        s.finalize(INTERNAL_SERVER_ERROR)


def _resume(s: Session) -> None:
    c = s.c
    table = c.table
    if table is None:
        run(s)
        return
    kept = table.kept_for(c)
    table.go_on(c, lambda: run(s))
    if kept:
        rest = table.give(c, [memoryview(data) for data in kept])
        if rest:
            table.again(c, rest)


class _PutOff:
    """A session that goes on in a turn to come."""

    __slots__ = ("s",)

    def __init__(self, s: Session) -> None:
        self.s = s

    def go_on(self) -> None:
        """Run the session, if it has not ended meanwhile."""
        s = self.s
        if not s.status and s.loop.get(TurnBudget).let_in(s, self.go_on):
            _run(s)

    def on_fault(self) -> None:
        """End the session after an exception nobody expected."""
        self.s.finalize(INTERNAL_SERVER_ERROR)


def _run(s: Session) -> None:
    engine = s.address.engine
    while True:
        checker, handler, _ = engine[s.phase]
        if checker(s, handler) != OK:
            return


def check_generic(s: Session, handler: Handler) -> int:
    """Advance by what a handler said. Source: ngx_stream_core_generic_phase"""
    code = handler(s)
    if code == DECLINED:
        s.phase += 1
        return OK
    if code == OK:
        s.phase = s.address.engine[s.phase][2]
        return OK
    if code in (AGAIN, DONE):
        return AGAIN
    s.finalize(INTERNAL_SERVER_ERROR if code == ERROR else code)
    return DONE


def check_content(s: Session, handler: Handler) -> int:
    """Hand the session to its content handler. Source: ngx_stream_core_content_phase"""
    handler(s)
    return DONE


def run_content(s: Session) -> int:
    """Run the content handler of the session's server; without one the session is a 500."""
    handler = s.server.handler
    if handler is None:
        s.log_error(ERR, "no handler for server")  # nginx says so at debug level, and -t does not
        s.finalize(INTERNAL_SERVER_ERROR)
    else:
        handler(s)
    return DONE
