"""Makes configuration texts of nginx's grammar and against it, the same ones for every seed.

They are for comparing readers: of two Pythons, or ours with nginx.
"""

import random
from collections.abc import Iterator

_WORDS = (
    b"a", b"b1", b"listen", b"10.0.0.1:80", b"weight=5", b"$host", b"$", b"$$", b"~^\\d+$", b"a}b",
    b"a#b", b"a'b", b'a"b', b"(a|b)", b")", b"*.test", b"include", b"\xc3\xa9", b"\xff", b"a\xa0b",
    b"a\x0bb", b"a\x0cb", b"\x1c", b"\x85", b"\xe2\x80\xa8", b"\x01", b"\x012", b"\x7f",
    b"\\\\", b"\\", b"\\n", b"\\ ", b"\\;", b"\\{", b"\\}", b"\\#", b'\\"', b"\\'", b"\\$", b"\\\n",
    b"\\\r", b"\\t\\r\\n\\x", b"-", b"=", b",", b"@", b"http", b"geo", b"x_by_lua_block",
)  # fmt: skip
_VARIABLES = (
    b"${a}", b"${a}b", b"x${a}", b"x${a}y${b}z", b"${a}-${b}", b"${", b"${a", b"$${a}", b"${{",
    b"$}", b"${}", b"${a};", b"${a}\\;", b"a${b}c${", b"$a{", b"$a${b}", b"\\${a}", b"${a}\\",
    b"${\\{",
)  # fmt: skip
_INSIDE = (
    b"a", b" ", b"\n", b"\t", b"\r\n", b";", b"{", b"}", b"#", b"$a", b"${a}", b"${", b"\\\\",
    b"\\n", b"\\x", b"\xff", b"\xc3\xa9", b"\x85", b"\x0b", b"'", b'"', b"\\'", b'\\"', b"\\\n",
)  # fmt: skip
_BLANKS = (b" ", b" ", b" ", b"\t", b"  ", b"\n", b"\n  ", b"\r\n", b"\r", b" # c\n", b"\n#'{\n")
_ENDS = (b";", b";", b";", b";\n", b" ;\n", b"; ", b"\n;\n", b"")
_LUA = (
    b"a", b" ", b"\n", b"{", b"}", b"{}", b"'}'", b'"{"', b"'", b'"', b"\\", b"--", b"-- }\n",
    b"[[", b"]]", b"[==[ ]] } ]==]", b"--[[ } ]]", b"--[=[", b"]=]", b"[", b"=", b"'\\'}'",
)  # fmt: skip
_LONG = (4000, 4090, 4092, 4093, 4094, 4095, 4096, 4097, 4098, 5000, 8191, 8192, 8193)


class Texts:
    """Texts from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def some(self, count: int, *, lua: bool = True) -> Iterator[bytes]:
        """Make texts, most of them short."""
        for _ in range(count):
            size = 40 if self.chance(0.02) else self.random.randrange(1, 7)
            pieces = [self.piece(lua=lua) for _ in range(size)]
            if self.chance(0.06):
                pieces.insert(self.random.randrange(size), self.lines())
            if self.chance(0.06):
                pieces.insert(self.random.randrange(size), self.long())
            yield b"".join(pieces)

    def chance(self, share: float) -> bool:
        """Be true in a share of all cases."""
        return self.random.random() < share

    def word(self) -> bytes:
        """Make a word, mostly one that nginx takes."""
        random_ = self.random
        kind = random_.random()
        if kind < 0.5:
            return random_.choice(_WORDS)
        if kind < 0.7:
            return random_.choice(_VARIABLES)
        if kind < 0.8:
            return b"".join(random_.choices(_WORDS + _VARIABLES, k=random_.randrange(2, 4)))
        quote = random_.choice((b'"', b"'"))
        return quote + b"".join(random_.choices(_INSIDE, k=random_.randrange(6))) + quote

    def piece(self, *, lua: bool) -> bytes:
        """Make a statement, what opens or closes a block, or a morsel of any of them."""
        random_ = self.random
        kind = random_.random()
        words = b"".join(
            self.word() + random_.choice(_BLANKS) for _ in range(random_.randrange(1, 5)))
        if kind < 0.6:
            return words + random_.choice(_ENDS)
        if kind < 0.7:
            return words + b"{"
        if kind < 0.8:
            return random_.choice((b"}", b"}\n", b" }"))
        if kind < 0.85 and lua:
            code = b"".join(random_.choices(_LUA, k=random_.randrange(8)))
            return b"x_by_lua_block " + random_.choice((b"", b"$a ", b"'b' ")) + b"{" + code + b"}"
        return random_.choice((*_INSIDE, b"a;", b"a b;\n", b"a", b")", b"\x00", b"", b"# c"))

    def lines(self) -> bytes:
        """Make as many plain lines as a long list has, or nearly, and an odd one perhaps."""
        random_ = self.random
        count = random_.choice((1, 62, 63, 64, 65, 70, 130))
        line = random_.choice((
            b"a b;", b" 10.0.0.0/8\tv ;", b"h.test 1;", b"a b c d e f;", b"s a=b $c;", b"a;"))
        end = random_.choice((b"\n", b"\n", b"\n\n", b" \n", b"\r\n"))
        lines = [line + end] * count
        if self.chance(0.5):
            odd = random_.choice((
                b"a;;", b"a;b;", b"a", b"", b";", b"}", b"include x;", b"# c", b"a; # c",
                b"a 'b';", b"a ${b};", b"a b\n c;", b"\\n;", b"a\\;;", b"\xff a;",
                b"a\x0bb;", b"a {", b"a\r;"))
            lines.insert(random_.randrange(count + 1), odd + b"\n")
        return random_.choice((b"", b"\n", b"\n", b" ")) + b"".join(lines)

    def long(self) -> bytes:
        """Make a word, string or comment about as long as nginx's buffer."""
        random_ = self.random
        form = random_.choice((
            b"%b;", b"%b ;", b"'%b';", b"'%b' ;", b'"%b"\n;', b"#%b\n", b"'%b')", b"a %b", b"'%b",
            b"\\;%b {", b"${%b} ;", b"'\\\\%b' x;", b'a "\\n%b";', b"a $%b;", b"a %b{"))
        return form % (random_.choice((b"x", b"x", b"\xff")) * random_.choice(_LONG))
