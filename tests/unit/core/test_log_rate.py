"""error_log … rate=: so many lines a second and all alerts; what is left out is told."""

from pathlib import Path

import pytest

from ngxstream.conf import error_log
from ngxstream.core import log, log_rate
from ngxstream.core.clock import Clock
from ngxstream.core.facts import Facts
from ngxstream.core.files import OpenFiles
from ngxstream.core.shm_facts import Rows
from tests.support.clients import tcp_exchange
from tests.support.in_process import LogTarget, build
from tests.support.proxies import ProxyFactory
from tests.support.waiting import wait_until


class StandingClock(Clock):
    """A clock that is set by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 1000

    def second(self) -> int:
        """Return the second."""
        return self.at


def rated(most: int) -> tuple[log.Log, LogTarget, StandingClock, Facts]:
    """Return a log with one target that takes so many lines a second."""
    clock, target = StandingClock(), LogTarget()
    facts = Facts([log_rate.LEFT_OUT])
    cell = facts.cell(log_rate.LEFT_OUT, "logs/error.log")
    facts.attach(Rows())
    made = log_rate.RatedTarget(target, log_rate.Rate(most, clock, cell))
    return log.Log([made], clock=clock), target, clock, facts


def test_what_is_beyond_the_rate_is_left_out_and_told() -> None:
    """Before the next line that is taken; the fact counts it at once."""
    to, target, clock, facts = rated(2)
    for n in range(5):
        to.error(log.ERR, f"line {n}")
    assert [("error", "line 0"), ("error", "line 1")] == target.lines
    assert [3] == [total for cell, total in facts.totals() if cell.label]
    clock.at += 1
    to.error(log.INFO, "later")
    assert [("warn", "3 messages were left out (rate=2/s)"), ("info", "later")] == target.lines[2:]
    to.error(log.INFO, "and more")
    assert ("info", "and more") == target.lines[-1]


def test_alerts_are_never_left_out() -> None:
    """And take no other line's place."""
    to, target, _, _ = rated(1)
    for level in (log.ALERT, log.EMERG, log.ERR, log.CRIT, log.ALERT):
        to.error(level, "now")
    assert ["alert", "emerg", "error", "alert"] == [level for level, _ in target.lines]


def test_a_log_at_another_level_shares_the_rate() -> None:
    """That of a client under debug_connection, say."""
    to, target, _, _ = rated(2)
    other = to.with_level(log.DEBUG)
    for one in (to, other, to, other):
        one.error(log.ERR, "line")
    assert 2 == len(target.lines)


def test_the_first_file_is_found_behind_a_rate(tmp_path: Path) -> None:
    """Standard error is redirected to it."""
    files = OpenFiles()
    spec = error_log.Spec(path=str(tmp_path / "e.log"), rate=3)
    assert error_log.make_log([spec], files).first_file() is files.get(spec.path or "")


@pytest.mark.effect("error_log")
def test_a_file_has_as_many_lines_as_are_wanted(ngxstream: ProxyFactory) -> None:
    """In every context; the others have theirs."""
    running = ngxstream(
        "events {} stream { limit_conn_zone $remote_addr zone=z:32k; error_log logs/few.log info "
        "rate=1/s; server { listen 127.0.0.1:@a@; return x; } }"
    )

    def has_told() -> bool:
        tcp_exchange(running.address("a"))
        return any("left out (rate=1/s)" in line for line in running.lines("logs/few.log"))

    wait_until(has_told)


@pytest.mark.refusal("error_log")
@pytest.mark.parametrize(
    "words", ["rate=0/s", "rate=5", "rate=-1/s", "rate=5/m", "rate=1/s rate=2/s"]
)
def test_nonsense_is_refused(words: str) -> None:
    """As any parameter that is none."""
    text = f"stream {{ server {{ listen 9; error_log logs/e.log {words}; return x; }} }}"
    assert "invalid parameter" in build(text).error
