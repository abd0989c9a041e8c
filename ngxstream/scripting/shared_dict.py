"""SharedDict: pairs that the functions of all workers share.

The pairs are in a zone of shared memory that `py_shared_dict_zone` declares. They stay over a
reload while the name, the size and the type of the zone stay, and over a restart where it has a
`state`.

Each operation is atomic for all workers and takes some microseconds; between two of them another
worker may change anything. Nothing is shared before workers run: at import time a dict can be had,
and is empty as long as nobody asks it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, overload

from ngxstream.core import shm
from ngxstream.core.keyval_keys import MAX_KEY
from ngxstream.core.shm_dict import DictStore
from ngxstream.core.shm_keyval import MAX_VALUE, NEVER_MS, FullError
from ngxstream.scripting import dict_zone, errors

if TYPE_CHECKING:
    from ngxstream.core.shm_dict import Decide
    from ngxstream.scripting.dict_zone import DictZone

V = TypeVar("V", str, bytes, float)
D = TypeVar("D")

_NO_DEFAULT: Final = object()
_FAULTS: Final = (FullError, shm.BusyError, *shm.DAMAGE)  # of the store

MOST_MS: Final = 1 << 50  # what a time to live may be


class SharedMemoryError(errors.ScriptError):
    """there is no room in the zone, or it cannot be used"""


class SharedDict(Generic[V]):
    """A dictionary with keys of text, and values of the type that its zone declares.

    Types: `string` str, `bytes` bytes, `number` int or float. Keys have 1 to 1024 bytes of UTF-8,
    values up to 65535. `ttl` is a time in seconds after which a pair is gone; where it is not given
    it is the `timeout` of the zone, or none.

    Every method may raise SharedMemoryError, and TypeError for a value of another type.
    """

    __slots__ = ("_kind", "_zone")

    def __init__(self, zone: DictZone) -> None:
        """Made by ngxstream alone."""
        self._zone = zone
        self._kind = zone.type

    @property
    def name(self) -> str:
        """The name of the zone."""
        return self._zone.name

    @property
    def type(self) -> str:
        """`string`, `bytes` or `number`."""
        return self._kind

    # -- one pair ------------------------------------------------------------------------------

    def __getitem__(self, key: str) -> V:
        value = self._find(key)
        if value is None:
            raise KeyError(key)
        return value

    @overload
    def get(self, key: str) -> V | None: ...

    @overload
    def get(self, key: str, default: D) -> V | D: ...

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value, or the default where there is none."""
        value = self._find(key)
        return default if value is None else value

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._find(key) is not None

    def __setitem__(self, key: str, value: V) -> None:
        self.set(key, value)

    def set(self, key: str, value: V, ttl: float | None = None) -> None:
        """Set the value of a key, whether or not it has one."""
        data, expires_ms = self._packed(value), self._expiry(ttl)
        self._exchange(key, lambda _, __: (data, expires_ms))

    def add(self, key: str, value: V, ttl: float | None = None) -> bool:
        """Set the value of a key that has none. Returns: whether it had none"""
        data, expires_ms = self._packed(value), self._expiry(ttl)
        added = False

        def decide(old: bytes | None, _: int) -> tuple[bytes | None, int] | None:
            nonlocal added
            added = old is None
            return (data, expires_ms) if added else None

        self._exchange(key, decide)
        return added

    def replace(self, key: str, value: V, ttl: float | None = None) -> bool:
        """Set the value of a key that has one. Returns: whether it had one"""
        data, expires_ms = self._packed(value), self._expiry(ttl)
        replaced = False

        def decide(old: bytes | None, _: int) -> tuple[bytes | None, int] | None:
            nonlocal replaced
            replaced = old is not None
            return (data, expires_ms) if replaced else None

        self._exchange(key, decide)
        return replaced

    def setdefault(self, key: str, default: V, ttl: float | None = None) -> V:
        """Return the value of a key, which gets this one if it has none."""
        data, expires_ms = self._packed(default), self._expiry(ttl)
        found = data

        def decide(old: bytes | None, _: int) -> tuple[bytes | None, int] | None:
            nonlocal found
            if old is None:
                return data, expires_ms
            found = old
            return None

        self._exchange(key, decide)
        return self._unpacked(found)

    def incr(self, key: str, delta: float = 1, init: float = 0, ttl: float | None = None) -> float:
        """Add to a number and return the sum; a key without a value counts as `init`.

        A `ttl` is that of a key that had no value; one that has keeps its own. Whole numbers stay
        whole. Raises: TypeError for a dict that is not of numbers; OverflowError past 64 bits
        """
        if self._kind != "number":
            raise TypeError(f'"{self.name}" is not a dict of numbers')
        step, start, expires_ms = dict_zone.number(delta), dict_zone.number(init), self._expiry(ttl)
        total = start

        def decide(old: bytes | None, expires: int) -> tuple[bytes | None, int] | None:
            nonlocal total
            total = (start if old is None else dict_zone.number_of(old)) + step
            if not dict_zone.fits(total):
                return None
            return repr(total).encode(), expires_ms if old is None else expires

        self._exchange(key, decide)
        return dict_zone.number(total)

    @overload
    def pop(self, key: str) -> V: ...

    @overload
    def pop(self, key: str, default: D) -> V | D: ...

    def pop(self, key: str, default: Any = _NO_DEFAULT) -> Any:
        """Remove a key and return its value; without one the default, if it is given.

        Raises: KeyError
        """
        found: bytes | None = None

        def decide(old: bytes | None, _: int) -> tuple[bytes | None, int] | None:
            nonlocal found
            found = old
            return None, 0

        self._exchange(key, decide)
        if found is not None:
            return self._unpacked(found)
        if default is _NO_DEFAULT:
            raise KeyError(key)
        return default

    def __delitem__(self, key: str) -> None:
        self.pop(key)

    def ttl(self, key: str) -> float | None:
        """Return after how many seconds a pair expires, None for never. Raises: KeyError"""
        left_ms = self._time_left(key, None)
        return None if left_ms is None else left_ms / 1000

    def touch(self, key: str, ttl: float | None = None) -> None:
        """Give a pair another time to live. Raises: KeyError"""
        self._time_left(key, self._expiry(ttl))

    def _time_left(self, key: str, wanted_ms: int | None) -> int | None:
        found = left = 0

        def decide(old: bytes | None, expires: int) -> tuple[bytes | None, int] | None:
            nonlocal found, left
            found, left = old is not None, expires
            return None if old is None or wanted_ms is None else (old, wanted_ms)

        self._exchange(key, decide)
        if not found:
            raise KeyError(key)
        return None if left >= NEVER_MS else max(0, left - _now_ms())

    # -- all of them ---------------------------------------------------------------------------

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self.items())

    def keys(self) -> Iterator[str]:
        """Iterate over the keys, in any order."""
        return iter(self)

    def values(self) -> Iterator[V]:
        """Iterate over the values, in any order."""
        return (value for _, value in self.items())

    def items(self) -> Iterator[tuple[str, V]]:
        """Iterate over the pairs, in no order.

        What is changed meanwhile comes as it was or as it is; what is added or removed may come or
        not.
        """
        store = self._store()
        with _translated(self.name):
            for key, value, _ in store.pairs(_now_ms()):
                yield key.decode("utf-8", "replace"), self._unpacked(value)

    def __len__(self) -> int:
        """Count the pairs: they are gone through for it."""
        return sum(1 for _ in self.items())

    def clear(self) -> None:
        """Remove all pairs."""
        with _translated(self.name):
            self._store().clear()
        self._zone.changed()

    @property
    def capacity(self) -> int:
        """The size of the zone in bytes."""
        return self._store().zone.size

    @property
    def free_space(self) -> int:
        """How many bytes are free; those of pairs that have expired may not be counted."""
        return self._store().free_bytes

    def __repr__(self) -> str:
        return f"<SharedDict {self.name}>"

    # -- what they are made of -----------------------------------------------------------------

    def _store(self) -> DictStore:
        store = getattr(self._zone, "store", None)
        if not isinstance(store, DictStore):
            raise SharedMemoryError(f'"{self.name}" can be used when a worker runs, not before')
        return store

    def _find(self, key: str) -> V | None:
        store, data = self._store(), _key(key)
        try:
            value = store.find(data, _now_ms())
        except _FAULTS as error:
            raise _translation(self.name, error) from error
        return None if value is None else self._unpacked(value)

    def _exchange(self, key: str, decide: Decide) -> None:
        store, data = self._store(), _key(key)
        version = store.version
        try:
            store.exchange(data, decide, _now_ms())
        except _FAULTS as error:
            raise _translation(self.name, error) from error
        if store.version != version:
            self._zone.changed()

    def _expiry(self, ttl: float | None) -> int:
        if ttl is None:
            return self._zone.expiry(_now_ms())
        if not 0 < ttl <= MOST_MS / 1000:
            raise ValueError("a time to live is a number of seconds above 0")
        return _now_ms() + max(1, int(ttl * 1000))

    def _packed(self, value: V) -> bytes:
        data = dict_zone.packed(self._kind, value)
        if len(data) > MAX_VALUE:
            raise ValueError(f"a value has {MAX_VALUE} bytes at most")
        return data

    def _unpacked(self, data: bytes) -> V:
        value: Any = data
        if self._kind == "string":
            value = data.decode("utf-8", "surrogateescape")
        elif self._kind == "number":
            value = dict_zone.number_of(data)
        return value  # type: ignore[no-any-return]


def _key(key: str) -> bytes:
    if not isinstance(key, str):
        raise TypeError(f"a key is str, not {type(key).__name__}")
    data = key.encode("utf-8", "surrogateescape")
    if not 0 < len(data) <= MAX_KEY:
        raise ValueError(f"a key has 1 to {MAX_KEY} bytes")
    return data


def _now_ms() -> int:
    return monotonic_ns() // 1_000_000


@contextlib.contextmanager
def _translated(name: str) -> Iterator[None]:
    """Raise what the store raises as the public interface has it."""
    try:
        yield
    except _FAULTS as error:
        raise _translation(name, error) from error


def _translation(name: str, error: Exception) -> SharedMemoryError:
    """Return what the public interface raises in the place of an exception of the store."""
    if isinstance(error, FullError):
        return SharedMemoryError(f'there is no room in "{name}"')
    return SharedMemoryError(f'"{name}" cannot be used: {error}')


DICTS: Final[ContextVar[Mapping[str, SharedDict[Any]]]] = ContextVar("dicts")


def of_zones(zones: Iterable[DictZone]) -> dict[str, SharedDict[Any]]:
    """Return the dicts of some zones, by name. Called by ngxstream alone"""
    return {zone.name: SharedDict(zone) for zone in zones}


def shared(name: str) -> SharedDict[Any]:
    """Return the dict of a `py_shared_dict_zone`. Raises: KeyError where none has the name

    At import time these are the zones of the configuration that imports the module, later those of
    the configuration that the worker serves.
    """
    dicts = DICTS.get({})
    if name not in dicts:
        raise KeyError(f'no "py_shared_dict_zone" has the name "{name}"')
    return dicts[name]
