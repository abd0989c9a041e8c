"""Servers of an upstream that are what a name stands for: found, changed, never lost."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ngxstream.core import errors, shm
from ngxstream.event.loop import Loop
from ngxstream.modules.upstream import names, records, resolve
from ngxstream.stream.upstream import UpstreamConf
from ngxstream.wire import dns
from tests.support import work
from tests.support.balancing import Clock, is_down, session
from tests.support.engine import MemoryLog, engine, run_until
from tests.support.in_process import CONF, Built, build
from tests.support.moving_clock import MovingClock
from tests.support.scripted_dns import (
    Query,
    Record,
    ScriptedDns,
    respond,
    silent,
    table,
)


class Lab:
    """A configuration with an upstream of names, a DNS server, and a worker's loop."""

    def __init__(self, loop: Loop, clock: MovingClock, lines: str, *, old: Lab | None = None,
                 outer: str = "", options: str = "",
                 dns_server: ScriptedDns | None = None) -> None:
        """Args: lines are the inside of the upstream; `old` is the configuration before this;
        options are more words of the resolver directive.
        """
        self.loop = loop
        self.clock = clock
        self.dns = dns_server or (old.dns if old is not None else ScriptedDns())
        self.built: Built = build(
            f"stream {{ resolver {self.dns.text} ipv6=off {options}; {outer} "
            f"upstream u {{ {lines} }} }}"
        )
        assert self.built.conf is not None, self.built.error
        self.built.zones.build(None if old is None else old.built.zones)
        self.stream = self.built.conf
        self.upstream: UpstreamConf = self.stream.upstreams[0]
        if old is not None:
            old.stop()

    @property
    def group(self) -> resolve.Group:
        """The balancer."""
        group: Any = self.upstream.balancer
        assert isinstance(group, resolve.Group)
        return group

    def start(self) -> None:
        """Be a worker from now on."""
        self.stream.start_worker(self.loop)

    def stop(self) -> None:
        """Be none any more."""
        self.stream.stop_worker(self.loop)

    def know(self, *records: Record) -> None:
        """Have the DNS server answer from these records."""
        self.dns.script = table(records)

    def until(self, done: Callable[[], bool]) -> None:
        """Serve and turn until something holds."""

        def step() -> bool:
            self.dns.step()
            return done()

        run_until(self.loop, step)

    def pass_time(self, ms: int) -> None:
        """Move the clock, and let what is due by then happen."""
        self.clock.move(self.loop, ms)

    def ask(self, ms: int = 0) -> None:
        """Let time pass, and wait until a lookup has begun after it and is through."""
        count = len(self.dns.queries)
        self.pass_time(ms)
        self.until(lambda: len(self.dns.queries) > count)
        self.until(lambda: not any(name.claimed for name in self.group.names))

    def servers(self) -> list[str]:
        """Return the primaries a session would choose among now."""
        self.group.select(session(Clock()))
        return [peer.name for peer in self.group.tier.peers]

    def backups(self) -> list[str]:
        """Return the backups."""
        self.servers()
        backup = self.group.tier.backup
        return [] if backup is None else [peer.name for peer in backup.peers]

    @property
    def errors(self) -> list[str]:
        """What was logged at error."""
        log = self.loop.log
        assert isinstance(log, MemoryLog)
        return [text for level, text in log.lines if level in (3, 4)]


Make = Callable[..., Lab]
A, SRV = dns.A, dns.SRV


def a(host: str, ttl: int = 60, name: str = "a.test") -> Record:
    """Make an A record."""
    return (name, A, ttl, host)


@pytest.fixture
def lab(clock: MovingClock) -> Iterator[Make]:
    """Give ``lab(lines, …)``."""
    labs: list[Lab] = []
    with engine() as loop:

        def make(lines: str, **options: Any) -> Lab:
            labs.append(Lab(loop, clock, lines, **options))
            return labs[-1]

        yield make
        for one in reversed(labs):
            one.stop()
            one.built.zones.close()
        loop.turn(0)
        for server in {one.dns for one in labs}:
            server.close()


ZONE = "zone z 64k; "
LINE = ZONE + "server a.test:53 resolve;"


# -- the configuration -------------------------------------------------------------------------


@pytest.mark.refusal("upstream/resolver", "resolver")
def test_names_need_a_zone_and_a_resolver() -> None:
    """Without either the configuration is refused in nginx's words."""
    assert (
        f'resolving names at run time requires upstream "u" in {CONF}:1 to be in shared memory'
        == build("stream { resolver 127.0.0.1; upstream u { server a.test:53 resolve; } }").error
    )
    assert (
        f'no resolver defined to resolve names at run time in upstream "u" in {CONF}:1'
        == build(f"stream {{ upstream u {{ {LINE} }} }}").error
    )


@pytest.mark.refusal("upstream/resolver", "upstream/resolver_timeout")
@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("resolver;", 'invalid number of arguments in "resolver" directive'),
        ("resolver 127.0.0.1 valid=x;", "invalid parameter: valid=x"),
        ("resolver 127.0.0.1 ipv4=maybe;", "invalid parameter: ipv4=maybe"),
        ("resolver 127.0.0.1 ipv4=off ipv6=off;", '"ipv4" and "ipv6" cannot both be "off"'),
        ("resolver valid=5s;", "no name servers defined"),
        ("resolver 127.0.0.1; resolver 127.0.0.2;", '"resolver" directive is duplicate'),
        ("resolver_timeout x;", '"resolver_timeout" directive invalid value'),
        ("resolver_timeout 1s; resolver_timeout 1s;", '"resolver_timeout" directive is duplicate'),
    ],
)
def test_an_upstreams_own_resolver_is_judged(lines: str, message: str) -> None:
    """The same rules as for the stream block's."""
    made = build(f"stream {{ upstream u {{ {lines} server 127.0.0.1:1; }} }}")
    assert f"{message} in {CONF}:1" == made.error


@pytest.mark.effect("upstream/resolver", "upstream/resolver_timeout")
def test_an_upstream_may_have_a_resolver_of_its_own(lab: Make) -> None:
    """It is asked in the place of the stream block's, and given its own time."""
    own = ScriptedDns(silent)
    one = lab(f"resolver {own.text} ipv6=off; resolver_timeout 2s; " + LINE)
    one.start()
    try:
        one.until(lambda: one.loop.turn(5) or own.step() or bool(own.queries))
        assert [] == one.dns.queries
        one.pass_time(2000)
        one.until(lambda: bool(one.errors))
        assert ["a.test could not be resolved (110: Operation timed out)"] == one.errors
    finally:
        one.stop()
        own.close()


@pytest.mark.effect("resolver", "resolver_timeout")
def test_else_the_stream_blocks_is_asked(lab: Make) -> None:
    """With the stream block's resolver_timeout."""
    one = lab(LINE, outer="resolver_timeout 4s;")
    one.start()
    one.until(lambda: bool(one.dns.queries))
    one.pass_time(3000)
    assert [] == one.errors
    one.pass_time(1000)
    one.until(lambda: bool(one.errors))
    assert ["a.test could not be resolved (110: Operation timed out)"] == one.errors


# -- what a name stands for --------------------------------------------------------------------


@pytest.mark.effect("upstream/server")
def test_a_name_brings_its_addresses(lab: Make) -> None:
    """Before the first answer there is no server; after it there is one for each address."""
    one = lab(LINE)
    one.know(a("192.0.2.1"), a("192.0.2.2"))
    one.start()
    assert [] == one.servers()
    with pytest.raises(errors.NoLivePeers):
        one.group.select(session(Clock())).get()
    one.ask()
    assert ["192.0.2.1:53", "192.0.2.2:53"] == one.servers()


def test_both_families_are_servers(lab: Make) -> None:
    """An IPv6 address is one as well."""
    own = ScriptedDns(table([a("192.0.2.1"), ("a.test", dns.AAAA, 60, "2001:db8::1")]))
    one = lab(f"resolver {own.text}; " + LINE, dns_server=own)
    one.start()
    one.ask()
    assert ["192.0.2.1:53", "[2001:db8::1]:53"] == one.servers()
    assert [2, 10] == [peer.family for peer in one.group.tier.peers]


def test_servers_have_what_their_line_says(lab: Make) -> None:
    """Weight, limits and marks are those of the line; static servers stand before."""
    one = lab(ZONE + "server 127.0.0.1:9; server a.test:53 resolve weight=3 max_conns=7 "
              "max_fails=4 fail_timeout=9s; server b.test:54 resolve backup; "
              "server c.test:55 resolve down;")
    one.know(a("192.0.2.1"), a("192.0.2.2", name="b.test"), a("192.0.2.3", name="c.test"))
    one.start()
    one.until(lambda: len(one.servers()) == 3 and len(one.backups()) == 1)
    assert ["127.0.0.1:9", "192.0.2.1:53", "192.0.2.3:55"] == one.servers()
    assert ["192.0.2.2:54"] == one.backups()
    peer = one.group.tier.peers[1]
    assert (3, 7, 4, 9, False) == (
        peer.weight, peer.max_conns, peer.max_fails, peer.fail_timeout, is_down(peer)
    )
    assert "a.test:53" == peer.server
    assert is_down(one.group.tier.peers[2])


def test_a_name_is_asked_again_a_second_after_its_time(lab: Make) -> None:
    """The next query is sent TTL + 1 s after the answer, as in nginx."""
    one = lab(LINE)
    one.know(a("192.0.2.1", ttl=10))
    one.start()
    one.ask()
    one.pass_time(10_500)
    one.dns.step()
    assert 1 == len(one.dns.queries)
    one.know(a("192.0.2.2"))
    one.ask(1000)
    assert ["192.0.2.2:53"] == one.servers()


def test_valid_replaces_the_ttl(lab: Make) -> None:
    """valid=2s asks every 3 s although the TTL is an hour."""
    own = ScriptedDns()
    one = lab(f"resolver {own.text} valid=2s ipv6=off; " + LINE, dns_server=own)
    one.know(a("192.0.2.1", ttl=3600))
    one.start()
    one.ask()
    one.know(a("192.0.2.9", ttl=3600))
    one.ask(3000)
    assert ["192.0.2.9:53"] == one.servers()


def test_what_stays_keeps_its_place_its_row_and_its_sessions(lab: Make) -> None:
    """Only what has gone goes; what comes is put behind."""
    one = lab(LINE)
    one.know(a("192.0.2.1", 1), a("192.0.2.2", 1), a("192.0.2.3", 1))
    one.start()
    one.ask()
    selections = [one.group.select(session(Clock())) for _ in range(3)]
    held = [(selection, selection.get()) for selection in selections]
    one.know(a("192.0.2.9", 1), a("192.0.2.3", 1), a("192.0.2.1", 1))
    one.ask(2000)
    assert ["192.0.2.1:53", "192.0.2.3:53", "192.0.2.9:53"] == one.servers()
    assert [1, 1, 0] == [peer.state.conns for peer in one.group.tier.peers]
    for selection, peer in held:
        selection.free(peer, False)
    assert [0, 0, 0] == [peer.state.conns for peer in one.group.tier.peers]


def test_an_answer_that_says_the_same_changes_nothing(lab: Make) -> None:
    """Servers in another order are the same servers: no tier is made anew."""
    one = lab(LINE)
    one.know(a("192.0.2.1", 1), a("192.0.2.2", 1))
    one.start()
    one.ask()
    one.servers()
    before = one.group.tier
    one.know(a("192.0.2.2", 1), a("192.0.2.1", 1))
    one.ask(2000)
    one.servers()
    assert before is one.group.tier


def test_a_session_goes_on_with_the_servers_it_began_with(lab: Make) -> None:
    """nginx tells such a session that there are no live upstreams."""
    one = lab(LINE)
    one.know(a("192.0.2.1", 1), a("192.0.2.2", 1))
    one.start()
    one.ask()
    selection = one.group.select(session(Clock()))
    first = selection.get()
    one.know(a("192.0.2.3", 1))
    one.ask(2000)
    assert ["192.0.2.3:53"] == one.servers()
    selection.free(first, True)
    assert {"192.0.2.1:53", "192.0.2.2:53"} == {first.name, selection.get().name}


@pytest.mark.parametrize("method", [
    "", "least_conn;", "least_time first_byte;", "random;", "random two;", "hash $remote_port;",
    "hash $remote_port consistent;",
])
def test_every_method_balances_over_names(lab: Make, method: str) -> None:
    """All of them accept names, and choose among what they stand for."""
    one = lab(ZONE + method + "server a.test:53 resolve;")
    one.start()
    one.know(a("192.0.2.1", 1), a("192.0.2.2", 1), a("192.0.2.3", 1))
    one.ask()
    chosen: Counter[str] = Counter()
    for number in range(60):
        s = session(Clock())
        s.c.sockaddr = ("192.0.2.200", 1000 + number)
        selection = one.group.select(s)
        peer = selection.get()
        chosen[peer.name] += 1
        selection.free(peer, False)
    assert {"192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53"} == set(chosen)


# -- failures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "text"),
    [(2, "Server failure"), (5, "Operation refused")],
)
def test_a_failed_lookup_keeps_the_last_addresses(lab: Make, code: int, text: str) -> None:
    """A failure says nothing about the name: a group is not emptied by it."""
    one = lab(LINE)
    one.know(a("192.0.2.1", 1))
    one.start()
    one.ask()
    one.dns.script = lambda query: [respond(query, rcode=code)]
    one.ask(2000)
    assert ["192.0.2.1:53"] == one.servers()
    assert [f"a.test could not be resolved ({code}: {text})"] == one.errors
    one.know(a("192.0.2.2", 1))
    one.ask(31_000)
    assert ["192.0.2.2:53"] == one.servers()


@pytest.mark.parametrize("rcode", [0, 3], ids=["no records", "no name"])
def test_a_name_that_is_gone_takes_its_addresses_away(lab: Make, rcode: int) -> None:
    """An address whose name does not exist any more may be another tenant's."""
    one = lab(LINE + "server 192.0.2.99:53;")
    one.know(a("192.0.2.1", 1))
    one.start()
    one.ask()
    assert ["192.0.2.99:53", "192.0.2.1:53"] == one.servers()
    one.dns.script = lambda query: [respond(query, rcode=rcode)]
    one.ask(2000)
    assert ["192.0.2.99:53"] == one.servers()
    assert ["a.test could not be resolved (3: Host not found)"] == one.errors
    one.know(a("192.0.2.2", 1))
    one.ask(12_000)
    assert ["192.0.2.99:53", "192.0.2.2:53"] == one.servers()


def test_a_name_that_is_gone_may_be_held_for_a_while(lab: Make) -> None:
    """hold_nx counts from the first answer that denies the name; a failure in between is none."""
    one = lab(LINE, options="hold_nx=30s")
    one.know(a("192.0.2.1", 1))
    one.start()
    one.ask()
    one.dns.script = lambda query: [respond(query, rcode=3)]
    one.ask(2000)
    one.ask(12_000)
    assert ["192.0.2.1:53"] == one.servers()
    one.ask(12_000)
    assert ["192.0.2.1:53"] == one.servers()
    one.ask(7_000)
    assert [] == one.servers()


def test_a_held_name_that_is_there_again_is_held_anew(lab: Make) -> None:
    """An answer with the address ends the time that counts against it."""
    one = lab(LINE, options="hold_nx=15s")
    one.know(a("192.0.2.1", 1))
    one.start()
    one.ask()
    one.know()
    one.ask(2000)
    one.know(a("192.0.2.1", 1))
    one.ask(12_000)
    one.know()
    one.ask(2000)
    one.ask(12_000)
    assert ["192.0.2.1:53"] == one.servers()


def test_a_silent_server_keeps_the_last_addresses(lab: Make) -> None:
    """A timeout is a failure like others."""
    one = lab(LINE + "resolver_timeout 3s;")
    one.know(a("192.0.2.1", 1))
    one.start()
    one.ask()
    one.dns.script = silent
    one.pass_time(2000)
    one.until(lambda: len(one.dns.queries) == 2)
    one.pass_time(3000)
    one.until(lambda: bool(one.errors))
    assert ["a.test could not be resolved (110: Operation timed out)"] == one.errors
    assert ["192.0.2.1:53"] == one.servers()
    one.know(a("192.0.2.2", 1))
    one.ask(3000)
    assert ["192.0.2.2:53"] == one.servers()


@pytest.mark.parametrize(
    ("code", "quiet_ms"), [(dns.NXDOMAIN, 10_500), (dns.SERVFAIL, 29_500)]
)
def test_failures_are_not_followed_by_a_flood(lab: Make, code: int, quiet_ms: int) -> None:
    """After NXDOMAIN 11 s of rest, after other failures resolver_timeout."""
    one = lab(LINE)
    one.dns.script = lambda query: [respond(query, rcode=code)]
    one.start()
    one.ask()
    for _ in range(10):
        one.pass_time(quiet_ms // 10 - 20)
        one.dns.step()
    assert 1 == len(one.dns.queries)
    one.ask(2000)
    assert 2 == len(one.dns.queries)


def test_a_ttl_of_zero_is_no_flood(lab: Make) -> None:
    """A second passes between two questions at least."""
    one = lab(LINE)
    one.know(a("192.0.2.1", 0))
    one.start()
    one.ask()
    for _ in range(9):
        one.pass_time(80)
        one.dns.step()
    assert 1 == len(one.dns.queries)
    one.ask(500)


def test_more_addresses_than_the_zone_holds_are_left_out(lab: Make) -> None:
    """Those that fit are used, and a line is logged about the others."""
    one = lab("zone z 32k; server a.test:53 resolve;")
    one.know(*[a(f"10.0.{n >> 8}.{n & 255}", 1) for n in range(300)][:25])
    own = [a(f"10.0.{n >> 8}.{n & 255}", 1) for n in range(200)]

    def script(query: Query) -> list[bytes]:
        return [respond(query, own)] if query.tcp else [respond(query, truncated=True)]

    one.dns.script = script
    one.start()
    one.ask()
    one.until(lambda: not any(name.claimed for name in one.group.names))
    capacity = one.group.table.capacity
    assert capacity == len(one.servers())
    assert ['cannot add new server to upstream "u", memory exhausted'] == one.errors


def test_rows_of_addresses_that_went_are_used_again(lab: Make) -> None:
    """A name whose addresses change for ever does not fill its zone."""
    one = lab("zone z 32k; server 127.0.0.1:1; server a.test:53 resolve;")
    one.start()
    capacity = one.group.table.capacity
    for n in range(capacity // 10 + 3):
        one.know(*[a(f"10.{n}.0.{m}", 1) for m in range(10)])
        one.ask(2000 if n else 0)
        assert [f"10.{n}.0.{m}:53" for m in range(10)] == one.servers()[1:]
    assert [] == one.errors


# -- services ----------------------------------------------------------------------------------

SERVICE = ZONE + "server test service=dns resolve;"


def srv(priority: int, weight: int, port: int, target: str, ttl: int = 1) -> Record:
    """Make an SRV record."""
    return ("_dns._tcp.test", SRV, ttl, dns.Srv(priority, weight, port, target))


def test_a_service_brings_ports_weights_and_backups(lab: Make) -> None:
    """Records of the lowest priority are primaries, all others backups."""
    one = lab(SERVICE)
    one.know(srv(10, 5, 5301, "a.test"), srv(10, 0, 5302, "b.test"), srv(20, 2, 5303, "a.test"),
             srv(30, 1, 5304, "b.test"), a("192.0.2.1"), a("192.0.2.2", name="b.test"))
    one.start()
    one.ask()
    assert ["192.0.2.1:5301", "192.0.2.2:5302"] == one.servers()
    assert ["192.0.2.1:5303", "192.0.2.2:5304"] == one.backups()
    assert [5, 1] == [peer.weight for peer in one.group.tier.peers]
    assert ["a.test", "b.test"] == [peer.server for peer in one.group.tier.peers]


def test_a_weight_of_the_line_replaces_those_of_the_records(lab: Make) -> None:
    """weight=4 is all servers' weight."""
    one = lab(ZONE + "server test service=dns resolve weight=4;")
    one.know(srv(10, 5, 5301, "a.test"), srv(10, 9, 5302, "a.test"), a("192.0.2.1"))
    one.start()
    one.ask()
    assert ["192.0.2.1:5301", "192.0.2.1:5302"] == one.servers()
    assert [4, 4] == [peer.weight for peer in one.group.tier.peers]


@pytest.mark.parametrize("line", [
    "hash k; server test service=dns resolve;",
    "server 127.0.0.1:1; server test service=dns resolve backup;",
])
def test_where_there_can_be_no_backups_of_a_service_higher_priorities_rest(
    lab: Make, line: str
) -> None:
    """Methods without backups and lines that are backups take the lowest priority alone."""
    one = lab(ZONE + line)
    one.know(srv(10, 5, 5301, "a.test"), srv(20, 9, 5302, "a.test"), a("192.0.2.1"))
    one.start()
    one.ask()
    assert ["192.0.2.1:5301"] == [
        name for name in one.servers() + one.backups() if not name.endswith(":1")
    ]


def test_changed_weights_and_priorities_are_taken(lab: Make) -> None:
    """The same address with another weight is the same server with another weight."""
    one = lab(SERVICE)
    address = a("192.0.2.1", 1)
    one.know(srv(10, 5, 5301, "a.test"), srv(20, 1, 5302, "a.test"), address)
    one.start()
    one.ask()
    assert ["192.0.2.1:5301"] == one.servers()
    row = one.group.tier.peers[0].state.row  # type: ignore[attr-defined]
    one.know(srv(10, 7, 5301, "a.test"), srv(5, 1, 5302, "a.test"), address)
    one.ask(2000)
    assert ["192.0.2.1:5302"] == one.servers()
    assert ["192.0.2.1:5301"] == one.backups()
    backup = one.group.tier.backup
    assert backup is not None
    peer: Any = backup.peers[0]
    assert (7, 7, row) == (peer.weight, peer.state.effective_weight, peer.state.row)


def test_a_target_that_cannot_be_looked_up_keeps_its_last_addresses(lab: Make) -> None:
    """As long as the service names it, and the answer is a failure."""
    one = lab(SERVICE)
    records = (srv(10, 5, 5301, "a.test"), srv(10, 5, 5302, "b.test"))
    one.know(*records, a("192.0.2.1", 1), a("192.0.2.2", 1, "b.test"))
    one.start()
    one.ask()
    known = table((*records, a("192.0.2.9", 1)))
    one.dns.script = lambda query: (
        [respond(query, rcode=2)] if query.name == "b.test" else known(query)
    )
    one.ask(2000)
    assert ["192.0.2.2:5302", "192.0.2.9:5301"] == one.servers()
    assert [
        "b.test could not be resolved (2: Server failure) while resolving service dns of test"
    ] == one.errors
    one.know(srv(10, 5, 5301, "a.test"), a("192.0.2.9", 1))
    one.ask(31_000)
    assert ["192.0.2.9:5301"] == one.servers()


@pytest.mark.parametrize(("options", "kept"), [("", []), ("hold_nx=1m", ["192.0.2.2:5302"])])
def test_a_target_that_is_gone_takes_its_addresses_away(
    lab: Make, options: str, kept: list[str]
) -> None:
    """A target that the service names and that does not exist is no server, unless it is held."""
    one = lab(SERVICE, options=options)
    one.know(srv(10, 5, 5301, "a.test"), srv(10, 5, 5302, "b.test"),
             a("192.0.2.1", 1), a("192.0.2.2", 1, "b.test"))
    one.start()
    one.ask()
    one.know(srv(10, 5, 5301, "a.test"), srv(10, 5, 5302, "b.test"), a("192.0.2.9", 1))
    one.ask(2000)
    assert [*kept, "192.0.2.9:5301"] == one.servers()
    assert [
        "b.test could not be resolved (3: Host not found) while resolving service dns of test"
    ] == one.errors


@pytest.mark.parametrize(("options", "kept"), [("", []), ("hold_nx=1m", ["192.0.2.1:5301"])])
def test_a_service_that_is_gone_takes_its_servers_away(
    lab: Make, options: str, kept: list[str]
) -> None:
    """NXDOMAIN for the service empties the group, unless it is held."""
    one = lab(SERVICE, options=options)
    one.know(srv(10, 5, 5301, "a.test"), a("192.0.2.1", 1))
    one.start()
    one.ask()
    one.know()
    one.ask(2000)
    assert kept == one.servers()
    assert ["service dns of test could not be resolved (3: Host not found)"] == one.errors


def test_two_records_of_one_address_are_two_servers(lab: Make) -> None:
    """Targets that share an address, and one target with two weights, count apart."""
    one = lab(SERVICE)
    one.know(srv(10, 1, 53, "a.test"), srv(10, 2, 53, "b.test"), srv(10, 3, 53, "a.test"),
             a("192.0.2.1", 1), a("192.0.2.1", 1, "b.test"))
    one.start()
    one.ask()
    assert ["192.0.2.1:53"] * 3 == one.servers()
    peers: Any = one.group.tier.peers
    assert [1, 2, 3] == sorted(peer.weight for peer in peers)
    assert 3 == len({peer.state.row for peer in peers})
    rows = {peer.state.row for peer in peers}
    one.know(srv(10, 2, 53, "b.test"), srv(10, 4, 53, "a.test"),
             a("192.0.2.1", 1), a("192.0.2.1", 1, "b.test"))
    one.ask(2000)
    after: Any = [one.servers(), one.group.tier.peers]
    assert [2, 4] == sorted(peer.weight for peer in after[1])
    assert {peer.state.row for peer in after[1]} < rows


# -- several workers, several configurations ---------------------------------------------------


def test_a_name_that_another_worker_asks_for_is_left_to_it(lab: Make) -> None:
    """While it is claimed nobody else asks; when the claim has run out, somebody does."""
    one = lab(LINE)
    one.know(a("192.0.2.1"))
    cells = one.group.names[0].record.cells
    cells[records.CLAIMED] = one.loop.now_ms + 20_000
    one.start()
    one.pass_time(10_000)
    one.dns.step()
    assert [] == one.dns.queries
    one.ask(11_000)
    assert ["192.0.2.1:53"] == one.servers()


def test_a_name_that_another_worker_has_asked_for_is_not_due(lab: Make) -> None:
    """All look at the time of the next question, which one of them has set."""
    one = lab(LINE)
    one.start()
    one.group.names[0].record.cells[records.DUE] = one.loop.now_ms + 20_000
    one.pass_time(10_000)
    one.dns.step()
    assert [] == one.dns.queries


def test_a_worker_that_leaves_in_the_middle_gives_its_claim_back(lab: Make) -> None:
    """The next worker need not wait for the claim to run out."""
    one = lab(LINE)
    one.start()
    one.until(lambda: bool(one.dns.queries))
    cells = one.group.names[0].record.cells
    assert cells[records.CLAIMED] > one.loop.now_ms
    one.stop()
    assert (0, True) == (cells[records.CLAIMED], cells[records.DUE] <= one.loop.now_ms)


def test_what_one_process_finds_all_of_them_use(lab: Make) -> None:
    """A forked worker chooses among addresses that another one has published."""
    one = lab(LINE)
    orders, answers = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(orders[1])  # else it would never end
            while os.read(orders[0], 1):
                os.write(answers[1], ",".join(one.servers()).encode() or b"none")
        finally:
            os._exit(0)

    def other() -> str:
        os.write(orders[1], b"?")
        return os.read(answers[0], 999).decode()

    try:
        assert "none" == other()
        one.know(a("192.0.2.1", 1), a("192.0.2.2", 1))
        one.start()
        one.ask()
        assert "192.0.2.1:53,192.0.2.2:53" == other()
        one.know(a("192.0.2.3", 1))
        one.ask(2000)
        assert "192.0.2.3:53" == other()
    finally:
        for fd in (*orders, *answers):
            os.close(fd)
        os.waitpid(pid, 0)


def test_an_answer_between_the_choice_and_the_wait_is_not_missed(lab: Make) -> None:
    """A session that chose among nobody goes on at once when another worker has an answer now."""
    one = lab(LINE)
    one.group.select(session(Clock()))
    assert 0 == one.group.tier.number
    one.know(a("192.0.2.1"))
    one.start()
    one.ask()
    resumed: list[str] = []
    assert one.group.wait(one.loop, lambda: resumed.extend(one.servers()))
    one.loop.turn(0)
    assert ["192.0.2.1:53"] == resumed


def test_a_new_configuration_begins_with_what_the_old_one_found(lab: Make) -> None:
    """After a reload no session finds an empty group, and nobody asks before it is time."""
    old = lab(LINE)
    old.know(a("192.0.2.1", 100))
    old.start()
    old.ask()
    new = lab(LINE + "server 127.0.0.1:9;", old=old)
    assert ["127.0.0.1:9", "192.0.2.1:53"] == new.servers()
    new.start()
    new.pass_time(50_000)
    new.dns.step()
    assert 1 == len(new.dns.queries)
    new.ask(60_000)


@pytest.mark.parametrize("line", [
    "zone z 64k; server A.test:53 resolve;",
    "zone z 64k; server a.test:54 resolve weight=2;",
    "zone z 128k; server a.test:53 resolve;",
    "zone z 64k; server a.test:53 resolve; server a.test:54 resolve;",
])
def test_another_line_with_the_same_name_begins_with_its_addresses(lab: Make, line: str) -> None:
    """Other parameters, another port, another size of the zone: the name is the same."""
    old = lab(LINE)
    old.know(a("192.0.2.1", 100))
    old.start()
    old.ask()
    new = lab(line, old=old)
    assert {"192.0.2.1"} == {name.split(":")[0] for name in new.servers()}
    assert len(new.group.names) == len(new.servers())


def test_sessions_are_counted_on_over_a_reload(lab: Make) -> None:
    """The address has the same row in the new configuration."""
    old = lab(LINE)
    old.know(a("192.0.2.1", 100), a("192.0.2.2", 100))
    old.start()
    old.ask()
    selection = old.group.select(session(Clock()))
    peer = selection.get()
    new = lab(LINE, old=old)
    assert [1, 0] == [p.state.conns for p in (new.servers(), new.group.tier)[1].peers]
    selection.free(peer, False)
    assert [0, 0] == [p.state.conns for p in new.group.tier.peers]


def test_names_that_are_not_configured_any_more_are_forgotten(lab: Make) -> None:
    """Not at once: the configuration may come back, or the new one be given up."""
    first = one = lab(LINE)
    for n in range(resolve.KEPT + 2):
        one = lab(f"zone z 64k; server n{n}.test:53 resolve;", old=one)
    assert first.group.names[0].key not in one.group.table.names
    assert resolve.KEPT + 2 > len(one.group.table.names) - 1


# -- the record --------------------------------------------------------------------------------

ADDRESSES = st.sampled_from([(2, 4), (10, 16)]).flatmap(
    lambda kind: st.binary(min_size=kind[1], max_size=kind[1]).map(
        lambda raw: (kind[0], socket.inet_ntop(kind[0], raw))
    )
)
ENTRY = st.builds(
    lambda address, *rest: records.Entry(*address, *rest),
    ADDRESSES,
    st.integers(0, 65535),
    st.integers(1, 65535),
    st.booleans(),
    st.binary(max_size=60).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
    st.integers(0, 4999),
    st.integers(0, 1 << 50),
)


@given(contents=st.lists(st.lists(ENTRY, max_size=30), min_size=1, max_size=5))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_record_tells_what_was_written_last(contents: list[list[records.Entry]]) -> None:
    """What was written before makes no difference."""
    zone = shm.Zone("z", 32768, "upstream")
    record = records.Record(zone, 5000)
    assert [] == record.read()
    for n, entries in enumerate(contents, 1):
        record.write(entries)
        assert (n, entries) == (record.cells[records.VERSION], record.read())
    zone.close()


def test_a_record_keeps_as_many_addresses_as_fit() -> None:
    """Thousands of addresses are cut to what there is room for, in order."""
    zone = shm.Zone("z", 32768, "upstream")
    record = records.Record(zone, 5000)
    many = [records.Entry(2, f"10.0.{n >> 8}.{n & 255}", 53, 1, False, "a.test", n)
            for n in range(5000)]
    record.write(many)
    kept = record.read()
    assert 500 < len(kept) < 5000
    assert many[: len(kept)] == kept
    zone.close()


def test_a_writer_that_dies_leaves_the_old_content() -> None:
    """The half that is read is not the one that is written."""
    zone = shm.Zone("z", 32768, "upstream")
    record = records.Record(zone, 5000)
    entry = records.Entry(2, "192.0.2.1", 53, 1, False, "", 0)
    record.write([entry])

    class Killed(BaseException):
        pass

    class Cells(list):  # type: ignore[type-arg]
        def __setitem__(self, n: Any, value: Any) -> None:
            raise Killed

    cells = record.cells
    record.cells = Cells(cells)  # type: ignore[assignment]
    with pytest.raises(Killed):
        record.write([entry] * 100)
    record.cells = cells
    assert [entry] == record.read()
    zone.close()


def test_the_work_of_making_many_names_known_grows_with_them() -> None:
    """Twice as many names, new or known from before, are twice the work."""

    def make(n: int) -> None:
        lines = "".join(f"server h{number}.test:53 resolve;" for number in range(n))
        block = f"stream {{ resolver 127.0.0.1; upstream u {{ zone z 1m; {lines} }} }}"
        old, new = build(block), build(block)
        old.zones.build(None)
        new.zones.build(old.zones)
        assert n == len(new.conf.upstreams[0].balancer.names)  # type: ignore[union-attr]
        for zone in new.zones.zones():
            zone.close()

    assert work.growth(make, 40) < work.LINEAR


def test_another_service_of_the_same_beginning_is_no_model(lab: Make) -> None:
    """Entries of one service are not used for another whose name begins with the same letters."""
    first = lab("zone z 1m; server a.test service=sip2 resolve;")
    entry = records.Entry(2, "192.0.2.1", 53, 1, False, "b.test", 0)
    first.group.names[0].record.write([entry])
    second = lab("zone z 1m; server a.test service=sip resolve;", old=first)
    assert [] == second.group.names[0].record.read()
    third = lab("zone z 1m; server a.test service=sip2 weight=2 resolve;", old=second)
    (found,) = third.group.names[0].record.read()
    assert "192.0.2.1" == found.host


class BrokenName(names.Name):
    """A name whose answers cannot be written down."""

    __slots__ = ()

    def publish(self, answer: Any) -> int:
        """Fail."""
        raise ValueError("no good")


def test_a_fault_with_an_answer_is_asked_again_later(lab: Make) -> None:
    """One alert; nobody else is kept from asking, and the next answer is taken."""
    one = lab(LINE)
    one.know(a("10.0.0.1"))
    (name,) = one.group.names
    name.__class__ = BrokenName
    one.start()
    log = one.loop.log
    assert isinstance(log, MemoryLog)
    one.ask(1)
    one.until(lambda: any("no good" in text for _, text in log.lines))
    assert not name.claimed
    assert [] == one.servers()
    name.__class__ = names.Name
    one.ask(60_000)
    assert ["10.0.0.1:53"] == one.servers()
