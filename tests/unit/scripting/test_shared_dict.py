"""A SharedDict is a dictionary of one type, with times to live, whatever a function gives it."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.core import shm
from ngxstream.core.keyval_keys import MAX_KEY
from ngxstream.core.shm_keyval import MAX_VALUE
from ngxstream.scripting import shared_dict
from ngxstream.scripting.dict_zone import DictZone
from ngxstream.scripting.shared_dict import SharedDict, SharedMemoryError

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


def make(kind: str = "string", *, timeout_ms: int = 0, evicts: bool = False) -> SharedDict[Any]:
    """Return an empty dict in a zone of its own."""
    zone = DictZone("d", kind, evicts)
    zone.declare("string", timeout_ms, "", ("f", 1))
    zone.attach(shm.Zone("d", shm.LEAST, "test"), fresh=True)
    return SharedDict(zone)


@given(st.dictionaries(TEXT.filter(bool), TEXT, max_size=8))
@settings(max_examples=40)
def test_text_is_kept_as_in_a_dict(pairs: dict[str, str]) -> None:
    """Set, found, counted, gone through and removed."""
    made = make()
    for key, value in pairs.items():
        made[key] = value
    assert pairs == dict(made.items())
    assert sorted(pairs) == sorted(made.keys())
    assert sorted(pairs.values()) == sorted(made.values())
    assert len(pairs) == len(made)
    for key, value in pairs.items():
        assert key in made
        assert value == made[key] == made.get(key)
        del made[key]
        assert key not in made
        assert made.get(key) is None
        assert made.get(key, 5) == 5
        with pytest.raises(KeyError):
            made[key]
        with pytest.raises(KeyError):
            del made[key]
    assert 0 == len(made)


def test_bytes_and_numbers_keep_their_type() -> None:
    """A whole number stays whole."""
    data = make("bytes")
    data["k"] = b"\x00\xff"
    assert b"\x00\xff" == data["k"]
    numbers = make("number")
    for value in (0, -5, 2**63 - 1, 0.1, -1e300):
        numbers["k"] = value
        assert (type(value), value) == (type(numbers["k"]), numbers["k"])


@pytest.mark.parametrize(
    ("kind", "value"),
    [("string", b"x"), ("string", 1), ("bytes", "x"), ("number", "1"), ("number", True),
     ("bytes", None)],
)
def test_a_value_of_another_type_is_refused(kind: str, value: Any) -> None:
    """By every operation that takes one, and nothing changes."""
    made = make(kind)
    for operation in (made.set, made.add, made.replace, made.setdefault):
        with pytest.raises(TypeError):
            operation("k", value)
    assert 0 == len(made)


def test_keys_and_values_have_bounds() -> None:
    """Neither an empty key, nor one that is too long, nor one that is no text."""
    made = make()
    for key in ("", "k" * (MAX_KEY + 1)):
        with pytest.raises(ValueError, match="a key has 1 to 1024 bytes"):
            made[key] = "v"
    wrong: Any = b"k"
    with pytest.raises(TypeError, match="a key is str, not bytes"):
        made[wrong] = "v"
    with pytest.raises(ValueError, match="a value has 65535 bytes at most"):
        made["k"] = "v" * (MAX_VALUE + 1)
    for ttl in (0, -1, float("nan"), 1e300):
        with pytest.raises(ValueError, match="a time to live"):
            made.set("k", "v", ttl)


def test_add_and_replace_tell_whether_there_was_a_value() -> None:
    """And do nothing where they do not apply."""
    made = make()
    assert not made.replace("k", "0")
    assert made.add("k", "1")
    assert not made.add("k", "2")
    assert made["k"] == "1"
    assert made.replace("k", "3")
    assert made["k"] == "3"
    assert made.setdefault("k", "4") == "3"
    assert made.setdefault("l", "5") == "5" == made["l"]
    assert made.pop("l") == "5"
    assert made.pop("l", None) is None
    with pytest.raises(KeyError):
        made.pop("l")
    made.clear()
    assert [] == list(made)


def test_numbers_are_added_to() -> None:
    """From where there was nothing, too; past 64 bits nothing changes."""
    made = make("number")
    assert made.incr("k") == 1
    assert made.incr("k", 5) == 6
    assert made.incr("k", -0.5) == 5.5
    assert made.incr("l", 2, init=10) == 12
    made["m"] = 2**63 - 1
    with pytest.raises(OverflowError):
        made.incr("m")
    assert made["m"] == 2**63 - 1
    with pytest.raises(TypeError, match='"d" is not a dict of numbers'):
        make().incr("k")


def test_a_number_keeps_its_time_to_live() -> None:
    """An addition gives one only where there was no number."""
    made = make("number")
    made.incr("k", ttl=1000)
    made.incr("k", ttl=5)
    left = made.ttl("k")
    assert left is not None
    assert 900 < left <= 1000


def test_pairs_are_gone_after_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their own, or that of the zone, counted from when they were set."""
    now_ms = 1_000_000
    monkeypatch.setattr(shared_dict, "monotonic_ns", lambda: now_ms * 1_000_000)
    made = make(timeout_ms=5000)
    made.set("short", "v", 0.5)
    made["zone"] = "v"
    made.set("long", "v", 60)
    assert (0.5, 5.0, 60.0) == (made.ttl("short"), made.ttl("zone"), made.ttl("long"))
    now_ms += 500
    assert ["long", "zone"] == sorted(made)
    made.touch("zone", 100)
    now_ms += 5000
    assert ["long", "zone"] == sorted(made)
    made.touch("long")
    assert made.ttl("long") == 5.0
    for operation in (made.ttl, made.touch):
        with pytest.raises(KeyError):
            operation("short")
    assert make().add("k", "v")
    forever = make()
    forever["k"] = "v"
    assert forever.ttl("k") is None


def test_a_full_zone_says_so_or_gives_way() -> None:
    """By SharedMemoryError; with evict the newest pair is always there."""
    made = make()

    def fill() -> None:
        for n in range(10_000):
            made[str(n)] = "v" * 100

    with pytest.raises(SharedMemoryError, match='there is no room in "d"'):
        fill()
    evicting = make(timeout_ms=60_000, evicts=True)
    for n in range(2000):
        evicting[str(n)] = "v" * 100
        assert evicting[str(n)]
    assert 0 <= evicting.free_space < evicting.capacity == shm.LEAST


def test_before_a_worker_runs_nothing_is_shared() -> None:
    """A module may look its dict up when it is imported, and use it later."""
    made: SharedDict[str] = SharedDict(DictZone("d", "string", evicts=False))
    assert ("d", "string") == (made.name, made.type)
    with pytest.raises(SharedMemoryError, match='"d" can be used when a worker runs, not before'):
        made["k"] = "v"


def test_what_is_damaged_is_an_error_of_the_dict() -> None:
    """Never one of its insides."""
    made = make()
    made["k"] = "v"
    made._store().words[3:] = memoryview(bytes(len(made._store().words[3:]) * 8)).cast("q")
    made._store().words[0] = -7
    with pytest.raises(SharedMemoryError, match='"d" cannot be used'):
        made["k"] = "w"


def test_dicts_are_found_by_name() -> None:
    """Those of the configuration that is being read, or served."""
    token = shared_dict.DICTS.set(shared_dict.of_zones([DictZone("a", "number", evicts=False)]))
    try:
        assert "<SharedDict a>" == repr(shared_dict.shared("a"))
        with pytest.raises(KeyError, match='has the name "b"'):
            shared_dict.shared("b")
    finally:
        shared_dict.DICTS.reset(token)
