"""The upgrade on the fly: what becomes of pid files, masters and clients, either way."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ngxstream.ipc import port
from ngxstream.process import upgrade
from tests.support import api_calls, clients, descriptors, processes, strangers, tools
from tests.support.backends import BackendFactory
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import PATIENCE, wait_until

FIRST = (socket.SOCK_DGRAM, socket.AF_INET, ("192.0.2.1", 53))
SECOND = (socket.SOCK_STREAM, socket.AF_UNIX, "/run/second")
CONF = """
worker_processes 2;
events {{}}
stream {{
    server {{ listen 127.0.0.1:@tcp@; return TEXT; }}
    server {{ listen 127.0.0.1:@udp@ udp; proxy_pass {udp}; }}
}}
"""


def old_pid(running: Proxy) -> int:
    """Return what the renamed pid file says."""
    return int((running.prefix / "logs/nginx.pid.oldbin").read_text())


def workers(master: int) -> list[int]:
    """Return the children of a master that are workers."""
    return [
        pid for pid in processes.children(master) if "worker process" in processes.title(pid)
    ]


def start_new(running: Proxy) -> tuple[int, int]:
    """Send USR2; return the pids of the old and the new master."""
    old = running.pid
    os.kill(old, signal.SIGUSR2)
    wait_until(lambda: running.pid not in (0, old) and len(workers(running.pid)) == 2)
    return old, running.pid


def serves(running: Proxy) -> bool:
    """Tell whether TCP and UDP are answered."""
    return (
        clients.tcp_exchange(running.address("tcp")) == b"TEXT"
        and clients.udp_exchange(running.address("udp"), b"hello") == b"hello"
    )


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_the_old_master_goes_on_when_the_new_one_is_gone(
    sig: signal.Signals, ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """The pid file is renamed back, and the old workers have had the UDP clients all the time."""
    running = ngxstream(CONF.format(udp=backends.udp().text), expected=("exited on signal 9",))
    old, new = start_new(running)
    assert old == old_pid(running)
    assert serves(running)
    leftover = workers(new)
    os.kill(new, sig)
    wait_until(lambda: running.pid == old)
    if sig == signal.SIGKILL:
        for pid in leftover:
            os.kill(pid, signal.SIGKILL)
    assert not (running.prefix / "logs/nginx.pid.oldbin").exists()
    assert serves(running)


def test_after_winch_the_old_master_starts_workers_when_the_new_one_dies(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """The workers told to leave are replaced, and they read what nobody else reads any more."""
    running = ngxstream(CONF.format(udp=backends.udp().text))
    old, new = start_new(running)
    first = workers(old)
    os.kill(old, signal.SIGWINCH)
    wait_until(lambda: not any(map(processes.is_alive, first)))
    assert serves(running)
    os.kill(new, signal.SIGTERM)
    wait_until(lambda: running.pid == old and len(workers(old)) == 2)
    assert serves(running)


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL])
def test_who_serves_again_reads_udp_while_former_workers_finish_sessions(
    sig: signal.Signals, ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """HUP to the old master has taken the upgrade back; a TCP session holds a worker of before."""
    text = CONF.format(udp=backends.udp().text).rstrip().removesuffix("}")
    hold = f"server {{ listen 127.0.0.1:@hold@; proxy_pass {backends.tcp().text}; }} }}"
    running = ngxstream(text + hold, expected=("exited on signal 9",))
    with clients.TcpClient(running.address("hold")) as client:
        assert b"x" == client.exchange(b"x")
        old, new = start_new(running)
        os.kill(old, signal.SIGWINCH)
        wait_until(lambda: len(workers(old)) == 1)
        wait_until(lambda: serves(running))
        os.kill(old, signal.SIGHUP)
        wait_until(lambda: len(workers(old)) == 3)
        os.kill(new, sig)
        wait_until(lambda: running.pid == old)
        assert serves(running)
        assert b"y" == client.exchange(b"y")


def test_the_new_master_serves_alone_when_the_old_one_is_terminated(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """Without a hand-over the new workers begin to read UDP when they see that nobody else does."""
    running = ngxstream(CONF.format(udp=backends.udp().text), start=False, args=())
    running.write("daemon on;" + CONF.format(udp=backends.udp().text))
    running.start()
    old, new = start_new(running)
    os.kill(old, signal.SIGTERM)
    wait_until(lambda: not processes.is_alive(old))
    assert new == running.pid
    assert serves(running)


def test_a_reload_right_after_the_old_master_s_end_moves_no_session(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """The new master hears of that end when its workers, slow here, have yet to hand over."""
    backend = backends.udp(lambda _, address: [b"%d" % address[1]])
    running = ngxstream(CONF.format(udp=backend.text))
    with contextlib.ExitStack() as stack:
        talking = [
            stack.enter_context(clients.UdpClient(running.address("udp"))) for _ in range(8)
        ]
        before = [client.exchange(b"x") for client in talking]
        old, new = start_new(running)
        os.kill(old, signal.SIGQUIT)
        wait_until(lambda: not processes.is_alive(old), every=0.001)
        slow = workers(new)
        for pid in slow:
            os.kill(pid, signal.SIGSTOP)
        os.kill(new, signal.SIGHUP)
        wait_until(lambda: len(workers(new)) == 4)
        for client in talking:
            client.send(b"y")
        early = talking[0].drain(quiet=1.0)
        for pid in slow:
            os.kill(pid, signal.SIGCONT)
        assert [] == early
        assert before == [client.recv() for client in talking]


@contextlib.contextmanager
def crowd(
    running: Proxy, number: int = 20
) -> Iterator[Callable[[], list[bytes]]]:
    """Give what has each of some UDP clients ask for the port that its server sees."""
    with contextlib.ExitStack() as stack:
        talking = [
            stack.enter_context(clients.UdpClient(running.address("udp"))) for _ in range(number)
        ]
        yield lambda: [client.exchange(b"x") for client in talking]


def kill(master: int, left: list[int], is_as_ever: Callable[[], bool]) -> None:
    """Kill a master: clients are served as ever while its workers leave, and afterwards."""
    os.kill(master, signal.SIGKILL)
    try:
        for _ in range(30):
            assert is_as_ever()
        wait_until(lambda: not any(map(processes.is_alive, left)))
    finally:
        for pid in filter(processes.is_alive, left):
            os.kill(pid, signal.SIGKILL)
    assert is_as_ever()


@pytest.mark.parametrize("winch", [False, True])
def test_workers_of_a_killed_new_master_take_no_session_from_others(
    winch: bool, ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """They leave; if the UDP clients were theirs, they give them to the old master's workers."""
    backend = backends.udp(lambda _, address: [b"%d" % address[1]])
    running = ngxstream(CONF.format(udp=backend.text), expected=("exited on signal 9",))
    with crowd(running) as ask:
        before = ask()
        old, new = start_new(running)
        first, left = workers(old), workers(new)
        if winch:
            os.kill(old, signal.SIGWINCH)
            wait_until(lambda: not any(map(processes.is_alive, first)))
            assert before == ask()
        kill(new, left, lambda: before == ask())
        assert old == running.pid


def test_workers_of_a_killed_old_master_hand_over(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """The new master's workers go on with the sessions, which nobody was told to give them."""
    backend = backends.udp(lambda _, address: [b"%d" % address[1]])
    running = ngxstream(CONF.format(udp=backend.text), start=False)
    running.write("daemon on;" + CONF.format(udp=backend.text))
    running.start()
    with crowd(running) as ask:
        before = ask()
        old, _ = start_new(running)
        left = workers(old)
        kill(old, left, lambda: before == ask())


def test_a_second_upgrade_waits_for_the_first(ngxstream: ProxyFactory) -> None:
    """While two masters run, USR2 to either is refused in nginx's words."""
    running = ngxstream("events {} stream { server { listen 127.0.0.1:@tcp@; return TEXT; } }"
                        " worker_processes 2;")
    old, new = start_new(running)
    for master in (old, new):
        os.kill(master, signal.SIGUSR2)
        running.wait_log(rf"\[crit\] {master}#.*the changing binary signal is ignored: you should")
    assert b"TEXT" == clients.tcp_exchange(running.address("tcp"))
    os.kill(new, signal.SIGTERM)
    wait_until(lambda: running.pid == old)


def test_a_pid_file_that_cannot_be_renamed_stops_the_upgrade(ngxstream: ProxyFactory) -> None:
    """It is an alert, and everything stays as it is."""
    running = ngxstream("events {} stream { server { listen 127.0.0.1:@tcp@; return TEXT; } }",
                        expected=("rename",))
    old = running.pid
    (running.prefix / "logs/nginx.pid").rename(running.prefix / "logs/elsewhere")
    os.kill(old, signal.SIGUSR2)
    running.wait_log(r"\[alert\] .*rename\(\) .* failed before executing new binary process")
    (running.prefix / "logs/elsewhere").rename(running.prefix / "logs/nginx.pid")
    assert b"TEXT" == clients.tcp_exchange(running.address("tcp"))


def made_by(master: int, pid: int) -> int:
    """Return how many of a process's ports a master has made, of whatever it has."""
    found = strangers.ports_of(pid)
    count = sum(port.peer_of(sock)[0] == master for sock in found)
    for sock in found:
        sock.close()
    return count


def test_no_worker_has_the_link(ngxstream: ProxyFactory, backends: BackendFactory) -> None:
    """What the masters say to each other is between them, also for workers that come later."""
    tools.require_root()
    running = ngxstream(CONF.format(udp=backends.udp().text), expected=("exited on signal 9",))
    old, new = start_new(running)
    before = workers(new)
    os.kill(before[-1], signal.SIGKILL)
    wait_until(lambda: len(set(workers(new)) - set(before)) == 1)
    assert 1 == made_by(old, new)
    assert [0, 0] == [made_by(old, worker) for worker in workers(new)]
    os.kill(old, signal.SIGQUIT)
    wait_until(lambda: not processes.is_alive(old))
    assert serves(running)


def test_a_worker_s_user_has_no_power_over_the_masters(
    ngxstream: ProxyFactory, backends: BackendFactory, tmp_path: Path
) -> None:
    """Whatever a worker of either master says, with all it has: nothing runs, both serve on."""
    tools.require_root()
    strangers.let_in(tmp_path)
    running = ngxstream(
        "user nobody nogroup;" + CONF.format(udp=backends.udp().text), expected=("alert",)
    )
    with clients.UdpClient(running.address("udp")) as client:
        assert b"before" == client.exchange(b"before")
        old, new = start_new(running)
        both = (*workers(old), *workers(new))
        stolen = [sock for pid in both for sock in strangers.ports_of(pid)]
        canary = tmp_path / "executed"
        strangers.run_as(strangers.NOBODY, lambda: strangers.attack(stolen, str(canary)))
        for sock in stolen:
            sock.close()
        os.kill(old, signal.SIGQUIT)
        wait_until(lambda: not processes.is_alive(old))
        assert b"after" == client.exchange(b"after")
    assert new == running.pid
    assert serves(running)
    assert not canary.exists()
    assert not [line for line in running.error_log() if "unexpected exception" in line]


def test_what_is_told_last_is_heard() -> None:
    """A link keeps what was said until it is asked for; descriptors arrive with it."""
    link, theirs = upgrade.Link.pair()
    other = upgrade.Link(theirs)
    assert other.latest() is None
    one, two = port.pair()
    with one, two:
        link.tell((), (FIRST,), ())
        link.tell((), (SECOND,), (one,))
        said = other.latest()
        assert said is not None
        assert (SECOND,) == said.keys
        assert os.getpid() == said.pid
        with said.writers[0] as writer:
            writer.send(b"x")
            assert b"x" == two.recv(1)
    link.close()
    assert said is other.latest(0.1)
    other.close()


def test_what_is_told_while_somebody_waits_is_heard() -> None:
    """A link wakes up when something comes, not when the time is up."""
    link, theirs = upgrade.Link.pair()
    other = upgrade.Link(theirs)
    heard: list[upgrade.Announcement | None] = []
    waiting = threading.Thread(target=lambda: heard.append(other.latest(600.0)))
    waiting.start()
    task = Path(f"/proc/self/task/{waiting.native_id}/stat")
    wait_until(lambda: task.read_text().rpartition(")")[2].split()[0] == "S", what="it waits")
    link.tell((), (FIRST,), ())
    waiting.join(PATIENCE)
    (said,) = heard
    assert said is not None
    assert (FIRST,) == said.keys
    link.close()
    other.close()


def test_nobody_is_waited_for_who_is_gone() -> None:
    """Where the other end is closed nothing comes any more."""
    link, theirs = upgrade.Link.pair()
    other = upgrade.Link(theirs)
    link.close()
    assert other.latest(600.0) is None
    other.close()


# -- another release, another speaker --------------------------------------------------------------


def ends() -> tuple[upgrade.Link, socket.socket, upgrade.Link]:
    """Return a link, the socket at its other end, and a link over that."""
    link, theirs = upgrade.Link.pair()
    return link, theirs, upgrade.Link(theirs)


@pytest.mark.parametrize("head", [b"record", b"\xb7\2\1\0", b"\xb7\1\7\0", b"\xb7\1\1\0"])
def test_another_release_is_not_understood(head: bytes) -> None:
    """One that speaks otherwise is told nothing that it could stumble over, and why is kept."""
    link, theirs, other = ends()
    memory = os.memfd_create("record")
    before = descriptors.count()
    socket.send_fds(theirs, [head + bytes(4)], [memory])
    assert link.latest(20.0) is None
    assert link.fault
    assert before == descriptors.count()
    link.tell((), (), ())
    with pytest.raises(BlockingIOError):
        theirs.recv(10)
    os.close(memory)
    link.close()
    other.close()


def test_a_word_that_is_not_understood_leaves_what_was_said_before() -> None:
    """A link still sends after a message that cannot be decoded, if it has decoded one before."""
    link, theirs, other = ends()
    other.tell((), (FIRST,), ())
    theirs.send(b"nonsense")
    said = link.latest()
    assert said is not None
    assert (FIRST,) == said.keys
    assert link.fault
    link.tell((), (SECOND,), ())
    assert (SECOND,) == other.latest().keys
    link.close()
    other.close()


def test_only_the_other_master_is_listened_to() -> None:
    """Another process with the descriptor, of the same user even, says nothing here."""
    link, _, other = ends()
    link.expect(os.getpid())
    strangers.run_as(os.geteuid(), lambda: other.tell((), (FIRST,), ()))
    assert link.latest() is None
    assert "speaks where only the other master may" in link.fault
    other.tell((), (SECOND,), ())
    assert (SECOND,) == link.latest().keys
    link.close()
    other.close()


def test_a_hundred_thousand_addresses_are_told() -> None:
    """And three hundred mailboxes with them."""
    link, _, other = ends()
    udp = socket.SOCK_DGRAM
    keys = [(udp, 2, (f"10.0.{n >> 8 & 255}.{n & 255}", n >> 16)) for n in range(100_000)]
    box = port.pair()
    before = descriptors.count()
    other.tell((), keys, [box[0]] * 300)
    said = link.latest(20.0, writers=True)
    assert (tuple(keys), 300) == (said.keys, len(said.writers))
    link.close()
    assert before - 1 == descriptors.count()
    other.close()
    for sock in box:
        sock.close()


def test_one_master_at_a_time_has_servers_changed(ngxstream: ProxyFactory) -> None:
    """What the workers of the older one were asked for would be lost: they refuse, and go on when
    the new one is gone.
    """
    running = ngxstream("""
        worker_processes 1; events {}
        stream {
            upstream u { zone u 64k; state u.conf; }
            server { listen 127.0.0.1:@api@; api write=on; }
            server { listen 127.0.0.1:@tcp@; proxy_pass u; }
        }""")
    path = f"{api_calls.PLUS}/stream/upstreams/u/servers"

    def add(n: int) -> int:
        return api_calls.call(running, path, "POST", {"server": f"127.0.0.1:{n}"})[0]

    assert 201 == add(1)
    old = running.pid
    os.kill(old, signal.SIGUSR2)
    wait_until(lambda: running.pid not in (0, old) and len(workers(running.pid)) == 1)
    codes = {n: add(n) for n in range(2, 22)}  # some come to either
    assert {201, 503} >= set(codes.values())
    new = running.pid
    with processes.stopped(workers(new)[0]):
        assert 503 == add(30)
    os.kill(new, signal.SIGTERM)
    wait_until(lambda: running.pid == old and add(31) == 201)


def test_what_modules_hand_on_is_not_forgotten_for_a_later_announcement() -> None:
    """It is told once; what is said of workers and addresses is new each time."""
    other, theirs = upgrade.Link.pair()
    link = upgrade.Link(theirs, os.getpid())
    other.tell((), (FIRST,), (), [("health", b"found")])
    other.tell((), (SECOND,), ())
    said = link.latest(PATIENCE)
    assert said is not None
    assert ((SECOND,), {"health": b"found"}) == (said.keys, said.states)
    for end in (link, other):
        end.close()
