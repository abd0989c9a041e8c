"""What the live page shows, and that what it shows is text."""

import json
import re

from tests import pictures
from tests.dashboard.conftest import Opened
from tests.support.browser import Browser
from tests.support.dashboard import HASTEN, UNFOLD, row
from tests.support.dashboard_api import FakeApi
from tests.support.dashboard_model import Model, example

NAMES = (
    '<script>window.pwned=1</script><img src=x onerror="window.pwned=1">',
    "\"'`><svg onload=window.pwned=1>",
    "&lt;b&gt;&#x202e;&quot;",
    "\u202egnp.exe \u05d0\u05d1\u05d2 \u2066x",
    "n" * 10_000,
    "\U0001f469\u200d\U0001f4bb\U0001f6a8",
    "a\x00b\x1b[31mc\nd\te\x7f",
    "__proto__",
    "constructor",
    "hasOwnProperty",
    "../../nginx?x#y%2f",
    "javascript:window.pwned=1",
    "\ud800",
)
SHIFTS = """(() => {
    window.shifts = [];
    new PerformanceObserver(found => {
        for (const {value, sources} of found.getEntries()) {
            const moved = sources.map(({node}) => (node?.parentElement ?? node)?.outerHTML);
            if (value > 0.0001) shifts.push([value, ...moved]);
        }
    }).observe({type: "layout-shift"});
})()"""


def test_numbers_are_those_of_the_server(api: FakeApi, opened: Opened) -> None:
    """Totals, rates, states and settings stand where they belong."""
    live = opened()
    api.rounds(5)
    live.verdict("All is well")
    assert 100 < live.rate("10.0.0.11:53") < 600
    assert "3" == live.cell("10.0.0.11:53", "Weight")
    assert "up" == live.cell("10.0.0.11:53", "State")
    live.has("#facts", "8 of 8", "master 4100")
    live.has("#reloads", "porxy_pass")
    live.has("#log", "no live upstreams")
    live.has("#certificates", "mail.example.org", "61 days")


def test_numbers_move_and_nothing_else_does(browser: Browser) -> None:
    """In real time, numbers change each second and no element is moved by that."""
    with FakeApi(example()) as api:
        page = browser.page(api.url)
        page.wait("document.querySelector('#flow b').textContent.endsWith('/s')")
        page.evaluate(SHIFTS)
        facts, flow = page.text("#facts"), page.text("#flow")
        with api.lock:  # more digits in all of them
            api.model.accepted += 10**7
            for zone in api.model.zones.values():
                zone.update(connections=10**6, processing=10**5, received=10**9, sent=10**9)
            for peer in api.model.groups["dns"]["peers"]:
                peer.update(connections=10**6, active=10**4, fails=10**4, received=10**9)
        api.rounds(2)
        page.wait(f"document.querySelector('#flow').innerText !== {json.dumps(flow)}")
        assert facts != page.text("#facts")
        assert [] == page.evaluate("shifts")
        assert [] == page.wrong
        page.close()


def test_troubles_are_named_first(api: FakeApi, opened: Opened) -> None:
    """The verdict is the worst there is, and is said aloud; each trouble leads to where it is."""
    model = api.model
    live = opened()
    live.verdict("All is well")
    model.groups["dns"]["peers"][1]["trouble"] = "unhealthy"
    live.verdict("Needs attention")
    for peer in model.groups["mqtt"]["peers"]:
        peer["trouble"] = "unavail"
    model.certificates[0]["days_left"] = 3
    live.verdict("Trouble")
    said = live.page.text("#troubles")
    assert said.index("mqtt: none of its 2 servers") < said.index("10.0.0.12:53 is unhealthy")
    live.has("#changes", "up → unhealthy")
    assert "Trouble" in live.page.wait("alarm.textContent")
    assert live.page.evaluate("""[...document.querySelectorAll("#troubles a")].every(one =>
        document.querySelector(one.hash).checkVisibility())""")


def test_a_master_that_is_gone_is_trouble(api: FakeApi, opened: Opened) -> None:
    """Its workers serve on, and nothing else on the page would tell."""
    live = opened()
    live.has("#facts", "master 4100")
    api.model.orphaned = True
    live.verdict("Trouble")
    live.has("#troubles", "The master process is gone")
    live.has("#facts", "no master")


def test_reasons_of_ends_are_shown(api: FakeApi, opened: Opened) -> None:
    """The most frequent ones in the row where there is room, all of them in the details."""
    api.model.groups["dns"]["peers"][0]["ends"] = {"idle": 7, "upstream_rst": 3, "health": 1}
    api.model.load.clear()
    live = opened(width=1600)
    live.has_row("10.0.0.11:53", "idle 7")
    assert "upstream_rst 3" in live.cell("10.0.0.11:53", "Ended")
    live.page.evaluate(f"{row('10.0.0.11:53')}.querySelector('.fold').click()")
    live.page.wait(f"{row('10.0.0.11:53')}.nextSibling.innerText.includes('health 1')")


def test_sessions_are_filtered_by_the_server(api: FakeApi, opened: Opened) -> None:
    """Fields become arguments; pages are turned by the cursor; a refusal stands beside them."""
    live = opened()
    live.go_to("sessions")
    live.has("#sessions h2", "1 to 25 of 137")
    live.press("Next page")
    live.has("#sessions h2", "26 to 50 of 137")
    live.fill("#sessions [name=protocol]", "tcp")
    live.has("#sessions h2", "1 to 25 of 35")
    live.fill("#sessions [name=client]", "nonsense/99")
    live.has("#sessions", 'invalid network in "client"')
    live.verdict("All is well")


def be_hostile(model: Model) -> None:
    """Let everything that has a name have each of NAMES."""
    model.groups.clear()
    model.load.clear()
    model.zones.clear()
    for number, name in enumerate(NAMES):
        model.zone(name, lambda _: 3.0, name)
        model.group(name, name, name, method=name)
        model.groups[name]["peers"][0]["ends"] = dict.fromkeys(NAMES, 4)
        model.groups[name]["peers"][1]["trouble"] = name
        words = ("client", "server", "upstream", "peer", "state", "listen", "id")
        model.sessions[number].update(dict.fromkeys(words, name))
    model.log = [{**model.log[0], "text": name, "level": "error"} for name in NAMES]
    model.reloads = [{**model.reloads[0], "message": name, "verdict": "failed"} for name in NAMES]
    model.certificates = [
        {**model.certificates[0], "file": name, "subject": name, "names": [name], "days_left": 1}
        for name in NAMES
    ]
    model.resolvers = dict.fromkeys(NAMES, model.resolvers["local"])
    model.version = NAMES[0]


def test_hostile_names_do_nothing(api: FakeApi, opened: Opened) -> None:
    """A name is text wherever it stands: no element, no script, no dialog, no other direction."""
    live = opened(width=320)
    page = live.page
    elements = "[...new Set([...document.querySelectorAll('*')].map(one => one.localName))]"
    ask = "[...groups.values()].forEach(group => drain([...group.peers.values()][0]))"
    live.has_row("10.0.0.11:53")
    page.evaluate(UNFOLD)
    page.evaluate(f"note('a note'); {ask}")
    api.rounds(1)
    before = set(page.evaluate(elements))
    with api.lock:
        be_hostile(api.model)
    page.evaluate(f"{HASTEN}; document.querySelector('dialog').close()")
    live.go_to("sessions")
    api.rounds(4)
    page.size(320, 9000)
    live.go_to("resolvers")
    page.wait("document.querySelector('#resolvers tbody').rows.length === groups.size")
    page.evaluate(UNFOLD)
    page.evaluate(ask)
    api.rounds(2)
    assert before == set(page.evaluate(elements))
    assert page.evaluate("window.pwned === undefined && document.scripts.length === 1")
    assert [320, 320] == page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    text = page.evaluate("document.body.textContent")
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b\x7f]", text)
    assert "n" * 400 not in text
    zones = "[...document.querySelectorAll('#zones th bdi')].map(one => one.textContent)"
    seen = page.evaluate(zones)
    assert len(NAMES) == len(seen)
    assert {NAMES[0], NAMES[1], "__proto__"} < set(seen)


def test_a_large_installation_is_shown_in_part(api: FakeApi, opened: Opened) -> None:
    """Of very many groups those with trouble are open; what is not shown is counted."""
    model = api.model
    for number in range(80):
        model.group(f"group{number}", *(f"10.1.{number}.{one}:80" for one in range(10)))
    model.group("large", *(f"10.2.{one // 250}.{one % 250}:80" for one in range(300)))
    model.groups["group5"]["peers"][3]["trouble"] = "unavail"
    live = opened()
    live.has_row("10.1.5.3:80", "unavail")
    live.has("#upstreams", "and 24 more groups")
    assert 10 == live.page.evaluate("document.querySelectorAll('#upstreams tbody tr').length")
    live.fill("#upstreams [name=text]", "large")
    live.has("#upstreams", "and 200 more servers")
    live.fill("#upstreams [name=text]", "nothing like it")
    live.page.wait("document.querySelectorAll('#upstreams article').length === 0")


def test_pictures_are_made(browser: Browser, tmp_path) -> None:
    """Those of the documentation are pictures of this page."""
    made = pictures.make(browser, tmp_path, seconds=6)
    assert set(pictures.PICTURES) == {path.stem for path in made}
    for path in made:
        assert b"WEBP" == path.read_bytes()[8:12]
        assert (pictures.DOCS / path.name).exists()
