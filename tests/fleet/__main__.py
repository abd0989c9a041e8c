"""Play all topologies, with ngxstream and with nginx, and print what became of clients.

python -m tests.fleet [active/passive | active/active] [clients]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.fleet.network import table
from tests.fleet.topologies import HEAD, TOPOLOGIES
from tests.support.proxies import PROGRAMS


def main(words: list[str]) -> None:
    """Play, and print a table for each topology."""
    names = [word for word in words if word in TOPOLOGIES] or list(TOPOLOGIES)
    (count,) = [int(word) for word in words if word.isdigit()] or [2000]
    for name in names:
        rows = []
        for program in ("ngxstream", "nginx"):
            with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
                steps, account = TOPOLOGIES[name](PROGRAMS[program], Path(folder), count, 1.0)
            rows += [step.row(program) for step in steps]
            print(f"{name}, {program}: {account.up.sent} datagrams up, {account.down.sent} down, "
                  f"{account.mangled} mangled", flush=True)
        print(f"\n{name}\n\n{table(HEAD, rows)}\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
