"""Wheel and sdist: built twice alike, and whole."""

import email
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import crossplane
import pytest

from tests.support import tools
from tests.support.proxies import ROOT

# These speak of conf/ as a folder of the source.
OF_AUTHORS = "architecture.md", "adding-a-module.md", "modules.md"
EPOCH = "1700000000"


def build(source: Path, target: Path) -> tuple[Path, Path]:
    """Build as `make dist` does; return wheel and sdist."""
    tools.require_module("build", "dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(source)],
        capture_output=True, text=True, check=False, timeout=300,
        env=os.environ | {"SOURCE_DATE_EPOCH": EPOCH},
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    (wheel,), (sdist,) = target.glob("*.whl"), target.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give wheel and sdist of this tree."""
    return build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.mark.slow
def test_what_an_sdist_builds_is_the_same(dist: tuple[Path, Path], tmp_path: Path) -> None:
    """Built once more from the sdist, both are the same to the byte: nothing is missing in it."""
    subprocess.run(["tar", "-C", str(tmp_path), "-xf", str(dist[1])], check=True, timeout=60)
    (tree,) = tmp_path.iterdir()
    wheel, sdist = build(tree, tmp_path / "dist")
    assert dist[0].read_bytes() == wheel.read_bytes()
    assert dist[1].read_bytes() == sdist.read_bytes()


def test_an_sdist_holds_the_repository(dist: tuple[Path, Path]) -> None:
    """Every file that git knows is in it."""
    git = tools.require("git")
    words = [git, "-c", "safe.directory=*", "-C", str(ROOT), "ls-files", "-c", "-o",
             "--exclude-standard"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        pytest.skip("this tree is no clone")
    known = {name for name in done.stdout.splitlines() if (ROOT / name).is_file()}
    with tarfile.open(dist[1]) as archive:
        held = {member.name.partition("/")[2] for member in archive}
    assert set() == known - held
    assert {"PKG-INFO"} == held - known


def test_its_metadata_has_links(dist: tuple[Path, Path]) -> None:
    """Index pages show what it is, under which licence, and where to read on."""
    with zipfile.ZipFile(dist[0]) as wheel:
        (name,) = (one for one in wheel.namelist() if one.endswith("dist-info/METADATA"))
        said = email.message_from_bytes(wheel.read(name))
    assert 2 <= len(said.get_all("Project-URL", []))
    assert said["Summary"]
    assert ["crossplane"] == [
        re.split(r"[<>=]", one)[0] for one in said.get_all("Requires-Dist", []) if ";" not in one]


@pytest.fixture(scope="module")
def installed(
    dist: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Give a venv with nothing but the wheel, and crossplane, in it."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, timeout=120)
    python = venv / "bin/python"
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-index",
         "--no-deps", "--no-warn-script-location", str(dist[0])],
        capture_output=True, text=True, check=False, timeout=120,
    )
    assert 0 == done.returncode, done.stderr
    (site,) = venv.glob("lib/python3.*/site-packages")
    (site / "crossplane").symlink_to(Path(crossplane.__file__).parent)
    return venv


def run(venv: Path, program: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a program of the venv, away from the checkout."""
    return subprocess.run(
        [str(venv / "bin" / program), *words], capture_output=True, text=True, check=False,
        timeout=60, cwd="/",
    )


def test_what_the_pages_name_is_installed(installed: Path) -> None:
    """Each file of docs/ and conf/ that an installed page links to or names is installed too."""
    share = Path(run(installed, "ngxstreamctl", "files").stdout.strip())
    assert installed / "share/ngxstream" == share
    pages = [*share.glob("*.md"), *share.glob("docs/*.md"), *share.glob("conf/*/*.md")]
    assert len(pages) > 20
    missing = set()
    for page in pages:
        text = page.read_text()
        linked = {page.parent / link for link in re.findall(r"\]\(([^)#:]+)", text)}
        words = re.findall(r"(?<![\w./])((?:conf|docs)/[\w./-]+\w)", text)
        named = {share / name for name in words if page.name not in OF_AUTHORS}
        for path in {Path(os.path.normpath(one)) for one in linked | named}:
            inside = path.is_relative_to(share / "docs") or path.is_relative_to(share / "conf")
            # what packages are made of is of the source
            if inside and not path.exists() and share / "conf/packaging" not in path.parents:
                missing.add((page.name, str(path.relative_to(share))))
    assert set() == missing


def test_it_serves_what_it_brings(installed: Path, tmp_path: Path) -> None:
    """Its examples are accepted by its program; unit, manuals and completions are there."""
    share = installed / "share"
    (tmp_path / "logs").mkdir()
    done = run(installed, "ngxstream", "-t", "-p", str(tmp_path), "-e", "logs/error.log", "-c",
               str(share / "ngxstream/conf/status.conf"))
    assert 0 == done.returncode, done.stderr
    for name in ("ngxstream/conf/ngxstream.service", "ngxstream/conf/ngxstream.socket",
                 "ngxstream/conf/first/conf.d/first.conf", "man/man8/ngxstream.8",
                 "man/man8/ngxstreamctl.8", "zsh/site-functions/_ngxstream",
                 "bash-completion/completions/ngxstreamctl.bash"):
        assert (share / name).is_file(), name
    (page,) = installed.glob("lib/*/site-packages/ngxstream/modules/api/dashboard.html")
    assert page.stat().st_size
