"""geo: a variable whose value is looked up by an address (ngx_stream_geo_module.c).

1. Two kinds of block: networks, of which the longest that fits decides, and with `ranges` ranges
   of IPv4 addresses, which may be nested.
2. The address is the client's, or that in a variable. An IPv4-mapped IPv6 address is looked up as
   IPv4. What is no address, or one the block cannot hold, is looked up as 255.255.255.255.
3. A fresh FILE.bin beside an included FILE, which nginx would load in its place, is not read: the
   text says the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ngxstream.conf import items
from ngxstream.conf.directive import BLOCK12, STREAM, Directive
from ngxstream.core import errors, inet, ip, prefixes, ranges
from ngxstream.core.log import encode
from ngxstream.stream import variables
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from collections.abc import Callable

    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.stream.session import Session

NOWHERE: Final = b"\xff\xff\xff\xff"  # INADDR_NONE: looked up where there is no address
_BROADCAST: Final = "255.255.255.255"


def _shown(value: bytes) -> str:
    """Return a value as a message shows it."""
    return value.decode("utf-8", "surrogateescape")


class Geo:
    """The items of one geo block."""

    __slots__ = ("_default", "_ranges", "_scope", "_v4", "_v6", "_values", "is_volatile")

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._v4: prefixes.PrefixMap[bytes] | None = None
        self._v6: prefixes.PrefixMap[bytes] = prefixes.PrefixMap(prefixes.IPV6_BITS)
        self._ranges: ranges.RangeMap[bytes] | None = None
        self._default: bytes | None = None  # of ranges
        self._values: dict[str, bytes] = {}  # long blocks repeat few values
        self.is_volatile = False

    def take(self, st: Statement) -> None:
        """Take one item of the block. Raises: ConfError. Source: ngx_stream_geo"""
        key = st.directive
        args = st.args
        if len(args) != 1:
            if not args and key == "ranges":
                if self._v4 is not None:
                    raise errors.ConfError(
                        'the "ranges" directive must be the first directive inside "geo" block'
                    )
                if self._ranges is None:
                    self._ranges = ranges.RangeMap()
            elif not args and key == "volatile":
                self.is_volatile = True
            else:
                raise errors.ConfError("invalid number of the geo parameters")
            return
        if self._ranges is not None:
            self._take_range(self._ranges, key, args[0])
        else:
            self._take_network(key, args[0])

    def _value(self, text: str) -> bytes:
        value = self._values.get(text)
        if value is None:
            value = self._values[text] = encode(text)
        return value

    def _take_network(self, key: str, text: str) -> None:
        """Source: ngx_stream_geo_cidr"""
        v4 = self._v4
        if v4 is None:
            v4 = self._v4 = prefixes.PrefixMap(prefixes.IPV4_BITS)
        if key == "default":
            value = self._value(text)
            self._insert(v4, 0, 0, value, key)
            self._insert(self._v6, 0, 0, value, key)
            return
        deleted = key == "delete"
        if deleted:
            key = text
        networks, network, length = self._network(v4, key)
        if not deleted:
            self._insert(networks, network, length, self._value(text), key)
        elif not networks.delete(network, length):
            self._scope.warn(f'no network "{key}" to delete')

    def _network(self, v4: prefixes.PrefixMap[bytes],
                 text: str) -> tuple[prefixes.PrefixMap[bytes], int, int]:
        """Parse a network. Source: ngx_stream_geo_cidr_value"""
        if text == _BROADCAST:  # to nginx's parser that is no address
            return v4, 0xFFFFFFFF, prefixes.IPV4_BITS
        try:
            cidr = ip.parse_cidr(text)
        except ValueError:
            raise errors.ConfError(f'invalid network "{text}"') from None
        if cidr.low_bits:
            self._scope.warn(f"low address bits of {text} are meaningless")
        networks = v4 if len(cidr.packed) == 4 else self._v6
        return networks, int.from_bytes(cidr.packed, "big"), cidr.prefix

    def _insert(self, networks: prefixes.PrefixMap[bytes], network: int, length: int,
                value: bytes, text: str) -> None:
        """Source: ngx_stream_geo_cidr_add"""
        before = networks.insert(network, length, value)
        if before is not None:
            # nginx shows what that address found so far: a longer network may have decided it
            networks.insert(network, length, before)
            old = networks.find(network)
            networks.insert(network, length, value)
            self._scope.warn(
                f'duplicate network "{text}", value: "{_shown(value)}", '
                f'old value: "{_shown(old or b"")}"'
            )

    def _take_range(self, known: ranges.RangeMap[bytes], key: str, text: str) -> None:
        """Source: ngx_stream_geo_range"""
        if key == "default":
            if self._default is not None:
                self._scope.warn(
                    f'duplicate default geo range value: "{text}", '
                    f'old value: "{_shown(self._default)}"'
                )
            self._default = self._value(text)
            return
        deleted = key == "delete"
        if deleted:
            key = text
        low, _, high = key.partition("-")
        start, end = ip.inet_addr(low), ip.inet_addr(high)
        if start is None or end is None or start > end:
            raise errors.ConfError(f'invalid range "{key}"')
        first, last = int.from_bytes(start, "big"), int.from_bytes(end, "big")
        if deleted:
            if not known.delete(first, last):
                self._scope.warn(f'no address range "{key}" to delete')
            return
        value = self._value(text)

        def replaced(old: bytes) -> None:
            self._scope.warn(
                f'duplicate range "{key}", value: "{text}", old value: "{_shown(old)}"'
            )

        try:
            known.add(first, last, value, replaced)
        except ranges.OverlapError as other:
            ends = (n.to_bytes(4, "big") for n in (other.low, other.high))
            there = "-".join(map(ip.ntop, ends))
            raise errors.ConfError(f'range "{key}" overlaps "{there}"') from None

    def finder(self) -> Callable[[bytes], bytes]:
        """Return what looks up a packed address of 4 or 16 bytes."""
        if self._ranges is not None:
            return self._find_range
        if self._v4 is None:
            self._v4 = prefixes.PrefixMap(prefixes.IPV4_BITS)
        find4, find6 = self._v4.find_packed, self._v6.find_packed

        def find(packed: bytes) -> bytes:
            if len(packed) != 4:
                packed = ip.unmapped(packed)
            return (find4(packed) if len(packed) == 4 else find6(packed)) or b""

        return find

    def _find_range(self, packed: bytes) -> bytes:
        assert self._ranges is not None
        if len(packed) != 4:
            packed = ip.unmapped(packed)
            if len(packed) != 4:
                packed = NOWHERE
        value = self._ranges.find(int.from_bytes(packed, "big"))
        return (self._default or b"") if value is None else value


def _client_address(s: Session) -> bytes:
    """Return the packed address of the client. Source: ngx_stream_geo_addr"""
    return inet.packed(s.c.sockaddr) or NOWHERE


def _parsed_address(ref: variables.VariableRef) -> Callable[[Session], bytes]:
    """Make the getter of the address in a variable. Source: ngx_stream_geo_addr"""

    def address(s: Session) -> bytes:
        text = ref.get(s)  # asked now: it has no getter of its own before the block is linked
        return (None if text is None else ip.parse(text.decode("latin-1"))) or NOWHERE

    return address


def _block(scope: Scope, module: Module, st: Statement) -> None:
    builder = scope.builder
    table: variables.VariableTable = builder.data["stream"].variables
    name = variables.name_in(st.args[0])
    address: Callable[[Session], bytes] = _client_address
    if len(st.args) == 2:
        address = _parsed_address(table.ref(name))
        name = variables.name_in(st.args[1])
    geo = Geo(scope)
    variable = table.add(name, _client_address, doc="What a geo block found.")
    items.walk(builder, st, geo.take)
    find = geo.finder()

    def get(s: Session) -> bytes:
        return find(address(s))

    variable.get = get
    if geo.is_volatile:
        variable.flags |= variables.NOCACHEABLE


MODULE = StreamModule(
    name="geo",
    directives=(
        Directive("geo", STREAM, BLOCK12, _block,
                  "A variable whose value is looked up by an address."),
    ),
)
