"""Regular expressions of the stream block: what they match is left in the session's captures.

Answers for ngx_stream_regex_compile and ngx_stream_regex_exec in ngx_stream_variables.c. The
language itself is core/regex.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ngxstream.core import errors, regex
from ngxstream.core.log import ERR
from ngxstream.event.turn_budget import TurnBudget

if TYPE_CHECKING:
    from ngxstream.stream.session import Session
    from ngxstream.stream.variables import VariableTable


class Pattern:
    """One regular expression.

    Attributes: groups: counts its captures, named ones included; literals: see core/regex.py
    """

    __slots__ = ("text", "groups", "literals", "_search", "_quick", "_named")

    def __init__(self, text: str, caseless: bool, table: VariableTable) -> None:
        """Compile, and define a variable for each named capture. Raises: ConfError"""
        try:
            compiled = regex.compile(text, caseless=caseless)
        except regex.RegexError as error:
            raise errors.ConfError(str(error)) from None
        self.text = text
        self.groups = compiled.groups
        self.literals = compiled.literals
        self._search = compiled.search
        self._quick = compiled.quick  # bytes: on shorter subjects it takes microseconds
        self._named = tuple(
            (number, table.capture(name)) for name, number in compiled.names.items()
        )

    def match(self, s: Session, subject: bytes) -> bool | None:
        """Search a subject; keep what was captured, in place of what was before.

        Returns:
            Whether it matches; None if it was given up: it would take too long, or the session
            has had its share of this turn. The caller tries no other pattern on that subject.

        Source: ngx_stream_regex_exec; None is its NGX_ERROR
        """
        try:
            if len(subject) <= self._quick:
                found = self._search(subject)
            else:
                found = self._measured(s, subject)
        except regex.MatchLimitError as error:
            # nginx's [alert]; but it is the client's doing, and nothing of ours is wrong
            shown = subject[:256].decode("utf-8", "surrogateescape")
            s.log_error(ERR, f'{error} on "{shown}" using "{self.text}"')
            return None
        if found is None:
            return False
        s.captures = found
        for number, ref in self._named:
            ref.assign(s, found[number] or b"")
        return True

    def _measured(self, s: Session, subject: bytes) -> regex.Captures | None:
        """Search, and charge the time it takes. Raises: MatchLimitError"""
        budget = s.loop.get(TurnBudget)
        if not budget.has_share(s):
            raise regex.MatchLimitError("pcre2_match() failed: -47")
        return budget.measure(self._search, subject)
