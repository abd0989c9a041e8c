"""Network namespaces joined by veth pairs: hosts of a test that are not this machine.

Names are unique per process and made of ``ngxs-``; everything is removed when the ``with`` ends,
processes that were started inside included. Needs super-user rights: see tools.require_netns.
"""

import contextlib
import ctypes
import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

from tests.support import tools

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
SCRIPTED = "ip|tc|nft|iptables|ip6tables|sysctl"  # what configures a network, from scripts too
_counter = itertools.count(1)


def in_netns(name: str, function: Callable[[], T]) -> T:
    """Run the function inside a namespace and return what it returns.

    It runs in a thread of its own that enters the namespace and ends there, so the caller stays
    where it is. A socket made inside belongs to that namespace for ever.
    """

    def enter() -> T:
        with open(f"/run/netns/{name}", "rb") as handle:
            if tools.libc.setns(handle.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"setns to {name}")
        return function()

    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(enter).result()


class Namespaces:
    """A set of hosts for one test.

    Example::

        with Namespaces() as net:
            client, proxy = net.add("client"), net.add("proxy")
            net.link("client", "10.9.0.1/24", "proxy", "10.9.0.2/24")
            net.run("client", "ping", "-c1", "10.9.0.2")
            with UdpBackend(host="10.9.0.2", netns=proxy) as backend: ...
    """

    def __init__(self) -> None:
        """Make none yet."""
        tools.require_netns()
        self._ip = tools.require("ip")
        self._names: dict[str, str] = {}
        self._links = itertools.count(0)
        self._processes: list[subprocess.Popen[str]] = []

    def add(self, label: str) -> str:
        """Make a host whose loopback is up; return the namespace's name on this machine."""
        name = f"ngxs-{os.getpid()}-{next(_counter)}-{label}"
        self.ip("netns", "add", name)
        self._names[label] = name
        # Nobody else is on these links: the link-local addresses, too, can be used at once.
        self.sysctl(label, "net.ipv6.conf.default.accept_dad", 0)
        self.sysctl(label, "net.ipv6.conf.default.dad_transmits", 0)
        self.ip("-n", name, "link", "set", "lo", "up")
        return name

    def name(self, label: str) -> str:
        """Return the namespace's name of a host, to give as netns= or to ``ip netns exec``."""
        return self._names[label]

    def link(self, a: str, a_addresses: str, b: str, b_addresses: str, *, mtu: int = 1500) -> str:
        """Join two hosts by a veth pair; return the interface's name, the same on both sides.

        Args: addresses with prefix length, several separated by spaces, IPv4 and IPv6.
        """
        number = next(self._links)
        device = f"eth{number}"
        left, right = self._names[a], self._names[b]
        # The kernel takes a second to see that a pair is up whose ends have the same index.
        index = str(100 + number)
        self.ip(
            *("link", "add", device, "index", index, "netns", left, "mtu", str(mtu)),
            *("type", "veth"),
            *("peer", "name", device, "netns", right, "mtu", str(mtu)),
        )
        for name, addresses in ((left, a_addresses), (right, b_addresses)):
            for address in addresses.split():
                self.address(name, device, address)
            self.ip("-n", name, "link", "set", device, "up")
        return device

    def address(self, name: str, device: str, address: str) -> None:
        """Add an address with prefix length to a device of a namespace (its name, no label)."""
        # Without duplicate address detection an IPv6 address can be used at once.
        options = ["nodad"] if ":" in address else []
        self.ip("-n", name, "addr", "add", address, "dev", device, *options)

    def route(self, label: str, *words: str) -> None:
        """Add a route to a host: ``route("client", "default", "via", "10.9.0.2")``."""
        family = ["-6"] if any(":" in word for word in words) else []
        self.ip("-n", self._names[label], *family, "route", "add", *words)

    def hosts(self, label: str, names: dict[str, str]) -> None:
        """Set /etc/hosts of what runs in a host by run(), popen() or netns=: name to address."""
        folder = Path("/etc/netns") / self._names[label]
        folder.mkdir(parents=True, exist_ok=True)
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in names.items())]
        (folder / "hosts").write_text("\n".join(lines) + "\n")

    def sysctl(self, label: str, setting: str, value: int | str) -> None:
        """Set a sysctl of a host: ``sysctl("proxy", "net.ipv4.ip_forward", 1)``."""
        path = "/proc/sys/" + setting.replace(".", "/")

        def write() -> None:
            with open(path, "w") as file:
                file.write(str(value))

        in_netns(self._names[label], write)

    def ip(self, *words: str) -> str:
        """Run the ip command on this machine and return its output; raises AssertionError."""
        return _run([self._ip, *words])

    def run(self, label: str, *words: str, check: bool = True, timeout: float = 60) -> str:
        """Run a command inside a host to its end; return its standard output.

        Skips the test where a program of the command is not installed.
        """
        require_programs(words)
        return _run([self._ip, "netns", "exec", self._names[label], *words], check, timeout)

    def popen(self, label: str, *words: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command inside a host; it is killed with its children when the set is closed."""
        require_programs(words)
        given = {"stdin": subprocess.DEVNULL, "text": True, "start_new_session": True} | options
        command = [self._ip, "netns", "exec", self._names[label], *words]
        process: subprocess.Popen[str] = subprocess.Popen(command, **given)
        self._processes.append(process)
        return process

    def close(self) -> None:
        """Kill what still runs inside and delete the namespaces."""
        for process in self._processes:
            with process:
                if process.poll() is None:
                    process.kill()
        for name in self._names.values():
            pids = _run([self._ip, "netns", "pids", name], check=False).split()
            for pid in pids:
                # Never this process: a test that moved itself inside has to leave by itself.
                if int(pid) != os.getpid():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), 9)
            _run([self._ip, "netns", "delete", name], check=False)
            shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)
        self._names.clear()
        self._processes.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def require_programs(words: Sequence[str]) -> None:
    """Skip or fail where a program of a command is not installed, or one of its script.

    Args: a command and its arguments; a script is what follows `sh -c` or `sh -ec`
    """
    tools.require(words[0])
    if words[0] == "sh" and len(words) > 2:
        for name in dict.fromkeys(re.findall(rf"(?m)^\s*({SCRIPTED})\b", words[2])):
            tools.require(name)


def _run(words: list[str], check: bool = True, timeout: float = 60) -> str:
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0 or not check, f"{' '.join(words)}: {done.stderr}{done.stdout}"
    return done.stdout
