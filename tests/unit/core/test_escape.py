"""The escapings of access log values."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core import escape

VALUE = b'a"b\\c\td\\001\\xff-127.0.0.1'


def test_default_escaping_of_a_value_is_nginx_s() -> None:
    """Quotes, backslashes and control characters become two digits in capitals."""
    assert b"a\\x22b\\x5Cc\\x09d\\x5C001\\x5Cxff-127.0.0.1" == escape.default(VALUE)


def test_json_escaping_of_a_value_is_nginx_s() -> None:
    """What has a short escape in JSON gets it."""
    assert b'a\\"b\\\\c\\td\\\\001\\\\xff-127.0.0.1' == escape.json(VALUE)


def test_json_escaping_of_control_characters_uses_capitals() -> None:
    """A control character without a short escape becomes four digits in capitals."""
    assert rb"\u0001\u001F\b\f\n\r" == escape.json(b"\x01\x1f\b\f\n\r")


@given(st.binary())
def test_default_escaping_is_that_of_each_byte(value: bytes) -> None:
    """Every byte is escaped by itself, and what is left is printable ASCII."""
    expected = b"".join(
        bytes((n,)) if 0x20 <= n < 0x7F and n not in b'"\\' else b"\\x%02X" % n for n in value
    )
    assert expected == escape.default(value)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_json_escaping_is_undone_by_a_json_reader(text: str) -> None:
    """A reader of JSON gets the value back, whatever it was."""
    assert text == json.loads(b'"' + escape.json(text.encode()) + b'"')


@given(st.binary())
def test_a_value_is_safe_when_escaping_changes_nothing(value: bytes) -> None:
    """The quick judgement of a whole line agrees with the escaping."""
    changed = (escape.default(value) != value, escape.json(value) != value)
    assert changed == (not escape.is_default_safe(value), not escape.is_json_safe(value))


# --- the error log --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"plain \"text\" with a \\", b"plain \"text\" with a \\"),
        ("Größe 東京 Ω ✓".encode(), "Größe 東京 Ω ✓".encode()),
        (b"\x1b[31mred\x1b[0m\x07", rb"\x1B[31mred\x1B[0m\x07"),
        (b"a\r\n\tb\0c\x7f", rb"a\x0D\x0A\x09b\x00c\x7F"),
        (b"\xff\x9b31m\xe9", rb"\xFF\x9B31m\xE9"),
        ("a\u009b31m".encode(), rb"a\xC2\x9B31m"),  # CSI of ISO 6429 in UTF-8
        ("a\u202egpj".encode(), rb"a\xE2\x80\xAEgpj"),  # right to left
        ("a\u2028b\u0085c".encode(), rb"a\xE2\x80\xA8b\xC2\x85c"),  # line separators
    ],
)
def test_a_line_of_the_error_log_is_made_of_what_can_be_printed(text: bytes, shown: bytes) -> None:
    """Control characters and bytes that are no text become two digits each, text stays."""
    assert shown == escape.printed(text)


def test_what_is_to_be_kept_is_kept() -> None:
    """And nothing besides."""
    assert b"a\n\tb\\x1B" == escape.printed(b"a\n\tb\x1b", "\n\t")
    assert "a\n\\xE2\\x80\\xAE" == escape.printed("a\n\u202e".encode(), "\n").decode()


@given(st.binary())
def test_any_bytes_become_one_line_of_text(value: bytes) -> None:
    """Whatever it was, it is UTF-8 of printable characters, and it is left alone from then on."""
    shown = escape.printed(value)
    assert shown.decode().isprintable()
    assert shown == escape.printed(shown)


@pytest.mark.parametrize(
    ("text", "line"),
    [("plain é", "plain é"), ("a\nb\x1b", r"a\x0Ab\x1B"), ("\udcff", r"\xFF"),
     ("\ud800\n\u202e", r"\ud800\x0A\xE2\x80\xAE")],
)
def test_any_text_can_be_shown(text: str, line: str) -> None:
    """Lone surrogates too, those that stand for a byte and those that stand for nothing."""
    assert line == escape.shown(text)
