"""`ngxstreamctl top`: servers and peers on a screen that is written anew each second.

Rates are differences between two looks at the counters. Keys: q and Ctrl-C end it, p pauses.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import Any, Final

from ngxstream.ctl import tables
from ngxstream.ctl.client import MALFORMED, OWN, PLUS, UNREACHABLE, USAGE, Client, CtlError

INTERVAL_S: Final = 1.0
_ENTER: Final = "\x1b[?1049h\x1b[?25l"  # another screen, no cursor
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME: Final = "\x1b[H"
_LINE_END: Final = "\x1b[K\n"
_REST: Final = "\x1b[J"

# counters whose rates are shown: of a server, of a peer
_OF_SERVER: Final = ("connections", "received", "sent")
_OF_PEER: Final = ("connections", "sent", "received")


class Look:
    """The counters at one time."""

    def __init__(self, api: Client) -> None:
        """Raises: CtlError"""
        self.at = time.monotonic()
        self.about = api.get(f"{PLUS}/nginx")
        self.connections = api.get(f"{PLUS}/connections")
        self.zones = api.get(f"{PLUS}/stream/server_zones")
        self.groups = api.get(f"{PLUS}/stream/upstreams")
        self.workers = api.get(f"{OWN}/workers")["workers"]

    def peers(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return the peers of all groups."""
        return {
            (name, one["server"]): one
            for name, group in self.groups.items() for one in group["peers"]
        }


def rate(now: Look, before: Look | None, new: int, old: int | None) -> str:
    """Return how much a counter grew in a second; a counter that went back began anew."""
    if before is None or old is None or now.at <= before.at:
        return "-"
    return tables.size(max(new - old, 0) / (now.at - before.at))


def page(now: Look, before: Look | None, columns: int, lines: int) -> list[str]:
    """Return the lines of the screen."""
    delay = max((one["loop_delay_ms"]["p99"] for one in now.workers), default=0)
    found = [
        tables.clean(
            f"{now.about['build']}  configuration {now.about['generation']}  "
            f"{len(now.workers)} workers, loop delay p99 {delay} ms  "
            f"{now.connections['active']} active  {now.about['timestamp']}"
        ),
        "",
    ]
    rows: list[tuple[Any, ...]] = []
    for name, one in now.zones.items():
        old = before.zones.get(name, {}) if before else {}
        rates = [rate(now, before, one[key], old.get(key)) for key in _OF_SERVER]
        ends = one["sessions"]
        rows.append((name, one["processing"], *rates, ends["4xx"], ends["5xx"]))
    head: tuple[str, ...] = ("SERVER", "ACTIVE", "CONN/S", "IN/S", "OUT/S", "4XX", "5XX")
    found += [*tables.table(head, rows).split("\n"), ""]
    rows = []
    former = before.peers() if before else {}
    for (group, name), one in now.peers().items():
        old = former.get((group, name), {})
        rates = [rate(now, before, one[key], old.get(key)) for key in _OF_PEER]
        rows.append((group, name, one["state"], one["weight"], one["active"], *rates,
                     one["fails"]))
    head = ("UPSTREAM", "PEER", "STATE", "WEIGHT", "ACTIVE", "CONN/S", "SENT/S", "RECEIVED/S",
            "FAILS")
    found += tables.table(head, rows).split("\n")
    if len(found) > lines - 1:
        found = [*found[:lines - 2], f"{len(found) - lines + 2} more lines"]
    return [line[:columns] for line in found]


def look(
    api: Client, before: Look | None, columns: int, lines: int
) -> tuple[list[str], Look | None]:
    """Return the lines of the screen, and the look that the next one's rates are of.

    Raises: CtlError for a refusal; who does not answer may do so in a second
    """
    try:
        now = Look(api)
        return page(now, before, columns, lines), now
    except CtlError as error:
        if error.code != UNREACHABLE:
            raise
        text = str(error)
    except MALFORMED as error:
        text = f"the reply is not of the form that is expected ({error!r})"
    return [tables.clean(f"no answer: {text}")[:columns]], before


def run(api: Client) -> int:
    """Show it until `q`; return the exit code. Raises: CtlError where there is no terminal"""
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        raise CtlError("top wants a terminal", USAGE)
    before: Look | None = None
    paused = False
    with contextlib.suppress(KeyboardInterrupt), _screen():
        while True:
            if not paused:
                text, before = look(api, before, *tables.screen())
                sys.stdout.write(_HOME + _LINE_END.join(text) + _LINE_END + _REST)
                sys.stdout.flush()
            keys = _keys(INTERVAL_S)
            if b"q" in keys or keys == b"\x04":
                break
            if b"p" in keys:
                paused = not paused
    return 0


@contextlib.contextmanager
def _screen() -> Iterator[None]:
    """Have the terminal to ourselves; it is as before in the end."""
    saved = termios.tcgetattr(sys.stdin)
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        tty.setcbreak(sys.stdin)
        sys.stdout.write(_ENTER)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, saved)
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        signal.signal(signal.SIGINT, former)


def _keys(wait_s: float) -> bytes:
    """Return the keys that were pressed, past the buffer of the standard input."""
    ready, _, _ = select.select([sys.stdin], [], [], wait_s)
    return os.read(sys.stdin.fileno(), 64) if ready else b""
