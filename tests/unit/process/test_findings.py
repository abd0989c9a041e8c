"""What -t finds, for people and as JSON: the same messages, with the place of the word."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ngxstream.process import cli
from tests.support import json_schema

ROOT = Path(__file__).resolve().parents[3]
SCHEMA = json.loads((ROOT / "conf" / "editors" / "findings.schema.json").read_text())
HEAD = "events {}\nstream {\n"


@pytest.fixture(autouse=True)
def interrupt() -> Iterator[None]:
    """Put the handler of ^C back, which a call of the program changes."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


class Tried:
    """A call of -t on a text."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str], text: str, *words: str,
                 name: str = "ngxstream", log: str = "e.log") -> None:
        (folder / "n.conf").write_text(text)
        capfd.readouterr()
        self.log = log
        self.code = cli.main([name, "-t", "-p", str(folder), "-c", "n.conf", "-e", log,
                              "-g", "pid n.pid;", *words])
        self.said = capfd.readouterr()

    def lines(self) -> list[str]:
        """Return what standard error had."""
        return self.said.err.splitlines()

    def json(self) -> dict[str, Any]:
        """Return the object, which is as the schema says."""
        found: dict[str, Any] = json.loads(self.said.out)
        schema = {key: value for key, value in SCHEMA.items()
                  if key in ("type", "required", "properties", "additionalProperties")}
        assert [] == list(json_schema.faults(found, schema))
        assert self.log == "stderr" or "" == self.said.err
        return found


def test_the_hint_stands_behind_the_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """nginx's line comes first and is as it was; the log has that line alone."""
    tried = Tried(tmp_path, capfd, HEAD + "server {\n listen 1;\n proxy_pas x;\n} }\n")
    assert 1 == tried.code
    assert [
        f'ngxstream: [emerg] unknown directive "proxy_pas" in {tmp_path}/n.conf:5',
        'ngxstream: [notice] did you mean "proxy_pass"?',
        f"ngxstream: configuration file {tmp_path}/n.conf test failed",
    ] == tried.lines()
    assert "did you mean" not in (tmp_path / "e.log").read_text()


def test_who_calls_us_nginx_hears_what_nginx_says(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """There is no hint, and with -q none either."""
    for tried in (Tried(tmp_path, capfd, "procy;", name="nginx"),
                  Tried(tmp_path, capfd, "evens {}", "-q")):
        assert 2 == len(tried.lines())
        assert 1 == tried.code


def test_json_names_the_word(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """File, line and column of what is wrong, where the statement has several lines too."""
    text = HEAD + "upstream u {\n\tserver 127.0.0.1:1\n\t\twieght=3\n;\n} }\n"
    tried = Tried(tmp_path, capfd, text, "--format=json")
    found = tried.json()
    assert (1, False, f"{tmp_path}/n.conf") == (tried.code, found["ok"], found["file"])
    assert [{
        "file": f"{tmp_path}/n.conf", "line": 5, "column": 3, "severity": "emerg",
        "text": 'invalid parameter "wieght=3"', "hint": "did you mean weight=number?",
    }] == found["findings"]


def test_json_has_the_place_that_is_in_the_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of an error that is found behind the block: a group that is not there."""
    text = HEAD + "server {\n listen 127.0.0.1:9;\n proxy_pass wep;\n} }\n"
    found = Tried(tmp_path, capfd, text, "--format=json").json()["findings"]
    assert [(f"{tmp_path}/n.conf", 5, 13, 'no port in upstream "wep"')] == [
        (one["file"], one["line"], one["column"], one["text"]) for one in found]


def test_json_has_warnings_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Of a good configuration, in an included file; the exit code is 0."""
    (tmp_path / "more.conf").write_text("# é\n    allow 192.0.2.1/24;\n")
    tried = Tried(tmp_path, capfd, HEAD + "include more.conf;\n}\n", "--format=json")
    found = tried.json()
    assert (0, True) == (tried.code, found["ok"])
    assert [{
        "file": f"{tmp_path}/more.conf", "line": 2, "column": 11, "severity": "warn",
        "text": "low address bits of 192.0.2.1/24 are meaningless", "hint": None,
    }] == found["findings"]


def test_json_of_what_has_no_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """An error of the whole file, one of -g, and a log on standard error."""
    found = Tried(tmp_path, capfd, "stream { }", "--format=json", log="stderr").json()
    assert [(None, None, 'no "events" section in configuration')] == [
        (one["file"], one["line"], one["text"]) for one in found["findings"]]
    found = Tried(tmp_path, capfd, HEAD + "}", "--format=json", "-g", "daemn off;").json()
    assert ("command line", None, 'did you mean "daemon"?') == tuple(
        found["findings"][-1][key] for key in ("file", "line", "hint"))


def test_a_file_that_is_not_text_is_no_fault(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Bytes that are not UTF-8 are shown as the log shows them: readers refuse half a character."""
    (tmp_path / "n.conf").write_bytes(b"")
    tried = Tried(tmp_path, capfd, "events {}\n", "--format=json", "-g", "x\udcff y;")
    assert r'unknown directive "x\xFF"' == tried.json()["findings"][-1]["text"]


def test_a_template_is_found_where_an_error_has_no_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By the name of the variable that is unknown, and for no other error."""
    server = "server { listen 127.0.0.1:9; proxy_pass ${BACKEND}; }"
    tried = Tried(tmp_path, capfd, f"events {{}} stream {{ {server} }}")
    assert 'ngxstream: [notice] "${BACKEND}" looks like a template' in tried.said.err
    tried = Tried(tmp_path, capfd, f"stream {{ map $remote_addr $MINE {{ }} {server} }}".replace(
        "${BACKEND}", "$MINE"))
    assert 'no "events" section' in tried.said.err
    assert "[notice]" not in tried.said.err
