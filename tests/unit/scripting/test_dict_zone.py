"""Values of a shared dict as its zone and its file have them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.scripting import dict_zone
from ngxstream.scripting.dict_zone import DictZone


@given(st.binary(max_size=50))
def test_bytes_come_back_from_a_file(value: bytes) -> None:
    """Each is the character of the same number."""
    zone = DictZone("d", "bytes", evicts=False)
    assert value == zone.value_of(zone.text_of(value))


@given(st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False))
def test_numbers_come_back_from_a_file(value: float) -> None:
    """Whole ones are whole."""
    zone = DictZone("d", "number", evicts=False)
    kept = dict_zone.packed("number", value)
    assert kept == zone.value_of(zone.text_of(kept))
    back = dict_zone.number_of(kept)
    assert (type(value), value) == (type(back), back)


@pytest.mark.parametrize(
    ("kind", "text"), [("number", "x"), ("number", ""), ("number", str(2**64)), ("bytes", "\u20ac")]
)
def test_what_a_file_cannot_have_is_refused(kind: str, text: str) -> None:
    """By ValueError, which names the file and the key where it is read."""
    with pytest.raises(ValueError):
        DictZone("d", kind, evicts=False).value_of(text)


@pytest.mark.parametrize("data", [b"", b"x", b"\xff", b"1" * 5000])
def test_a_number_that_is_damaged_is_some_number(data: bytes) -> None:
    """Never an exception."""
    assert isinstance(dict_zone.number_of(data), (int, float))
