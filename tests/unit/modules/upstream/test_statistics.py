"""/stream/upstreams: groups and how their servers fare, as NGINX Plus shows them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ngxstream.core import shm
from ngxstream.modules.upstream import statistics
from ngxstream.stream import peer_facts, peer_state
from ngxstream.stream.peer_facts import Books
from tests.support import json_schema
from tests.support.in_process import InProcess, build
from tests.support.operations import call

GROUPS = "/stream/upstreams"
API = "server { listen 127.0.0.1:@api@; api; }"
TEXT = f"""stream {{
    upstream zoned {{
        zone z 64k;
        server 127.0.0.1:1 weight=5 max_conns=9;
        server 127.0.0.1:2 down;
        server 127.0.0.1:3 backup drain;
        server unix:/tmp/"x";
    }}
    upstream plain {{ server 127.0.0.1:1; server 127.0.0.1:4; server 127.0.0.1:1 backup; }}
    server {{ listen 127.0.0.1:@a@; proxy_pass 127.0.0.1:9; }}
    server {{ listen 127.0.0.1:@b@; proxy_pass zoned; }}
    server {{ listen 127.0.0.1:@c@; proxy_pass plain; }}
    {API}
}}"""


def blank(number: int, server: str, **others: Any) -> dict[str, Any]:
    """Return what a server shows that nothing has happened to."""
    health = {"checks": 0, "fails": 0, "unhealthy": 0}
    return {
        "id": number, "server": server, "name": server, "backup": False, "weight": 1, "state": "up",
        "active": 0, "connections": 0, "sent": 0, "received": 0, "fails": 0, "unavail": 0,
        "health_checks": health, "downtime": 0, **others,
    }


class Served(InProcess):
    """Groups whose servers are told to have done something."""

    def book(self, name: str, n: int) -> Any:
        """Return a book of the n-th server of a group, waiting."""
        conf = statistics.peer_view.groups(self.conf)[name]
        shown = list(statistics.view.peers(conf))[n]
        books = self.loop.get(Books)
        book = books.find(self.conf.servers[0], conf, shown.peer, False, False)
        books.wait(book)
        return book

    def state(self, name: str, n: int) -> Any:
        """Return the state of that server."""
        conf = statistics.peer_view.groups(self.conf)[name]
        return list(statistics.view.peers(conf))[n].peer.state

    def peer(self, name: str, n: int) -> Any:
        """Return what is shown of it."""
        self.loop.get(Books).flush()
        shown = call(self, "GET", f"{GROUPS}/{name}")
        assert [] == list(json_schema.faults(shown, statistics.GROUP))
        return shown["peers"][n]


def test_every_group_is_shown() -> None:
    """In a zone or not, and addresses; two servers of one address are one."""
    with Served(TEXT) as served:
        found = call(served, "GET", GROUPS)
        assert [] == [fault for one in found.values()
                      for fault in json_schema.faults(one, statistics.GROUP)]
        assert ["zoned", "plain", "127.0.0.1:9"] == list(found)
        zoned = [
            blank(0, "127.0.0.1:1", weight=5, max_conns=9),
            blank(1, "127.0.0.1:2", state="down"),
            blank(3, 'unix:/tmp/"x"'),
            blank(2, "127.0.0.1:3", state="draining", backup=True),
        ]
        numbers = [one.pop("id") for one in zoned]
        shown = found["zoned"]
        assert sorted(numbers) == sorted(one.pop("id") for one in shown["peers"])
        assert {"peers": zoned, "zombies": 0, "zone": "z"} == shown
        plain = [blank(0, "127.0.0.1:1"), blank(1, "127.0.0.1:4")]
        assert {"peers": plain, "zombies": 0} == found["plain"]
        assert {"peers": [blank(0, "127.0.0.1:9")], "zombies": 0} == found["127.0.0.1:9"]


def test_without_an_api_nothing_is_counted() -> None:
    """Nor shown: the groups know of no facts, and sessions are of the plain kind."""
    built = build(TEXT.replace(API, "").replace("@a@", "1").replace("@b@", "2").replace("@c@", "3"))
    assert built.conf is not None
    assert {} == statistics.peer_view.groups(built.conf)
    assert all(one.facts is None for one in (*built.conf.servers, *built.conf.upstreams))
    assert "handle" == built.conf.servers[0].handler.__name__  # type: ignore[union-attr]
    assert "ngxstream.modules.proxy.module" == built.conf.servers[0].handler.__module__


def test_what_is_shown_may_be_chosen() -> None:
    """Members of all or of one, or the names alone; what there is not is left out."""
    with Served(TEXT) as served:
        assert ["zoned", "plain", "127.0.0.1:9"] == call(served, "GET", GROUPS, fields="")
        found = call(served, "GET", GROUPS, fields="zone,zombies")
        assert {"zombies": 0, "zone": "z"} == found["zoned"]
        assert {"zombies": 0} == found["plain"]
        assert {"zone": "z"} == call(served, "GET", f"{GROUPS}/zoned", fields="zone")
        assert {} == call(served, "GET", f"{GROUPS}/plain", fields="zone")
        assert ["peers"] == list(call(served, "GET", f"{GROUPS}/plain", fields="peers"))


def test_a_group_that_there_is_not_is_not_found() -> None:
    """By its name, and an address by its name without a port neither."""
    with Served(TEXT) as served:
        for name in ("none", "127.0.0.1"):
            for method in ("GET", "DELETE"):
                assert "UpstreamNotFound" == call(served, method, f"{GROUPS}/{name}")
        assert "UpstreamStatic" == call(served, "DELETE", f"{GROUPS}/plain")


@pytest.mark.parametrize("name", ["zoned", "plain"])
def test_the_numbers_are_those_of_the_peer(name: str) -> None:
    """Counters, averages once there are any, and when it was chosen last, in whole seconds."""
    with Served(TEXT) as served:
        book = served.book(name, 1)
        book.begun, book.sent, book.received, book.failed, book.unavail = 7, 6, 5, 4, 3
        book.selected_ms = served.loop.now_ms - 5000
        book.connect_ms.append(10)
        shown = served.peer(name, 1)
        counted = ("connections", "sent", "received", "fails", "unavail", "connect_time")
        assert [7, 6, 5, 4, 3, 10] == [shown[one] for one in counted]
        now_s = int(served.log.clock.now())
        spelled = [statistics.second(now_s - ago) for ago in (6, 5, 4)]
        assert shown["selected"] in spelled
        assert "first_byte_time" not in shown
        book = served.book(name, 1)
        book.first_byte_ms.append(20)
        book.session_ms.append(30)
        shown = served.peer(name, 1)
        assert (20, 30) == (shown["first_byte_time"], shown["response_time"])
        others = call(served, "GET", f"{GROUPS}/{name}")["peers"]
        assert [0, 7] == [one["connections"] for one in others][:2]


def test_a_server_of_two_lines_shows_the_sum() -> None:
    """With the id of the first; it is up while one of them is."""
    with Served(TEXT) as served:
        for n, amount in ((0, 3), (2, 4)):
            book = served.book("plain", n)
            book.begun = book.sent = amount
            book.selected_ms = served.loop.now_ms - amount
            served.state("plain", n).lost_for_ms = amount
        served.state("plain", 0).status |= peer_state.UNHEALTHY
        shown = served.peer("plain", 0)
        assert (0, 7, 7, 7) == tuple(shown[one] for one in ("id", "connections", "sent", "active"))
        assert ("up", 4) == (shown["state"], shown["downtime"])


@pytest.mark.parametrize(("name", "n"), [("zoned", 0), ("plain", 1)])
def test_the_state_is_the_one_that_says_most(name: str, n: int) -> None:
    """down before draining, unhealthy, checking, unavail and up; unavail with how long already."""
    with Served(TEXT) as served:
        state = served.state(name, n)
        for word, bit in (
            ("unavail", 0), ("checking", peer_state.CHECKING), ("unhealthy", peer_state.UNHEALTHY),
        ):
            state.status |= bit
            if not bit:
                state.fail(served.loop.now_ms)
                state.lost_ms = served.loop.now_ms - 1500
                state.lost_for_ms = 100
                shown = served.peer(name, n)
                assert 1600 <= shown["downtime"] < 60_000
                assert shown["downstart"].endswith("Z")
            assert word == served.peer(name, n)["state"]
        state.status &= ~(peer_state.CHECKING | peer_state.UNHEALTHY)
        state.forgive()
        shown = served.peer(name, n)
        assert ("up", False) == (shown["state"], "downstart" in shown)
        assert 1600 <= shown["downtime"]


def test_the_counters_of_a_group_begin_at_0_again() -> None:
    """Of all its servers and of no other group's; what is going on goes on."""
    with Served(TEXT) as served:
        for name in ("zoned", "plain"):
            book = served.book(name, 0)
            book.begun = book.sent = 5
            book.selected_ms = 1
            book.tell(peer_facts.endings.IDLE.reason)
            served.loop.get(Books).flush()
        served.state("zoned", 0).hold(2)
        served.state("zoned", 0).lost_for_ms = 7
        assert 204 == call(served, "DELETE", f"{GROUPS}/zoned")
        shown = served.peer("zoned", 0)
        assert blank(0, "127.0.0.1:1", weight=5, max_conns=9, active=2) == shown
        assert 5 == served.peer("plain", 0)["connections"]


def test_the_memory_may_be_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reset says so, and can be tried again."""

    def busy(*_: Any) -> None:
        raise shm.BusyError

    with Served(TEXT) as served:
        monkeypatch.setattr(peer_facts.GroupFacts, "reset", busy)
        assert "ZoneBusy" == call(served, "DELETE", f"{GROUPS}/zoned")


def test_a_large_group_comes_in_pieces() -> None:
    """None of them of more servers than are looked at at once, and all of them one value."""
    servers = "".join(f"server 127.0.0.1:{n};" for n in range(1, 301))
    with Served(f"stream {{ upstream u {{ zone z 1m; {servers} }} {API} }}") as served:
        conf = statistics.peer_view.groups(served.conf)["u"]
        pieces = list(statistics.group(conf, served.loop, None))
        assert 300 == len(json.loads("".join(pieces))["peers"])
        most = statistics.peer_view.PORTION
        assert [most, most, 300 - 2 * most] == [n for one in pieces if (n := one.count('"id":'))]


def test_names_of_servers_are_escaped() -> None:
    """Whatever a path has in it."""
    with Served(TEXT) as served:
        names = {one["server"] for one in call(served, "GET", f"{GROUPS}/zoned")["peers"]}
        assert 'unix:/tmp/"x"' in names


@pytest.mark.parametrize("word", [-1, (1 << 63) - 1, -(1 << 63), 1 << 53])
def test_times_that_another_process_has_spoiled_are_times(word: int) -> None:
    """A client that cannot read one would have no numbers at all."""
    with Served(TEXT) as served:
        state = served.state("zoned", 0)
        state.status, state.fails = peer_state.FAILED, 5
        state.lost_ms = state.selected_ms = state.lost_for_ms = word
        shown = served.peer("zoned", 0)
        for name in ("downstart", "selected"):
            assert len("1970-01-01T00:00:00") == shown[name].rindex(":") + 3
