"""Whether this host is to get new clients: what load balancers, routers and VRRP ask before them.

1. `/healthz` is 200 `ok` while the worker serves and the host does not drain; with
   `?upstream=NAME`, which may be a list joined by commas, only while each of these groups has a
   server that may be used. Else it is 503 with the reason. It asks for no password.
2. A host drains when an administrator says so. That is kept in memory that all workers share: over
   a reload and an upgrade (USR2), not over a restart. Nothing else changes: clients that come are
   served.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import log, shm
from ngxstream.ipc import codec
from ngxstream.stream import round_robin
from ngxstream.stream import schema as schemas
from ngxstream.stream.api import OWN, ROOT, ApiError, Argument, Endpoint, Operation, Reply

if TYPE_CHECKING:
    from ngxstream.stream.api import Request
    from ngxstream.stream.core import StreamConf, StreamDraft
    from ngxstream.stream.round_robin import Tier
    from ngxstream.stream.upstream import UpstreamConf

NAME: Final = "api"
KEY: Final = "node"  # of StreamDraft.data: NodeState
ZONE: Final = "state of the node"  # as lsof shows it; a name with a space is nobody's
TEXT: Final = "text/plain; charset=utf-8"
MOST: Final = 64  # groups that one question names

_SINCE: Final = 0  # when draining began, POSIX ms; 0 while the node does not drain

_STATE: Final = codec.Record("node", codec.Field(1, "since", codec.Int(), 0))


class NodeState:
    """The word that all workers share."""

    __slots__ = ("_words",)

    def __init__(self) -> None:
        self._words: memoryview[int] = memoryview(bytes(8)).cast("q")  # until there is a zone

    def attach(self, zone: shm.Zone, fresh: bool) -> None:
        """Take a zone the cycle has made or adopted."""
        if fresh:
            zone.data = zone.ints(1)
        self._words = zone.data

    @property
    def since_ms(self) -> int:
        """When draining began, POSIX ms; 0 while the node does not drain."""
        return max(0, self._words[_SINCE])

    @since_ms.setter
    def since_ms(self, value: int) -> None:
        self._words[_SINCE] = value


def finish(draft: StreamDraft) -> None:
    """Ask for the memory, where an API can be asked."""
    if draft.is_shown:
        state = draft.data[KEY] = NodeState()
        draft.builder.data["zones"].request(ZONE, shm.LEAST, NAME).init = state.attach


def hand_on(stream: StreamConf) -> bytes:
    """Return what another binary is to begin with."""
    state: NodeState | None = stream.data.get(KEY)
    return b"" if state is None else _STATE.encode((state.since_ms,))


def take_up(stream: StreamConf, data: bytes) -> None:
    """Begin with what another binary had. Raises: CodecError"""
    state: NodeState | None = stream.data.get(KEY)
    if state is not None and data:
        (since_ms,) = _STATE.decode(data)
        state.since_ms = max(0, since_ms)


# -- what is asked ---------------------------------------------------------------------------------


def _health(request: Request) -> Reply:
    why = _why_not(request)
    return Reply(503, why, TEXT) if why else Reply(200, "ok", TEXT)


def _why_not(request: Request) -> str:
    """Return why no new clients are to come, "" where they may."""
    if _state(request).since_ms:
        return "draining"
    text = request.args.get("upstream")
    if text is None:
        return ""
    known = {one.name: one for one in request.stream.upstreams if one.explicit}
    now_ms = request.loop.now_ms
    names = text.split(",", MOST)
    if len(names) > MOST:
        return "too many upstreams"
    if not known.keys() >= set(names):
        return "no such upstream"
    unwell = [name for name in dict.fromkeys(names) if not _is_served(known[name], now_ms)]
    return f"no live upstreams in {', '.join(unwell)}" if unwell else ""


def _is_served(group: UpstreamConf, now_ms: int) -> bool:
    """Tell whether a server of a group may be used now."""
    assert group.balancer is not None
    tier: Tier | None = group.balancer.tier
    while tier is not None:
        if round_robin.usable(tier.choices, 0, now_ms):
            return True
        tier = tier.backup
    return False


def _state(request: Request) -> NodeState:
    state: NodeState = request.stream.data[KEY]
    return state


def _shown(request: Request) -> dict[str, Any]:
    since_ms = _state(request).since_ms
    return {"draining": bool(since_ms), "since": since_ms or None}


def _get(request: Request) -> Reply:
    return Reply(value=_shown(request))


def _patch(request: Request) -> Reply:
    body = request.body
    if not isinstance(body, dict) or body.keys() != {"draining"} or (
        not isinstance(body["draining"], bool)
    ):
        raise ApiError(400, "NodeConfFormatError", 'a member "draining", true or false, is wanted')
    state, wanted = _state(request), body["draining"]
    if wanted != bool(state.since_ms):
        state.since_ms = time.time_ns() // 1_000_000 if wanted else 0
        text = "this node drains: /healthz asks for no new clients" if wanted else (
            "this node does not drain any more"
        )
        request.loop.log.error(log.NOTICE, text)
    return Reply(value=_shown(request))


SCHEMA: Final = schemas.obj(
    "Whether new clients are to come.",
    draining=schemas.BOOL, since=schemas.nullable(schemas.COUNT),
)
ENDPOINTS: Final = (
    Endpoint(ROOT, "/healthz", {"GET": Operation(
        _health, "Says whether new clients may come: 200, or 503 with the reason.", kind=TEXT,
        args=(Argument("upstream", "Groups that need a server, joined by commas."),),
    )}),
    Endpoint(OWN, "/node", {
        "GET": Operation(_get, "Whether this host drains.", SCHEMA),
        "PATCH": Operation(
            _patch, "Has /healthz ask for no new clients, or for some again.", SCHEMA,
            takes=schemas.obj(draining=schemas.BOOL), errors=("NodeConfFormatError",),
        ),
    }),
)
