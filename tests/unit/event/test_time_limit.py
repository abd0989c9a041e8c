"""The time a user's function may take: what is ended, what is not, and where."""

from __future__ import annotations

import itertools
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from ngxstream.core import shm, shm_keyval
from ngxstream.core.keyval_keys import KINDS
from ngxstream.event import tasks, time_limit
from ngxstream.event.time_limit import BLOCKED, TimeLimit, TimeLimitError
from tests.support.engine import engine

LIMIT_MS = 20
PLENTY_MS = 600_000
NOW = 1000
# a process that waits for a processor is late by the other clock first
OVER = f"more than ({LIMIT_MS} ms of CPU|{LIMIT_MS * BLOCKED} ms of real) time"


@pytest.fixture
def limit() -> Iterator[TimeLimit]:
    """Give the limit of a loop; no timer is left."""
    with engine() as loop:
        made = loop.get(TimeLimit)
        yield made
        made.close()
        assert (0.0, 0.0) == signal.getitimer(signal.ITIMER_PROF)
        assert (0.0, 0.0) == signal.getitimer(signal.ITIMER_REAL)


def burn() -> None:
    """Take CPU time for ever."""
    while True:
        pass


def burn_ms(milliseconds: int) -> str:
    """Take CPU time."""
    end = time.process_time() + milliseconds / 1000
    while time.process_time() < end:
        pass
    return "done"


def blocked_socket() -> None:
    """Wait for what never comes."""
    near, far = socket.socketpair()
    with near, far:
        near.recv(1)


@pytest.mark.parametrize(
    "function",
    [
        burn,
        lambda: [None for _ in iter(int, 1)],
        lambda: re.match(r"(a|aa)+$", "a" * 60 + "b"),
        lambda: pow(3, 1 << 26),
        partial(time.sleep, 3600),
        blocked_socket,
        lambda: sorted(range(10**7), key=lambda n: -n),
    ],
    ids=["loop", "comprehension", "regex", "pow", "sleep", "recv", "key function"],
)
def test_a_call_that_takes_too_long_is_ended(
    limit: TimeLimit, function: Callable[[], Any]
) -> None:
    """By the CPU clock, or where it blocks by the real one."""
    with pytest.raises(TimeLimitError, match="it takes more than"):
        limit.call(LIMIT_MS, function)
    assert (1, 0) == (limit.exceeded, limit.limit_ms)


def test_the_clock_of_what_blocks_has_another_limit(limit: TimeLimit) -> None:
    """The message says which clock it was."""
    with pytest.raises(TimeLimitError, match=OVER):
        limit.call(LIMIT_MS, burn)
    with pytest.raises(TimeLimitError, match=f"more than {LIMIT_MS * BLOCKED} ms of real time"):
        limit.call(LIMIT_MS, time.sleep, 3600)


def test_a_signal_that_interrupts_nothing_is_followed_by_another(limit: TimeLimit) -> None:
    """One that comes right before a system call that blocks is as good as lost."""
    block = time.sleep  # the call that blocks, which no test waits for

    def loses_one() -> None:
        look = signal.getsignal(signal.SIGALRM)
        signal.signal(signal.SIGALRM, lambda *_: signal.signal(signal.SIGALRM, look))
        block(LIMIT_MS * BLOCKED * 50 / 1000)

    with pytest.raises(TimeLimitError):
        limit.call(LIMIT_MS, loses_one)


def test_many_short_calls_are_not_one_long_one(limit: TimeLimit) -> None:
    """Together they take several limits, each is within its own."""
    for _ in range(40):
        assert "done" == limit.call(LIMIT_MS, burn_ms, 2)
    assert 0 == limit.exceeded


def test_a_process_that_waits_for_the_processor_is_not_ended(limit: TimeLimit) -> None:
    """What a stopped process misses is real time, not its own."""
    parent = os.getpid()
    child = os.fork()
    if child == 0:  # stop the parent for longer than its limit of CPU time
        os.kill(parent, signal.SIGSTOP)
        end = time.monotonic() + LIMIT_MS * 3 / 1000
        while time.monotonic() < end:
            pass
        os.kill(parent, signal.SIGCONT)
        os._exit(0)
    limit.call(LIMIT_MS, os.waitpid, child, 0)
    assert 0 == limit.exceeded


def test_a_shorter_limit_is_looked_after_at_once(limit: TimeLimit) -> None:
    """The timer of a call with a long one does not make it wait."""
    limit.call(PLENTY_MS, int)
    with pytest.raises(TimeLimitError):
        limit.call(LIMIT_MS, burn)


def test_a_call_within_a_call_is_part_of_it(limit: TimeLimit) -> None:
    """The outer limit counts."""

    def outer() -> None:
        limit.call(PLENTY_MS, burn)

    with pytest.raises(TimeLimitError, match=OVER):
        limit.call(LIMIT_MS, outer)


def test_the_step_of_a_coroutine_is_ended(limit: TimeLimit) -> None:
    """The task ends with the exception, its `finally` blocks run."""
    seen: list[Any] = []

    async def work() -> None:
        try:
            burn()
        except Exception:  # noqa: BLE001 - does not keep it
            seen.append("kept")
        finally:
            seen.append("finally")

    task = tasks.Task(
        limit.loop, work(), lambda task: seen.append(type(task.error)),
        lambda function, *args: limit.call(LIMIT_MS, function, *args),
    )
    task.start()
    assert ["finally", TimeLimitError] == seen
    assert 0 == limit.loop.get(tasks.Steps).depth


def test_a_call_that_swallows_the_exception_fails_when_it_returns(limit: TimeLimit) -> None:
    """What it says then is not believed; the next call is another one."""

    def swallows() -> str:
        try:
            burn()
        except BaseException:  # noqa: BLE001 - what should not be done
            return "fine"
        return "never"

    with pytest.raises(TimeLimitError, match="caught the exception"):
        limit.call(LIMIT_MS, swallows)
    assert "done" == limit.call(LIMIT_MS, burn_ms, 1)


def test_an_idle_process_is_not_woken(limit: TimeLimit) -> None:
    """Each timer looks once after the last call and rests."""
    limit.call(LIMIT_MS, int)
    for which in (signal.ITIMER_PROF, signal.ITIMER_REAL):
        while signal.getitimer(which)[0]:
            burn_ms(1)
    assert (0, 0) == (limit._cpu.set_ms, limit._real.set_ms)


@pytest.mark.parametrize("number", [signal.SIGPROF, signal.SIGALRM])
def test_signals_from_outside_do_not_shorten_a_call(limit: TimeLimit, number: int) -> None:
    """Each is one more look at the clock."""

    def is_signalled() -> str:
        for _ in range(100):
            os.kill(os.getpid(), number)
        return "done"

    os.kill(os.getpid(), number)
    assert "done" == limit.call(PLENTY_MS, is_signalled)
    os.kill(os.getpid(), number)
    assert 0 == limit.exceeded


def test_a_child_has_no_timers(limit: TimeLimit) -> None:
    """What is forked while a call runs is not limited, nor signalled."""

    def forks() -> int:
        child = os.fork()
        if child == 0:
            timers = (signal.ITIMER_PROF, signal.ITIMER_REAL)
            os._exit(sum(1 for which in timers if signal.getitimer(which)[0]))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert 0 == limit.call(PLENTY_MS, forks)


# -- the place -----------------------------------------------------------------------------------


class Places:
    """Calls a function under a tiny limit, and notes where it was ended."""

    def __init__(self, limit: TimeLimit) -> None:
        self.limit = limit
        self.files: set[str] = set()

    def hammer(self, function: Callable[[], None], times: int = 20) -> None:
        """Have it ended so many times."""
        for _ in range(times):
            with pytest.raises(TimeLimitError) as caught:
                self.limit.call(1, function)
            frames = traceback.extract_tb(caught.value.__traceback__)
            ours = [n for n, one in enumerate(frames) if one.filename == __file__]
            self.files |= {frame.filename for frame in frames[ours[-1] + 1 : -1]}
            assert time_limit.__file__ == frames[-1].filename  # the handler's own


def test_it_is_never_raised_within_our_own_code(limit: TimeLimit) -> None:
    """Pairs of a zone are changed in locked sections: each call is whole, the lock is free."""
    store = shm_keyval.KeyvalStore(shm.Zone("z", 1 << 16, "test"), KINDS["string"])
    places = Places(limit)
    written = [0]

    def changes() -> None:
        while True:
            n = written[0] = (written[0] + 1) % 50
            key = b"%d" % n
            store.add(key, key * 20, shm_keyval.NEVER_MS, NOW)
            store.change(key, key * 40, shm_keyval.NEVER_MS, NOW)
            store.get(key, NOW)
            store.remove(key, NOW)

    def reads() -> None:
        while True:
            for key, value, _ in store.pairs(NOW):
                assert value == key * 20

    places.hammer(changes)
    store.clear()
    for n in range(50):
        store.add(b"%d" % n, b"%d" % n * 20, shm_keyval.NEVER_MS, NOW)
    places.hammer(reads)
    assert set() == places.files
    child = os.fork()
    if child == 0:  # another process can have the lock, and finds nothing half done
        with store.zone.lock.soon(patience_s=0):
            os._exit(store.words[0] != 0)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_function_that_we_call_back_is_ended_when_ours_returns(limit: TimeLimit) -> None:
    """A frame of ours between the user's keeps the exception out."""
    inside = {"__name__": "ngxstream.made_up"}
    exec("def ours(callback):\n    callback()\n    return 'whole'", inside)
    seen: list[str] = []

    def user() -> None:
        seen.append(inside["ours"](lambda: burn_ms(LIMIT_MS * 4)))
        burn()

    with pytest.raises(TimeLimitError):
        limit.call(LIMIT_MS, user)
    assert ["whole"] == seen


def test_it_is_raised_nowhere_but_in_a_call(limit: TimeLimit) -> None:
    """Outside of calls there is no safe place; within one, the frame of call() is one."""
    seen: list[bool] = []

    def asks() -> None:
        seen.append(time_limit._is_safe(sys._getframe()))
        frame = sys._getframe().f_back
        assert frame is not None
        assert frame.f_code is TimeLimit.call.__code__
        seen.append(time_limit._is_safe(frame))

    asks_in_vain = [time_limit._is_safe(None), time_limit._is_safe(sys._getframe())]
    limit.call(PLENTY_MS, asks)
    assert ([False, False], [True, True]) == (asks_in_vain, seen)


def test_signals_at_every_moment_of_short_calls_leave_the_limit_as_it_was(
    limit: TimeLimit,
) -> None:
    """Also where a call has just returned: the next one has its own time, the depth is 0."""
    ended = 0
    lengths = itertools.cycle((2, 2, 2, 2, 20))  # ms; some meet one tick of the kernel, some many
    limit.call(1, int)
    end = time.process_time() + 1.0
    while time.process_time() < end:
        try:
            limit.call(1, burn_ms, next(lengths))
        except TimeLimitError:
            ended += 1
        assert (0, 0) == (limit.limit_ms, limit.loop.get(tasks.Steps).depth)
    assert ended
    assert "done" == limit.call(PLENTY_MS, burn_ms, 2)


def test_a_lock_that_is_waited_for_is_not_left_by_a_signal(limit: TimeLimit) -> None:
    """The wait goes on (PEP 475), the section runs whole, the call is ended behind it."""
    zone = shm.Zone("z", shm.LEAST, "test")
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        with zone.lock:
            os.write(told, b"x")
            end = time.monotonic() + LIMIT_MS * 20 / 1000
            while time.monotonic() < end:
                pass
            os._exit(0)
    os.read(ready, 1)
    os.close(ready)
    os.close(told)
    seen: list[str] = []
    inside = {"__name__": "ngxstream.made_up", "zone": zone, "seen": seen}
    exec("def ours():\n    with zone.lock:\n        seen.append('locked')", inside)

    def user() -> None:
        inside["ours"]()
        burn()

    with pytest.raises(TimeLimitError):
        limit.call(LIMIT_MS, user)
    os.waitpid(child, 0)
    assert ["locked"] == seen


# -- who does not end ------------------------------------------------------------------------------

ENDLESS = """
import os, sys, time
from ngxstream.core import clock, files, log
from ngxstream.event import loop, time_limit
time_limit.IGNORED = 5
file = files.OpenFiles().stderr()
made = loop.Loop(log.Log([log.FileTarget(file, log.NOTICE, clock.Clock())]))
def swallows(depth):
    while True:
        try:  # an exception that comes where this one is caught is caught further out
            while True:
                swallows(depth - 1) if depth else {body}
        except BaseException:
            pass
made.get(time_limit.TimeLimit).call(5, swallows, 20)
"""


@pytest.mark.parametrize("body", ["0", "time.sleep(3600)"])
def test_who_catches_every_exception_ends_the_process(body: str) -> None:
    """With an alert that says where; the exit code is one that has the master start another one."""
    done = subprocess.run(
        [sys.executable, "-c", ENDLESS.format(body=body)], capture_output=True, text=True,
        check=False, timeout=60,
    )
    assert time_limit.EXIT_CODE == done.returncode, done.stderr
    assert "[alert]" in done.stderr
    assert "a function cannot be ended in <string>:" in done.stderr


def test_the_exit_code_is_not_that_of_a_worker_that_cannot_begin() -> None:
    """Code 2 would have the master start nobody in its place."""
    assert 2 != time_limit.EXIT_CODE != 0


def test_threads_do_not_count_as_calls(limit: TimeLimit) -> None:
    """Between calls the timers find nothing, whatever CPU time the process takes."""
    limit.call(LIMIT_MS, int)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    burn_ms(LIMIT_MS * 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime > before
    assert 0 == limit.exceeded


def test_an_interpreter_that_ends_is_not_killed_by_a_timer() -> None:
    """It stops the timers before it gives its handlers up."""
    code = """
import time
from ngxstream.core.log import Log
from ngxstream.event.loop import Loop
from ngxstream.event.time_limit import TimeLimit
limit = Loop(Log()).get(TimeLimit)
limit.call(1, int)

class Slow:
    def __del__(self):
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            pass

import sys
sys.slow = Slow()
"""
    assert 0 == subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode
