"""Sizes, offsets, times and numbers, by ngx_parse.c's rules and against nginx itself."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ngxstream.conf import units
from tests.support.nginx_says import NginxSays

MAX = 2**63 - 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("16384", 16384),
        ("16k", 16384),
        ("16K", 16384),
        ("1m", 1 << 20),
        ("2M", 2 << 20),
        (str(MAX), MAX),
        ("9007199254740991k", 9007199254740991 << 10),
        ("000000000000000000000001", 1),
    ],
)
def test_size_counts_bytes(text: str, expected: int) -> None:
    """A size is digits with an optional k or m of either case."""
    assert expected == units.parse_size(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "k",
        "1g",
        "-1",
        "+1",
        "1 k",
        " 1",
        "1kk",
        "1.5k",
        "0x10",
        str(MAX + 1),
        "9007199254740992k",
        "8796093022208m",
        "\u0661",
        "1_0",
    ],
)
def test_bad_size_is_refused(text: str) -> None:
    """Anything else, and what does not fit 63 bits, is no size."""
    with pytest.raises(ValueError):
        units.parse_size(text)


def test_offset_knows_gigabytes() -> None:
    """An offset is a size that may end in g."""
    assert 3 << 30 == units.parse_offset("3g")
    assert 3 << 10 == units.parse_offset("3K")
    with pytest.raises(ValueError):
        units.parse_offset("8589934592g")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("60", 60_000),
        ("60s", 60_000),
        ("500ms", 500),
        ("1m", 60_000),
        ("1h30m", 5_400_000),
        ("1d 2h 3m 4s 5ms", 93_784_005),
        ("1w", 604_800_000),
        ("1s5", 6_000),
        ("1ms 5", 5_001),
        ("1 2", 3_000),
        ("1h m", 3_600_000),
        ("1d ", 86_400_000),
        ("9223372036854775s", MAX // 1000 * 1000),
        ("9223372036854775s807ms", MAX),
    ],
)
def test_milliseconds(text: str, expected: int) -> None:
    """A time in milliseconds adds up parts of falling units; a bare number is seconds."""
    assert expected == units.parse_time_msec(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "s",
        " 1s",
        "5 s",
        "1y",
        "1M",
        "1s1m",
        "1s1s",
        "1ms1s",
        "1x",
        "-1s",
        "1.5s",
        "1S",
        "1 2 3",
        "9223372036854776s",
        "9223372036854775808ms",
        "1d\n",
        "9223372036854775s808ms",
        "9223372036854775s 1",
    ],
)
def test_bad_milliseconds_are_refused(text: str) -> None:
    """Rising or repeated units, months and years, and what overflows are no time."""
    with pytest.raises(ValueError):
        units.parse_time_msec(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10", 10),
        ("10s", 10),
        ("5m", 300),
        ("1y", 31_536_000),
        ("1M", 2_592_000),
        ("1y1M1w1d", 34_819_200),
    ],
)
def test_seconds(text: str, expected: int) -> None:
    """A time in seconds knows years and months."""
    assert expected == units.parse_time_sec(text)


@pytest.mark.parametrize("text", ["", "10ms", "1M1y", "1y1y", "s", "292471208678y"])
def test_bad_seconds_are_refused(text: str) -> None:
    """Milliseconds are no unit of a time in seconds."""
    with pytest.raises(ValueError):
        units.parse_time_sec(text)


@pytest.mark.parametrize(
    ("text", "point", "expected"),
    [
        ("10.5", 2, 1050),
        ("10", 2, 1000),
        ("10.", 2, 1000),
        (".5", 2, 50),
        ("0.01", 2, 1),
        (".", 2, 0),
    ],
)
def test_fixed_point(text: str, point: int, expected: int) -> None:
    """A fixed point number is scaled by its decimals."""
    assert expected == units.parse_fixed(text, point)


@pytest.mark.parametrize("text", ["", "1.234", "1..2", "1.2.3", "-1", "1e2", str(MAX)])
def test_bad_fixed_point_is_refused(text: str) -> None:
    """More decimals than asked for, a second dot and other characters are refused."""
    with pytest.raises(ValueError):
        units.parse_fixed(text, 2)


@given(st.integers(0, MAX), st.sampled_from(["", "k", "K", "m", "M"]))
def test_size_is_the_product_or_refused(number: int, unit: str) -> None:
    """A size is its number times its unit, unless that leaves 63 bits."""
    product = number * {"": 1, "k": 1 << 10, "m": 1 << 20}[unit.lower()]
    if product <= MAX:
        assert product == units.parse_size(f"{number}{unit}")
    else:
        with pytest.raises(ValueError):
            units.parse_size(f"{number}{unit}")


@given(st.lists(st.integers(0, 9999), min_size=6, max_size=6), st.integers(1, 63), st.booleans())
def test_time_is_the_sum_of_its_parts(numbers: list[int], which: int, spaced: bool) -> None:
    """Any choice of falling units, spaced or not, is their sum."""
    unit_ms = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
    chosen = [
        (n, u) for bit, (n, u) in enumerate(zip(numbers, unit_ms, strict=True)) if which >> bit & 1
    ]
    text = (" " if spaced else "").join(f"{n}{u}" for n, u in chosen)
    assert sum(n * unit_ms[u] for n, u in chosen) == units.parse_time_msec(text)


@given(st.text("0123456789kKmMgGyMwdhs. -x\n", max_size=25))
def test_any_text_is_a_number_or_refused(text: str) -> None:
    """No text makes a parser do anything but return a number from 0 to 2^63-1 or refuse."""
    for parse in (
        units.parse_size,
        units.parse_offset,
        units.parse_time_msec,
        units.parse_time_sec,
    ):
        try:
            value = parse(text)
        except ValueError:
            continue
        assert 0 <= value <= MAX


PIECES = st.sampled_from(
    ["1", "7", "0", "92233720368547", "y", "M", "w", "d", "h", "m", "s", "ms", " ", "k", "g"]
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.lists(PIECES, max_size=6).map("".join))
def test_nginx_agrees(text: str, tmp_path: Path) -> None:
    """nginx takes and refuses the same sizes and times."""
    nginx = NginxSays(tmp_path)
    where = f" in {nginx.path}:1"
    for parse, line, refusal in (
        (units.parse_time_msec, "proxy_timeout", '"proxy_timeout" directive invalid value'),
        (units.parse_size, "proxy_buffer_size", '"proxy_buffer_size" directive invalid value'),
    ):
        try:
            parse(text)
            expected = 'unknown directive "end"'
        except ValueError:
            expected = refusal
        conf = f'{nginx.load_stream()}stream {{ {line} "{text}"; end; }}'
        assert expected + where == nginx.of(conf.encode())
    try:
        units.parse_time_sec(text)
        expected = 'unknown directive "end"'
    except ValueError:
        expected = f'invalid parameter "fail_timeout={text}"'
    server = f'server 127.0.0.1:1 "fail_timeout={text}"; end;'
    conf = f"{nginx.load_stream()}stream {{ upstream u {{ {server} }} }}"
    assert expected + where == nginx.of(conf.encode())
