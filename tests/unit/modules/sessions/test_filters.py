"""Filters of sessions: what arguments mean, and which sessions they mean."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.ipc.codec import CodecError
from ngxstream.modules.sessions import filters
from ngxstream.modules.sessions.filters import Chosen, Filter
from ngxstream.stream.api import ApiError
from ngxstream.stream.content import CONNECTING, RELAYING, STATES, Shown
from tests.support.shown import MadeSession

KNOWN = (*filters.ARGUMENTS, *filters.PAGING)
NOW_MS = 100_000


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("protocol", "tcp", "protocol", "tcp"), ("protocol", "udp", "protocol", "udp"),
        ("client", "192.0.2.1", "client", "192.0.2.1"), ("client", "::/0", "client", "::/0"),
        ("client", "unix:", "client", "unix:"), ("server", "a b", "server", "a b"),
        ("upstream", "u", "upstream", "u"), ("peer", "unix:/x", "peer", "unix:/x"),
        ("state", "relaying", "state", "relaying"), ("min_age", "5s", "min_age", 5000),
        ("max_age", "1m 2s", "max_age", 62_000), ("min_idle", "500ms", "min_idle", 500),
        ("max_age", "0", "max_age", 0), ("limit", "1", "limit", 1),
        ("limit", "1000", "limit", 1000),
        ("cursor", "0", "after", 0), ("cursor", str((1 << 63) - 1), "after", (1 << 63) - 1),
    ],
)
def test_an_argument_is_read(name: str, text: str, field: str, value: object) -> None:
    """And nothing else is chosen by it; the question says the same to all workers."""
    chosen = filters.parse({name: text}, KNOWN)
    assert Chosen(**{field: value}) == chosen  # type: ignore[arg-type]
    assert chosen == Filter(filters.pack(chosen), NOW_MS).chosen


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("protocol", "sctp"), ("protocol", "TCP"), ("client", ""), ("client", "192.0.2"),
        ("client", "192.0.2.1/33"), ("client", "::1/129"), ("client", "192.0.2.1:80"),
        ("client", "unix:/x"), ("client", "192.0.2.1/"), ("server", ""), ("upstream", ""),
        ("upstream", "x" * 1025), ("peer", ""), ("state", "done"), ("state", ""),
        ("min_age", ""), ("min_age", "-1"), ("min_age", "5x"), ("max_age", "s"),
        ("min_idle", "1e3"), ("limit", "0"), ("limit", "1001"), ("limit", "+1"), ("limit", ""),
        ("limit", "1.0"), ("limit", "\u0661"), ("limit", "1" * 20), ("cursor", "-1"),
        ("cursor", "x"), ("cursor", str(1 << 63)),
    ],
)
def test_a_value_that_is_none_is_refused(name: str, text: str) -> None:
    """By name, as a client's fault."""
    with pytest.raises(ApiError) as raised:
        filters.parse({name: text}, KNOWN)
    assert (400, "BadArgument", f'invalid "{name}" value') == (
        raised.value.status, raised.value.code, raised.value.text
    )


def test_an_argument_nobody_knows_is_refused() -> None:
    """It would choose more than was meant."""
    with pytest.raises(ApiError, match='unknown argument "clients"'):
        filters.parse({"protocol": "tcp", "clients": "192.0.2.1"}, KNOWN)
    with pytest.raises(ApiError, match='unknown argument "limit"'):
        filters.parse({"limit": "7"}, filters.ARGUMENTS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12-345", (12, 345)), ("1-0", (1, 0)), ("0-1", None), ("12", None), ("12-", None),
        ("-1", None), ("12-3-4", None), ("12--3", None), ("a-1", None), ("", None),
        (f"{1 << 31}-1", None), (f"1-{1 << 63}", None), (" 1-1", None),
    ],
)
def test_an_id_is_a_process_and_a_number(text: str, expected: tuple[int, int] | None) -> None:
    """Nothing else is one."""
    found = filters.parse_id(text)
    assert expected == (None if found is None else (found.pid, found.number))


@given(st.binary(max_size=200))
def test_a_payload_is_a_filter_or_refused(payload: bytes) -> None:
    """Another process may say anything."""
    try:
        Filter(payload, NOW_MS)
    except CodecError:
        pass


def test_a_block_of_addresses_is_checked_in_the_worker_too() -> None:
    """Who asks may be another process than one that has read arguments."""
    with pytest.raises(CodecError, match="can be none"):
        Filter(filters.pack(Chosen(client="x")), NOW_MS)


SESSION: dict[str, Any] = {
    "sockaddr": ("192.0.2.7", 4000), "start_ms": NOW_MS - 30_000, "text": "127.0.0.1:53",
    "label": "dns", "shown": Shown(RELAYING, NOW_MS - 2_000, "group", "10.0.0.1:53", None),
}


def fits(chosen: Chosen, **changed: Any) -> bool:
    """Tell whether a session like SESSION is chosen."""
    s: Any = MadeSession(SimpleNamespace(), 5, **{**SESSION, **changed})
    return Filter(filters.pack(chosen), NOW_MS).fits(s)


@pytest.mark.parametrize(
    ("yes", "no"),
    [
        ({"protocol": "tcp"}, {"protocol": "udp"}),
        ({"client": "192.0.2.0/24"}, {"client": "192.0.3.0/24"}),
        ({"client": "192.0.2.7"}, {"client": "192.0.2.8"}),
        ({"client": "0.0.0.0/0"}, {"client": "::/0"}),
        ({"client": "0.0.0.0/0"}, {"client": "unix:"}),
        ({"server": "dns"}, {"server": "dn"}),
        ({"server": "127.0.0.1:53"}, {"server": "udp 127.0.0.1:53"}),
        ({"upstream": "group"}, {"upstream": "10.0.0.1:53"}),
        ({"peer": "10.0.0.1:53"}, {"peer": "group"}),
        ({"state": "relaying"}, {"state": "connecting"}),
        ({"min_age": 30_000}, {"min_age": 30_001}),
        ({"max_age": 30_000}, {"max_age": 29_999}),
        ({"min_age": 10, "max_age": 40_000}, {"max_age": 0}),
        ({"min_idle": 2_000}, {"min_idle": 2_001}),
        ({"number": 5}, {"number": 6}),
        ({"besides": 6}, {"besides": 5}),
        ({}, {"protocol": "tcp", "client": "192.0.2.7", "state": "connecting"}),
    ],
)
def test_a_filter_tells_sessions_apart(yes: dict[str, Any], no: dict[str, Any]) -> None:
    """Everything that is given has to fit."""
    assert fits(Chosen(**yes))
    assert not fits(Chosen(**no))


def test_what_is_found_of_other_kinds_of_sessions() -> None:
    """UDP listening addresses, clients of unix sockets, mapped addresses, no zone."""
    assert fits(Chosen(server="udp 127.0.0.1:53"), is_udp=True)
    assert fits(Chosen(client="unix:"), sockaddr="")
    assert not fits(Chosen(client="0.0.0.0/0"), sockaddr="")
    assert fits(Chosen(client="192.0.2.0/24"), sockaddr=("::ffff:192.0.2.7", 1, 0, 0))
    assert fits(Chosen(client="2001:db8::/32"), sockaddr=("2001:db8::7", 1, 0, 0))
    assert fits(Chosen(server="127.0.0.1:53"), label="")
    assert fits(Chosen(min_idle=30_000), shown=Shown(CONNECTING))  # since it began
    assert not fits(Chosen(min_idle=1), shown=Shown(RELAYING, NOW_MS + 500))


def test_who_has_ended_fits_nothing() -> None:
    """A scan may meet sessions that have ended since it began."""
    s: Any = MadeSession(SimpleNamespace(), 5)
    chosen = Filter(filters.pack(Chosen()), NOW_MS)
    assert chosen.fits(s)
    s.status = 200
    assert not chosen.fits(s)


def test_before_its_content_a_session_begins_or_is_preread() -> None:
    """Or a function is waited for; by what is in its ctx."""
    s: Any = MadeSession(SimpleNamespace(), 5)
    s.content = None
    ctx: dict[str, Any] = {}
    s.module_ctx = ctx.get
    assert "beginning" == filters.shown_of(s).state
    ctx["preread"] = SimpleNamespace(is_elsewhere=False)
    assert "preread" == filters.shown_of(s).state
    ctx["preread"].is_elsewhere = True
    assert "script" == filters.shown_of(s).state
    del ctx["preread"]
    ctx["py"] = SimpleNamespace(tasks=set())
    assert "beginning" == filters.shown_of(s).state
    ctx["py"].tasks = {"a task"}
    assert "script" == filters.shown_of(s).state
    assert {"beginning", "preread", "script"} < set(STATES)
