"""Where configuration files come from: the file system, or a set of files in memory; with glob(3)
over either (ngx_files.c).
"""

import os
import re
from collections.abc import Mapping
from typing import Final, Protocol

MAGIC: Final = frozenset("*?[")

_CLASSES: Final = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "blank": " \\t", "cntrl": "\\x00-\\x1f\\x7f",
    "digit": "0-9", "graph": "!-~", "lower": "a-z", "print": " -~",
    "punct": "!-/:-@\\[-`{-~", "space": " \\t-\\r", "upper": "A-Z", "xdigit": "0-9A-Fa-f",
}


class Files(Protocol):
    """Something files can be read from. Paths are full paths."""

    def read(self, path: str) -> bytes:
        """Return a file's bytes. Raises: ReadFileError, another OSError where opening fails."""

    def names(self, directory: str) -> list[str]:
        """Return the names in a directory, [] where there is none."""

    def exists(self, path: str) -> bool:
        """Whether there is anything at path."""


class ReadFileError(OSError):
    """The file could be opened but not read (a directory, mostly)."""


class Disk:
    """The file system. See Files for the contracts."""

    __slots__ = ()

    def read(self, path: str) -> bytes:
        """Raises: ReadFileError when reading fails, another OSError when opening does."""
        fd = os.open(path.encode("utf-8", "surrogateescape"), os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts = []
            while part := os.read(fd, 1 << 20):
                parts.append(part)
        except OSError as e:
            raise ReadFileError(e.errno, e.strerror) from e
        finally:
            os.close(fd)
        return b"".join(parts)

    def names(self, directory: str) -> list[str]:
        """Return the names in a directory, [] where there is none."""
        try:
            found = os.listdir(directory.encode("utf-8", "surrogateescape"))
        except OSError:
            return []
        return [name.decode("utf-8", "surrogateescape") for name in found]

    def exists(self, path: str) -> bool:
        """Whether there is anything at path, if only a dangling link."""
        return os.path.lexists(path.encode("utf-8", "surrogateescape"))


class Memory:
    """A set of files in memory, full path to bytes: a configuration rebuilt from a dump."""

    __slots__ = ("contents",)

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        self.contents = contents

    def read(self, path: str) -> bytes:
        """Raises: FileNotFoundError."""
        try:
            return self.contents[path]
        except KeyError:
            raise FileNotFoundError(2, os.strerror(2)) from None

    def names(self, directory: str) -> list[str]:
        """Return the first names under a directory that any path has."""
        start = directory.rstrip("/") + "/"
        return list({path[len(start):].split("/", 1)[0]
                     for path in self.contents if path.startswith(start)})

    def exists(self, path: str) -> bool:
        """Whether path is a file or leads to one."""
        start = path.rstrip("/") + "/"
        return path in self.contents or any(known.startswith(start) for known in self.contents)


def glob(files: Files, pattern: str) -> list[str]:
    """Return the paths that match a full-path pattern, sorted by their bytes.

    As glob(3) with no flags in the C locale: `*`, `?` and `[...]` within one name, a leading dot
    only matched by a dot, a backslash hides the next character.
    """
    head, *parts = pattern.split("/")
    found = [head]
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if MAGIC.isdisjoint(part):
            plain = re.sub(r"\\(.)", r"\1", part, flags=re.DOTALL)
            found = [f"{base}/{plain}" for base in found]
            if last:
                found = [path for path in found if files.exists(path)]
        else:
            match = translate(part).fullmatch
            found = [f"{base}/{name}" for base in found
                     for name in (".", "..", *files.names(base or "/"))
                     if match(name) and (not last or files.exists(f"{base}/{name}"))]
    return sorted(found, key=lambda path: path.encode("utf-8", "surrogateescape"))


def translate(part: str) -> re.Pattern[str]:
    """Return the regular expression of one name's pattern. Source: POSIX fnmatch, FNM_PERIOD"""
    out = ["(?!\\.)"] if part[:1] in MAGIC else []
    pos = 0
    while pos < len(part):
        c = part[pos]
        pos += 1
        if c == "*":
            out.append(".*")
        elif c == "?":
            out.append(".")
        elif c == "\\":  # nothing matches where it hides nothing
            out.append(re.escape(part[pos]) if pos < len(part) else "(?!)")
            pos += 1
        elif c == "[":
            cls, pos = _bracket(part, pos)
            out.append(cls)
        else:
            out.append(re.escape(c))
    return re.compile("".join(out), re.DOTALL)


def _bracket(part: str, pos: int) -> tuple[str, int]:
    """Return the regular expression of a bracket opened before pos, and the place behind it."""
    start = pos
    out = ["["]
    if part[pos:pos + 1] in ("!", "^"):
        out.append("^")
        pos += 1
    first = True
    while pos < len(part):
        c = part[pos]
        if c == "]" and not first:
            if out in (["["], ["[", "^"]):  # only ranges that run backwards: matches nothing
                return ("(?!)" if len(out) == 1 else "."), pos + 1
            return "".join(out) + "]", pos + 1
        first = False
        named = re.compile(r"\[:(\w+):\]").match(part, pos)
        if named and named[1] in _CLASSES:
            out.append(_CLASSES[named[1]])
            pos = named.end()
            continue
        if c == "\\" and pos + 1 < len(part):
            pos += 1
            c = part[pos]
        pos += 1
        if part[pos:pos + 1] == "-" and part[pos + 1:pos + 2] not in ("", "]"):
            high = part[pos + 1]
            pos += 2
            if high == "\\" and pos < len(part):
                high = part[pos]
                pos += 1
            if c <= high:
                out.append(f"{re.escape(c)}-{re.escape(high)}")
            continue
        out.append(re.escape(c))
    return "\\[", start  # never closed: a bracket like any other character
