"""The cases: what work is done, by which load, against which backend, counted in which unit."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.bench import backends, programs, tools
from tests.bench.programs import Place, Running, Setup
from tests.bench.tools import Sample

TCP = ("none", "nginx", "ngxstream", "haproxy")
UDP = ("none", "nginx", "ngxstream")
OURS = ("nginx", "ngxstream")
CLOSE = "Connection: close"


@dataclass
class Bench:
    """What a case may use while it runs."""

    folder: Path
    seconds: float
    workers: int


@dataclass
class Case:
    """One kind of work.

    Args: `load(place, bench)` makes it against place.port; `targets` are the ratios to nginx to
    reach, (throughput at least, CPU per unit at most); `adds` is the CPU per unit, in µs, that
    functions may add.
    """

    name: str
    title: str
    unit: str
    setup: Setup
    backend: Callable[[Path, int], Running | None]
    load: Callable[[Place, Bench], Sample]
    needs: tuple[str, ...] = ()
    targets: tuple[float | None, float | None] = (None, None)
    fresh: bool = False  # a new proxy for every round
    rated: bool = True  # throughput means something: the load is not paced
    adds: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """Return which tools are not here."""
        return [tool for tool in self.needs if not programs.which(tool)]

    def prepare(self, places: dict[str, Place], bench: Bench) -> None:
        """Find out what the load must know before the first round."""

    def measure(self, running: Running | None, place: Place, bench: Bench) -> Sample:
        """Run the load once, and take the proxy's CPU time meanwhile."""
        before = running.cpu_ns() if running else 0
        sample = self.load(place, bench)
        if running:
            sample.cpu_ns = running.cpu_ns() - before
        return sample


class IdleCase(Case):
    """Sessions that do nothing: what each of them weighs."""

    def measure(self, running: Running | None, place: Place, bench: Bench) -> Sample:
        """Open sessions in two steps; the second is weighed."""
        count = 2000
        program = "idle-udp" if self.setup.udp else "idle-tcp"
        stepped = tools.Stepped(program, place.port, 200, count)
        try:
            before = running.pss_kb() if running else 0
            stepped.go_on()
            after = running.pss_kb() if running else 0
        finally:
            stepped.close()
        return Sample(count, 1, cpu_ns=(after - before) * 1024.0 * 1000)


class LiveCase(Case):
    """Many live UDP sessions: what it costs to begin one, and each datagram after that."""

    def measure(self, running: Running | None, place: Place, bench: Bench) -> Sample:
        """Begin the sessions, then count the CPU of round trips over all of them."""
        count = self.notes["sessions"]
        trips = max(10_000, count * 2)
        stepped = tools.Stepped("live-udp", place.port, count, trips)
        try:
            zero = running.cpu_ns() if running else 0
            stepped.go_on()
            one = running.cpu_ns() if running else 0
            begin = time.monotonic()
            stepped.go_on()
            seconds = time.monotonic() - begin
            two = running.cpu_ns() if running else 0
        finally:
            stepped.close()
        if running:
            made = self.notes.setdefault("begin_us", {}).setdefault(place.folder.name, [])
            made.append((one - zero) / count / 1000)
        return Sample(trips, seconds, cpu_ns=float(two - one) if running else None)


class PacedCase(Case):
    """Requests at fixed times, at half of what nginx can do: how long each takes."""

    def prepare(self, places: dict[str, Place], bench: Bench) -> None:
        """Measure nginx at saturation."""
        port = places["nginx"].port
        if self.setup.udp:
            full = tools.own("windows", port, 50, 4, 2.0)
        else:
            full = tools.wrk(f"http://127.0.0.1:{port}/", 64, 2)
        self.notes["rate"] = round(full.units / full.seconds / 2)


class CheckCase(Case):
    """`-t` on a configuration: CPU and time of one run."""

    def measure(self, running: Running | None, place: Place, bench: Bench) -> Sample:
        """Run the test of a configuration once."""
        name = place.folder.name
        path = self.notes["write"](place, name == "nginx")
        ours = [sys.executable, "-m", "ngxstream"]
        program = [str(programs.which("nginx"))] if name == "nginx" else ours
        before, begin = os.times(), time.monotonic()
        done = subprocess.run(
            [*program, "-t", "-q", "-p", str(place.folder), "-c", str(path)],
            capture_output=True, text=True, check=False, cwd=tools.ROOT,
        )
        seconds, after = time.monotonic() - begin, os.times()
        if done.returncode:
            raise tools.ToolError(f"{name} -t: {done.stderr}")
        cpu = after.children_user - before.children_user
        cpu += after.children_system - before.children_system
        return Sample(1, seconds, cpu_ns=cpu * 1e9)


# -- loads -------------------------------------------------------------------------------------


def _url(place: Place, path: str = "/", scheme: str = "http") -> str:
    return f"{scheme}://127.0.0.1:{place.port}{path}"


def _wrk(connections: int, header: str = "") -> Callable[[Place, Bench], Sample]:
    return lambda place, bench: tools.wrk(_url(place), connections, bench.seconds, header)


def _iperf(flows: int) -> Callable[[Place, Bench], Sample]:
    return lambda place, bench: tools.iperf(place.port, flows, bench.seconds)


def _windows(clients: int, window: int) -> Callable[[Place, Bench], Sample]:
    return lambda place, bench: tools.own("windows", place.port, clients, window, bench.seconds)


def _fire(place: Place, bench: Bench) -> Sample:
    return tools.own("fire", place.port, place.backend_port, 50, bench.seconds)


def _gso(place: Place, bench: Bench) -> Sample:
    return tools.own("gso", place.port, 10, 32, 1200, bench.seconds)


def _quic(place: Place, bench: Bench) -> Sample:
    return tools.own("quic", place.port, 10, bench.seconds)


def _dns(place: Place, bench: Bench) -> Sample:
    return tools.dnsperf(place.port, backends.questions(bench.folder), bench.seconds)


def _nothing(place: Place, bench: Bench) -> Sample:
    raise AssertionError("a case of its own kind")


def _fairness(place: Place, bench: Bench) -> Sample:
    """Time 100 small flows while one bulky flow runs."""
    words = ["-t1", "-c1", f"-d{bench.seconds + 2:.0f}s", _url(place, "/big")]
    bulk = programs.spawn([str(programs.which("wrk")), *words], stdout=subprocess.DEVNULL)
    try:
        return tools.own("paced", place.port, 100, 2000.0, bench.seconds, 0)
    finally:
        bulk.kill()
        bulk.wait()


# -- configurations for -t ---------------------------------------------------------------------


def _geo_conf(place: Place, is_nginx: bool) -> Path:
    place.folder.mkdir(parents=True, exist_ok=True)
    path = place.folder / "geo.conf"
    if not path.exists():
        load = f"load_module {programs.NGINX_MODULE};" if is_nginx else ""
        lines = "".join(
            f"        {10 + (i >> 16)}.{i >> 8 & 255}.{i & 255}.0/24 zone{i % 64};\n"
            for i in range(100_000)
        )
        path.write_text(
            f"{load}\npid {place.folder}/pid; error_log {place.folder}/error.log;\nevents {{}}\n"
            f"stream {{\n    geo $zone {{\n        default none;\n{lines}    }}\n"
            f"    server {{ listen 127.0.0.1:{place.port}; return $zone; }}\n}}\n"
        )
    return path


def _quickstart_conf(place: Place, is_nginx: bool) -> Path:
    (place.folder / "logs").mkdir(parents=True, exist_ok=True)
    text = (tools.ROOT / "conf" / "quickstart.conf").read_text()
    path = place.folder / "quickstart.conf"
    path.write_text((f"load_module {programs.NGINX_MODULE};\n" if is_nginx else "") + text)
    return path


# -- the list ----------------------------------------------------------------------------------

_tcp = Setup(programs=TCP, lines="proxy_timeout 1h;")
_udp = Setup(udp=True, programs=UDP, lines="proxy_timeout 1h;")
_one_shot = replace(_udp, lines="proxy_responses 1; proxy_timeout 20s;")
_by_id = replace(
    _udp, ours="proxy_quic on;", programs=(*UDP, f"ngxstream{programs.BARE}"),
)
_dns_setup = replace(
    _udp,
    programs=("none", "nginx", "ngxstream", "dnsdist"),
    lines="proxy_requests 1; proxy_responses 1; proxy_timeout 5s;",
)
_BESIDE = (*OURS, f"ngxstream{programs.BARE}")
_KEY = "$binary_remote_addr zone=z:1m"  # limits that are not reached
_datagrams = replace(
    _udp, zones=f"limit_datagram_zone {_KEY} rate=100000000r/s;", ours="limit_datagram zone=z;",
    programs=_BESIDE,
)
_sessions = replace(
    _one_shot, zones=f"limit_sess_zone {_KEY} rate=100000000r/s;", programs=_BESIDE,
    ours="limit_sess zone=z burst=1000000 nodelay;",
)
_bytes = replace(
    _tcp, zones=f"limit_bandwidth_zone {_KEY} rate=16000m;", ours="limit_bandwidth upload zone=z;",
    programs=_BESIDE,
)
_fire_setup = replace(_udp, lines="proxy_requests 1; proxy_responses 0; proxy_timeout 5s;")
_tls = Setup(tls=True, programs=("nginx", "ngxstream", "haproxy"), lines="proxy_timeout 1h;")
_WRK = ("wrk", "nginx")
_LOGGED = "buffer=64k flush=1s"


def _logged(setup: Setup, parameters: str = "") -> Setup:
    both = tuple(name + end for name in OURS for end in ("", programs.PLAIN))
    return replace(setup, log=parameters, programs=both)


def _info(setup: Setup) -> Setup:
    both = tuple(name + end for name in OURS for end in ("", programs.PLAIN))
    return replace(setup, level="info", programs=both)


def _scripted(setup: Setup, functions: str = "", chooses: str = "") -> Setup:
    """Return a setup with functions. Args: see Setup"""
    names = ("nginx", *(() if chooses else ("nginx" + programs.NJS,)),
             "ngxstream", "ngxstream" + programs.PYTHON)
    return replace(setup, functions=functions, chooses=chooses, programs=names)


def _filtered(setup: Setup, kind: str) -> Setup:
    return _scripted(setup, f"x_filter functions.{kind};")


def _both(name: str, what: str, log: str | None = None, *, adds: float | None = None,
          **functions: str) -> tuple[Case, ...]:
    """Return cases of short sessions whose function is called once. Args: see _scripted"""
    tcp, udp = (_scripted(replace(one, log=log), **functions) for one in (_tcp, _one_shot))
    return (
        Case(f"tcp-crr-{name}", f"TCP connect, exchange, close; {what}", "connection", tcp,
             backends.http, _wrk(64, CLOSE), _WRK, adds=adds),
        Case(f"udp-oneshot-{name}", f"UDP one-shot; {what}", "session", udp, backends.echo,
             _windows(50, 1), adds=adds),
    )


def _live(count: int) -> LiveCase:
    return LiveCase(
        f"udp-live-{count}", f"UDP, {count} live sessions in turn", "round trip",
        _udp, backends.echo, _nothing, fresh=True, rated=False, notes={"sessions": count},
    )


CASES: tuple[Case, ...] = (
    Case("tcp-bulk-1", "TCP bulk, 1 flow", "GB", _tcp, backends.iperf, _iperf(1), ("iperf3",),
         (1.6, 0.3)),
    Case("tcp-bulk-4", "TCP bulk, 4 flows", "GB", _tcp, backends.iperf, _iperf(4), ("iperf3",)),
    Case("tcp-rr-1", "TCP request/response, 1 connection", "request", _tcp, backends.http,
         _wrk(1), _WRK),
    Case("tcp-rr-64", "TCP request/response, 64 connections", "request", _tcp, backends.http,
         _wrk(64), _WRK, (1.0, 1.05)),
    Case("tcp-crr", "TCP connect, exchange, close", "connection", _tcp, backends.http,
         _wrk(64, CLOSE), _WRK, (1.0, 1.0)),
    Case("udp-1x1", "UDP ping-pong, 1 client", "round trip", _udp, backends.echo, _windows(1, 1),
         (), (1.0, 1.1)),
    Case("udp-1x32", "UDP, 1 client, 32 outstanding", "round trip", _udp, backends.echo,
         _windows(1, 32), (), (1.3, 0.7)),
    Case("udp-50x1", "UDP, 50 clients, 1 outstanding", "round trip", _udp, backends.echo,
         _windows(50, 1)),
    Case("udp-50x4", "UDP, 50 clients, 4 outstanding", "round trip", _udp, backends.echo,
         _windows(50, 4), (), (1.4, 0.65)),
    Case("udp-oneshot", "UDP one-shot (proxy_responses 1)", "session", _one_shot, backends.echo,
         _windows(50, 1), (), (1.15, 0.9)),
    Case("tcp-rr-64-info", "TCP request/response, 64 connections, error_log info", "request",
         _info(_tcp), backends.http, _wrk(64), _WRK, (1.0, 1.05)),
    Case("tcp-crr-info", "TCP connect, exchange, close, error_log info", "connection", _info(_tcp),
         backends.http, _wrk(64, CLOSE), _WRK, (1.0, 1.05)),
    Case("udp-oneshot-info", "UDP one-shot, error_log info", "session", _info(_one_shot),
         backends.echo, _windows(50, 1), (), (1.0, 1.0)),
    Case("dns", "DNS, dnsperf against NSD", "answer", _dns_setup, backends.dns, _dns,
         ("dnsperf", "nsd"), (1.15, 0.9)),
    Case("udp-gso", "UDP, GSO/GRO peers, 10 flows of 32 segments", "round trip", _udp,
         backends.gso_echo, _gso, (), (10.0, 0.1)),
    Case("quic-gso", "QUIC-like downloads, GSO/GRO peers, 10 connections", "datagram", _by_id,
         backends.quic_gso, _quic, (), (1.5, 0.7)),
    Case("udp-50x4-limit", "UDP, 50 clients, 4 outstanding, limit_datagram", "round trip",
         _datagrams, backends.echo, _windows(50, 4)),
    Case("udp-oneshot-limit", "UDP one-shot, limit_sess", "session", _sessions, backends.echo,
         _windows(50, 1)),
    Case("tcp-rr-64-limit", "TCP request/response, 64 connections, limit_bandwidth", "request",
         _bytes, backends.http, _wrk(64), _WRK),
    Case("udp-fire", "UDP fire-and-forget (proxy_responses 0)", "datagram", _fire_setup,
         backends.nobody, _fire),
    Case("tls-bulk", "TLS bulk, 1 flow", "GB", _tls, backends.http,
         lambda place, bench: tools.wrk_bulk(_url(place, "/big", "https"), bench.seconds), _WRK),
    Case("tls-handshake", "TLS 1.3 handshakes, full", "handshake", _tls, backends.http,
         lambda place, bench: tools.handshakes(place.port, bench.seconds), ("openssl", "nginx")),
    Case("tls-resume", "TLS 1.3 resumed by tickets, a request each", "connection", _tls,
         backends.http, lambda place, bench: tools.own("tls-resume", place.port, bench.seconds),
         ("openssl", "nginx")),
    IdleCase("idle-tcp", "Idle TCP session, memory", "session", replace(_tcp, programs=TCP[1:]),
             backends.http, _nothing, ("nginx",), (None, 0.35), fresh=True, rated=False),
    IdleCase("idle-udp", "Idle UDP session, memory", "session", replace(_udp, programs=OURS),
             backends.echo, _nothing, (), (None, 0.35), fresh=True, rated=False),
    _live(100),
    _live(1000),
    _live(10_000),
    PacedCase("latency-tcp", "TCP request/response at half of nginx's saturation", "request", _tcp,
              backends.http, lambda place, bench: tools.own(
                  "paced", place.port, 64, float(LATENCY_TCP.notes["rate"]), bench.seconds, 0),
              _WRK, rated=False),
    PacedCase("latency-udp", "UDP round trips at half of nginx's saturation", "round trip", _udp,
              backends.echo, lambda place, bench: tools.own(
                  "paced", place.port, 50, float(LATENCY_UDP.notes["rate"]), bench.seconds, 1),
              rated=False),
    Case("fairness", "100 small TCP flows beside a bulky one", "request", _tcp, backends.http,
         _fairness, _WRK, rated=False),
    Case("tcp-crr-log", "TCP connect, exchange, close, access_log", "connection", _logged(_tcp),
         backends.http, _wrk(64, CLOSE), _WRK),
    Case("udp-oneshot-log", "UDP one-shot, access_log buffer=", "session",
         _logged(_one_shot, _LOGGED), backends.echo, _windows(50, 1)),
    *_both("access", "an empty function of the access phase",
           functions="x_access functions.access;", adds=5),
    *_both("balancer", "a function that chooses among two servers", chooses="functions.choose"),
    *_both("set", "a function's variable in the access_log", _LOGGED,
           functions="x_set $said functions.value;"),
    Case("tcp-bulk-filter", "TCP bulk, 1 flow, through a filter", "GB", _filtered(_tcp, "Single"),
         backends.iperf, _iperf(1), ("iperf3",)),
    Case("tcp-rr-filter", "TCP request/response, 64 connections, through a filter", "request",
         _filtered(_tcp, "Single"), backends.http, _wrk(64), _WRK),
    Case("tcp-crr-filter", "TCP connect, exchange, close, through a filter", "connection",
         _filtered(_tcp, "Single"), backends.http, _wrk(64, CLOSE), _WRK),
    Case("udp-50x4-filter", "UDP, 50 clients, 4 outstanding, through a batch filter", "round trip",
         _filtered(_udp, "Batch"), backends.echo, _windows(50, 4), adds=6),
    Case("udp-1x32-filter", "UDP, 1 client, 32 outstanding, through a batch filter", "round trip",
         _filtered(_udp, "Batch"), backends.echo, _windows(1, 32), adds=6),
    Case("udp-single-filter", "UDP, 50 clients, 4 outstanding, through a filter", "round trip",
         _filtered(_udp, "Single"), backends.echo, _windows(50, 4)),
    CheckCase("check-quickstart", "-t on the quickstart", "run", replace(_tcp, programs=OURS),
              backends.nobody, _nothing, notes={"write": _quickstart_conf}, rated=False),
    CheckCase("check-geo", "-t on 100 000 lines of geo", "run", replace(_tcp, programs=OURS),
              backends.nobody, _nothing, notes={"write": _geo_conf}, rated=False),
)
BY_NAME = {case.name: case for case in CASES}
LATENCY_TCP, LATENCY_UDP = BY_NAME["latency-tcp"], BY_NAME["latency-udp"]


def has_functions(case: Case) -> bool:
    """Tell whether a case is about functions of the configuration."""
    return bool(case.setup.functions or case.setup.chooses)


def median(values: Iterable[float | None]) -> float | None:
    """Return the median of those that are known."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
