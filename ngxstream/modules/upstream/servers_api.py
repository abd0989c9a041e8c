"""The servers of a group in the API of NGINX Plus: listed, added, changed, removed one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ngxstream.modules.upstream import changes, dynamic, listing, params
from ngxstream.stream import api, schema
from ngxstream.stream.api import ApiError, Endpoint, Items, Operation, Reply
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.modules.upstream.changes import Edit
    from ngxstream.modules.upstream.dynamic import Group
    from ngxstream.modules.upstream.roster import Line
    from ngxstream.stream.api import Request
    from ngxstream.stream.core import StreamConf
    from ngxstream.stream.upstream import UpstreamConf

GROUP: Final = "streamUpstreamName"
SERVER: Final = "streamUpstreamServerId"
GROUP_ERRORS: Final = ("UpstreamStatic", "UpstreamNotFound")
SERVER_ERRORS: Final = (*GROUP_ERRORS, "UpstreamBadServerId", "UpstreamServerNotFound")


def change(request: Request, group: Group, edit: Edit,
           answer: Callable[[list[Line]], Reply]) -> Reply | None:
    """Change a group, and answer when the change is in force. Raises: ApiError"""
    ends: list[list[Line] | ApiError] = []
    is_late = False

    def done(end: list[Line] | ApiError) -> None:
        if not is_late:
            ends.append(end)
            return
        try:
            found = end if isinstance(end, ApiError) else answer(end)
        except ApiError as error:  # it was removed again at once
            found = error
        request.respond(found)

    request.loop.get(changes.Changes).ask(group, edit, done)
    if not ends:
        is_late = True
        return None
    if isinstance(ends[0], ApiError):
        raise ends[0]
    return answer(ends[0])


def refuse_double(lines: list[Line], line: Line) -> None:
    """Refuse a server that is there already. Raises: ApiError

    Those that scrape the statistics know peers by their addresses.
    """
    for other in lines:
        if other.parent < 0 and other.id != line.id and is_same(other, line):
            where = line.address or line.server
            raise ApiError(409, "EntryExists", f'server "{where}" already exists')


def is_same(one: Line, other: Line) -> bool:
    """Tell whether two lines mean the same server."""
    if one.is_name or other.is_name:
        return one.is_name and other.is_name and (
            (one.server.lower(), one.service) == (other.server.lower(), other.service)
        )
    return one.address == other.address


def _conf(request: Request) -> UpstreamConf:
    return listing.group_of(request, request.path[GROUP])


def _list(request: Request) -> Reply:
    return Reply(200, Items(listing.servers(_conf(request))))


def _get(request: Request) -> Reply:
    conf = _conf(request)
    return Reply(200, listing.server(conf, listing.number_of(request.path[SERVER])))


def _add(request: Request) -> Reply | None:
    conf = _conf(request)
    group = listing.dynamic_of(conf)
    new = params.new_line(conf, params.values(request.body))
    before: set[int] = set()

    def edit(lines: list[Line]) -> list[Line]:
        refuse_double(lines, new)
        before.update(line.id for line in lines)
        own = [line for line in lines if line.parent >= 0]
        return [*(line for line in lines if line.parent < 0), new, *own]

    def answer(lines: list[Line]) -> Reply:
        added = [line.id for line in lines if line.id not in before]
        if not added:  # somebody has spoiled what is shared
            raise ApiError(500, "InternalError", "internal error")
        return Reply(201, listing.server(conf, added[-1]))

    return change(request, group, edit, answer)


def _change(request: Request) -> Reply | None:
    conf = _conf(request)
    group = listing.dynamic_of(conf)
    number = listing.number_of(request.path[SERVER])
    listing.server(conf, number)  # what is not there is said before what is wrong with the body
    given: dict[str, Any] = params.values(request.body)

    def edit(lines: list[Line]) -> list[Line]:
        for place, line in enumerate(lines):
            if line.id == number:
                found = params.changed(conf, line, given)
                if found.address != line.address:
                    _refuse_address(lines, found)
                return [*lines[:place], found, *lines[place + 1 :]] if found != line else lines
        one = listing.address_line(conf, number)
        if one is None:
            raise listing.no_server(number)
        found = params.changed(conf, one, given)
        return lines if found == one else [*lines, found]

    return change(request, group, edit, lambda _: Reply(200, listing.server(conf, number)))


def _refuse_address(lines: list[Line], line: Line) -> None:
    try:
        refuse_double(lines, line)
    except ApiError as error:  # a code that PATCH is not documented to have
        raise ApiError(400, "UpstreamBadAddress", error.text) from None


def _remove(request: Request) -> Reply | None:
    conf = _conf(request)
    group = listing.dynamic_of(conf)
    number = listing.number_of(request.path[SERVER])

    def edit(lines: list[Line]) -> list[Line]:
        if not any(line.id == number and line.parent < 0 for line in lines):
            if listing.address_line(conf, number) is None:
                raise listing.no_server(number)
            text = f'server "{number}" not removable'
            raise ApiError(400, "UpstreamServerImmutable", text)
        return [line for line in lines if number not in (line.id, line.parent)]

    return change(request, group, edit, lambda _: Reply(200, Items(listing.servers(conf))))


_PATH: Final = f"/stream/upstreams/{{{GROUP}}}/servers"

ENDPOINTS: Final = (
    Endpoint(api.PLUS, _PATH, {
        "GET": Operation(
            _list, "The servers of a group, and behind a name the addresses it has now.",
            schema.array(params.SERVER), errors=GROUP_ERRORS,
        ),
        "POST": Operation(
            _add, "Adds a server to a group.", params.SERVER, 201, params.TAKES,
            errors=(*GROUP_ERRORS, *params.CHANGE_ERRORS, "UpstreamConfNoResolver",
                    "UpstreamNoBackup", "EntryExists", "JsonError"),
        ),
    }),
    Endpoint(api.PLUS, f"{_PATH}/{{{SERVER}}}", {
        "GET": Operation(_get, "One server of a group.", params.SERVER, errors=SERVER_ERRORS),
        "PATCH": Operation(
            _change, "Changes what is given of a server.", params.SERVER, 200, params.TAKES,
            errors=(*SERVER_ERRORS, *params.CHANGE_ERRORS, "UpstreamServerImmutable",
                    "UpstreamServerWeightImmutable", "JsonError"),
        ),
        "DELETE": Operation(
            _remove, "Removes a server; its sessions go on, unless `proxy_session_drop` ends "
            "them. Returns those that are left.",
            schema.array(params.SERVER), errors=(*SERVER_ERRORS, "UpstreamServerImmutable"),
        ),
    }),
)


def _stop_worker(stream: StreamConf, loop: Loop) -> None:
    loop.get(changes.Changes).forget(dynamic.groups_of(stream))


MODULE = StreamModule(name="upstream_servers", endpoints=ENDPOINTS, stop_worker=_stop_worker)
