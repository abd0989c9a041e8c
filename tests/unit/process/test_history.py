"""Loads of configurations, remembered where all processes see them."""

from ngxstream.process import history
from ngxstream.process.history import History, Loaded
from tests.support.forks import in_child


def test_loads_are_remembered_the_latest_first() -> None:
    """With the numbers of those that went well and of those that did not."""
    kept = History()
    assert [] == kept.loads()
    assert kept.latest() is None
    kept.add(1000, 20, 1, 0, accepted=True, message="")
    kept.add(2000, 30, 1, 5, accepted=False, message='[emerg] unknown directive "x"')
    first = Loaded(1000, 20, 1, 0, True, "", 1, 0)
    assert [Loaded(2000, 30, 1, 5, False, '[emerg] unknown directive "x"', 1, 1), first] == (
        kept.loads()
    )
    assert first == kept.latest()


def test_the_last_hundred_are_remembered_and_all_are_counted() -> None:
    """Also when a message is too long, and cut within a character."""
    kept = History()
    for n in range(history.LOADS + 7):
        kept.add(n, n, n, n, accepted=n > 0, message="x" + "\u20ac" * history.MAX_MESSAGE)
    found = kept.loads()
    assert list(range(history.LOADS + 6, 6, -1)) == [load.generation for load in found]
    assert (100, history.LOADS + 6, 1) == (len(found), *found[0][6:])
    assert found[0].message.startswith("x\u20ac\u20ac")


def test_what_another_process_writes_there_is_checked() -> None:
    """A record that makes no sense is left out."""
    kept = History()
    kept.add(1000, 20, 1, 0, accepted=True, message="")
    in_child(lambda: kept._ring.add(b"nonsense"))
    in_child(lambda: kept._ring.add(history._RECORD.encode((-1, 0, 0, 0, True, "", 1, 0))))
    assert [1000] == [load.time_ms for load in kept.loads()]
