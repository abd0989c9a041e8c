"""What agents have said, and what becomes of their servers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.modules.health import agent
from ngxstream.modules.health.agent import Effect
from ngxstream.stream import explaining, health, peer_state
from ngxstream.wire import agent as wire_agent
from tests.support.agents import Agent
from tests.support.balancing import Clock, session
from tests.support.checked import Checked, Server

NOW = 1_000_000
DRAIN, MAINT, LIMITED = (
    peer_state.AGENT_DRAIN, peer_state.AGENT_MAINT, peer_state.AGENT_LIMITED
)


def row(*lines: bytes) -> memoryview[int]:
    """Return the cells of a row after an agent has said this."""
    cells = memoryview(bytearray(8 * agent.CELLS)).cast("q")
    agent.begin(cells)
    for line in lines:
        agent.hear(cells, wire_agent.parse(line), NOW)
    return cells


# -- rows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "effect"),
    [
        ([b""], agent.NONE),
        ([b"up ready 100%"], agent.NONE),
        ([b"75%"], Effect(0, 75)),
        ([b"weight:5"], Effect(0, -5)),
        ([b"0%"], Effect(DRAIN)),
        ([b"weight:0"], Effect(DRAIN)),
        ([b"drain"], Effect(DRAIN)),
        ([b"drain 50%"], Effect(DRAIN, 50)),
        ([b"maint"], Effect(MAINT)),
        ([b"maint", b"drain"], Effect(DRAIN)),
        ([b"maint", b"up"], Effect(MAINT)),
        ([b"maint", b"ready"], agent.NONE),
        ([b"maxconn:7"], Effect(LIMITED, 100, 7)),
        ([b"maxconn:7", b"maxconn:0"], agent.NONE),
        ([b"50% maxconn:7 drain", b"up"], Effect(DRAIN | LIMITED, 50, 7)),
    ],
)
def test_what_is_said_holds_until_it_is_taken_back(lines: list[bytes], effect: Effect) -> None:
    """Each word about its own thing."""
    assert effect == agent.effect([row(*lines)], 10)


@pytest.mark.parametrize(
    ("lines", "state"),
    [([b"down"], True), ([b"fail"], True), ([b"stopped"], True), ([b"down", b"up"], False),
     ([b"down", b"ready"], True), ([b"up", b"drain"], False)],
)
def test_down_is_what_a_failed_check_is(lines: list[bytes], state: bool) -> None:
    """Only `up` takes it back."""
    assert state == (row(*lines)[health.STATE] == health.UNHEALTHY)


@pytest.mark.parametrize(
    ("lines", "share"),
    [([b"50%", b"30%"], 30), ([b"30%", b"50%"], 30), ([b"weight:2", b"30%"], -2),
     ([b"weight:4", b"30%"], 30), ([b"200%", b"150%"], 150), ([b"200%", b""], 100)],
)
def test_of_two_agents_the_lesser_counts(lines: list[bytes], share: int) -> None:
    """Of their weights, which are of a server of 10; likewise of their limits."""
    assert share == agent.effect([row(line) for line in lines], 10).share
    limits = [row(b"maxconn:9"), row(b""), row(b"maxconn:8")]
    assert Effect(LIMITED, 100, 8) == agent.effect(limits, 10)


def test_only_what_changes_is_news() -> None:
    """A weight alone is no change of state."""
    cells = row(b"up ready 100%")
    hear = [agent.hear(cells, wire_agent.parse(line), NOW) for line in (
        b"up ready 100%", b"50%", b"50% down #disk\nfull", b"down #other", b"up drain maxconn:3",
    )]
    assert [
        ("", False, False), ("agent says 50%", False, False),
        (r'agent says down "disk\nfull"', True, True), ("", False, False),
        ("agent says up, drain, maxconn:3", False, True),
    ] == hear


def test_what_is_not_understood_is_told_once() -> None:
    """And so is that it is not reached, and that it is again."""
    cells = row(b"up")
    odd = wire_agent.parse(b"what\x1b[1m")
    fine = wire_agent.parse(b"up")
    assert r'agent says "what\x1b[1m", which is not understood' == agent.hear(cells, odd, 1).words
    assert "" == agent.hear(cells, odd, 1).words
    assert [True, False] == [agent.miss(cells), agent.miss(cells)]
    assert "agent is reached again" == agent.hear(cells, fine, 1).words
    assert (6, 2) == (cells[health.CHECKS], cells[health.FAILED])


def test_what_is_shown() -> None:
    """All that it has said, escaped."""
    found = agent.spelled(row(b"down maint 30% maxconn:5 #a\x1b\xff"), "agent=9", NOW + 70)
    assert {
        "check": "agent=9", "last": "answered", "answered_ms_ago": 70, "status": "down",
        "admin": "maint", "weight": "30%", "max_conns": 5, "text": r"a\x1b\xff", "checks": 1,
        "missed": 0,
    } == found
    assert (None, None, "ready", "100%") == tuple(
        agent.spelled(row(), "x", NOW)[name] for name in ("last", "status", "admin", "weight")
    )
    assert 'is unhealthy: its agent says fail "x"' == agent.blame(row(b"fail#x"))
    assert "" == agent.blame(row(b"up#x"))
    cells = row()
    agent.hear(cells, wire_agent.Said("down", text=b"t" * 500), NOW)
    assert b"t" * 80 == agent.text_of(cells)


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=agent.CELLS,
                max_size=agent.CELLS))
def test_what_others_wrote_is_within_bounds(junk: list[int]) -> None:
    """Rows are in memory that another user's worker may have spoiled."""
    cells = row()
    for n, value in enumerate(junk):
        cells[n] = value
    bits, share, most = agent.effect([cells], 3)
    assert not bits & ~(DRAIN | MAINT | LIMITED)
    assert -wire_agent.MOST_WEIGHT <= share <= wire_agent.MOST_PERCENT
    assert 0 <= most <= wire_agent.MOST_CONNS
    assert "admin" in agent.spelled(cells, "x", NOW)
    assert isinstance(agent.blame(cells), str)


# -- in a group --------------------------------------------------------------------------------


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Checked]:
    """Give two workers."""
    with Checked(monkeypatch, 2) as made:
        yield made


def serve(
    one: Checked, *lines: str, agents: Agent, words: str = "", inside: str = "zone u 64k;",
    more: str = ""
) -> None:
    """Serve a group whose servers have agents."""
    servers = "".join(f"server {line}; " for line in lines)
    one.serve(
        f"{more} upstream u {{ {inside} {servers} }} health_check_timeout 500ms; server {{ "
        f"listen 127.0.0.1:2; proxy_pass u; {words} health_check interval=1s "
        f"agent={agents.port}; }}"
    )


def pair(one: Checked) -> tuple[Server, Server, Agent]:
    """Return two servers on hosts of their own, and an agent on each of these."""
    first, second = one.server(host="127.0.0.2"), one.server(host="127.0.0.3")
    agents = Agent("127.0.0.2", "127.0.0.3")
    one.helpers.append(agents)
    return first, second, agents


def says(one: Checked, agents: Agent, host: str, line: bytes) -> None:
    """Have an agent say something, and wait until it was heard."""
    agents.lines[host] = line
    before = agents.asked[host]
    for _ in range(60):
        one.move(100)
        if agents.asked[host] >= before + 2:
            return
    raise AssertionError("it is not asked")


def chosen(one: Checked, count: int) -> list[str]:
    """Return whom so many sessions go to, which end at once, by host."""
    balancer: Any = one.conf.balancer
    found = []
    for _ in range(count):
        selection = balancer.select(session(Clock(one.loop.now_ms)))
        peer = selection.get()
        selection.free(peer, False)
        found.append(peer.name.partition(":")[0])
    return found


@pytest.mark.effect("health_check")
def test_a_weight_is_a_part_of_the_configured_one(checked: Checked) -> None:
    """Also where it is 1: at the next choice of every worker."""
    first, second, agents = pair(checked)
    serve(checked, first.text, second.text, agents=agents)
    says(checked, agents, "127.0.0.2", b"25%\n")
    assert 20 == chosen(checked, 100).count("127.0.0.2")
    says(checked, agents, "127.0.0.2", b"weight:3\n")
    assert 75 == chosen(checked, 100).count("127.0.0.2")
    says(checked, agents, "127.0.0.2", b"0%\n")
    assert 0 == chosen(checked, 10).count("127.0.0.2")
    says(checked, agents, "127.0.0.2", b"100%\n")
    assert 5 == chosen(checked, 10).count("127.0.0.2")


@pytest.mark.parametrize(
    ("line", "back", "state"),
    [(b"drain\n", b"ready\n", 0), (b"maint\n", b"ready\n", 0),
     (b"down#x\n", b"up\n", peer_state.UNHEALTHY), (b"fail\r\n", b"UP\n", peer_state.UNHEALTHY),
     (b"stopped\n", b"up\n", peer_state.UNHEALTHY)],
)
def test_who_is_to_get_no_sessions_gets_none(
    checked: Checked, line: bytes, back: bytes, state: int
) -> None:
    """Until the agent takes it back; the words about something else do not."""
    first, second, agents = pair(checked)
    serve(checked, first.text, second.text, agents=agents)
    says(checked, agents, "127.0.0.3", line)
    assert ["127.0.0.2"] * 6 == chosen(checked, 6)
    assert state == checked.peers()[second.text].state.status & peer_state.UNHEALTHY
    says(checked, agents, "127.0.0.3", b"50%\n")
    assert ["127.0.0.2"] * 6 == chosen(checked, 6)
    says(checked, agents, "127.0.0.3", back)
    assert "127.0.0.3" in chosen(checked, 6)
    lines = [text for level, text in checked.target.lines if level != "info"]
    assert 2 == len(lines), lines
    end = f'health check "interval=1s agent={agents.port}" of peer {second.text} in upstream "u"'
    assert all(text.endswith(end) for text in lines)


def test_a_limit_is_one_of_all_workers(checked: Checked) -> None:
    """It does not lift the configured one."""
    first, second, agents = pair(checked)
    serve(checked, f"{first.text} max_conns=3", second.text, agents=agents)
    says(checked, agents, "127.0.0.2", b"maxconn:1\n")
    state = checked.peers()[first.text].state
    state.hold(1)
    assert ["127.0.0.3"] * 4 == chosen(checked, 4)
    says(checked, agents, "127.0.0.2", b"maxconn:9\n")
    assert 2 == chosen(checked, 4).count("127.0.0.2")
    state.hold(2)
    assert ["127.0.0.3"] * 4 == chosen(checked, 4)
    state.hold(-3)


def test_who_is_not_reached_stays_what_it_is(checked: Checked) -> None:
    """It says so in the statistics and in the log, once."""
    first, second, agents = pair(checked)
    serve(checked, first.text, second.text, agents=agents)
    says(checked, agents, "127.0.0.3", b"drain 50%\n")
    checked.target.lines.clear()
    agents.close()
    checked.move(4000)
    assert ["127.0.0.2"] * 6 == chosen(checked, 6)
    assert checked.conf.health is not None
    (found,) = checked.conf.health.agents(checked.peers()[second.text], checked.loop.now_ms)
    assert ("not reached", "drain", "50%") == (found["last"], found["admin"], found["weight"])
    assert found["missed"] >= 3
    assert 2 == len(checked.target.lines), checked.target.lines
    assert all(
        text.startswith("agent is not heard, what it said last holds: connect() failed")
        for _, text in checked.target.lines
    )


@pytest.mark.parametrize("line", [b"drain", b"d" * 2000, b"", b"\xff\x00\n", b"drain\xc3\n"])
def test_what_is_no_line_changes_nothing(checked: Checked, line: bytes) -> None:
    """One that does not end, one that is too long, none at all, and one of other words."""
    first, second, agents = pair(checked)
    serve(checked, first.text, second.text, agents=agents)
    says(checked, agents, "127.0.0.3", line)
    assert {"127.0.0.2", "127.0.0.3"} == set(chosen(checked, 6))
    assert 0 == checked.peers()[second.text].state.status


def test_both_a_check_and_the_agent_have_to_be_content(checked: Checked) -> None:
    """An agent's `up` does not make a server healthy that its checks refuse."""
    first, second, agents = pair(checked)
    serve(checked, first.text, second.text, agents=agents, words="health_check interval=1s;")
    checked.until(lambda: checked.checks(first) and checked.checks(second))
    second.fall()
    says(checked, agents, "127.0.0.3", b"up ready\n")
    assert ["up", "unhealthy"] == checked.states()
    says(checked, agents, "127.0.0.3", b"down\n")
    second.rise()
    checked.move(3000)
    assert ["up", "unhealthy"] == checked.states()
    says(checked, agents, "127.0.0.3", b"up\n")
    assert ["up", "up"] == checked.states()
    assert 0 == agents.sent_to_us, "it is told nothing"


@pytest.mark.parametrize("word", ["drain", "down"])
def test_an_agent_undoes_what_an_agent_did_alone(checked: Checked, word: str) -> None:
    """What the API has said stays; a server that is down is not asked."""
    first, second, agents = pair(checked)
    serve(checked, first.text, second.text, agents=agents)
    says(checked, agents, "127.0.0.3", b"drain\n")
    path = "/stream/upstreams/u/servers"
    number = next(line["id"] for line in checked.now.ask("GET", path)[1]
                  if line["server"] == second.text)
    assert 200 == checked.now.ask("PATCH", f"{path}/{number}", {word: True})[0]
    agents.lines["127.0.0.3"] = b"up ready 100%\n"
    checked.move(4000)
    assert ["127.0.0.2"] * 6 == chosen(checked, 6)
    assert 200 == checked.now.ask("PATCH", f"{path}/{number}", {word: False})[0]
    checked.move(3000)
    assert "127.0.0.3" in chosen(checked, 6)


def test_a_reload_keeps_what_was_said(checked: Checked) -> None:
    """Also into a zone of another size; without agents nothing of it is left."""
    first, second, agents = pair(checked)
    serve(checked, first.text, second.text, agents=agents)
    says(checked, agents, "127.0.0.3", b"down 50% maxconn:4 drain#why\n")
    agents.close()
    for inside in ("zone u 64k;", "zone u 128k;"):
        serve(checked, first.text, second.text, agents=agents, inside=inside)
        checked.move(1200)
        state = checked.peers()[second.text].state
        wanted = DRAIN | LIMITED | peer_state.UNHEALTHY
        assert (wanted, 50, 4) == (state.status, state.share, state.most_conns)
        known = checked.conf.health
        assert known is not None
        assert 'its agent says down "why"' in known.blame(checked.peers()[second.text])
    checked.serve(f"upstream u {{ zone u 128k; server {first.text}; server {second.text}; }}")
    checked.move(200)
    state = checked.peers()[second.text].state
    assert (0, 100, 0) == (state.status, state.share, state.most_conns)


def test_what_was_said_holds_while_the_server_is_down(checked: Checked) -> None:
    """By the API: when it is back it is drained as before."""
    first, second, agents = pair(checked)
    serve(checked, first.text, second.text, agents=agents)
    says(checked, agents, "127.0.0.3", b"drain\n")
    agents.close()
    for is_down in (True, False):
        path = "/stream/upstreams/u/servers"
        number = next(line["id"] for line in checked.now.ask("GET", path)[1]
                      if line["server"] == second.text)
        assert 200 == checked.now.ask("PATCH", f"{path}/{number}", {"down": is_down})[0]
        checked.move(1500)
    assert DRAIN == checked.peers()[second.text].state.status


@pytest.mark.parametrize("line", [b"drain\n", b"maint\n", b"0%\n", b"down\n"])
def test_who_comes_back_begins_slowly(checked: Checked, line: bytes) -> None:
    """With slow_start; whom his agent has let in from the start does not."""
    first, second, agents = pair(checked)
    serve(checked, first.text, f"{second.text} slow_start=10s", agents=agents)
    says(checked, agents, "127.0.0.3", b"up ready 100%\n")
    state = checked.peers()[second.text].state
    assert 0 == state.back_ms
    says(checked, agents, "127.0.0.3", line)
    says(checked, agents, "127.0.0.3", b"up ready 100%\n")
    assert 0 <= checked.loop.now_ms - state.back_ms < 5000


def test_a_unix_domain_socket_has_no_agent(checked: Checked, tmp_path: Path) -> None:
    """The service behind it is not taken for one; nor by hand."""
    agents = Agent("127.0.0.2")
    checked.helpers.append(agents)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        sock.setblocking(False)
        serve(checked, f"unix:{tmp_path}/s", "127.0.0.2:1", agents=agents)
        checked.until(lambda: agents.asked["127.0.0.2"])
        checked.move(3000)
        assert 200 == checked.now.own("POST", "/upstreams/u/probe", turn=agents.step)[0]
        assert (404, "HealthCheckNotFound") == checked.now.own(
            "POST", f"/upstreams/u/probe?peer=unix:{tmp_path}/s"
        )
        with pytest.raises(BlockingIOError):
            sock.accept()


def test_an_agent_is_sent_no_header(checked: Checked) -> None:
    """Sessions with the server have one."""
    first, second, agents = pair(checked)
    serve(checked, first.text, second.text, agents=agents, words="proxy_protocol on;")
    says(checked, agents, "127.0.0.3", b"drain\n")
    assert 0 == agents.sent_to_us
    assert ["127.0.0.2"] * 4 == chosen(checked, 4)


def test_agents_are_asked_once_for_all_workers(checked: Checked) -> None:
    """As the servers are."""
    first, second, agents = pair(checked)
    serve(checked, first.text, second.text, agents=agents)
    checked.until(lambda: all(agents.asked.values()))
    before = dict(agents.asked)
    checked.move(10_000)
    found = [agents.asked[host] - before[host] for host in before]
    assert all(8 <= count <= 11 for count in found), found


def test_what_speaks_against_a_server_is_explained(checked: Checked) -> None:
    """In the agent's words."""
    first, second, agents = pair(checked)
    serve(checked, first.text, second.text, agents=agents)
    for line, why in (
        (b"maint\n", "is down: its agent says maint"),
        (b"drain\n", "is draining: its agent says drain, or a weight of 0"),
        (b"ready fail#disk\n", 'is unhealthy: its agent says fail "disk"'),
    ):
        says(checked, agents, "127.0.0.3", line)
        s: Any = session(Clock(checked.loop.now_ms))
        found = explaining.Explanation(checked.now.stream, s, None)
        found.through(checked.conf)
        assert {"server": second.text, "usable": False, "why": why} in list(found.peers()), line
