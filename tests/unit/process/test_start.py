"""Before anything serves: the log of start-up, and what ends a start."""

from pathlib import Path

import pytest

from ngxstream.core import errors, log
from ngxstream.process import start
from ngxstream.process.options import Options


def options(folder: Path, *words: str) -> Options:
    """Return the options of a call in a folder."""
    return Options(["nginx", "-p", str(folder), "-c", "n.conf", *words])


def test_what_cannot_be_opened_is_said_and_standard_error_logs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The start goes on without its log file."""
    console = log.Console("nginx")
    builtin = start.builtin_log(options(tmp_path, "-e", "none/e.log"), console)
    builtin.error(log.EMERG, "said")
    assert capfd.readouterr().err.startswith(
        f'nginx: [alert] could not open error log file: open() "{tmp_path}/none/e.log" failed (2:'
    )


def test_the_log_of_start_up_is_the_file_of_e(tmp_path: Path) -> None:
    """Closed, it is let go of; what comes then is lost in silence."""
    builtin = start.builtin_log(options(tmp_path, "-e", "e.log"), log.Console("nginx"))
    start.complain(errors.ConfError("bad", "/f", 3), builtin, options(tmp_path))
    assert "[emerg]" in (tmp_path / "e.log").read_text()
    start.close_files(builtin)
    builtin.error(log.EMERG, "late")
    assert "late" not in (tmp_path / "e.log").read_text()


def test_a_test_of_no_file_fails(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The exit code is 1, the message nginx's."""
    assert 1 == start.run(options(tmp_path, "-t", "-e", "e.log"))
    said = capfd.readouterr().err.splitlines()
    assert f'nginx: [emerg] open() "{tmp_path}/n.conf" failed (2: No such file or directory)' == (
        said[0]
    )
    assert f"nginx: configuration file {tmp_path}/n.conf test failed" == said[-1]


def test_a_fault_of_ours_is_a_line_and_no_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An [alert] that says where it came from; the exit code is 1."""

    def broken(*_: object) -> int:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(start, "test", broken)
    assert 1 == start.run(options(tmp_path, "-t", "-e", "e.log"))
    (line,) = [line for line in (tmp_path / "e.log").read_text().splitlines() if "[alert]" in line]
    assert "unexpected exception: Traceback" in line
    assert "ZeroDivisionError: a fault" in line


def test_a_configuration_is_dumped_as_it_was_read(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """-T prints each file under its name, and then it is as -t."""
    (tmp_path / "n.conf").write_text("events {}\n")
    assert 0 == start.run(options(tmp_path, "-T", "-q", "-e", "e.log", "-g", "pid p.pid;"))
    assert f"# configuration file {tmp_path}/n.conf:\nevents {{}}\n" in capfd.readouterr().out
