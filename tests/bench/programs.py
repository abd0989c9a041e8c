"""The proxies that are compared: their configurations, their processes, their CPU and memory."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

NGINX_MODULE: Final = "/usr/lib/nginx/modules/ngx_stream_module.so"
NJS_MODULE: Final = "/usr/lib/nginx/modules/ngx_stream_js_module.so"
CONNECTIONS: Final = 40000
ACCESS_LOG: Final = (
    "log_format eight '$remote_addr:$remote_port $server_port $protocol $status "
    "$bytes_sent $bytes_received $session_time{more}';"
)
PLAIN: Final = ", no log"
BARE: Final = ", without"  # likewise: without the lines that only ngxstream has
PYTHON: Final = "+py"  # behind a name: with the case's functions, which others run without
NJS: Final = "+js"  # likewise, in njs
SHOWN: Final = "+api"  # behind a name: with an api, which has sessions and servers counted
OTHER: Final = ", $NGINX"  # behind nginx: another binary than Debian's, which the environment names
BY: Final = "@"  # in front of an interpreter's label, behind a name: run by that one
INTERPRETERS: Final[dict[str, str]] = {}  # label -> path, as the command line says (-i)
ROOT: Final = Path(__file__).resolve().parents[2]
PATH: Final = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


class StartError(Exception):
    """A program did not start."""


@dataclass(frozen=True)
class Setup:
    """What a case asks of a proxy.

    Args: `lines` go into the server block, `ours` into that of ngxstream alone, with `zones` before
    it, which runs beside itself without them where its name with BARE behind it stands in
    `programs`; `main` goes into the main context; `level` is that of the error_log; `log` is the
    parameter text of an access_log in the format of eight variables, None for no log; `programs`
    can do the case. A program with a log, or with an error_log that says more than errors, runs
    beside itself without where its name with PLAIN behind it stands in `programs`. With
    `is_shown` there is an api. `functions` are lines of the server block that name functions of
    functions.py or functions.js, `x_` stands for `py_` or `js_`; `chooses` is the one of a balancer
    among two servers.
    """

    is_shown: bool = False
    functions: str = ""
    chooses: str = ""
    udp: bool = False
    tls: bool = False
    lines: str = ""
    main: str = ""
    level: str = "error"
    ours: str = ""
    zones: str = ""
    log: str | None = None
    programs: tuple[str, ...] = ("none", "nginx", "ngxstream")


@dataclass
class Place:
    """Where one proxy of one case runs."""

    folder: Path
    port: int
    backend_port: int
    workers: int
    certificate: Path | None = None


def which(program: str) -> str | None:
    """Return the path of a tool, looking in sbin too."""
    return shutil.which(program, path=PATH)


def free_port() -> int:
    """Return a port that nobody uses, TCP and UDP."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            port = int(tcp.getsockname()[1])
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@dataclass
class Running:
    """A process and its children."""

    process: subprocess.Popen[Any]
    pids: list[int] = field(default_factory=list)  # those that do the work

    def cpu_ns(self) -> int:
        """Return the CPU time of all threads of the workers, user and system."""
        total = 0
        for pid in self.pids:
            for task in Path(f"/proc/{pid}/task").iterdir():
                try:
                    total += int((task / "schedstat").read_text().split()[0])
                except OSError:
                    continue  # a thread that ended
        return total

    def pss_kb(self) -> int:
        """Return the proportional resident memory of the workers."""
        total = 0
        for pid in self.pids:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        return total

    def stop(self) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def children(pid: int) -> list[int]:
    """Return the pids of a process's children."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def spawn(command: Iterable[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a program. Its stderr goes to ours unless told otherwise."""
    return subprocess.Popen(list(command), text=True, **options)


def _functions(setup: Setup, kind: str) -> tuple[str, str]:
    """Return the lines of stream and server for functions. Args: kind: PYTHON, NJS or nothing"""
    if not kind:
        return "", ""
    kind = kind[1:]
    path = ROOT / "tests" / "bench" / f"functions.{kind}"
    lines = setup.functions.replace("x_", f"{kind}_")
    return f"{kind}_import functions from {path};", lines


def loads_modules(nginx: str = "") -> bool:
    """Tell whether a binary of nginx has its stream module in a file. Args: nginx: see command()"""
    if not os.path.exists(NGINX_MODULE):
        return False
    said = subprocess.run([nginx or "nginx", "-V"], check=False, capture_output=True, text=True,
                          env=os.environ | {"PATH": PATH}).stderr
    return "--with-stream=dynamic" in said


def other_nginx() -> str:
    """Return the path of another nginx to compare with, which NGINX in the environment names."""
    return os.environ.get("NGINX", "")


def _stream_conf(
    place: Place, setup: Setup, *, is_nginx: bool, loads: bool = False, kind: str = ""
) -> str:
    modules = [NGINX_MODULE] if loads else []
    if kind == NJS:
        modules.append(NJS_MODULE)
    load = "\n".join(f"load_module {module};" for module in modules)
    words = [f"listen 127.0.0.1:{place.port}"]
    if setup.udp:
        words.append("udp reuseport")
    if setup.tls:
        words.append("ssl")
    certificate = ""
    if setup.tls:
        pem = place.certificate
        # older releases of nginx have no TLSv1.3 unless told, and TLSv1.2 costs a fifth less
        certificate = (
            f"ssl_certificate {pem}; ssl_certificate_key {pem}; ssl_protocols TLSv1.2 TLSv1.3;"
        )
    shown = f"server {{ listen unix:{place.folder}/api; api; }}" if setup.is_shown else ""
    imports, functions = _functions(setup, kind)
    server = f"server 127.0.0.1:{place.backend_port};"
    if setup.chooses:
        server += server + (f" py_balancer {setup.chooses};" if kind else "")
    formats = log = ""
    if setup.log is not None:
        log = f"access_log {place.folder}/access.log eight {setup.log};"
        formats = ACCESS_LOG.replace("{more}", " $said" if "$said" in functions else "")
    return f"""
{load}
daemon off;
user root;
worker_processes {place.workers};
worker_rlimit_nofile 20000;
pid {place.folder}/pid;
error_log {place.folder}/error.log {setup.level};
{setup.main}
events {{ worker_connections {CONNECTIONS}; }}
stream {{
    {formats}
    {imports}
    {"" if is_nginx else setup.zones}
    upstream backend {{ {server} }}
    server {{
        {" ".join(words)};
        {certificate}
        {log}
        {functions}
        {setup.lines}
        {"" if is_nginx else setup.ours}
        proxy_pass backend;
    }}
    {shown}
}}
"""


def _haproxy_conf(place: Place, setup: Setup) -> str:
    tls = f"ssl crt {place.certificate}" if setup.tls else ""
    return f"""
global
    nbthread {place.workers}
    maxconn 3000
    tune.pipesize 1048576
defaults
    mode tcp
    option splice-request
    option splice-response
    timeout connect 60s
    timeout client 10m
    timeout server 10m
frontend front
    bind 127.0.0.1:{place.port} {tls}
    default_backend back
backend back
    server one 127.0.0.1:{place.backend_port}
"""


def _dnsdist_conf(place: Place) -> str:
    local = f'Local("127.0.0.1:{place.port}", {{reusePort=true}})\n'
    listeners = "set" + local + ("add" + local) * (place.workers - 1)
    return f"""
{listeners}
newServer{{address="127.0.0.1:{place.backend_port}", checkName="www.bench.test."}}
"""


def base(name: str) -> str:
    """Return the program that a name in a case's list stands for."""
    name = name.partition(BY)[0].removesuffix(OTHER)
    name = name.removesuffix(PLAIN).removesuffix(BARE)
    return name.removesuffix(SHOWN).removesuffix(kind_of(name))


def python_of(name: str) -> list[str]:
    """Return the command that runs the interpreter a name asks for."""
    label = name.partition(BY)[2]
    return [INTERPRETERS[label] if label else sys.executable]


def environment() -> dict[str, str]:
    """Return an environment where any interpreter finds what the program needs: crossplane."""
    found = importlib.util.find_spec("crossplane")
    assert found is not None and found.origin is not None
    return os.environ | {"PYTHONPATH": str(Path(found.origin).parents[1])}


def kind_of(name: str) -> str:
    """Return PYTHON or NJS for a program with functions, otherwise nothing."""
    return name[-len(PYTHON) :] if name.endswith((PYTHON, NJS)) else ""


def command(
    name: str, place: Place, setup: Setup, kind: str = "",
    python: Sequence[str] = (sys.executable,), nginx: str = "",
) -> list[str]:
    """Write the configuration of a program, and return what starts it.

    Args: nginx: its binary, if it is not the usual one
    """
    folder = place.folder
    folder.mkdir(parents=True, exist_ok=True)
    if name in ("nginx", "ngxstream"):
        is_nginx = name == "nginx"
        loads = is_nginx and loads_modules(nginx)
        text = _stream_conf(place, setup, is_nginx=is_nginx, loads=loads, kind=kind)
        (folder / "nginx.conf").write_text(text)
        conf, log = folder / "nginx.conf", folder / "early.log"
        ours = [*python, "-m", "ngxstream"]
        program = ours if name == "ngxstream" else [nginx or str(which("nginx"))]
        return [*program, "-p", str(folder), "-c", str(conf), "-e", str(log)]
    if name == "haproxy":
        (folder / "haproxy.cfg").write_text(_haproxy_conf(place, setup))
        return [str(which("haproxy")), "-db", "-q", "-f", str(folder / "haproxy.cfg")]
    (folder / "dnsdist.conf").write_text(_dnsdist_conf(place))
    return [str(which("dnsdist")), "--supervised", "--disable-syslog", "-C",
            str(folder / "dnsdist.conf")]


def start(name: str, place: Place, setup: Setup) -> Running | None:
    """Start a proxy and wait until its workers serve. Returns: None where there is no proxy"""
    if name == "none":
        return None
    if name.endswith(PLAIN):
        name, setup = base(name), replace(setup, log=None, level="error")
    if name.endswith(BARE):
        name, setup = base(name), replace(setup, ours="")
    if name.endswith(SHOWN):
        name, setup = base(name), replace(setup, is_shown=True)
    kind, python = kind_of(name), python_of(name)
    nginx = other_nginx() if name.endswith(OTHER) else ""
    name = base(name)
    words = command(name, place, setup, kind, python, nginx)
    quiet = subprocess.DEVNULL
    with (place.folder / "stderr.log").open("w") as errors:
        running = Running(spawn(
            words, stdin=quiet, stdout=quiet, stderr=errors, cwd=ROOT, env=environment()
        ))
    pid = running.process.pid
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if running.process.poll() is not None:
            break
        has_workers = name in ("nginx", "ngxstream")
        running.pids = children(pid) if has_workers else [pid]
        is_whole = len(running.pids) == (place.workers if has_workers else 1)
        if is_whole and is_bound(place.port, setup.udp):
            time.sleep(0.3)  # let the start itself be over
            return running
        time.sleep(0.05)
    running.stop()
    said = "".join(p.read_text() for p in place.folder.glob("*.log"))
    raise StartError(f"{name} did not start: {said or words}")


def is_bound(port: int, udp: bool) -> bool:
    wanted = {f"{address}:{port:04X}" for address in ("0100007F", "00000000")}
    table = Path("/proc/net/udp" if udp else "/proc/net/tcp").read_text()
    return any(line.split()[1] in wanted for line in table.splitlines()[1:])


def missing(name: str) -> str | None:
    """Return what a program lacks to run here, None for nothing."""
    if kind_of(name) == NJS and not os.path.exists(NJS_MODULE):
        return "nginx's njs is not installed"
    if base(name) in ("none", "ngxstream") or which(base(name)):
        return None
    return f"{base(name)} is not installed"
