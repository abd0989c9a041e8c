"""Whom the live page asks and when, and what it makes of bad answers or none."""

import json
import re
from typing import Any

import pytest

from tests.dashboard.conftest import Opened
from tests.support.browser import Browser
from tests.support.dashboard import HASTEN, LivePage, row
from tests.support.dashboard_api import FAST, HEART, FakeApi
from tests.support.dashboard_model import example
from tests.support.waiting import wait_until

PLUS = ("connections", "processes", "ssl", "resolvers", "stream/server_zones", "stream/upstreams",
        "stream/limit_conns")  # fmt: skip
OWN = ("", "/workers", "/reloads", "/log", "/sessions", "/upstreams", "/server_zones",
       "/certificates")  # fmt: skip
NONSENSE: list[Any] = [
    None, 1, "text", [], [None, 1, [], {}], {"a": None}, {"a": []}, {"a": {"peers": 1}},
    {"a": {"peers": [None, {}, {"id": {}, "server": [], "state": 7}]}},
    {"sessions": {}, "workers": [{}, 1], "reloads": [{}], "lines": [{"text": 4}, None],
     "certificates": [{"days_left": "x", "names": 3}]},
]  # fmt: skip
RATES = """[...Object.values(sums), ...[...zones.values()].map(zone => zone.connections),
    ...[...groups.values()].map(group => group.connections)].flatMap(one => one.values)"""


def test_what_is_missing_is_not_shown(api: FakeApi, opened: Opened) -> None:
    """An API with the general endpoints and the zones alone is enough."""
    api.model.absent = {
        *(f"9/{one}" for one in PLUS[1:] if one != "stream/server_zones"),
        *(f"ngxstream/1{one}" for one in OWN),
    }
    live = opened()
    api.rounds(3)
    live.has("#zones tbody tr")
    live.verdict("All is well")
    assert ["summary", "zones", "seen"] == live.page.evaluate("""
        [...document.querySelectorAll("section")].filter(one => one.checkVisibility())
        .map(one => one.id)""")


def test_nonsense_breaks_nothing(api: FakeApi, opened: Opened) -> None:
    """Answers of another form, or that are no JSON, leave the page at work."""
    live = opened()
    paths = [*(f"9/{one}" for one in PLUS), *(f"ngxstream/1{one}" for one in OWN)]
    for answer in [*map(json.dumps, NONSENSE), "{", "<html>"]:
        api.model.broken = dict.fromkeys(paths, answer.encode())
        live.page.evaluate(HASTEN)
        api.rounds(2)
    live.has("#troubles", "could not be read: the answer is not JSON")
    api.model.broken = {}
    live.page.evaluate(HASTEN)
    live.verdict("All is well")


def test_rounds_do_not_overlap(browser: Browser) -> None:
    """A slow server is asked again when it has answered, not before."""
    with FakeApi(example(), steps=True) as api:
        api.slow(0.2)  # ten times what a second of the page takes
        page = browser.page(api.url, script=FAST)
        api.rounds(2)
        wait_until(lambda: api.at_once == 1, what="a round is under way")
        page.evaluate("hurry()")
        api.rounds(2)
        assert 1 == api.most_at_once
        page.close()


def wait_seconds(live: LivePage, seconds: int) -> None:
    """Let so much of the page's time go by."""
    live.page.evaluate("running")
    live.page.evaluate(f"new Promise(done => setTimeout(done, {seconds * 1000}))")


@pytest.mark.parametrize("how", ["hidden", "paused"])
def test_a_page_that_nobody_sees_asks_nothing(api: FakeApi, opened: Opened, how: str) -> None:
    """It stops, and goes on without a rate over the time between."""
    stop, go_on = ("byId('pause').click()",) * 2
    if how == "hidden":
        stop = """Object.defineProperty(document, "visibilityState",
            {value: "hidden", configurable: true});
            document.dispatchEvent(new Event("visibilitychange"))"""
        go_on = """delete document.visibilityState;
            document.dispatchEvent(new Event("visibilitychange"))"""
    live = opened()
    api.rounds(3)
    live.page.evaluate(stop)
    wait_seconds(live, 3)
    before = api.asked.count(HEART)
    with api.lock:
        for zone in api.model.zones.values():
            zone["connections"] += 10**9
    wait_seconds(live, 5)
    assert before == api.asked.count(HEART)
    live.page.evaluate(go_on)
    api.rounds(4)
    assert live.page.evaluate("sums.connections.most()") < 10**6


def test_it_says_when_it_has_lost_the_server(api: FakeApi, opened: Opened) -> None:
    """It says so and since when, keeps the last numbers, goes on asking, and is well again."""
    live = opened()
    live.has_row("10.0.0.11:53")
    live.go_to("sessions")
    live.has("#sessions tbody tr")
    api.go_away()
    live.verdict("No answer")
    live.go_to("summary")  # what failed there and is asked no more is not held against the server
    said = live.page.text("#saying")
    assert re.search(r"Last answer at \d\d:\d\d:\d\d, .* ago: no connection", said)
    alarm = live.page.evaluate("alarm.textContent")
    assert re.search(r"No answer from the server since \d\d:", alarm)
    assert "No answer" in live.page.evaluate("document.title")
    live.has_row("10.0.0.11:53", "up")
    live.page.wait(f"document.querySelector('#saying').innerText !== {json.dumps(said)}")
    assert alarm == live.page.evaluate("alarm.textContent")  # once, not each second
    api.come_back()
    live.verdict("All is well")
    live.has("#changes", "The server answers again")


def test_an_upgrade_is_survived(api: FakeApi, opened: Opened) -> None:
    """A new generation and a new master are said; counters that begin anew make no rate."""
    live = opened()
    api.rounds(4)
    model = api.model
    with api.lock:
        model.generation, model.ppid, model.version = 1, 5200, "1.1.0"
        model.accepted = 0
        for zone in model.zones.values():
            zone.update(connections=0, received=0, sent=0)
        for group in model.groups.values():
            for peer in group["peers"]:
                peer.update(connections=0, sent=0, received=0)
    live.has("#changes", "is 5200 now, was 4100")
    api.rounds(2)
    model.generation = 2
    live.has("#changes", "Generation 1 → 2", "Version 1.0.0 → 1.1.0")
    marks = live.page.evaluate("document.querySelector('#flow .mark').getAttribute('d')")
    assert 2 == marks.count("M")
    least, most = live.page.evaluate(f"[Math.min(...{RATES}), Math.max(...{RATES})]")
    assert 0 <= least < most < 10**7


@pytest.mark.parametrize(("prefix", "root"), [("/status/api", "/"), ("/api", "/behind/a/proxy/")])
def test_it_finds_the_api(browser: Browser, prefix: str, root: str) -> None:
    """The API may have another prefix; another server may have put all of it below a path."""
    with FakeApi(example(), steps=True, prefix=prefix, root=root) as api:
        live = LivePage(browser.page(f"{api.url}dashboard.html", script=FAST))
        live.verdict("All is well")
        assert [] == live.page.wrong
        live.page.close()


def test_who_may_not_read_is_told(api: FakeApi, opened: Opened) -> None:
    """An API that refuses the page is not called lost."""
    live = opened()
    live.has_row("10.0.0.11:53")
    api.refusal = 403
    live.verdict("Refused")
    live.has("#saying", "forbidden (Forbidden)")
    api.refusal = 0
    live.verdict("All is well")
    api.model.absent = {HEART}
    live.verdict("Refused")
    live.has("#saying", "there is no API at this address")
    api.model.absent = set()
    live.verdict("All is well")
    assert live.page.evaluate(f"{row('10.0.0.11:53')} !== undefined")
