"""The descriptors of the test's own process: how many there are, and room for more."""

import contextlib
import gc
import os
import resource
from collections.abc import Iterator

FD_SETSIZE = 1024  # select(2) knows numbers below it


def count() -> int:
    """Return how many descriptors this process has open."""
    return len(numbers()) - 1  # the listing's own


def numbers() -> set[str]:
    """Return which descriptors are open, and that of the listing.

    What earlier tests left in cycles is closed first: it must not be closed between two counts.
    """
    gc.collect()
    return set(os.listdir("/proc/self/fd"))


@contextlib.contextmanager
def room_for_many(least: int = 4 * FD_SETSIZE) -> Iterator[None]:
    """Let this process, and the programs it starts meanwhile, open so many descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = least if soft == resource.RLIM_INFINITY else max(soft, least)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def beyond_select() -> Iterator[None]:
    """Hold so many descriptors that every further one is beyond what select(2) knows."""
    with room_for_many(), contextlib.ExitStack() as held:
        fd = -1
        while fd < FD_SETSIZE:
            fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            held.callback(os.close, fd)
        yield


@contextlib.contextmanager
def none_left() -> Iterator[None]:
    """Let this process open no further descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    with contextlib.ExitStack() as held:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        with contextlib.suppress(OSError):
            while True:
                held.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        yield


@contextlib.contextmanager
def no_more_than(most: int) -> Iterator[None]:
    """Have the programs started meanwhile open no more descriptors than so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
