"""What `proxy_bind … transparent` asks of the network, and -N: the commands that set it up.

The program changes nothing itself: it prints a script with one part for each host, and for each
part its undo, for the operator to review and paste. docs/client-address.md tells what they do.

Two kinds of flow, by what the server says:
  transparent   answers come back through this host and are delivered to the proxy's sockets
  direct        `proxy_responses 0` over UDP: answers bypass the proxy, and another host rewrites
                their source to the address that was asked
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ngxstream.core import inet
from ngxstream.event import netlink

if TYPE_CHECKING:
    from ngxstream.event.listen_options import ListenOptions
    from ngxstream.modules.proxy.bind import Bind
    from ngxstream.modules.proxy.conf import ProxyConf
    from ngxstream.stream.core import ServerConf, StreamConf

MARK: Final = 1
TABLE: Final = 100
NFT_TABLE: Final = "ngxstream"
_ANYWHERE: Final = {inet.AF_INET: ("192.0.2.1", 9), inet.AF_INET6: ("2001:db8::1", 9)}
DEFAULT: Final = {inet.AF_INET: "0.0.0.0/0", inet.AF_INET6: "::/0"}
NAMES: Final = {inet.AF_INET: "IPv4", inet.AF_INET6: "IPv6"}
_FORWARDING: Final = {
    inet.AF_INET: "net.ipv4.ip_forward",
    inet.AF_INET6: "net.ipv6.conf.all.forwarding",
}


@dataclass(frozen=True, slots=True)
class Flow:
    """One listening address and one server behind it, of one family."""

    protocol: str  # "tcp" or "udp"
    family: int
    front: tuple[str, int]  # host, port
    back: tuple[str, int]
    direct: bool
    place: str  # FILE:LINE of the server block

    @property
    def wildcard(self) -> bool:
        """Tell whether the listening address stands for all of the host's."""
        return self.front[0] in ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class Needs:
    """What the transparent servers of a configuration come to."""

    flows: list[Flow]
    unknown: list[str]  # FILE:LINE of servers whose backends are not known
    mismatches: list[str]  # who cannot be the source towards whom, in words


def needs(stream: StreamConf | None) -> Needs:
    """Gather what all transparent servers need of the network."""
    found: dict[Flow, None] = {}
    unknown: list[str] = []
    mismatches: dict[str, None] = {}
    for server in stream.servers if stream is not None else ():
        proxy: ProxyConf = server.proxy
        if not proxy.bind.transparent or (proxy.upstream is None and proxy.target is None):
            continue
        place = f"{server.file}:{server.line}"
        backs = _backends(server)
        if not backs:
            unknown.append(place)
        for draft in server.listens:
            options = draft.options
            if not isinstance(options.sockaddr, tuple):
                continue
            sources = _sources(proxy.bind, options)
            protocol = "udp" if options.is_udp else "tcp"
            direct = options.is_udp and not proxy.responses
            for family, back in backs:
                front = options.sockaddr[:2]
                if family in sources:
                    found[Flow(protocol, family, front, back, direct, place)] = None
                else:
                    who = _who(proxy.bind, options)
                    mismatches[
                        f"{who} cannot be the source towards {inet.sock_ntop(back)} ({place})"
                    ] = None
    return Needs(list(found), unknown, list(mismatches))


def _sources(bind: Bind, options: ListenOptions) -> set[int]:
    """Return the families of what a server's connections may be bound to."""
    both = {inet.AF_INET, inet.AF_INET6}
    if bind.sockaddr is not None:
        return {inet.family_of(bind.sockaddr)}
    if bind.value is None or "remote_addr" not in bind.value.text or options.proxy_protocol:
        return both
    if options.wildcard and options.ipv6only is False:
        return both  # IPv4 clients have a mapped address there
    return {options.family}


def _who(bind: Bind, options: ListenOptions) -> str:
    if bind.sockaddr is not None:
        return inet.address_text(bind.sockaddr)
    return f"{NAMES[options.family]} clients of {inet.sock_ntop(options.sockaddr)}"


def _backends(server: ServerConf) -> list[tuple[int, tuple[str, int]]]:
    upstream = server.proxy.upstream
    if upstream is None:
        return []
    return [
        (int(family), sockaddr[:2])
        for spec in upstream.servers
        for family, sockaddr, _ in spec.addrs
        if family != inet.AF_UNIX
    ]


def source_towards(family: int, sockaddr: tuple[str, int]) -> str:
    """Return the address this host uses towards another; "" without a route to it."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(sockaddr)  # no packet is sent
        except OSError:
            return ""
        host: str = sock.getsockname()[0]
        return host


def script(stream: StreamConf | None, conf_file: str) -> str:
    """Return the commands for a configuration, as a text for sh(1)."""
    need = needs(stream)
    lines = [
        f"# The network that {conf_file} needs, printed by -N. Nothing was changed.",
        "# Review each part, and paste it as root on the host that its heading names.",
    ]
    lines += [
        f"# The servers behind {place} are not known before a session: add theirs by this pattern."
        for place in need.unknown
    ]
    lines += [f"# WARNING: {text}." for text in need.mismatches]
    if not need.flows:
        lines.append(
            "# Nothing can be told."
            if need.unknown or need.mismatches
            else "# No `proxy_bind … transparent` was found: nothing is needed."
        )
    plain = [flow for flow in need.flows if not flow.direct]
    direct = [_placed(flow, lines) for flow in need.flows if flow.direct]
    clashes = {_origin(flow) for flow in plain} & {_origin(flow) for flow in direct}
    for protocol, host, port in sorted(clashes):
        lines.append(
            f"# WARNING: answers of {inet.sock_ntop((host, port))}/{protocol} are wanted here and "
            "past here: use different ports."
        )
    chosen = _told_apart(direct, lines)
    if plain:
        _transparent(plain, lines)
    if chosen:
        _direct(chosen, lines)
    return "\n".join(lines) + "\n"


def _origin(flow: Flow) -> tuple[str, str, int]:
    return flow.protocol, *flow.back


def _placed(flow: Flow, lines: list[str]) -> Flow:
    """Return a flow whose listening address is one that clients can have asked."""
    if not flow.wildcard:
        return flow
    own = source_towards(flow.family, flow.back)
    host = source_towards(flow.family, _ANYWHERE[flow.family])
    if not host or host == own:
        others = [one for one in netlink.addresses(flow.family) if one != own]
        host = others[0] if others else own
    note = f"# {flow.place} listens on every address; taken for what clients ask: {host}."
    if note not in lines:
        lines.append(note)
    return Flow(
        flow.protocol, flow.family, (host, flow.front[1]), flow.back, flow.direct, flow.place
    )


def _part(lines: list[str], title: str, commands: Iterable[str]) -> None:
    lines += ["", f"# ---- {title} ----", *commands]


def _hosts(found: list[Flow]) -> list[tuple[int, str]]:
    return list(dict.fromkeys((flow.family, flow.back[0]) for flow in found))


def _ip(family: int) -> str:
    return "ip" if family == inet.AF_INET else "ip -6"


# -- transparent -----------------------------------------------------------------------------


def _transparent(found: list[Flow], lines: list[str]) -> None:
    up: list[str] = []
    down: list[str] = []
    for family in dict.fromkeys(flow.family for flow in found):
        rule = f"fwmark {MARK} lookup {TABLE}"
        route = f"local {DEFAULT[family]} dev lo table {TABLE}"
        up += [f"{_ip(family)} rule add {rule}", f"{_ip(family)} route add {route}"]
        down += [f"{_ip(family)} rule del {rule}", f"{_ip(family)} route del {route}"]
    for flow in {_origin(flow): flow for flow in found}.values():
        program = "iptables" if flow.family == inet.AF_INET else "ip6tables"
        rest = (
            f"PREROUTING -p {flow.protocol} -s {flow.back[0]} --sport {flow.back[1]} "
            f"-j MARK --set-mark {MARK}"
        )
        up.append(f"{program} -t mangle -A {rest}")
        down.append(f"{program} -t mangle -D {rest}")
    _part(lines, "transparent: this host", up)
    _part(lines, "transparent: this host, undo", down)
    _by_way_of_us("transparent", found, lines)


def _by_way_of_us(kind: str, found: list[Flow], lines: list[str]) -> None:
    """Print the backends' default routes by this host."""
    for family, host in _hosts(found):
        via = source_towards(family, (host, 9))
        if not via:
            lines += ["", f"# There is no route to the backend {host}: its part cannot be told."]
            continue
        title = f"{kind}: the backend {host}"
        note = f"# note the present one before: {_ip(family)} route show default"
        _part(lines, title, [note, f"{_ip(family)} route replace default via {via}"])
        _part(
            lines,
            f"{title}, undo",
            ["# and add the former one again", f"{_ip(family)} route del default via {via}"],
        )


# -- direct server return --------------------------------------------------------------------


def _told_apart(found: list[Flow], lines: list[str]) -> list[Flow]:
    """Return one flow for each server's address and port, and warn of the others."""
    known: dict[tuple[str, str, int], Flow] = {}
    for flow in found:
        first = known.setdefault(_origin(flow), flow)
        if first.front != flow.front:
            lines.append(
                f"# WARNING: {inet.sock_ntop(flow.back)} serves {inet.sock_ntop(first.front)} and "
                f"{inet.sock_ntop(flow.front)}: its answers cannot be told apart. Give it a port "
                "for each; below they leave from the first."
            )
    return list(known.values())


def _direct(chosen: list[Flow], lines: list[str]) -> None:
    lines += [
        "",
        "# Direct server return, in one of two ways: either `by this host`, which forwards the",
        "# answers, or `by the backend`, which has a way of its own to the clients.",
    ]
    up: list[str] = []
    down: list[str] = []
    for family in dict.fromkeys(flow.family for flow in chosen):
        name = _FORWARDING[family]
        up.append(f"sysctl -w {name}=1")
        if sysctl(name) == "0":
            down.append(f"sysctl -w {name}=0")
    kind = "direct by this host"
    _part(lines, f"{kind}: this host", [*up, *_nft(chosen, "prerouting"), *_tc(chosen)])
    _part(lines, f"{kind}: this host, undo", [f"nft delete table inet {NFT_TABLE}", *down])
    _by_way_of_us(kind, chosen, lines)
    for family, host in _hosts(chosen):
        own = [flow for flow in chosen if flow.back[0] == host]
        notes = [
            "# its firewall must let it send from this host's address; with rp_filter 1 it drops",
            "# the clients' datagrams, which come by another way than answers leave:",
            "#   sysctl -w net.ipv4.conf.all.rp_filter=2",
        ]
        title = f"direct by the backend: the backend {host}"
        _part(
            lines,
            title,
            [*(notes if family == inet.AF_INET else notes[:0]), *_nft(own, "output"), *_tc(own)],
        )
        _part(lines, f"{title}, undo", [f"nft delete table inet {NFT_TABLE}"])


def sysctl(name: str) -> str:
    """Return the present value of a setting of the kernel, "" for unknown."""
    try:
        with open("/proc/sys/" + name.replace(".", "/")) as file:
            return file.read().strip()
    except OSError:
        return ""


def _nft(found: list[Flow], hook: str) -> list[str]:
    """Return the commands that rewrite answers without tracking their connections."""
    matches = []
    for flow in found:
        word = "ip" if flow.family == inet.AF_INET else "ip6"
        match = f"{word} saddr {flow.back[0]} udp sport {flow.back[1]}"
        matches.append(
            (match, f"{match} {word} saddr set {flow.front[0]} udp sport set {flow.front[1]}")
        )
    return [
        "nft -f - <<'END'",
        f"table inet {NFT_TABLE} {{",
        f"    chain untracked_{hook} {{",
        f"        type filter hook {hook} priority raw; policy accept;",
        *(f"        {match} notrack" for match, _ in matches),
        "    }",
        "    chain answers {",
        "        type filter hook postrouting priority srcnat; policy accept;",
        *(f"        {rewrite}" for _, rewrite in matches),
        "    }",
        "}",
        "END",
    ]


def _tc(found: list[Flow]) -> list[str]:
    """Return the same by tc, as comments: it needs more of the kernel, and cannot do as much."""
    lines = [
        "# or, in place of nft, with tc: needs the kernel's act_nat (CONFIG_NET_ACT_NAT), IPv4",
        "# alone, and rewrites addresses, not ports:",
        "#   dev=$(ip -4 -o route show default | sed 's/.* dev \\([^ ]*\\).*/\\1/;q')",
        "#   tc qdisc add dev $dev root handle 10: prio",
    ]
    some = False
    for flow in found:
        if flow.family != inet.AF_INET or flow.front[1] != flow.back[1]:
            continue
        some = True
        lines.append(
            f"#   tc filter add dev $dev parent 10: protocol ip prio 10 u32 match ip src "
            f"{flow.back[0]}/32 match ip protocol 17 0xff match ip sport {flow.back[1]} 0xffff "
            f"action nat egress {flow.back[0]}/32 {flow.front[0]}"
        )
    if not some:
        return ["# tc cannot do it here: the ports differ, or it is IPv6"]
    return [*lines, "#   undo: tc qdisc del dev $dev root handle 10:"]
