"""Who gets new sessions while checks, backups, limits, drains and slow starts have their say.

Time is the test's. A play is a row of words: ``a-`` and ``a+`` have a server fall and rise, ``2s``
lets time pass, ``a:drain`` and ``a:down`` and ``a:on`` are the API's, ``a*2`` has sessions begin on
it that stay, ``a*0`` ends those. ``=ab`` is what is to be seen: those who get sessions, ``=-`` for
nobody; ``a<15`` and ``a>40`` bound a server's share, in per cent.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from ngxstream.core import errors
from ngxstream.modules.health.schedule import Checkers
from ngxstream.wire import dns
from tests.support import ports
from tests.support.balancing import Clock, session
from tests.support.checked import Checked, Server
from tests.support.scripted_dns import ScriptedDns, table

PATH = "/stream/upstreams/u/servers"
PICKS = 60
ORDERS = {"drain": {"drain": True}, "down": {"down": True}, "on": {"drain": False, "down": False}}


class Play:
    """A group under checks, of which servers have names."""

    def __init__(self, one: Checked, check: str, servers: str, inside: str = "") -> None:
        """Args: servers: a name, and after it what its line says, separated by commas"""
        self.one = one
        self.servers: dict[str, Server] = {}
        self.names: dict[str, str] = {}
        self.held: dict[str, int] = {}
        lines = []
        for words in servers.split(","):
            name, *parameters = words.split()
            server = self.servers[name.strip("-")] = one.server(up="-" not in name)
            self.names[server.text] = name.strip("-")
            lines.append(f"server {server.text} {' '.join(parameters)};")
        checks = " ".join(f"health_check interval=1s {words};" for words in check.split("+"))
        self.now = one.serve(
            f"upstream u {{ zone u 64k; {inside} {' '.join(lines)} }} health_check_timeout 500ms; "
            f"server {{ listen 127.0.0.1:2; proxy_pass u; {checks} }}"
        )

    def chosen(self) -> Counter[str]:
        """Return how often each server is chosen by sessions that end at once."""
        found: Counter[str] = Counter()
        balancer = self.one.conf.balancer
        assert balancer is not None
        for _ in range(PICKS):
            selection = balancer.select(session(Clock(self.one.loop.now_ms)))
            try:
                peer = selection.get()
            except errors.NoLivePeers:
                continue
            found[self.names[peer.name]] += 1
            selection.free(peer, failed=False)
        return found

    def run(self, script: str) -> None:
        """Play it."""
        for n, word in enumerate(script.split()):
            name, rest = word[0], word[1:]
            at = f"{' '.join(script.split()[: n + 1])}"
            if word[0] == "=":
                assert sorted(rest.strip("-")) == sorted(self.chosen()), at
            elif found := re.fullmatch(r"([\d.]+)s", word):
                self.one.move(int(float(found[1]) * 1000), step=50)
            elif rest in ("+", "-"):
                (self.servers[name].rise if rest == "+" else self.servers[name].fall)()
            elif rest[0] == ":":
                self.order(name, ORDERS[rest[1:]])
            elif rest[0] == "*":
                self.hold(name, int(rest[1:]))
            else:
                share, bound = 100 * self.chosen()[name] / PICKS, int(rest[1:])
                assert share < bound if rest[0] == "<" else share > bound, (at, share)

    def order(self, name: str, body: dict[str, Any]) -> None:
        """Change a server by the API."""
        text = self.servers[name].text
        (number,) = [line["id"] for line in self.now.ask("GET", PATH)[1] if line["server"] == text]
        assert 200 == self.now.ask("PATCH", f"{PATH}/{number}", body)[0]

    def hold(self, name: str, count: int) -> None:
        """Have so many sessions be there."""
        state = self.one.peers()[self.servers[name].text].state
        state.hold(count - self.held.get(name, 0))
        self.held[name] = count


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch) -> Iterator[Checked]:
    """Give a worker."""
    with Checked(monkeypatch) as made:
        yield made


@pytest.mark.parametrize(("check", "servers", "script"), [
    # backups get sessions while no other can be used, and are checked themselves
    ("", "a,b,c backup", "0.5s =ab a- 1.3s =b b- 1.3s =c c- 1.3s =- b+ 1.3s =b c+ a+ 1.3s =ab"),
    ("mandatory", "a,c backup", "=- 0.5s =a a- 1.3s =c"),
    ("mandatory", "a-,c backup", "=- 0.5s =c a+ 1.3s =a"),
    ("", "a,c backup", "0.5s a:down =c a:on =a a:drain =c"),
    # who is full is not helped out by who is unhealthy
    ("", "a max_conns=2,b", "0.5s a*2 =b b- 1.3s =- a*1 =a b+ 1.3s =ab"),
    ("", "a max_conns=1,b,c backup", "0.5s a*1 b- 1.3s =c a*0 =a"),
    ("", "a,c backup max_conns=1", "0.5s a- 1.3s c*1 =- c*0 =c"),
    # sessions on an unhealthy server count on for its limit
    ("", "a max_conns=1,b", "0.5s a*1 a- 1.3s =b a+ 1.3s =b a*0 =ab"),
    # draining servers are checked, those that are down are not
    ("", "a,b", "0.5s a:drain =b a- 1.3s a:on =b a+ 1.3s =ab"),
    ("", "a,b", "0.5s a:down =b a- 2s a:on =ab 1.5s =b"),
    ("mandatory", "a,b", "0.5s a:down 1s a:on =b 1.3s =ab"),
    ("mandatory", "a,b", "0.5s a:drain 1s a:on =ab"),
    ("", "a,b", "0.5s b- 1.3s a:drain =- a:on =a"),
    # each of several checks may speak against a server
    ("+type=tcp fails=2", "a,b", "0.5s a- 1.3s =b a+ 1.3s =ab"),
    ("passes=3+passes=1", "a,b", "0.5s a- 1.3s =b a+ 1.3s =b 2.5s =ab"),
    ("+mandatory type=tcp", "a,b", "=- 0.5s =ab"),
    # too many unhealthy ones: all but those that are barred by other words
    ("fail_open=50%", "a,b,c backup", "0.5s a- 1.3s =b b- 1.3s =ab a+ 1.3s =a"),
    ("fail_open=50%", "a,b,c,d", "0.5s d:down a- b- 1.3s =abc c:drain =ab"),
    ("fail_open=50% mandatory", "a-,b-,c", "=- 0.5s =abc"),
    ("fail_open=50%", "a max_conns=1,b", "0.5s a- b- a*1 1.3s =b"),
])
def test_who_gets_sessions(one: Checked, check: str, servers: str, script: str) -> None:
    """As the documentation of NGINX Plus and docs/health.md have it."""
    Play(one, check, servers).run(script)


@pytest.mark.parametrize(
    "method", ["", "least_conn;", "random two least_conn;", "hash $nginx_version;"]
)
def test_every_method_leaves_unhealthy_servers_out(one: Checked, method: str) -> None:
    """And takes them in again, and knows that nobody is left."""
    script = "0.5s a- 1.3s =bc b- 1.3s =c c- 1.3s =- a+ b+ c+ 1.3s"
    play = Play(one, "", "a,b,c", method)
    if method.startswith("hash"):  # one client, one server
        script = re.sub("=bc|=ab", "0.1s", script)
    play.run(script)
    assert play.chosen().total() == PICKS


@pytest.mark.parametrize(("check", "servers", "script"), [
    # from nothing to its whole weight after the check that passes, not after a start
    ("", "a slow_start=20s,b", "0.5s a>40 a- 1.3s a+ 1.3s a<15 8.5s a>20 a<45 12s a>45"),
    ("mandatory", "a slow_start=20s,b", "0.5s a>45"),
    # the last of several checks decides when
    ("passes=1+passes=8", "a slow_start=20s,b", "0.5s a- 1.3s a+ 9s a<15 22s a>45"),
    # again with every recovery
    ("", "a slow_start=20s,b",
     "0.5s a- 1.3s a+ 21s a>45 a- 1.3s =b a+ 1.3s a<15"),
    # back from `drain` or `down`, and then from checks: each begins anew
    ("", "a slow_start=20s,b", "0.5s a:drain 1s a:on a<15 21s a>45"),
    ("", "a slow_start=20s,b", "0.5s a:drain a- 1.3s a:on 21s =b a+ 1.3s a<15 21s a>45"),
    ("", "a slow_start=20s,b", "0.5s a:down 1s a:on a<15 21s a>45"),
    # who is alone gets everything; a backup grows among backups
    ("", "a slow_start=20s", "0.5s a- 1.3s =- a+ 1.3s a>99"),
    ("", "a,b backup slow_start=20s,c backup", "0.5s b- a- 1.3s =c b+ 1.3s b<15 21s b>45"),
    # where the others are unhealthy, what there is of it is enough
    ("", "a slow_start=20s,b", "0.5s a- 1.3s a+ b- 2.5s =a"),
    # all used against the checks: that is no recovery, and neither is its end
    ("fail_open=60%", "a slow_start=20s,b", "0.5s b- 1.3s =a"),
])
def test_who_recovers_gets_its_share_by_and_by(
    one: Checked, check: str, servers: str, script: str
) -> None:
    """As slow_start says, whatever else is said of the server."""
    Play(one, check, servers).run(script)


# -- configurations, names, workers ---------------------------------------------------------------


def reload(one: Checked, play: Play, *checks: str, more: tuple[str, ...] = ()) -> None:
    """Serve the same servers under other checks. Args: more: lines of servers that come"""
    lines = "".join(f"server {text};" for text in (*play.names, *more))
    words = " ".join(f"health_check {check};" for check in checks)
    play.now = one.serve(
        f"upstream u {{ zone u 64k; {lines} }} health_check_timeout 500ms; "
        f"server {{ listen 127.0.0.1:2; proxy_pass u; {words} }}"
    )


def test_a_check_that_is_gone_speaks_no_more(one: Checked) -> None:
    """The others do; one that comes has to be asked first, and is content until then."""
    other = one.server(up=False)
    failing = f"interval=1s port={other.address[1]}"
    play = Play(one, f"+port={other.address[1]}", "a,b")
    play.run("0.5s =-")
    reload(one, play, "interval=1s")
    play.run("=ab a- 1.3s =b")
    reload(one, play, "interval=1s", failing)
    play.run("0.1s 1.3s =-")
    reload(one, play, "interval=2s")
    play.run("=b a+ 2.5s =ab")


@pytest.mark.parametrize(("words", "before", "after"), [
    ("", "=b", "1s =b"), ("mandatory", "=-", "1s =b"), ("mandatory persistent", "=b", "1s =b"),
])
def test_several_checks_over_a_reload(
    one: Checked, words: str, before: str, after: str
) -> None:
    """All of them begin with what was found; a server that comes is `up`, or is checked first."""
    play = Play(one, f"{words}+type=tcp {words}", "a-,b")
    play.run("0.5s =b")
    new = play.servers["c"] = one.server()
    play.names[new.text] = "c"
    checks = (f"interval=1s {words}", f"interval=1s type=tcp {words}")
    reload(one, play, *checks)
    play.run({"": "=bc", "mandatory": "=-", "mandatory persistent": "=b"}[words])
    play.run("1s =bc")
    new.fall()
    play.run("1.3s =b")
    reload(one, play, *checks)
    play.run(f"{before} {after}")


def test_an_address_that_a_name_has_no_more_in_the_middle_of_its_check(one: Checked) -> None:
    """Nobody is told its result; who has its row later begins anew."""
    dns_server = ScriptedDns()
    one.helpers.append(dns_server)
    port = ports.free_tcp_port()
    gone = one.server(host="127.0.0.2", port=port)
    stays, comes = (one.server(host=host, port=port) for host in ("127.0.0.1", "127.0.0.3"))

    def know(*servers: Server) -> None:
        dns_server.script = table([("a.test", dns.A, 5, at.address[0]) for at in servers])

    gone.silent, stays.silent = [], []
    know(stays, gone)
    one.serve(
        f"resolver {dns_server.text} ipv6=off; match m {{ expect x; }} upstream u {{ zone u 64k; "
        f"server a.test:{port} resolve; }} health_check_timeout 1h; "
        "server { listen 127.0.0.1:2; proxy_pass u; health_check interval=1h match=m mandatory; }"
    )
    one.until(lambda: gone.silent and stays.silent)
    under_way = one.loop.get(Checkers).under_way
    know(stays, comes)
    comes.silent = []
    for _ in range(200):
        one.move(100)
        if comes.silent:
            break
    assert (2, 2) == (under_way, one.loop.get(Checkers).under_way)
    gone.silent[0].close()  # it would have failed
    one.move(500)
    assert {stays.text: "checking", comes.text: "checking"} == dict(
        zip(one.peers(), one.states(), strict=True)
    )
    for server in (stays, comes):
        server.silent[0].send(b"x")  # type: ignore[index]
    one.move(500)
    assert ["up", "up"] == one.states()
    assert not [text for _, text in one.target.lines if "unhealthy" in text]


@pytest.mark.parametrize("n", range(3))
def test_workers_that_die_in_the_middle_of_checks_change_nothing(
    monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    """One after the other: who is left checks all servers, and what was found stays."""
    with Checked(monkeypatch, 3) as one:
        play = Play(one, "mandatory", "a,b-,c,d")
        play.run("0.5s =acd 1s")
        all_loops = one.loops
        for killed in (n, (n + 1) % 3):
            one.loops = [loop for loop in one.loops if loop is not all_loops[killed]]
            play.one.loop = one.loops[0]
            play.run("=acd 4s =acd a- 3s =cd a+ 3s =acd")
        one.loops = all_loops
