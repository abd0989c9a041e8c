"""The `name:size` of a shared memory zone: what is taken, and what is said of the rest."""

from __future__ import annotations

import pytest

from ngxstream.conf.zone_size import named_size
from ngxstream.core import errors, shm


@pytest.mark.parametrize(("text", "expected"), [
    ("a:32k", ("a", 32 * 1024)),
    ("a:1m", ("a", 1024 * 1024)),
    (":32k", ("", 32 * 1024)),  # the directive says that its name is missing
    (f"a:{shm.LEAST}", ("a", shm.LEAST)),
])
def test_a_name_and_a_size(text: str, expected: tuple[str, int]) -> None:
    """The size is in bytes; an empty name is left to the directive."""
    assert named_size(f"zone={text}", text) == expected


@pytest.mark.parametrize(("text", "message"), [
    ("a", 'invalid zone size "zone=a"'),
    ("a:", 'invalid zone size "zone=a:"'),
    ("a:b:32k", 'invalid zone size "zone=a:b:32k"'),
    ("a:-1", 'invalid zone size "zone=a:-1"'),
    (f"a:{shm.LEAST - 1}", f'zone "zone=a:{shm.LEAST - 1}" is too small'),
])
def test_the_message_has_the_whole_argument(text: str, message: str) -> None:
    """A size that is none, or below the least, is refused with the argument as it was written."""
    with pytest.raises(errors.ConfError) as caught:
        named_size(f"zone={text}", text)
    assert message in str(caught.value)
