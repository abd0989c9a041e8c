"""Configurations of real sites: the verdict and the first message are nginx's own.

The files were found in public repositories and made self-contained. verdicts.tsv holds what
nginx 1.31.5 (open source, stock build) said of each to `-t`. Where its complaint is about the
inside of an http block, which is skipped here, or about a module file that it could not load, it
does not bind: NOT_BINDING says which and why, and what is said here instead.
"""

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import tools

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

NGINX_LOGS = b"/var/log/nginx/"
PID = re.compile(rb"(?m)^(\s*pid\s+)[^;\s]+;")

NOT_BINDING = {
    "041.conf": ("fail", "keyval_zone is served: the next unknown one is found",
                 'unknown directive "js_import" in nginx.conf:33'),
    "043.conf": ("fail", "inside http; and keyval_zone, in stream, is served",
                 'unknown directive "js_import" in nginx.conf:106'),
    "079.conf": ("ok", "load_module is accepted and ignored", ""),
    "083.conf": ("ok", "inside http", ""),
    "085.conf": ("ok", "inside http", ""),
    "109.conf": ("ok", "state and health_check are served", ""),
}


def rows() -> list[dict[str, str]]:
    """Return the lines of verdicts.tsv."""
    with open(HERE / "verdicts.tsv", encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with the files that the configurations name."""
    openssl = tools.require("openssl")
    made = tmp_path_factory.mktemp("corpus")
    (made / "logs").mkdir()
    shutil.copy(HERE / "empty.conf", made)
    for words in (
        "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=corpus",
        "dhparam -dsaparam -out dh.pem 1024",
    ):
        subprocess.run([openssl, *words.split()], cwd=made, check=True, capture_output=True)
    return made


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["file"])
def test_verdict_and_first_message_are_nginx_s(row: dict[str, str], folder: Path) -> None:
    """`-t` judges a real configuration as nginx does, with the same first words."""
    verdict, message = row["nginx_1.31.5"], row["first_message"]
    if row["file"] in NOT_BINDING:
        verdict, _, message = NOT_BINDING[row["file"]]
    # The folder of logs is there where nginx is installed, and is nobody's to write to in a test;
    # that of pid files is the super-user's.
    raw = (HERE / row["file"]).read_bytes().replace(NGINX_LOGS, f"{folder}/logs/".encode())
    raw, own_pid = PID.subn(rb"\1logs/nginx.pid;", raw)
    (folder / "nginx.conf").write_bytes(raw)
    program = [sys.executable, "-m", "ngxstream", "-t", "-p", str(folder), "-e", "logs/error.log"]
    program += [] if own_pid else ["-g", "pid logs/nginx.pid;"]
    done = subprocess.run(
        [*program, "-c", "nginx.conf"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    found = re.search(r"(?m)^ngxstream: \[emerg\] (.*)$", done.stderr)
    first = found[1].replace(f"{folder}/", "") if found else ""
    assert "Traceback" not in done.stderr
    if unknown := re.match(r'unknown directive "(js_\w+)"(.*)', message):  # njs: refused by name
        said = re.match(r'"(js_\w+)" directive is not supported: .*( in \S+)', first)
        assert said is not None, first
        assert (unknown[1], unknown[2]) == (said[1], said[2])
        message = first
    if "(13: Permission denied)" in first and first.startswith("bind()"):
        tools.require_root()
    assert (verdict, message) == ("ok" if done.returncode == 0 else "fail", first)
