"""The set-ups of docs/client-address.md, made by the commands that -N prints, on both programs.

The examples of conf/ are served on three hosts. The printed parts are executed where they belong,
1000 datagrams and 100 connections are echoed, and the printed undo leaves the hosts as they were.
"""

import re
from pathlib import Path

import pytest

from tests.support import backends as b
from tests.support import hosts, tools
from tests.support.clients import UdpClient
from tests.support.dns import Dnsmasq, dig
from tests.support.dnsdist import Dnsdist
from tests.support.netns import Namespaces
from tests.support.proxies import ROOT, Ngxstream, Proxy, ProxyFactory
from tests.support.waiting import wait_until

FILES = {
    4: {"198.51.100.1": "10.91.1.1", "192.0.2.53": "10.91.2.2", "10.0.0.53": "10.91.2.2"},
    6: {"198.51.100.1": "[fd91:1::1]", "192.0.2.53": "[fd91:2::2]", "10.0.0.53": "[fd91:2::2]",
        "$remote_addr:$remote_port": "[$remote_addr]:$remote_port"},
}


def example(name: str, family: int) -> str:
    """Return an example with the addresses of the test's hosts."""
    text = (ROOT / "conf" / f"{name}.conf").read_text()
    for old, new in FILES[family].items():
        text = text.replace(old, new)
    return text.replace("worker_processes auto", "worker_processes 2")


def parts(printed: str) -> dict[str, str]:
    """Return the commands by their headings."""
    pieces = re.split(r"(?m)^# ---- (.*) ----$", printed)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


class Printed:
    """What -N prints of a configuration on the proxy's host, to be executed."""

    def __init__(self, net: Namespaces, text: str, folder: Path) -> None:
        """Have it printed."""
        program = Ngxstream(text, folder, netns=net.name("proxy"))
        said = program.run("-N")
        assert (0, "") == (said.code, said.stderr)
        self.text = said.stdout
        self.parts = parts(said.stdout)
        self._net = net

    def execute(self, kind: str, *, undo: bool = False) -> None:
        """Execute the parts of a kind, each on its host."""
        done = 0
        for heading, commands in self.parts.items():
            if heading.startswith(f"{kind}: ") and heading.endswith(", undo") == undo:
                label = "backend" if "the backend" in heading else "proxy"
                self._net.run(label, "sh", "-ec", commands)
                done += 1
        assert done


def state(net: Namespaces) -> list[str]:
    """Return what the commands change on the hosts."""
    found = []
    for label in ("proxy", "backend"):
        for family in ("-4", "-6"):
            found.append(net.run(label, "ip", family, "rule", "show"))
            found.append(net.run(label, "ip", family, "route", "show", "table", "all"))
        rules = net.run(label, "nft", "list", "ruleset")
        found += re.findall(r"(?m)^.*(?:mark set|saddr|table inet).*$", rules)
        found.append(net.run(label, "sysctl", "net.ipv4.ip_forward"))
        found.append(net.run(label, "sysctl", "net.ipv6.conf.all.forwarding"))
    # what the kernel learns by itself comes and goes
    return [re.sub(r"(?m)^.*(?:fe80|ff00|multicast|expires).*\n?", "", text) for text in found]


def echo(net: Namespaces, family: int, port: int) -> b.UdpBackend:
    """Start a UDP echo on the backend."""
    return b.UdpBackend(
        host=hosts.BACKEND[family], port=port, netns=net.name("backend"), rcvbuf=1 << 20
    )


@pytest.mark.root
@pytest.mark.parametrize("family", [4, 6])
def test_transparent(
    family: int, namespaces: Namespaces, proxy: ProxyFactory, tmp_path: Path
) -> None:
    """transparent.conf, with replies routed back through the proxy's host."""
    net = namespaces
    hosts.three(net)
    before = state(net)
    text = example("transparent", family)
    printed = Printed(net, text, tmp_path)
    printed.execute("transparent")
    tcp = b.TcpBackend(
        b.echo, host=hosts.BACKEND[family], port=53, netns=net.name("backend")
    )
    with echo(net, family, 53) as udp, tcp:
        running = proxy(text, netns=net.name("proxy"))
        hosts.udp_round(net, (hosts.FRONT[family], 53), hosts.CLIENT[family], 1000)
        hosts.tcp_round(net, (hosts.FRONT[family], 53), hosts.CLIENT2[family], 100)
        assert {hosts.CLIENT[family]} == {host for host, _ in udp.sources}
        assert 1000 == udp.sources.total()
        peers = {conversation.peer[0] for conversation in tcp.wait_accepted(100)}
        assert {hosts.CLIENT2[family]} == peers
        assert [1 << 13] * 2 == [effective(pid) for pid in running.worker_pids()]
    printed.execute("transparent", undo=True)
    assert before == state(net)


def effective(pid: int) -> int:
    """Return the effective capabilities of a process, as bits."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"(?m)^CapEff:\s+(\w+)$", status)[0], 16)


@pytest.mark.root
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("direct-return", "direct by this host"),
        ("direct-return-by-backend", "direct by the backend"),
    ],
    ids=["by this host", "by the backend"],
)
def test_direct_return(
    name: str,
    kind: str,
    family: int,
    namespaces: Namespaces,
    proxy: ProxyFactory,
    tmp_path: Path,
) -> None:
    """The two ways of direct server return: answers come from where the client asked."""
    net = namespaces
    hosts.three(net)
    if kind.endswith("backend"):
        hosts.direct(net)
    before = state(net)
    text = example(name, family)
    printed = Printed(net, text, tmp_path)
    printed.execute(kind)
    if proxy.name == "nginx":  # see tests/differential/test_dsr.py
        net.sysctl("proxy", "net.ipv4.udp_early_demux", 0)
    with echo(net, family, 5300) as udp:
        proxy(text, netns=net.name("proxy"))
        names = hosts.udp_round(net, (hosts.FRONT[family], 53), hosts.CLIENT[family], 1000)
        assert set(names) == set(udp.sources)
        assert 1000 == udp.sources.total()
    printed.execute(kind, undo=True)
    assert before == state(net)


@pytest.mark.root
def test_tc_lines_are_tc_s_language(namespaces: Namespaces, tmp_path: Path) -> None:
    """The tc text, printed as a comment, is understood by tc: what refuses it is the kernel."""
    hosts.three(namespaces)
    text = example("direct-return", 4).replace(":5300", ":53")
    printed = Printed(namespaces, text, tmp_path)
    part = printed.parts["direct by this host: this host"]
    lines = [line[4:] for line in part.splitlines() if line.startswith("#   tc ")]
    assert "act_nat" in part
    assert 2 == len(lines)
    for line in lines:
        words = line.replace("$dev", "eth0").split()
        said = namespaces.run("proxy", *words, check=False) or namespaces.run(
            "proxy", "sh", "-c", f"{' '.join(words)} 2>&1", check=False
        )
        for complaint in ("Usage", "Illegal", "What is", "Unknown", "bad action"):
            assert complaint not in said, said


def test_tc_cannot_change_ports(tmp_path: Path) -> None:
    """Where the ports differ no tc command is printed, and it says why."""
    program = Ngxstream(example("direct-return", 4), tmp_path)
    said = program.run("-N")
    assert "# tc cannot do it here: the ports differ, or it is IPv6" in said.stdout
    assert "tc filter" not in said.stdout


def network(text: str, folder: Path) -> str:
    """Return what -N prints of servers."""
    program = Ngxstream(f"events {{}} stream {{ {text} }}", folder)
    said = program.run("-N")
    assert (0, "") == (said.code, said.stderr)
    return said.stdout


DIRECT = "proxy_responses 0; proxy_bind $remote_addr:$remote_port transparent;"


def test_nothing_is_needed_without_transparent(tmp_path: Path) -> None:
    """A configuration without transparent binding needs nothing, and -N says so."""
    text = "server { listen 127.0.0.1:5300; proxy_bind 127.0.0.1; proxy_pass 127.0.0.1:9; }"
    printed = network(text, tmp_path)
    assert "nothing is needed" in printed
    assert {} == parts(printed)


def test_answers_that_cannot_be_told_apart(tmp_path: Path) -> None:
    """One server behind two addresses, or wanted here and past here, is warned of."""
    text = "".join(
        f"server {{ listen 127.0.0.1:{port} udp; {DIRECT} proxy_pass 192.0.2.9:53; }}"
        for port in (5300, 5301)
    )
    printed = network(text, tmp_path)
    assert (
        "# WARNING: 192.0.2.9:53 serves 127.0.0.1:5300 and 127.0.0.1:5301: its answers cannot be "
        "told apart." in printed
    )
    text += (
        "server { listen 127.0.0.1:5302 udp; proxy_bind $remote_addr transparent; "
        "proxy_pass 192.0.2.9:53; }"
    )
    assert "# WARNING: answers of 192.0.2.9:53/udp are wanted here and past here" in network(
        text, tmp_path
    )


def test_servers_that_are_not_known(tmp_path: Path) -> None:
    """Servers that a variable names are not known yet, and it is said where."""
    text = "listen 127.0.0.1:5300; proxy_bind $remote_addr transparent; proxy_pass $host;"
    text = f"server {{ {text} }}"
    text = f"map $remote_addr $host {{ default 127.0.0.1:9; }} {text}"
    assert "nginx.conf:1 are not known before a session" in network(text, tmp_path)


@pytest.mark.parametrize(
    ("listen", "bind"),
    [
        ("[::]:5300 ipv6only=off", "$remote_addr"),  # IPv4 clients come mapped
        ("[::1]:5300 proxy_protocol", "$remote_addr"),  # the header tells of clients of any family
        ("[::1]:5300", "198.51.100.9"),  # it is not the client's
        ("[::1]:5300", "$somebody"),  # it may be
    ],
)
def test_ipv4_servers_behind_an_ipv6_address(listen: str, bind: str, tmp_path: Path) -> None:
    """Where what is bound to may be an IPv4 address, an IPv4 server gets its commands."""
    text = f"server {{ listen {listen}; proxy_bind {bind} transparent; proxy_pass 127.0.0.9:9; }}"
    printed = network("map $remote_addr $somebody { default 198.51.100.9; } " + text, tmp_path)
    (command,) = re.findall("(?m)^ip6?tables .* -A .*", printed)
    assert "iptables -t mangle -A PREROUTING -p tcp -s 127.0.0.9 --sport 9 " in command
    assert "cannot be the source" not in printed


def test_clients_of_another_family_than_the_server_s(tmp_path: Path) -> None:
    """A server that no client can be the source towards is named, by -N and by -t."""
    text = "listen [::1]:@main@; proxy_bind $remote_addr transparent; proxy_pass 127.0.0.9:9;"
    program = Ngxstream(f"events {{}} stream {{ server {{ {text} }} }}", tmp_path)
    why = f"IPv6 clients of [::1]:{program.port('main')} cannot be the source towards 127.0.0.9:9"
    printed = program.run("-N").stdout
    assert f"# WARNING: {why}" in printed
    assert {} == parts(printed)
    assert f"[warn] {CANNOT}{why} (" in program.test().stderr


def test_a_note_is_printed_once(tmp_path: Path) -> None:
    """What is said of a wildcard is said once for all its ports, above all commands."""
    text = f"server {{ listen 5300-5302 udp; {DIRECT} proxy_pass 127.0.0.9:9; }}"
    printed = network(text, tmp_path)
    assert 1 == printed.count("listens on every address")
    assert printed.index("# WARNING") < printed.index("# ----")


@pytest.mark.root
def test_a_wildcard_is_taken_for_what_clients_ask(
    namespaces: Namespaces, tmp_path: Path
) -> None:
    """With `listen *:53` answers are rewritten to this host's address towards its clients."""
    hosts.three(namespaces)
    text = example("direct-return", 4).replace("10.91.1.1:53 udp", "53 udp")
    printed = Printed(namespaces, text, tmp_path)
    assert "listens on every address; taken for what clients ask: 10.91.1.1." in printed.text
    assert "ip saddr set 10.91.1.1 udp sport set 53" in printed.text


# -- the warnings of -t ----------------------------------------------------------------------

CANNOT = 'transparent "proxy_bind" cannot work on this host: '


def warned(net: Namespaces, text: str, folder: Path, *prefix: str) -> list[str]:
    """Return what -t warns of on the proxy's host."""
    program: Proxy = Ngxstream(text, folder, netns=net.name("proxy"))
    command = program.command()
    program.command = lambda: [*prefix, *command]  # type: ignore[method-assign]
    said = program.run("-t")
    assert 0 == said.code, said.stderr
    return re.findall(rf"(?m)^ngxstream: \[warn\] {re.escape(CANNOT)}(.*)$", said.stderr)


@pytest.mark.root
@pytest.mark.parametrize("family", [4, 6])
def test_warnings_follow_the_set_up(
    family: int, namespaces: Namespaces, tmp_path: Path
) -> None:
    """-t names what is missing, rule, route and mark in turn, and is content at the end."""
    tables = "ip6tables" if family == 6 else "iptables"
    for program in ("nft", tables):  # -t asks nft for marks, and says nothing of them without it
        tools.require(program)
    net = namespaces
    hosts.three(net)
    text = example("transparent", family)
    ip = ("ip", "-6") if family == 6 else ("ip",)
    everything = "::/0" if family == 6 else "0.0.0.0/0"
    (said,) = warned(net, text, tmp_path)
    assert said.startswith(f"no rule routes marked IPv{family} packets")
    net.run("proxy", *ip, "rule", "add", "fwmark", "1", "lookup", "100")
    (said,) = warned(net, text, tmp_path)
    assert said.startswith("table 100, where marked")
    net.run("proxy", *ip, "route", "add", "local", everything, "dev", "lo", "table", "100")
    (said,) = warned(net, text, tmp_path)
    assert said.startswith("no rule of the firewall marks the replies of")
    net.run("proxy", *f"{tables} -t mangle -A PREROUTING -p tcp -j MARK --set-mark 1".split())
    assert [] == warned(net, text, tmp_path)


def test_warnings_are_seen_whatever_the_log_s_level(tmp_path: Path) -> None:
    """-t says them on the terminal, though `error_log` keeps errors alone."""
    text = "listen 127.0.0.1:@main@; proxy_bind $remote_addr transparent; proxy_pass [::1]:9;"
    text = f"events {{}} stream {{ server {{ {text} }} }}"
    said = Ngxstream(text, tmp_path, log_level="error").test().stderr
    assert f"[warn] {CANNOT}" in said


@pytest.mark.root
def test_a_missing_capability_is_warned_of(namespaces: Namespaces, tmp_path: Path) -> None:
    """-t in a container without CAP_NET_RAW says so."""
    hosts.three(namespaces)
    drop = (tools.require("setpriv"), "--bounding-set", "-net_raw,-net_admin")
    drop += ("--inh-caps", "-net_raw,-net_admin")
    said = warned(namespaces, example("direct-return", 4), tmp_path, *drop)
    assert ["CAP_NET_RAW is missing"] == said


@pytest.mark.root
def test_a_missing_route_is_warned_of(namespaces: Namespaces, tmp_path: Path) -> None:
    """-t says which server this host has no route to."""
    hosts.three(namespaces)
    text = example("direct-return", 4).replace("10.91.2.2", "203.0.113.9")
    assert ["there is no route to 203.0.113.9"] == warned(namespaces, text, tmp_path)


def dropped(net: Namespaces) -> int:
    """Return how many packets have come to the proxy's host and been given to nobody there."""
    said = net.run("proxy", "nstat", "-a", "-z", "-s", "IpInReceives", "IpInDelivers")
    count = dict(re.findall(r"(?m)^(\w+) +(\d+)", said))
    return int(count["IpInReceives"]) - int(count["IpInDelivers"])


@pytest.mark.root
def test_a_check_of_sources_that_drops_replies(
    namespaces: Namespaces, ngxstream: ProxyFactory, tmp_path: Path
) -> None:
    """rp_filter alone does no harm; where it looks at the mark, -t warns and nothing works."""
    net = namespaces
    hosts.three(net)
    text = example("transparent", 4)
    Printed(net, text, tmp_path).execute("transparent")
    with echo(net, 4, 53):
        ngxstream(text, netns=net.name("proxy"))
        front = (hosts.FRONT[4], 53)
        net.sysctl("proxy", "net.ipv4.conf.all.rp_filter", 1)
        hosts.udp_round(net, front, hosts.CLIENT[4], 20)
        assert [] == warned(net, text, tmp_path)
        net.sysctl("proxy", "net.ipv4.conf.all.src_valid_mark", 1)
        (said,) = warned(net, text, tmp_path)
        assert said.startswith("rp_filter (net.ipv4.conf.all.rp_filter) with")
        before = dropped(net)
        source = (hosts.CLIENT2[4], 0)
        with UdpClient(front, source=source, netns=net.name("client")) as client:
            client.send(b"anybody?")
            wait_until(lambda: dropped(net) > before, what="the reply is dropped")
            assert [] == client.drain()


# -- dnsdist.conf ----------------------------------------------------------------------------


def test_between_two_dnsdist(ngxstream: ProxyFactory, tmp_path: Path) -> None:
    """dnsdist.conf carries DNS from one dnsdist to another; the client is known all the way."""
    records = {"www.example.com": ["192.0.2.80"]}
    with Dnsmasq(records, folder=tmp_path) as server:
        behind_lua = (
            'setProxyProtocolACL({"127.0.0.1/32"})\n'
            'denied = newNMG()\ndenied:addMask("127.0.0.66/32")\n'
            "addAction(NetmaskGroupRule(denied), RCodeAction(DNSRCode.REFUSED))\n"
            f'newServer({{address="{server.text}"}})'
        )
        with Dnsdist(behind_lua, tmp_path) as behind:
            text = (ROOT / "conf" / "dnsdist.conf").read_text()
            text = text.replace("5302", str(behind.port)).replace(":5301", ":@in@")
            program = ngxstream(text)
            front_lua = (
                f'newServer({{address="127.0.0.1:{program.port("in")}", useProxyProtocol=true}})'
            )
            with Dnsdist(front_lua, tmp_path) as front:
                wait_until(
                    lambda: dig("www.example.com", "127.0.0.1", front.port, timeout=1,
                                extra=("-b", "127.0.0.9")).records,
                    what="the chain answers",
                )
                for n in range(10, 20):
                    answer = dig(
                        "www.example.com", "127.0.0.1", front.port, extra=("-b", f"127.0.0.{n}")
                    )
                    assert ["192.0.2.80"] == answer.records
                refused = dig(
                    "www.example.com", "127.0.0.1", front.port, extra=("-b", "127.0.0.66")
                )
                assert "REFUSED" == refused.status
    known = {"127.0.0.66", *(f"127.0.0.{n}" for n in range(10, 20))}
    wait_until(lambda: known <= {line.partition(":")[0] for line in program.access_log()})
