"""The table of both programs' losses, case by case."""

import platform
import subprocess
from dataclasses import dataclass, field

from tests.continuity.cases import ALL, Case
from tests.support import tools
from tests.support.accounting import Account

PROGRAMS = ("nginx", "ngxstream")
COLUMNS = ("sent", "lost up", "lost down", "moved", "kernel", "longest")


@dataclass
class Report:
    """What was found so far: the accounts by case and program."""

    found: dict[tuple[str, str], Account] = field(default_factory=dict)

    def add(self, case: Case, program: str, account: Account) -> None:
        """Note what became of a case."""
        self.found[case.title, program] = account

    def table(self) -> list[str]:
        """Return the lines of a Markdown table, a row for each case and program."""
        lines = [
            "| case | program | " + " | ".join(COLUMNS) + " | |",
            "|---|---|" + "--:|" * len(COLUMNS) + "---|",
        ]
        for case in ALL:
            for program in PROGRAMS:
                account = self.found.get((case.title, program))
                if account is not None:
                    cells = [case.title, program, *_cells(account)]
                    lines.append("| " + " | ".join(cells) + " |")
        return lines

    def page(self) -> str:
        """Return the page for docs/."""
        return "\n".join([HEAD, *self.table(), "", *_machine(), ""])


def _cells(account: Account) -> list[str]:
    moved = f"{len(account.moved)} of {len(account.sessions)}"
    numbers = (account.up.sent + account.down.sent, account.up.lost, account.down.lost)
    remarks = [account.remark] if account.remark else []
    remarks += [f"{len(account.unheard)} never served"] * bool(account.unheard)
    doubled = account.up.doubled + account.down.doubled
    remarks += [f"{doubled} doubled"] * bool(doubled)
    late = account.up.late + account.down.late
    remarks += [f"{late} out of order"] * bool(late)
    remarks += [f"{account.mangled} mangled"] * bool(account.mangled)
    longest = f"{1000 * max(account.up.longest_s, account.down.longest_s):.0f} ms"
    return [*map(str, numbers), moved, str(account.kernel.lost), longest, "; ".join(remarks)]


def _machine() -> list[str]:
    path = tools.require("nginx")
    said = subprocess.run([path, "-v"], capture_output=True, text=True, check=True).stderr
    version = said.rpartition("/")[2].strip()
    programs = f"nginx {version}, Python {platform.python_version()}, Linux {platform.release()}"
    return [f"{programs}; everything on one machine in a network namespace."]


HEAD = """\
# UDP sessions while the proxy changes: nginx and ngxstream

Printed by `python -m tests.continuity --write`; the same cases are tests (`tests/continuity/`).

Clients and backends are processes of their own. Every datagram has its session and its number, in
both directions; both sides keep a journal, and what one sent and the other did not get is lost.
Nothing is sent again. A session is moved when its backend heard it from another port, which is
another client to it. `kernel` is what the kernel counted as dropped in the namespace for want of
room in a socket's buffer, included in the losses. `longest` is the longest time a datagram was
under way, clients' and backends' own share of two busy processors included.

nginx is given `reuseport` where the title does not say otherwise: without it one client's datagrams
scatter over its workers even when nothing happens. ngxstream is never given it.
"""
