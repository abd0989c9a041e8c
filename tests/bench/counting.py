"""Run ngxstream and count what its loop executes: `python -m tests.bench.counting ARGUMENTS`.

Counted are the instructions of Python and the calls of functions in C, in the turns of the loop,
after a line on standard input and until the next one; then they are printed. The program's own
code knows nothing of it. Only for `master_process off`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections import Counter
from types import FrameType
from typing import Any

from ngxstream.event import poller
from ngxstream.process import cli


class _Counts:
    def __init__(self) -> None:
        self.is_on = False
        self.apart: set[Any] = set()  # code that is not the program's
        self.codes: Counter[Any] = Counter()
        self.calls: Counter[str] = Counter()

    def trace(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code in self.apart:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        code, codes = frame.f_code, self.codes

        def count(frame: FrameType, event: str, arg: object) -> Any:
            if event == "opcode":
                codes[code] += 1
            return count

        return count

    def profile(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_call":
            self.calls[arg.__qualname__] += 1

    def result(self) -> dict[str, Any]:
        by_function: Counter[str] = Counter()
        for code, count in self.codes.items():
            place = code.co_filename.rpartition("ngxstream/")[2]
            by_function[f"{place}:{code.co_firstlineno} {code.co_name}"] += count
        calls = self.calls.copy()
        for name in ("settrace", "setprofile", "_getframe"):
            del calls[name]
        return {"bytecodes": by_function, "calls": calls}


def main() -> int:
    """Serve, and count when told to."""
    counts = _Counts()
    make = poller.EpollPoller.__init__

    def counted(self: poller.EpollPoller, max_events: int = 512) -> None:
        make(self, max_events)
        wait = self.wait

        def waited(timeout_s: float, most: int) -> list[tuple[int, int]]:
            found = wait(timeout_s, most)
            frame = sys._getframe(1)  # that of the turns, which has begun long ago
            if not counts.is_on:
                sys.settrace(None)
                sys.setprofile(None)
                frame.f_trace = None
            elif frame.f_trace is None:
                frame.f_trace = counts.trace(frame, "call", None)
                sys.setprofile(counts.profile)
                sys.settrace(counts.trace)
            return found

        counts.apart.add(waited.__code__)
        self.wait = waited  # type: ignore[method-assign]

    def obey() -> None:
        for _ in sys.stdin:
            if counts.is_on:
                counts.is_on = False
                print(json.dumps(counts.result()), flush=True)
            else:
                counts.is_on = True
                os.kill(os.getpid(), signal.SIGUSR1)  # ends the turn that is not counted
                print("{}", flush=True)

    poller.EpollPoller.__init__ = counted  # type: ignore[method-assign]
    threading.Thread(target=obey, daemon=True).start()
    return cli.program()


if __name__ == "__main__":
    sys.exit(main())
