"""Regular expressions as nginx.conf spells them, matched so that no subject can stall a worker.

Answers for core/ngx_regex.c.  A pattern is read as PCRE reads it and written again for Python's
``re``, which matches it wherever that takes a bounded time; a linear matcher of our own takes
over where a hostile subject could make ``re`` run away, and a pattern for which neither will do
is refused when the configuration is read.
"""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from ngxstream.core import (
    regex_chars,
    regex_literals,
    regex_machine,
    regex_program,
    regex_risk,
    regex_scan,
    regex_syntax,
    regex_tree,
)

MAX_SUBJECT: Final = 65536  # bytes; SNI and variables are far below
STEPS: Final = 110_000  # what ``re`` may take for one subject, 5 ms of a worker at the very worst
STEPS_ALONE: Final = 500_000  # the same where no other matcher can take over
WORST_ALONE: Final = 3  # the power of the subject that STEPS_ALONE still make usable: 79 bytes
RECURSION: Final = 10_000  # calls in each other while a pattern is compiled
FEW_STEPS: Final = 2000  # what is not worth measuring

RegexError = regex_scan.RegexError
MatchLimitError = regex_machine.MatchLimitError

Captures = tuple[bytes | None, ...]
Search = Callable[[bytes], Captures | None]

_PLACES: Final = {
    regex_tree.Place.START: rb"\A",
    regex_tree.Place.END: rb"\Z",
    regex_tree.Place.LAST_LINE: rb"$",
    regex_tree.Place.LINE_START: rb"(?:\A|(?<=\n)(?!\Z))",
    regex_tree.Place.LINE_END: rb"(?=\n|\Z)",
    regex_tree.Place.WORD_EDGE: rb"\b",
    regex_tree.Place.NO_WORD_EDGE: rb"(?!\b)",  # Python's own \B fails on an empty subject
}
_SIGNS: Final = {(0, None): b"*", (1, None): b"+", (0, 1): b"?"}


class Regex:
    """One compiled pattern.

    ``search(subject)`` finds the leftmost match and returns its text and that of each group,
    None for a group that took no part; or None if there is no match.  It raises MatchLimitError
    where nginx logs ``pcre2_match() failed: -47``: the subject is too long for this pattern, or
    too many steps were taken.  One search takes no more than 6 ms; a subject of up to ``quick``
    bytes takes microseconds, whatever is in it.
    """

    __slots__ = ("engine", "groups", "literals", "names", "pattern", "quick", "search")

    def __init__(
        self,
        pattern: str,
        groups: int,
        names: dict[str, int],
        engine: str,
        quick: int,
        search: Search,
        literals: tuple[bytes, ...] = (),
    ) -> None:
        self.pattern = pattern
        self.groups = groups  # how many groups capture
        self.names = names  # name -> number, in the order of the pattern
        self.engine = engine  # "re", "machine" or "re, then machine"
        self.quick = quick
        self.search = search
        self.literals = literals  # texts that each match contains, in small letters


def compile(pattern: str, *, caseless: bool = False) -> Regex:  # noqa: A001 - as re.compile
    """Compile a pattern of the configuration.

    Bytes that are not UTF-8 are surrogates in ``pattern`` (PEP 383); matching is on bytes.
    Raises: RegexError, whose text is nginx's own message.
    """
    raw = pattern.encode("utf-8", "surrogateescape")
    with _deep_stack():
        syntax = regex_syntax.parse(raw, caseless=caseless)
        risk = regex_risk.assess(syntax.tree)
        engine, search = _choose(raw, syntax, risk)
        literals = regex_literals.literals(syntax.tree)
    quick = _longest(FEW_STEPS, risk) if engine != "machine" else 0
    return Regex(pattern, syntax.groups, syntax.names, engine, quick, search, literals)


@contextmanager
def _deep_stack() -> Iterator[None]:
    """Let patterns be nested as deep as PCRE allows, 250 groups, by us and by ``re``."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, RECURSION))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def _longest(steps: int, risk: regex_risk.Risk) -> int:
    """Return how long a subject may be for a search to take no more steps."""
    if not risk.degree:
        return MAX_SUBJECT if risk.factor <= steps else 0
    return min(MAX_SUBJECT, int((steps / risk.factor) ** (1 / risk.degree)))


def _choose(raw: bytes, syntax: regex_syntax.Syntax, risk: regex_risk.Risk) -> tuple[str, Search]:
    """Decide who matches: by the worst a subject of each length can do to ``re``."""
    degree = risk.degree
    alone = not regex_machine.can_run(syntax.tree)
    runs_away = degree > WORST_ALONE if alone else degree == regex_risk.EXPONENTIAL
    machine_only = runs_away or _only_pcre_spells(syntax.tree) or _counts_nothing(syntax.tree)
    limit = _longest(STEPS, risk)
    if not machine_only and degree <= 1:
        return "re", _with_re(raw, syntax, limit)
    if not alone:
        try:
            slow = _with_machine(syntax)
        except regex_program.ProgramSizeError as error:
            raise RegexError(str(error), raw, len(raw)) from None
        if machine_only:
            return "machine", slow
        return "re, then machine", _with_both(_with_re(raw, syntax, limit), slow, limit)
    if machine_only:
        raise RegexError(
            "a back reference in a pattern that could take exponential time is not supported"
            if runs_away
            else "a back reference in a pattern with \\K or (?| is not supported"
            if _only_pcre_spells(syntax.tree)
            else "a back reference in a pattern that counts how often a group matches nothing"
            " is not supported",
            raw,
            len(raw),
        )
    return "re", _with_re(raw, syntax, _longest(STEPS_ALONE, risk))


def _counts_nothing(tree: regex_tree.Node) -> bool:
    """Tell whether something that may be empty is counted: there ``re`` and PCRE disagree.

    They also disagree on its captures where it is repeated possessively.
    """
    return any(
        isinstance(part, regex_tree.Repeat)
        and (
            regex_tree.times(part)[1] not in (None, 0, 1) or part.mode is regex_tree.Mode.POSSESSIVE
        )
        and regex_tree.nullable(part.body)
        for part in regex_tree.walk(tree)
    )


def _only_pcre_spells(tree: regex_tree.Node) -> bool:
    r"""Tell whether ``re`` has no word for something: \K, or a number of several groups."""
    numbers: set[int] = set()
    for part in regex_tree.walk(tree):
        if isinstance(part, regex_tree.Keep):
            return True
        if isinstance(part, regex_tree.Capture):
            if part.index in numbers:
                return True
            numbers.add(part.index)
    return False


def _with_re(raw: bytes, syntax: regex_syntax.Syntax, limit: int) -> Search:
    try:
        compiled = re.compile(to_python(syntax.tree))
    except (re.error, OverflowError, RecursionError) as error:
        raise RegexError(f"{error} in Python's re, which", raw, len(raw)) from None
    # an anchored pattern need not be tried further on
    find = compiled.match if regex_tree.anchored(syntax.tree) else compiled.search

    def search(subject: bytes) -> Captures | None:
        if len(subject) > limit:
            raise MatchLimitError("pcre2_match() failed: -47")
        found = find(subject)
        return None if found is None else (found[0], *found.groups())

    return search


def _with_machine(syntax: regex_syntax.Syntax) -> Search:
    machine = regex_machine.Machine(syntax.tree, syntax.groups)

    def search(subject: bytes) -> Captures | None:
        if len(subject) > MAX_SUBJECT:
            raise MatchLimitError("pcre2_match() failed: -47")
        slots = machine.search(subject)
        if slots is None:
            return None
        return tuple(
            None if slots[at + 1] < 0 else subject[slots[at] : slots[at + 1]]
            for at in range(0, len(slots), 2)
        )

    return search


def _with_both(quick: Search, slow: Search, limit: int) -> Search:
    def search(subject: bytes) -> Captures | None:
        return quick(subject) if len(subject) <= limit else slow(subject)

    return search


# --- writing a tree for Python's re -----------------------------------------------------------


def to_python(node: regex_tree.Node) -> bytes:
    """Write a tree in the spelling of Python's ``re``, for a bytes pattern without flags."""
    if isinstance(node, regex_tree.Chars):
        return _chars(node.mask)
    if isinstance(node, regex_tree.Sequence):
        return b"".join(
            b"(?:%b)" % to_python(item) if isinstance(item, regex_tree.Choice) else to_python(item)
            for item in node.items
        )
    if isinstance(node, regex_tree.Choice):
        return b"|".join(to_python(branch) for branch in node.branches)
    if isinstance(node, regex_tree.Repeat):
        return _repeat(node)
    if isinstance(node, regex_tree.Capture):
        return b"(?P<g%d>%b)" % (node.index, to_python(node.body))
    if isinstance(node, regex_tree.Atomic):
        return b"(?>%b)" % to_python(node.body)
    if isinstance(node, regex_tree.Look):
        return _look(node)
    if isinstance(node, regex_tree.Backref):
        return _reference(node)
    if isinstance(node, regex_tree.Condition):
        return _condition(node.groups, to_python(node.yes), to_python(node.no or regex_tree.EMPTY))
    assert isinstance(node, regex_tree.At)
    return _PLACES[node.place]


def _reference(node: regex_tree.Backref) -> bytes:
    """Refer to the first of some groups that has matched, or to the only one."""
    text = b"(?P=g%d)" % node.groups[-1]
    for group in reversed(node.groups[:-1]):
        text = b"(?(g%d)(?P=g%d)|%b)" % (group, group, text)
    return b"(?i:%b)" % text if node.caseless else text


def _condition(groups: tuple[int, ...], yes: bytes, no: bytes) -> bytes:
    """Ask whether one of some groups has matched."""
    text = b"(?:%b)" % no
    for group in reversed(groups):
        text = b"(?(g%d)(?:%b)|%b)" % (group, yes, text)
    return text


def _chars(mask: int) -> bytes:
    if mask == regex_chars.EVERY:
        return b"(?s:.)"
    if mask == regex_chars.invert(regex_chars.NEWLINE):
        return b"."
    if mask.bit_count() == 1:
        return re.escape(bytes((mask.bit_length() - 1,)))
    if not mask:
        return b"(?!)"
    inverted = mask.bit_count() > 128
    runs = regex_chars.ranges(regex_chars.invert(mask) if inverted else mask)
    inside = b"".join(b"\\x%02x-\\x%02x" % run for run in runs)
    return b"[%b%b]" % (b"^" if inverted else b"", inside)


def _repeat(node: regex_tree.Repeat) -> bytes:
    low, high = regex_tree.times(node)
    sign = _SIGNS.get((low, high))
    if sign is None:
        sign = b"{%d,%b}" % (low, b"" if high is None else b"%d" % high)
    repeated = b"(?:%b)%b" % (to_python(node.body), sign)
    if node.mode is regex_tree.Mode.POSSESSIVE:
        return b"(?>%b)" % repeated  # Python's own does not go back into the last repetition
    return repeated + b"?" if node.mode is regex_tree.Mode.LAZY else repeated


def _look(node: regex_tree.Look) -> bytes:
    if node.ahead:
        return (b"(?!%b)" if node.negative else b"(?=%b)") % to_python(node.body)
    # Python wants one width for the whole of a lookbehind, PCRE one for each branch
    branches = node.body.branches if isinstance(node.body, regex_tree.Choice) else (node.body,)
    if node.negative:
        return b"".join(b"(?<!%b)" % to_python(branch) for branch in branches)
    return b"(?:%b)" % b"|".join(b"(?<=%b)" % to_python(branch) for branch in branches)
