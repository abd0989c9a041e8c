"""Replies of HTTP/1.1, valid ones and such that were tampered with."""

import gc
import os
import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.wire import http_client
from tests.support.http_answers import SEEDS, tampered

IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "fuzz"
COUNT, PARTS = (1_000_000, 20) if IS_LONG else (4000, 1)
MOST = 40


def outcome(data: bytes, steps: list[int], method: str = "GET") -> object:
    """Return the reply that bytes are which come in steps, or the error."""
    parser = http_client.Parser(method, MOST)
    at = 0
    try:
        for size in [*steps, len(data)]:
            piece = data[at : at + size]
            if piece:
                parser.feed(piece)
            at += size
        parser.feed(b"")
    except http_client.ReplyError as error:
        return str(error)
    assert parser.reply is not None
    assert len(parser.reply.body) <= MOST
    return parser.reply


replies = st.randoms(use_true_random=False).map(tampered)


@given(
    replies | st.binary(max_size=60), st.lists(st.integers(0, 40), max_size=8),
    st.sampled_from(["GET", "HEAD"]),
)
def test_how_the_bytes_come_changes_nothing(data: bytes, steps: list[int], method: str) -> None:
    """Whole, one by one or in any steps: the same reply or the same error."""
    whole = outcome(data, [], method)
    assert whole == outcome(data, [1] * len(data), method)
    assert whole == outcome(data, steps, method)


@given(st.sampled_from(SEEDS), st.binary(max_size=30))
def test_what_follows_a_reply_changes_nothing(seed: bytes, more: bytes) -> None:
    """But for one that ends with the connection."""
    whole = outcome(seed, [])
    assert isinstance(whole, http_client.Reply)
    if b"until" not in seed:
        assert whole == outcome(seed + more, [])


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
