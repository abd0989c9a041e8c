"""Finds the Pythons beside the one that runs the tests, and has scripts run by them."""

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import crossplane
import pytest

ROOT = Path(__file__).resolve().parents[2]
OLDEST = (3, 11)
THIS = sys.executable

Version = tuple[int, ...]


@functools.cache
def others() -> dict[Version, str]:
    """Return version and path of each other CPython that the package supports, if installed."""
    found = {Path(path) for name in _names() if (path := shutil.which(name)) is not None}
    for folder in (Path(sys.base_prefix).parent, Path.home() / ".pyenv/versions"):
        found |= set(folder.glob("3.*/bin/python3"))
    versions: dict[Version, str] = {}
    for path in sorted(found | {Path("/usr/bin/python3")}):
        version = _version(path)
        if version >= OLDEST and version != sys.version_info[:3]:
            versions.setdefault(version, str(path))
    return versions


def run(python: str, *args: str) -> str:
    """Run a module of the project by another Python and return what it prints."""
    # crossplane is of Python alone: one installation serves all
    path = os.pathsep.join((str(ROOT), str(Path(crossplane.__file__).parents[1])))
    done = subprocess.run(
        [python, "-B", *args],
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"},
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=600,
    )
    assert done.returncode == 0, f"{python}: {done.stderr[-2000:]}"
    return done.stdout


def require_another() -> dict[Version, str]:
    """Return the other Pythons; skip where there is none."""
    found = others()
    if not found:
        pytest.skip("no other CPython of 3.11 or later is installed")
    return found


def _names() -> list[str]:
    return ["python3", *(f"python3.{minor}" for minor in range(OLDEST[1], 30))]


def _version(path: Path) -> Version:
    """Return the version of a CPython, nothing for what is none or does not run."""
    say = "import sys; print(sys.implementation.name, *sys.version_info[:3])"
    try:
        done = subprocess.run(
            [path, "-I", "-c", say], capture_output=True, text=True, check=False, timeout=60)
    except OSError:
        return ()
    said = re.fullmatch(r"cpython (\d+) (\d+) (\d+)\n", done.stdout)
    return tuple(map(int, said.groups())) if said and not done.returncode else ()
