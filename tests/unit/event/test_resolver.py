"""Names become addresses by questions to DNS servers, whatever those answer."""

from __future__ import annotations

import gc
import itertools
import socket
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ngxstream.core import inet
from ngxstream.core.facts import ZONE, Cell, Fact
from ngxstream.event import dns_query, resolver, resolver_counts
from ngxstream.event.loop import Loop
from ngxstream.stream import resolver_conf
from ngxstream.wire import dns
from tests.support import ports
from tests.support.engine import MemoryLog, engine, run_until
from tests.support.moving_clock import MovingClock
from tests.support.scripted_dns import (
    Query,
    Record,
    Script,
    ScriptedDns,
    respond,
    silent,
    table,
)
from tests.support.work import lines_run

HOUR = 3_600_000
WWW: list[Record] = [
    ("www.test", dns.A, 60, "192.0.2.1"),
    ("www.test", dns.A, 60, "192.0.2.2"),
    ("www.test", dns.AAAA, 60, "2001:db8::1"),
]
FOUND = {"192.0.2.1", "192.0.2.2", "2001:db8::1"}


class Lab:
    """A loop, some scripted servers and a resolver that asks them.

    ``pass_time`` moves the loop's clock on; nothing waits for real.
    """

    def __init__(
        self, loop: Loop, clock: MovingClock, servers: list[ScriptedDns], **options: Any
    ) -> None:
        self.loop = loop
        self.clock = clock
        self.servers = servers
        make = resolver_counts.CountedResolver if "counts" in options else resolver.Resolver
        self.resolver = make(loop, [server.addr for server in servers], **options)
        self.answers: list[resolver.Answer] = []

    def ask(self, name: str = "www.test", timeout_ms: int = HOUR) -> resolver.Waiter:
        """Look a name up; the answer comes into `answers`."""
        return self.resolver.lookup(name, timeout_ms, self.answers.append)

    def until(self, done: Callable[[], bool]) -> None:
        """Serve and turn until something holds."""

        def step() -> bool:
            for server in self.servers:
                server.step()
            return done()

        run_until(self.loop, step)

    def answer(self, name: str = "www.test", timeout_ms: int = HOUR) -> resolver.Answer:
        """Look a name up and return the answer."""
        count = len(self.answers)
        self.ask(name, timeout_ms)
        self.until(lambda: len(self.answers) > count)
        return self.answers[-1]

    def service(self, service: str = "dns", name: str = "test") -> resolver.Answer:
        """Look a service up and return the answer."""
        count = len(self.answers)
        self.resolver.lookup_service(service, name, HOUR, self.answers.append)
        self.until(lambda: len(self.answers) > count)
        return self.answers[-1]

    def pass_time(self, ms: int) -> None:
        """Move the clock, and let what is due by then happen."""
        self.clock.move(self.loop, ms)

    def close(self) -> None:
        """Give up what is still asked, and close the servers."""
        asker = self.resolver.asker
        for query in list(asker.queries.values()):
            query.waiting.clear()
            query.close()
        self.loop.turn(0)
        for server in self.servers:
            server.close()

    def asked(self) -> list[tuple[str, int]]:
        """Return all questions of all servers."""
        return [question for server in self.servers for question in server.asked()]

    @property
    def lines(self) -> list[str]:
        """What was logged."""
        log = self.loop.log
        assert isinstance(log, MemoryLog)
        return [text for _, text in log.lines]


Make = Callable[..., Lab]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MovingClock:
    """Have loops see a clock that can be moved."""
    return MovingClock(monkeypatch)


@pytest.fixture
def lab(clock: MovingClock) -> Iterator[Make]:
    """Give ``lab(script, …, **options)``: one server per script."""
    labs: list[Lab] = []
    with engine() as loop:

        def make(*scripts: Script, **options: Any) -> Lab:
            labs.append(Lab(loop, clock, [ScriptedDns(script) for script in scripts], **options))
            return labs[-1]

        yield make
        for one in labs:
            one.close()


def hosts(answer: resolver.Answer) -> set[str]:
    """Return the addresses of an answer."""
    return {address.host for address in answer.addresses}


class Counts:
    """What a status_zone counts in."""

    def __init__(self) -> None:
        cells = [Cell(Fact(f"fact {n}", ZONE, ""), "") for n in range(11)]
        for n, cell in enumerate(cells):
            cell.at = n + 1
        self.row = memoryview(bytearray(96)).cast("q")
        self.requests = dict(zip(resolver_conf.REQUESTS, cells, strict=False))
        self.responses = dict(zip(resolver_conf.RESPONSES, cells[3:], strict=True))

    def seen(self) -> dict[str, int]:
        """Return what is not 0."""
        both = {**self.requests, **self.responses}
        return {name: n for name, cell in both.items() if (n := self.row[cell.at])}


@pytest.fixture
def counted(lab: Make) -> Callable[..., tuple[Lab, Counts]]:
    """Give ``counted(script, …)``: as lab(), with what was counted."""

    def make(*scripts: Script) -> tuple[Lab, Counts]:
        counts = Counts()
        one = lab(*scripts, counts=counts, valid_s=None, ipv4=True, ipv6=True)
        one.loop.cells = counts.row
        return one, counts

    return make


# -- what is counted ---------------------------------------------------------------------------


def test_a_lookup_is_one_request_and_each_message_a_response(
    counted: Callable[..., tuple[Lab, Counts]]
) -> None:
    """A name that is known already is no request."""
    one, counts = counted(table(WWW))
    one.answer()
    assert {"name": 1, "noerror": 2} == counts.seen()
    one.answer()
    assert {"name": 1, "noerror": 2} == counts.seen()


@pytest.mark.parametrize(
    ("code", "name"),
    [(1, "formerr"), (2, "servfail"), (3, "nxdomain"), (4, "notimp"), (5, "refused"),
     (9, "unknown")],
)
def test_responses_are_counted_by_their_codes(
    counted: Callable[..., tuple[Lab, Counts]], code: int, name: str
) -> None:
    """Each server's, also where another one has said better."""
    one, counts = counted(lambda query: [respond(query, rcode=code)])
    assert code == one.answer("other.test").code
    assert {"name": 1, name: 2} == counts.seen()


def test_a_service_is_a_request_of_its_own(counted: Callable[..., tuple[Lab, Counts]]) -> None:
    """The names that it leads to are more of them."""
    target = dns.Srv(1, 1, 53, "www.test")
    one, counts = counted(table([("_dns._tcp.test", dns.SRV, 60, target), *WWW]))
    assert not one.service().code
    assert {"srv": 1, "name": 1, "noerror": 3} == counts.seen()


def test_a_request_that_nobody_answers_times_out(
    counted: Callable[..., tuple[Lab, Counts]]
) -> None:
    """Once, however many wait for it; one that nobody waits for any more is not counted so."""
    one, counts = counted(silent)
    one.ask(timeout_ms=1000)
    one.ask(timeout_ms=2000)
    one.ask("other.test").cancel()
    one.resolver.lookup_service("dns", "test", 1500, one.answers.append)
    one.loop.turn(0)
    for _ in range(3):
        one.pass_time(1000)
    assert {"name": 2, "srv": 1, "timedout": 2} == counts.seen()


# -- what is found -----------------------------------------------------------------------------


def test_a_name_has_the_addresses_of_both_families(lab: Make) -> None:
    """A and AAAA are both asked for, once, and joined: IPv4 first."""
    one = lab(table(WWW))
    answer = one.answer()
    assert 0 == answer.code
    expected = ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
    assert expected == [address.host for address in answer.addresses]
    assert [2, 2, 10] == [address.family for address in answer.addresses]
    assert [("www.test", dns.A), ("www.test", dns.AAAA)] == sorted(one.asked())


@pytest.mark.parametrize(
    ("options", "found"),
    [({"ipv6": False}, {"192.0.2.1", "192.0.2.2"}), ({"ipv4": False}, {"2001:db8::1"})],
)
def test_a_family_that_is_off_is_not_asked_for(
    lab: Make, options: dict[str, bool], found: set[str]
) -> None:
    """ipv4=off and ipv6=off save the question."""
    one = lab(table(WWW), **options)
    assert found == hosts(one.answer())
    assert 1 == len(one.asked())


def test_names_are_asked_in_lower_case_without_a_final_dot(lab: Make) -> None:
    """WWW.Test. is www.test."""
    one = lab(table(WWW))
    assert hosts(one.answer("WWW.Test.")) == FOUND
    assert {"www.test"} == {name for name, _ in one.asked()}


def test_an_ipv4_address_is_its_own_answer(lab: Make) -> None:
    """No query is sent for 192.0.2.7."""
    one = lab(silent)
    one.ask("192.0.2.7")
    assert {"192.0.2.7"} == hosts(one.answers[0])
    assert [] == one.asked()


@pytest.mark.parametrize("name", ["", "a..b", "x" * 64, ".".join(["a" * 49] * 6)])
def test_a_name_that_cannot_be_asked_for_does_not_exist(lab: Make, name: str) -> None:
    """A name without a wire form is Host not found, and nobody is asked."""
    one = lab(silent)
    assert dns.NXDOMAIN == one.answer(name).code
    assert [] == one.asked()


def test_aliases_are_followed_within_an_answer_and_across_answers(lab: Make) -> None:
    """a -> b in one response, b -> c in the next, addresses in the last."""
    records: list[Record] = [
        ("a.test", dns.CNAME, 60, "b.test"),
        ("b.test", dns.CNAME, 60, "c.test"),
        ("c.test", dns.A, 60, "192.0.2.3"),
    ]
    assert {"192.0.2.3"} == hosts(lab(table(records)).answer("a.test"))


def test_an_alias_that_leads_to_itself_is_no_address(lab: Make) -> None:
    """a -> b -> a ends after as many hops as nginx makes."""
    records: list[Record] = [
        ("a.test", dns.CNAME, 60, "b.test"),
        ("b.test", dns.CNAME, 60, "a.test"),
    ]
    one = lab(table(records), ipv6=False)
    assert dns.NXDOMAIN == one.answer("a.test").code
    assert resolver.HOPS + 1 >= len(one.asked())


def test_a_name_without_addresses_is_not_found(lab: Make) -> None:
    """NOERROR with nothing in it is Host not found, as in nginx."""
    one = lab(table([("www.test", dns.SRV, 60, dns.Srv(0, 0, 1, "x"))]))
    assert dns.NXDOMAIN == one.answer().code


def test_one_family_will_do_when_the_other_fails(lab: Make) -> None:
    """A server failure for AAAA does not hide the addresses that A has."""

    def script(query: Query) -> list[bytes]:
        if query.kind == dns.AAAA:
            return [respond(query, rcode=dns.SERVFAIL)]
        return [respond(query, WWW[:1])]

    assert {"192.0.2.1"} == hosts(lab(script).answer())


def test_one_family_will_do_when_the_other_is_silent(lab: Make) -> None:
    """A server that drops AAAA questions costs the time, not the answer."""
    one = lab(lambda query: [respond(query, WWW[:1])] if query.kind == dns.A else [])
    one.ask(timeout_ms=20_000)
    one.until(lambda: len(one.asked()) >= 2)
    one.until(lambda: any(lookup.codes for lookup in one.resolver.lookups.values()))
    one.pass_time(20_000)
    one.until(lambda: bool(one.answers))
    assert {"192.0.2.1"} == hosts(one.answers[0])


# -- failures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code", [dns.FORMERR, dns.SERVFAIL, dns.NXDOMAIN, dns.NOTIMP, dns.REFUSED, 9]
)
def test_the_servers_code_is_the_answers(lab: Make, code: int) -> None:
    """What the only server says of a name is what the waiting hear."""
    assert code == lab(lambda query: [respond(query, rcode=code)]).answer().code


def test_errors_a_client_cannot_cause_are_logged(lab: Make) -> None:
    """A server that does not understand us is worth a line, in nginx's words."""
    one = lab(lambda query: [respond(query, rcode=dns.FORMERR)], ipv6=False)
    one.answer()
    query = one.servers[0].queries[0]
    expected = (
        f'DNS error (1: Format error), query id:{query.ident}, name:"www.test" '
        f"while resolving, resolver: {one.servers[0].text}"
    )
    assert [expected] == one.lines


def test_a_failing_server_is_followed_by_the_next(lab: Make) -> None:
    """With one server out of order the other is asked at once."""
    one = lab(lambda query: [respond(query, rcode=dns.SERVFAIL)], table(WWW))
    for _ in range(4):  # whoever is asked first
        assert hosts(one.answer()) == FOUND
        one.resolver.kept.clear()


def test_a_name_fails_when_all_servers_failed(lab: Make) -> None:
    """Each server is asked once, then the answer is the last one's code."""
    one = lab(*[lambda query: [respond(query, rcode=dns.REFUSED)]] * 3, ipv6=False)
    assert dns.REFUSED == one.answer().code
    assert 3 == len(one.asked())


def test_a_closed_port_is_followed_by_the_next_server(lab: Make) -> None:
    """ICMP from a host without a DNS server means the next server, and a line in the log."""
    one = lab(table(WWW), ipv6=False)
    dead = ports.free_udp_port()
    addr = inet.Addr(inet.AF_INET, ("127.0.0.1", dead), f"127.0.0.1:{dead}")
    one.resolver = resolver.Resolver(one.loop, [addr, one.servers[0].addr], ipv6=False)
    assert {"192.0.2.1", "192.0.2.2"} == hosts(one.answer())
    text = f"failed (111: Connection refused) while resolving, resolver: 127.0.0.1:{dead}"
    assert any(line.endswith(text) for line in one.lines)


def test_a_silent_server_is_followed_by_the_next_and_asked_last_from_then_on(lab: Make) -> None:
    """Only the first lookup waits for a server that is gone."""
    one = lab(silent, table(WWW), ipv6=False)
    one.ask()
    one.until(lambda: bool(one.asked()))
    if not one.answers:
        one.pass_time(one.resolver.asker.interval_ms)
    one.until(lambda: len(one.answers) == 1)
    before = len(one.servers[0].queries)
    for n in range(6):
        one.answer(f"name{n}.test")
    assert before == len(one.servers[0].queries)


def test_a_lone_silent_server_is_asked_every_five_seconds(lab: Make) -> None:
    """Resends go on, at nginx's pace, until the time is up: then it is a timeout."""
    one = lab(silent, ipv6=False)
    one.ask(timeout_ms=12_000)
    for expected in (1, 2, 3):
        one.until(lambda: len(one.asked()) == expected)  # noqa: B023 - called at once
        one.pass_time(4000)
        one.servers[0].step()
        assert expected == len(one.asked())
        one.pass_time(1000)
    one.until(lambda: bool(one.answers))
    assert dns.TIMEDOUT == one.answers[0].code


def test_resends_come_from_another_port_with_another_identifier(lab: Make) -> None:
    """Source port and identifier of a query do not show those of the next."""
    one = lab(silent, ipv6=False)
    one.ask()
    for count in range(1, 4):
        one.until(lambda: len(one.asked()) >= count)  # noqa: B023 - called at once
        one.pass_time(5000)
    queries = one.servers[0].queries
    assert len({query.source for query in queries}) == len(queries)
    assert len({query.ident for query in queries}) > 1


def test_an_answer_to_an_earlier_sending_is_welcome(lab: Make) -> None:
    """A slow server's answer counts although the question was sent again meanwhile."""
    one = lab(silent, ipv6=False)
    one.ask()
    one.until(lambda: len(one.asked()) == 1)
    one.pass_time(5000)
    one.until(lambda: len(one.asked()) == 2)
    server = one.servers[0]
    server.udp.sendto(respond(server.queries[0], WWW[:1]), server.queries[0].source)
    one.until(lambda: bool(one.answers))
    assert {"192.0.2.1"} == hosts(one.answers[0])


# -- who waits ---------------------------------------------------------------------------------


def test_a_name_under_way_is_asked_for_once(lab: Make) -> None:
    """A thousand who wait for one name cost two questions."""
    one = lab(silent)
    for _ in range(1000):
        one.ask("WWW.test")
    one.until(lambda: len(one.asked()) == 2)
    one.servers[0].script = table(WWW)
    one.pass_time(5000)
    one.until(lambda: len(one.answers) == 1000)
    assert 4 == len(one.asked())
    assert all(hosts(answer) == FOUND for answer in one.answers)


def test_each_waits_no_longer_than_its_own_time(lab: Make) -> None:
    """The impatient gets a timeout, the patient the answer."""
    one = lab(silent)
    one.ask(timeout_ms=1000)
    one.ask(timeout_ms=HOUR)
    one.until(lambda: len(one.asked()) == 2)
    one.pass_time(1000)
    one.until(lambda: len(one.answers) == 1)
    one.servers[0].script = table(WWW)
    one.pass_time(4000)
    one.until(lambda: len(one.answers) == 2)
    assert [dns.TIMEDOUT, 0] == [answer.code for answer in one.answers]


def test_what_nobody_waits_for_is_not_asked_any_more(lab: Make) -> None:
    """With the last waiting session its sockets and timers go."""
    one = lab(silent)
    waiters = [one.ask(), one.ask()]
    one.until(lambda: len(one.asked()) == 2)
    for waiter in waiters:
        waiter.cancel()
        waiter.cancel()
    one.loop.turn(0)
    assert {} == one.loop.handlers
    assert {} == one.resolver.asker.queries
    one.pass_time(60_000)
    one.servers[0].step()
    assert 2 == len(one.asked())
    assert [] == one.answers


def test_one_who_left_is_not_called(lab: Make) -> None:
    """Between answer and call back there is still time to leave."""
    one = lab(table(WWW))
    waiter = one.ask()
    stays = one.ask()
    given = waiter.give

    assert stays is not waiter
    given(resolver.Answer(0, (), 0))
    waiter.cancel()
    one.until(lambda: bool(one.answers))
    one.loop.turn(0)
    assert [FOUND] == [hosts(answer) for answer in one.answers]


def test_a_failing_callback_does_not_keep_the_others_waiting(lab: Make) -> None:
    """An exception of one waiting session is that session's."""
    one = lab(table(WWW))

    def explode(answer: resolver.Answer) -> None:
        raise RuntimeError("boom")

    one.resolver.lookup("www.test", HOUR, explode)
    assert hosts(one.answer()) == FOUND
    assert any("boom" in line for line in one.lines)


def test_questions_beyond_the_limit_queue(lab: Make) -> None:
    """A flood of names holds no more sockets than allowed, and all are served in the end."""
    one = lab(silent, ipv6=False)
    many = dns_query.IN_FLIGHT + 40
    for n in range(many):
        one.ask(f"n{n}.test")
    one.until(lambda: len(one.asked()) == dns_query.IN_FLIGHT)
    assert dns_query.IN_FLIGHT == len(one.loop.handlers)
    one.servers[0].script = lambda query: [respond(query, [(query.name, dns.A, 1, "192.0.2.9")])]
    one.pass_time(5000)
    one.until(lambda: len(one.answers) == many)
    assert {0} == {answer.code for answer in one.answers}


def test_a_queued_question_that_was_given_up_is_never_sent(lab: Make) -> None:
    """The queue passes over what nobody waits for any more."""
    one = lab(silent, ipv6=False)
    waiters = [one.ask(f"n{n}.test") for n in range(dns_query.IN_FLIGHT + 2)]
    waiters[dns_query.IN_FLIGHT].cancel()
    one.until(lambda: len(one.asked()) == dns_query.IN_FLIGHT)
    waiters[0].cancel()
    one.until(lambda: len(one.asked()) == dns_query.IN_FLIGHT + 1)
    names = [name for name, _ in one.asked()]
    assert f"n{dns_query.IN_FLIGHT + 1}.test" in names
    assert f"n{dns_query.IN_FLIGHT}.test" not in names


def test_a_queued_question_that_was_given_up_takes_no_memory(lab: Make) -> None:
    """Clients that come and go while the servers are silent leave nothing in the queue."""
    one = lab(silent, ipv6=False)
    for n in range(dns_query.IN_FLIGHT):
        one.ask(f"n{n}.test")
    for n in range(3000):
        one.ask(f"gone{n}.test").cancel()
    gc.collect()
    left = [thing for thing in gc.get_objects() if isinstance(thing, dns_query.Query)]
    assert dns_query.IN_FLIGHT == len(left)


@pytest.mark.parametrize("extra", ["", "b"])
def test_a_name_of_255_bytes_is_looked_up_and_a_longer_one_is_not(lab: Make, extra: str) -> None:
    """On the wire the longest name has 255 bytes; a longer text is not even asked for."""
    name = ".".join(["a" * 49] * 5) + ".bcd" + extra
    one = lab(lambda query: [respond(query, [(query.name, dns.A, 9, "192.0.2.1")])], ipv6=False)
    answer = one.answer(name)
    if extra:
        assert (dns.NXDOMAIN, [], {}) == (answer.code, one.asked(), one.resolver.kept)
    else:
        assert {"192.0.2.1"} == hosts(answer)


def test_an_alias_of_255_bytes_is_followed(lab: Make) -> None:
    """The longest name may also come from the wire."""
    name = ".".join(["a" * 49] * 5) + ".bcd"
    one = lab(
        lambda query: [
            respond(query, [("www.test", dns.CNAME, 9, name)])
            if query.name == "www.test"
            else respond(query, [(name, dns.A, 9, "192.0.2.1")])
        ],
        ipv6=False,
    )
    assert {"192.0.2.1"} == hosts(one.answer())


# -- turns -------------------------------------------------------------------------------------


def count_a_turn(one: Lab, things: Callable[[], int], goal: int) -> list[int]:
    """Turn until there are so many things; return how many more there were in each turn."""
    counts = [things()]
    for _ in range(1000):
        for server in one.servers:
            server.step()
        one.loop.turn(1)
        counts.append(things())
        if counts[-1] >= goal:
            break
    assert goal == counts[-1]
    return [after - before for before, after in itertools.pairwise(counts)]


def test_those_who_wait_are_called_some_a_turn(lab: Make) -> None:
    """A thousand sessions that one answer sets going do not all connect in one turn."""
    one = lab(table(WWW))
    for _ in range(1000):
        one.ask()
    assert resolver.DELIVERED == max(count_a_turn(one, lambda: len(one.answers), 1000))
    one.answers.clear()
    one.resolver.kept.clear()
    for _ in range(resolver.DELIVERED):  # and the next ones need not wait
        one.ask()
    steps = count_a_turn(one, lambda: len(one.answers), resolver.DELIVERED)
    assert resolver.DELIVERED == max(steps)


def test_names_that_lead_to_one_name_are_served_some_a_turn(lab: Make) -> None:
    """Neither do a thousand names with one alias."""

    def script(query: Query) -> list[bytes]:
        if query.name == "big.test":
            return []
        return [respond(query, [(query.name, dns.CNAME, 60, "big.test")])]

    one = lab(script, ipv6=False)
    server = one.servers[0]
    for n in range(1000):
        one.ask(f"n{n}.test")
    asker = one.resolver.asker

    def waiting() -> int:
        query = asker.queries.get(dns.Question("big.test", dns.A))
        return 0 if query is None else len(query.waiting)

    one.until(lambda: waiting() == 1000)
    server.script = lambda query: [respond(query, many(40, "big.test"))]
    one.pass_time(5000)
    called = []

    def ended() -> int:
        called.append(1000 - len(one.resolver.lookups))
        return called[-1]

    assert 100 > dns_query.TOLD >= max(count_a_turn(one, ended, 1000))
    one.until(lambda: len(one.answers) == 1000)
    first = one.answers[0].addresses[0]
    assert all(any(address is first for address in answer.addresses) for answer in one.answers)


def test_large_responses_are_read_some_a_turn(lab: Make) -> None:
    """Servers that answer a hundred questions at once with all that fits take many turns."""
    one = lab(silent, ipv6=False)
    server = one.servers[0]
    for n in range(100):
        one.ask(f"n{n}.test")
    one.until(lambda: len(one.asked()) == 100)
    for query in server.queries:
        server.udp.sendto(respond(query, many(90, query.name)), query.source)
    left = lambda: 100 - len(one.resolver.asker.queries)  # noqa: E731
    size = len(respond(server.queries[0], many(90, "n0.test"))) + dns_query.OVERHEAD
    most = -(-dns_query.TURN_BYTES // size)
    assert 0 < max(count_a_turn(one, left, 100)) <= most < 100
    one.until(lambda: len(one.answers) == 100)


def test_each_turn_may_read_as_much_as_the_one_before(lab: Make) -> None:
    """What one response took is forgotten when the turn is over."""
    one = lab(silent)
    asker = one.resolver.asker
    for _ in range(3):
        assert asker.may_read()
        asker.count(dns_query.TURN_BYTES)
        assert not asker.may_read()
        one.loop.turn(0)


def test_a_forged_response_is_dismissed_by_its_head(lab: Make) -> None:
    """What answers another question costs no more than looking at the question."""
    one = lab(silent, ipv6=False)
    one.ask()
    one.until(lambda: len(one.asked()) == 1)
    query = one.servers[0].queries[0]
    under_way = next(iter(one.resolver.asker.queries.values()))
    forged = respond(query, many(200, "evil.test"), name="evil.test")
    assert lines_run(lambda: under_way.on_message(under_way.exchanges[0], forged)) < 150


# -- bounds ------------------------------------------------------------------------------------


def test_a_name_has_no_more_addresses_than_allowed(lab: Make) -> None:
    """Of 2 000 the first thousand are used, and the log says so once in a while."""
    one = lab(cut_short(many(2000)), ipv6=False)
    for _ in range(3):
        assert dns.RECORDS == len(one.answer().addresses)
        one.resolver.kept.clear()
    assert 1 == len(one.lines)
    assert one.lines[0].startswith("too large DNS response, only the first 1024 records or less")


def test_kept_names_take_no_more_memory_than_allowed(
    lab: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names used longest ago make room for a large one."""
    monkeypatch.setattr(resolver, "KEPT_BYTES", 100_000)
    records = [r for n in range(9) for r in many(100, f"n{n}.test")]
    one = lab(cut_short(records), ipv6=False)
    for n in (0, 1, 2, 3, 0, 4, 5):
        assert 100 == len(one.answer(f"n{n}.test").addresses)
    assert ["n3.test", "n0.test", "n4.test", "n5.test"] == list(one.resolver.kept)
    expected = 4 * (resolver.NAME_BYTES + 7 + 100 * resolver.ADDRESS_BYTES)
    assert expected == one.resolver.kept_bytes
    one.resolver.lookup("n0.test", HOUR, one.answers.append)
    one.pass_time(61_000)
    one.answer("gone.test")
    assert ["gone.test"] == list(one.resolver.kept)
    assert resolver.NAME_BYTES + 9 == one.resolver.kept_bytes


def test_an_answer_too_large_to_be_kept_is_given_all_the_same(
    lab: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for it has it."""
    monkeypatch.setattr(resolver, "KEPT_BYTES", 1000)
    one = lab(cut_short(many(100)), ipv6=False)
    assert 100 == len(one.answer().addresses)
    assert ({}, 0) == (one.resolver.kept, one.resolver.kept_bytes)


def test_the_estimate_of_a_kept_name_is_what_it_takes(lab: Make) -> None:
    """Names of one address, and names of many, take no more memory than is counted."""
    for count in (1, 500):

        def script(query: Query, count: int = count) -> list[bytes]:
            if not query.tcp:
                return [respond(query, truncated=True)]
            form = "10.0.{}.{}" if query.kind == dns.A else "2001:db8::{}:{}"
            addresses = [form.format(n // 256, n % 256) for n in range(count)]
            return [respond(query, [(query.name, query.kind, 60, one) for one in addresses])]

        one = lab(script)
        one.answer(f"0.{count}.test")
        gc.collect()
        tracemalloc.start()
        for n in range(1, 40):
            one.answer(f"{n}.{count}.test")
        one.answers.clear()
        one.servers[0].queries.clear()
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        kept = one.resolver.kept_bytes
        assert taken < kept * 1.3, count


def test_a_lookup_leaves_no_circles(lab: Make) -> None:
    """Workers run without the cyclic collector: what is through must be free at once."""
    one = lab(table([*WWW, ("_dns._tcp.test", dns.SRV, 60, dns.Srv(0, 0, 53, "www.test"))]))
    one.answer()
    one.ask("gone.test", timeout_ms=10)
    one.ask("cancelled.test").cancel()
    one.pass_time(1000)
    one.until(lambda: len(one.answers) == 2)
    one.service()
    one.loop.turn(0)
    gc.collect()
    gc.disable()
    try:
        for n in range(5):
            one.answer(f"x{n}.test")
            one.service()
        one.loop.turn(0)
        modules = {resolver.__name__, dns_query.__name__}
        stays = (resolver.Resolver, dns_query.Asker)
        left = [thing for thing in gc.get_objects() if type(thing).__module__ in modules]
        kinds = {type(thing).__name__ for thing in left if not isinstance(thing, stays)}
        assert {"Address", "Answer", "_Kept"} >= kinds
    finally:
        gc.enable()


# -- what is kept ------------------------------------------------------------------------------


def test_an_answer_is_kept_for_its_ttl(lab: Make) -> None:
    """Within the TTL nobody is asked again; after it, the server is."""
    one = lab(table(WWW))
    one.answer()
    one.pass_time(59_000)
    one.ask()
    assert 2 == len(one.answers)
    assert FOUND == hosts(one.answers[1])
    one.pass_time(3000)
    one.answer()
    assert 4 == len(one.asked())


def test_the_shortest_ttl_on_the_way_counts(lab: Make) -> None:
    """An alias that holds for 10 s is not followed blindly for an hour."""
    records: list[Record] = [
        ("a.test", dns.CNAME, 10, "b.test"),
        ("b.test", dns.A, 3600, "192.0.2.3"),
    ]
    one = lab(table(records), ipv6=False)
    one.answer("a.test")
    one.pass_time(12_000)
    one.answer("a.test")
    assert 4 == len(one.asked())


def test_valid_replaces_ttls(lab: Make) -> None:
    """With valid=5 an answer is kept for 5 s, whatever it says."""
    one = lab(table(WWW), valid_s=5)
    one.answer()
    one.pass_time(4000)
    one.ask()
    assert 2 == len(one.answers)
    one.pass_time(3000)
    one.answer()
    assert 4 == len(one.asked())


def test_the_validity_of_an_answer_is_told(lab: Make) -> None:
    """Who resolves again and again learns when."""
    one = lab(table(WWW))
    before = one.loop.now_ms
    valid_ms = one.answer().valid_ms
    assert before + 60_000 <= valid_ms <= one.loop.now_ms + 60_000


def test_that_a_name_is_not_there_is_kept_for_a_second_at_most(lab: Make) -> None:
    """Sessions to a name that is missing do not become a flood of questions."""
    one = lab(table([]))
    one.answer()
    one.loop.now_ms = next(iter(one.resolver.kept.values())).until_s * 1000
    for _ in range(50):
        one.ask()
    assert [dns.NXDOMAIN] * 51 == [answer.code for answer in one.answers]
    assert 2 == len(one.asked())
    one.pass_time(1000)
    one.answer()
    assert 4 == len(one.asked())


def test_kept_addresses_are_given_in_turns_drawn_at_random(lab: Make) -> None:
    """Every address comes first now and then, and all are always there."""
    one = lab(table(WWW))
    one.answer()
    for _ in range(200):
        one.ask()
    assert all(hosts(answer) == FOUND for answer in one.answers)
    assert FOUND == {answer.addresses[0].host for answer in one.answers}


def test_names_nobody_asks_for_are_forgotten(lab: Make) -> None:
    """After half a minute of rest a name is not kept any more, however long its TTL."""
    one = lab(table([("www.test", dns.A, 86400, "192.0.2.1"), ("x.test", dns.A, 1, "192.0.2.1")]))
    one.answer()
    one.pass_time(resolver.IDLE_MS + 1000)
    one.answer("x.test")
    assert ["x.test"] == list(one.resolver.kept)


def test_no_more_names_are_kept_than_allowed(
    lab: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ones used longest ago make room."""
    monkeypatch.setattr(resolver, "KEPT", 3)
    one = lab(table([(f"n{n}.test", dns.A, 60, "192.0.2.1") for n in range(6)]))
    for n in (0, 1, 2, 0, 3, 4):
        one.answer(f"n{n}.test")
    assert ["n0.test", "n3.test", "n4.test"] == list(one.resolver.kept)


# -- TCP ---------------------------------------------------------------------------------------


def cut_short(records: list[Record]) -> Script:
    """Make a script that truncates over UDP."""
    whole = table(records)
    return lambda query: whole(query) if query.tcp else [respond(query, truncated=True)]


def many(count: int, name: str = "www.test") -> list[Record]:
    """Make so many addresses of a name."""
    return [(name, dns.A, 60, f"10.0.{n >> 8}.{n & 255}") for n in range(count)]


def test_a_truncated_answer_is_fetched_over_tcp(lab: Make) -> None:
    """200 addresses do not fit into 512 bytes."""
    one = lab(cut_short(many(200)), ipv6=False)
    assert 200 == len(one.answer().addresses)
    assert [False, True] == [query.tcp for query in one.servers[0].queries]


def test_without_tcp_the_next_server_is_asked(lab: Make) -> None:
    """A server that truncates and refuses connections is no help, but it is not alone."""
    one = lab(cut_short(WWW), table(WWW), ipv6=False)
    one.servers[0].refuse_tcp()
    for n in range(4):
        assert 0 == one.answer().code, n
        one.resolver.kept.clear()


def test_a_connection_that_breaks_off_is_followed_by_the_next_server(lab: Make) -> None:
    """Half a message over TCP is no answer."""
    one = lab(cut_short(WWW), table(WWW), ipv6=False)
    first = one.servers[0]

    def half(query: Query) -> list[bytes]:
        if query.tcp:
            for stream in list(first.streams):
                stream.sendall(b"\x10\x00half")
                stream.shutdown(socket.SHUT_RDWR)
            return []
        return [respond(query, truncated=True)]

    first.script = half
    for n in range(4):
        assert 0 == one.answer().code, n
        one.resolver.kept.clear()


@pytest.mark.parametrize("fill", [b"\xff", b"\0", b"\xc0"])
def test_64_kb_of_garbage_over_tcp_are_no_answer(lab: Make, fill: bytes) -> None:
    """Whatever is in them, the next server is asked."""

    def script(query: Query) -> list[bytes]:
        whole = query.raw[:2] + b"\x81\x80\0\1\xff\xff\0\0\0\0" + query.raw[12:]
        return [whole + fill * (65535 - len(whole))] if query.tcp else [
            respond(query, truncated=True)
        ]

    one = lab(script, table(WWW), ipv6=False)
    for n in range(4):
        assert {"192.0.2.1", "192.0.2.2"} == hosts(one.answer()), n
        one.resolver.kept.clear()


def test_a_silent_tcp_server_is_given_up_after_five_seconds(lab: Make) -> None:
    """The question goes on to the other server."""
    one = lab(lambda query: [] if query.tcp else [respond(query, truncated=True)], table(WWW),
              ipv6=False)
    one.resolver.asker.turn = 0
    one.ask()
    one.until(lambda: len(one.servers[0].asked()) == 2)
    one.pass_time(dns_query.STREAM_MS)
    one.until(lambda: bool(one.answers))
    assert {"192.0.2.1", "192.0.2.2"} == hosts(one.answers[0])


# -- hostile answers ---------------------------------------------------------------------------


def genuine(query: Query) -> bytes:
    """Return the true answer."""
    return respond(query, [r for r in WWW if r[1] == query.kind])


HOSTILE: dict[str, Callable[[Query], bytes]] = {
    "identifier": lambda q: respond(q, WWW[:1], ident=q.ident ^ 1),
    "name": lambda q: respond(q, [("evil.test", dns.A, 9, "192.0.2.66")], name="evil.test"),
    "kind": lambda q: respond(q, [("www.test", dns.A, 9, "192.0.2.66")], kind=dns.PTR),
    "query": lambda q: q.raw,
    "empty": lambda q: b"",
    "short": lambda q: q.raw[:11],
    "garbage": lambda q: q.raw[:2] + b"\x81\x80" + bytes(range(200)),
    "loop": lambda q: respond(q)[:6] + b"\0\1\0\0\0\0" + q.raw[12:] + b"\xc0\x1a\0\1\0\1",
    "count": lambda q: respond(q)[:6] + b"\xff\xff\0\0\0\0" + q.raw[12:],
    "long": lambda q: respond(q, WWW[:1]) + bytes(60_000),
    "length": lambda q: respond(q, WWW[:1])[:-6] + b"\xff\xff" + bytes(4),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_answer_to_the_question_is_passed_over(lab: Make, kind: str) -> None:
    """A message that is forged or broken changes nothing: the true answer is awaited."""
    one = lab(lambda query: [HOSTILE[kind](query), genuine(query)])
    assert hosts(one.answer()) == FOUND
    assert len(one.lines) <= 2  # a line for each question at most


def test_records_of_other_names_are_not_taken(lab: Make) -> None:
    """An answer section with somebody else's address tells nothing of ours."""
    evil: list[Record] = [("evil.test", dns.A, 60, "192.0.2.66"), WWW[0]]
    one = lab(lambda query: [respond(query, evil)], ipv6=False)
    assert {"192.0.2.1"} == hosts(one.answer())


def test_a_stranger_is_not_heard(lab: Make) -> None:
    """Only the server's own address reaches the socket."""
    one = lab(silent, ipv6=False)
    one.ask()
    one.until(lambda: len(one.asked()) == 1)
    query = one.servers[0].queries[0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(respond(query, [("www.test", dns.A, 9, "192.0.2.66")]), query.source)
    one.loop.turn(20)
    assert [] == one.answers


def test_somebody_who_guesses_is_answered_with_tcp(lab: Make) -> None:
    """After a number of wrong identifiers the question is asked where they cannot be guessed."""

    def script(query: Query) -> list[bytes]:
        if query.tcp:
            return [genuine(query)]
        forged = [("www.test", dns.A, 9, "192.0.2.66")]
        return [
            respond(query, forged, ident=n) for n in range(dns_query.STRAYS) if n != query.ident
        ] + [respond(query, forged, ident=query.ident ^ 0x8000)]

    one = lab(script, ipv6=False)
    assert {"192.0.2.1", "192.0.2.2"} == hosts(one.answer())
    assert [False, True] == [query.tcp for query in one.servers[0].queries]


def test_a_flood_takes_turns_with_the_rest_of_the_worker(lab: Make) -> None:
    """No more than a burst is read at a time."""
    one = lab(silent, ipv6=False)
    one.ask()
    one.until(lambda: len(one.asked()) == 1)
    server, query = one.servers[0], one.servers[0].queries[0]
    exchange = next(iter(one.resolver.asker.queries.values())).exchanges[0]
    for _ in range(dns_query.BURST + 3):
        server.udp.sendto(b"", query.source)
    exchange.on_readable(1)
    assert dns_query.BURST == exchange.strays


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    noise=st.lists(
        st.one_of(
            st.binary(max_size=600),
            st.builds(lambda cut, flip: (cut, flip), st.integers(0, 80), st.integers(1, 255)),
        ),
        max_size=6,
    ),
    tcp=st.booleans(),
)
def test_no_answer_breaks_the_resolver(
    clock: MovingClock, noise: list[bytes | tuple[int, int]], tcp: bool
) -> None:
    """Whatever bytes come before it, the true answer is found, or none and the time is up."""

    def spoiled(query: Query) -> list[bytes]:
        found = []
        for item in noise:
            if isinstance(item, bytes):
                found.append(query.raw[:2] + item)
            else:
                whole = bytearray(genuine(query))
                whole[item[0] % len(whole)] ^= item[1]
                found.append(bytes(whole))
        return found

    def script(query: Query) -> list[bytes]:
        if tcp and not query.tcp:
            return [respond(query, truncated=True)]
        return [*spoiled(query), genuine(query)]

    with engine() as loop:
        one = Lab(loop, clock, [ScriptedDns(script)])
        try:
            one.ask(timeout_ms=4000)

            def is_over() -> bool:
                if not one.answers and len(one.asked()) > 3:
                    one.pass_time(4000)  # a broken stream waits for its time
                return bool(one.answers)

            one.until(is_over)
            assert not any("exception" in line for line in one.lines)
            loop.turn(0)
            assert {} == one.resolver.asker.queries
        finally:
            one.close()


# -- services ----------------------------------------------------------------------------------

SRV: list[Record] = [
    ("_dns._tcp.test", dns.SRV, 60, dns.Srv(10, 5, 5301, "a.test")),
    ("_dns._tcp.test", dns.SRV, 60, dns.Srv(10, 0, 5302, "b.test")),
    ("_dns._tcp.test", dns.SRV, 60, dns.Srv(20, 7, 5303, "a.test")),
    ("a.test", dns.A, 30, "192.0.2.1"),
    ("b.test", dns.A, 90, "192.0.2.2"),
    ("b.test", dns.AAAA, 90, "2001:db8::2"),
]


def test_a_service_has_no_more_addresses_than_allowed(
    lab: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records times addresses would be a hundred thousand."""
    monkeypatch.setattr(resolver, "ADDRESSES", 50)
    records: list[Record] = [
        ("_dns._tcp.test", dns.SRV, 60, dns.Srv(0, 0, n, "www.test")) for n in range(1, 30)
    ]
    answer = lab(table([*records, *many(20)]), ipv6=False).service()
    assert 50 == len(answer.addresses)
    assert [1] * 20 + [2] * 20 + [3] * 10 == [address.port for address in answer.addresses]


@pytest.mark.parametrize("code", [dns.SERVFAIL, dns.REFUSED, dns.NXDOMAIN])
def test_a_service_fails_as_the_server_says(lab: Make, code: int) -> None:
    """What the only server says of a service is what the waiting hear."""
    assert code == lab(lambda query: [respond(query, rcode=code)]).service().code


def test_a_service_without_servers_does_not_exist(lab: Make) -> None:
    """An answer without records and without an error counts as NXDOMAIN."""
    assert dns.NXDOMAIN == lab(lambda query: [respond(query, [])]).service().code


def test_a_service_has_the_servers_of_its_records(lab: Make) -> None:
    """Port, priority and weight come from SRV, addresses from the targets; weight 0 is 1."""
    answer = lab(table(SRV)).service()
    assert 0 == answer.code
    assert [
        resolver.Address(2, "192.0.2.1", 5301, 10, 5, "a.test"),
        resolver.Address(2, "192.0.2.2", 5302, 10, 1, "b.test"),
        resolver.Address(10, "2001:db8::2", 5302, 10, 1, "b.test"),
        resolver.Address(2, "192.0.2.1", 5303, 20, 7, "a.test"),
    ] == list(answer.addresses)


def test_a_service_with_a_dot_is_asked_for_as_it_is(lab: Make) -> None:
    """service=_sip._udp asks for _sip._udp.NAME."""
    one = lab(table([("_sip._udp.test", dns.SRV, 60, dns.Srv(0, 0, 1, "a.test")), SRV[3]]))
    assert {"192.0.2.1"} == hosts(one.service("_sip._udp"))


def test_a_service_holds_as_long_as_its_shortest_part(lab: Make) -> None:
    """30 s of one target's address bound the 60 s of the records."""
    one = lab(table(SRV))
    before = one.loop.now_ms
    assert before + 30_000 <= one.service().valid_ms <= one.loop.now_ms + 30_000


def test_targets_that_are_not_found_are_named(lab: Make) -> None:
    """The targets that are found are used."""
    one = lab(table([r for r in SRV if r[0] != "b.test"]))
    answer = one.service()
    assert {"192.0.2.1"} == hosts(answer)
    assert (("b.test", dns.NXDOMAIN),) == answer.failed


def test_a_service_without_any_address_is_not_found(lab: Make) -> None:
    """When no target has an address the service fails with its targets' code."""
    answer = lab(table([r for r in SRV if r[1] == dns.SRV])).service()
    assert (dns.NXDOMAIN, ()) == (answer.code, answer.addresses)
    assert 2 == len(answer.failed)


@pytest.mark.parametrize("target", ["", "a" * 63 + "."])
def test_a_service_that_is_not_offered_is_not_found(lab: Make, target: str) -> None:
    """The target `.` of an SRV record means that there is no such service (RFC 2782)."""
    records: list[Record] = [("_dns._tcp.test", dns.SRV, 60, dns.Srv(0, 0, 0, target))]
    assert dns.NXDOMAIN == lab(table(records)).service().code


def test_a_service_of_an_impossible_name_is_not_found(lab: Make) -> None:
    """Such a name cannot be encoded in a query."""
    one = lab(silent)
    one.resolver.lookup_service("dns", "a..b", HOUR, one.answers.append)
    assert [dns.NXDOMAIN] == [answer.code for answer in one.answers]


def test_a_silent_service_times_out(lab: Make) -> None:
    """Without records the time of the lookup is all there is."""
    one = lab(silent)
    one.resolver.lookup_service("dns", "test", 3000, one.answers.append)
    one.until(lambda: bool(one.asked()))
    one.pass_time(3000)
    assert [dns.TIMEDOUT] == [answer.code for answer in one.answers]


def test_silent_targets_time_out_within_the_time_of_the_service(lab: Make) -> None:
    """Records and addresses share one deadline."""
    one = lab(lambda query: table(SRV)(query) if query.kind == dns.SRV else [])
    one.resolver.lookup_service("dns", "test", 3000, one.answers.append)
    one.until(lambda: len(one.asked()) == 5)
    one.pass_time(3000)
    one.until(lambda: bool(one.answers))
    answer = one.answers[0]
    assert dns.TIMEDOUT == answer.code
    assert {dns.TIMEDOUT} == {code for _, code in answer.failed}


def test_a_service_lookup_can_be_cancelled_at_any_point(lab: Make) -> None:
    """Nothing is called, asked or left open after that."""
    one = lab(lambda query: table(SRV)(query) if query.kind == dns.SRV else [])
    early = one.resolver.lookup_service("dns", "test", HOUR, one.answers.append)
    early.cancel()
    late = one.resolver.lookup_service("dns", "test", HOUR, one.answers.append)
    one.until(lambda: any(kind == dns.A for _, kind in one.asked()))
    late.cancel()
    late.cancel()
    one.loop.turn(0)
    assert {} == one.loop.handlers
    assert [] == one.answers


# -- faults ------------------------------------------------------------------------------------


class Session:
    """Somebody who waits for a name; who fails with the answer, or not."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.answers: list[resolver.Answer] = []
        self.ended = 0

    def on_answer(self, answer: resolver.Answer) -> None:
        """Note it."""
        self.answers.append(answer)
        if self.fails:
            raise ValueError("no good")

    def on_fault(self) -> None:
        """Note the end."""
        self.ended += 1


def alerts(loop: Loop) -> int:
    """Return how many faults of ours were logged."""
    log = loop.log
    assert isinstance(log, MemoryLog)
    return sum("unexpected exception" in text for _, text in log.lines)


@pytest.mark.parametrize("which", ["host", "service"])
def test_one_who_fails_with_an_answer_ends_and_the_others_have_it(lab: Make, which: str) -> None:
    """Of three who wait the second raises: it is told so once, with one alert."""
    records = [*WWW, ("_dns._tcp.test", dns.SRV, 60, dns.Srv(0, 1, 53, "www.test"))]
    one = lab(table(records))
    waiting = [Session(fails=n == 1) for n in range(3)]
    for session in waiting:
        if which == "host":
            one.resolver.lookup("www.test", HOUR, session.on_answer)
        else:
            one.resolver.lookup_service("dns", "test", HOUR, session.on_answer)
    one.until(lambda: all(session.answers for session in waiting))
    one.loop.turn(0)
    assert [1, 1, 1] == [len(session.answers) for session in waiting]
    assert [0, 1, 0] == [session.ended for session in waiting]
    assert 1 == alerts(one.loop)
    assert not one.resolver.lookups
    assert 0 == one.loop.live


def test_one_who_fails_with_a_late_answer_has_no_timer_left(lab: Make) -> None:
    """A lookup times out and its callback raises: nothing is called for it any more."""
    one = lab(silent)
    session = Session(fails=True)
    one.resolver.lookup("www.test", 1000, session.on_answer)
    one.pass_time(1100)
    one.until(lambda: bool(session.ended))
    assert (1, 1) == (len(session.answers), session.ended)
    assert not one.resolver.lookups


class BrokenResolver(resolver.Resolver):
    """One that fails with what it was answered, until it is mended."""

    __slots__ = ()
    is_broken = True

    def life_s(self, ttl: int) -> int:
        """Fail."""
        if self.is_broken:
            raise ValueError("no good")
        return super().life_s(ttl)


@pytest.mark.parametrize("which", ["host", "service"])
def test_a_fault_while_a_reply_is_read_leaves_nobody_waiting(lab: Make, which: str) -> None:
    """Whoever waits for that name hears of a failure; the next lookup succeeds."""
    records = [*WWW, ("_dns._tcp.test", dns.SRV, 60, dns.Srv(0, 1, 53, "www.test"))]
    one = lab(table(records))
    one.resolver.__class__ = BrokenResolver
    waiting = [Session() for _ in range(3)]
    for session in waiting:
        if which == "host":
            one.resolver.lookup("www.test", HOUR, session.on_answer)
        else:
            one.resolver.lookup_service("dns", "test", HOUR, session.on_answer)
    one.until(lambda: all(session.answers or session.ended for session in waiting))
    assert alerts(one.loop) >= 1
    assert not one.resolver.lookups
    assert 0 == one.loop.live
    one.resolver.__class__ = resolver.Resolver
    assert FOUND == hosts(one.answer())
