"""Sinks of the access log, with a session made of what they ask of one."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ngxstream.core import clock, gather, log
from ngxstream.core.files import OpenFile
from ngxstream.modules.log import formats, open_cache, sinks


class Clock:
    """The part of a loop that sinks use."""

    def __init__(self) -> None:
        self.now_ms = 5_000
        self.lines = gather.Gatherer()

    def call_later(self, delay_ms: int, callback: Any, cancelable: bool = False) -> Any:
        """Never call."""
        raise AssertionError


class Visit:
    """The part of a session that sinks use."""

    def __init__(self) -> None:
        self.loop = Clock()
        self.errors: list[str] = []

    def log_error(self, level: int, message: str, err: int | None = None) -> None:
        """Keep the message."""
        self.errors.append(message)


@pytest.fixture
def full(tmp_path: Path) -> Iterator[OpenFile]:
    """Give a file whose disk is full."""
    file = OpenFile(f"{tmp_path}/a.log")
    file.fd = os.open("/dev/full", os.O_WRONLY | os.O_CLOEXEC)
    yield file
    file.close()


def made_format() -> formats.Format:
    """Return a format of one letter."""
    made = formats.Format("f", formats.ESCAPINGS["default"], ["x"])
    made.link()
    return made


@pytest.mark.parametrize("size", [0, 2])
def test_a_full_disk_is_left_alone_until_the_next_second(
    size: int, full: OpenFile, tmp_path: Path
) -> None:
    """In the second that found no space nothing is tried; in the next one lines are written."""
    visit: Any = Visit()
    made = made_format()
    sink: sinks.FileSink | sinks.BufferedSink = sinks.FileSink(full, made)
    if size:
        sink = sinks.BufferedSink(sinks.Buffer(full, size, 0, 0), made)
        sink.take(visit)  # waits in the buffer
    sink.take(visit)
    full.close()
    full.open()  # there is room again
    visit.loop.now_ms += 999
    sink.take(visit)
    assert 0 == (tmp_path / "a.log").stat().st_size
    visit.loop.now_ms += 1
    sink.take(visit)
    sink.take(visit)
    assert b"x\nx\n" == (tmp_path / "a.log").read_bytes()
    assert 1 == len(visit.errors)


def test_lines_wait_for_the_end_of_the_turn(tmp_path: Path) -> None:
    """In the order of all that is said to the file, and before what a buffer writes to it."""
    turn = gather.Gatherer()
    file = OpenFile(f"{tmp_path}/a.log")
    file.open()
    file.gather(turn)
    turn.active = True
    visit: Any = Visit()
    target = log.FileTarget(file, log.INFO, clock.Clock())
    sink = sinks.FileSink(file, made_format())
    target.write(log.INFO, b"1\n")
    sink.take(visit)
    target.write(log.INFO, b"2\n")
    assert b"" == (tmp_path / "a.log").read_bytes()
    sinks.Buffer(file, 10, 0, 0).write(b"3\n")
    assert b"1\nx\n2\n3\n" == (tmp_path / "a.log").read_bytes()
    file.close()


@pytest.mark.parametrize("is_cached", [False, True])
def test_a_path_with_variables_may_lead_to_the_file_of_another_log(
    is_cached: bool, tmp_path: Path
) -> None:
    """Its line stands where it was said; lines for other files wait on."""
    visit: Any = Visit()
    turn = visit.loop.lines
    one, other = (OpenFile(f"{tmp_path}/{name}.log") for name in "ab")
    for file in (one, other):
        file.open()
        file.gather(turn)
    turn.active = True
    path: Any = Visit()
    path.get = lambda s: b"%s/a.log" % os.fsencode(tmp_path)
    cache = open_cache.OpenLogCache(1, 10, 1, 60) if is_cached else None
    take = sinks.PathSink(path, made_format(), 0).taker(cache)
    error_log = log.Log([log.FileTarget(one, log.INFO, clock.Clock())])
    error_log.write(log.INFO, "1")
    take(visit)
    error_log.write(log.INFO, "2")
    turn.write()
    words = [line.split()[-1] for line in (tmp_path / "a.log").read_text().splitlines()]
    assert ["1", "x", "2"] == words
    other.chunk.add(b"y\n", other, lambda error: None)
    take(visit)
    assert b"" == (tmp_path / "b.log").read_bytes()
    one.close()
    other.close()
    if cache is not None:
        cache.clear()


def test_a_disk_found_full_at_the_end_of_the_turn_is_told(full: OpenFile) -> None:
    """By the session that ended, once for all lines; the rest of the second is left alone."""
    turn = gather.Gatherer()
    full.chunk = gather.Chunk(turn, 100)
    turn.active = True
    visit: Any = Visit()
    sink = sinks.FileSink(full, made_format())
    for _ in range(3):
        sink.take(visit)
    assert [] == visit.errors
    turn.write()
    assert [f'write() to "{full.path}" failed'] == visit.errors
    sink.take(visit)
    assert [] == turn.waiting


def test_complaints_come_once_a_minute(full: OpenFile) -> None:
    """A log that keeps failing is said again after sixty seconds."""
    visit: Any = Visit()
    sink = sinks.FileSink(full, made_format())
    for now_ms in (5_000, 6_000, 64_999, 65_000, 66_000):
        visit.loop.now_ms = now_ms
        sink.take(visit)
    assert 2 == len(visit.errors)


@pytest.mark.parametrize(
    ("value", "parents", "written"),
    [
        (b"a.log", 0, True),
        (b"a.log\0.txt", 0, False),
        (b"../a.log", 0, False),
        (b"sub/../a.log", 1, True),
        (b"../sub/../a.log", 1, False),
        (b"..a.log", 0, True),
    ],
)
def test_a_path_is_opened_or_refused(
    value: bytes, parents: int, written: bool, tmp_path: Path
) -> None:
    """A NUL, or one `..` more than the configuration wrote, keeps the line from every file."""
    (tmp_path / "logs" / "sub").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    path: Any = Visit()  # a value is asked for its text
    path.get = lambda s: os.fsencode(tmp_path / "logs") + b"/" + value
    visit: Any = Visit()
    sinks.PathSink(path, made_format(), parents).taker(None)(visit)
    made = [p for p in sorted(tmp_path.rglob("*")) if p not in before]
    assert (1 if written else 0, 0 if written else 1) == (len(made), len(visit.errors))
