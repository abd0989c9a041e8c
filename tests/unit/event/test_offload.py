"""Work beside the loop: done in order by a thread, told once how it ended, given up in the end."""

import errno
import os
import threading
from collections.abc import Iterator

import pytest

from ngxstream.core.log import Log
from ngxstream.event.loop import Loop
from ngxstream.event.offload import MAX_WAITING, Offload
from tests.support.in_process import LogTarget
from tests.support.waiting import wait_until


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Give a loop."""
    made = Loop(Log([LogTarget()]))
    yield made
    made.get(Offload).close()
    made.poller.close()


class Ends(list[object]):
    """What was told of work, each time: its result, or its error."""

    def __call__(self, result: object, error: OSError | None) -> None:
        """Be told."""
        self.append(result if error is None else error)


def turn_until(loop: Loop, ends: list[object], count: int) -> None:
    """Turn the loop until so much is told."""
    wait_until(lambda: loop.turn(wait_ms=5) or len(ends) >= count, every=0)


def test_a_result_comes_back_to_the_loop(loop: Loop) -> None:
    """The work is done by another thread, in a later turn its result is taken by this one."""
    threads: list[object] = []
    ends: list[object] = []
    fds = len(os.listdir("/proc/self/fd"))
    assert loop.get(Offload).run(
        lambda: threads.append(threading.get_ident()) or 7,
        lambda result, error: ends.append((result, error, threading.get_ident())),
        10_000,
    )
    assert [] == ends
    turn_until(loop, ends, 1)
    assert [(7, None, threading.get_ident())] == ends
    assert threads != [threading.get_ident()]
    assert 0 == loop.live
    assert fds == len(os.listdir("/proc/self/fd"))


def test_work_is_done_in_order_and_the_thread_comes_again(loop: Loop) -> None:
    """One after another, however long the pause between them is."""
    ends = Ends()
    for n in range(3):
        for m in range(4):
            loop.get(Offload).run(lambda n=n, m=m: (n, m), ends)  # type: ignore[misc]
        turn_until(loop, ends, 4 * (n + 1))
        wait_until(lambda: not any(one.name == "offload" for one in threading.enumerate()))
    assert [(n, m) for n in range(3) for m in range(4)] == ends


def test_only_so_much_waits(loop: Loop) -> None:
    """Who comes beyond is told so."""
    held = threading.Event()
    ends = Ends()
    run = loop.get(Offload).run
    taken = [run(held.wait, ends) for _ in range(MAX_WAITING + 2)]
    assert [True] * MAX_WAITING + [False] * 2 == taken
    held.set()
    turn_until(loop, ends, MAX_WAITING)
    assert run(held.wait, ends)
    turn_until(loop, ends, MAX_WAITING + 1)


def test_a_fault_of_one_is_not_the_others(loop: Loop) -> None:
    """An exception of who takes a result is logged."""
    ends = Ends()
    run = loop.get(Offload).run
    run(int, lambda *_: ends.append(1 // 0))
    run(int, ends)
    turn_until(loop, ends, 1)
    assert [0] == ends


def test_what_fails_says_why(loop: Loop) -> None:
    """An error of the system is told as it is, a fault is logged; what comes after is done."""
    ends = Ends()
    run = loop.get(Offload).run
    target = loop.log.targets[0]
    run(lambda: os.rmdir("/no/such"), ends)
    run(lambda: 1 // 0, ends)
    run(int, ends)
    turn_until(loop, ends, 3)
    assert isinstance(ends[0], OSError)
    assert errno.ENOENT == ends[0].errno
    assert isinstance(ends[1], OSError)
    assert errno.EIO == ends[1].errno
    assert ["ZeroDivisionError" in line for _, line in target.lines] == [True]
    assert 0 == ends[2]


def test_work_that_takes_too_long_is_given_up(loop: Loop) -> None:
    """How it ends then is nobody's business, and what has not begun by then never does."""
    ends = Ends()
    done: list[object] = []
    gate = threading.Event()
    run = loop.get(Offload).run
    run(gate.wait, ends, 10)
    run(lambda: done.append(1), ends, 10)
    turn_until(loop, ends, 2)
    gate.set()
    last = Ends()
    run(int, last)
    turn_until(loop, last, 1)
    assert [TimeoutError] * 2 == [type(end) for end in ends]
    assert ([], 0) == (done, loop.live)


def test_a_kind_of_work_has_a_thread_of_its_own(loop: Loop) -> None:
    """What hangs holds up its own queue alone."""
    other = Offload(loop)
    gate = threading.Event()
    ends = Ends()
    other.run(gate.wait, ends)
    loop.get(Offload).run(int, ends)
    turn_until(loop, ends, 1)
    gate.set()
    turn_until(loop, ends, 2)
    other.close()
    assert [0, True] == ends


def test_a_thread_that_cannot_be_had_is_an_error(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like any other; the next one tries again."""
    ends = Ends()

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        loop.get(Offload).run(int, ends, 10_000)
    assert [] == ends
    turn_until(loop, ends, 1)
    assert isinstance(ends[0], OSError)
    assert errno.EAGAIN == ends[0].errno
    loop.get(Offload).run(int, ends)
    turn_until(loop, ends, 2)
    assert 0 == ends[1]
    assert 0 == loop.live


def test_work_that_ends_after_the_close_tells_nobody(loop: Loop) -> None:
    """Nor does it write to a descriptor that has the number by then."""
    gate, ends = threading.Event(), Ends()
    other = Offload(loop)
    thread: list[threading.Thread] = []

    def work() -> None:
        thread.append(threading.current_thread())
        gate.wait()

    other.run(work, ends)
    wait_until(lambda: bool(thread))
    number = other._event
    read, write = os.pipe2(os.O_NONBLOCK)
    other.close()
    os.dup2(write, number)
    gate.set()
    thread[0].join()
    with pytest.raises(BlockingIOError):
        os.read(read, 8)
    for fd in {read, write, number}:
        os.close(fd)
    assert [] == ends
