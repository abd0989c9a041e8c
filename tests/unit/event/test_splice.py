"""The pool of pipes; what goes through them is in test_pump.py, with every kind of half."""

import fcntl
import os

from ngxstream.event import splice
from tests.support import descriptors


def test_a_pipe_that_comes_back_empty_is_lent_again() -> None:
    """One with bytes in it is closed: they would be another session's."""
    before = descriptors.count()
    pool = splice.PipePool()
    pipe = pool.take()
    assert pipe is not None
    pool.give(pipe)
    assert pipe is pool.take()
    pipe.held = 1
    pool.give(pipe)
    assert before == descriptors.count()


def test_there_are_so_many_pipes_and_no_more() -> None:
    """Who gets none copies; what was closed may be made anew."""
    pool = splice.PipePool(limit=2)
    lent = [pool.take(), pool.take()]
    assert None not in lent
    assert pool.take() is None
    for pipe in lent:
        assert pipe is not None
        pool.give(pipe)
    assert (True, True, False) == (pool.drop(), pool.drop(), pool.drop())
    again = pool.take()
    assert again is not None
    again.close()


def test_a_pipe_is_large_and_never_waits() -> None:
    """A pipe has PIPE_SIZE, is non-blocking, and is closed on exec."""
    pipe = splice.Pipe()
    assert splice.PIPE_SIZE == fcntl.fcntl(pipe.write_fd, fcntl.F_GETPIPE_SZ)
    assert [False] * 4 == [
        flag(fd) for fd in (pipe.read_fd, pipe.write_fd)
        for flag in (os.get_blocking, os.get_inheritable)
    ]
    pipe.close()


def test_where_no_descriptors_are_left_there_is_no_pipe() -> None:
    """The attempt leaks no descriptor."""
    pool = splice.PipePool()
    with descriptors.none_left():
        assert pool.take() is None
    pipe = pool.take()
    assert pipe is not None
    pipe.close()
