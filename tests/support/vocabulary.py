"""Which words a directive's parser takes, found by trying: its own source says which to try.

A word counts as taken where the reaction to it (accepted, or an error or warning with the word
itself left out) is another one than that to a word which is nowhere in the program. Tried are all
words that stand in texts of the module that declares the directive and in those that it imports.
"""

import ast
import functools
import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ngxstream.conf.builder import Scope
from ngxstream.conf.directive import Directive
from ngxstream.conf.module import Module
from ngxstream.conf.reader import Statement
from ngxstream.core import errors

ROOT = Path(__file__).resolve().parents[2]
_LETTERS = "qzjxwvkqjzwx" * 4  # no part of it is a word of the source
_FRESH = "qv00000q"  # a name that no statement before has used
# What the parser of a value may want: a number, a flag, a part, a zone, a path.
VALUES = ("8", "on", "9%", "n:64k", "/n")
SHORT = ("W", "W:", "W:1", "W:64k", "W:n:64k")
FORMS = ("W", *(f"W={value}" for value in VALUES), "W:", "W:1", "W:64k", "W:n:64k")
_LETTER = re.compile(r'"."')
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_WORD = re.compile(r"\b[a-z]\w+\b")
_TABLE = re.compile(r"[a-z][\w=:. ]*")  # a word, or several of a table; no sentence
_TRIED = ("ngxstream.conf.", "ngxstream.stream.", "ngxstream.modules.", "ngxstream.process.",
          "ngxstream.wire.probes", "ngxstream.core.log", "ngxstream.core.syslog",
          "ngxstream.core.keyval_keys")


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _docstrings(tree: ast.Module) -> set[int]:
    return {
        id(node.value) for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


@functools.cache
def _words(path: Path) -> frozenset[str]:
    """Return the words in the texts of a source, docstrings and messages left out."""
    tree = _tree(path)
    out = _docstrings(tree)
    texts = [
        node.value for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in out
    ]
    tables = [text for text in texts if _TABLE.fullmatch(text)]
    return frozenset(word for text in tables for word in _WORD.findall(text))


@functools.cache
def _imported(path: Path) -> frozenset[Path]:
    nodes = [node for node in ast.walk(_tree(path)) if isinstance(node, ast.ImportFrom)]
    names = {full for node in nodes for name in node.names
             for full in (f"{node.module}.{name.name}", f"{node.module}")}
    files = {ROOT / f"{full.replace('.', '/')}.py" for full in names
             if f"{full}.".startswith(_TRIED)}
    return frozenset(file for file in files if file.is_file())


def candidates(path: Path, record: Directive) -> set[str]:
    """Return the words to try at a directive that the source at `path` declares."""
    setter = Path(inspect.getsourcefile(record.set) or path)
    files = {path, setter, *_imported(path), *_imported(setter)}
    return set().union(*(_words(file) for file in files))


@dataclass(frozen=True, slots=True)
class Reaction:
    """What a parser made of a statement."""

    error: str
    said: str  # warnings, and what was stored


def nonsense(word: str) -> str:
    """Return a word that is none, as long as another one."""
    return _LETTERS[:len(word)]


class EnoughError(Exception):
    """All words were tried: the rest of the configuration is not wanted."""


def _plain(message: str) -> str:
    """Return a message without the one letter that it shows."""
    return _LETTER.sub("", message)


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, list | dict | set) else value


class Trial:
    """One directive in a configuration, where its setter is called with many statements."""

    def __init__(self, words: Iterable[str], choices: Iterable[str] = (), fresh: str = "",
                 has_items: bool = False) -> None:
        """Args: words: what to try; choices: of which of them the values are to be found;
        fresh: a name in the statement that has to be another one each time; has_items: the block
        holds words of its own, not directives
        """
        self.has_items = has_items
        self.candidates = sorted(words)
        self.choices = sorted(choices)
        self.fresh = fresh
        self.taken: set[str] = set()
        self.values: dict[str, set[str]] = {}
        self._count = 0
        self._warnings: list[str] = []

    def module(self, module: Module, record: Directive) -> Module:
        """Return a module in which the directive is tried when a configuration comes to it."""
        def tried(scope: Scope, of: Module, st: Statement) -> None:
            self._try(record.set, scope, of, st, record)
            raise EnoughError

        made = tuple(replace(one, set=tried) if one is record else one for one in module.directives)
        return replace(module, directives=made)

    def warn(self, level: str, message: str) -> None:
        """Take a warning of the configuration."""
        self._warnings.append(f"[{level}] {message}")

    def _react(self, setter: Any, scope: Scope, module: Module, st: Statement) -> Reaction:
        kept = {name: {k: _copied(v) for k, v in given.items()}
                for name, given in scope.given.items()}
        data = dict(scope.builder.data)
        shared = getattr(data.get("stream"), "data", {})  # of the stream block
        had = {key: _copied(value) for key, value in shared.items()}
        place = scope.builder.place
        self._warnings.clear()
        error = ""
        name = f"qv{self._count:05}q"
        self._count += 1
        if self.fresh:
            st.args = [arg.replace(self.fresh, name) for arg in st.args]
        try:
            setter(scope, module, st)
        except errors.ConfError as refused:
            error = refused.message
        stored = _ADDRESS.sub("", repr([given for name, given in scope.given.items()
                                        if given != kept.get(name)]))
        scope.given.clear()
        scope.given.update(kept)
        scope.builder.data = data
        shared.clear()
        shared.update(had)
        scope.builder.place = place
        said = repr(self._warnings) + stored
        return Reaction(error.replace(name, _FRESH), said.replace(name, _FRESH))

    def _try(self, setter: Any, scope: Scope, module: Module, st: Statement,
             record: Directive) -> None:
        shapes = list(_shapes(st, record, self.has_items))

        forms = FORMS if record.takes.most != 1 else SHORT
        def react(at: int, form: str, word: str) -> Reaction:
            return self._react(setter, scope, module, shapes[at](form.replace("W", word)))

        @functools.cache
        def usual(at: int, form: str, none: str) -> Reaction:
            return react(at, form, none)

        def differs(at: int, form: str, word: str) -> bool:
            """Tell whether a word is treated in another way than nonsense."""
            none = nonsense(word)
            expected, found = usual(at, form, none), react(at, form, word)
            return (_plain(expected.error.replace(none, word)), expected.said.replace(none, word)
                    ) != (_plain(found.error), found.said)

        def accepts(at: int, form: str, word: str) -> bool:
            return differs(at, form, word) and "invalid" not in react(at, form, word).error

        for at in range(len(shapes)):  # what only the first one of a block does is behind us then
            react(at, "W", "qqqqqq")
        self.taken = {
            word for word in self.candidates
            if any(differs(at, form, word) for at, made in enumerate(shapes)
                   for form in (forms if made.func is _with_argument else ("W",)))
        }
        for word in self.choices:
            self.values[word] = {
                value for value in self.candidates
                if any(accepts(at, f"{word}=W", value) for at in range(len(shapes)))
            }
            if self.values[word]:
                self.taken.add(word)


def _with(st: Statement, args: list[str]) -> Statement:
    made = Statement(st.directive, args, [False] * (len(args) + 1), st.file, st.line, st.line)
    made.block = st.block
    return made


def _shapes(
    st: Statement, record: Directive, has_items: bool
) -> "Iterator[functools.partial[Statement]]":
    """Yield what makes a statement out of a word: behind, in place of, or as the arguments."""
    args = list(st.args)
    lists: list[list[str | None]] = [[*args, None], [None], *([*args[:at], None, *args[at + 1:]]
                                      for at in range(min(len(args), 3)))]
    for one in lists:
        if record.takes.accepts(len(one)):
            yield functools.partial(_with_argument, st, one)
    if has_items:
        for more in ([], ["1"], ["~", "1"]):
            yield functools.partial(_with_item, st, more)


def _with_argument(st: Statement, args: list[str | None], word: str) -> Statement:
    return _with(st, [word if arg is None else arg for arg in args])


def _with_item(st: Statement, more: list[str], word: str) -> Statement:
    made = _with(st, list(st.args))
    item = Statement(word, more, [False] * (len(more) + 1), st.file, st.line, st.line)
    made.block = [item, *(st.block or ())]
    return made
