"""Servers of a group as JSON: what the API takes and gives, and what it says of what it refuses.

Codes and texts are those of NGINX Plus as documented; where its documents give a code alone, the
text is ours. Numbers may come as texts, times with and without a unit: the dashboard of NGINX Plus
sends both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from ngxstream.conf import units
from ngxstream.core import inet
from ngxstream.modules.upstream.roster import Line
from ngxstream.stream import schema, upstream
from ngxstream.stream.api import ApiError

if TYPE_CHECKING:
    from ngxstream.stream.upstream import ServerSpec, UpstreamConf

MOST: Final = (1 << 31) - 1
MOST_WEIGHT: Final = 65_535  # as in SRV records
LONGEST: Final = 512  # characters of an address or a service

# name: (code, least, most)
_NUMBERS: Final = {
    "weight": ("UpstreamBadWeight", 1, MOST_WEIGHT),
    "max_conns": ("UpstreamBadMaxConns", 0, MOST),
    "max_fails": ("UpstreamBadMaxFails", 0, MOST),
}
_TIMES: Final = {
    "fail_timeout": "UpstreamBadFailTimeout",
    "slow_start": "UpstreamBadSlowStart",
}
_FLAGS: Final = ("backup", "down", "drain")
_TRUTHS: Final = {"true": True, "false": False, "1": True, "0": False, "on": True, "off": False}
_ADDRESS: Final = re.compile(r"[A-Za-z0-9_./:@=%+,~\[\]-]+")  # what needs no quotes in a state file
_HOST: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")

_SERVER: Final = {
    "id": schema.described(schema.COUNT, "Unique within the group, not used again at once."),
    "server": schema.described(schema.TEXT, "An address with its port, unix:path, or a name."),
    "service": schema.optional(schema.TEXT),
    "weight": schema.COUNT,
    "max_conns": schema.COUNT,
    "max_fails": schema.COUNT,
    "fail_timeout": schema.described(schema.TEXT, "With its unit: 10s."),
    "slow_start": schema.described(schema.TEXT, "With its unit: 0s."),
    "backup": schema.BOOL,
    "down": schema.BOOL,
    "drain": schema.described(schema.BOOL, "Sessions it has go on, others do not begin."),
    "parent": schema.optional(schema.described(schema.TEXT, "The id of the name it is one of.")),
    "host": schema.optional(schema.described(schema.TEXT, "That name.")),
}
SERVER: Final = schema.obj("A server of a group.", **_SERVER)
_NUMBER: Final = {"anyOf": [schema.INT, schema.TEXT]}
_FLAG: Final = {"anyOf": [schema.BOOL, schema.enum(*_TRUTHS)]}
_TAKEN: Final = {
    "server": schema.TEXT, "service": schema.TEXT,
    **dict.fromkeys((*_NUMBERS, *_TIMES), _NUMBER), **dict.fromkeys(_FLAGS, _FLAG),
}
TAKES: Final = schema.obj(
    "A server; what is missing has its default, or is not changed.",
    **{name: schema.optional(one) for name, one in _TAKEN.items()},
)
TAKES_LIST: Final = schema.array(schema.obj(
    "A server of the list; with an id it is the one that has it.",
    **{name: schema.optional(one) for name, one in {"id": schema.COUNT, **_TAKEN}.items()},
))
CHANGE_ERRORS: Final = (
    "UpstreamConfFormatError", "UpstreamBadAddress", "UpstreamBadWeight", "UpstreamBadMaxConns",
    "UpstreamBadMaxFails", "UpstreamBadFailTimeout", "UpstreamBadSlowStart", "UpstreamBadService",
    "UpstreamOutOfMemory", "StateNotWritten", "Unavailable",
)


# -- out ---------------------------------------------------------------------------------------


def shown(spec: ServerSpec, number: int, server: str, weight: int, parent: int) -> dict[str, Any]:
    """Return a server as the API shows it. Args: parent: the id of its name, -1 for none"""
    found: dict[str, Any] = {"id": number, "server": server}
    if spec.service and parent < 0:
        found["service"] = spec.service
    found.update(
        weight=weight, max_conns=spec.max_conns, max_fails=spec.max_fails,
        fail_timeout=f"{spec.fail_timeout}s", slow_start=f"{spec.slow_start}s",
        backup=spec.backup, down=spec.down, drain=spec.drain,
    )
    if parent >= 0:
        found.update(parent=str(parent), host=spec.name)
    return found


# -- in ----------------------------------------------------------------------------------------


def format_error(text: str) -> ApiError:
    """Return the error of a body that says what cannot be said."""
    return ApiError(400, "UpstreamConfFormatError", text)


def values(body: object, also: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what a body says, each value checked by itself. Raises: ApiError

    Args: also: names that may be given besides; their values are not looked at
    """
    if body is None:
        return {}
    if not isinstance(body, Mapping):
        raise format_error("nested object or list")
    found: dict[str, Any] = {}
    for name, value in body.items():
        if name not in _TAKEN and name not in also:
            raise format_error(f'unknown parameter "{name[:64]}"')
        if isinstance(value, dict | list):
            raise format_error("nested object or list")
        if name in _NUMBERS:
            found[name] = _number(name, value)
        elif name in _TIMES:
            found[name] = _time(name, value)
        elif name in _FLAGS:
            flag = _TRUTHS.get(value) if isinstance(value, str) else value
            if not isinstance(flag, bool):
                raise format_error(f'invalid "{name}" value')
            found[name] = flag
        elif name in _TAKEN and not isinstance(value, str):
            raise format_error(f'invalid "{name}" value')
        else:
            found[name] = value
    if found.get("service") == "":
        raise ApiError(400, "UpstreamBadService", '"service" is empty')
    return found


def _number(name: str, value: object) -> int:
    code, least, most = _NUMBERS[name]
    number = -1
    if isinstance(value, str):
        try:
            number = units.parse_number(value)
        except ValueError:
            number = -1
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    if not least <= number <= most:
        raise ApiError(400, code, f'invalid "{name}"')
    return number


def _time(name: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    seconds = -1
    if isinstance(value, str):
        try:
            seconds = units.parse_time_sec(value)
        except ValueError:
            seconds = -1
    if not 0 <= seconds <= MOST:
        raise ApiError(400, _TIMES[name], f'invalid "{name}"')
    return seconds


def address(conf: UpstreamConf, server: str, service: str = "") -> str:
    """Return the address that a server is, as peers are named; "" for a name. Raises: ApiError"""

    def refuse(text: str) -> ApiError:
        return ApiError(400, "UpstreamBadAddress", text)

    if not server or len(server) > LONGEST or _ADDRESS.fullmatch(server) is None:
        raise refuse('invalid "server" argument')
    try:
        url = inet.parse_url(server, no_resolve=True)
    except inet.UrlError as error:
        raise refuse(f'{error} in "{server}" while parsing') from None
    if service:
        if len(service) > LONGEST or _ADDRESS.fullmatch(service) is None:
            raise ApiError(400, "UpstreamBadService", 'invalid "service"')
        if not url.no_port:
            raise refuse(f'service upstream "{server}" may not have port')
        if url.addrs:
            raise refuse(f'service upstream "{server}" requires domain name')
    elif url.no_port:
        raise refuse(f'no port in server "{server}"')
    if url.addrs:
        return url.addrs[0].name
    if len(url.host) > 255 or _HOST.fullmatch(url.host) is None:
        raise refuse('invalid "server" argument')
    if conf.resolver is None or not conf.may & upstream.MAY_RESOLVE:
        raise ApiError(400, "UpstreamConfNoResolver", "no resolver defined to resolve")
    return ""


def new_line(conf: UpstreamConf, given: dict[str, Any]) -> Line:
    """Return the line of a server that is to be added. Raises: ApiError"""
    server = given.get("server")
    if server is None:
        raise format_error('missing "server" argument')
    line = Line(-1, server, address(conf, server, given.get("service", "")))
    line = line._replace(**{name: value for name, value in given.items() if name in _TAKEN})
    if line.backup and not conf.may & upstream.MAY_BACKUP:
        raise ApiError(400, "UpstreamNoBackup", f'upstream "{conf.name}" has no backup')
    _check_slow_start(conf, given)
    _check_weight(conf, given)
    return line


def _check_slow_start(conf: UpstreamConf, given: dict[str, Any]) -> None:
    if given.get("slow_start", 0) and not conf.may & upstream.MAY_SLOW_START:
        text = 'load balancing method does not support parameter "slow_start"'
        raise ApiError(400, "UpstreamBadSlowStart", text)


def _check_weight(conf: UpstreamConf, given: dict[str, Any]) -> None:
    most: int = getattr(conf.balancer, "most_weight", MOST_WEIGHT)
    if given.get("weight", 1) > most:
        text = f'invalid "weight": more than {most} with this load balancing method'
        raise ApiError(400, "UpstreamBadWeight", text)


def changed(conf: UpstreamConf, line: Line, given: dict[str, Any]) -> Line:
    """Return a line with what is given in place of what it said. Raises: ApiError

    Args: line: of a server, or of one address of a name
    """
    given = {name: value for name, value in given.items() if name in _TAKEN}
    _check_slow_start(conf, given)
    _check_weight(conf, given)
    server = given.pop("server", None)
    for name in ("backup", "service"):
        if given.pop(name, getattr(line, name)) != getattr(line, name):
            raise format_error(f'invalid "{name}" value')
    if server is not None and server not in (line.server, line.address):
        immutable = ApiError(400, "UpstreamServerImmutable", "address is immutable")
        if line.parent >= 0:
            raise immutable
        found = address(conf, server, line.service)
        if not found or line.is_name:
            raise immutable
        if found != line.address:
            given.update(server=server, address=found)
    if line.parent >= 0 and line.service and given.get("weight", line.weight) != line.weight:
        raise ApiError(400, "UpstreamServerWeightImmutable", "weight is immutable")
    return line._replace(**given)
