"""What users of TCP and UDP proxies have reported in public, tried here: each must not happen.

The source of each is named by its project and the number of its report. What nginx has in common
with us is asked of both.
"""

import contextlib
import os
import signal
from pathlib import Path

import pytest

from ngxstream.wire import proxy_protocol
from tests.support import backends as b
from tests.support import ports
from tests.support.backends import BackendFactory
from tests.support.clients import TcpClient, UdpClient, tcp_exchange
from tests.support.proxies import ProxyFactory
from tests.support.waiting import PATIENCE, wait_until

HEAD = (
    "worker_processes 1; events { worker_connections 256; } stream { "
    "log_format f '$status $bytes_received $bytes_sent'; access_log logs/access.log f; "
)


def test_ten_requests_and_ten_answers_end_a_udp_session_in_peace(
    proxy: ProxyFactory, backends: BackendFactory
) -> None:
    """docker-nginx, issue 877: a session ended by its time although every answer had come.

    proxy_responses counts the answers to each datagram, so it is 1 where ten are sent and ten come.
    """
    backend = backends.udp()
    running = proxy(
        HEAD + f"server {{ listen 127.0.0.1:@in@ udp; proxy_pass {backend.text}; "
        "proxy_requests 10; proxy_responses 1; proxy_timeout 1h; } }"
    )
    with UdpClient(running.address("in")) as client:
        for n in range(10):  # all before the first answer is read: none ends the session early
            client.send(b"%d" % n)
        assert [b"%d" % n for n in range(10)] == [client.recv() for _ in range(10)]
    lines = running.wait_log("^200 10 10$", name="logs/access.log")
    assert lines == running.access_log()
    assert not [line for line in running.error_log() if "timed out" in line]


def test_no_datagram_of_a_session_goes_without_a_header(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """nginx, issue 930: some queries reached a DNS server without their PROXY protocol header.

    They were further datagrams of a session: a resolver that asks again from the same port.
    """
    backend = backends.udp(b.udp_silent)
    running = ngxstream(
        HEAD + f"server {{ listen 127.0.0.1:@in@ udp; proxy_pass {backend.text}; "
        "proxy_protocol v2; proxy_protocol_datagrams every; proxy_responses 1; } }"
    )
    with UdpClient(running.address("in")) as client:
        for n in range(20):
            client.send(b"query %d" % n)
            backend.wait_seen(n + 1)
        name = client.name
    for n, data in enumerate(backend.datagrams):
        header = proxy_protocol.parse_datagram(data, (proxy_protocol.DGRAM,))
        assert name == (header.src_addr, header.src_port)
        assert b"query %d" % n == data[header.length :]


def test_answers_come_back_where_each_request_has_a_server_of_its_own(
    proxy: ProxyFactory, backends: BackendFactory
) -> None:
    """kubernetes-ingress, issue 2005: no answer came back from requests spread one by one.

    `proxy_responses 0` says that no answer is waited for; without it they come, whoever answers.
    """
    servers = [backends.udp(b.udp_tagged(name)) for name in ("one", "two")]
    group = "".join(f"server {server.text}; " for server in servers)
    running = proxy(
        HEAD + f"upstream u {{ {group} }} server {{ listen 127.0.0.1:@in@ udp; proxy_pass u; "
        "proxy_requests 1; proxy_timeout 1s; } "
        "server { listen 127.0.0.1:@mute@ udp; proxy_pass u; proxy_requests 1; "
        "proxy_responses 0; } }"
    )
    with UdpClient(running.address("in")) as client:
        answers = [client.exchange(b"%d" % n) for n in range(6)]
    assert [b"one:0", b"two:1", b"one:2", b"two:3", b"one:4", b"two:5"] == answers
    with UdpClient(running.address("mute")) as client:
        client.send(b"x")
        wait_until(lambda: sum(len(server.seen) for server in servers) == 7, PATIENCE, "it came")
        running.wait_log("^200 1 0$", name="logs/access.log")
        client.sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv()


def test_a_server_that_speaks_first_is_heard(
    proxy: ProxyFactory, backends: BackendFactory
) -> None:
    """Traefik, issue 6838: a server's greeting did not reach a client that waited for it.

    Nothing is waited for unless ssl_preread asks for a hello, and then for preread_timeout at most.
    """
    backend = backends.tcp(b.greet(b"220 ready\r\n"))
    running = proxy(
        HEAD + f"server {{ listen 127.0.0.1:@in@; proxy_pass {backend.text}; }} "
        f"server {{ listen 127.0.0.1:@sni@; proxy_pass {backend.text}; ssl_preread on; "
        "preread_timeout 1s; } }"
    )
    assert b"220 ready\r\n" == tcp_exchange(running.address("in"))
    assert b"" == tcp_exchange(running.address("sni"))
    assert 1 == backend.accepted
    with TcpClient(running.address("sni")) as client:
        client.send(b"EHLO there\r\n")  # no hello of TLS: waited for no longer
        assert b"220 ready\r\n" == client.recv_exactly(11)


@pytest.mark.parametrize("tries", ["", "proxy_next_upstream off;"])
def test_a_client_of_a_server_that_is_down_is_told_and_the_next_is_served(
    tries: str, proxy: ProxyFactory, backends: BackendFactory
) -> None:
    """Traefik, issue 9929: a client that came while its server was down hung for ever.

    It is told at once, and who comes when the server is back is served, without a pause for it.
    """
    with b.refusing_tcp() as (host, port):
        running = proxy(
            HEAD + f"upstream u {{ server {host}:{port}; }} "
            f"server {{ listen 127.0.0.1:@in@; proxy_pass u; {tries} }} }}"
        )
        for _ in range(3):
            with TcpClient(running.address("in")) as client, contextlib.suppress(ConnectionError):
                assert b"" == client.recv()
    running.wait_log("^502 ", count=3, name="logs/access.log")
    backends.tcp(b.echo, host, port)
    with TcpClient(running.address("in")) as client:
        assert b"hello" == client.exchange(b"hello")


def test_drops_are_not_counted_again_when_more_comes(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """Envoy, issue 38431: datagrams that were dropped once were counted with each that came later.

    What is told is the kernel's own count of the socket, and each number once.
    """
    backend = backends.udp(b.udp_silent)
    running = ngxstream(
        HEAD + f"server {{ listen 127.0.0.1:@in@ udp rcvbuf=4k; proxy_pass {backend.text}; }} }}"
    )
    (worker,) = running.worker_pids()
    told: list[int] = []
    sent = []
    with UdpClient(running.address("in")) as client:
        for at_least in (1, 2):
            os.kill(worker, signal.SIGSTOP)
            for _ in range(100):
                client.send(b"x")
            os.kill(worker, signal.SIGCONT)

            def said(count: int = at_least) -> bool:
                for _ in range(3):
                    client.send(b"more")
                    sent.append(1)
                told[:] = [
                    int(r.message.partition("so far: ")[2].partition(",")[0])
                    for r in running.records()
                    if "dropped by the kernel" in r.message
                ]
                return len(told) >= count

            wait_until(said, PATIENCE, "the notice")
    assert told == sorted(set(told))
    assert told[-1] <= dropped(running.port("in"))
    assert told[-1] < 200 + len(sent)


def dropped(port: int) -> int:
    """Return what the kernel has dropped at a UDP port of 127.0.0.1."""
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        words = line.split()
        if words[1] == f"0100007F:{port:04X}":
            return int(words[-1])
    raise AssertionError(port)


def test_a_udp_session_whose_time_is_over_before_it_has_a_server(
    proxy: ProxyFactory, backends: BackendFactory
) -> None:
    """Envoy, pull request 35192: a session without a server yet crashed when its time was over.

    Here one waits for a DNS server that is silent; the worker lives on and serves others.
    """
    backend = backends.udp()
    silent = backends.udp(b.udp_silent)
    running = proxy(
        HEAD + f"resolver {silent.text}; resolver_timeout 1s; proxy_timeout 100ms; "
        "map $protocol $name { default nobody.test; } "
        "server { listen 127.0.0.1:@in@ udp; proxy_pass $name:53; } "
        f"server {{ listen 127.0.0.1:@beside@ udp; proxy_pass {backend.text}; }} }}"
    )
    before = running.worker_pids()
    with UdpClient(running.address("in")) as client, UdpClient(running.address("beside")) as beside:
        client.send(b"one")
        silent.wait_seen(1)
        client.send(b"two")
        assert b"meanwhile" == beside.exchange(b"meanwhile")
        running.wait_log("^500 ", name="logs/access.log")
        assert b"after" == beside.exchange(b"after")
    assert before == running.worker_pids()


def test_the_end_of_a_client_ends_the_session_at_once(
    proxy: ProxyFactory, backends: BackendFactory
) -> None:
    """HAProxy, issue 2522: a connection stayed open for long after its client's FIN.

    A client that has its answer and says the end sees the end, whatever the server would still do.
    """
    backend = backends.tcp()
    running = proxy(
        HEAD + f"server {{ listen 127.0.0.1:@in@; proxy_pass {backend.text}; "
        "proxy_timeout 1h; } }"
    )
    with TcpClient(running.address("in")) as client:
        assert b"request" == client.exchange(b"request")
        client.half_close()
        assert b"" == client.recv()
    backend.wait_ended(1)
    running.wait_log("^200 7 7$", name="logs/access.log")


def test_a_server_hears_of_a_client_that_left_while_it_worked(
    proxy: ProxyFactory, backends: BackendFactory
) -> None:
    """HAProxy, issue 136: a server went on working for a client that had long gone.

    The server's connection ends with the client's, by FIN or by reset, though no byte moves.
    """
    backend = backends.tcp(b.silent)  # reads, and has no answer yet
    running = proxy(
        HEAD + f"server {{ listen 127.0.0.1:@in@; proxy_pass {backend.text}; "
        "proxy_timeout 1h; } }"
    )
    for count, leave in enumerate((TcpClient.close, TcpClient.reset), 1):
        client = TcpClient(running.address("in"))
        client.send(b"a long task")
        wait_until(lambda n=count: backend.received == b"a long task" * n, PATIENCE, "it is begun")
        leave(client)
        backend.wait_ended(count)
    running.wait_log("^200 11 0$", count=2, name="logs/access.log")


def test_a_udp_server_that_comes_back_is_found_and_nobody_spins_meanwhile(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """dnsdist, issue 12711: with its sockets refused by a server, a thread took all of a processor.

    While the server is down its client is refused in peace, and when it is back it is asked again.
    """
    port = ports.free_udp_port()
    running = ngxstream(
        HEAD + f"server {{ listen 127.0.0.1:@in@ udp; proxy_pass 127.0.0.1:{port}; "
        "proxy_responses 1; } }"
    )
    (worker,) = running.worker_pids()
    with UdpClient(running.address("in")) as client:
        for n in range(1, 11):
            client.send(b"anybody?")
            running.wait_log("^502 ", count=n, name="logs/access.log")
        wait_until(lambda: state(worker) == "S", PATIENCE, "the worker sleeps")
        backends.udp(b.udp_echo, "127.0.0.1", port)
        assert b"back" == client.exchange(b"back")


def state(pid: int) -> str:
    """Return the state of a process: S where it sleeps, R where it runs or would like to."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
