"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
from pathlib import Path

from tests.bench import cases, programs, runner, table

QUICK = ("tcp-bulk-1", "tcp-rr-64", "tcp-crr", "udp-1x1", "udp-50x4", "udp-oneshot", "dns")


def main() -> int:
    """Run what was asked for. Returns: the exit status"""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measure ngxstream beside nginx, HAProxy, dnsdist and no proxy at all. "
        "NGINX in the environment names the binary of another nginx to be measured too.",
    )
    parser.add_argument("cases", nargs="*", help="names (see --list), or `all`; default: a few")
    parser.add_argument("--list", action="store_true", help="list the cases")
    parser.add_argument("-r", "--rounds", type=int, default=3)
    parser.add_argument("-s", "--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument(
        "-w", "--workers", type=int, action="append",
        help="one run with each number given; by default with 1, and again with 2",
    )
    parser.add_argument(
        "-q", "--quiet", type=float, default=5.0, metavar="SECONDS",
        help="how long each load waits for other work on the machine to pause (5)",
    )
    parser.add_argument("-p", "--programs", default="none,nginx,ngxstream,haproxy,dnsdist")
    parser.add_argument(
        "-i", "--interpreter", action="append", default=[], metavar="LABEL=PATH",
        help="run ngxstream by this one too, as ngxstream@LABEL",
    )
    parser.add_argument("-o", "--output", type=Path, help="write all samples here, as JSON")
    args = parser.parse_args()
    if args.list:
        for case in cases.CASES:
            print(f"{case.name:22}{case.title}")
        return 0
    names = list(cases.BY_NAME) if args.cases == ["all"] else args.cases or list(QUICK)
    unknown = [name for name in names if name not in cases.BY_NAME]
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}; see --list")
    wanted = args.programs.split(",")
    for text in args.interpreter:
        label, _, path = text.partition("=")
        programs.INTERPRETERS[label] = path
        wanted.append(f"ngxstream{programs.BY}{label}")
    # killed, it takes with it what it started: the runner's `finally` runs
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    results = []
    for workers in args.workers or [1, 2]:
        for name in names:
            runner.say(f"{name}, {workers} worker(s)")
            result = runner.run_case(
                cases.BY_NAME[name],
                wanted,
                args.rounds,
                args.seconds,
                workers,
                args.quiet,
            )
            results.append(result)
            print(table.text(result), flush=True)
            if args.output:
                args.output.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
