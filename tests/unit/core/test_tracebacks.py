"""What exceptions keep alive, and how it is let go of."""

from __future__ import annotations

from ngxstream.core import tracebacks


def test_an_exception_loses_its_frames_and_those_behind_it_too() -> None:
    """Also where one is behind itself."""
    try:
        try:
            raise KeyError(1)
        except KeyError as inner:
            raise ValueError(2) from inner
    except ValueError as error:
        kept = error
    cause = kept.__cause__
    assert cause is not None
    cause.__context__ = kept
    assert cause.__traceback__ is not None
    tracebacks.forget(kept)
    assert (None, None) == (kept.__traceback__, cause.__traceback__)


def test_the_frames_of_callers_are_cut_off() -> None:
    """Those above the first other one; none is left where all are callers'."""
    inside = {"__name__": "made_up"}
    exec("def f(): 1 / 0", inside)
    try:
        inside["f"]()  # type: ignore[operator]
    except ZeroDivisionError as error:
        trace = error.__traceback__
    assert trace is not None
    assert trace.tb_next is tracebacks.of_user(trace, (__name__,))
    assert tracebacks.of_user(trace, (__name__, "made_up")) is None
    assert trace is tracebacks.of_user(trace, ("made_up",))
