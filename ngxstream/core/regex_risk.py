"""How long a backtracking matcher may take on a pattern: constant, a power of the subject, more.

The pattern is seen as a position automaton (Glushkov): one state per byte it reads.  The ways a
backtracking matcher can go wrong are the paths that read the same bytes, so

1. a loop that can read some bytes in two ways takes time exponential in the subject;
2. a chain of n loops that can all read the same bytes takes time of the n-th power; a search
   that may begin anywhere is one loop more, before all others.

Both are decided on pairs and triples of states (Weber and Seidl's criteria), always to the safe
side: what is too large to be decided counts as exponential.
"""

from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from typing import Final, NamedTuple

from ngxstream.core import regex_chars, regex_tree

MAX_STATES: Final = 400
MAX_UNROLLED: Final = 64  # states a counted repeat may be written out into
MAX_COUNT: Final = 8  # a repeat that counts further is taken for one without end
MAX_STEPS: Final = 300_000  # of the decision itself, some 0.1 s at configuration

EXPONENTIAL: Final = 99

PATH_BYTES: Final = 48  # how far paths are counted
MAX_PATHS: Final = 5000  # more of them count as exponential
FEW_PATHS: Final = 400  # more of them count as a square at least

_MANY: Final = 2  # ways are counted none, one, many

_Ways = dict[int, int]


class _TooLargeError(Exception):
    pass


class Risk(NamedTuple):
    """A bound of the time to search a subject of n bytes: ``factor`` times a power of n."""

    degree: int  # the power: 0 for constant, 1 for linear; EXPONENTIAL if none bounds it
    factor: int  # how many ways there are to read the same bytes besides those of loops


def assess(tree: regex_tree.Node) -> Risk:
    """Bound the time to search a subject."""
    automaton = _Automaton()
    try:
        automaton.build(tree)
        return _Assessor(automaton).assess()
    except _TooLargeError:
        return Risk(EXPONENTIAL, 1)


class _Automaton:
    """States with the bytes they read, and how many ways lead from each to the next."""

    __slots__ = ("_repeats", "follow", "masks", "references")

    def __init__(self) -> None:
        self.masks: list[int] = []
        self.follow: list[_Ways] = []
        self.references: set[int] = set()  # states of back references that are not repeated
        self._repeats = 0  # how many repeats the node being added is in

    def build(self, tree: regex_tree.Node) -> None:
        """Add a pattern, searched for anywhere unless it is anchored."""
        start = None if regex_tree.anchored(tree) else self._state(regex_chars.EVERY)
        first, _, _ = self._add(tree)
        if start is not None:
            self._connect({start: 1}, {**first, start: 1})

    def _state(self, mask: int) -> int:
        if len(self.masks) == MAX_STATES:
            raise _TooLargeError
        self.masks.append(mask)
        self.follow.append({})
        return len(self.masks) - 1

    def _connect(self, last: _Ways, first: _Ways, ways: int = 1) -> None:
        for one, other in product(last, first):
            count = self.follow[one].get(other, 0) + ways * last[one] * first[other]
            self.follow[one][other] = min(count, _MANY)

    def _add(self, node: regex_tree.Node) -> tuple[_Ways, _Ways, int]:
        """Add a node; returns its first states, its last ones, and the ways through without any."""
        if isinstance(node, regex_tree.Chars):
            state = self._state(node.mask)
            return {state: 1}, {state: 1}, 0
        if isinstance(node, regex_tree.Sequence):
            return self._add_sequence(node.items)
        if isinstance(node, regex_tree.Choice | regex_tree.Condition):
            return self._add_choice(regex_tree.branches(node))
        if isinstance(node, regex_tree.Repeat):
            return self._add_repeat(node)
        if isinstance(node, regex_tree.Capture | regex_tree.Atomic):
            return self._add(node.body)
        if isinstance(node, regex_tree.Backref):
            return self._add_reference()
        if isinstance(node, regex_tree.Look) and node.ahead:
            first, _, _ = self._add(node.body)  # a branch that leads nowhere
            return first, {}, 1
        return {}, {}, 1

    def _add_sequence(self, items: tuple[regex_tree.Node, ...]) -> tuple[_Ways, _Ways, int]:
        first: _Ways = {}
        last: _Ways = {}
        empty = 1
        for item in items:
            item_first, item_last, item_empty = self._add(item)
            self._connect(last, item_first)
            first = _sum(first, item_first, empty)
            last = _sum(item_last, last, item_empty)
            empty = min(empty * item_empty, _MANY)
        return first, last, empty

    def _add_choice(self, branches: tuple[regex_tree.Node, ...]) -> tuple[_Ways, _Ways, int]:
        first: _Ways = {}
        last: _Ways = {}
        empty = 0
        for branch in branches:
            branch_first, branch_last, branch_empty = self._add(branch)
            first = _sum(first, branch_first, 1)
            last = _sum(last, branch_last, 1)
            empty = min(empty + branch_empty, _MANY)
        return first, last, empty

    def _add_reference(self) -> tuple[_Ways, _Ways, int]:
        """Add a back reference: it reads any bytes, any number of them, but in one way only."""
        state = self._state(regex_chars.EVERY)
        self._connect({state: 1}, {state: 1})
        if not self._repeats:
            self.references.add(state)
        return {state: 1}, {state: 1}, 1

    def _add_repeat(self, node: regex_tree.Repeat) -> tuple[_Ways, _Ways, int]:
        if node.high == 0:
            return {}, {}, 1
        self._repeats += 1
        added = self._add_repetitions(node)
        self._repeats -= 1
        return added

    def _add_repetitions(self, node: regex_tree.Repeat) -> tuple[_Ways, _Ways, int]:
        low, high = regex_tree.times(node)
        node = replace(node, low=low, high=high)
        before = len(self.masks)
        first, last, empty = self._add(node.body)
        size = len(self.masks) - before
        if node.high is not None and node.high <= MAX_COUNT and size * node.high <= MAX_UNROLLED:
            rest = self._unrolled(node, 1)
            self._connect(last, rest[0])
            last = _sum(rest[1], last, rest[2])
            first = _sum(first, rest[0], empty)
            through = min(empty * rest[2] + (node.low == 0), _MANY)
            return first, last, through
        # A large counted repeat is taken for one without end.  Empty repetitions end a loop
        # without end, but they may stand anywhere in a counted one.
        counted = node.low > 1 or node.high is not None
        self._connect(last, first, _MANY if counted and empty else 1)
        last = _sum({}, last, 1 + empty)
        return first, last, min(empty + (node.low == 0), _MANY)

    def _unrolled(self, node: regex_tree.Repeat, done: int) -> tuple[_Ways, _Ways, int]:
        """Add the repetitions after the first ``done``, each only after the one before it."""
        first: _Ways = {}
        last: _Ways = {}
        empty = 1
        for number in range(node.high or 0, done, -1):
            item = self._add(node.body)
            self._connect(item[1], first)
            new_last = _sum(last, item[1], empty)
            first = _sum(item[0], first, item[2])
            last = new_last
            empty = min(item[2] * empty + (number > node.low), _MANY)
        return first, last, empty


def _sum(one: _Ways, other: _Ways, factor: int) -> _Ways:
    """Add the ways of two sets of states, those of ``other`` taken ``factor`` times."""
    if not factor:
        return dict(one)
    total = dict(one)
    for state, ways in other.items():
        total[state] = min(total.get(state, 0) + ways * factor, _MANY)
    return total


def kinds_of(masks: Iterable[int]) -> list[int]:
    """Return one byte of each kind, as a set: bytes of a kind are in the same of the masks."""
    kinds = [regex_chars.EVERY]
    for mask in set(masks):
        kinds = [part for kind in kinds for part in (kind & mask, kind & ~mask) if part]
    return [kind & -kind for kind in kinds]


class _Assessor:
    """Looks for loops that are ambiguous, alone or in chains."""

    __slots__ = ("_follow", "_masks", "_reach", "_references", "_steps")

    def __init__(self, automaton: _Automaton) -> None:
        self._masks = automaton.masks
        self._follow = automaton.follow
        self._references = automaton.references
        self._steps = MAX_STEPS
        self._reach = self._reachable()

    def assess(self) -> Risk:
        loops = self._loops()
        if any(self._is_ambiguous(loop) for loop in loops):
            return Risk(EXPONENTIAL, 1)
        paths = self._paths()
        if paths > MAX_PATHS:
            return Risk(EXPONENTIAL, 1)
        power = max(self._longest_chain(loops), 2 if paths > FEW_PATHS else 0)
        # loops in a chain make so many paths of so many bytes, the rest is the pattern's own
        factor = max(1, paths // PATH_BYTES ** max(power - 1, 0))
        # what a reference leads to may be as long as the subject
        return Risk(power + bool(self._references), factor)

    def _paths(self) -> int:
        """Count the paths that read one byte over and over, for the worst byte.

        This is what a pattern without loops can still do wrong: a?a?a?a?…, .{0,8}.{0,8}….
        """
        worst = 0
        for byte in kinds_of(self._masks):
            reads = [bool(mask & byte) for mask in self._masks]
            ways = dict.fromkeys((state for state in range(len(reads)) if reads[state]), 1)
            for _ in range(PATH_BYTES):
                total: dict[int, int] = {}
                for state, count in ways.items():
                    for other, edges in self._follow[state].items():
                        if reads[other] and (state != other or state not in self._references):
                            self._spend()
                            total[other] = total.get(other, 0) + count * edges
                ways = total
                worst = max(worst, sum(ways.values()))
                if worst > MAX_PATHS or not ways:
                    break
        return worst

    def _longest_chain(self, loops: list[list[int]]) -> int:
        # longest chain of loops each of which hands some of its bytes to the next
        loops.sort(key=lambda loop: -self._reach[loop[0]].bit_count())
        lengths: list[int] = []
        for at, loop in enumerate(loops):
            before = [
                lengths[earlier]
                for earlier in range(at)
                if self._reach[loops[earlier][0]] >> loop[0] & 1
                and self._share_bytes(loops[earlier], loop)
            ]
            lengths.append((loop[0] not in self._references) + max(before, default=0))
        return max(lengths, default=0)

    def _spend(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise _TooLargeError

    def _reachable(self) -> list[int]:
        """Compute the states reachable from each in one step or more, as sets of bits."""
        reach = [sum(1 << state for state in follow) for follow in self._follow]
        for middle in range(len(reach)):
            for state in range(len(reach)):
                if reach[state] >> middle & 1:
                    reach[state] |= reach[middle]
        return reach

    def _loops(self) -> list[list[int]]:
        """List the strongly connected sets of states that can be gone around in."""
        loops: dict[int, list[int]] = {}
        for state, reach in enumerate(self._reach):
            if reach >> state & 1:
                same = sum(
                    1 << other
                    for other in range(len(self._reach))
                    if reach >> other & 1 and self._reach[other] >> state & 1
                )
                loops.setdefault(same, []).append(state)
        return list(loops.values())

    def _next(self, state: int, within: set[int]) -> list[int]:
        return [other for other in self._follow[state] if other in within]

    def _is_ambiguous(self, loop: list[int]) -> bool:
        """Tell whether two different ways around a loop read the same bytes."""
        within = set(loop)
        if any(self._follow[state].get(other, 0) > 1 for state in loop for other in loop):
            return True
        apart: set[tuple[int, int]] = set()  # pairs that the same bytes lead to
        todo = [(state, state) for state in loop]
        while todo:
            pair = todo.pop()
            for one in self._next(pair[0], within):
                for other in self._next(pair[1], within):
                    self._spend()
                    if not self._masks[one] & self._masks[other] or (one, other) in apart:
                        continue
                    if one != other:
                        apart.add((one, other))
                        todo.append((one, other))
                    elif pair[0] != pair[1]:
                        return True  # they come together again
        return False

    def _share_bytes(self, loop: list[int], later: list[int]) -> bool:
        """Tell whether bytes read around one loop may as well lead to and around a later one.

        That is: some word leads from a state p back to p, from p to q, and from q back to q.
        """
        between = set(loop) | set(later)
        from_loop, ends = self._reach[loop[0]], later[0]
        between |= {
            state
            for state, reach in enumerate(self._reach)
            if from_loop >> state & 1 and reach >> ends & 1
        }
        inside, outside = set(loop), set(later)
        try:
            return any(self._meet(p, q, inside, between, outside) for p, q in product(loop, later))
        except _TooLargeError:
            return True

    def _meet(self, p: int, q: int, inside: set[int], between: set[int], outside: set[int]) -> bool:
        goal = (p, q, q)
        seen = {(p, p, q)}
        todo = [(p, p, q)]
        while todo:
            one, middle, other = todo.pop()
            for a in self._next(one, inside):
                for c in self._next(other, outside):
                    common = self._masks[a] & self._masks[c]
                    self._spend()
                    if not common:
                        continue
                    for b in self._next(middle, between):
                        self._spend()
                        if common & self._masks[b] and (a, b, c) not in seen:
                            if (a, b, c) == goal:
                                return True
                            seen.add((a, b, c))
                            todo.append((a, b, c))
        return False
