"""stream/session.py: the end of a session is whole, whatever one of its steps raises."""

import socket
from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.core.log import CRIT, ERR, WARN
from ngxstream.event.connection import Connection
from ngxstream.stream.session import Session
from tests.support.engine import MemoryLog, engine
from tests.support.in_process import InProcess

CONF = "stream { server { listen 127.0.0.1:@in@; ssl_preread on; return x; } }"


@pytest.fixture
def session():
    """Give a session that waits for its client."""
    served = InProcess(CONF)
    served.connect()
    served.turn_until(lambda: served.sessions)
    yield served.sessions[0]
    served.close()


def test_cleanups_are_done_last_first(session) -> None:
    """What was taken last is given back first, when the session has been logged."""
    done: list[str] = []
    session.address.log_handlers = (lambda s: done.append(f"logged {s.status}"),)
    for name in "abc":
        session.add_cleanup(lambda name=name: done.append(name))
    session.finalize(200)
    assert ["logged 200", "c", "b", "a"] == done
    session.finalize(500)
    assert ["logged 200", "c", "b", "a"] == done


@pytest.mark.parametrize("is_on", [True, False])
def test_a_client_s_socket_has_tcp_nodelay_where_its_server_says_so(is_on: bool) -> None:
    """Also where another server has it from its listening socket, or not."""
    words = ["off", "on"]
    served = InProcess(f"""stream {{
        server {{ listen 127.0.0.1:@in@; tcp_nodelay {words[is_on]}; ssl_preread on; return x; }}
        server {{ listen 127.0.0.1:@other@; tcp_nodelay {words[not is_on]}; return x; }}
    }}""")
    served.connect()
    served.turn_until(lambda: served.sessions)
    s = served.sessions[0]
    s.set_nodelay()
    assert is_on == bool(s.c.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
    served.close()


def test_an_abandoned_session_hands_its_cleanups_on_in_order(session) -> None:
    """Who goes on with the connection adds them as they were added: they stay last first."""
    done: list[str] = []
    for name in "abc":
        session.add_cleanup(lambda name=name: done.append(name))
    for cleanup in session.abandon():
        cleanup()
    assert (["a", "b", "c"], None) == (done, session.cleanups)
    session.finalize(200)  # nothing is left to end
    assert ["a", "b", "c"] == done
    session.loop.close_connection(session.c)


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


def test_a_session_that_has_ended_keeps_nothing(session) -> None:
    """What modules and variables kept goes with it, and so does its content."""
    session.set_module_ctx("x", object())
    session.values = [b"x"]
    session.finalize(200)
    assert (None, None, None) == (session.ctx, session.values, session.content)
    assert session.module_ctx("x") is None


def test_a_line_is_written_if_its_level_is_on(session) -> None:
    """The level that is set is on, the one below it is not."""
    memory = session.log = MemoryLog()
    memory.level = ERR
    for level in (CRIT, ERR, WARN):
        session.log_error(level, f"level {level}")
    assert [CRIT, ERR] == [level for level, _ in memory.lines]
