"""From a request to its reply: the checks and the operation.

1. A request is judged by its head alone; one that is refused is refused before its body is read.
2. Nothing that an operation raises reaches a client: an exception that nobody expected is an
   [alert] and a 500.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Final, NamedTuple

from ngxstream.core import inet
from ngxstream.modules.api import decoding, guards, refusals, routes, users
from ngxstream.modules.api.refusals import Refused
from ngxstream.stream import api
from ngxstream.stream.api import ApiError, Reply, Request

if TYPE_CHECKING:
    from ngxstream.modules.api.conf import ApiConf
    from ngxstream.modules.api.routes import Found, Placed
    from ngxstream.stream.session import Session
    from ngxstream.wire.http import Head

OPEN: Final = frozenset(("/healthz",))  # what needs no password: it says nothing


class Route(NamedTuple):
    """An accepted head: what is to be done once its body is there."""

    placed: Placed
    path: dict[str, str]
    args: dict[str, str]


class Responder:
    """Passes the reply to one request on, in whatever turn it comes."""

    __slots__ = ("number", "take")

    def __init__(self, take: Callable[[int, Reply], None], number: int) -> None:
        self.take = take
        self.number = number

    def __call__(self, reply: Reply | ApiError) -> None:
        """Pass it on."""
        if isinstance(reply, ApiError):
            reply = refusals.refusal(reply)
        self.take(self.number, reply)


def identify(s: Session, conf: ApiConf, head: Head, done: Callable[[bool], None]) -> bool | None:
    """Tell whether a client may ask for anything, None when done() tells later. Raises: ApiError"""
    if s.c.listening.options.family != inet.AF_UNIX:  # no browser gets there
        guards.check_host(head, conf.names, s.loop.hostname.decode("latin-1"))
    if conf.users is None or head.path.removesuffix("/") in OPEN:
        return True
    header = head.headers.get("authorization")
    return s.loop.get(users.Verifier).check(s, conf.users, header, done)


def route(conf: ApiConf, head: Head) -> Route:
    """Find what a request asks for. Raises: ApiError"""
    guards.check_origin(head)
    prefix, method = conf.prefix, head.method
    is_write = method in routes.WRITES
    if is_write and not conf.write and (f"{head.path}/").startswith(f"{prefix}/"):
        raise ApiError(405, "MethodDisabled", "method disabled")
    found: Found = conf.shared.routes.find(prefix, head.path)
    placed = found.operations.get("GET" if method == "HEAD" else method)
    if placed is None:
        allowed = sorted(one for one in found.operations if conf.write or one not in routes.WRITES)
        if "GET" in allowed:
            allowed.insert(allowed.index("GET") + 1, "HEAD")
        raise Refused(405, "MethodNotAllowed", "method not allowed", ("Allow", ", ".join(allowed)))
    if is_write and not conf.write:
        raise ApiError(405, "MethodDisabled", "method disabled")
    # an index has no names for what it stands below
    path = dict(zip(placed.names, found.values, strict=False))
    args = routes.arguments(head.query)
    known = {one.name for one in placed.operation.args}
    if known and found.tree != api.PLUS:  # a misspelt filter must not choose everything
        for name in args.keys() - known:
            raise ApiError(400, api.BAD_ARGUMENT, f'unknown argument "{name}"')
    return Route(placed, path, args)


def run(s: Session, conf: ApiConf, head: Head, accepted: Route, body: bytes,
        respond: Callable[[Reply | ApiError], None]) -> Generator[None, None, Reply | None]:
    """Do what was asked for, in steps. Returns: the reply, None when it comes by respond()"""
    operation = accepted.placed.operation
    try:
        value = None
        if operation.takes is not None:
            if "content-encoding" in head.headers:
                raise ApiError(415, "JsonError", "unsupported content coding")
            value = yield from decoding.steps(body)
        request = Request(
            s, conf.shared.stream, head.method, accepted.path, accepted.args, head.headers, value,
            conf.write, respond,
        )
        return operation.run(request)
    except ApiError as error:
        return refusals.refusal(error)
    except Exception:  # the client learns nothing of it
        s.loop.fault(None)
        return refusals.failure()
