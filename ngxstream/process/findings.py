"""What a test of a configuration has found: for people a hint behind an error, for programs JSON.

`-t --format=json` writes one object to standard output, whatever it finds; its schema is
conf/editors/findings.schema.json. `version` is raised when something in it changes its meaning.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any, Final

import ngxstream
from ngxstream.conf import hints
from ngxstream.core import errors, escape, log
from ngxstream.process import cycle, elsewhere
from ngxstream.process import options as opts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ngxstream.process.options import Options

VERSION: Final = 1
_SAID: Final = re.compile(r"\[(\w+)\] (.*)", re.DOTALL)
_PLACED: Final = re.compile(r"(.*) in (.+?):(\d+)", re.DOTALL)


def advise(error: errors.NgxError, options: Options) -> str:
    """Return what there is to say of an error besides nginx's words, "" for nothing."""
    if options.program != opts.OURS or not isinstance(error, errors.ConfError):
        return ""  # who calls us nginx hears what nginx says
    if error.file is None:  # of what was found behind the file: of names alone it may be looked for
        is_name = error.message.endswith(" variable")
        lines = _lines(options.conf_file, 1, hints.MOST_FILE) if is_name else []
    else:
        lines = _lines(error.file, error.start_line or error.line or 0, error.line or 0)
    text = "\n".join(lines)
    return hints.Hints(cycle.MODULES, elsewhere.NAMES).of(error, text)


def _lines(file: str | None, first: int, last: int) -> list[str]:
    """Return some lines of a file, [] where it cannot be read (any more)."""
    if not file or file == errors.COMMAND_LINE or first < 1:
        return []
    try:
        with open(file, encoding="utf-8", errors="surrogateescape") as opened:
            text = opened.read(hints.MOST_FILE)
    except OSError:
        return []
    return text.split("\n")[first - 1:max(first, last)]


def _place(lines: list[str], first: int, message: str, words: Iterable[str]) -> tuple[int, int]:
    """Return line and column of the word that a message is about, both from 1.

    Args: first: the line that the first of `lines` is; words: of the statement, if they are known
    """
    quoted = re.findall(r'"([^"]+)"', message)
    known = list(words)
    sought = [word for word in known[1:] if word in quoted] or quoted or known[:1]
    sought = sought or re.findall(r"[^\s,;]*[\d/$=][^\s,;]*", message)
    for word in (*sought, *known[:1]):
        for at, line in enumerate(lines):
            found = re.search(rf"(?<![\w.-]){re.escape(word)}(?![\w-])", line)
            if found is not None:
                return first + at, found.start() + 1
    text = lines[-1] if lines else ""
    return first + max(0, len(lines) - 1), len(text) - len(text.lstrip()) + 1


class Collector(log.Console):
    """A console that keeps what was found, for one object of JSON at the end."""

    __slots__ = ("found",)

    takes_all = True

    def __init__(self, program: str) -> None:
        super().__init__(program)
        self.found: list[dict[str, Any]] = []

    def say_bytes(self, text: bytes) -> None:
        """Keep a message that has a level; what else is said is for people."""
        said = _SAID.fullmatch(text.decode("utf-8", "surrogateescape"))
        if said is None:
            return
        message, file, number = said[2], None, 0
        placed = _PLACED.fullmatch(message)
        if placed is not None and os.path.exists(placed[2]):
            message, file, number = placed[1], placed[2], int(placed[3])
        elif message.endswith(f" in {errors.COMMAND_LINE}"):
            message = message.removesuffix(f" in {errors.COMMAND_LINE}")
            file = errors.COMMAND_LINE
        self._add(said[1], message, file, number, number, (), "")

    def blame(self, error: errors.NgxError, hint: str) -> None:
        """Say more of the last message: it was this error."""
        if not self.found:
            return
        last = self.found[-1]
        if isinstance(error, errors.ConfError) and error.line:
            self.found.pop()
            self._add(last["severity"], last["text"], last["file"], error.start_line or error.line,
                      error.line, error.words, hint)
        else:  # its place, if it has one, is part of its words
            last["hint"] = hint or None

    def _add(self, severity: str, text: str, file: str | None, first: int, last: int,
             words: Iterable[str], hint: str) -> None:
        line: int | None = None
        column: int | None = None
        if file is not None and last:
            line, column = _place(_lines(file, first, last), first, text, words)
        self.found.append({
            "file": file, "line": line, "column": column, "severity": severity,
            "text": escape.shown(text), "hint": hint or None,
        })

    def json(self, options: Options, *, passed: bool) -> bytes:
        """Return the object, with a line feed."""
        made = {
            "version": VERSION, "program": f"{opts.OURS}/{ngxstream.VERSION}",
            "file": options.conf_file, "ok": passed, "findings": self.found,
        }
        return (json.dumps(made, indent=1, ensure_ascii=True) + "\n").encode("ascii")
