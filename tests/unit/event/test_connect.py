"""event/connect.py: a socket is never connected to itself."""

import errno
import socket

import pytest

from ngxstream.event import connect
from tests.support import ports

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
    """It has no port."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, DGRAM) as server:
        server.bind(path)
        sock, is_ready = connect.connect_peer(socket.AF_UNIX, DGRAM, path, "a server")
        assert is_ready
        sock.close()
