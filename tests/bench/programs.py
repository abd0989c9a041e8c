"""The proxies that are compared: their configurations, their processes, their CPU and memory."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

NGINX_MODULE: Final = "/usr/lib/nginx/modules/ngx_stream_module.so"
CONNECTIONS: Final = 40000
ACCESS_LOG: Final = (
    "log_format eight '$remote_addr:$remote_port $server_port $protocol $status "
    "$bytes_sent $bytes_received $session_time';"
)
PLAIN: Final = ", no log"
ROOT: Final = Path(__file__).resolve().parents[2]
PATH: Final = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


class StartError(Exception):
    """A program did not start."""


@dataclass(frozen=True)
class Setup:
    """What a case asks of a proxy.

    Args: `lines` go into the server block; `log` is the parameter text of an access_log in the
    format of eight variables, None for no log; `programs` can do the case. A program with a log
    runs beside itself without one where its name with PLAIN behind it stands in `programs`.
    """

    udp: bool = False
    tls: bool = False
    lines: str = ""
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


def _stream_conf(place: Place, setup: Setup, *, is_nginx: bool) -> str:
    load = f"load_module {NGINX_MODULE};" if is_nginx and os.path.exists(NGINX_MODULE) else ""
    words = [f"listen 127.0.0.1:{place.port}"]
    if setup.udp:
        words.append("udp reuseport")
    if setup.tls:
        words.append("ssl")
    certificate = ""
    if setup.tls:
        pem = place.certificate
        certificate = f"ssl_certificate {pem}; ssl_certificate_key {pem};"
    log = ""
    if setup.log is not None:
        log = f"access_log {place.folder}/access.log eight {setup.log};"
    return f"""
{load}
daemon off;
user root;
worker_processes {place.workers};
worker_rlimit_nofile 20000;
pid {place.folder}/pid;
error_log {place.folder}/error.log;
events {{ worker_connections {CONNECTIONS}; }}
stream {{
    {ACCESS_LOG if log else ""}
    upstream backend {{ server 127.0.0.1:{place.backend_port}; }}
    server {{
        {" ".join(words)};
        {certificate}
        {log}
        {setup.lines}
        proxy_pass backend;
    }}
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
    return name.removesuffix(PLAIN)


def _command(name: str, place: Place, setup: Setup) -> list[str]:
    folder = place.folder
    folder.mkdir(parents=True, exist_ok=True)
    if name in ("nginx", "ngxstream"):
        (folder / "nginx.conf").write_text(_stream_conf(place, setup, is_nginx=name == "nginx"))
        conf, log = folder / "nginx.conf", folder / "early.log"
        ours = [sys.executable, "-m", "ngxstream"]
        program = ours if name == "ngxstream" else [str(which("nginx"))]
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
        name, setup = base(name), replace(setup, log=None)
    command = _command(name, place, setup)
    quiet = subprocess.DEVNULL
    with (place.folder / "stderr.log").open("w") as errors:
        running = Running(spawn(command, stdin=quiet, stdout=quiet, stderr=errors, cwd=ROOT))
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
    raise StartError(f"{name} did not start: {said or command}")


def is_bound(port: int, udp: bool) -> bool:
    wanted = f"0100007F:{port:04X}"
    table = Path("/proc/net/udp" if udp else "/proc/net/tcp").read_text()
    return any(line.split()[1] == wanted for line in table.splitlines()[1:])


def missing(name: str) -> str | None:
    """Return what a program lacks to run here, None for nothing."""
    if base(name) in ("none", "ngxstream") or which(base(name)):
        return None
    return f"{base(name)} is not installed"
