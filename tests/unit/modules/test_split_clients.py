"""split_clients: shares of the hashes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core import errors, hashing
from ngxstream.modules.split_clients import Parts, parse_percent
from tests.support import in_process

VECTORS = {
    b"a": b"D", b"b": b"C", b"key": b"D", b"client-1": b"D", b"client-2": b"C",
    b"192.0.2.1": b"D", b"192.0.2.55": b"D", b"2001:db8::1": b"D", b"foo": b"D",
}


def parts_of(*shares: tuple[str, bytes]) -> Parts:
    """Make parts of shares as they are written."""
    parts = Parts()
    for text, value in shares:
        parts.add(parse_percent(text), value)
    return parts


def test_strings_of_the_vectors_fall_into_their_shares() -> None:
    """nginx's own results for nine strings."""
    parts = parts_of(("0.5%", b"A"), ("33.33%", b"B"), ("20%", b"C"), ("*", b"D"))
    assert VECTORS == {key: parts.choose(hashing.murmur2(key)) for key in VECTORS}


def test_bounds_are_those_of_the_vectors() -> None:
    """A hash just below a bound belongs to the share, the bound itself to the next."""
    parts = parts_of(("0.5%", b"A"), ("33.33%", b"B"), ("20%", b"C"), ("*", b"D"))
    bounds = (21474836, 1452987435, 2311980894)
    assert [b"A", b"B", b"C"] == [parts.choose(bound - 1) for bound in bounds]
    assert [b"B", b"C", b"D"] == [parts.choose(bound) for bound in bounds]


def test_shares_that_make_a_hundred_leave_no_hash_out() -> None:
    """The share that completes the hundred takes what rounding would leave over."""
    parts = parts_of(*(("33.33%", b"x") for _ in range(3)), ("0.01%", b"last"))
    assert b"last" == parts.choose(0xFFFFFFFF)


def test_what_no_share_holds_is_empty() -> None:
    """Hashes above all shares have an empty value."""
    assert b"" == parts_of(("50%", b"half")).choose(0xFFFFFFFF)


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=8), st.integers(0, 0xFFFFFFFF))
def test_a_hash_belongs_to_the_first_share_above_it(percents: list[int], hashed: int) -> None:
    """The choice agrees with adding up shares one by one."""
    parts = Parts()
    total = 0
    expected: bytes | None = None
    bound = 0
    for n, percent in enumerate(percents):
        total += percent
        if total > 10_000:
            with pytest.raises(errors.ConfError, match=r"^percent total is greater than 100%$"):
                parts.add(percent, b"%d" % n)
            break
        parts.add(percent, b"%d" % n)
        bound += percent * 0xFFFFFFFF // 10_000
        if expected is None and (hashed < bound or total == 10_000):
            expected = b"%d" % n
    assert (expected or b"") == parts.choose(hashed)


@given(st.integers(1, 10_000_000))
def test_percents_are_read_in_hundredths(hundredths: int) -> None:
    """Any number of hundredths can be written with two decimals."""
    assert hundredths == parse_percent(f"{hundredths // 100}.{hundredths % 100:02d}%")


@pytest.mark.parametrize(
    ("text", "expected"), [("42949673%", 4), ("42949672.96%", 0), ("42949772.96%", 10_000)]
)
def test_a_share_is_kept_in_32_bits(text: str, expected: int) -> None:
    """Of a share that is too large nginx keeps the lowest 32 bits."""
    assert expected == parse_percent(text)


@pytest.mark.parametrize("item", ["5%", "5% a b", "*"])
def test_an_item_has_one_value(item: str) -> None:
    """A share without a value, or with two, is refused."""
    built = in_process.build(f"stream {{ split_clients $pid $x {{ {item}; }} }}")
    expected = "invalid number of the split_clients parameters in /p/conf/nginx.conf:1"
    assert expected == built.error


def test_the_value_is_the_variable_s() -> None:
    """A string that holds variables decides what the variable is."""
    served = in_process.InProcess(
        "stream { split_clients 192.0.2.$protocol $x { 0.5% A; 33.33% B; 20% C; * D; } "
        "server { listen 127.0.0.1:@a@; return $x; } }"
    )
    parts = parts_of(("0.5%", b"A"), ("33.33%", b"B"), ("20%", b"C"), ("*", b"D"))
    expected = parts.choose(hashing.murmur2(b"192.0.2.TCP"))
    assert expected == served.read(served.connect())
    served.close()
