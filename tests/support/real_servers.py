"""Real servers of protocols that probes speak, each on a free port with its files in a folder.

Each function starts one and returns once its port is open (a datagram server: once it runs); it
stops at the end of its ``with``. What is not installed is a skip: few of them are in .ci/packages.
"""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import ports, tools
from tests.support.certs import Pair
from tests.support.waiting import PATIENCE, wait_until

HOST = "127.0.0.1"


@dataclass
class Server:
    """A running server. Args: how: the signal that ends it well"""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    how: signal.Signals = signal.SIGTERM
    address: tuple[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.address = (HOST, self.port)

    def stop(self) -> None:
        """End it and what it has started, and wait until it is gone."""
        for how in (self.how, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, how)
            except ProcessLookupError:
                break
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                continue
        self.process.wait()

    def said(self) -> str:
        """Return what it has logged."""
        return self.log.read_text(errors="replace")


@contextmanager
def _running(
    folder: Path, words: Sequence[str], port: int, *, user: str = "", listens: bool = True,
    how: signal.Signals = signal.SIGTERM,
) -> Iterator[Server]:
    """Run a server. Args: user: to run as, where the tests are root's"""
    log = folder / "log"
    as_user = {}
    if user and os.geteuid() == 0:
        entry = pwd.getpwnam(user)
        as_user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    with open(log, "wb") as out:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=folder,
            start_new_session=True, **as_user,  # type: ignore[call-overload]
        )
    server = Server(process, port, log, how)
    try:
        if listens:
            wait_until(lambda: _is_open(server), PATIENCE, f"{words[0]} listens")
        yield server
    finally:
        server.stop()


def _is_open(server: Server) -> bool:
    assert server.process.poll() is None, server.said()
    with socket.socket() as sock:
        return sock.connect_ex(server.address) == 0


def _own(folder: Path, user: str) -> None:
    """Give a folder to who a server runs as; what is above it may be passed by all."""
    if os.geteuid() == 0:
        shutil.chown(folder, user, user)
        for one in folder.parents:
            if one.owner() == "root" and len(one.parts) > 2:
                one.chmod(one.stat().st_mode | 0o111)


def redis(folder: Path, *options: str, port: int = 0) -> AbstractContextManager[Server]:
    """Run redis-server."""
    port = port or ports.free_port()
    words = [tools.require("redis-server"), "--port", str(port), "--bind", HOST, "--dir",
             str(folder), *options]
    return _running(folder, words, port)


def sentinel(folder: Path, service: str, master: int) -> AbstractContextManager[Server]:
    """Run a Redis Sentinel that decides alone, and soon. Args: master: its port"""
    port = ports.free_port()
    conf = folder / "sentinel.conf"
    conf.write_text(f"""port {port}
bind {HOST}
dir {folder}
sentinel monitor {service} {HOST} {master} 1
sentinel down-after-milliseconds {service} 500
sentinel failover-timeout {service} 3000
""")
    words = [tools.require("redis-server"), str(conf), "--sentinel"]
    return _running(folder, words, port)


def mosquitto(folder: Path, *lines: str, port: int = 0) -> AbstractContextManager[Server]:
    """Run mosquitto, an MQTT broker."""
    port = port or ports.free_port()
    conf = folder / "mosquitto.conf"
    conf.write_text("\n".join((f"listener {port} {HOST}", "user root", *lines, "")))
    return _running(folder, [tools.require("mosquitto"), "-c", str(conf)], port)


def postgres_program(name: str) -> str:
    """Return the path of a program of PostgreSQL; skip where it is not installed."""
    found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))
    return found[-1] if found else tools.optional(name)


def postgres(folder: Path, *options: str, port: int = 0) -> AbstractContextManager[Server]:
    """Make a cluster in a folder, if there is none, and run a server of it."""
    program = postgres_program("postgres")
    user = "postgres" if os.geteuid() == 0 else ""
    data = folder / "data"
    if not data.exists():
        _own(folder, "postgres")
        subprocess.run(
            [postgres_program("initdb"), "-D", str(data), "--no-sync", "-A", "trust",
             "-U", "postgres", "--locale=C", "--no-instructions"],
            check=True, capture_output=True, cwd=folder,
            **({"user": pwd.getpwnam(user).pw_uid} if user else {}),
        )
    port = port or ports.free_port()
    words = [program, "-D", str(data), "-p", str(port), "-c", f"listen_addresses={HOST}",
             "-c", "unix_socket_directories=", "-c", "fsync=off", *options]
    return _running(folder, words, port, user=user, how=signal.SIGINT)


def mariadb(folder: Path, *options: str) -> AbstractContextManager[Server]:
    """Run mariadbd, without any tables of its own."""
    port = ports.free_port()
    words = [tools.optional("mariadbd"), "--no-defaults", "--skip-grant-tables",
             f"--datadir={folder}", f"--port={port}", f"--bind-address={HOST}",
             f"--socket={folder}/sock", f"--pid-file={folder}/pid", "--user=root",
             "--innodb-log-file-size=4M", "--innodb-buffer-pool-size=8M", *options]
    return _running(folder, words, port)


def chrony(folder: Path, *lines: str, port: int = 0) -> AbstractContextManager[Server]:
    """Run chronyd, which does not touch the clock."""
    port = port or ports.free_udp_port()
    conf = folder / "chrony.conf"
    folder.chmod(0o700)
    conf.write_text("\n".join((
        f"port {port}", f"bindaddress {HOST}", "cmdport 0", f"allow {HOST}",
        f"pidfile {folder}/pid", f"bindcmdaddress {folder}/sock", *lines, "",
    )))
    words = [tools.optional("chronyd"), "-x", "-d", "-u", "root", "-f", str(conf)]
    return _running(folder, words, port, listens=False)


def freeradius(folder: Path, secret: str, *, port: int = 0) -> AbstractContextManager[Server]:
    """Run freeradius, which answers Status-Server and nothing else."""
    port = port or ports.free_udp_port()
    (folder / "dictionary").write_text("")
    (folder / "radiusd.conf").write_text(f"""
        logdir = {folder}
        run_dir = {folder}
        pidfile = {folder}/pid
        libdir = /usr/lib/freeradius
        security {{
            status_server = yes
        }}
        modules {{
            always ok {{
                rcode = ok
            }}
        }}
        server status {{
            listen {{
                type = status
                ipaddr = {HOST}
                port = {port}
                clients = own
            }}
            authorize {{
                Autz-Type Status-Server {{
                    ok
                }}
            }}
        }}
        clients own {{
            client here {{
                ipaddr = {HOST}
                secret = {secret}
            }}
        }}
        """)
    words = [tools.optional("freeradius"), "-f", "-l", "stdout", "-d", str(folder)]
    return _running(folder, words, port, listens=False)


def freeradius_of_users(
    folder: Path, secret: str, **passwords: str
) -> AbstractContextManager[Server]:
    """Run freeradius, which lets users in by their passwords (PAP)."""
    port = ports.free_udp_port()
    users = (f'{name} Cleartext-Password := "{word}"' for name, word in passwords.items())
    (folder / "users").write_text("\n".join((*users, "")))
    (folder / "dictionary").write_text("$INCLUDE /usr/share/freeradius/dictionary\n")
    (folder / "radiusd.conf").write_text(f"""
        logdir = {folder}
        run_dir = {folder}
        pidfile = {folder}/pid
        libdir = /usr/lib/freeradius
        modules {{
            pap {{
            }}
            files {{
                usersfile = {folder}/users
            }}
        }}
        server users {{
            listen {{
                type = auth
                ipaddr = {HOST}
                port = {port}
                clients = own
            }}
            authorize {{
                files
                pap
            }}
            authenticate {{
                Auth-Type PAP {{
                    pap
                }}
            }}
        }}
        clients own {{
            client here {{
                ipaddr = {HOST}
                secret = {secret}
                require_message_authenticator = no
            }}
        }}
        """)
    words = [tools.optional("freeradius"), "-f", "-l", "stdout", "-d", str(folder)]
    return _running(folder, words, port, listens=False)


def exim(folder: Path, *lines: str, port: int = 0) -> AbstractContextManager[Server]:
    """Run exim, which takes no mail."""
    port = port or ports.free_port()
    conf = folder / "exim.conf"
    conf.write_text("\n".join((
        f"spool_directory = {folder}", f"log_file_path = {folder}/%slog",
        "primary_hostname = mail.test", f"daemon_smtp_ports = {port}",
        f"local_interfaces = {HOST}", "tls_advertise_hosts =",
        "keep_environment =", *lines, "",
    )))
    program = tools.optional("exim4")
    _own(folder, "Debian-exim")
    words = [program, "-C", str(conf), "-bdf", "-oP", str(folder / "pid")]
    return _running(folder, words, port)


SIP = """<?xml version="1.0"?><scenario name="options"><recv request="OPTIONS"/><send><![CDATA[
SIP/2.0 STATUS
[last_Via:]
[last_From:]
[last_To:];tag=[call_number]
[last_Call-ID:]
[last_CSeq:]
Content-Length: 0

]]></send></scenario>"""


def sipp(folder: Path, over: str, status: str = "200 OK") -> AbstractContextManager[Server]:
    """Run sipp as a server that answers OPTIONS. Args: over: u1 for UDP, t1 for TCP"""
    port = ports.free_port()
    scenario = folder / "options.xml"
    scenario.write_text(SIP.replace("STATUS", status))
    words = [tools.optional("sipp"), "-sf", str(scenario), "-i", HOST, "-p", str(port), "-t", over,
             "-nostdin"]
    return _running(folder, words, port, listens=over == "t1")


def nginx(
    folder: Path, location: str, pair: Pair | None = None, *, port: int = 0
) -> AbstractContextManager[Server]:
    """Run nginx as an HTTP server. Args: location: what stands in `location /`; pair: for TLS"""
    tls = "" if pair is None else (
        f"ssl_certificate {pair.cert}; ssl_certificate_key {pair.key};"
    )
    how = "" if pair is None else " ssl"
    port = port or ports.free_port()
    conf = folder / "nginx.conf"
    conf.write_text(f"""
        daemon off; master_process off; pid {folder}/pid; error_log stderr;
        events {{ }}
        http {{
            access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
            fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
            server {{ listen {HOST}:{port}{how}; {tls} location / {{ {location} }} }}
        }}""")
    words = [tools.require("nginx"), "-p", str(folder), "-c", str(conf)]
    return _running(folder, words, port)


def openssl(folder: Path, cert: Path, key: Path, *options: str) -> AbstractContextManager[Server]:
    """Run openssl s_server."""
    port = ports.free_port()
    words = [tools.require("openssl"), "s_server", "-accept", f"{HOST}:{port}", "-cert", str(cert),
             "-key", str(key), "-quiet", *options]
    return _running(folder, words, port)
