"""The foreground, where services and containers live: logs on standard output, process 1."""

import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support import clients, processes, tools
from tests.support.proxies import ROOT, Ngxstream
from tests.support.waiting import PATIENCE, wait_until

CONF = (
    "error_log ERROR info; USER events {} stream { log_format line 'said $bytes_sent';"
    " access_log ACCESS line; server { listen 127.0.0.1:@main@; return hi; } }"
)


class Reader:
    """The other end of the program's standard output and error: a container's runtime."""

    def __init__(self, kind: str) -> None:
        if kind == "pipe":
            self.ours, self.theirs = os.pipe()
        else:
            ours, theirs = socket.socketpair()
            self.ours, self.theirs = ours.detach(), theirs.detach()
        self.text = ""
        self._thread = threading.Thread(target=self._read, daemon=True)

    def start(self) -> None:
        """Read from now on; only the program has the other end any more."""
        os.close(self.theirs)
        self._thread.start()

    def _read(self) -> None:
        with suppress(OSError):
            while data := os.read(self.ours, 65536):
                self.text += data.decode()

    def end(self) -> str:
        """Return everything, once all of the program's processes have ended."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        os.close(self.ours)
        return self.text


@contextmanager
def foreground(
    conf: str, tmp_path: Path, kind: str, *, prefix: tuple[str, ...] = ()
) -> Iterator[tuple[Ngxstream, Reader, "subprocess.Popen[bytes]"]]:
    """Run the program with one pipe or socket for what it says."""
    running = Ngxstream(conf, tmp_path)
    reader = Reader(kind)
    words = [*prefix, *running.command(), "-p", str(running.prefix), "-c", "conf/nginx.conf"]
    words += ["-e", "stderr"]
    process = subprocess.Popen(
        words, cwd=running.prefix, stdin=subprocess.DEVNULL, stdout=reader.theirs,
        stderr=reader.theirs, env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    reader.start()
    try:
        wait_until(lambda: running.pid or process.poll() is not None)
        assert process.poll() is None, reader.text
        yield running, reader, process
    finally:
        processes.kill_session(process.pid)
        process.wait()


@pytest.mark.parametrize("kind", ["pipe", "socket"])
@pytest.mark.parametrize("error", ["stderr", "/dev/stderr"])
@pytest.mark.parametrize("user", ["", "user nobody nogroup;"])
def test_logs_go_to_standard_output(kind: str, error: str, user: str, tmp_path: Path) -> None:
    """Both logs arrive, from the start on, after a reload and after USR1, whoever the workers are.

    A socket (journald's) cannot be opened by its name, and a pipe not by another user.
    """
    if user:
        tools.require_root()
    conf = CONF.replace("ERROR", error).replace("ACCESS", "/dev/stdout").replace("USER", user)
    with foreground(conf, tmp_path, kind) as (running, reader, process):
        def answered(times: int) -> None:
            assert b"hi" == clients.tcp_exchange(running.address("main"))
            wait_until(lambda: reader.text.count("said 2\n") == times)

        answered(1)
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "exited with code 0" in reader.text)
        answered(2)
        process.send_signal(signal.SIGUSR1)
        wait_until(lambda: reader.text.count("reopening logs") == 3)  # signal, master, worker
        answered(3)
        process.terminate()
        assert 0 == process.wait(PATIENCE)
        text = reader.end()
    assert "start worker process" in text
    assert not re.findall(r"\[(?:emerg|alert|crit|error|warn)\]", text)


def test_a_log_file_may_be_a_link_to_standard_output(tmp_path: Path) -> None:
    """As in container images: logs/access.log -> /dev/stdout."""
    conf = CONF.replace("ERROR", "logs/error.log").replace("ACCESS", "logs/access.log")
    running = Ngxstream(conf.replace("USER", ""), tmp_path)
    for name, target in (("access", "/dev/stdout"), ("error", "/dev/stderr")):
        (running.prefix / f"logs/{name}.log").symlink_to(target)
    reader = Reader("socket")
    words = [*running.command(), "-p", str(running.prefix), "-c", "conf/nginx.conf"]
    with subprocess.Popen(
        words, cwd=running.prefix, stdin=subprocess.DEVNULL, stdout=reader.theirs,
        stderr=reader.theirs, env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    ) as process:
        reader.start()
        try:
            wait_until(lambda: running.pid or process.poll() is not None)
            assert process.poll() is None, reader.text
            assert b"hi" == clients.tcp_exchange(running.address("main"))
            wait_until(lambda: "said 2\n" in reader.text)
            wait_until(lambda: "start worker process" in reader.text)
        finally:
            process.terminate()
            assert 0 == process.wait(PATIENCE)
    reader.end()


def test_it_can_be_process_one(tmp_path: Path) -> None:
    """In a container of its own it obeys signals, and reaps children that are not its."""
    tools.require_root()
    unshare = tools.require("unshare")
    conf = CONF.replace("ERROR", "stderr").replace("ACCESS", "/dev/stdout").replace("USER", "")
    prefix = (unshare, "--pid", "--fork", "--mount-proc", "--kill-child")
    with foreground(conf, tmp_path, "pipe", prefix=prefix) as (running, reader, process):
        assert 1 == running.pid
        (first,) = wait_until(lambda: processes.children(process.pid))
        assert b"hi" == clients.tcp_exchange(running.address("main"))
        os.kill(first, signal.SIGHUP)
        wait_until(lambda: "reconfiguring" in reader.text)
        wait_until(lambda: re.search(r"worker process \d+ exited with code 0", reader.text))
        assert b"hi" == clients.tcp_exchange(running.address("main"))
        os.kill(first, signal.SIGQUIT)
        assert 0 == process.wait(PATIENCE)
        text = reader.end()
    assert 2 == text.count("said 2\n")
    assert not re.findall(r"\[(?:emerg|alert|crit|error|warn)\]", text)
