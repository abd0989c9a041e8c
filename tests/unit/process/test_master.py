"""The master: real processes on loopback; where nginx does the same, it is asked too."""

import os
import re
import signal
import socket
import threading
from pathlib import Path

import pytest

from tests.support import clients, processes, proxies
from tests.support.backends import BackendFactory
from tests.support.proxies import ProxyFactory
from tests.support.waiting import PATIENCE, wait_until

RETURNS = "events {} stream { server { listen 127.0.0.1:@main@; return TEXT; } }"
WORKER = r"worker process \d+"


def said(running: proxies.Proxy, pattern: str, count: int = 1) -> list[str]:
    """Wait for lines of the error log."""
    return running.wait_log(pattern, count=count)


def ask(running: proxies.Proxy, name: str = "main") -> bytes:
    """Connect and return what the server says."""
    return clients.tcp_exchange(running.address(name))


def test_the_start_is_announced_in_nginx_words(proxy: ProxyFactory) -> None:
    """Method, version, system, limit and every worker have their notice line."""
    running = proxy("worker_processes 2;" + RETURNS, log_level="notice")
    said(running, rf"start {WORKER}", 2)
    shapes = [
        r'using the "epoll" event method',
        r"(nginx|ngxstream)/[0-9.]+",
        r"OS: Linux .+",
        r"getrlimit\(RLIMIT_NOFILE\): \d+:\d+",
        r"start worker processes",
        rf"start {WORKER}",
        rf"start {WORKER}",
    ]
    master = [
        record
        for record in running.records()
        if record.pid == running.pid and not record.message.startswith("built by")  # not Debian's
    ]
    assert len(shapes) == len(master)
    for shape, record in zip(shapes, master, strict=True):
        assert re.fullmatch(shape, record.message), record
        assert "notice" == record.level


def test_processes_have_nginx_titles(proxy: ProxyFactory) -> None:
    """ps shows the master with its arguments and the workers."""
    running = proxy(RETURNS)
    name = "nginx" if running.name == "nginx" else "ngxstream"
    assert processes.title(running.pid).startswith(f"{name}: master process ")
    assert "-c conf/nginx.conf" in processes.title(running.pid)
    wait_until(
        lambda: (
            [f"{name}: worker process"] == [processes.title(pid) for pid in running.worker_pids()]
        )
    )


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_it_ends_by_signal(sig: signal.Signals, proxy: ProxyFactory) -> None:
    """TERM, INT and QUIT end all processes with code 0, say so, and remove the pid file."""
    running = proxy("worker_processes 2;" + RETURNS)
    assert 0 == running.stop(sig)
    assert not (running.prefix / "logs/nginx.pid").exists()
    action = "shutting down" if sig == signal.SIGQUIT else "exiting"
    said(running, rf"signal {sig:d} \({sig.name}\) received from \d+, {action}$")
    said(running, rf"{WORKER} exited with code 0", 2)
    said(running, r"\[notice\] \d+#\d+: exit$", 3)


def test_a_reload_is_told_in_nginx_words(proxy: ProxyFactory) -> None:
    """HUP starts the new workers before the old ones are told to leave; their end is logged."""
    running = proxy(RETURNS)
    (old,) = running.worker_pids()
    master = running.pid
    said(running, rf"start worker process {old}$")  # by the master, once it has forked
    seen = len(running.records())
    running.reload()
    said(running, rf"worker process {old} exited with code 0")
    lines = [
        (record.pid, record.message)
        for record in running.records()[seen:]
        if "SIGIO" not in record.message  # nginx's own channel
    ]
    (new,) = running.worker_pids()
    expected = [
        (master, f"signal 1 (SIGHUP) received from {os.getpid()}, reconfiguring"),
        (master, "reconfiguring"),
        (master, 'using the "epoll" event method'),
        (master, "start worker processes"),
        (master, f"start worker process {new}"),
        (old, "gracefully shutting down"),
        (old, "exiting"),
        (old, "exit"),
        (master, f"signal 17 (SIGCHLD) received from {old}"),
        (master, f"worker process {old} exited with code 0"),
    ]
    assert expected == lines


def test_a_reload_applies_the_new_configuration(proxy: ProxyFactory) -> None:
    """Kept addresses answer anew, new ones answer, removed ones refuse."""
    running = proxy(RETURNS.replace("TEXT", "old"))
    assert b"old" == ask(running)
    running.reload(
        "events {} stream { server { listen 127.0.0.1:@main@; return new; }"
        " server { listen 127.0.0.1:@more@; return more; } }"
    )
    assert [b"new", b"more"] == [ask(running), ask(running, "more")]
    running.reload("events {} stream { server { listen 127.0.0.1:@more@; return last; } }")
    assert b"last" == ask(running, "more")

    def is_refused() -> bool:
        try:
            ask(running)
        except ConnectionError:
            return True
        return False

    wait_until(is_refused)


BAD = {
    "syntax": ("nonsense;", r'unknown directive "nonsense" in .*nginx\.conf:1'),
    "log": (
        "error_log /no/such/folder/x;" + RETURNS,
        r'open\(\) "/no/such/folder/x" failed \(2: No such file or directory\)',
    ),
    "address": (
        RETURNS.replace("127.0.0.1:@main@", "203.0.113.1:1"),
        r"bind\(\) to 203\.0\.113\.1:1 failed \(99: Cannot assign requested address\)",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_configuration_leaves_the_old_serving(kind: str, proxy: ProxyFactory) -> None:
    """One [emerg] line in the log that was in use; the workers and their answers are the same."""
    running = proxy(RETURNS.replace("TEXT", "old"))
    before = running.worker_pids()
    text, message = BAD[kind]
    lines = [line for line in running.reload_refused(text) if "[emerg]" in line]
    assert 1 == len(lines)
    assert re.search(rf"\[emerg\] {running.pid}#{running.pid}: {message}$", lines[0])
    assert b"old" == ask(running)
    assert before == running.worker_pids()


def test_an_address_in_use_is_tried_five_times(proxy: ProxyFactory) -> None:
    """A reload that cannot bind says so in nginx's words and gives up; the old one serves on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        running = proxy(RETURNS.replace("TEXT", "old"))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        running.write(RETURNS.replace("127.0.0.1:@main@", address))
        running.signal(signal.SIGHUP)
        said(running, r"still could not bind\(\)")
        told = [(one.level, one.message) for one in running.records()]
        told = told[told.index(("notice", "reconfiguring")) + 1 :]
        try_again = [
            ("emerg", f"bind() to {address} failed (98: Address already in use)"),
            ("notice", "try again to bind() after 500ms"),
        ]
        assert [*try_again * 5, ("emerg", "still could not bind()")] == told
        assert b"old" == ask(running)


def test_a_killed_worker_is_replaced(proxy: ProxyFactory) -> None:
    """Death by signal is an alert, and the next worker serves at once."""
    running = proxy(RETURNS, expected=(r"exited on signal 9",))
    (old,) = running.worker_pids()
    os.kill(old, signal.SIGKILL)
    said(running, rf"\[alert\] .*worker process {old} exited on signal 9$")
    wait_until(lambda: [old] != running.worker_pids() != [])
    assert b"TEXT" == ask(running)


def test_a_worker_told_to_leave_by_hand_is_replaced(proxy: ProxyFactory) -> None:
    """QUIT to a worker ends it in grace, and the master starts another."""
    running = proxy(RETURNS)
    (old,) = running.worker_pids()
    os.kill(old, signal.SIGQUIT)
    said(running, rf"{old}#{old}: signal 3 \(SIGQUIT\) received.*, shutting down$")
    said(running, rf"worker process {old} exited with code 0")
    wait_until(lambda: [old] != running.worker_pids() != [])
    assert b"TEXT" == ask(running)


def test_a_worker_that_cannot_begin_is_not_started_again(proxy: ProxyFactory) -> None:
    """Exit code 2 is fatal: an alert says so, and the master stays."""
    running = proxy(
        "working_directory /no/such/folder;" + RETURNS,
        start=False,
        expected=(r"chdir\(\)", r"chdir\(", r"fatal code 2"),
    )
    running._workers_wanted = lambda: 0
    running.start()
    said(running, rf"\[alert\] .*{WORKER} exited with fatal code 2 and cannot be respawned$")
    assert 1 == len(said(running, rf"start {WORKER}"))
    assert running.is_running()
    assert 0 == running.stop()


def test_workers_that_die_at_once_are_started_with_growing_pauses(ngxstream: ProxyFactory) -> None:
    """The second death in a row waits, the third longer, and each pause is an alert."""
    running = ngxstream(RETURNS, expected=(r"exited on signal 9", r"died at once"))
    killed: set[int] = set()

    def kill_next() -> bool:
        for pid in running.all_worker_pids():
            if pid not in killed:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    for _ in range(4):
        wait_until(kill_next)
    pauses = [
        line.rpartition("again in ")[2] for line in said(running, r"\[alert\] .*died at once", 3)
    ]
    assert ["100ms", "200ms", "400ms"] == pauses
    wait_until(running.worker_pids)
    assert b"TEXT" == ask(running)


def test_logs_are_reopened(proxy: ProxyFactory) -> None:
    """USR1 has master and workers write to a new file; the old one is left to who moved it."""
    running = proxy(RETURNS)
    log = running.prefix / "logs/error.log"
    moved = log.with_name("error.log.1")
    log.rename(moved)
    running.signal(signal.SIGUSR1)
    running.wait_log(r"reopening logs", name="logs/error.log.1")
    wait_until(log.exists)
    (worker,) = running.worker_pids()
    running.wait_log(rf"{worker}#{worker}: reopening logs", name="logs/error.log.1")
    size = moved.stat().st_size
    assert b"TEXT" == ask(running)
    said(running, r"\[info\] .*client 127\.0\.0\.1:\d+ connected")
    assert size == moved.stat().st_size


def long_lived(running: proxies.Proxy) -> clients.TcpClient:
    """Return a connection through the proxy that has been answered once."""
    client = clients.TcpClient(running.address("main"))
    assert b"ping" == client.exchange(b"ping")
    return client


PROXIES = "events {} stream { server { listen 127.0.0.1:@main@; proxy_pass BACKEND; } }"


def test_sessions_outlive_a_reload(proxy: ProxyFactory, backends: BackendFactory) -> None:
    """An old worker shows that it is leaving, serves its session to the end, and exits."""
    text = PROXIES.replace("BACKEND", backends.tcp().text)
    running = proxy(text)
    with long_lived(running) as client:
        (old,) = running.worker_pids()
        running.reload()
        assert processes.title(old).endswith("worker process is shutting down")
        assert b"still" == client.exchange(b"still")
    said(running, rf"worker process {old} exited with code 0")


def test_quit_waits_for_sessions_and_term_does_not(
    proxy: ProxyFactory, backends: BackendFactory
) -> None:
    """QUIT closes the addresses and waits; TERM on top of it ends the session."""
    text = PROXIES.replace("BACKEND", backends.tcp().text)
    running = proxy(text, expected=(r"open socket", r"aborting") if proxy.name == "nginx" else ())
    with long_lived(running) as client:
        running.signal(signal.SIGQUIT)
        said(running, "gracefully shutting down")

        def is_refused() -> bool:
            try:
                socket.create_connection(running.address("main"), PATIENCE).close()
            except ConnectionError:
                return True
            return False

        wait_until(is_refused)
        assert b"still" == client.exchange(b"still")
        assert 0 == running.stop(signal.SIGTERM)
        assert b"" == client.recv()


def test_the_shutdown_timeout_ends_every_session(
    proxy: ProxyFactory, backends: BackendFactory
) -> None:
    """worker_shutdown_timeout closes what is left, with an info line for each."""
    text = "worker_shutdown_timeout 200ms;" + PROXIES.replace("BACKEND", backends.tcp().text)
    running = proxy(text)
    with long_lived(running) as one, long_lived(running) as two:
        (old,) = running.worker_pids()
        running.reload()
        assert [b"", b""] == [one.recv(), two.recv()]
        said(running, r"\[info\] .*\*\d+ shutdown timeout while proxying connection, client: ", 2)
    said(running, rf"worker process {old} exited with code 0")


def test_a_stuck_worker_is_killed(proxy: ProxyFactory) -> None:
    """A worker that does not obey TERM gets KILL after a growing number of tries."""
    running = proxy(RETURNS, expected=(r"exited on signal 9",))
    (worker,) = running.worker_pids()
    os.kill(worker, signal.SIGSTOP)
    assert 0 == running.stop(signal.SIGTERM)
    said(running, rf"worker process {worker} exited on signal 9")


def test_unix_sockets_go_with_the_master(proxy: ProxyFactory) -> None:
    """Paths are removed at the end, and at a reload that drops them."""
    text = (
        "events {} stream { server { listen unix:@@/a; return a; }"
        " server { listen unix:@@/b; return b; } }"
    )
    running = proxy(text, start=False)
    text = text.replace("@@", str(running.prefix))
    running.write(text)
    running.start()
    one, two = running.prefix / "a", running.prefix / "b"
    assert [b"a", b"b"] == [clients.tcp_exchange(str(path)) for path in (one, two)]
    running.reload(f"events {{}} stream {{ server {{ listen unix:{one}; return a; }} }}")
    said(running, rf"\[warn\] .*deleting socket {two}$")
    assert [True, False] == [one.exists(), two.exists()]
    running.stop(signal.SIGQUIT)
    assert not one.exists()


def test_winch_stops_accepting_in_the_background(proxy: ProxyFactory) -> None:
    """Daemonised, WINCH has the workers leave and starts no others; HUP brings them back."""
    running = proxy("daemon on;" + RETURNS, expected=())
    running.signal(signal.SIGWINCH)
    said(running, r"signal 28 \(SIGWINCH\) received from \d+, stop accepting connections$")
    said(running, rf"{WORKER} exited with code 0")
    assert [] == running.all_worker_pids()
    running.signal(signal.SIGHUP)
    wait_until(running.worker_pids)
    assert b"TEXT" == ask(running)


def test_winch_stops_accepting_in_the_foreground(ngxstream: ProxyFactory) -> None:
    """In the foreground a process may say WINCH as well; only a terminal's does not count."""
    running = ngxstream(RETURNS)
    running.signal(signal.SIGWINCH)
    said(running, r"signal 28 \(SIGWINCH\) received from \d+, stop accepting connections$")
    said(running, rf"{WORKER} exited with code 0")
    running.signal(signal.SIGHUP)
    wait_until(running.worker_pids)
    assert b"TEXT" == ask(running)


def test_workers_outlive_their_master(ngxstream: ProxyFactory, backends: BackendFactory) -> None:
    """When the master is killed, its workers say so and go on serving, new clients too."""
    text = "worker_processes 2;" + PROXIES.replace("BACKEND", backends.tcp().text)
    running = ngxstream(text)
    workers = running.worker_pids()
    with long_lived(running) as client:
        os.kill(running.pid, signal.SIGKILL)
        said(running, r"the master process is gone, serving on$", 2)
        assert b"still" == client.exchange(b"still")
        assert b"new" == clients.tcp_exchange(running.address("main"), b"new", size=3)
        assert workers == [pid for pid in workers if processes.is_alive(pid)]
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not any(processes.is_alive(pid) for pid in workers))


def test_a_second_instance_is_told_that_udp_is_in_use(
    ngxstream: ProxyFactory, tmp_path: Path
) -> None:
    """nginx would steal the traffic; here the second start fails and the first serves on."""
    text = "events {} stream { server { listen 127.0.0.1:@main@ udp; return $pid; } }"
    first = ngxstream(text)
    port = first.port("main")
    second = ngxstream(text.replace("@main@", str(port)), start=False)
    verdict = second.run()
    assert 1 == verdict.code
    refusal = f"ngxstream: [emerg] bind() to 127.0.0.1:{port} failed (98: Address already in use)"
    assert [refusal] * 5 + ["ngxstream: [emerg] still could not bind()"] == (
        verdict.stderr.splitlines()
    )
    (worker,) = first.worker_pids()
    assert str(worker).encode() == clients.udp_exchange(first.address("main"), b"x")


def test_one_udp_client_has_one_worker(ngxstream: ProxyFactory) -> None:
    """Whatever the number of workers, and without reuseport, a client's datagrams meet in one."""
    running = ngxstream(
        "worker_processes 4; events {}"
        " stream { server { listen 127.0.0.1:@main@ udp; return $pid; } }"
    )
    seen = set()
    for _ in range(40):
        with clients.UdpClient(running.address("main")) as client:
            answers = {client.exchange(b"x") for _ in range(4)}
            assert 1 == len(answers)
            seen |= answers
    assert {str(pid).encode() for pid in running.worker_pids()} == seen


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 4)])
def test_udp_is_served_through_a_change_of_workers(
    before: int, after: int, ngxstream: ProxyFactory
) -> None:
    """Clients are answered before, during and after a reload that changes worker_processes."""
    text = (
        "worker_processes NUMBER; events {}"
        " stream { server { listen 127.0.0.1:@main@ udp; return $pid; } }"
    )
    running = ngxstream(text.replace("NUMBER", str(before)))
    answered = []
    done = threading.Event()

    def talk() -> None:
        while not done.is_set():
            answered.append(clients.udp_exchange(running.address("main"), b"x"))

    thread = threading.Thread(target=talk)
    thread.start()
    wait_until(lambda: len(answered) > 50)
    running.reload(text.replace("NUMBER", str(after)))
    count = len(answered)
    wait_until(lambda: len(answered) > count + 50)
    done.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    workers = {str(pid).encode() for pid in running.worker_pids()}
    assert set(answered[-20:]) <= workers


@pytest.mark.parametrize("reuseport", ["", "reuseport"])
def test_ten_reloads_under_load_break_nothing(
    reuseport: str, ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """New connections all the time and fifty long-lived ones: none refused, none broken."""
    text = (
        "worker_processes 2; events {} stream { server {"
        f" listen 127.0.0.1:@main@ {reuseport}; proxy_pass {backends.tcp().text}; }} }}"
    )
    running = ngxstream(text, log_level="notice")
    address = running.address("main")
    lasting = [long_lived(running) for _ in range(50)]
    failures: list[str] = []
    served = [0, 0]
    done = threading.Event()

    def connect(which: int) -> None:
        while not done.is_set():
            try:
                if b"hello" != clients.tcp_exchange(address, b"hello", size=5):
                    failures.append("short answer")
            except OSError as error:
                failures.append(repr(error))
            served[which] += 1

    threads = [threading.Thread(target=connect, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    for number in range(10):
        before = sum(served)
        running.reload(text.replace("worker_processes 2", f"worker_processes {1 + number % 3}"))
        for client in lasting:
            assert b"ping" == client.exchange(b"ping")
        wait_until(lambda before=before: sum(served) > before + 20)
    done.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert [] == failures
    for client in lasting:
        assert b"last" == client.exchange(b"last")
        client.close()
    wait_until(lambda: len(running.all_worker_pids()) == len(running.worker_pids()))


def test_descriptors_do_not_grow_with_reloads(ngxstream: ProxyFactory) -> None:
    """Once old workers are gone, the master holds what it held before."""
    text = (
        "worker_processes 2; events {} stream { error_log logs/stream.log;"
        " limit_conn_zone $remote_addr zone=z:64k; server {"
        " listen 127.0.0.1:@main@ udp; limit_conn z 1; return x; }"
        " server { listen 127.0.0.1:@main@; return x; } }"
    )
    running = ngxstream(text)

    def settle() -> int:
        wait_until(lambda: len(running.all_worker_pids()) == 2)
        wait_until(lambda: running.all_worker_pids() == running.worker_pids())
        return len(processes.open_files(running.pid))

    running.reload()
    before = settle()
    for _ in range(3):
        running.reload()
    # what the first reload left to close may have been counted
    wait_until(lambda: settle() <= before, what="no more descriptors than before")


def test_reloads_may_follow_each_other_at_once(ngxstream: ProxyFactory) -> None:
    """Several HUPs in a row end with one generation that serves."""
    running = ngxstream("worker_processes 2;" + RETURNS)
    for _ in range(5):
        running.signal(signal.SIGHUP)
    said(running, r"SIGHUP\) received")
    wait_until(lambda: 2 == len(running.all_worker_pids()) and 2 == len(running.worker_pids()))
    assert b"TEXT" == ask(running)


def test_inherited_sockets_are_served(ngxstream: ProxyFactory) -> None:
    """Sockets named in NGINX are used instead of bound; one nobody listens at is closed."""
    with (
        socket.create_server(("127.0.0.1", 0)) as kept,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        fds = (kept.fileno(), other.fileno())
        port = kept.getsockname()[1]
        running = ngxstream(
            RETURNS.replace("@main@", str(port)),
            env={"NGINX": f"{fds[0]};{fds[1]};"},
            pass_fds=fds,
            log_level="notice",
        )
        assert b"TEXT" == clients.tcp_exchange(("127.0.0.1", port))
        links = [f"socket:[{os.fstat(fd).st_ino}]" for fd in fds]
        open_there = processes.open_files(running.pid)
        assert [True, False] == [link in open_there for link in links]


def test_counts_of_a_killed_worker_are_given_back(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """What a dead worker held in a zone is free again: its client's place is not lost."""
    running = ngxstream(
        "events {} stream { limit_conn_zone $remote_addr zone=one:64k; limit_conn one 1;"
        f" server {{ listen 127.0.0.1:@main@; proxy_pass {backends.tcp().text}; }} }}",
        expected=(r"exited on signal 9",),
    )
    with long_lived(running) as client:
        with clients.TcpClient(running.address("main")) as refused:
            assert b"" == refused.recv()
        (worker,) = running.worker_pids()
        os.kill(worker, signal.SIGKILL)
        said(running, rf"start {WORKER}", 2)
    with long_lived(running) as client:
        assert b"again" == client.exchange(b"again")
