"""Every CPython that is installed reads configurations and matches patterns like this one.

Debian 12's is 3.11.2, whose re goes wrong where the body of a possessive repeat fails half-way.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from tests.support import digests, pythons
from tests.support.patterns import Patterns
from tests.support.texts import Texts

CORPUS = sorted((pythons.ROOT / "tests/corpus").glob("*.conf"))


def agree(what: str, cases: Sequence[object], folder: Path) -> None:
    """Assert that all Pythons make of each case what this one makes of it."""
    others = pythons.require_another()
    path = folder / "cases"
    path.write_text("".join(f"{json.dumps(case)}\n" for case in cases))
    # this Python too in a process of its own: it imports what the others import
    words = ("-m", "tests.support.digests", what, str(path))
    expected = pythons.run(pythons.THIS, *words).split()
    assert len(expected) == len(cases)
    assert len(set(expected)) > len(cases) // 4, "cases that differ from one another"
    for version, python in others.items():
        found = pythons.run(python, *words).split()
        assert [] == [
            (version, case)
            for case, ours, theirs in zip(cases, expected, found, strict=True)
            if ours != theirs
        ][:3]


def test_configurations_are_read_alike(tmp_path: Path) -> None:
    """The corpus and 6000 generated texts give the same words, lines and faults everywhere."""
    texts = [path.read_bytes() for path in CORPUS]
    assert len(texts) > 50
    agree("texts", [text.hex() for text in (*texts, *Texts(1).some(6000))], tmp_path)


def test_patterns_of_the_configuration_match_alike(tmp_path: Path) -> None:
    """Patterns with possessive repeats, atomic groups and captures find the same everywhere."""
    cases = [
        [pattern.encode().hex(), *(subject.hex() for subject in subjects)]
        for pattern, subjects in Patterns(1).cases(2000, 8)
    ]
    agree("patterns", cases, tmp_path)


def test_the_expressions_of_the_package_match_alike(tmp_path: Path) -> None:
    """Each regular expression that a module of the package keeps finds the same everywhere."""
    texts = [text[:2000] for text in Texts(2).some(300)]
    subjects = [subject for _, found in Patterns(2).cases(40, 8) for subject in found]
    agree("own", [text.hex() for text in (*texts, *subjects)], tmp_path)


def test_a_digest_tells_readings_apart() -> None:
    """A word, its quoting, a line or a fault more or less is another digest."""
    texts = (b"a b;", b"a 'b';", b"a b; ", b"a\nb;", b"a b;;", b"a b; c;", b"a {b;}", b"a {b;\n}")
    found = [digests.of_text(text.hex()) for text in texts]
    assert found[0] == found[2]
    assert len(texts) - 1 == len(set(found))
