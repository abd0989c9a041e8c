"""A keyval_zone: when its pairs expire, and who is told of changes."""

from typing import Any

from ngxstream.core.shm_keyval import NEVER_MS
from ngxstream.stream import keyval_zone as zones


def test_pairs_expire_as_they_say_or_as_their_zone_says() -> None:
    """Without a timeout never."""
    zone = zones.KeyvalZone("z")
    assert not zone.is_declared
    assert NEVER_MS == zone.expiry(77)
    zone.declare("ip", 5000, "", ("f", 1))
    assert zone.is_declared
    assert (5077, 87) == (zone.expiry(77), zone.expiry(77, 10))


def test_who_writes_the_file_is_told_of_changes() -> None:
    """If there is somebody."""
    zone = zones.KeyvalZone("z")
    zone.changed()
    told = []

    class Saver:
        def changed(self) -> None:
            told.append(1)

    saver: Any = Saver()
    zone.saver = saver
    zone.changed()
    assert [1] == told
