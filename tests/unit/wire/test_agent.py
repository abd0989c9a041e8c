"""What an agent says: each word, their order, and that nothing else comes of any bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.wire import agent, dialogues
from ngxstream.wire.agent import NOTHING, Said

WORDS = [
    b"up", b"down", b"fail", b"stopped", b"ready", b"drain", b"maint", b"75%", b"weight:7",
    b"weight:50%", b"maxconn:30", b"rubbish", b"#why", b"", b"\xff", b"DOWN", b"Maint",
]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"75%", Said(percent=75)),
        (b"0%", Said(percent=0)),
        (b"25600%", Said(percent=25600)),
        (b"weight:50%", Said(percent=50)),
        (b"weight:0", Said(weight=0)),
        (b"weight:256", Said(weight=256)),
        (b"maxconn:30", Said(max_conns=30)),
        (b"maxconn:0", Said(max_conns=0)),
        (b"up", Said("up")),
        (b"UP, Ready\t100%", Said("up", "ready", 100)),
        (b"down#disk full, up", Said("down", text=b"disk full, up")),
        (b"fail # disk full ", Said("fail", text=b"disk full")),
        (b"stopped drain", Said("stopped", "drain")),
        (b"maint", Said(admin="maint")),
        (b"", NOTHING),
        (b" ,\t,", NOTHING),
        (b"#only a text", Said(text=b"only a text")),
    ],
)
def test_words_are_what_haproxy_takes(line: bytes, said: Said) -> None:
    """In any case, between any of the three separators."""
    assert said == agent.parse(line)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"up down", Said("down")),
        (b"50% 60%", Said(percent=60)),
        (b"50% weight:3", Said(weight=3)),
        (b"weight:3 50%", Said(percent=50)),
        (b"drain ready", Said(admin="ready")),
        (b"maxconn:1 maxconn:2", Said(max_conns=2)),
    ],
)
def test_the_later_word_counts(line: bytes, said: Said) -> None:
    """Of two about one thing."""
    assert said == agent.parse(line)


@pytest.mark.parametrize(
    "word",
    [b"rubbish", b"-5%", b"75", b"%", b"7.5%", b"25601%", b"123456%", b"weight:", b"weight:257",
     b"weight:-1", b"maxconn:", b"maxconn:2147483648", b"maxconn:99999999999", b"upp", b"up\0",
     "٣%".encode(), b"\xff"],
)
def test_others_are_left_out(word: bytes) -> None:
    """The first of them is told, and what stands around it counts."""
    assert Said("up", percent=50, unknown=word) == agent.parse(b"up " + word + b" 50% other")


def test_what_is_kept_is_bounded() -> None:
    """However long the text or the word is."""
    found = agent.parse(b"x" * 400 + b"#" + b"y" * 400)
    assert (b"x" * 80, b"y" * 80) == (found.unknown, found.text)


@given(st.binary(max_size=200) | st.lists(st.sampled_from(WORDS)).map(b" ".join))
def test_any_bytes_are_a_line(data: bytes) -> None:
    """What is said is within its bounds."""
    found = agent.parse(agent.line_of(data))
    assert found.status in agent.STATUSES
    assert found.admin in agent.ADMINS
    assert found.percent is None or found.weight is None
    assert 0 <= (found.percent or 0) <= agent.MOST_PERCENT
    assert 0 <= (found.weight or 0) <= agent.MOST_WEIGHT
    assert len(found.text) <= agent.MOST_TEXT >= len(found.unknown)
    assert b"\n" not in found.text + found.unknown


@given(st.lists(st.sampled_from(WORDS), max_size=6), st.sampled_from([b" ", b",", b"\t ", b", "]))
def test_separators_are_all_the_same(words: list[bytes], between: bytes) -> None:
    """But in a text."""
    words = [word for word in words if b"#" not in word]
    assert agent.parse(b" ".join(words)) == agent.parse(between.join(words))


# -- the dialogue ------------------------------------------------------------------------------


def heard(data: bytes, step: int, send: bytes = b"") -> bytes | str | None:
    """Let bytes come so many at a time. Returns: the line, what is wrong with it, None to wait"""
    dialogue = agent.ask(send)
    assert send == next(dialogue)
    try:
        if send:
            assert b"" == dialogue.send(b"")  # it is sent
        for n in range(0, len(data), step):
            assert b"" == dialogue.send(data[n : n + step])
    except StopIteration:
        return agent.line_of(data)
    except dialogues.ProbeError as error:
        return str(error)[:20]
    return None


@given(
    st.binary(max_size=20) | st.builds(
        lambda n, end, rest: b"x" * n + end + rest,
        st.integers(agent.MOST_LINE - 3, agent.MOST_LINE + 3),
        st.sampled_from([b"", b"\r", b"\n", b"\r\n"]), st.binary(max_size=9),
    )
)
def test_whole_or_byte_by_byte_it_ends_the_same_way(data: bytes) -> None:
    """A line that is no longer than MOST_LINE, one that is, or more to come."""
    whole = heard(data, max(len(data), 1))
    assert whole == heard(data, 1)
    if isinstance(whole, bytes):
        assert len(whole) <= agent.MOST_LINE


def test_a_line_ends_with_cr_or_lf() -> None:
    """What stands behind it is nobody's."""
    assert b"up" == heard(b"up\rdown", 99)
    assert b"up" == heard(b"up\ndown", 1)
    assert heard(b"up", 99) is None
    assert "a line does not end:" == heard(b"u" * 513, 7)


def test_a_text_can_be_sent_first() -> None:
    """As HAProxy's agent-send."""
    assert b"up" == heard(b"up\n", 9, send=b"who\n")
