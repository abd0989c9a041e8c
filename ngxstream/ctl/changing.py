"""The commands of ngxstreamctl that change something: sessions, servers of groups, pairs."""

from __future__ import annotations

from argparse import Namespace
from typing import Any, Final

from ngxstream.conf import units
from ngxstream.ctl import tables
from ngxstream.ctl.client import OWN, PLUS, REFUSED, USAGE, Client, CtlError, Said, segment

FILTERS: Final = ("protocol", "client", "server", "upstream", "peer", "state", "min_age",
                  "max_age", "min_idle")


def filters(args: Namespace) -> dict[str, str]:
    """Return the filters that a command was given, as the API takes them."""
    return {name: getattr(args, name) for name in FILTERS if getattr(args, name)}


# how many words follow the zone, by what is done
_KEYVAL: Final = {"list": 0, "get": 1, "add": 2, "set": 2, "del": 1, "clear": 0}
KEYVAL_ACTIONS: Final = tuple(_KEYVAL)
READING: Final = frozenset(("list", "get"))  # that change nothing


def kill(api: Client, args: Namespace) -> Said:
    """End sessions: some by id, or all that filters choose."""
    chosen = filters(args)
    if args.id:
        if chosen or args.all:
            raise CtlError("kill wants ids or a filter, not both", USAGE)
        for ended, name in enumerate(args.id):
            try:
                api.request("DELETE", f"{OWN}/sessions/{segment(name)}")
            except CtlError as error:
                text = f'"{tables.clean(name)}": {error}' + (f"; {ended} ended" if ended else "")
                raise CtlError(text, error.code) from None
        return f"{len(args.id)} ended", {"ended": len(args.id)}
    if not chosen and not args.all:
        raise CtlError("kill wants ids, a filter, or --all", USAGE)
    if args.all:
        chosen["all"] = "1"
    value = api.request("DELETE", f"{OWN}/sessions", chosen)
    return f"{value['ended']} ended", value


def _change(api: Client, args: Namespace, **change: Any) -> Said:
    path, one = _server(api, args)
    value = api.request("PATCH", f"{path}/{one['id']}", None, change)
    what = ", ".join(f"{name} is {tables.plain(one)}" for name, one in change.items())
    return f"{tables.clean(one['server'])}: {what}", value


def _server(api: Client, args: Namespace) -> tuple[str, dict[str, Any]]:
    """Find the server of a group by its id or its address. Raises: CtlError"""
    path = f"{PLUS}/stream/upstreams/{segment(args.upstream)}/servers"
    found = [one for one in api.get(path) if args.server in (one["server"], str(one["id"]))]
    if len(found) == 1:
        return path, found[0]
    name, group = tables.clean(args.server), tables.clean(args.upstream)
    if found:
        ids = ", ".join(str(one["id"]) for one in found)
        raise CtlError(f'"{name}" is more than once in "{group}": say which by its id, {ids}')
    raise CtlError(f'there is no server "{name}" in "{group}"')


def drain(api: Client, args: Namespace) -> Said:
    """Give a server no new sessions; those it has go on."""
    return _change(api, args, drain=True)


def down(api: Client, args: Namespace) -> Said:
    """Mark a server as down."""
    return _change(api, args, down=True)


def up(api: Client, args: Namespace) -> Said:
    """Give a server new sessions again, after drain or down."""
    return _change(api, args, down=False, drain=False)


def drain_node(api: Client, args: Namespace) -> Said:
    """Have /healthz ask for no new clients; what load balancers, routers and VRRP ask."""
    value = api.request("PATCH", f"{OWN}/node", None, {"draining": not args.undo})
    return "this node drains" if value["draining"] else "this node does not drain", value


def weight(api: Client, args: Namespace) -> Said:
    """Set the weight of a server."""
    return _change(api, args, weight=args.weight)


def add(api: Client, args: Namespace) -> Said:
    """Add a server to a group."""
    body: dict[str, Any] = {"server": args.server}
    for name in ("weight", "max_conns", "max_fails", "fail_timeout", "slow_start", "service"):
        if getattr(args, name) is not None:
            body[name] = getattr(args, name)
    for name in ("backup", "down", "drain"):
        if getattr(args, name):
            body[name] = True
    path = f"{PLUS}/stream/upstreams/{segment(args.upstream)}/servers"
    value = api.request("POST", path, None, body)
    return f"added {tables.clean(value['server'])} as {value['id']}", value


def remove(api: Client, args: Namespace) -> Said:
    """Remove a server from a group; its sessions go on."""
    path, one = _server(api, args)
    value = api.request("DELETE", f"{path}/{one['id']}")
    return f"removed {tables.clean(one['server'])}, {len(value)} left", value


def keyval(api: Client, args: Namespace) -> Said:
    """Look at the pairs of a keyval zone, or change them."""
    path = f"{PLUS}/stream/keyvals/{segment(args.zone)}"
    action, key, value = args.action, args.key, args.value
    given = sum(one is not None for one in (key, value))
    if given > _KEYVAL[action]:  # who wants one pair cleared must not lose all of them
        wanted = ("nothing but a zone", "nothing but a key", "")[_KEYVAL[action]]
        raise CtlError(f"keyval {action} takes {wanted}", USAGE)
    if args.expire is not None and action not in ("add", "set"):
        raise CtlError(f"keyval {action} takes no --expire", USAGE)
    if action == "list":
        pairs = api.get(path)
        return tables.table(("KEY", "VALUE"), pairs.items()), pairs
    if action == "clear":
        api.request("DELETE", path)
        return "cleared", {}
    if key is None or (action in ("add", "set") and value is None):
        wanted = "a key and a value" if action in ("add", "set") else "a key"
        raise CtlError(f"keyval {action} wants {wanted}", USAGE)
    if action == "get":
        pairs = api.get(path, key=key)
        (found,) = pairs.values()  # the key may be written in another way there
        return tables.clean(found), pairs
    if action == "del":
        api.request("PATCH", path, None, {key: None})
        return "deleted", {}
    said: Any = value
    if args.expire is not None:
        said = {"value": value, "expire": _milliseconds(args.expire)}
    if action == "add":
        api.request("POST", path, None, {key: said})
        return "added", {}
    try:
        api.request("PATCH", path, None, {key: said})
    except CtlError as error:
        if error.code != REFUSED or "KeyvalKeyNotFound" not in str(error):
            raise
        api.request("POST", path, None, {key: said})
    return "set", {}


def _milliseconds(text: str) -> int:
    """Return a time as the configuration writes them, 60s. Raises: CtlError"""
    try:
        found = units.parse_time_msec(text)
    except ValueError:
        found = 0
    if found <= 0:
        raise CtlError(f'"{tables.clean(text)}" is no time', USAGE)
    return found
