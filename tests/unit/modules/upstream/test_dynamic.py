"""Groups that change: names that come and go, what each worker makes of the lines, damage."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ngxstream.core import errors
from ngxstream.event.loop import Loop
from ngxstream.modules.upstream import dynamic, hash, records, roster, view  # noqa: A004
from ngxstream.modules.upstream.roster import Line
from ngxstream.wire import dns
from tests.support.balancing import Clock, is_down, session
from tests.support.engine import run_until
from tests.support.groups import Steered
from tests.support.moving_clock import MovingClock
from tests.support.scripted_dns import Record, ScriptedDns, table

PATH = "/stream/upstreams/u/servers"
Make = Callable[..., Steered]
EMPTY = "upstream u { zone u 64k; }"


class Named:
    """A group that may have names, its DNS server, a worker."""

    def __init__(self, steered: Make, loop: Loop, clock: MovingClock, dns_server: ScriptedDns,
                 lines: str = "", method: str = "") -> None:
        self.loop, self.clock, self.dns = loop, clock, dns_server
        self.text = (
            f"resolver {dns_server.text} ipv6=off; upstream u {{ {method} zone u 64k; {lines} }}"
        )
        self.steered = steered
        self.one = steered(self.text)
        self.one.start()

    def know(self, *found: Record) -> None:
        """Have the DNS server answer from these records."""
        self.dns.script = table(found)

    def until(self, *names: str) -> None:
        """Serve and turn until these are the servers."""

        def step() -> bool:
            self.dns.step()
            return sorted(names) == sorted(self.one.servers())

        run_until(self.loop, step)

    def add(self, **body: Any) -> int:
        """Add a server; return its id."""
        status, found = self.one.ask("POST", PATH, body)
        assert 201 == status, found
        number: int = found["id"]
        return number

    def shown(self) -> list[dict[str, Any]]:
        """Return the servers as they are listed."""
        found: list[dict[str, Any]] = self.one.ask("GET", PATH)[1]
        return found

    def reload(self) -> None:
        """Go on with the same configuration, read again."""
        old, self.one = self.one, self.steered(self.text, old=self.one)
        old.stream.stop_worker(self.loop)
        self.one.start()


def a(host: str, name: str = "a.test", ttl: int = 60) -> Record:
    """Make an A record."""
    return (name, dns.A, ttl, host)


@pytest.fixture
def named(steered: Make, loop: Loop, clock: MovingClock) -> Iterator[Callable[..., Named]]:
    """Give ``named(lines)``."""
    server = ScriptedDns()
    yield lambda *args, **more: Named(steered, loop, clock, server, *args, **more)
    loop.turn(0)
    server.close()


def test_a_name_that_is_added_has_the_addresses_of_its_answers(
    named: Callable[..., Named]
) -> None:
    """They have it as their parent, follow the DNS, and go with it."""
    group = named()
    group.know(a("127.0.0.1"), a("127.0.0.2"))
    number = group.add(server="a.test:80", weight=3)
    group.until("127.0.0.1:80", "127.0.0.2:80")
    parent, first, second = group.shown()
    assert (number, "a.test:80") == (parent["id"], parent["server"])
    assert "parent" not in parent
    for one in (first, second):
        assert (str(number), "a.test:80", 3) == (one["parent"], one["host"], one["weight"])
    assert 3 == len({one["id"] for one in (parent, first, second)})
    group.know(a("127.0.0.2"), a("127.0.0.3"))
    group.clock.move(group.loop, 70_000)
    group.until("127.0.0.2:80", "127.0.0.3:80")
    found = {one["server"]: one["id"] for one in group.shown()}
    assert second["id"] == found["127.0.0.2:80"]
    assert (200, []) == group.one.ask("DELETE", f"{PATH}/{number}")
    assert [] == group.one.servers()
    assert number != group.add(server="127.0.0.9:1")


def test_one_address_of_a_name_is_changed_but_not_removed(named: Callable[..., Named]) -> None:
    """What it is stays what the DNS says; what it was told outlives the next answer."""
    group = named("server a.test:80 resolve;")
    group.know(a("127.0.0.1"), a("127.0.0.2"))
    group.until("127.0.0.1:80", "127.0.0.2:80")
    path = f"{PATH}/{group.shown()[1]['id']}"
    ask = group.one.ask
    assert (400, "UpstreamServerImmutable") == ask("DELETE", path)
    assert (400, "UpstreamServerImmutable") == ask("PATCH", path, {"server": "127.0.0.1:81"})
    body = {"down": True, "weight": 9, "server": "127.0.0.1:80"}
    status, found = ask("PATCH", path, body)
    assert (200, True, 9) == (status, found["down"], found["weight"])
    group.know(a("127.0.0.1"), a("127.0.0.3"))
    group.clock.move(group.loop, 70_000)
    group.until("127.0.0.1:80", "127.0.0.3:80")
    assert [(9, True), (1, False)] == [
        (peer.weight, is_down(peer)) for peer in group.one.group().tier.peers
    ]
    assert 200 == ask("PATCH", path, {"down": False})[0]
    assert not is_down(group.one.group().tier.peers[0])


def test_weights_of_a_service_are_those_of_its_records(named: Callable[..., Named]) -> None:
    """An address of it has no other; its port is the record's."""
    group = named()
    group.know(
        ("_x._tcp.a.test", dns.SRV, 60, dns.Srv(1, 5, 81, "b.test")),
        ("_x._tcp.a.test", dns.SRV, 60, dns.Srv(2, 7, 82, "c.test")),
        a("127.0.0.1", "b.test"), a("127.0.0.2", "c.test"),
    )
    number = group.add(server="a.test", service="_x._tcp")
    group.until("127.0.0.1:81")
    assert ["127.0.0.2:82"] == group.one.backups()
    parent, first, second = group.shown()
    assert ("_x._tcp", number) == (parent["service"], parent["id"])
    assert [(5, False), (7, True)] == [(one["weight"], one["backup"]) for one in (first, second)]
    path = f"{PATH}/{first['id']}"
    assert (400, "UpstreamServerWeightImmutable") == group.one.ask("PATCH", path, {"weight": 6})
    assert 200 == group.one.ask("PATCH", path, {"weight": 5, "drain": True})[0]
    assert 5 == group.one.group().tier.peers[0].weight


def test_a_session_waits_for_the_first_answer_of_a_name_that_was_added(
    named: Callable[..., Named]
) -> None:
    """As after a start."""
    group = named()
    balancer = group.one.group()
    resumed: list[int] = []
    assert balancer.wait(group.loop, lambda: resumed.append(1)) is None
    group.know(a("127.0.0.1"))
    group.add(server="a.test:80")
    assert balancer.wait(group.loop, lambda: resumed.append(2)) is not None
    group.until("127.0.0.1:80")
    run_until(group.loop, lambda: bool(resumed))
    assert [2] == resumed


def test_a_name_that_was_removed_and_added_again_asks_again(named: Callable[..., Named]) -> None:
    """It does not begin with what it was long ago, not even one of the configuration."""
    group = named("server a.test:80 resolve;")
    group.know(a("127.0.0.1", ttl=0))
    group.until("127.0.0.1:80")
    group.know(a("127.0.0.2", ttl=0))
    for _ in range(3):
        assert 200 == group.one.ask("DELETE", f"{PATH}/{group.shown()[0]['id']}")[0]
        group.add(server="a.test:80")
        assert [] == group.one.servers()
        group.until("127.0.0.2:80")
    assert 200 == group.one.ask("DELETE", f"{PATH}/{group.shown()[0]['id']}")[0]
    group.reload()
    group.until("127.0.0.2:80")


def test_a_reload_begins_with_what_the_configuration_says(named: Callable[..., Named]) -> None:
    """Changes are gone without `state`; who is in both keeps his id."""
    group = named("server 127.0.0.1:1; server 127.0.0.1:2;")
    group.add(server="127.0.0.1:3")
    group.one.ask("DELETE", f"{PATH}/0")
    old = group.one
    group.reload()
    assert [(0, "127.0.0.1:1"), (1, "127.0.0.1:2")] == [
        (one["id"], one["server"]) for one in group.shown()
    ]
    assert ["127.0.0.1:2", "127.0.0.1:3"] == old.servers()  # who is leaving goes on with his own


def test_lines_of_one_name_with_several_addresses(steered: Make) -> None:
    """A name that was resolved when the configuration was read is as many servers."""
    one = steered("upstream u { zone z 64k; server localhost:1 weight=4; server 127.0.0.2:2; }")
    found = one.ask("GET", PATH)[1]
    assert ("127.0.0.1:1", 4) == (found[0]["server"], found[0]["weight"])
    assert "127.0.0.2:2" == found[-1]["server"]
    assert one.servers() == [server["server"] for server in found]
    assert "localhost:1" == one.group().tier.peers[0].server
    one.ask("DELETE", f"{PATH}/{found[0]['id']}")
    assert one.servers() == [server["server"] for server in found[1:]]


def test_a_worker_without_traffic_takes_notice_within_a_second(
    steered: Make, loop: Loop, clock: MovingClock
) -> None:
    """Without a session and without a request."""
    one = steered(EMPTY)
    one.start()
    group = one.group()
    for name in ("127.0.0.1:1", "127.0.0.1:2"):
        with group.table.zone.lock:
            group.roster.put([Line(5, name, name).encode()])
        clock.move(loop, dynamic.LOOK_MS)
        run_until(loop, lambda name=name: [name] == [one.name for one in group.tier.peers])


def test_peers_of_lines_that_have_not_changed_stay(steered: Make) -> None:
    """With what this worker alone knows of them."""
    one = steered("upstream u { zone z 64k; server 127.0.0.1:1; server 127.0.0.1:2; }")
    first, second = one.group().tier.peers
    one.ask("PATCH", f"{PATH}/1", {"weight": 2})
    after = one.group().tier.peers
    assert first is after[0]
    assert second is not after[1]


def test_points_are_laid_out_anew_for_what_changed_alone(
    steered: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change of one server of a ring costs that server's points; another selection, nothing."""
    one = steered(
        "upstream u { zone z 64k; hash k consistent; server 127.0.0.1:1; server 127.0.0.1:2; }"
    )
    asked: list[tuple[str, int]] = []
    points = hash.hashing.ketama_points

    def count(server: str, weight: int) -> Any:
        asked.append((server, weight))
        return points(server, weight)

    monkeypatch.setattr(hash.hashing, "ketama_points", count)
    one.ask("PATCH", f"{PATH}/1", {"weight": 2})
    one.ask("PATCH", f"{PATH}/0", {"down": True})
    one.servers()
    assert [("127.0.0.1:2", 2)] == asked


# -- what other processes may have written -----------------------------------------------------


@given(st.lists(st.binary(max_size=60) | st.builds(
    Line, st.integers(0, 300), st.text(max_size=20), st.text(max_size=20), parent=st.integers(-1, 9)
).map(Line.encode), max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_lines_are_no_reason_to_fail(
    steered: Make, items: list[bytes], rnd: random.Random
) -> None:
    """What makes no sense is left out; the others are served."""
    one = steered("upstream u { zone z 64k; }")
    group = one.group()
    good = Line(3, "127.0.0.1:3", "127.0.0.1:3").encode()
    items.insert(rnd.randint(0, len(items)), good)
    with group.table.zone.lock:
        group.roster.put(items)
    assert all(isinstance(name, str) for name in one.servers())
    list(view.peers(one.conf()))
    one.ask("GET", PATH)


@given(st.binary(max_size=200), st.integers(-(1 << 63), (1 << 63) - 1))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_memory_is_no_reason_to_fail(steered: Make, junk: bytes, size: int) -> None:
    """A size that cannot be, bytes that are none of ours: there are no servers."""
    one = steered("upstream u { zone z 64k; server 127.0.0.1:1; }")
    cells = one.group().roster.cells
    one.group().roster.put([junk])
    for half in (0, 1):
        cells[records.SIZES + half] = size
    cells[records.VERSION] += 1
    assert [] == [name for name in one.servers() if name != "127.0.0.1:1"]


def test_a_session_of_a_removed_server_counts_on_in_another_process(steered: Make) -> None:
    """It is a zombie still; an address that never was there is nobody's."""
    one = steered("upstream u { zone z 64k; server 127.0.0.1:1; server 127.0.0.1:2; }")
    assert 200 == one.ask("DELETE", f"{PATH}/1")[0]
    balancer = one.group()
    found = balancer.resume(session(Clock()), "127.0.0.1:2")
    assert found is not None
    selection, peer = found
    assert ("127.0.0.1:2", 1) == (peer.name, view.zombies(one.conf()))
    selection.free(peer, False)
    assert 0 == view.zombies(one.conf())
    for name in ("127.0.0.1:3", "a.test", "junk"):
        assert balancer.resume(session(Clock()), name) is None


def test_a_row_that_the_zone_has_not_is_no_server(steered: Make) -> None:
    """Another process may write any number."""
    one = steered(EMPTY)
    group = one.group()
    for number in (group.roster.capacity, 1 << 40):
        with group.table.zone.lock:
            group.roster.put([Line(number, "127.0.0.1:3", "127.0.0.1:3").encode()])
        assert [] == one.servers()


def test_what_was_said_of_an_address_holds_for_no_other(named: Callable[..., Named]) -> None:
    """Where its row is another's by now, or its line another name's."""
    group = named("server a.test:80 resolve;")
    group.know(a("127.0.0.1"))
    group.until("127.0.0.1:80")
    balancer = group.one.group()
    (parent,) = balancer.specs
    row = group.shown()[1]["id"]
    good = Line(row, "127.0.0.1:80", "127.0.0.1:80", 9, parent=parent.id)
    for line, weight in (
        (good, 9), (good._replace(address="127.0.0.2:80"), 1), (good._replace(parent=99), 1),
    ):
        assert weight == _with(balancer, line)


def _with(balancer: dynamic.Group, line: Line) -> int:
    with balancer.table.zone.lock:
        lines = [one.data for one in balancer.made.values()]
        balancer.roster.put([*lines, line.encode()])
    balancer.catch_up()
    (peer,) = balancer.tier.peers
    return peer.weight


def test_a_record_that_has_become_another_s_reads_as_nothing(named: Callable[..., Named]) -> None:
    """A worker that has not taken notice yet sends nobody to another name's servers."""
    group = named()
    group.know(a("127.0.0.1"), a("127.0.0.2", "b.test"))
    number = group.add(server="a.test:80")
    group.until("127.0.0.1:80")
    (old,) = group.one.group().names
    group.one.ask("DELETE", f"{PATH}/{number}")
    assert [] == old.read()
    group.add(server="b.test:80")
    group.until("127.0.0.2:80")
    assert old.record is group.one.group().names[0].record
    assert [] == old.read()


def test_a_line_survives_its_bytes() -> None:
    """All that can be said of a server."""
    line = Line(7, "a.test:1", "", 2, 3, 4, 5, 6, True, True, True, "s", -1, 1)
    assert line == roster.decode(line.encode())


def test_the_empty_group_says_that_there_are_no_live_upstreams(steered: Make) -> None:
    """To every session."""
    one = steered(EMPTY)
    balancer = one.conf().balancer
    assert balancer is not None
    with pytest.raises(errors.NoLivePeers):
        balancer.select(session(Clock())).get()


def test_peers_that_a_change_takes_away_are_dropped(steered: Make) -> None:
    """Those of its sessions: removed, set down, with another address; draining they are not."""
    one = steered("upstream u { zone u 64k; server 127.0.0.1:1; server 127.0.0.1:2; }")
    one.start()
    first, second = (f"{PATH}/{line['id']}" for line in one.ask("GET", PATH)[1])

    def dropped(method: str, path: str, body: Any = None) -> list[bool]:
        peers = one.group().tier.peers
        assert 200 == one.ask(method, path, body)[0]
        return [peer.state.is_dropped for peer in peers]

    assert [False, False] == dropped("PATCH", first, {"drain": True})
    assert [False, False] == dropped("PATCH", first, {"drain": False, "weight": 5})
    assert [True, False] == dropped("PATCH", first, {"down": True})
    assert [False, False] == dropped("PATCH", first, {"down": True, "weight": 6})
    assert [False, False] == dropped("PATCH", first, {"down": False})
    assert [False, True] == dropped("PATCH", second, {"server": "127.0.0.1:3"})
    assert [True, False] == dropped("DELETE", first)


def test_a_server_that_comes_back_as_it_was_is_not_dropped(steered: Make) -> None:
    """Removed and added between two looks of a worker: its line and its row are the same."""
    one = steered("upstream u { zone u 64k; server 127.0.0.1:1; server 127.0.0.1:2; }")
    one.start()
    other = copy.copy(one.group())  # another worker's, which looks later
    (number, *_) = [line["id"] for line in one.ask("GET", PATH)[1]]
    peers = other.tier.peers
    assert 200 == one.ask("DELETE", f"{PATH}/{number}")[0]
    assert 201 == one.ask("POST", PATH, {"server": "127.0.0.1:1"})[0]
    assert peers[0].state.is_dropped
    other.catch_up()
    assert [False, False] == [peer.state.is_dropped for peer in other.tier.peers]


def test_addresses_of_a_name_are_dropped_with_it(named: Callable[..., Named]) -> None:
    """Those that the DNS has no more, and all when the name is set down or removed."""
    group = named("server a.test:80 resolve;")
    group.know(a("127.0.0.1"), a("127.0.0.2"))
    group.until("127.0.0.1:80", "127.0.0.2:80")

    def now() -> dict[str, Any]:
        return {peer.name: peer.state for peer in group.one.group().tier.peers}

    before = now()
    group.know(a("127.0.0.2"), a("127.0.0.3"))
    group.clock.move(group.loop, 70_000)
    group.until("127.0.0.2:80", "127.0.0.3:80")
    found = {name: state.is_dropped for name, state in before.items()}
    assert {"127.0.0.1:80": True, "127.0.0.2:80": False} == found
    before = now()
    parent, own, _ = group.shown()
    assert 200 == group.one.ask("PATCH", f"{PATH}/{own['id']}", {"down": False, "weight": 2})[0]
    assert not any(state.is_dropped for state in before.values())
    assert 200 == group.one.ask("PATCH", f"{PATH}/{parent['id']}", {"down": True})[0]
    expected = {name: name != own["server"] for name in before}
    assert expected == {name: state.is_dropped for name, state in before.items()}
    before = now()
    assert 200 == group.one.ask("DELETE", f"{PATH}/{parent['id']}")[0]
    assert all(state.is_dropped for state in before.values())
