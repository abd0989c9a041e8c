"""Listening sockets: opened, adopted, regrouped, refused and closed on real sockets."""

import errno
import os
import resource
import socket
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ngxstream.core import errors, log
from ngxstream.event import listen_socket, listening, steering
from ngxstream.event.listen_options import ListenOptions
from tests.support import descriptors, ports, work

TIMEOUT_S = 10


class Lines:
    """A log target that keeps (level name, message)."""

    level = log.DEBUG
    on_stderr = False

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def write(self, level: int, line: bytes) -> None:
        """Keep one line."""
        text = line.decode().rstrip("\n")
        self.said.append((log.NAMES[level], text.split("#", 1)[1].split(": ", 1)[1]))

    def with_level(self, level: int) -> "Lines":
        """Want everything at any level."""
        return self


@pytest.fixture
def lines() -> Lines:
    """Give what the log received."""
    return Lines()


@pytest.fixture
def to(lines: Lines) -> log.Log:
    """Give a log that keeps its lines."""
    return log.Log([lines])


def tcp(port: int = 0, host: str = "127.0.0.1", **more: Any) -> ListenOptions:
    """Return the options of a TCP address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sockaddr = (host, port, 0, 0) if ":" in host else (host, port)
    wildcard = host in ("0.0.0.0", "::")
    text = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return ListenOptions(family, socket.SOCK_STREAM, sockaddr, text, wildcard, **more)


def udp(port: int = 0, host: str = "127.0.0.1", **more: Any) -> ListenOptions:
    """Return the options of a UDP address."""
    return replace(tcp(port, host, **more), socktype=socket.SOCK_DGRAM)


def unix(path: Path, socktype: int = socket.SOCK_STREAM) -> ListenOptions:
    """Return the options of a Unix address."""
    return ListenOptions(socket.AF_UNIX, socktype, str(path), f"unix:{path}")


def port_of(one: listening.Listening) -> int:
    """Return the port a listening has got."""
    return one.socks[0].getsockname()[1]


def close(*sets: list[listening.Listening]) -> None:
    """Close all sockets of these sets."""
    for one in sets:
        listening.close_all(one, unlink=True, log=log.Log())


def fds(one: listening.Listening) -> list[int]:
    """Return the descriptors of a listening."""
    return [sock.fileno() for sock in one.socks]


def test_tcp_is_one_socket_for_all_workers(to: log.Log) -> None:
    """Without reuseport every worker accepts on the same socket, with the backlog of nginx."""
    (one,) = found = listening.open_all([tcp()], [], workers=4, log=to)
    assert 1 == len(one.socks)
    assert [one.socks] * 4 == [one.for_worker(n, 4) for n in range(4)]
    assert one.is_shared(one.socks[0])
    with socket.create_connection(one.socks[0].getsockname(), TIMEOUT_S):
        one.socks[0].settimeout(TIMEOUT_S)
        accepted, _ = one.socks[0].accept()
        accepted.close()
    assert 511 == one.options.backlog
    close(found)


def test_tcp_reuseport_is_a_socket_for_each_worker(to: log.Log) -> None:
    """With reuseport each worker has a socket of its own on the same port, even on port 0."""
    (one,) = found = listening.open_all([tcp(reuseport=True)], [], workers=3, log=to)
    assert 3 == len(one.socks)
    assert 1 == len({sock.getsockname() for sock in one.socks})
    assert [[sock] for sock in one.socks] == [one.for_worker(n, 3) for n in range(3)]
    assert not one.is_shared(one.socks[0])
    close(found)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_udp_is_steered_to_a_socket_for_each_worker(host: str, to: log.Log) -> None:
    """UDP has a socket for each worker without reuseport, and a client has one of them."""
    (one,) = found = listening.open_all([udp(0, host)], [], workers=3, log=to)
    listening.configure(found, workers=3, log=to)
    target = ("::1" if ":" in host else "127.0.0.1", port_of(one))
    family = one.options.family
    for sock in one.socks:
        sock.settimeout(TIMEOUT_S)
    for _ in range(100):
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            client.connect(target)
            client.send(b"1")
            client.send(b"2")
            owner = steering.owner_of(family, client.getsockname(), 3)
            sock = one.for_worker(owner, 3)[0]
            assert [b"1", b"2"] == [sock.recv(10), sock.recv(10)]
    close(found)


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_udp_address_in_use_is_refused(
    host: str, workers: int, reuse: bool, to: log.Log, lines: Lines
) -> None:
    """A second instance hears nginx's words for an address somebody serves, five times."""
    (one,) = found = listening.open_all([udp(0, host)], [], workers=workers, log=to)
    listening.configure(found, workers=workers, log=to)
    again = udp(port_of(one), host, reuseport=reuse)
    waits: list[float] = []
    with pytest.raises(errors.ListenError, match=r"^still could not bind\(\)$"):
        listening.open_all([again], [], workers=workers, log=to, sleep=waits.append)
    refusal = ("emerg", f"bind() to {again.text} failed (98: Address already in use)")
    assert [refusal, ("notice", "try again to bind() after 500ms")] * 5 == lines.said
    assert [0.5] * 5 == waits
    close(found)


def test_a_tcp_address_in_use_is_refused_and_the_rest_closed(
    to: log.Log, lines: Lines
) -> None:
    """When one address cannot be had, those that could are closed again."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = socket.create_server(("127.0.0.1", 0))
        wanted = [tcp(free.getsockname()[1]), tcp(taken.getsockname()[1])]
        free.close()
        with pytest.raises(errors.ListenError):
            listening.open_all(wanted, [], workers=1, log=to, sleep=lambda _: None)
        socket.create_server(wanted[0].sockaddr).close()
    assert 5 == sum(level == "emerg" for level, _ in lines.said)


def test_an_address_freed_meanwhile_is_bound(to: log.Log, lines: Lines) -> None:
    """A retry after the first refusal succeeds as soon as the address is free."""
    taken = socket.create_server(("127.0.0.1", 0))
    wanted = tcp(taken.getsockname()[1])
    (one,) = found = listening.open_all(
        [wanted], [], workers=1, log=to, sleep=lambda _: taken.close()
    )
    assert wanted.sockaddr == one.socks[0].getsockname()
    assert ["emerg", "notice"] == [level for level, _ in lines.said]
    close(found)


def test_an_address_nobody_has_is_refused_at_once(to: log.Log) -> None:
    """What no wait can mend is not retried."""
    wanted = tcp(1, "203.0.113.77")
    with pytest.raises(errors.ListenError) as caught:
        listening.open_all(
            [wanted], [], workers=1, log=to, sleep=lambda _: pytest.fail("waited")
        )
    assert (
        "bind() to 203.0.113.77:1 failed (99: Cannot assign requested address)"
        == str(caught.value)
    )


def test_a_test_passes_over_addresses_in_use(
    to: log.Log, lines: Lines, tmp_path: Path
) -> None:
    """-t binds what is free, says nothing of what is in use, and leaves no Unix socket behind."""
    path = tmp_path / "s"
    running = listening.open_all([udp(), tcp()], [], workers=2, log=to)
    wanted = [
        udp(port_of(running[0])),
        tcp(port_of(running[1])),
        udp(),
        tcp(),
        unix(path),
    ]
    tested = listening.open_all(wanted, [], workers=2, log=to, test=True)
    assert [0, 0, 1, 1, 1] == [len(one.socks) for one in tested]
    assert not path.exists()
    assert [] == lines.said
    close(running, tested)


def test_a_reload_adopts_by_kind_and_address(to: log.Log) -> None:
    """What both sets have is the same socket; the rest is opened, and closed once released."""
    old = listening.open_all([tcp(), udp()], [], workers=2, log=to)
    kept = replace(old[0].options, sockaddr=("127.0.0.1", port_of(old[0])))
    old[0].options = kept
    new = listening.open_all([kept, tcp(0, "127.0.0.2")], old, workers=2, log=to)
    assert old[0].socks == new[0].socks
    assert [] == new[0].opened
    listening.configure(new, workers=2, log=to)
    listening.release(old, new, log=to)
    assert [-1, -1] == fds(old[1])
    assert all(fd >= 0 for fd in fds(new[0]) + fds(new[1]))
    close(new)


def test_an_abandoned_set_leaves_the_old_one_whole(to: log.Log, tmp_path: Path) -> None:
    """Abandoning closes what was opened for the new set only, group members included."""
    old = listening.open_all([tcp(), udp()], [], workers=2, log=to)
    listening.configure(old, workers=2, log=to)
    before = [fds(one) for one in old]
    path = tmp_path / "s"
    wanted = [*(one.options for one in old), unix(path)]
    new = listening.open_all(wanted, old, workers=4, log=to)
    assert 4 == len(new[1].socks)
    listening.abandon(new)
    assert before == [fds(one) for one in old]
    assert [-1, -1] == fds(new[1])[2:]
    assert not path.exists()
    target = old[1].socks[0].getsockname()
    for sock in old[1].socks:
        sock.settimeout(TIMEOUT_S)
    for _ in range(50):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(target)
            client.send(b"x")
            owner = steering.owner_of(socket.AF_INET, client.getsockname(), 2)
            assert b"x" == old[1].socks[owner].recv(10)
    close(old)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (1, 4), (2, 5), (4, 1), (3, 2)])
def test_a_udp_group_follows_the_number_of_workers(
    before: int, after: int, to: log.Log
) -> None:
    """No datagram is lost when workers come or go, and each is where its reader looks."""
    old = listening.open_all([udp()], [], workers=before, log=to)
    listening.configure(old, workers=before, log=to)
    target = old[0].socks[0].getsockname()
    clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(60)]
    for client in clients:
        client.connect(target)
        client.send(b"early")
    new = listening.open_all([one.options for one in old], old, workers=after, log=to)
    for client in clients:
        client.send(b"between")
    for one in new[0].socks:
        assert one.getsockname() == target
    late = [sock for sock in new[0].socks if sock in new[0].opened]
    for sock in late:
        with pytest.raises(BlockingIOError):
            sock.recv(10)  # nothing reaches it before it is meant
    listening.configure(new, workers=after, log=to)
    listening.release(old, new, log=to)
    for client in clients:
        client.send(b"late")
    seen: dict[tuple, list[tuple[int, bytes]]] = {}
    readers = [new[0].for_worker(worker, after) for worker in range(after)]
    assert sorted(map(id, new[0].socks)) == sorted(
        id(s) for socks in readers for s in socks
    )
    for worker, socks in enumerate(readers):
        for sock in socks:
            while True:
                try:
                    data, source = sock.recvfrom(10)
                except BlockingIOError:
                    break
                seen.setdefault(source, []).append((worker, data))
    for client in clients:
        got = seen[client.getsockname()]
        assert sorted([b"early", b"between", b"late"]) == sorted(
            data for _, data in got
        )
        owner = steering.owner_of(socket.AF_INET, client.getsockname(), after)
        assert owner == next(worker for worker, data in got if data == b"late")
        client.close()
    close(new)


def test_a_wildcard_and_an_address_of_one_udp_port_live_together(to: log.Log) -> None:
    """`listen PORT udp` and `listen ADDR:PORT udp bind` of one configuration both get clients."""
    port = ports.free_udp_port()
    wanted = [udp(port, "0.0.0.0"), udp(port, "127.0.0.2", bind=True), udp(port, "::")]
    found = listening.open_all(wanted, [], workers=2, log=to)
    listening.configure(found, workers=2, log=to)
    for host, one in (
        ("127.0.0.1", found[0]),
        ("127.0.0.2", found[1]),
        ("::1", found[2]),
    ):
        for _ in range(20):
            family = one.options.family
            with socket.socket(family, socket.SOCK_DGRAM) as client:
                client.connect((host, port))
                client.send(b"x")
                owner = steering.owner_of(family, client.getsockname(), 2)
                one.socks[owner].settimeout(TIMEOUT_S)
                assert b"x" == one.socks[owner].recv(10)
    close(found)


def test_a_dual_stack_and_an_ipv4_address_of_one_udp_port_live_together(
    to: log.Log,
) -> None:
    """`listen [::]:PORT udp ipv6only=off` beside `listen ADDR:PORT udp` is no conflict."""
    port = ports.free_udp_port()
    wanted = [udp(port, "::", ipv6only=False), udp(port, "127.0.0.1", bind=True)]
    found = listening.open_all(wanted, [], workers=2, log=to)
    assert [2, 2] == [len(one.socks) for one in found]
    close(found)


def test_somebody_else_behind_our_own_socket_is_still_seen(to: log.Log) -> None:
    """An address of ours in the way does not hide that a third one is taken by others."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as foreign:
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        port = ports.free_udp_port()
        foreign.bind(("127.0.0.3", port))
        wanted = [udp(port, "127.0.0.2"), udp(port, "0.0.0.0")]
        with pytest.raises(errors.ListenError):
            listening.open_all(wanted, [], workers=2, log=to, sleep=lambda _: None)


def test_reuseport_may_come_and_go(to: log.Log) -> None:
    """A TCP address keeps its sockets when reuseport is added or taken back at a reload."""
    first = listening.open_all([tcp()], [], workers=3, log=to)
    with_it = replace(first[0].options, reuseport=True)
    second = listening.open_all([with_it], first, workers=3, log=to)
    listening.release(first, second, log=to)
    assert 3 == len(second[0].socks)
    assert first[0].socks[0] is second[0].socks[0]
    third = listening.open_all([first[0].options], second, workers=2, log=to)
    listening.release(second, third, log=to)
    assert second[0].socks == third[0].socks
    shared, one, two = third[0].socks
    assert [[shared, one], [shared, two]] == [
        third[0].for_worker(n, 2) for n in range(2)
    ]
    assert [True, False, False] == [third[0].is_shared(sock) for sock in third[0].socks]
    close(third)


def test_options_are_set_and_follow_a_reload(to: log.Log, lines: Lines) -> None:
    """Buffers, keepalive, fast open and deferred accept are on the socket, changes included."""
    level = socket.IPPROTO_TCP
    given = tcp(
        rcvbuf=65536,
        sndbuf=32768,
        keepalive=(100, 0, 5),
        fastopen=16,
        deferred=True,
        backlog=7,
    )
    old = listening.open_all([given], [], workers=1, log=to)
    listening.configure(old, workers=1, log=to)
    sock = old[0].socks[0]
    assert 2 * 65536 == sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert 2 * 32768 == sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    assert 1 == sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert 100 == sock.getsockopt(level, socket.TCP_KEEPIDLE)
    assert 5 == sock.getsockopt(level, socket.TCP_KEEPCNT)
    assert 16 == sock.getsockopt(level, socket.TCP_FASTOPEN)
    assert 0 < sock.getsockopt(level, socket.TCP_DEFER_ACCEPT)
    changed = replace(given, deferred=False, keepalive="off", backlog=9)
    new = listening.open_all([changed], old, workers=1, log=to)
    assert 0 < sock.getsockopt(level, socket.TCP_DEFER_ACCEPT)  # not before it is meant
    listening.configure(new, workers=1, log=to)
    assert 0 == sock.getsockopt(level, socket.TCP_DEFER_ACCEPT)
    assert 0 == sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert 9 == backlog_of(sock)
    assert [] == lines.said
    close(new)


def backlog_of(sock: socket.socket) -> int:
    """Return the backlog of a listening TCP socket: tcpi_sacked of TCP_INFO says it."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int.from_bytes(info[28:32], "little")


def test_ipv6_is_only_ipv6_unless_told(to: log.Log) -> None:
    """ipv6only is on by default and can be off."""
    found = listening.open_all([tcp(0, "::"), tcp(0, "::1")], [], workers=1, log=to)
    off = listening.open_all(
        [replace(tcp(0, "::"), ipv6only=False)], [], workers=1, log=to
    )
    only = [
        one.socks[0].getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        for one in (*found, *off)
    ]
    assert [1, 1, 0] == only
    close(found, off)


@pytest.mark.parametrize(
    ("host", "option"),
    [
        ("0.0.0.0", (socket.IPPROTO_IP, listen_socket.IP_PKTINFO)),
        ("::", (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO)),
    ],
)
def test_wildcard_udp_learns_the_address_used(
    host: str, option: tuple[int, int], to: log.Log
) -> None:
    """The destination of a datagram comes with it on wildcard sockets, all of the group."""
    found = listening.open_all([udp(0, host)], [], workers=2, log=to)
    listening.configure(found, workers=2, log=to)
    assert [1, 1] == [sock.getsockopt(*option) for sock in found[0].socks]
    close(found)


def test_a_unix_socket_is_for_everybody_and_goes_with_its_listening(
    to: log.Log, lines: Lines, tmp_path: Path
) -> None:
    """A Unix socket has mode 0666; released, its path is deleted and the log says so."""
    path = tmp_path / "s"
    old = listening.open_all([unix(path)], [], workers=2, log=to)
    assert 0o666 == os.stat(path).st_mode & 0o777
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listening.release(old, [], log=to)
    assert not path.exists()
    assert [("warn", f"deleting socket {path}")] == lines.said


def test_a_unix_path_that_exists_is_in_use(to: log.Log, tmp_path: Path) -> None:
    """Somebody may be about to listen there; what nobody has any more is test_stale.py's."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        with pytest.raises(errors.ListenError):
            listening.open_all([unix(path)], [], workers=1, log=to, sleep=lambda _: None)
    assert path.exists()


def test_unix_datagrams_have_one_owner(to: log.Log, tmp_path: Path) -> None:
    """A Unix datagram socket is read by worker 0 alone."""
    path = tmp_path / "s"
    found = listening.open_all([unix(path, socket.SOCK_DGRAM)], [], workers=3, log=to)
    assert [1, 0, 0] == [len(found[0].for_worker(n, 3)) for n in range(3)]
    close(found)
    assert not path.exists()


def mptcp_works() -> bool:
    """Tell whether this kernel makes MPTCP sockets."""
    try:
        socket.socket(
            socket.AF_INET, socket.SOCK_STREAM, listen_socket.IPPROTO_MPTCP
        ).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not mptcp_works(), reason="this kernel makes no MPTCP sockets")
def test_multipath_may_come_and_go(to: log.Log) -> None:
    """A change of protocol at a reload opens a new socket at the address before the old goes."""
    port = ports.free_tcp_port()
    first = listening.open_all([tcp(port)], [], workers=1, log=to)
    second = listening.open_all([tcp(port, multipath=True)], first, workers=1, log=to)
    listening.configure(second, workers=1, log=to)
    listening.release(first, second, log=to)
    assert [-1] == fds(first[0])
    assert listen_socket.IPPROTO_MPTCP == second[0].socks[0].proto
    socket.create_connection(("127.0.0.1", port), TIMEOUT_S).close()
    close(second)


@pytest.mark.skipif(mptcp_works(), reason="this kernel makes MPTCP sockets")
def test_multipath_without_kernel_support_is_refused(to: log.Log) -> None:
    """The message names socket() and the address."""
    with pytest.raises(
        errors.ListenError, match=r"^socket\(\) 127.0.0.1:0 failed \(\d+: "
    ):
        listening.open_all([tcp(multipath=True)], [], workers=1, log=to)


def test_an_option_the_kernel_refuses_is_an_alert(to: log.Log, lines: Lines) -> None:
    """What configure() cannot set is said and lived with."""
    found = listening.open_all([tcp(keepalive=(1 << 20, 0, 0))], [], workers=1, log=to)
    listening.configure(found, workers=1, log=to)
    text = found[0].options.text
    why = errors.strerror(errno.EINVAL)
    expected = f"setsockopt(TCP_KEEPIDLE, {1 << 20}) {text} failed, ignored {why}"
    assert [("alert", expected)] == lines.said
    close(found)


class Reloads(RuleBasedStateMachine):
    """Any sequence of reloads, meant or abandoned, against a model: what should be open is."""

    def __init__(self) -> None:
        super().__init__()
        self.log = log.Log()
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "s"
        tcp_port, udp_port = ports.free_port(), ports.free_port()
        self.addresses = {
            "tcp": tcp(tcp_port),
            "tcp reuseport": tcp(tcp_port, reuseport=True),
            "udp": udp(udp_port, "127.0.0.2"),
            "udp backed by all": udp(udp_port, "0.0.0.0"),
            "udp six": udp(udp_port, "::1"),
            "unix": unix(path),
        }
        self.fds = open_fds()
        self.now: list[listening.Listening] = []
        self.workers = 1

    @rule(
        names=st.sets(
            st.sampled_from(
                ["tcp", "tcp reuseport", "udp", "udp backed by all", "udp six", "unix"]
            )
        ),
        workers=st.integers(min_value=1, max_value=4),
        meant=st.booleans(),
    )
    def reload(self, names: set[str], workers: int, meant: bool) -> None:
        """Open another set beside the one that is there; keep one of the two."""
        if {"tcp", "tcp reuseport"} <= names:
            names = names - {"tcp"}  # one address, two spellings
        wanted = [self.addresses[name] for name in sorted(names)]
        new = listening.open_all(wanted, self.now, workers=workers, log=self.log)
        if not meant:
            listening.abandon(new)
            return
        listening.configure(new, workers=workers, log=self.log)
        listening.release(self.now, new, log=self.log)
        self.now, self.workers = new, workers

    @invariant()
    def only_the_current_sockets_are_open(self) -> None:
        """Descriptors are those of the current set, each once."""
        numbers = [fd for one in self.now for fd in fds(one)]
        assert len(set(numbers)) == len(numbers)
        assert set(numbers) == open_fds() - self.fds

    @invariant()
    def every_worker_has_what_it_needs(self) -> None:
        """All sockets of an address have a reader; shared ones all workers."""
        for one in self.now:
            readers = [
                one.for_worker(worker, self.workers) for worker in range(self.workers)
            ]
            assert set(one.socks) == {sock for socks in readers for sock in socks}
            if one.options.is_group or not one.options.is_udp:
                assert all(readers)

    @invariant()
    def clients_reach_their_worker(self) -> None:
        """A UDP client's datagram is where its owner reads first."""
        for one in self.now:
            if not one.options.is_udp:
                continue
            host = {"0.0.0.0": "127.0.0.1"}.get(
                one.options.sockaddr[0], one.options.sockaddr[0]
            )
            with socket.socket(one.options.family, socket.SOCK_DGRAM) as client:
                client.connect((host, port_of(one)))
                client.send(b"x")
                name = client.getsockname()
                owner = steering.owner_of(one.options.family, name, self.workers)
                data, source = one.for_worker(owner, self.workers)[0].recvfrom(10)
                assert (b"x", name[:2]) == (data, source[:2])

    def teardown(self) -> None:
        """Leave nothing open."""
        close(self.now)
        self.folder.cleanup()


def open_fds() -> set[int]:
    """Return the descriptors of this process, without that of the look itself."""
    return {
        fd
        for fd in map(int, os.listdir("/proc/self/fd"))
        if os.path.exists(f"/dev/fd/{fd}")
    }


TestReloads = Reloads.TestCase
TestReloads.settings = settings(max_examples=40, stateful_step_count=8, deadline=None)


def hosts(n: int) -> list[str]:
    """Return so many addresses of the loopback interface."""
    return [f"127.9.{number // 200}.{number % 200 + 1}" for number in range(n)]


def test_the_work_of_a_set_grows_with_it(to: log.Log) -> None:
    """Opening, adopting, tuning and closing twice as many addresses is twice the work."""

    def live(n: int) -> None:
        wanted = [make(0, host) for host in hosts(n) for make in (tcp, udp)]
        found = listening.open_all(wanted, [], workers=2, log=to)
        listening.configure(found, workers=2, log=to)
        later = [options for options in wanted if options.is_udp]
        adopted = listening.open_all(later, found, workers=3, log=to)
        listening.configure(adopted, workers=3, log=to, defer=True)
        listening.widen(adopted)
        listening.release(found, adopted, log=to)
        close(adopted)

    assert work.growth(live, 20) < work.LINEAR


def test_the_work_grows_no_faster_where_own_addresses_are_in_the_way(to: log.Log) -> None:
    """A wildcard and an address at each of many ports: the kernel's table is read once."""
    free = [ports.free_udp_port() for _ in range(80)]

    def live(n: int) -> None:
        wanted = [udp(port, host) for port in free[:n] for host in ("0.0.0.0", "127.0.0.1")]
        found = listening.open_all(wanted, [], workers=2, log=to)
        close(found)

    assert work.growth(live, 20) < work.LINEAR


def test_udp_groups_are_smaller_where_descriptors_are_few(to: log.Log) -> None:
    """The further sockets of all groups take a quarter of the descriptors; all have a reader."""
    few = [udp(0, host) for host in hosts(6)]
    many = [udp(port, host) for port, host in enumerate(hosts(60), ports.free_port_range(60))]
    with descriptors.no_more_than(280):
        enough = listening.open_all(few, [], workers=12, log=to)
        assert [12] * 6 == [len(one.socks) for one in enough]
        close(enough)
        found = listening.open_all(many, [], workers=4, log=to)
        assert [2] * 60 == [len(one.socks) for one in found]
        listening.configure(found, workers=4, log=to)
        reading = [sum(len(one.for_worker(n, 4)) for one in found) for n in range(4)]
        assert [30] * 4 == reading
        for one in found:
            readers = [sock for n in range(4) for sock in one.for_worker(n, 4)]
            assert set(one.socks) == set(readers)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.connect(one.options.sockaddr)
                client.send(b"x")
                number = steering.owner_of(socket.AF_INET, client.getsockname(), one.spread(4))
                (mine,) = one.for_worker(one.reader_of(number, 4), 4)
                assert b"x" == mine.recv(10)
        close(found)


def test_a_group_keeps_its_size_over_reloads(to: log.Log) -> None:
    """Old workers send their clients where the new ones read: what they know stays true."""
    many = [udp(0, host) for host in hosts(60)]
    with descriptors.no_more_than(240):
        found = listening.open_all(many, [], workers=4, log=to)
        listening.configure(found, workers=4, log=to)
        left = listening.open_all(many[:3], found, workers=4, log=to)
        assert [(2, 2)] * 3 == [(one.most, len(one.socks)) for one in left]
        listening.configure(left, workers=4, log=to)
        listening.release(found, left, log=to)
        full = [udp(0, host) for host in hosts(5)[3:]]
        more = listening.open_all(full, left, workers=4, log=to)
        listening.configure(more, workers=4, log=to)
        assert [(0, 4)] * 2 == [(one.most, len(one.socks)) for one in more]
        again = listening.open_all(full + many[5:], more, workers=4, log=to)
        assert [(0, 4)] * 2 == [(one.most, len(one.socks)) for one in again[:2]]
        listening.abandon(again)
        close(more, left)


@pytest.mark.parametrize(
    ("steered", "socks", "expected"), [(0, 1, True), (2, 1, False), (0, 10**9, False)]
)
def test_a_group_of_this_master_s_stays_as_large_as_it_is(
    steered: int, socks: int, expected: bool
) -> None:
    """Where descriptors are few a new group has fewer sockets, one that is steered as many."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    groups: Any = [
        SimpleNamespace(
            options=SimpleNamespace(is_group=True, is_udp=True),
            is_fixed=False,
            previous=SimpleNamespace(steered=number),
            socks=range(socks),
            most=0,
        )
        for number in (steered, 0)
    ]
    groups[1].previous = None
    listening._limit_groups(groups, limit)
    most = 1 + limit // listening.JOINING // 2
    assert (most if expected else 0) == groups[0].most
    assert (most if socks == 1 else 0) == groups[1].most
