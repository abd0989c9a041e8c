"""A reload whose workers cannot begin: refused, told, and undone whole."""

import os
import re
import signal
import socket
import stat
import threading
from types import SimpleNamespace

import pytest

from ngxstream.process import channel, notify
from ngxstream.process.reload import Beginning
from tests.support import processes
from tests.support.backends import BackendFactory
from tests.support.clients import TcpClient, UdpClient, tcp_exchange
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import wait_until
from tests.unit.process.test_notify import Manager, manager

__all__ = ["manager"]

SERVER = "server { listen 127.0.0.1:@main@; return TEXT; }"
CONF = f"events {{}} stream {{ {SERVER} }}"
NOWHERE = "working_directory /no/such/folder;"
REASON = r'chdir\("/no/such/folder"\) failed \(2: No such file or directory\)'
EXPECTED = (r"chdir\(", r"unexpected exception: Traceback .*Too many open files", r"EMFILE")


def refuse(running: Proxy, conf_text: str) -> str:
    """Reload by -s with what must be refused; return what that says."""
    running.write(conf_text)
    verdict = running.run("-s", "reload")
    assert 1 == verdict.code, verdict.stderr
    return verdict.stderr


# -- real processes --------------------------------------------------------------------------------


@pytest.mark.effect("working_directory")
def test_workers_that_cannot_begin_refuse_the_reload(ngxstream: ProxyFactory) -> None:
    """The reason is told to who asked and logged; the workers from before serve on."""
    running = ngxstream("worker_processes 2;" + CONF, expected=EXPECTED)
    before = running.worker_pids()
    said = refuse(running, "worker_processes 2;" + NOWHERE + CONF.replace("TEXT", "new"))
    refused = f"the reload is refused, a new worker process cannot begin: {REASON}$"
    assert re.search(rf"\[emerg\] {refused}", said, re.MULTILINE)
    running.wait_log(rf"\[emerg\] {running.pid}#\d+: {refused}")
    wait_until(lambda: before == running.all_worker_pids())
    assert b"TEXT" == tcp_exchange(running.address("main"))
    assert not [line for line in running.error_log() if f"{before[0]}#" in line and "shutt" in line]


def test_too_few_descriptors_refuse_the_reload(ngxstream: ProxyFactory) -> None:
    """What the system has not got is told in a sentence, by every worker, without a traceback."""
    running = ngxstream(CONF, expected=(r"worker_rlimit_nofile",))
    before = running.worker_pids()
    said = refuse(running, "worker_rlimit_nofile 5;" + CONF)
    reason = r'no descriptors left, see "worker_rlimit_nofile" \(24: Too many open files\)'
    assert re.search(rf"\[emerg\] the reload is refused, .*: {reason}$", said, re.MULTILINE)
    running.wait_log(rf"\[alert\] .*: {reason}$")
    assert not [line for line in running.error_log() if "Traceback" in line]
    wait_until(lambda: before == running.all_worker_pids())
    assert b"TEXT" == tcp_exchange(running.address("main"))


def test_a_refused_reload_leaves_nothing_behind(ngxstream: ProxyFactory) -> None:
    """New addresses are closed, Unix paths and the new pid file removed, descriptors given back."""
    running = ngxstream(CONF, expected=EXPECTED)
    files = sorted(processes.open_files(running.pid))
    path = running.prefix / "sock"
    more = (
        f"server {{ listen 127.0.0.1:@more@; listen unix:{path}; return x; }} "
        "server { listen 127.0.0.1:@udp@ udp; return x; }"
    )
    old_pid = running.prefix / "logs/nginx.pid"
    refuse_by_hup(running, f"{NOWHERE} pid logs/new.pid; error_log logs/new.log notice; "
                  + CONF.replace(SERVER, SERVER + more))
    pid = int(old_pid.read_text())
    wait_until(lambda: files == sorted(processes.open_files(pid)))
    assert not path.exists()
    assert not (running.prefix / "logs/new.pid").exists()
    with socket.create_server(running.address("more")), \
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(running.address("udp"))
    running.write(CONF)


def refuse_by_hup(running: Proxy, conf_text: str) -> None:
    """Reload by a signal, and wait until that is refused."""
    pid = running.pid
    running.write(conf_text)
    os.kill(pid, 1)
    running.wait_log("the old worker processes go on")


def test_a_reload_that_only_removes_takes_nothing_when_it_is_refused(
    ngxstream: ProxyFactory, tmp_path
) -> None:
    """What only the old configuration listens at is closed when the new one serves, not before."""
    path = tmp_path / "s"
    both = f"server {{ listen unix:{path}; listen 127.0.0.1:@old@; return old; }}"
    running = ngxstream(CONF.replace(SERVER, SERVER + both), expected=EXPECTED)
    refuse(running, NOWHERE + CONF)
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert b"old" == tcp_exchange(running.address("old"))
    running.reload(CONF)
    wait_until(lambda: not path.exists())
    with pytest.raises(ConnectionRefusedError):
        wait_until(lambda: not tcp_exchange(running.address("old")))


def test_sessions_and_limits_go_on_over_refused_reloads(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """UDP sessions stay where they are, TCP ones too; a good reload moves them then."""
    echo, udp = backends.tcp(), backends.udp()
    text = (
        "worker_processes 2; events {} stream { limit_conn_zone $remote_addr zone=z:1m; "
        f"server {{ listen 127.0.0.1:@tcp@; limit_conn z 1; proxy_pass {echo.text}; }} "
        f"server {{ listen 127.0.0.1:@udp@ udp; proxy_pass {udp.text}; }} }}"
    )
    running = ngxstream(text, expected=EXPECTED)
    client, other = TcpClient(running.address("tcp")), UdpClient(running.address("udp"))
    for n in range(4):
        client.send(b"%d" % n)
        assert b"%d" % n == client.recv_exactly(1)
        assert b"u%d" % n == other.exchange(b"u%d" % n)
        assert b"" == tcp_exchange(running.address("tcp"))  # the second of one
        if n < 2:
            refuse(running, NOWHERE + text)
        else:
            running.reload(text)
    assert 1 == len(udp.sources)
    client.close()
    other.close()


def test_a_killed_worker_is_replaced_after_a_refused_reload(ngxstream: ProxyFactory) -> None:
    """The worker in its place is one of the configuration that serves."""
    running = ngxstream("worker_processes 2;" + CONF, expected=(*EXPECTED, "exited on signal 9"))
    refuse(running, NOWHERE + CONF.replace("TEXT", "new"))
    wait_until(lambda: 2 == len(running.all_worker_pids()))
    dead, alive = running.worker_pids()
    os.kill(dead, 9)
    wait_until(lambda: 2 == len(running.worker_pids()) and dead not in running.worker_pids())
    assert alive in running.worker_pids()
    for _ in range(8):
        assert b"TEXT" == tcp_exchange(running.address("main"))


def test_a_manager_hears_why_a_reload_was_refused(
    manager: Manager, ngxstream: ProxyFactory
) -> None:
    """After RELOADING comes READY, with the reason in the status."""
    running = ngxstream(
        CONF, start=False, expected=EXPECTED, env={notify.VARIABLE: manager.name}
    ).start()
    manager.hear()
    refuse(running, NOWHERE + CONF)
    assert "RELOADING" in manager.hear()
    told = manager.hear()
    assert "READY" in told
    assert re.search(rf"the last reload was refused: .*{REASON}", told["STATUS"])


# -- the first start -------------------------------------------------------------------------------


def test_a_start_without_any_worker_says_so_and_waits(proxy: ProxyFactory) -> None:
    """As nginx's, the master stays; a reload of what has been mended has it serve."""
    running = proxy(
        NOWHERE + CONF, start=False, expected=(r"chdir\(", r"chdir\(\)", "fatal code 2")
    )
    running._workers_wanted = lambda: 0
    running.start()
    running.wait_log(r"fatal code 2 and cannot be respawned$")
    if running.name == "ngxstream":
        running.wait_log(r"\[emerg\] .*no worker process is left, nothing is served before a rel")
    assert running.is_running()
    running.write(CONF)
    running.signal(1)
    wait_until(lambda: 1 == len(running.worker_pids()))
    assert b"TEXT" == tcp_exchange(running.address("main"))


def test_a_manager_hears_of_a_start_without_any_worker(
    manager: Manager, ngxstream: ProxyFactory
) -> None:
    """The program ends with 1, for a service that serves nobody is not ready."""
    program = ngxstream(
        NOWHERE + CONF, start=False, expected=EXPECTED, env={notify.VARIABLE: manager.name}
    )
    verdict = program.run()
    assert 1 == verdict.code
    assert re.search(rf"no worker process can begin: {REASON}", manager.hear()["STATUS"])
    assert [] == [line for line in program.error_log() if "exited on signal" in line]
    assert not (program.prefix / "logs/nginx.pid").exists()


# -- waiting for workers ---------------------------------------------------------------------------


class Worker:
    """A worker's end of its channel, and the child that the master knows."""

    def __init__(self) -> None:
        ours, self.end = channel.Channel.pair()
        self.child = SimpleNamespace(channel=ours)

    def close(self) -> None:
        """Close both ends."""
        self.end.close()
        self.child.channel.close()


@pytest.fixture
def workers():
    """Give three workers."""
    made = [Worker() for _ in range(3)]
    yield made
    for worker in made:
        worker.close()


def wait(workers, wait_s: float = 20.0) -> Beginning:
    """Wait for workers to begin."""
    beginning = Beginning([worker.child for worker in workers])
    beginning.wait(wait_s)
    return beginning


def test_all_that_are_ready_have_begun(workers) -> None:
    """Without a failure there is no reason to refuse."""
    for worker in workers:
        worker.end.send(channel.READY)
    done = wait(workers)
    assert ([], 3, {}) == (done.reasons, len(done.ready), done.waiting)


def test_a_reason_is_told_once(workers) -> None:
    """Two that fail for the same reason at once are one line."""
    for worker in workers:
        worker.end.send(channel.FAILED, b"why")
    assert ["why"] == wait(workers).reasons


def test_one_that_is_gone_without_a_word_has_failed(workers) -> None:
    """The end of its channel is the end of the worker."""
    workers[0].end.send(channel.READY)
    workers[1].end.close()
    done = wait(workers)
    assert ["it ended before it began"] == done.reasons
    assert [workers[1].child] == done.failed
    assert workers[2].child in done.waiting.values()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_master_that_is_to_end_waits_for_nobody(number: signal.Signals, workers) -> None:
    """Whether it is to end at once or when its sessions have: nothing new begins."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        signal.pthread_kill(threading.get_ident(), number)  # another test's may not block it
        done = wait(workers)
    finally:
        signal.sigtimedwait({number}, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert ["the master process is to end"] == done.reasons
    assert (3, []) == (len(done.waiting), done.late)


def test_one_that_says_nothing_is_late(workers) -> None:
    """When the time is up, those that have not begun are the reason."""
    workers[0].end.send(channel.READY)
    done = wait(workers, 0.05)
    assert ["it did not begin within 0.05s"] == done.reasons
    assert [worker.child for worker in workers[1:]] == done.late
    assert [workers[0].child] == done.ready
