"""nginx's grammar of a configuration text: bytes cut into words, one statement at a time
(ngx_conf_file.c ngx_conf_read_token).

1. Words stand between blanks: space, tab, CR and LF. `;` and `{` end a word and its statement.
2. `}`, `#` and the quotes have a meaning only where a word may begin; inside one they are bytes
   like others. `}` is then a statement of its own, and `#` opens a comment up to the end of line.
3. A backslash takes the next byte with it, whatever that is. So does `$` with all `{` behind it.
4. A quoted word ends at its quote, behind which a blank, `;`, `{` or `)` has to stand; `)` begins
   the next word.
5. Neither a word nor a comment may fill nginx's buffer while more of the file is to be read.

The regular expressions here are runs of one class of bytes. None can fail, none goes back, and
there is nothing in them that the versions of Python's re have ever read in different ways.
"""

import re
from typing import Final, NamedTuple

BUFFER: Final = 4096  # NGX_CONF_BUFFER
MIN_LINES: Final = 64  # fewer plain lines are not worth looking ahead for

_BLANK: Final = frozenset((b" ", b"\t", b"\r", b"\n"))
_ENDS: Final = frozenset((b";", b"{", b"}"))
_BLANKS: Final = re.compile(rb"[ \t\r\n]*")
_WORD: Final = re.compile(rb"[^ \t\r\n;{\\$]*")
_BRACES: Final = re.compile(rb"\{*")
_COMMENT: Final = re.compile(rb"[^\n]*")
_STRINGS: Final = {b'"': re.compile(rb'[^"\\]*'), b"'": re.compile(rb"[^'\\]*")}

# What lists are made of: blanks, `;` and printable characters that never mean anything.
_PLAIN: Final = re.compile(rb"[!$%&(-\[\]-z|~ \t\r\n]*")

_ESCAPE: Final = re.compile(rb"\\([\"'\\trn])")
_ESCAPED: Final = {b'"': b'"', b"'": b"'", b"\\": b"\\", b"t": b"\t", b"r": b"\r", b"n": b"\n"}


class FaultError(Exception):
    """What nginx says of the place where a text stops to make sense, and its line."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


class Word(NamedTuple):
    """One word as written, without its quotes."""

    raw: bytes
    line: int  # of its first byte, the quote if it has one
    quoted: bool


def text_of(raw: bytes) -> str:
    """Return bytes as the str that names, messages and values of the configuration are made of."""
    return raw.decode("utf-8", "surrogateescape")


def unescaped(raw: bytes) -> str:
    """Return what nginx makes of a word as written.

    Source: ngx_conf_file.c ngx_conf_read_token (the copy loop)
    """
    if b"\\" in raw:
        raw = _ESCAPE.sub(lambda found: _ESCAPED[found[1]], raw)
    return text_of(raw)


class Tokens:
    """A text being read: the place reached, and the words of the statement read last."""

    __slots__ = (
        "line",          # int: line of pos
        "parameter",     # bool: the text is the parameter of -g, which nginx has in memory whole
        "pos",           # int: the first byte not read
        "text",          # bytes
        "words",         # list[Word]: of the statement that read() returned from
        "_looked",       # int: before this place it is not worth looking for plain lines
        "_plain",        # list[str]: lines of plain bytes, the last one cut off at _plain_end
        "_plain_at",     # int: where the line _plain_first begins, or what is left of it
        "_plain_end",    # int: no plain byte stands here
        "_plain_first",  # int
    )

    def __init__(self, text: bytes, *, parameter: bool = False) -> None:
        self.text = text
        self.parameter = parameter
        self.pos = 0
        self.line = 1
        self.words: list[Word] = []
        self._looked = 0
        self._plain: list[str] = []
        self._plain_at = self._plain_end = self._plain_first = 0

    def read(self) -> bytes:
        """Read one statement into words.

        Returns: What ended it: `;`, `{` or, without any words, `}`; nothing at the end of the text.
        Raises: FaultError: what stands there is no statement.
        """
        text = self.text
        words = self.words = []
        glued = False  # whether a quote was closed right here
        while True:
            start = self._skip_blanks()
            char = text[start:start + 1]
            if not char and not words:
                return char
            if char in _ENDS:
                if (not words) != (char == b"}"):
                    raise self._unexpected(char)
                self.pos = start + 1
                return char
            if not char:
                raise self._unfinished()
            if glued and char != b")":
                raise self._unexpected(char)
            glued = False
            if char == b"#":
                self._comment()
            elif char in _STRINGS:
                words.append(self._string(char))
                glued = not self._is_blank(self.pos)
            else:
                words.append(self._word())

    def take_lines(self) -> list[list[str]]:
        """Take the lines that stand here between statements, if each is one of plain words.

        Long lists are made of such lines, and go by the line instead of by the word. An include
        is left to be read by itself.

        Returns:
            The words of each, none for a blank line, if there are MIN_LINES or more; otherwise
            nothing, and nothing is taken.
        """
        if self.pos < self._looked or self.parameter:
            return []
        lines, first = self._plain_lines()
        taken = []
        for index in range(first, len(lines) - 1):  # the last one goes on with something else
            written = lines[index]
            words = written.split()
            if words:
                last = words[-1]
                if (last[-1] != ";" or len(written) >= BUFFER or written.count(";") > 1
                        or words[0] == "include"):
                    break
                words[-1] = last[:-1]
                if not words[-1]:
                    words.pop()
                    if not words:
                        break
            taken.append(words)
        end = self.pos + len(taken) + sum(map(len, lines[first:first + len(taken)]))
        if len(taken) < MIN_LINES:
            self._looked = end + len(lines[first + len(taken)])
            return []
        self.pos = end
        self.line += len(taken)
        return taken

    def _plain_lines(self) -> tuple[list[str], int]:
        """Return lines of plain bytes, and which of them begins here; the last one is cut off."""
        if self.pos >= self._plain_end:
            self._plain_at = self.pos
            self._plain_end = _end(_PLAIN, self.text, self.pos)
            self._plain = self.text[self.pos:self._plain_end].decode("ascii").split("\n")
            self._plain_first = 0
            return self._plain, 0
        lines, index, at = self._plain, self._plain_first, self._plain_at
        while at + len(lines[index]) < self.pos:
            at += len(lines[index]) + 1
            index += 1
        lines[index] = lines[index][self.pos - at:]
        self._plain_first, self._plain_at = index, self.pos
        return lines, index

    def take_to(self, pos: int) -> bytes:
        """Take the bytes up to a place further on, whatever they are."""
        taken = self.text[self.pos:pos]
        self.line += taken.count(b"\n")
        self.pos = pos
        return taken

    def _skip_blanks(self) -> int:
        """Go on to what is no blank and return its place."""
        start = self.pos
        end = self.pos = _end(_BLANKS, self.text, start)
        if end > start:
            self.line += self.text.count(b"\n", start, end)
        return end

    def _comment(self) -> None:
        start = self.pos
        self.pos = _end(_COMMENT, self.text, start)
        if self._fills_buffer(start, self.pos):  # a comment is a word to the buffer
            raise self._too_long(start, self.line)

    def _string(self, quote: bytes) -> Word:
        """Read a word from its opening quote up to behind its closing one."""
        text = self.text
        line = self.line
        run = _STRINGS[quote]
        start = self.pos + 1
        close = _end(run, text, start)
        while text[close:close + 1] == b"\\":
            close = _end(run, text, close + 2)
        close = min(close, len(text))
        if self._fills_buffer(start, close):
            raise FaultError("too long parameter, probably missing terminating "
                             f'"{quote.decode()}" character', line)
        raw = text[start:close]
        self.line += raw.count(b"\n")
        if close == len(text):
            raise self._unfinished()
        end = self.pos = close + 1
        # the buffer may be full at the closing quote, or at the blank behind it
        if self._fills_buffer(start, end + self._is_blank(end)):
            raise self._too_long(start, line)
        return Word(raw, line, True)

    def _word(self) -> Word:
        """Read a word without quotes up to what ends it."""
        text = self.text
        line = self.line
        start = self.pos
        end = _end(_WORD, text, start)
        while True:
            char = text[end:end + 1]
            if char == b"\\":
                end = _end(_WORD, text, end + 2)
            elif char == b"$":
                end = _end(_WORD, text, _end(_BRACES, text, end + 1))
            else:
                break
        end = min(end, len(text))
        if end - start >= BUFFER - 1 and self._fills_buffer(start, end + self._is_blank(end)):
            raise self._too_long(start, line)
        raw = text[start:end]
        self.pos = end
        if b"\n" in raw:  # behind a backslash
            self.line += raw.count(b"\n")
        return Word(raw, line, False)

    def _is_blank(self, pos: int) -> bool:
        return self.text[pos:pos + 1] in _BLANK

    def _fills_buffer(self, start: int, end: int) -> bool:
        """Whether what stands there fills nginx's buffer.

        nginx looks only when it has used the buffer up and there is more of the file to read.
        """
        return end - start >= BUFFER and len(self.text) > start + BUFFER and not self.parameter

    def _too_long(self, start: int, line: int) -> FaultError:
        shown = text_of(self.text[start:start + 10])
        return FaultError(f'too long parameter "{shown}..." started', line)

    def _unexpected(self, char: bytes) -> FaultError:
        return FaultError(f'unexpected "{text_of(char)}"', self.line)

    def _unfinished(self) -> FaultError:
        if self.parameter:
            return FaultError('unexpected end of parameter, expecting ";"', self.line)
        return FaultError('unexpected end of file, expecting ";" or "}"', self.line)


def _end(run: re.Pattern[bytes], text: bytes, pos: int) -> int:
    """Return where a run that begins at pos ends; runs may be empty."""
    found = run.match(text, pos)
    return pos if found is None else found.end()
