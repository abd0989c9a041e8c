"""Tables, sizes and times for people."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.ctl import tables


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_printed(text: str) -> None:
    """Control characters, marks of direction and halves of characters are spelled out."""
    shown = tables.clean(text)
    assert shown.isprintable()
    shown.encode()


def test_plain_text_stays() -> None:
    """Letters of any language are no danger."""
    assert "Größe 漢字" == tables.clean("Größe 漢字")
    assert r"\x1b[2J" == tables.clean("\x1b[2J")
    assert r"a\nb" == tables.clean("a\nb")
    assert "a\n\\tb" == tables.clean_lines("a\n\tb")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0k"), (9949, "9.9k"), (9990, "10k"), (999_400, "999k"),
     (999_600, "1.0M"), (4_200_000, "4.2M"), (10**21, "1000E")],
)
def test_sizes(count: int, text: str) -> None:
    """Three digits are enough."""
    assert text == tables.size(count)


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0ms"), (1500, "1.5s"), (61_000, "1m01s"), (7_500_000, "2h05m"), (90_000_000, "1d01h")],
)
def test_durations(ms: int, text: str) -> None:
    """Two units are enough."""
    assert text == tables.duration(ms)


def test_a_table_has_columns() -> None:
    """Text stands at the left, numbers at the right; a line may be cut."""
    rows = [("a", 1), ("longer", 200)]
    assert "NAME      N\na         1\nlonger  200" == tables.table(("NAME", "N"), rows)
    assert "NAME  N" == tables.table(("NAME", "N"), [])
    assert "NAME\na\nlong" == tables.table(("NAME", "N"), rows, 4)
