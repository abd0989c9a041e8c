"""Exceptions of functions: how they are told, and how a session that waited goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ngxstream.core import log
from ngxstream.event.loop import Loop
from ngxstream.modules.py import faults
from ngxstream.scripting import running
from tests.support import ports
from tests.support.clients import UdpClient
from tests.support.engine import engine
from tests.support.in_process import InProcess
from tests.support.udp_in_process import UdpInProcess


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Give a loop, whose limit is closed at the end."""
    with engine() as made:
        yield made
        running.limit_of(made).close()


class Told:
    """Keeps lines."""

    def __init__(self, loop: Loop) -> None:
        self.limit = running.limit_of(loop)
        self.lines: list[tuple[int, str]] = []

    def log(self, level: int, message: str) -> None:
        """Keep a line."""
        self.lines.append((level, message))


def test_one_line_says_what_and_where_and_debug_has_the_traceback(loop: Loop) -> None:
    """The exception loses its frames."""
    to = Told(loop)
    with pytest.raises(ValueError, match="no") as caught:
        raise ValueError("no\nmore")
    faults.tell_of(to, "m.f", caught.value)
    assert caught.value.__traceback__ is None
    line = f'"m.f" failed: ValueError: no\\x0Amore in {__file__}:'
    assert to.lines[0][1].startswith(line)
    assert log.ERR == to.lines[0][0]
    assert {log.DEBUG} == {level for level, _ in to.lines[1:]}
    assert "Traceback (most recent call last):" == to.lines[1][1]


@pytest.mark.parametrize("body", ["raise Bad", "while True: pass", "return 7"])
def test_an_exception_that_cannot_say_what_it_is_has_its_name_told(loop: Loop, body: str) -> None:
    """What __str__ does is the user's code: it has its time, and may raise."""
    names: dict[str, Any] = {"__name__": "users"}
    exec(f"class Bad(Exception):\n def __str__(self):\n  {body}", names)
    to = Told(loop)
    faults.tell_of(to, "m.f", names["Bad"]())
    assert (log.ERR, '"m.f" failed: Bad') == to.lines[0]


def test_a_fault_behind_the_phase_ends_the_session(tmp_path: Path) -> None:
    """The coroutine was woken by a timer, which knows of no session."""
    (tmp_path / "m.py").write_text(FUNCTIONS)
    text = (f"stream {{ py_path {tmp_path}; py_import m; server {{ listen 127.0.0.1:@a@; "
            "py_access m.lets_in; return x; } }")
    with InProcess(text) as served:

        def fails(s: Any) -> None:
            raise RuntimeError("ours")

        served.conf.servers[0].handler = fails
        assert b"" == served.read(served.connect())
        assert [500] == [s.status for s in served.sessions]
        assert 1 == sum(level == "alert" for level, _ in served.target.lines)
        running.limit_of(served.loop).close()


FUNCTIONS = """
from ngxstream.scripting import sleep
gate = [False]
async def waits(s):
    while not gate[0]: await sleep(0)
    s.allow()
async def lets_in(s):
    await sleep(0)
    s.allow()
"""


def test_datagrams_that_come_while_a_function_waits_are_the_sessions(
    tmp_path: Path,
) -> None:
    """In their order, once it was let in; each session of a client has what it wants."""
    (tmp_path / "m.py").write_text(FUNCTIONS)
    text = (f"stream {{ py_path {tmp_path}; py_import m; "
            "server { listen 127.0.0.1:0 udp; py_access m.waits; return \"$bytes_received;\"; } }")
    with UdpInProcess(text.replace(":0", f":{ports.free_port()}")) as served:
        gate = served.built.conf.data["py"].modules[0].gate
        with UdpClient(served.address()) as client:
            for data in (b"a", b"bb", b"ccc"):
                client.send(data)
            for _ in range(10):
                served.loop.turn(5)
            assert 1 == len(served.loop.sessions)
            gate[0] = True
            for _ in range(50):
                served.loop.turn(5)
            assert [b"1;", b"2;", b"3;"] == [client.recv() for _ in range(3)]
        assert (0, [], set()) == (served.loop.live, served.alerts(), served.loop.sessions)
        running.limit_of(served.loop).close()
