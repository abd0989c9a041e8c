"""Numbers, sizes, offsets and times of the configuration (ngx_parse.c, ngx_string.c ngx_atoi).

Every function takes the text of one value and returns an int or raises ValueError; the directive
that asked knows what to say. All limits are those of a 64-bit nginx.
"""

import re
from typing import Final

INT_MAX: Final = 0x7FFF_FFFF_FFFF_FFFF  # NGX_MAX_INT_T_VALUE, and of ssize_t and off_t

_DIGITS: Final = re.compile(r"[0-9]+")
_SCALES: Final = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}

# unit letter -> (rank, seconds); ranks must rise from one unit to the next
_YEAR, _MONTH, _WEEK, _DAY, _HOUR, _MIN, _SEC, _MSEC, _LAST = range(1, 10)
_UNITS: Final = {
    "M": (_MONTH, 60 * 60 * 24 * 30), "w": (_WEEK, 60 * 60 * 24 * 7), "d": (_DAY, 60 * 60 * 24),
    "h": (_HOUR, 60 * 60), "m": (_MIN, 60), "s": (_SEC, 1),
}
_PART: Final = re.compile(r"([0-9]*)(ms|[yMwdhms ]|\Z) *")


def parse_number(text: str) -> int:
    """Return a plain decimal number. Source: ngx_string.c ngx_atoi"""
    if _DIGITS.fullmatch(text) is None:
        raise ValueError(text)
    value = int(text) if len(text.lstrip("0")) < 20 else INT_MAX + 1
    if value > INT_MAX:
        raise ValueError(text)
    return value


def parse_fixed(text: str, point: int) -> int:
    """Return a number with up to `point` decimals, times 10**point; "10.5", 2 gives 1050.

    A lone dot is 0, as in nginx. Source: ngx_string.c ngx_atofp
    """
    whole, _, rest = text.partition(".")
    if not text or point == 0 or len(rest) > point:
        raise ValueError(text)
    digits = whole + rest
    if digits and _DIGITS.fullmatch(digits) is None:
        raise ValueError(text)
    return parse_number((digits or "0") + "0" * (point - len(rest)))


def parse_size(text: str) -> int:
    """Return bytes: digits, then nothing, k or m. Source: ngx_parse.c ngx_parse_size"""
    return _scaled(text, "km")


def parse_offset(text: str) -> int:
    """Return bytes: digits, then nothing, k, m or g. Source: ngx_parse.c ngx_parse_offset"""
    return _scaled(text, "kmg")


def _scaled(text: str, units: str) -> int:
    unit = text[-1:].lower()
    scale = 1
    if unit and unit in units:
        scale = _SCALES[unit]
        text = text[:-1]
    value = parse_number(text)
    if value > INT_MAX // scale:
        raise ValueError(text)
    return value * scale


def parse_time_msec(text: str) -> int:
    """Return milliseconds; a bare number is seconds, `y` is no unit. Source: ngx_parse_time(, 0)"""
    return _time(text, is_sec=False)


def parse_time_sec(text: str) -> int:
    """Return seconds; `ms` is no unit. Source: ngx_parse.c ngx_parse_time(, 1)"""
    return _time(text, is_sec=True)


def _time(text: str, is_sec: bool) -> int:
    """Add up parts in falling units. A part may lack its digits, but not all of them."""
    step = 0 if is_sec else _MONTH
    total = 0
    valid = False
    pos = 0
    while pos < len(text):
        m = _PART.match(text, pos)
        if m is None:
            raise ValueError(text)
        digits, unit = m.groups()
        valid = valid or digits != ""
        value = parse_number(digits) if digits else 0
        pos = m.end()
        scale = 1 if is_sec else 1000
        if unit == "ms":
            if is_sec or step >= _MSEC:
                raise ValueError(text)
            step, scale = _MSEC, 1
        elif unit == "y":
            if not is_sec or step > 0:
                raise ValueError(text)
            step = _YEAR
            scale = 60 * 60 * 24 * 365
        elif unit == " ":
            if step >= _SEC:
                raise ValueError(text)
            step = _LAST
        elif unit:
            rank, seconds = _UNITS[unit]
            if step >= rank:
                raise ValueError(text)
            step = rank
            scale *= seconds
        if value > INT_MAX // scale or total > INT_MAX - value * scale:
            raise ValueError(text)
        total += value * scale
    if not valid:
        raise ValueError(text)
    return total
