"""Checks of a group: when they are made, by whom, and what comes of them. Time is the test's."""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Callable, Iterator

import pytest

from ngxstream.modules.health.schedule import Checkers
from ngxstream.wire import dns
from tests.support import ports
from tests.support.checked import Checked, Server
from tests.support.groups import OWN, Steered
from tests.support.scripted_dns import ScriptedDns, table

Make = Callable[..., Checked]
PATH = "/stream/upstreams/u/servers"


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Give ``checked(workers)``."""
    made: list[Checked] = []

    def make(*args: int, **more: int) -> Checked:
        made.append(Checked(monkeypatch, *args, **more))
        return made[-1]

    yield make
    for one in made:
        with one:
            pass


def block(words: str, *servers: Server | str, more: str = "", timeout: str = "500ms",
          inside: str = "") -> str:
    """Return a stream block with a group of these servers, which is checked."""
    lines = "".join(
        f"server {one if isinstance(one, str) else one.text}; " for one in servers
    )
    return (
        f"{more} upstream u {{ {inside} {lines} }} health_check_timeout {timeout}; "
        f"server {{ listen 127.0.0.1:2; proxy_pass u; "
        + " ".join(f"health_check {one};" for one in words.split(" + ")) + " }"
    )


# -- when -----------------------------------------------------------------------------------------


def test_the_first_check_is_made_at_once(checked: Make) -> None:
    """The second one within the interval, and then one in each."""
    one = checked()
    server = one.server()
    one.serve(block("interval=5s", server))
    one.until(lambda: one.checks(server) == 1)
    for _ in range(52):
        if one.checks(server) == 1:
            one.move(100)
    for n in range(2, 5):
        assert n == one.checks(server)
        one.move(3000)
        assert n == one.checks(server)
        one.move(2200)
    assert server.accepted == one.checks(server)


def test_second_checks_are_spread_over_the_interval(checked: Make) -> None:
    """So that those of many servers do not come together for ever."""
    one = checked()
    servers = [one.server(up=False) for _ in range(60)]
    one.serve(block("interval=6s", *servers))
    one.until(lambda: all(one.checks(server) for server in servers))
    seen = [0]
    for _ in range(5):
        one.move(1000)
        seen.append(sum(one.checks(server) > 1 for server in servers))
    assert all(before < after for before, after in itertools.pairwise(seen))
    one.move(1500)
    assert all(one.checks(server) > 1 for server in servers)


def test_a_check_is_as_late_as_its_jitter(checked: Make) -> None:
    """At most: the time between two is the interval and some more."""
    one = checked()
    server = one.server()
    one.serve(block("interval=1s jitter=3s", server))
    one.until(lambda: one.checks(server) == 1)
    one.move(40_000)
    assert 10 <= one.checks(server) <= 25  # 40 by the interval alone, 16 on average


def test_a_check_under_way_is_not_doubled(checked: Make) -> None:
    """The next one begins an interval after its end, be it later than that."""
    one = checked()
    server = one.server()
    server.silent = []
    one.serve(block("interval=1s match=m", server, more="match m { expect x; }", timeout="10s"))
    one.until(lambda: server.accepted)
    one.move(6000)
    assert 1 == server.accepted
    one.move(5500)
    assert 2 == server.accepted


@pytest.mark.effect("health_check_timeout")
def test_a_check_fails_when_its_time_is_up(checked: Make) -> None:
    """Not sooner."""
    one = checked()
    server = one.server()
    server.silent = []
    one.serve(block("interval=1h match=m", server, more="match m { expect x; }", timeout="3s"))
    one.until(lambda: server.accepted)
    one.move(2500)
    assert ["up"] == one.states()
    one.move(700)
    assert ["unhealthy"] == one.states()
    assert "no answer in time" in one.target.lines[-1][1]


def test_few_are_under_way_at_once(checked: Make) -> None:
    """No more than a part of the connections; the others come later."""
    one = checked(connections=24)
    servers = [one.server() for _ in range(20)]
    for server in servers:
        server.silent = []
    one.serve(block("interval=1s match=m", *servers, more="match m { expect x; }", timeout="1s"))
    most = 0
    for _ in range(60):
        one.move(100)
        most = max(most, one.loop.get(Checkers).under_way)
    assert 6 == most
    assert all(server.accepted for server in servers)


@pytest.mark.parametrize(
    ("bind", "host"),
    [("", "127.0.0.1"), ("proxy_bind 127.0.0.9;", "127.0.0.9"),
     ("proxy_bind 127.0.0.9:77;", "127.0.0.9"), ("proxy_bind [::1];", "127.0.0.1"),
     ("proxy_bind $remote_addr;", "127.0.0.1")],
)
def test_a_check_comes_from_the_address_of_sessions(checked: Make, bind: str, host: str) -> None:
    """If it is the same for all of them; the port is another."""
    one = checked()
    server = one.server()
    server.silent = []
    one.serve(block("interval=1h match=m", server, more=f"{bind} match m {{ expect x; }}"))
    one.until(lambda: server.silent)
    assert host == server.silent[0].getpeername()[0]
    assert 77 != server.silent[0].getpeername()[1]


# -- what comes of it ------------------------------------------------------------------------------


@pytest.mark.effect("health_check")
@pytest.mark.parametrize(
    ("words", "script", "states"),
    [
        ("", "ududd", "up unhealthy up unhealthy unhealthy"),
        ("fails=2", "dduddd", "up unhealthy up up unhealthy unhealthy"),
        ("passes=2", "duudu", "unhealthy unhealthy up unhealthy unhealthy"),
        ("fails=2 passes=3", "dduuudu", "up unhealthy unhealthy unhealthy up up up"),
        ("mandatory", "ud", "up unhealthy"),
        ("mandatory fails=3", "du", "unhealthy up"),
        ("mandatory passes=2", "uduu", "up unhealthy unhealthy up"),
    ],
)
def test_a_server_is_what_its_checks_say(
    checked: Make, words: str, script: str, states: str
) -> None:
    """Up and down, an interval each: the state after each of them."""
    one = checked()
    server = one.server(up=script[0] == "u")
    one.serve(block(f"interval=1s {words}", server))
    assert ["checking" if "mandatory" in words else "up"] == one.states()
    found = []
    for n, how in enumerate(script, 1):
        if server.is_up != (how == "u"):
            if how == "u":
                server.rise()
            else:
                server.fall()
        for _ in range(100):
            if one.checks(server) >= n:
                break
            one.move(50, step=50)
        assert n == one.checks(server)
        found += one.states()
    assert states.split() == found
    report = one.report(server)
    turned = sum(
        after == "unhealthy" != before
        for before, after in zip(["up", *found], found, strict=False)
    )
    assert (len(script), script.count("d"), turned, script[-1] == "u") == report


def test_a_server_that_is_refused_by_its_checks_is_not_chosen(checked: Make) -> None:
    """Nor is it counted as a failure of its own."""
    one = checked()
    good, bad = one.server(), one.server(up=False)
    one.serve(block("interval=1s", good, bad))
    one.until(lambda: one.checks(good) and one.checks(bad))
    assert ["up", "unhealthy"] == one.states()
    assert 0 == one.peers()[bad.text].state.fails
    line = (
        f"peer is unhealthy: connect() failed (111: Connection refused), "
        f'health check "interval=1s" of peer {bad.text} in upstream "u"'
    )
    assert [("warn", line)] == one.target.lines
    bad.rise()
    one.move(1200)
    line = f'peer is healthy, health check "interval=1s" of peer {bad.text} in upstream "u"'
    assert ("notice", line) == one.target.lines[-1]
    one.move(5000)
    assert 2 == len(one.target.lines), "one line for each transition"


def test_all_checks_have_to_be_content(checked: Make) -> None:
    """One that fails is enough; and `mandatory` waits for each that says so."""
    one = checked()
    server, other = one.server(), one.server(up=False)
    one.serve(block(f"interval=1s + interval=1s mandatory port={other.address[1]}", server))
    one.until(lambda: one.checks(server) > 1)
    assert ["unhealthy"] == one.states()
    assert (1, False) == one.report(server)[2:]
    other.rise()
    one.move(1200)
    assert ["up"] == one.states()
    server.fall()
    one.move(1200)
    assert ["unhealthy"] == one.states()


def test_backups_are_checked_and_servers_that_are_down_are_not(checked: Make) -> None:
    """Whoever took those away has a reason."""
    one = checked()
    first, backup, down = one.server(), one.server(up=False), one.server(up=False)
    one.serve(block("interval=1s mandatory", first, f"{backup.text} backup", f"{down.text} down"))
    one.until(lambda: one.checks(first) and one.checks(backup))
    one.move(3000)
    assert 0 == one.checks(down)
    assert 1 == sum(state == "unhealthy" for state in one.states())


def test_who_recovers_begins_slowly(checked: Make) -> None:
    """Not after a start: from a first check it begins with its whole weight."""
    one = checked()
    server = one.server()
    one.serve(block("interval=1s mandatory", f"{server.text} slow_start=10s"))
    one.until(lambda: one.checks(server))
    state = one.peers()[server.text].state
    assert 0 == state.back_ms
    server.fall()
    one.move(1200)
    assert (True, ["unhealthy"]) == (state.lost_ms > 0, one.states())
    server.rise()
    one.move(1200)
    assert 0 <= one.loop.now_ms - state.back_ms < 5000
    assert (0, ["up"]) == (state.lost_ms, one.states())
    assert 0 < state.lost_for_ms < 10_000


def test_too_many_unhealthy_ones_are_all_used(checked: Make) -> None:
    """One alert says so, and one notice that it is over."""
    one = checked()
    servers = [one.server() for _ in range(4)]
    one.serve(block("interval=1s fail_open=50%", *servers))
    one.until(lambda: all(one.checks(server) for server in servers))
    for server in servers[:2]:
        server.fall()
    one.move(1200)
    assert 2 == one.states().count("unhealthy"), "half is not more than half"
    servers[2].fall()
    one.move(1200)
    assert ["up"] * 4 == one.states()
    alert = '3 of 4 servers of upstream "u" are unhealthy: all are used'
    assert [alert] == [text for level, text in one.target.lines if level == "alert"]
    servers[3].fall()
    one.move(1200)
    assert ["up"] * 4 == one.states()
    for server in servers[:2]:
        server.rise()
    one.move(1200)
    assert ["up", "up", "unhealthy", "unhealthy"] == one.states()
    assert 1 == sum(level == "alert" for level, _ in one.target.lines)
    assert any("they are left out again" in text for _, text in one.target.lines)


def test_nobody_is_withdrawn_where_all_are_used(checked: Make) -> None:
    """Not even for a moment, in which its sessions would be ended."""
    one = checked()
    servers = [one.server() for _ in range(2)]
    one.serve(block("interval=1s fail_open=40%", *servers))
    one.until(lambda: all(one.checks(server) for server in servers))
    withdrawals = one.conf.withdrawals
    assert withdrawals is not None
    before = withdrawals[0]
    servers[0].fall()
    one.move(1200)
    assert (["up", "up"], before) == (one.states(), withdrawals[0])
    servers[0].rise()
    one.move(1200)
    assert before == withdrawals[0]


def test_each_server_is_withdrawn_once(checked: Make) -> None:
    """When it becomes unhealthy, not by each check that fails, nor once for each of several."""
    one = checked()
    servers = [one.server() for _ in range(2)]
    one.serve(block("interval=1s mandatory + interval=1s type=tcp", *servers))
    one.until(lambda: all(one.checks(server) for server in servers))
    withdrawals = one.conf.withdrawals
    assert withdrawals is not None
    before = withdrawals[0]
    servers[0].fall()
    one.move(5000)
    assert (["unhealthy", "up"], before + 1) == (one.states(), withdrawals[0])
    servers[0].rise()
    one.move(1200)
    assert before + 1 == withdrawals[0]


# -- by whom --------------------------------------------------------------------------------------


def test_workers_share_the_checks(checked: Make) -> None:
    """Each target is checked by one of them, once in an interval."""
    one = checked(3)
    servers = [one.server() for _ in range(12)]
    one.serve(block("interval=2s", *servers))
    one.until(lambda: all(one.checks(server) for server in servers))
    one.move(3000)
    before = [server.accepted for server in servers]
    one.move(10_000)
    found = [server.accepted - count for server, count in zip(servers, before, strict=True)]
    assert all(4 <= count <= 7 for count in found), found


def test_who_takes_over_checks_soon(checked: Make) -> None:
    """From a worker that was killed in the middle of a check."""
    one = checked(2)
    servers = [one.server() for _ in range(4)]
    one.serve(block("interval=3s match=m", *servers, more="match m { expect x; }", timeout="1h"))
    one.until(lambda: all(one.checks(server) for server in servers))
    one.move(1500)  # each worker has its half
    for server in servers:
        server.silent = []
    one.move(6000)
    assert all(len(server.silent or "") == 1 for server in servers)
    both = one.loops
    (killed,) = (loop for loop in both if loop.get(Checkers).under_way)
    one.loops = [loop for loop in both if loop is not killed]
    one.move(1500)
    assert all(len(server.silent or "") == 1 for server in servers), "its lease is not over"
    one.move(4000)
    assert all(len(server.silent or "") == 2 for server in servers)
    one.loops = both


def test_who_waits_for_a_first_check_has_it_soon(checked: Make) -> None:
    """When the worker that made it was killed: nobody uses the server before."""
    one = checked(2)
    server = one.server()
    server.silent = []
    one.serve(block("interval=1h mandatory match=m", server, more="match m { expect x; }"))
    one.until(lambda: server.accepted)
    both = one.loops
    (killed,) = (loop for loop in both if loop.get(Checkers).under_way)
    one.loops = [loop for loop in both if loop is not killed]
    one.move(5000)
    assert 2 == server.accepted
    assert ["unhealthy"] == one.states()
    one.loops = both


def test_a_worker_that_leaves_gives_up_its_checks(checked: Make) -> None:
    """The other one has them at its next look."""
    one = checked(2)
    servers = [one.server() for _ in range(12)]
    one.serve(block("interval=1s", *servers))
    one.until(lambda: all(one.checks(server) for server in servers))
    one.move(1500)  # each of them has its half
    one.loops[0].exiting = True
    one.move(600)
    counts = [server.accepted for server in servers]
    one.move(1800)
    assert all(map(int.__lt__, counts, [server.accepted for server in servers]))
    one.loops[1].exiting = True
    one.move(600)
    counts = [server.accepted for server in servers]
    one.loops[0].exiting = one.loops[1].exiting = False
    one.move(4000)
    assert counts == [server.accepted for server in servers], "who has left does not come back"


# -- over a reload --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "states"),
    [
        ("", ["up", "unhealthy"]),
        ("mandatory", ["checking", "checking"]),
        ("mandatory persistent", ["up", "unhealthy"]),
    ],
)
def test_a_configuration_begins_with_what_was_found(
    checked: Make, words: str, states: list[str]
) -> None:
    """But for `mandatory`, which has all of them checked again unless `persistent` says not to."""
    one = checked()
    good, bad = one.server(), one.server(up=False)
    text = block(f"interval=1h {words}", good, bad)
    one.serve(text)
    one.until(lambda: one.checks(good) and one.checks(bad))
    one.serve(text)
    assert states == one.states()
    assert [1, 1] == [one.checks(good), one.checks(bad)]
    one.move(1000)
    assert ["up", "unhealthy"] == one.states()


def test_results_hold_while_the_same_is_asked(checked: Make) -> None:
    """How often, and what follows from it, is another matter."""
    one = checked()
    good, bad = one.server(), one.server(up=False)
    one.serve(block("interval=1h", good, bad))
    one.until(lambda: one.checks(good) and one.checks(bad))
    one.serve(block("interval=2h fails=3 mandatory persistent", good, bad))
    assert (["up", "unhealthy"], 1) == (one.states(), one.checks(bad))
    one.serve(block(f"interval=2h mandatory persistent port={good.address[1]}", good, bad))
    assert (["checking", "checking"], 0) == (one.states(), one.checks(bad))


@pytest.mark.parametrize("before", ["", "zone b 64k;"])
def test_results_go_to_another_zone(checked: Make, before: str) -> None:
    """Rows are others then, whatever its size."""
    one = checked()
    good, bad = one.server(), one.server(up=False)
    one.serve(block("interval=1h mandatory persistent", good, bad, inside=before))
    one.until(lambda: one.checks(good) and one.checks(bad))
    one.serve(block("interval=1h mandatory persistent", "127.0.0.1:1", bad, good,
                    inside="zone u 64k;"))
    assert ["checking", "unhealthy", "up"] == one.states()
    assert 1 == one.checks(bad)


def test_a_worker_of_the_configuration_before_checks_no_more(checked: Make) -> None:
    """It may have clients for long; what it had under way counts no more."""
    one = checked(2)
    server = one.server()
    server.silent = []
    text = block("interval=1h mandatory match=m", server, more="match m { expect x; }",
                 timeout="1h")
    leaving, serving = one.loops
    old = Steered(leaving, text)
    old.stream.start_worker(leaving)
    one.now = old
    one.until(lambda: server.accepted)
    new = one.now = Steered(serving, text, old=old)
    new.stream.start_worker(serving)
    for connection in server.silent:
        connection.close()
    for _ in range(5):
        leaving.turn(0)
    assert (["checking"], 0) == (one.states(), one.checks(server))
    one.move(1000)
    assert (0, 2) == (leaving.get(Checkers).under_way, server.accepted)
    server.silent[1].send(b"x")
    one.until(lambda: one.states() == ["up"])


def test_a_check_under_way_is_given_up_for_the_next_configuration(checked: Make) -> None:
    """By the worker that had it, within half a second."""
    one = checked(2)
    server = one.server()
    server.silent = []
    text = block("interval=1h match=m", server, more="match m { expect x; }", timeout="1h")
    leaving, serving = one.loops
    old = one.now = Steered(leaving, text)
    old.stream.start_worker(leaving)
    one.until(lambda: server.accepted)
    new = one.now = Steered(serving, text, old=old)
    new.stream.start_worker(serving)
    one.move(600)
    assert 0 == leaving.get(Checkers).under_way


def test_who_was_not_checked_before_begins_anew(checked: Make) -> None:
    """Another check, or a server that is new."""
    one = checked()
    server, new = one.server(), one.server()
    one.serve(block("interval=1h", server))
    one.until(lambda: one.checks(server))
    one.serve(block("interval=1h mandatory", server, new))
    assert ["checking", "checking"] == one.states()
    one.until(lambda: one.states() == ["up", "up"])


def test_without_checks_nobody_is_barred(checked: Make) -> None:
    """A configuration that has none any more."""
    one = checked()
    bad = one.server(up=False)
    one.serve(block("interval=1h", bad, inside="zone u 64k;"))
    one.until(lambda: one.states() == ["unhealthy"])
    one.serve(f"upstream u {{ zone u 64k; server {bad.text}; }}")
    assert ["up"] == one.states()


def test_a_refused_configuration_changes_nothing(checked: Make) -> None:
    """It had its zones made, and nobody served it."""
    one = checked()
    server = one.server()
    text = block("interval=1s mandatory", server)
    now = one.serve(text)
    one.until(lambda: one.checks(server))
    Steered(one.loop, text, old=now)
    now.stream.resume()
    assert ["up"] == one.states()
    one.move(3500)
    assert 4 <= one.checks(server) <= 7
    one.serve(text)
    assert ["checking"] == one.states()


# -- servers that come and go ---------------------------------------------------------------------


def test_an_added_server_is_checked_at_once(checked: Make) -> None:
    """It gets no sessions before where that is mandatory, and none afterwards where it fails."""
    one = checked()
    first, bad = one.server(), one.server(up=False)
    now = one.serve(block("interval=1h mandatory", first, inside="zone u 64k;"))
    one.until(lambda: one.states() == ["up"])
    status, _ = now.ask("POST", PATH, {"server": bad.text})
    assert 201 == status
    assert ["up", "checking"] == one.states()
    one.move(1000)
    assert ["up", "unhealthy"] == one.states()


def test_a_removed_server_is_checked_no_more(checked: Make) -> None:
    """One that comes later at its place, or at its address, begins anew."""
    one = checked()
    first, gone = one.server(), one.server(up=False)
    now = one.serve(block("interval=1s", first, gone, inside="zone u 64k;"))
    one.until(lambda: one.states() == ["up", "unhealthy"])
    one.move(3000)
    assert one.checks(gone) > 2
    number = next(line["id"] for line in now.ask("GET", PATH)[1] if line["server"] == gone.text)
    assert 200 == now.ask("DELETE", f"{PATH}/{number}")[0]
    one.move(1000)
    gone.rise()
    one.move(3000)
    assert 0 == gone.accepted
    now.ask("POST", PATH, {"server": gone.text})
    one.move(800)
    assert one.checks(gone) in (1, 2), "they are counted anew"
    assert ["up", "up"] == one.states()


@pytest.mark.parametrize(("word", "state"), [("", "up"), ("mandatory", "checking")])
def test_a_server_that_is_set_down_is_left_alone(checked: Make, word: str, state: str) -> None:
    """When it is back it begins anew."""
    one = checked()
    server = one.server(up=False)
    now = one.serve(block(f"interval=1s {word}", server, inside="zone u 64k;"))
    one.until(lambda: one.states() == ["unhealthy"])
    number = now.ask("GET", PATH)[1][0]["id"]
    assert 200 == now.ask("PATCH", f"{PATH}/{number}", {"down": True})[0]
    one.move(1000)
    count = one.checks(server)
    one.move(5000)
    assert count == one.checks(server)
    server.silent = []
    server.rise()
    assert 200 == now.ask("PATCH", f"{PATH}/{number}", {"down": False})[0]
    one.move(600)
    assert ["up"] == one.states()
    assert server.accepted
    lines = [text for _, text in one.target.lines if "healthy" in text]
    assert 1 + (state == "checking") == len(lines), lines


def test_another_address_of_a_server_begins_anew(checked: Make) -> None:
    """Its row is the same."""
    one = checked()
    bad, good = one.server(up=False), one.server()
    now = one.serve(block("interval=1h mandatory", bad, inside="zone u 64k;"))
    one.until(lambda: one.states() == ["unhealthy"])
    number = now.ask("GET", PATH)[1][0]["id"]
    assert 200 == now.ask("PATCH", f"{PATH}/{number}", {"server": good.text})[0]
    assert ["checking"] == one.states()
    one.move(1000)
    assert (["up"], 1) == (one.states(), one.checks(good))


@pytest.mark.parametrize("method", ["DELETE", "PATCH"])
def test_a_check_under_way_ends_with_its_server(checked: Make, method: str) -> None:
    """One that is removed, or has another address: nobody is given its result."""
    one = checked()
    gone, good = one.server(), one.server()
    gone.silent = []
    now = one.serve(block("interval=1h match=m", gone, more="match m { expect x; }",
                          inside="zone u 64k;", timeout="1h"))
    one.until(lambda: gone.accepted)
    number = now.ask("GET", PATH)[1][0]["id"]
    body = {"server": good.text} if method == "PATCH" else None
    assert 200 == now.ask(method, f"{PATH}/{number}", body)[0]
    good.silent = []
    one.move(600)
    assert len(good.silent) == one.loop.get(Checkers).under_way
    one.move(1000)
    assert not one.target.lines


def test_a_list_that_is_replaced_is_checked(checked: Make) -> None:
    """In one transaction: who stays keeps what was found."""
    one = checked()
    stays, goes, comes = one.server(), one.server(), one.server(up=False)
    now = one.serve(block("interval=1h", stays, goes, inside="zone u 64k;"))
    one.until(lambda: one.checks(stays) and one.checks(goes))
    status, _ = now.ask("PUT", "/upstreams/u/servers",
                        [{"server": stays.text}, {"server": comes.text}], OWN)
    assert 200 == status
    one.move(1000)
    assert ["up", "unhealthy"] == one.states()
    assert [1, 1] == [one.checks(stays), one.checks(comes)]


def test_addresses_of_a_name_are_checked_one_by_one(checked: Make) -> None:
    """As they come and go; one that is new gets no sessions before its first check."""
    one = checked()
    dns_server = ScriptedDns()
    one.helpers.append(dns_server)
    port = ports.free_tcp_port()
    bad = one.server(host="127.0.0.2", port=port, up=False)
    good, new = (one.server(host=host, port=port) for host in ("127.0.0.1", "127.0.0.3"))
    dns_server.script = table([("a.test", dns.A, 5, good.address[0]),
                               ("a.test", dns.A, 5, bad.address[0])])
    one.serve(block(
        "interval=1s mandatory", f"a.test:{port} resolve",
        more=f"resolver {dns_server.text} ipv6=off;", inside="zone u 64k;",
    ))
    one.until(lambda: sorted(one.states()) == ["unhealthy", "up"])
    dns_server.script = table([("a.test", dns.A, 5, bad.address[0]),
                               ("a.test", dns.A, 5, new.address[0])])
    new.silent = []
    seen = set()
    for _ in range(200):
        one.move(100)
        states = dict(zip(one.peers(), one.states(), strict=True))
        seen.add(states.get(new.text))
        if seen >= {"checking", "up"} and good.text not in states:
            break
    assert {None, "checking", "up"} == seen
    assert "unhealthy" == states[bad.text]
    one.move(600)
    count = good.accepted
    one.move(3000)
    assert count == good.accepted, "who is gone is not checked"


def test_checks_leave_nothing(checked: Make) -> None:
    """No memory, which nobody looks for: workers do not run the cyclic collector.

    NGXSTREAM_CHECKS says how many are made.
    """
    one = checked()
    servers = [one.server(), one.server(), one.server(up=False)]
    one.serve(block("interval=10ms + interval=10ms match=m", *servers,
                    more="match m { expect x; }"))
    count = int(os.environ.get("NGXSTREAM_CHECKS", "3000"))
    before: list[int] = []
    gc.collect()
    gc.disable()
    try:
        for number in (500, count):
            while sum(one.checks(server) for server in servers) < number:
                one.move(20, step=20)
            one.target.lines.clear()
            before.append(len(gc.get_objects()))
    finally:
        gc.enable()
    assert before[1] - before[0] < 500
