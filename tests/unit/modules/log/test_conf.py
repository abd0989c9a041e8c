"""access_log: formats, conditions, buffers, paths, syslog, failures."""

import gzip
import os
import re
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.in_process import InProcess

Serve = Callable[..., InProcess]

SERVER = "server { listen 127.0.0.1:@a@; %s return ok; }"


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Give ``serve(stream, server)``: an InProcess whose logs are below tmp_path."""
    (tmp_path / "logs").mkdir()
    made: list[InProcess] = []

    def serve_one(stream: str, server: str = "") -> InProcess:
        text = f"stream {{ {stream} {SERVER % server} }}"
        made.append(InProcess(text, prefix=f"{tmp_path}/"))
        return made[-1]

    yield serve_one
    for served in made:
        served.conf.stop_worker(served.loop)
        served.close()


def visit(served: InProcess, times: int = 1) -> None:
    """Have so many sessions, one after the other."""
    for _ in range(times):
        assert b"ok" == served.read(served.connect())


def lines(path: Path) -> list[str]:
    """Return what a log holds."""
    return path.read_text().splitlines()


def serious(served: InProcess) -> list[tuple[str, str]]:
    """Return level and message of error log lines that are no information."""
    return [
        (level, re.sub(r"^\*\d+ ", "", text).split(" while ")[0])
        for level, text in served.target.lines
        if level != "info"
    ]


def test_a_session_is_a_line(serve: Serve, tmp_path: Path) -> None:
    """The words of the format are put together, with the values of the session's end."""
    served = serve("log_format f '$protocol $status' ' ${bytes_sent}x' 100%; "
                   "access_log logs/a.log f;")
    visit(served, 2)
    assert ["TCP 200 2x100%"] * 2 == lines(tmp_path / "logs/a.log")
    assert 0o644 == stat.S_IMODE((tmp_path / "logs/a.log").stat().st_mode)


def test_every_log_of_the_block_is_written(serve: Serve, tmp_path: Path) -> None:
    """Several logs, one of them twice, get a line each in order."""
    served = serve(
        "log_format f 1; log_format g 2; access_log logs/a.log f; access_log logs/b.log g; "
        "access_log logs/a.log g;"
    )
    visit(served)
    assert (["1", "2"], ["2"]) == (lines(tmp_path / "logs/a.log"), lines(tmp_path / "logs/b.log"))


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("", ["outer"]),
        ("access_log logs/a.log g;", ["inner"]),
        ("access_log off;", []),
        ("access_log off; access_log logs/a.log g;", []),
        ("access_log logs/a.log g; access_log off;", []),
    ],
)
def test_logs_of_a_server_replace_those_of_stream(
    server: str, expected: list[str], serve: Serve, tmp_path: Path
) -> None:
    """A server has its own logs, or those of stream, or with `off` none."""
    served = serve(
        "log_format f outer; log_format g inner; access_log logs/a.log f;", server
    )
    visit(served)
    assert expected == lines(tmp_path / "logs/a.log")


def test_without_logs_there_is_no_log_phase(serve: Serve) -> None:
    """`off` leaves nothing to run."""
    served = serve("log_format f x; access_log logs/a.log f;", "access_log off;")
    assert () == served.conf.listenings[0].default.log_handlers


@pytest.mark.parametrize(
    ("condition", "written"),
    [("0", False), ("", False), ("1", True), ("00", True), (" ", True), ("no", True)],
)
def test_a_condition_decides(
    condition: str, written: bool, serve: Serve, tmp_path: Path
) -> None:
    """An empty value and `0` keep the line away, anything else does not."""
    served = serve(
        f'map "" $c {{ default "{condition}"; }} log_format f x; access_log logs/a.log f if=$c;'
    )
    visit(served)
    assert (["x"] if written else []) == lines(tmp_path / "logs/a.log")


# -- values --------------------------------------------------------------------------------------

ODD = 'a"b\\\\c\td\\\\001é\x7f\x01'

ESCAPED = {
    "default": b"a\\x22b\\x5Cc\\x09d\\x5C001\\xC3\\xA9\\x7F\\x01|-|",
    "json": b'a\\"b\\\\c\\td\\\\001\xc3\xa9\x7f\\u0001||',
    "none": b'a"b\\c\td\\001\xc3\xa9\x7f\x01||',
}


@pytest.mark.parametrize("kind", ESCAPED)
def test_values_are_escaped(kind: str, serve: Serve, tmp_path: Path) -> None:
    """The three escapings, of odd bytes, of what is not found and of what is empty."""
    served = serve(
        f"map '' $odd {{ default '{ODD}'; }} map '' $empty {{ default ''; }} "
        f"log_format f escape={kind} '$odd|$proxy_protocol_addr|$empty'; access_log logs/a.log f;"
    )
    visit(served)
    assert ESCAPED[kind] + b"\n" == (tmp_path / "logs/a.log").read_bytes()


def test_the_text_of_a_format_is_not_escaped(serve: Serve, tmp_path: Path) -> None:
    """What the configuration says is written as it is."""
    served = serve("log_format f 'é\"%s %% $protocol'; access_log logs/a.log f;")
    visit(served)
    assert ['é"%s %% TCP'] == lines(tmp_path / "logs/a.log")


# -- buffers -------------------------------------------------------------------------------------


def test_a_buffer_is_written_when_the_next_line_does_not_fit(
    serve: Serve, tmp_path: Path
) -> None:
    """Lines wait while there is room for them; what stands before goes first."""
    served = serve("log_format f 123456789; access_log logs/a.log f buffer=30;")
    path = tmp_path / "logs/a.log"
    sizes = []
    for _ in range(7):
        visit(served)
        sizes.append(path.stat().st_size)
    assert [0, 0, 0, 30, 30, 30, 60] == sizes
    served.conf.stop_worker(served.loop)
    assert ["123456789"] * 7 == lines(path)


def test_a_line_longer_than_the_buffer_goes_straight_to_the_file(
    serve: Serve, tmp_path: Path
) -> None:
    """It is written behind what was waiting."""
    served = serve(
        "log_format s short; log_format l 'a long line, it is'; "
        "access_log logs/a.log s buffer=10; access_log logs/a.log l;"
    )
    visit(served)
    assert ["short", "a long line, it is"] == lines(tmp_path / "logs/a.log")


def test_a_buffer_is_written_when_its_time_is_up(serve: Serve, tmp_path: Path) -> None:
    """The first line after a flush starts the clock, which keeps no quitting worker alive."""
    served = serve("log_format f x; access_log logs/a.log f buffer=1k flush=20ms;")
    path = tmp_path / "logs/a.log"
    for count in (1, 2):
        visit(served)
        served.turn_until(lambda: served.loop.live == 0, "the session is over")
        served.turn_until(lambda: len(lines(path)) == count, "the flush")  # noqa: B023


def test_a_reopening_writes_to_the_old_file_first(serve: Serve, tmp_path: Path) -> None:
    """What was logged before the signal is in the file that was moved away."""
    served = serve("log_format f x; access_log logs/a.log f buffer=1k;")
    path, moved = tmp_path / "logs/a.log", tmp_path / "logs/a.log.1"
    visit(served)
    path.rename(moved)
    served.built.files.reopen_all(served.log)
    visit(served)
    served.conf.stop_worker(served.loop)
    assert (["x"], ["x"]) == (lines(moved), lines(path))


def test_each_flush_is_a_member_of_a_gzip_file(serve: Serve, tmp_path: Path) -> None:
    """A compressed log can be read at any time as far as it was flushed."""
    served = serve("log_format f x; access_log logs/a.log.gz f gzip=9 buffer=4;")
    path = tmp_path / "logs/a.log.gz"
    visit(served, 3)
    assert b"x\nx\n" == gzip.decompress(path.read_bytes())
    served.conf.stop_worker(served.loop)
    assert b"x\nx\nx\n" == gzip.decompress(path.read_bytes())


# -- paths with variables --------------------------------------------------------------------------


def test_a_path_may_hold_variables(serve: Serve, tmp_path: Path) -> None:
    """The file is made when the first line comes."""
    served = serve("log_format f x; access_log logs/$protocol-${server_port}.log f;")
    visit(served, 2)
    assert ["x", "x"] == lines(tmp_path / f"logs/TCP-{served.port('a')}.log")


def test_a_path_that_cannot_be_opened_is_critical(serve: Serve, tmp_path: Path) -> None:
    """The session ends well; the error log has the path."""
    served = serve("log_format f x; access_log logs/none/$protocol.log f;")
    visit(served)
    path = tmp_path / "logs/none/TCP.log"
    assert [("crit", f'open() "{path}" failed (2: No such file or directory)')] == serious(served)


ESCAPING = {
    "parents": ("logs/$v.log", "../../out"),
    "a parent at the end": ("logs/$v", "sub/.."),
    "a parent put together": ("logs/.$v", "./../out"),
    "parents in the configuration too": ("logs/../logs/$v.log", "../out"),
}


@pytest.mark.parametrize("name", ESCAPING)
@pytest.mark.parametrize("cache", ["", "open_log_file_cache max=10;"])
def test_a_variable_cannot_lead_out_of_the_directory(
    name: str, cache: str, serve: Serve, tmp_path: Path
) -> None:
    """A `..` that comes of a value is refused and said, and nothing is written anywhere."""
    path, value = ESCAPING[name]
    before = sorted(tmp_path.rglob("*"))
    served = serve(
        f"map '' $v {{ default '{value}'; }} log_format f x; access_log {path} f; {cache}"
    )
    visit(served)
    shown = tmp_path / path.replace("$v", "")
    assert ["error"] == [level for level, _ in serious(served)]
    assert 'is not written: a variable brought ".." or a NUL' in serious(served)[0][1]
    assert before == sorted(tmp_path.rglob("*")), shown


@pytest.mark.parametrize(
    ("path", "value", "file"),
    [
        ("logs/../logs/$v.log", "a", "logs/a.log"),
        ("logs/$v.log", "a..b", "logs/a..b.log"),
        ("logs/$v.log", "sub/a", "logs/sub/a.log"),
        ("logs/$v.log", "...", "logs/....log"),
        ("$v", "logs/a", "logs/a"),
    ],
)
def test_harmless_dots_and_slashes_are_taken(
    path: str, value: str, file: str, serve: Serve, tmp_path: Path
) -> None:
    """A `..` of the configuration's own, dots inside a name and folders are no escape."""
    (tmp_path / "logs/sub").mkdir()
    served = serve(f"map '' $v {{ default '{value}'; }} log_format f x; access_log {path} f;")
    visit(served)
    assert ["x"] == lines(tmp_path / file)


@pytest.mark.effect("open_log_file_cache")
def test_paths_are_kept_open_by_the_cache_of_the_server(serve: Serve, tmp_path: Path) -> None:
    """With open_log_file_cache a file moved away is written on until it is looked at again."""
    served = serve(
        "log_format f x; access_log logs/$protocol.log f; open_log_file_cache max=10 valid=1m;"
    )
    path, moved = tmp_path / "logs/TCP.log", tmp_path / "logs/moved.log"
    visit(served)
    path.rename(moved)
    visit(served)
    assert (["x", "x"], False) == (lines(moved), path.exists())
    served.conf.reopen(served.loop)
    visit(served)
    assert ["x"] == lines(path)


# -- failures --------------------------------------------------------------------------------------


def test_a_full_disk_is_said(serve: Serve) -> None:
    """The sessions end well, and one line in the error log says what was lost."""
    served = serve("log_format f x; access_log /dev/full f;")
    visit(served, 3)
    assert [("alert", 'write() to "/dev/full" failed (28: No space left on device)')] == serious(
        served
    )


@pytest.mark.parametrize("parameters", ["", "buffer=2"])
def test_a_failing_log_is_said_once_a_minute(
    parameters: str, serve: Serve, tmp_path: Path
) -> None:
    """Every line fails, one complaint is enough."""
    served = serve(f"log_format f x; access_log logs/a.log f {parameters};")
    file = served.built.files.get(f"{tmp_path}/logs/a.log")
    os.close(file.fd)
    file.fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    visit(served, 4)
    expected = ("alert", f'write() to "{tmp_path}/logs/a.log" failed (9: Bad file descriptor)')
    assert [expected] == serious(served)


def test_a_flush_that_fails_is_said(serve: Serve) -> None:
    """There is no session any more: the worker's own log has it."""
    served = serve("log_format f x; access_log /dev/full f buffer=1k;")
    visit(served)
    served.conf.stop_worker(served.loop)
    assert [("alert", 'write() to "/dev/full" failed (28: No space left on device)')] == serious(
        served
    )


# -- syslog ----------------------------------------------------------------------------------------


def test_a_line_is_sent_to_syslog(serve: Serve) -> None:
    """The header has facility, severity and tag; the text no line feed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        port = server.getsockname()[1]
        served = serve(
            f"log_format f '$protocol $status'; access_log syslog:server=127.0.0.1:{port},"
            "facility=mail,severity=debug,tag=t,nohostname f;"
        )
        visit(served)
        message = server.recv(2048).decode()
    assert re.fullmatch(r"<23>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d t: TCP 200", message)


def test_a_syslog_server_that_is_not_there_is_said(serve: Serve, tmp_path: Path) -> None:
    """The session ends well, with a warning."""
    served = serve(f"log_format f x; access_log syslog:server=unix:{tmp_path}/none f;")
    visit(served)
    assert ("warn", "send() to syslog failed") in serious(served)
