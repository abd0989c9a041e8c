"""A configuration text spelled so that crossplane's lexer reads in it what nginx reads.

crossplane's lexer follows Python's idea of white space, cuts words at `}`, opens blocks inside
words, keeps two words of `"a"b`, has lexers of its own behind some names and loses the last word
of a file that ends without a newline. None of that can be told from its tokens. So the words come
from conf/tokens.py, by nginx's grammar, and are written again:

1. Plain words and plainly quoted ones, which are most of any file, are written as they are.
2. For everything else stands a reference, MARK and a number; `items` has what it stands for: a
   word, the code of a Lua block (conf/lua.py), or the lines of a long list, which crossplane's
   lexer, looking at each character from Python, would take a second per 100 000 for.
3. A reference is the last token too: its Fault is what nginx says of the text's end, if anything.
4. Blanks become one blank, comments nothing, and newlines stay, so lines are those of the file.
"""

import re
from typing import Final, NamedTuple

from ngxstream.conf import lua, tokens

MARK: Final = "\x01"  # a word with control characters is no plain one

_PLAIN: Final = re.compile(rb"[!#-&(-:<-\[\]-z|~]+")
_PLAIN_QUOTED: Final = re.compile(rb"[ !#-&(-\[\]-~]*")
_LUA: Final = b"_by_lua_block"


class Word(NamedTuple):
    """A word as nginx has it."""

    text: str
    quoted: bool


class List(NamedTuple):
    """Lines of one statement each, without blocks, or of none."""

    line: int  # of the first
    lines: list[list[str]]


class End(NamedTuple):
    """The end of the text, its line, and nginx's message there, None for none."""

    fault: str | None
    line: int


class Spelled(NamedTuple):
    """A text for crossplane's lexer and what its references stand for."""

    text: bytes
    items: list[Word | List | End]


def spell(raw: bytes, *, parameter: bool = False) -> Spelled:
    """Spell a configuration text, or the parameter of -g, for crossplane."""
    spelling = _Spelling(tokens.Tokens(raw, parameter=parameter))
    try:
        while spelling.statement():
            pass
    except tokens.FaultError as fault:
        spelling.refer(End(fault.message, fault.line))
    else:
        spelling.refer(End(None, spelling.tokens.line))
    return Spelled(b"".join([*spelling.parts, b"\n"]), spelling.items)


class _Spelling:
    """A text being spelled."""

    __slots__ = ("items", "line", "lua", "parts", "tokens")

    def __init__(self, text: tokens.Tokens) -> None:
        self.tokens = text
        self.lua = not text.parameter  # whether to look for Lua blocks
        self.parts: list[bytes] = []
        self.items: list[Word | List | End] = []
        self.line = 1  # that of the end of parts

    def statement(self) -> bool:
        """Spell one statement, or a list of them; return False at the end of the text.

        Raises: tokens.FaultError: what stands there is no statement.
        """
        text = self.tokens
        line = text.line
        lines = text.take_lines()
        if lines:
            self.go_to(line)
            self.refer(List(line, lines))
            self.parts.append(b";")
        end = text.read()
        self.words()
        self.go_to(text.line)
        if end == b"{" and self.lua and text.words[0].raw.endswith(_LUA):
            end = self.code()
        self.parts.append(b" {" if end == b"{" else end)  # to crossplane, `$` and `{` are one word
        return bool(end)

    def words(self) -> None:
        """Spell the words of the statement."""
        parts = self.parts
        for raw, line, quoted in self.tokens.words:
            if line > self.line:
                self.go_to(line)
            if _LUA in raw:
                self.refer(Word(tokens.unescaped(raw), quoted))
            elif not quoted and _PLAIN.fullmatch(raw):
                parts += (b" ", raw)
            elif quoted and _PLAIN_QUOTED.fullmatch(raw):
                parts += (b' "', raw, b'"')
            else:
                self.refer(Word(tokens.unescaped(raw), quoted))

    def code(self) -> bytes:
        """Spell the code of a Lua block as one more word; return what ends the statement."""
        text = self.tokens
        end = lua.end_of_block(text.text, text.pos)
        if end < 0:
            self.lua = False  # the braces of this file are wrong; one look to its end is enough
            return b"{"
        self.refer(Word(tokens.text_of(text.take_to(end)), False))
        text.take_to(end + 1)
        return b";"

    def refer(self, item: Word | List | End) -> None:
        """Write a reference to an item."""
        self.parts.append(b" %b%d" % (MARK.encode(), len(self.items)))
        self.items.append(item)

    def go_to(self, line: int) -> None:
        """Write newlines up to a line."""
        self.parts.append(b"\n" * (line - self.line))
        self.line = line
