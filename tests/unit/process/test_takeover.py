"""Who reads UDP while masters die and reloads take long: one generation of workers at a time."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.core.log import Log
from ngxstream.process import channel as channels
from ngxstream.process import children, orphan, reload, rendezvous, takeover
from ngxstream.process.handover import START_MS
from ngxstream.process.worker import Worker
from tests.support import clients, processes
from tests.support.backends import BackendFactory
from tests.support.in_process import LogTarget
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import wait_until

CONF = """
worker_processes 2;
events {{}}
stream {{
    py_path {folder};
    py_import slow;
    py_time_limit 60s;
    server {{ listen 127.0.0.1:@udp@ udp; proxy_pass {udp}; proxy_timeout 60s; }}
}}
"""
# one worker, the first that finds the mark, does not begin before it is let
SLOW = """
import os

def on_load():
    try:
        os.rename({mark!r}, {mark!r} + ".found")
    except FileNotFoundError:
        return
    with open({gate!r}) as gate:
        gate.read()
"""


class Slow:
    """A program of which one new worker begins late."""

    def __init__(self, folder: Path, ngxstream: ProxyFactory, backends: BackendFactory) -> None:
        """Start it; all workers begin at once."""
        self.mark, self.gate = folder / "mark", folder / "gate"
        os.mkfifo(self.gate)
        (folder / "slow.py").write_text(SLOW.format(mark=str(self.mark), gate=str(self.gate)))
        backend = backends.udp(lambda _, address: [b"%d" % address[1]])
        self.running = ngxstream(CONF.format(folder=folder, udp=backend.text))

    def reload(self) -> list[int]:
        """Have a reload under way, and return the new workers: one serves, the other is late."""
        before = self.running.worker_pids()
        self.mark.touch()
        self.running.signal(signal.SIGHUP)

        def new() -> list[int]:
            found = [pid for pid in processes.children(self.running.pid) if pid not in before]
            return found if len(found) == 2 else []

        found = wait_until(new)
        wait_until(lambda: not self.mark.exists())
        wait_until(lambda: sum("worker process" in processes.title(pid) for pid in found) == 1)
        return found

    def let_begin(self) -> None:
        """Have the late one begin."""
        self.gate.write_text("")


@contextlib.contextmanager
def crowd(running: Proxy) -> Iterator[Callable[[], list[bytes]]]:
    """Give what has each of some UDP clients ask for the port that its server sees."""
    with contextlib.ExitStack() as stack:
        talking = [
            stack.enter_context(clients.UdpClient(running.address("udp"))) for _ in range(20)
        ]
        yield lambda: [client.exchange(b"x") for client in talking]


@pytest.fixture
def slow(tmp_path: Path, ngxstream: ProxyFactory, backends: BackendFactory) -> Slow:
    """Give a program that serves, whose next reload takes long."""
    return Slow(tmp_path, ngxstream, backends)


def test_a_reload_whose_master_is_killed_is_undone(slow: Slow) -> None:
    """The old workers serve on, and the new ones leave: there would be two for each client."""
    with crowd(slow.running) as ask:
        before = ask()
        old = slow.running.worker_pids()
        new = slow.reload()
        os.kill(slow.running.pid, signal.SIGKILL)
        slow.running.wait_log("the master process is gone, serving on", count=3)
        try:
            for _ in range(30):
                assert before == ask()
            slow.let_begin()
            wait_until(lambda: not any(map(processes.is_alive, new)))
            assert before == ask()
        finally:
            for pid in filter(processes.is_alive, (*old, *new)):
                os.kill(pid, signal.SIGKILL)


def test_new_workers_wait_until_the_last_of_them_has_begun() -> None:
    """Nobody tells them to read before, and the old ones read."""
    assert children.PATIENCE_MS > 1000 * reload.READY_S


# -- one decision ----------------------------------------------------------------------------------


class Speaker:
    """A worker as its master knows it, and what it was told."""

    def __init__(self, pid: int, master: "FakeMaster") -> None:
        self.pid = pid
        self.cycle = master.cycle
        self.channel, self.heard = channels.Channel.pair()

    def told(self) -> list[int]:
        """Return the commands that it was sent since it was asked last."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                message = self.heard.receive()
                found.append(message.command)
                for fd in message.fds:
                    os.close(fd)
        return found


class FakeMaster:
    """What a TakeOver asks of a master that has one worker, number 1, and an orphan, number 2."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ms = 1000
        monkeypatch.setattr(takeover, "monotonic_ms", lambda: self.now_ms)
        main = SimpleNamespace(pid="/nowhere/pid")
        self.cycle: Any = SimpleNamespace(
            listenings=[], lingering=[], generation=1, log=Log([LogTarget()]), main=main,
            options=None,
        )
        self.old: list[Any] = []
        self.settled = 0
        self.generations = SimpleNamespace(settled=lambda generation: self.settled)
        self.udp_is_ours, self.is_ending = True, False
        self.due: list[tuple[int, Callable[[], None]]] = []
        self.children = children.Children(self)  # type: ignore[arg-type]
        self.children.shared = children.Shared(1, self.cycle.log)
        self.worker, self.orphan = Speaker(1, self), Speaker(2, self)
        self.children.by_pid[1] = self.worker  # type: ignore[assignment]
        self.survivors = rendezvous.Survivors()
        self.takeover = takeover.TakeOver(self)  # type: ignore[arg-type]

    def later(self, delay_ms: int, do: Callable[[], None]) -> None:
        """Note what is due."""
        self.due.append((self.now_ms + delay_ms, do))

    def wait(self, delay_ms: int) -> None:
        """Let time pass, and do what is due by then."""
        end_ms = self.now_ms + delay_ms
        while any(at <= end_ms for at, _ in self.due):
            first = min(self.due, key=lambda one: one[0])
            self.due.remove(first)
            self.now_ms = first[0]
            first[1]()
        self.now_ms = end_ms

    def meets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have an orphan of this configuration be found from now on, by who looks."""
        monkeypatch.setattr(orphan, "digest_of", lambda cycle: "same")
        one = rendezvous.Survivor(2, os.geteuid(), self.orphan.channel)
        one.generation, one.digest = 1, "same"

        def meet(path: str) -> list[rendezvous.Survivor]:
            found = [] if self.survivors.all else [one]
            self.survivors.all += found
            return found

        monkeypatch.setattr(rendezvous.Survivors, "meet", lambda _, path: meet(path))


@pytest.fixture
def master(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMaster]:
    """Give a master at whose pid file no orphan is found."""
    monkeypatch.setattr(rendezvous.Survivors, "meet", lambda _, path: [])
    monkeypatch.setattr(orphan, "place_of", lambda *_: "/nowhere/pid")
    made = FakeMaster(monkeypatch)
    yield made
    made.children.shared.close()
    for one in (made.worker, made.orphan):
        one.channel.close()
        one.heard.close()


def taking_over(master: FakeMaster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the orphan told to hand over to the worker."""
    master.meets(monkeypatch)
    master.survivors.meet("")
    master.takeover.begin()
    assert [channels.HANDOVER, channels.QUIT] == master.orphan.told()
    assert [channels.STAY] == master.worker.told()


def test_who_is_to_take_over_knows_it_before_others_are_told_to_leave(
    master: FakeMaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The master may be killed at any moment, and then nobody must be missing."""
    known: list[list[int]] = []
    monkeypatch.setattr(
        takeover.TakeOver, "send", lambda *_: bool(known.append(master.worker.told())) or True
    )
    master.takeover.hand_over([])
    assert [[channels.STAY]] == known


def test_nobody_reads_while_an_orphan_hands_over(
    master: FakeMaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else the master hears of, a worker's death for one."""
    taking_over(master, monkeypatch)
    for _ in range(5):
        master.takeover.let_read()
    assert {master.now_ms + takeover.LOOK_MS, master.now_ms + takeover.LATE_MS} == {
        at for at, _ in master.due
    }
    assert 2 == len(master.due)  # it is looked after once, however many ask
    master.wait(START_MS - 500)
    assert [] == master.worker.told()


def test_an_orphan_that_dies_is_waited_for_no_more(
    master: FakeMaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no child of this master, which looks after it."""
    taking_over(master, monkeypatch)
    master.orphan.heard.close()
    assert [] == master.worker.told()
    master.wait(300)
    assert [channels.GO] == master.worker.told()


def test_who_says_nothing_is_waited_for_in_bounds(
    master: FakeMaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is stopped is alive; the others serve without it then."""
    taking_over(master, monkeypatch)
    master.wait(START_MS + 300)
    assert [channels.GO] == master.worker.told()


def test_who_has_handed_over_is_not_waited_for(
    master: FakeMaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may live for hours, with connections that it finishes."""
    taking_over(master, monkeypatch)
    master.settled = 1
    master.takeover.let_read()
    assert [channels.GO] == master.worker.told()


def test_workers_of_a_reload_do_not_wait_for_those_before(
    master: FakeMaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who hands over to the ones before the reload has nothing for the new ones."""
    taking_over(master, monkeypatch)
    former, master.children.shared = master.children.shared, children.Shared(1, Log([]))
    master.takeover.let_read()
    former.close()
    assert [channels.GO] == master.worker.told()


def test_two_plans_for_the_same_workers_are_one(
    master: FakeMaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They read when those of both have stopped."""
    taking_over(master, monkeypatch)
    plans: list[tuple[int, ...]] = []
    monkeypatch.setattr(
        takeover.TakeOver, "send", lambda _, plan: plans.append(plan.pids) or True
    )
    third = Speaker(3, master)
    master.children.by_pid[3] = third  # type: ignore[assignment]
    master.takeover.hand_over([third])  # type: ignore[list-item]
    master.settled = 1
    master.takeover.hand_over([third])  # type: ignore[list-item]
    assert [(2, 3), (3,)] == plans
    third.channel.close()
    third.heard.close()


@pytest.mark.parametrize("crashed", [False, True])
@pytest.mark.parametrize("had_udp", [False, True])
def test_another_master_s_orphans_are_waited_for_if_they_have_the_clients(
    crashed: bool, had_udp: bool, master: FakeMaster
) -> None:
    """A killed master's workers may see its death later than this master; nobody is there then."""
    master.takeover.inherit(crashed=crashed, had_udp=had_udp)
    master.takeover.let_read()
    at_once = bool(master.worker.told())
    assert at_once != (crashed and had_udp)
    master.wait(takeover.LATE_MS)
    master.wait(takeover.LOOK_MS)
    assert at_once or channels.GO in master.worker.told()


def test_an_orphan_that_is_late_hands_over(
    master: FakeMaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers read when it has; before, they were not told to."""
    master.takeover.inherit(crashed=True, had_udp=True)
    master.meets(monkeypatch)
    master.wait(takeover.LATE_MS + 500)
    assert [channels.HANDOVER, channels.QUIT] == master.orphan.told()
    assert [channels.STAY] == master.worker.told()


@pytest.mark.parametrize("state", ["udp_is_ours", "is_ending"])
def test_who_has_no_udp_clients_any_more_has_nobody_read_later(
    state: str, master: FakeMaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another master's workers may have got them meanwhile, or everything ends."""
    taking_over(master, monkeypatch)
    setattr(master, state, not getattr(master, state))
    master.wait(START_MS + 300)
    assert [] == master.worker.told()


# -- a worker whose master has died ----------------------------------------------------------------


class Left:
    """A worker without a master; what it does is noted."""

    def __init__(self, *, unheard: bool, others: tuple[int, ...], exiting: bool = False) -> None:
        self.stays = False
        self.done: list[str] = []
        self.later: list[Callable[[], None]] = []
        self.arrival = SimpleNamespace(
            is_unheard=unheard, wait=lambda: self.done.append("waits"),
            go=lambda: self.done.append("reads"),
        )
        self.context = SimpleNamespace(others=others)
        self.loop = SimpleNamespace(
            call_later=lambda ms, do, cancelable: self.later.append(do), exiting=exiting,
            register=lambda *_: None, get=lambda _: self.status,
        )
        self.status = SimpleNamespace(is_orphan=True)
        self.cycle = SimpleNamespace(log=Log([]))

    def quit(self) -> None:
        """Note that it leaves."""
        self.done.append("leaves")

    def _give_way(self) -> None:
        Worker._give_way(self)  # type: ignore[arg-type]


def dead() -> int:
    """Return the number of a process that has ended."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


@pytest.mark.parametrize(
    ("unheard", "are_left", "wanted"),
    [(True, True, ["waits"]), (True, False, ["reads"]), (False, True, ["reads"])],
)
def test_a_worker_that_waits_for_others_reads_only_if_they_are_dead(
    unheard: bool, are_left: bool, wanted: list[str]
) -> None:
    """Who heard of a hand-over, or reads already, goes on as ever."""
    others = (dead(), os.getpid()) if are_left else (dead(),)
    left: Any = Left(unheard=unheard, others=others)
    Worker._go_on_alone(left)
    assert wanted == left.done
    assert ["waits"] * len(left.later) == wanted[: len(left.later)]


@pytest.mark.parametrize(
    ("unheard", "are_left", "wanted"),
    [(True, True, ["leaves"]), (True, False, ["reads"]), (False, True, [])],
)
def test_it_leaves_if_they_have_not_begun_to_hand_over(
    unheard: bool, are_left: bool, wanted: list[str]
) -> None:
    """If they have died meanwhile it serves; if they have begun, nothing is left to decide."""
    left: Any = Left(unheard=True, others=(os.getpid(),))
    Worker._go_on_alone(left)
    left.done.clear()
    left.arrival.is_unheard = unheard
    left.context.others = (os.getpid(),) if are_left else (dead(),)
    (look,) = left.later
    look()
    assert wanted == left.done


def test_it_stays_if_they_were_told_to_leave() -> None:
    """However slow they are to hear of it: nobody would be left otherwise."""
    left: Any = Left(unheard=True, others=(os.getpid(),))
    left.stays = True
    Worker._go_on_alone(left)
    for _ in range(5):
        left.later.pop()()
        assert (["waits"], 1) == (left.done, len(left.later))
    left.context.others = (dead(),)
    left.later.pop()()
    assert (["waits", "reads"], []) == (left.done, left.later)


@pytest.mark.parametrize("exiting", [False, True])
@pytest.mark.parametrize("unheard", [False, True])
def test_who_has_no_udp_clients_tells_a_new_master_so(
    unheard: bool, exiting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not asked to hand them over, for those who have them are."""
    told: list[Any] = []
    monkeypatch.setattr(orphan, "introduce", lambda channel, cycle: told.append(cycle))
    left: Any = Left(unheard=unheard, others=(), exiting=exiting)
    left.on_channel = None
    ours, theirs = channels.Channel.pair()
    Worker._on_new_master(left, ours)
    assert [None if unheard or exiting else left.cycle] == told
    ours.close()
    theirs.close()
