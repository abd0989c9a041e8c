"""The access log of a running program: no line lost, none torn; the same lines as nginx's."""

import gzip
import os
import re
import signal
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import proxies
from tests.support.clients import tcp_exchange
from tests.support.proxies import ProxyFactory
from tests.support.waiting import PATIENCE, wait_until

LINE = re.compile(r"\[127\.0\.0\.1 TCP 200 0 2 x{150}\]")
FORMAT = "[$remote_addr $protocol $status $bytes_received $bytes_sent " + "x" * 150 + "]"

CONF = (
    "worker_processes 4; events { worker_connections 1024; } stream { log_format f '%s'; "
    "access_log logs/access.log f %s; server { listen 127.0.0.1:@a@; return ok; } }"
)


def visits(address: tuple[str, int], count: int) -> int:
    """Have sessions over eight threads; return how many were answered."""
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda _: tcp_exchange(address), range(count))
        return sum(answer == b"ok" for answer in answers)


def logged(folder: Path) -> list[str]:
    """Return the lines of all files an access log was written to."""
    found: list[str] = []
    for path in sorted(folder.glob("access*.log")):
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        assert raw[-1:] in (b"", b"\n"), path
        found += raw.decode().splitlines()
    return found


@pytest.mark.effect("access_log")
@pytest.mark.parametrize("parameters", ["", "buffer=4k flush=1s", "gzip=1 buffer=2k"])
def test_no_line_is_lost_over_reopening_reload_and_quit(
    parameters: str, proxy: ProxyFactory
) -> None:
    """While the log is moved away and the configuration reloaded, every session is one line."""
    text = CONF % (FORMAT, parameters)
    program = proxy(text)
    folder = program.prefix / "logs"
    stop = threading.Event()
    answered: list[int] = []

    def serve() -> None:
        while not stop.is_set():
            answered.append(visits(program.address("a"), 50))

    visitor = threading.Thread(target=serve)
    visitor.start()
    try:
        for step in range(3):
            seen = len(answered)
            wait_until(lambda: len(answered) > seen, PATIENCE, "more sessions")  # noqa: B023
            if step == 1:
                program.reload(text)
                continue
            (folder / "access.log").rename(folder / f"access.{step}.log")
            program.signal(signal.SIGUSR1)
            wait_until((folder / "access.log").exists, PATIENCE, "the new file")
    finally:
        stop.set()
        visitor.join()
    program.stop(signal.SIGQUIT)
    lines = logged(folder)
    assert [] == [line for line in lines if not LINE.fullmatch(line)]
    assert sum(answered) == len(lines)
    assert 150 <= len(lines)


def test_a_terminated_program_writes_what_is_buffered(proxy: ProxyFactory) -> None:
    """A fast exit flushes the buffers of all workers too."""
    program = proxy(CONF % (FORMAT, "buffer=1m"))
    count = visits(program.address("a"), 100)
    assert [] == program.access_log()
    program.stop(signal.SIGTERM)
    assert (100, 100) == (count, len(logged(program.prefix / "logs")))


def test_a_single_process_keeps_its_lines_over_a_reload(ngxstream: ProxyFactory) -> None:
    """Without a master the buffer of the old configuration is written out all the same."""
    text = "master_process off; " + CONF % (FORMAT, "buffer=1m")
    program = ngxstream(text)
    folder = program.prefix / "logs"
    assert 3 == visits(program.address("a"), 3)
    program.signal(signal.SIGHUP)
    program.wait_log(r"\] \d+#\d+: reconfiguring")
    assert 2 == visits(program.address("a"), 2)
    (folder / "access.log").rename(folder / "access.0.log")
    program.signal(signal.SIGUSR1)
    wait_until((folder / "access.log").exists, PATIENCE, "the new file")
    assert 1 == visits(program.address("a"), 1)
    program.stop(signal.SIGQUIT)
    assert 6 == len(logged(folder))


BYTES = "".join(chr(n) for n in range(1, 0x180) if chr(n) not in "\"$\\{}")

VALUES = {
    "plain": "abc", "empty": "", "zero": "0", "quote": '\\"', "backslash": "\\\\", "tab": "\\t",
    "line feed": "\\n", "all": BYTES + '\\"\\\\',
}


@pytest.mark.effect("access_log", "log_format")
@pytest.mark.parametrize("kind", ["default", "json", "none"])
def test_lines_are_nginx_s(kind: str, tmp_path: Path) -> None:
    """Values of every byte, of nothing and of what is not found are written as by nginx."""
    maps = "".join(
        f'map "" $v{n} {{ default "{value}"; }}\n' for n, value in enumerate(VALUES.values())
    )
    words = "|".join(f"$v{n}" for n in range(len(VALUES)))
    text = (
        f"events {{}} stream {{ {maps} log_format f escape={kind} "
        f"'$protocol|${{status}}|{words}|' '$proxy_protocol_addr|$upstream_addr|' "
        "'$limit_conn_status|$server_port|$hostname é \" %d';"
        "access_log logs/access.log f; access_log logs/if.log f if=$v2;"
        "access_log logs/if.log f if=$v1; access_log logs/if.log f if=$v0$v2;"
        "access_log logs/$protocol$v1.log f;"
        "server { listen 127.0.0.1:@a@; return ok; } }"
    )
    found = []
    for program in proxies.PROGRAMS.values():
        with program(text, tmp_path) as running:
            assert b"ok" == tcp_exchange(running.address("a"))
            running.wait_log("TCP", name="logs/TCP.log")
            port = f"|{running.port('a')}|".encode()  # the digits alone may stand among all bytes
            names = ("access.log", "if.log", "TCP.log")
            raw = [(running.prefix / "logs" / name).read_bytes() for name in names]
        found.append([one.replace(port, b"PORT") for one in raw])
    assert found[0] == found[1]
    assert [1, 1, 1] == [one.count(b"PORT") for one in found[0]]


@pytest.fixture
def readable() -> Iterator[Path]:
    """Give a folder which `nobody` may enter and list, but not write to."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def test_paths_with_variables_are_opened_with_the_rights_of_the_worker(
    proxy: ProxyFactory, readable: Path
) -> None:
    """The master opens what it knows; a path with a variable is the worker's to open."""
    if os.geteuid():
        pytest.skip("only root can give rights up")
    program = proxy(
        "user nobody nogroup; events {} stream { log_format f x; "
        f"access_log {readable}/known.log f; access_log {readable}/$protocol.log f; "
        "server { listen 127.0.0.1:@a@; return ok; } }"
    )
    assert b"ok" == tcp_exchange(program.address("a"))
    program.wait_log(f'\\[crit\\].*open\\(\\) "{readable}/TCP.log" failed \\(13: ')
    wait_until(lambda: (readable / "known.log").read_text() == "x\n", PATIENCE, "the line")
    assert ["known.log"] == [path.name for path in readable.iterdir()]
