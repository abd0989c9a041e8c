"""What stands behind the proxies: an HTTP server, iperf3, a DNS server, our echo programs."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from tests.bench import programs, tools
from tests.bench.programs import Running

BIG: int = 64 << 20  # the large file of the HTTP server, bytes
NAMES: int = 1000  # in the DNS zone


def http(folder: Path, port: int, listen: str = "", workers: int = 1) -> Running:
    """nginx: `/` answers with 64 bytes, `/big` with a large file."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "big").open("wb") as file:
        file.truncate(BIG)
    (folder / "nginx.conf").write_text(f"""
daemon off; user root; worker_processes {workers}; worker_rlimit_nofile 20000;
pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections {programs.CONNECTIONS}; }}
http {{
    access_log off; server_tokens off; keepalive_timeout 1h; keepalive_requests 1000000000;
    sendfile on; reset_timedout_connection off;
    server {{
        listen {listen or f"127.0.0.1:{port}"};
        location = /big {{ root {folder}; }}
        location / {{ return 200 "{"x" * 64}"; }}
    }}
}}
""")
    nginx = str(programs.which("nginx"))
    quiet = subprocess.DEVNULL
    words = ["-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "early.log")]
    return _wait(Running(programs.spawn([nginx, *words], stderr=quiet)), port)


def iperf(folder: Path, port: int) -> Running:
    """iperf3's server."""
    command = [str(programs.which("iperf3")), "-s", "-B", "127.0.0.1", "-p", str(port)]
    return _wait(Running(programs.spawn(command, stdout=subprocess.DEVNULL)), port)


def dns(folder: Path, port: int) -> Running:
    """NSD with a zone of some names, its rate limiting off."""
    folder.mkdir(parents=True, exist_ok=True)
    names = "".join(f"n{i} A 192.0.2.{i % 250 + 1}\n" for i in range(NAMES))
    (folder / "zone").write_text(
        "$ORIGIN bench.test.\n$TTL 3600\n@ SOA ns hostmaster 1 3600 600 86400 3600\n"
        f"@ NS ns\nns A 192.0.2.1\nwww A 192.0.2.2\n{names}"
    )
    (folder / "nsd.conf").write_text(f"""
server:
    ip-address: 127.0.0.1@{port}
    username: ""
    chroot: ""
    zonesdir: "{folder}"
    pidfile: ""
    database: ""
    xfrdfile: "{folder}/xfrd"
    zonelistfile: "{folder}/zones"
    rrl-ratelimit: 0
    rrl-whitelist-ratelimit: 0
    hide-version: yes
remote-control:
    control-enable: no
zone:
    name: bench.test
    zonefile: zone
""")
    command = [str(programs.which("nsd")), "-d", "-c", str(folder / "nsd.conf")]
    log = (folder / "nsd.log").open("w")
    return _wait(Running(programs.spawn(command, stderr=log)), port, udp=True)


def questions(folder: Path) -> Path:
    """Write what dnsperf asks. Returns: the file"""
    path = folder / "questions"
    path.write_text("".join(f"n{i}.bench.test A\n" for i in range(NAMES)))
    return path


def _own(name: str, port: int) -> Running:
    process = programs.spawn(
        tools.own_command(name, port), stdout=subprocess.PIPE, cwd=tools.ROOT
    )
    process.stdout.readline()  # type: ignore[union-attr]
    return Running(process)


def echo(folder: Path, port: int) -> Running:
    """Our UDP echo."""
    return _own("echo", port)


def gso_echo(folder: Path, port: int) -> Running:
    """Our UDP echo that receives and sends coalesced datagrams."""
    return _own("gso-echo", port)


def quic_gso(folder: Path, port: int) -> Running:
    """Our server of QUIC-like downloads, which sends coalesced datagrams."""
    return _own("quic-gso", port)


def nobody(folder: Path, port: int) -> None:
    """No backend: the load program itself is at the far end."""


def _wait(running: Running, port: int, *, udp: bool = False) -> Running:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and running.process.poll() is None:
        if programs.is_bound(port, udp):
            time.sleep(0.1)
            return running
        time.sleep(0.05)
    running.stop()
    raise tools.ToolError(f"a backend did not start: {running.process.args}")
