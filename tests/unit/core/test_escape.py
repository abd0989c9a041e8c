"""The escapings of access log values."""

import json

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
