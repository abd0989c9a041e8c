"""py_access: who is let in, who is not, and what becomes of functions that fail or never end."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from ngxstream.event import tasks, time_limit
from tests.support.in_process import InProcess

FUNCTIONS = """
import functools, time
from ngxstream.scripting import CancelledError, Session, sleep

seen = []
sessions = []

def allow(s): s.allow()
def deny(s): s.deny()
def decline(s): s.decline()
def nothing(s): pass
def last_counts(s): s.deny(); s.allow()
def returns(s): return False
def raises(s): s.allow(); raise ValueError('no')
def exits(s): raise SystemExit(0)
def burns(s):
    s.allow()
    while True: pass
def swallows(s):
    s.allow()
    try:
        while True: pass
    except BaseException: pass
def blocks(s): time.sleep(3600)

async def a_allow(s): await sleep(0); s.allow()
async def a_deny(s): await sleep(0.001); s.deny()
async def a_at_once(s): s.deny()
async def a_nothing(s): await sleep(0)
async def a_returns(s): await sleep(0); return True
async def a_raises(s):
    s.allow()
    await sleep(0)
    raise ValueError('no')
async def a_burns(s):
    await sleep(0)
    while True: pass
async def a_never(s):
    sessions.append(s)
    try:
        await sleep(3600)
    finally:
        seen.append(s.is_ended)
async def a_refuses_to_end(s):
    while True:
        try: await sleep(3600)
        except BaseException: seen.append(1)
async def a_fails_to_end(s):
    try: await sleep(3600)
    finally: raise KeyError('late')

partial = functools.partial(a_deny)
def plain_decorator(function):
    @functools.wraps(function)
    def call(s): return function(s)
    return call
@plain_decorator
async def decorated(s): await sleep(0); s.deny()
class Deny:
    async def __call__(self, s): await sleep(0); s.deny()
instance = Deny()
"""


@pytest.fixture(autouse=True)
def no_timers() -> Iterator[None]:
    """Stop the timers of the loops that were."""
    yield
    for one in gc.get_objects():
        if type(one) is time_limit.TimeLimit:
            one.close()


def serve(folder: Path, text: str, **settings: object) -> InProcess:
    """Serve with the functions above."""
    (folder / "m.py").write_text(FUNCTIONS)
    return InProcess(f"stream {{ py_path {folder}; py_import m; py_time_limit 20ms; {text} }}",
                     **settings)


def module(served: InProcess) -> object:
    """Return the module of the configuration."""
    return served.conf.data["py"].modules[0]


IN, OUT, FAULT = 200, 403, 500


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("allow", IN), ("deny", OUT), ("decline", OUT), ("nothing", OUT), ("last_counts", IN),
        ("returns", FAULT), ("raises", FAULT), ("exits", FAULT), ("burns", FAULT),
        ("swallows", FAULT), ("blocks", FAULT),
        ("a_allow", IN), ("a_deny", OUT), ("a_at_once", OUT), ("a_nothing", OUT),
        ("a_returns", FAULT), ("a_raises", FAULT), ("a_burns", FAULT),
        ("partial", OUT), ("decorated", OUT), ("instance", OUT),
    ],
)
@pytest.mark.effect("py_access", "py_time_limit")
def test_what_a_function_says_is_done(tmp_path: Path, name: str, status: int) -> None:
    """allow() lets in past later handlers, which deny here; whatever fails lets nobody in."""
    text = f"server {{ listen 127.0.0.1:@a@; deny all; py_access m.{name}; return hi; }}"
    with serve(tmp_path, text) as served:
        assert (b"hi" if status == IN else b"") == served.read(served.connect())
        assert [status] == [s.status for s in served.sessions]
        faults = [line for level, line in served.target.lines if level == "error"
                  and f'"m.{name}" failed' in line]
        assert int(status == FAULT) == len(faults)
        assert all(" while running py_access, client: 127.0.0.1" in line for line in faults)
        assert (0, 0) == (served.loop.live, served.loop.get(tasks.Steps).depth)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises", '"m.raises" failed: ValueError: no in {file}:14'),
        ("a_raises", '"m.a_raises" failed: ValueError: no in {file}:34'),
        ("returns", ('"m.returns" failed: TypeError: it returned bool, and says what it means by '
                    "allow(), deny() or decline() alone")),
        ("burns", ('"m.burns" failed: TimeLimitError: it takes more than 20 ms of CPU time in '
                  "{file}:18")),
        ("blocks", ('"m.blocks" failed: TimeLimitError: it takes more than 200 ms of real time in '
                   "{file}:24")),
    ],
)
def test_a_fault_is_told_with_its_place(tmp_path: Path, name: str, message: str) -> None:
    """One line at level error; the traceback at level debug."""
    text = f"server {{ listen 127.0.0.1:@a@; py_access m.{name}; return hi; }}"
    with serve(tmp_path, text) as served:
        served.read(served.connect())
        told = [line for level, line in served.target.lines if level == "error"]
        assert 1 == len(told)
        # a process that waits for a processor is late by the other clock first
        late = told[0] if name == "blocks" else told[0].replace("200 ms of real", "20 ms of CPU")
        assert message.format(file=tmp_path / "m.py") in late
        assert not [line for _, line in served.target.lines if "Traceback" in line]


@pytest.mark.effect("py_timeout")
def test_one_that_waits_too_long_is_ended(tmp_path: Path) -> None:
    """py_timeout is over: status 500, `finally` blocks run, the view of the session is empty."""
    text = "server { listen 127.0.0.1:@a@; py_access m.a_never; py_timeout 20ms; return hi; }"
    with serve(tmp_path, text) as served:
        assert b"" == served.read(served.connect())
        assert [500] == [s.status for s in served.sessions]
        assert any('"m.a_never" timed out (110: ' in line for _, line in served.target.lines)
        its = module(served)
        assert [True] == its.seen
        assert its.sessions[0].is_ended
        assert 0 == served.loop.live


@pytest.mark.parametrize("name", ["a_never", "a_refuses_to_end", "a_fails_to_end"])
def test_a_session_that_is_ended_while_its_function_waits(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an operator or a shutdown: the coroutine ends with it, nothing waits any more."""
    monkeypatch.setattr("sys.unraisablehook", lambda what: None)
    text = f"server {{ listen 127.0.0.1:@a@; py_access m.{name}; return hi; }}"
    with serve(tmp_path, text) as served:
        client = served.connect()
        served.turn_until(lambda: served.sessions and served.sessions[0].module_ctx("py_access"))
        served.sessions[0].finalize(200)
        assert b"" == served.read(client)
        assert 0 == served.loop.live
        late = any("KeyError: 'late'" in line for _, line in served.target.lines)
        assert late == (name == "a_fails_to_end")
        assert served.loop.connections == served.loop.free_connections


def test_others_are_served_while_one_waits(tmp_path: Path) -> None:
    """A coroutine keeps nobody."""
    text = ("server { listen 127.0.0.1:@a@; py_access m.a_never; return a; }"
            "server { listen 127.0.0.1:@b@; py_access m.a_allow; return b; }")
    with serve(tmp_path, text) as served:
        served.connect(0)
        for _ in range(5):
            assert b"b" == served.read(served.connect(1))


def test_many_sessions_of_every_kind_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some raise, hang, wait for ever or are cancelled: slots, live things and objects are flat."""
    monkeypatch.setattr("sys.unraisablehook", lambda what: None)
    names = ("allow", "a_deny", "raises", "a_raises", "a_never", "a_refuses_to_end", "a_returns")
    text = "".join(
        f"server {{ listen 127.0.0.1:@{chr(97 + n)}@; py_access m.{name}; py_timeout 10ms; "
        "return hi; }" for n, name in enumerate(names)
    )
    with serve(tmp_path, text) as served:

        def round_of(number: int) -> int:
            gc.collect()
            gc.disable()
            try:
                for _ in range(number):
                    clients = [served.connect(n) for n in range(len(names))]
                    for client in clients:
                        served.read(client)
                        client.close()
                    served.clients.clear()
                    served.sessions.clear()
                    served.target.lines.clear()
                    module(served).sessions.clear()
                    module(served).seen.clear()
                served.turn_until(lambda: not served.loop.live)
                assert served.loop.connections == served.loop.free_connections
                assert set() == served.loop.sessions
                return gc.collect()
            finally:
                gc.enable()

        round_of(2)
        assert 0 == round_of(10)  # no cycle was left to the collector
