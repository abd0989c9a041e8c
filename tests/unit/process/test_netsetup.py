"""What transparent servers need of the network, and the commands for it."""

import pytest

from ngxstream.process import netsetup
from tests.support.in_process import build

SERVER = "server {{ listen {listen}; proxy_pass {back}; proxy_bind {bind} transparent; {more} }}"


def needs(
    listen: str, back: str = "127.0.0.9:2", bind: str = "$remote_addr", more: str = ""
) -> netsetup.Needs:
    """Return what one server needs."""
    text = SERVER.format(listen=listen, back=back, bind=bind, more=more)
    made = build(f"stream {{ {text} }}")
    assert made.conf is not None, made.error
    return netsetup.needs(made.conf)


def script(*servers: str) -> str:
    """Return what -N prints."""
    made = build(f"stream {{ {' '.join(servers)} }}")
    assert made.conf is not None, made.error
    return netsetup.script(made.conf, "/n.conf")


def test_without_a_transparent_server_nothing_is_needed() -> None:
    """The same holds for a configuration without a stream block."""
    said = script("server { listen 127.0.0.1:1; proxy_pass 127.0.0.1:2; }")
    assert said.endswith("nothing is needed.\n")
    assert netsetup.Needs([], [], []) == netsetup.needs(None)


def test_a_flow_is_a_listening_address_and_a_server() -> None:
    """Of one family and protocol; direct where no answer is waited for."""
    (udp,) = needs("127.0.0.1:1 udp", more="proxy_responses 0;").flows
    (tcp,) = needs("127.0.0.1:1").flows
    front, back = ("127.0.0.1", 1), ("127.0.0.9", 2)
    assert [("udp", front, back, True), ("tcp", front, back, False)] == [
        (flow.protocol, flow.front, flow.back, flow.direct) for flow in (udp, tcp)
    ]
    assert not udp.wildcard
    assert needs("1").flows[0].wildcard


def test_servers_of_unix_sockets_need_nothing() -> None:
    """No packet leaves the host; a target with variables is listed as unknown until run time."""
    assert [] == needs("unix:/tmp/x").flows
    found = needs("127.0.0.1:1", "$remote_addr:53")
    assert ([], ["/p/conf/nginx.conf:1"]) == (found.flows, found.unknown)


@pytest.mark.parametrize(
    ("listen", "bind", "who"),
    [
        ("[::1]:1", "$remote_addr", "IPv6 clients of [::1]:1"),
        ("127.0.0.1:1", "[::1]", "::1"),
    ],
)
def test_an_address_of_another_family_is_no_source(listen: str, bind: str, who: str) -> None:
    """Nobody can be the source towards a server of the other one."""
    found = needs(listen, bind=bind)
    assert [] == found.flows
    place = "127.0.0.9:2 (/p/conf/nginx.conf:1)"
    assert [f"{who} cannot be the source towards {place}"] == found.mismatches


def test_what_is_printed_is_undone_by_its_undo() -> None:
    """Each rule and route that is added is deleted."""
    said = script(SERVER.format(listen="127.0.0.1:1", back="127.0.0.9:2", bind="$remote_addr",
                                more=""))
    lines = said.splitlines()
    added = [line for line in lines if line.startswith("ip") and ("add" in line or " -A " in line)]
    assert 3 == len(added)
    for line in added:
        assert line.replace(" add ", " del ").replace(" -A ", " -D ") in lines


def test_answers_that_cannot_be_told_apart_are_warned_of() -> None:
    """Two listening addresses, one server, answers that pass the proxy by."""
    more = "proxy_responses 0;"
    servers = [SERVER.format(listen=f"127.0.0.{n}:1 udp", back="127.0.0.9:2", bind="$remote_addr",
                             more=more) for n in (1, 2)]
    said = script(*servers)
    assert "# WARNING: 127.0.0.9:2 serves 127.0.0.1:1 and 127.0.0.2:1" in said
    rewrites = [line for line in said.splitlines() if "saddr set" in line]
    assert 2 == len(rewrites)  # by this host and by the backend, each for the first alone
    assert all("saddr set 127.0.0.1 udp sport set 1" in line for line in rewrites)


def test_a_setting_of_the_kernel_is_read_by_its_name() -> None:
    """Empty where there is none."""
    assert netsetup.sysctl("kernel.ostype")
    assert "" == netsetup.sysctl("net.no.such")
