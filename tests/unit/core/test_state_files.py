"""Files that workers keep: read with a limit, and replaced as a whole or not at all."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from ngxstream.core import state_files


def refused(path: Path, most: int = 10) -> int:
    """Return the number of the error that reading a file ends with."""
    with pytest.raises(OSError) as caught:
        state_files.read(str(path), most)
    return caught.value.errno or 0


def test_a_file_is_read_to_its_limit(tmp_path: Path) -> None:
    """Whole, or not at all; none is no error."""
    path = tmp_path / "f"
    assert state_files.read(str(path), 10) is None
    path.write_bytes(b"0123456789")
    assert b"0123456789" == state_files.read(str(path), 10)
    assert errno.EFBIG == refused(path, 9)


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    """A folder, a pipe that nobody writes, a link."""
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to("/etc/hosts")
    os.mkfifo(pipe)
    assert [errno.EINVAL, errno.ELOOP, errno.EINVAL] == [
        refused(path) for path in (tmp_path, link, pipe)
    ]


def test_a_new_version_has_the_mode_of_the_former_one(tmp_path: Path) -> None:
    """The first one has the mode that is asked for, whatever the umask is."""
    path = str(tmp_path / "f")
    for mode in (0o666, 0o640):
        new = state_files.beside(path)
        state_files.write(path, new, b"one", 0o666)
        state_files.replace(path, new)
        assert ["f"] == os.listdir(tmp_path)
        assert mode == stat.S_IMODE(os.stat(path).st_mode)
        os.chmod(path, 0o640)
    state_files.sync(path)
    state_files.sync(str(tmp_path))


def test_the_owner_stays_where_that_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may not give a file away keeps it."""
    path = tmp_path / "f"
    path.write_bytes(b"")
    asked: list[tuple[int, int]] = []

    def refuse(fd: int, uid: int, gid: int) -> None:
        asked.append((uid, gid))
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(os, "fchown", refuse)
        state_files.write(str(path), str(tmp_path / "g"), b"x", 0o600)
    assert [(path.stat().st_uid, path.stat().st_gid)] == asked


def test_another_s_file_is_not_written(tmp_path: Path) -> None:
    """A file or a link that has the name already stays as it is."""
    path, there = tmp_path / "f", tmp_path / "there"
    there.write_bytes(b"mine")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    for new in (there, link):
        with pytest.raises(FileExistsError):
            state_files.write(str(path), str(new), b"x", 0o600)
    assert (b"mine", False) == (there.read_bytes(), (tmp_path / "nowhere").exists())


def write_and_replace(path: str, new: str) -> None:
    """Have a file say something else."""
    state_files.write(path, new, b"after", 0o600)
    state_files.replace(path, new)


@pytest.mark.parametrize("step", ["open", "fchmod", "write", "fsync", "replace"])
def test_whatever_fails_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The file is what it was, no other is there, and no descriptor is open."""
    path, new = tmp_path / "f", tmp_path / "new"
    path.write_bytes(b"before")
    fds = len(os.listdir("/proc/self/fd"))

    def fail(*args: Any, **more: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(OSError, match="No space left"):
            write_and_replace(str(path), str(new))
    assert [path] == list(tmp_path.iterdir())
    assert (b"before", fds) == (path.read_bytes(), len(os.listdir("/proc/self/fd")))
    state_files.discard(str(new))
