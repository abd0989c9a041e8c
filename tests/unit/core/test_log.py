"""The error log: levels, lines, targets, console."""

import errno
import os
import re
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core import clock, files, inet, log, syslog
from tests.support.clock import FakeClock

LINE = re.compile(rb"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[(\w+)\] (\d+)#(\d+): (.*)\n", re.DOTALL)


class Kept:
    """A target that keeps its lines."""

    def __init__(self, level: int, *, on_stderr: bool = False) -> None:
        """Keep none yet."""
        self.level = level
        self.on_stderr = on_stderr
        self.lines: list[bytes] = []

    def write(self, level: int, line: bytes) -> None:
        """Keep one."""
        self.lines.append(line)

    def with_level(self, level: int) -> "Kept":
        """Keep in the same list."""
        other = Kept(level, on_stderr=self.on_stderr)
        other.lines = self.lines
        return other


def opened(path: Path) -> files.OpenFile:
    """Return an open log file."""
    file = files.OpenFile(str(path))
    file.open()
    return file


def test_a_line_has_nginx_s_form() -> None:
    """Time, level, process, thread and text stand in nginx's places."""
    kept = Kept(log.INFO)
    log.Log([kept]).write(log.NOTICE, "start worker processes")
    match = LINE.fullmatch(kept.lines[0])
    pid = str(os.getpid()).encode()
    assert match
    assert (b"notice", pid, pid, b"start worker processes") == match.groups()


def test_a_line_has_the_time_of_the_log_s_own_clock() -> None:
    """A log that is made from another, for a connection, goes by the same clock."""
    kept = Kept(log.ERR)
    one = log.Log([kept], clock=clock.Clock(lambda: 86_400.0 * 366))
    one.write(log.ERR, "one")
    one.with_level(log.DEBUG).write(log.ERR, "two")
    assert [b"1971/01/0"] * 2 == [line[:9] for line in kept.lines]


@pytest.mark.parametrize("level", range(log.EMERG, log.DEBUG + 1))
def test_a_level_has_nginx_s_name(level: int) -> None:
    """Each level is named as in the directive."""
    names = ["emerg", "alert", "crit", "error", "warn", "notice", "info", "debug"]
    kept = Kept(log.DEBUG)
    log.Log([kept]).write(level, "x")
    match = LINE.fullmatch(kept.lines[0])
    assert match
    assert names[level - 1] == match[1].decode()


def test_the_log_s_level_is_that_of_its_most_talkative_target() -> None:
    """A caller's one comparison must not lose a line that some target wants."""
    assert log.INFO == log.Log([Kept(log.ERR), Kept(log.INFO), Kept(log.WARN)]).level


def test_each_target_has_its_own_threshold() -> None:
    """A line goes to the targets that want its level and to no other."""
    quiet, loud = Kept(log.ERR), Kept(log.INFO)
    log.Log([quiet, loud]).write(log.WARN, "w")
    assert (0, 1) == (len(quiet.lines), len(loud.lines))


def test_with_level_has_every_target_listen() -> None:
    """A connection under debugging is logged to all targets, the log itself stays as it is."""
    kept = Kept(log.ERR)
    plain = log.Log([kept])
    debug = plain.with_level(log.DEBUG)
    debug.write(log.DEBUG, "seen")
    plain.write(log.DEBUG, "unseen")
    assert (log.DEBUG, log.ERR) == (debug.level, plain.level)
    assert 1 == len(kept.lines)


def test_a_long_message_is_cut_at_2048_bytes() -> None:
    """The line feed is the 2048th byte."""
    kept = Kept(log.ERR)
    log.Log([kept]).write(log.ERR, "e" * 5000)
    assert (2048, b"e\n") == (len(kept.lines[0]), kept.lines[0][-2:])


@pytest.mark.parametrize("char", ["é", "東", "🐍", "\x1b"])
@pytest.mark.parametrize("before", range(4))
def test_a_long_message_is_cut_between_characters(char: str, before: int) -> None:
    """What is left is text."""
    kept = Kept(log.ERR)
    log.Log([kept]).write(log.ERR, "a" * before + char * 5000)
    assert 2045 <= len(kept.lines[0]) <= 2048
    shown = kept.lines[0][:-1].decode()
    assert shown.isprintable()
    assert "\\x" not in shown or char == "\x1b"


def test_a_peer_s_text_is_escaped_in_every_target(tmp_path: Path) -> None:
    """File, ring and syslog get the same line of text, in which nothing moves a terminal."""
    file = log.FileTarget(opened(tmp_path / "a.log"), log.ERR, clock.Clock())
    ring = log.MemoryTarget(4096, "f:1", log.ERR)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        address = inet.Addr(inet.AF_INET, server.getsockname(), "server")
        sender = syslog.Syslog(syslog.SyslogConf(address))
        made = log.Log([file, ring, syslog.SyslogTarget(sender, log.ERR)])
        made.write(log.ERR, "SNI \x1b[2J\r\x07\n\udcff\u202e caf\u00e9 \"x\"")
        sent = server.recv(4096)
        sender.close()
    shown = r"SNI \x1B[2J\x0D\x07\x0A\xFF\xE2\x80\xAE café " + '"x"'
    assert (tmp_path / "a.log").read_bytes().endswith(f": {shown}\n".encode())
    assert f": {shown}\n".encode() in ring.text()
    assert sent.endswith(f": {shown}".encode())


@given(st.text(), st.integers(log.EMERG, log.DEBUG))
def test_any_text_is_one_line(text: str, level: int) -> None:
    """Whatever a peer had logged, surrogates and line feeds included, makes one whole line."""
    kept = Kept(log.DEBUG)
    log.Log([kept]).write(level, text)
    (line,) = kept.lines
    assert line.endswith(b"\n")
    assert line[:-1].decode().isprintable()
    assert len(line) <= log.MAX_LINE


def test_bytes_of_the_configuration_survive() -> None:
    """What was read with surrogateescape is written as the bytes it was."""
    assert b"caf\xe9" == log.encode("caf\udce9")


def test_error_appends_the_errno() -> None:
    """An errno follows the message in parentheses."""
    kept = Kept(log.ERR)
    log.Log([kept]).error(log.ERR, "connect() failed", errno.ECONNREFUSED)
    assert kept.lines[0].endswith(b"connect() failed (111: Connection refused)\n")


def test_error_below_the_level_is_not_written() -> None:
    """The convenience compares by itself."""
    kept = Kept(log.ERR)
    log.Log([kept]).error(log.INFO, "nothing")
    assert [] == kept.lines


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    """Two logs of one path write behind each other."""
    path = tmp_path / "error.log"
    path.write_text("before\n")
    target = log.FileTarget(opened(path), log.ERR, clock.Clock())
    log.Log([target]).write(log.ERR, "behind")
    lines = path.read_text().splitlines()
    assert "before" == lines[0]
    assert lines[1].endswith(": behind")


def test_a_target_that_cannot_be_written_to_does_not_raise() -> None:
    """A closed descriptor loses the line and nothing else."""
    broken = log.FileTarget(files.OpenFile("/none", 1_000_000), log.ERR, clock.Clock())
    kept = Kept(log.ERR)
    log.Log([broken, kept]).write(log.ERR, "x")
    assert 1 == len(kept.lines)


def test_a_full_disk_is_left_alone_for_a_second() -> None:
    """After ENOSPC nothing is tried until the next second."""
    fake = FakeClock(100.0)
    fd = os.open("/dev/full", os.O_WRONLY)
    target = log.FileTarget(files.OpenFile("/dev/full", fd), log.ERR, clock.Clock(fake))
    target.write(log.ERR, b"x\n")
    read, write = os.pipe()
    target.file.fd = write
    target.write(log.ERR, b"skipped\n")
    fake.advance(1.0)
    target.write(log.ERR, b"seen\n")
    assert b"seen\n" == os.read(read, 100)
    for one in (fd, read, write):
        os.close(one)


def test_pid_is_right_after_fork(tmp_path: Path) -> None:
    """A child's line carries the child's pid."""
    path = tmp_path / "error.log"
    made = log.Log([log.FileTarget(opened(path), log.ERR, clock.Clock())])
    made.write(log.ERR, "parent")
    child = os.fork()
    if child == 0:
        made.write(log.ERR, "child")
        os._exit(0)
    os.waitpid(child, 0)
    assert f"{child}#{child}: child" in path.read_text()


# -- memory ----------------------------------------------------------------------------------------


def test_the_ring_holds_the_latest_lines() -> None:
    """A ring of any size ends up with the newest line and without the oldest."""
    ring = log.MemoryTarget(log.MemoryTarget.least("f"), "f:1", log.DEBUG)
    for number in range(1000):
        ring.write(log.DEBUG, b"line %d\n" % number)
    assert b"line 999\n" in ring.text()
    assert b"line 1\n" not in ring.text()
    assert ring.text().startswith(b"MEMLOG %d f:1\n" % len(ring.text()))


def test_the_smallest_ring_is_nginx_s() -> None:
    """As nginx has it: its header with two numbers of any size and a final NUL, and a line."""
    assert len("MEMLOG  :\n\0") + len("f") + 20 + 20 + 2048 == log.MemoryTarget.least("f")


@given(st.lists(st.binary(min_size=1, max_size=2048), max_size=20), st.integers(0, 300))
def test_the_ring_is_the_tail_of_everything_written(lines: list[bytes], extra: int) -> None:
    """Read from where it writes next, the ring is spaces and then the newest bytes."""
    ring = log.MemoryTarget(log.MemoryTarget.least("f") + extra, "f:1", log.DEBUG)
    for line in lines:
        ring.write(log.DEBUG, line)
    body = ring.text()[ring.start:]
    total = sum(map(len, lines))
    at = total % len(body)
    expected = (b" " * len(body) + b"".join(lines))[-len(body):]
    assert expected == body[at:] + body[:at]


def test_the_ring_is_shared_with_children() -> None:
    """What a worker logs is found in the ring by everybody."""
    ring = log.MemoryTarget(4096, "f:1", log.DEBUG)
    child = os.fork()
    if child == 0:
        ring.write(log.DEBUG, b"by the child\n")
        os._exit(0)
    os.waitpid(child, 0)
    ring.write(log.DEBUG, b"by the parent\n")
    assert b"by the child\nby the parent\n" in ring.text()


# -- console ---------------------------------------------------------------------------------------


def test_the_console_speaks_under_the_program_s_name(capfd: pytest.CaptureFixture[str]) -> None:
    """While start-up is watched, an emerg is said on standard error without time and pid."""
    made = log.Log([Kept(log.NOTICE)], console=log.Console("ngxstream"))
    made.write(log.EMERG, 'unknown directive "x" in nginx.conf:1')
    expected = 'ngxstream: [emerg] unknown directive "x" in nginx.conf:1\n'
    assert expected == capfd.readouterr().err


def test_the_console_is_not_moved_by_what_it_says(capfd: pytest.CaptureFixture[str]) -> None:
    """Line feeds and tabs of the configuration are, anything else is escaped."""
    made = log.Log([Kept(log.NOTICE)], console=log.Console("nginx"))
    made.write(log.EMERG, 'unknown directive "a\n\tb\x1b[2J"')
    expected = 'nginx: [emerg] unknown directive "a\n\tb\\x1B[2J"\n'
    assert expected == capfd.readouterr().err


@pytest.mark.parametrize("level", [log.NOTICE, log.INFO, log.DEBUG])
def test_the_console_says_nothing_below_warn(
    level: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Notices are for the file."""
    log.Log([Kept(log.DEBUG)], console=log.Console("nginx")).write(level, "x")
    assert "" == capfd.readouterr().err


def test_the_console_does_not_repeat_what_standard_error_has_seen(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A log on standard error prints the dated form only."""
    target = log.FileTarget(files.OpenFiles().stderr(), log.ERR, clock.Clock())
    log.Log([target], console=log.Console("nginx")).write(log.EMERG, "once")
    said = capfd.readouterr().err
    assert 1 == said.count("once")
    assert "nginx: " not in said


def test_a_closed_console_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    """Once the program serves, nothing more is said there."""
    console = log.Console("nginx")
    made = log.Log([Kept(log.ERR)], console=console)
    console.close()
    made.write(log.EMERG, "x")
    assert "" == capfd.readouterr().err


def test_the_first_file_is_where_standard_error_goes(tmp_path: Path) -> None:
    """Of stderr, a ring and a file, the file is found."""
    clk = clock.Clock()
    table = files.OpenFiles()
    file = opened(tmp_path / "a.log")
    made = log.Log([log.FileTarget(table.stderr(), log.ERR, clk),
                    log.MemoryTarget(4096, "f:1", log.ERR),
                    log.FileTarget(file, log.ERR, clk)])
    assert file is made.first_file()
    assert made.uses_stderr()
