"""The commands of ngxstreamctl, each declared once: name, arguments, what it asks and what it says.

The parser, the completion and the manual are made of these declarations.
"""

from __future__ import annotations

import argparse
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from ngxstream.core import log as logs
from ngxstream.core import log_ring
from ngxstream.ctl import changing, tables
from ngxstream.ctl.client import OWN, PLUS, Client, CtlError, Said, segment
from ngxstream.stream import content

FOLLOW_S: Final = 1.0


class Arg(NamedTuple):
    """One argument. Args: names: of an option, or the one of a positional; more: for argparse"""

    names: tuple[str, ...]
    doc: str
    more: Mapping[str, Any] = {}


class Command(NamedTuple):
    """One command. `run` returns what it has to say: text for people, and a value for --json."""

    name: str
    doc: str
    args: tuple[Arg, ...]
    run: Callable[[Client, Namespace], Said]
    writes: bool = False

    def changes(self, args: Namespace) -> bool:
        """Tell whether it needs an API that allows changes."""
        return self.writes and getattr(args, "action", "") not in changing.READING


def number(least: int, most: int = 0x7FFF_FFFF) -> Callable[[str], int]:
    """Return what reads a number of a range. Raises: ArgumentTypeError"""

    def read(text: str) -> int:
        value = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else -1
        if not least <= value <= most:
            upper = f" to {most}" if most < 0x7FFF_FFFF else " or more"
            raise argparse.ArgumentTypeError(f'"{tables.clean(text)}" is not {least}{upper}')
        return value

    return read


# -- looking -------------------------------------------------------------------------------------


def status(api: Client, args: Namespace) -> Said:
    """Say at a glance whether all is well."""
    about = api.get(f"{PLUS}/nginx")
    connections = api.get(f"{PLUS}/connections")
    respawned = api.get(f"{PLUS}/processes")["respawned"]
    groups = api.get(f"{PLUS}/stream/upstreams")
    workers = api.get(f"{OWN}/workers")
    last = next(iter(api.get(f"{OWN}/reloads")["reloads"]), None)
    node = api.get(f"{OWN}/node")
    bad = list(_unwell(groups))
    master = workers.get("master", {"pid": about["ppid"], "state": "running"})
    value = {"nginx": about, "connections": connections, "respawned": respawned,
             "last_load": last, "draining": node["draining"],
             "master": master, "workers": workers["workers"], "peers_not_up": bad}
    serving = sum(one["state"] == "serving" for one in workers["workers"])
    leaving = len(workers["workers"]) - serving
    counts = "connections: {active} active, {accepted} accepted, {dropped} dropped"
    lines = [
        f"{about['build']} (configuration {about['generation']}, loaded {about['load_timestamp']})",
        f"{_MASTERS[master['state']].format(**master)}, {serving} worker{'s' * (serving != 1)}"
        + (f", {leaving} leaving" if leaving else "")
        + (f", {respawned} respawned" if respawned else ""),
        counts.format(**connections),
    ]
    if workers["silent"]:
        stuck = ", ".join(map(str, workers["silent"]))
        lines.insert(0, f"the loop of these workers STANDS STILL, by pid: {stuck}")
    if node["draining"]:
        lines.insert(0, "this node DRAINS: /healthz asks for no new clients")
    if last is not None and last["verdict"] == "failed":
        lines.insert(0, "the last reload, {time}, FAILED: {message}".format(**last))
    if master["state"] == "gone":
        lines.insert(0, _ORPHANS.format(**master))
    if bad:
        lines += ["", tables.table(("UPSTREAM", "PEER", "STATE"), bad)]
    else:
        lines.append("all peers are up")
    return "\n".join(map(tables.clean_lines, lines)), value


_MASTERS: Final = {"running": "master {pid}", "gone": "no master", "none": "one process, no master"}
_ORPHANS: Final = (
    "the master process {pid} is GONE: its workers serve on, but nobody reloads the "
    "configuration\nor replaces a worker that dies. Start the program again: it takes over."
)


def _unwell(groups: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, group in groups.items():
        if not group["peers"]:
            yield name, "-", "no servers"
        for peer in group["peers"]:
            if peer["state"] != "up":
                yield name, peer["server"], peer["state"]


def servers(api: Client, args: Namespace) -> Said:
    """List the servers: connections, sessions, bytes."""
    zones = api.get(f"{PLUS}/stream/server_zones")
    rows = [
        (name, one["processing"], one["connections"], one["sessions"]["2xx"],
         one["sessions"]["4xx"], one["sessions"]["5xx"], one["discarded"],
         tables.size(one["received"]), tables.size(one["sent"]))
        for name, one in zones.items()
    ]
    head = ("SERVER", "ACTIVE", "CONNECTIONS", "2XX", "4XX", "5XX", "DISCARDED", "IN", "OUT")
    return tables.table(head, rows), zones


def upstreams(api: Client, args: Namespace) -> Said:
    """List groups and their peers, or one group."""
    groups = api.get(f"{PLUS}/stream/upstreams")
    if args.upstream:
        if args.upstream not in groups:
            raise CtlError(f'there is no upstream "{tables.clean(args.upstream)}"')
        groups = {args.upstream: groups[args.upstream]}
    rows = [
        (name, one["id"], one["server"], one["state"], "backup" if one["backup"] else "",
         one["weight"], one["active"], one["connections"], one["fails"], one["unavail"],
         tables.size(one["sent"]), tables.size(one["received"]))
        for name, group in groups.items() for one in group["peers"]
    ]
    head = ("UPSTREAM", "ID", "PEER", "STATE", "", "WEIGHT", "ACTIVE", "CONNECTIONS", "FAILS",
            "UNAVAIL", "SENT", "RECEIVED")
    return tables.table(head, rows), groups


def sessions(api: Client, args: Namespace) -> Said:
    """List live sessions."""
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    matched, silent = 0, []
    while cursor is not None and len(found) < args.limit:
        most = str(min(args.limit - len(found), 1000))
        page = api.get(f"{OWN}/sessions", limit=most, cursor=cursor, **changing.filters(args))
        found += page["sessions"]
        cursor, matched, silent = page["cursor"], page["matched"], page["silent"]
    rows = [
        (one["id"], one["protocol"], one["client"], one["server"], one["upstream"] or "-",
         one["peer"] or "-", one["state"], tables.duration(one["age_ms"]),
         tables.duration(one["idle_ms"]), tables.size(one["received"]), tables.size(one["sent"]))
        for one in found
    ]
    head = ("ID", "", "CLIENT", "SERVER", "UPSTREAM", "PEER", "STATE", "AGE", "IDLE", "IN", "OUT")
    text = tables.table(head, rows)
    if matched > len(found):
        text += f"\n{len(found)} of {matched} (--limit)"
    if silent:
        text += f"\nno answer from workers {', '.join(map(str, silent))}"
    return text, {"sessions": found, "matched": matched, "silent": silent}


def explain(api: Client, args: Namespace) -> Said:
    """Say which server, variables, limits and peer a client would get, and why."""
    value = api.get(
        f"{OWN}/explain", protocol=args.protocol, client=args.client, local=args.local,
        server_name=args.server_name,
    )
    return "\n".join(_outline(value)), value


def _outline(value: Any, depth: int = 0) -> Iterator[str]:
    """Yield a JSON value as indented lines."""
    indent = "  " * depth
    if isinstance(value, dict):
        for name, one in value.items():
            if isinstance(one, dict | list) and one:
                yield f"{indent}{tables.clean(name)}:"
                yield from _outline(one, depth + 1)
            else:
                yield f"{indent}{tables.clean(name)}: {tables.plain(one)}"
    elif isinstance(value, list):
        for one in value:
            lines = list(_outline(one, depth + 1))
            if lines:
                yield f"{indent}- {lines[0].lstrip()}"
                yield from lines[1:]
    else:
        yield f"{indent}{tables.plain(value)}"


def reloads(api: Client, args: Namespace) -> Said:
    """List what became of reloads."""
    value = api.get(f"{OWN}/reloads")
    about = value["configuration"]
    rows = [
        (one["time"], one["verdict"], one["generation"], tables.duration(one["duration_ms"]),
         one["sessions_carried"], one["message"])
        for one in value["reloads"]
    ]
    head = ("TIME", "VERDICT", "GENERATION", "TOOK", "SESSIONS", "MESSAGE")
    age = tables.duration(about["age_s"] * 1000)
    said = f"{tables.clean(about['file'])}, configuration {about['generation']}, loaded {age} ago"
    return f"{said}\n{tables.table(head, rows)}", value


def workers(api: Client, args: Namespace) -> Said:
    """List the workers."""
    value = api.get(f"{OWN}/workers")
    rows = [
        (one["id"], one["pid"], "STANDS STILL" if one["pid"] in value["silent"] else one["state"],
         one["generation"], one["sessions"]["tcp"],
         one["sessions"]["udp"], one["connections"]["accepted"], one["loop_delay_ms"]["p99"],
         one["loop_delay_ms"]["max"], sum(one["udp"]["drops"].values()),
         tables.size(one["memory_bytes"]))
        for one in value["workers"]
    ]
    head = ("WORKER", "PID", "STATE", "GENERATION", "TCP", "UDP", "ACCEPTED", "DELAY P99 MS",
            "MAX", "DROPS", "MEMORY")
    return tables.table(head, rows), value


def _expiry(one: dict[str, Any]) -> tuple[bool, Any]:
    """Order certificates by when they expire; one that is chosen for each client is last."""
    return one["days_left"] is None, one["days_left"]


def certificates(api: Client, args: Namespace) -> Said:
    """List the certificates that are served, those that expire first on top."""
    value = api.get(f"{OWN}/certificates")
    rows = [
        ("-" if one["days_left"] is None else one["days_left"], one["not_after"] or "-",
         ", ".join(one["names"]) or one["subject"], one["file"])
        for one in sorted(value["certificates"], key=_expiry)
    ]
    return tables.table(("DAYS LEFT", "NOT AFTER", "NAMES", "FILE"), rows), value


def log(api: Client, args: Namespace) -> Said:
    """Print the last lines of the error log."""
    found = _lines(api, args, "")
    return "\n".join(map(_line, found)), found


def follow(api: Client, args: Namespace) -> Iterator[Said]:
    """Go on with new lines as they come. Ends by a signal alone."""
    since = ""
    seen: list[dict[str, Any]] = []
    while True:
        found = _lines(api, args, since)
        fresh = [one for one in found if one not in seen]
        if fresh:
            yield "\n".join(map(_line, fresh)), fresh
        if found:
            since = found[-1]["time"]
            seen = [one for one in found if one["time"] == since]
        time.sleep(FOLLOW_S)


def _lines(api: Client, args: Namespace, since: str) -> list[dict[str, Any]]:
    value = api.get(f"{OWN}/log", level=args.level, contains=args.contains,
                    limit=str(args.lines), since=since)
    found: list[dict[str, Any]] = value["lines"]
    return found


def _line(one: dict[str, Any]) -> str:
    connection = f" *{one['connection']}" if one["connection"] is not None else ""
    return tables.clean(
        f"{one['time']} [{one['level']}] {one['pid']}:{connection} {one['text']}"
    )


def metrics(api: Client, args: Namespace) -> Said:
    """Print what Prometheus gets."""
    text = api.fetch("GET", "/metrics").decode("utf-8", "replace").rstrip("\n")
    return "\n".join(map(tables.clean, text.split("\n"))), text


def probe(api: Client, args: Namespace) -> Said:
    """Make the checks of a group once, and show what was said."""
    path = f"{OWN}/upstreams/{segment(args.upstream)}/probe"
    value = api.request("POST", path, {"peer": args.server})
    lines: list[str] = []
    for one in value["probes"]:
        verdict = {True: "passed", False: "FAILED"}.get(one["passed"], "not made")
        lines.append(f"{one['peer']}  {verdict}: {one['why']}  ({one['took_ms']} ms)")
        lines.append(f"  check     health_check {one['check']}")
        if one["certificate_days_left"] is not None:
            lines.append(f"  expires   in {one['certificate_days_left']} days")
        lines.append(f'  sent      "{one["sent"]}"')
        lines.append(f'  received  "{one["received"]}"')
        lines.append(f"  expected  {one['expected']}")
        if one["parts_at"] is not None:
            lines.append(f"  they differ from byte {one['parts_at']}")
    return "\n".join(map(tables.clean, lines)), value


def healthz(api: Client, args: Namespace) -> Said:
    """Say whether new clients may come; the exit code is not 0 where they may not."""
    text = api.fetch("GET", "/healthz", {"upstream": args.upstream}).decode("utf-8", "replace")
    return tables.clean(text), text


# -- declared ------------------------------------------------------------------------------------

_GROUP: Final = Arg(("upstream",), "name of the group")
_SERVER: Final = Arg(("server",), "its address or its id")
_FILTERS: Final = (
    Arg(("--protocol",), "only of tcp or udp", {"choices": ("tcp", "udp")}),
    Arg(("--client",), "only of an address or a prefix, 192.0.2.0/24"),
    Arg(("--server",), "only of a server: its status_zone or its listen address"),
    Arg(("--upstream",), "only of a group"),
    Arg(("--peer",), "only of a peer"),
    Arg(("--state",), f"only in a state: {', '.join(content.STATES)}",
        {"choices": content.STATES, "metavar": "STATE"}),
    Arg(("--min-age",), "only those that are at least so old, 5s"),
    Arg(("--max-age",), "only those that are at most so old"),
    Arg(("--min-idle",), "only those where nothing moved for so long"),
)

COMMANDS: Final = (
    Command("status", "say at a glance whether all is well", (), status),
    Command("servers", "list the servers: connections, sessions, bytes", (), servers),
    Command("upstreams", "list groups and how their peers fare",
            (Arg(("upstream",), "only this group", {"nargs": "?"}),), upstreams),
    Command("sessions", "list live sessions", (
        *_FILTERS, Arg(("--limit",), "at most so many, 100", {"type": number(1), "default": 100}),
    ), sessions),
    Command("kill", "end sessions", (
        Arg(("id",), "ids as `sessions` prints them", {"nargs": "*"}), *_FILTERS,
        Arg(("--all",), "all there are", {"action": "store_true"}),
    ), changing.kill, writes=True),
    Command("probe", "make the checks of a group once, by hand", (
        _GROUP, Arg(("server",), "only of this one: its address or its id", {"nargs": "?"}),
    ), probe, writes=True),
    Command("drain", "give a server no new sessions", (_GROUP, _SERVER), changing.drain,
            writes=True),
    Command("down", "mark a server as down", (_GROUP, _SERVER), changing.down, writes=True),
    Command("up", "give a server new sessions again", (_GROUP, _SERVER), changing.up, writes=True),
    Command("weight", "set the weight of a server", (
        _GROUP, _SERVER, Arg(("weight",), "1 or more", {"type": number(1)}),
    ), changing.weight, writes=True),
    Command("add", "add a server to a group", (
        _GROUP, Arg(("server",), "ADDRESS:PORT, unix:PATH or NAME:PORT"),
        *(Arg((f"--{name}",), f"see `{name.replace('-', '_')}` of the server directive")
          for name in ("weight", "max-conns", "max-fails", "fail-timeout", "slow-start",
                       "service")),
        Arg(("--backup",), "used when no other server is available", {"action": "store_true"}),
        Arg(("--down",), "not used yet", {"action": "store_true"}),
        Arg(("--drain",), "given no new sessions yet", {"action": "store_true"}),
    ), changing.add, writes=True),
    Command("remove", "remove a server from a group", (_GROUP, _SERVER), changing.remove,
            writes=True),
    Command("drain-node", "ask for no new clients on this host", (
        Arg(("--undo",), "ask for them again", {"action": "store_true"}),
    ), changing.drain_node, writes=True),
    Command("healthz", "say by the exit code whether new clients may come", (
        Arg(("--upstream",), "groups that need a server that may be used, joined by commas"),
    ), healthz),
    Command("keyval", "look at the pairs of a keyval zone, or change them", (
        Arg(("action",), "what to do",
            {"choices": changing.KEYVAL_ACTIONS}),
        Arg(("zone",), "name of the zone"),
        Arg(("key",), "the key", {"nargs": "?"}),
        Arg(("value",), "the value", {"nargs": "?"}),
        Arg(("--expire",), "when the pair goes, 60s"),
    ), changing.keyval, writes=True),
    Command("explain", "say which server and peer a client would get, and why", (
        Arg(("protocol",), "tcp or udp", {"choices": ("tcp", "udp")}),
        Arg(("client",), "its ADDRESS:PORT"),
        Arg(("local",), "the ADDRESS:PORT that it connects to"),
        Arg(("--server-name",), "the name that it asks for in TLS"),
    ), explain),
    Command("reloads", "list what became of reloads", (), reloads),
    Command("workers", "list the workers", (), workers),
    Command("certificates", "list the certificates that are served", (), certificates),
    Command("log", "print the last lines of the error log", (
        Arg(("-f", "--follow"), "go on with new lines as they come", {"action": "store_true"}),
        Arg(("-n", "--lines"), f"so many, 100; at most {log_ring.LINES}",
            {"type": number(1, log_ring.LINES), "default": 100}),
        Arg(("--level",), f"of this level and worse: {', '.join(logs.LEVELS)}",
            {"choices": tuple(logs.LEVELS), "metavar": "LEVEL"}),
        Arg(("--contains",), "with this text"),
    ), log),
    Command("metrics", "print what Prometheus gets", (), metrics),
)
