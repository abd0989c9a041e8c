"""The container: its steps are taken in a plain root, and its scripts do what they say."""

import importlib.util
import os
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from tests.packages.test_deb import build
from tests.support import tools
from tests.support.proxies import ROOT

SCRIPTS = ROOT / "conf/container/entrypoint.d"


def script(name: str) -> ModuleType:
    """Return a script of the entry point as a module."""
    (path,) = SCRIPTS.glob(f"*-{name}.py")
    spec = importlib.util.spec_from_file_location(name.replace("-", "_"), path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.root
def test_its_steps_in_a_plain_root(tmp_path: Path) -> None:
    """An unprivileged user builds it; it serves without a capability, is healthy, and stops."""
    tools.require_root()
    tools.optional("debootstrap")
    deb = build(tmp_path, "1.0.0")
    command = f"cd {ROOT} && python3 -m tests.packages.in_container {ROOT} {deb}"
    done = subprocess.run(
        [str(ROOT / ".ci/fresh"), "trixie"], capture_output=True, text=True, check=False,
        env=os.environ | {"COMMAND": command, "LEND": f"{tmp_path}:{ROOT}"}, timeout=600,
        stdin=subprocess.DEVNULL,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    steps = ["built", "serves, unprivileged, with logs on stdout and stderr", "stops", "all well"]
    assert steps == [line for line in done.stdout.splitlines() if line in steps], done.stdout


def substitute(folder: Path, text: str, **environment: str) -> str:
    """Make a file of a template by the script; return it."""
    (folder / "in/sub").mkdir(parents=True, exist_ok=True)
    (folder / "out").mkdir(exist_ok=True)
    (folder / "in/sub/x.conf.template").write_text(text)
    subprocess.run(
        [str(SCRIPTS / "20-envsubst-on-templates.py")], check=True, timeout=60, env={
            "PATH": os.environ["PATH"], "NGINX_ENVSUBST_TEMPLATE_DIR": str(folder / "in"),
            "NGINX_ENVSUBST_OUTPUT_DIR": str(folder / "out"), **environment,
        })
    return (folder / "out/sub/x.conf").read_text()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("listen ${PORT};", "listen 53;"),
        ("listen $PORT;", "listen 53;"),
        ("$remote_addr ${UNKNOWN} $$ $", "$remote_addr ${UNKNOWN} $$ $"),
        ("$PORTS ${PORT}S", "$PORTS 53S"),
        ("${PORT", "${PORT"),
        ("$AGAIN", "$PORT"),
    ],
)
def test_templates_get_what_the_environment_has(tmp_path: Path, text: str, expected: str) -> None:
    """Names that it has are replaced, once; all others are nginx's variables, and stay."""
    assert expected == substitute(tmp_path, text, PORT="53", AGAIN="$PORT")


def test_a_filter_leaves_other_names(tmp_path: Path) -> None:
    """With NGINX_ENVSUBST_FILTER only names in which the expression is found are replaced."""
    made = substitute(tmp_path, "$OUR_A $B", OUR_A="a", B="b", NGINX_ENVSUBST_FILTER="^OUR_")
    assert "a $B" == made


def test_a_bad_filter_is_an_error(tmp_path: Path) -> None:
    """An expression that is none ends the start with a message, not with a traceback."""
    done = subprocess.run(
        [str(SCRIPTS / "20-envsubst-on-templates.py")], capture_output=True, text=True,
        env={"PATH": os.environ["PATH"], "NGINX_ENVSUBST_FILTER": "("}, check=False, timeout=60,
    )
    assert 1 == done.returncode
    assert "NGINX_ENVSUBST_FILTER: missing )" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """The start ends with a message that names it, not with a traceback."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/x.conf.template").touch()
    (tmp_path / "out/x.conf").mkdir(parents=True)
    done = subprocess.run(
        [str(SCRIPTS / "20-envsubst-on-templates.py")], capture_output=True, text=True,
        check=False, timeout=60, env={
            "PATH": os.environ["PATH"], "NGINX_ENVSUBST_TEMPLATE_DIR": str(tmp_path / "in"),
            "NGINX_ENVSUBST_OUTPUT_DIR": str(tmp_path / "out"),
        })
    assert 1 == done.returncode
    assert f"{tmp_path}/in/x.conf.template to {tmp_path}/out/x.conf: [Errno 21]" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 0),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0),
        ({"cpu.max": "1 0\n"}, 0),
        ({"cpu.max": "nonsense"}, 0),
        ({}, 0),
    ],
)
def test_a_quota_is_so_many_workers(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    """What either version of cgroups allows, rounded up; 0 where it allows all."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert expected == script("tune-worker-processes").quota(tmp_path)


def test_the_entry_point_runs_other_commands_as_they_are(tmp_path: Path) -> None:
    """For another program nothing is prepared; arguments go on unchanged."""
    done = subprocess.run(
        [str(ROOT / "conf/container/entrypoint"), "printf", "%s|", "a b", "$HOME"],
        capture_output=True, text=True, check=False, timeout=60,
    )
    assert (0, "a b|$HOME|", "") == (done.returncode, done.stdout, done.stderr)
