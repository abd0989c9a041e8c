"""The manual of the directives: what the TOML file beside each module says of those it declares.

`geo.toml` stands beside `geo.py` and has a table for each directive: `syntax`, `text`, `example`,
and `parameters` and `items` (what stands inside a block), each form with its meaning. In a form
and in a syntax, `<name>` stands for a value, `[…]` for what may be left out, `|` for a choice.
Nothing here is read by a program that serves: pages, the man page, editors' files and the hints of
a failed -t are made of it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ngxstream.conf.directive import FLAG, UPSTREAM, Directive

PACKAGE: Final = Path(__file__).resolve().parents[1]
_KEYS: Final = {"syntax", "text", "example", "parameters", "items", "see"}
_LITERAL: Final = re.compile(r"[^<\[=:]*")
_NEEDED: Final = "syntax", "text", "example"

EXPLAINED: Final = """\
    [{key}]
    syntax = "{name} <what> [word] [name=<value>]"
    text = \"\"\"What it does, for somebody who has never seen the code.\"\"\"
    example = \"\"\"What can stand in a stream block (for a directive of main: there).\"\"\"
    see = ["page.md"]                       # pages of docs/, if any
    [{key}.parameters]                      # each word and name= that the parser takes
    "name=<value>" = "Its meaning, unit and default."
"""


class ManualError(Exception):
    """A manual that does not say what it has to."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter, or one item of a block: its form and its meaning."""

    form: str
    text: str

    @property
    def words(self) -> tuple[str, ...]:
        """Return the words that it begins with: `a` of `a=<b>`, both of `a | b`, () of `<b>`."""
        found = (_LITERAL.match(one.strip()) for one in self.form.split(" | "))
        return tuple(one[0].strip() for one in found if one is not None and one[0].strip())

    @property
    def values(self) -> tuple[str, ...]:
        """Return the words that are its values: b and c of `a=b|c`, () where it takes others."""
        _, _, choice = self.form.partition("=")
        return () if not choice or "<" in self.form else tuple(choice.rstrip("]").split("|"))


@dataclass(frozen=True, slots=True)
class Entry:
    """What the manual says of a directive. Args: key: `name`, or `upstream/name` (key_of)"""

    key: str
    file: Path
    topic: str
    syntax: tuple[str, ...]
    text: str
    example: str = ""
    parameters: tuple[Parameter, ...] = ()
    items: tuple[Parameter, ...] = ()
    see: tuple[str, ...] = ()

    @property
    def words(self) -> frozenset[str]:
        """Return the words of all parameters and items."""
        return frozenset(
            word for one in (*self.parameters, *self.items) for word in one.words
        )


def key_of(record: Directive, records: Iterable[Directive]) -> str:
    """Return what the entry of a directive is called: a name may mean two things.

    Args: records: all directives
    """
    if record.contexts == UPSTREAM and any(
        other.name == record.name and other.contexts != UPSTREAM for other in records
    ):
        return f"upstream/{record.name}"
    return record.name


def load(records: Iterable[Directive], root: Path = PACKAGE) -> dict[str, Entry]:
    """Read the entries of all directives, those that are refused by name among them.

    Raises: ManualError, which says what is missing, and how it is written
    """
    known = {key_of(record, records): record for record in records}
    found: dict[str, Entry] = {}
    for file in sorted(root.rglob("*.toml")):
        text = read(file)
        topic = str(text.pop("topic", ""))
        for key, table in text.items():
            if key not in known:
                raise ManualError(f'{file}: there is no directive "{key}"')
            if key in found:
                raise ManualError(f'{file}: "{key}" has another entry in {found[key].file}')
            found[key] = _entry(key, known[key], file, topic, table)
    for key, record in known.items():
        if key not in found and record.refused:
            found[key] = Entry(key, root, "refused", (f"{record.name} …",), f"{record.refused}.")
        elif key not in found:
            name = f'"{key}"' if "/" in key else key
            raise ManualError(
                f'the manual has no entry for "{key}": write one into the .toml file beside the '
                f"module that declares it,\n\n{EXPLAINED.format(key=name, name=record.name)}"
            )
    return {key: found[key] for key in known}


def read(file: Path) -> dict[str, Any]:
    """Return what a file says, unjudged. Raises: ManualError"""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ManualError(f"{file}: {error}") from None


def _entry(key: str, record: Directive, file: Path, topic: str, table: Any) -> Entry:
    if not isinstance(table, Mapping) or (unknown := table.keys() - _KEYS):
        raise ManualError(f'{file}: [{key}] says {sorted(unknown)}, known are {sorted(_KEYS)}')
    given = dict(table)
    if record.takes is FLAG:
        given.setdefault("syntax", f"{record.name} on | off")
    missing = [name for name in _NEEDED if not given.get(name)]
    if missing:
        raise ManualError(f"{file}: [{key}] has no {' and no '.join(missing)}")
    syntax = given["syntax"]
    return Entry(
        key, file, topic,
        syntax=(syntax,) if isinstance(syntax, str) else tuple(syntax),
        text=given["text"].strip(),
        example=given["example"].strip("\n"),
        parameters=_parameters(given.get("parameters", {})),
        items=_parameters(given.get("items", {})),
        see=tuple(given.get("see", ())),
    )


def _parameters(table: Mapping[str, str]) -> tuple[Parameter, ...]:
    return tuple(Parameter(form, " ".join(text.split())) for form, text in table.items())
