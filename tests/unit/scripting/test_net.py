"""connect(), connect_udp(), connect_unix() and resolve()."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ngxstream.core import inet
from ngxstream.event import names
from ngxstream.event.loop import Loop
from ngxstream.scripting import (
    ResolveError,
    connect,
    connect_udp,
    connect_unix,
    net,
    resolve,
    timeout,
)
from ngxstream.stream.resolver_conf import ResolverConf
from ngxstream.wire import dns
from tests.support import descriptors
from tests.support.awaited import result, start
from tests.support.backends import BackendFactory
from tests.support.engine import engine
from tests.support.scripted_dns import Query, ScriptedDns, respond
from tests.support.waiting import wait_until

V4, V6 = ipaddress.IPv4Address, ipaddress.IPv6Address


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Give a loop that has all its slots, and no descriptor, left at the end."""
    with engine() as made:
        before = descriptors.count()
        yield made
        made.turn(0)
        assert 512 == made.free_connections
        wait_until(lambda: before >= descriptors.count())  # a server in a thread may be behind


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, list[str] | Exception]:
    """Give a table that takes the system's place."""
    table: dict[bytes, list[str] | Exception] = {}

    def getaddrinfo(name: bytes, *_: Any, **__: Any) -> list[Any]:
        known = table.get(name, socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
        if isinstance(known, Exception):
            raise known
        return [
            (socket.AF_INET6 if ":" in one else socket.AF_INET, 1, 6, "", (one, 0)) for one in known
        ]

    monkeypatch.setattr(names.socket, "getaddrinfo", getaddrinfo)
    return table


def test_an_address_is_itself(loop: Loop) -> None:
    """Nobody is asked; IPv6 with brackets as well."""
    assert [V4("192.0.2.1")] == result(loop, resolve("192.0.2.1"))
    assert [V6("2001:db8::1")] == result(loop, resolve("[2001:db8::1]"))


def test_without_a_resolver_the_system_is_asked(
    loop: Loop, found: dict[bytes, list[str] | Exception]
) -> None:
    """Addresses of both families, in its order; what it does not know is an error."""
    found[b"a.test"] = ["2001:db8::1", "192.0.2.1"]
    assert [V6("2001:db8::1"), V4("192.0.2.1")] == result(loop, resolve("a.test"))
    with pytest.raises(ResolveError, match=r'"b\.test" could not be resolved: Name or'):
        result(loop, resolve("b.test"))
    found[b"none.test"] = []
    with pytest.raises(ResolveError, match="no addresses"):
        result(loop, resolve("none.test"))


@pytest.mark.parametrize(
    "name", ["", "a b", "a\0b", "\xe4.test", "a/b", "x" * 254, "-a", "a:80", None, b"a.test"]
)
def test_what_is_no_name_is_refused(loop: Loop, name: Any) -> None:
    """Nobody is asked."""
    with pytest.raises(ValueError, match="no name"):
        result(loop, resolve(name))


def resolver(port: int) -> ResolverConf:
    """Make what a resolver directive is."""
    address = inet.parse_addr_port(f"127.0.0.1:{port}")
    assert address is not None
    return ResolverConf((address,), ipv6=False)


def test_the_servers_resolver_is_asked_where_there_is_one() -> None:
    """What it answers, and what it does not know."""

    def script(query: Query) -> list[bytes]:
        if query.name != "a.test":
            return [respond(query, rcode=dns.NXDOMAIN)]
        return [respond(query, [("a.test", dns.A, 60, "192.0.2.7")])]

    with ScriptedDns(script) as server, engine() as loop:
        conf = resolver(server.port)
        assert [V4("192.0.2.7")] == result(loop, resolve("A.test"), resolver=conf)
        with pytest.raises(ResolveError, match="Host not found"):
            result(loop, resolve("b.test"), resolver=conf)


def test_a_resolver_that_is_silent_is_a_time_that_is_over(loop: Loop) -> None:
    """`resolver_timeout`, where the caller gives more."""
    with (
        ScriptedDns(lambda _: ()) as server,
        pytest.raises(TimeoutError, match="could not be resolved in time"),
    ):
        result(loop, resolve("a.test"), resolver=resolver(server.port), resolver_timeout=20)


def test_a_port_is_a_port(loop: Loop) -> None:
    """Anything else is refused before anything is opened."""
    for wrong in (0, -1, 65_536, "80", None):
        for function in (connect, connect_udp):
            with pytest.raises(ValueError, match="no port"):
                result(loop, function("127.0.0.1", wrong))  # type: ignore[arg-type]


def test_addresses_are_tried_in_turn(
    loop: Loop, backends: BackendFactory, found: dict[bytes, list[str] | Exception]
) -> None:
    """The first that is there has the connection; of none, the last error is told."""
    server = backends.tcp()
    found[b"a.test"] = ["127.0.0.2", "127.0.0.1", "127.0.0.3"]
    found[b"b.test"] = ["127.0.0.2", "127.0.0.3"]

    async def where(name: str) -> str:
        async with await connect(name, server.port) as stream:
            return str(stream.peer.ip)

    assert "127.0.0.1" == result(loop, where("a.test"))
    with pytest.raises(ConnectionRefusedError, match=r"b\.test"):
        result(loop, where("b.test"))


def test_an_address_that_is_silent_leaves_time_for_the_next(
    loop: Loop, backends: BackendFactory, found: dict[bytes, list[str] | Exception],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each has its share."""
    server = backends.tcp()
    found[b"a.test"] = ["127.0.0.2", "127.0.0.1"]
    actual = net.opening.connection

    async def connection(task: Any, target: Any, *more: Any) -> Any:
        if target.sockaddr[0] == "127.0.0.2":
            await net.tasks.Sleep(1_000_000)
        return await actual(task, target, *more)

    monkeypatch.setattr(net.opening, "connection", connection)

    async def where() -> str:
        async with await connect("a.test", server.port, timeout=4) as made:
            return str(made.peer.ip)

    assert "127.0.0.1" == result(loop, where())


def test_a_host_that_never_answers_is_given_up(loop: Loop) -> None:
    """TimeoutError, and nothing is left."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        others = [socket.socket() for _ in range(2)]
        for one in others:  # fill what it lets wait
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        try:
            with pytest.raises(TimeoutError):
                result(loop, connect("127.0.0.1", full.getsockname()[1], timeout=0.05))
        finally:
            for one in others:
                one.close()


def test_a_unix_socket_is_connected(loop: Loop, backends: BackendFactory, tmp_path: Path) -> None:
    """By its path; one that is none is refused, one that is not there is an error."""
    path = str(tmp_path / "s")
    backends.tcp(host=path)

    async def talk() -> tuple[bytes, str]:
        async with await connect_unix(path) as stream:
            stream.write(b"hello")
            return await stream.readexactly(5), str(stream.peer)

    assert (b"hello", f"unix:{path}") == result(loop, talk())
    with pytest.raises(FileNotFoundError, match="unix:"):
        result(loop, connect_unix(path + "x"))
    for wrong in ("", "a\0", "x" * 108):
        with pytest.raises(ValueError, match="no path"):
            result(loop, connect_unix(wrong))


def test_a_wait_for_a_name_can_be_cancelled(loop: Loop) -> None:
    """By a time that is over, or by the end of the task; the resolver keeps nobody."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        conf = resolver(silent.getsockname()[1])

        async def asks() -> None:
            async with timeout(0.02):
                await resolve("a.test")

        with pytest.raises(TimeoutError):
            result(loop, asks(), resolver=conf)
        task = start(loop, resolve("a.test"), resolver=conf)
        assert conf.on(loop).lookups, (task.is_over, task.error)
        task.cancel()
        task.error = None
        assert not conf.on(loop).lookups
