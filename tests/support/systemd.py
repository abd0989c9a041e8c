"""A systemd of the test's own: a user manager in namespaces where it sees and harms nobody else.

It runs in a mount and a pid namespace, so that the only processes it can see are its services.
"""

import os
import signal
import subprocess
from pathlib import Path
from typing import Self

from tests.support import processes, tools
from tests.support.waiting import wait_until

SYSTEMD = "/lib/systemd/systemd"
SETUP = """
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/user/systemd/user
chmod 700 /run/user
cp "$UNITS"/* /run/user/systemd/user/
"$SYSTEMD" --user </dev/null &  # which must not be process 1: it would be the system's
wait
"""
TARGET = "[Unit]\nDescription=nothing\n"


class Systemd:
    """The manager, as a context manager."""

    def __init__(self, tmp_path: Path, units: dict[str, str]) -> None:
        """Args: units: file names and texts"""
        tools.require_root()
        self._unshare = tools.require("unshare")
        self._nsenter = tools.require("nsenter")
        self._systemctl = tools.require("systemctl")
        if not os.access(SYSTEMD, os.X_OK):
            tools.missing("systemd")
        self._log = tmp_path / "systemd.log"
        self._units = tmp_path / "units"
        self._units.mkdir()
        for name, text in {"default.target": TARGET, **units}.items():
            (self._units / name).write_text(text)
        environment = {
            name: value for name, value in os.environ.items()
            if name not in ("NOTIFY_SOCKET", "INVOCATION_ID", "LISTEN_FDS", "LISTEN_PID")
        }
        self._environment = environment | {
            "XDG_RUNTIME_DIR": "/run/user", "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "XDG_STATE_HOME": str(tmp_path / "state"),
            "SYSTEMD": SYSTEMD, "UNITS": str(self._units),
            "SYSTEMD_LOG_TARGET": "console", "SYSTEMD_LOG_COLOR": "0",
        }
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [self._unshare, "--mount", "--pid", "--fork", "--mount-proc", "--kill-child",
                 "sh", "-c", SETUP],
                stdout=log, stderr=log, env=self._environment, start_new_session=True,
            )
        try:
            wait_until(self._is_up, what="systemd is up")
        except AssertionError:
            said = self.said()
            self._end()
            tools.missing(f"a systemd that starts here ({said[-300:]!r})")
        return self

    def _is_up(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError("systemd ended")
        return bool(processes.children(self._process.pid)) and (
            "running" == self.control("is-system-running").stdout.strip()
        )

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a program where the services are."""
        (first,) = processes.children(self._process.pid)
        return subprocess.run(
            [self._nsenter, "-t", str(first), "-m", "-p", *words],
            capture_output=True, text=True, env=self._environment, check=False, timeout=120,
        )

    def control(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run systemctl with these words."""
        return self.run(self._systemctl, "--user", *words)

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.control("show", unit, "-p", name, "--value").stdout.strip()

    def kill(self, unit: str, sig: signal.Signals) -> None:
        """Send a signal to the main process of a unit."""
        done = self.control("kill", "--kill-whom=main", f"--signal={sig.name}", unit)
        assert 0 == done.returncode, done.stderr

    def said(self) -> str:
        """Return what the manager and its services have logged."""
        return self._log.read_text(errors="replace")

    def _end(self) -> None:
        processes.kill_session(self._process.pid)  # its namespace dies with it
        self._process.wait()

    def __exit__(self, *_: object) -> None:
        self._end()
