"""Directives as records: name, contexts, arity, setter and one line of prose.

Answers for ngx_command_t and the generic slot setters of src/core/ngx_conf_file.c. A record is
declared beside the feature that obeys it; the builder (conf/builder.py) knows nothing but records.

1. A setter stores into `given`, the dict of one block's values for one module. A name already
   there is nginx's `"…" directive is duplicate`.
2. A setter raises ConfError without a location; the builder adds file and line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ngxstream.conf import units
from ngxstream.core import errors, files

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement

SAID = "_said"  # key of what note() keeps


class Said(NamedTuple):
    """One statement, as note() keeps it."""

    directive: str
    args: tuple[str, ...]
    file: str
    line: int


# Contexts, as bits: where a directive may stand.
MAIN = 0x01
EVENTS = 0x02
STREAM = 0x04
SERVER = 0x08
UPSTREAM = 0x10
ANYWHERE = MAIN | EVENTS | STREAM | SERVER | UPSTREAM

Setter = Callable[["Scope", "Module", "Statement"], None]


class Takes(NamedTuple):
    """How many arguments a directive takes (its name not counted), and whether a block."""

    least: int
    most: int | None
    block: bool = False
    flag: bool = False

    def accepts(self, count: int) -> bool:
        """Tell whether `count` arguments are right."""
        return self.least <= count and (self.most is None or count <= self.most)


NOARGS = Takes(0, 0)
TAKE1 = Takes(1, 1)
TAKE2 = Takes(2, 2)
TAKE3 = Takes(3, 3)
TAKE12 = Takes(1, 2)
TAKE13 = Takes(1, 3)
TAKE14 = Takes(1, 4)
TAKE23 = Takes(2, 3)
TAKE34 = Takes(3, 4)
TAKE012 = Takes(0, 2)
ONE_MORE = Takes(1, None)
TWO_MORE = Takes(2, None)
FLAG = Takes(1, 1, flag=True)
BLOCK = Takes(0, 0, block=True)
BLOCK1 = Takes(1, 1, block=True)
BLOCK2 = Takes(2, 2, block=True)
BLOCK12 = Takes(1, 2, block=True)


@dataclass(frozen=True, slots=True)
class Directive:
    """One directive of the configuration language.

    Attributes: contexts: an OR of context bits; doc: one line of prose for docs/directives.md;
    what more there is to say, syntax and parameters, is in the manual (conf/manual.py).
    Source: ngx_command_t, src/core/ngx_conf_file.h
    """

    name: str
    contexts: int
    takes: Takes
    set: Setter
    doc: str
    default: str = ""
    extension: bool = False  # ours: nginx does not know it
    refused: str = ""  # why this build does not serve it ("" when it does)


def put(scope: Scope, module: Module, st: Statement, field: str, value: object) -> None:
    """Store one value of the current block; a second one is nginx's duplicate error."""
    given = scope.given_of(module)
    if field in given:
        raise errors.ConfError(f'"{st.directive}" directive is duplicate')
    given[field] = value


def _check_duplicate(scope: Scope, module: Module, st: Statement, field: str) -> None:
    # nginx says "is duplicate" before it looks at the value
    if field in scope.given_of(module):
        raise errors.ConfError(f'"{st.directive}" directive is duplicate')


def note(scope: Scope, module: Module, st: Statement) -> None:
    """Keep what a block says of a module, word for word and with its place (class Said)."""
    said = Said(st.directive, tuple(st.args), st.file, st.line)
    scope.given_of(module).setdefault(SAID, []).append(said)


def flag(field: str) -> Setter:
    """Make the setter of an on/off field (bool). Source: ngx_conf_set_flag_slot"""

    def set_flag(scope: Scope, module: Module, st: Statement) -> None:
        _check_duplicate(scope, module, st, field)
        word = st.args[0].lower()
        if word not in ("on", "off"):
            raise errors.ConfError(
                f'invalid value "{files.c_string(st.args[0])}" in "{st.directive}" directive, '
                'it must be "on" or "off"'
            )
        scope.given_of(module)[field] = word == "on"

    return set_flag


def _slot(field: str, parse: Callable[[str], object], complaint: str) -> Setter:
    def set_slot(scope: Scope, module: Module, st: Statement) -> None:
        _check_duplicate(scope, module, st, field)
        try:
            value = parse(st.args[0])
        except ValueError:
            raise errors.ConfError(f'"{st.directive}" directive {complaint}') from None
        scope.given_of(module)[field] = value

    return set_slot


def msec(field: str) -> Setter:
    """Make the setter of a time in milliseconds. Source: ngx_conf_set_msec_slot"""
    return _slot(field, units.parse_time_msec, "invalid value")


def sec(field: str) -> Setter:
    """Make the setter of a time in seconds. Source: ngx_conf_set_sec_slot"""
    return _slot(field, units.parse_time_sec, "invalid value")


def size(field: str) -> Setter:
    """Make the setter of a size in bytes. Source: ngx_conf_set_size_slot"""
    return _slot(field, units.parse_size, "invalid value")


def offset(field: str) -> Setter:
    """Make the setter of an offset in bytes (knows `g`). Source: ngx_conf_set_off_slot"""
    return _slot(field, units.parse_offset, "invalid value")


def num(field: str) -> Setter:
    """Make the setter of a number. Source: ngx_conf_set_num_slot"""
    return _slot(field, units.parse_number, "invalid number")


def string(field: str) -> Setter:
    """Make the setter of a word kept as it is. Source: ngx_conf_set_str_slot"""

    def set_string(scope: Scope, module: Module, st: Statement) -> None:
        put(scope, module, st, field, st.args[0])

    return set_string


def strings(field: str) -> Setter:
    """Make the setter of a repeatable list of words. Source: ngx_conf_set_str_array_slot"""

    def add_strings(scope: Scope, module: Module, st: Statement) -> None:
        scope.given_of(module).setdefault(field, []).append(st.args[0])

    return add_strings


def pairs(field: str) -> Setter:
    """Make the setter of a repeatable key-value list. Source: ngx_conf_set_keyval_slot"""

    def add_pair(scope: Scope, module: Module, st: Statement) -> None:
        scope.given_of(module).setdefault(field, []).append((st.args[0], st.args[1]))

    return add_pair


def enum(field: str, words: Mapping[str, object]) -> Setter:
    """Make the setter of one word out of a few. Source: ngx_conf_set_enum_slot"""

    def set_enum(scope: Scope, module: Module, st: Statement) -> None:
        _check_duplicate(scope, module, st, field)
        word = st.args[0].lower()
        if word not in words:
            raise errors.ConfError(f'invalid value "{files.c_string(st.args[0])}"')
        scope.given_of(module)[field] = words[word]

    return set_enum


def bitmask(field: str, words: Mapping[str, int]) -> Setter:
    """Make the setter of an OR of words; repeats only warn. Source: ngx_conf_set_bitmask_slot"""
    folded = {word.lower(): bit for word, bit in words.items()}

    def set_bits(scope: Scope, module: Module, st: Statement) -> None:
        given = scope.given_of(module)
        bits = given.get(field, 0)
        for arg in st.args:
            bit = folded.get(arg.lower())
            if bit is None:
                raise errors.ConfError(f'invalid value "{files.c_string(arg)}"')
            if bits & bit:
                scope.warn(f'duplicate value "{arg}"')
            bits |= bit
        given[field] = bits

    return set_bits


def refuse(why: str) -> Setter:
    """Make the setter of a directive that is known but not served: it says why."""

    def set_refused(scope: Scope, module: Module, st: Statement) -> None:
        raise errors.ConfError(f'"{st.directive}" directive is not supported: {why}')

    return set_refused


def unsupported(name: str, contexts: int, takes: Takes, why: str) -> Directive:
    """Declare a directive of nginx's that we refuse by name."""
    return Directive(name, contexts, takes, refuse(why), why, refused=why)
