"""Stores of pairs in shared memory: what is in one, and whether all of it hangs together."""

from ngxstream.core import shm_keyval
from ngxstream.core.shm_keyval import KeyvalStore


def content(store: KeyvalStore, now_ms: int = 1000) -> dict[bytes, bytes]:
    """Return all pairs; each comes once."""
    pairs = list(store.pairs(now_ms))
    found = {key: value for key, value, _ in pairs}
    assert len(found) == len(pairs)
    return found


def check(store: KeyvalStore) -> None:
    """Find every block in one place, and all numbers as what is there makes them."""
    store.get(b"recovers", 0)
    words, start = store.words, store._start
    epoch = words[shm_keyval._EPOCH]
    blocks: list[int] = []
    classes: dict[int, int] = {}
    pairs = 0
    for head in range(store._heads, start):
        row = words[head] & 0xFFFFFFFF if words[head] >> 32 == epoch else 0
        while row:
            pairs += 1
            kind = store.keys.class_of(store._read(row)[0])
            classes[kind] = classes.get(kind, 0) + 1
            further = row
            for _ in range(store._chain_of(row)[1]):
                blocks.append(further)
                further = words[further]
            assert not further
            row = words[row + 1]
    used = len(blocks)
    free = words[shm_keyval._FREE]
    while free:
        blocks.append(free)
        free = words[free]
    assert list(range(start, words[shm_keyval._FRESH], 8)) == sorted(blocks)
    assert used == words[shm_keyval._USED]
    assert pairs == words[shm_keyval._COUNT]
    counted = {n: store._tagged(store._classes + n) for n in range(store.keys.classes)}
    assert classes == {n: count for n, count in counted.items() if count}
