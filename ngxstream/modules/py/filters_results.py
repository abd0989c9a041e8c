"""What a filter's class has of its own, and what its methods return or raise, judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import codes
from ngxstream.modules.py import faults
from ngxstream.scripting import filters as public

if TYPE_CHECKING:
    from ngxstream.modules.py.loading import Hook
    from ngxstream.scripting.filters import Filter
    from ngxstream.scripting.running import Running
    from ngxstream.stream.session import Session

BYTES: Final = (bytes, bytearray, memoryview)
# what may come of one call for datagrams, by how many it was given: some each, and some more
EACH: Final = 4
MORE: Final = 1024
_PLAIN: Final = {bytes}


@dataclass(frozen=True, slots=True)
class Plan:
    """Which methods a class of filters has of its own, for one direction."""

    single: str
    batch: str
    end: str
    has_single: bool
    has_batch: bool
    has_end: bool


def plan_of(kind: type[Filter], names: tuple[str, str, str]) -> Plan:
    """See which methods of one direction a class has. Args: names: single, batch, end"""
    single, batch, end = (getattr(kind, name) is not getattr(public.Filter, name) for name in names)
    return Plan(*names, single, batch, end)


def fail(s: Session, hook: Hook, error: BaseException) -> None:
    """End a session whose filter failed."""
    if not s.status:
        faults.tell(s, hook, error)
        s.finalize(codes.INTERNAL_SERVER_ERROR)


def goes_on(its: Running) -> bool:
    """Do what a function has said of its session. Returns: whether that goes on"""
    s = its.s
    verdict = None if its.verdict is None else its.take_verdict()
    if verdict is not None and verdict not in (codes.OK, codes.DECLINED):
        s.finalize(verdict)
    return not s.status


def are_bytes(made: object) -> bool:
    """Tell whether a method returned several pieces or datagrams."""
    return isinstance(made, (list, tuple)) and all(isinstance(one, BYTES) for one in made)


def datagrams(name: str, made: Any, given: int) -> list[bytes]:
    """Return the datagrams that a method has returned. Args: given: how many it was called with

    Raises: TypeError for what can be none, BufferError for more than may be
    """
    if type(made) is list and not set(map(type, made)) - _PLAIN:
        found = made
    elif made is None:
        found = []
    elif isinstance(made, BYTES):
        found = [bytes(made)]
    elif are_bytes(made):
        found = list(map(bytes, made))
    else:
        raise wrong(name, made)
    if len(found) > EACH * given + MORE:
        raise BufferError(f"{name}() returned {len(found)} datagrams for {given}")
    return found


def wrong(name: str, made: object) -> TypeError:
    """Return what is wrong with what a method returned."""
    if made is public.HOLD:
        return TypeError(f"{name}() cannot return HOLD")
    kind = type(made).__name__
    if isinstance(made, (list, tuple)):
        others = {type(one).__name__ for one in made if not isinstance(one, BYTES)}
        kind = f"a {kind} of {', '.join(sorted(others))}"
    return TypeError(f"{name}() returned {kind}, not bytes, None or a list of bytes")
