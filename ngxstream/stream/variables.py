"""The variable table: names, indices, caching (ngx_stream_variables.c).

1. Names are case-insensitive. `$1`..`$9` are the captures of the session's latest regex.
2. A getter takes a session and returns bytes, or None for "not found".
3. Values are cached per session on first use, unless the variable is NOCACHEABLE; PURE says that
   caching could not be told from not caching, so the getter is called directly.
4. References are handed out while the block is read and linked when it is complete: an unknown
   name is found then, as in nginx, and reported without a place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ngxstream.core import errors

if TYPE_CHECKING:
    from ngxstream.stream.session import Session
    from ngxstream.stream.values import ComplexValue

Getter = Callable[["Session"], bytes | None]
PrefixGetter = Callable[["Session", str], bytes | None]

CHANGEABLE: Final = 1  # map, geo, set and the like may define it anew
NOCACHEABLE: Final = 2  # asked again at every use
PURE: Final = 4  # the same for the whole session and cheap: never cached
PREFIX: Final = 8  # a family: the name goes on, the getter takes (session, rest of the name)
WEAK: Final = 16  # a named capture: anything may redefine it


class _Unset:
    """The type of UNSET: a variable that was not asked for yet."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = _Unset()


@dataclass(slots=True)
class Variable:
    """One variable of a table.

    shape: `get` is a Getter, or a PrefixGetter with PREFIX; `doc` is one line for
    docs/variables.md.
    """

    name: str
    get: Getter | PrefixGetter
    flags: int = 0
    doc: str = ""


def _unlinked(s: Session) -> bytes | None:
    raise errors.InternalError("variable used before it was linked")


class VariableRef:
    """A use of a variable. shape: `get(session)` is bytes or None once the table is linked."""

    __slots__ = ("name", "index", "get", "flags")

    def __init__(self, name: str, index: int) -> None:
        self.name = name
        self.index = index
        self.get: Getter = _unlinked
        self.flags = 0


def _capture(number: int) -> Getter:
    def get(s: Session) -> bytes | None:
        captures = s.captures
        if captures is None or number >= len(captures):
            return None
        return captures[number]

    return get


class VariableTable:
    """All variables of one stream block, and the references to them in use."""

    def __init__(self, builtin: Iterable[Variable]) -> None:
        self.known: dict[str, Variable] = {}
        self.prefixes: dict[str, Variable] = {}
        self.refs: dict[str, VariableRef] = {}
        self.values: list[ComplexValue] = []  # to be linked after the references
        self.size = 0
        for variable in builtin:
            table = self.prefixes if variable.flags & PREFIX else self.known
            table[variable.name] = variable

    def add(self, name: str, get: Getter, flags: int = CHANGEABLE, doc: str = "") -> Variable:
        """Define a variable, or redefine a changeable one.

        raises: ConfError `the duplicate "…" variable`
        source: ngx_stream_add_variable
        """
        name = name.lower()
        if not name:
            raise errors.ConfError('invalid variable name "$"')
        known = self.known.get(name)
        if known is not None and not known.flags & (CHANGEABLE | WEAK):
            raise errors.ConfError(f'the duplicate "{name}" variable')
        variable = self.known[name] = Variable(name, get, flags, doc)
        return variable

    def ref(self, name: str) -> VariableRef:
        """Return the reference to a name; whether it exists is found out at link().

        source: ngx_stream_get_variable_index
        """
        name = name.lower()
        found = self.refs.get(name)
        if found is None:
            found = self.refs[name] = VariableRef(name, self.size)
            self.size += 1
        return found

    def link(self) -> None:
        """Bind every reference, then compile every value.

        raises: UnplacedError `unknown "…" variable`
        source: ngx_stream_variables_init_vars
        """
        for ref in self.refs.values():
            self._bind(ref)
        for value in self.values:
            value.link()

    def _bind(self, ref: VariableRef) -> None:
        if ref.name.isdigit() and len(ref.name) == 1 and ref.name != "0":
            ref.get = _capture(int(ref.name))
            return
        variable = self.known.get(ref.name)
        if variable is not None:
            ref.flags = variable.flags
            ref.get = self._access(ref.index, variable.get, variable.flags)  # type: ignore
            return
        best = ""
        for prefix in self.prefixes:
            if ref.name.startswith(prefix) and len(prefix) > len(best):
                best = prefix
        if not best:
            raise errors.UnplacedError(f'unknown "{ref.name}" variable')
        family, rest = self.prefixes[best], ref.name[len(best) :]
        prefix_get = family.get
        ref.flags = family.flags & ~PREFIX
        ref.get = self._access(ref.index, lambda s: prefix_get(s, rest), ref.flags)  # type: ignore

    def _access(self, index: int, get: Getter, flags: int) -> Getter:
        if flags & (NOCACHEABLE | PURE):
            return get

        def cached(s: Session) -> bytes | None:
            values = s.values
            if values is None:
                values = s.values = [UNSET] * self.size
            value = values[index]
            if value is UNSET:
                value = values[index] = get(s)
            return value

        return cached
