"""What one contract of njs is: the shape of the rows of tests/support/njs_contracts.py."""

from typing import NamedTuple


class Seen(NamedTuple):
    """What came of one session.

    Args: answer: what the client got, datagrams joined by `|`; status: $status; notes: what
    functions logged, in order; faults: lines of level error
    """

    answer: bytes
    status: str = "200"
    notes: tuple[str, ...] = ()
    faults: int = 0


class Contract(NamedTuple):
    """One behaviour.

    Args: what: the situation; does: what both do, or njs does; js, py: the module `m`; lines: of
    the server; sent: pieces, the next one once a note ends with the former; seen: by njs; ours,
    else_: what ngxstream does where that differs, and why, as Seen and as prose
    """

    what: str
    does: str
    js: str
    py: str
    lines: str
    seen: Seen
    sent: tuple[bytes, ...] = ()
    ours: Seen | None = None
    differs: str = ""
    why: str = ""
    udp: bool = False
    sessions: int = 1
    ends: bool = False
