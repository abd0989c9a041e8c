"""The program of a pattern's tree: the instructions that the matcher runs (regex_machine.py)."""

import functools
from typing import Final, NamedTuple

from ngxstream.core import regex_chars, regex_tree

MAX_PROGRAM: Final = 65_536  # instructions, enough for what PCRE does not find too large
MAX_WRITTEN: Final = 16  # choices of a counted byte that are written out as instructions

CHAR: Final = 0  # one byte of the set ``table``
SPLIT: Final = 1  # go on at ``first``; if that fails, at ``second``
JUMP: Final = 2  # go on at ``first``
SAVE: Final = 3  # keep the position in slot ``first``
AT: Final = 4  # go on if the place is right
ENTER: Final = 5  # keep the position in which a repetition began, in slot ``first``
ENOUGH: Final = 6  # go on at ``second`` if nothing has matched since slot ``first`` was entered
MATCH: Final = 7
AHEAD: Final = 8  # go on at ``second`` if what begins at ``first`` matches here
NOT_AHEAD: Final = 9  # the same if it does not
BEHIND: Final = 10  # the same as AHEAD, ``width`` bytes before
NOT_BEHIND: Final = 11
ATOMIC: Final = 12  # as AHEAD, but go on behind what matched
EXACTLY: Final = 13  # ``first`` bytes of the set; ``table`` lists its bytes
UP_TO: Final = 14  # ``first`` bytes of the set ``table`` or fewer, the most first
LAZILY: Final = 15  # the same, the fewest first


class ProgramSizeError(ValueError):
    """A pattern whose counted repeats are too large to be written out."""


class Instruction(NamedTuple):
    """One step; what its fields mean stands beside the operations."""

    op: int
    first: int = 0
    second: int = 0
    table: bytes = b""
    place: regex_tree.Place | None = None
    width: int = 0


@functools.cache
def table_of(mask: int) -> bytes:
    """Make the table of a set: for each byte whether it is in."""
    return bytes(mask >> byte & 1 for byte in range(256))


def _byte(node: regex_tree.Node) -> regex_tree.Chars | None:
    """Find the one byte a node is, without groups around it that do not capture."""
    while isinstance(node, regex_tree.Sequence) and len(node.items) == 1:
        node = node.items[0]
    return node if isinstance(node, regex_tree.Chars) else None


class Compiler:
    """Writes the program of a tree, one instruction after another."""

    __slots__ = ("program", "slots")

    def __init__(self, slots: int) -> None:
        self.program: list[Instruction] = []
        self.slots = slots

    def emit(self, instruction: Instruction) -> int:
        """Add an instruction and return where it stands."""
        if len(self.program) >= MAX_PROGRAM:
            raise ProgramSizeError("regular expression is too large")
        self.program.append(instruction)
        return len(self.program) - 1

    def add(self, node: regex_tree.Node) -> None:
        """Add the instructions of a node; they end where the next node's begin."""
        if isinstance(node, regex_tree.Chars):
            self.emit(Instruction(CHAR, table=table_of(node.mask)))
        elif isinstance(node, regex_tree.Sequence):
            for item in node.items:
                self.add(item)
        elif isinstance(node, regex_tree.Choice):
            self._add_choice(node.branches)
        elif isinstance(node, regex_tree.Repeat):
            self._add_repeat(node)
        elif isinstance(node, regex_tree.Capture):
            self.emit(Instruction(SAVE, 2 * node.index))
            self.add(node.body)
            self.emit(Instruction(SAVE, 2 * node.index + 1))
        elif isinstance(node, regex_tree.Keep):
            self.emit(Instruction(SAVE, 0))
        elif isinstance(node, regex_tree.At):
            self.emit(Instruction(AT, place=node.place))
        elif isinstance(node, regex_tree.Atomic):
            self._add_inner(ATOMIC, node.body)
        elif isinstance(node, regex_tree.Look):
            self._add_look(node)

    def _add_inner(self, op: int, body: regex_tree.Node, width: int = 0) -> None:
        """Add a match of its own, which ends with an instruction that says so."""
        at = self.emit(Instruction(op))
        self.add(body)
        self.emit(Instruction(MATCH))
        self.program[at] = Instruction(op, at + 1, len(self.program), width=width)

    def _add_look(self, node: regex_tree.Look) -> None:
        if node.ahead:
            self._add_inner(NOT_AHEAD if node.negative else AHEAD, node.body)
            return
        # each branch of a lookbehind has a width of its own
        body = node.body
        branches = body.branches if isinstance(body, regex_tree.Choice) else (body,)
        if node.negative:
            for branch in branches:
                self._add_inner(NOT_BEHIND, branch, regex_tree.width(branch) or 0)
            return
        jumps = []
        for branch in branches[:-1]:
            split = self.emit(Instruction(SPLIT))
            self._add_inner(BEHIND, branch, regex_tree.width(branch) or 0)
            jumps.append(self.emit(Instruction(JUMP)))
            self.program[split] = Instruction(SPLIT, split + 1, len(self.program))
        self._add_inner(BEHIND, branches[-1], regex_tree.width(branches[-1]) or 0)
        for jump in jumps:
            self.program[jump] = Instruction(JUMP, len(self.program))

    def _add_choice(self, branches: tuple[regex_tree.Node, ...]) -> None:
        jumps = []
        for branch in branches[:-1]:
            split = self.emit(Instruction(SPLIT))
            self.add(branch)
            jumps.append(self.emit(Instruction(JUMP)))
            self.program[split] = Instruction(SPLIT, split + 1, len(self.program))
        self.add(branches[-1])
        for jump in jumps:
            self.program[jump] = Instruction(JUMP, len(self.program))

    def _add_repeat(self, node: regex_tree.Repeat) -> None:
        if node.mode is regex_tree.Mode.POSSESSIVE:
            greedy = regex_tree.Repeat(node.body, node.low, node.high, regex_tree.Mode.GREEDY)
            self._add_inner(ATOMIC, greedy)
            return
        low, high = regex_tree.times(node)
        if high is None:
            self._add_times(node.body, low - 1)
            self._add_loop(node)
            return
        self._add_times(node.body, low)
        byte = _byte(node.body)
        if byte is not None and high - low > MAX_WRITTEN:
            op = LAZILY if node.mode is regex_tree.Mode.LAZY else UP_TO
            self.emit(Instruction(op, high - low, table=table_of(byte.mask)))
            return
        splits = []
        for _ in range(high - low):
            splits.append(self.emit(Instruction(SPLIT)))
            self.add(node.body)
        for split in splits:
            self.program[split] = self._split(node, split + 1, len(self.program))

    def _add_times(self, body: regex_tree.Node, times: int) -> None:
        """Add something so often: a byte by one instruction, all else written out."""
        byte = _byte(body)
        if byte is not None and times > 1:
            members = bytes(regex_chars.members(byte.mask))
            self.emit(Instruction(EXACTLY, times, table=members))
            return
        for _ in range(times):
            self.add(body)

    def _add_loop(self, node: regex_tree.Repeat) -> None:
        """Repeat without end, once at least if so asked; matching nothing ends it."""
        split = self.emit(Instruction(SPLIT)) if node.low == 0 else None
        start = len(self.program)
        enough = None
        if regex_tree.nullable(node.body):
            slot = self.slots
            self.slots += 1
            self.emit(Instruction(ENTER, slot))
            self.add(node.body)
            enough = self.emit(Instruction(ENOUGH))
        else:
            self.add(node.body)
        if split is None:
            split = self.emit(Instruction(SPLIT))
        else:
            self.emit(Instruction(JUMP, split))
        after = len(self.program)
        self.program[split] = self._split(node, start, after)
        if enough is not None:
            self.program[enough] = Instruction(ENOUGH, slot, after)

    @staticmethod
    def _split(node: regex_tree.Repeat, body: int, after: int) -> Instruction:
        if node.mode is regex_tree.Mode.LAZY:
            return Instruction(SPLIT, after, body)
        return Instruction(SPLIT, body, after)
