"""The upstream block says what nginx says, and proxy_pass finds the upstream it means."""

import socket
from pathlib import Path

import pytest

from ngxstream.core import inet
from ngxstream.stream import peer_state, upstream_block
from ngxstream.stream.upstream import UpstreamConf, UpstreamTable
from tests.support.balancing import Clock, is_down, session
from tests.support.in_process import build
from tests.support.nginx_says import NginxSays

HERE = " in /p/conf/nginx.conf:"

# What nginx 1.31.5 says; those that Debian's nginx says too are asked of it below.
BOTH = [
    ("upstream u {\n}", "no servers are inside upstream" + HERE + "2"),
    ("upstream u { server 127.0.0.1; }", 'no port in upstream "127.0.0.1"' + HERE + "1"),
    ("upstream u { server name; }", 'host not found in upstream "name"' + HERE + "1"),
    ("upstream u { server unix:; }",
     'no path in the unix domain socket in upstream "unix:"' + HERE + "1"),
    ("upstream u { server 127.0.0.1:0; }", 'invalid port in upstream "127.0.0.1:0"' + HERE + "1"),
    ("upstream u { server :1; }", 'no host in upstream ":1"' + HERE + "1"),
    ("upstream u { server no.such.invalid:53; }",
     'host not found in upstream "no.such.invalid:53"' + HERE + "1"),
    ("upstream u { server 127.0.0.1:1 weight=0; }", 'invalid parameter "weight=0"' + HERE + "1"),
    ("upstream u { server 127.0.0.1:1 weight=x; }", 'invalid parameter "weight=x"' + HERE + "1"),
    ("upstream u { server 127.0.0.1:1 weight; }", 'invalid parameter "weight"' + HERE + "1"),
    ("upstream u { server 127.0.0.1:1 max_fails=-1; }",
     'invalid parameter "max_fails=-1"' + HERE + "1"),
    ("upstream u { server 127.0.0.1:1 max_conns=many; }",
     'invalid parameter "max_conns=many"' + HERE + "1"),
    ("upstream u { server 127.0.0.1:1 fail_timeout=1ms; }",
     'invalid parameter "fail_timeout=1ms"' + HERE + "1"),
    ("upstream u { server 127.0.0.1:1 backup=1; }",
     'invalid parameter "backup=1"' + HERE + "1"),
    ("upstream u { server; }",
     'invalid number of arguments in "server" directive' + HERE + "1"),
    ("upstream { server 127.0.0.1:1; }",
     'invalid number of arguments in "upstream" directive' + HERE + "1"),
    ("upstream u { listen 127.0.0.1:1; }", '"listen" directive is not allowed here' + HERE + "1"),
    ("upstream u { server 127.0.0.1:1; queue 9; }", 'unknown directive "queue"' + HERE + "1"),
    ("upstream u { server 127.0.0.1:1 backup; }", 'no servers in upstream "u"' + HERE + "1"),
    ("upstream u { server 127.0.0.1:1; }\nupstream U { server 127.0.0.1:1; }",
     'duplicate upstream "U"' + HERE + "2"),
    ("upstream u { server 127.0.0.1:1; }\nserver { listen 127.0.0.1:1;\nproxy_pass u:53; }",
     'upstream "u" may not have port 53' + HERE + "3"),
    ("server { listen 127.0.0.1:1;\nproxy_pass u:53; }\nupstream u { server 127.0.0.1:1; }",
     'upstream "u" may not have port 53' + HERE + "2"),
    ("server { listen 127.0.0.1:1;\nproxy_pass nobody; }",
     'no port in upstream "nobody"' + HERE + "2"),
    ("server { listen 127.0.0.1:1;\nproxy_pass 127.0.0.1; }",
     'no port in upstream "127.0.0.1"' + HERE + "2"),
    ("server { listen 127.0.0.1:1;\nproxy_pass no.such.invalid:53; }",
     'host not found in upstream "no.such.invalid"' + HERE + "2"),
    ("server { listen 127.0.0.1:1;\nproxy_pass 127.0.0.1:99999; }",
     'invalid port in upstream "127.0.0.1:99999"' + HERE + "2"),
    ("server { listen 127.0.0.1:1;\nproxy_pass u; }\nupstream u { server 127.0.0.1:1; }", ""),
    ("upstream u { server unix:/tmp/x weight=3 max_conns=2 max_fails=0 fail_timeout=1m down; }",
     ""),
    ("upstream u { server [::1]:53; server 127.0.0.1:53 backup; }", ""),
]
NEWER = [
    ("upstream u { server name:1 resolve; }",
     'resolving names at run time requires upstream "u"' + HERE + "1 to be in shared memory"),
    ("upstream u { server name service=dns; }",
     'service upstream "name" requires "resolve" parameter' + HERE + "1"),
    ("upstream u { server name service= resolve; }", "service is empty" + HERE + "1"),
    ("upstream u { server name:53 service=dns resolve; }",
     'service upstream "name:53" may not have port' + HERE + "1"),
    ("upstream u { server 127.0.0.1 service=dns resolve; }",
     'service upstream "127.0.0.1" requires domain name' + HERE + "1"),
    ("upstream u { server name resolve; }", 'no port in upstream "name"' + HERE + "1"),
    ("upstream u { server 127.0.0.1:1 resolve; }", ""),
]


@pytest.mark.parametrize(("block", "expected"), BOTH + NEWER)
def test_an_upstream_is_judged_as_in_nginx(block: str, expected: str) -> None:
    """Each fault is reported in nginx's words at nginx's line."""
    assert expected == build(f"stream {{ {block} }}").error


def test_the_real_nginx_says_the_same(tmp_path: Path) -> None:
    """The expectations above, where they are not newer than it, are what a real nginx answers."""
    nginx = NginxSays(tmp_path)
    load = nginx.load_stream()
    for block, expected in BOTH:
        said = nginx.of(f"{load}events {{}} stream {{ {block} }}".encode())
        assert expected == said.replace(str(nginx.path), "/p/conf/nginx.conf")


def upstreams(block: str) -> list[UpstreamConf]:
    """Build the upstreams of a stream block of this inside."""
    return list(table(block))


def table(block: str) -> UpstreamTable:
    """Build a stream block of this inside; return its upstreams as they are looked up."""
    built = build(f"stream {{ {block} }}")
    assert built.conf is not None, built.error
    return built.conf.upstreams


def test_one_address_in_two_servers_is_one_upstream() -> None:
    """Servers that pass to the same address share one group; another port is another group."""
    found = upstreams(
        "server { listen 127.0.0.1:1; proxy_pass 127.0.0.1:53; }"
        "server { listen 127.0.0.1:2; proxy_pass 127.0.0.1:53; }"
        "server { listen 127.0.0.1:3; proxy_pass 127.0.0.1:54; }"
    )
    assert [("127.0.0.1", 53), ("127.0.0.1", 54)] == [(conf.name, conf.port) for conf in found]


def test_an_upstream_may_be_named_before_it_is_defined() -> None:
    """proxy_pass of a later block, in other letters, is that block."""
    found = upstreams(
        "server { listen 127.0.0.1:1; proxy_pass DNS; } upstream dns { server 127.0.0.1:53; }"
    )
    assert [("DNS", True)] == [(conf.name, conf.explicit) for conf in found]
    assert found[0].balancer is not None


def test_a_name_stands_for_all_its_addresses() -> None:
    """A name in proxy_pass or server is resolved to every address it has at start."""
    expected = {info[4][0] for info in socket.getaddrinfo("localhost", 1, type=socket.SOCK_STREAM)}
    by_server, by_pass = upstreams(
        "upstream u { server localhost:53 weight=2; }"
        "server { listen 127.0.0.1:1; proxy_pass localhost:53; }"
    )
    for conf, weight in (by_server, 2), (by_pass, 1):
        peers = conf.balancer.tier.peers  # type: ignore[union-attr]
        assert expected == {peer.sockaddr[0] for peer in peers}
        assert {weight} == {peer.weight for peer in peers}


def test_a_unix_socket_is_an_upstream() -> None:
    """proxy_pass unix:PATH connects to the path and is named as written."""
    (conf,) = upstreams("server { listen 127.0.0.1:1; proxy_pass unix:/run/x.sock; }")
    (peer,) = conf.balancer.tier.peers  # type: ignore[union-attr]
    assert (socket.AF_UNIX, "/run/x.sock", "unix:/run/x.sock") == (
        peer.family, peer.sockaddr, peer.name
    )


def test_server_parameters_reach_the_peers() -> None:
    """What a server line says is what its peers have."""
    (conf,) = upstreams(
        "upstream u { server 127.0.0.1:1 weight=3 max_conns=4 max_fails=5 fail_timeout=1m;"
        " server 127.0.0.1:2 down; server 127.0.0.1:3 backup; }"
    )
    tier = conf.balancer.tier  # type: ignore[union-attr]
    first, second = tier.peers
    assert (3, 4, 5, 60, False) == (
        first.weight, first.max_conns, first.max_fails, first.fail_timeout, is_down(first)
    )
    assert (1, 0, 1, 10, True) == (
        second.weight, second.max_conns, second.max_fails, second.fail_timeout, is_down(second)
    )
    assert ["127.0.0.1:3"] == [peer.name for peer in tier.backup.peers]
    assert 2 == tier.tries  # a server that is down is no try


@pytest.mark.parametrize(
    ("text", "expected"),
    [("U", "u"), ("127.0.0.1:53", "127.0.0.1"), ("unix:/x", "/x"), ("u:53", None),
     ("127.0.0.1:54", None), ("127.0.0.1", None), ("other", None)],
)
def test_an_upstream_is_found_by_an_address_of_run_time(text: str, expected: str | None) -> None:
    """A name finds a block in any letters; an address finds the group of the same port."""
    known = table(
        "upstream u { server 127.0.0.1:1; } server { listen 127.0.0.1:1; proxy_pass unix:/x; }"
        "server { listen 127.0.0.1:2; proxy_pass 127.0.0.1:53; }"
    )
    found = upstream_block.find_upstream(known, inet.parse_url(text, no_resolve=True))
    assert expected == (found and found.name)

API = "server { listen 127.0.0.1:9; api write=%s; }"


def test_a_group_without_servers() -> None:
    """May be where something can give it some, be it said later; else nginx's verdict stands."""
    empty = "upstream u {\nzone z 64k; }"
    refused = "no servers are inside upstream" + HERE + "2"
    assert refused == build(f"stream {{ {empty} }}").error
    assert refused == build(f"stream {{ {empty} {API % 'off'} }}").error
    assert refused.replace("2", "1") == build(f"stream {{ upstream u {{ }} {API % 'on'} }}").error
    for text in (f"{empty} {API % 'on'}", "upstream u { zone z 64k; state /no/such; }"):
        built = build(f"stream {{ {text} }}")
        assert built.conf is not None, built.error
        (conf,) = built.conf.upstreams
        assert conf.is_dynamic


def test_backups_alone_are_a_group_where_that_may_change() -> None:
    """Primaries may come later."""
    backup = "upstream u { zone z 64k; server 127.0.0.1:1 backup; }"
    assert build(f"stream {{ {backup} }}").error.startswith('no servers in upstream "u"')
    assert "" == build(f"stream {{ {backup} {API % 'on'} }}").error


def test_a_server_that_drains_gets_no_new_sessions() -> None:
    """It is no try either; `down` may stand beside it."""
    text = "server 127.0.0.1:1 drain; server 127.0.0.1:2 drain down; server 127.0.0.1:3;"
    built = build(f"stream {{ upstream u {{ {text} }} }}")
    assert built.conf is not None, built.error
    balancer = built.conf.upstreams[0].balancer
    assert balancer is not None
    assert 1 == balancer.tier.tries
    assert {"127.0.0.1:3"} == {balancer.select(session(Clock())).get().name for _ in range(3)}
    assert [peer_state.DRAINING, peer_state.DRAINING | peer_state.DOWN, 0] == [
        peer.state.status for peer in balancer.tier.peers
    ]
