"""Configuration text to a tree of statements, and nginx's complaint where the text stops making
sense (ngx_conf_file.c).
"""

from collections.abc import Mapping
from ngxstream.core import errors


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
    """The place where reading had to stop: last in its block, to be raised when reached.

    nginx judges while it reads, so an unknown directive further up wins over a syntax error
    further down. The reader reads everything first; leaving the error in the tree keeps nginx's
    order.
    """

    __slots__ = ("error",)

    def __init__(self, error: errors.ConfError) -> None:
        line = error.line or 0
        super().__init__("", [], [False], error.file or "", line, line)
        self.error: errors.ConfError = error


class ConfFile:
    """One configuration file: its path, its bytes and its top-level statements."""

    __slots__ = ("path", "raw", "statements")

    def __init__(self, path: str, raw: bytes, statements: list[Statement]) -> None:
        self.path = path
        self.raw = raw
        self.statements = statements


class Source:
    """What read() returns: the main file, and every file in the order it was first opened."""

    __slots__ = ("files", "main")

    def __init__(self, main: ConfFile, files: list[ConfFile]) -> None:
        self.main = main
        self.files = files


def read(path: str, *, conf_prefix: str, files: Mapping[str, bytes] | None = None) -> Source:
    """Read a configuration and everything it includes.

    shape: path is the full path of the main file; conf_prefix the directory relative includes
    start from; files, when given, is read instead of the file system (path to bytes).
    raises: ConfError without location when the main file cannot be opened.
    """
    raise NotImplementedError


def read_text(text: str, name: str = errors.COMMAND_LINE) -> list[Statement]:
    """Read the parameter of -g. source: ngx_conf_file.c ngx_conf_param"""
    raise NotImplementedError
