"""Patterns out of a grammar of all that pcre2pattern(3) and pcre2syntax(3) describe."""

import random
from collections.abc import Iterator
from typing import Final

# what pcre2syntax(3) lists, in its order; a tuple is chosen from as often as it is long
_CHARACTERS: Final = (
    "a", "b", "c", "A", "1", " ", "-", ":", ",", "}", "]", "\t", "\n", "#", "<", "=", "_", "\u00e9",
    r"\Qa.b\E", r"\Q[\E", r"\Qa", r"\E", r"\a", r"\cA", r"\c[", r"\e", r"\f", r"\n", r"\r", r"\t",
    r"\0", r"\01", r"\101", r"\o{101}", r"\o{0}", r"\x61", r"\x", r"\xe9", r"\x{e9}", r"\x{00061}",
    r"\.", r"\/", r"\-", r"\<", r"\_", "a", "b", "ab", "abc", "a", "b",
)  # fmt: skip
_TYPES: Final = (
    ".", r"\C", r"\d", r"\D", r"\h", r"\H", r"\N", r"\R", r"\s", r"\S", r"\v", r"\V", r"\w", r"\W",
    r"\X", r"\pL", r"\PL", r"\pN", r"\p{N}", r"\p{L}", r"\P{Lu}", r"\p{^Ll}", r"\P{^Ll}",
    r"\p{L&}", r"\p{Lc}", r"\p{Any}", r"\P{Any}", r"\p{Xan}", r"\p{Xps}", r"\p{Xsp}", r"\p{Xuc}",
    r"\p{Xwd}", r"\p{Latin}", r"\p{Latn}", r"\p{Greek}", r"\p{sc:Common}", r"\p{scx=Latin}",
    r"\p{Script_Extensions: Arabic}", r"\p{ASCII}", r"\p{White Space}", r"\p{bidi_class:L}",
    r"\p{bc=EN}", r"\p{Bidi_M}", r"\p{Emoji}", r"\p{ l u }", r"\p{Upper_case}",
)  # fmt: skip
_CLASSES: Final = (
    "a", "b", "c", "A", "1", "-", "^", "[", " ", "\t", "a-c", "A-Z", "0-9", r"\d", r"\W", r"\s",
    r"\h", r"\b", r"\n", r"\x41", r"\x41-\x44", r"\e-\x20", r"\101", r"\8", r"\p{Lu}", r"\PL",
    r"\p{^Nd}", r"\]", r"\\", r"\-", r"\Q]\E", r"\E", r"\Qa\E-c", "[:alpha:]", "[:^digit:]",
    "[:upper:]", "[:word:]", "[:punct:]", "[:xdigit:]", "[:^lower:]", ".", "$", "\u00e9", r"\g",
    "[:a", "[.", "--/", "+--", r"\w-", "a-",
)  # fmt: skip
_PLACES: Final = ("^", "$", r"\b", r"\B", r"\A", r"\Z", r"\z", r"\G", r"\K", "[[:<:]]", "[[:>:]]")
_QUANTIFIERS: Final = (
    "*", "+", "?", "{2}", "{1,2}", "{0,3}", "{2,}", "{0}", "{1,3}", "{1}", "{0,1}", "{3,}",
    "{0,20}", "{,3}", "{ 1 }", "{1, 2}", "{,}", "{2", "{a}",
)  # fmt: skip
_MODES: Final = ("", "", "", "?", "+")
_GROUPS: Final = (
    "(", "(", "(", "(", "(?:", "(?:", "(?:", "(?|", "(?>", "(?i:", "(?-i:", "(?s:", "(?^:",
    "(?xx:", "(?x-i:", "(*atomic:", "(*sr:", "(*asr:", "(?J:", "(?n:", "(?U:", "(?m:",
)  # fmt: skip
_NAMED: Final = ("(?<n>", "(?'n'", "(?P<n>", "(?<m>", "(?<m>", "(?<o_1>")
_LOOKS: Final = (
    "(?=", "(?!", "(?<=", "(?<!", "(*pla:", "(*nla:", "(*plb:", "(*nlb:",
    "(*positive_lookahead:", "(*negative_lookbehind:",
)  # fmt: skip
_REFERENCES: Final = (
    r"\1", r"\2", r"\3", r"\11", r"\g1", r"\g{1}", r"\g{-1}", r"\g-1", r"\g{+1}", r"\g{n}",
    r"\k<n>", r"\k'n'", r"\k{m}", "(?P=n)", "(?P=m)",
)  # fmt: skip
_CALLS: Final = (
    "(?1)", "(?2)", "(?-1)", "(?+1)", "(?&n)", "(?P>m)", r"\g<1>", r"\g'n'", r"\g<-1>", "(?R)",
    "(?0)",
)  # fmt: skip
_CONDITIONS: Final = (
    "(?(1)", "(?(2)", "(?(-1)", "(?(+1)", "(?(<n>)", "(?('m')", "(?(n)", "(?(?=a)", "(?(?!b)",
    "(?(?<=a)", "(?(?<!ab)", "(?(DEFINE)", "(?(*pla:b)", "(?(?C9)(?=a)",
)  # fmt: skip
_SETTINGS: Final = (
    "(?i)", "(?-i)", "(?m)", "(?s)", "(?x)", "(?xx)", "(?x-x)", "(?-xx)", "(?U)", "(?n)", "(?J)",
    "(?^)", "(?^i)", "(?im-sx)", "(?)", "(?#c)", "(?C)", "(?C1)", "(?C255)", '(?C"a""b")',
    "(?C{x})", "(*F)", "(*FAIL)", "(*MARK:x)", "(*:x)", "(*FAIL:y)",
)  # fmt: skip
_STARTS: Final = ("(*NO_JIT)", "(*NO_START_OPT)", "(*NO_AUTO_POSSESS)", "(*LF)")
# what is wrong, or may be
_WRONG: Final = (
    "(", ")", "[", "]", "*", "+?", "{3,1}", "{65536}", "{1000000}", "\\", r"\j", r"\u", r"\L",
    r"\N{U+41}", r"\N{name}", r"\p{foo}", r"\p{", r"\p", r"\p1", r"\pQ", r"\p{sc:Lu}", r"\p{x:y}",
    r"\x{", r"\x{100}", r"\x{zz}", r"\x{}", r"\o{8}", r"\o", r"\o{}", r"\o{777}", r"\400", r"\c",
    "\\c\u00e9", r"\g", r"\g{", r"\g{0}", r"\g{-9}", r"\g<1", r"\k", r"\k{", r"\k<9>", r"\k{zz}",
    "(?z)", "(?i", "(?-i-s)", "(?^-i)", "(?", "(?<", "(?<9>a)", "(?<a", "(?<>a)", "(?P", "(?Px)",
    "(?Rx)", "(?+a)", "(?99999)", "(?-5)", "(?9)", "(?&zz)", "(?C256)", "(?Cx)", "(?C'a)", "(?C1",
    "(?(", "(?(1", "(?(a)", "(?(0)", "(?(9)a)", "(?(?a)", "(?(1)a|b|c)", "(?(DEFINE)a|b)",
    "(?(?=a)*b)", "(*", "(*)", "(*foo)", "(*foo:a)", "(*MARK)", "(*F", "(*:x", "(?#", "[[:foo:]]",
    "[[.a.]]", "[:alpha:]", "[z-a]", r"[a-\d]", r"[\d-a]", r"[[:digit:]-a]", r"[\B]", r"[\R]",
    r"[\z]", r"[\N]", r"[\N{x}]", r"[\p{foo}]", "[", "[^", r"[\E", "[a-[:digit:]]",
    "(?<=a*)", "(?<!a|b*)", r"(?<=\R)", r"(?<=\X)", "(?<=(a|bc)d)", r"(?<=\1)", r"(?<=a\Kb)",
    "(?=\\Ka)", "(?<" + "n" * 33 + ">a)", r"\99", r"\65536", r"\g{65536}",
)  # fmt: skip
# what this server refuses by name
_OTHERS: Final = (
    "(*ACCEPT)", "(*COMMIT)", "(*PRUNE)", "(*SKIP)", "(*THEN)", "(*SKIP:x)", "(?*a)", "(?<*a)",
    "(*napla:a)", "(*naplb:a)", "(?(R)a)", "(?(R1)a)", "(?(R&n)a)", "(?(VERSION>=10)a|b)", "(*UTF)",
)  # fmt: skip
_LARGE: Final = (
    "{65535}", "{255}", "{1000}", "{0,1000}", "{0,65535}", "{300,}", "{100,200}", "{50}", "{3000}",
)  # fmt: skip
_PIECES: Final = (
    b"a", b"a", b"a", b"b", b"b", b"c", b"ab", b"A", b"B", b"1", b" ", b"\n", b"\r\n", b".", b"-",
    b"]", b"\xc3\xa9", b"\xe9", b"\xaa", b"\xb5", b"\x85", b"\xa0", b"\x00", b"{,3}", b"{ 1 }",
    b"\t", b"_", b"^",
)  # fmt: skip


class Grammar:
    """Patterns and subjects, the same for every seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def cases(self, count: int, subjects: int) -> Iterator[tuple[bytes, bool, list[bytes]]]:
        """Make patterns, each with whether it is caseless and with subjects."""
        for _ in range(count):
            pattern = self.pattern().encode()
            caseless = self.random.random() < 0.3
            yield pattern, caseless, [self.subject() for _ in range(subjects)]

    def subject(self) -> bytes:
        """Make a short subject of what patterns speak of, or of any bytes."""
        if self.random.random() < 0.15:
            return self.random.randbytes(self.random.randrange(6))
        return b"".join(self.random.choices(_PIECES, k=self.random.randrange(9)))

    def pattern(self) -> str:
        """Make a pattern: most are good, some have one thing wrong in them."""
        text = self._choice(self.random.randrange(1, 9))
        if self.random.random() < 0.05:
            text = self.random.choice(_STARTS) + text
        if self.random.random() < 0.3:
            text = self._spoiled(text)
        return text

    def large(self) -> str:
        """Make a pattern that counts far."""
        pick = self.random.choice
        text = pick(
            ("a", "ab", "a|b", "[ab]", r"\d", "a?", "(a)", "a*", r"\p{L}", "(?:a|bc)", "(?=a)")
        )
        for _ in range(self.random.randrange(1, 4)):
            group = pick(("(", "(?:", "(?:", "(?>", "(?="))
            text = f"{group}{text}){pick(_LARGE)}{pick(_MODES)}"
            if self.random.random() < 0.2:
                text += pick((r"\d", "[^a]", "x", "abc")) + pick(_LARGE)
        return text

    def _spoiled(self, text: str) -> str:
        at = self.random.randrange(len(text) + 1)
        kind = self.random.random()
        if kind < 0.5:
            return text[:at] + self.random.choice(_WRONG) + text[at:]
        if kind < 0.75:
            return text[:at] + text[at + 1 :]
        if kind < 0.85:
            return text[:at] + self.random.choice(_OTHERS) + text[at:]
        return text[:at]

    def _choice(self, leaves: int) -> str:
        if leaves > 1 and self.random.random() < 0.2:
            cut = self.random.randrange(1, leaves)
            return f"{self._choice(cut)}|{self._sequence(leaves - cut)}"
        return self._sequence(leaves)

    def _sequence(self, leaves: int) -> str:
        text = ""
        while leaves > 0:
            some = self.random.randrange(1, leaves + 1)
            text += self._item(some)
            leaves -= some
        return text

    def _item(self, leaves: int) -> str:
        random_ = self.random
        pick = random_.choice
        if leaves > 1:
            kind = random_.random()
            inside = self._choice(leaves - 1)
            if kind < 0.55:
                return f"{pick(_GROUPS)}{inside}){self._count(0.5)}"
            if kind < 0.7:
                return f"{pick(_NAMED)}{inside}){self._count(0.3)}"
            if kind < 0.9:
                return f"{pick(_LOOKS)}{inside}){self._count(0.15)}"
            return f"{pick(_CONDITIONS)}{inside}){self._count(0.2)}"
        kind = random_.random()
        if kind < 0.42:
            return pick(_CHARACTERS) + self._count(0.3)
        if kind < 0.6:
            return pick(_TYPES) + self._count(0.3)
        if kind < 0.75:
            return self._class() + self._count(0.3)
        if kind < 0.83:
            return pick(_PLACES)
        if kind < 0.9:
            return pick(_REFERENCES) + self._count(0.2)
        if kind < 0.93:
            return pick(_CALLS) + self._count(0.2)
        return pick(_SETTINGS)

    def _class(self) -> str:
        members = "".join(self.random.choices(_CLASSES, k=self.random.randrange(1, 4)))
        return f"[{self.random.choice(('', '', '^'))}{members}]"

    def _count(self, share: float) -> str:
        if self.random.random() >= share:
            return ""
        return self.random.choice(_QUANTIFIERS) + self.random.choice(_MODES)
