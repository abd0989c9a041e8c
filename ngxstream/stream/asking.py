"""Asking all workers what only each of them knows: their sessions, and to end some.

1. A question is declared by a module, with a function that answers it in each worker from bytes to
   bytes. Both are of the module's making and have a schema of its own (ipc/codec.py).
2. Who asks hears once, when all have answered or ANSWER_MS are over: answers by pid, and the pids
   of those who were silent; the master's is among them if it could not ask the others in time. A
   worker that has no master (or is alone) asks itself.
3. An answer that takes longer than a moment is made in steps, by a generator: a step is one of the
   loop's slices (event/slices.py), and sessions are served in between.
4. An answer comes from another process, perhaps of another user: who asked checks it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from ngxstream.event.slices import Slices
from ngxstream.ipc.codec import CodecError

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.stream.core import StreamConf

ANSWER_MS: Final = 1000  # how long the slowest worker is waited for
MAX_QUESTION: Final = 1 << 16  # bytes
MAX_ANSWER: Final = 1 << 20  # bytes, of one worker: forwarding so much takes some 5 ms

# an answer that is made in steps, each of some 2 ms at most, and returned by the last one
Steps = Generator[None, None, bytes]


class Question(NamedTuple):
    """One kind of question.

    Args: name: no other has it; answer: called in every worker with its loop, the configuration it
    serves by, and the payload; raises CodecError for a payload that cannot be
    """

    name: str
    answer: Callable[[Loop, StreamConf, bytes], bytes | Steps]


class Answers(NamedTuple):
    """What came. Args: given: by pid; silent: pids of workers that did not answer in time"""

    given: Mapping[int, bytes]
    silent: tuple[int, ...] = ()


Done = Callable[[Answers], None]


class Asking:
    """How a worker asks the others, and answers them: `loop.get(Asking)`."""

    __slots__ = ("loop", "stream", "transport")

    stream: StreamConf

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        # set by the process that knows the others: transport(name, payload, done)
        self.transport: Callable[[str, bytes, Done], None] | None = None

    def ask(self, name: str, payload: bytes, done: Done) -> None:
        """Ask all workers, this one among them; done(answers) is called once, after this call.

        Args: payload: at most MAX_QUESTION bytes. Raises: KeyError for a question nobody declared
        """
        if name not in self.stream.questions:
            raise KeyError(name)
        if self.transport is not None:
            self.transport(name, payload, done)
            return
        pid = self.loop.pid

        def alone(answer: bytes | None) -> None:
            done(Answers({}, (pid,)) if answer is None else Answers({pid: answer}))

        self.answer(name, payload, alone)

    def answer(self, name: str, payload: bytes, done: Callable[[bytes | None], None]) -> None:
        """Answer for this worker, in slices of the loop; done(answer) is called after this call.

        Args: done: called with None for a question that is not answered: nobody here knows it, the
        payload is none, or making the answer failed
        """
        self.loop.live += 1  # who ends the last session of a worker that leaves is answered
        self.loop.get(Slices).add(_Answer(self, name, payload, done).begin)


class _Answer:
    """One answer while it is made."""

    __slots__ = ("asking", "done", "name", "payload", "steps")

    def __init__(
        self, asking: Asking, name: str, payload: bytes, done: Callable[[bytes | None], None]
    ) -> None:
        self.asking = asking
        self.name = name
        self.payload = payload
        self.done: Callable[[bytes | None], None] | None = done  # None once it was called
        self.steps: Steps | None = None

    def begin(self) -> None:
        """Make it, or its first step."""
        asking = self.asking
        question = asking.stream.questions.get(self.name)
        if question is None:
            self._end(None)
            return
        try:
            made = question.answer(asking.loop, asking.stream, self.payload)
        except CodecError:
            self._end(None)
            return
        if isinstance(made, bytes):
            self._give(made)
            return
        self.steps = made
        self.go_on()

    def go_on(self) -> None:
        """Make the next step."""
        steps = self.steps
        if steps is None:
            return
        try:
            next(steps)
        except StopIteration as stop:
            self._give(stop.value)
        except CodecError:
            self._end(None)
        else:
            self.asking.loop.get(Slices).add(self.go_on)

    def _give(self, answer: bytes) -> None:
        self._end(answer if len(answer) <= MAX_ANSWER else None)

    def _end(self, answer: bytes | None) -> None:
        done, self.done = self.done, None
        self.steps = None
        if done is not None:
            self.asking.loop.live -= 1
            done(answer)

    def on_fault(self) -> None:
        """Answer nothing, after an exception nobody expected."""
        self._end(None)
