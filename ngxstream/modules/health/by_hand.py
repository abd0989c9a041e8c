"""/upstreams/{name}/probe of the API: the checks of a group, made once and on the spot.

What comes of them changes no server's state: the checks themselves go on as ever.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from ngxstream.event import probing
from ngxstream.modules.health import group
from ngxstream.modules.health.schedule import target_of
from ngxstream.stream import schema
from ngxstream.stream.api import OWN, ApiError, Argument, Endpoint, Operation, Reply
from ngxstream.wire import probes

if TYPE_CHECKING:
    from ngxstream.event.probing import Outcome
    from ngxstream.modules.health.conf import Check
    from ngxstream.stream.api import Request
    from ngxstream.stream.upstream import Peer, UpstreamConf

NO_GROUP: Final = "UpstreamNotFound"
NO_CHECK: Final = "HealthCheckNotFound"
NO_PEER: Final = "UpstreamServerNotFound"
TOO_MANY: Final = "ProbeTooMany"
MOST: Final = 32  # at once, for one request
LONGEST_MS: Final = 8000  # so that who asks has not given up


def _probe(request: Request) -> Reply | None:
    upstream = request.stream.upstreams.first(request.path["name"])
    if upstream is None or not upstream.explicit:
        raise ApiError(404, NO_GROUP, "upstream not found")
    checks = [one for found in request.stream.data["health"] if found.upstream is upstream
              for one in found.checks]
    if not checks:
        raise ApiError(404, NO_CHECK, "no server has a health_check of this upstream")
    chosen = list(_chosen(upstream, request.args.get("peer", "")))
    if not chosen:
        raise ApiError(404, NO_PEER, "there is no such server")
    if len(checks) * len(chosen) > MOST:
        raise ApiError(400, TOO_MANY, f"more than {MOST} at once: choose a server by peer=")
    count = sum(check.can_ask(peer) for check in checks for peer in chosen)
    if not count:
        raise ApiError(404, NO_CHECK, "no health_check can ask this server")
    run = _Run(request, count)
    for check in checks:
        for peer in filter(check.can_ask, chosen):
            run.begin(check, peer)
    return None


def _chosen(upstream: UpstreamConf, wanted: str) -> list[Peer]:
    balancer: Any = upstream.balancer
    catch_up = getattr(balancer, "catch_up", None)  # of one whose peers may change
    if catch_up is not None:
        catch_up()
    return [
        peer for peer in group.peers_of(upstream)
        if wanted in ("", peer.name, peer.server, str(group.row_of(peer)))
    ]


class _Run:
    """The probes of one request."""

    __slots__ = ("_left", "_request", "_results")

    def __init__(self, request: Request, count: int) -> None:
        self._request = request
        self._left = count
        self._results: list[dict[str, Any]] = []

    def begin(self, check: Check, peer: Peer) -> None:
        """Begin one."""
        result: dict[str, Any] = {"check": check.spec.text, "id": group.row_of(peer),
                                  "peer": peer.name}
        self._results.append(result)
        loop = self._request.loop
        done = functools.partial(self._done, check, result, loop.now_ms)
        health = check.server.health
        timeout = min(health.timeout, LONGEST_MS)
        check.probe(loop, target_of(check, peer), timeout, done).begin()

    def _done(self, check: Check, result: dict[str, Any], begun_ms: int, outcome: Outcome) -> None:
        result.update(
            passed=outcome.passed, why=outcome.text, took_ms=self._request.loop.now_ms - begun_ms,
            sent=spelled(outcome.sent), received=spelled(outcome.received),
            expected=expected(check), parts_at=parts_at(check, outcome.received),
            certificate_days_left=outcome.days_left,
        )
        self._left -= 1
        if not self._left:
            self._request.respond(Reply(value={"probes": self._results}))


def spelled(data: bytes) -> str:
    r"""Return bytes as printable text: what is no ASCII is \xHH."""
    return repr(data + b"'\"")[2:-4].replace(r"\'", "'")


def expected(check: Check) -> str:
    """Return what a check expects of a server."""
    said, spec = check.said, check.spec
    if said is not None and said.expect is not None:
        return f'"{spelled(said.expect)}"'
    if said is not None and said.pattern is not None:
        return f"~ {said.pattern.pattern}"
    if spec.agent:
        return "a line of its agent"
    if spec.function:
        return f"what {spec.function} says"
    if spec.kind in probes.KINDS:
        return f"what {spec.kind} servers answer"
    if spec.udp:
        return "no ICMP message"
    return "a connection" if check.secure is None else "a TLS handshake"


def parts_at(check: Check, received: bytes) -> int | None:
    """Return at which byte an answer is another one than the text expected, None for none."""
    wanted = None if check.said is None else check.said.expect
    if wanted is None or not received:
        return None
    for n, byte in enumerate(wanted):
        if n >= len(received) or received[n] != byte:
            return n
    return None


RESULT: Final = schema.obj(
    probes=schema.array(schema.obj(
        check=schema.described(schema.TEXT, "The parameters of the health_check."),
        id=schema.described(schema.COUNT, "Of the server within the group."),
        peer=schema.described(schema.TEXT, "The server's address."),
        passed=schema.described(
            schema.nullable(schema.BOOL), "null where the probe could not be made"
        ),
        why=schema.TEXT,
        took_ms=schema.COUNT,
        sent=schema.described(
            schema.TEXT, f"The first {probing.KEPT} bytes, those that are no ASCII as `\\xHH`."
        ),
        received=schema.described(schema.TEXT, "The same of the answer."),
        expected=schema.TEXT,
        parts_at=schema.described(
            schema.nullable(schema.COUNT),
            "The first byte of the answer that is not as the text of `expect` is; null for none.",
        ),
        certificate_days_left=schema.described(
            schema.nullable(schema.INT),
            "Less than 0 where it is not valid; null where no TLS handshake has come so far."
        ),
    )),
)

ENDPOINTS: Final = (
    Endpoint(OWN, "/upstreams/{name}/probe", {
        "POST": Operation(
            _probe, "Makes the checks of a group once, and tells what was said. The state of its "
            f"servers does not change. No probe takes longer than {LONGEST_MS // 1000} s.", RESULT,
            args=(Argument("peer", "Only of one server: its address, its name or its id."),),
            errors=(NO_GROUP, NO_CHECK, NO_PEER, TOO_MANY),
        ),
    }, listed=False),
)
