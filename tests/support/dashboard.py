"""The live page as tests use it: rows found by their server, buttons by their words."""

import json
import re
from typing import Any

from tests.support.browser import Page

# Asks everything in the next round, whatever it is due
HASTEN = "Object.values(sources).forEach(source => { source.due = 0; })"
UNFOLD = "document.querySelectorAll('.fold[aria-expanded=false]').forEach(one => one.click())"
DIALOG = "document.querySelector('dialog')"


def row(server: str) -> str:
    """Return an expression for the row of a peer, undefined if there is none."""
    return f"""[...document.querySelectorAll("#upstreams tbody tr")].find(row =>
        row.cells[0].querySelector("bdi")?.textContent === {json.dumps(server)})"""


class LivePage:
    """The page in a tab."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def verdict(self, word: str) -> None:
        """Wait for the word that sums everything up."""
        self.page.wait(f"document.querySelector('#verdict').textContent === {json.dumps(word)}")

    def has(self, selector: str, *texts: str) -> None:
        """Wait until an element is there and shows some texts."""
        self.page.wait(f"document.querySelector({json.dumps(selector)}) !== null")
        shown = f"document.querySelector({json.dumps(selector)}).innerText"
        for text in texts:
            self.page.wait(f"{shown}.includes({json.dumps(text)})")

    def has_row(self, server: str, text: str = "") -> None:
        """Wait for the row of a peer, and for a text in it."""
        self.page.wait(f"({row(server)})?.innerText.includes({json.dumps(text)})")

    def cell(self, server: str, head: str) -> str:
        """Return the text of a cell in a peer's row. Args: head: how its column's begins"""
        self.has_row(server)
        return self.page.evaluate(
            f"{row(server)}.querySelector('[data-head^={json.dumps(head)}]').innerText"
        )

    def rate(self, server: str) -> float:
        """Return how many connections a second a peer gets, by the page; -1 while unknown."""
        shown = re.match(r"([\d.]+)\s?(k?)/s", self.cell(server, "Connections"))
        return float(shown[1]) * (1000 if shown[2] else 1) if shown else -1

    def press(self, words: str, within: str = "document") -> None:
        """Click with the mouse on the button that begins with some words.

        Args: within: an expression for the element that holds it
        """
        self.page.wait(f"""(() => {{
            const found = [...({within}).querySelectorAll("button")].find(one =>
                one.checkVisibility() && one.innerText.startsWith({json.dumps(words)}));
            document.querySelector("[data-wanted]")?.removeAttribute("data-wanted");
            found?.setAttribute("data-wanted", "");
            return found !== undefined;
        }})()""")
        self.page.click("[data-wanted]")

    def asks(self) -> str:
        """Wait for the dialog and return what it says."""
        return self.page.wait(f"{DIALOG}.open && {DIALOG}.innerText")

    def is_asked(self, verb: str) -> None:
        """Press the button of the open dialog, and wait until that is closed."""
        self.asks()
        self.press(verb, DIALOG)
        self.page.wait(f"!{DIALOG}.open")

    def fill(self, selector: str, value: str) -> None:
        """Choose a value, or write it into a field, in place of what stood there."""
        self.page.wait(f"document.querySelector({json.dumps(selector)}) !== null")
        is_choice: Any = self.page.evaluate(f"""(() => {{
            const field = document.querySelector({json.dumps(selector)});
            field.focus();
            if (field.localName !== "select") return field.select();
            field.value = {json.dumps(value)};
            field.dispatchEvent(new Event("input", {{bubbles: true}}));
            return true;
        }})()""")
        if not is_choice:
            self.page.write(value)

    def go_to(self, section: str) -> None:
        """Bring a section into sight."""
        self.page.evaluate(f"document.querySelector('#{section}').scrollIntoView()")
