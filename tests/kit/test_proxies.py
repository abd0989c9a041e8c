"""The kit's proxy runner, against the real nginx."""

import os
import signal
import threading
from pathlib import Path

import pytest

from tests.support import backends, clients, processes
from tests.support.proxies import Nginx, main_directives

SERVER = """
events { worker_connections 64; }
stream { server { listen 127.0.0.1:@main@; return "hello $remote_addr"; } }
"""


def test_nginx_serves_while_the_context_lasts(tmp_path: Path) -> None:
    """A started instance answers, and none of its processes outlives the context."""
    with Nginx(SERVER, tmp_path) as nginx:
        pids = [nginx.pid, *nginx.worker_pids()]
        assert b"hello 127.0.0.1" == clients.tcp_exchange(nginx.address("main"))
        assert all(processes.is_alive(pid) for pid in pids)
    assert not any(processes.is_alive(pid) for pid in pids)


def test_reload_replaces_the_workers_and_the_text(tmp_path: Path) -> None:
    """After reload() the new configuration answers on the same port from new workers."""
    with Nginx("worker_processes 2;" + SERVER, tmp_path) as nginx:
        old = nginx.worker_pids()
        nginx.reload("worker_processes 2;" + SERVER.replace("hello", "goodbye"))
        assert 2 == len(old)
        assert set(old).isdisjoint(nginx.worker_pids())
        assert b"goodbye 127.0.0.1" == clients.tcp_exchange(nginx.address("main"))


def test_reload_by_the_command_line_works_too(tmp_path: Path) -> None:
    """``-s reload`` reaches the running master."""
    with Nginx(SERVER, tmp_path) as nginx:
        old = nginx.worker_pids()
        nginx.reload(by_signal=False)
        assert set(old).isdisjoint(nginx.worker_pids())


def test_an_old_worker_with_a_session_is_not_counted_as_serving(tmp_path: Path) -> None:
    """A worker that finishes a session after a reload is in all_worker_pids() only."""
    with backends.TcpBackend() as backend, Nginx(relay(backend.text), tmp_path) as nginx:
        old = nginx.worker_pids()
        with clients.TcpClient(nginx.address("main")) as client:
            assert b"one" == client.exchange(b"one")
            nginx.reload()
            assert b"two" == client.exchange(b"two")
            assert set(old) <= set(nginx.all_worker_pids())
            assert set(old).isdisjoint(nginx.worker_pids())


def test_a_refused_reload_returns_the_complaint(tmp_path: Path) -> None:
    """reload_refused() returns the new log lines and the old configuration serves on."""
    with Nginx(SERVER, tmp_path) as nginx:
        lines = nginx.reload_refused("events {} nonsense on;")
        assert any('unknown directive "nonsense"' in line for line in lines)
        assert b"hello 127.0.0.1" == clients.tcp_exchange(nginx.address("main"))


def test_verdict_of_a_bad_configuration_keeps_its_line_number(tmp_path: Path) -> None:
    """What is put before the configuration does not move its lines."""
    verdict = Nginx("\n\nevents {}\nnonsense on;\n", tmp_path).test()
    assert 1 == verdict.code
    assert 'unknown directive "nonsense" in ' in verdict.stderr
    assert "/conf/nginx.conf:4" in verdict.stderr


def test_a_start_that_fails_says_why(tmp_path: Path) -> None:
    """start() raises with what the program wrote."""
    with pytest.raises(AssertionError, match="nonsense"):
        Nginx("nonsense on;", tmp_path).start()


def test_an_unexpected_alert_fails_the_test(tmp_path: Path) -> None:
    """A worker killed from outside is an alert, and close() fails unless it is expected."""
    nginx = Nginx(SERVER, tmp_path).start()
    os.kill(nginx.worker_pids()[0], 9)
    nginx.wait_log("exited on signal 9")
    with pytest.raises(AssertionError, match="exited on signal 9"):
        nginx.close()
    nginx.expected.append("exited on signal 9")
    nginx.assert_healthy()


def test_a_signal_waits_for_the_event_loop(tmp_path: Path) -> None:
    """A signal to a single process, which is ready before it waits for events, is not lost."""
    with Nginx("master_process off;" + SERVER, tmp_path) as nginx:
        with processes.stopped(nginx.pid):
            sender = threading.Thread(target=nginx.signal, args=[signal.SIGUSR1])
            sender.start()
            sender.join(0.05)
            assert sender.is_alive()  # a stopped process does not wait for events
        sender.join()
        nginx.wait_log("reopening logs")


def test_log_records_are_taken_apart(tmp_path: Path) -> None:
    """records() gives level, process and connection; messages() the text of sessions."""
    with Nginx(SERVER, tmp_path) as nginx:
        with clients.TcpClient(nginx.address("main")) as client:
            client.recv_to_eof()
            port = client.name[1]
        nginx.wait_log("client 127.0.0.1:")
        (worker,) = nginx.worker_pids()
        line = f"client 127.0.0.1:{port} connected to 127.0.0.1:{nginx.port('main')}"
        assert [line] == nginx.messages("info")
        assert worker == next(r.pid for r in nginx.records() if r.message == line)


def test_main_directives_are_read_at_depth_zero_only() -> None:
    """Directives inside of blocks and comments are not the main context's."""
    text = (
        'user "a b"; # pid x;\nevents { pid y; }\nstream { error_log "};" ; }\nworker_processes 2;'
    )
    found = main_directives(text)
    assert {"user": ["a b"], "events": [], "stream": [], "worker_processes": ["2"]} == found


def relay(upstream: str) -> str:
    """Return a configuration that relays to one upstream."""
    server = "listen 127.0.0.1:@main@; proxy_pass " + upstream
    return "events {} stream { server { " + server + "; } }"
