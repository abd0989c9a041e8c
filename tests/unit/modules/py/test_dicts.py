"""py_shared_dict_zone: what it says, and what is refused."""

import pytest

from ngxstream.modules.py import conf
from tests.support.in_process import build

PLACE = "events {} stream { %s server { listen 127.0.0.1:9; return x; } }"


@pytest.mark.effect("py_shared_dict_zone")
def test_a_zone_is_declared_with_all_that_is_said() -> None:
    """Name, size, type, time to live, eviction and file."""
    first = "py_shared_dict_zone zone=a:64k timeout=5s type=bytes evict;"
    built = build(PLACE % (first + "py_shared_dict_zone zone=b:32k;"))
    assert not built.error
    assert built.conf is not None
    known = built.conf.data[conf.DICTS]
    found = [(z.name, z.type, z.timeout_ms, z.evicts, z.state) for z in known.values()]
    assert [("a", "bytes", 5000, True, ""), ("b", "string", 0, False, "")] == found


@pytest.mark.refusal("py_shared_dict_zone")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("zone=a:64k type=int", 'invalid dict type "type=int"'),
        ("zone=a:x", 'invalid zone size "zone=a:x"'),
        ("zone=a:1k", 'zone "zone=a:1k" is too small'),
        ("zone=a", 'invalid zone size "zone=a"'),
        ("timeout=5s", '"py_shared_dict_zone" must have "zone" parameter'),
        ("zone=a:64k timeout=x", 'invalid timeout "timeout=x"'),
        ("zone=a:64k evict", "evict requires timeout="),
        ("zone=a:64k sync", 'invalid parameter "sync"'),
        ("zone=a:64k state=", 'invalid parameter "state="'),
    ],
)
def test_nonsense_is_refused(text: str, words: str) -> None:
    """With njs's words where it has such."""
    assert words in build(PLACE % f"py_shared_dict_zone {text};").error


def test_a_name_and_a_file_are_used_once() -> None:
    """As with keyval_zone."""
    twice = "py_shared_dict_zone zone=a:64k; py_shared_dict_zone zone=a:64k;"
    assert 'duplicate zone "a"' in build(PLACE % twice).error
    files = "py_shared_dict_zone zone=a:64k state=f; keyval_zone zone=b:64k state=f;"
    assert "is used twice" in build(PLACE % files).error
