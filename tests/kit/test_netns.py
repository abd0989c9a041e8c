"""The kit's network namespaces and DNS programs."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support import clients, tools
from tests.support.backends import TcpBackend, UdpBackend
from tests.support.dns import Dnsmasq, dig
from tests.support.netns import Namespaces, in_netns, require_programs
from tests.support.proxies import Nginx

RECORDS = {"www.example.com": ["192.0.2.1", "2001:db8::1"], "two.example.com": ["192.0.2.2"]}


@pytest.mark.root
def test_hosts_of_namespaces_reach_each_other() -> None:
    """Sockets of the test process live in the namespace they were made in, IPv4 and IPv6."""
    with Namespaces() as net:
        a, b = net.add("a"), net.add("b")
        net.link("a", "10.9.0.1/24 fd09::1/64", "b", "10.9.0.2/24 fd09::2/64")
        with TcpBackend(host="10.9.0.2", netns=b) as backend:
            assert b"x" == clients.tcp_exchange(backend.address, b"x", half_close=True, netns=a)
            assert "10.9.0.1" == backend.conversations[0].peer[0]
        with UdpBackend(host="fd09::2", netns=b) as server:
            assert b"y" == clients.udp_exchange(server.address, b"y", netns=a)


@pytest.mark.root
def test_namespaces_leave_nothing_behind() -> None:
    """Closing removes the namespaces and kills what runs inside."""
    net = Namespaces()
    name = net.add("a")
    process = net.popen("a", "sleep", "1000")
    net.close()
    listed = subprocess.run(
        [tools.require("ip"), "netns"], capture_output=True, text=True, check=True
    )
    assert name not in listed.stdout
    assert -9 == process.returncode


@pytest.mark.root
def test_a_sysctl_is_the_namespaces_own() -> None:
    """sysctl() changes the setting inside and the caller stays outside."""
    outside = Path("/proc/sys/net/ipv4/ip_forward")
    before = outside.read_text()
    mine = os.readlink("/proc/thread-self/ns/net")
    with Namespaces() as net:
        name = net.add("a")
        net.sysctl("a", "net.ipv4.ip_default_ttl", 33)
        path = Path("/proc/sys/net/ipv4/ip_default_ttl")
        assert "33" == in_netns(name, lambda: path.read_text().strip())
        assert mine != in_netns(name, lambda: os.readlink("/proc/thread-self/ns/net"))
    assert before == outside.read_text()
    assert mine == os.readlink("/proc/thread-self/ns/net")


@pytest.mark.root
def test_a_proxy_runs_inside_a_namespace(tmp_path: Path) -> None:
    """A runner given netns= binds fixed ports there, which nobody else has."""
    conf = "events {} stream { server { listen 53; return inside; } }"
    with Namespaces() as net:
        name = net.add("a")
        with Nginx(conf, tmp_path, netns=name):
            assert b"inside" == clients.tcp_exchange(("127.0.0.1", 53), netns=name)


def test_dnsmasq_answers_dig(tmp_path: Path) -> None:
    """Addresses of both families are answered over UDP and TCP; the queries are recorded."""
    with Dnsmasq(RECORDS, folder=tmp_path) as server:
        assert ["192.0.2.1"] == dig("www.example.com", *server.address).records
        answer = dig("www.example.com", *server.address, kind="AAAA", tcp=True)
        assert ["2001:db8::1"] == answer.records
        assert "NXDOMAIN" == dig("none.example.com", *server.address).status
        assert ["www.example.com", "www.example.com", "none.example.com"] == server.queries()


def test_dnsmasq_takes_new_records_while_it_runs(tmp_path: Path) -> None:
    """update() changes the answers without a restart."""
    with Dnsmasq(RECORDS, folder=tmp_path) as server:
        server.update({"www.example.com": ["192.0.2.7", "192.0.2.8"]})
        assert ["192.0.2.7", "192.0.2.8"] == dig("www.example.com", *server.address).records
        assert [] == dig("two.example.com", *server.address).records


def test_dnsmasq_serves_srv(tmp_path: Path) -> None:
    """SRV records carry priority, weight, port and target."""
    srv = ["_dns._udp.example.com,two.example.com,5353,1,2"]
    with Dnsmasq(RECORDS, folder=tmp_path, srv=srv) as server:
        answer = dig("_dns._udp.example.com", *server.address, kind="SRV")
        assert ["1 2 5353 two.example.com."] == answer.records


def test_a_paused_dnsmasq_is_silent(tmp_path: Path) -> None:
    """pause() makes a server that never answers; resume() brings it back."""
    with Dnsmasq(RECORDS, folder=tmp_path) as server:
        server.pause()
        assert not dig("www.example.com", *server.address, timeout=1)
        server.resume()
        assert dig("www.example.com", *server.address)


@pytest.mark.parametrize(
    "words", [("nosuch", "--list"), ("sh", "-ec", "true\n  nft list ruleset\n"), ("/no/such",)]
)
def test_a_program_that_is_not_installed_is_a_skip(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Commands on hosts need what they begin with, and so does each line of their scripts."""
    shell = tools.require("sh")
    (tmp_path / "sh").symlink_to(shell)
    monkeypatch.setattr(tools, "SEARCH_PATH", str(tmp_path))
    monkeypatch.delenv("NGXSTREAM_REQUIRE_TOOLS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="is not installed"):
        require_programs(words)
    require_programs(("sh", "-ec", "true"))
