"""state: servers that the API gave a group are there after a restart."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.conf import reader
from ngxstream.modules.upstream import state
from ngxstream.modules.upstream.roster import Line
from ngxstream.stream.api import ApiError
from tests.support.groups import Steered
from tests.support.in_process import CONF, build

PATH = "/stream/upstreams/u/servers"
Make = Callable[..., Steered]


def block(path: Path, more: str = "") -> str:
    """Write a group that is kept in a file."""
    return f"resolver 127.0.0.1:1; upstream u {{ zone u 64k; state {path}; {more} }}"


def refused(text: str) -> str:
    """Return what is said of a configuration."""
    return build(f"stream {{ {text} }}").error


@pytest.mark.effect("state")
def test_servers_are_kept(steered: Make, tmp_path: Path) -> None:
    """What was added, changed and removed is so after a restart; the file begins with a change."""
    path = tmp_path / "u.conf"
    one = steered(block(path))
    assert not path.exists()
    for body in (
        {"server": "127.0.0.1:1", "weight": 3, "max_conns": 7, "drain": True},
        {"server": "a.test:80", "max_fails": 0, "backup": True},
        {"server": "b.test", "service": "_x._tcp", "fail_timeout": "1m"},
        {"server": "unix:/tmp/x", "down": True},
        {"server": "127.0.0.1:2"},
    ):
        assert 201 == one.ask("POST", PATH, body)[0]
    assert 200 == one.ask("DELETE", f"{PATH}/4")[0]
    assert (
        "server 127.0.0.1:1 weight=3 max_conns=7 drain;\n"
        "server a.test:80 max_fails=0 backup resolve;\n"
        "server b.test fail_timeout=60s resolve service=_x._tcp;\n"
        "server unix:/tmp/x down;\n"
    ) == path.read_text().removeprefix(state.HEAD)
    assert 0o644 == stat.S_IMODE(path.stat().st_mode)
    assert [path] == list(tmp_path.iterdir())
    before = [{**found, "id": 0} for found in one.ask("GET", PATH)[1]]
    one.close()
    again = steered(block(path))
    assert before == [{**found, "id": 0} for found in again.ask("GET", PATH)[1]]
    assert 200 == again.ask("PATCH", f"{PATH}/0", {"weight": 4})[0]
    assert "weight=4" in path.read_text()


def test_a_reload_keeps_ids(steered: Make, tmp_path: Path) -> None:
    """A server that is in the file before and after has the same id; so have names."""
    path = tmp_path / "u.conf"
    one = steered(block(path))
    for body in ({"server": "127.0.0.1:1"}, {"server": "a.test:80"}, {"server": "127.0.0.1:2"}):
        one.ask("POST", PATH, body)
    one.ask("DELETE", f"{PATH}/0")
    before = one.ask("GET", PATH)
    assert [1, 2] == [server["id"] for server in before[1]]
    assert before == steered(block(path), old=one).ask("GET", PATH)


WORD = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1)


@given(server=WORD, service=WORD)
def test_what_is_written_is_read_again(server: str, service: str) -> None:
    """Any text is one word of the configuration."""
    text = state.statement(Line(0, server, service=service))
    (found,) = reader.read_text(text).main.statements
    assert (server, ["resolve", f"service={service}"]) == (found.args[0], found.args[1:])


@pytest.mark.parametrize(("text", "error"), [
    ("server 127.0.0.1;\n", 'no port in upstream "127.0.0.1"'),
    ("server 127.0.0.1:1 weight=x;\n", 'invalid parameter "weight=x"'),
    ("\nserver 127.0.0.1:1", 'unexpected end of file, expecting ";" or "}"'),
    ("zone z 64k;", '"zone" directive is not allowed in a state file'),
    ("include /etc/hosts;", '"include" directive is not allowed in a state file'),
    ("server 127.0.0.1:1 {}", 'directive "server" is not terminated by ";"'),
])
def test_a_broken_file_is_refused(tmp_path: Path, text: str, error: str) -> None:
    """With its name and the line."""
    path = tmp_path / "u.conf"
    path.write_text(text)
    found = refused(block(path))
    assert found.startswith(error)
    assert f"in {path}:" in found


@pytest.mark.refusal("state")
@pytest.mark.parametrize(("text", "error"), [
    ("upstream u { zone z 64k; state a; state b; }", '"state" directive is duplicate'),
    ("upstream u { zone z 64k; server 127.0.0.1:1; state a; }",
     '"state" directive is incompatible with "server"'),
    ("upstream u { zone z 64k; state a; server 127.0.0.1:1; }",
     '"server" directive is incompatible with "state"'),
    ("upstream u { state a; }",
     'keeping the state of servers requires upstream "u" to be in shared memory'),
    ("upstream u { zone z 64k; state a; } upstream v { zone z; state a; }",
     'state file "/p/a" is used twice'),
])
def test_what_does_not_go_with_it(text: str, error: str) -> None:
    """Servers of the configuration, and a group that is not shared."""
    assert f"{error} in {CONF}:1" == refused(text)


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    """A folder, a pipe that nobody writes, a link to what only the master may read."""
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to("/etc/hosts")
    os.mkfifo(pipe)
    for path in (tmp_path, link, pipe):
        assert f'cannot read state file "{path}" (' in refused(block(path))


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    """More than 16 MB are no list of servers."""
    path = tmp_path / "u.conf"
    with path.open("wb") as file:
        file.truncate(state.MOST + 1)
    assert "(27: File too large)" in refused(block(path))


def test_a_test_of_the_configuration_writes_nothing(tmp_path: Path) -> None:
    """Nor does a start."""
    path = tmp_path / "u.conf"
    path.write_text("server 127.0.0.1:1;")
    assert "" == refused(block(path))
    assert "server 127.0.0.1:1;" == path.read_text()


@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
def test_a_file_that_cannot_be_written_is_an_error_and_nothing_changes(
    steered: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whichever step fails; nothing is left in the folder, and the next change goes through."""
    path = tmp_path / "u.conf"
    one = steered(block(path))
    one.ask("POST", PATH, {"server": "127.0.0.1:1"})
    text = path.read_text()

    def fail(*args: Any, **more: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(state.os, step, fail)
        for request in (("POST", PATH, {"server": "a.test:1"}), ("DELETE", f"{PATH}/0")):
            reply = one.reply(*request)
            assert isinstance(reply, ApiError)
            assert (500, "StateNotWritten") == (reply.status, reply.code)
            assert "state file cannot be written: No space left on device" == reply.text
    assert ["127.0.0.1:1"] == one.servers()
    assert (text, [path]) == (path.read_text(), list(tmp_path.iterdir()))
    status, found = one.ask("POST", PATH, {"server": "127.0.0.1:2"})
    assert (201, ["127.0.0.1:1", "127.0.0.1:2"]) == (status, one.servers())
    assert found["server"] in path.read_text()


def test_a_file_keeps_its_mode(steered: Make, tmp_path: Path) -> None:
    """Who may read it stays who may."""
    path = tmp_path / "u.conf"
    path.write_text("")
    path.chmod(0o600)
    steered(block(path)).ask("POST", PATH, {"server": "127.0.0.1:1"})
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
