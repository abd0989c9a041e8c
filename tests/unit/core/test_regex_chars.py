"""Sets of bytes: made, listed and named as PCRE does in its C locale."""

import string

import pytest

from ngxstream.core import regex_chars as chars


def test_sets_are_made_of_bytes_and_spans() -> None:
    """A set lists its bytes in order, and its runs by their ends."""
    mask = chars.of(b"dba") | chars.one(0xFF) | chars.span(0x66, 0x68)
    assert [*b"abdfgh", 0xFF] == chars.members(mask)
    assert [(0x61, 0x62), (0x64, 0x64), (0x66, 0x68), (0xFF, 0xFF)] == list(chars.ranges(mask))


def test_a_set_and_its_contrary_are_all_bytes() -> None:
    """No byte is in both, none is missing."""
    contrary = chars.invert(chars.WORD)
    assert (chars.EVERY, 0) == (contrary | chars.WORD, contrary & chars.WORD)


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("alnum", string.ascii_letters + string.digits),
        ("word", string.ascii_letters + string.digits + "_"),
        ("punct", string.punctuation),
        ("space", string.whitespace),
        ("blank", " \t"),
        ("xdigit", string.hexdigits),
        ("print", string.digits + string.ascii_letters + string.punctuation + " "),
    ],
)
def test_posix_classes_are_those_of_ascii(name: str, members: str) -> None:
    """Whatever the locale of the process is."""
    assert sorted(members.encode()) == chars.members(chars.POSIX[name])


def test_case_is_that_of_ascii_letters() -> None:
    """Each letter brings its other case, nothing else does."""
    assert chars.of(b"aAzZ@[`{\xe4") == chars.fold(chars.of(b"aZ@[`{\xe4"))
