"""The mutation kit: what it changes, what it leaves alone, and that it sees who notices."""

import ast
from pathlib import Path

import pytest

from tests.mutation import __main__ as mutation
from tests.mutation import operators

SOURCE = '''"""Docstring: 1 < 2."""
LIMIT: Final = 64 << 10
NAME = "1 < 2"


def f(a: int, b: int) -> bool:
    """Docstring of f: 3."""
    assert a < 7
    log.error(3, "said")
    if a < b and not a:
        return True
    a += 1
    g(a)
    return min(a, b) - 2 == 0
'''


def changed() -> list[str]:
    """Return what each mutant's line reads."""
    return [f"{mutant.line}: {mutant.after}" for mutant in operators.mutants(SOURCE)]


def test_each_kind_of_change_is_made() -> None:
    """Bounds, comparisons, conditions, calls, results and sums are changed, one at a time."""
    expected = {
        "2: LIMIT: Final = (64 << 10) * 1000",
        "10: if not (a < b and (not a)):",
        "10: if (not a):",
        "10: if (a < b):",
        "10: if (a <= b) and not a:",
        "10: if a < b and (a):",
        "11: return False",
        "12: a -= 1",
        "13: pass",
        "14: return max(a, b) - 2 == 0",
        "14: return (min(a, b) + 2) == 0",
        "14: return (min(a, b) - 2 != 0)",
    }
    assert expected <= set(changed())


def test_what_no_test_can_notice_is_left_alone() -> None:
    """Docstrings, annotations, assertions, log lines and texts stay as they are."""
    lines = {int(line.partition(":")[0]) for line in changed()}
    assert lines == {2, 10, 11, 12, 13, 14}


@pytest.mark.parametrize("module", ["event/timers", "wire/dns", "modules/limit_conn"])
def test_every_mutant_is_python(module: str) -> None:
    """A mutant can be compiled, and differs from the source in one place."""
    text = (mutation.ROOT / "ngxstream" / f"{module}.py").read_text()
    found = operators.mutants(text)
    assert len(found) > 10
    for mutant in found:
        ast.parse(mutant.source)
        assert mutant.source != text


def test_a_modules_own_tests_come_first() -> None:
    """The file of the same name is asked first, then those that import the module."""
    tests = mutation.tests_of("core/ranges", ())
    assert tests[0] == "tests/unit/core/test_ranges.py"
    assert not any("structure" in Path(name).parts for name in tests)


def test_a_change_that_a_test_notices_is_killed(tmp_path: Path) -> None:
    """The same tests pass on the text as it is and fail on a text that says the opposite."""
    tree = mutation.Tree(tmp_path)
    tests = ["tests/unit/core/test_escape.py"]
    whole = (mutation.ROOT / "ngxstream/core/escape.py").read_text()
    assert tree.run(tests, 120)[0] == mutation.SURVIVED
    tree.put("core/escape", whole + "\n\ndef default(value: bytes) -> bytes:\n    return value\n")
    assert tree.run(tests, 120)[0] == mutation.KILLED
    tree.put("core/escape", whole)
    assert tree.run(tests, 120)[0] == mutation.SURVIVED


def test_a_reviewed_change_is_one_that_there_is() -> None:
    """Each entry of equivalent.txt has a reason, and its text is that of a mutant of today."""
    known = mutation.reviewed()
    assert all(len(reason) > 20 for reason in known.values())
    modules = {change.partition(".py ")[0] for change in known}
    made = set()
    for module in modules:
        source = (mutation.ROOT / "ngxstream" / f"{module}.py").read_text()
        made |= {mutation.Task(module, one).change for one in operators.mutants(source)}
    assert set() == known.keys() - made


def test_a_reviewed_change_is_not_tried() -> None:
    """What cannot be noticed is no survivor."""
    change, _ = next(iter(mutation.reviewed().items()))
    module = change.partition(".py ")[0]
    assert change not in {task.change for task in mutation.chosen(module, 0, 1)}


def test_a_change_says_where_it_is() -> None:
    """Two functions may have the same line: the name of the function tells them apart."""
    places = {mutant.line: mutant.place for mutant in operators.mutants(SOURCE)}
    assert ("-", "f", "f") == (places[2], places[10], places[14])
    inner = "class A:\n    def b(self):\n        def c():\n            d()\n        return c\n"
    (mutant,) = operators.mutants(inner)
    assert "A.b.c" == mutant.place


@pytest.mark.parametrize("module", list(mutation.GUARDS))
def test_the_tests_that_are_asked_are_there(module: str) -> None:
    """Each module of the list exists, and so do its neighbours; slow files are named."""
    assert (mutation.ROOT / "ngxstream" / f"{module}.py").exists()
    extra = mutation.GUARDS[module]
    assert [] == [name for name in extra if not (mutation.ROOT / name).exists()]
    found = mutation.tests_of(module, extra)
    assert found
    layer, _, name = module.rpartition("/")
    own = f"tests/unit/{layer}/test_{name}.py"
    assert [] == [name for name in found if name in mutation.HEAVY and name not in (*extra, own)]
