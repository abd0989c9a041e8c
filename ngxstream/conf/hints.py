"""What may be meant: a line behind an error of a configuration, which says where to look.

nginx's message stays as it is; this adds what it leaves out: the name that is nearly the one that
was written, the block in which a directive may stand, whose directive it is, the syntax, or a
template that nobody has filled in. Executed for a configuration that was refused, and only then.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from ngxstream.conf import directive as d
from ngxstream.conf import include, manual, other_modules

if TYPE_CHECKING:
    from ngxstream.conf.manual import Entry
    from ngxstream.conf.module import Module
    from ngxstream.core.errors import ConfError

CONTEXTS: Final = {
    d.MAIN: "the main context", d.EVENTS: "events", d.STREAM: "stream", d.SERVER: "server",
    d.UPSTREAM: "upstream",
}
LONGEST: Final = 64  # bytes of a word that is looked at
MOST_FILE: Final = 1 << 20  # bytes of a file that is looked at for templates
# What systems of templates leave behind: ${NAME}, {{ name }}, {% … %}, <%= … %>, @NAME@.
TEMPLATE: Final = re.compile(
    r"\$\{\w{1,64}\}|\{\{.{0,64}?\}\}|\{%.{0,64}?%\}|<%.{0,64}?%>|@[A-Z][A-Z0-9_]{1,63}@"
    r"|\$[A-Z][A-Z0-9_]{1,63}\b"
)
_UNKNOWN: Final = re.compile(r'unknown directive "(.*)"', re.DOTALL)
_NOT_HERE: Final = re.compile(r'"(\w+)" directive is not allowed here')
_SYNTAX: Final = re.compile(r'invalid number of arguments in "\w+" directive'
                            r'|"\w+" directive invalid (?:value|number)')
_PARAMETER: Final = re.compile(r'invalid (?:parameter|value|log level|method)?:? ?"?([^"]+)"?'
                               r"(?: in .*| parameter)?")
_VARIABLE: Final = re.compile(r'unknown "(\w+)" variable')


class Hints:
    """What there is to say of errors, by the modules of a program and what others know."""

    def __init__(self, modules: Iterable[Module], elsewhere: frozenset[str]) -> None:
        """Args: elsewhere: names that nginx's http and mail modules know"""
        self.modules = (include.MODULE, *modules)
        self.elsewhere = elsewhere
        self.records = [record for module in self.modules for record in module.directives]

    def of(self, error: ConfError, text: str = "") -> str:
        """Return one line about an error, "" where there is nothing to add.

        Args: text: the lines of the file that the error is about, as far as they are known
        """
        template = self._template(error, text)
        if template:
            return template
        if error.message == 'unexpected "}"':
            return 'a ";" is missing in front of it, or a "{" further up'
        if missing := self._missing(error):
            return missing
        if found := _UNKNOWN.fullmatch(error.message):
            return self._unknown(found[1], error.context)
        if found := _NOT_HERE.fullmatch(error.message):
            return self._not_here(found[1], error.context)
        if found := _VARIABLE.fullmatch(error.message):
            return _meant(found[1], self._variables(), "$")
        entry = self._entry(error)
        if entry is None:
            return ""
        if _SYNTAX.fullmatch(error.message):
            return "syntax: " + " or ".join(map(_plain, entry.syntax))
        if found := _PARAMETER.fullmatch(error.message):
            return _parameter(found[1], entry)
        return ""

    def _missing(self, error: ConfError) -> str:
        """Tell of a directive among the words of another one that has more than one line."""
        if not error.start_line or error.start_line >= (error.line or 0):
            return ""
        names = {one.name for one in self.records if one.contexts & error.context}
        found = next((word for word in error.words[1:] if word in names), "")
        return found and f'is a ";" missing in front of "{found}"?'

    def _template(self, error: ConfError, text: str) -> str:
        """Tell of a template in the words of a statement, or in the lines that it stands in."""
        message = error.message
        if about := _VARIABLE.fullmatch(message):
            # variables have small letters in messages
            found = re.search(rf"\$\{{?{about[1]}\b\}}?", text, re.IGNORECASE)
            return _filled(found[0]) if found and found[0].upper() == found[0] else ""
        known = set(self._variables())
        for found in TEMPLATE.finditer(f"{' '.join(error.words[1:])}\n{text}"):
            name = found[0].strip("${}")
            is_meant = name.isupper() or found[0] in message or "invalid value" in message
            if not found[0].startswith("$") or (is_meant and name not in known):
                return _filled(found[0])
        return ""

    def _variables(self) -> Iterator[str]:
        for module in self.modules:
            yield from (one.name for one in getattr(module, "variables", ()))

    def _entry(self, error: ConfError) -> Entry | None:
        """Return what the manual says of the directive that an error is about."""
        name = error.words[0] if error.words else ""
        records = [one for one in self.records
                   if one.name == name and one.contexts & error.context]
        if not records:
            return None
        try:
            return manual.load(self.records).get(manual.key_of(records[0], self.records))
        except (OSError, manual.ManualError):  # an installation without these files
            return None

    def _unknown(self, name: str, context: int) -> str:
        if not name or len(name) > LONGEST:
            return ""
        instead = other_modules.instead(name)
        more = f"; {instead}" if instead else ""
        if other_modules.is_plus(name):
            return f'"{name}" is a directive of NGINX Plus, ngxstream does not have it{more}'
        module = other_modules.third_party(name)
        if module:
            return f'"{name}" is a directive of {module}, ngxstream does not have it{more}'
        here = {one.name for one in self.records if one.contexts & context and not one.refused}
        meant = nearest(name, here)
        if meant:
            return f'did you mean "{meant}"?'
        meant = nearest(name, {one.name for one in self.records if not one.refused})
        if meant:
            return f'did you mean "{meant}"? It stands in {self._places(meant)}'
        return ""

    def _not_here(self, name: str, context: int) -> str:
        if name == "stream":
            return ('"stream" stands beside "http", not inside of another block: a file with a '
                    'stream block is included outside of "http"')
        places = self._places(name)
        here = CONTEXTS.get(context, "this block")
        if places:
            return f'"{name}" stands in {places}, this is {here}'
        if name in self.elsewhere:
            return f'"{name}" is a directive of http or mail, which ngxstream does not serve'
        return ""

    def _places(self, name: str) -> str:
        bits = 0
        for record in self.records:
            if record.name == name:
                bits |= record.contexts
        names = [text for bit, text in CONTEXTS.items() if bits & bit]
        return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _filled(template: str) -> str:
    return (f'"{template}" looks like a template that was not filled in: a shell, envsubst or '
            "another program has to put the value there before the file is read")


def _parameter(word: str, entry: Entry) -> str:
    """Return which parameter may be meant, or what there is to choose from."""
    name = re.split("[=:]", word, maxsplit=1)[0]
    for one in entry.parameters:
        if name in one.words and "=" in word and "=" in one.form:
            return f"the parameter is {_plain(one.form)}"
    meant = nearest(name, entry.words)
    if meant and meant != name:
        form = next(one.form for one in (*entry.parameters, *entry.items) if meant in one.words)
        return f"did you mean {meant if ' | ' in form else _plain(form)}?"
    return "syntax: " + " or ".join(map(_plain, entry.syntax))


def _meant(name: str, known: Iterable[str], mark: str) -> str:
    meant = nearest(name, known)
    return f'did you mean "{mark}{meant}"?' if meant else ""


def _plain(form: str) -> str:
    return re.sub(r"<([^<>]*)>(?!\w)", r"\1", form)  # <number>r/s stays: it is no word


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the word among others that is nearly this one, "" for none."""
    most = 1 if len(word) < 5 else 2 if len(word) < 12 else 3
    folded = word.lower().replace("-", "_")
    ranked = sorted(
        (distance(folded, one.lower(), most), abs(len(one) - len(word)), one)
        for one in known if abs(len(one) - len(word)) <= most
    )
    return ranked[0][2] if ranked and ranked[0][0] <= most else ""


def distance(one: str, other: str, most: int) -> int:
    """Return how many letters are missing, added, wrong, or two exchanged; more than `most` if so.

    Source: the optimal string alignment distance
    """
    before: Sequence[int] = ()
    row: Sequence[int] = range(len(other) + 1)
    for i, letter in enumerate(one, 1):
        made = [i]
        for j, found in enumerate(other, 1):
            cost = min(row[j] + 1, made[j - 1] + 1, row[j - 1] + (letter != found))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == found:
                cost = min(cost, before[j - 2] + 1)
            made.append(cost)
        before, row = row, made
        if min(row) > most:
            return most + 1
    return row[-1]
