"""The regular expressions of the package stay within what every supported Python reads alike."""

import ast
import re
from pathlib import Path

import pytest

from tests.house.test_sources import SOURCES, source_id, tree_of
from tests.support import digests

OWN = digests.own_expressions()


def unsafe(pattern: str | bytes) -> list[str]:
    """Return what CPython up to 3.13 has matched wrongly in one version or another."""
    parsed = repr(re._parser.parse(pattern))  # type: ignore[attr-defined]
    return [name for name in ("POSSESSIVE_REPEAT", "ATOMIC_GROUP") if name in parsed]


def test_possessive_repeats_and_atomic_groups_are_seen() -> None:
    """What is looked for is found, however deep."""
    assert ["POSSESSIVE_REPEAT"] == unsafe("a(?:b|(?=c*+))")
    assert ["ATOMIC_GROUP"] == unsafe(rb"(a|(?>b))*")
    assert [] == unsafe(r"a\++[*+]+\*+")


@pytest.mark.parametrize("name", sorted(OWN))
def test_what_a_module_keeps_has_none_of_them(name: str) -> None:
    """3.11.2 does not go back where the body of a possessive repeat fails half-way."""
    assert [] == unsafe(OWN[name].pattern)


@pytest.mark.parametrize("path", SOURCES, ids=source_id)
def test_what_a_function_writes_has_none_of_them(path: Path) -> None:
    """Nor do expressions written where they are used."""
    called = [
        node.args[0].value
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if isinstance(node.func.value, ast.Name) and node.func.value.id == "re"
        if node.args and isinstance(node.args[0], ast.Constant)
    ]
    assert [] == [pattern for pattern in called if unsafe(pattern)]
