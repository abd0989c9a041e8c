"""SystemNames: what the system says, beside the loop."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ngxstream.event import names, offload
from ngxstream.event.loop import Loop
from tests.support.awaited import result, start
from tests.support.engine import engine, run_until


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Give a loop."""
    with engine() as made:
        yield made


async def _lookup(name: bytes) -> Any:
    return await names.Lookup(name)


def test_a_name_of_the_host_is_found(loop: Loop) -> None:
    """Each address once, with its family."""
    found = result(loop, _lookup(b"localhost"))
    assert (int(socket.AF_INET), "127.0.0.1") in found or (int(socket.AF_INET6), "::1") in found
    assert len(set(found)) == len(found)


def test_what_is_not_found_is_an_error(loop: Loop) -> None:
    """getaddrinfo's own."""
    with pytest.raises(socket.gaierror):
        result(loop, _lookup(b"none.invalid"))


def test_names_that_hang_hold_up_no_others(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as there is a thread; a wait that was given up is asked for by nobody."""
    go = threading.Event()
    asked: list[bytes] = []

    def getaddrinfo(name: bytes, *_: Any, **__: Any) -> list[Any]:
        asked.append(name)
        if name == b"hangs":
            go.wait(20)
        return [(socket.AF_INET, 1, 6, "", ("192.0.2.1", 0))] * 2

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    hanging = [start(loop, _lookup(b"hangs")) for _ in range(names.THREADS - 1)]
    try:
        assert [(2, "192.0.2.1")] == result(loop, _lookup(b"quick"))
        run_until(loop, lambda: len(asked) == names.THREADS)
        hanging.append(start(loop, _lookup(b"hangs")))
        run_until(loop, lambda: len(asked) == names.THREADS + 1)
        late = start(loop, _lookup(b"late"))
        late.cancel()
        late.error = None
    finally:
        go.set()
    run_until(loop, lambda: all(task.is_over for task in hanging))
    assert b"late" not in asked


def test_too_many_at_once_are_refused(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is that of all queues together."""
    go = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: go.wait(20) and [])
    most = names.THREADS * offload.MAX_WAITING
    waiting = [start(loop, _lookup(b"x")) for _ in range(most)]
    try:
        with pytest.raises(OSError, match="too many names") as raised:
            result(loop, _lookup(b"x"))
        assert errno.ENOBUFS == raised.value.errno
    finally:
        go.set()
    run_until(loop, lambda: all(task.is_over for task in waiting))
