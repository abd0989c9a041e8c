"""That everybody can read and use the live page: by keyboard, on a phone, in both themes."""

import re

import pytest

from ngxstream.modules.api import policy
from tests.dashboard.conftest import Opened
from tests.support.dashboard import UNFOLD
from tests.support.dashboard_api import FakeApi

FIRST = "10.0.0.11:53"
themes = pytest.mark.parametrize("theme", ["light", "dark"])

# How many texts are seen, and those with too little contrast to what lies behind (WCAG 2.2, 1.4.3)
CONTRAST = """(() => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
    const luminance = colours => {
        canvas.clearRect(0, 0, 1, 1);
        for (const colour of colours) {
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
        }
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(n => n / 255)
            .map(n => n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const unseen = ".unseen, .skip, script, option";
    const bad = [];
    let seen = 0;
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const node = walk.currentNode.parentElement, text = walk.currentNode.data.trim();
        if (!text || !node.checkVisibility() || node.closest(unseen)) continue;
        const behind = ["white"];
        for (let one = node; one; one = one.parentElement) {
            behind.splice(1, 0, getComputedStyle(one).backgroundColor);
            if (one.localName === "dialog") break;
        }
        const both = [luminance(behind), luminance([...behind, getComputedStyle(node).color])];
        const ratio = (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
        seen += 1;
        if (ratio < 4.5) bad.push(`${ratio.toFixed(2)} ${text.slice(0, 40)}`);
    }
    return [seen, bad];
})()"""


def test_the_keyboard_is_enough(api: FakeApi, opened: Opened) -> None:
    """A peer is drained with Tab and Enter; the focus is seen at each step and comes back."""
    live = opened()
    page = live.page
    live.has_row(FIRST)
    page.press("Tab")
    assert "Skip to the summary" == page.evaluate("document.activeElement.innerText")
    outlines = set()
    for _ in range(60):
        outlines.add(page.evaluate("getComputedStyle(document.activeElement).outlineStyle"))
        if page.evaluate("document.activeElement.innerText.startsWith('Drain')"):
            break
        page.press("Tab")
    assert {"solid"} == outlines
    page.press("Enter")
    live.asks()
    assert "Cancel" == page.evaluate("document.activeElement.innerText")
    page.press("Tab")
    assert "Drain" == page.evaluate("document.activeElement.innerText")
    page.press("Enter")
    page.wait("!document.querySelector('dialog').open")
    assert [("PATCH", "9/stream/upstreams/dns/servers/0", {"drain": True})] == api.changes
    page.wait("document.activeElement.innerText.startsWith('Bring back')")


@themes
def test_a_phone_is_enough(api: FakeApi, opened: Opened, theme: str) -> None:
    """At 320 pixels nothing is wider than the screen, and each value says what it is."""
    live = opened(width=320, height=700, theme=theme)
    page = live.page
    live.has_row(FIRST)
    page.size(320, 6000)
    live.has("#sessions tbody tr")
    page.evaluate(UNFOLD)
    api.rounds(2)
    assert [] == page.evaluate("""[...document.querySelectorAll("body *")].filter(one =>
        one.checkVisibility() && !one.closest("thead, .unseen, svg")
        && one.getBoundingClientRect().right > innerWidth + 0.5)
        .map(one => one.outerHTML.slice(0, 80))""")
    assert [320, 320] == page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert page.evaluate("""[...document.querySelectorAll("tbody td:not(.acts, .detail td)")].every(
        one => getComputedStyle(one, "::before").content === JSON.stringify(one.dataset.head))""")


@pytest.mark.parametrize("width", [768, 1152, 1153, 1280, 1920])
def test_no_screen_is_too_narrow(opened: Opened, width: int) -> None:
    """Nothing reaches out of the window, and every server's address is seen whole."""
    live = opened(width=width, height=4000)
    live.has_row(FIRST)
    live.has("#sessions tbody tr")
    assert width == live.page.evaluate("document.documentElement.scrollWidth")
    assert live.page.evaluate("""[...document.querySelectorAll("#upstreams tbody bdi")].every(one =>
        one.getBoundingClientRect().height < 30)""")


@themes
def test_every_text_can_be_read(api: FakeApi, opened: Opened, theme: str) -> None:
    """Each text has a contrast of 4.5 at least: well, in trouble, in a dialog, and lost."""

    def is_readable(when: str) -> None:
        count, bad = page.evaluate(CONTRAST)
        assert [] == bad, when
        assert count > 200

    live = opened(theme=theme, height=4000)
    page = live.page
    live.has_row(FIRST)
    live.has("#sessions tbody tr")
    page.evaluate(UNFOLD)
    is_readable("well")
    peers = [peer for group in api.model.groups.values() for peer in group["peers"]]
    for number, peer in enumerate(peers):
        peer["trouble"] = ("unavail", "unhealthy", "checking", "draining")[number % 4]
    live.verdict("Trouble")
    is_readable("in trouble")
    live.press("Add a server")
    live.asks()
    page.evaluate("document.querySelector('dialog .failed').textContent = 'refused'")
    is_readable("in a dialog")
    page.press("Escape")
    api.go_away()
    live.verdict("No answer")
    is_readable("lost")


def test_the_theme_is_chosen(api: FakeApi, opened: Opened) -> None:
    """It is the system's unless the switch says another; the choice is kept."""
    back = "getComputedStyle(document.body).backgroundColor"
    page = opened(theme="dark").page
    dark = page.evaluate(back)
    page.prefer("light")
    assert dark != page.evaluate(back)
    page.click("#theme")
    page.click("#theme")
    assert "Theme: dark" == page.text("#theme")
    assert dark == page.evaluate(back)
    page.navigate(f"{api.url}dashboard.html")
    page.wait("document.querySelector('#theme').innerText === 'Theme: dark'")
    assert dark == page.evaluate(back)
    page.evaluate("localStorage.clear()")


def test_programs_that_read_aloud_find_their_way(api: FakeApi, opened: Opened) -> None:
    """Landmarks, captions, column heads, labels, live regions and words for shapes are there."""
    live = opened(height=4000)
    live.has("#sessions tbody tr")
    for one in ("main", "nav", "h1", "body > header"):
        assert 1 == live.page.evaluate(f"document.querySelectorAll('{one}').length")
    for selector, condition in (
        ("section", "byId(one.getAttribute('aria-labelledby')).textContent"),
        ("table", "one.caption.textContent && one.role === 'table'"),
        ("thead th", "one.scope === 'col' && one.textContent"),
        ("tbody tr:not(.detail)", "one.cells[0].scope === 'row'"),
        ("input, select", "one.labels.length"),
        ("button", "one.textContent.trim()"),
        ("svg", "one.getAttribute('aria-label') || one.getAttribute('aria-hidden')"),
        (".badge", "one.textContent.trim()"),
    ):
        every = f"[...document.querySelectorAll('{selector}')].every(one => {condition})"
        assert live.page.evaluate(f"Boolean({every})"), selector
    assert ["alert", "status"] == live.page.evaluate("[byId('alarm').role, byId('status').role]")


def test_it_is_one_small_file() -> None:
    """Nothing of it lies elsewhere, no attribute holds code, and no text is parsed as markup."""
    text = policy.read().text
    assert len(text.encode()) < 100_000
    assert (1, 1) == (text.count("<style>"), text.count("<script>"))
    assert {"http://www.w3.org/2000/svg"} == set(re.findall(r"https?://[^\s\"'<>`]+", text))
    assert not re.search(r"<[^>]*\s(on\w+|style)=", text.partition("<script>")[0])
    parsers = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function"
    assert not re.search(parsers, text)
