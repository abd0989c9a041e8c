"""Servers of a group, one by one: listed, added, changed and removed, with NGINX Plus's words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ngxstream.event.loop import Loop
from ngxstream.modules.upstream import view
from ngxstream.stream.api import ApiError
from tests.support.balancing import Clock, is_down, session
from tests.support.groups import Steered

PATH = "/stream/upstreams/u/servers"
DEFAULTS = {
    "weight": 1, "max_conns": 0, "max_fails": 1, "fail_timeout": "10s", "slow_start": "0s",
    "backup": False, "down": False, "drain": False,
}
Make = Callable[..., Steered]


EMPTY = "upstream u { zone u 64k; }"
ONE = "upstream u { zone u 64k; server 127.0.0.1:1 weight=2 max_conns=3; }"


def test_a_group_without_servers_gets_some_and_loses_them(steered: Make) -> None:
    """Each is in force at once, and shown as NGINX Plus shows it."""
    one = steered(EMPTY)
    assert (200, []) == one.ask("GET", PATH)
    assert [] == one.servers()
    first = {"id": 0, "server": "127.0.0.1:1", **DEFAULTS}
    assert (201, first) == one.ask("POST", PATH, {"server": "127.0.0.1:1"})
    second = {"id": 1, "server": "[::1]:2", **DEFAULTS, "backup": True, "weight": 7,
              "fail_timeout": "60s", "max_fails": 0}
    given = {"server": "[0::1]:2", "backup": True, "weight": "7", "fail_timeout": "1m",
             "max_fails": "0"}
    assert (201, second) == one.ask("POST", PATH, given)
    assert (200, [first, second]) == one.ask("GET", PATH)
    assert (200, second) == one.ask("GET", f"{PATH}/1")
    assert (["127.0.0.1:1"], ["[::1]:2"]) == (one.servers(), one.backups())
    assert (200, [second]) == one.ask("DELETE", f"{PATH}/0")
    assert ([], ["[::1]:2"]) == (one.servers(), one.backups())
    third = {"id": 2, "server": "127.0.0.1:3", **DEFAULTS, "drain": True}
    assert (201, third) == one.ask("POST", PATH, {"server": "127.0.0.1:3", "drain": True})
    assert (200, [third]) == one.ask("DELETE", f"{PATH}/1")


def error(one: Steered, *request: Any) -> tuple[int, str, str]:
    """Return status, code and text of a request that is refused."""
    reply = one.reply(*request)
    assert isinstance(reply, ApiError), reply
    return reply.status, reply.code, reply.text


NAMES = "resolver 127.0.0.1:1;"
BAD_ADDRESS = (400, "UpstreamBadAddress")
BAD_FORMAT = (400, "UpstreamConfFormatError")

# what POST is given, and what it says
REFUSED = [
    ({}, *BAD_FORMAT, 'missing "server" argument'),
    (None, *BAD_FORMAT, 'missing "server" argument'),
    ([], *BAD_FORMAT, "nested object or list"),
    (7, *BAD_FORMAT, "nested object or list"),
    ({"server": {}}, *BAD_FORMAT, "nested object or list"),
    ({"weight": [1]}, *BAD_FORMAT, "nested object or list"),
    ({"id": 1, "server": "127.0.0.1:1"}, *BAD_FORMAT, 'unknown parameter "id"'),
    ({"parent": "1"}, *BAD_FORMAT, 'unknown parameter "parent"'),
    ({"server": 80}, *BAD_FORMAT, 'invalid "server" value'),
    ({"server": None}, *BAD_FORMAT, 'invalid "server" value'),
    ({"down": 1}, *BAD_FORMAT, 'invalid "down" value'),
    ({"backup": "maybe"}, *BAD_FORMAT, 'invalid "backup" value'),
    ({"server": ""}, *BAD_ADDRESS, 'invalid "server" argument'),
    ({"server": "a b:80"}, *BAD_ADDRESS, 'invalid "server" argument'),
    ({"server": "a.test;}\n:80"}, *BAD_ADDRESS, 'invalid "server" argument'),
    ({"server": "-a.test:80"}, *BAD_ADDRESS, 'invalid "server" argument'),
    ({"server": "a" * 513}, *BAD_ADDRESS, 'invalid "server" argument'),
    ({"server": "127.0.0.1:0"}, *BAD_ADDRESS, 'invalid port in "127.0.0.1:0" while parsing'),
    ({"server": "127.0.0.1"}, *BAD_ADDRESS, 'no port in server "127.0.0.1"'),
    ({"server": "a.test"}, *BAD_ADDRESS, 'no port in server "a.test"'),
    ({"server": "a.test:1", "service": "b"}, *BAD_ADDRESS,
     'service upstream "a.test:1" may not have port'),
    ({"server": "127.0.0.1", "service": "b"}, *BAD_ADDRESS,
     'service upstream "127.0.0.1" requires domain name'),
    ({"server": "a.test", "service": ""}, 400, "UpstreamBadService", '"service" is empty'),
    ({"server": "a.test", "service": "a b"}, 400, "UpstreamBadService", 'invalid "service"'),
    ({"weight": 0}, 400, "UpstreamBadWeight", 'invalid "weight"'),
    ({"weight": 65536}, 400, "UpstreamBadWeight", 'invalid "weight"'),
    ({"weight": "x"}, 400, "UpstreamBadWeight", 'invalid "weight"'),
    ({"weight": 1.5}, 400, "UpstreamBadWeight", 'invalid "weight"'),
    ({"weight": True}, 400, "UpstreamBadWeight", 'invalid "weight"'),
    ({"max_conns": -1}, 400, "UpstreamBadMaxConns", 'invalid "max_conns"'),
    ({"max_fails": None}, 400, "UpstreamBadMaxFails", 'invalid "max_fails"'),
    ({"fail_timeout": "10ms"}, 400, "UpstreamBadFailTimeout", 'invalid "fail_timeout"'),
    ({"fail_timeout": 1e3}, 400, "UpstreamBadFailTimeout", 'invalid "fail_timeout"'),
    ({"slow_start": "x"}, 400, "UpstreamBadSlowStart", 'invalid "slow_start"'),
    ({"server": "127.0.0.1:1"}, 409, "EntryExists", 'server "127.0.0.1:1" already exists'),
    ({"server": "127.0.0.1:1", "backup": True}, 409, "EntryExists",
     'server "127.0.0.1:1" already exists'),
]


@pytest.mark.parametrize(("body", "status", "code", "text"), REFUSED)
def test_what_cannot_be_added_is_refused(
    steered: Make, body: Any, status: int, code: str, text: str
) -> None:
    """With the code that says what is wrong; nothing changes."""
    one = steered(f"{NAMES} {ONE}")
    assert (status, code, text) == error(one, "POST", PATH, body)
    assert ["127.0.0.1:1"] == one.servers()


def test_a_name_needs_a_resolver(steered: Make) -> None:
    """As in the configuration."""
    assert (400, "UpstreamConfNoResolver", "no resolver defined to resolve") == error(
        steered(ONE), "POST", PATH, {"server": "a.test:80"}
    )


@pytest.mark.parametrize("method", ["hash k", "hash k consistent", "random", "random two"])
def test_a_method_without_backups_takes_none(steered: Make, method: str) -> None:
    """Nor does the configuration."""
    one = steered(f"upstream u {{ {method}; zone z 64k; }}")
    body = {"server": "127.0.0.1:1", "backup": True}
    assert (400, "UpstreamNoBackup", 'upstream "u" has no backup') == error(
        one, "POST", PATH, body
    )
    assert 201 == one.ask("POST", PATH, {"server": "127.0.0.1:1"})[0]


@pytest.mark.parametrize(("method", "path"), [
    ("GET", PATH), ("POST", PATH), ("GET", f"{PATH}/0"), ("PATCH", f"{PATH}/0"),
    ("DELETE", f"{PATH}/0"),
])
def test_a_group_that_is_not_there_or_has_no_zone(
    steered: Make, method: str, path: str
) -> None:
    """404 and 400, whatever is asked for; what proxy_pass makes of an address is no group."""
    one = steered(
        "upstream u { server 127.0.0.1:1; } "
        "server { listen 127.0.0.1:2; proxy_pass 127.0.0.1:3; }"
    )
    body = {"server": "127.0.0.1:2"}
    assert (400, "UpstreamStatic", "upstream is static") == error(one, method, path, body)
    for name in ("v", "127.0.0.1"):
        assert (404, "UpstreamNotFound", "upstream not found") == error(
            one, method, path.replace("/u/", f"/{name}/"), body
        )


def test_a_group_that_nobody_may_change_is_shown(steered: Make) -> None:
    """It has a zone, but there is no api with write=on; lines with names have ids too."""
    one = steered(
        f"{NAMES} upstream u {{ zone z 64k; server a.test:1 resolve; server 127.0.0.1:1; }}",
        steer="",
    )
    status, found = one.ask("GET", PATH)
    assert 200 == status
    assert ["a.test:1", "127.0.0.1:1"] == [server["server"] for server in found]
    assert (400, "UpstreamStatic", "upstream is static") == error(
        one, "POST", PATH, {"server": "127.0.0.1:2"}
    )


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_an_id_that_no_server_has(steered: Make, method: str) -> None:
    """What is no number is another error."""
    one = steered(ONE)
    for text in ("x", "-1", "1" * 30, "\N{SUPERSCRIPT TWO}"):
        assert (400, "UpstreamBadServerId", "invalid server id") == error(
            one, method, f"{PATH}/{text}", {}
        )
    assert (404, "UpstreamServerNotFound", 'server "5" not found') == error(
        one, method, f"{PATH}/5", {}
    )


@pytest.mark.parametrize("method", ["hash k", "random"])
def test_slow_start_is_not_for_every_method(steered: Make, method: str) -> None:
    """As in the configuration."""
    one = steered(f"upstream u {{ {method}; zone z 64k; server 127.0.0.1:1; }}")
    text = 'load balancing method does not support parameter "slow_start"'
    for request in (("POST", PATH, {"server": "127.0.0.1:2", "slow_start": "1s"}),
                    ("PATCH", f"{PATH}/0", {"slow_start": 1})):
        assert (400, "UpstreamBadSlowStart", text) == error(one, *request)
    assert 200 == one.ask("PATCH", f"{PATH}/0", {"slow_start": "0s"})[0]


def test_a_server_that_is_added_or_brought_back_begins_slowly(steered: Make, loop: Loop) -> None:
    """One that stays where it is does not; nor does one of the configuration."""
    one = steered(
        "upstream u { zone z 64k; server 127.0.0.1:1 slow_start=10s; server 127.0.0.1:2; }"
    )

    def backs() -> list[bool]:
        return [peer.state.back_ms == loop.now_ms for peer in one.group().tier.peers]

    assert [False, False] == backs()
    one.ask("PATCH", f"{PATH}/0", {"weight": 2})
    one.ask("PATCH", f"{PATH}/0", {"drain": True})
    one.ask("PATCH", f"{PATH}/1", {"down": True})
    assert [False, False] == backs()
    one.ask("PATCH", f"{PATH}/0", {"drain": False})
    one.ask("PATCH", f"{PATH}/1", {"down": False})
    one.ask("POST", PATH, {"server": "127.0.0.1:3", "slow_start": "1m"})
    assert [True, False, True] == backs()


def test_a_change_says_what_is_different(steered: Make) -> None:
    """What it does not name stays, and what it repeats is no change."""
    one = steered(ONE)
    kept = {"id": 0, "server": "127.0.0.1:1", **DEFAULTS, "weight": 2, "max_conns": 3}
    assert (200, kept) == one.ask("PATCH", f"{PATH}/0", {})
    kept["weight"] = 5
    same = {"server": "127.0.0.1:1", "backup": False, "weight": 5}
    assert (200, kept) == one.ask("PATCH", f"{PATH}/0", same)
    assert 5 == one.group().tier.peers[0].state.effective_weight
    kept.update(down=True, fail_timeout="7s")
    assert (200, kept) == one.ask("PATCH", f"{PATH}/0", {"down": True, "fail_timeout": 7})
    assert is_down(one.group().tier.peers[0])


@pytest.mark.parametrize(("body", "status", "code", "text"), [
    ({"backup": True}, *BAD_FORMAT, 'invalid "backup" value'),
    ({"service": "a"}, *BAD_FORMAT, 'invalid "service" value'),
    ({"id": 0}, *BAD_FORMAT, 'unknown parameter "id"'),
    ({"server": "a.test:1"}, 400, "UpstreamServerImmutable", "address is immutable"),
    ({"server": "127.0.0.1:2"}, *BAD_ADDRESS, 'server "127.0.0.1:2" already exists'),
    ({"server": "127.0.0.1"}, *BAD_ADDRESS, 'no port in server "127.0.0.1"'),
])
def test_what_cannot_be_changed(
    steered: Make, body: Any, status: int, code: str, text: str
) -> None:
    """Whether it is a backup, what it is called for, what it is."""
    one = steered(
        f"{NAMES} upstream u {{ zone z 64k; server 127.0.0.1:1; server 127.0.0.1:2; }}"
    )
    assert (status, code, text) == error(one, "PATCH", f"{PATH}/0", body)


def test_another_address_begins_anew_with_the_same_id(steered: Make) -> None:
    """Failures are forgotten; sessions on the former address count until they end."""
    one = steered(ONE)
    (peer,) = one.group().tier.peers
    peer.state.fail(0)
    peer.state.conns += 1
    status, found = one.ask("PATCH", f"{PATH}/0", {"server": "127.0.0.1:9"})
    assert (200, 0, "127.0.0.1:9") == (status, found["id"], found["server"])
    (peer,) = one.group().tier.peers
    assert ("127.0.0.1:9", 0, 1, 2) == (
        peer.name, peer.state.fails, peer.state.conns, peer.state.effective_weight
    )


def test_a_zone_that_is_full_takes_no_more(steered: Make) -> None:
    """Nothing of the one that had no room is left behind."""
    one = steered("upstream u { zone z 32k; }")
    for n in range(128):
        assert 201 == one.ask("POST", PATH, {"server": f"127.0.0.1:{n + 1}"})[0]
    full = (400, "UpstreamOutOfMemory", 'upstream "u" memory exhausted')
    assert full == error(one, "POST", PATH, {"server": "127.0.0.1:1000"})
    assert 200 == one.ask("DELETE", f"{PATH}/7")[0]
    status, found = one.ask("POST", PATH, {"server": "127.0.0.1:1000"})
    assert (201, 7) == (status, found["id"])
    assert 128 == len(one.servers())


def test_the_records_of_names_are_used_up_too(steered: Make) -> None:
    """As many names as the zone allows can be added; a removed one makes room."""
    one = steered(f"{NAMES} upstream u {{ zone z 32k; }}")
    for n in range(4):
        assert 201 == one.ask("POST", PATH, {"server": f"a{n}.test:1"})[0]
    body = {"server": "a9.test:1"}
    assert "UpstreamOutOfMemory" == one.ask("POST", PATH, body)[1]
    assert 200 == one.ask("DELETE", f"{PATH}/2")[0]
    assert 201 == one.ask("POST", PATH, body)[0]
    assert "EntryExists" == one.ask("POST", PATH, body)[1]


def test_what_a_refused_server_was_given_is_free_again(steered: Make) -> None:
    """A name for which there is a row, but no record, does not keep the row."""
    one = steered(f"{NAMES} upstream u {{ zone z 32k; }}")
    for n in range(127):
        body = {"server": f"a{n}.test:1" if n < 4 else f"127.0.0.1:{n}"}
        assert 201 == one.ask("POST", PATH, body)[0]
    assert "UpstreamOutOfMemory" == one.ask("POST", PATH, {"server": "a9.test:1"})[1]
    assert 201 == one.ask("POST", PATH, {"server": "127.0.0.1:1000"})[0]


def test_a_drained_server_keeps_its_sessions_and_gets_no_others(steered: Make) -> None:
    """A removed one too: it is a zombie until they have ended."""
    one = steered("upstream u { zone z 64k; server 127.0.0.1:1; server 127.0.0.1:2; }")
    conf = one.conf()
    assert conf.balancer is not None
    selections = [conf.balancer.select(session(Clock())) for _ in range(2)]
    peers: Any = [selection.get() for selection in selections]
    one.ask("PATCH", f"{PATH}/0", {"drain": True})
    assert {"127.0.0.1:2"} == {
        conf.balancer.select(session(Clock())).get().name for _ in range(4)
    }
    assert [1, 5] == [shown.peer.state.conns for shown in view.peers(conf)]
    one.ask("DELETE", f"{PATH}/0")
    assert 1 == view.zombies(conf)
    for selection, peer in zip(selections, peers, strict=True):
        selection.free(peer, False)
        peer.state.settle()
    assert 0 == view.zombies(conf)
