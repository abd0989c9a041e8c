"""The logs' clock spells local time once a second."""

import time

import pytest

from ngxstream.core import clock
from tests.support.clock import FakeClock


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run under UTC, whatever the machine's zone."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.mark.usefixtures("utc")
def test_log_time_is_spelled_as_nginx_does() -> None:
    """Year, month and day are parted by slashes."""
    assert "2001/09/09 01:46:40" == clock.Clock(FakeClock(1_000_000_000.9)).log_time()


@pytest.mark.usefixtures("utc")
def test_syslog_time_pads_the_day_with_a_space() -> None:
    """A day of one digit takes two places (RFC 3164 §4.1.2)."""
    assert "Sep  9 01:46:40" == clock.Clock(FakeClock(1_000_000_000.0)).syslog_time()


@pytest.mark.usefixtures("utc")
def test_strings_follow_the_second() -> None:
    """The kept string is renewed when the second has passed, not before."""
    fake = FakeClock(1_000_000_000.0)
    watch = clock.Clock(fake)
    first = watch.log_time()
    fake.advance(0.9)
    assert first is watch.log_time()
    fake.advance(0.2)
    assert "2001/09/09 01:46:41" == watch.log_time()
    assert "Sep  9 01:46:41" == watch.syslog_time()


def test_a_clock_set_back_is_followed() -> None:
    """Time that goes backwards is spelled too."""
    fake = FakeClock(1_000_000_000.0)
    watch = clock.Clock(fake)
    before = watch.log_time()
    fake.advance(-3600.0)
    assert before != watch.log_time()
