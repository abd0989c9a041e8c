"""The directives of the API: what they accept and refuse."""

from pathlib import Path

import pytest

from ngxstream.stream.module import StreamModule
from tests.support import certs
from tests.support import http_replies as h
from tests.support.in_process import InProcess, build

SERVER = "stream {{ server {{ listen 127.0.0.1:1; {} }} }}"


@pytest.mark.effect("api")
def test_an_address_serves_the_api() -> None:
    """HTTP is spoken there, read-only."""
    with InProcess(h.CONF % "api;") as served:
        got = h.ask(served)
        assert (200, [1, 2, 3, 4, 5, 6, 7, 8, 9]) == (got.status, got.json)
        own = h.ask(served, "/api/ngxstream/1/").json
        assert own["write"] is False


@pytest.mark.effect("api")
def test_writing_and_the_prefix_are_parameters() -> None:
    """In any order; the prefix moves the API alone."""
    with InProcess(h.CONF % "api prefix=/status/api write=on;") as served:
        assert h.ask(served, "/status/api/ngxstream/1").json["write"] is True
        assert "PathNotFound" == h.ask(served, "/api/").code
        assert b"ok" == h.ask(served, "/healthz").body


@pytest.mark.parametrize(
    "directive", ["api;", "api write=on;", "api write=off;", "api prefix=/a/b-c;"]
)
def test_what_is_accepted(directive: str) -> None:
    """Forms of the directive."""
    built = build(SERVER.format(directive))
    assert ("", []) == (built.error, built.warnings)


@pytest.mark.refusal("api")
@pytest.mark.parametrize(
    ("directive", "error"),
    [
        ("api on;", 'invalid parameter "on"'),
        ("api write=yes;", 'invalid parameter "write=yes"'),
        ("api write=on write=on;", 'invalid parameter "write=on"'),
        ("api prefix=api;", 'invalid parameter "prefix=api"'),
        ("api prefix=/;", 'invalid parameter "prefix=/"'),
        ("api prefix=/a/;", 'invalid parameter "prefix=/a/"'),
        ("api prefix=/a%20b;", 'invalid parameter "prefix=/a%20b"'),
        ("api; api;", '"api" directive is duplicate'),
    ],
)
def test_what_is_refused(directive: str, error: str) -> None:
    """With nginx's words, and where it stands."""
    assert f"{error} in /p/conf/nginx.conf:1" == build(SERVER.format(directive)).error


@pytest.mark.refusal("api")
def test_udp_has_no_api() -> None:
    """An address of datagrams is named."""
    text = "stream { server { listen 127.0.0.1:1 udp; listen 127.0.0.1:1; api; } }"
    assert (
        '"api" cannot be served over UDP, at "127.0.0.1:1" in /p/conf/nginx.conf:1'
        == build(text).error
    )


def test_the_block_knows_that_it_is_shown() -> None:
    """Modules look whether anybody can see what they count."""
    seen: list[bool] = []
    look = StreamModule("look", finish=lambda draft: seen.append(draft.is_shown))
    for directive in ("api;", "return hi;"):
        build(SERVER.format(directive), more=(look,))
    assert [True, False] == seen


EXPOSED = "[warn] \"api\" with \"write=on\" is open to everybody at \"{}\": it wants \"allow\" and "
EXPOSED += "\"deny all\", \"api_user_file\" or client certificates in /p/conf/nginx.conf:1"


@pytest.mark.parametrize("address", ["192.0.2.1:1", "0.0.0.0:1", "[::]:1", "[2001:db8::1]:1"])
def test_an_open_door_is_warned_of(address: str) -> None:
    """Where anybody may get there and change something."""
    text = f"stream {{ server {{ listen {address}; api write=on; }} }}"
    assert [EXPOSED.format(address)] == build(text).warnings


@pytest.mark.parametrize(
    ("address", "rules"),
    [
        ("192.0.2.1:1", "allow 192.0.2.0/24;"), ("0.0.0.0:1", "allow all; deny all;"),
        ("[::]:1", "allow 10.0.0.0/8; deny 0.0.0.0/0;"), ("0.0.0.0:1", "deny 192.0.2.7;"),
        ("0.0.0.0:1", "deny unix:;"),
    ],
)  # fmt: skip
def test_a_rule_that_denies_not_everybody_else_is_no_guard(address: str, rules: str) -> None:
    """Who no rule names may pass: `allow` alone keeps nobody out."""
    text = f"stream {{ server {{ listen {address}; {rules} api write=on; }} }}"
    assert [EXPOSED.format(address)] == build(text).warnings


@pytest.mark.parametrize(
    ("listen", "directives"),
    [
        ("127.0.0.1:1", "api write=on;"), ("[::1]:1", "api write=on;"),
        ("127.9.9.9:1", "api write=on;"), ("[::ffff:127.0.0.1]:1", "api write=on;"),
        ("unix:/tmp/a.sock", "api write=on;"), ("192.0.2.1:1", "api;"),
        ("192.0.2.1:1", "allow 192.0.2.0/24; deny all; api write=on;"),
        ("192.0.2.1:1", "allow 192.0.2.0/24; deny 0.0.0.0/0; api write=on;"),
        ("[2001:db8::1]:1", "allow 2001:db8::/32; deny ::/0; api write=on;"),
    ],
)  # fmt: skip
def test_a_guarded_door_is_not(listen: str, directives: str) -> None:
    """Or where nothing can be changed."""
    text = f"stream {{ server {{ listen {listen}; {directives} }} }}"
    assert ("", []) == (build(text).error, build(text).warnings)


def test_a_user_file_is_a_guard(tmp_path: Path) -> None:
    """Of the block or of the server."""
    (tmp_path / "users").write_text("a:{PLAIN}b")
    for text in (
        "stream {{ api_user_file {}; server {{ listen 192.0.2.1:1; api write=on; }} }}",
        "stream {{ server {{ listen 192.0.2.1:1; api write=on; api_user_file {}; }} }}",
    ):
        assert [] == build(text.format(tmp_path / "users")).warnings


@pytest.mark.parametrize(("verify", "count"), [("on", 0), ("optional", 1), ("off", 1)])
def test_client_certificates_are_a_guard(tmp_path: Path, verify: str, count: int) -> None:
    """Where they are demanded."""
    ca = certs.Authority(tmp_path)
    made = ca.issue("a.test")
    text = (
        f"stream {{ server {{ listen 192.0.2.1:1 ssl; api write=on; ssl_certificate {made.cert}; "
        f"ssl_certificate_key {made.key}; ssl_client_certificate {ca.cert}; "
        f"ssl_verify_client {verify}; }} }}"
    )
    built = build(text)
    assert ("", count) == (built.error, len(built.warnings))
