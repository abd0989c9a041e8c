"""The worked examples of conf/ do what their comments say, on both programs."""

import contextlib
import re
import ssl
from pathlib import Path

import pytest

from tests.support import backends as scripts
from tests.support import clients, hellos, ports, quic
from tests.support.backends import BackendFactory, Conversation
from tests.support.certs import Authority
from tests.support.dns import Dnsmasq, dig
from tests.support.netns import Namespaces
from tests.support.proxies import ROOT, ProxyFactory
from tests.support.waiting import wait_until

RECORDS = {"www.example.com": ["192.0.2.80"]}
SERVERS = {"10.77.1.2": "one", "10.77.2.2": "two"}


def example(name: str, **changes: str) -> str:
    """Return an example with words replaced, each of which must be there."""
    text = (ROOT / "conf" / f"{name}.conf").read_text()
    for old, new in changes.items():
        assert old in text, f"{old} in {name}.conf"
        text = text.replace(old, new)
    return text


def test_quickstart_uses_both_backends_over_tcp_and_udp(proxy: ProxyFactory) -> None:
    """Twenty clients of each protocol are answered, by both embedded backends."""
    running = proxy(example("quickstart", **{"5300": "@front@", "5301": "@one@", "5302": "@two@"}))
    front = running.address("front")
    tcp = [clients.tcp_exchange(front).decode() for _ in range(20)]
    udp = [clients.udp_exchange(front, b"hi").decode() for _ in range(20)]
    line = re.compile(r"backend (one|two): a (TCP|UDP) session from 127\.0\.0\.1:\d+\n")
    seen = {match.groups() for match in map(line.fullmatch, tcp + udp) if match}
    assert {("one", "TCP"), ("two", "TCP"), ("one", "UDP"), ("two", "UDP")} == seen
    assert all(map(line.fullmatch, tcp + udp))


def dns_network(net: Namespaces) -> str:
    """Make a host with two name servers as neighbours; return the host's namespace."""
    host = net.add("host")
    for number, (address, label) in enumerate(SERVERS.items(), 1):
        net.add(label)
        net.link("host", f"10.77.{number}.1/24", label, f"{address}/24")
    net.hosts("host", {"dns.example.com": "10.77.2.2"})
    return host


def start_dnsmasq(net: Namespaces, folder: Path) -> list[Dnsmasq]:
    """Start a dnsmasq in the namespace of each server."""
    return [
        Dnsmasq(RECORDS, folder=folder, host=address, port=53, netns=net.name(label))
        for address, label in SERVERS.items()
    ]


@pytest.mark.root
def test_dns_round_robin_answers_every_query(
    proxy: ProxyFactory, namespaces: Namespaces, tmp_path: Path
) -> None:
    """Twenty queries by dig are all answered, and both dnsmasq servers were asked."""
    host = dns_network(namespaces)
    conf = example(
        "dns-round-robin",
        **{"192.0.2.53:53": "10.77.1.2:53", "localhost:5353": "dns.example.com:53"},
    )
    one, two = start_dnsmasq(namespaces, tmp_path)
    with one, two:
        running = proxy(conf, netns=host)
        answers = [dig("www.example.com", "127.0.0.1", netns=host).records for _ in range(20)]
        assert [["192.0.2.80"]] * 20 == answers
        assert 20 == len(one.queries()) + len(two.queries())
        assert one.queries()
        assert two.queries()
        assert not [record for record in running.records() if record.level == "error"]


@pytest.mark.root
def test_dns_per_server_log_names_the_silent_server(
    proxy: ProxyFactory, namespaces: Namespaces, tmp_path: Path
) -> None:
    """Queries are answered over UDP and TCP; one that stays unanswered is logged in its own log."""
    host = dns_network(namespaces)
    conf = example(
        "dns-per-server-log",
        **{"192.0.2.53:53": "10.77.1.2:53", "198.51.100.53:53": "10.77.2.2:53"},
    )
    one, two = start_dnsmasq(namespaces, tmp_path)
    with one, two:
        running = proxy(conf, netns=host)
        asked = [
            dig("www.example.com", "10.77.1.1", tcp=tcp, netns=host).records
            for tcp in [False, True] * 10
        ]
        assert [["192.0.2.80"]] * 20 == asked
        assert one.queries()
        assert two.queries()
        assert [] == running.lines("logs/dns.log")
        for server in (one, two):
            server.pause()
        assert not dig("www.example.com", "127.0.0.1", timeout=1, netns=host)
        (line,) = running.wait_log("upstream timed out", name="logs/dns.log")
    assert re.search(
        r"\[error\] \d+#\d+: \*\d+ upstream timed out \(110: Connection timed out\) "
        r"while proxying connection, udp client: 127\.0\.0\.1, server: 0\.0\.0\.0:53, "
        r'upstream: "10\.77\.[12]\.2:53", '
        r"bytes from/to client:\d+/0, bytes from/to upstream:0/\d+$",
        line,
    )


def test_tcp_proxy_prefers_by_weight_and_keeps_the_backup(
    proxy: ProxyFactory, backends: BackendFactory
) -> None:
    """Two of three sessions go to the first server; the backup serves when the others refuse."""
    made = {name: backends.tcp(scripts.half_close(name.encode())) for name in ("a", "b", "c")}
    conf = example(
        "tcp-proxy",
        **{
            "worker_processes        auto": "worker_processes 1",
            "127.0.0.1:15432": made["a"].text,
            "127.0.0.1:15433": made["b"].text,
            "127.0.0.1:15434": made["c"].text,
            "127.0.0.1:5432": "127.0.0.1:@front@",
            "127.0.0.1:5433": "127.0.0.1:@other@",
        },
    )
    front = proxy(conf).address("front")

    def ask() -> bytes:
        with contextlib.suppress(OSError):
            return clients.tcp_exchange(front, b"request", half_close=True)
        return b""

    assert b"abaaba" == b"".join(ask() for _ in range(6))
    made["a"].close()
    made["b"].close()
    # The first sessions meet two closed servers and no third try; then those are left out.
    wait_until(lambda: ask() == b"c", what="the backup serves")
    assert b"ccc" == b"".join(ask() for _ in range(3))


def test_names_at_run_time_follow_a_name_that_moves(
    proxy: ProxyFactory, backends: BackendFactory, tmp_path: Path
) -> None:
    """Each port leads to its name's address, and to the new one when the name has moved."""
    blue = backends.tcp(scripts.tagged("blue"))
    green = backends.tcp(scripts.tagged("green"), "127.0.0.2", blue.port)
    names = {"blue.example.com": ["127.0.0.1"], "green.example.com": ["127.0.0.2"]}
    with Dnsmasq(names, folder=tmp_path, ttl=1) as dns:
        running = proxy(example("names-at-run-time", **{
            "192.0.2.53 192.0.2.54": dns.text, "$backend:8080": f"$backend:{blue.port}",
            "127.0.0.1:8001": "127.0.0.1:@blue@", "127.0.0.1:8002": "127.0.0.1:@green@",
            "8001": "@blue@",
        }))

        def asked(name: str) -> bytes:
            return clients.tcp_exchange(running.address(name), b"x", size=len(name) + 2)

        assert b"blue:x" == asked("blue")
        assert b"green:x" == asked("green")
        dns.update({"blue.example.com": [green.address[0]], "green.example.com": ["127.0.0.2"]})
        wait_until(lambda: asked("blue") == b"green:", what="the name has moved")


def test_a_syslog_relay_shares_out_what_hosts_send(
    proxy: ProxyFactory, backends: BackendFactory
) -> None:
    """Each collector gets every other message, and each message is a line of the access log."""
    one, two = (backends.udp(scripts.udp_silent) for _ in range(2))
    running = proxy(
        example(
            "syslog",
            **{
                "worker_processes auto": "worker_processes 1",
                "listen          514": "listen 127.0.0.1:@in@",
                "192.0.2.14:514": one.text,
                "198.51.100.14:514": two.text,
            },
        )
    )
    messages = [b"<34>Oct 11 22:14:15 host su: %d" % n for n in range(100)]
    with clients.UdpClient(running.address("in")) as host:
        for message in messages:
            host.send(message)
    assert messages[::2] == one.wait_seen(50)
    assert messages[1::2] == two.wait_seen(50)
    lines = running.wait_log(r" 127\.0\.0\.1 \d\d ", name="logs/syslog.log", count=100)
    assert 100 == len(lines)


def test_quic_by_name_leads_tcp_and_quic_clients_to_their_hosts(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """Both come to the host of their name on one port; who changes it comes to the same host."""
    tcp, udp = {}, {}
    for name in ("shop", "pages"):
        port = ports.free_port()
        tcp[name] = backends.tcp(scripts.tagged(name), "127.0.0.1", port)
        udp[name] = backends.udp(scripts.udp_tagged(name), "127.0.0.1", port)
    running = ngxstream(
        example(
            "quic-by-name",
            **{
                "worker_processes auto": "worker_processes 2",
                "listen 443": "listen 127.0.0.1:@front@",
                "192.0.2.10:443": tcp["shop"].text,
                "192.0.2.20:443": tcp["pages"].text,
            },
        )
    )
    front = running.address("front")
    names = {"shop.example.com": "shop", "a.example.org": "pages", "": "shop", "x.test": "shop"}
    for name, host in names.items():
        hello = hellos.client_hello(name)
        with clients.TcpClient(front) as client:
            client.send(hello)
            assert host.encode() + b":" == client.recv_exactly(len(host) + 1)
        begun = quic.Client(destination=name.encode().ljust(12, b".")[:12])
        (datagram,) = begun.datagrams(quic.hello(name))
        with clients.UdpClient(front) as other, clients.UdpClient(front) as moved:
            for one in (other, moved):
                assert f"{host}:".encode() + datagram == one.exchange(datagram)
    lines = running.wait_log(" TCP ", count=4, name="logs/names.log")
    assert {"shop.example.com", "a.example.org", "", "x.test"} == {
        line.partition(" TCP ")[2].split(" ")[0] for line in lines
    }


@pytest.mark.root
def test_dns_open_answers_who_asks_twice(
    ngxstream: ProxyFactory, namespaces: Namespaces, tmp_path: Path
) -> None:
    """dig is answered; a first answer that is more than ten times the query is dropped."""
    host = dns_network(namespaces)
    conf = example(
        "dns-open", **{"192.0.2.53:53": "10.77.1.2:53", "198.51.100.53:53": "10.77.2.2:53"}
    )
    many = {"many.example.com": [f"192.0.2.{n}" for n in range(1, 61)]}
    servers = [
        Dnsmasq(
            RECORDS | many, folder=tmp_path, host=address, port=53, netns=namespaces.name(label)
        )
        for address, label in SERVERS.items()
    ]
    with servers[0], servers[1]:
        running = ngxstream(conf, netns=host)
        for tcp in (False, True):
            asked = dig("www.example.com", "10.77.1.1", tcp=tcp, netns=host).records
            assert ["192.0.2.80"] == asked
        assert not dig("many.example.com", "10.77.1.1", timeout=1, netns=host)
        many_records = dig("many.example.com", "10.77.1.1", tcp=True, netns=host).records
        assert 60 == len(many_records)
    assert any("PASSED" in line for line in running.access_log())


def test_tls_termination_leads_clients_to_the_group_of_their_name(
    proxy: ProxyFactory, backends: BackendFactory
) -> None:
    """The certificate holds for both names, servers see plain text, and the log tells of TLS."""
    made = {name: backends.tcp(scripts.tagged(name)) for name in ("mail", "mqtt")}
    running = proxy(
        example(
            "tls-termination",
            **{
                "listen 993": "listen 127.0.0.1:@front@",
                "192.0.2.10:143": made["mail"].text,
                "    server 192.0.2.20:1883;\n": "",
                "192.0.2.21:1883": made["mqtt"].text,
            },
        ),
        start=False,
    )
    folder = running.prefix / "conf/certs"
    folder.mkdir()
    authority = Authority(folder)
    authority.issue(
        "example.com", names=("mqtt.example.com", "imap.example.com", "localhost"))
    running.start()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it is not as strict as one of Python 3.13
    context.load_verify_locations(str(authority.cert))
    for name, group in {"mqtt.example.com": "mqtt", "imap.example.com": "mail"}.items():
        with clients.TcpClient(running.address("front")) as client:
            client.sock.settimeout(30)
            with context.wrap_socket(client.sock, server_hostname=name) as inside:
                inside.sendall(b"hello")
                assert f"{group}:".encode() == inside.recv(5)
    lines = running.wait_log(r" 200 \d+ ", count=2, name="logs/tls.log")
    told = re.compile(r" (?:mqtt|imap)\.example\.com TLSv1\.\d \S+ [r.] 200 ")
    assert all(map(told.search, lines))


def header_line(conversation: Conversation) -> None:
    """Answer with the first line that comes, a PROXY protocol header."""
    line = b""
    while not line.endswith(b"\n"):
        line += conversation.recv_exactly(1)
    conversation.send(line)
    conversation.recv_to_eof()


def test_tls_by_name_tells_the_host_of_the_name_who_the_client_is(
    proxy: ProxyFactory, backends: BackendFactory
) -> None:
    """Each name has its host, which gets a header with the client's address; others get none."""
    made = {name: backends.tcp(header_line) for name in ("shop", "pages")}
    refusing = ports.free_port()
    running = proxy(
        example(
            "tls-by-name",
            **{
                "listen 443": "listen 127.0.0.1:@front@",
                "    server 192.0.2.10:443;\n": "",
                "192.0.2.11:443": made["shop"].text,
                "192.0.2.20:443": made["pages"].text,
                "127.0.0.1:9;": f"127.0.0.1:{refusing};",
            },
        )
    )
    front = running.address("front")
    for name, host in {"shop.example.com": "shop", "a.example.org": "pages"}.items():
        with clients.TcpClient(front) as client:
            client.send(hellos.client_hello(name))
            said = f"PROXY TCP4 127.0.0.1 127.0.0.1 {client.name[1]} {front[1]}\r\n".encode()
            assert said == client.recv_exactly(len(said))
        assert 1 == made[host].accepted
    with clients.TcpClient(front) as client:
        client.send(hellos.client_hello("other.example.net"))
        with contextlib.suppress(ConnectionResetError):
            assert b"" == client.recv_to_eof()
    assert running.wait_log(r'"other\.example\.net" \S+ 502 ', name="logs/names.log")


def test_proxy_protocol_passes_the_client_of_the_balancer_on(
    proxy: ProxyFactory, backends: BackendFactory
) -> None:
    """The server gets the client's address, not the balancer's; who sends no header is closed."""
    chat = backends.tcp(header_line)
    running = proxy(
        example(
            "proxy-protocol",
            **{
                "listen           5222": "listen 127.0.0.1:@front@",
                "set_real_ip_from 192.0.2.1": "set_real_ip_from 127.0.0.1",
                "        server 192.0.2.30:5222;\n": "",
                "192.0.2.31:5222": chat.text,
            },
        )
    )
    front = running.address("front")
    with clients.TcpClient(front) as client:
        client.send(b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 5222\r\n")
        said = client.recv_exactly(len(b"PROXY TCP4 203.0.113.9 "))
        assert b"PROXY TCP4 203.0.113.9 " == said
    running.wait_log(r"^203\.0\.113\.9:4711 by 127\.0\.0\.1 200 ", name="logs/clients.log")
    with contextlib.suppress(ConnectionResetError):  # what it sent was not read to its end
        assert b"" == clients.tcp_exchange(front, b"GET / HTTP/1.0\r\n\r\n")
