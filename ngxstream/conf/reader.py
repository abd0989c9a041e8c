"""Configuration text to a tree of statements, with nginx's message at the first syntax error
(ngx_conf_file.c ngx_conf_parse, ngx_conf_include).

One pass over the tokens of `crossplane.lex` builds the tree; conf/spelling.py has made sure that
those are nginx's tokens. Its rules:

1. A statement is one word or more, then `;` or a block; the line it is reported at is that of its
   `;` or `{`.
2. The reader knows no directive but `include`, and opens no file inside the `http` and `mail`
   blocks, which others serve.
3. The first fault ends the reading of its file; it stays in the tree as a Fault, last in its block.
   nginx applies directives while it reads, so an unknown directive further up wins over a syntax
   error further down: whoever walks the tree raises a Fault on reaching it.
4. A file is read once and its statements shared; they are checked wherever it is included.
5. No more than MOST_NESTED files include each other. Python's stack ends soon behind that, and
   crossplane takes its end for that of a file.
"""

import os
from collections.abc import Generator, Iterator
from typing import Final

import crossplane
import crossplane.errors

from ngxstream.conf import files as conf_files
from ngxstream.conf import spelling
from ngxstream.core import errors

_OTHERS_BLOCKS: Final = ("http", "mail")
MOST_NESTED: Final = 100  # files in each other, below the main one
_PUNCTUATION: Final = frozenset("{};")


class Statement:
    """One directive as written. Never changed after reading: trees are shared between contexts."""

    __slots__ = (
        "directive",   # str: first word, unescaped
        "args",        # list[str]: the other words, unescaped
        "quoted",      # list[bool]: len(args) + 1, the directive word first
        "block",       # list[Statement] | None: what stands between { and }
        "file",        # str: path as nginx prints it; "command line" for -g
        "line",        # int: line nginx reports, of the closing ; or {; 0 for -g
        "start_line",  # int: line of the first word
        "end_line",    # int: line of the closing }, of the ; without a block
        "includes",    # list[ConfFile] | None: what an include pulled in, in order
    )

    error: errors.ConfError | None = None  # a Fault has one

    def __init__(self, directive: str, args: list[str], quoted: list[bool], file: str,
                 line: int, start_line: int) -> None:
        self.directive = directive
        self.args = args
        self.quoted = quoted
        self.block: list[Statement] | None = None
        self.file = file
        self.line = line
        self.start_line = start_line
        self.end_line = line
        self.includes: list[ConfFile] | None = None

    def __repr__(self) -> str:
        words = " ".join([self.directive, *self.args])
        return f"<{type(self).__name__} {words!r} {self.file}:{self.line}>"


class Fault(Statement):
    """The place where reading had to stop: last in its block, to be raised when reached."""

    __slots__ = ("error",)

    def __init__(self, error: errors.ConfError) -> None:
        line = error.line or 0
        super().__init__("", [], [False], error.file or "", line, line)
        self.error: errors.ConfError = error


class ConfFile:
    """One configuration file."""

    __slots__ = (
        "path",        # str: as nginx prints it
        "raw",         # bytes: its contents
        "statements",  # list[Statement]: its top level
    )

    def __init__(self, path: str, raw: bytes, statements: list[Statement]) -> None:
        self.path = path
        self.raw = raw
        self.statements = statements


class Source:
    """A configuration as read: the file it begins with, and all files in the order of opening."""

    __slots__ = (
        "files",  # list[ConfFile]: each once; for -g, without the text itself
        "main",   # ConfFile
    )

    def __init__(self, main: ConfFile, files: list[ConfFile]) -> None:
        self.main = main
        self.files = files


def read(path: str, *, conf_prefix: str, files: conf_files.Files | None = None) -> Source:
    """Read a configuration file and all that it includes.

    Args: path: a full path; conf_prefix: what relative paths of includes begin with; it
    ends with a slash; files: where they are read from, the file system unless told otherwise
    (files.Memory for a set of files in memory). Faults are in the tree, not raised.
    Raises: ConfError, without location, when the main file cannot be read.
    Source: ngx_conf_file.c ngx_conf_parse
    """
    reading = _Reading(conf_prefix, files or conf_files.Disk())
    return Source(reading.file(path, literal=False), list(reading.opened.values()))


def read_text(text: str, *, conf_prefix: str = "", files: conf_files.Files | None = None) -> Source:
    """Read the parameter of -g; faults and statements are `in command line`, without line.

    Source: ngx_conf_file.c ngx_conf_param
    """
    reading = _Reading(conf_prefix, files or conf_files.Disk())
    raw = text.encode("utf-8", "surrogateescape")
    main = ConfFile(errors.COMMAND_LINE, raw, [])
    _Parse(reading, main, literal=False).run(raw)
    return Source(main, list(reading.opened.values()))


def fault_in(statements: list[Statement]) -> errors.ConfError | None:
    """Return the Fault at the end of a block that is skipped (http, mail), if any."""
    while statements:
        last = statements[-1]
        if last.error is not None:
            return last.error
        if last.block is None:
            return None
        statements = last.block
    return None


class _Reading:
    """One configuration being read: what is open, what was opened, where includes start from."""

    __slots__ = ("files", "opened", "path", "prefix", "read")

    def __init__(self, prefix: str, files: conf_files.Files) -> None:
        self.prefix = prefix
        self.files = files
        self.opened: dict[str, ConfFile] = {}  # for -T: each path once, in the order of opening
        self.read: dict[tuple[str, bool], ConfFile] = {}
        self.path: list[str] = []              # the files now being read, main file first

    def file(self, path: str, literal: bool) -> ConfFile:
        """Read one file. Args: literal: includes in it are names, not patterns (geo)"""
        known = self.read.get((path, literal))
        if known is not None:
            return known
        opened = self.opened.get(path)
        if opened is None:
            opened = ConfFile(path, self._bytes(path), [])
            self.opened[path] = opened
            found = opened
        else:
            found = ConfFile(path, opened.raw, [])
        self.path.append(path)
        _Parse(self, found, literal).run(found.raw)
        self.path.pop()
        self.read[path, literal] = found
        return found

    def _bytes(self, path: str) -> bytes:
        try:
            return self.files.read(path)
        except conf_files.ReadFileError as e:
            error = errors.UnplacedError(f'pread() "{path}" failed', errno=e)
            error.level = "crit"
            raise error from None
        except OSError as e:
            raise errors.ConfError(f'open() "{path}" failed', errno=e) from None

    def include(self, st: Statement, literal: bool) -> errors.ConfError | None:
        """Open what an include names; return what went wrong. Source: ngx_conf_include"""
        st.includes = []
        name = st.args[0].partition("\0")[0]  # open() and glob() see no more
        path = name if name.startswith("/") else self.prefix + name
        if literal or conf_files.MAGIC.isdisjoint(path):
            paths = [path]
        else:
            paths = conf_files.glob(self.files, path)
        for path in paths:
            if path in self.path:
                chain = " -> ".join([*self.path[self.path.index(path):], path])
                return errors.ConfError(f'"{path}" includes itself ({chain})', st.file, st.line)
            if len(self.path) > MOST_NESTED:
                text = f'"{path}" is included too deep, behind {MOST_NESTED} files'
                return errors.ConfError(text, st.file, st.line)
            try:
                st.includes.append(self.file(path, literal))
            except errors.ConfError as e:
                return e.at(st.file, st.line)
        return None


class _Parse:
    """The pass over the tokens of one file."""

    __slots__ = ("file", "items", "literal", "on_command_line", "others", "reading", "stack", "top")

    def __init__(self, reading: _Reading, file: ConfFile, literal: bool) -> None:
        self.reading = reading
        self.file = file.path
        self.top = file.statements
        self.literal = literal
        self.on_command_line = file.path == errors.COMMAND_LINE
        self.stack: list[Statement] = []  # the blocks now open, outermost first
        self.others = 0                   # how many of them are inside http or mail

    def run(self, raw: bytes) -> None:
        """Read the whole file."""
        text, self.items = spelling.spell(raw, parameter=self.on_command_line)
        lexed = _lex(text)
        try:
            self._run(lexed)
        except crossplane.errors.NgxParserSyntaxError as e:
            # the one thing that crossplane is left to find: a } where no block is open
            self._fault('unexpected "}"', e.lineno)
        finally:
            lexed.close()

    def _run(self, lexed: Iterator[tuple[str, int, bool]]) -> None:
        """Make statements of crossplane's tokens."""
        block = self.top
        words: list[str] = []
        quoted: list[bool] = []
        start = 0
        for token, line, is_quoted in lexed:
            if is_quoted or token not in _PUNCTUATION:
                if not words:
                    start = line
                if not token.startswith(spelling.MARK):
                    words.append(token)
                    quoted.append(is_quoted)
                    continue
                item = self.items[int(token[1:])]
                if isinstance(item, spelling.Word):
                    words.append(item.text)
                    quoted.append(item.quoted)
                elif isinstance(item, spelling.List):
                    self._list(block, *item)
                else:
                    self._end(item)
                    return
            elif token == "}":
                block = self._close(line)
            elif words:
                lines = (0, 0) if self.on_command_line else (line, start)
                st = Statement(words[0], words[1:], quoted, self.file, *lines)
                words = []
                quoted = []
                if not self._add(st, block, token == "{"):
                    return
                if st.block is not None:
                    block = st.block
            # else it is the ; behind a list

    def _add(self, st: Statement, block: list[Statement], opens: bool) -> bool:
        """Add a statement to the block it stands in; return whether to read on."""
        if opens:
            if self.on_command_line:
                self._fault("block directives are not supported in -g option", 0)
                return False
            block.append(st)
            st.block = []
            self.stack.append(st)
            self.others += st.directive in _OTHERS_BLOCKS
            return True
        block.append(st)
        if st.directive == "include" and len(st.args) == 1 and not self.others:
            error = self.reading.include(st, self._is_literal())
            if error is not None:
                block.append(Fault(error))
                return False
        return True

    def _is_literal(self) -> bool:
        """Whether includes here are names, as in a geo block. Source: ngx_stream_geo_include"""
        return self.stack[-1].directive == "geo" if self.stack else self.literal

    def _block(self) -> list[Statement]:
        block = self.stack[-1].block if self.stack else self.top
        return self.top if block is None else block

    def _close(self, line: int) -> list[Statement]:
        """Close the innermost block; crossplane has seen to it that there is one."""
        st = self.stack.pop()
        st.end_line = line
        self.others -= st.directive in _OTHERS_BLOCKS
        return self._block()

    def _list(self, block: list[Statement], line: int, lines: list[list[str]]) -> None:
        """Add the statements of a long list, one to a line."""
        file = self.file
        unquoted: dict[int, list[bool]] = {}
        for words in lines:
            if words:
                count = len(words)
                flags = unquoted.get(count)
                if flags is None:
                    flags = unquoted[count] = [False] * count
                block.append(Statement(words.pop(0), words, flags, file, line, line))
            line += 1

    def _end(self, end: spelling.End) -> None:
        if end.fault is not None:
            self._fault(end.fault, end.line)
        elif self.stack:
            self._fault('unexpected end of file, expecting "}"', end.line)

    def _fault(self, message: str, line: int) -> None:
        error = errors.ConfError(message, self.file, None if self.on_command_line else line)
        self._block().append(Fault(error))


def _lex(text: bytes) -> Generator[tuple[str, int, bool], None, None]:
    """Return crossplane's tokens of a text: the token, the line it begins in, whether quoted.

    crossplane opens what it lexes by itself, and takes whatever open() takes; a descriptor of
    anonymous memory needs no file on the disk.
    """
    fd = os.memfd_create("configuration", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(text)
    os.lseek(fd, 0, os.SEEK_SET)
    yield from crossplane.lex(fd)
