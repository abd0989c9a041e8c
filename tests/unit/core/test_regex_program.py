"""The instructions that a tree becomes."""

import pytest

from ngxstream.core import regex_program as program
from ngxstream.core import regex_syntax


def ops(pattern: str) -> list[int]:
    """Return the operations of a pattern's program."""
    compiler = program.Compiler(2)
    compiler.add(regex_syntax.parse(pattern.encode()).tree)
    return [instruction.op for instruction in compiler.program]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("ab", [program.CHAR] * 2),
        ("a|b", [program.SPLIT, program.CHAR, program.JUMP, program.CHAR]),
        ("a*", [program.SPLIT, program.CHAR, program.JUMP]),
        ("a+", [program.CHAR, program.SPLIT]),
        ("a{5}", [program.EXACTLY]),
        ("a{0,99}", [program.UP_TO]),
        ("a{0,99}?", [program.LAZILY]),
        ("a{0,2}", [program.SPLIT, program.CHAR] * 2),
        ("(a)", [program.SAVE, program.CHAR, program.SAVE]),
        ("(?>a)", [program.ATOMIC, program.CHAR, program.MATCH]),
        ("(?!a)", [program.NOT_AHEAD, program.CHAR, program.MATCH]),
        ("(?<!a|bc)", [program.NOT_BEHIND, program.CHAR, program.MATCH, program.NOT_BEHIND,
                       program.CHAR, program.CHAR, program.MATCH]),
        ("^", [program.AT]),
    ],
)  # fmt: skip
def test_a_tree_becomes_these_instructions(pattern: str, expected: list[int]) -> None:
    """Bytes that are counted are one instruction, all else is written out."""
    assert expected == ops(pattern)


def test_a_loop_around_what_may_match_nothing_knows_where_it_entered() -> None:
    """In a slot of its own."""
    compiler = program.Compiler(2)
    compiler.add(regex_syntax.parse(b"(?:a?)*").tree)
    assert 3 == compiler.slots
    assert {program.ENTER, program.ENOUGH} <= {each.op for each in compiler.program}


def test_a_greedy_choice_tries_the_body_first_and_a_lazy_one_the_rest() -> None:
    """The order of a SPLIT is the order in which PCRE tries."""
    firsts = []
    for pattern in (b"a*", b"a*?"):
        compiler = program.Compiler(2)
        compiler.add(regex_syntax.parse(pattern).tree)
        firsts.append((compiler.program[0].first, compiler.program[0].second))
    assert [(1, 3), (3, 1)] == firsts


def test_a_program_has_its_limit() -> None:
    """What would be longer is refused before it takes the memory."""
    compiler = program.Compiler(2)
    tree = regex_syntax.parse(b"(?:ab){300}").tree
    for _ in range(program.MAX_PROGRAM // 600):
        compiler.add(tree)
    with pytest.raises(program.ProgramSizeError):
        compiler.add(tree)
    assert program.MAX_PROGRAM == len(compiler.program)
