"""Three hosts in a row, client, proxy and backend, for the tests of client addresses.

    client 10.91.1.2, fd91:1::2 ── 10.91.1.1 proxy 10.91.2.1 ── 10.91.2.2, fd91:2::2 backend
                   │                                                             │
             10.91.3.2, fd91:3::2 ──────────── direct() ──────────── 10.91.3.3, fd91:3::3

The client has a second address, 10.91.1.3 and fd91:1::3, so that tests can tell clients apart.
"""

import contextlib
from concurrent.futures import ThreadPoolExecutor

from tests.support import netns
from tests.support.clients import TcpClient, UdpClient

CLIENT = {4: "10.91.1.2", 6: "fd91:1::2"}
CLIENT2 = {4: "10.91.1.3", 6: "fd91:1::3"}
FRONT = {4: "10.91.1.1", 6: "fd91:1::1"}  # the proxy, towards the client
INNER = {4: "10.91.2.1", 6: "fd91:2::1"}  # the proxy, towards the backend
BACKEND = {4: "10.91.2.2", 6: "fd91:2::2"}

Address = tuple[str, int]


def bracketed(host: str) -> str:
    """Return a host as a configuration writes it in front of a port."""
    return f"[{host}]" if ":" in host else host


def three(net: netns.Namespaces) -> None:
    """Make client, proxy and backend; the client's default route is the proxy."""
    for label in ("client", "proxy", "backend"):
        net.add(label)
    net.link(
        "client",
        "10.91.1.2/24 10.91.1.3/24 fd91:1::2/64 fd91:1::3/64",
        "proxy",
        "10.91.1.1/24 fd91:1::1/64",
    )
    net.link("proxy", "10.91.2.1/24 fd91:2::1/64", "backend", "10.91.2.2/24 fd91:2::2/64")
    net.route("client", "default", "via", FRONT[4])
    net.route("client", "default", "via", FRONT[6])


def replies_to_proxy(net: netns.Namespaces, port: int) -> None:
    """Have the backend's replies come to the proxy, and be delivered there: by hand, as in docs."""
    net.route("backend", "default", "via", INNER[4])
    net.route("backend", "default", "via", INNER[6])
    for family, tables in (((), "iptables"), (("-6",), "ip6tables")):
        everything = "::/0" if family else "0.0.0.0/0"
        network = "fd91:2::/64" if family else "10.91.2.0/24"
        net.run("proxy", "ip", *family, "rule", "add", "fwmark", "1", "lookup", "100")
        net.run(
            "proxy", "ip", *family, "route", "add", "local", everything, "dev", "lo", "table", "100"
        )
        for protocol in ("tcp", "udp"):
            net.run(
                "proxy",
                *(tables, "-t", "mangle", "-A", "PREROUTING", "-s", network, "-p", protocol),
                *("--sport", str(port), "-j", "MARK", "--set-xmark", "0x1/0xffffffff"),
            )


def direct(net: netns.Namespaces) -> None:
    """Give the backend a way to the client that is not the proxy's."""
    net.link("client", "10.91.3.2/24 fd91:3::2/64", "backend", "10.91.3.3/24 fd91:3::3/64")
    net.route("backend", "default", "via", "10.91.3.2")
    net.route("backend", "default", "via", "fd91:3::2")


def tcp_round(net: netns.Namespaces, address: Address, source: str, count: int) -> list[Address]:
    """Make that many TCP connections, eight at a time, each echoed; return where they came from.

    Raises: AssertionError if one was not answered with what it sent
    """

    def one(number: int) -> Address:
        with TcpClient(address, source=(source, 0), netns=net.name("client")) as client:
            message = b"connection %d" % number
            client.send(message)
            assert message == client.recv_exactly(len(message))
            name: Address = client.sock.getsockname()[:2]
            return name

    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(one, range(count)))


def udp_round(
    net: netns.Namespaces, address: Address, source: str, count: int, sockets: int = 20
) -> list[Address]:
    """Send that many numbered datagrams from several sockets, each echoed before the next.

    Raises: TimeoutError for one that was lost, AssertionError for a wrong answer
    Returns: the sockets' addresses
    """
    with contextlib.ExitStack() as stack:
        made = [
            stack.enter_context(UdpClient(address, source=(source, 0), netns=net.name("client")))
            for _ in range(sockets)
        ]
        for number in range(count):
            message = b"datagram %d" % number
            assert message == made[number % sockets].exchange(message)
        return [client.name for client in made]


def dsr_by_proxy(net: netns.Namespaces, port: int, front: int) -> None:
    """Have the proxy's host forward the backend's answers under the listening address's name."""
    net.route("backend", "default", "via", INNER[4])
    net.route("backend", "default", "via", INNER[6])
    net.sysctl("proxy", "net.ipv4.ip_forward", 1)
    net.sysctl("proxy", "net.ipv6.conf.all.forwarding", 1)
    rewrite(net, "proxy", port, front, "prerouting")


def dsr_by_backend(net: netns.Namespaces, port: int, front: int) -> None:
    """Have the backend answer by a way of its own under the listening address's name."""
    direct(net)
    rewrite(net, "backend", port, front, "output")


def rewrite(net: netns.Namespaces, label: str, port: int, front: int, hook: str) -> None:
    """Rewrite the source of answers, without connection tracking."""
    for family, word in ((4, "ip"), (6, "ip6")):
        match = f"{word} saddr {BACKEND[family]} udp sport {port}"
        rules = f"""table {word} dsr {{
            chain raw {{
                type filter hook {hook} priority raw
                {match} notrack
            }}
            chain out {{
                type filter hook postrouting priority srcnat
                {match} {word} saddr set {FRONT[family]} udp sport set {front}
            }}
        }}"""
        net.run(label, "nft", rules)
