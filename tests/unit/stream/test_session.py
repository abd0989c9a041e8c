"""The end of a session: in what order it lets go, and that nothing keeps it from doing so."""

import pytest

from tests.support.hall import Hall

CONF = "stream { server { listen 127.0.0.1:@in@; ssl_preread on; return x; } }"


@pytest.fixture
def session():
    """Give a session that waits for its client."""
    hall = Hall(CONF)
    hall.connect()
    hall.turn_until(lambda: hall.sessions)
    yield hall.sessions[0]
    hall.close()


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


@pytest.mark.parametrize("where", ["content", "log", "cleanup"])
def test_a_fault_at_the_end_leaves_nothing_behind(where: str, session) -> None:
    """Whatever raises, the other cleanups are done, and the connection is closed with its slots."""
    done: list[str] = []
    loop, slots = session.loop, session.loop.connections

    def fail(*_) -> None:
        raise ZeroDivisionError

    session.add_cleanup(lambda: done.append("first"))
    if where == "cleanup":
        session.add_cleanup(fail)
        session.add_cleanup(fail)
    elif where == "log":
        session.address.log_handlers = (fail,)
    else:
        session.content = type("Content", (), {"close": fail})()
    session.add_cleanup(lambda: done.append("last"))
    with pytest.raises(ZeroDivisionError):
        session.finalize(200)
    assert ["last", "first"] == done
    assert (slots, True, set()) == (loop.free_connections, session.c.closed, loop.sessions)
