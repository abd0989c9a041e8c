"""The kernel and Python agree which worker a client belongs to."""

import ipaddress
import random
import socket
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.event import steering
from tests.support import ports

CLIENTS = 1200
TIMEOUT_S = 10


def group(family: int, host: str, size: int, *, only6: bool = True) -> list[socket.socket]:
    """Return the sockets of one reuseport group on a port of its own."""
    port = ports.free_udp_port()
    socks = []
    for _ in range(size):
        sock = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only6)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.settimeout(TIMEOUT_S)
        sock.bind((host, port))
        socks.append(sock)
    return socks


def send_from(family: int, source: str, target: tuple, options: bytes = b"") -> tuple:
    """Send one datagram from an ephemeral port; return the client's address."""
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        if options:
            client.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, options)
        client.bind((source, 0))
        client.connect(target)
        client.send(b"x")
        return client.getsockname()


def any_loopback4() -> str:
    """Return one of the 16 million addresses of the loopback network."""
    return str(ipaddress.IPv4Address(random.randrange(0x7F000001, 0x7FFFFFFE)))


Sender = Callable[[int], tuple[int, tuple]]


def misses(socks: list[socket.socket], family: int, clients: int, send: Sender) -> int:
    """Send from many clients; return how many arrived elsewhere than owner_of() says."""
    wrong = 0
    for number in range(clients):
        client_family, client = send(number)
        owner = steering.owner_of(client_family, client, len(socks))
        _, seen = socks[owner].recvfrom(16)
        wrong += seen[1] != client[1]
        wrong += steering.owner_of(family, seen, len(socks)) != owner
    return wrong


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_ipv4_clients_arrive_at_their_owner(host: str) -> None:
    """Every IPv4 client's datagram is in the socket that owner_of() names."""
    socks = group(socket.AF_INET, host, 5)
    steering.attach(socks[0], 5)
    target = ("127.0.0.1", socks[0].getsockname()[1])

    def send(_: int) -> tuple[int, tuple]:
        return socket.AF_INET, send_from(socket.AF_INET, any_loopback4(), target)

    assert 0 == misses(socks, socket.AF_INET, CLIENTS, send)
    for sock in socks:
        sock.close()


def test_ip_options_do_not_hide_the_port() -> None:
    """A client that sends IPv4 options has the owner it would have without."""
    socks = group(socket.AF_INET, "127.0.0.1", 3)
    steering.attach(socks[0], 3)
    target = socks[0].getsockname()

    def send(number: int) -> tuple[int, tuple]:
        options = b"\x01" * (4 * (number % 10 + 1))
        return socket.AF_INET, send_from(socket.AF_INET, any_loopback4(), target, options)

    assert 0 == misses(socks, socket.AF_INET, 200, send)
    for sock in socks:
        sock.close()


@pytest.mark.parametrize("host", ["::1", "::"])
def test_ipv6_clients_arrive_at_their_owner(host: str) -> None:
    """Every IPv6 client's datagram is in the socket that owner_of() names."""
    socks = group(socket.AF_INET6, host, 4)
    steering.attach(socks[0], 4)
    target = ("::1", socks[0].getsockname()[1])

    def send(_: int) -> tuple[int, tuple]:
        return socket.AF_INET6, send_from(socket.AF_INET6, "::1", target)

    assert 0 == misses(socks, socket.AF_INET6, CLIENTS, send)
    for sock in socks:
        sock.close()


def test_ipv4_clients_of_a_dual_stack_socket_arrive_at_their_owner() -> None:
    """A v4-mapped address has the owner of the IPv4 address, by either spelling."""
    socks = group(socket.AF_INET6, "::", 4, only6=False)
    steering.attach(socks[0], 4)
    port = socks[0].getsockname()[1]

    def send(number: int) -> tuple[int, tuple]:
        if number % 2:
            return socket.AF_INET6, send_from(socket.AF_INET6, "::1", ("::1", port))
        source = any_loopback4()
        return socket.AF_INET, send_from(socket.AF_INET, source, ("127.0.0.1", port))

    assert 0 == misses(socks, socket.AF_INET6, CLIENTS, send)
    for sock in socks:
        sock.close()


def test_a_program_is_replaced_for_the_whole_group() -> None:
    """After the group grew, everything goes on as before until the new program is attached."""
    socks = group(socket.AF_INET, "127.0.0.1", 2)
    steering.attach(socks[0], 2)
    target = socks[0].getsockname()
    late = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    late.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    late.settimeout(TIMEOUT_S)
    late.bind(target)

    def send(_: int) -> tuple[int, tuple]:
        return socket.AF_INET, send_from(socket.AF_INET, any_loopback4(), target)

    assert 0 == misses(socks, socket.AF_INET, 200, send)
    socks.append(late)
    steering.attach(socks[0], 3)
    assert 0 == misses(socks, socket.AF_INET, 200, send)
    for sock in socks:
        sock.close()


def test_one_worker_owns_everybody() -> None:
    """The program for one worker names socket 0 without looking."""
    assert [(0x06, 0, 0, 0)] == steering.program(1)
    assert 0 == steering.owner_of(socket.AF_INET, ("192.0.2.1", 53), 1)


@pytest.mark.parametrize("workers", [2, 3, 8, 16])
def test_a_thousand_clients_spread_evenly(workers: int) -> None:
    """No worker has more than twice the mean, be it one host's ports or many hosts' one port."""
    rng = random.Random(7)
    one_host = [("192.0.2.7", port) for port in range(32768, 33768)]
    one_port = [(str(ipaddress.IPv4Address(0x0A000000 + n)), 53) for n in range(1000)]
    six = [
        (str(ipaddress.IPv6Address((0x20010DB8 << 96) + rng.getrandbits(64))), 5353, 0, 0)
        for _ in range(1000)
    ]
    for family, clients in (
        (socket.AF_INET, one_host),
        (socket.AF_INET, one_port),
        (socket.AF_INET6, six),
    ):
        counts = [0] * workers
        for client in clients:
            counts[steering.owner_of(family, client, workers)] += 1
        assert max(counts) <= 2 * 1000 / workers, counts


@given(
    st.binary(min_size=16, max_size=16),
    st.integers(min_value=0, max_value=65535),
    st.integers(min_value=1, max_value=512),
)
def test_the_owner_is_a_worker_and_ignores_the_spelling(
    packed: bytes, port: int, workers: int
) -> None:
    """owner_of() is below the number of workers, whatever the scope or spelling of the address."""
    text = socket.inet_ntop(socket.AF_INET6, packed)
    exploded = str(ipaddress.IPv6Address(packed).exploded)
    owner = steering.owner_of(socket.AF_INET6, (text, port, 0, 0), workers)
    assert 0 <= owner < workers
    assert owner == steering.owner_of(socket.AF_INET6, (exploded, port, 0, 0), workers)
    assert owner == steering.owner_of(socket.AF_INET6, (f"{text}%eth0", port, 0, 2), workers)
    v4 = socket.inet_ntop(socket.AF_INET, packed[:4])
    assert steering.owner_of(socket.AF_INET, (v4, port), workers) == steering.owner_of(
        socket.AF_INET6, (f"::ffff:{v4}", port, 0, 0), workers
    )


@pytest.mark.parametrize("workers", [1, 2, 64])
def test_every_jump_lands_inside_the_program(workers: int) -> None:
    """The program ends in a return and no jump leaves it."""
    steps = steering.program(workers)
    for at, (code, if_true, if_false, operand) in enumerate(steps):
        if code & 0x07 == 0x05:
            for skip in (operand,) if code == 0x05 else (if_true, if_false):
                assert at + 1 + skip < len(steps)
        struct.pack("HBBI", code, if_true, if_false, operand)
    assert steps[-1][0] & 0x07 == 0x06
