"""The regular expressions of the package stay within what every supported Python reads alike."""

import ast
import re
from pathlib import Path

import pytest

from ngxstream.core import regex, regex_syntax
from tests.structure.test_sources import SOURCES, source_id, tree_of
from tests.support import digests
from tests.support.patterns import Patterns

OWN = digests.own_expressions()


def is_possessive(pattern: str | bytes) -> bool:
    """Tell whether a pattern has a possessive repeat, which CPython may match wrongly.

    3.11.2 does not go back where the body of one fails half-way; all up to 3.13.0 at least may
    raise SystemError where it captures.
    """
    return "POSSESSIVE_REPEAT" in repr(re._parser.parse(pattern))  # type: ignore[attr-defined]


def test_possessive_repeats_are_seen() -> None:
    """What is looked for is found, however deep, and nothing else is taken for it."""
    assert is_possessive("a(?:b|(?=c*+))")
    assert is_possessive(rb"(a|(?>b))?+")
    assert not is_possessive(r"a\++[*+]+\*+(?>b+)")


@pytest.mark.parametrize("name", sorted(OWN))
def test_what_a_module_keeps_has_none(name: str) -> None:
    """No regular expression that a module keeps repeats possessively."""
    assert not is_possessive(OWN[name].pattern)


@pytest.mark.parametrize("path", SOURCES, ids=source_id)
def test_what_a_function_writes_has_none(path: Path) -> None:
    """Nor do expressions written where they are used."""
    called = [
        node.args[0].value
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if isinstance(node.func.value, ast.Name) and node.func.value.id == "re"
        if node.args and isinstance(node.args[0], ast.Constant)
    ]
    assert [] == [pattern for pattern in called if is_possessive(pattern)]


def test_what_a_user_s_pattern_becomes_has_none() -> None:
    """A possessive repeat of the configuration is written in another way for Python."""
    written = []
    for pattern, _ in Patterns(5).cases(1500, 0):
        try:
            written.append(regex.to_python(regex_syntax.parse(pattern.encode()).tree))
        except regex.RegexError:
            continue
    assert sum(b"(?>" in pattern for pattern in written) > 300
    assert [] == [pattern for pattern in written if compiles(pattern) and is_possessive(pattern)]


def compiles(pattern: bytes) -> bool:
    """Tell whether Python knows what a pattern says; what it does not is refused."""
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True
