"""Regular expressions of the stream block: what they match is left in the session's captures.

Answers for ngx_stream_regex_compile and ngx_stream_regex_exec in ngx_stream_variables.c. The
language itself is core/regex.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ngxstream.core import errors, regex
from ngxstream.core.log import ERR

if TYPE_CHECKING:
    from ngxstream.stream.session import Session
    from ngxstream.stream.variables import VariableTable


class Pattern:
    """One regular expression. shape: `groups` counts its captures, named ones included"""

    __slots__ = ("text", "groups", "_search", "_named")

    def __init__(self, text: str, caseless: bool, table: VariableTable) -> None:
        """Compile, and define a variable for each named capture. raises: ConfError"""
        try:
            compiled = regex.compile(text, caseless=caseless)
        except regex.RegexError as error:
            raise errors.ConfError(str(error)) from None
        self.text = text
        self.groups = compiled.groups
        self._search = compiled.search
        self._named = tuple(
            (number, table.capture(name)) for name, number in compiled.names.items()
        )

    def match(self, s: Session, subject: bytes) -> bool:
        """Search a subject; keep what was captured, in place of what was before.

        A subject that would take too long counts as none that matches.
        source: ngx_stream_regex_exec
        """
        try:
            found = self._search(subject)
        except regex.MatchLimitError as error:
            # nginx's [alert]; but it is the client's doing, and nothing of ours is wrong
            shown = subject[:256].decode("utf-8", "backslashreplace")
            s.log_error(ERR, f'{error} on "{shown}" using "{self.text}"')
            return False
        if found is None:
            return False
        s.captures = found
        for number, ref in self._named:
            ref.assign(s, found[number] or b"")
        return True
