"""What a host lacks that never had nginx."""

import subprocess
import sys
from pathlib import Path

import pytest

from ngxstream.process import first_steps, places
from ngxstream.process.options import Options

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder that the default paths lie in; there is nothing in it."""
    for name in ("PREFIX", "CONF_PATH", "ERROR_LOG_PATH", "PID_PATH"):
        monkeypatch.setattr(places, name, f"{tmp_path}{getattr(places, name)}")
    return tmp_path


def options(host: Path, program: str = "ngxstream") -> Options:
    """Return the options of a call without words, on that host."""
    made = Options([program])
    made.conf_file, made.error_log = f"{host}{made.conf_file}", f"{host}{made.error_log}"
    return made


def test_the_commands_make_what_is_missing(host: Path) -> None:
    """Done as printed, they leave nothing missing; the configuration is the first one of conf/."""
    commands = first_steps.missing(options(host))
    assert 2 == len(commands)
    for command in commands:
        subprocess.run(command, shell=True, check=True, timeout=60)
    assert [] == first_steps.missing(options(host))
    assert (host / "etc/nginx/conf.d/first.conf").exists()
    assert (host / "var/log/nginx").is_dir()


def test_what_is_there_is_not_made(host: Path) -> None:
    """A configuration that is there is not written over: only the folder of the log is made."""
    (host / "etc/nginx").mkdir(parents=True)
    (host / "etc/nginx/nginx.conf").touch()
    assert [f"mkdir -p {host}/var/log/nginx"] == first_steps.missing(options(host))


def test_a_path_that_was_named_is_no_matter_of_the_installation(host: Path) -> None:
    """With -c and -e of the caller's own nothing is proposed, whatever is missing."""
    made = Options(["ngxstream", "-c", "/nowhere/x.conf", "-e", "/nowhere/x.log"])
    assert [] == first_steps.missing(made)


def test_who_calls_it_nginx_is_told_nothing(host: Path) -> None:
    """Under nginx's name only nginx's words are said."""
    assert [] == first_steps.missing(options(host, "/usr/sbin/nginx"))


def test_documents_are_found_in_a_checkout() -> None:
    """Not installed, the program finds them beside its sources."""
    assert str(ROOT) == first_steps.share()


def test_an_installation_says_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lay_out.py has written comes first; a folder that is gone does not count."""
    monkeypatch.setattr(places, "SHARE", str(tmp_path))
    assert str(ROOT) == first_steps.share()
    (tmp_path / "conf/first").mkdir(parents=True)
    assert str(tmp_path) == first_steps.share()


CODE = """
import sys
from ngxstream.process import places
for name in ("PREFIX", "CONF_PATH", "ERROR_LOG_PATH", "PID_PATH", "LOCK_PATH"):
    setattr(places, name, sys.argv[1] + getattr(places, name))
from ngxstream.process import cli
raise SystemExit(cli.main(["ngxstream", *sys.argv[2:]]))
"""


@pytest.mark.parametrize("words", [["-t"], []])
def test_the_program_says_it(tmp_path: Path, words: list[str]) -> None:
    """-t and a start on such a host fail, as nginx's do, and then name the commands."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path), *words], capture_output=True, text=True,
        check=False, cwd=ROOT, timeout=60,
    )
    assert 1 == done.returncode
    lines = done.stderr.splitlines()
    assert f'open() "{tmp_path}/etc/nginx/nginx.conf" failed (2: No such file' in done.stderr
    etc, said = f"{tmp_path}/etc/nginx", "ngxstream: [notice]     "
    assert [
        f"{said}mkdir -p {etc} {tmp_path}/var/log/nginx",
        f"{said}cp -r {ROOT}/conf/first/. {etc}/",
    ] == lines[-2:]
