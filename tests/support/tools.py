"""Finds what the tests need from the system, or says plainly what is missing.

A test that needs a program, or super-user rights, skips with the reason where they are missing.
Where the variable NGXSTREAM_REQUIRE_TOOLS is 1 (continuous integration installs everything and
runs as root) the skip is a failure. What no installation brings, such as namespaces in a container
that forbids them, is a skip in any case.
"""

import ctypes
import functools
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SEARCH_PATH = os.pathsep.join(
    [os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/bin", "/bin"]
)
NGINX_MODULE_FOLDERS = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules")

libc = ctypes.CDLL(None, use_errno=True)


def missing(what: str) -> None:
    """Skip the running test because of what is missing; fail it where nothing may be missing."""
    if os.environ.get("NGXSTREAM_REQUIRE_TOOLS") == "1":
        pytest.fail(f"{what}, and NGXSTREAM_REQUIRE_TOOLS forbids to skip", pytrace=False)
    pytest.skip(what)


def require(name: str) -> str:
    """Return the path of a program; skip or fail where it is not installed."""
    path = shutil.which(name, path=SEARCH_PATH)
    if path is None:
        missing(f"{name} is not installed")
        raise AssertionError  # not reached: missing() raises
    return path


def optional(name: str) -> str:
    """Return the path of a program; skip where it is not installed, as .ci/packages lacks it."""
    path = shutil.which(name, path=SEARCH_PATH)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def require_module(name: str, extra: str) -> None:
    """Skip or fail unless a module of an optional extra of setup.cfg can be imported."""
    if importlib.util.find_spec(name) is None:
        missing(f"{name} is not installed (the extra `{extra}`)")


def other_python(version: str) -> str:
    """Return the path of a Python of a version, or skip: none has to be installed.

    Args: version is "3.13"
    """
    folders = (Path(sys.base_prefix).parent, Path.home() / ".pyenv" / "versions")
    beside = (path for folder in folders for path in folder.glob(f"{version}.*/bin/python3"))
    found = next(map(str, beside), None) or shutil.which(f"python{version}")
    # a launcher of that name may stand for a Python that is not installed
    if found and not subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode:
        return found
    pytest.skip(f"there is no python{version}")


def require_root() -> None:
    """Skip or fail unless the tests run with super-user rights."""
    if os.geteuid() != 0:
        missing("super-user rights are needed")


@functools.cache
def _netns_complaint() -> str:
    name = f"ngxs-probe-{os.getpid()}"
    ip = require("ip")
    made = subprocess.run([ip, "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"network namespaces cannot be made: {made.stderr.strip()}"
    try:
        veth = [ip, "-n", name, "link", "add", "probe0", "type", "veth", "peer", "name", "probe1"]
        linked = subprocess.run(veth, capture_output=True, text=True, check=False)
        return f"veth pairs cannot be made: {linked.stderr.strip()}" if linked.returncode else ""
    finally:
        subprocess.run([ip, "netns", "delete", name], capture_output=True, check=False)


def require_netns() -> None:
    """Skip unless network namespaces and veth pairs can be made; needs root and iproute2."""
    require_root()
    require("ip")
    complaint = _netns_complaint()
    if complaint:
        pytest.skip(complaint)


def require_ipv6() -> None:
    """Skip unless this machine has an IPv6 loopback."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"no IPv6 loopback: {error.strerror}")


@functools.cache
def nginx_facts(path: str) -> tuple[tuple[int, ...], str]:
    """Return an nginx's version as numbers and its ``configure arguments:`` line."""
    shown = subprocess.run([path, "-V"], capture_output=True, text=True, check=True).stderr
    version = re.search(r"nginx version: \S+?/([\d.]+)", shown)
    arguments = re.search(r"configure arguments:(.*)", shown)
    numbers = tuple(int(n) for n in version[1].split(".")) if version else (0,)
    return numbers, arguments[1] if arguments else ""


def require_nginx(*, at_least: tuple[int, ...] = ()) -> str:
    """Return the path of an nginx that can serve ``stream {}``, of that version or newer."""
    path = require("nginx")
    version, arguments = nginx_facts(path)
    if not nginx_module(path, "stream") and "--with-stream " not in arguments + " ":
        missing("nginx has no stream module (Debian: libnginx-mod-stream)")
    if version < at_least:
        # Not a matter of installing: the distribution's nginx is what it is.
        pytest.skip(f"nginx {'.'.join(map(str, at_least))} or newer is needed")
    return path


def nginx_module(path: str, name: str) -> str | None:
    """Return the file of nginx's dynamic module (``stream``, ``stream_geoip``), None if none."""
    _, arguments = nginx_facts(path)
    configured = re.findall(r"--modules-path=(\S+)", arguments)
    for folder in (*configured, *NGINX_MODULE_FOLDERS):
        file = Path(folder) / f"ngx_{name}_module.so"
        if file.exists():
            return str(file)
    return None
