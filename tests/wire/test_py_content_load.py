"""Ten thousand sessions of a function, many of which end badly: nothing of them is left."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ngxstream.event.time_limit import TimeLimit
from ngxstream.stream import endings
from tests.support import descriptors
from tests.support.awaited import module, reset
from tests.support.in_process import InProcess

SESSIONS = 10_000
AT_ONCE = 100
KINDS = (
    "echo", "echo", "connects", "fetches", "raises", "raises late", "hangs", "waits for ever",
    "is cancelled", "resets", "times out", "gathers", "leaves it open", "echo",
)
APP = """
async def f(s):
    kind, port = (await s.readuntil()).decode().strip().split(",")
    try:
        if kind == "raises":
            raise LookupError(kind)
        if kind == "raises late":
            await sleep(0)
            raise LookupError(kind)
        if kind in ("hangs", "is cancelled"):
            await sleep(1000)
        if kind in ("waits for ever", "resets"):
            await s.receive()
        if kind == "times out":
            try:
                async with timeout(0.02):
                    await gather(sleep(1000), s.receive())
            except TimeoutError:
                pass
        if kind == "gathers":
            await gather(asks(port), asks(port), sleep(0))
        if kind == "connects":
            await asks(port)
        if kind == "leaves it open":
            left = await connect("127.0.0.1", int(port))
            left.write(b"x")
            s.state.left = left
        if kind == "fetches":
            try:
                await fetch(f"http://127.0.0.1:{port}/", timeout=0.05)
            except (FetchError, OSError):
                pass
        s.send_to_client(kind.encode())
    finally:
        s.variables.get("status")


async def asks(port):
    async with await connect("127.0.0.1", int(port)) as stream:
        stream.write(b"ping")
        await stream.readexactly(4)
"""
ECHO = """
async def echo(s):
    async for data in s:
        s.send_to_client(data)
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[InProcess]:
    """Serve the function, and an echo for what it connects to."""
    imported = module(tmp_path, APP) + module(tmp_path, ECHO, "echo")
    with InProcess(
        f"stream {{ proxy_timeout 100ms; {imported} "
        f"server {{ listen 127.0.0.1:@a@; py_content app.f; }} "
        f"server {{ listen 127.0.0.1:@b@; py_content echo.echo; }} }}",
        level=2,
    ) as made:
        yield made
        made.loop.get(TimeLimit).close()


def _batch(served: InProcess, kinds: list[str]) -> None:
    """Have sessions of these kinds, all at once, and wait for their end."""
    clients = []
    for kind in kinds:
        client = served.connect()
        client.send(f"{kind},{served.ports['b']}\n".encode())
        clients.append((kind, client))
    resetting = [client for kind, client in clients if kind == "resets"]
    served.turn_until(lambda: len(served.loop.sessions) >= 1)
    for _ in range(3):
        served.loop.turn(0)
    for client in resetting:
        reset(client)
    for s in list(served.loop.sessions):
        its: Any = s.module_ctx("py")
        if its is not None and its.tasks and s.c.received and s.c.number % 29 == 0:
            s.end(200, endings.API)
    served.turn_until(lambda: not served.loop.sessions, "all are over")
    for _, client in clients:
        with contextlib.suppress(OSError):
            client.close()
    served.clients.clear()
    served.sessions.clear()
    served.target.lines.clear()
    served.loop.turn(0)


def test_ten_thousand_sessions_leave_nothing(served: InProcess) -> None:
    """Memory, descriptors and slots are as they were; the collector does not run meanwhile.

    From Python 3.12 on it has something to find: the frame of an exception that was caught refers
    to its caller's. Where functions are, workers run it.
    """
    is_clean = sys.version_info < (3, 12)
    kinds = [KINDS[n % len(KINDS)] for n in range(SESSIONS)]
    batches = [kinds[at : at + AT_ONCE] for at in range(0, SESSIONS, AT_ONCE)]
    gc.collect()
    gc.disable()
    try:
        marks = []
        for n, batch in enumerate(batches):
            _batch(served, batch)
            if n in (len(batches) // 4, len(batches) - 1):
                if not is_clean:
                    gc.collect()
                marks.append((sys.getallocatedblocks(), descriptors.count()))
        (blocks, fds), (blocks_after, fds_after) = marks
        assert fds == fds_after
        assert (served.loop.connections, 0) == (served.loop.free_connections, served.loop.live)
        assert blocks_after - blocks < 2000
        assert not served.loop.sessions
        found = gc.collect()
        assert found < 100 or not is_clean
    finally:
        gc.enable()

