"""Changes by the API of pairs that are in a store: what is answered, and when."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ngxstream.event.loop import Loop
from ngxstream.modules.keyval import endpoints
from ngxstream.stream import stores
from ngxstream.stream.api import ApiError
from ngxstream.stream.keyval_sharing import Sharing
from tests.support import fake_store
from tests.support.backends import BackendFactory
from tests.support.engine import engine, run_until
from tests.support.fake_store import Pairs
from tests.support.in_process import build
from tests.support.keyvals import Api


class Lab:
    """The API of a zone whose pairs are in a store that the test answers for."""

    def __init__(self, loop: Loop, backends: BackendFactory) -> None:
        self.loop = loop
        self.pairs = Pairs()
        port = backends.tcp(fake_store.speaking(self.pairs.answer)).address[1]
        self.built = build(f"""stream {{
            keyval_zone zone=z:64k timeout=1h store=redis://127.0.0.1:{port}?timeout=200ms;
            server {{ listen 127.0.0.1:9; return 1; }} }}""")
        assert self.built.conf is not None, self.built.error
        self.built.zones.build()
        self.zone = self.built.conf.data["keyval"]["z"]
        self.zone.sharing = Sharing(loop, self.zone, self.zone.shared_by, self.zone.number)
        self.api = Api(self.built.conf, loop)

    def ask(self, method: str, body: Any = None) -> Any:
        """Ask, and turn until the answer is there. Returns: status, and code of an error"""
        self.api.replies.clear()
        reply = self.api.ask(method, "z", body)
        if reply is not None:
            return reply
        run_until(self.loop, lambda: bool(self.api.replies))
        (found,) = self.api.replies
        return (found.status, found.code) if isinstance(found, ApiError) else found.status


@pytest.fixture
def lab(backends: BackendFactory) -> Iterator[Lab]:
    """Give one whose store can be used."""
    with engine() as loop:
        loop.log = fake_store.remembering()
        made = Lab(loop, backends)
        run_until(loop, lambda: made.zone.sharing.store.is_up)
        yield made
        stores.close(loop, [made.zone.shared_by])
        loop.turn(0)
        made.built.zones.close()


def test_pairs_are_added(lab: Lab) -> None:
    """One, or many to an empty zone, with the time of the zone or their own."""
    many = {f"k{n}": "v" for n in range(250)}
    assert 201 == lab.ask("POST", {**many, "own": {"value": "w", "expire": 5000}})
    assert 251 == len(lab.pairs.pairs)
    assert (b"v", 3_600_000) == lab.pairs.pairs[b"ngxstream:keyval:z:k7"]
    assert (b"w", 5000) == lab.pairs.pairs[b"ngxstream:keyval:z:own"]
    assert 201 == lab.ask("POST", {"one": "more"})
    assert (409, "KeyvalKeyExists") == lab.ask("POST", {"one": "again"})
    assert (400, "KeyvalFormatError", "only one key can be added") == lab.ask(
        "POST", {"a": "1", "b": "2"}
    )


def test_many_pairs_are_read_in_turns(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients do not wait for them; nothing is sent where one of them is none."""
    monkeypatch.setattr(endpoints, "READ_AT_ONCE", 10)
    lab.api.replies.clear()
    assert lab.api.ask("POST", "z", {**{f"k{n}": "v" for n in range(99)}, "bad": 1}) is None
    assert [] == lab.api.replies
    run_until(lab.loop, lambda: bool(lab.api.replies))
    assert "KeyvalFormatError" == lab.api.replies[0].code
    assert {} == lab.pairs.pairs
    assert 201 == lab.ask("POST", {f"k{n}": "v" for n in range(99)})
    assert 99 == len(lab.pairs.pairs)


def test_pairs_are_changed_and_removed(lab: Lab) -> None:
    """Where they are there."""
    assert (404, "KeyvalKeyNotFound") == lab.ask("PATCH", {"a": "1"})
    assert 201 == lab.ask("POST", {"a": "1"})
    assert 204 == lab.ask("PATCH", {"a": "2"})
    assert 204 == lab.ask("PATCH", {"a": {"expire": 77}})
    assert (b"2", 77) == lab.pairs.pairs[b"ngxstream:keyval:z:a"]
    assert 204 == lab.ask("PATCH", {"a": None})
    assert (404, "KeyvalKeyNotFound") == lab.ask("PATCH", {"a": None})
    assert 201 == lab.ask("POST", {f"k{n}": "v" for n in range(250)})
    assert 204 == lab.ask("DELETE")
    assert {} == lab.pairs.pairs
    assert 204 == lab.ask("DELETE")


@pytest.mark.parametrize(("method", "body"), [
    ("POST", {"new": "1"}), ("PATCH", {"a": "2"}), ("PATCH", {"a": None}), ("DELETE", None),
])
def test_what_the_store_refuses_is_answered(lab: Lab, method: str, body: Any) -> None:
    """And what does not come is, too; without a store nothing is sent."""
    assert 201 == lab.ask("POST", {"a": "1"})
    for name in (b"SET", b"UNLINK"):
        lab.pairs.strange[name] = b"-OOM no room\r\n"
    assert (507, "StoreRefused") == lab.ask(method, body)
    for name in (b"SET", b"UNLINK"):
        lab.pairs.strange[name] = b"nonsense\r\n"
    assert (503, "StoreUnavailable") == lab.ask(method, body)
    assert (503, "StoreUnavailable", "the store is away, nothing was changed") == lab.ask(
        method, body
    )
