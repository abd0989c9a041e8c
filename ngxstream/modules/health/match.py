r"""match: what a check sends, and what answer it takes (ngx_stream_upstream_hc_module, `match`).

Bytes are bytes: `\xHH` in a word of the configuration is one byte on the wire, NUL too, and a
regular expression is matched against bytes, in bounded time (core/regex.py).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from ngxstream.conf import items
from ngxstream.core import errors, regex
from ngxstream.core.log import encode
from ngxstream.wire import probes

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.wire.probes import Dialogue

_HEX: Final = re.compile(rb"\\x([0-9A-Fa-f]{2})")


def unescape(text: str) -> bytes:
    r"""Return a word of the configuration with `\xHH` as the byte that it stands for."""
    return _HEX.sub(lambda found: bytes((int(found[1], 16),)), encode(text))


class Match:
    """One match block."""

    __slots__ = ("expect", "name", "pattern", "place", "send")

    def __init__(self, name: str, place: tuple[str, int]) -> None:
        self.name = name
        self.place = place
        self.send: bytes | None = None
        self.expect: bytes | None = None
        self.pattern: regex.Regex | None = None

    def take(self, st: Statement) -> None:
        """Take one statement of the block. Raises: ConfError"""
        word, args = st.directive, st.args
        if word not in ("send", "expect"):
            raise errors.ConfError(f'unknown parameter "{word}" in match "{self.name}"')
        if word == "send":
            if len(args) != 1:
                raise errors.ConfError('invalid number of arguments in "send"')
            if self.send is not None:
                raise errors.ConfError('"send" is duplicate')
            self.send = unescape(args[0])
            return
        if self.expect is not None or self.pattern is not None:
            raise errors.ConfError('"expect" is duplicate')
        if len(args) == 2 and args[0] in ("~", "~*"):
            self.pattern = self._compile(args[1], caseless=args[0] == "~*")
        elif len(args) == 1:
            self.expect = unescape(args[0])
            if not self.expect:
                raise errors.ConfError('"expect" is empty')
        else:
            raise errors.ConfError('invalid number of arguments in "expect"')

    def _compile(self, pattern: str, *, caseless: bool) -> regex.Regex:
        try:
            return regex.compile(pattern, caseless=caseless)
        except regex.RegexError as error:
            raise errors.ConfError(str(error)) from None

    def dialogue(self) -> Dialogue:
        """Begin to send and to expect."""
        return probes.match(self.send or b"", self.expect, self._search)

    @property
    def _search(self) -> Any:
        return None if self.pattern is None else self._found

    def _found(self, data: bytes) -> bool:
        assert self.pattern is not None
        try:
            return self.pattern.search(data) is not None
        except regex.MatchLimitError as error:
            raise probes.ProbeError(f"the answer cannot be matched: {error}") from None

    @property
    def hears(self) -> bool:
        """Whether an answer is expected."""
        return self.expect is not None or self.pattern is not None


def block(scope: Scope, module: Module, st: Statement) -> None:
    """Read one match block. Raises: ConfError"""
    given = scope.given_of(module)
    matches: dict[str, Match] = given.setdefault("_matches", {})
    name = st.args[0]
    if name in matches:
        raise errors.ConfError(f'duplicate match "{name}"')
    found = matches[name] = Match(name, (st.file, st.line))
    items.walk(scope.builder, st, found.take)
