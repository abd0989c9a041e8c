"""The unit of conf/ is one that systemd takes."""

import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ngxstream.process import options
from tests.support import clients, ports, systemd, tools
from tests.support.backends import BackendFactory
from tests.support.proxies import ROOT
from tests.support.waiting import wait_until

UNIT = ROOT / "conf" / "ngxstream.service"
INSTALLED = "/usr/local/sbin/ngxstream"  # where `make install` puts it


def test_systemd_finds_nothing_to_complain_about(tmp_path: Path) -> None:
    """``systemd-analyze verify`` is silent once the program is where the unit says."""
    analyze = tools.require("systemd-analyze")
    program = tmp_path / "ngxstream"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace(INSTALLED, str(program)))
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False
    )
    # what other units of this machine are blamed for is not ours
    ours = [line for line in done.stderr.splitlines() if "ngxstream" in line]
    assert (0, "", []) == (done.returncode, done.stdout, ours)


def test_its_commands_are_ours() -> None:
    """Every command line is one that the program understands, in the foreground."""
    commands = re.findall(rf"(?m)^Exec\w+={INSTALLED} \$NGXSTREAM_OPTIONS (.*)$", UNIT.read_text())
    assert ['-g "daemon off;"', "-s reload"] == commands
    start, reload = (
        options.Options(["ngxstream", *shlex.split(command)]) for command in commands
    )
    assert ("daemon off;", "reload") == (start.directives, reload.signal)


CONF = """
worker_processes 2; pid logs/nginx.pid; user root; error_log logs/error.log info;
events {{}}
stream {{
    server {{ listen 127.0.0.1:{tcp}; proxy_pass {backend}; }}
    server {{ listen 127.0.0.1:{tcp} udp; return $pid; }}
}}
"""


@pytest.fixture
def service(tmp_path: Path, backends: BackendFactory) -> Iterator["Service"]:
    """Give the unit of conf/ under a systemd of the test's own, changed in its paths alone."""
    made = Service(tmp_path, backends.tcp().text)
    with made.systemd:
        yield made


class Service:
    """ngxstream.service, and what it serves."""

    def __init__(self, folder: Path, backend: str) -> None:
        self.address = "127.0.0.1", ports.free_port()
        self._text = CONF.format(tcp=self.address[1], backend=backend)
        self.conf, self.pid = folder / "conf/nginx.conf", folder / "logs/nginx.pid"
        self.log = folder / "logs/error.log"
        for name in ("conf", "logs"):
            (folder / name).mkdir()
        self.write()
        program = folder / "ngxstream"
        program.write_text(
            f'#!/bin/sh\nexec env PYTHONPATH={ROOT} {sys.executable} -m ngxstream "$@"\n'
        )
        program.chmod(0o755)
        options = f"-p {folder}/ -e logs/error.log -c conf/nginx.conf"
        self.words = [str(program), *options.split()]
        unit = UNIT.read_text().replace(INSTALLED, str(program))
        given = f'Environment="NGXSTREAM_OPTIONS={options}"'
        unit = re.sub("(?m)^Environment=NGXSTREAM_OPTIONS=.*", given, unit)
        unit = re.sub("(?m)^PIDFile=.*", f"PIDFile={self.pid}", unit)
        # these targets and this protection are the system manager's
        unit = re.sub("(?m)^(After|Wants|Protect.*)=.*\n", "", unit)
        self.systemd = systemd.Systemd(folder, {UNIT.name: unit})

    def write(self, more: str = "") -> None:
        """Write the configuration."""
        self.conf.write_text(self._text.rstrip()[:-1] + more + "}")

    def do(self, word: str) -> int:
        """Start, reload or stop it; return the exit code."""
        return self.systemd.control(word, UNIT.name).returncode

    def set_grace(self, seconds: str) -> None:
        """Let sessions end by themselves for so long."""
        folder = f"/run/user/systemd/user/{UNIT.name}.d"
        text = f"[Service]\\nEnvironment=NGXSTREAM_GRACE={seconds}\\n"
        self.systemd.run("sh", "-c", f"mkdir {folder} && printf '{text}' > {folder}/grace.conf")
        self.systemd.control("daemon-reload")

    def state(self) -> tuple[str, str]:
        """Return whether it is active, and its status line."""
        show = self.systemd.show
        return show(UNIT.name, "SubState"), show(UNIT.name, "StatusText")


@pytest.mark.slow
@pytest.mark.root
def test_a_life_under_systemd(service: Service) -> None:
    """Start, reload, a refused reload, a killed master and stop are what systemd is told."""
    serving = "running", "serving, worker processes: 2"
    assert 0 == service.do("start"), service.systemd.said()
    assert serving == service.state()
    with clients.TcpClient(service.address) as client:
        assert b"one" == client.exchange(b"one")
        assert 0 == service.do("reload"), service.systemd.said()
        assert serving == service.state()

        with socket.create_server(("127.0.0.1", 0)) as taken:
            where = f"127.0.0.1:{taken.getsockname()[1]}"
            service.write(f"server {{ listen {where}; return x; }}")
            assert 0 != service.do("reload")
        state, status = service.state()
        assert "running" == state
        assert f"the last reload was refused: [emerg] bind() to {where} failed (98: " in status
        service.write()

        service.systemd.kill(UNIT.name, signal.SIGKILL)
        wait_until(lambda: "1" == service.systemd.show(UNIT.name, "NRestarts"))
        wait_until(lambda: serving == service.state())
        assert b"two" == client.exchange(b"two")
        assert b"new" == clients.tcp_exchange(service.address, b"new", size=3)
        assert clients.udp_exchange(service.address, b"?").isdigit()
        before = service.pid.read_text()

        old = service.systemd.show(UNIT.name, "MainPID")
        service.systemd.kill(UNIT.name, signal.SIGUSR2)
        wait_until(
            lambda: service.pid.exists() and service.pid.read_text() not in ("", before),
            what="the new binary has its pid file",
        )
        service.systemd.kill(UNIT.name, signal.SIGQUIT)
        wait_until(lambda: old != service.systemd.show(UNIT.name, "MainPID"), what="MAINPID")
        wait_until(lambda: serving == service.state())
        assert b"three" == clients.tcp_exchange(service.address, b"three", size=5)
        assert 0 == service.do("reload"), service.systemd.said()
        assert "1" == service.systemd.show(UNIT.name, "NRestarts")

        service.set_grace("0.1")
        assert 0 == service.do("stop")
        assert b"" == client.recv()
    assert ("dead", "") == service.state()
    assert "success" == service.systemd.show(UNIT.name, "Result")


@pytest.mark.slow
@pytest.mark.root
def test_a_stop_lets_sessions_end_by_themselves(service: Service) -> None:
    """Nobody new is let in, who is there may finish; what the unit has made stays."""
    service.set_grace("25")
    assert 0 == service.do("start"), service.systemd.said()
    with clients.TcpClient(service.address) as client:
        assert b"one" == client.exchange(b"one")
        assert 0 == service.systemd.control("--no-block", "stop", UNIT.name).returncode
        wait_until(lambda: service.log.read_text().count("gracefully shutting down") == 2)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(service.address)
        assert b"two" == client.exchange(b"two")
        assert "stop" == service.state()[0]
    wait_until(lambda: ("dead", "") == service.state())
    assert "success" == service.systemd.show(UNIT.name, "Result")
    said = service.log.read_text()
    assert "signal 3 (SIGQUIT)" in said
    assert "SIGTERM" not in said
    assert 0 == service.systemd.run("test", "-d", "/run/user/ngxstream").returncode


@pytest.mark.slow
@pytest.mark.root
def test_what_its_unit_says_is_what_systemd_reads(service: Service) -> None:
    """Folders are made, a worker killed for want of memory is not the end of the service."""
    assert 0 == service.do("start"), service.systemd.said()
    for name, value in {
        "OOMPolicy": "continue", "RuntimeDirectory": "ngxstream",
        "RuntimeDirectoryPreserve": "yes", "LogsDirectory": "nginx ngxstream",
        "TimeoutStartUSec": "2min", "KillMode": "process", "NRestarts": "0",
    }.items():
        assert value == service.systemd.show(UNIT.name, name)
    homes = service.log.parents[1]  # of a user's manager; since version 254 it is the second
    made = [path for home in ("config", "state") for path in homes.glob(f"{home}/log/*")]
    assert {"nginx", "ngxstream"} == {path.name for path in made}
    service.set_grace("0.1")
    assert 0 == service.do("stop")


@pytest.mark.slow
@pytest.mark.root
def test_workers_of_a_service_that_failed_are_reached(service: Service) -> None:
    """The master is killed, the next does not start: the workers serve on, and -s ends them."""
    assert 0 == service.do("start"), service.systemd.said()
    good = service.conf.read_text()
    service.write("typo on;")
    service.systemd.kill(UNIT.name, signal.SIGKILL)
    wait_until(lambda: "failed" == service.state()[0])
    assert b"new" == clients.tcp_exchange(service.address, b"new", size=3)
    service.conf.write_text(good)
    told = service.systemd.run(*service.words, "-s", "quit")
    assert 0 == told.returncode
    assert "[notice] quit: worker processes that outlived their master: " in told.stderr
    wait_until(lambda: service.log.read_text().count(": exiting\n") == 2)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(service.address)
