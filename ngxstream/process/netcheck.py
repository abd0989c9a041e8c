"""Whether `proxy_bind … transparent` can work on this host as it stands: the warnings of -t.

Only what is certain to fail is warned of. What other hosts do cannot be seen from here.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING, Final

from ngxstream.core import inet
from ngxstream.event import connect, netlink
from ngxstream.process import netsetup

if TYPE_CHECKING:
    from ngxstream.process.netsetup import Flow
    from ngxstream.stream.core import StreamConf

_NO_INTERFACES: Final = {"all", "default", "lo"}
_OPTIONS: Final = {
    inet.AF_INET: (socket.IPPROTO_IP, connect.IP_TRANSPARENT),
    inet.AF_INET6: (socket.IPPROTO_IPV6, connect.IPV6_TRANSPARENT),
}


def warnings(stream: StreamConf | None) -> list[str]:
    """Return what stands in the way of the transparent servers of a configuration."""
    need = netsetup.needs(stream)
    found = need.flows
    said: list[str] = []
    families = list(dict.fromkeys(flow.family for flow in found))
    if (found or need.unknown) and not _may_bind(families):
        said.append("CAP_NET_RAW is missing")
    said += need.mismatches
    said += [
        f"there is no route to {flow.back[0]}"
        for flow in found
        if not netsetup.source_towards(flow.family, flow.back)
    ]
    for family in families:
        own = [flow for flow in found if flow.family == family and not flow.direct]
        if own:
            said += _replies(family, own)
    unique = list(dict.fromkeys(said))
    return [f'transparent "proxy_bind" cannot work on this host: {text}' for text in unique]


def _may_bind(families: list[int]) -> bool:
    """Try whether this process may bind to addresses of others; its workers may if it may."""
    for family in families or [inet.AF_INET]:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            try:
                sock.setsockopt(*_OPTIONS[family], 1)
            except PermissionError:
                return False
    return True


def _replies(family: int, found: list[Flow]) -> list[str]:
    """Return why replies of servers would not be delivered to the proxy."""
    name = netsetup.NAMES[family]
    ip = "ip" if family == inet.AF_INET else "ip -6"
    try:
        rules, routes = netlink.rules(family), netlink.routes(family)
    except OSError:
        return []  # nothing can be told
    defaults = [route for route in routes if not route.prefix]
    local = {route.table for route in defaults if route.kind == netlink.RTN_LOCAL}
    said = []
    if not rules:
        said.append(
            f'no rule routes marked {name} packets ("{ip} rule add fwmark …"): replies are not '
            "delivered here; -N prints what is needed"
        )
    elif not any(rule.table in local for rule in rules):
        table = rules[0].table
        said.append(
            f'table {table}, where marked {name} packets are routed by, has no local default route '
            f'("{ip} route add local {netsetup.DEFAULT[family]} dev lo table {table}")'
        )
    elif not _marks_anything():
        hosts = ", ".join(dict.fromkeys(inet.sock_ntop(flow.back) for flow in found))
        said.append(f"no rule of the firewall marks the replies of {hosts}")
    elif family == inet.AF_INET:
        said += _reverse_path()
    return said


def _reverse_path() -> list[str]:
    """Return whether the check of source addresses looks at the mark, and so drops all replies."""
    if netsetup.sysctl("net.ipv4.conf.all.src_valid_mark") != "1":
        return []
    try:
        parts = ["all", *sorted(set(os.listdir("/proc/sys/net/ipv4/conf")) - _NO_INTERFACES)]
    except OSError:
        return []
    names = [f"net.ipv4.conf.{part}.rp_filter" for part in parts]
    strict = [name for name in names if netsetup.sysctl(name) not in ("0", "")]
    if not strict:
        return []
    return [
        f"rp_filter ({strict[0]}) with net.ipv4.conf.all.src_valid_mark drops the marked replies"
    ]


def _marks_anything() -> bool:
    """Tell whether some rule of the firewall sets a mark; True where it cannot be told."""
    nft = shutil.which("nft")
    try:
        with open("/proc/net/ip_tables_names") as file:
            if "mangle" in file.read():
                return True  # the old iptables: nft does not see its rules
    except OSError:
        pass  # not loaded, or not for us to read
    if nft is None:
        return True
    try:
        done = subprocess.run(
            [nft, "list", "ruleset"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return True
    return "mark set" in done.stdout or "MARK" in done.stdout
