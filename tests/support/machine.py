"""A machine of its own for the commands of a page: network, processes and system folders.

Commands run as root with the paths that the page names (/etc/nginx/nginx.conf, /run/nginx.pid), and
nothing of it reaches this machine: /etc, /var, /run and the like are in memory, what
pages call servers is another host of the test, and every process ends with the machine.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import pytest

from tests.support import netns, processes, tools
from tests.support.proxies import ROOT

FOLDERS = ("etc", "var", "usr/local", "opt", "srv")
FRESH = ("run", "var/log")  # what is empty after a start
HOME = "/srv"  # where commands run; the tree's conf/ is there
# The machine is 198.51.100.1; behind it are servers with all addresses of these (RFC 5737).
NETWORKS = ("192.0.2.0/24", "203.0.113.0/24", "10.0.0.0/8")
PROGRAMS = {"ngxstream": "ngxstream", "ngxstreamctl": "ngxstream.ctl.main"}

_MAKE = f"""
set -e
mount -t tmpfs none /mnt
for folder in {" ".join(FOLDERS)}; do
    mkdir -p /mnt/upper/$folder /mnt/work/$folder
    mount -t overlay overlay /$folder \
        -o lowerdir=/$folder,upperdir=/mnt/upper/$folder,workdir=/mnt/work/$folder
done
for folder in {" ".join(FRESH)}; do mount -t tmpfs none /$folder; done
ln -s {ROOT}/conf {HOME}/conf
echo ready
while :; do sleep 3600 & wait $!; done  # as process 1 it reaps what is left to it
"""


class Machine:
    """A machine that has this tree's programs installed, as `make install` installs them."""

    def __init__(self, net: netns.Namespaces, hosts: Mapping[str, str]) -> None:
        """Make it; skip the test where this machine does not allow it. Args: hosts: /etc/hosts"""
        self._unshare, self._nsenter = tools.require("unshare"), tools.require("nsenter")
        self._net = net
        self.netns = net.add("machine")
        self.servers = net.add("servers")
        self._device = net.link("machine", "198.51.100.1/24", "servers", "198.51.100.254/24")
        for network in NETWORKS:
            net.route("servers", "local", network, "dev", "lo")
            net.route("machine", network, "via", "198.51.100.254")
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", self.netns, self._unshare, "--mount", "--pid", "--fork",
             "--kill-child", "--mount-proc", "sh", "-c", _MAKE],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True)
        assert self._process.stdout
        if self._process.stdout.readline() != "ready\n":
            _, said = self._process.communicate()
            pytest.skip(f"folders cannot be overlaid: {said.strip()}")
        self._first = self._find_first()
        self._install(hosts)

    def _find_first(self) -> int:
        return processes.children(self._process.pid)[0]

    def _install(self, hosts: Mapping[str, str]) -> None:
        for name, module in PROGRAMS.items():
            self.write(f"/usr/local/sbin/{name}", "#!/bin/sh\n"
                       f"exec env PYTHONPATH={ROOT} {sys.executable} -m {module} \"$@\"\n")
            self.path(f"/usr/local/sbin/{name}").chmod(0o755)
        lines = ["127.0.0.1 localhost", "::1 localhost"]
        lines += [f"{address} {name}" for name, address in hosts.items()]
        self.write("/etc/hosts", "\n".join(lines) + "\n")
        self.path("/var/log/nginx").mkdir(parents=True, exist_ok=True)
        self.path("/etc/nginx/nginx.conf").unlink(missing_ok=True)

    def give_address(self, address: str) -> None:
        """Give the servers' interface an address: some programs bind to no other ones."""
        self._net.address(self.servers, self._device, f"{address}/32")

    def path(self, name: str) -> Path:
        """Return where a file of the machine is for the test; relative ones are below HOME."""
        return Path(f"/proc/{self._first}/root", os.path.join(HOME, name).lstrip("/"))

    def write(self, name: str, text: str) -> None:
        """Write a file of the machine, with the folders above it."""
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_text(text)

    def command(self, *words: str, netns: str = "") -> list[str]:
        """Return the words that run a command inside. Args: netns: another host's network"""
        network = f"--net=/run/netns/{netns or self.netns}"
        return [self._nsenter, "-t", str(self._first), network, "-m", "-p", f"--wdns={HOME}", "env",
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C",
                *words]

    def run(
        self, *words: str, timeout: float = 60, netns: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end; standard error and output come together.

        They go to a file: a pipe has no end before a daemon has that was started.
        """
        with tempfile.TemporaryFile("w+", errors="replace") as said:
            done = subprocess.run(
                self.command(*words, netns=netns), stdin=subprocess.DEVNULL, stdout=said,
                stderr=said, timeout=timeout, check=False)
            said.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, said.read())

    def shell(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script of sh; it ends at the first command that fails."""
        return self.run("sh", "-ec", script)

    def must(self, script: str) -> str:
        """Run a script of sh that has to succeed; return what it printed."""
        done = self.shell(script)
        assert done.returncode == 0, f"{script}\n{done.stdout}"
        return done.stdout

    def faults(self) -> list[str]:
        """Return the lines of all logs of the machine that no page should lead to."""
        found = self.run("grep", "-rhE", r"\[alert\]|Traceback", "/var/log", HOME)
        return [line for line in found.stdout.splitlines() if "overlay" not in line]

    def close(self) -> None:
        """Kill everything inside."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
