"""Explain: it says what a session of the same client then gets, and changes nothing."""

import dataclasses
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream import modules
from ngxstream.core import inet
from ngxstream.stream import core_facts, explaining, peer_state, phases, round_robin
from ngxstream.stream.module import StreamModule
from ngxstream.stream.peer_state import FIELDS, PeerState
from ngxstream.stream.upstream import Peer, ServerSpec
from tests.support import ports
from tests.support.certs import Authority
from tests.support.hellos import made_hello
from tests.support.in_process import InProcess, build
from tests.support.udp_in_process import UdpInProcess

CHANCE = "random"


def explain(served: InProcess, client: Any, number: int = 0, name: bytes | None = None
            ) -> explaining.Explanation:
    """Explain a client of a socket."""
    local = served.address(number)
    listening = explaining.find(served.conf, False, local)
    assert listening is not None
    return explaining.explain(served.conf, served.loop, listening, client, local, name)


def seen(served: InProcess) -> Any:
    """Return all that an explanation could change."""
    loop, conf = served.loop, served.conf
    upstreams = []
    for one in conf.upstreams:
        tier = one.balancer.tier if one.balancer is not None else None
        while tier is not None:
            upstreams.append([
                {field.name: getattr(peer.state, field.name) for field in FIELDS}
                for peer in tier.peers
            ])
            rotation = tier.aid
            if hasattr(rotation, "picks"):
                picks = [peer.name for _, peer in rotation.picks]
                upstreams.append([rotation.turn, picks, list(rotation.base)])
            tier = tier.backup
    limits = [zone.table.words.tobytes() for zone in conf.data.get("limit_conn", {}).values()]
    return [
        upstreams, limits, [n for _, n in conf.facts.totals()], len(loop.sessions), loop.live,
        loop.free_connections, len(loop.posted), len(loop.handlers), len(served.target.lines),
    ]


# -- what it says is what happens ------------------------------------------------------------------


class Line(NamedTuple):
    """One server of the group."""

    weight: int
    max_conns: int
    down: bool
    backup: bool
    failed: bool


RARELY = st.integers(0, 4).map(lambda n: not n)
LINES = st.builds(
    Line, st.integers(1, 3), st.sampled_from([0, 0, 0, 1, 2]), RARELY, RARELY, RARELY
)
METHODS = st.sampled_from([
    "", "", "least_conn;", "hash $remote_addr;", "hash $remote_addr consistent;",
    "hash $group consistent;", "least_time connect;", "least_time first_byte;",
    f"{CHANCE};", f"{CHANCE} two;",
])
RULES = st.lists(st.tuples(
    st.sampled_from(["allow", "deny"]),
    st.sampled_from(["127.0.0.1", "127.0.0.2", "127.0.0.2/31", "127.0.0.0/29", "all", "unix:"]),
), max_size=3)


@st.composite
def configurations(draw: Any) -> tuple[str, list[Line]]:
    """Draw a configuration and the servers of its group."""
    method = draw(METHODS)
    lines = draw(st.lists(LINES, min_size=1, max_size=4))
    may_backup = not method.startswith(("hash", CHANCE))
    lines = [one._replace(backup=one.backup and may_backup and n > 0)
             for n, one in enumerate(lines)]
    servers = "".join(
        f"server 127.0.0.1:@b{n}@ weight={one.weight} max_conns={one.max_conns}"
        f"{' down' * one.down}{' backup' * one.backup};"
        for n, one in enumerate(lines)
    )
    zone = "zone z 64k;" if draw(st.booleans()) else ""
    rules = "".join(f"{verb} {whom};" for verb, whom in draw(RULES))
    limit = draw(st.sampled_from(["", "limit_conn l 1;", "limit_conn l 2;",
                                  "limit_conn l 1; limit_conn_dry_run on;"]))
    conf = f"""stream {{
        geo $group {{ default a; 127.0.0.2/31 b; }}
        map $remote_addr $to {{ default group; 127.0.0.3 127.0.0.1:@b0@; 127.0.0.4 nowhere; }}
        limit_conn_zone $group zone=l:32k;
        upstream group {{ {zone} {method} {servers} }}
        server {{ listen 127.0.0.1:@a@; {rules} {limit}
                  proxy_pass {draw(st.sampled_from(["group", "group", "$to"]))}; }}
    }}"""
    return conf, lines


class Live(InProcess):
    """A configuration whose servers take connections, and some of which have failed."""

    def __init__(self, conf: str, lines: list[Line]) -> None:
        self.stack = ExitStack()
        self.backends = []
        super().__init__(conf)
        now = self.loop.now_ms
        upstream = self.conf.upstreams.first("group")
        assert upstream is not None
        assert upstream.balancer is not None
        tier = upstream.balancer.tier
        failed = {self.port(f"b{n}") for n, one in enumerate(lines) if one.failed}
        while tier is not None:
            for peer in tier.peers:
                if peer.sockaddr[1] in failed:
                    peer.state.fail(now - now % 1000)
            tier = tier.backup
        for n in range(len(lines)):
            backend = socket.create_server(("127.0.0.1", self.port(f"b{n}")))
            self.backends.append(backend)

    def come(self, host: str) -> socket.socket:
        """Have a client come, who waits to be accepted."""
        client = socket.socket()
        client.bind((host, 0))
        client.connect(self.address())
        self.clients.append(client)
        return client

    def outcome(self) -> tuple[Any, str, int]:
        """Return server, peer and status of the session that begins now."""
        before = len(self.sessions)
        self.turn_until(lambda: len(self.sessions) > before
                        and (self.sessions[-1].content or self.sessions[-1].status), "a session")
        s = self.sessions[-1]
        content: Any = s.content
        peer = getattr(content, "peer", None)
        return s.server, "" if peer is None else peer.name, s.status

    def close(self) -> None:
        """Close the servers too."""
        super().close()
        for backend in self.backends:
            backend.close()


@settings(max_examples=60)
@given(configurations(), st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_what_is_explained_is_what_happens(made: tuple[str, list[Line]], hosts: list[int]) -> None:
    """Server, peer and status are those of the session that follows; nothing moves before it."""
    with Live(*made) as served:
        for host in hosts:
            client = served.come(f"127.0.0.{host}")
            before = seen(served)
            found = explain(served, client.getsockname())
            peers = list(found.peers())
            variables = found.variables()
            assert before == seen(served)
            server, peer, status = served.outcome()
            assert server is found.s.server
            assert status == found.status
            if found.verdict == explaining.PROXIED:
                assert peer in [one.name for one in found.chosen]
                assert len(found.chosen) == 1 or CHANCE in made[0]
                assert {one.name for one in found.chosen} <= {
                    one["server"] for one in peers if one["usable"]
                }
            else:
                assert not peer
                assert found.verdict in (explaining.REFUSED, explaining.FAILED)
                assert found.why
            assert variables.get("group", "a") == ("b" if host in (2, 3) else "a")


def test_turns_that_are_read_off_are_foreseen() -> None:
    """Round robin that repeats itself has a next turn too, which is not taken."""
    conf = """stream {
        upstream group { server 127.0.0.1:@b0@ weight=2; server 127.0.0.1:@b1@; }
        server { listen 127.0.0.1:@a@; proxy_pass group; }
    }"""
    line = Line(1, 0, down=False, backup=False, failed=False)
    with Live(conf, [line, line]) as served:
        foreseen, taken = [], []
        for _ in range(10):
            client = served.come("127.0.0.1")
            for _ in range(2):
                (peer,) = explain(served, client.getsockname()).chosen
            foreseen.append(peer.name)
            taken.append(served.outcome()[1])
        assert taken == foreseen
        assert 2 == len(set(taken))


@given(
    status=st.integers(0, 63), fails=st.integers(0, 3), max_fails=st.integers(0, 3),
    checked=st.integers(0, 20).map(lambda n: n * 1000), now=st.integers(0, 25_000),
    timeout=st.integers(0, 10), conns=st.integers(0, 3), max_conns=st.integers(0, 3),
)
def test_why_not_is_the_rule_of_usable(
    status: int, fails: int, max_fails: int, checked: int, now: int, timeout: int, conns: int,
    max_conns: int,
) -> None:
    """Something is said against a peer exactly where it is not usable."""
    peer = Peer(ServerSpec("p", []), inet.AF_INET, ("127.0.0.1", 1), "127.0.0.1:1")
    peer.max_fails, peer.fail_timeout, peer.max_conns = max_fails, timeout, max_conns
    state = peer.state = PeerState(status=status, fails=fails, checked_ms=checked, conns=conns)
    usable = bool(round_robin.usable([(1, peer, state)], 0, now - now % 1000))
    assert usable is not bool(explaining.why_not(peer, state, now))


def test_what_is_said_against_a_peer() -> None:
    """In words that name the reason."""
    peer = Peer(ServerSpec("p", []), inet.AF_INET, ("127.0.0.1", 1), "127.0.0.1:1")
    said = {
        "is down": PeerState(peer_state.DOWN),
        "is draining: it gets no new sessions": PeerState(peer_state.DRAINING),
        "is unhealthy: its checks fail": PeerState(peer_state.UNHEALTHY),
        "is being checked": PeerState(peer_state.CHECKING),
        "failed 2 times, is not used for 8 s more": PeerState(
            peer_state.FAILED, fails=2, checked_ms=7000),
        "has 3 of 3 sessions (max_conns)": PeerState(peer_state.LIMITED, conns=3),
        "": PeerState(),
    }
    peer.max_conns = 3
    for expected, state in said.items():
        assert expected == explaining.why_not(peer, state, 10_500)
    failed = dataclasses.replace(said["failed 2 times, is not used for 8 s more"])
    assert "" == explaining.why_not(peer, failed, 10_500, single=True)


# -- where a client comes in -----------------------------------------------------------------------


LISTENS = """stream {
    server { listen 127.0.0.1:1; return exact; }
    server { listen 1; return any; }
    server { listen 127.0.0.2:1; return shared; }
    server { listen 2 udp; return udp; }
    server { listen [::]:3 ipv6only=off; return both; }
    server { listen [::]:4; return six; }
    server { listen [::1]:1; return six; }
    server { listen unix:/tmp/s; return unix; }
}"""


@pytest.mark.parametrize(
    ("is_udp", "local", "server"),
    [
        (False, ("127.0.0.1", 1), 0),
        (False, ("127.0.0.3", 1), 1),
        (False, ("0.0.0.0", 1), 1),
        (False, ("127.0.0.2", 1), 2),
        (True, ("127.0.0.1", 2), 3),
        (False, ("127.0.0.1", 2), None),
        (True, ("127.0.0.1", 1), None),
        (False, ("127.0.0.1", 3), 4),
        (False, ("::1", 3, 0, 0), 4),
        (False, ("127.0.0.1", 4), None),
        (False, ("::1", 4, 0, 0), 5),
        (False, ("::1", 1, 0, 0), 6),
        (False, ("::2", 1, 0, 0), None),
        (False, "/tmp/s", 7),
        (False, "/tmp/other", None),
    ],
)
def test_the_server_of_an_address(is_udp: bool, local: Any, server: int | None) -> None:
    """The socket is that of the very address, or of its port; then its servers are asked."""
    conf = build(LISTENS).conf
    assert conf is not None
    listening = explaining.find(conf, is_udp, local)
    if server is None:
        assert listening is None
        return
    assert listening is not None
    c = explaining.client_of(listening, ("127.0.0.9", 9), local)
    loop: Any = SimpleNamespace(now_ms=0, sessions=set(), log=SimpleNamespace(clock=None))
    s = explaining._begin(c, loop, listening)
    assert conf.servers[server] is s.server
    assert set() == loop.sessions


# -- single features -------------------------------------------------------------------------------

CLIENT = ("127.0.0.7", 4711)


@pytest.fixture
def serve() -> Iterator[Any]:
    """Give what serves a stream block."""
    with ExitStack() as stack:
        yield lambda text, **settings: stack.enter_context(InProcess(text, **settings))


def test_a_name_selects_the_server(serve) -> None:
    """As a ClientHello would, with the access rules of that server."""
    served = serve("""stream {
        server { listen 127.0.0.1:@a@; ssl_preread on; server_name a.example; return a; }
        server { listen 127.0.0.1:@a@; server_name ~^(?<who>.)\\.test$; deny 127.0.0.1; return b; }
    }""")
    assert served.conf.servers[0] is explain(served, CLIENT).s.server
    found = explain(served, CLIENT, name=b"x.test")
    assert served.conf.servers[1] is found.s.server
    assert ("returned", "x.test", "x") == (
        found.verdict, found.variables().get("ssl_preread_server_name", "x.test"),
        found.variables()["who"],
    )
    refused = explain(served, ("127.0.0.1", 1), name=b"x.test")
    assert ("refused", 403, "ssl_preread: deny 127.0.0.1") == (
        refused.verdict, refused.status, refused.why
    )
    client = served.connect()
    client.send(made_hello(b"x.test"))
    served.turn_until(lambda: served.sessions and served.sessions[0].status, "the end")
    assert (403, served.conf.servers[1]) == (served.sessions[0].status, served.sessions[0].server)


@pytest.mark.parametrize("api", ["", "server { listen 127.0.0.1:@b@; api; }"])
def test_a_handshake_is_taken_to_succeed(serve, tmp_path: Path, api: str) -> None:
    """But where the server of the name refuses it; its rules of access are asked."""
    pair = Authority(tmp_path).issue("a.test")
    served = serve(f"""stream {{
        server {{ listen 127.0.0.1:@a@ ssl default_server; ssl_reject_handshake on; }}
        server {{ listen 127.0.0.1:@a@ ssl; server_name a.test; deny 10.0.0.1; return a;
                 ssl_certificate {pair.cert}; ssl_certificate_key {pair.key}; }}
        {api}
    }}""")
    refused = explain(served, CLIENT)
    assert ("refused", 500, "ssl: ssl_reject_handshake") == (
        refused.verdict, refused.status, refused.why
    )
    found = explain(served, CLIENT, name=b"a.test")
    assert ("returned", served.conf.servers[1]) == (found.verdict, found.s.server)
    assert [("ssl", "ssl", "ends the phase"), ("content", "return_", "goes on")] == [
        (one["phase"], one["by"], one["outcome"]) for one in found.phases if one["by"] != "access"
    ]
    denied = explain(served, ("10.0.0.1", 5), name=b"a.test")
    assert ("refused", 403, "ssl: deny 10.0.0.1") == (denied.verdict, denied.status, denied.why)


def test_a_passed_connection_is_followed(serve) -> None:
    """To the end, or for as long as a real one would be."""
    served = serve("""stream {
        server { listen 127.0.0.1:@a@; pass 127.0.0.1:@b@; }
        server { listen 127.0.0.1:@b@; return "$server_port"; }
        server { listen 127.0.0.1:@c@; pass 127.0.0.1:@c@; }
        server { listen 127.0.0.1:@d@; pass 127.0.0.1:1; }
    }""")
    found = explain(served, CLIENT)
    assert served.conf.servers[1] is found.s.server
    assert ("returned", f"return: {len(str(served.port('b')))} bytes: '{served.port('b')}'") == (
        found.verdict, found.why
    )
    assert ("failed", 500, "pass_: stream pass cycle") == (
        (found := explain(served, CLIENT, 2)).verdict, found.status, found.why
    )
    assert ("failed", 200) == ((found := explain(served, CLIENT, 3)).verdict, found.status)


def test_what_is_returned_is_quoted(serve) -> None:
    """Or that there is nothing."""
    served = serve("""stream {
        server { listen 127.0.0.1:@a@; set $x "<$remote_addr>"; return $x; }
        server { listen 127.0.0.1:@b@; return ""; }
    }""")
    found = explain(served, CLIENT)
    assert ("returned", 200, "return: 11 bytes: '<127.0.0.7>'") == (
        found.verdict, found.status, found.why
    )
    assert [("preaccess", "set", "goes on", "sets $x"), ("content", "return_", "goes on")] == [
        (found.phases[0]["phase"], found.phases[0]["by"], found.phases[0]["outcome"],
         found.phases[0]["why"]),
        (found.phases[1]["phase"], found.phases[1]["by"], found.phases[1]["outcome"]),
    ]
    assert "return: nothing" == explain(served, CLIENT, 1).why


def test_a_variable_target_may_lead_anywhere(serve) -> None:
    """To an address, to a name that would be asked for, to nothing that can be used."""
    served = serve("""stream {
        map $remote_addr $to { 10.0.0.1 127.0.0.1:5; 10.0.0.2 name.test:5; 10.0.0.3 name.test;
                               10.0.0.4 ":::"; }
        server { listen 127.0.0.1:@a@; resolver 127.0.0.1; proxy_pass $to; }
        server { listen 127.0.0.1:@b@; proxy_pass $to; }
    }""")
    found = explain(served, ("10.0.0.1", 1))
    assert ("proxied", ["127.0.0.1:5"]) == (found.verdict, [one.name for one in found.chosen])
    assert [{"server": "127.0.0.1:5", "usable": True, "why": "chosen"}] == list(found.peers())
    found = explain(served, ("10.0.0.2", 1))
    assert ("proxied", "name.test", []) == (found.verdict, found.upstream.name, found.chosen)
    assert "asked for then" in found.why
    assert [] == list(found.peers())
    for host, number in (("10.0.0.2", 1), ("10.0.0.3", 0), ("10.0.0.4", 0)):
        found = explain(served, (host, 1), number)
        assert ("failed", 500) == (found.verdict, found.status)


def test_a_proxy_header_is_taken_to_name_the_client(serve) -> None:
    """As if it came from who is trusted."""
    served = serve("""stream {
        server { listen 127.0.0.1:@a@ proxy_protocol; set_real_ip_from 127.0.0.1; deny 10.0.0.1;
                 return $proxy_protocol_addr; }
    }""")
    assert "return: 9 bytes: '127.0.0.7'" == explain(served, CLIENT).why
    assert "access: deny 10.0.0.1" == explain(served, ("10.0.0.1", 5)).why


def test_limits_are_shown_with_what_they_count(serve) -> None:
    """Those that are looked at, up to the one that refuses."""
    served = serve("""stream {
        limit_conn_zone $remote_addr zone=a:32k; limit_conn_zone $server_port zone=b:32k;
        limit_conn_zone $none zone=c:32k; map x $none { default ""; }
        server { listen 127.0.0.1:@a@; limit_conn c 1; limit_conn a 3; limit_conn b 1; return 1; }
    }""")
    zones = served.conf.data["limit_conn"]
    zones["a"].table.acquire(b"127.0.0.7", 9)
    zones["a"].table.acquire(b"127.0.0.7", 9)
    found = explain(served, CLIENT)
    assert [("a", "127.0.0.7", 2, 3, False), ("b", str(served.port("a")), 0, 1, False)] == [
        (one["zone"], one["key"], one["count"], one["limit"], one["rejects"])
        for one in found.limits
    ]
    assert "returned" == found.verdict
    zones["b"].table.acquire(str(served.port("a")).encode(), 9)
    found = explain(served, CLIENT)
    assert ("refused", 503, 'limit_conn: zone "b" has 1 of 1 sessions') == (
        found.verdict, found.status, found.why
    )
    while zones["a"].table.acquire(b"%d" % len(zones["a"].table), 9):
        pass
    assert 'limit_conn: zone "a" has 0 of 3 sessions' == explain(served, ("10.0.0.1", 5)).why


@pytest.mark.parametrize(
    ("rules", "client", "why"),
    [
        ("deny 127.0.0.0/24;", CLIENT, "deny 127.0.0.0/24"),
        ("allow 127.0.0.7; deny all;", ("127.0.0.8", 1), "deny all"),
        ("deny unix:;", "", "deny unix:"),
        ("deny ::1;", ("::1", 1, 0, 0), "deny ::1"),
        ("allow 10.0.0.1; deny 127.0.0.7;", ("::ffff:127.0.0.7", 1, 0, 0), "deny 127.0.0.7"),
    ],
)
def test_the_rule_that_refuses_is_named(serve, rules: str, client: Any, why: str) -> None:
    """As it is written."""
    served = serve(f"stream {{ server {{ listen 127.0.0.1:@a@; {rules} return 1; }} }}")
    found = explain(served, client)
    assert ("refused", 403, f"access: {why}") == (found.verdict, found.status, found.why)


def test_all_servers_of_a_group_have_a_reason(serve) -> None:
    """Backups are behind the primaries."""
    served = serve("""stream {
        upstream u { server 127.0.0.1:1 down; server 127.0.0.1:2; server 127.0.0.1:3;
                     server 127.0.0.1:4 backup; }
        server { listen 127.0.0.1:@a@; proxy_pass u; }
    }""")
    found = explain(served, CLIENT)
    assert ("proxied", "rr: 127.0.0.1:2") == (found.verdict, found.why)
    assert [
        ("127.0.0.1:1", False, "is down"), ("127.0.0.1:2", True, "chosen"),
        ("127.0.0.1:3", True, "another server is chosen"),
        ("127.0.0.1:4", True, "backup, a primary server is usable"),
    ] == [(one["server"], one["usable"], one["why"]) for one in found.peers()]


def test_a_server_without_content_fails(serve) -> None:
    """As its sessions do."""
    served = serve("stream { server { listen 127.0.0.1:@a@; } }")
    found = explain(served, CLIENT)
    assert ("failed", 500, "no handler for server") == (found.verdict, found.status, found.why)


@pytest.mark.parametrize("api", ["", "server { listen 127.0.0.1:9; api; }"])
def test_servers_are_named_by_zone_or_address_and_name(api: str) -> None:
    """As facts label them, whether they are counted or not."""
    conf = build(f"""stream {{
        server {{ listen 127.0.0.1:1 udp; server_name a.example; return 1; }}
        server {{ listen 127.0.0.1:2; return 1; }}
        server {{ listen 127.0.0.1:3; return 1; status_zone web; }}
        {api}
    }}""").conf
    assert conf is not None
    expected = ["udp 127.0.0.1:1 a.example", "127.0.0.1:2", "web", "127.0.0.1:9"]
    assert expected[:len(conf.servers)] == list(map(core_facts.name_of, conf.servers))


def test_every_handler_of_a_phase_and_every_content_is_explained() -> None:
    """Whatever a configuration uses; what only logs is not."""
    explained = {of for one in modules.ALL if isinstance(one, StreamModule)
                 for of, _ in one.explains}
    missing = [
        (one.name, entry.run) for one in modules.ALL if isinstance(one, StreamModule)
        for entry in one.handlers if entry.phase < phases.CONTENT and entry.run not in explained
    ]
    assert [] == missing




@pytest.mark.parametrize("is_dry", [False, True])
def test_limits_by_rate_are_foreseen(is_dry: bool) -> None:
    """Of a UDP client; nothing is poured by it, and a dry run refuses nobody."""
    dry = "limit_datagram_dry_run on; limit_bandwidth_dry_run on;" if is_dry else ""
    with UdpInProcess(f"""stream {{
        limit_datagram_zone $remote_addr zone=d:32k rate=1r/m;
        limit_bandwidth_zone $remote_addr zone=b:32k rate=1;
        server {{ listen 127.0.0.1:{ports.free_port()} udp; limit_datagram zone=d burst=1; {dry}
                 limit_bandwidth upload zone=b burst=100; limit_bandwidth download zone=b;
                 proxy_pass 127.0.0.1:9; }}
    }}""") as served:
        conf = served.built.conf
        assert conf is not None
        local = served.address()
        listening = explaining.find(conf, True, local)
        assert listening is not None

        def foreseen() -> explaining.Explanation:
            return explaining.explain(conf, served.loop, listening, CLIENT, local, None)

        for _ in range(3):
            assert [("d", 0, 2, False), ("b", 0, 100, False), ("b", 0, 1, False)] == [
                (one["zone"], one["count"], one["limit"], one["rejects"])
                for one in foreseen().limits
            ]
        now_ms, key = served.loop.now_ms, b"127.0.0.7"
        bytes_ = conf.data["limit_bandwidth"]["b"]
        bytes_.table.spend(key, 200 * 1000, bytes_.rate, now_ms)
        found = foreseen()
        assert (found.verdict == "refused") is not is_dry
        assert is_dry or found.why.startswith('limit_bandwidth: zone "b" has 200 bytes of upload')
        zone = conf.data["limit_datagram"]["d"]
        zone.table.pour_some(key, 2, zone.rate, 2000, now_ms)
        found = foreseen()
        assert found.limits[0]["rejects"]
        assert (found.verdict == "refused") is not is_dry
        assert is_dry or "limit_datagram: zone" in found.why
