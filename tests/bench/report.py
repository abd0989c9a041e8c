"""The page's tables and plots: `python -m tests.bench.report RESULTS.json …` rewrites docs/."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.bench import cases, programs, svg, table, tools
from tests.bench.cases import median

DOCS: Final = tools.ROOT / "docs"
PAGE: Final = DOCS / "performance.md"
SCRIPTING: Final = DOCS / "scripting.md"
OURS: Final = "ngxstream" + programs.PYTHON
VERSIONS: Final = (
    ("nginx", "-v"), ("haproxy", "-v"), ("dnsdist", "--version"), ("iperf3", "--version"),
    ("wrk", "-v"), ("dnsperf", "-h"), ("nsd", "-v"), ("openssl", "version"),
)


def main(*paths: str) -> None:
    """Write the tables between the page's marks, and the plots beside it.

    Args: of a case that is in several files the last one counts
    """
    newest: dict[tuple[str, int], dict[str, Any]] = {}
    several: list[dict[str, Any]] = []  # run by several interpreters
    for path in paths:
        for result in json.loads(Path(path).read_text()):
            if any(programs.BY in name for name in result["samples"]):
                several.append(result)
            else:
                newest[result["case"], result.get("workers", 1)] = result
    if several:
        text = "\n".join((machine(Path(paths[-1]).stat().st_mtime), "", *interpreters(several)))
        PAGE.write_text(between(PAGE.read_text(), "interpreters", text))
    order = list(cases.BY_NAME)
    found = sorted(newest.values(), key=lambda result: order.index(result["case"]))
    results = [r for r in found if not cases.has_functions(cases.BY_NAME[r["case"]])]
    scripted = [r for r in found if r not in results and r.get("workers", 1) == 1]
    where = machine(Path(paths[0]).stat().st_mtime)
    if scripted:
        text = "\n".join((where, "", *functions(scripted)))
        SCRIPTING.write_text(between(SCRIPTING.read_text(), "scripting", text))
    if results:
        _performance(results, where)


def _performance(results: Sequence[dict[str, Any]], where: str) -> None:
    """Write the page about all that is no function."""
    page = between(PAGE.read_text(), "machine", where)
    for workers in (1, 2):
        some = [r for r in results if r.get("workers", 1) == workers]
        page = between(page, f"results-{workers}", "\n".join(markdown(some)) if some else "")
    page = between(page, "targets", "\n".join(targets(results)))
    page = between(page, "sessions", "\n".join(sessions(results)))
    page = between(page, "log", "\n".join(log_cost(results)))
    PAGE.write_text(page)
    one = [r for r in results if r.get("workers", 1) == 1]
    for name, text in plots(one).items():
        (DOCS / f"performance-{name}.svg").write_text(text)


def between(page: str, mark: str, text: str) -> str:
    """Replace what stands between two marks."""
    begin, end = f"<!-- bench:{mark} -->", f"<!-- /bench:{mark} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    return pattern.sub(lambda _: f"{begin}\n{text}\n{end}", page)


def machine(when: float) -> str:
    """Return machine, versions and date."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    date = time.strftime("%Y-%m-%d", time.gmtime(when))
    where = f"{os.cpu_count()} cores of {model[1] if model else 'a CPU'}"
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    lines = [f"Run of {date}, on {where}, {system}, loopback.", ""]
    for program, option in VERSIONS:
        path = programs.which(program)
        if path:
            lines.append(f"{program} {_version(path, option)},")
        if program == "nginx" and programs.other_nginx():
            version = _version(programs.other_nginx(), option)
            lines.append(f"nginx{programs.OTHER} {version} ({programs.other_nginx()}),")
    return "\n".join(lines).rstrip(",") + "."


def _version(path: str, option: str) -> str:
    done = subprocess.run([path, option], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+[\w.+-]*", done.stdout + done.stderr)
    return found[0] if found else "?"


def markdown(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return one table over all cases."""
    lines = [
        "| case | | throughput | ratio | CPU per unit | ratio | p50 µs | p99 µs | p99 ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        case = cases.BY_NAME[result["case"]]
        rate_unit, each_unit = table.units(case)
        title = case.title
        for row in table.rows(result):
            rate = f"{table.number(row.rate)} {rate_unit}" if case.rated else "-"
            each = "-" if row.each is None else f"{table.number(row.each)} {each_unit[:16]}"
            rate_ratio = row.rate_ratio if case.rated else None
            cells = [
                title, row.program, rate, table.ratio(rate_ratio),
                each.replace("CPU ", "").split("/")[0],
                table.ratio(row.each_ratio), table.number(row.p50), table.number(row.p99),
                table.ratio(row.p99_ratio),
            ]
            if row.program == "ngxstream":
                cells = [cells[0], *(f"**{cell}**" if cell != "-" else cell for cell in cells[1:])]
            lines.append(f"| {' | '.join(cells)} |")
            title = ""
        lines.extend(
            f"| {case.title} | missing: {what} | | | | | | | |"
            for what in result.get("missing", ())
        )
    return lines


def targets(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return the table of what was to be reached with one worker, and what was."""
    lines = [
        "| case | throughput, ratio | to reach | CPU (memory) per unit, ratio | to reach |",
        "|---|---|---|---|---|",
    ]
    for result in results:
        case = cases.BY_NAME[result["case"]]
        at_least, at_most = case.targets
        ours = next((row for row in table.rows(result) if row.program == "ngxstream"), None)
        if result.get("workers", 1) != 1 or ours is None or case.targets == (None, None):
            continue
        fast = table.ratio(ours.rate_ratio if case.rated else None)
        if at_least is not None and ours.rate_ratio is not None and ours.rate_ratio >= at_least:
            fast = f"**{fast}**"
        cheap = table.ratio(ours.each_ratio)
        if at_most is not None and ours.each_ratio is not None and ours.each_ratio <= at_most:
            cheap = f"**{cheap}**"
        least = "-" if at_least is None else f"≥ {at_least}"
        most = "-" if at_most is None else f"≤ {at_most}"
        lines.append(f"| {case.title} | {fast} | {least} | {cheap} | {most} |")
    return lines


def _live(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return (sessions, µs) points by program: of a datagram and of a session's begin."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {"datagram": {}, "begin": {}}
    for result in results:
        if not result["case"].startswith("udp-live-") or result.get("workers", 1) != 1:
            continue
        count = float(result["case"].rsplit("-", 1)[1])
        for row in table.rows(result):
            if row.each is not None:
                found["datagram"].setdefault(row.program, []).append((count, row.each))
        for name, values in result["notes"].get("begin_us", {}).items():
            found["begin"].setdefault(name, []).append((count, median(values) or 0.0))
    return found


def sessions(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return the table of what a UDP session costs among how many."""
    found = _live(results)
    counts = sorted({x for line in found["datagram"].values() for x, _ in line})
    heads = "".join(f" {count:.0f} |" for count in counts)
    lines = [f"| CPU µs | |{heads}", "|---|---|" + "---|" * len(counts)]
    for what, label in (("datagram", "round trip"), ("begin", "session begun")):
        for name, line in found[what].items():
            cells = "".join(f" {value:.1f} |" for _, value in line)
            lines.append(f"| {label} | {name} |{cells}")
    return lines


def interpreters(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return the table of what a unit costs by each interpreter, beside nginx and the first one."""
    names = list(results[0]["samples"])
    heads = [name.partition(programs.BY)[2] or name for name in names]
    heads = [platform.python_version() if name == "ngxstream" else name for name in heads]
    lines = [f"| CPU per unit, µs | {' | '.join(heads)} |", "|---|" + "---|" * len(names)]
    for result in results:
        title = cases.BY_NAME[result["case"]].title
        to_nginx = {row.program: row for row in table.rows(result)}
        to_first = {row.program: row for row in table.rows(result, "ngxstream")}
        costs = [table.number(to_nginx[name].each) for name in names]
        lines.append(f"| {title} | {' | '.join(costs)} |")
        for label, rows in (("ratio to nginx", to_nginx), ("to the first column", to_first)):
            ratios = [table.ratio(rows[name].each_ratio) for name in names]
            lines.append(f"| … {label} | {' | '.join(ratios)} |")
    return lines


def log_cost(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return the table of what an access log of eight variables costs, and level info."""
    one = {r["case"]: r for r in results if r.get("workers", 1) == 1}
    lines = ["| case | | throughput kept | CPU per unit grows by |", "|---|---|---|---|"]
    for name, result in one.items():
        setup = cases.BY_NAME[name].setup
        if setup.log is None and setup.level == "error":
            continue
        for program in cases.OURS:
            # within each round, as all ratios
            found = {row.program: row for row in table.rows(result, program + programs.PLAIN)}
            row = found.get(program)
            if row and row.rate_ratio and row.each_ratio:
                lines.append(
                    f"| {cases.BY_NAME[name].title} | {program} | {row.rate_ratio:.0%} | "
                    f"{row.each_ratio - 1:+.0%} |"
                )
    return lines


def functions(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return the table of what functions that do nothing add to a unit's CPU time."""
    lines = [
        "| case | | CPU per unit, µs | with the function | more | at most |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        case = cases.BY_NAME[result["case"]]
        title = f"{case.title} (a {case.unit})"
        for name, what in (("nginx" + programs.NJS, "nginx, njs"), (OURS, "**ngxstream**")):
            plain, each = table.least(result, programs.base(name)), table.least(result, name)
            if plain is None or each is None:
                continue
            most = f"{case.adds:g}" if case.adds is not None and name == OURS else ""
            scale = 1e3 if case.unit == "GB" else 1.0  # s to ms
            unit = " ms" if case.unit == "GB" else ""
            cells = [title, what, *(
                f"{value * scale:{sign}.1f}{unit}"
                for value, sign in ((plain, ""), (each, ""), (each - plain, "+"))
            ), most]
            lines.append(f"| {' | '.join(cells)} |")
            title = ""
    return lines


def plots(results: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return the plots by name."""
    rates, costs = [], []
    for result in results:
        case = cases.BY_NAME[result["case"]]
        if case.name.startswith(("check", "udp-live", "fairness")) or case.setup.log is not None:
            continue
        others = svg.COLOURS.keys() - {"none", "nginx"}  # neither variants of one: those are rows
        shown = [row for row in table.rows(result) if row.program in others]
        at_least, at_most = case.targets
        fast = [(row.program, row.rate_ratio) for row in shown if row.rate_ratio]
        if case.rated and fast:
            rates.append((case.title, fast, at_least))
        cheap = [(row.program, row.each_ratio) for row in shown if row.each_ratio]
        if cheap:
            costs.append((case.title, cheap, at_most))
    live = _live(results)
    return {
        "throughput": svg.ratios("Throughput, one worker", rates, less_is_better=False),
        "cpu": svg.ratios("CPU (or memory) per unit, one worker", costs, less_is_better=True),
        "sessions": svg.lines(
            "Cost of a UDP round trip among many sessions", "live sessions; CPU µs of the worker",
            live["datagram"],
        ),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
