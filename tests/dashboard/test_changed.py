"""What can be changed by the live page, and that it asks before."""

from typing import Any

import pytest

from tests.dashboard.conftest import Opened
from tests.support.dashboard import row
from tests.support.dashboard_api import FakeApi

FIRST = "10.0.0.11:53"
WORDS = """[...new Set([...document.querySelectorAll("%s button")].filter(one =>
    one.checkVisibility()).map(one => one.innerText.split("\\n")[0].trim()))].sort()"""


def test_a_peer_is_drained(api: FakeApi, opened: Opened) -> None:
    """Nothing happens before it is confirmed; then the traffic leaves the peer for the others."""
    live = opened()
    live.has_row(FIRST, "/s")
    live.press("Drain", row(FIRST))
    assert "It gets no new sessions" in live.asks()
    assert [] == api.changes
    live.is_asked("Drain")
    live.has_row(FIRST, "draining")
    live.has_row(FIRST, "\t0/s")
    assert [("PATCH", "9/stream/upstreams/dns/servers/0", {"drain": True})] == api.changes
    assert live.rate("10.0.0.12:53") > 100


CHANGES = [
    ("10.0.0.12:53", "Take down", ["Take down"], {}, ("PATCH", "/1", {"down": True})),
    ("10.0.2.99:53", "Bring back", ["Bring back"], {},
     ("PATCH", "/3", {"down": False, "drain": False})),
    ("10.0.0.12:53", "Edit", ["Save"], {"weight": "7", "fail_timeout": "30s"},
     ("PATCH", "/1", {"weight": 7, "fail_timeout": "30s"})),
    ("10.0.0.13:53", "Edit", ["Remove", "Remove"], {}, ("DELETE", "/2", None)),
    ("", "Add a server", ["Add"], {"server": "10.9.9.9:53", "weight": "2"},
     ("POST", "", {"server": "10.9.9.9:53", "weight": 2})),
]  # fmt: skip


@pytest.mark.parametrize(
    ("server", "button", "verbs", "fields", "change"), CHANGES,
    ids=[f"{one[1]}, {one[2][0]}" for one in CHANGES],
)  # fmt: skip
def test_a_group_is_changed(
    api: FakeApi, opened: Opened, server: str, button: str, verbs: list[str],
    fields: dict[str, str], change: tuple[str, str, Any],
) -> None:
    """Each change is asked for once, and sent as the API has it."""
    api.model.peer("dns", "10.0.2.99:53", down=True, drain=True)
    live = opened()
    live.has_row("10.0.2.99:53")
    live.has("#upstreams", "least_conn")  # our own tree was heard
    live.press(button, row(server) if server else "document")
    live.asks()
    for name, value in fields.items():
        live.fill(f"dialog [name={name}]", value)
    for verb in verbs[:-1]:
        live.press(verb, "document.querySelector('dialog')")
        live.asks()
    live.is_asked(verbs[-1])
    method, path, body = change
    assert [(method, f"9/stream/upstreams/dns/servers{path}", body)] == api.changes


def test_sessions_are_ended(api: FakeApi, opened: Opened) -> None:
    """One by its id, or all that match the filter, after the question how many."""
    live = opened()
    live.go_to("sessions")
    live.has("#sessions tbody tr")
    live.press("End", "document.querySelector('#sessions tbody')")
    assert "192.0.2.10:40000" in live.asks()
    live.is_asked("End it")
    assert ("DELETE", "ngxstream/1/sessions/4101-9000", None) == api.changes.pop()
    live.fill("#sessions [name=protocol]", "tcp")
    live.has("#sessions h2", "of 34")
    live.press("End these sessions")
    assert "End 34 sessions?" in live.asks()
    live.is_asked("End them")
    live.has("#changes", "34 sessions ended")
    assert 102 == len(api.model.sessions)


def test_who_thinks_better_of_it_changes_nothing(api: FakeApi, opened: Opened) -> None:
    """Cancel and Escape close the question."""
    live = opened()
    live.has_row(FIRST)
    live.press("Take down", row(FIRST))
    live.is_asked("Cancel")
    live.press("Drain", row(FIRST))
    live.asks()
    live.page.press("Escape")
    live.page.wait("!document.querySelector('dialog').open")
    assert [] == api.changes


def test_what_the_api_refuses_is_said(api: FakeApi, opened: Opened) -> None:
    """The dialog stays open with the text and the code of the error."""
    live = opened()
    live.has_row(FIRST)
    live.press("Add a server")
    live.asks()
    live.page.write("<b>nonsense")
    live.press("Add", "document.querySelector('dialog')")
    live.has("dialog", 'no port in server "<b>nonsense" (UpstreamBadAddress)')


def test_what_was_not_answered_is_not_called_done(api: FakeApi, opened: Opened) -> None:
    """A change whose answer did not come may have been made or not: that is said."""
    live = opened()
    live.has_row(FIRST)
    live.press("Drain", row(FIRST))
    live.asks()
    api.go_away()
    live.press("Drain", "document.querySelector('dialog')")
    live.has("dialog", "It is not known whether it was done: no connection")


def test_the_last_server_in_use_is_warned_about(api: FakeApi, opened: Opened) -> None:
    """The question says that new sessions will fail."""
    for peer in api.model.groups["dns"]["peers"][1:]:
        peer["down"] = True
    live = opened()
    live.has_row(FIRST)
    live.press("Drain", row(FIRST))
    assert "new sessions will fail" in live.asks()


def test_without_write_there_is_nothing_to_change(api: FakeApi, opened: Opened) -> None:
    """With write=off there is no button for it; nor for a group without a zone in any case."""
    live = opened()
    live.has_row("10.0.2.31:1883")
    assert ["Details"] == live.page.evaluate(WORDS % "#upstreams article:last-of-type tbody")
    api.model.write = False
    live = opened()
    live.has_row(FIRST)
    live.go_to("sessions")
    live.has("#sessions tbody tr")
    assert ["Details", "Next page", "Servers"] == live.page.evaluate(WORDS % "main")
