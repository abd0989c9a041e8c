"""The kit's backends and clients, against each other."""

import socket
from pathlib import Path

import pytest

from tests.support import backends, clients, tools
from tests.support.backends import TcpBackend, UdpBackend


def test_tcp_echo_records_what_it_saw() -> None:
    """An echo backend answers, and knows the client's source port and bytes."""
    with TcpBackend() as backend:
        with clients.TcpClient(backend.address) as client:
            assert b"ping" == client.exchange(b"ping")
            assert [client.name] == [c.peer for c in backend.conversations]
        backend.wait_ended(1)
        assert b"ping" == backend.received


def test_tcp_backend_over_ipv6_and_unix(tmp_path: Path) -> None:
    """The same backend serves IPv6 and unix sockets."""
    tools.require_ipv6()
    for host in ("::1", str(tmp_path / "s")):
        with TcpBackend(backends.tagged("b1"), host) as backend:
            assert b"b1:x" == clients.tcp_exchange(backend.address, b"x", half_close=True)


def test_half_close_answers_after_the_end_of_the_request() -> None:
    """The half_close script answers only once it saw the end of the stream."""
    with TcpBackend(backends.half_close(b"done")) as backend:
        assert b"done" == clients.tcp_exchange(backend.address, b"all of it", half_close=True)
        assert b"all of it" == backend.received


def test_reset_reaches_the_client() -> None:
    """The reset script ends the connection by RST."""
    with TcpBackend(backends.reset) as backend, pytest.raises(ConnectionResetError):
        clients.tcp_exchange(backend.address, b"x")


def test_a_reset_by_the_client_is_recorded() -> None:
    """A conversation that met an error says which."""
    with TcpBackend(backends.silent) as backend:
        clients.TcpClient(backend.address).reset()
        backend.wait_ended(1)
        assert isinstance(backend.conversations[0].error, ConnectionResetError)


def test_silent_backend_never_answers_and_ends_with_its_context() -> None:
    """A client of a silent backend runs into its own deadline."""
    with TcpBackend(backends.silent) as backend, clients.TcpClient(backend.address) as client:
        client.send(b"hello?")
        client.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv()


def test_refusing_tcp_refuses() -> None:
    """Nobody listens at a refusing address while the context lasts."""
    with backends.refusing_tcp() as address, pytest.raises(ConnectionRefusedError):
        clients.tcp_exchange(address)


def test_refusing_udp_refuses() -> None:
    """A datagram to a refusing address comes back as an ICMP error."""
    with pytest.raises(ConnectionRefusedError):
        clients.udp_exchange(backends.refusing_udp(), b"x")


def test_udp_backend_counts_its_sources() -> None:
    """A tagged backend answers by its name and counts datagrams per source port."""
    with UdpBackend(backends.udp_tagged("b1")) as backend:
        with clients.UdpClient(backend.address) as client:
            assert b"b1:1" == client.exchange(b"1")
            assert b"b1:" == client.exchange(b"")
            assert {client.name: 2} == backend.sources
        assert [b"1", b""] == backend.datagrams


def test_udp_many_answers_several_times() -> None:
    """A backend may answer a datagram with several; drain() finds no other."""
    with UdpBackend(backends.udp_many(3)) as backend, clients.UdpClient(backend.address) as client:
        client.send(b"x")
        assert [b"1:x", b"2:x", b"3:x"] == [client.recv() for _ in range(3)]
        assert [] == client.drain()


def test_large_datagrams_pass_whole() -> None:
    """The largest UDP payload over IPv4 makes the round trip."""
    with UdpBackend() as backend:
        assert 65507 == len(clients.udp_exchange(backend.address, b"z" * 65507))


def test_a_closed_udp_backend_refuses() -> None:
    """After close() the address answers with an ICMP error."""
    backend = UdpBackend()
    backend.close()
    with pytest.raises(ConnectionRefusedError):
        clients.udp_exchange(backend.address, b"x")


def test_a_backend_that_does_not_accept_leaves_its_clients_connected() -> None:
    """accepting=False: the client is connected by the kernel and hears nothing."""
    with TcpBackend(accepting=False) as backend, clients.TcpClient(backend.address) as client:
        client.send(b"x")
        assert socket.SOCK_STREAM == client.sock.type
        assert 0 == backend.accepted
