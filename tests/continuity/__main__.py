"""Play the cases with both programs and print the table.

python -m tests.continuity [--only WORD] [--program NAME] [--stories] [--write]
"""

import argparse
import sys
import tempfile
from pathlib import Path

import pytest

from tests.continuity.cases import ALL, perform
from tests.continuity.report import PROGRAMS, Report
from tests.support import proxies

PAGE = proxies.ROOT / "docs" / "udp-continuity-results.md"


def main() -> int:
    """Play, print, and write the page if asked to. Returns: 1 if a case could not be played"""
    parser = argparse.ArgumentParser(prog="python -m tests.continuity")
    parser.add_argument("--only", default="", help="the cases with this word in their title")
    parser.add_argument("--program", choices=PROGRAMS, help="one program instead of both")
    parser.add_argument("--stories", action="store_true", help="tell what was lost when")
    parser.add_argument("--write", action="store_true", help=f"write docs/{PAGE.name}")
    args = parser.parse_args()
    report = Report()
    failed = False
    for case in ALL:
        if args.only not in case.title:
            continue
        for name in [args.program] if args.program else PROGRAMS:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    account = perform(case, proxies.PROGRAMS[name], Path(folder))
                except pytest.skip.Exception as why:
                    print(f"{case.title}, {name}: {why}", file=sys.stderr)
                    continue
                except AssertionError as why:
                    print(f"{case.title}, {name}: {str(why)[:2000]}", file=sys.stderr)
                    failed = True
                    continue
            report.add(case, name, account)
            if args.stories:
                print(f"\n{case.title}, {name}: {account.story()}", file=sys.stderr)
    print("\n".join(report.table()))
    if args.write:
        PAGE.write_text(report.page())
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
