"""The last lines of all logs, as processes share them."""

import os

from ngxstream.core import clock, log, log_ring
from tests.support.clock import FakeClock
from tests.support.forks import in_child


def lines(ring: log_ring.LogRing, after: int = 0) -> list[log_ring.Line]:
    """Return the lines of a ring."""
    return [log_ring.line(found) for found in ring.find(after)]


def test_lines_are_kept_as_they_are_logged() -> None:
    """Time, level, process, connection and text, the latest last; levels are the target's."""
    fake = FakeClock(1_000_000_000.25)
    ring = log_ring.LogRing(clock.Clock(fake))
    to = log.Log([ring.target(log.NOTICE)])
    to.error(log.NOTICE, "first")
    to.error(log.INFO, "too talkative")
    fake.advance(1)
    to.error(log.ERR, '*7 failed: "a: b"\x1b', 2)
    child = in_child(lambda: to.error(log.CRIT, "*x"))
    first, second, third = lines(ring)
    me = os.getpid()
    assert (1, 1_000_000_000_250, log.NOTICE, me, None, b"first") == first
    assert (2, 1_000_000_001_250, log.ERR, me, 7) == second[:5]
    assert rb'failed: "a: b"\x1B (2: No such file or directory)' == second.text
    assert (3, log.CRIT, child, None, b"*x") == (third.number, *third[2:])
    assert [third] == lines(ring, 2)


def test_a_target_with_another_level_fills_the_same_ring() -> None:
    """As for debug_connection; nothing of it is on standard error."""
    ring = log_ring.LogRing(clock.Clock())
    to = log.Log([ring.target(log.ERR)])
    to.with_level(log.DEBUG).error(log.DEBUG, "*1 seen")
    assert [b"seen"] == [line.text for line in lines(ring)]
    assert not to.uses_stderr()
    assert to.first_file() is None


def test_the_last_thousand_are_kept() -> None:
    """The number of a line goes on."""
    ring = log_ring.LogRing(clock.Clock())
    for n in range(1003):
        ring.add(log.ERR, b"head: %d\n" % n)
    found = lines(ring)
    assert (1000, b"3", 1003) == (len(found), found[0].text, found[-1].number)


def test_a_line_of_full_length_fits() -> None:
    """All that a file would have."""
    ring = log_ring.LogRing(clock.Clock())
    log.Log([ring.target(log.ERR)]).error(log.ERR, "x" * 4096)
    (line,) = lines(ring)
    assert log.MAX_LINE - 100 < len(line.text) < log.MAX_LINE


def test_lines_that_make_no_sense_are_left_out() -> None:
    """Another process may write anything."""
    ring = log_ring.LogRing(clock.Clock())
    for head in ((-1, 1, 1), (1 << 62, 1, 1), (0, 0, 1), (0, 1, 9)):
        ring.ring.add(log_ring._HEAD.pack(*head) + b"text")
    ring.ring.add(b"short")
    ring.ring.add(log_ring._HEAD.pack(0, 1, 8) + b"*99999999999999999999 \xff")
    assert [b"*99999999999999999999 \xff"] == [line.text for line in lines(ring)]


def test_lines_are_found_by_level_time_and_text() -> None:
    """Whatever the case of the text; a part of the connection's mark counts too."""
    fake = FakeClock(100.0)
    ring = log_ring.LogRing(clock.Clock(fake))
    to = log.Log([ring.target(log.DEBUG)])
    for level in (log.ERR, log.INFO, log.ALERT):
        to.error(level, f"*5 Text of {log.NAMES[level]}")
        fake.advance(1)
    numbers = {
        "level": [n for n, _ in ring.find(level=log.ERR)],
        "since": [n for n, _ in ring.find(since_ms=101_000)],
        "part": [n for n, _ in ring.find(part=b"text of inf")],
        "mark": [n for n, _ in ring.find(part=b"*5 ")],
        "none": [n for n, _ in ring.find(part=b"TEXT")],
    }
    assert {"level": [1, 3], "since": [2, 3], "part": [2], "mark": [1, 2, 3], "none": []} == numbers
