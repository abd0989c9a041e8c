"""Zones of limits by rate: what their directives say."""

import pytest

from ngxstream.core import log
from ngxstream.stream import limits


@pytest.mark.parametrize(("text", "per_minute"), [("5r/s", 300), ("5r/m", 5), ("1r/s", 60)])
def test_a_rate_is_units_a_minute(text: str, per_minute: int) -> None:
    """So that a few a minute are exact."""
    assert per_minute == limits.rate_of(text)


@pytest.mark.parametrize("text", ["", "5", "r/s", "5r/h", "-5r/s", "1.5r/s", "5 r/s", "5R/S"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    """As nginx refuses it for requests."""
    with pytest.raises(ValueError):
        limits.rate_of(text)


def test_an_excess_is_written_as_nginx_writes_it() -> None:
    """With three decimals."""
    assert ["0.000", "1.250", "12.007"] == [limits.excess_text(n) for n in (0, 1250, 12_007)]


def test_a_delay_is_logged_a_level_below_a_refusal() -> None:
    """Unless that is info already."""
    found = [limits.levels_of(level) for level in (log.INFO, log.NOTICE, log.WARN, log.ERR)]
    assert [log.INFO, log.INFO, log.NOTICE, log.WARN] == found
