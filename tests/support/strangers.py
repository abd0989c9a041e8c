"""Processes of other users: what a hostile neighbour on the same machine can do."""

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

NOBODY = 65534


def _be(uid: int, do: Callable[[], None], told: int) -> None:
    """Do something as a user, in a forked child; never returns."""
    code = 1
    try:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        do()
        code = 0
    except BaseException:  # noqa: BLE001 - a forked child must not run the test
        os.write(told, traceback.format_exc().encode()[-4000:])
    finally:
        os._exit(code)


def run_as(uid: int, do: Callable[[], None]) -> None:
    """Do something as another user and wait for its end; what it raises fails the test."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be(uid, do, writer)
    os.close(writer)
    with open(reader) as told:
        said = told.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, said


@contextmanager
def lingering_as(uid: int, do: Callable[[], None]) -> Iterator[int]:
    """Do something as another user, and have it stay with all it has; give its pid."""
    ready, done = os.pipe()
    over, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(end)

        def stay() -> None:
            do()
            os.write(done, b".")
            os.read(over, 1)

        _be(uid, stay, done)
    os.close(done)
    os.close(over)
    try:
        with open(ready, "rb", buffering=0) as told:
            said = told.read(4096)
            assert said == b".", said.decode()
            yield pid
    finally:
        os.close(end)
        os.waitpid(pid, 0)
