"""The build backend of pyproject.toml: setuptools', with an sdist that is whole and reproducible.

1. An sdist holds what the repository holds: Makefile, documents, examples and tests too, so that what
   the README tells can be done from it. setuptools by itself takes sources and what is installed.
2. A wheel brings docs/ and conf/ along, below share/ngxstream, but for what packages are made of. A
   list in setup.cfg would have to name each folder.
3. With SOURCE_DATE_EPOCH, two builds of one tree are the same to the byte: files of the archive come
   in order, belong to nobody, and have that time. (setuptools does so for a wheel.)
"""

import gzip
import io
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import setuptools  # noqa: F401 - it brings distutils along
from distutils.command.install_data import install_data
from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401 - the hooks that stay as they are
    build_editable,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

ROOT = Path(__file__).resolve().parents[2]
TREE = (
    "ngxstream", "conf", "docs", "tests", ".ci", "Makefile", "README.md", "LICENSE", "setup.cfg",
    "pyproject.toml", ".gitignore",
)
MADE = ("__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis")


def files() -> Iterator[Path]:
    """Yield every file of the repository, in order."""
    for name in TREE:
        path = ROOT / name
        if path.is_file():
            yield path
        for folder, names, found in os.walk(path):
            names[:] = sorted(one for one in names if one not in MADE
                              and not one.endswith(".egg-info"))
            yield from (Path(folder, one) for one in sorted(found) if not one.endswith(".pyc"))


def documents() -> dict[str, list[str]]:
    """Return what a wheel has of docs/ and conf/: folder below share/ngxstream -> files."""
    found: dict[str, list[str]] = {}
    for path in files():
        name = path.relative_to(ROOT)
        if name.parts[0] in ("docs", "conf") and name.parts[:2] != ("conf", "packaging"):
            found.setdefault(f"share/ngxstream/{name.parent}", []).append(str(name))
    return found


_finalize = install_data.finalize_options


def _finalize_with_documents(command: install_data) -> None:
    _finalize(command)
    command.data_files = [*(command.data_files or []), *documents().items()]


install_data.finalize_options = _finalize_with_documents


def build_sdist(folder: str, settings: dict[str, Any] | None = None) -> str:
    """Make the sdist; return its name. Args: folder: where it goes"""
    name: str = build_meta.build_sdist(folder, settings)
    path = Path(folder, name)
    top = name.removesuffix(".tar.gz")
    with tarfile.open(path) as made:
        facts = made.extractfile(f"{top}/PKG-INFO")
        assert facts is not None
        members = {f"{top}/PKG-INFO": (facts.read(), 0o644)}
    for source in files():
        mode = 0o755 if source.stat().st_mode & 0o100 else 0o644
        members[f"{top}/{source.relative_to(ROOT)}"] = source.read_bytes(), mode
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, (data, mode) in sorted(members.items()):
            info = tarfile.TarInfo(member)
            info.size, info.mode, info.mtime = len(data), mode, epoch
            archive.addfile(info, io.BytesIO(data))
    path.write_bytes(gzip.compress(raw.getvalue(), mtime=epoch))
    return name
