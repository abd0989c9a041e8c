"""A zone of pairs as one configuration sees it: its store, and the times of its pairs.

What `keyval_zone` and `py_shared_dict_zone` have in common.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ngxstream.conf import units
from ngxstream.core import errors, keyval_keys, shm
from ngxstream.core.shm_keyval import NEVER_MS, KeyvalStore
from ngxstream.core.shm_replica import ReplicaStore
from ngxstream.stream import keyval_state

if TYPE_CHECKING:
    from ngxstream.core.keyval_keys import Keys
    from ngxstream.stream.keyval_sharing import Sharing
    from ngxstream.stream.stores import StoreConf

NAME: Final = "keyval"
LONGEST_MS: Final = 1 << 50  # a timeout: some 35 000 years


class KeyvalZone:
    """One zone of pairs."""

    __slots__ = (
        "name",
        "kind",  # str: a word of keyval_keys.KINDS; "" until its keyval_zone is read
        "keys",  # Keys
        "timeout_ms",  # int: how long a pair is kept, 0 for ever
        "state",  # str: absolute path of the file that keeps the pairs, "" for none
        "place",  # tuple[str, int] | None: file and line of what named it
        "store",  # KeyvalStore, once the cycle has made the zone
        "is_closed",  # bool: this worker changes nothing: another process has read the file
        "saver",  # Saver | None: what this worker writes the file by
        "shared_by",  # StoreConf | None: the store that has the pairs of all hosts
        "number",  # int: of the configuration, where they are in a store
        "sharing",  # Sharing | None: how this worker copies them, and changes them there
    )

    store: KeyvalStore

    def __init__(self, name: str) -> None:
        self.name = name
        self.kind = ""
        self.keys: Keys = keyval_keys.KINDS["string"]
        self.timeout_ms = 0
        self.state = ""
        self.place: tuple[str, int] | None = None
        self.is_closed = False
        self.saver: keyval_state.Saver | None = None
        self.shared_by: StoreConf | None = None
        self.number = 0
        self.sharing: Sharing | None = None

    @property
    def is_declared(self) -> bool:
        """Whether its keyval_zone was read."""
        return bool(self.kind)

    def declare(self, kind: str, timeout_ms: int, path: str, place: tuple[str, int]) -> None:
        """Take what its keyval_zone says. Args: as the slots have them"""
        self.kind = kind
        self.keys = keyval_keys.KINDS[kind]
        self.timeout_ms = timeout_ms
        self.state = path
        self.place = place

    def attach(self, zone: shm.Zone, fresh: bool) -> None:
        """Take a zone the cycle has made or adopted.

        Raises: OSError where there is not so much memory, ConfError for a file that is broken
        """
        if fresh:
            zone.data = self.make_store(zone)
        self.store = zone.data
        if isinstance(self.store, ReplicaStore):
            self.number = self.store.number()
        if fresh and self.state:
            keyval_state.load(self)

    def make_store(self, zone: shm.Zone) -> KeyvalStore:
        """Make an empty store. Raises: OSError"""
        return (KeyvalStore if self.shared_by is None else ReplicaStore)(zone, self.keys)

    def text_of(self, value: bytes) -> str:
        """Return a value as its file has it."""
        return value.decode("utf-8", "replace")

    def value_of(self, text: str) -> bytes:
        """Return the value that a file has as this text. Raises: ValueError"""
        return text.encode()

    def changed(self) -> None:
        """Have the file written, if there is one."""
        if self.saver is not None:
            self.saver.changed()

    def expiry(self, now_ms: int, expire_ms: int | None = None) -> int:
        """Return when a pair expires that is entered now. Args: expire_ms: after how long"""
        if expire_ms is None:
            expire_ms = self.timeout_ms or NEVER_MS - now_ms
        return now_ms + expire_ms


def timeout_of(word: str, text: str) -> int:
    """Return the ms of `timeout=time`. Args: text: behind the `=`. Raises: ConfError"""
    try:
        timeout_ms = units.parse_time_msec(text)
    except ValueError:
        timeout_ms = 0
    if not 0 < timeout_ms <= LONGEST_MS:
        raise errors.ConfError(f'invalid timeout "{word}"')
    return timeout_ms
