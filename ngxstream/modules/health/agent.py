"""What the agents of a group's servers have said: in the rows of their checks, and what follows.

1. An agent is heard once in an interval, by the worker that has the lease of its check. What it
   said stands in the check's row, behind the cells that all checks have (stream/health.py), and
   holds until it says something else: also while it is not reached, and over a reload.
2. An agent can take back what an agent has said, and nothing else: `down` and `drain` of a server's
   line, or of the API, are bits that it cannot reach.
3. What stands in a row may have been written by another user's worker: whatever it is, it amounts
   to bits, a weight and a limit that are within their bounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ngxstream.stream import health, peer_state
from ngxstream.wire import agent
from ngxstream.wire.dialogues import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ngxstream.wire.agent import Said

# Cells of a row, behind those of all checks.
STATUS: Final = health.CELLS  # index in agent.STATUSES, 0 before it has said any
ADMIN: Final = STATUS + 1  # index in agent.ADMINS
SHARE: Final = STATUS + 2  # as PeerState.share
MOST: Final = STATUS + 3  # maxconn, 0 for none
HOW: Final = STATUS + 4  # what came of the last check: 0 for none yet, ANSWERED, ODD, MISSED
ANSWERED_MS: Final = STATUS + 5  # when it was heard last: loop ms
LENGTH: Final = STATUS + 6  # of its text
TEXT: Final = STATUS + 7  # eight bytes to a cell
CELLS: Final = TEXT + agent.MOST_TEXT // 8

# Values of HOW.
ANSWERED: Final = 1
ODD: Final = 2  # it said something that nobody knows
MISSED: Final = 3
HOWS: Final = ("", "answered", "not understood", "not reached")

_WHOLE: Final = 100
_UP: Final = agent.STATUSES.index("up")
_READY: Final = agent.ADMINS.index("ready")
_BAD: Final = frozenset(("down", "fail", "stopped"))


class Effect(NamedTuple):
    """What becomes of a peer. Args: bits: of its status; share, most: as in PeerState"""

    bits: int = 0
    share: int = _WHOLE
    most: int = 0


NONE: Final = Effect()


def begin(cells: memoryview[int]) -> None:
    """Have a row be about a server whose agent has said nothing yet. Under the zone's lock."""
    for n in range(health.CELLS, len(cells)):
        cells[n] = 0
    cells[SHARE] = _WHOLE


# -- what it says ----------------------------------------------------------------------------------


class News(NamedTuple):
    """What has changed. Args: words: for the log; is_bad: whether it became unhealthy; is_state:
    whether more than weights and limits did
    """

    words: str = ""
    is_bad: bool = False
    is_state: bool = False


def hear(cells: memoryview[int], said: Said, now_ms: int) -> News:
    """Take down what an agent says. Under the zone's lock."""
    words: list[str] = []
    is_bad = is_state = False
    cells[health.CHECKS] += 1
    cells[health.LAST] = health.PASSED
    cells[ANSWERED_MS] = now_ms
    how, cells[HOW] = cells[HOW], ODD if said.unknown else ANSWERED
    if said.status:
        number = agent.STATUSES.index(said.status)
        if (cells[STATUS] or _UP) != number:
            is_bad, is_state = said.status in _BAD, True
            text = f" {shown(said.text)}" if said.text else ""
            words.append(said.status + text)
        cells[STATUS] = number
        was_bad = cells[health.STATE] == health.UNHEALTHY
        cells[health.STATE] = health.UNHEALTHY if said.status in _BAD else health.UP
        cells[health.TURNED] += said.status in _BAD and not was_bad
    if said.status or said.text:
        _put_text(cells, said.text)
    if said.admin:
        number = agent.ADMINS.index(said.admin)
        if (cells[ADMIN] or _READY) != number:
            is_state = True
            words.append(said.admin)
        cells[ADMIN] = number
    share = said.percent if said.weight is None else -said.weight
    if share is not None and cells[SHARE] != share:
        cells[SHARE] = share
        words.append(f"{share}%" if said.weight is None else f"weight:{said.weight}")
    if said.max_conns is not None and cells[MOST] != said.max_conns:
        cells[MOST] = said.max_conns
        words.append(f"maxconn:{said.max_conns}")
    if said.unknown and how != ODD:
        is_state = True
        words.append(f"{shown(said.unknown)}, which is not understood")
    if how == MISSED and not words:
        return News("agent is reached again", is_state=True)
    return News(f"agent says {', '.join(words)}" if words else "", is_bad, is_state)


def miss(cells: memoryview[int]) -> bool:
    """Take down that an agent was not heard. Under the lock. Returns: whether that is new"""
    cells[health.CHECKS] += 1
    cells[health.FAILED] += 1
    cells[health.LAST] = health.MISSED
    before, cells[HOW] = cells[HOW], MISSED
    return before != MISSED


def _put_text(cells: memoryview[int], text: bytes) -> None:
    text = text[: agent.MOST_TEXT]
    cells[LENGTH] = len(text)
    for n in range(0, len(text), 8):
        eight = text[n : n + 8].ljust(8, b"\0")
        cells[TEXT + n // 8] = int.from_bytes(eight, "little", signed=True)


def text_of(cells: memoryview[int]) -> bytes:
    """Return the text for people that came last; whoever shows it escapes it."""
    found = b"".join(
        cells[n].to_bytes(8, "little", signed=True) for n in range(TEXT, CELLS)
    )
    return found[: min(max(cells[LENGTH], 0), agent.MOST_TEXT)]


# -- what follows --------------------------------------------------------------------------------


def effect(rows: Iterable[memoryview[int]], weight: int) -> Effect:
    """Return what the agents of a server amount to: the least that any of them allows.

    Args: rows: of their checks; weight: of the server. Whether they say that it is down is in the
    state of the rows, as with other checks
    """
    found = NONE
    for cells in rows:
        bits, share, most = found
        admin = _word(agent.ADMINS, cells[ADMIN])
        if admin == "maint":
            bits |= peer_state.AGENT_MAINT
        own = cells[SHARE]
        if not -agent.MOST_WEIGHT <= own <= agent.MOST_PERCENT:
            own = _WHOLE
        if admin == "drain" or own == 0:
            bits |= peer_state.AGENT_DRAIN
            own = own or _WHOLE
        if _weighed(own, weight) < _weighed(share, weight) or found is NONE:
            share = own
        limit = cells[MOST]
        if 0 < limit <= agent.MOST_CONNS:
            bits |= peer_state.AGENT_LIMITED
            most = min(most or limit, limit)
        found = Effect(bits, share, most)
    return found


def _weighed(share: int, weight: int) -> float:
    return share * weight / 100 if share >= 0 else -share


def _word(words: tuple[str, ...], number: int) -> str:
    return words[number] if 0 <= number < len(words) else ""


def spelled(cells: memoryview[int], text: str, now_ms: int) -> dict[str, Any]:
    """Return what an agent has said, as the API shows it. Args: text: of the check"""
    share = cells[SHARE]
    return {
        "check": text,
        "last": _word(HOWS, cells[HOW]) or None,
        "answered_ms_ago": max(now_ms - cells[ANSWERED_MS], 0) if cells[ANSWERED_MS] else None,
        "status": _word(agent.STATUSES, cells[STATUS]) or None,
        "admin": _word(agent.ADMINS, cells[ADMIN]) or "ready",
        "weight": f"{share}%" if share >= 0 else str(-share),
        "max_conns": cells[MOST],
        "text": shown(text_of(cells))[1:-1],
        "checks": cells[health.CHECKS],
        "missed": cells[health.FAILED],
    }


def blame(cells: memoryview[int]) -> str:
    """Return why a server is unhealthy if its agent says so; "" for no."""
    status = _word(agent.STATUSES, cells[STATUS])
    if status not in _BAD:
        return ""
    text = text_of(cells)
    return f"is unhealthy: its agent says {status}" + (f" {shown(text)}" if text else "")
