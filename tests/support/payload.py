"""The statement tree in the form of crossplane's payload, for its builder and the tools around it.

    {"status": "ok", "errors": [], "config": [
        {"file": path, "status": "ok", "errors": [], "parsed": [
            {"directive": str, "line": int, "args": [str], "includes": [int], "block": [...]}]}]}

`line` is that of the statement's first word, as crossplane has it; `includes` are indices into
`config`, and only there on an include. Comments are not kept. A Fault becomes an entry of `errors`.

crossplane keeps escapes as they were written, where our words have them undone. So a backslash that
would be read as the beginning of one, or come to stand before one, is doubled: what
`crossplane.build` makes of the payload reads as the same words. Beyond its power are words that
begin with `#`, characters that do not print, and bytes that are no UTF-8.
"""

import re
from typing import Any, Final

from ngxstream.conf import reader

Payload = dict[str, Any]

_ESCAPING: Final = re.compile(r"\\(?=[\"'\\trn\t\r\n]|\Z)")


def payload(source: reader.Source) -> Payload:
    """Return crossplane's payload of a configuration as read."""
    return _Making(source).made()


def spell(word: str) -> str:
    """Return a word as it may be written in a configuration, quotes aside."""
    return _ESCAPING.sub(r"\\\\", word) if "\\" in word else word


class _Making:
    """One payload in the making: files in the order of opening, each once."""

    __slots__ = ("config", "errors", "index", "source")

    def __init__(self, source: reader.Source) -> None:
        self.source = source
        files = [source.main, *(file for file in source.files if file is not source.main)]
        self.index = {file.path: number for number, file in enumerate(files)}
        self.config: list[Payload] = [
            {"file": file.path, "status": "ok", "errors": [], "parsed": []} for file in files]
        self.errors: list[Payload] = []
        for file, entry in zip(files, self.config, strict=True):
            entry["parsed"] = self._block(file.statements, entry)

    def made(self) -> Payload:
        return {"status": "failed" if self.errors else "ok", "errors": self.errors,
                "config": self.config}

    def _block(self, statements: list[reader.Statement], entry: Payload) -> list[Payload]:
        parsed = []
        for st in statements:
            if st.error is not None:
                self._fault(st, entry)
                continue
            made: Payload = {"directive": spell(st.directive), "line": st.start_line,
                             "args": [spell(arg) for arg in st.args]}
            if st.includes is not None:
                made["includes"] = [self.index[file.path] for file in st.includes]
            if st.block is not None:
                made["block"] = self._block(st.block, entry)
            parsed.append(made)
        return parsed

    def _fault(self, st: reader.Statement, entry: Payload) -> None:
        entry["status"] = "failed"
        error = {"error": str(st.error), "line": st.line or None}
        entry["errors"].append(error)
        self.errors.append({"file": entry["file"], **error})
