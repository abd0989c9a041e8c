"""Forked processes for tests of shared memory: they end, are killed, or die at a given step."""

import dis
import os
import signal
import sys
from collections.abc import Callable, Container
from types import CodeType, FrameType
from typing import Any

from ngxstream.core.shm_counts import Tally


def in_child(work: Callable[[], object], *, kill: bool = False) -> int:
    """Run work in a forked process, killed after it if wanted; return its reaped pid."""
    if kill:
        held = Held(work)
        held.kill()
        return held.pid
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert status == 0
    return child


class Held:
    """A forked process that has done something and lives until it is killed."""

    def __init__(self, work: Callable[[], object]) -> None:
        """Wait until the work is done."""
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(read)
                parent = os.getppid()
                work()
                os.write(write, b"x")
                while os.getppid() == parent:  # a test that fails may leave it behind
                    signal.sigtimedwait((), 1)
            finally:
                os._exit(1)
        os.close(write)
        try:
            assert os.read(read, 1) == b"x"
        finally:
            os.close(read)

    def kill(self) -> None:
        """End it by SIGKILL and reap it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


# Bytecodes that can change memory which other processes see; all others look, or set what is local.
CHANGING = frozenset(
    code for name, code in dis.opmap.items()
    if name.startswith(("CALL", "STORE_SUBSCR", "STORE_SLICE", "STORE_ATTR", "DELETE_"))
    or name in ("BEFORE_WITH", "LOAD_SPECIAL", "WITH_EXCEPT_START")
)


def die_at(
    step: int, where: str, work: Callable[[], object], steps: Container[int] = range(256)
) -> tuple[int, bool]:
    """Run work in a forked process that SIGKILL ends before a step of the interpreter.

    Args:
        step: how many bytecodes are run, of functions in files whose path contains `where`
        where: part of a path
        work: what is done
        steps: the bytecodes that count. Who dies before any of CHANGING has left all states of the
            shared memory that dying before any bytecode can leave

    Returns:
        the reaped pid, and whether it died (else the work has fewer steps)
    """
    child = os.fork()
    if child == 0:
        left = step
        codes: dict[CodeType, bytes] = {}

        def trace(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal left
            if where not in frame.f_code.co_filename:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                code = frame.f_code
                if code not in codes:
                    codes[code] = code.co_code
                if codes[code][frame.f_lasti] not in steps:
                    return trace
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
            return trace

        code = 1
        try:
            # without this CPython 3.12 tells of no opcodes, nor 3.13 where f_trace_lines is off
            sys._getframe().f_trace_opcodes = True
            sys.settrace(trace)
            work()
            sys.settrace(None)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    died = os.WIFSIGNALED(status)
    assert died or status == 0
    return child, died


def own_of(tally: Tally, row: int = 0) -> int:
    """Return what this process counts in a row of a tally."""
    entry = tally.zone.ledger.places.get(tally._part | row)
    return 0 if entry is None else entry[0][entry[1]] & 0xFFFF_FFFF
