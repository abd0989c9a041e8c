"""stream/session.py: the end of a session is whole, whatever one of its steps raises."""

from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.event.connection import Connection
from ngxstream.stream.session import Session
from tests.support.engine import MemoryLog, engine


class Content:
    """A content that may fail to close."""

    def __init__(self, seen: list[str], *, fails: bool) -> None:
        self.seen = seen
        self.fails = fails

    def close(self) -> None:
        """Note it, and fail if that is wanted."""
        self.seen.append("close")
        if self.fails:
            raise ValueError("close")

    def log_suffix(self) -> str:
        """Return nothing."""
        return ""


@pytest.mark.parametrize("bad", ["close", "log 1", "log 2", "cleanup 1", "cleanup 2", "none"])
def test_an_end_is_whole_whatever_a_step_raises(bad: str) -> None:
    """Content, log handlers, cleanups (last first) and connection: each has its turn, once."""
    seen: list[str] = []

    def step(name: str) -> Any:
        def run(*_: Any) -> None:
            seen.append(name)
            if name == bad:
                raise ValueError(name)

        return run

    with engine() as loop:
        loop.close_later = lambda sock: None  # type: ignore[method-assign]
        address: Any = SimpleNamespace(
            default_server=SimpleNamespace(log=MemoryLog()), text="here",
            log_handlers=(step("log 1"), step("log 2")),
        )
        forgotten: list[Connection] = []
        table: Any = SimpleNamespace(forget=forgotten.append)
        c = Connection(None, -1, 2, ("127.0.0.1", 1), 1, None, table, "key")  # type: ignore[arg-type]
        loop.live += 1
        loop.free_connections -= 1
        s = Session(c, loop, address)
        s.content = Content(seen, fails=bad == "close")
        s.add_cleanup(step("cleanup 1"))
        s.add_cleanup(step("cleanup 2"))
        s.finalize(200)
        s.finalize(500)
        assert ["close", "log 1", "log 2", "cleanup 2", "cleanup 1"] == seen
        assert ([c], True, 0) == (forgotten, c.closed, loop.live)
        assert (200, None, set()) == (s.status, s.content, loop.sessions)
        assert int(bad != "none") == len(loop.log.lines)
