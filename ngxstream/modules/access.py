"""allow, deny: who may connect, by address (ngx_stream_access_module.c).

1. IPv4, IPv6 and unix clients have a list each, in the order of the file; the first rule that fits
   decides, and where none fits the client may pass. `all` stands in all three lists.
2. An IPv4-mapped IPv6 client is judged by the IPv4 list where there is one.
3. The lists are one set: a server with any rule of its own inherits none.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from ngxstream.conf import directive as d
from ngxstream.conf.directive import SERVER, STREAM, TAKE1, Directive
from ngxstream.core import codes, errors, inet, ip, log
from ngxstream.stream import phases
from ngxstream.stream.explaining import Answer
from ngxstream.stream.module import PhaseHandler, StreamModule

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Given, Module
    from ngxstream.conf.reader import Statement
    from ngxstream.core.inet import SockAddr
    from ngxstream.stream.core import ServerConf, StreamDraft
    from ngxstream.stream.explaining import Explanation
    from ngxstream.stream.session import Session


class Rule(NamedTuple):
    """One allow or deny."""

    family: int | None  # AF_INET, AF_INET6, AF_UNIX; None for `all`
    network: bytes  # packed, b"" for unix and `all`
    prefix: int
    deny: bool

    def __str__(self) -> str:
        """Return it as a directive."""
        text = {None: "all", inet.AF_UNIX: "unix:"}.get(self.family)
        if text is None:
            whole = self.prefix == len(self.network) * 8
            text = ip.ntop(self.network) + ("" if whole else f"/{self.prefix}")
        return f"{'deny' if self.deny else 'allow'} {text}"


class RuleList:
    """The rules for one family, first match wins; a lookup is a dict per prefix length in use."""

    __slots__ = ("_levels",)

    def __init__(self, rules: Iterable[Rule], bits: int) -> None:
        """Args: rules: of one family, and `all`, in the order of the file"""
        levels: dict[int, dict[int, tuple[int, bool]]] = {}
        for place, rule in enumerate(rules):
            shift = bits - rule.prefix
            network = int.from_bytes(rule.network, "big") >> shift
            levels.setdefault(shift, {}).setdefault(network, (place, rule.deny))
        self._levels = tuple(levels.items())

    def first(self, address: int) -> tuple[int, bool] | None:
        """Return the place of the first rule that fits, and whether it denies; None for none."""
        best: tuple[int, bool] | None = None
        for shift, rules in self._levels:
            found = rules.get(address >> shift)
            if found is not None and (best is None or found < best):
                best = found
        return best


@dataclass(frozen=True, slots=True)
class AccessConf:
    """Who may connect to a server; None is a list without a rule."""

    inet: RuleList | None = None
    inet6: RuleList | None = None
    unix: bool | None = None  # whether unix clients are denied
    rules: tuple[Rule, ...] = ()  # that these are made of

    @property
    def is_used(self) -> bool:
        """Whether any rule is given."""
        return self.inet is not None or self.inet6 is not None or self.unix is not None

    def is_closed(self, family: int) -> bool:
        """Whether clients of a family that no other rule names are turned away."""
        return next(
            (rule.deny for rule in self.rules if rule.family in (family, None) and not rule.prefix),
            False,
        )


def handle(s: Session) -> int:
    """Let a client in or turn it away. Source: ngx_stream_access_handler"""
    denied = _is_denied(s.server.access, s.c.sockaddr)
    if denied is None:
        return codes.DECLINED
    if not denied:
        return codes.OK
    s.log_error(log.ERR, "access forbidden by rule")
    return codes.FORBIDDEN


def _is_denied(conf: AccessConf, sockaddr: SockAddr) -> bool | None:
    """Tell whether rules turn an address away; None where none says anything."""
    packed = inet.packed(sockaddr)
    if not packed:
        return conf.unix
    if conf.inet is not None:
        packed = ip.unmapped(packed)
    rules = conf.inet if len(packed) == 4 else conf.inet6
    found = None if rules is None else rules.first(int.from_bytes(packed, "big"))
    return None if found is None else found[1]


def _finish(draft: StreamDraft) -> None:
    """Have others ask about addresses that a client goes on from."""
    for server in draft.servers:
        conf: AccessConf = server.access
        if conf.is_used:
            server.admits = functools.partial(_admits, conf)


def _admits(conf: AccessConf, sockaddr: SockAddr) -> bool:
    return not _is_denied(conf, sockaddr)


def _explain(s: Session, explanation: Explanation) -> Answer:
    """Say which rule decides."""
    conf: AccessConf = s.server.access
    packed = inet.packed(s.c.sockaddr)
    if packed and conf.inet is not None:
        packed = ip.unmapped(packed)
    family = {4: ip.AF_INET, 16: ip.AF_INET6}.get(len(packed), inet.AF_UNIX)
    lists = {ip.AF_INET: conf.inet, ip.AF_INET6: conf.inet6}.get(family)
    found = (0, False) if lists is None else lists.first(int.from_bytes(packed, "big"))
    code = handle(s)
    if code == codes.DECLINED or found is None:
        return Answer(code, "no rule fits")
    rules = [rule for rule in conf.rules if rule.family in (family, None)]
    return Answer(code, str(rules[found[0]]))


def _is_wanted(server: ServerConf) -> bool:
    return bool(server.access.is_used)


def _rule(scope: Scope, module: Module, st: Statement) -> None:
    text = st.args[0]
    deny = st.directive == "deny"
    if text == "all":
        rule = Rule(None, b"", 0, deny)
    elif text == "unix:":
        rule = Rule(inet.AF_UNIX, b"", 0, deny)
    else:
        try:
            cidr = ip.parse_cidr(text)
        except ValueError:
            raise errors.ConfError(f'invalid parameter "{text}"') from None
        if cidr.low_bits:
            scope.warn(f"low address bits of {text} are meaningless")
        rule = Rule(cidr.family, cidr.packed, cidr.prefix, deny)
    scope.given_of(module).setdefault("rules", []).append(rule)
    d.note(scope, module, st)


def _merge(outer: Given, inner: Given) -> AccessConf:
    rules: list[Rule] = inner.get("rules") or outer.get("rules") or []

    def of(family: int) -> list[Rule]:
        return [rule for rule in rules if rule.family in (family, None)]

    v4, v6, unix = of(ip.AF_INET), of(ip.AF_INET6), of(inet.AF_UNIX)
    return AccessConf(
        RuleList(v4, 32) if v4 else None,
        RuleList(v6, 128) if v6 else None,
        unix[0].deny if unix else None,
        tuple(rules),
    )


BOTH: Final = STREAM | SERVER

MODULE = StreamModule(
    name="access",
    directives=(
        Directive("allow", BOTH, TAKE1, _rule, "Clients that may connect."),
        Directive("deny", BOTH, TAKE1, _rule, "Clients that are turned away."),
    ),
    conf=AccessConf,
    merge=_merge,
    finish=_finish,
    handlers=(PhaseHandler(phases.ACCESS, handle, _is_wanted, again=True),),
    explains=((handle, _explain),),
)
