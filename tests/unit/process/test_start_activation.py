"""Socket activation: sockets that a service manager has opened, served and left to it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import clients, ports, processes, tools
from tests.support.activation import Activated
from tests.support.proxies import ROOT, Ngxstream, ProxyFactory
from tests.support.waiting import PATIENCE, wait_until

NOBODY = 65534
ANY = ("127.0.0.1", 0)
HEAD = "worker_processes 3; events {} stream { "
Held = Callable[..., socket.socket]


@pytest.fixture
def held() -> Iterator[Held]:
    """Give ``held(kind, address)``, which opens a socket as a service manager does."""
    with ExitStack() as stack:

        def opened(
            kind: socket.SocketKind, address: str | tuple[str, int] = ANY,
            *, reuseport: bool = False, user: int = 0,
        ) -> socket.socket:
            family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
            if user:
                os.seteuid(user)  # a socket belongs to whoever made it
            try:
                sock = stack.enter_context(socket.socket(family, kind))
            finally:
                if user:
                    os.seteuid(0)
            if reuseport:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if address == ANY:
                address = ANY[0], ports.free_port()
            sock.bind(address)
            if kind == socket.SOCK_STREAM:
                sock.listen(128)
            return sock

        yield opened


def server(sock: socket.socket, text: str = "$pid") -> str:
    """Return a server block that listens where a socket does."""
    name = sock.getsockname()
    where = f"unix:{name}" if isinstance(name, str) else f"{name[0]}:{name[1]}"
    kind = " udp" if sock.type == socket.SOCK_DGRAM else ""
    return f"server {{ listen {where}{kind}; return {text}; }} "


def workers_of(address: tuple[str, int], number: int = 40) -> list[set[bytes]]:
    """Return, for each of many UDP clients, which workers have answered it."""
    answers = []
    for _ in range(number):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(address)
            seen = set()
            for _ in range(3):
                sock.send(b"?")
                seen.add(sock.recv(100))
            answers.append(seen)
    return answers


def test_sockets_of_every_kind_are_served(held: Held, tmp_path: Path) -> None:
    """TCP, UDP and Unix sockets serve the listens of their addresses; nothing is bound anew."""
    tcp, udp = held(socket.SOCK_STREAM), held(socket.SOCK_DGRAM)
    unix = held(socket.SOCK_STREAM, str(tmp_path / "s"))
    conf = HEAD + server(tcp, "tcp") + server(udp, "udp") + server(unix, "unix") + "}"
    with Activated(conf, tmp_path, [tcp, udp, unix]) as running:
        running.wait_log("using 3 sockets of the service manager")
        assert b"tcp" == clients.tcp_exchange(tcp.getsockname())
        assert b"udp" == clients.udp_exchange(udp.getsockname(), b"?")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(unix.getsockname())
            assert b"unix" == client.recv(10)
        assert not [line for line in running.error_log() if "[warn]" in line]


def test_the_sockets_outlive_the_service(held: Held, tmp_path: Path) -> None:
    """A client that comes between two lives of the service is answered by the second."""
    tcp, unix = held(socket.SOCK_STREAM), held(socket.SOCK_STREAM, str(tmp_path / "s"))
    conf = HEAD + server(tcp, "tcp") + server(unix, "unix") + "}"
    with Activated(conf, tmp_path, [tcp, unix]):
        pass
    assert (tmp_path / "s").is_socket()
    with socket.create_connection(tcp.getsockname()) as a, socket.socket(socket.AF_UNIX) as b:
        a.settimeout(PATIENCE)
        b.settimeout(PATIENCE)
        b.connect(unix.getsockname())
        with Activated(conf, tmp_path, [tcp, unix]):
            assert [b"tcp", b"unix"] == [a.recv(10), b.recv(10)]


def test_an_upgrade_knows_whose_the_sockets_are(held: Held, tmp_path: Path) -> None:
    """After USR2 and the old master's end the new one leaves the manager's path alone, too."""
    lent, name = held(socket.SOCK_STREAM, str(tmp_path / "lent")), tmp_path / "own"
    own = f"server {{ listen unix:{name}; return own; }} "
    with Activated(HEAD + server(lent, "lent") + own + "}", tmp_path, [lent]) as running:
        old = running.pid
        os.kill(old, signal.SIGUSR2)
        new = wait_until(lambda: running.pid not in (0, old) and running.pid)
        try:
            wait_until(lambda: len(processes.children(new)) == 3)
            os.kill(old, signal.SIGQUIT)
            wait_until(lambda: not processes.is_alive(old) or processes.state(old) == "Z")
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE)
                client.connect(lent.getsockname())
                assert b"lent" == client.recv(10)
            assert name.is_socket()
        finally:
            os.kill(new, signal.SIGTERM)
            wait_until(lambda: not processes.is_alive(new))
    assert (tmp_path / "lent").is_socket()
    assert not name.exists()


def test_a_udp_socket_becomes_a_group(held: Held, tmp_path: Path) -> None:
    """Further sockets join the one that came; every client has one worker, also after reloads."""
    udp = held(socket.SOCK_DGRAM)
    conf = HEAD + server(udp) + "}"
    with Activated(conf, tmp_path, [udp]) as running:
        for workers in (3, 1, 2):
            running.reload(conf.replace("processes 3", f"processes {workers}"))
            wait_until(lambda: len(running.all_worker_pids()) == workers)  # noqa: B023
            seen = workers_of(udp.getsockname())
            assert {1} == {len(answers) for answers in seen}
            assert workers == len(set.union(*seen))


def test_a_udp_socket_of_another_user_has_one_worker(held: Held, tmp_path: Path) -> None:
    """The kernel lets nobody join; TCP is served by all the same."""
    tools.require_root()
    udp, tcp = held(socket.SOCK_DGRAM, user=NOBODY), held(socket.SOCK_STREAM, user=NOBODY)
    conf = HEAD + server(udp) + server(tcp) + "}"
    with Activated(conf, tmp_path, [udp, tcp]) as running:
        for workers in (3, 2):
            running.reload(conf.replace("processes 3", f"processes {workers}"))
            wait_until(lambda: len(running.all_worker_pids()) == workers)  # noqa: B023
            assert 1 == len(set.union(*workers_of(udp.getsockname())))
            assert clients.tcp_exchange(tcp.getsockname())
        assert not [line for line in running.error_log() if "[warn]" in line]


def test_udp_sockets_of_another_user_have_a_worker_each(held: Held, tmp_path: Path) -> None:
    """As many as the manager has opened (ReusePort=yes) are spread over the workers."""
    tools.require_root()
    first = held(socket.SOCK_DGRAM, reuseport=True, user=NOBODY)
    second = held(socket.SOCK_DGRAM, first.getsockname(), reuseport=True, user=NOBODY)
    conf = HEAD + server(first) + "}"
    with Activated(conf, tmp_path, [first, second]) as running:
        for workers, busy in ((3, 2), (2, 2), (1, 1)):
            running.reload(conf.replace("processes 3", f"processes {workers}"))
            wait_until(lambda: len(running.all_worker_pids()) == workers)  # noqa: B023
            seen = workers_of(first.getsockname())
            assert {1} == {len(answers) for answers in seen}
            assert busy == len(set.union(*seen))


def test_a_socket_that_nobody_listens_at_is_told(held: Held, tmp_path: Path) -> None:
    """It is closed with a warning; its path stays."""
    tcp, unix = held(socket.SOCK_STREAM), held(socket.SOCK_STREAM, str(tmp_path / "s"))
    with Activated(HEAD + server(tcp, "tcp") + "}", tmp_path, [tcp, unix]) as running:
        path = unix.getsockname()
        running.wait_log(
            rf"\[warn\] .*no server listens at unix:{path}, a socket of the service manager"
        )
        assert (tmp_path / "s").is_socket()
        assert b"tcp" == clients.tcp_exchange(tcp.getsockname())


def test_a_connection_is_no_listening_socket(held: Held, tmp_path: Path) -> None:
    """What `Accept=yes` passes is said and left alone."""
    tcp = held(socket.SOCK_STREAM)
    with socket.create_connection(tcp.getsockname()) as connection:
        conf = HEAD + server(tcp, "tcp") + "}"
        with Activated(conf, tmp_path, [tcp, connection]) as running:
            running.wait_log(
                r"\[crit\] .*the socket #4 of the service manager does not listen"
            )
            assert b"tcp" == clients.tcp_exchange(tcp.getsockname())


def test_sockets_for_another_process_are_not_touched(ngxstream: ProxyFactory) -> None:
    """LISTEN_PID names somebody else: the variables are left over from a parent."""
    running = ngxstream(
        HEAD + "server { listen 127.0.0.1:@main@; return hi; } }",
        env={"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"},
    )
    assert b"hi" == clients.tcp_exchange(running.address("main"))
    assert not [line for line in running.error_log() if "service manager" in line]


@pytest.mark.parametrize("count", ["x", "-1", "", "1000000000"])
def test_a_bad_number_of_sockets_is_told(count: str, tmp_path: Path) -> None:
    """The service starts without them."""
    script = (
        "import os, sys; os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=sys.argv[1]);"
        "os.execv(sys.argv[2], sys.argv[2:])"
    )

    class Misled(Ngxstream):
        def command(self) -> list[str]:
            return [sys.executable, "-c", script, count, *super().command()]

    with Misled(HEAD + "server { listen 127.0.0.1:@main@; return hi; } }", tmp_path) as running:
        running.wait_log(
            rf'\[emerg\] .*invalid number of sockets "{count}" in LISTEN_FDS environment variable'
        )
        assert b"hi" == clients.tcp_exchange(running.address("main"))


@pytest.mark.parametrize("kind", ["stream", "datagram"])
def test_systemd_activates_us(kind: str, tmp_path: Path) -> None:
    """systemd-socket-activate starts the service with the first client, which is answered."""
    activate = tools.require("systemd-socket-activate")
    address = "127.0.0.1", ports.free_port()
    udp = kind == "datagram"

    class Started(Ngxstream):
        def command(self) -> list[str]:
            words = [activate, "-E", "PYTHONPATH", "-l", f"{address[0]}:{address[1]}"]
            return [*words, *(["-d"] if udp else []), *super().command()]

    conf = f"events {{}} stream {{ server {{ listen {address[0]}:{address[1]}"
    running = Started(conf + f"{' udp' if udp else ''}; return hi; }} }}", tmp_path)
    with open(tmp_path / "said", "wb") as said, subprocess.Popen(
        [*running.command(), "-p", str(running.prefix), "-c", "conf/nginx.conf",
         "-e", "logs/error.log"],
        stderr=said, stdin=subprocess.DEVNULL, cwd=running.prefix,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True,
    ) as process:
        try:
            wait_until(lambda: b"Listening on" in (tmp_path / "said").read_bytes())
            if udp:
                assert b"hi" == clients.udp_exchange(address, b"?")
            else:
                assert b"hi" == clients.tcp_exchange(address)
            assert running.pid == process.pid
            running.wait_log("using 1 sockets of the service manager")
        finally:
            process.terminate()
            assert 0 == process.wait(PATIENCE)
