"""An upgrade (USR2) begins with limits of its own; sessions that are handed over count there."""

import os
import signal
import socket
from contextlib import ExitStack

from tests.support import processes
from tests.support.backends import BackendFactory
from tests.support.clients import TcpClient
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import wait_until

CONF = """daemon off; worker_processes 2; error_log logs/error.log info;
events {}
stream {
    limit_conn_zone $binary_remote_addr zone=udp:64k;
    limit_conn_zone all zone=tcp:64k;
    limit_sess_zone all zone=new:64k rate=1r/m;
    limit_datagram_zone $remote_port zone=d:64k rate=1r/m;
    limit_conn_log_level info; limit_datagram_log_level info; limit_sess_log_level info;
    server {
        listen 127.0.0.1:@udp@ udp; proxy_pass @BACK_UDP@; proxy_timeout 60s;
        limit_conn udp 3; limit_datagram zone=d burst=2;
    }
    server { listen 127.0.0.1:@tcp@; proxy_pass @BACK_TCP@; limit_conn tcp 1; }
    server { listen 127.0.0.1:@text@; return ok; limit_sess zone=new burst=1 nodelay; }
}
"""


def upgrade(program: Proxy) -> int:
    """Have another binary take the place of the one that serves; old workers may have sessions.

    Returns: the pid of the old master, which waits for them
    """
    old = program.pid
    os.kill(old, signal.SIGUSR2)

    def workers(master: int) -> int:
        titles = map(processes.title, processes.children(master))
        return sum("worker process" in title and "shutting" not in title for title in titles)

    wait_until(lambda: program.pid not in (0, old) and workers(program.pid) == 2,
               what="the new one serves")
    os.kill(old, signal.SIGQUIT)
    wait_until(lambda: not workers(old), what="the old one's leave")
    return old


def ask(client: socket.socket, address: tuple[str, int], data: bytes) -> bytes:
    """Return the answer to a datagram, b"" for none in a while."""
    client.sendto(data, address)
    try:
        return client.recv(100)
    except TimeoutError:
        return b""


def knocks(address: tuple[str, int]) -> bytes:
    """Return what a new client gets."""
    with TcpClient(address) as client:
        return client.recv_to_eof()


def test_limits_begin_anew_with_the_sessions_that_are_handed_over(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """UDP sessions count in both zones once; rates, and TCP sessions of old workers, do not."""
    program = ngxstream(
        CONF.replace("@BACK_UDP@", backends.udp().text).replace("@BACK_TCP@", backends.tcp().text)
    )
    udp, tcp, text = map(program.address, ("udp", "tcp", "text"))
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                   for _ in range(4)]
        *three, fourth = clients
        for client in three:
            client.settimeout(20)
            assert b"1" == ask(client, udp, b"1")
        fourth.settimeout(0.2)
        for data in (b"2", b"3"):
            assert data == ask(three[0], udp, data)
        three[0].sendto(b"more than burst", udp)
        program.wait_log("limiting datagrams")
        assert b"" == ask(fourth, udp, b"1")
        (line,) = program.wait_log("limiting connections")
        assert 'by zone "udp"' in line
        session = stack.enter_context(TcpClient(tcp))
        session.send(b"?")
        assert b"?" == session.recv()
        assert [b"ok", b"ok", b""] == [knocks(text) for _ in range(3)]

        old = upgrade(program)

        for client in three:
            assert b"4" == ask(client, udp, b"4")
        assert b"" == ask(fourth, udp, b"1")
        wait_until(lambda: len([one for one in program.error_log()
                                if 'limiting connections by zone "udp"' in one]) == 2)
        assert [b"ok", b"ok", b""] == [knocks(text) for _ in range(3)]
        another = stack.enter_context(TcpClient(tcp))
        another.send(b"!")
        assert b"!" == another.recv()
        session.send(b"?")
        assert b"?" == session.recv()
        third = stack.enter_context(TcpClient(tcp))
        assert b"" == third.recv()

        program.reload()
        assert b"" == ask(fourth, udp, b"1")
        assert b"5" == ask(three[1], udp, b"5")
        for client in (session, another, third):
            client.close()
        wait_until(lambda: not processes.is_alive(old), what="the old master is gone")
