"""What checks have found, on its way to the master of a binary upgrade.

That master's memory is another one: its configuration begins with what is told here as it would, on
a reload, with what the one before has found. A target is known by its check and its peer, each by
a number made of what they are.

What comes is another process's, perhaps another release's: it is decoded by a schema, what is no
state of a target is refused whole, and the checks begin anew then. It is bounded by MOST_BYTES.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from ngxstream.ipc import codec
from ngxstream.ipc.codec import CodecError, Field, List
from ngxstream.stream import health

if TYPE_CHECKING:
    from ngxstream.modules.health.group import Group

MOST_BYTES: Final = 1 << 24  # 200 000 targets
_LARGEST: Final = (1 << 62) - 1  # of a count

# cells of a target that are told, in this order; a newer release adds behind them
_TOLD: Final = (
    health.STATE, health.DUE, health.FAILS, health.PASSES, health.CHECKS, health.FAILED,
    health.TURNED, health.LAST, health.ENDS,
)
_TARGET: Final = codec.Record(
    "target", Field(1, "peer", codec.Int()), Field(2, "cells", codec.Numbers(len(_TOLD), 0)),
)
_CHECK: Final = codec.Record(
    "check", Field(1, "key", codec.Bytes(16)), Field(2, "targets", List(_TARGET, 1 << 20), []),
)
_FOUND: Final = codec.Record("health", Field(1, "checks", List(_CHECK, 1 << 16), []))

Known = Mapping[int, tuple[int, ...]]  # cells of a target, by the number of its peer


def digest(key: str) -> bytes:
    """Return what a check is known by: its key may contain a secret."""
    return hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def pack(groups: Sequence[Group]) -> bytes:
    """Return what the checks of some groups have found; nothing where that would be too much."""
    checks = []
    for group in groups:
        for check, record in zip(group.checks, group.records, strict=True):
            targets = [
                (number, tuple(cells[n] for n in _TOLD))
                for number, cells in record.by_peer().items() if is_sane(cells)
            ]
            checks.append((digest(check.key), targets))
    data = _FOUND.encode((checks,))
    return data if len(data) <= MOST_BYTES else b""


def unpack(data: bytes) -> dict[bytes, Known]:
    """Return what was found, by what checks are known by. Raises: CodecError"""
    if len(data) > MOST_BYTES:
        raise CodecError(f"{len(data)} bytes of results")
    found: dict[bytes, Known] = {}
    for key, targets in _FOUND.decode(data)[0]:
        known: dict[int, tuple[int, ...]] = {}
        for number, told in targets:
            cells = [0] * health.CELLS
            cells[health.PEER] = number
            for place, value in zip(_TOLD, told, strict=True):
                cells[place] = value
            if not is_sane(cells):
                raise CodecError("results of checks that can be none")
            known[number] = tuple(cells)
        found[key] = known
    return found


def is_sane(cells: Sequence[int]) -> bool:
    """Tell whether these can be the cells of a target."""
    return (
        cells[health.PEER] != 0
        and cells[health.STATE] in (
            health.NEW, health.CHECKING, health.UP, health.UNHEALTHY, health.OFF
        )
        and cells[health.LAST] in (0, health.MISSED, health.PASSED)
        and all(0 <= cells[n] <= _LARGEST for n in _TOLD)
    )
