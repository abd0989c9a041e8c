"""Regular expressions of the stream block: what they match is left in the session's captures.

Answers for ngx_stream_regex_compile and ngx_stream_regex_exec in ngx_stream_variables.c. The
language itself is core/regex.py's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ngxstream.core import errors

if TYPE_CHECKING:
    from ngxstream.stream.session import Session
    from ngxstream.stream.variables import VariableTable


class Pattern:
    """One regular expression. shape: `groups` counts its captures, named ones included."""

    __slots__ = ("text", "groups", "_search", "_named")

    def __init__(self, text: str, caseless: bool, table: VariableTable) -> None:
        """Compile, and define a variable for each named capture. raises: ConfError"""
        try:
            regex = re.compile(text.encode("utf-8", "surrogateescape"),
                               re.IGNORECASE if caseless else 0)
        except re.error as error:
            raise errors.ConfError(f'pcre2_compile() failed: {error.msg} in "{text}"') from None
        self.text = text
        self.groups = regex.groups
        self._search = regex.search
        self._named = tuple(
            (number, table.capture(name)) for name, number in regex.groupindex.items()
        )

    def match(self, s: Session, subject: bytes) -> bool:
        """Search a subject and keep what was captured. source: ngx_stream_regex_exec"""
        found = self._search(subject)
        if found is None:
            return False
        s.captures = (found[0], *found.groups())
        for number, ref in self._named:
            ref.assign(s, found[number] or b"")
        return True
