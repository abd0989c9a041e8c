"""The pid file, and whose process it names."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ngxstream
from ngxstream.core import errors
from ngxstream.process import pidfile
from tests.support import descriptors, processes, tools
from tests.support.proxies import ProxyFactory
from tests.support.waiting import PATIENCE, wait_until

ROOT = Path(ngxstream.__file__).parents[1]
TITLED = (
    "import os, sys; from ngxstream.process import system;"
    "system.Title(sys.argv[1]).set('master process x'); print(flush=True); sys.stdin.read()"
)


def title_of(name: str) -> list[str]:
    """Return the words of a program that shows the title of our master, under that name."""
    return [sys.executable, "-c", TITLED, name]


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """Give a living process that is not ours."""
    with subprocess.Popen(["sleep", "600"]) as process:
        wait_until(lambda: processes.title(process.pid) == "sleep 600", what="it was executed")
        yield process
        process.kill()


def test_a_pid_file_is_a_line(tmp_path: Path) -> None:
    """The number and a line feed, over whatever was there, mode 0644."""
    path = tmp_path / "pid"
    path.write_text("a much longer text than a number\n")
    path.unlink()
    mask = os.umask(0)
    try:
        pidfile.create(str(path), 1234567)
        pidfile.create(str(path), 42)
    finally:
        os.umask(mask)
    assert "42\n" == path.read_text()
    assert 0o644 == stat.S_IMODE(path.stat().st_mode)


def test_a_test_creates_but_does_not_empty(tmp_path: Path) -> None:
    """-t must not harm the program that is running."""
    path = tmp_path / "pid"
    pidfile.create(str(path), None)
    assert "" == path.read_text()
    path.write_text("7\n")
    pidfile.create(str(path), None)
    assert "7\n" == path.read_text()


def test_a_pid_file_that_cannot_be_made_is_nginx_s_error(tmp_path: Path) -> None:
    """The path and the errno are named."""
    path = tmp_path / "none" / "pid"
    with pytest.raises(errors.UnplacedError) as caught:
        pidfile.create(str(path), 1)
    assert f'open() "{path}" failed (2: No such file or directory)' == str(caught.value)


@pytest.mark.parametrize("text", ["", "abc", "999999999", "-1", "0", "1" * 60])
def test_a_stale_or_broken_file_does_not_hinder_a_start(tmp_path: Path, text: str) -> None:
    """Nobody lives by that number, so nobody is robbed."""
    path = tmp_path / "pid"
    path.write_text(text)
    pidfile.check(str(path))


def test_no_file_does_not_hinder_a_start(tmp_path: Path) -> None:
    """The first start finds no pid file."""
    pidfile.check(str(tmp_path / "pid"))


def test_our_own_number_does_not_hinder_a_start(tmp_path: Path) -> None:
    """In a container the same number comes again with every start."""
    path = tmp_path / "pid"
    path.write_text(f"{os.getpid()}\n")
    pidfile.check(str(path))


def test_another_program_s_file_is_not_taken(
    tmp_path: Path, stranger: subprocess.Popen[bytes]
) -> None:
    """The error says whose it is."""
    path = tmp_path / "pid"
    path.write_text(f"{stranger.pid}\n")
    with pytest.raises(errors.UnplacedError) as caught:
        pidfile.check(str(path))
    assert f'not ngxstream: {stranger.pid} "sleep 600" (/' in str(caught.value)


def test_a_file_older_than_the_process_is_stale(
    tmp_path: Path, stranger: subprocess.Popen[bytes]
) -> None:
    """A number that was given anew after a crash does not keep us from starting."""
    path = tmp_path / "pid"
    path.write_text(f"{stranger.pid}\n")
    old = time.time() - 3600
    os.utime(path, (old, old))
    pidfile.check(str(path))


def test_a_stranger_gets_no_signal(tmp_path: Path, stranger: subprocess.Popen[bytes]) -> None:
    """The age of the pid file makes no difference."""
    path = tmp_path / "pid"
    path.write_text(f"{stranger.pid}\n")
    with pytest.raises(pidfile.SignalError) as caught:
        pidfile.find(str(path))
    assert ("error", True) == (caught.value.level, f"{stranger.pid} " in str(caught.value))


@pytest.mark.parametrize("name", ["nginx", "ngxstream"])
def test_a_master_of_ours_is_known_by_title_and_interpreter(tmp_path: Path, name: str) -> None:
    """Under either name; a real nginx has the title, but is no Python."""
    with subprocess.Popen(
        title_of(name), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as ours:
        assert ours.stdout
        ours.stdout.readline()
        assert f"{name}: master process x" == processes.title(ours.pid)
        path = tmp_path / "pid"
        path.write_text(f"{ours.pid}\n")
        assert ours.pid == pidfile.find(str(path))
        pidfile.check(str(path))


def test_a_program_with_our_title_and_another_executable_is_a_stranger(tmp_path: Path) -> None:
    """A real nginx looks like that."""
    with subprocess.Popen(["nginx: master process nginx", "600"], executable="/bin/sleep") as p:
        wait_until(lambda: processes.title(p.pid).startswith("nginx: "), what="it was executed")
        assert not pidfile.is_ours(p.pid)
        p.kill()


def test_another_python_is_a_stranger() -> None:
    """An interpreter alone makes no ngxstream."""
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"],
                          stdin=subprocess.PIPE) as process:
        assert not pidfile.is_ours(process.pid)


def zombie() -> int:
    """Return the number of a child that has ended and is not waited for yet."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    wait_until(lambda: processes.state(child) == "Z", what="the child is a zombie")
    return child


def test_a_zombie_is_not_alive() -> None:
    """Its number may still be taken, but nobody is there."""
    child = zombie()
    assert not pidfile.is_alive(child)
    os.waitpid(child, 0)


def test_a_signal_to_nobody_is_an_alert() -> None:
    """Message and level are nginx's."""
    with pytest.raises(pidfile.SignalError) as caught:
        pidfile.send(999_999_999, 15)
    assert "alert" == caught.value.level
    assert "kill(999999999, 15) failed (3: No such process)" == str(caught.value)


def test_removing_tells_what_went_wrong(tmp_path: Path) -> None:
    """A file that somebody else has removed is an errno, not an exception."""
    path = tmp_path / "pid"
    pidfile.create(str(path), os.getpid())
    assert pidfile.remove(str(path)) is None
    error = pidfile.remove(str(path))
    assert error is not None
    assert 2 == error.errno


@pytest.mark.parametrize("text", ["", "1\n", "127.0.0.1 localhost\n"])
def test_a_file_that_is_not_this_process_s_is_not_removed(tmp_path: Path, text: str) -> None:
    """Another master's number, or no number at all, stays where it is."""
    path = tmp_path / "pid"
    path.write_text(text)
    assert pidfile.remove(str(path)) is None
    assert text == path.read_text()


def test_a_device_is_not_removed(tmp_path: Path) -> None:
    """What is no file, as in `pid /dev/null;`, stays (a pipe needs no root to be made)."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    pidfile.create(str(path), os.getpid())
    assert pidfile.remove(str(path)) is None
    assert path.exists()


def test_a_device_survives_an_upgrade_and_tells_nobody_a_pid(ngxstream: ProxyFactory) -> None:
    """Nothing is renamed, made beside it or found in it; -s says what nginx's says."""
    tools.require_root()
    running = ngxstream(
        "pid logs/null; events {} stream { server { listen 127.0.0.1:@tcp@; return TEXT; } }",
        start=False,
    )
    null = running.prefix / "logs/null"
    os.mknod(null, stat.S_IFCHR | 0o666, os.stat("/dev/null").st_rdev)
    with subprocess.Popen(
        running._words(()), env=running._environment(), cwd=running.prefix,
        stderr=subprocess.DEVNULL, start_new_session=True,
    ) as old:
        try:
            running.wait_log("start worker process ")
            for word in ("reload", "stop", "quit"):
                said = running.run("-s", word)
                assert f'ngxstream: [error] invalid PID number "" in "{null}"\n' == said.stderr
                assert 1 == said.code
            old.send_signal(signal.SIGUSR2)
            (line,) = running.wait_log("start new binary process")
            new = int(line.split()[-1])
            running.wait_log("start worker processes", count=2)
            assert stat.S_ISCHR(null.lstat().st_mode)
            os.kill(new, signal.SIGTERM)  # the old one gets its place back
            running.wait_log(f"new binary process {new} exited with code 0")
            old.send_signal(signal.SIGTERM)
            old.wait(PATIENCE)
        finally:
            processes.kill_session(old.pid)
    assert stat.S_ISCHR(null.lstat().st_mode)
    assert {"null", "error.log"} == set(os.listdir(null.parent))


def test_a_process_began_after_the_machine() -> None:
    """The start of a process is known to about a second."""
    with subprocess.Popen(["sleep", "600"]) as process:
        assert abs(time.time() - pidfile.began(process.pid)) < 60
        process.kill()
    assert 0.0 == pidfile.began(999_999_999)


def test_making_and_reading_it_keeps_nothing_open(tmp_path: Path) -> None:
    """Each descriptor is closed again, also of a file that cannot be written to."""
    before = descriptors.numbers()
    pidfile.create(str(tmp_path / "pid"), os.getpid())
    pidfile.create(str(tmp_path / "pid"), None)
    with pytest.raises(errors.UnplacedError) as caught:
        pidfile.create("/dev/full", 1)
    assert 'pwrite() "/dev/full" failed (28: No space left on device)' == str(caught.value)
    assert os.getpid() == pidfile._parse(pidfile._read(str(tmp_path / "pid")))
    assert before == descriptors.numbers()


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("ngxstream", [], True),
        ("nginx", ["-g", "x"], True),
        ("another", [], False),
        ("another", ["x", "ngxstream"], False),
        ("ngxstream/__main__.py", [], True),
        ("another/__main__.py", [], False),
    ],
)
def test_a_foreground_process_is_known_by_the_program_it_runs(
    tmp_path: Path, name: str, words: list[str], expected: bool
) -> None:
    """A script of either name, or the package; what else stands on the line says nothing."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("import sys; print(flush=True); sys.stdin.read()")
    with subprocess.Popen(
        [sys.executable, str(path), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        assert expected == pidfile.is_ours(process.pid)


def test_who_has_no_command_line_is_a_stranger() -> None:
    """A zombie and a number of nobody run no program."""
    child = zombie()
    assert not pidfile.is_ours(child)
    os.waitpid(child, 0)
    assert not pidfile.is_ours(child)
