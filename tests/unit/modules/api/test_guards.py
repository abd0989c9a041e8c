"""What pages of others may make a browser ask for."""

from pathlib import Path

import pytest

from ngxstream.core.hostnames import HostTable
from ngxstream.modules.api import guards
from ngxstream.stream.api import ApiError
from ngxstream.wire.http import Head
from tests.support import http_replies as h
from tests.support.in_process import InProcess

BROWSER = {"user-agent": "Mozilla/5.0 (X11; Linux)", "accept-language": "en"}


def names(*texts: bytes) -> HostTable[bool]:
    """Return a table of these names."""
    table: HostTable[bool] = HostTable()
    for text in texts:
        table.add(text, True)
    return table


def head(host: str, method: str = "GET", **headers: str) -> Head:
    """Return the head of a request. Args: headers: with underscores for hyphens"""
    name = host.rpartition(":")[0] if host[-1:].isdigit() and ":" in host else host
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return Head(method, "/", "", 1, name, host, fields, True, False, 0)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "10.1.2.3", "[::1]", "localhost", "x.localhost", "", "here", "here.example.org",
     "api.example.com", "a.b.example.net", "localhost."],
)
def test_a_browser_is_served_under_own_names(host: str) -> None:
    """Addresses, localhost, this host's name and those of server_name."""
    assert guards.is_own_name(host, names(b"api.example.com", b"*.example.net"), "here.example.org")


@pytest.mark.parametrize(
    "host", ["attacker.example", "127.0.0.1.attacker.example", "localhost.attacker.example",
             "attacker.example.com", "example.net", "xlocalhost", "1.2.3.4.5", "he"],
)
def test_a_browser_is_not_served_under_others(host: str) -> None:
    """Whatever they begin or end with."""
    own = names(b"api.example.com", b"*.example.net")
    assert not guards.is_own_name(host, own, "here.example.org")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, False), ({"user-agent": "curl/8.1"}, False),
        ({"user-agent": "Prometheus/2.4", "accept-encoding": "gzip"}, False),
        ({"user-agent": "NGINX-Prometheus-Exporter/v1.3"}, False), (BROWSER, True),
        ({"user-agent": "Mozilla/5.0"}, True), ({"accept-language": ""}, True),
        ({"referer": "http://a/"}, True), ({"sec-fetch-mode": "cors"}, True),
        ({"sec-fetch-site": "none"}, True), ({"origin": "null"}, True),
    ],
)  # fmt: skip
def test_a_browser_is_known_by_what_it_sends(headers: dict[str, str], expected: bool) -> None:
    """A page cannot keep it from that."""
    assert expected is guards.is_browser(headers)


@pytest.mark.parametrize(
    ("host", "headers"),
    [
        ("a", {}), ("a:80", {"origin": "http://a"}), ("a", {"origin": "http://a:80"}),
        ("a:8080", {"origin": "http://A:8080"}), ("a:443", {"origin": "https://a"}),
        ("a", {"referer": "http://a/dashboard.html?x#y"}), ("[::1]:1", {"origin": "http://[::1]:1"}),
        ("a", {"origin": "http://a", "sec_fetch_site": "same-origin"}),
        ("a", {"sec_fetch_site": "none"}),
    ],
)  # fmt: skip
def test_a_page_of_this_server_may_change_something(host: str, headers: dict[str, str]) -> None:
    """And so may who is no page."""
    guards.check_origin(head(host, "POST", **headers))


@pytest.mark.parametrize(
    ("host", "headers"),
    [
        ("a", {"origin": "null"}), ("a", {"origin": "http://b"}), ("a", {"origin": "http://a:81"}),
        ("a:80", {"origin": "https://a"}), ("a", {"origin": "http://a.b"}), ("a", {"origin": ""}),
        ("a", {"origin": "http://a@b"}), ("a", {"origin": "file:///a"}), ("a", {"origin": "a"}),
        ("a", {"origin": "http://a", "sec_fetch_site": "cross-site"}),
        ("a", {"sec_fetch_site": "cross-site"}), ("a", {"sec_fetch_site": "same-site"}),
        ("a", {"referer": "http://b/http://a/"}), ("", {"origin": "http://a"}),
        ("a", {"origin": "http://a, http://b"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_page_of_another_server_may_not(
    host: str, headers: dict[str, str], method: str
) -> None:
    """Whatever it says besides."""
    with pytest.raises(ApiError) as caught:
        guards.check_origin(head(host, method, **headers))
    assert (403, "CrossSiteRequest") == (caught.value.status, caught.value.code)
    guards.check_origin(head(host, "GET", **headers))


def test_a_browser_that_was_led_here_reads_nothing() -> None:
    """Not even the page; who is no browser is served under any name."""
    with InProcess(h.CONF % "server_name api.example.com www.*; api write=on;") as served:
        for host in ("attacker.example", "www.attacker.example", "www.attacker"):
            got = h.ask(served, "/", host=host, Accept_Language="en")
            assert (403, "HostNotAllowed") == (got.status, got.code)
        assert 200 == h.ask(served, "/", host="api.example.com", Accept_Language="en").status
        assert 200 == h.ask(served, "/api", host="attacker.example").status
        absolute = h.ask(served, "http://attacker.example/api", Accept_Language="en")
        assert "HostNotAllowed" == absolute.code


def test_a_forged_form_changes_nothing() -> None:
    """A page of another server sends it with the reader's own browser."""
    with InProcess(h.CONF % "api write=on;") as served:
        for kind in ("text/plain", "application/json"):
            got = h.ask(served, "/api/9/x", "POST", b"{}", Origin="http://b", Content_Type=kind)
            assert (403, "CrossSiteRequest") == (got.status, got.code)
        got = h.ask(served, "/api/9/x", "POST", b"{}", Content_Type="text/plain")
        assert 404 == got.status


def test_a_unix_socket_is_served_under_any_name(tmp_path: Path) -> None:
    """No browser gets there; what goes before it may pass a browser's request on."""
    with InProcess(f"stream {{ server {{ listen unix:{tmp_path}/s; api; }} }}") as served:
        assert 200 == h.ask(served, "/api", host="any.example", Accept_Language="en").status
