"""A flood of forged sources beside sessions in conversation, which notice nothing of it.

NGXSTREAM_FLOOD is how many sources there are (200000 are the long form), NGXSTREAM_FLOOD_RATE how
many datagrams of them come a second.
"""

import contextlib
import os
import select
import socket
import sys
import time
from collections.abc import Callable

import pytest

from tests.support.netns import Namespaces, in_netns
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import wait_until

SOURCES = int(os.environ.get("NGXSTREAM_FLOOD", "3000"))
RATE = int(os.environ.get("NGXSTREAM_FLOOD_RATE", "1000"))
TALKERS = 200
EVERY_S = 0.5  # between two datagrams of one session
CONNECTIONS = 4096  # of a worker
CONF = f"""worker_processes 2;
error_log logs/error.log warn rate=5/s;
events {{ worker_connections {CONNECTIONS}; }}
stream {{
    limit_sess_zone $server_port zone=new:32k rate=200r/s;
    log_format f '$remote_addr $status';
    access_log logs/a.log f sample=5/s;
    server {{
        listen 10.80.1.1:5300 udp reuseport rcvbuf=1m;
        limit_sess zone=new burst=200 nodelay;
        proxy_timeout 10s;
        proxy_udp_amplification 3;
        proxy_pass 127.0.0.1:@back@;
    }}
}}
"""
ECHO = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
sock.bind(("127.0.0.1", int(sys.argv[1])))
while True:
    data, by = sock.recvfrom(2048)
    sock.sendto(data, by)
"""
# each datagram has a source of its own in 10.128.0.0/9; the kernel fills in the checksum
FLOOD = """
import socket, struct, sys, time
count, rate = int(sys.argv[1]), int(sys.argv[2])
sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
to = socket.inet_aton("10.80.1.1")
start = time.monotonic()
for n in range(count):
    late = n / rate - (time.monotonic() - start)
    if late > 0.002:
        time.sleep(late)
    source = struct.pack("!I", 0x0A800001 + n * 37)
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 38, n & 0xFFFF, 0, 64, 17, 0, source, to)
    sock.sendto(head + struct.pack("!HHHH", 1024 + n % 60000, 5300, 18, 0) + b"evil flood", (
        "10.80.1.1", 5300))
print(time.monotonic() - start)
"""

pytestmark = pytest.mark.root


class Talkers:
    """Sessions in conversation: each sends at its times, whatever comes back."""

    def __init__(self, netns: str) -> None:
        self.socks = [in_netns(netns, self._make) for _ in range(TALKERS)]
        self.poll = select.poll()
        self.by_fd = {sock.fileno(): sock for sock in self.socks}
        for sock in self.socks:
            self.poll.register(sock, select.POLLIN)
        self.sent = self.received = 0

    @staticmethod
    def _make() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("10.80.1.2", 0))
        sock.connect(("10.80.1.1", 5300))
        sock.setblocking(False)
        return sock

    def talk(self, is_over: Callable[[], bool]) -> None:
        """Send and receive until it is over, and what was sent last has been answered."""
        start, first = time.monotonic(), self.sent
        while not is_over():
            due = int((time.monotonic() - start) * TALKERS / EVERY_S)
            while self.sent - first < due:
                self.socks[self.sent % TALKERS].send(b"%d" % self.sent)
                self.sent += 1
            self.hear(5)
        with contextlib.suppress(AssertionError):
            wait_until(lambda: self.hear(50) or self.received == self.sent, timeout=5)

    def hear(self, wait_ms: int) -> None:
        """Take what has come."""
        for fd, _ in self.poll.poll(wait_ms):
            with contextlib.suppress(BlockingIOError):
                while True:
                    self.by_fd[fd].recv(100)
                    self.received += 1

    def close(self) -> None:
        """Close them."""
        for sock in self.socks:
            sock.close()


def memory_kb(running: Proxy) -> int:
    """Return the resident memory of the workers."""
    total = 0
    for pid in running.worker_pids():
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            total += next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
    return total


def overflow(net: Namespaces) -> int:
    """Return how many datagrams found no room in a socket of the host."""
    names, values = (
        line.split() for line in net.run("host", "cat", "/proc/net/snmp").splitlines()
        if line.startswith("Udp:")
    )
    return int(values[names.index("RcvbufErrors")])


def test_who_is_in_conversation_notices_no_flood(
    ngxstream: ProxyFactory, namespaces: Namespaces
) -> None:
    """No datagram is lost; memory is bounded; a new client is served when the flood is over."""
    net = namespaces
    host, crowd = net.add("host"), net.add("crowd")
    net.link("host", "10.80.1.1/24", "crowd", "10.80.1.2/24")
    net.route("host", "10.128.0.0/9", "via", "10.80.1.2")
    for name in ("all", "eth0"):
        net.sysctl("host", f"net.ipv4.conf.{name}.rp_filter", 0)
    running = ngxstream(CONF, netns=host, start=False)
    net.popen("host", sys.executable, "-c", ECHO, str(running.port("back")))
    running.start()
    talkers = Talkers(crowd)
    with contextlib.closing(talkers):
        for sock in talkers.socks:  # each begins its session, a few at a time
            sock.send(b"begin")
            talkers.sent += 1
            wait_until(lambda: talkers.hear(20) or talkers.received == talkers.sent)
        before_kb = memory_kb(running)
        flood = net.popen(
            "crowd", sys.executable, "-c", FLOOD, str(SOURCES), str(RATE), stdout=-1
        )
        talkers.talk(lambda: flood.poll() is not None)
        after_kb = memory_kb(running)
        seconds = float(flood.communicate()[0])
        ended = time.monotonic()
        newcomer = in_netns(crowd, Talkers._make)
        with newcomer:
            newcomer.setblocking(True)
            newcomer.settimeout(1)

            def is_served() -> bytes:
                newcomer.send(b"new")
                with contextlib.suppress(TimeoutError):
                    return newcomer.recv(100)
                return b""

            assert b"new" == wait_until(is_served)
        recovery_s = time.monotonic() - ended
    print(
        f"{SOURCES} sources in {seconds:.1f} s; {TALKERS} sessions sent {talkers.sent}, "
        f"lost {talkers.sent - talkers.received}; memory {before_kb} kB, then {after_kb} kB; "
        f"a new client is served after {recovery_s * 1000:.0f} ms; "
        f"the kernel dropped {overflow(net)} for want of room"
    )
    assert talkers.sent == talkers.received
    # what sessions may take is bounded by worker_connections: some 10 kB each
    assert after_kb - before_kb < 2 * CONNECTIONS * 10 + 20_000
    assert running.messages("error")
