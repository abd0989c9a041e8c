"""The variable table: names, indices, caching (ngx_stream_variables.c).

1. Names are case-insensitive; `$1`..`$9` are no variables but captures (stream/values.py).
2. A getter takes a session and returns bytes, or None for "not found".
3. Values are cached per session on first use, unless the variable is NOCACHEABLE; PURE says that
   caching could not be told from not caching, so the getter is called directly. Nor can it be of
   a variable that nothing but log formats name: a session has ended when its lines are written.
4. A variable that a regex captures or `set` assigns is looked up among the session's values
   first: what was assigned stays, even for a NOCACHEABLE one.
5. References are handed out while the block is read and linked when it is complete: an unknown
   name is found then, as in nginx, and reported without a place.
6. Variables that are defined in the configuration may lead back to themselves; evaluation stops
   MAX_DEPTH deep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from ngxstream.core import errors
from ngxstream.core.log import ERR

if TYPE_CHECKING:
    from ngxstream.stream.session import Session

Getter = Callable[["Session"], bytes | None]
PrefixGetter = Callable[["Session", str], bytes | None]

CHANGEABLE: Final = 1  # map, geo, set and the like may define it anew
NOCACHEABLE: Final = 2  # asked again at every use
PURE: Final = 4  # the same for the whole session and cheap: never cached
PREFIX: Final = 8  # a family: the name goes on, the getter takes (session, rest of the name)
WEAK: Final = 16  # defined by nothing but `set`: gives way to a family that knows the name
PLAIN: Final = 32  # there in every session, and of characters that no log escapes

MAX_DEPTH: Final = 100  # ngx_stream_variable_depth


class _Unset:
    """The type of UNSET: a variable that was not asked for yet."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = _Unset()


@dataclass(slots=True)
class Variable:
    """One variable of a table.

    Args: get: a Getter, or a PrefixGetter with PREFIX; `doc` is one line for docs/variables.md.
    """

    name: str
    get: Getter | PrefixGetter
    flags: int = 0
    doc: str = ""


def name_in(word: str) -> str:
    """Return the name of `$name`. Raises: ConfError"""
    if not word.startswith("$"):
        raise errors.ConfError(f'invalid variable name "{word}"')
    return word[1:]


def not_found(s: Session) -> bytes | None:
    """Return None: the value of a named capture before its regex matched."""
    return None


def _empty(s: Session) -> bytes | None:
    """Get an empty value: what a variable is where no `set` assigned it."""
    return b""


def _unlinked(s: Session) -> bytes | None:
    raise errors.InternalError("variable used before it was linked")


class VariableRef:
    """A use of a variable: `get(session)` is bytes or None once the table is linked."""

    __slots__ = ("name", "index", "get", "flags", "is_assigned", "is_early", "_table")

    def __init__(self, name: str, index: int, table: VariableTable) -> None:
        self.name = name
        self.index = index
        self.get: Getter = _unlinked
        self.flags = 0
        self.is_assigned = False  # whether assign() may be called
        self.is_early = False  # whether it is used before the session's end
        self._table = table

    def assign(self, s: Session, value: bytes | None) -> None:
        """Give the variable a value for the rest of the session; None is "not found"."""
        self._table.values_of(s)[self.index] = value


class Linkable(Protocol):
    """Something that is compiled once all variables are known: a value, a log format."""

    def link(self) -> None:
        """Compile."""


class VariableTable:
    """All variables of one stream block, and the references to them in use."""

    def __init__(self, builtin: Iterable[Variable]) -> None:
        self.known: dict[str, Variable] = {}
        self.prefixes: dict[str, Variable] = {}
        self.refs: dict[str, VariableRef] = {}
        self.values: list[Linkable] = []  # to be linked after the references
        self.size = 0  # references so far
        self.depth = 0  # variables being evaluated, each for the sake of the one before
        for variable in builtin:
            table = self.prefixes if variable.flags & PREFIX else self.known
            table[variable.name] = variable

    # -- while the block is read -----------------------------------------------------------------

    def add(self, name: str, get: Getter, flags: int = CHANGEABLE, doc: str = "") -> Variable:
        """Define a variable, or redefine a changeable one.

        Raises: ConfError `the duplicate "…" variable`
        Source: ngx_stream_add_variable
        """
        if not name:
            raise errors.ConfError('invalid variable name "$"')
        known = self.known.get(name.lower())
        if known is None:
            variable = Variable(name.lower(), get, flags, doc)
            self.known[variable.name] = variable
            return variable
        if not known.flags & CHANGEABLE:
            raise errors.ConfError(f'the duplicate "{name}" variable')
        known.get = get
        # nginx takes no other flag back: a volatile map redefined by a plain one stays volatile
        known.flags = (known.flags | flags) & ~(PURE | WEAK)
        return known

    def ref(self, name: str, *, late: bool = False) -> VariableRef:
        """Return the reference to a name; whether it exists is found out at link().

        Args: late: this use of it is in a line that is written at the session's end
        Raises: ConfError `invalid variable name "$"`
        Source: ngx_stream_get_variable_index
        """
        if not name:
            raise errors.ConfError('invalid variable name "$"')
        name = name.lower()
        found = self.refs.get(name)
        if found is None:
            found = self.refs[name] = VariableRef(name, self.size, self)
            self.size += 1
        if not late:
            found.is_early = True
        return found

    def capture(self, name: str) -> VariableRef:
        """Define the variable of a named capture; return the reference to assign it by.

        Raises: ConfError. Source: ngx_stream_regex_compile
        """
        self.add(name, not_found)
        return self._assigned(name)

    def assignable(self, name: str) -> VariableRef:
        """Let a variable be assigned, defining it if it is new; return the reference to do so by.

        Raises: ConfError. Source: ngx_stream_set
        """
        known = self.known.get(name.lower())
        if known is None or not known.flags & CHANGEABLE:
            self.add(name, _empty, CHANGEABLE | WEAK)
        return self._assigned(name)

    def _assigned(self, name: str) -> VariableRef:
        ref = self.ref(name)
        ref.is_assigned = True
        return ref

    # -- when it is complete -----------------------------------------------------------------------

    def link(self) -> None:
        """Bind every reference, then compile every value.

        Raises: UnplacedError `unknown "…" variable`
        Source: ngx_stream_variables_init_vars
        """
        for ref in self.refs.values():
            get, ref.flags = self._find(ref.name)
            ref.get = self._access(ref, get)
        for value in self.values:
            value.link()

    def _find(self, name: str) -> tuple[Getter, int]:
        """Return a name's getter and flags: its own variable, else the longest family."""
        variable = self.known.get(name)
        if variable is None or variable.flags & WEAK:
            family = max(filter(name.startswith, self.prefixes), key=len, default=None)
            if family is not None:
                variable = self.prefixes[family]
                rest = name[len(family) :]
                prefix_get = cast("PrefixGetter", variable.get)
                return lambda s: prefix_get(s, rest), variable.flags & ~PREFIX
        if variable is None:
            raise errors.UnplacedError(f'unknown "{name}" variable')
        return cast("Getter", variable.get), variable.flags

    def _access(self, ref: VariableRef, get: Getter) -> Getter:
        """Wrap a getter in what its flags ask for."""
        flags, index, values_of = ref.flags, ref.index, self.values_of
        if flags & CHANGEABLE:
            get = self._counted(ref.name, get)
        is_cached = not flags & (NOCACHEABLE | PURE) and (ref.is_early or flags & CHANGEABLE)
        if not ref.is_assigned and not is_cached:
            return get

        if flags & NOCACHEABLE:

            def assigned_or_fresh(s: Session) -> bytes | None:
                value = values_of(s)[index]
                return get(s) if value is UNSET else value

            return assigned_or_fresh

        def cached(s: Session) -> bytes | None:
            values = s.values
            if values is None:
                values = values_of(s)
            value = values[index]
            if value is UNSET:
                value = values[index] = get(s)
            return value  # type: ignore[no-any-return]  # hot: no second name for a typed value

        return cached

    def _counted(self, name: str, get: Getter) -> Getter:
        """Stop a variable that leads back to itself. Source: ngx_stream_get_indexed_variable"""

        def counted(s: Session) -> bytes | None:
            if self.depth >= MAX_DEPTH:
                s.log_error(ERR, f'cycle while evaluating variable "{name}"')
                return None
            self.depth += 1
            try:
                return get(s)
            finally:
                self.depth -= 1

        return counted

    # -- while sessions run ----------------------------------------------------------------------

    def value_of(self, s: Session, name: str) -> bytes | None:
        """Return the value of a variable that is named at run time, None for none.

        Raises: KeyError where there is no such variable
        """
        name = name.lower()
        ref = self.refs.get(name)
        if ref is not None:
            return ref.get(s)
        try:
            get, flags = self._find(name)
        except errors.UnplacedError:
            raise KeyError(f"there is no variable ${name}") from None
        return self._counted(name, get)(s) if flags & CHANGEABLE else get(s)

    def assign(self, s: Session, name: str, value: bytes | None) -> None:
        """Give a variable that is named at run time a value for the rest of the session.

        Raises: KeyError where there is no such variable, TypeError where it cannot be assigned
        """
        ref = self.refs.get(name.lower())
        if ref is not None and ref.is_assigned:
            ref.assign(s, value)
            return
        self.value_of(s, name)
        raise TypeError(f"the variable ${name} cannot be set")

    def values_of(self, s: Session) -> list[Any]:
        """Return the session's values by index, UNSET where there is none yet."""
        values = s.values
        if values is None:
            values = s.values = [UNSET] * self.size
        return values
