"""allow, deny: who may connect, by address (ngx_stream_access_module.c).

1. IPv4, IPv6 and unix clients have a list each, in the order of the file; the first rule that fits
   decides, and where none fits the client may pass. `all` stands in all three lists.
2. An IPv4-mapped IPv6 client is judged by the IPv4 list where there is one.
3. The lists are one set: a server with any rule of its own inherits none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from ngxstream.conf import directive as d
from ngxstream.conf.directive import SERVER, STREAM, TAKE1, Directive
from ngxstream.core import codes, errors, inet, ip, log
from ngxstream.stream import phases
from ngxstream.stream.module import PhaseHandler, StreamModule

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Given, Module
    from ngxstream.conf.reader import Statement
    from ngxstream.stream.core import ServerConf
    from ngxstream.stream.session import Session


class Rule(NamedTuple):
    """One allow or deny."""

    family: int | None  # AF_INET, AF_INET6, AF_UNIX; None for `all`
    network: bytes  # packed, b"" for unix and `all`
    prefix: int
    deny: bool


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

    def denies(self, address: int) -> bool | None:
        """Tell what the first rule that fits says of an address; None when none fits."""
        best: tuple[int, bool] | None = None
        for shift, rules in self._levels:
            found = rules.get(address >> shift)
            if found is not None and (best is None or found < best):
                best = found
        return None if best is None else best[1]


@dataclass(frozen=True, slots=True)
class AccessConf:
    """Who may connect to a server; None is a list without a rule."""

    inet: RuleList | None = None
    inet6: RuleList | None = None
    unix: bool | None = None  # whether unix clients are denied

    @property
    def is_used(self) -> bool:
        """Whether any rule is given."""
        return self.inet is not None or self.inet6 is not None or self.unix is not None


def handle(s: Session) -> int:
    """Let a client in or turn it away. Source: ngx_stream_access_handler"""
    conf: AccessConf = s.server.access
    packed = inet.packed(s.c.sockaddr)
    if not packed:
        denied = conf.unix
    else:
        if conf.inet is not None:
            packed = ip.unmapped(packed)
        rules = conf.inet if len(packed) == 4 else conf.inet6
        denied = None if rules is None else rules.denies(int.from_bytes(packed, "big"))
    if denied is None:
        return codes.DECLINED
    if not denied:
        return codes.OK
    s.log_error(log.ERR, "access forbidden by rule")
    return codes.FORBIDDEN


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
    )


BOTH: Final = STREAM | SERVER

MODULE = StreamModule(
    name="access",
    directives=(
        Directive("allow", BOTH, TAKE1, _rule, "Clients that may connect.",
                  syntax="allow address | CIDR | unix: | all"),
        Directive("deny", BOTH, TAKE1, _rule, "Clients that are turned away.",
                  syntax="deny address | CIDR | unix: | all"),
    ),
    conf=AccessConf,
    merge=_merge,
    handlers=(PhaseHandler(phases.ACCESS, handle, _is_wanted, again=True),),
)
