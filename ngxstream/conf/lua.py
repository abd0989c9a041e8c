"""The Lua blocks of OpenResty's configurations, ended by Lua's rules rather than nginx's.

They stand in the `http` blocks of files whose `stream` block is ours to serve, and nginx's words
make no sense in them: an apostrophe in a Lua comment would open a string. So the code of each goes
as one word, the form crossplane's payload has for it.
"""

import re
from typing import Final

# what is not simply skipped: the regular expression finds where it begins, find() where it ends
_SPECIAL: Final = re.compile(rb"[{}\"']|--|\[=*\[")
_LONG: Final = re.compile(rb"\[=*\[")
_IN_STRING: Final = {b'"': re.compile(rb'[^"\\\n]*'), b"'": re.compile(rb"[^'\\\n]*")}


def end_of_block(text: bytes, pos: int) -> int:
    """Return where the code ends that begins at pos, behind its brace: the place of the closing
    brace, -1 where there is none.
    """
    depth = 1
    while (found := _SPECIAL.search(text, pos)) is not None:
        pos = found.end()
        special = found[0]
        if special == b"{":
            depth += 1
        elif special == b"}":
            depth -= 1
            if depth == 0:
                return found.start()
        elif special in _IN_STRING:
            pos = _end_of_string(text, pos, special)
        else:
            if special == b"--":
                found = _LONG.match(text, pos)
            pos = _end_of_line(text, pos) if found is None else _end_of_long(text, found)
        if pos < 0:
            return -1
    return -1


def _end_of_string(text: bytes, start: int, quote: bytes) -> int:
    """Return the place behind a string; one that its line does not end is no string."""
    run = _IN_STRING[quote]
    pos = start
    while (found := run.match(text, pos)) is not None:
        pos = found.end()
        if text[pos:pos + 1] == quote:
            return pos + 1
        if text[pos:pos + 1] != b"\\":
            break
        pos += 2  # the newline behind a backslash is the string's
    return start


def _end_of_line(text: bytes, pos: int) -> int:
    return text.find(b"\n", pos)


def _end_of_long(text: bytes, opening: re.Match[bytes]) -> int:
    """Return the place behind a long string or comment, -1 if it does not end."""
    closing = opening[0].replace(b"[", b"]")
    found = text.find(closing, opening.end())
    return found if found < 0 else found + len(closing)
