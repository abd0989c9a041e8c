"""Prints one line for each case of a file: what this Python's reader, or matcher, makes of it.

Run as `python -m tests.support.digests WHAT FILE` by several Pythons, whose lines are compared.
WHAT is "texts" (of configurations), "patterns" (of regular expressions, with their subjects) or
"own" (subjects for the regular expressions of the package).
"""

import hashlib
import importlib
import json
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import ngxstream
from ngxstream.conf import files, reader
from ngxstream.core import regex

MAIN = "/c/nginx.conf"


def outline(statements: list[reader.Statement]) -> Iterator[object]:
    """List all that is known of the statements of a block."""
    for st in statements:
        lines = (st.start_line, st.line, st.end_line)
        yield st.directive, st.args, st.quoted, lines, str(st.error)
        if st.block is not None:
            yield list(outline(st.block))


def of_text(text: str) -> str:
    """Digest what a text, written as hex, is read as."""
    held = files.Memory({MAIN: bytes.fromhex(text)})
    read = reader.read(MAIN, conf_prefix="/c/", files=held)
    return digest(list(outline(read.main.statements)))


def of_pattern(case: list[str]) -> str:
    """Digest what a pattern finds in its subjects, both written as hex, or why it is refused."""
    pattern, *subjects = map(bytes.fromhex, case)
    try:
        compiled = regex.compile(pattern.decode("utf-8", "surrogateescape"))
    except regex.RegexError as error:
        return digest(str(error).partition(" in Python's re")[1] or str(error))
    return digest([compiled.engine, *map(compiled.search, subjects)])


def own_expressions() -> dict[str, re.Pattern[str] | re.Pattern[bytes]]:
    """Return the regular expressions that the modules of the package keep, by their names."""
    found = {}
    for module in pkgutil.walk_packages(ngxstream.__path__, "ngxstream."):
        if module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            kept = value.values() if isinstance(value, dict) else (value,)
            for number, one in enumerate(kept):
                if isinstance(one, re.Pattern):
                    found[f"{module.name}.{name} {number}"] = one
    return found


def of_own(subject: str) -> str:
    """Digest what each regular expression of the package finds in a subject, written as hex."""
    raw = bytes.fromhex(subject)
    said = []
    for name, expression in sorted(EXPRESSIONS.items()):
        text = raw if isinstance(expression.pattern, bytes) else raw.decode("latin-1")
        found = [(one.span(), one.groups()) for one in expression.finditer(text)]  # type: ignore[arg-type]
        said.append((name, found, expression.match(text) is None))  # type: ignore[arg-type]
    return digest(said)


EXPRESSIONS: dict[str, re.Pattern[str] | re.Pattern[bytes]] = {}


def digest(value: object) -> str:
    """Return a short digest of a value."""
    return hashlib.sha256(repr(value).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def main(what: str, path: str) -> None:
    """Print the digest of each case of a file."""
    of: dict[str, Callable[..., str]] = {"texts": of_text, "patterns": of_pattern, "own": of_own}
    if what == "own":
        EXPRESSIONS.update(own_expressions())
    for line in Path(path).read_text().splitlines():
        print(of[what](json.loads(line)))


if __name__ == "__main__":
    main(*sys.argv[1:])
