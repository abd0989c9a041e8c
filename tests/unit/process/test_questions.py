"""Questions of workers to workers, as the master forwards them."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ngxstream.core import log
from ngxstream.ipc import port
from ngxstream.ipc.port import Port, Speaker
from ngxstream.process import questions
from ngxstream.process.questions import ANSWER, ANSWERED, ASK, OVER, QUESTION, Questions
from ngxstream.stream.asking import ANSWER_MS, MAX_ANSWER, MAX_QUESTION
from tests.support import forks
from tests.support.in_process import LogTarget

A, B, C = 11, 12, 13  # pids


class Worker:
    """A worker's end, in the test's hands."""

    def __init__(self, sock: socket.socket) -> None:
        self.port = Port(sock, Speaker.of("the master"), max_bytes=questions.MAX_BYTES)

    def say(self, kind: int, *values: Any) -> bool:
        """Send a message of a schema."""
        return self.port.send(kind, questions.SCHEMAS[kind].encode(values))

    def ask(self, number: int, payload: bytes = b"?") -> None:
        """Ask."""
        assert self.say(ASK, number, "name", payload)

    def heard(self) -> list[tuple[Any, ...]]:
        """Return all that came: kinds and values."""
        found: list[tuple[Any, ...]] = []
        while True:
            try:
                message = self.port.receive()
            except BlockingIOError:
                return found
            except EOFError:
                return [*found, (0,)]
            values = questions.SCHEMAS[message.kind].decode(message.payload)
            found.append((message.kind, *values))


class World:
    """A master's questions, with three workers and a clock that the test moves."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000
        self.due: list[tuple[int, Callable[[], None]]] = []
        self.target = LogTarget()
        self.pids = [A, B, C]
        to = log.Log([self.target])
        self.strangers: set[int] = set()
        self.questions = Questions(
            self.later, lambda: self.pids, lambda pid: pid not in self.strangers, lambda: to
        )
        self.workers: dict[int, Worker] = {}
        for pid in self.pids:
            self.add(pid)

    def add(self, pid: int) -> None:
        """Have one more worker that can ask; all are this process."""
        ours, theirs = port.pair()
        self.workers[pid] = Worker(theirs)
        speaker = Speaker.of(f"worker {pid}")
        self.questions.add(pid, Port(ours, speaker, max_bytes=questions.MAX_BYTES))

    def __getitem__(self, pid: int) -> Worker:
        return self.workers[pid]

    def later(self, delay_ms: int, do: Callable[[], None]) -> None:
        """Note what is to be done."""
        self.due.append((self.now_ms + delay_ms, do))

    def wait(self, wait_ms: int) -> None:
        """Let time pass, and do what is due meanwhile."""
        end = self.now_ms + wait_ms
        while ripe := [one for one in self.due if one[0] <= end]:
            first = min(ripe, key=lambda one: one[0])
            self.due.remove(first)
            self.now_ms = max(self.now_ms, first[0])
            first[1]()
        self.now_ms = end

    def serve(self) -> None:
        """Read what workers have said."""
        self.questions.serve()

    @property
    def said(self) -> list[str]:
        """The lines of the log."""
        return [line for _, line in self.target.lines]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Give three workers."""
    made = World.__new__(World)
    monkeypatch.setattr(questions, "monotonic_ms", lambda: made.now_ms)
    made.__init__()  # type: ignore[misc]
    yield made
    for pid, worker in made.workers.items():
        worker.port.close()
        made.questions.forget(pid)


def number_of(world: World, pid: int) -> int:
    """Return the number of the only question that a worker was asked."""
    ((kind, number, _, _),) = world[pid].heard()
    assert QUESTION == kind
    return int(number)


def test_a_question_goes_to_all_others_and_their_answers_come_back(world: World) -> None:
    """Each as it comes, with who gave it; then it is over."""
    world[A].ask(5, b"what?")
    world.serve()
    assert [(QUESTION, 1, "name", b"what?")] == world[B].heard() == world[C].heard()
    assert [] == world[A].heard()
    world[C].say(ANSWER, 1, b"c")
    world.serve()
    assert [(ANSWERED, 5, C, b"c")] == world[A].heard()
    world[B].say(ANSWER, 1, b"")
    world.serve()
    assert [(ANSWERED, 5, B, b""), (OVER, 5, [])] == world[A].heard()


def test_who_is_alone_hears_at_once(world: World) -> None:
    """There is nobody to wait for."""
    world.pids[:] = [A]
    world[A].ask(1)
    world.serve()
    assert [(OVER, 1, [])] == world[A].heard()


def test_who_does_not_answer_in_time_is_silent(world: World) -> None:
    """What comes too late is dropped, and is no fault: the worker answers again."""
    world[A].ask(1)
    world.serve()
    number = number_of(world, B)
    world[C].say(ANSWER, number, b"c")
    world.serve()
    world.wait(ANSWER_MS - 1)
    assert [(ANSWERED, 1, C, b"c")] == world[A].heard()
    world.wait(1)
    assert [(OVER, 1, [B])] == world[A].heard()
    world[B].say(ANSWER, number, b"late")
    world.serve()
    world.wait(100)
    world[A].ask(2)
    world.serve()
    world[B].say(ANSWER, number_of(world, B), b"b")
    world.serve()
    assert [(ANSWERED, 2, B, b"b")] == world[A].heard()
    assert [] == world.said


def test_each_question_has_its_own_time(world: World) -> None:
    """One that began later ends later."""
    world[A].ask(1)
    world.serve()
    world.wait(400)
    world[B].ask(1)
    world.serve()
    world.wait(ANSWER_MS - 400)
    assert (OVER, 1, [B, C]) == world[A].heard()[-1]
    assert OVER not in [kind for kind, *_ in world[B].heard()]
    world.wait(400)
    assert [(OVER, 1, [A, C])] == world[B].heard()


def test_who_cannot_answer_is_silent_at_once(world: World) -> None:
    """It says so."""
    world[A].ask(1)
    world.serve()
    for pid in (B, C):
        world[pid].say(ANSWER, number_of(world, pid), None)
    world.serve()
    assert [(OVER, 1, [B, C])] == world[A].heard()


def test_a_worker_that_has_no_port_is_silent(world: World) -> None:
    """It serves by a configuration without an API."""
    world.pids.append(99)
    world[A].ask(1)
    world.serve()
    world.wait(ANSWER_MS)
    assert [(OVER, 1, [B, C, 99])] == world[A].heard()


def test_a_worker_that_dies_is_silent(world: World) -> None:
    """Nobody waits for it; whether its end or its death is seen first."""
    world[A].ask(1)
    world.serve()
    world[B].port.close()
    world.serve()
    world.questions.forget(C)
    assert [(OVER, 1, [B, C])] == world[A].heard()
    assert [] == world.said


def test_the_answers_to_a_worker_that_has_died_are_dropped(world: World) -> None:
    """And those who answer have done nothing wrong."""
    world[A].ask(1)
    world.serve()
    world.questions.forget(A)
    for pid in (B, C):
        world[pid].say(ANSWER, number_of(world, pid), b"x")
    world.serve()
    world.wait(ANSWER_MS)
    assert [] == world.said


def test_a_worker_of_another_user_is_asked_and_asks_nobody(world: World) -> None:
    """It could end the sessions of clients that are not its own any more."""
    world.strangers.add(B)
    world[B].ask(1)
    world.serve()
    assert [(OVER, 1, [A, C])] == world[B].heard()
    assert [] == world[A].heard() == world[C].heard()
    world[A].ask(1)
    world.serve()
    world[B].say(ANSWER, number_of(world, B), b"b")
    world.serve()
    assert [(ANSWERED, 1, B, b"b")] == world[A].heard()
    assert [] == world.said


def test_several_may_ask_at_a_time(world: World) -> None:
    """Each hears its own answers."""
    world[A].ask(7, b"a?")
    world[B].ask(7, b"b?")
    world.serve()
    asked = {payload: number for _, number, _, payload in world[C].heard()}
    world[C].say(ANSWER, asked[b"b?"], b"to b")
    world[C].say(ANSWER, asked[b"a?"], b"to a")
    world.serve()
    assert (ANSWERED, 7, C, b"to a") in world[A].heard()
    assert (ANSWERED, 7, C, b"to b") in world[B].heard()


def test_a_worker_asks_so_often_and_no_more(world: World) -> None:
    """The next question waits a little, and is not lost."""
    world.pids[:] = [A, B]
    for number in (1, 2):
        world[A].ask(number)
        world.serve()
        if number == 1:
            world[B].say(ANSWER, number_of(world, B), b"x")
            world.serve()
    assert [] == world[B].heard()
    world.wait(questions.GAP_MS)
    assert [(QUESTION, 2, "name", b"?")] == world[B].heard()


LONG = b"x" * (MAX_QUESTION + 1)
NONSENSE: dict[str, Callable[[World], object]] = {
    "a command of the master's": lambda world: world[B].say(OVER, 1, []),
    "a kind that there is not": lambda world: world[B].port.send(77, b""),
    "no message at all": lambda world: world[B].port.sock.send(b"hello"),
    "a question that is none": lambda world: world[B].port.send(ASK, b"\1"),
    "a question without a name": lambda world: world[B].port.send(
        ASK, questions.SCHEMAS[ANSWER].encode((1, None))),
    "a name with a line in it": lambda world: world[B].say(ASK, 1, "a\nb", b""),
    "a question that is too long": lambda world: world[B].say(ASK, 1, "name", LONG),
    "a second question": lambda world: (world[B].ask(1), world[B].ask(2)),
    "an answer to nothing": lambda world: world[B].say(ANSWER, 1, b""),
    "an answer that is none": lambda world: world[B].port.send(ANSWER, b"\xff" * 9),
    "an answer that is too long": lambda world: world[B].say(
        ANSWER, 1, b"x" * (questions.MAX_BYTES + 1)),
    "a descriptor": lambda world: world[B].port.send(ANSWER, b"", [0]),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_a_worker_that_talks_nonsense_is_not_listened_to_any_more(
    world: World, what: str
) -> None:
    """Its port is closed with one line, it is silent from then on, and the others go on."""
    NONSENSE[what](world)
    world.serve()
    (line,) = world.said
    assert line.startswith(f"worker process {B} is not listened to any more: ")
    assert (0,) == world[B].heard()[-1]
    world[C].heard()
    world.wait(2 * ANSWER_MS)
    world[A].heard()
    world[A].ask(1)
    world.serve()
    world[C].say(ANSWER, number_of(world, C), b"c")
    world.serve()
    assert [(ANSWERED, 1, C, b"c"), (OVER, 1, [B])] == world[A].heard()


def test_an_answer_twice_is_one_too_many(world: World) -> None:
    """The first one counts."""
    world[A].ask(1)
    world.serve()
    number = number_of(world, B)
    for _ in range(2):
        world[B].say(ANSWER, number, b"b")
    world.serve()
    assert [(ANSWERED, 1, B, b"b")] == world[A].heard()
    assert [f"worker process {B} is not listened to any more: it answers what it was not asked"] \
        == world.said


def test_a_worker_that_does_not_read_delays_nobody(world: World) -> None:
    """The master sends as long as there is room, and does not wait."""
    while world.questions._lines[B].port.send(QUESTION, b"x" * 60_000):
        pass
    world[A].ask(1)
    world.serve()
    world[C].say(ANSWER, number_of(world, C), b"c")
    world.serve()
    assert [(ANSWERED, 1, C, b"c"), (OVER, 1, [B])] == world[A].heard()


def test_large_answers_wait_for_an_asker_that_is_busy(world: World) -> None:
    """Until it reads, in order, and up to a bound; who is dropped is silent."""
    pids = range(100, 112)
    world.pids[:] = [A, *pids]
    for pid in pids:
        world.add(pid)
    world[A].ask(1)
    world.serve()
    answers = {pid: b"%d" % pid + b"x" * 60_000 for pid in pids}
    for pid, answer in answers.items():
        world[pid].say(ANSWER, number_of(world, pid), answer)
    world.serve()
    heard = world[A].heard()
    assert 0 < len(heard) < len(pids)
    while (OVER, 1, []) not in heard:
        world.wait(questions.AGAIN_MS)
        heard += world[A].heard()
    assert answers == {pid: answer for _, _, pid, answer in heard[:-1]}


def test_an_asker_that_never_reads_holds_so_much_memory_and_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is beyond is dropped."""
    monkeypatch.setattr(questions, "MAX_HELD", 100_000)
    pids = range(100, 120)
    world.pids[:] = [A, *pids]
    for pid in pids:
        world.add(pid)
    world[A].ask(1)
    world.serve()
    for pid in pids:
        world[pid].say(ANSWER, number_of(world, pid), b"x" * 60_000)
    world.serve()
    assert 100_000 <= world.questions._lines[A].outbox.held < 200_000
    heard = world[A].heard()
    while heard[-1][0] != OVER:
        world.wait(questions.AGAIN_MS)
        heard += world[A].heard()
    assert len(pids) == len(heard) - 1 + len(heard[-1][2])


def test_the_largest_answer_passes(world: World) -> None:
    """In memory of its own."""
    world[A].ask(1)
    world.serve()
    world[B].say(ANSWER, number_of(world, B), b"x" * MAX_ANSWER)
    world.serve()
    assert [(ANSWERED, 1, B, b"x" * MAX_ANSWER)] == world[A].heard()


def test_the_master_reads_a_little_at_a_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much workers have to say, signals are looked for in between, and time passes."""
    world[A].ask(1)
    world[C].ask(1)
    world.serve()
    for _, number, _, _ in world[B].heard():
        world[B].say(ANSWER, number, b"b")
    monkeypatch.setattr(questions, "BUDGET", 1)
    answered = (ANSWERED, 1, B, b"b")
    for _ in range(3):  # more signals change nothing
        world.serve()
    assert 1 == [*world[A].heard(), *world[C].heard()].count(answered)
    world.wait(questions.PAUSE_MS)
    assert 1 == [*world[A].heard(), *world[C].heard()].count(answered)


def _signalled() -> None:
    """Be signalled by the kernel for a port, and by a process for none."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])
    ours, theirs = port.pair()
    child = os.fork()
    if not child:
        signal.sigtimedwait((), 10)
        os._exit(0)
    due: list[Any] = []
    made = Questions(
        lambda *one: due.append(one), lambda: [child], lambda pid: True, lambda: log.Log([])
    )
    made.add(child, questions.port_to(child, ours, None))
    info = signal.sigtimedwait([signal.SIGIO], 0)
    assert info is None
    theirs.send(b"x")
    info = signal.sigtimedwait([signal.SIGIO], 10)
    assert info is not None
    assert made.has_heard(info)
    assert not made._lines  # this process is not the worker: it was refused
    os.kill(os.getpid(), signal.SIGIO)
    info = signal.sigtimedwait([signal.SIGIO], 10)
    assert info is not None
    assert not made.has_heard(info)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_the_kernel_says_when_workers_speak() -> None:
    """Who is not the worker itself is not heard; another SIGIO is not for us."""
    forks.in_child(_signalled)


def test_a_worker_that_reads_and_never_answers_is_asked_so_often_and_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it owes takes so much of the master's memory; once it answers it is asked again."""
    monkeypatch.setattr(questions, "MOST_OWED", 3)
    owed = []
    for number in range(5):
        world[A].ask(number)
        world.serve()
        owed += [one[1] for one in world[B].heard()]
        (question,) = world[C].heard()
        world[C].say(ANSWER, question[1], b"c")
        world.serve()
        world.wait(ANSWER_MS + 100)
        assert (OVER, number, [B]) == world[A].heard()[-1]
    assert 3 == len(owed)
    world[B].say(ANSWER, owed[0], b"late")
    world.serve()
    world[A].ask(9)
    world.serve()
    assert 1 == len(world[B].heard())


def test_what_a_worker_said_before_it_was_heard_is_read(world: World) -> None:
    """The kernel signals nothing for it."""
    ours, theirs = port.pair()
    worker = Worker(theirs)
    worker.ask(1)
    world.pids[:] = [14]
    world.workers[14] = worker
    world.questions.add(14, Port(ours, Speaker.of("worker 14"), max_bytes=questions.MAX_BYTES))
    assert [(OVER, 1, [])] == worker.heard()
