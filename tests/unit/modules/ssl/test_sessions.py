"""Ticket keys of a zone: shared, in time for everybody, changed when nobody needs them."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core import errors, shm
from ngxstream.event.libssl_sessions import TicketKey
from ngxstream.modules.ssl import sessions


class Clock:
    """A wall clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000

    def time(self) -> float:
        """Return the time."""
        return float(self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give the clock the keys look at."""
    made = Clock()
    monkeypatch.setattr(time, "time", made.time)
    return made


def make() -> sessions.TicketKeys:
    """Make the keys of a new zone."""
    return sessions.TicketKeys(shm.Zone("test", shm.LEAST, "ssl"))


def test_keys_stay_until_the_time_of_their_tickets_is_over(clock: Clock) -> None:
    """A ticket sealed now opens until its timeout, however often the keys are changed."""
    keys = make()
    sealed: list[tuple[int, TicketKey]] = []
    for _ in range(50):
        known = keys.keys(300)
        sealed.append((clock.now, known[0]))
        clock.now += 37
        known = keys.keys(300)
        for moment, key in sealed:
            if moment + 300 > clock.now:
                assert key in known
    assert len({key.name for _, key in sealed}) > 3


def test_a_quiet_zone_keeps_its_keys(clock: Clock) -> None:
    """Within the timeout there is nothing to change."""
    keys = make()
    first = keys.keys(300)[0]
    clock.now += 200
    assert first == keys.keys(300)[0]


def test_every_process_knows_every_key(clock: Clock) -> None:
    """What a child has moved on to, its parent opens already."""
    keys = make()
    keys.keys(300)
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        clock.now += 400
        os.write(writer, keys.keys(300)[0].name)
        os._exit(0)
    os.waitpid(pid, 0)
    name = os.read(reader, 16)
    os.close(reader)
    os.close(writer)
    assert name in [key.name for key in keys.keys(300)]


@given(st.binary(min_size=48, max_size=48) | st.binary(min_size=80, max_size=80))
def test_the_parts_of_a_key_lie_in_nginx_order(raw: bytes) -> None:
    """48 bytes are name, AES, HMAC; 80 bytes are name, HMAC, AES."""
    key = TicketKey.parse(raw)
    assert raw[:16] == key.name
    parts = key.aes + key.hmac if len(raw) == 48 else key.hmac + key.aes
    assert raw[16:] == parts


@pytest.mark.parametrize("size", [0, 47, 49, 79, 81, 4096])
def test_other_sizes_are_refused(tmp_path: Path, size: int) -> None:
    """The message names the file and the sizes."""
    path = tmp_path / "key"
    path.write_bytes(bytes(size))
    with pytest.raises(errors.ConfError, match='" must be 48 or 80 bytes'):
        sessions.read_ticket_key(str(path))


def test_an_adopted_zone_keeps_what_it_holds() -> None:
    """A reload finds sessions and keys where they were."""
    zone: Any = shm.Zone("test", shm.LEAST, "ssl")
    sessions.init_zone(zone, True)
    zone.data.store.put(b"id", b"session", int(time.time()) + 100)
    before = zone.data.keys.keys(300)
    sessions.init_zone(zone, False)
    assert b"session" == zone.data.store.get(b"id", int(time.time()))
    assert before == zone.data.keys.keys(300)
