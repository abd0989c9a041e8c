"""Medians of the samples, as lines of text for the terminal and of Markdown for the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.bench import cases, programs
from tests.bench.cases import Case, CheckCase, IdleCase, median


@dataclass
class Row:
    """One program in one case, medians over the rounds.

    Args: `each` is the CPU per unit in µs (s for GB; bytes for idle sessions), None for "none";
    ratios are to nginx, see rows()
    """

    program: str
    rate: float | None
    each: float | None
    p50: float | None
    p99: float | None
    lost: float
    rate_ratio: float | None = None
    each_ratio: float | None = None
    p99_ratio: float | None = None


def rows(result: dict[str, Any], beside: str = "nginx") -> list[Row]:
    """Return a case's rows, with their ratios to one of the programs.

    A ratio is the median of the ratios within each round: what else the machine did meanwhile,
    it did to both.
    """
    case = cases.BY_NAME[result["case"]]
    scale = 1e9 if case.unit == "GB" else 1e3
    measured: dict[str, dict[str, list[float | None]]] = {}
    found: dict[str, Row] = {}
    for name, samples in result.get("samples", {}).items():
        if not samples:
            continue
        lists = measured[name] = {
            "rate": [s["units"] / s["seconds"] for s in samples],
            "each": [
                s["cpu_ns"] / s["units"] / scale if s["cpu_ns"] is not None and s["units"] else None
                for s in samples
            ],
            "p99": [s["p99_us"] for s in samples],
        }
        found[name] = Row(
            name,
            median(lists["rate"]),
            median(lists["each"]),
            median(s["p50_us"] for s in samples),
            median(lists["p99"]),
            sum(s["lost"] for s in samples) / max(1.0, sum(s["units"] for s in samples)),
        )
    base = measured.get(beside)
    if base is not None:
        for name, row in found.items():
            for what in ("rate", "each", "p99"):
                pairs = zip(measured[name][what], base[what], strict=False)
                setattr(row, f"{what}_ratio", median(_ratio(a, b) for a, b in pairs))
    return list(found.values())


def least(result: dict[str, Any], name: str) -> float | None:
    """Return a program's CPU per unit in its best round, in the unit of Row.each.

    What else the machine does can only add to it.
    """
    scale = 1e9 if cases.BY_NAME[result["case"]].unit == "GB" else 1e3
    return min(
        (one["cpu_ns"] / one["units"] / scale for one in result.get("samples", {}).get(name, ())
         if one["units"]),
        default=None,
    )


def added(result: dict[str, Any], name: str) -> float | None:
    """Return what a program's functions add to its CPU per unit, best rounds compared."""
    with_it, without = least(result, name), least(result, programs.base(name))
    return None if with_it is None or without is None else with_it - without


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def number(value: float | None) -> str:
    """Return a number with three digits that count."""
    if value is None:
        return "-"
    if value < 0:
        return f"-{number(-value)}"
    if value >= 100_000:
        return f"{value / 1000:.0f} k"
    if value >= 10_000:
        return f"{value / 1000:.1f} k"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ratio(value: float | None) -> str:
    """Return a ratio."""
    return "-" if value is None else f"{value:.2f}"


def units(case: Case) -> tuple[str, str]:
    """Return how a case's rate and its cost are called."""
    if isinstance(case, IdleCase):
        return "", "bytes/session"
    if isinstance(case, CheckCase):
        return "runs/s", "CPU µs/run"
    if case.unit == "GB":
        return "GB/s", "CPU s/GB"
    return f"{case.unit}s/s", f"CPU µs/{case.unit}"


def text(result: dict[str, Any]) -> str:
    """Return a case as text for the terminal."""
    case = cases.BY_NAME[result["case"]]
    rate_unit, each_unit = units(case)
    lines = [f"\n{case.title}  [{case.name}, {result.get('workers', 1)} worker(s)]"]
    lines.extend(f"  missing: {what}" for what in result.get("missing", ()))
    lines.append(
        f"  {'':18}{rate_unit:>16}{'ratio':>8}{each_unit:>22}{'ratio':>8}"
        f"{'p50 µs':>10}{'p99 µs':>10}{'ratio':>8}{'lost':>8}"
    )
    for row in rows(result):
        rate = row.rate if case.rated else None
        rate_ratio = row.rate_ratio if case.rated else None
        lines.append(
            f"  {row.program:18}{number(rate):>16}{ratio(rate_ratio):>8}{number(row.each):>22}"
            f"{ratio(row.each_ratio):>8}{number(row.p50):>10}{number(row.p99):>10}"
            f"{ratio(row.p99_ratio):>8}{row.lost:>8.2%}"
        )
    for name in result.get("samples", {}):
        more = added(result, name) if programs.kind_of(name) else None
        if more is not None:
            most = "" if case.adds is None else f" (to reach: {case.adds:g})"
            lines.append(f"  {name} adds {number(more)} {each_unit}{most}")
    begin = result.get("notes", {}).get("begin_us")
    if begin:
        made = ", ".join(f"{name} {median(values):.1f}" for name, values in begin.items())
        lines.append(f"  CPU µs to begin a session: {made}")
    if result.get("notes", {}).get("rate"):
        lines.append(f"  at {result['notes']['rate']} a second")
    at_least, at_most = case.targets
    if at_least is not None or at_most is not None:
        lines.append(f"  to reach: throughput >= {at_least}, cost <= {at_most}")
    return "\n".join(lines)
