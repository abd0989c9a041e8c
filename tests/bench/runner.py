"""Alternating rounds: every proxy of a case stands ready, and each is loaded in its turn."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bench import programs, tools
from tests.bench.cases import Bench, Case, CheckCase
from tests.bench.programs import Place, Running

Result = dict[str, Any]


def run_case(
    case: Case,
    names: Sequence[str],
    rounds: int,
    seconds: float,
    workers: int,
    patience: float,
) -> Result:
    """Run one case. Returns: samples by program, and what was missing

    Proxies run from before the first round to after the last; an idle one costs nothing. Which
    goes first changes from round to round. Args: patience is how many seconds each load may wait
    for other work on the machine to pause
    """
    lacking = case.missing()
    if lacking:
        return {"case": case.name, "missing": [f"{tool} is not installed" for tool in lacking]}
    wanted = [name for name in case.setup.programs if programs.base(name) in names]
    wanted += [
        name for name in names
        if (name.endswith(programs.SHOWN) or programs.BY in name)
        and programs.base(name) in case.setup.programs
    ]
    if programs.other_nginx() and "nginx" in wanted:
        wanted.insert(wanted.index("nginx") + 1, "nginx" + programs.OTHER)
    missing = [text for name in wanted if (text := programs.missing(name))]
    wanted = [name for name in wanted if not programs.missing(name)]
    samples: dict[str, list[Any]] = {name: [] for name in wanted}
    with tempfile.TemporaryDirectory(prefix="bench-") as text:
        folder = Path(text)
        bench = Bench(folder, seconds, workers)
        certificate = make_certificate(folder) if case.setup.tls else None
        backend_port = programs.free_port()
        backend = case.backend(folder / "backend", backend_port)
        places = {
            name: Place(
                folder / name.replace(", ", "-").replace(" ", "-"),
                backend_port if name == "none" else programs.free_port(),
                backend_port,
                workers,
                certificate,
            )
            for name in wanted
        }
        running: dict[str, Running | None] = {}
        try:
            if not case.fresh and not isinstance(case, CheckCase):
                for name, place in places.items():
                    running[name] = programs.start(name, place, case.setup)
            case.prepare(places, bench)
            for turn in range(rounds):
                order = wanted[turn % len(wanted) :] + wanted[: turn % len(wanted)]
                for name in order:
                    if case.fresh:
                        running[name] = programs.start(name, places[name], case.setup)
                    wait_for_quiet(patience)
                    try:
                        sample = case.measure(running.get(name), places[name], bench)
                        samples[name].append(asdict(sample))
                    except tools.ToolError as error:  # this one round is lost
                        missing.append(f"a round of {name}: {error}")
                    finally:
                        if case.fresh:
                            stop(running.pop(name, None))
        except (tools.ToolError, programs.StartError) as error:
            missing.append(str(error))
        finally:
            for one in running.values():
                stop(one)
            stop(backend)
    notes = {key: value for key, value in case.notes.items() if key != "write"}
    return {
        "case": case.name,
        "workers": workers,
        "samples": samples,
        "missing": missing,
        "notes": notes,
    }


def wait_for_quiet(patience: float) -> None:
    """Wait until four fifths of the machine are idle, but not for ever."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        before = _cpu_times()
        time.sleep(0.1)
        idle, total = (b - a for a, b in zip(before, _cpu_times(), strict=True))
        if idle > 0.8 * total:
            return


def _cpu_times() -> tuple[int, int]:
    """Return idle and total time of all cores, in ticks."""
    times = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return times[3] + times[4], sum(times[:8])


def stop(running: Running | None) -> None:
    """End a program, if there is one."""
    if running is not None:
        running.stop()


def make_certificate(folder: Path) -> Path:
    """Make a certificate and its key in one file."""
    path, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [str(programs.which("openssl")), "req", "-x509", "-newkey", "ec", "-pkeyopt",
         "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=bench.test", "-days", "30",
         "-keyout", str(key), "-out", str(path)],
        check=True, capture_output=True,
    )
    path.write_text(path.read_text() + key.read_text())
    return path


def say(text: str) -> None:
    """Tell how far the run is."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


