"""How costs grow with the number of sessions, connections, servers and lines, beside nginx.

    python -m tests.bench.growth [CURVE…] [-r ROUNDS] [-o FILE.json]
    python -m tests.bench.growth --report FILE.json…      writes docs/growth.md and its plots

A curve is a cost at several sizes; at each size both programs are measured in alternating rounds,
each started anew. Costs are CPU time of the workers, or of the whole process for `-t`, as in the
other cases (runner.py); of several rounds the least counts: what else the machine does can only add
to it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.bench import backends, programs, report, svg, tools
from tests.bench.programs import Running

PROGRAMS: Final = ("nginx", "ngxstream")
# of a process, where more sessions need more workers; nginx has two connections for a UDP session
DESCRIPTORS: Final = 20_000
ADDRESSES: Final = 10  # that clients have: one has no more than 28 000 ports
PAGE: Final = report.DOCS / "growth.md"

Costs = dict[str, dict[int, list[float]]]  # by program and size, µs


@dataclass(frozen=True)
class Curve:
    """A cost that may grow.

    Args: `of` says what it is of, `per` what there is more and more of; `conf(size, port, backend)`
    returns lines of the stream block; `load(running, port, size)` makes the load and returns µs a
    unit, None: the cost is that of `-t`; `backend` starts what is behind the proxy
    """

    name: str
    title: str
    of: str
    per: str
    sizes: tuple[int, ...]
    conf: Callable[[int, int, int], str]
    load: Callable[[Running, int, int], float] | None = None
    backend: Callable[[Path, int], Running | None] = backends.nobody
    udp: bool = False
    workers: int = 1
    group: str = field(default="")  # curves that are shown in one plot


# -- loads -----------------------------------------------------------------------------------------


def _live(running: Running, port: int, size: int) -> float:
    """Return the CPU time of a round trip, over all of so many sessions in turn."""
    trips = max(20_000, size)
    loads = _loads("live-udp", port, size, trips, 64, ADDRESSES)
    try:
        for one in loads:
            one.go_on()
        before = running.cpu_ns()
        for one in loads:
            one.go_on()
        return (running.cpu_ns() - before) / trips / len(loads) / 1000
    finally:
        for one in loads:
            one.close()


def _beside(running: Running, port: int, size: int) -> float:
    """Return the CPU time of a request, beside so many connections that are idle."""
    loads = _loads("idle-tcp", port, size, 0)
    try:
        return _wrk(running, port, "")
    finally:
        for one in loads:
            one.close()


def _loads(name: str, port: int, size: int, *words: float) -> list[tools.Stepped]:
    """Start as many load programs as so many sockets need."""
    number = -(-size // (DESCRIPTORS - 1000))
    return [tools.Stepped(name, port, size // number, *words) for _ in range(number)]


def _new(running: Running, port: int, size: int) -> float:
    """Return the CPU time of a connection that makes one request."""
    return _wrk(running, port, "Connection: close")


def _wrk(running: Running, port: int, header: str) -> float:
    before = running.cpu_ns()
    sample = tools.wrk(f"http://127.0.0.1:{port}/", 64, 1, header)
    return (running.cpu_ns() - before) / sample.units / 1000


# -- configurations --------------------------------------------------------------------------------


def _sessions(size: int, port: int, backend: int) -> str:
    return f"""
    server {{
        listen 127.0.0.1:{port} udp reuseport; proxy_timeout 1h; proxy_bind $remote_addr;
        proxy_pass 127.0.0.1:{backend};
    }}"""


def _connections(size: int, port: int, backend: int) -> str:
    return f"""
    server {{
        listen 127.0.0.1:{port} reuseport; proxy_timeout 1h; proxy_pass 127.0.0.1:{backend};
    }}"""


def _peers(
    method: str, *, zone: bool, weights: int = 1
) -> Callable[[int, int, int], str]:
    """Return what writes a group of so many servers, all of which are the same backend."""

    def write(size: int, port: int, backend: int) -> str:
        servers = "".join(
            f"server 127.{1 + (n >> 16)}.{n >> 8 & 255}.{n & 255}:{backend}"
            f" weight={1 + n % weights};\n"
            for n in range(size)
        )
        shared = f"zone z {max(1, size // 500)}m;" if zone else ""
        return f"""
    upstream u {{ {shared} {method} {servers} }}
    server {{ listen 127.0.0.1:{port}; proxy_timeout 1h; proxy_pass u; }}"""

    return write


def _regexes(pattern: str, subject: str) -> Callable[[int, int, int], str]:
    def write(size: int, port: int, backend: int) -> str:
        lines = "".join(f'"~{pattern.format(n)}" {n};\n' for n in range(size))
        return f"""
    map "{subject}" $found {{ {lines} default none; }}
    server {{
        listen 127.0.0.1:{port}; proxy_timeout 1h; set $said $found;
        proxy_pass 127.0.0.1:{backend};
    }}"""

    return write


def _map_lines(size: int, port: int, backend: int) -> str:
    lines = "".join(f"key{n} value{n % 64};\n" for n in range(size))
    server = f"server {{ listen 127.0.0.1:{port}; return $found; }}"
    # nginx wants its hashes tuned
    return f"""
    map_hash_max_size {max(2048, size * 4)}; map_hash_bucket_size 128;
    map $remote_addr $found {{ {lines} }} {server}"""


def _listens(size: int, port: int, backend: int) -> str:
    return "".join(
        f"server {{ listen 127.{1 + (n >> 8)}.{n & 255}.1:{port}; return x; }}\n"
        for n in range(size)
    )


def _upstreams(size: int, port: int, backend: int) -> str:
    return "".join(
        f"upstream u{n} {{ server 127.0.0.1:{backend}; }}\n" for n in range(size)
    ) + f"server {{ listen 127.0.0.1:{port}; proxy_pass u0; }}"


def _http(folder: Path, port: int) -> Running:
    return backends.http(folder, port, f"*:{port}")


def _http_of_two(folder: Path, port: int) -> Running:
    return backends.http(folder, port, f"127.0.0.1:{port} reuseport", workers=2)


# -- the list --------------------------------------------------------------------------------------

_PEERS: Final = (10, 100, 1000, 5000)
_METHODS: Final = (
    ("rr", "round robin", "", 1),
    ("weights", "round robin, ten weights", "", 10),
    ("least-conn", "least_conn", "least_conn;", 1),
    ("hash", "hash consistent", "hash $remote_port consistent;", 1),
    ("random-two", "random two", "random two;", 1),
)

CURVES: Final = (
    Curve("sessions", "UDP, one worker", "a round trip", "live sessions",
          (100, 1000, 10_000, 19_000), _sessions, _live, backends.echo, udp=True),
    Curve("sessions-six", "UDP, six workers", "a round trip", "live sessions",
          (100, 10_000, 100_000), _sessions, _live, backends.echo, udp=True, workers=6),
    Curve("idle", "TCP, four workers", "a request", "idle connections beside it",
          (100, 5000, 20_000), _connections, _beside, _http_of_two, workers=4),
    *(
        Curve(f"peers-{name}{'-zone' if zone else ''}", f"{title}{', zone' if zone else ''}",
              "a connection, opened, used once and closed", "servers", _PEERS,
              _peers(method, zone=zone, weights=weights), _new, _http, group="peers")
        for name, title, method, weights in _METHODS
        for zone in (False, True)
    ),
    Curve("map-none", "map, regular expressions of which none matches",
          "a connection, opened, used once and closed", "regular expressions",
          (10, 100, 1000, 10_000), _regexes(r"^host{}\.example\.(com|org)$", "h$remote_addr"),
          _new, backends.http),
    Curve("map-inside", "map, regular expressions that are not anchored",
          "a connection, opened, used once and closed", "regular expressions",
          (10, 100, 1000, 10_000), _regexes(r"tenant{}-[a-z]+\.example", "h$remote_addr"),
          _new, backends.http),
    Curve("check-map", "-t: lines of a map", "a test", "lines", (1000, 10_000, 100_000),
          _map_lines),
    Curve("check-regex", "-t: regular expressions of a map", "a test", "lines",
          (100, 1000, 10_000), _regexes(r"^host{}\.example\.(com|org)$", "$remote_addr")),
    Curve("check-servers", "-t: server blocks, each with a listen", "a test", "servers",
          (100, 1000, 4000), _listens),
    Curve("check-upstreams", "-t: upstream blocks", "a test", "upstreams", (100, 1000, 10_000),
          _upstreams),
    Curve("check-peers", "-t: servers of a group", "a test", "servers", (100, 1000, 10_000),
          _peers("", zone=False)),
    Curve("check-ring", "-t: servers of a group with hash consistent", "a test", "servers",
          (100, 1000, 5000), _peers("hash $remote_addr consistent;", zone=True)),
)
BY_NAME: Final = {curve.name: curve for curve in CURVES}


# -- running ---------------------------------------------------------------------------------------


def write_conf(program: str, folder: Path, lines: str, workers: int = 1) -> list[str]:
    """Write a configuration, and return the command that serves by it."""
    folder.mkdir(parents=True, exist_ok=True)
    module = programs.NGINX_MODULE
    load = f"load_module {module};" if program == "nginx" and os.path.exists(module) else ""
    (folder / "nginx.conf").write_text(f"""
{load}
daemon off; user root; worker_processes {workers}; worker_rlimit_nofile {DESCRIPTORS};
pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections {3 * DESCRIPTORS}; }}
stream {{ {lines} }}
""")
    first = [str(programs.which("nginx"))] if program == "nginx" else [
        sys.executable, "-m", "ngxstream"]
    return [*first, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e",
            str(folder / "early.log")]


def start(program: str, folder: Path, lines: str, port: int, curve: Curve) -> Running:
    """Start a program. Raises: StartError"""
    quiet = subprocess.DEVNULL
    command = write_conf(program, folder, lines, curve.workers)
    with (folder.parent / "stderr.log").open("w") as said:
        running = Running(programs.spawn(
            command, stdin=quiet, stdout=quiet, stderr=said, cwd=tools.ROOT))
    end = time.monotonic() + 60
    while time.monotonic() < end and running.process.poll() is None:
        running.pids = programs.children(running.process.pid)
        if len(running.pids) == curve.workers and programs.is_bound(port, curve.udp):
            time.sleep(0.3)  # let the start itself be over
            return running
        time.sleep(0.05)
    running.stop()
    raise programs.StartError((folder.parent / "stderr.log").read_text())


def check(program: str, folder: Path, lines: str) -> float:
    """Return the CPU time of `-t`, in µs. Raises: ToolError"""
    command = write_conf(program, folder, lines)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*command, "-t", "-q"], capture_output=True, text=True, check=False,
                          cwd=tools.ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise tools.ToolError(f"{program} -t: {done.stderr[-500:]}")
    return 1e6 * (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def measure(curve: Curve, program: str, size: int, folder: Path) -> float:
    """Measure one point of a curve once."""
    port, behind = programs.free_port(), programs.free_port()
    lines = curve.conf(size, port, behind)
    place = folder / program
    if curve.load is None:
        return check(program, place, lines)
    backend = curve.backend(folder / "backend", behind)
    running = None
    try:
        running = start(program, place, lines, port, curve)
        return curve.load(running, port, size)
    finally:
        for one in (running, backend):
            if one is not None:
                one.stop()


def run(curve: Curve, rounds: int, only: Sequence[str] = PROGRAMS) -> Costs:
    """Measure a curve."""
    found: Costs = {program: {size: [] for size in curve.sizes} for program in only}
    for turn in range(rounds):
        for size in curve.sizes:
            order = only if turn % 2 else only[::-1]
            for program in order:
                with tempfile.TemporaryDirectory(prefix="growth-") as text:
                    try:
                        cost = measure(curve, program, size, Path(text))
                    except (tools.ToolError, programs.StartError) as error:
                        print(f"{curve.name} {program} {size}: {error}", file=sys.stderr)
                        continue
                found[program][size].append(cost)
    return found


# -- the page --------------------------------------------------------------------------------------


def best(costs: Mapping[str, Mapping[Any, Sequence[float]]]) -> dict[str, dict[int, float]]:
    """Return the least of each point's rounds, by program and size."""
    return {
        program: {int(size): min(values) for size, values in points.items() if values}
        for program, points in costs.items()
    }


def number(value: float) -> str:
    """Write µs so that three figures are seen."""
    if value >= 1e6:
        return f"{value / 1e6:.3g} s"
    return f"{value / 1e3:.3g} ms" if value >= 1e3 else f"{value:.3g} µs"


def table(curves: Sequence[Curve], results: Mapping[str, Costs]) -> Iterator[str]:
    """Yield a table of curves that have the same sizes."""
    sizes = curves[0].sizes
    heads = "".join(f" {size:,} |".replace(",", " ") for size in sizes)
    kinds = {curve.per for curve in curves}
    yield f"| {kinds.pop() if len(kinds) == 1 else 'number'} | |{heads}"
    yield "|---|---|" + "---|" * len(sizes)
    for curve in curves:
        title = curve.title
        for program, points in best(results[curve.name]).items():
            cells = "".join(
                f" {number(points[size])} |" if size in points else " - |" for size in sizes
            )
            yield f"| {title} | {program} |{cells}"
            title = ""


def page(results: Mapping[str, Costs], when: float) -> None:
    """Write the tables and plots."""
    text = report.between(PAGE.read_text(), "machine", report.machine(when))
    groups: dict[str, list[Curve]] = {}
    for curve in CURVES:
        if curve.name in results:
            groups.setdefault(curve.group or curve.name.partition("-")[0], []).append(curve)
    for name, curves in groups.items():
        by_sizes: dict[tuple[int, ...], list[Curve]] = {}
        for curve in curves:
            by_sizes.setdefault(curve.sizes, []).append(curve)
            series = {
                program: sorted((float(size), cost) for size, cost in points.items())
                for program, points in best(results[curve.name]).items()
            }
            plot = svg.lines(
                f"{curve.title}: CPU of {curve.of}", f"{curve.per}; µs", series,
                logarithmic=curve.load is None,
            )
            (report.DOCS / f"growth-{curve.name}.svg").write_text(plot)
        tables = ["\n".join(table(some, results)) for some in by_sizes.values()]
        text = report.between(text, name, "\n\n".join(tables))
    PAGE.write_text(text)


def main() -> int:
    """Run what was asked for. Returns: the exit status"""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", nargs="*", help=f"of {', '.join(BY_NAME)}; or results to report")
    parser.add_argument("-r", "--rounds", type=int, default=3)
    parser.add_argument("-p", "--programs", default=",".join(PROGRAMS))
    parser.add_argument("-o", "--output", type=Path, help="write all samples here, as JSON")
    parser.add_argument("--report", action="store_true", help="write docs/growth.md from results")
    args = parser.parse_args()
    if args.report:
        results: dict[str, Costs] = {}
        for path in args.curves:
            results |= json.loads(Path(path).read_text())
        page(results, Path(args.curves[0]).stat().st_mtime)
        return 0
    unknown = [name for name in args.curves if name not in BY_NAME]
    if unknown:
        parser.error(f"no such curve: {', '.join(unknown)}")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    results = {}
    for name in args.curves or BY_NAME:
        results[name] = run(BY_NAME[name], args.rounds, args.programs.split(","))
        print("\n".join(table([BY_NAME[name]], results)), flush=True)
        if args.output:
            args.output.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
