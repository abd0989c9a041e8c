"""Unix sockets that a killed program has left: taken again, and nothing else is ever touched."""

import contextlib
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ngxstream.core import errors, log
from ngxstream.event import listen_options, listening, stale
from tests.support import processes, strangers, tools
from tests.support.proxies import ROOT, Proxy, ProxyFactory
from tests.support.waiting import PATIENCE, wait_until

KINDS = [socket.SOCK_STREAM, socket.SOCK_DGRAM]


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    """Give the path of a socket, which has to be the only one in its folder at the end."""
    folder = tmp_path / "run"
    folder.mkdir()
    yield str(folder / "s")
    assert set(os.listdir(folder)) <= {"s"}


def leave(path: str, kind: int = socket.SOCK_STREAM) -> tuple[int, int]:
    """Leave a socket as a killed program does. Returns: what tells it from others"""
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.bind(path)
    return identity(path)


def identity(path: str) -> tuple[int, int]:
    """Return what tells a file from others; a link is one itself."""
    about = os.lstat(path)
    return about.st_ino, about.st_mode


def open_at(path: str, kind: int, to: log.Log, *, test: bool = False) -> list[listening.Listening]:
    """Listen at a path. Raises: ListenError"""
    options = listen_options.ListenOptions(socket.AF_UNIX, kind, path, f"unix:{path}")
    return listening.open_all(
        [options], [], workers=1, log=to, test=test, sleep=lambda seconds: None
    )


# -- programs --------------------------------------------------------------------------------------

CONF = "events {{}} stream {{ server {{ listen unix:{}; return TEXT; }} }}"


def kill_all(running: Proxy) -> None:
    """Kill master and workers at once, as a crash of the machine's memory does."""
    pids = [running.pid, *running.all_worker_pids()]
    running.kill()
    wait_until(lambda: not any(map(processes.is_alive, pids)))


def test_a_killed_program_does_not_hinder_the_next(
    proxy: ProxyFactory, path: str
) -> None:
    """nginx does not start before somebody removes the path; we do."""
    running = proxy(CONF.format(path))
    kill_all(running)
    assert os.path.exists(path)
    if running.name == "nginx":
        said = running.run()
        assert 1 == said.code
        assert f"bind() to unix:{path} failed (98: Address already in use)" in said.stderr
        os.unlink(path)
        return
    before = identity(path)
    assert 0 == running.test().code
    assert before == identity(path)
    running.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(path)
        assert b"TEXT" == client.recv(10)
    running.wait_log(rf"\[notice\] .* unix:{path} .* gone, is removed")


# -- what is taken ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("left", [*KINDS, socket.SOCK_SEQPACKET])
def test_what_nobody_has_is_taken(kind: int, left: int, path: str) -> None:
    """Whatever kind of socket it was."""
    leave(path, left)
    found = open_at(path, kind, log.Log())
    with socket.socket(socket.AF_UNIX, kind) as client:
        client.connect(path)
    assert path == found[0].socks[0].getsockname()
    listening.close_all(found, unlink=True, log=log.Log())


def test_one_of_many_who_start_at_once_takes_it(path: str) -> None:
    """All others find it in use, and it stays where it is."""
    leave(path)
    reader, writer = os.pipe()
    over, end = os.pipe()
    children = []
    for _ in range(8):
        pid = os.fork()
        if pid == 0:
            os.close(end)
            try:
                found = open_at(path, socket.SOCK_STREAM, log.Log())
                os.write(writer, b"+")
                os.read(over, 1)  # until the test is over
                found.clear()
            except Exception:  # noqa: BLE001 - a forked child must not run the test
                os.write(writer, b"-")
            finally:
                os._exit(0)
        children.append(pid)
    os.close(over)
    said = b"".join(os.read(reader, 1) for _ in children)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)  # it is there
    for fd in (end, reader, writer):
        os.close(fd)
    for pid in children:
        os.waitpid(pid, 0)
    assert b"+-------" == bytes(sorted(said))


# -- what is not -----------------------------------------------------------------------------------


def lives(kind: int, *, listens: bool) -> Callable[[str], list[socket.socket]]:
    """Return what binds a path and stays."""

    def make(path: str) -> list[socket.socket]:
        sock = socket.socket(socket.AF_UNIX, kind)
        sock.bind(path)
        if listens:
            sock.listen(0)
        return [sock]

    return make


def connected(path: str) -> list[socket.socket]:
    """Bind datagrams that are taken from one sender only."""
    bind = lives(socket.SOCK_DGRAM, listens=False)
    made = [*bind(path), *bind(path + "2")]
    made[0].connect(path + "2")
    os.unlink(path + "2")
    return made


def link_to(name: str) -> Callable[[str], None]:
    """Return what makes a link to a file, and a dead socket for it."""

    def make(path: str) -> None:
        leave(str(Path(path).parents[1] / "real"))
        os.symlink(name, path)

    return make


@pytest.mark.parametrize(
    "make",
    [
        lives(socket.SOCK_STREAM, listens=True),
        lives(socket.SOCK_STREAM, listens=False),
        lives(socket.SOCK_SEQPACKET, listens=True),
        lives(socket.SOCK_DGRAM, listens=False),
        connected,
        link_to("../real"),
        link_to("nothing"),
        link_to("s"),
        lambda path: Path(path).touch(),
        os.mkdir,
        os.mkfifo,
    ],
    ids=[
        "listens", "binds", "packets", "datagrams", "connected",
        "link", "dangling", "loop", "file", "folder", "fifo",
    ],
)
def test_what_lives_or_is_no_socket_is_not_touched(
    make: Callable[[str], list[socket.socket] | None], path: str
) -> None:
    """The address is in use, as it is for nginx."""
    with contextlib.ExitStack() as stack:
        for sock in make(path) or ():
            stack.enter_context(sock)
        before = identity(path)
        for kind in KINDS:
            with pytest.raises(errors.ListenError, match="still could not bind"):
                open_at(path, kind, log.Log())
        assert before == identity(path)


def test_a_test_touches_nothing(path: str) -> None:
    """-t passes over it."""
    before = leave(path)
    open_at(path, socket.SOCK_STREAM, log.Log(), test=True)
    assert before == identity(path)


def test_another_user_s_is_not_touched(path: str) -> None:
    """A stale socket of another user is not removed, even by root."""
    tools.require_root()
    before = leave(path)
    os.chown(path, strangers.NOBODY, -1)
    assert not stale.remove(path)
    assert before == identity(path)


def test_a_folder_that_may_not_be_written_keeps_it(path: str) -> None:
    """It stays where it is, and nothing is raised."""
    tools.require_root()
    before = leave(path)
    os.chown(path, strangers.NOBODY, -1)
    for parent in list(Path(path).parents)[:-1]:
        parent.chmod(parent.stat().st_mode | 0o55)

    def take() -> None:
        assert not stale.remove(path)

    strangers.run_as(strangers.NOBODY, take)
    assert before == identity(path)


def test_one_that_lives_in_another_network_is_not_touched(path: str) -> None:
    """Paths are reached from everywhere, also where no table of the kernel shows them."""
    tools.require_root()
    script = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); input()"
    words = [tools.require("unshare"), "--net", sys.executable, "-c", script, path]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as living:
        wait_until(lambda: os.path.exists(path))
        assert not stale.remove(path)
        assert os.path.exists(path)
        living.communicate(b"\n")


REPLACE = """
import os, socket, sys
from ngxstream.event import stale

path, when = sys.argv[1:]
lives = socket.socket(socket.AF_UNIX)

def replace(event, args):
    if event == when and not lives.getsockname():
        os.unlink(path)
        lives.bind(path)
        lives.listen()

sys.addaudithook(replace)
assert not stale.remove(path)
assert lives.getsockname() == path
socket.socket(socket.AF_UNIX).connect(path)
"""


@pytest.mark.parametrize("when", ["socket.connect", "os.rename"])
def test_what_takes_its_place_meanwhile_stays(when: str, path: str) -> None:
    """Somebody who binds the path between the question and the removal keeps it."""
    leave(path)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(REPLACE), path, when],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )
    assert (0, "") == (done.returncode, done.stderr)


SWAP = """
import os, socket, sys
from ngxstream.event import stale

path = sys.argv[1]
folder = os.path.dirname(path)

def swap(event, args):
    if event == "os.rename" and os.path.basename(args[0]) == "s" and not os.path.islink(folder):
        os.symlink("other", folder + ".link")
        os.replace(folder, folder + ".away")
        os.replace(folder + ".link", folder)

sys.addaudithook(swap)
stale.remove(path)
"""


def test_a_folder_that_another_takes_the_place_of_is_left_alone(tmp_path: Path) -> None:
    """Who owns the way there has nothing renamed or removed in a folder that is not his."""
    for name in ("run", "other"):
        (tmp_path / name).mkdir()
    path = tmp_path / "run" / "s"
    leave(str(path))
    theirs = tmp_path / "other" / "s"
    theirs.touch()
    subprocess.run(
        [sys.executable, "-c", SWAP, str(path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True,
    )
    assert (tmp_path / "run").is_symlink()
    assert ["s"] == os.listdir(tmp_path / "other")
    assert not (tmp_path / "run.away" / "s").exists()


def test_an_abstract_address_is_none_of_its_business() -> None:
    """It has no path."""
    assert not stale.remove("\0ngxstream/test")
