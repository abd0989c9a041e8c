"""Makes regular expressions of PCRE's syntax and subjects for them, the same for every seed."""

import random
from collections.abc import Iterator

_ATOMS = (
    "a", "b", "c", "ab", ".", "[ab]", "[^a]", r"\w", r"\d", "^", "$", r"\b", "", "a", "b", "ab",
)  # fmt: skip
_ODD = (
    r"\B", r"\A", r"\z", r"\Z", r"\s", r"\h", r"\N", r"\R", "[[:alpha:]]", "[^[:upper:]]", "(?i)",
    "(?m)", "(?s)", "(?U)", r"\Qa.b\E", r"\x61", r"\1", r"\2", r"\g{-1}", "\\n", "(?#c)", "\u00e9",
)  # fmt: skip
_OPENINGS = ("(", "(", "(", "(?:", "(?i:", "(?>", "(?>", "(?=", "(?!", "(?<=", "(?<!", "(?<n>")
_COUNTS = ("*", "+", "?", "{2}", "{1,2}", "{0,3}", "{2,}", "{1,}", "{0}", "{1,3}")
_MODES = ("", "", "?", "+", "+", "+")
_PIECES = (b"a", b"a", b"b", b"b", b"c", b"ab", b"A", b"1", b" ", b"\n", b".", b"\xc3\xa9", b"\r\n")


class Patterns:
    """Patterns from one seed, rich in possessive repeats, atomic groups and captures in them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def cases(self, count: int, subjects: int) -> Iterator[tuple[str, list[bytes]]]:
        """Make patterns, each with subjects; some patterns are refused."""
        for _ in range(count):
            pattern = self.pattern(self.random.randrange(1, 9))
            yield pattern, [self.subject() for _ in range(subjects)]

    def subject(self) -> bytes:
        """Make a short subject of what patterns speak of."""
        return b"".join(self.random.choices(_PIECES, k=self.random.randrange(10)))

    def pattern(self, leaves: int) -> str:
        """Make a pattern of so many atoms."""
        random_ = self.random
        if leaves <= 1:
            return random_.choice(_ODD if random_.random() < 0.15 else _ATOMS)
        kind = random_.random()
        if kind < 0.15:
            return f"{random_.choice(_OPENINGS)}{self.pattern(leaves - 1)})"
        if kind < 0.5:
            group = random_.choice(("(", "(?:", "(?:"))
            return f"{group}{self.pattern(leaves - 1)}){self._count()}"
        if kind < 0.6:
            return random_.choice(("a", ".", r"\w", "[ab]")) + self._count()
        cut = random_.randrange(1, leaves)
        between = random_.choice(("", "", "|"))
        return f"{self.pattern(cut)}{between}{self.pattern(leaves - cut)}"

    def _count(self) -> str:
        return self.random.choice(_COUNTS) + self.random.choice(_MODES)
