"""The servers of a group as one list: all at once or none, and only if nobody else was faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ngxstream.stream.api import OWN, ApiError, Reply
from tests.support.groups import Steered, plain

PATH = "/upstreams/u/servers"
Make = Callable[..., Steered]
TWO = "upstream u { zone z 64k; server 127.0.0.1:1 weight=2; server 127.0.0.1:2 backup; }"


def read(one: Steered) -> tuple[str, list[dict[str, Any]]]:
    """Return the entity tag and the list."""
    reply = one.reply("GET", PATH, tree=OWN)
    assert isinstance(reply, Reply)
    return dict(reply.headers)["ETag"], plain(reply.value)


def test_what_is_read_can_be_written(steered: Make) -> None:
    """And changes nothing; the tag is the same."""
    one = steered(TWO)
    tag, found = read(one)
    assert [0, 1] == [server["id"] for server in found]
    assert (200, found) == one.own("PUT", PATH, found, if_match=tag)
    assert (tag, found) == read(one)


def test_a_list_is_replaced_as_a_whole(steered: Make) -> None:
    """Who stays keeps the id, by id or by address; what is not said has its default."""
    one = steered(TWO)
    tag, _ = read(one)
    body = [
        {"server": "127.0.0.1:3", "drain": True}, {"id": 1, "server": "127.0.0.1:9", "weight": 5},
        {"server": "127.0.0.1:1"},
    ]
    status, found = one.own("PUT", PATH, body, if_match=f'"x", {tag}')
    assert (200, [2, 1, 0]) == (status, [server["id"] for server in found])
    assert [True, False, False] == [server["drain"] for server in found]
    assert [1, 5, 1] == [server["weight"] for server in found]
    assert ["127.0.0.1:3", "127.0.0.1:9", "127.0.0.1:1"] == one.servers()
    assert found == read(one)[1]
    assert (200, []) == one.own("PUT", PATH, [])
    assert [] == one.servers()


def test_who_is_late_changes_nothing(steered: Make) -> None:
    """412 when the list is another one by now; any list is meant by *."""
    one = steered(TWO)
    tag, found = read(one)
    one.ask("PATCH", "/stream/upstreams/u/servers/0", {"down": True})
    assert tag != read(one)[0]
    assert (412, "PreconditionFailed") == one.own("PUT", PATH, found, if_match=tag)
    assert (412, "PreconditionFailed") == one.own("PUT", PATH, found, if_match=f"W/{read(one)[0]}")
    assert (200, found) == one.own("PUT", PATH, found, if_match="*")
    assert tag == read(one)[0]


def test_a_dry_run_says_what_would_be(steered: Make) -> None:
    """All is checked; new servers have no id, and nothing changes."""
    one = steered(TWO)
    before = read(one)
    body = [{"server": "127.0.0.1:3"}, {"server": "127.0.0.1:1"}]
    status, found = one.own("PUT", f"{PATH}?dry_run=1", body)
    assert (200, [None, 0]) == (status, [server.get("id") for server in found])
    bad = [*body, {"server": "127.0.0.1"}]
    assert (400, "UpstreamBadAddress") == one.own("PUT", f"{PATH}?dry_run=1", bad)
    assert (412, "PreconditionFailed") == one.own(
        "PUT", f"{PATH}?dry_run=1", body, if_match='"x"'
    )
    assert (400, "BadRequest") == one.own("PUT", f"{PATH}?dry_run=yes", body)
    assert before == read(one)


@pytest.mark.parametrize(("body", "error"), [
    (None, (400, "UpstreamConfFormatError")),
    ({"server": "127.0.0.1:3"}, (400, "UpstreamConfFormatError")),
    ([7], (400, "UpstreamConfFormatError")),
    ([{"weight": 1}], (400, "UpstreamConfFormatError")),
    ([{"server": "127.0.0.1:3", "x": 1}], (400, "UpstreamConfFormatError")),
    ([{"server": "127.0.0.1:3", "id": "1"}], (400, "UpstreamBadServerId")),
    ([{"server": "127.0.0.1:3", "id": True}], (400, "UpstreamBadServerId")),
    ([{"server": "127.0.0.1:3", "id": 9}], (404, "UpstreamServerNotFound")),
    ([{"server": "127.0.0.1:1", "id": 0}] * 2, (404, "UpstreamServerNotFound")),
    ([{"server": "127.0.0.1:3"}] * 2, (409, "EntryExists")),
    ([{"server": "127.0.0.1:1"}, {"id": 1, "server": "127.0.0.1:1"}], (409, "EntryExists")),
    ([{"server": "127.0.0.1:1"}, {"id": 0, "server": "127.0.0.1:1"}],
     (404, "UpstreamServerNotFound")),
    ([{"server": "a.test:1", "id": 0}], (400, "UpstreamServerImmutable")),
    ([{"server": f"127.0.0.1:{n + 1}"} for n in range(257)], (400, "UpstreamOutOfMemory")),
    ([{"server": f"127.0.0.1:{n}"} for n in range(99, -1, -1)], (400, "UpstreamBadAddress")),
])
def test_one_bad_server_spoils_the_list(
    steered: Make, body: Any, error: tuple[int, str]
) -> None:
    """Nothing of it is in force."""
    one = steered(f"resolver 127.0.0.1:1; {TWO}")
    before = read(one)
    assert error == one.own("PUT", PATH, body)
    assert before == read(one)


def test_a_long_list_is_looked_at_by_and_by(steered: Make) -> None:
    """In several turns of the loop, in force in one."""
    one = steered("upstream u { zone z 64k; }")
    body = [{"server": f"127.0.0.1:{n + 1}"} for n in range(200)]
    seen: set[int] = set()
    reply = one.reply("PUT", PATH, body, OWN, lambda: seen.add(len(one.servers())))
    assert not isinstance(reply, ApiError)
    assert 200 == len(plain(reply.value))
    assert seen <= {0, 200}


def test_names_keep_what_they_are(steered: Make) -> None:
    """One of the list is the one that is there; its addresses keep what they were told."""
    one = steered("resolver 127.0.0.1:1; upstream u { zone z 64k; server a.test:1 resolve; }")
    _, found = read(one)
    name = one.group().names[0]
    body = [{"server": "A.test:1", "weight": 3}, {"server": "127.0.0.1:1"}]
    status, after = one.own("PUT", PATH, body)
    assert (200, found[0]["id"]) == (status, after[0]["id"])
    assert name is one.group().names[0]


def test_a_group_that_nobody_may_change_has_no_tag(steered: Make) -> None:
    """It is shown; a change is refused."""
    one = steered(TWO, steer="")
    assert 200 == one.own("GET", PATH)[0]
    assert (400, "UpstreamStatic") == one.own("PUT", PATH, [])
