"""What a service manager hears: a notify socket of the test's own, and real processes."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.process import notify
from tests.support.proxies import ProxyFactory
from tests.support.waiting import PATIENCE, wait_until

CONF = "events {} stream { server { listen 127.0.0.1:@main@; return old; } }"
SINGLE = "master_process off;"
both_modes = pytest.mark.parametrize("head", ["", SINGLE], ids=["master", "single"])


class Manager:
    """The end that a service manager has."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.settimeout(PATIENCE)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.sock.bind(self.name)
        self.sender = 0

    def hear(self) -> dict[str, str]:
        """Wait for the next message; keep who sent it."""
        data, ancillary, _, _ = self.sock.recvmsg(4096, socket.CMSG_SPACE(12))
        (credentials,) = (packed for *_, packed in ancillary)
        self.sender = int.from_bytes(credentials[:4], "little")
        return dict(line.split("=", 1) for line in data.decode().split("\n"))


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """Give a service manager that listens."""
    made = Manager(tmp_path / "notify")
    yield made
    made.sock.close()


# -- real processes --------------------------------------------------------------------------------


@both_modes
def test_ready_is_said_by_the_main_process_once_it_serves(
    head: str, manager: Manager, ngxstream: ProxyFactory
) -> None:
    """READY comes from the master, with its pid, when clients are answered."""
    running = ngxstream(head + CONF, start=False, env={notify.VARIABLE: manager.name})
    running.start()
    told = manager.hear()
    with socket.create_connection(running.address("main")) as client:
        assert b"old" == client.recv(10)
    assert {"READY", "MAINPID", "STATUS"} == set(told)
    assert ("1", str(running.pid), running.pid) == (told["READY"], told["MAINPID"], manager.sender)
    assert told["STATUS"].startswith("serving")


@both_modes
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGQUIT])
def test_the_end_is_announced(
    head: str, sig: signal.Signals, manager: Manager, ngxstream: ProxyFactory
) -> None:
    """STOPPING is the last word."""
    running = ngxstream(head + CONF, env={notify.VARIABLE: manager.name})
    manager.hear()
    running.stop(sig)
    told = manager.hear()
    assert {"STOPPING", "STATUS"} == set(told)
    manager.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.hear()


@both_modes
@pytest.mark.parametrize("accepted", [True, False])
def test_a_reload_begins_and_ends(
    head: str, accepted: bool, manager: Manager, ngxstream: ProxyFactory
) -> None:
    """RELOADING with the time it began, then READY, also when the configuration is refused."""
    running = ngxstream(head + CONF, env={notify.VARIABLE: manager.name})
    manager.hear()
    if not accepted:
        running.write(head + CONF.replace("return old", "retrun old"))
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    running.signal(signal.SIGHUP)
    told, ready = manager.hear(), manager.hear()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert {"RELOADING", "MONOTONIC_USEC", "STATUS"} == set(told)
    assert before <= int(told["MONOTONIC_USEC"]) <= after
    assert "1" == ready["READY"]
    assert accepted != ('unknown directive "retrun"' in ready["STATUS"])


def test_why_a_start_failed_is_in_the_status(manager: Manager, ngxstream: ProxyFactory) -> None:
    """`systemctl status` shows what was wrong."""
    failing = ngxstream(
        "events {} stream { server { lisen 1; } }",
        start=False, env={notify.VARIABLE: manager.name},
    )
    assert 1 == failing.run().code
    told = manager.hear()
    assert {"STATUS"} == set(told)
    assert told["STATUS"].startswith('[emerg] unknown directive "lisen" in ')


def test_a_daemon_tells_its_pid(manager: Manager, ngxstream: ProxyFactory) -> None:
    """With `daemon on` the main process is not the one that was started."""
    running = ngxstream("daemon on;" + CONF, env={notify.VARIABLE: manager.name})
    told = manager.hear()
    assert str(running.pid) == told["MAINPID"]


def test_after_an_upgrade_the_new_main_process_says_so(
    manager: Manager, ngxstream: ProxyFactory
) -> None:
    """It says READY with its pid when the old one is gone, and the old one says nothing."""
    running = ngxstream(CONF, env={notify.VARIABLE: manager.name})
    old = running.pid
    assert str(old) == manager.hear()["MAINPID"]
    os.kill(old, signal.SIGUSR2)
    wait_until(lambda: running.pid not in (0, old), what="the new master")
    new = running.pid
    wait_until(
        lambda: any(f" {new}#{new}: start worker process " in line for line in running.error_log()),
        what="its worker",
    )
    os.kill(old, signal.SIGQUIT)
    told = manager.hear()
    assert ("1", str(new), new) == (told["READY"], told["MAINPID"], manager.sender)


def test_a_manager_that_is_gone_disturbs_nobody(tmp_path: Path, ngxstream: ProxyFactory) -> None:
    """The service starts, reloads and stops all the same."""
    running = ngxstream(CONF, env={notify.VARIABLE: str(tmp_path / "nobody")})
    running.reload()
    assert 0 == running.stop()


# -- the protocol ----------------------------------------------------------------------------------


def test_an_abstract_name_begins_with_an_at() -> None:
    """`@name` is the abstract address `name`."""
    name = f"ngxstream-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.bind("\0" + name)
        notify.Notifier({notify.VARIABLE: "@" + name}).status("well")
        assert b"STATUS=well" == sock.recv(100)


@settings(max_examples=50)
@given(st.text(max_size=30))
def test_any_value_of_the_variable_is_survived(name: str) -> None:
    """A value that is not an address counts as no address."""
    one = notify.Notifier({notify.VARIABLE: name})
    assert (len(name) > 1 and name[0] in "/@") == one.is_heard
    if "/" not in name[:1]:
        one.stopping("x")


@given(st.text(max_size=2000))
def test_a_status_is_one_line(text: str) -> None:
    """What people read cannot become another assignment."""
    name = f"ngxstream-test-{os.getpid()}-status"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.bind("\0" + name)
        notify.Notifier({notify.VARIABLE: "@" + name}).status(text)
        data = sock.recv(65536).decode()
    assert 1 == len(data.split("\n"))
    assert data.startswith("STATUS=")
    assert data.isprintable()  # systemd reads up to a NUL; a terminal obeys an escape
