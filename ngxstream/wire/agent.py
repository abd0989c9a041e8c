"""What an agent beside a server says of it: one line of text, as HAProxy's agent-check has it.

A line is words between spaces, tabs and commas, in any case and order, up to the first CR or LF:

  up · down · fail · stopped    whether it serves
  ready · drain · maint         whether it is to get new sessions
  75% · weight:75% · weight:N   its weight: a part of the configured one, or the weight itself
  maxconn:N                     how many sessions it is to have at most, 0 for no such limit

What follows a `#` is a text for people. Of two words about one thing the later one counts; what is
not said does not change. Words that are none of these are left out, the others count.

Source: HAProxy, Configuration Manual 5.2 (agent-check); `weight:` is of later versions
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from ngxstream.wire.dialogues import Dialogue, ProbeError, shown

MOST_LINE: Final = 512  # bytes of a line, its end not counted
MOST_TEXT: Final = 80  # bytes of a text for people that are kept
MOST_WEIGHT: Final = 256  # of weight:N, as in HAProxy
MOST_PERCENT: Final = 100 * MOST_WEIGHT
MOST_CONNS: Final = 0x7FFFFFFF

STATUSES: Final = ("", "up", "down", "fail", "stopped")
ADMINS: Final = ("", "ready", "drain", "maint")

_ENDS: Final = re.compile(rb"[\r\n]")
_BETWEEN: Final = re.compile(rb"[ \t,]+")
_PERCENT: Final = re.compile(r"(?:weight:)?([0-9]{1,5})%")
_WEIGHT: Final = re.compile(r"weight:([0-9]{1,5})")
_MAXCONN: Final = re.compile(r"maxconn:([0-9]{1,10})")


class Said(NamedTuple):
    """What a line says.

    Args: status: one of STATUSES; admin: one of ADMINS; percent: of the configured weight; weight:
    instead of it, at most one of the two; max_conns: None where it says nothing of it; text: for
    people, as it came; unknown: the first word that is none
    """

    status: str = ""
    admin: str = ""
    percent: int | None = None
    weight: int | None = None
    max_conns: int | None = None
    text: bytes = b""
    unknown: bytes = b""


NOTHING: Final = Said()


def ask(send: bytes = b"") -> Dialogue:
    """Wait for a line, after a text is sent if there is one. Raises: ProbeError"""
    data = yield send
    while _ENDS.search(data, 0, MOST_LINE + 1) is None:
        if len(data) > MOST_LINE:
            raise ProbeError(f"a line does not end: {shown(data)}")
        data += yield b""


def line_of(data: bytes) -> bytes:
    """Return the line that what came begins with, without its end."""
    return _ENDS.split(data, maxsplit=1)[0]


def parse(line: bytes) -> Said:
    """Read a line, whatever it is."""
    words, _, text = line.partition(b"#")
    found = NOTHING._replace(text=text.strip()[:MOST_TEXT])
    for word in _BETWEEN.split(words):
        if word:
            found = _taken(found, word)
    return found


def _taken(found: Said, word: bytes) -> Said:
    """Return what is said with one more word."""
    text = word.decode("ascii", "replace").lower()
    if text in STATUSES:
        return found._replace(status=text)
    if text in ADMINS:
        return found._replace(admin=text)
    percent = _PERCENT.fullmatch(text)
    if percent is not None and int(percent[1]) <= MOST_PERCENT:
        return found._replace(percent=int(percent[1]), weight=None)
    weight = _WEIGHT.fullmatch(text)
    if weight is not None and int(weight[1]) <= MOST_WEIGHT:
        return found._replace(weight=int(weight[1]), percent=None)
    most = _MAXCONN.fullmatch(text)
    if most is not None and int(most[1]) <= MOST_CONNS:
        return found._replace(max_conns=int(most[1]))
    return found if found.unknown else found._replace(unknown=word[:MOST_TEXT])
