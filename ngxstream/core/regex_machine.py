"""A matcher that takes time linear in the subject: backtracking that never tries a place twice.

It finds what PCRE finds (leftmost, first branch first, the last repetition's captures) without
PCRE's worst case.  Whether the rest of a pattern matches depends only on where in the program
and in the subject it is tried, as long as the pattern refers to nothing it matched; so each such
pair is tried once (the BitState idea of RE2).  A lookaround or an atomic group is a match of its
own, which depends on nothing but where it begins.  What does depend on more, references to what
was matched before, is not for this machine.

Every instruction is counted, and MAX_STEPS of them are the end of a match.
"""

from typing import Final

from ngxstream.core import regex_chars, regex_tree
from ngxstream.core.regex_program import (
    AT,
    ATOMIC,
    CHAR,
    ENOUGH,
    ENTER,
    EXACTLY,
    JUMP,
    LAZILY,
    MATCH,
    NOT_AHEAD,
    NOT_BEHIND,
    SAVE,
    SPLIT,
    UP_TO,
    Compiler,
    Instruction,
    table_of,
)

COSTS_INSIDE: Final = 8  # instructions' time that beginning a match of its own takes
BYTES_A_STEP: Final = 64  # that are compared at once in the time of an instruction
MAX_STEPS: Final = 40_000  # 5 to 6 ms of a worker; PCRE has a limit of its own, 10 million

_WORD: Final = bytes(regex_chars.WORD >> byte & 1 for byte in range(256))


class MatchLimitError(Exception):
    """A match given up because it takes too long; nginx would say pcre2_match() failed: -47."""


def can_run(node: regex_tree.Node) -> bool:
    """Tell whether the machine knows everything in a tree."""
    return not any(
        isinstance(part, regex_tree.Backref | regex_tree.Condition)
        for part in regex_tree.walk(node)
    )


class Machine:
    """One compiled pattern.

    Raises: ProgramSizeError when made from a tree that needs over MAX_PROGRAM instructions.
    """

    __slots__ = ("_anchored", "_loops", "_program", "_slots", "_starts")

    def __init__(self, tree: regex_tree.Node, groups: int) -> None:
        compiler = Compiler(2 * (groups + 1))
        compiler.add(regex_tree.Capture(0, tree))
        compiler.emit(Instruction(MATCH))
        self._program = compiler.program
        self._slots = compiler.slots
        self._loops = range(2 * (groups + 1), compiler.slots)
        self._anchored = regex_tree.anchored(tree)
        self._starts = None if regex_tree.nullable(tree) else table_of(_first(tree))

    def search(self, subject: bytes) -> tuple[int, ...] | None:
        """Find the leftmost match.

        Returns: start and end of the whole and of each group, -1 for a group that took no part;
        None if there is no match.
        Raises: MatchLimitError after MAX_STEPS instructions.
        """
        tried: set[tuple[int, int]] = set()
        left = MAX_STEPS
        starts = self._starts
        for start in range(1 if self._anchored else len(subject) + 1):
            if starts is not None and (start == len(subject) or not starts[subject[start]]):
                continue
            slots = [-1] * self._slots
            end, left = self._run(subject, 0, start, slots, tried, left)
            if end >= 0:
                return tuple(slots[: self._loops.start])
        return None

    def _run(
        self,
        subject: bytes,
        at: int,
        position: int,
        slots: list[int],
        tried: set[tuple[int, int]],
        left: int,
    ) -> tuple[int, int]:
        """Try to match from one instruction and one position.

        ``stack`` holds what to go back to: (instruction, position), or (~slot, old value) for a
        slot to be restored on the way.

        Args: subject: All of it; at: The instruction; position: Where in the subject; slots: Filled
        in by a match, and as they were before if there is none; tried: Where this match, from
        whatever position, was at a choice before; left: How many instructions may be run.
        Returns: The position behind the match, -1 if there is none; and how many are left.
        """
        program, end = self._program, len(subject)
        lookups = len(self._loops) >> 3  # what a key costs besides
        stack: list[tuple[int, int]] = []
        while True:
            left -= 1
            op, first, second, table, place, width = program[at]
            if op == CHAR:
                if position < end and table[subject[position]]:
                    position += 1
                    at += 1
                    continue
            elif op == EXACTLY:
                left -= first // BYTES_A_STEP
                if position + first <= end and not subject[position : position + first].translate(
                    None, table
                ):
                    position += first
                    at += 1
                    continue
            elif op == SPLIT:
                left -= lookups
                key = (at, position) if not self._loops else self._key(at, position, slots)
                if key not in tried:
                    tried.add(key)
                    if left < 0:
                        raise MatchLimitError("pcre2_match() failed: -47")
                    stack.append((second, position))
                    at = first
                    continue
            elif op == JUMP:
                at = first
                continue
            elif op in (SAVE, ENTER):
                stack.append((~first, slots[first]))
                slots[first] = position
                at += 1
                continue
            elif op == ENOUGH:
                at = second if slots[first] == position else at + 1
                continue
            elif op == MATCH:
                return position, left
            elif op in (UP_TO, LAZILY):
                left -= lookups
                key = (at, position) if not self._loops else self._key(at, position, slots)
                if key not in tried:
                    tried.add(key)
                    most = position
                    for byte in subject[position : position + first]:
                        if not table[byte]:
                            break
                        most += 1
                    left -= most - position
                    if left < 0:
                        raise MatchLimitError("pcre2_match() failed: -47")
                    at += 1
                    if op == UP_TO:
                        stack.extend((at, fewer) for fewer in range(position, most))
                        position = most
                    else:
                        stack.extend((at, more) for more in range(most, position, -1))
                    continue
            elif op == AT:
                assert place is not None
                if _holds(place, subject, position):
                    at += 1
                    continue
            elif position >= width:
                before = slots.copy()
                left -= COSTS_INSIDE + (len(slots) >> 4)
                found, left = self._run(subject, first, position - width, slots, set(), left)
                if op in (NOT_AHEAD, NOT_BEHIND):
                    slots[:] = before
                if (found < 0) == (op in (NOT_AHEAD, NOT_BEHIND)):
                    for slot, old in enumerate(before):
                        if slots[slot] != old:
                            stack.append((~slot, old))
                    if op == ATOMIC:
                        position = found
                    at = second
                    continue
            elif op == NOT_BEHIND:
                at = second
                continue
            while stack:
                at, position = stack.pop()
                if at >= 0:
                    break
                slots[~at] = position
            else:
                if left < 0:  # a program without choices, tried from one place after another
                    raise MatchLimitError("pcre2_match() failed: -47")
                return -1, left

    def _key(self, at: int, position: int, slots: list[int]) -> tuple[int, int]:
        """Tell places apart also by which repetitions have matched nothing so far."""
        for bit, slot in enumerate(self._loops):
            if slots[slot] == position:
                at |= 1 << 32 + bit
        return at, position


def _holds(place: regex_tree.Place, subject: bytes, position: int) -> bool:
    end = len(subject)
    if place is regex_tree.Place.START:
        return position == 0
    if place is regex_tree.Place.END:
        return position == end
    if place is regex_tree.Place.LAST_LINE:
        return position == end or (position == end - 1 and subject[position] == 0x0A)
    if place is regex_tree.Place.LINE_START:
        return position == 0 or (position < end and subject[position - 1] == 0x0A)
    if place is regex_tree.Place.LINE_END:
        return position == end or subject[position] == 0x0A
    before = position > 0 and _WORD[subject[position - 1]]
    after = position < end and _WORD[subject[position]]
    return (before != after) == (place is regex_tree.Place.WORD_EDGE)


def _first(node: regex_tree.Node) -> int:
    """Make the set of the bytes a match of a node can begin with."""
    if isinstance(node, regex_tree.Chars):
        return node.mask
    if isinstance(node, regex_tree.Look):
        return 0
    if isinstance(node, regex_tree.Sequence):
        mask = 0
        for item in node.items:
            mask |= _first(item)
            if not regex_tree.nullable(item):
                break
        return mask
    mask = 0
    for part in regex_tree.parts(node):
        mask |= _first(part)
    return mask
