"""Text that nginx and crossplane would read differently, respelled so that both read it alike
(ngx_conf_file.c ngx_conf_read_token).

crossplane's lexer is the lexer of this project, but it follows Python's idea of white space, cuts
words at `}`, opens blocks inside words, keeps two words of `"a"b` and loses the last one of a file
without a final newline. None of that can be corrected from its tokens, for the difference is no
longer in them. So the text is changed before it is lexed, by nginx's rules:

1. Bytes are characters U+0000..U+00FF here (latin-1); nothing is lost, whatever the encoding.
2. A byte that nginx takes literally where crossplane would not becomes U+E000 + byte: `literal()`
   undoes it. A carriage return, white space in both, becomes U+0085, which universal newlines leave
   alone.
3. Newlines stay where they are or move behind the word that held them, so crossplane's line numbers
   are nginx's.
4. Comments go. What nginx refuses while it cuts words (a character glued to a closing quote, a
   parameter of 4096 bytes) ends the text: the END word is followed by nothing, and `fault` says
   what nginx would.

Most of a file needs nothing of this, and one possessive regular expression walks over it at the
speed of C; Python is only entered for comments, quotes and words with something odd inside.

Long lists are a case of their own. crossplane looks at each character from Python, which makes a
second per 100 000 lines of a geo block. So runs of at least MIN_RUN lines of the plainest kind
(words of letters, digits and `./:_-`, then `;`) are lifted out and leave a RUN word and their
newlines behind. If such a line turns out to be no statement of its own, because a quoted string or
an unfinished directive surrounds it, the RUN word stands where it must not, and the file is read
again without that shortcut. The code of Lua blocks (conf/lua.py) is lifted out likewise.
"""

import re
from typing import Final

from ngxstream.conf import lua

MIN_RUN: Final = 64
BUFFER: Final = 4096  # NGX_CONF_BUFFER: no parameter may fill it

END: Final = "\ue200"
RUN: Final = "\ue201"
LUA: Final = "\ue202"

_PRIVATE: Final = 0xE000
_NOT_OURS: Final = "\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0"  # str.isspace(), yet words to nginx
_BYTES: Final = {ord(c): _PRIVATE + ord(c) for c in _NOT_OURS} | {0x0D: 0x85}
_ODD_BYTES: Final = re.compile("[\r" + _NOT_OURS + "]")
_QUOTED: Final = {ord(c): _PRIVATE + ord(c) for c in "\\\"'"}
_BARE: Final = {ord(c): _PRIVATE + ord(c) for c in "\\\"'{};#$ \t\n"} | {0x85: _PRIVATE + 0x0D}
_LITERAL: Final = {_PRIVATE + n: n for n in range(256)} | {0x85: 0x0D}

_SPACES: Final = frozenset(" \t\n\x85")
_S: Final = r" \t\n\x85"
_PLAIN: Final = re.compile(
    rf"(?:[{_S};{{}}]++"
    rf"|(?:[^{_S};{{}}\\\"'#$]|\$(?!\{{))[^{_S};{{}}\\$]{{0,2000}}+"
    rf"(?:\$(?!\{{)[^{_S};{{}}\\$]{{0,60}}+){{0,8}}+(?=[{_S};{{]))*+"
)
_LIFTED: Final = re.compile(f"[{RUN}{LUA}]")
_COMMENT: Final = re.compile(r"#[^\n]*+")
_STRING: Final = {
    '"': re.compile(r'"((?:[^"\\]++|\\.)*+)"', re.DOTALL),
    "'": re.compile(r"'((?:[^'\\]++|\\.)*+)'", re.DOTALL),
}
_WORD: Final = re.compile(rf"(?:[^{_S};{{\\$]++|\\.|\$\{{*+|\\\Z)++", re.DOTALL)
_ODD_WORD: Final = re.compile(r"[\\{}]")

_RUN_LINE: Final = (
    r"[ \t]*+[A-Za-z0-9][\w./:-]{0,255}+"
    r"(?:[ \t]++[\w./:-]{1,255}+){0,3}+[ \t]*+;[ \t]*+\n"
)
_RUNS: Final = re.compile(rf"^(?:{_RUN_LINE}){{{MIN_RUN},}}+", re.MULTILINE | re.ASCII)

_ESCAPE: Final = re.compile(r"\\([\"'\\trn])")
_ESCAPED: Final = {'"': '"', "'": "'", "\\": "\\", "t": "\t", "r": "\r", "n": "\n"}


class MisplacedRunError(Exception):
    """What was lifted out was not what it seemed; the text must be read with lift=False."""


class Normal:
    """A configuration text that crossplane reads as nginx would."""

    __slots__ = (
        "end_line",  # int: line at the end of the text, or where fault was met
        "fault",     # str | None: what nginx says of the place where the text was cut short
        "lifted",    # list[str]: what RUN + N (lines) or LUA + N (the code of a block) stands for
        "text",      # str: ends with the word END
    )

    def __init__(self, text: str, fault: str | None, end_line: int, lifted: list[str]) -> None:
        self.text = text
        self.fault = fault
        self.end_line = end_line
        self.lifted = lifted


def words_of(raw: bytes) -> str:
    """Return bytes as the str that names, messages and values of the configuration are made of."""
    return raw.decode("utf-8", "surrogateescape")


def literal(token: str, *, escapes: bool = True) -> str:
    """Return the word nginx reads where crossplane reads token: respelling and escapes undone.

    source: ngx_conf_file.c ngx_conf_read_token (the copy loop)
    """
    word = token.translate(_LITERAL)
    if escapes and "\\" in word:
        word = _ESCAPE.sub(lambda m: _ESCAPED[m[1]], word)
    if word.isascii():
        return word
    return words_of(word.encode("latin-1"))


def normalize(raw: bytes, *, limit: bool = True, lift: bool = True) -> Normal:
    """Respell a configuration text for crossplane.

    shape: limit refuses parameters nginx's 4096-byte buffer cannot hold (it does not for -g);
    lift allows runs of plain lines, and Lua blocks, to be taken out.
    raises: MisplacedRunError, only with lift.
    """
    text = raw.decode("latin-1")
    if _ODD_BYTES.search(text):
        text = text.translate(_BYTES)
    lifted: list[str] = []
    if lift:
        if limit and "_by_lua_block" in text:
            text = lua.lift(text, LUA, lifted)
        text = _RUNS.sub(lambda m: _lift(m[0], lifted), text)
    # crossplane has a lexer of its own behind the names of these directives
    text = text.replace("_by_lua_block", chr(_PRIVATE + ord("_")) + "by_lua_block")
    return _Pass(text, limit, lifted).done()


def _lift(lines: str, lifted: list[str]) -> str:
    """Put lines into lifted and return what stands in their place."""
    if "include" in lines:
        return lines
    lifted.append(lines)
    return f"{RUN}{len(lifted) - 1};" + "\n" * lines.count("\n")


class _Pass:
    """One walk over a text, gathering its respelled pieces."""

    __slots__ = ("cut", "fault", "lifted", "limit", "parts", "text")

    def __init__(self, text: str, limit: bool, lifted: list[str]) -> None:
        self.text = text
        self.limit = limit
        self.lifted = lifted
        self.parts: list[str] = []
        self.fault: str | None = None
        self.cut = len(text)  # where the line of the end is counted

    def done(self) -> Normal:
        """Walk the text. raises: MisplacedRunError"""
        text = self.text
        size = len(text)
        plain = _PLAIN.match
        pos = 0
        while pos < size:
            m = plain(text, pos)
            if m is not None and m.end() > pos:
                self.parts.append(m[0])
                pos = m.end()
                if pos == size:
                    break
            c = text[pos]
            if c == "#":
                pos = self._comment(pos)
            elif c in _STRING:
                pos = self._string(pos, c)
            else:
                pos = self._word(pos)
        self.parts.append(f"\n{END}\n")
        line = text.count("\n", 0, self.cut) + 1
        return Normal("".join(self.parts), self.fault, line, self.lifted)

    def _refuse(self, fault: str, pos: int) -> int:
        """End the text, with what nginx says of the line pos is in."""
        self.fault = fault
        self.cut = pos
        return len(self.text)

    def _refuse_long(self, start: int) -> int:
        shown = _shown(self.text[start:start + 10])
        return self._refuse(f'too long parameter "{shown}..." started', start)

    def _fills_buffer(self, start: int, end: int) -> bool:
        """Whether nginx has no room for what stands between start and end.

        It looks only when it has used the buffer up and there is more of the file to read.
        """
        if end - start < BUFFER or not self.limit:
            return False
        if self.lifted:
            raise MisplacedRunError  # distances are not the file's while lines are out
        return len(self.text) > start + BUFFER

    def _comment(self, pos: int) -> int:
        m = _COMMENT.match(self.text, pos)
        end = m.end() if m is not None else pos
        if self.lifted and _LIFTED.search(self.text, pos, end):
            raise MisplacedRunError
        if self._fills_buffer(pos, end):  # a comment is a parameter to the buffer
            return self._refuse_long(pos)
        return end

    def _string(self, pos: int, quote: str) -> int:
        text = self.text
        start = pos + 1
        m = _STRING[quote].match(text, pos)
        close = len(text) if m is None else m.end(1)
        if self.lifted and _LIFTED.search(text, start, close):
            raise MisplacedRunError
        if self._fills_buffer(start, close):
            return self._refuse("too long parameter, probably missing terminating "
                                f'"{quote}" character', pos)
        if m is None:
            self.parts.append("x")  # any word: that the file ends is what is wrong
            return len(text)
        end = m.end()
        after = text[end:end + 1]
        # the buffer may be full at the closing quote, or at the white space behind it
        if self._fills_buffer(start, end + (after in _SPACES)):
            return self._refuse_long(start)
        body = m[1]
        self.parts.append(f"{quote}{body.translate(_QUOTED) if chr(92) in body else body}{quote}")
        if after in _SPACES or after in ";{)":  # or nothing, at the end of the file
            return end
        return self._refuse(f'unexpected "{_shown(after)}"', end)

    def _word(self, pos: int) -> int:
        text = self.text
        m = _WORD.match(text, pos)
        word = text[pos] if m is None else m[0]
        end = pos + len(word)
        if self.lifted and _LIFTED.search(word, 1):
            raise MisplacedRunError
        if self._fills_buffer(pos, end + (text[end:end + 1] in _SPACES)):
            return self._refuse_long(pos)
        if _ODD_WORD.search(word):
            self.parts.append(word.translate(_BARE) + "\n" * word.count("\n"))
        else:
            self.parts.append(word)
        return end


def _shown(text: str) -> str:
    """Return a piece of respelled text as a message shows it."""
    return words_of(text.translate(_LITERAL).encode("latin-1"))
