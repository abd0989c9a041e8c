"""The verdict on a reload: asked for by `-s reload`, told by the master."""

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core import log
from ngxstream.process import verdict
from tests.support import processes
from tests.support.proxies import PROGRAMS, ROOT, Proxy, ProxyFactory
from tests.support.waiting import PATIENCE, wait_until

CONF = "events {} stream { server { listen 127.0.0.1:@main@; return old; } }"
SINGLE = "master_process off;"
both_modes = pytest.mark.parametrize("head", ["", SINGLE], ids=["master", "single"])


class Notes:
    """A log target that keeps its lines."""

    level = log.DEBUG
    on_stderr = False

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def write(self, level: int, line: bytes) -> None:
        self.lines.append(line)

    def with_level(self, level: int) -> "Notes":
        return self


@pytest.fixture
def desk() -> Iterator[verdict.Desk]:
    """Give a desk at this process's address."""
    made = verdict.Desk(log.Log())
    yield made
    made.close()


def hear(inquiry: verdict.Inquiry, patience_s: float = PATIENCE) -> tuple[bool, list[str]]:
    """Return what an inquiry comes to, and what it says on the way."""
    said: list[str] = []
    return inquiry.wait(said.append, patience_s), said


# -- real processes --------------------------------------------------------------------------------


@both_modes
def test_a_reload_that_works_is_waited_for(head: str, ngxstream: ProxyFactory) -> None:
    """`-s reload` returns 0 and says nothing once the new configuration has been taken."""
    running = ngxstream(head + CONF)
    running.write(head + CONF.replace("old", "new"))
    before = running.all_worker_pids()
    told = running.run("-s", "reload")
    assert (0, "") == (told.code, told.stderr)
    said = "\n".join(running.error_log())
    assert "reconfiguring" in said
    if not head:
        assert set(running.worker_pids()) - set(before)


@both_modes
def test_a_refused_reload_fails_with_the_reason(head: str, ngxstream: ProxyFactory) -> None:
    """An address in use is found by the master only, and said where the reload was asked for."""
    running = ngxstream(head + CONF)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        running.write(
            head + f"events {{}} stream {{ server {{ listen {address}; return new; }} }}"
        )
        told = running.run("-s", "reload")
    failed = f"ngxstream: [emerg] bind() to {address} failed (98: Address already in use)\n"
    assert (1, failed * 5 + "ngxstream: [emerg] still could not bind()\n") == (
        told.code, told.stderr,
    )
    assert running.is_running()


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=list(PROGRAMS))
def test_nginx_hides_what_the_master_finds(program: type[Proxy], tmp_path: Path) -> None:
    """A log folder that is not there: nginx reports success, ngxstream fails."""
    with program(CONF, tmp_path) as running:
        running.write(CONF.replace("stream {", "stream { access_log missing/a.log combined; ")
                      .replace("stream {", "stream { log_format combined $status;"))
        code = running.run("-s", "reload").code
        running.wait_log(r'\[emerg\] .*open\(\) ".*missing/a.log" failed')
    assert {"nginx": 0, "ngxstream": 1}[program.name] == code


def test_two_who_ask_at_once_are_both_told(ngxstream: ProxyFactory) -> None:
    """Signals that merge into one are answered all."""
    running = ngxstream(CONF)
    running.write(CONF.replace("old", "new"))
    words = [*running.command(), "-p", str(running.prefix), "-c", "conf/nginx.conf",
             "-e", "logs/error.log", "-s", "reload"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    asking = [subprocess.Popen(words, cwd=running.prefix, env=env) for _ in range(4)]
    assert [0] * 4 == [one.wait(PATIENCE * 2) for one in asking]


def test_the_address_dies_with_the_master(ngxstream: ProxyFactory) -> None:
    """Workers do not keep it: who asks a master that is gone does not wait for an answer."""
    running = ngxstream(CONF)
    master, (worker,) = running.pid, running.worker_pids()
    os.kill(master, 9)
    wait_until(lambda: not processes.is_alive(master))
    assert processes.is_alive(worker)
    assert (True, []) == hear(verdict.Inquiry(master))
    running.kill()


# -- the protocol ----------------------------------------------------------------------------------


def test_whoever_connected_before_is_told(desk: verdict.Desk) -> None:
    """All who have connected by the time of the reading hear the same verdict."""
    asking = [verdict.Inquiry(os.getpid()) for _ in range(3)]
    desk.admit()
    desk.refuse("[emerg] one\n[emerg] two")
    expected = (False, ["[emerg] one", "[emerg] two"])
    assert [expected] * 3 == [hear(one) for one in asking]


def test_whoever_connects_later_waits_for_the_next_verdict(desk: verdict.Desk) -> None:
    """A verdict is about what was read after the question."""
    early = verdict.Inquiry(os.getpid())
    desk.admit()
    late = verdict.Inquiry(os.getpid())
    desk.refuse("[emerg] first")
    desk.admit()
    desk.accept()
    assert [(False, ["[emerg] first"]), (True, [])] == [hear(early), hear(late)]


def test_without_a_desk_nobody_waits() -> None:
    """There is nobody to ask: as far as anybody knows all is well."""
    assert (True, []) == hear(verdict.Inquiry(os.getpid()))


def test_a_master_that_ends_is_a_failure(desk: verdict.Desk) -> None:
    """The end of the connection without a verdict is said."""
    asking = verdict.Inquiry(os.getpid())
    desk.admit()
    desk.close()
    said = ["[emerg] the master process ended before it reloaded"]
    assert (False, said) == hear(asking)


def test_no_answer_is_a_failure(desk: verdict.Desk) -> None:
    """Who waited long enough says so, and does not claim success."""
    said = ["[emerg] the master process did not say within 0.01s whether it reloads"]
    assert (False, said) == hear(verdict.Inquiry(os.getpid()), 0.01)


def test_an_impostor_at_the_address_is_not_believed() -> None:
    """Another process at a master's address gets no question."""
    script = textwrap.dedent("""
        import os, socket, sys
        from ngxstream.process import verdict
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.bind(verdict.address_of(int(sys.argv[1])))
        sock.listen()
        print("listening", flush=True)
        sys.stdin.read()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", script, str(os.getpid())],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as impostor:
        assert "listening\n" == impostor.stdout.readline()
        assert (True, []) == hear(verdict.Inquiry(os.getpid()))
        taken = Notes()
        verdict.Desk(log.Log([taken])).admit()
        impostor.stdin.close()
    assert 1 == len(taken.lines)
    assert b"will not be told how it went: bind() failed (98:" in taken.lines[0]


@given(st.lists(st.tuples(st.integers(log.EMERG, log.DEBUG), st.text(max_size=40)), max_size=8))
def test_what_was_wrong_is_heard_and_still_written(lines: list[tuple[int, str]]) -> None:
    """Everything is written; what is worse than a warning is remembered, in order."""
    notes = Notes()
    hearing = verdict.Hearing(log.Log([notes]))
    for level, text in lines:
        hearing.error(level, text)
    assert len(lines) == len(notes.lines)
    kept = [f"[{log.NAMES[level]}] {text}" for level, text in lines if level < log.WARN]
    assert "\n".join(kept) == hearing.text
