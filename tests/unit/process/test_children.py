"""A worker as its master knows it, and what workers share; the rest is in test_master.py."""

import errno
import os
import signal
from types import SimpleNamespace

import pytest

from ngxstream.core.log import Log
from ngxstream.process import channel as channels
from ngxstream.process.children import Child, Children, Shared
from tests.support import descriptors
from tests.support.in_process import LogTarget
from tests.support.waiting import wait_until


def test_a_worker_that_does_not_read_is_told_by_a_signal() -> None:
    """A channel whose other end is gone takes nothing."""
    ours, theirs = channels.Channel.pair()
    theirs.close()
    pid = os.fork()
    if pid == 0:
        signal.pause()
    child = Child(pid, 0, SimpleNamespace(), ours)  # type: ignore[arg-type]
    target = LogTarget()
    to = Log([target])
    child.tell(channels.TERMINATE, signal.SIGTERM, to)
    assert (pid, signal.SIGTERM) == os.waitpid(pid, 0)
    child.tell(channels.TERMINATE, signal.SIGTERM, to)
    assert f"kill({pid}, 15) failed" in str(target.lines)
    ours.close()


def test_a_master_that_may_send_no_signals_goes_on(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may lack CAP_KILL, which its workers' user makes it need: each attempt is logged."""
    ours, theirs = channels.Channel.pair()
    target = LogTarget()
    children._master.cycle.log = Log([target])  # type: ignore[misc]
    children.by_pid[7] = Child(7, 0, children._master.cycle, ours)

    def refuse(pid: int, number: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "kill", refuse)
    for wait_ms in (100, 1600):
        children.terminate(wait_ms)
    assert [100, 1600] == children._master.later_calls  # type: ignore[attr-defined]
    for number in (15, 9):
        assert f"kill(7, {number}) failed (1: Operation not permitted)" in str(target.lines)
    ours.close()
    theirs.close()


def test_a_channel_that_takes_it_is_enough() -> None:
    """No signal is sent: the process number may be anybody's."""
    ours, theirs = channels.Channel.pair()
    child = Child(os.getpid(), 0, SimpleNamespace(), ours)  # type: ignore[arg-type]
    child.tell(channels.REOPEN, signal.SIGKILL, Log([]))
    assert channels.REOPEN == theirs.receive().command
    ours.close()
    theirs.close()


def test_what_workers_share_is_closed_whole() -> None:
    """A mailbox each; what wakes others only where there are others."""
    before = descriptors.count()
    one, three = Shared(1, Log([])), Shared(3, Log([]))
    assert (1, {}, 3) == (len(one.mailboxes), one.wakeups, len(three.mailboxes))
    assert three.wakeups
    one.close()
    three.close()
    assert before == descriptors.count()


class FakeMaster:
    """What Children asks of a master."""

    def __init__(self) -> None:
        self.cycle = SimpleNamespace(log=Log([]))
        self.old: list[object] = []
        self.later_calls: list[int] = []

    def later(self, delay_ms: int, do: object) -> None:
        """Note when."""
        self.later_calls.append(delay_ms)


@pytest.fixture
def children() -> Children:
    """Give the children of a master that has none."""
    return Children(FakeMaster())  # type: ignore[arg-type]


def test_who_is_told_to_quit_is_told_once(children: Children) -> None:
    """From then on the child counts as leaving."""
    ours, theirs = channels.Channel.pair()
    child = Child(os.getpid(), 0, children._master.cycle, ours)
    children.by_pid[child.pid] = child
    children.quit(children)
    children.quit(children)
    assert (True, channels.QUIT) == (child.leaving, theirs.receive().command)
    with pytest.raises(BlockingIOError):
        theirs.receive()
    ours.close()
    theirs.close()


def test_terminating_grows_more_urgent(children: Children) -> None:
    """TERM is said again after growing waits, and becomes KILL."""
    ours, theirs = channels.Channel.pair()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        theirs.send(channels.READY)
        while True:
            signal.pause()
    wait_until(lambda: channels.wait_readable([ours.fileno()], 0))
    child = Child(pid, 0, children._master.cycle, ours)
    children.by_pid[pid] = child
    for wait_ms in (50, 100, 1000):
        children.terminate(wait_ms)
    assert (0, 0) == os.waitpid(pid, os.WNOHANG)
    children.terminate(1600)
    assert (pid, signal.SIGKILL) == os.waitpid(pid, 0)
    assert [50, 100, 1000, 1600] == children._master.later_calls  # type: ignore[attr-defined]
    ours.close()
    theirs.close()
