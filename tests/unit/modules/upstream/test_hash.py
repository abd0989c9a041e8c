"""hash and hash consistent choose as nginx does, key by key, whatever else happens."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.balancing import (
    SPEC,
    STEP,
    Clock,
    group,
    has_primary,
    numbered,
    play,
    port,
    session,
    take,
)
from tests.support.in_process import build

# What nginx answered for this group: key, peer of the plain hash, peer of the consistent one.
GROUP = "server 127.0.0.1:24001; server 127.0.0.1:24002 weight=2; server 127.0.0.1:24003;"
ANSWERS = [
    ("a", 24003, 24001),
    ("b", 24002, 24003),
    ("key", 24001, 24002),
    ("client-1", 24001, 24001),
    ("client-2", 24002, 24003),
    ("192.0.2.1", 24002, 24002),
    ("192.0.2.55", 24003, 24002),
    ("2001:db8::1", 24001, 24001),
    ("foo", 24003, 24003),
]


def chosen(lines: str) -> int:
    """Return the port that the first session is sent to."""
    return take(group(lines).select(session(Clock())))


@pytest.mark.parametrize(("key", "plain", "consistent"), ANSWERS)
def test_the_servers_are_those_nginx_chose(key: str, plain: int, consistent: int) -> None:
    """Both ways of hashing send a key to the server that nginx sent it to."""
    assert plain == chosen(f"hash {key}; {GROUP}")
    assert consistent == chosen(f"hash {key} consistent; {GROUP}")


def keys(count: int) -> Callable[[int], bytes]:
    """Return a function that names one of so many keys for a session; key 0 is empty."""
    return lambda number: b"key%d" % (number % count) if number % count else b""


@given(specs=st.lists(SPEC, min_size=1, max_size=6).filter(has_primary),
       steps=st.lists(STEP, max_size=40), count=st.integers(1, 5))
@settings(max_examples=150)
def test_hash_follows_the_rules_whatever_fails(
    specs: list[dict[str, Any]], steps: list[tuple[str, int]], count: int
) -> None:
    """Keys are rehashed past servers that are out, and left to round robin in the end."""
    play(specs, steps, "hash", keys(count))


@given(specs=st.lists(SPEC, min_size=1, max_size=6).filter(has_primary),
       steps=st.lists(STEP, max_size=40), count=st.integers(1, 5))
@settings(max_examples=100)
def test_consistent_hash_follows_the_rules_whatever_fails(
    specs: list[dict[str, Any]], steps: list[tuple[str, int]], count: int
) -> None:
    """Keys go on round the ring past servers that are out, and to round robin in the end."""
    play(specs, steps, "consistent", keys(count))


def test_few_keys_move_when_a_server_goes() -> None:
    """On the ring only the keys of the server that went find another one."""
    before, after = numbered([{}] * 10), numbered([{}] * 9)
    moved = 0
    for n in range(300):
        now = chosen(f"hash key{n} consistent; {after}")
        then = chosen(f"hash key{n} consistent; {before}")
        moved += then != now
        assert then in (now, 10)
    assert 0 < moved < 90


def test_addresses_of_one_name_share_its_points_and_take_turns() -> None:
    """Two server lines with one text own the same points: round robin decides between them."""
    balancer = group("hash x consistent; server 127.0.0.1:1; server 127.0.0.1:1;")
    clock = Clock()
    picks = []
    for _ in range(4):
        selection = balancer.select(session(clock))
        peer = selection.get()
        picks.append(balancer.tier.peers.index(peer))
        selection.free(peer, False)
    assert [0, 1, 0, 1] == picks


def test_an_empty_key_is_left_to_round_robin() -> None:
    """Sessions without a key take turns."""
    for method in ("hash $ssl_preread_server_name", "hash $ssl_preread_server_name consistent"):
        balancer = group(f"{method}; {numbered([{}] * 3)}")
        clock = Clock()
        found = [take(balancer.select(Preread(clock))) for _ in range(3)]
        assert [1, 2, 3] == found


class Preread:
    """A session whose key variable is not found."""

    def __init__(self, clock: Clock) -> None:
        self.loop = clock
        self.ctx = None
        self.values = None

    def module_ctx(self, name: str) -> None:
        """Have nothing."""


def test_unix_sockets_stand_on_the_ring() -> None:
    """unix: servers have points of their own, and equal paths equal ones."""
    group_ = group("hash x consistent; server unix:/a; server UNIX:/a weight=2; server unix:/b;")
    owners = [[bit for bit, _, _ in members] for members in group_.tier.aid.groups]
    assert 160 == sum(bits == [1] for bits in owners)
    assert 160 == sum(bits == [2] for bits in owners)
    assert 160 == sum(bits == [4] for bits in owners)


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ("hash $remote_addr consistently; server 127.0.0.1:1;",
         'invalid parameter "consistently" in /p/conf/nginx.conf:1'),
        ("hash; server 127.0.0.1:1;",
         'invalid number of arguments in "hash" directive in /p/conf/nginx.conf:1'),
        ("hash $; server 127.0.0.1:1;", "invalid variable name in /p/conf/nginx.conf:1"),
        ("hash $no_such_thing; server 127.0.0.1:1;", 'unknown "no_such_thing" variable'),
        ("hash k; server 127.0.0.1:1 backup;",
         'balancing method does not support parameter "backup" in /p/conf/nginx.conf:1'),
        ("server 127.0.0.1:1; server 127.0.0.1:2 backup; hash k;", ""),
        ("hash k; least_conn; server 127.0.0.1:1; server 127.0.0.1:2 backup;", ""),
    ],
)
def test_hash_is_judged_as_in_nginx(lines: str, error: str) -> None:
    """What nginx refuses is refused in its words, and a method binds the lines after it."""
    assert error == build(f"stream {{ upstream u {{ {lines} }} }}").error


def test_a_second_method_wins_and_is_warned_of() -> None:
    """Of two methods the last is used."""
    built = build("stream { upstream u { least_conn; hash k; server 127.0.0.1:1; } }")
    assert ["[warn] load balancing method redefined in /p/conf/nginx.conf:1"] == built.warnings
    assert built.conf is not None
    assert "Hash" == type(built.conf.upstreams[0].balancer).__name__


def test_sessions_with_one_key_stay_on_one_server() -> None:
    """A key keeps its server as long as the server is well."""
    balancer = group(f"hash k; {numbered([{}] * 5)}")
    clock = Clock()
    assert 1 == len({port(balancer.select(session(clock)).get()) for _ in range(20)})
