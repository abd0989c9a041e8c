"""The Debian package: made by `make deb`, judged by lintian, and lived through in roots."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import tools
from tests.support.proxies import ROOT

VERSIONS = "1.0.0", "1.0.0+1"
# Debian 13 as just installed, and this machine: Debian 12 where CI runs, with a real nginx
ROOTS = ["trixie", "here", *os.environ.get("NGXSTREAM_ROOTS", "").split()]
STEPS = (
    "installed: tests its configuration, serves nothing yet",
    "serves, and reloads",
    "a refused upgrade leaves the old one in its place",
    "of two upgrades the second one ends what has outlived the first",
    "called nginx, it speaks as nginx",
    "removed: nothing runs, the configuration is there still",
    "purged: nothing is left",
    "all well",
)


def build(folder: Path, version: str) -> Path:
    """Make the package by the verb of the Makefile's; return its path."""
    for program in ("dpkg-buildpackage", "dh", "dh_apparmor", "dh_python3"):
        tools.require(program)
    done = subprocess.run(
        [str(ROOT / "conf/packaging/build-deb"), str(folder)], capture_output=True, text=True,
        env=os.environ | {"PYTHON": sys.executable, "VERSION": version}, check=False, timeout=300,
    )
    assert 0 == done.returncode, done.stderr
    return folder / f"ngxstream_{version}_all.deb"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give two packages of different versions."""
    folder = tmp_path_factory.mktemp("deb")
    first = build(folder, VERSIONS[0])
    tree = folder / "second"
    subprocess.run(["dpkg-deb", "-R", str(first), str(tree)], check=True, timeout=60)
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace(f"Version: {VERSIONS[0]}\n",
                                                   f"Version: {VERSIONS[1]}\n"))
    second = folder / "second.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", str(tree), str(second)], check=True,
                   capture_output=True, timeout=60)
    return first, second


@pytest.mark.slow
def test_lintian_finds_no_error(packages: tuple[Path, Path]) -> None:
    """What Debian's checker calls an error is not in the package."""
    done = subprocess.run(
        [tools.require("lintian"), "--allow-root", "--fail-on", "error", str(packages[0])],
        capture_output=True, text=True, check=False, timeout=300,
    )
    assert 0 == done.returncode, done.stdout
    assert [] == [line for line in done.stdout.splitlines() if line.startswith("E:")]


@pytest.mark.slow
def test_it_is_reproducible(packages: tuple[Path, Path], tmp_path: Path) -> None:
    """Built twice from one tree it is the same to the byte."""
    assert packages[0].read_bytes() == build(tmp_path, VERSIONS[0]).read_bytes()


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize("root", ROOTS)
def test_a_life_of_the_package(packages: tuple[Path, Path], root: str) -> None:
    """Installed, used, upgraded under UDP traffic without loss, removed and purged."""
    tools.require_root()
    if root == "here":
        tools.require("dpkg")
    else:
        tools.optional("debootstrap")  # there is none in a root that was made by it
    first, second = map(str, packages)
    command = f"cd {ROOT} && python3 -m tests.packages.in_root {first} {second}"
    done = subprocess.run(
        [str(ROOT / ".ci/fresh"), root], capture_output=True, text=True, check=False, timeout=900,
        env=os.environ | {"COMMAND": command, "LEND": f"{packages[0].parent}:{ROOT}"},
        stdin=subprocess.DEVNULL,
    )
    if done.returncode == 77:
        pytest.skip(f"this kernel mounts no overlay here: {done.stderr}")
    assert 0 == done.returncode, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert list(STEPS) == [step for step in STEPS if step in said], done.stdout
    assert any(line.startswith("upgraded, while ") for line in said)
