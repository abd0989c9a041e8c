"""map: a variable whose value is looked up by a string (ngx_stream_map_module.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ngxstream.conf import directive as d
from ngxstream.conf import items
from ngxstream.conf.directive import STREAM, Directive
from ngxstream.core import errors, hostnames, regex_literals
from ngxstream.core.codes import BUSY, DECLINED
from ngxstream.core.log import encode
from ngxstream.stream import captures, values, variables
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.stream.session import Session
    from ngxstream.stream.values import ComplexValue
    from ngxstream.stream.variables import VariableTable

MANY: Final = 8  # regular expressions, of which it is worth finding out which may match


class Map:
    """The items of one map block; a getter of its variable once the block is read."""

    __slots__ = ("_default", "_hostnames", "_names", "_regexes", "_sieve", "_source", "_table",
                 "_values", "is_volatile")

    def __init__(self, source: ComplexValue, table: VariableTable) -> None:
        self._source = source
        self._table = table
        self._names: hostnames.HostTable[ComplexValue] = hostnames.HostTable()
        self._regexes: list[tuple[captures.Pattern, ComplexValue]] = []
        self._sieve: regex_literals.Sieve | None = None  # where there are many
        self._default: ComplexValue | None = None
        self._hostnames = False
        self._values: dict[str, ComplexValue] = {}  # long maps repeat few values
        self.is_volatile = False

    def take(self, st: Statement) -> None:
        """Take one item of the block. Raises: ConfError. Source: ngx_stream_map"""
        key = st.directive
        args = st.args
        if len(args) != 1:
            if not args and key == "hostnames":
                self._hostnames = True
            elif not args and key == "volatile":
                self.is_volatile = True
            else:
                raise errors.ConfError("invalid number of the map parameters")
            return
        value = self._value(args[0])
        if key == "default":
            if self._default is not None:
                raise errors.ConfError("duplicate default map parameter")
            self._default = value
            return
        if key.startswith("~"):
            caseless = key.startswith("~*")
            pattern = captures.Pattern(key[2 if caseless else 1 :], caseless, self._table)
            self._regexes.append((pattern, value))
            return
        key = key.removeprefix("\\")
        name = encode(key)
        code = self._names.add(name, value, wildcards=self._hostnames)
        if code == DECLINED:
            raise errors.ConfError(f'invalid hostname or wildcard "{key}"')
        if code == BUSY:
            shown = name.lower().decode("utf-8", "surrogateescape")
            raise errors.ConfError(f'conflicting parameter "{shown}"')

    def _value(self, text: str) -> ComplexValue:
        value = self._values.get(text)
        if value is None:
            value = self._values[text] = values.compile_value(text, self._table)
        return value

    def finish(self) -> None:
        """Take notice that there are no more items."""
        if len(self._regexes) >= MANY:
            self._sieve = regex_literals.Sieve([regex.literals for regex, _ in self._regexes])

    def get(self, s: Session) -> bytes:
        """Return the value of the best item. Source: ngx_stream_map_variable, …_map_find"""
        subject = self._source.get(s)
        if self._hostnames and subject.endswith(b"."):
            subject = subject[:-1]
        value = self._names.find(subject.lower())
        if value is None:
            value = self._default
            if subject:
                regexes = self._regexes
                sieve = self._sieve
                if sieve is not None:  # the others do not match
                    regexes = [regexes[number] for number in sieve.candidates(subject)]
                for pattern, candidate in regexes:
                    matches = pattern.match(s, subject)
                    if matches:
                        value = candidate
                    if matches is not False:  # None: given up, and nginx tries no more either
                        break
        return b"" if value is None else value.get(s)


def _block(scope: Scope, module: Module, st: Statement) -> None:
    given = scope.given_of(module)
    # nginx sets the tuning of its hashes at the first map: a later directive is a duplicate
    given.setdefault("_hash_max_size", 2048)
    given.setdefault("_hash_bucket_size", 64)
    builder = scope.builder
    table: VariableTable = builder.data["stream"].variables
    source = values.compile_value(st.args[0], table)
    name = variables.name_in(st.args[1])
    found = Map(source, table)
    variable = table.add(name, found.get, doc="What a map block found.")
    items.walk(builder, st, found.take)
    found.finish()
    if found.is_volatile:
        variable.flags |= variables.NOCACHEABLE


MODULE = StreamModule(
    name="map",
    directives=(
        Directive("map", STREAM, d.BLOCK2, _block,
                  "A variable whose value is looked up by a string."),
        Directive("map_hash_max_size", STREAM, d.TAKE1, d.num("_hash_max_size"),
                  "Accepted; hashes need no tuning here.", default="2048"),
        Directive("map_hash_bucket_size", STREAM, d.TAKE1, d.num("_hash_bucket_size"),
                  "Accepted; hashes need no tuning here.", default="64"),
    ),
)
