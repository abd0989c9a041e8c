"""A proxy_pass with variables leads to addresses that are known only when a session comes."""

import pytest

from ngxstream.event.resolver import Address
from ngxstream.modules.proxy import target


def addresses(count: int) -> tuple[Address, ...]:
    """Make so many."""
    return tuple(Address(2, f"10.0.{n >> 8}.{n & 255}") for n in range(count))


@pytest.mark.parametrize("count", [0, 1, target.PEERS])
def test_a_session_may_try_all_addresses_of_an_ordinary_name(count: int) -> None:
    """In the order of the answer."""
    assert addresses(count) == target.some_of(addresses(count))


def test_a_session_tries_no_more_addresses_than_allowed() -> None:
    """Of a thousand each gets its turn, in one session or another."""
    every = addresses(target.PEERS + 1)
    seen = set()
    for _ in range(400):
        some = target.some_of(every)
        assert target.PEERS == len(set(some)) == len(some)
        seen.update(some)
    assert set(every) == seen
