"""The pairs in the API: every operation, every error it can have."""

from collections.abc import Iterator
from typing import Any

import pytest

from ngxstream.core.shm_keyval import MAX_VALUE
from ngxstream.modules.keyval import endpoints
from ngxstream.stream.api import ApiError
from tests.support.in_process import Built, build
from tests.support.keyvals import Api

CONF = """stream {
    keyval_zone zone=plain:32k;
    keyval_zone zone=timed:32k timeout=10s;
    keyval_zone zone=nets:32k type=ip;
    keyval_zone zone=starts:32k type=prefix timeout=1m;
    server { listen 127.0.0.1:9; return 1; }
}"""
CREATED = (201, None)
DONE = (204, None)


@pytest.fixture
def built() -> Iterator[Built]:
    """Give a configuration with its zones."""
    made = build(CONF)
    assert made.conf is not None, made.error
    made.zones.build()
    yield made
    made.zones.close()


@pytest.fixture
def api(built: Built) -> Api:
    """Give its API."""
    assert built.conf is not None
    return Api(built.conf)


def test_empty_zones_are_there(api: Api) -> None:
    """All together, each alone, or their names."""
    assert (200, {"plain": {}, "timed": {}, "nets": {}, "starts": {}}) == api.ask("GET", None)
    assert (200, {}) == api.ask("GET", "plain")
    assert (200, ["plain", "timed", "nets", "starts"]) == api.ask("GET", None, fields="")
    assert (200, {"plain": {}, "timed": {}, "nets": {}, "starts": {}}) == api.ask(
        "GET", None, fields="x"
    )


def test_the_life_of_a_pair(api: Api) -> None:
    """It is added, shown, changed, removed."""
    assert CREATED == api.ask("POST", "plain", {"one": "1"})
    assert CREATED == api.ask("POST", "plain", {"two": ""})
    assert (200, {"one": "1", "two": ""}) == api.ask("GET", "plain")
    assert (200, {"one": "1"}) == api.ask("GET", "plain", key="one")
    assert DONE == api.ask("PATCH", "plain", {"one": "eins"})
    assert DONE == api.ask("PATCH", "plain", {"two": None})
    assert (200, {"one": "eins"}) == api.ask("GET", "plain")
    assert DONE == api.ask("DELETE", "plain")
    assert (200, {}) == api.ask("GET", "plain")
    assert DONE == api.ask("DELETE", "plain")


def test_many_can_be_added_to_an_empty_zone(api: Api) -> None:
    """A few in each turn of the loop; the reply comes with the last."""
    pairs = {f"key {number}": f"value {number}" for number in range(250)}
    assert None is api.ask("POST", "plain", pairs)
    turns = 0
    while api.loop.posted:
        assert [] == api.replies
        api.loop.posted.pop(0)()
        turns += 1
    assert (2, [201]) == (turns, [reply.status for reply in api.replies])
    assert (200, pairs) == api.ask("GET", "plain")
    assert CREATED == api.ask("POST", "nets", {"10.0.0.0/8": "a", "::1": "b"})


def test_many_are_read_in_turns_too(api: Api) -> None:
    """A body of so many pairs that looking at them takes long, and one of them is none."""
    pairs: dict[str, Any] = {f"10.{n >> 8}.{n & 255}.0/24": "v" for n in range(5000)}
    assert None is api.ask("POST", "nets", {**pairs, "x": "v"})
    turns = 0
    while api.loop.posted:
        assert [] == api.replies
        api.loop.posted.pop(0)()
        turns += 1
    (error,) = api.replies
    assert isinstance(error, ApiError)
    assert ("invalid key format", 10) == (error.text, turns)
    assert (200, {}) == api.ask("GET", "nets")


def test_who_is_overtaken_while_many_are_added_hears_of_it(api: Api) -> None:
    """A pair that somebody else adds meanwhile is not replaced."""
    pairs = {f"key {number}": "" for number in range(150)}
    assert None is api.ask("POST", "plain", pairs)
    assert CREATED == api.ask("POST", "plain", {"key 120": "another"})
    api.loop.posted.pop()()
    (error,) = api.replies
    assert isinstance(error, ApiError)
    assert (409, "KeyvalKeyExists") == (error.status, error.code)
    assert 'key "key 120" already exists' == error.text
    assert (200, {"key 120": "another"}) == api.ask("GET", "plain", key="key 120")


def test_pairs_expire(api: Api) -> None:
    """After the zone's timeout, or their own; a new value begins the time anew."""
    loop = api.loop
    assert CREATED == api.ask("POST", "timed", {"ten": "s"})
    assert CREATED == api.ask("POST", "timed", {"three": {"value": "v", "expire": 3000}})
    assert (200, {"ten": "s", "three": "v"}) == api.ask("GET", "timed")
    loop.now_ms += 2999
    assert (200, {"three": "v"}) == api.ask("GET", "timed", key="three")
    loop.now_ms += 1
    assert (404, "KeyvalKeyNotFound") == api.ask("GET", "timed", key="three")[:2]
    assert DONE == api.ask("PATCH", "timed", {"ten": "again"})
    loop.now_ms += 9999
    assert (200, {"ten": "again"}) == api.ask("GET", "timed")
    assert DONE == api.ask("PATCH", "timed", {"ten": {"expire": 5}})
    loop.now_ms += 4
    assert (200, {"ten": "again"}) == api.ask("GET", "timed")
    assert DONE == api.ask("PATCH", "timed", {"ten": {"value": "last", "expire": 5}})
    loop.now_ms += 4
    assert (200, {"ten": "last"}) == api.ask("GET", "timed")
    loop.now_ms += 1
    assert (200, {}) == api.ask("GET", "timed")
    assert CREATED == api.ask("POST", "timed", {"many": "in", "an": "empty zone"})


def test_networks_have_one_spelling(api: Api) -> None:
    """However a key is written, it is that of its network."""
    assert CREATED == api.ask("POST", "nets", {"10.1.2.3/8": "a"})
    assert (200, {"10.0.0.0/8": "a"}) == api.ask("GET", "nets")
    assert (200, {"10.0.0.0/8": "a"}) == api.ask("GET", "nets", key="10.255.0.0/8")
    assert (404, "KeyvalKeyNotFound") == api.ask("GET", "nets", key="10.1.2.3")[:2]
    assert (404, "KeyvalKeyNotFound") == api.ask("GET", "nets", key="no address")[:2]
    assert 'key "10.0.0.0/8" already exists' == api.ask("POST", "nets", {"10.9.9.9/8": "b"})[2]
    assert DONE == api.ask("PATCH", "nets", {"10.3.4.5/8": None})


FORMAT: list[tuple[str, str, Any, str]] = [
    ("POST", "plain", None, "key required"),
    ("POST", "plain", {}, "key required"),
    ("PATCH", "plain", {}, "key required"),
    ("POST", "plain", ["k"], "invalid JSON"),
    ("PATCH", "plain", "k", "invalid JSON"),
    ("POST", "plain", {"k": 1}, "invalid JSON"),
    ("POST", "plain", {"k": None}, "invalid JSON"),
    ("POST", "plain", {"k": ["v"]}, "invalid JSON"),
    ("POST", "plain", {"k": {}}, "invalid JSON"),
    ("POST", "plain", {"k": "\ud800"}, "invalid JSON"),
    ("POST", "timed", {"k": {"expire": 5}}, "invalid JSON"),
    ("POST", "timed", {"k": {"value": "v", "other": 5}}, "invalid JSON"),
    ("POST", "timed", {"k": {"value": 7}}, "invalid JSON"),
    ("PATCH", "timed", {"there": {}}, "invalid JSON"),
    ("PATCH", "timed", {"there": {"value": None}}, "invalid JSON"),
    ("POST", "plain", {"": "v"}, "invalid key format"),
    ("POST", "plain", {"\udfff": "v"}, "invalid key format"),
    ("POST", "starts", {"": "v"}, "invalid key format"),
    ("POST", "nets", {"example.com": "v"}, "invalid key format"),
    ("PATCH", "nets", {"10.0.0.0/33": None}, "invalid key format"),
    ("POST", "plain", {"k": {"value": "v", "expire": 5}}, "keyval timeout is not enabled"),
    ("PATCH", "plain", {"there": {"expire": 5}}, "keyval timeout is not enabled"),
    ("POST", "plain", {"k": "v", "l": "w"}, "only one key can be added"),
    ("PATCH", "plain", {"there": "v", "l": "w"}, "only one key can be updated"),
    *(("PATCH", "timed", {"there": {"expire": wrong}}, 'invalid "expire" value')
      for wrong in (0, -1, 1.5, "5", True, None, 1 << 51)),
    ("POST", "plain", {"k": "v" * (MAX_VALUE + 1)}, f"value is longer than {MAX_VALUE} bytes"),
]


@pytest.mark.parametrize(("method", "zone", "body", "text"), FORMAT)
def test_what_cannot_be_is_refused(api: Api, method: str, zone: str, body: Any, text: str) -> None:
    """With 400 and the reason, and nothing changes."""
    for name in ("plain", "timed"):
        assert CREATED == api.ask("POST", name, {"there": "v"})
    before = api.ask("GET", None)
    assert (400, "KeyvalFormatError", text) == api.ask(method, zone, body)
    assert before == api.ask("GET", None)


@pytest.mark.parametrize(
    ("method", "body"), [("GET", None), ("POST", {"k": "v"}), ("PATCH", {"k": "v"}),
                         ("DELETE", None)]
)
def test_an_unknown_zone_is_not_found(api: Api, method: str, body: Any) -> None:
    """Whatever is asked of it."""
    assert (404, "KeyvalNotFound", "keyval not found") == api.ask(method, "none", body)


@pytest.mark.parametrize("value", ["v", None, {"value": "v"}])
def test_a_key_that_is_not_there_cannot_be_changed(api: Api, value: Any) -> None:
    """Nor removed."""
    expected = (404, "KeyvalKeyNotFound", "keyval key not found")
    assert expected == api.ask("PATCH", "plain", {"k": value})
    assert expected == api.ask("GET", "plain", key="k")


def test_a_key_is_added_once(api: Api) -> None:
    """A second time it is there already; twice in one body is a conflict too."""
    assert CREATED == api.ask("POST", "plain", {"k": "v"})
    assert (409, "KeyvalKeyExists", 'key "k" already exists') == api.ask(
        "POST", "plain", {"k": "w"}
    )
    assert (409, "EntryExists", "a key is given more than once") == api.ask(
        "POST", "nets", {"10.0.0.1": "v", "10.0.0.1/32": "w"}
    )
    assert (200, {}) == api.ask("GET", "nets")


def test_a_full_zone_refuses(api: Api) -> None:
    """One pair too many, or many that would not fit; what is there stays."""
    expected = (400, "KeyvalOutOfMemory", 'keyval_zone "plain" memory exhausted')
    assert expected == api.ask("POST", "plain", {str(n): "v" * 100 for n in range(400)})
    assert (200, {}) == api.ask("GET", "plain")
    count = 0
    while (reply := api.ask("POST", "plain", {str(count): "v" * 1000})) == CREATED:
        count += 1
    assert expected == reply
    assert expected == api.ask("PATCH", "plain", {"0": "v" * MAX_VALUE})
    assert count == len(api.ask("GET", "plain")[1])
    assert DONE == api.ask("PATCH", "plain", {"0": None})
    assert CREATED == api.ask("POST", "plain", {"0": "w"})


def test_damaged_memory_is_an_error_of_ours(api: Api) -> None:
    """And no exception."""
    assert CREATED == api.ask("POST", "plain", {"k": "v"})
    api.stream.data["keyval"]["plain"].store.words[0] = 77
    expected = (500, "InternalError", 'keyval_zone "plain" cannot be used')
    assert expected == api.ask("GET", "plain", key="k")
    for method, body in (("POST", {"l": "v"}), ("PATCH", {"k": "v"}), ("DELETE", None)):
        assert expected == api.ask(method, "plain", body)


def test_a_worker_without_a_master_changes_nothing_that_a_file_keeps() -> None:
    """It shows what there is; zones without a file change."""
    built = build("stream { keyval_zone zone=kept:32k state=none.json; keyval_zone zone=free:32k;"
                  " server { listen 127.0.0.1:9; return 1; } }")
    assert built.conf is not None
    built.zones.build()
    api = Api(built.conf)
    built.conf.suspend()
    expected = (503, "Unavailable", "there is no master process, ask again")
    for method, body in (("POST", {"l": "v"}), ("PATCH", {"k": "v"}), ("DELETE", None)):
        assert expected == api.ask(method, "kept", body)
    assert (200, {}) == api.ask("GET", "kept")
    assert CREATED == api.ask("POST", "free", {"k": "v"})
    built.conf.resume()
    assert CREATED == api.ask("POST", "kept", {"k": "v"})
    built.zones.close()


def test_every_code_that_is_declared_is_provoked_here() -> None:
    """The documented ones, and ours; those of stores in test_shared.py."""
    declared = {
        code for one in endpoints.ENDPOINTS for operation in one.operations.values()
        for code in operation.errors
    }
    assert {"KeyvalFormatError", "KeyvalNotFound", "KeyvalKeyNotFound", "KeyvalKeyExists",
            "EntryExists", "KeyvalOutOfMemory", "Unavailable", "StoreUnavailable",
            "StoreRefused"} == declared
