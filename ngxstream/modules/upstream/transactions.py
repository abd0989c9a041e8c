"""The servers of a group as one list: read with its entity tag, and replaced as a whole.

1. Who sends If-Match changes the list he has read, or nothing (412).
2. A server of the list that has an id is the one that has it; one without is the one of the same
   address, or new. What a server of the list does not say has its default. Servers that the list
   does not name are removed.
3. With `?dry_run=1` everything is checked but the room in the zone, and nothing changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ngxstream.modules.upstream import listing, params, servers_api
from ngxstream.stream import api, schema
from ngxstream.stream.api import ApiError, Argument, Endpoint, Items, Operation, Reply
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.modules.upstream.dynamic import Group
    from ngxstream.modules.upstream.roster import Line
    from ngxstream.stream.api import Request
    from ngxstream.stream.upstream import UpstreamConf

AT_ONCE: Final = 50  # servers of a list that are looked at in one turn of the loop
_TAG: Final = re.compile(r'(W/)?"[^"]*"')

Given = list[tuple[dict[str, Any], "Line"]]  # what a list says, and the new line each would be


def _get(request: Request) -> Reply:
    conf = listing.group_of(request, request.path["name"])
    if not conf.is_dynamic:  # nobody may change it: there is nothing to compare with
        return Reply(200, Items(one for one in listing.servers(conf) if "parent" not in one))
    group = listing.dynamic_of(conf)
    return _reply(group, group.lines)


def _reply(group: Group, lines: list[Line]) -> Reply:
    tag = ("ETag", listing.tag_of(group))
    return Reply(200, Items(listing.lines(lines)), headers=(tag,))


def _put(request: Request) -> Reply | None:
    conf = listing.group_of(request, request.path["name"])
    group = listing.dynamic_of(conf)
    wanted = request.headers.get("if-match")
    _check_tag(group, wanted)
    if not isinstance(request.body, list):
        raise params.format_error("a list of servers is expected")
    is_dry = request.args.get("dry_run", "0")
    if is_dry not in ("0", "1"):
        raise ApiError(400, "BadRequest", 'invalid "dry_run"')
    given: Given = []

    def edit(lines: list[Line]) -> list[Line]:
        _check_tag(group, wanted)
        return merged(lines, given)

    def run() -> Reply | None:
        if is_dry == "1":
            group.catch_up()
            return _reply(group, edit(group.lines))
        return servers_api.change(request, group, edit, lambda now: _reply(group, now))

    if len(request.body) <= AT_ONCE:
        given += [_given(conf, item) for item in request.body]
        return run()
    _look(request.loop, conf, list(request.body), given, lambda: _late(request, run),
          request.respond)
    return None


def _late(request: Request, run: Callable[[], Reply | None]) -> None:
    try:
        reply = run()
    except ApiError as error:
        request.respond(error)
        return
    if reply is not None:
        request.respond(reply)


def _look(loop: Loop, conf: UpstreamConf, items: list[Any], given: Given,
          done: Callable[[], None], refuse: Callable[[ApiError], None]) -> None:
    """Look at a long list, a part of it in each turn."""

    def look() -> None:
        try:
            start = len(given)
            given.extend(_given(conf, item) for item in items[start : start + AT_ONCE])
        except ApiError as error:
            refuse(error)
            return
        if len(given) < len(items):
            loop.call_later(0, look)
        else:
            done()

    look()


def _given(conf: UpstreamConf, item: object) -> tuple[dict[str, Any], Line]:
    if not isinstance(item, dict):
        raise params.format_error("a list of servers is expected")
    given = params.values(item, also=("id",))
    number = given.get("id", 0)
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise ApiError(400, "UpstreamBadServerId", "invalid server id")
    return given, params.new_line(conf, given)


def _check_tag(group: Group, wanted: str | None) -> None:
    """See that the list is the one that the client knows. Raises: ApiError"""
    if wanted is None or wanted.strip() == "*":
        return
    group.catch_up()
    tags = [found.group() for found in _TAG.finditer(wanted)]
    if listing.tag_of(group) not in tags:
        raise ApiError(412, "PreconditionFailed", "the servers have changed")


def merged(lines: list[Line], given: Given) -> list[Line]:
    """Return the lines that a list stands for. Raises: ApiError"""
    left = {line.id: line for line in lines if line.parent < 0}
    places: dict[tuple[str, str], list[int]] = {}
    for line in left.values():
        places.setdefault(_identity(line), []).append(line.id)
    after: list[Line] = []
    seen: set[tuple[str, str]] = set()
    for said, line in given:
        number = said.get("id")
        if number is not None:
            former = left.pop(number, None)
            if former is None:
                raise listing.no_server(number)
            if former.is_name != line.is_name or (line.is_name and _key(former) != _key(line)):
                raise ApiError(400, "UpstreamServerImmutable", "address is immutable")
        else:
            ids = [one for one in places.get(_identity(line), ()) if one in left]
            ids = [one for one in ids if not line.is_name or _key(left[one]) == _key(line)]
            former = left.pop(ids[0]) if ids else None
        is_there = former is not None and former.address == line.address
        if not is_there and _identity(line) in seen:
            where = line.address or line.server
            raise ApiError(409, "EntryExists", f'server "{where}" already exists')
        seen.add(_identity(line))
        after.append(line if former is None else _in_place_of(former, line, is_there))
    kept = {line.id for line in after}
    return after + [line for line in lines if line.parent in kept and line.parent >= 0]


def _in_place_of(former: Line, line: Line, is_there: bool) -> Line:
    """Return a line with the id of the one that was in its place, that one if they are equal."""
    server = former.server if is_there else line.server
    found = line._replace(id=former.id, nth=former.nth, server=server)
    return former if found == former else found


def _identity(line: Line) -> tuple[str, str]:
    return (line.address or line.server.lower(), line.service)


def _key(line: Line) -> tuple[str, str, bool]:
    return (*_identity(line), line.backup)


_LINE: Final = {
    **params.SERVER,
    "required": [name for name in params.SERVER["required"] if name != "id"],
}

ENDPOINTS: Final = (
    Endpoint(api.OWN, "/upstreams/{name}/servers", {
        "GET": Operation(
            _get, "The server lines of a group, with an entity tag.", schema.array(_LINE),
            errors=servers_api.GROUP_ERRORS,
        ),
        "PUT": Operation(
            _put, "Replaces the server lines of a group, all at once or none; ids are kept.",
            schema.array(_LINE), 200, params.TAKES_LIST,
            args=(Argument("dry_run", "1: check and change nothing.", schema.enum("0", "1")),),
            errors=(*servers_api.GROUP_ERRORS, *params.CHANGE_ERRORS, "UpstreamBadServerId",
                    "UpstreamServerNotFound", "UpstreamServerImmutable", "UpstreamConfNoResolver",
                    "UpstreamNoBackup", "EntryExists", "PreconditionFailed", "JsonError"),
        ),
    }),
)

MODULE = StreamModule(name="upstream_transactions", endpoints=ENDPOINTS)
