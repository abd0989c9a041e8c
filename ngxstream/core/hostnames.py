"""A table of host names with wildcards at either end (ngx_hash.c: ngx_hash_add_key and
ngx_hash_find_combined).

1. Keys and names are lower-cased bytes; the caller of find() lower-cases.
2. An exact name goes before `*.example.com`, that before `www.example.*`; of several wildcards of
   one kind the longest wins. `.example.com` is `example.com` and `*.example.com` in one.
3. The first of two equal keys stays.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from ngxstream.core.codes import BUSY, DECLINED, OK

V = TypeVar("V")


class HostTable(Generic[V]):
    """Exact names and wildcards, each with a value (which may not be None)."""

    __slots__ = ("exact", "heads", "tails", "_taken")

    def __init__(self) -> None:
        self.exact: dict[bytes, V] = {}
        # suffix -> (value, whether the suffix itself is meant too)
        self.heads: dict[bytes, tuple[V, bool]] = {}
        self.tails: dict[bytes, V] = {}
        self._taken: set[bytes] = set()  # exact names, and those of `.example.com`

    def __len__(self) -> int:
        return len(self.exact) + len(self.heads) + len(self.tails)

    def add(self, key: bytes, value: V, *, wildcards: bool = True) -> int:
        """Enter a key. Returns: OK, BUSY for one that is there, DECLINED for a bad wildcard.

        Without `wildcards` a key means nothing but itself.
        Source: ngx_hash_add_key
        """
        key = key.lower()
        if wildcards:
            stars = key.count(b"*")
            if stars > 1 or b".." in key or b"\0" in key:
                return DECLINED
            if len(key) > 1 and key[:1] == b".":
                return self._add_dotted(key[1:], value)
            if len(key) > 2 and key[:2] == b"*.":
                return _add_new(self.heads, key[2:], (value, False))
            if len(key) > 2 and key[-2:] == b".*":
                return _add_new(self.tails, key[:-2], value)
            if stars:
                return DECLINED
        if key in self._taken:
            return BUSY
        self._taken.add(key)
        self.exact[key] = value
        return OK

    def _add_dotted(self, suffix: bytes, value: V) -> int:
        if suffix in self._taken:
            return BUSY
        self._taken.add(suffix)  # even if the wildcard is there already
        return _add_new(self.heads, suffix, (value, True))

    def find(self, name: bytes) -> V | None:
        """Return the value of the best key for a lower-cased name, or None.

        Source: ngx_hash_find_combined
        """
        found = self.exact.get(name)
        if found is not None or not name:
            return found
        if self.heads:
            head = self.heads.get(name)
            if head is not None and head[1]:
                return head[0]
            dot = name.find(b".")
            while dot >= 0:
                head = self.heads.get(name[dot + 1 :])
                if head is not None:
                    return head[0]
                dot = name.find(b".", dot + 1)
        if self.tails:
            dot = name.rfind(b".")
            while dot >= 0:
                found = self.tails.get(name[:dot])
                if found is not None:
                    return found
                dot = name.rfind(b".", 0, dot)
        return None


T = TypeVar("T")


def _add_new(table: dict[bytes, T], key: bytes, value: T) -> int:
    if key in table:
        return BUSY
    table[key] = value
    return OK
