"""split_clients: a variable chosen by the hash of a string (ngx_stream_split_clients_module.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ngxstream.conf import items, units
from ngxstream.conf.directive import BLOCK2, STREAM, Directive
from ngxstream.core import errors, hashing
from ngxstream.core.log import encode
from ngxstream.stream import values, variables
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.stream.session import Session

WHOLE: Final = 10_000  # hundredths of a percent
_ABOVE_ALL: Final = 1 << 32  # no hash is as large


class Parts:
    """The shares of a split and their values, in the order of the file."""

    __slots__ = ("_bounds", "_last", "_sum")

    def __init__(self) -> None:
        self._bounds: list[tuple[int, bytes]] = []  # (lowest hash above the share, value)
        self._sum = 0  # hundredths of a percent handed out
        self._last = 0  # bound of the latest share

    def add(self, percent: int, value: bytes) -> None:
        """Add hundredths of a percent, 0 for the rest. Source: ngx_conf_split_clients_block"""
        self._sum = self._sum + percent if percent else WHOLE
        if self._sum > WHOLE:
            raise errors.ConfError("percent total is greater than 100%")
        if self._sum == WHOLE:
            # bounds are rounded down: the last share takes the hashes that would be left over
            self._bounds.append((_ABOVE_ALL, value))
            return
        self._last += percent * 0xFFFFFFFF // WHOLE
        self._bounds.append((self._last, value))

    def choose(self, hashed: int) -> bytes:
        """Return the value of the share a 32-bit hash falls into; empty when none holds it."""
        for bound, value in self._bounds:
            if hashed < bound:
                return value
        return b""


def parse_percent(text: str) -> int:
    """Read a percentage times 100; 0 is `*`. Raises: ConfError. Source: ngx_stream_split_clients"""
    if text == "*":
        return 0
    try:
        percent = units.parse_fixed(text[:-1], 2) if text.endswith("%") else 0
    except ValueError:
        percent = 0
    if not percent:
        raise errors.ConfError(f'invalid percent value "{text}"')
    return percent & 0xFFFFFFFF


def _block(scope: Scope, module: Module, st: Statement) -> None:
    builder = scope.builder
    table = builder.data["stream"].variables
    source = values.compile_value(st.args[0], table)
    name = variables.name_in(st.args[1])
    parts = Parts()

    def get(s: Session) -> bytes:
        return parts.choose(hashing.murmur2(source.get(s)))

    table.add(name, get, doc="What a split_clients block chose.")
    shares: list[tuple[int, bytes]] = []

    def take(item: Statement) -> None:
        percent = parse_percent(item.directive)
        if len(item.args) != 1:
            raise errors.ConfError("invalid number of the split_clients parameters")
        shares.append((percent, encode(item.args[0])))

    items.walk(builder, st, take, includes=False)
    for share in shares:  # the sum is checked at the end of the block
        parts.add(*share)


MODULE = StreamModule(
    name="split_clients",
    directives=(
        Directive("split_clients", STREAM, BLOCK2, _block,
                  "A variable that has one of several values, by the hash of a string."),
    ),
)
