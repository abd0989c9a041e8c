"""The program: options, exit codes, JSON."""

import getpass
import json
import socket
import ssl
import threading
import warnings
from pathlib import Path

import pytest

from ngxstream.ctl import main
from ngxstream.ctl.client import FORBIDDEN, OK, REFUSED, UNREACHABLE, USAGE
from tests.support.fake_api import fake_api
from tests.unit.ctl.test_commands import REPLIES


def test_tables_for_people_json_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    """--json prints what the API said; it may stand before the command or behind it."""
    with fake_api() as (api, url):
        for what, body in REPLIES.items():
            api.reply(what, body)
        assert OK == main.main(["--url", url, "upstreams"])
        assert "10.0.0.1:53" in capsys.readouterr().out
        for words in (["--json", "upstreams"], ["upstreams", "--json"]):
            assert OK == main.main(["--url", url, *words])
            found = json.loads(capsys.readouterr().out)
            assert REPLIES["GET /api/9/stream/upstreams"] == found


def test_options_may_stand_behind_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Where many write them; what stands before it counts unless it is said again."""
    with fake_api() as (api, url):
        api.reply("GET /api/9/stream/server_zones", {})
        assert OK == main.main(["servers", "--url", url, "--user", "me:secret"])
        assert "Basic bWU6c2VjcmV0" == api.requests[0][2]["Authorization"]
        assert OK == main.main(["--url", "http://127.0.0.1:1", "servers", "--url", url])
        assert OK == main.main(["--url", url, "servers"])


def test_looking_needs_no_api_that_allows_changes(tmp_path: Path) -> None:
    """A read-only one says which pairs a zone has; to change them another one is wanted."""
    (tmp_path / "n.conf").write_text("stream { server { listen 127.0.0.1:1; api; } }")
    known = ["-c", str(tmp_path / "n.conf"), "keyval"]
    assert FORBIDDEN == main.main([*known, "set", "z", "a", "v"])
    for words in (["list", "z"], ["get", "z", "a"]):
        assert UNREACHABLE == main.main([*known, *words])  # it was asked, and nobody is there


def test_a_password_is_not_asked_for_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says how else to give it."""

    def ask(prompt: str) -> str:
        warnings.warn("Can not control echo on the terminal.", getpass.GetPassWarning, 2)
        return ""

    monkeypatch.setattr(getpass, "getpass", ask)
    monkeypatch.delenv(main.PASSWORD, raising=False)
    assert USAGE == main.main(["--url", "http://127.0.0.1:1", "--user", "me", "status"])
    assert f"ngxstreamctl: no password: set {main.PASSWORD}\n" == capsys.readouterr().err


def test_exit_codes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Each kind of failure has one, and a line on standard error."""
    with fake_api() as (api, url):
        disabled = {"error": {"status": 405, "text": "off", "code": "MethodDisabled"}}
        api.reply("DELETE /api/ngxstream/1/sessions/1-1", disabled, 405)
        tried = {
            FORBIDDEN: ["--url", url, "kill", "1-1"],
            REFUSED: ["--url", url, "keyval", "list", "none"],
            UNREACHABLE: ["--socket", str(tmp_path / "none"), "status"],
            USAGE: ["--url", url, "--socket", "x", "status"],
        }
        assert tried == {main.main(words): words for words in tried.values()}
        errors = capsys.readouterr().err.splitlines()
        assert 4 == len(errors)
        assert {True} == {line.startswith("ngxstreamctl: ") for line in errors}
        assert "api write=on" in errors[0]


@pytest.mark.parametrize(
    "words",
    [
        [], ["nothing"], ["weight", "u", "s", "heavy"], ["weight", "u", "s", "0"], ["--sock"],
        ["sessions", "--limit", "0"], ["sessions", "--limit=-1"], ["sessions", "--state", "x"],
        ["log", "-n", "0"], ["log", "-n", "1001"], ["log", "--level", "bad"],
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_told(words: list[str]) -> None:
    """By argparse, with the usage."""
    with pytest.raises(SystemExit) as raised:
        main.main(words)
    assert USAGE == raised.value.code


def test_the_environment_names_api_and_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For scripts, which cannot be asked."""
    with fake_api() as (api, url):
        api.reply("GET /api/9/stream/server_zones", {})
        monkeypatch.setenv(main.URL, url)
        monkeypatch.setenv(main.PASSWORD, "secret")
        assert OK == main.main(["--user", "me", "servers"])
        assert "Basic bWU6c2VjcmV0" == api.requests[0][2]["Authorization"]


def test_files_of_certificates_that_are_none_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a traceback."""
    words = ["--url", "https://127.0.0.1:1", "--cacert", str(tmp_path / "none"), "status"]
    assert UNREACHABLE == main.main(words)
    assert "certificates" in capsys.readouterr().err
    assert ssl.OPENSSL_VERSION


def test_scripts_and_manual_need_no_api(capsys: pytest.CaptureFixture[str]) -> None:
    """They are printed from the declarations alone."""
    assert [OK] * 3 == [main.main(["completion", one]) for one in ("bash", "zsh")] + [
        main.main(["manual"])
    ]
    assert ".TH NGXSTREAMCTL 8" in capsys.readouterr().out


@pytest.mark.parametrize("body", [[1], {"a": 1}, 7, None, {"z": {"processing": []}}])
def test_a_reply_of_another_form_is_told(body: object, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever answers in the API's place, there is no traceback."""
    with fake_api() as (api, url):
        api.reply("GET /api/9/stream/server_zones", body)
        assert UNREACHABLE == main.main(["--url", url, "servers"])
        assert "not of the form" in capsys.readouterr().err


def _deep(count: int) -> bytes:
    return b"[" * count + b"]" * count


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, _deep(100_000)),
        (500, _deep(100_000)),
        (500, b'{"error": {"code": "\\u001b[2J", "text": "\\u001b]0;x\\u0007\\u009b2J"}}'),
        (200, b'{"z": {"processing": 1, "connections": 1e999, "discarded": 0, "received": 1e999}}'),
    ],
)
def test_a_hostile_reply_is_no_more_than_a_line(
    status: int, body: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """No traceback, and nothing that a terminal would obey."""
    with fake_api() as (api, url):
        api.reply("GET /api/9/stream/server_zones", body, status)
        assert main.main(["--url", url, "servers"]) in (OK, REFUSED, UNREACHABLE)
    said = capsys.readouterr()
    assert (said.out + said.err).replace("\n", "").isprintable()
    assert 1 >= said.err.count("\n")


def test_what_is_no_http_is_no_more_than_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Also of the first line of a reply a terminal sees nothing that it would obey."""
    with socket.create_server(("127.0.0.1", 0)) as sock:

        def answer() -> None:
            with sock.accept()[0] as c:
                c.recv(4096)
                c.sendall(b"\x1b[2J\x9b31m\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        assert UNREACHABLE == main.main(["--url", url, "servers"])
        thread.join()
    assert capsys.readouterr().err.rstrip("\n").isprintable()


def test_no_lines_are_no_empty_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A log without lines prints none."""
    with fake_api() as (api, url):
        api.reply("GET /api/ngxstream/1/log", {"lines": [], "lost": 0})
        assert OK == main.main(["--url", url, "log"])
    assert "" == capsys.readouterr().out
