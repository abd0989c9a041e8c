"""Rows of a zone: whose they are, when they begin anew, and who finds them."""

import array
import os
import signal
import socket
from typing import Any

import pytest

from ngxstream.core import errors, shm
from ngxstream.modules.upstream.peer_table import ENTRY, KEY_LOW, ROW_BYTES, TAG, PeerTable
from ngxstream.stream.peer_state import NEVER_MS
from ngxstream.stream.upstream import Peer, ServerSpec
from tests.support.forks import in_child

PLAIN = Peer(ServerSpec("a", ()), socket.AF_INET, ("127.0.0.1", 1), "127.0.0.1:1")


def test_a_row_is_not_given_to_another_server_while_anybody_waits_there() -> None:
    """Where the zone is full, a row with sessions, or with some that wait, stays what it is."""
    table = PeerTable(shm.Zone("z", 4 * ROW_BYTES, "upstream"))
    table.next_configuration()
    rows = [table.attach(PLAIN, b"%d" % n, pin=False).row for n in range(4)]
    table.tallies["conns"].add(rows[0])
    table.tallies["waiting"].add(rows[1])
    others = {table.attach(PLAIN, b"other %d" % n, pin=True).row for n in range(2)}
    assert set(rows[2:]) == others
    with pytest.raises(errors.UnplacedError):
        table.attach(PLAIN, b"another", pin=True)
    table.tallies["waiting"].add(rows[1], -1)
    assert rows[1] == table.attach(PLAIN, b"another", pin=True).row


def test_a_row_that_is_taken_begins_anew_and_no_other_does() -> None:
    """Never failed, never checked; what stands in the rows beside it stays."""
    table = PeerTable(shm.Zone("z", 32768, "upstream"))
    table.next_configuration()
    first = table.attach(PLAIN, b"first", pin=True)
    first.fails, first.accessed_ms, first.checked_ms = 3, 11, 12
    second = table.attach(PLAIN, b"second", pin=True)
    assert (NEVER_MS, NEVER_MS, 0) == (second.accessed_ms, second.checked_ms, second.fails)
    assert (3, 11, 12) == (first.fails, first.accessed_ms, first.checked_ms)
    third = table.attach(PLAIN, b"third", pin=True)
    assert (NEVER_MS, NEVER_MS) == (third.accessed_ms, third.checked_ms)
    assert (NEVER_MS, NEVER_MS, 0) == (second.accessed_ms, second.checked_ms, second.fails)


def test_a_row_that_another_process_has_named_is_found() -> None:
    """Each process has an index of its own: what others attach and move is looked up anew."""
    table = PeerTable(shm.Zone("z", 1 << 16, TAG))

    def attach(*names: bytes) -> list[int]:
        return [table.attach(PLAIN, name, pin=False).row for name in names]

    assert [0, 1] == attach(b"a", b"b")
    in_child(lambda: attach(b"c", b"d"))
    assert [2, 3, 4] == attach(b"c", b"d", b"e")

    def move() -> None:
        with table.zone.lock:
            table.move(1, b"e", 1)

    in_child(move)
    assert [1, 0, 5] == attach(b"e", b"a", b"b")
    keys = slice(0, KEY_LOW + 1), slice(ENTRY, ENTRY + KEY_LOW + 1)
    first = table._entries[keys[0]].tolist()
    table._entries[keys[0]] = table._entries[keys[1]]
    table._entries[keys[1]] = memoryview(array.array("q", first))
    assert [1, 0] == attach(b"a", b"e"), "nobody said that these were changed"


@pytest.mark.parametrize("step", range(1, 6))
def test_who_dies_while_a_row_is_named_leaves_no_index_behind(step: int) -> None:
    """The others see all that is there, whatever was done by then."""
    table = PeerTable(shm.Zone("z", 1 << 16, TAG))
    table.attach(PLAIN, b"a", pin=True)

    class Deadly:
        """Memory that kills who stores in it too often."""

        left = step

        def __init__(self, view: Any) -> None:
            self.view = view

        def __getitem__(self, at: Any) -> Any:
            return self.view[at]

        def __setitem__(self, at: Any, value: Any) -> None:
            if Deadly.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            Deadly.left -= 1
            self.view[at] = value

    def die() -> None:
        deadly: Any = table
        deadly._entries, deadly._state = Deadly(table._entries), Deadly(table._state)
        table.attach(PLAIN, b"b", pin=True)
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        die()
    assert signal.SIGKILL == os.waitpid(child, 0)[1]
    rows = [table.attach(PLAIN, name, pin=True).row for name in (b"a", b"b", b"c")]
    assert 0 == rows[0]
    assert 3 == len(set(rows))
    assert rows == [table.attach(PLAIN, name, pin=True).row for name in (b"a", b"b", b"c")]
