"""Requests of HTTP/1.1, valid ones and such that were tampered with.

Under the profile of `make fuzz` a million mutated requests are tried.
"""

import gc
import os
import random
import sys
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.wire import http, http_reply, reader
from tests.support.http_requests import SEEDS, tampered

IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "fuzz"
COUNT, PARTS = (1_000_000, 20) if IS_LONG else (3000, 1)


def outcome(data: bytes, steps: list[int]) -> list[object]:
    """Return the events of bytes that come in steps, and the error behind them."""
    parser = http.Parser()
    found: list[object] = []
    at = 0
    try:
        for size in [*steps, len(data)]:
            parser.feed(data[at : at + size])
            at += size
            while (event := parser.next()) is not reader.NEED_MORE:
                assert isinstance(event, http.Head | http.Body)
                found.append(event)
    except http.HttpError as error:
        found.append((error.status, error.text, error.part))
    return found


requests = st.randoms(use_true_random=False).map(tampered)


@given(requests | st.binary(max_size=60), st.lists(st.integers(0, 40), max_size=8))
def test_how_the_bytes_come_changes_nothing(data: bytes, steps: list[int]) -> None:
    """Whole, one by one or in any steps: the same events and the same error."""
    whole = outcome(data, [])
    if whole and not isinstance(whole[-1], http.Head | http.Body):
        status, text, part = cast("tuple[int, str, str]", whole[-1])
        assert status in http_reply.REASONS
        assert text
        assert part in (http.LINE, http.HEADERS, http.BODY)
    assert whole == outcome(data, [1] * len(data))
    assert whole == outcome(data, steps)


@given(st.lists(st.sampled_from(SEEDS), min_size=1, max_size=4))
def test_whole_requests_are_read(seeds: list[bytes]) -> None:
    """As many heads and bodies as there are requests."""
    found = outcome(b"".join(seeds), [])
    assert 2 * len(seeds) == len(found)
    assert all(isinstance(one, http.Head) for one in found[::2])


@pytest.mark.parametrize("part", range(PARTS))
def test_no_mutation_gets_out_of_hand(part: int) -> None:
    """Nothing but the parser's own error is raised, and memory does not grow."""
    random_ = random.Random(part)
    blocks = []
    for _ in range(2):
        for _ in range(COUNT // PARTS // 2):
            outcome(tampered(random_), [random_.randint(0, 200)])
        gc.collect()
        blocks.append(sys.getallocatedblocks())
    assert blocks[1] - blocks[0] < 1000
