"""Lines that wait for the end of a turn: order, whole writes, what is not held back, failures."""

import os
import re
import resource
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ngxstream.core import clock, files, gather, log
from tests.support import forks
from tests.support.clock import FakeClock


class Turn(gather.Gatherer):
    """A gatherer that knows the files whose lines wait."""

    def __init__(self) -> None:
        """Begin no turn yet."""
        super().__init__()
        self.opened: list[files.OpenFile] = []


@pytest.fixture
def turn() -> Iterator[Turn]:
    """Give a gatherer in the middle of a turn, its files closed at the end."""
    made = Turn()
    made.active = True
    yield made
    for file in made.opened:
        file.close()


@pytest.fixture
def packets(turn: Turn) -> Iterator[tuple[files.OpenFile, int]]:
    """Give a log into a pipe that keeps writes apart, and where each is read."""
    read, write = os.pipe2(os.O_DIRECT | os.O_CLOEXEC)
    os.set_blocking(read, False)
    yield gathered(files.OpenFile("/pipe", write), turn), read
    os.close(read)
    os.close(write)


def gathered(file: files.OpenFile, turn: Turn) -> files.OpenFile:
    """Return a file whose lines wait."""
    if file.fd == files.CLOSED:
        file.open()
        turn.opened.append(file)
    file.gather(turn)
    return file


def add(file: files.OpenFile, *lines: bytes) -> list[OSError]:
    """Say lines; return what fails, as it does."""
    failed: list[OSError] = []
    for line in lines:
        file.chunk.add(line, file, failed.append)
    return failed


def target(file: files.OpenFile) -> log.FileTarget:
    """Return a target of an error log."""
    return log.FileTarget(file, log.DEBUG, clock.Clock())


def test_lines_of_a_turn_are_one_write(
    turn: Turn, packets: tuple[files.OpenFile, int]
) -> None:
    """Nothing is written before the turn ends; then all lines are, together and in order."""
    file, read = packets
    add(file, b"a\n", b"b\n")
    target(file).write(log.INFO, b"c\n")
    with pytest.raises(BlockingIOError):
        os.read(read, 100)
    turn.write()
    assert b"a\nb\nc\n" == os.read(read, 100)
    turn.write()
    with pytest.raises(BlockingIOError):
        os.read(read, 100)  # nothing is doubled


@pytest.mark.parametrize("ever", [False, True])
def test_a_line_between_turns_is_written_at_once(ever: bool, tmp_path: Path) -> None:
    """So is one of a process that has no loop."""
    file = files.OpenFile(str(tmp_path / "a"))
    file.open()
    if ever:
        file.gather(gather.Gatherer())
    add(file, b"a\n")
    assert b"a\n" == (tmp_path / "a").read_bytes()
    file.close()


def test_names_of_one_file_keep_the_order(turn: Turn, tmp_path: Path) -> None:
    """An error_log, an access_log and a link to their file are one sequence of lines."""
    (tmp_path / "b").symlink_to("a")
    one, other = (gathered(files.OpenFile(str(tmp_path / name)), turn) for name in "ab")
    for number in range(6):
        add((one, other)[number % 2], b"%d\n" % number)
    turn.write()
    assert b"0\n1\n2\n3\n4\n5\n" == (tmp_path / "a").read_bytes()


def test_a_full_chunk_is_written_at_once(turn: Turn, tmp_path: Path) -> None:
    """What waits never exceeds the limit, and a write is never part of a line."""
    path = tmp_path / "a"
    file = gathered(files.OpenFile(str(path)), turn)
    line = b"x" * 999 + b"\n"
    add(file, *[line] * 65)
    assert 0 == path.stat().st_size
    add(file, line)
    assert 65_000 == path.stat().st_size
    long = b"y" * gather.LIMIT + b"\n"
    add(file, long)
    assert line * 66 + long == path.read_bytes()


def test_a_write_into_a_pipe_is_atomic(packets: tuple[files.OpenFile, int]) -> None:
    """What is written together is no longer than PIPE_BUF, or other processes' lines come in."""
    file, read = packets
    line = b"x" * 99 + b"\n"
    add(file, *[line] * (select.PIPE_BUF // 100 + 1))
    assert line * (select.PIPE_BUF // 100) == os.read(read, 10_000)


def test_a_message_is_one_line(turn: Turn) -> None:
    """Into a socket, whose reader may take a write for a message, each line goes by itself."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        file = gathered(files.OpenFile("/dev/stdout", near.fileno()), turn)
        add(file, b"a\n", b"b\n")
        assert [b"a\n", b"b\n"] == [far.recv(10, socket.MSG_DONTWAIT) for _ in range(2)]


def test_a_pipe_that_does_not_block_takes_what_it_has_room_for(turn: Turn) -> None:
    """A line that fits is not lost with one that does not."""
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    file = gathered(files.OpenFile("/dev/stdout", write), turn)
    while True:
        try:
            os.write(write, b"x" * select.PIPE_BUF)
        except BlockingIOError:
            break
    os.read(read, select.PIPE_BUF)
    fits, long = b"y" * 4000 + b"\n", b"z" * 2000 + b"\n"
    assert [BlockingIOError] == [type(error) for error in add(file, fits, long)]
    os.close(write)
    with open(read, "rb") as pipe:
        assert pipe.read().endswith(b"x" + fits)


def test_standard_error_is_written_at_once(
    turn: Turn, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Behind all that was said before it."""
    file = gathered(files.OpenFile(str(tmp_path / "a")), turn)
    error = gathered(files.OpenFiles().stderr(), turn)
    target(file).write(log.INFO, b"before\n")
    target(error).write(log.INFO, b"at once\n")
    assert ("at once\n", "before\n") == (capfd.readouterr().err, (tmp_path / "a").read_text())


def test_standard_error_may_be_a_file_that_is_logged_to(turn: Turn, tmp_path: Path) -> None:
    """Then its lines stand where they were said."""
    file = gathered(files.OpenFile(str(tmp_path / "a")), turn)
    error = gathered(files.OpenFile("", file.fd), turn)
    for one, line in ((file, b"1\n"), (error, b"2\n"), (file, b"3\n"), (error, b"4\n")):
        add(one, line)
    assert b"1\n2\n3\n4\n" == (tmp_path / "a").read_bytes()


@pytest.mark.parametrize("level", range(log.EMERG, log.DEBUG + 1))
def test_an_alert_is_written_at_once(
    level: int, turn: Turn, tmp_path: Path
) -> None:
    """So is an emerg, and with them what was said before, into whatever file."""
    one, other = (gathered(files.OpenFile(str(tmp_path / name)), turn) for name in "ab")
    add(one, b"one\n")
    add(other, b"other\n")
    target(one).write(level, b"alert\n")
    found = [(tmp_path / name).read_text() for name in "ab"]
    assert (["one\nalert\n", "other\n"] if level <= log.ALERT else ["", ""]) == found


def test_lines_before_a_reopening_go_to_the_old_file(
    turn: Turn, tmp_path: Path
) -> None:
    """Those after it to the new one, and wait again."""
    path, moved = tmp_path / "a", tmp_path / "moved"
    file = gathered(files.OpenFile(str(path)), turn)
    add(file, b"old\n")
    path.rename(moved)
    file.reopen(log.Log())
    assert b"old\n" == moved.read_bytes()
    add(file, b"new\n")
    assert b"" == path.read_bytes()
    turn.write()
    assert (b"old\n", b"new\n") == (moved.read_bytes(), path.read_bytes())


def test_a_name_that_is_reopened_leaves_the_others(turn: Turn, tmp_path: Path) -> None:
    """Until they are reopened too, their lines go to the file that was moved away."""
    path, moved = tmp_path / "a", tmp_path / "moved"
    one, other = (gathered(files.OpenFile(str(path)), turn) for _ in range(2))
    path.rename(moved)
    one.reopen(log.Log())
    add(one, b"new\n")
    add(other, b"old\n")
    add(one, b"new\n")
    turn.write()
    assert (b"old\n", b"new\nnew\n") == (moved.read_bytes(), path.read_bytes())


def test_closing_a_file_loses_nothing(turn: Turn, tmp_path: Path) -> None:
    """A configuration that is let go of has its lines written."""
    file = gathered(files.OpenFile(str(tmp_path / "a")), turn)
    add(file, b"x\n")
    file.close()
    assert b"x\n" == (tmp_path / "a").read_bytes()


def test_lines_of_several_processes_are_whole(tmp_path: Path) -> None:
    """Each process appends whole lines, its own in order."""
    path = tmp_path / "a"

    def say(mark: int) -> None:
        turn = Turn()
        file = gathered(files.OpenFile(str(path)), turn)
        for start in range(0, 3000, 300):
            turn.active = True
            add(file, *(b"%d %05d\n" % (mark, start + n) + b"x" * 200 + b"\n" for n in range(300)))
            turn.write()

    children = []
    for mark in range(3):
        child = os.fork()
        if child == 0:
            try:
                say(mark)
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    lines = path.read_bytes().splitlines()
    assert {b"x" * 200} == set(lines[1::2])
    for mark in range(3):
        of_it = [line for line in lines[::2] if line.startswith(b"%d " % mark)]
        assert [b"%d %05d" % (mark, n) for n in range(3000)] == of_it


def test_what_is_left_of_a_short_write_is_tried_again(tmp_path: Path) -> None:
    """The failure that ends it is told once for each line; what was written stays, once."""
    path = tmp_path / "a"

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        turn = Turn()
        file = gathered(files.OpenFile(str(path)), turn)
        turn.active = True
        failed = add(file, *(b"%d" % n * 299 + b"\n" for n in range(4)))
        turn.write()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        add(file, b"later\n")
        turn.write()
        assert [27] * 4 == [error.errno for error in failed]  # EFBIG

    forks.in_child(work)
    whole = b"".join(b"%d" % n * 299 + b"\n" for n in range(4))
    assert whole[:1000] + b"later\n" == path.read_bytes()


def test_a_full_disk_is_found_at_the_end_of_the_turn(
    turn: Turn, tmp_path: Path
) -> None:
    """From then on nothing is tried until the next second."""
    fake = FakeClock(100.0)
    full = files.OpenFile(str(tmp_path / "a"))
    gathered(full, turn)
    one = log.FileTarget(full, log.DEBUG, clock.Clock(fake))
    good, full.fd = full.fd, os.open("/dev/full", os.O_WRONLY | os.O_CLOEXEC)
    one.write(log.INFO, b"lost\n")
    turn.write()
    os.close(full.fd)
    full.fd = good
    one.write(log.INFO, b"skipped\n")
    fake.advance(1.0)
    one.write(log.INFO, b"seen\n")
    turn.write()
    assert b"seen\n" == (tmp_path / "a").read_bytes()


def test_a_failure_may_be_logged(turn: Turn, tmp_path: Path) -> None:
    """While lines are written another is said, of an alert too, and none waits for ever."""
    broken, good = (gathered(files.OpenFile(str(tmp_path / name)), turn) for name in "ab")
    errors = log.Log([target(good)])
    os.close(broken.fd)
    broken.fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    broken.chunk.add(b"lost\n", broken, lambda error: errors.error(log.ALERT, "failed", error))
    errors.write(log.INFO, "first")
    turn.write()
    said = re.findall(r"(?m): (.*)$", (tmp_path / "b").read_text())
    assert ["first", "failed (9: Bad file descriptor)"] == said
    assert [] == turn.waiting


def test_a_kill_loses_the_lines_of_the_turn_alone(tmp_path: Path) -> None:
    """SIGKILL in the middle of one leaves what the turns before have said."""

    def work() -> None:
        turn = Turn()
        file = gathered(files.OpenFile(str(tmp_path / "a")), turn)
        for line in (b"before\n", b"lost\n"):
            turn.write()
            turn.active = True
            add(file, line)

    forks.in_child(work, kill=True)
    assert b"before\n" == (tmp_path / "a").read_bytes()


def test_files_that_are_reopened_are_forgotten(turn: Turn, tmp_path: Path) -> None:
    """Rotation for years keeps nothing of the files before."""
    path = tmp_path / "a"
    file = gathered(files.OpenFile(str(path)), turn)
    for number in range(5):
        path.rename(tmp_path / str(number))
        file.reopen(log.Log())
    assert 1 == len(turn._chunks)


def test_lines_of_text_and_of_bytes_keep_their_order(turn: Turn, tmp_path: Path) -> None:
    """What a log says at info stands between an access_log's lines and errors as it was said."""
    file = gathered(files.OpenFile(str(tmp_path / "a")), turn)
    said = log.Log([target(file)])
    add(file, b"one\n")
    said.write(log.INFO, "two")
    said.write(log.NOTICE, "three")
    add(file, b"four\n")
    said.write(log.ERR, "five")
    said.write(log.INFO, "six")
    assert b"" == (tmp_path / "a").read_bytes()
    turn.write()
    words = [line.split()[-1] for line in (tmp_path / "a").read_text().splitlines()]
    assert ["one", "two", "three", "four", "five", "six"] == words


@pytest.mark.parametrize(
    "text",
    ["a\nb", "a\x1b[2J", "a\u2028b", "a\udcffb", "äöü", "a\rb", "a" * 200, "\ud800\udcff",
     "\ud800" * 1500],
)
def test_text_among_others_is_written_as_by_itself(turn: Turn, tmp_path: Path, text: str) -> None:
    """Nobody forges a line where many are made at once."""
    one, other = (gathered(files.OpenFile(str(tmp_path / name)), turn) for name in "ab")
    together, alone = log.Log([target(one)]), log.Log([target(other)])
    for message in ("before", text, "beh\udcffnd"):
        together.write(log.INFO, message)
    turn.write()
    turn.active = False
    for message in ("before", text, "beh\udcffnd"):
        alone.write(log.INFO, message)
    first, second = (
        [line.partition(b" [info] ")[2] for line in (tmp_path / name).read_bytes().split(b"\n")]
        for name in "ab"
    )
    assert first == second
    assert 4 == len(first)


def test_lines_of_text_that_are_many_are_written_at_once(turn: Turn, tmp_path: Path) -> None:
    """What waits is bounded, whatever a turn has to say."""
    file = gathered(files.OpenFile(str(tmp_path / "a")), turn)
    said = log.Log([target(file)])
    for _ in range(gather.MESSAGES - 1):
        said.write(log.INFO, "x" * 200)
    assert b"" == (tmp_path / "a").read_bytes()
    said.write(log.INFO, "x" * 200)
    assert gather.MESSAGES == len((tmp_path / "a").read_bytes().splitlines())


@pytest.mark.parametrize("size", [20, 250, 1490, 1501, 5000])
@pytest.mark.parametrize("bad", ["", "\x1b", "é"])
def test_no_write_of_many_lines_is_longer_than_the_limit(
    turn: Turn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, bad: str
) -> None:
    """Each has whole lines, none of which is longer than nginx's."""
    file = gathered(files.OpenFile(str(tmp_path / "a")), turn)
    said = log.Log([target(file)])
    written: list[bytes] = []
    is_many = size > 200

    def write(fd: int, data: bytes) -> int:
        written.append(data)
        return len(data)

    monkeypatch.setattr(gather.os, "write", write)
    file.chunk.add(b"y" * 40_000 + b"\n", file, lambda error: None)
    for n in range(gather.MESSAGES):
        said.write(log.INFO if n % 9 else log.NOTICE, f"{n} {'x' * size}{bad}")
    assert not is_many or written
    turn.write()
    monkeypatch.undo()
    assert all(data.endswith(b"\n") and len(data) <= gather.LIMIT for data in written)
    first, *lines = b"".join(written).splitlines()
    assert 40_000 == len(first)
    numbers = [line.partition(b"#")[2].split()[1] for line in lines]
    assert [b"%d" % n for n in range(gather.MESSAGES)] == numbers
    assert all(len(line) < log.MAX_LINE for line in lines)


def test_lines_of_text_have_the_time_of_their_turn(turn: Turn, tmp_path: Path) -> None:
    """It is asked for once, and anew when the turn is over."""
    file = gathered(files.OpenFile(str(tmp_path / "a")), turn)
    now = FakeClock(1_000_000.0)
    time = clock.Clock(now)
    said = log.Log([log.FileTarget(file, log.INFO, time)], clock=time)
    for _ in range(2):
        said.write(log.INFO, "a")
        now.advance(5)
        said.write(log.INFO, "b")
        turn.write()
    times = [line.split(" [")[0] for line in (tmp_path / "a").read_text().splitlines()]
    assert times[0] == times[1] != times[2] == times[3]


def test_lines_of_text_into_a_pipe_are_bytes_at_once(
    turn: Turn, packets: tuple[files.OpenFile, int]
) -> None:
    """So that no write is longer than PIPE_BUF."""
    file, read = packets
    said = log.Log([target(file)])
    for _ in range(select.PIPE_BUF // 100):
        said.write(log.INFO, "x" * 99)
    turn.write()
    for _ in range(2):  # this pipe would cut a longer one, in the middle of a line
        assert os.read(read, 100_000).endswith(b"\n")


def test_messages_of_levels_that_are_off_are_not_kept(turn: Turn, tmp_path: Path) -> None:
    """Whoever asks for no level before it speaks writes as much as between turns: nothing."""
    file = gathered(files.OpenFile(str(tmp_path / "a")), turn)
    said = log.Log([log.FileTarget(file, log.NOTICE, clock.Clock())])
    for active in (True, False):
        turn.active = active
        said.write(log.INFO, "off")
        said.write(log.NOTICE, "on")
        turn.write()
    assert 2 == (tmp_path / "a").read_text().count(" on")
    assert "off" not in (tmp_path / "a").read_text()


def test_a_message_that_is_no_text_keeps_no_line_back(turn: Turn, tmp_path: Path) -> None:
    """It is lost with those that were said right before or behind it, and nothing else is."""
    file = gathered(files.OpenFile(str(tmp_path / "a")), turn)
    said = log.Log([target(file)])
    add(file, b"before\n")
    said.write(log.INFO, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        turn.write()
    said.write(log.INFO, "behind")
    turn.write()
    words = [line.split()[-1] for line in (tmp_path / "a").read_text().splitlines()]
    assert ["before", "behind"] == words


def test_messages_have_their_own_level(turn: Turn, tmp_path: Path) -> None:
    """Also where levels take turns within a turn of the loop."""
    file = gathered(files.OpenFile(str(tmp_path / "a")), turn)
    said = log.Log([target(file)])
    levels = (log.INFO, log.INFO, log.NOTICE, log.DEBUG, log.INFO, log.NOTICE, log.NOTICE)
    for level in levels:
        said.write(level, log.NAMES[level])
    turn.write()
    words = [line.split() for line in (tmp_path / "a").read_text().splitlines()]
    assert [log.NAMES[level] for level in levels] == [word[-1] for word in words]
    assert [f"[{word[-1]}]" for word in words] == [word[2] for word in words]


def test_messages_find_a_full_disk_too(turn: Turn, tmp_path: Path) -> None:
    """Nothing more is tried in this second, however many come."""
    fake = FakeClock(100.0)
    full = gathered(files.OpenFile(str(tmp_path / "a")), turn)
    time = clock.Clock(fake)
    said = log.Log([log.FileTarget(full, log.DEBUG, time)], clock=time)
    good, full.fd = full.fd, os.open("/dev/full", os.O_WRONLY | os.O_CLOEXEC)
    said.write(log.INFO, "lost")
    turn.write()
    os.close(full.fd)
    full.fd = good
    said.write(log.INFO, "skipped")
    turn.write()
    fake.advance(1.0)
    said.write(log.INFO, "seen")
    turn.write()
    (line,) = (tmp_path / "a").read_text().splitlines()
    assert line.endswith(" seen")
