"""Fixtures of the continuity tests, and the table at the end of the run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.continuity.cases import Case, perform
from tests.continuity.report import PROGRAMS, Report
from tests.support import proxies
from tests.support.accounting import Account
from tests.support.udp_network import UdpNetwork

REPORT = pytest.StashKey[Report]()


class Performance:
    """Plays cases with one program; the accounts go into the table too."""

    def __init__(self, program: str, folder: Path, report: Report) -> None:
        self.name = program
        self.is_ours = program == "ngxstream"
        self._folder = folder
        self._report = report

    def __call__(self, case: Case) -> Account:
        """Play a case and return the account."""
        account = perform(case, proxies.PROGRAMS[self.name], self._folder)
        self._report.add(case, self.name, account)
        return account


@pytest.fixture(params=PROGRAMS)
def performance(request: pytest.FixtureRequest, tmp_path: Path) -> Performance:
    """Give one program's player of cases; the test is run once per program."""
    report = request.config.stash.setdefault(REPORT, Report())
    return Performance(request.param, tmp_path, report)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[UdpNetwork]:
    """Give a network of ngxstream's for a test that is no case of the table."""
    with UdpNetwork(proxies.Ngxstream, tmp_path) as made:
        yield made


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print both columns."""
    report = config.stash.get(REPORT, None)
    if report is not None and report.found:
        terminalreporter.section("UDP continuity")
        for line in report.table():
            terminalreporter.write_line(line)
