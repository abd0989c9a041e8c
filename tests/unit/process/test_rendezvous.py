"""Workers that outlived their master, and the new master that takes their place."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from ngxstream.core import log
from ngxstream.ipc import port
from ngxstream.process import channel as channels
from ngxstream.process import orphan, rendezvous
from ngxstream.process.channel import Channel
from tests.support import clients, descriptors, processes, strangers, tools
from tests.support.activation import Activated
from tests.support.backends import BackendFactory
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import PATIENCE, wait_until

CONF = """
worker_processes 2;
events {{}}
stream {{
    server {{ listen 127.0.0.1:@tcp@; proxy_pass {tcp}; }}
    server {{ listen 127.0.0.1:@udp@ udp; proxy_pass {udp}; proxy_timeout 60s; }}
}}
"""
GONE = "the master process is gone, serving on"


def kill_master(running: Proxy) -> list[int]:
    """Kill it; return its workers, once they have seen it."""
    workers = running.worker_pids()
    seen = len([line for line in running.error_log() if GONE in line])
    os.kill(running.pid, signal.SIGKILL)
    if running._process is not None:
        running._process.wait()
    running.wait_log(GONE, count=seen + len(workers))
    return workers


@contextmanager
def orphaned(running: Proxy) -> Iterator[list[int]]:
    """Give the workers of a killed master, which have to leave by themselves later."""
    workers = kill_master(running)
    try:
        yield workers
        wait_until(lambda: not any(map(processes.is_alive, workers)), what="the orphans leave")
    finally:
        for pid in workers:
            if processes.is_alive(pid):
                os.kill(pid, signal.SIGKILL)


# -- a new master ----------------------------------------------------------------------------------


def test_a_new_master_takes_over_while_clients_come(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """Nobody is refused at any time, no bind is tried twice, and TCP sessions finish."""
    running = ngxstream(CONF.format(tcp=backends.tcp().text, udp=backends.udp().text))
    over = threading.Event()
    answers: list[bytes] = []
    refused: list[OSError] = []

    def come() -> None:
        while not over.is_set():
            try:
                answers.append(clients.tcp_exchange(running.address("tcp"), b"come", size=4))
            except OSError as error:
                refused.append(error)

    coming = threading.Thread(target=come)
    with clients.TcpClient(running.address("tcp")) as client:
        client.exchange(b"before")
        coming.start()
        try:
            with orphaned(running) as orphans:
                running.start()
                assert not set(orphans) & set(running.worker_pids())
                running.wait_log("gracefully shutting down", count=2)
                assert b"after" == client.exchange(b"after")
                client.close()
        finally:
            over.set()
            coming.join()
    assert [] == refused
    assert {b"come"} == set(answers)
    assert not any("bind()" in line for line in running.error_log())


def many_conf(addresses: int) -> str:
    """Return a configuration whose master has four sockets for each of so many addresses."""
    listens = " ".join(f"listen 127.0.1.{n}:@udp@ udp reuseport;" for n in range(1, addresses + 1))
    return f"""
        worker_processes 4; events {{ worker_connections 3000; }} stream {{
            server {{ {listens} return udp; }}
            server {{ listen 127.0.0.1:@tcp@; return tcp; }}
        }}"""


def test_masters_have_more_descriptors_than_select_knows(ngxstream: ProxyFactory) -> None:
    """More than 1024 sockets: a reload, a successor and an upgrade find their workers."""
    with descriptors.room_for_many():
        running = ngxstream(many_conf(254), expected=("exited on signal 9",))
        numbers = [int(name) for name in os.listdir(f"/proc/{running.pid}/fd")]
        assert max(numbers) > descriptors.FD_SETSIZE
        running.reload()
        with orphaned(running):
            running.start()
        old = running.pid
        running.signal(signal.SIGUSR2)
        wait_until(lambda: running.pid not in (0, old) and len(running.worker_pids()) == 4)
        os.kill(old, signal.SIGQUIT)
        wait_until(lambda: not processes.is_alive(old), what="the old master leaves")
        assert b"tcp" == clients.tcp_exchange(running.address("tcp"))
        last = ("127.0.1.254", running.port("udp"))
        assert b"udp" == clients.udp_exchange(last, b"anybody?")


def test_udp_sessions_go_on_in_the_new_workers(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """Every client keeps its upstream socket, however often the master is killed."""
    udp = backends.udp()
    running = ngxstream(CONF.format(tcp=backends.tcp().text, udp=udp.text))
    crowd = [clients.UdpClient(running.address("udp")) for _ in range(30)]
    try:
        for client in crowd:
            assert b"one" == client.exchange(b"one")
        before = set(udp.sources)
        for number in (b"two", b"three"):
            with orphaned(running):
                assert [number] * 30 == [client.exchange(number) for client in crowd]
                running.start()
                assert [number] * 30 == [client.exchange(number) for client in crowd]
        assert before == set(udp.sources)
        running.reload()
        assert [b"four"] * 30 == [client.exchange(b"four") for client in crowd]
        assert before == set(udp.sources)
    finally:
        for client in crowd:
            client.close()
    assert not [line for line in running.error_log() if "[warn]" in line]


@pytest.mark.parametrize("workers", [1, 4])
def test_the_new_configuration_may_be_another(
    workers: int, ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """Sockets go over, old TCP sessions finish, new clients are served by the new text."""
    conf = CONF.format(tcp=backends.tcp().text, udp=backends.udp().text)
    running = ngxstream(conf)
    with clients.TcpClient(running.address("tcp")) as client:
        client.exchange(b"before")
        with orphaned(running):
            running.write(
                conf.replace("processes 2", f"processes {workers}").replace("60s", "30s")
            )
            running.start()
            assert workers == len(running.worker_pids())
            assert b"after" == client.exchange(b"after")
            client.close()
        for _ in range(10):
            assert b"new" == clients.tcp_exchange(running.address("tcp"), b"new", size=3)
            assert b"new" == clients.udp_exchange(running.address("udp"), b"new")
    assert not any("bind()" in line for line in running.error_log())


def test_a_master_that_fails_to_start_leaves_the_orphans_serving(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """They wait for the next one, which takes over."""
    conf = CONF.format(tcp=backends.tcp().text, udp=backends.udp().text)
    running = ngxstream(conf)
    with orphaned(running), socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        running.write(f"{conf.rstrip()[:-1]} server {{ listen {where}; return x; }} }}")
        assert 1 == running.run().code
        running.wait_log(GONE, count=4)
        assert b"on" == clients.tcp_exchange(running.address("tcp"), b"on", size=2)
        running.write(conf)
        running.start()
        assert b"new" == clients.tcp_exchange(running.address("tcp"), b"new", size=3)


def test_one_orphan_is_enough(ngxstream: ProxyFactory, backends: BackendFactory) -> None:
    """A worker has the sockets of all: those of a killed one are not lost."""
    running = ngxstream(CONF.format(tcp=backends.tcp().text, udp=backends.udp().text))
    first, _ = running.worker_pids()
    with orphaned(running):
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: not processes.is_alive(first))
        running.start()
        for _ in range(20):
            assert b"new" == clients.udp_exchange(running.address("udp"), b"new")
            assert b"new" == clients.tcp_exchange(running.address("tcp"), b"new", size=3)
    assert not any("bind()" in line for line in running.error_log())


@pytest.mark.parametrize("head", ["daemon on;", "master_process off;"])
def test_any_kind_of_process_takes_over(
    head: str, ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """A daemon, and a single process."""
    conf = CONF.format(tcp=backends.tcp().text, udp=backends.udp().text)
    running = ngxstream(conf)
    with orphaned(running):
        running.write(head + conf)
        running.start()
        running.wait_log("gracefully shutting down", count=2)
        assert b"new" == clients.tcp_exchange(running.address("tcp"), b"new", size=3)
        assert b"new" == clients.udp_exchange(running.address("udp"), b"new")


def test_workers_without_rights_are_found(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """The master is root's, its workers are not; their UDP clients go over all the same."""
    tools.require_root()
    udp = backends.udp()
    running = ngxstream(
        "user nobody nogroup;" + CONF.format(tcp=backends.tcp().text, udp=udp.text)
    )
    with clients.UdpClient(running.address("udp")) as client, orphaned(running):
        client.exchange(b"one")
        running.start()
        assert b"two" == client.exchange(b"two")
        assert 1 == len(udp.sources)


def test_unix_sockets_and_what_nobody_wants_any_more(
    ngxstream: ProxyFactory, tmp_path: Path
) -> None:
    """A Unix path serves on; an address the new configuration lacks is closed, its path removed."""
    server = "server {{ listen unix:{0}/{1}; return {1}; }}"
    servers = [server.format(tmp_path, name) for name in ("a", "b")]
    running = ngxstream(f"events {{}} stream {{ {' '.join(servers)} }}")
    with orphaned(running):
        running.write(f"events {{}} stream {{ {servers[0]} }}")
        running.start()
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(tmp_path / "a"))
            assert b"a" == client.recv(10)
        assert not (tmp_path / "b").exists()


def test_a_stop_ends_the_orphans_too(ngxstream: ProxyFactory, backends: BackendFactory) -> None:
    """TERM to the new master ends sessions that the old one's workers still have."""
    running = ngxstream(CONF.format(tcp=backends.tcp().text, udp=backends.udp().text))
    with clients.TcpClient(running.address("tcp")) as client:
        client.exchange(b"before")
        with orphaned(running):
            running.start()
            running.wait_log("gracefully shutting down", count=2)
            running.stop()
            assert b"" == client.recv()


@pytest.mark.parametrize("impatient", [False, True])
def test_a_quit_waits_for_the_orphans_too(
    impatient: bool, ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """A master that finishes is there until their sessions have ended: TERM can end these still."""
    running = ngxstream(CONF.format(tcp=backends.tcp().text, udp=backends.udp().text))
    with clients.TcpClient(running.address("tcp")) as client:
        client.exchange(b"before")
        with orphaned(running):
            running.start()
            running.wait_log("gracefully shutting down", count=2)
            pid = running.pid
            running.signal(signal.SIGQUIT)
            wait_until(lambda: not processes.children(pid), what="its own workers leave")
            assert b"after" == client.exchange(b"after")
            assert processes.is_alive(pid)
            if impatient:
                os.kill(pid, signal.SIGTERM)
                assert b"" == client.recv()
            client.close()
            wait_until(lambda: not processes.is_alive(pid), what="the master leaves")


def test_sockets_of_a_service_manager_survive_a_killed_master(tmp_path: Path) -> None:
    """What is lent anew and what the orphans have are the same sockets: one group, no warning."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        address = udp.getsockname()
        conf = (
            "worker_processes 3; events {} stream { server { "
            f"listen 127.0.0.1:{address[1]} udp; return $pid; }} }}"
        )
        with Activated(conf, tmp_path, [udp]) as running:
            with orphaned(running):
                running.start()
            answers = {clients.udp_exchange(address, b"?") for _ in range(60)}
            assert {str(pid).encode() for pid in running.worker_pids()} == answers
            assert not [line for line in running.error_log() if "[warn]" in line]


def test_a_stop_ends_those_who_were_leaving_too(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """A worker that a reload had told to leave before its master was killed hears the new one."""
    running = ngxstream(CONF.format(tcp=backends.tcp().text, udp=backends.udp().text))
    first = running.worker_pids()
    with clients.TcpClient(running.address("tcp")) as client:
        client.exchange(b"before")
        running.reload()
        # the other one leaves at once: it has no session
        wait_until(lambda: sum(map(processes.is_alive, first)) == 1)
        (leaving,) = filter(processes.is_alive, first)
        with orphaned(running):
            running.wait_log("the master process is gone, leaving")
            running.start()
            assert b"after" == client.exchange(b"after")
            assert processes.is_alive(leaving)
            running.stop()
            assert b"" == client.recv()
    wait_until(lambda: not processes.is_alive(leaving))


# -- the command line, where no master is left -----------------------------------------------------


def told(code: int, word: str, pids: list[int]) -> tuple[int, str]:
    """Return exit code and text of a -s that reached these orphans."""
    listed = ", ".join(map(str, sorted(pids)))
    said = f"ngxstream: [notice] {word}: worker processes that outlived their master: {listed}\n"
    return code, said


def test_a_reload_without_a_master_names_its_orphans(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """It fails in nginx's words, and says who serves on; they are told nothing."""
    running = ngxstream(
        CONF.format(tcp=backends.tcp().text, udp=backends.udp().text),
        expected=(r"\[alert\] .* kill\(\d+, 1\) failed \(3: No such process\)",),
    )
    with orphaned(running) as orphans:
        said = running.run("-s", "reload")
        assert 1 == said.code
        assert "kill(" in said.stderr
        pids = ", ".join(map(str, sorted(orphans)))
        assert f"its worker processes serve on: {pids}; a start takes over" in said.stderr
        assert 0 == running.run("-s", "stop").code
    assert "serve on" not in running.run("-s", "reload").stderr


@pytest.mark.parametrize("left", ["", "nonsense", "gone", "typo"])
def test_a_stop_without_a_master_ends_its_orphans(
    left: str, ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """They are named and leave at once, whatever has become of the pid file."""
    running = ngxstream(
        CONF.format(tcp=backends.tcp().text, udp=backends.udp().text),
        expected=(r"\[alert\] .* kill\(\d+, 15\) failed \(3: No such process\)",),
    )
    pid_file = running.prefix / "logs/nginx.pid"
    with clients.TcpClient(running.address("tcp")) as client:
        client.exchange(b"before")
        with orphaned(running) as orphans:
            if left == "nonsense":
                pid_file.write_text(left)
            elif left == "gone":
                pid_file.unlink()
            elif left == "typo":  # any configuration will do that has the same pid file
                other = running.conf_file.with_name("other.conf")
                other.write_text("pid logs/nginx.pid; events {}")
                running.write("typo on;")
                assert 1 == running.run("-s", "stop").code
            words = ("-c", "conf/other.conf") if left == "typo" else ()
            said = running.run(*words, "-s", "stop")
            assert told(0, "stop", orphans) == (said.code, said.stderr)
            assert b"" == client.recv()
    assert [] != running.wait_log(rf"\[notice\] .* stop: worker processes .*{orphans[0]}")
    said = running.run("-s", "stop")
    assert 1 == said.code
    assert "worker processes" not in said.stderr


def test_a_quit_without_a_master_lets_sessions_finish(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """New clients are refused, and a worker leaves with its last session; it can still be told."""
    running = ngxstream(CONF.format(tcp=backends.tcp().text, udp=backends.udp().text))
    with clients.TcpClient(running.address("tcp")) as client:
        client.exchange(b"before")
        with orphaned(running) as orphans:
            said = running.run("-s", "quit")
            assert told(0, "quit", orphans) == (said.code, said.stderr)
            running.wait_log("gracefully shutting down", count=2)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(running.address("tcp"))
            assert b"after" == client.exchange(b"after")
            wait_until(lambda: sum(map(processes.is_alive, orphans)) == 1)
            running.wait_log("the master process is gone, leaving")
            (last,) = filter(processes.is_alive, orphans)
            said = running.run("-s", "stop")
            assert told(0, "stop", [last]) == (said.code, said.stderr)


def test_logs_are_reopened_without_a_master(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """Rotation works on, and a new master finds those who were told."""
    running = ngxstream(CONF.format(tcp=backends.tcp().text, udp=backends.udp().text))
    file = running.prefix / "logs/error.log"
    with orphaned(running) as orphans:
        file.rename(file.with_name("rotated"))
        said = running.run("-s", "reopen")
        assert told(0, "reopen", orphans) == (said.code, said.stderr)
        running.wait_log(GONE, count=2)
        running.start()
        running.wait_log("2 worker processes outlived their master")


DEVICE = "pid /dev/null; events {} stream { server { listen 127.0.0.1:@tcp@; return $pid; } }"


@contextmanager
def in_foreground(running: Proxy) -> Iterator[int]:
    """Run what has no pid file; give its pid, and leave no process of it."""
    with subprocess.Popen(running._words(()), env=running._environment(), cwd=running.prefix,
                          stderr=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            running.wait_log("start worker process ")
            yield process.pid
        finally:
            processes.kill_session(process.pid)


def test_without_a_pid_file_orphans_are_those_of_their_configuration(
    ngxstream: ProxyFactory,
) -> None:
    """Who has no pid file either leaves them alone; -s of their own configuration ends them."""
    one, other = (ngxstream(DEVICE, start=False) for _ in range(2))
    with in_foreground(one) as first:
        orphan = clients.tcp_exchange(one.address("tcp"))
        os.kill(first, signal.SIGKILL)
        one.wait_log(GONE)
        with in_foreground(other) as second:
            os.kill(second, signal.SIGTERM)
            other.wait_log("exit$", count=2)
        assert 1 == other.run("-s", "stop").code
        assert orphan == clients.tcp_exchange(one.address("tcp"))
        said = one.run("-s", "stop")
        assert told(0, "stop", [int(orphan)]) == (said.code, said.stderr)


PRETENDER = """
import os, socket, sys
from ngxstream.process import channel, orphan
os.setgid(65534), os.setuid(65534)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.bind(f"{orphan.prefix_of(sys.argv[1])}{os.getpid()}")
sock.listen()
print("ready", flush=True)
peer = channel.Channel.to_worker(sock.accept()[0])
peer.send(channel.ORPHAN, orphan.ORPHANED.encode((9, "0" * 32)))
sys.stdin.read()
"""


def test_who_pretends_to_be_an_orphan_is_not_taken_for_told(ngxstream: ProxyFactory) -> None:
    """The true ones are told; one of the worker's user that only looks like a worker is named."""
    tools.require_root()
    running = ngxstream(
        "user nobody nogroup; events {} stream { server { listen 127.0.0.1:@tcp@; return TEXT; } }"
    )
    path = running.prefix / "logs/nginx.pid"
    with contextlib.ExitStack() as stack:
        for uid in (strangers.NOBODY, 1):  # these are not even of our title, or of another user
            stack.enter_context(strangers.lingering_as(uid, be_orphan(path, says_nothing)))
        pretender = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", PRETENDER, str(path), "/ngxstream/__main__.py"],
                env=running._environment(), text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )
        )
        assert pretender.stdout is not None
        assert "ready\n" == pretender.stdout.readline()
        with orphaned(running) as orphans:
            said = running.run("-s", "stop")
            code, text = told(1, "stop", orphans)
            text += (
                "ngxstream: [error] stop: these worker processes do not hear it: "
                f"{pretender.pid}\n"
            )
            assert (code, text) == (said.code, said.stderr)
        pretender.communicate()


def test_a_stranger_tells_orphans_nothing(ngxstream: ProxyFactory) -> None:
    """Another user's -s is not obeyed, and does not take it for obeyed."""
    tools.require_root()
    running = ngxstream(
        "events {} stream { server { listen 127.0.0.1:@tcp@; return TEXT; } }"
    )
    main: Any = SimpleNamespace(pid=str(running.prefix / "logs/nginx.pid"), user=None)
    strangers.let_in(running.prefix)

    def stop() -> None:
        survivors = rendezvous.Survivors()
        assert ([], orphans) == survivors.order(main, SimpleNamespace(), channels.TERMINATE)

    with orphaned(running) as orphans:
        strangers.run_as(strangers.NOBODY, stop)
        assert b"TEXT" == clients.tcp_exchange(running.address("tcp"))
        assert 0 == running.run("-s", "stop").code


# -- strangers -------------------------------------------------------------------------------------


def test_an_orphan_obeys_no_stranger(ngxstream: ProxyFactory, backends: BackendFactory) -> None:
    """Another user's process gets no word and no socket out of it."""
    tools.require_root()
    running = ngxstream(CONF.format(tcp=backends.tcp().text, udp=backends.udp().text))
    script = textwrap.dedent("""
        import os, socket, sys
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        os.setuid(65534)
        sock.settimeout(20)
        sock.connect(sys.stdin.read())
        try:
            sock.send(bytes([8]))
            print(sock.recv(100))
        except ConnectionError:
            print(b"")
    """)
    with orphaned(running) as workers:
        name = f"{orphan.prefix_of(str(running.prefix / 'logs/nginx.pid'))}{workers[0]}"
        done = subprocess.run(
            [sys.executable, "-c", script], input=name, capture_output=True, text=True, check=False
        )
        assert ("b''\n", "") == (done.stdout, done.stderr)
        running.start()


def be_orphan(path: Path, serve: Callable[[socket.socket], None]) -> Callable[[], None]:
    """Return what pretends to be an orphan of a pid file, in a process of its own.

    It listens when the function returns; a thread serves who comes.
    """

    def pretend_to_be() -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.bind(f"{orphan.prefix_of(str(path))}{os.getpid()}")
        sock.listen(1)

        def wait() -> None:
            peer, _ = sock.accept()
            serve(peer)
            peer.recv(1)  # nothing more, but it stays

        threading.Thread(target=wait, daemon=True).start()

    return pretend_to_be


def note_in(file: Path) -> Callable[[socket.socket], None]:
    """Return what writes down that somebody came."""
    return lambda peer: file.write_text("somebody came")


def test_strangers_are_not_asked(ngxstream: ProxyFactory, tmp_path: Path) -> None:
    """However many processes of other users pretend to be orphans, nobody waits for any."""
    tools.require_root()
    strangers.let_in(tmp_path)
    running = ngxstream("events {} stream { server { listen 127.0.0.1:@tcp@; return TEXT; } }",
                        start=False)
    path = running.prefix / "logs/nginx.pid"
    with contextlib.ExitStack() as stack:
        for n in range(5):
            stack.enter_context(
                strangers.lingering_as(
                    strangers.NOBODY, be_orphan(path, note_in(tmp_path / f"asked-{n}"))
                )
            )
        running.start()
        assert b"TEXT" == clients.tcp_exchange(running.address("tcp"))
        assert [] == list(tmp_path.glob("asked-*"))
        running.stop()
    assert any(
        "5 processes of other users than root and the configured one pretend" in line
        for line in running.error_log()
    )


def claims(*fds: int, last: bool = True) -> Callable[[socket.socket], None]:
    """Return what claims the newest generation there can be and gives descriptors."""

    def serve(peer: socket.socket) -> None:
        channel = Channel.to_worker(peer)
        introduced = orphan.ORPHANED.encode((10**9, "0" * 32))
        channel.send(channels.ORPHAN, introduced)
        peer.setblocking(True)
        peer.recv(100)
        channel.send(channels.SOCKETS, orphan.SOCKETS_GIVEN.encode((last,)), fds)

    return serve


class Candidate(NamedTuple):
    """One that may give, in this process."""

    survivor: rendezvous.Survivor
    end: Channel

    def give(self, *fds: int, last: bool) -> bool:
        """Give descriptors. Returns: whether they could be sent"""
        return self.end.send(
            channels.SOCKETS, orphan.SOCKETS_GIVEN.encode((last,)), fds
        )


@pytest.fixture
def candidates() -> Iterator[Callable[[int], Candidate]]:
    """Give a maker of candidates, which are told which generation they claim."""
    with contextlib.ExitStack() as stack:

        def make(generation: int) -> Candidate:
            one, other = map(stack.enter_context, port.pair())
            ours = Channel.to_worker(one, max_fds=orphan.CHUNK)
            survivor = rendezvous.Survivor(generation, os.geteuid(), ours)
            survivor.generation = generation
            return Candidate(survivor, Channel.to_master(other))

        yield make


def test_silent_pretenders_delay_a_start_by_a_second_in_all(
    candidates: Callable[[int], Candidate]
) -> None:
    """The true one is found behind 64 that claim to be newer and say nothing."""
    survivors = rendezvous.Survivors()
    survivors.all = [candidates(n).survivor for n in range(2, 66)]
    true = candidates(1)
    survivors.all.append(true.survivor)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert true.give(sock.fileno(), last=False)
        assert true.give(last=True)
    begun = time.monotonic()
    source, fds = next(survivors._offers(begun + 60, log.Log()))
    assert true.survivor is source
    assert 1 == len(fds)
    port.close_all(fds)
    # a second and what the machine takes; a quarter of one for each would be 16
    assert time.monotonic() - begun < 8


def test_what_is_given_too_late_is_not_kept(candidates: Callable[[int], Candidate]) -> None:
    """A listening socket that waits to be taken would keep its address for ever."""
    slow, fast = candidates(2), candidates(1)
    survivors = rendezvous.Survivors()
    survivors.all = [slow.survivor, fast.survivor]
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = sock.getsockname()
        assert fast.give(sock.fileno(), last=True)
        gifts = survivors._offers(time.monotonic() + 60, log.Log())
        _, fds = next(gifts)
        assert slow.give(sock.fileno(), last=False)
        port.close_all(fds)
        gifts.close()
        assert not slow.give(sock.fileno(), last=True)
    assert slow.survivor.channel.send(channels.QUIT)
    assert [channels.GIVE, channels.QUIT] == [slow.end.receive().command for _ in range(2)]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def says_nothing(peer: socket.socket) -> None:
    """Wait for ever."""


def test_who_gives_no_sockets_is_passed_over(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """Processes of the workers' own user claim to be newer: the true one is asked all the same."""
    tools.require_root()
    udp = backends.udp()
    running = ngxstream(
        "user nobody nogroup;" + CONF.format(tcp=backends.tcp().text, udp=udp.text)
    )
    path = running.prefix / "logs/nginx.pid"
    passwd = os.open("/etc/passwd", os.O_RDONLY)
    own = socket.create_server(("127.0.0.1", 0))
    connected = socket.create_connection(own.getsockname())
    unbound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    pretended = [
        claims(passwd),
        claims(own.fileno(), connected.fileno()),
        claims(unbound.fileno()),
        claims(),
        claims(own.fileno(), last=False),
        says_nothing,
    ]
    with clients.UdpClient(running.address("udp")) as client, orphaned(running):
        client.exchange(b"one")
        with contextlib.ExitStack() as stack:
            for serve in pretended:
                stack.enter_context(
                    strangers.lingering_as(strangers.NOBODY, be_orphan(path, serve))
                )
            running.start()
            assert b"two" == client.exchange(b"two")
            assert b"new" == clients.tcp_exchange(running.address("tcp"), b"new", size=3)
        assert 1 == len(udp.sources)
    os.close(passwd)
    for sock in (own, connected, unbound):
        sock.close()
    said = "\n".join(running.error_log())
    for why in ("no socket", "does not listen", "not bound"):
        assert re.search(rf"outlived its master gives no listening sockets: .*{why}", said)


def test_sockets_of_a_stranger_s_making_are_refused(ngxstream: ProxyFactory) -> None:
    """Listening is not enough: root, or the master's own user, has to have made them."""
    tools.require_root()
    running = ngxstream(
        "user nobody nogroup; events {} stream { server { listen 127.0.0.1:@tcp@; return TEXT; } }"
    )
    path = running.prefix / "logs/nginx.pid"

    def serve(peer: socket.socket) -> None:
        with socket.create_server(("127.0.0.1", 0)) as own:
            claims(own.fileno())(peer)

    with orphaned(running), strangers.lingering_as(strangers.NOBODY, be_orphan(path, serve)):
        running.start()
        assert b"TEXT" == clients.tcp_exchange(running.address("tcp"))
    assert any("a socket that user 65534 has made" in line for line in running.error_log())


def test_many_connections_of_strangers_keep_no_master_out(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """Strangers connect to it as often as they can: they are sent away, the master gets in."""
    tools.require_root()
    running = ngxstream(CONF.format(tcp=backends.tcp().text, udp=backends.udp().text))
    path = running.prefix / "logs/nginx.pid"
    crowd: list[socket.socket] = []
    with orphaned(running) as workers:

        def crowd_in() -> None:
            for worker in workers:
                for _ in range(300):
                    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                    sock.setblocking(False)
                    with contextlib.suppress(OSError):
                        sock.connect(f"{orphan.prefix_of(str(path))}{worker}")
                    crowd.append(sock)

        with strangers.lingering_as(strangers.NOBODY, crowd_in):
            running.start()
            assert b"new" == clients.tcp_exchange(running.address("tcp"), b"new", size=3)


def test_an_orphan_whose_backlog_is_full_is_waited_for(tmp_path: Path) -> None:
    """The kernel says that the socket is that process's: it is tried again until it takes us."""
    path = tmp_path / "pid"
    name = f"{orphan.prefix_of(str(path))}{os.getpid()}"
    listener = port.listen(name, 0)
    first = port.connect(name)
    met: list[rendezvous.Survivor] = []
    survivors = rendezvous.Survivors()
    meeting = threading.Thread(target=lambda: met.extend(survivors.meet(str(path))))
    meeting.start()
    port.accept(listener).close()
    wait_until(lambda: _accepts(listener))
    meeting.join()
    assert [os.getpid()] == [one.pid for one in met]
    survivors.close()
    listener.close()
    first.close()


def _accepts(listener: socket.socket) -> bool:
    try:
        port.accept(listener).close()
    except BlockingIOError:
        return False
    return True


def test_a_full_backlog_at_another_s_name_is_nobody(tmp_path: Path) -> None:
    """Who listens under the pid of a process of ours, and takes no more, is passed over."""
    path = tmp_path / "pid"
    crowd: list[socket.socket] = []

    def squat() -> None:
        name = f"{orphan.prefix_of(str(path))}{os.getppid()}"
        crowd.append(port.listen(name, 0))
        crowd.append(port.connect(name))

    with strangers.lingering_as(os.geteuid(), squat):
        begun = time.monotonic()
        assert [] == rendezvous.Survivors().meet(str(path))
        # nobody waits: it takes no time, where waiting takes all of it
        assert time.monotonic() - begun < rendezvous.MEET_S * 0.9


def pretend(path: Path, say: Callable[[Channel], None]) -> threading.Thread:
    """Be an orphan of a pid file, in this process."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.bind(f"{orphan.prefix_of(str(path))}{os.getpid()}")
    sock.listen()
    sock.settimeout(PATIENCE)

    def serve() -> None:
        with sock:
            peer, _ = sock.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        channel = Channel.to_master(peer)
        say(channel)
        channel.sock.setblocking(True)
        # who leaves with something unread resets the connection
        with channel.sock, contextlib.suppress(ConnectionResetError):
            while channel.sock.recv(65536):
                continue

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "told",
    [b"", b"nonsense", b"{}", b"[1]", b'{"generation": [], "digest": 7}', b'{"generation": 1}'],
)
def test_what_is_malformed_counts_as_silence(told: bytes, tmp_path: Path) -> None:
    """Who says nothing sensible is told to leave, and asked for nothing."""
    path = tmp_path / "pid"
    thread = pretend(path, lambda channel: channel.send(channels.ORPHAN, told) and None)
    survivors = rendezvous.Survivors()
    (one,) = survivors.meet(str(path))
    assert (0, "", os.getpid()) == (one.generation, one.digest, one.pid)
    assert [] == survivors.matching([])
    survivors.close()
    thread.join()


def test_an_impostor_s_name_is_not_believed(tmp_path: Path) -> None:
    """The pid in the name has to be that of the process behind it."""
    path = tmp_path / "pid"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(f"{orphan.prefix_of(str(path))}{os.getppid()}")
        sock.listen()
        assert [] == rendezvous.Survivors().meet(str(path))


def test_who_became_root_after_it_listened_is_still_a_stranger(tmp_path: Path) -> None:
    """The user of a socket is who made it listen, whatever its process has run since."""
    tools.require_root()
    path = tmp_path / "pid"
    kept: list[socket.socket] = []

    def listen_then_rise() -> None:
        os.seteuid(strangers.NOBODY)
        kept.append(port.listen(f"{orphan.prefix_of(str(path))}{os.getpid()}", 8))
        os.seteuid(0)

    with strangers.lingering_as(0, listen_then_rise):
        assert [] == rendezvous.Survivors().meet(str(path))


def test_a_pretender_keeps_no_master_from_leaving(tmp_path: Path) -> None:
    """Who is no process of this program, and stays, is not waited for."""
    path = tmp_path / "pid"
    with strangers.lingering_as(os.geteuid(), be_orphan(path, claims())):
        survivors = rendezvous.Survivors()
        assert [True] == [one.is_known for one in survivors.meet(str(path))]
        assert not survivors.are_left
        survivors.close()


def test_nobody_is_met_where_there_is_no_orphan(tmp_path: Path) -> None:
    """A pid file without workers behind it costs nothing and gives nothing."""
    assert [] == rendezvous.Survivors().meet(str(tmp_path / "pid"))


def test_who_listens_is_told_from_who_is_connected(tmp_path: Path) -> None:
    """Accepted connections bear the name of the address, and are no orphans."""
    prefix = orphan.prefix_of(str(tmp_path / "pid"))
    name = f"{prefix}{os.getpid()}"
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(port.listen(name, 8))
        for _ in range(3):
            stack.enter_context(port.connect(name))
            stack.enter_context(port.accept(listening))
        inode = str(os.fstat(listening.fileno()).st_ino)
        assert [(os.getpid(), inode)] == rendezvous._names(prefix)
        listening.close()
        assert [] == rendezvous._names(prefix)
