"""event/connect.py: a socket is never connected to itself."""

import errno
import socket

import pytest

from ngxstream.event import connect
from tests.support import ports
from tests.support.netns import Namespaces, in_netns

STREAM, DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


def local_of(family: int, kind: int) -> tuple:
    """Return an address of this host where nobody listens."""
    port = ports.free_port() if kind == STREAM else ports.free_udp_port()
    return ("127.0.0.1", port) if family == socket.AF_INET else ("::1", port, 0, 0)


@pytest.mark.parametrize("kind", [STREAM, DGRAM])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_who_is_connected_to_himself_is_refused(family: int, kind: int) -> None:
    """The kernel drew the server's own port, as the server is away: the next server is tried."""
    address = local_of(family, kind)
    with pytest.raises(connect.ConnectError) as caught:
        connect.connect_peer(family, kind, address, "a server", local=address)
    assert "connect() to a server failed" == caught.value.message
    assert (errno.ECONNREFUSED, "error") == (caught.value.errno, caught.value.level)
    with socket.socket(family, kind) as server:
        server.bind(address)  # nobody holds the port


@pytest.mark.parametrize("kind", [STREAM, DGRAM])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_who_drew_the_server_s_port_is_refused(host: str, kind: int) -> None:
    """Where the kernel has a single port to draw, no session is had with oneself at that port."""

    def call() -> tuple[range, list[type[Exception]]]:
        drawn = connect.ephemeral_ports(None)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        found: list[type[Exception]] = []
        for port in drawn:
            address = (host, port) if family == socket.AF_INET else (host, port, 0, 0)
            try:
                sock, _ = connect.connect_peer(family, kind, address, "itself", drawn=drawn)
            except connect.ConnectError as error:
                found.append(type(error))
            else:
                sock.close()
        return drawn, found

    with Namespaces() as net:
        name = net.add("host")
        net.sysctl("host", "net.ipv4.ip_local_port_range", "40001 40001")
        assert (range(40001, 40002), [connect.ConnectError]) == in_netns(name, call)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_short_way_refuses_it_too(host: str) -> None:
    """A session that begins in the usual way is none with oneself either."""

    def call() -> tuple[range, list[type[Exception]], bool]:
        drawn = connect.ephemeral_ports(None)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        found: list[type[Exception]] = []
        address = (host, drawn[0]) if family == socket.AF_INET else (host, drawn[0], 0, 0)
        try:
            connect.connect_plainly(family, address, "itself", drawn)
        except connect.ConnectError as error:
            found.append(type(error))
        with socket.socket(family) as server:
            server.bind(address)  # nobody holds the port
        return drawn, found, True

    with Namespaces() as net:
        name = net.add("host")
        net.sysctl("host", "net.ipv4.ip_local_port_range", "40001 40001")
        assert (range(40001, 40002), [connect.ConnectError], True) == in_netns(name, call)


def test_the_short_way_leads_to_who_listens() -> None:
    """The socket does not block."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        sock, _ = connect.connect_plainly(socket.AF_INET, address, "a server", range(1, 65536))
        client, _ = server.accept()
        with client:
            assert (0.0, client.getpeername()) == (sock.gettimeout(), sock.getsockname())
        sock.close()


def test_a_port_that_is_not_drawn_is_another_s() -> None:
    """So the kernel is not asked who is connected."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = server.getsockname()
        sock, _ = connect.connect_peer(
            socket.AF_INET, STREAM, address, "a server", drawn=range(address[1] + 1, 65536)
        )
        assert sock.getpeername() == address
        sock.close()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_another_address_or_port_is_another_one(family: int) -> None:
    """Neither the port alone nor the address alone makes it oneself."""
    host, *rest = local_of(family, DGRAM)
    with socket.socket(family, DGRAM) as server:
        server.bind((host, 0))
        sock, is_ready = connect.connect_peer(family, DGRAM, server.getsockname(), "a server")
        assert is_ready
        sock.close()
    if family == socket.AF_INET:
        sock, _ = connect.connect_peer(
            family, DGRAM, ("127.0.0.9", rest[0]), "a server", local=("127.0.0.1", rest[0])
        )
        sock.close()


def test_a_unix_socket_is_another_one(tmp_path) -> None:
    """An address of a unix socket has no port."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, DGRAM) as server:
        server.bind(path)
        sock, is_ready = connect.connect_peer(socket.AF_UNIX, DGRAM, path, "a server")
        assert is_ready
        sock.close()
