"""A matcher that takes time linear in the subject: backtracking that never tries a place twice.

It finds what PCRE finds (leftmost, first branch first, the last repetition's captures) without
PCRE's worst case.  Whether the rest of a pattern matches depends only on where in the program
and in the subject it is tried, as long as the pattern refers to nothing it matched; so each such
pair is tried once (the BitState idea of RE2).  A lookaround or an atomic group is a match of its
own, which depends on nothing but where it begins.  What does depend on more, references to what
was matched before, is not for this machine.

Every instruction is counted, and MAX_STEPS of them are the end of a match.
"""

import functools
from typing import Final, NamedTuple

from ngxstream.core import regex_chars, regex_tree

MAX_PROGRAM: Final = 65_536  # instructions, enough for what PCRE does not find too large
MAX_WRITTEN: Final = 16  # choices of a counted byte that are written out as instructions
COSTS_INSIDE: Final = 8  # instructions' time that beginning a match of its own takes
BYTES_A_STEP: Final = 64  # that are compared at once in the time of an instruction
MAX_STEPS: Final = 40_000  # 5 to 6 ms of a worker; PCRE has a limit of its own, 10 million

_CHAR: Final = 0  # one byte of the set ``table``
_SPLIT: Final = 1  # go on at ``first``; if that fails, at ``second``
_JUMP: Final = 2  # go on at ``first``
_SAVE: Final = 3  # keep the position in slot ``first``
_AT: Final = 4  # go on if the place is right
_ENTER: Final = 5  # keep the position in which a repetition began, in slot ``first``
_ENOUGH: Final = 6  # go on at ``second`` if nothing has matched since slot ``first`` was entered
_MATCH: Final = 7
_AHEAD: Final = 8  # go on at ``second`` if what begins at ``first`` matches here
_NOT_AHEAD: Final = 9  # the same if it does not
_BEHIND: Final = 10  # the same as _AHEAD, ``width`` bytes before
_NOT_BEHIND: Final = 11
_ATOMIC: Final = 12  # as _AHEAD, but go on behind what matched
_EXACTLY: Final = 13  # ``first`` bytes of the set; ``table`` lists its bytes
_UP_TO: Final = 14  # ``first`` bytes of the set ``table`` or fewer, the most first
_LAZILY: Final = 15  # the same, the fewest first

_WORD: Final = bytes(regex_chars.WORD >> byte & 1 for byte in range(256))


class MatchLimitError(Exception):
    """A match given up because it takes too long; nginx would say pcre2_match() failed: -47."""


class ProgramSizeError(ValueError):
    """A pattern whose counted repeats are too large to be written out."""


class _Instruction(NamedTuple):
    op: int
    first: int = 0
    second: int = 0
    table: bytes = b""
    place: regex_tree.Place | None = None
    width: int = 0


def can_run(node: regex_tree.Node) -> bool:
    """Tell whether the machine knows everything in a tree."""
    return not any(
        isinstance(part, regex_tree.Backref | regex_tree.Condition)
        for part in regex_tree.walk(node)
    )


class Machine:
    """One compiled pattern.

    raises: ProgramSizeError when made from a tree that needs over MAX_PROGRAM instructions.
    """

    __slots__ = ("_anchored", "_loops", "_program", "_slots", "_starts")

    def __init__(self, tree: regex_tree.Node, groups: int) -> None:
        compiler = _Compiler(2 * (groups + 1))
        compiler.add(regex_tree.Capture(0, tree))
        compiler.emit(_Instruction(_MATCH))
        self._program = compiler.program
        self._slots = compiler.slots
        self._loops = range(2 * (groups + 1), compiler.slots)
        self._anchored = regex_tree.anchored(tree)
        self._starts = None if regex_tree.nullable(tree) else _table(_first(tree))

    def search(self, subject: bytes) -> tuple[int, ...] | None:
        """Find the leftmost match.

        returns: start and end of the whole and of each group, -1 for a group that took no part;
        None if there is no match.
        raises: MatchLimitError after MAX_STEPS instructions.
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

        Args:
            subject: All of it.
            at: The instruction.
            position: Where in the subject.
            slots: Filled in by a match, and as they were before if there is none.
            tried: Where this match, from whatever position, was at a choice before.
            left: How many instructions may be run.

        Returns:
            The position behind the match, -1 if there is none; and how many are left.
        """
        program, end = self._program, len(subject)
        lookups = len(self._loops) >> 3  # what a key costs besides
        stack: list[tuple[int, int]] = []
        while True:
            left -= 1
            op, first, second, table, place, width = program[at]
            if op == _CHAR:
                if position < end and table[subject[position]]:
                    position += 1
                    at += 1
                    continue
            elif op == _EXACTLY:
                left -= first // BYTES_A_STEP
                if position + first <= end and not subject[position : position + first].translate(
                    None, table
                ):
                    position += first
                    at += 1
                    continue
            elif op == _SPLIT:
                left -= lookups
                key = (at, position) if not self._loops else self._key(at, position, slots)
                if key not in tried:
                    tried.add(key)
                    if left < 0:
                        raise MatchLimitError("pcre2_match() failed: -47")
                    stack.append((second, position))
                    at = first
                    continue
            elif op == _JUMP:
                at = first
                continue
            elif op in (_SAVE, _ENTER):
                stack.append((~first, slots[first]))
                slots[first] = position
                at += 1
                continue
            elif op == _ENOUGH:
                at = second if slots[first] == position else at + 1
                continue
            elif op == _MATCH:
                return position, left
            elif op in (_UP_TO, _LAZILY):
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
                    if op == _UP_TO:
                        stack.extend((at, fewer) for fewer in range(position, most))
                        position = most
                    else:
                        stack.extend((at, more) for more in range(most, position, -1))
                    continue
            elif op == _AT:
                assert place is not None
                if _holds(place, subject, position):
                    at += 1
                    continue
            elif position >= width:
                before = slots.copy()
                left -= COSTS_INSIDE + (len(slots) >> 4)
                found, left = self._run(subject, first, position - width, slots, set(), left)
                if op in (_NOT_AHEAD, _NOT_BEHIND):
                    slots[:] = before
                if (found < 0) == (op in (_NOT_AHEAD, _NOT_BEHIND)):
                    for slot, old in enumerate(before):
                        if slots[slot] != old:
                            stack.append((~slot, old))
                    if op == _ATOMIC:
                        position = found
                    at = second
                    continue
            elif op == _NOT_BEHIND:
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


@functools.cache
def _table(mask: int) -> bytes:
    """Make the table of a set: for each byte whether it is in."""
    return bytes(mask >> byte & 1 for byte in range(256))


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


def _byte(node: regex_tree.Node) -> regex_tree.Chars | None:
    """Find the one byte a node is, without groups around it that do not capture."""
    while isinstance(node, regex_tree.Sequence) and len(node.items) == 1:
        node = node.items[0]
    return node if isinstance(node, regex_tree.Chars) else None


class _Compiler:
    """Writes the program of a tree, one instruction after another."""

    __slots__ = ("program", "slots")

    def __init__(self, slots: int) -> None:
        self.program: list[_Instruction] = []
        self.slots = slots

    def emit(self, instruction: _Instruction) -> int:
        """Add an instruction and return where it stands."""
        if len(self.program) >= MAX_PROGRAM:
            raise ProgramSizeError("regular expression is too large")
        self.program.append(instruction)
        return len(self.program) - 1

    def add(self, node: regex_tree.Node) -> None:
        """Add the instructions of a node; they end where the next node's begin."""
        if isinstance(node, regex_tree.Chars):
            self.emit(_Instruction(_CHAR, table=_table(node.mask)))
        elif isinstance(node, regex_tree.Sequence):
            for item in node.items:
                self.add(item)
        elif isinstance(node, regex_tree.Choice):
            self._add_choice(node.branches)
        elif isinstance(node, regex_tree.Repeat):
            self._add_repeat(node)
        elif isinstance(node, regex_tree.Capture):
            self.emit(_Instruction(_SAVE, 2 * node.index))
            self.add(node.body)
            self.emit(_Instruction(_SAVE, 2 * node.index + 1))
        elif isinstance(node, regex_tree.Keep):
            self.emit(_Instruction(_SAVE, 0))
        elif isinstance(node, regex_tree.At):
            self.emit(_Instruction(_AT, place=node.place))
        elif isinstance(node, regex_tree.Atomic):
            self._add_inner(_ATOMIC, node.body)
        elif isinstance(node, regex_tree.Look):
            self._add_look(node)

    def _add_inner(self, op: int, body: regex_tree.Node, width: int = 0) -> None:
        """Add a match of its own, which ends with an instruction that says so."""
        at = self.emit(_Instruction(op))
        self.add(body)
        self.emit(_Instruction(_MATCH))
        self.program[at] = _Instruction(op, at + 1, len(self.program), width=width)

    def _add_look(self, node: regex_tree.Look) -> None:
        if node.ahead:
            self._add_inner(_NOT_AHEAD if node.negative else _AHEAD, node.body)
            return
        # each branch of a lookbehind has a width of its own
        body = node.body
        branches = body.branches if isinstance(body, regex_tree.Choice) else (body,)
        if node.negative:
            for branch in branches:
                self._add_inner(_NOT_BEHIND, branch, regex_tree.width(branch) or 0)
            return
        jumps = []
        for branch in branches[:-1]:
            split = self.emit(_Instruction(_SPLIT))
            self._add_inner(_BEHIND, branch, regex_tree.width(branch) or 0)
            jumps.append(self.emit(_Instruction(_JUMP)))
            self.program[split] = _Instruction(_SPLIT, split + 1, len(self.program))
        self._add_inner(_BEHIND, branches[-1], regex_tree.width(branches[-1]) or 0)
        for jump in jumps:
            self.program[jump] = _Instruction(_JUMP, len(self.program))

    def _add_choice(self, branches: tuple[regex_tree.Node, ...]) -> None:
        jumps = []
        for branch in branches[:-1]:
            split = self.emit(_Instruction(_SPLIT))
            self.add(branch)
            jumps.append(self.emit(_Instruction(_JUMP)))
            self.program[split] = _Instruction(_SPLIT, split + 1, len(self.program))
        self.add(branches[-1])
        for jump in jumps:
            self.program[jump] = _Instruction(_JUMP, len(self.program))

    def _add_repeat(self, node: regex_tree.Repeat) -> None:
        if node.mode is regex_tree.Mode.POSSESSIVE:
            greedy = regex_tree.Repeat(node.body, node.low, node.high, regex_tree.Mode.GREEDY)
            self._add_inner(_ATOMIC, greedy)
            return
        low, high = regex_tree.times(node)
        if high is None:
            self._add_times(node.body, low - 1)
            self._add_loop(node)
            return
        self._add_times(node.body, low)
        byte = _byte(node.body)
        if byte is not None and high - low > MAX_WRITTEN:
            op = _LAZILY if node.mode is regex_tree.Mode.LAZY else _UP_TO
            self.emit(_Instruction(op, high - low, table=_table(byte.mask)))
            return
        splits = []
        for _ in range(high - low):
            splits.append(self.emit(_Instruction(_SPLIT)))
            self.add(node.body)
        for split in splits:
            self.program[split] = self._split(node, split + 1, len(self.program))

    def _add_times(self, body: regex_tree.Node, times: int) -> None:
        """Add something so often: a byte by one instruction, all else written out."""
        byte = _byte(body)
        if byte is not None and times > 1:
            members = bytes(regex_chars.members(byte.mask))
            self.emit(_Instruction(_EXACTLY, times, table=members))
            return
        for _ in range(times):
            self.add(body)

    def _add_loop(self, node: regex_tree.Repeat) -> None:
        """Repeat without end, once at least if so asked; matching nothing ends it."""
        split = self.emit(_Instruction(_SPLIT)) if node.low == 0 else None
        start = len(self.program)
        enough = None
        if regex_tree.nullable(node.body):
            slot = self.slots
            self.slots += 1
            self.emit(_Instruction(_ENTER, slot))
            self.add(node.body)
            enough = self.emit(_Instruction(_ENOUGH))
        else:
            self.add(node.body)
        if split is None:
            split = self.emit(_Instruction(_SPLIT))
        else:
            self.emit(_Instruction(_JUMP, split))
        after = len(self.program)
        self.program[split] = self._split(node, start, after)
        if enough is not None:
            self.program[enough] = _Instruction(_ENOUGH, slot, after)

    @staticmethod
    def _split(node: regex_tree.Repeat, body: int, after: int) -> _Instruction:
        if node.mode is regex_tree.Mode.LAZY:
            return _Instruction(_SPLIT, after, body)
        return _Instruction(_SPLIT, body, after)
