"""Files that are appended to and reopened."""

import os
import socket
import stat
from pathlib import Path

import pytest

from ngxstream.core import errors, files, log
from tests.support import descriptors, strangers


class Kept:
    """A log target that keeps its lines."""

    level = log.DEBUG
    on_stderr = False

    def __init__(self) -> None:
        """Keep none yet."""
        self.lines: list[str] = []

    def write(self, level: int, line: bytes) -> None:
        """Keep one, without what stands before the text."""
        self.lines.append(line.decode().partition(": ")[2].rstrip())

    def with_level(self, level: int) -> "Kept":
        """Not asked for here."""
        return self


def test_one_path_is_one_file(tmp_path: Path) -> None:
    """Whoever asks for a path gets the same file, also standard error."""
    table = files.OpenFiles()
    assert table.get(str(tmp_path / "a")) is table.get(str(tmp_path / "a"))
    assert table.stderr() is table.stderr()
    assert table.get(str(tmp_path / "a")) is not table.get(str(tmp_path / "b"))


def test_a_new_file_has_mode_0644(tmp_path: Path) -> None:
    """The file is made if it is not there."""
    mask = os.umask(0)
    try:
        file = files.OpenFile(str(tmp_path / "a"))
        file.open()
    finally:
        os.umask(mask)
    assert 0o644 == stat.S_IMODE((tmp_path / "a").stat().st_mode)
    file.close()


def test_a_file_that_cannot_be_opened_is_nginx_s_error(tmp_path: Path) -> None:
    """The message has no place in the configuration."""
    path = tmp_path / "none" / "a"
    table = files.OpenFiles()
    table.get(str(path))
    with pytest.raises(errors.UnplacedError) as caught:
        table.open_all()
    assert f'open() "{path}" failed (2: No such file or directory)' == str(caught.value)


def test_a_failure_closes_what_was_opened(tmp_path: Path) -> None:
    """An abandoned configuration leaks no descriptor."""
    table = files.OpenFiles()
    good = table.get(str(tmp_path / "good"))
    table.get(str(tmp_path / "none" / "bad"))
    with pytest.raises(errors.UnplacedError):
        table.open_all()
    assert files.CLOSED == good.fd


def test_reopening_follows_a_renamed_file(tmp_path: Path) -> None:
    """After a rotation, lines go to the new file, what is buffered to the old one."""
    path = tmp_path / "a.log"
    table = files.OpenFiles()
    file = table.get(str(path))
    table.open_all()
    os.write(file.fd, b"old\n")
    path.rename(tmp_path / "a.log.1")
    file.flush = lambda: os.write(file.fd, b"buffered\n") and None
    table.reopen_all(log.Log())
    os.write(file.fd, b"new\n")
    assert "old\nbuffered\n" == (tmp_path / "a.log.1").read_text()
    assert "new\n" == path.read_text()
    table.close_all()


def test_a_failed_reopening_keeps_the_old_file(tmp_path: Path) -> None:
    """An emerg says so and logging goes on where it was."""
    folder = tmp_path / "logs"
    folder.mkdir()
    table = files.OpenFiles()
    file = table.get(str(folder / "a"))
    table.open_all()
    folder.rename(tmp_path / "moved")
    kept = Kept()
    table.reopen_all(log.Log([kept]))
    os.write(file.fd, b"still\n")
    assert [f'open() "{folder}/a" failed (2: No such file or directory)'] == kept.lines
    assert "still\n" == (tmp_path / "moved" / "a").read_text()
    table.close_all()


@pytest.mark.skipif(os.geteuid() != 0, reason="chown needs super-user rights")
def test_reopening_gives_the_file_to_the_workers_user(tmp_path: Path) -> None:
    """The master makes the owner and the mode such that workers can write."""
    path = tmp_path / "a"
    table = files.OpenFiles()
    table.get(str(path))
    table.open_all()
    path.chmod(0o444)
    table.reopen_all(log.Log(), owner=65534)
    info = path.stat()
    assert (65534, 0o644) == (info.st_uid, stat.S_IMODE(info.st_mode))
    table.close_all()


@pytest.mark.skipif(os.geteuid() != 0, reason="another user needs super-user rights")
def test_a_file_that_cannot_be_given_away_is_not_changed_to(tmp_path: Path) -> None:
    """Where chown fails the old file is kept, and nothing stays open."""
    path = tmp_path / "a"
    table = files.OpenFiles()
    file = table.get(str(path))
    table.open_all()
    path.chmod(0o666)
    strangers.let_in(tmp_path)
    path.rename(tmp_path / "old")
    path.touch()
    path.chmod(0o666)
    kept = Kept()

    def reopen() -> None:
        before = descriptors.numbers()
        table.reopen_all(log.Log([kept]), owner=1)
        assert before == descriptors.numbers()
        os.write(file.fd, b"still\n")
        assert [f'chown() "{path}" failed (1: Operation not permitted)'] == kept.lines

    strangers.run_as(strangers.NOBODY, reopen)
    assert ("still\n", "") == ((tmp_path / "old").read_text(), path.read_text())
    table.close_all()


def test_standard_error_is_never_reopened_or_closed() -> None:
    """The table knows it, and leaves it."""
    table = files.OpenFiles()
    assert not table.uses_stderr
    table.stderr()
    table.open_all()
    kept = Kept()
    table.reopen_all(log.Log([kept]))
    table.close_all()
    assert [] == kept.lines
    assert table.uses_stderr
    os.fstat(2)


# -- descriptors by name -------------------------------------------------------------------------


def test_names_of_own_descriptors_are_known(tmp_path: Path) -> None:
    """Through any number of links; other files, other processes and loops are none."""
    (tmp_path / "out").symlink_to("/dev/stdout")
    (tmp_path / "far").symlink_to(tmp_path / "out")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "1").write_text("")
    names = {
        "/dev/stdout": 1, "/dev/stderr": 2, "/dev/fd/7": 7, "/proc/self/fd/9": 9,
        f"/proc/{os.getpid()}/fd/3": 3, str(tmp_path / "out"): 1, str(tmp_path / "far"): 1,
        str(tmp_path / "1"): None, str(tmp_path / "loop"): None, "/dev/null": None,
        f"/proc/{os.getppid()}/fd/1": None, "/dev/fd/x": None, "": None, "relative": None,
    }
    assert names == {name: files.own_descriptor(name) for name in names}


def test_a_socket_is_logged_to_by_its_name() -> None:
    """The kernel does not open it: the descriptor serves, also when reopened."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        kept = Kept()
        file = files.OpenFile(f"/dev/fd/{theirs.fileno()}")
        file.open()
        os.write(file.fd, b"one")
        file.reopen(log.Log([kept]), owner=12345)
        os.write(file.fd, b"two")
        assert b"onetwo" == ours.recv(100)
        assert [] == kept.lines
        assert 12345 != os.fstat(theirs.fileno()).st_uid
        file.close()
