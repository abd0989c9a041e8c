"""ngxstreamctl beside the running program: looks, changes, and finds it by itself."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ngxstream.ctl import main
from tests.support import clients
from tests.support.backends import BackendFactory, tagged
from tests.support.proxies import Ngxstream
from tests.support.waiting import wait_until

CONF = """worker_processes 2; events {}
stream {
    log_format ends "$session_end_reason $session_ended_by";
    access_log logs/access.log ends;
    keyval_zone zone=words:32k;
    keyval $remote_addr $word zone=words;
    upstream group { zone group 64k; server @one@; server @two@ down; }
    server { listen 127.0.0.1:@main@; proxy_pass group; status_zone front; }
    server { listen unix:api.sock; api write=on; }
}
"""


@pytest.fixture
def program(tmp_path: Path, backends: BackendFactory) -> Iterator[Ngxstream]:
    """Run the program with a group of two servers."""
    names = {name: backends.tcp(tagged(name)) for name in ("one", "two")}
    text = CONF
    for name, server in names.items():
        text = text.replace(f"@{name}@", f"127.0.0.1:{server.address[1]}")
    with Ngxstream(text.replace("unix:api.sock", f"unix:{tmp_path}/a.sock"), tmp_path) as running:
        yield running


class Ctl:
    """Runs commands, which find the program by its configuration."""

    def __init__(self, program: Ngxstream, capsys: pytest.CaptureFixture[str]) -> None:
        self.program = program
        self.capsys = capsys

    def __call__(self, *words: str, code: int = 0) -> str:
        """Run one command; return what it says."""
        where = ["-c", str(self.program.conf_file), "-p", str(self.program.prefix)]
        done = main.main([*where, *words])
        said = "".join(self.capsys.readouterr())
        assert code == done, said
        return said


@pytest.fixture
def ctl(program: Ngxstream, capsys: pytest.CaptureFixture[str]) -> Ctl:
    """Return what runs commands beside the program."""
    return Ctl(program, capsys)


def test_a_look_at_everything(program: Ngxstream, ctl: Ctl) -> None:
    """Each command that only looks has an answer, as a table and as JSON."""
    clients.tcp_exchange(program.address("main"), b"x", size=5)
    for words, shown in {
        "status": "2 workers", "servers": "front", "upstreams group": "down", "sessions": "SERVER",
        "workers": "serving", "reloads": "ok", "certificates": "DAYS LEFT", "log": "[notice]",
        "metrics": "nginxplus_up 1", "keyval list words": "KEY",
        f"explain tcp 192.0.2.1:9 127.0.0.1:{program.port('main')}": "front",
    }.items():
        said = ctl(*words.split())
        assert shown in said, words
        if words != "metrics":
            json.loads(ctl("--json", *words.split()))


def test_a_server_is_steered(program: Ngxstream, ctl: Ctl) -> None:
    """Brought up, drained, weighed, added and removed: traffic and tables follow."""
    address = program.address("main")
    group = json.loads(ctl("--json", "upstreams", "group"))["group"]["peers"]
    one, two = (peer["server"] for peer in group)
    ctl("up", "group", two)
    ctl("drain", "group", one)
    assert {b"two"} == {clients.tcp_exchange(address, b"x", size=5)[:3] for _ in range(6)}
    assert "draining" in ctl("upstreams", "group")
    ctl("up", "group", one)
    ctl("weight", "group", two, "7")
    assert "7" in ctl("upstreams", "group")
    ctl("remove", "group", two)
    assert {b"one"} == {clients.tcp_exchange(address, b"x", size=5)[:3] for _ in range(4)}
    ctl("add", "group", two, "--weight", "2")
    assert two in ctl("upstreams", "group")
    assert "no server" in ctl("drain", "group", "192.0.2.1:9", code=1)


def test_sessions_are_seen_and_ended(program: Ngxstream, ctl: Ctl) -> None:
    """A live one is listed, and ended by its id or by a filter; the log says who did it."""
    with clients.TcpClient(program.address("main")) as client:
        client.send(b"x")
        assert client.recv()
        (found,) = json.loads(ctl("--json", "sessions", "--server", "front"))["sessions"]
        ctl("kill", found["id"])
        assert b"" == client.recv()
    wait_until(lambda: "api operator" in program.access_log())
    assert "0 ended" in ctl("kill", "--server", "front")


def test_pairs_are_kept(ctl: Ctl) -> None:
    """keyval sets, shows and deletes."""
    ctl("keyval", "set", "words", "127.0.0.1", "hello")
    assert "hello\n" == ctl("keyval", "get", "words", "127.0.0.1")
    ctl("keyval", "del", "words", "127.0.0.1")
    assert "KeyvalKeyNotFound" in ctl("keyval", "get", "words", "127.0.0.1", code=1)


def test_nobody_there_is_told(tmp_path: Path) -> None:
    """A program that does not run is not reached: exit code 3."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        conf = tmp_path / "n.conf"
        port = sock.getsockname()[1]
        conf.write_text(f"events {{}} stream {{ server {{ listen 127.0.0.1:{port}; api; }} }}")
        done = subprocess.run(
            [sys.executable, "-m", "ngxstream.ctl.main", "-c", str(conf), "status"],
            capture_output=True, text=True, check=False, timeout=60,
        )
    assert (3, "") == (done.returncode, done.stdout)
    assert f"http://127.0.0.1:{port}: Connection refused" in done.stderr
