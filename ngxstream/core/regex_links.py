"""What a pattern says of its own groups: references, calls and the lengths of lookbehinds.

PCRE looks at these when it has read all of a pattern, for a group may be named before it comes.
A call of a group is written out, a reference to a group that cannot have matched yet matches
nothing; what only PCRE's own machinery can do, recursion before all, is refused by name.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from ngxstream.core import regex_scan, regex_tree

MAX_LOOKBEHIND: Final = 65535
MAX_NODES: Final = 50_000  # of a pattern whose calls are written out

_OPEN: Final = "a reference to a group that is not closed"


class Links:
    """One pattern's groups and where they are spoken of."""

    def __init__(
        self, pattern: bytes, tree: regex_tree.Node, names: Mapping[str, tuple[int, ...]],
        spans: Mapping[int, tuple[int, int]], *, reset: bool,
    ) -> None:
        self.tree = _named(tree, names)
        self._pattern = pattern
        self._reset = reset  # (?| was used: PCRE measures no references then
        self._spans = spans
        self._captures: dict[int, regex_tree.Capture] = {}
        self._around: dict[int, frozenset[int]] = {}
        self._shared = False  # a number is that of several groups
        self._nodes = 0
        self._collect(self.tree, frozenset())

    def _unsupported(self, what: str, at: int) -> regex_scan.RegexError:
        return regex_scan.RegexError(f"{what} is not supported", self._pattern, at)

    def _collect(self, node: regex_tree.Node, around: frozenset[int]) -> None:
        """Note each group, and the loops and lookbehinds around it."""
        if isinstance(node, regex_tree.Capture):
            if node.index in self._captures:
                self._shared = True
                self._around[node.index] |= around
            else:
                self._captures[node.index] = node
                self._around[node.index] = around
        around |= _loop(node)
        for part in regex_tree.parts(node):
            self._collect(part, around)

    # --- lookbehinds ------------------------------------------------------------------------

    def check_lookbehinds(self) -> None:
        """Refuse lookbehinds whose branches have no length.

        Source: pcre2_compile.c:check_lookbehinds() and what it calls.
        """
        self._check_inside(self.tree)

    def _check_inside(self, node: regex_tree.Node, calls: tuple[int, ...] = ()) -> None:
        if isinstance(node, regex_tree.Look) and not node.ahead:
            self._check(node, calls)
            return
        for part in regex_tree.parts(node):
            self._check_inside(part, calls)

    def _check(self, look: regex_tree.Look, calls: tuple[int, ...] = ()) -> None:
        for branch in _branches(look.body):
            length = self._length(branch, calls)
            if length is None:
                raise regex_scan.RegexError(
                    "lookbehind assertion is not fixed length", self._pattern, look.at
                )
            if length > MAX_LOOKBEHIND:
                raise regex_scan.RegexError(
                    "lookbehind assertion is too long", self._pattern, look.at
                )

    def _length(self, node: regex_tree.Node, calls: tuple[int, ...]) -> int | None:
        """Measure a branch as PCRE does."""
        if isinstance(node, regex_tree.Chars):
            return 0 if node is regex_tree.NOTHING else 1
        if isinstance(node, regex_tree.Look):
            if node.ahead:
                self._check_inside(node.body, calls)
            else:
                self._check(node, calls)
            return 0
        if node is regex_tree.ANY_NEWLINE or node is regex_tree.ANY_CHARACTER:
            return None
        if isinstance(node, regex_tree.Repeat):
            each = self._length(node.body, calls)
            if isinstance(node.body, regex_tree.Look) and node.body.ahead:
                return 0
            return each * node.low if each is not None and node.low == node.high else None
        if isinstance(node, regex_tree.Sequence):
            total = 0
            for item in node.items:
                if item is regex_tree.NOTHING:
                    break  # (*FAIL): what follows is never read
                length = self._length(item, calls)
                if length is None:
                    return None
                total += length
            return total
        if isinstance(node, regex_tree.Capture | regex_tree.Atomic):
            return self._length(node.body, calls)
        if isinstance(node, regex_tree.Choice | regex_tree.Condition):
            branches = regex_tree.branches(node)
            if isinstance(node, regex_tree.Condition):
                if node.name == regex_tree.DEFINE:
                    return 0
                if node.asked is not None:
                    self._length(node.asked[0], calls)
                branches = branches[:1] if node.no is None else branches
            first = self._length(branches[0], calls)
            for branch in branches[1:]:
                if first is None or self._length(branch, calls) != first:
                    return None
            return first
        if isinstance(node, regex_tree.Backref):
            return self._length_of(node.groups, node.error_at, calls)
        if isinstance(node, regex_tree.Call):
            return self._length_of((node.index,), node.at, calls, call=True)
        return 0

    def _length_of(
        self, groups: tuple[int, ...], at: int, calls: tuple[int, ...], *, call: bool = False
    ) -> int | None:
        if len(groups) > 1 or (self._reset and not call and groups) or groups == (0,):
            return None
        group = self._captures.get(groups[0]) if groups else None
        if group is None:
            reason = "reference to non-existent subpattern"
            raise regex_scan.RegexError(reason, self._pattern, at)
        begin, end = self._spans[groups[0]]
        if groups[0] in calls or begin <= at < end:
            return None
        return self._length(group.body, (*calls, groups[0]))

    # --- references and calls -------------------------------------------------------------------

    def resolve(self) -> regex_tree.Node:
        """Write the tree without calls, and without references that match nothing.

        Raises: RegexError: For what only PCRE can do.
        """
        tree = self._resolve(self.tree, frozenset(), ())
        for node in regex_tree.walk(tree):
            if isinstance(node, regex_tree.Look) and not node.ahead:
                widths = self._widths(node)
                for branch in _branches(node.body):
                    if regex_tree.width(branch, widths) is None:
                        raise self._unsupported("a reference in a lookbehind", node.at)
        return tree

    def _widths(self, look: regex_tree.Look) -> regex_tree.Widths:
        """Measure the groups outside a lookbehind."""
        inside = {
            part.index
            for part in regex_tree.walk(look.body)
            if isinstance(part, regex_tree.Capture)
        }
        return {
            index: self._length(group.body, ())
            for index, group in self._captures.items()
            if index not in inside
        }

    def _resolve(
        self, node: regex_tree.Node, around: frozenset[int], calls: tuple[int, ...]
    ) -> regex_tree.Node:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._unsupported("a pattern whose calls of groups are so large", 0)
        if isinstance(node, regex_tree.Call):
            return self._resolve_call(node, around, calls)
        if isinstance(node, regex_tree.Backref):
            groups = self._set_by_then(node.groups, node.at, around, calls)
            return replace(node, groups=groups) if groups else regex_tree.NOTHING
        inner = around | _loop(node)
        if isinstance(node, regex_tree.Capture):
            inner |= {id(node)}
        if isinstance(node, regex_tree.Condition):
            return self._resolve_condition(node, inner, calls)
        if isinstance(node, regex_tree.Sequence):
            return regex_tree.Sequence(
                tuple(self._resolve(item, inner, calls) for item in node.items)
            )
        if isinstance(node, regex_tree.Choice):
            return regex_tree.Choice(
                tuple(self._resolve(branch, inner, calls) for branch in node.branches)
            )
        if isinstance(node, regex_tree.Capture) and calls:
            return regex_tree.Sequence((self._resolve(node.body, inner, calls),))
        if isinstance(node, regex_tree.Capture | regex_tree.Repeat | regex_tree.Look) or (
            isinstance(node, regex_tree.Atomic) and not _is_newline(node)
        ):
            return replace(node, body=self._resolve(node.body, inner, calls))
        return node

    def _resolve_call(
        self, node: regex_tree.Call, around: frozenset[int], calls: tuple[int, ...]
    ) -> regex_tree.Node:
        group = self._captures.get(node.index)
        if group is None or node.index in calls or id(group) in around:
            raise self._unsupported("recursion", node.at)
        body = self._resolve(group.body, around | {id(group)}, (*calls, node.index))
        return regex_tree.Sequence((body,))

    def _resolve_condition(
        self, node: regex_tree.Condition, around: frozenset[int], calls: tuple[int, ...]
    ) -> regex_tree.Node:
        yes, no = (self._resolve(branch, around, calls) for branch in regex_tree.branches(node))
        if node.asked is not None:
            look = self._resolve(node.asked[0], around, calls)
            # what captures in the contrary would capture nothing
            contrary = self._resolve(node.asked[1], around, (*calls, 0))
            return regex_tree.Sequence(
                (
                    regex_tree.Choice(
                        (regex_tree.Sequence((look, yes)), regex_tree.Sequence((contrary, no)))
                    ),
                )
            )
        groups = self._set_by_then(node.groups, node.at, around, calls)
        if groups:
            return replace(node, groups=groups, yes=yes, no=no)
        # the groups of what is never matched are counted all the same
        unused = regex_tree.Repeat(yes, 0, 0, regex_tree.Mode.GREEDY)
        return regex_tree.Sequence((unused, regex_tree.Sequence((no,))))

    def _set_by_then(
        self, groups: tuple[int, ...], at: int, around: frozenset[int], calls: tuple[int, ...]
    ) -> tuple[int, ...]:
        """Keep those of some groups that may have matched where they are spoken of."""
        if calls:
            raise self._unsupported("a reference in a group that is called", at)
        usable = []
        for group in groups:
            if self._spans[group][1] <= at:
                usable.append(group)
            elif self._around[group] & around or self._shared:
                raise self._unsupported(_OPEN, at)
        return tuple(usable)


def _named(node: regex_tree.Node, names: Mapping[str, tuple[int, ...]]) -> regex_tree.Node:
    """Put numbers in the place of names; a name that is none gives no number."""
    if isinstance(node, regex_tree.Backref):
        return replace(node, groups=names.get(node.name, ())) if node.name else node
    if isinstance(node, regex_tree.Call):
        return replace(node, index=names.get(node.name, (-1,))[0]) if node.name else node
    if isinstance(node, regex_tree.Condition):
        return replace(
            node,
            groups=names.get(node.name, ()) if node.name else node.groups,
            yes=_named(node.yes, names),
            no=None if node.no is None else _named(node.no, names),
            asked=node.asked
            and (_named_look(node.asked[0], names), _named_look(node.asked[1], names)),
        )
    if isinstance(node, regex_tree.Sequence):
        return regex_tree.Sequence(tuple(_named(item, names) for item in node.items))
    if isinstance(node, regex_tree.Choice):
        return regex_tree.Choice(tuple(_named(branch, names) for branch in node.branches))
    if isinstance(node, regex_tree.Capture | regex_tree.Repeat | regex_tree.Look) or (
        isinstance(node, regex_tree.Atomic) and not _is_newline(node)
    ):
        return replace(node, body=_named(node.body, names))
    return node


def _named_look(look: regex_tree.Look, names: Mapping[str, tuple[int, ...]]) -> regex_tree.Look:
    return replace(look, body=_named(look.body, names))


def _is_newline(node: regex_tree.Node) -> bool:
    return node is regex_tree.ANY_NEWLINE or node is regex_tree.ANY_CHARACTER


def _loop(node: regex_tree.Node) -> frozenset[int]:
    """Name a node in which a group may have matched before it is come to: a loop."""
    loops = isinstance(node, regex_tree.Repeat) and node.high not in (0, 1)
    return frozenset((id(node),)) if loops else frozenset()


def _branches(body: regex_tree.Node) -> tuple[regex_tree.Node, ...]:
    return body.branches if isinstance(body, regex_tree.Choice) else (body,)
