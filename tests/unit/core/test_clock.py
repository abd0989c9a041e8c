"""The logs' clock spells local time once a second."""

import datetime as dt
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@pytest.mark.parametrize(
    ("time_ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_000_000_000_250, "2001-09-09T01:46:40.250Z"),
        (clock.LAST_MS, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_times_of_the_api_are_spelled_and_read(time_ms: int, text: str) -> None:
    """RFC 3339 in UTC, whatever the zone of the machine."""
    assert clock.is_time(time_ms)
    assert text == clock.rfc3339(time_ms)
    assert time_ms == clock.parse_rfc3339(text)


def test_times_of_other_zones_are_read() -> None:
    """Both spellings of an offset; what says no zone, or is no time, is refused."""
    assert 1_000_000_000_000 == clock.parse_rfc3339("2001-09-09T03:46:40+02:00")
    assert 951_782_400_000 == clock.parse_rfc3339("2000-02-29t00:00:00z")
    assert 1_000_000_000_250 == clock.parse_rfc3339("2001-09-09 01:16:40.2509-00:30")
    for text in ("2001-09-09T01:46:40", "", "now", "2001-13-01T00:00:00Z", "\0",
                 "2001-02-29T00:00:00Z", "2001-04-31T00:00:00Z", "2001-04-00T00:00:00Z",
                 "2001-00-01T00:00:00Z", "2001-01-01T24:00:00Z", "2001-01-01T00:60:00Z",
                 "2001-01-01T00:00:61Z", "2001-01-01T00:00:00+24:00", "2001-01-01T00:00:00+00:60",
                 "1900-02-29T00:00:00Z", "2001-01-01T00:00:00.Z", "\uff12001-01-01T00:00:00Z"):
        with pytest.raises(ValueError, match=r"."):
            clock.parse_rfc3339(text)
    assert not clock.is_time(-1)
    assert not clock.is_time(clock.LAST_MS + 1)


@given(st.datetimes(timezones=st.just(dt.UTC)))
def test_every_date_is_read_as_the_library_reads_it(moment: dt.datetime) -> None:
    """From the year 1 to the year 9999."""
    second = clock.seconds_of(*moment.timetuple()[:6])
    assert moment.replace(microsecond=0).timestamp() == second
    text = moment.isoformat(timespec="milliseconds")
    assert second * 1000 + moment.microsecond // 1000 == clock.parse_rfc3339(text)
