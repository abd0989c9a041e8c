"""health_check and health_check_timeout: what a server asks to be checked, and how often."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ngxstream.conf import units
from ngxstream.core import errors, inet
from ngxstream.event import probing
from ngxstream.modules.health import match
from ngxstream.stream import health
from ngxstream.stream import upstream as upstreams
from ngxstream.wire import agent, probes

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Given, Module
    from ngxstream.conf.reader import Statement
    from ngxstream.event.loop import Loop
    from ngxstream.event.probing import Outcome, Target
    from ngxstream.event.tls_client import Secure
    from ngxstream.stream.core import ServerConf, StreamDraft
    from ngxstream.stream.health import Prober
    from ngxstream.stream.upstream import Peer, UpstreamConf
    from ngxstream.wire.probes import Dialogue

ONCE: Final = health.Rule()
TYPES: Final = frozenset(("tcp", "udp", "tls", *probes.KINDS))
UDP_TEXT: Final = b"nginx health check"  # what a UDP check without `match` sends


@dataclass(frozen=True, slots=True)
class Spec:
    """One health_check as written; `text` is without secrets. Times in ms."""

    text: str
    place: tuple[str, int]
    interval: int = 5000
    jitter: int = 0
    rule: health.Rule = ONCE
    match: str = ""
    port: int = 0
    udp: bool = False
    kind: str = ""  # of TYPES, "" where the line has no type=
    options: tuple[tuple[str, str], ...] = ()  # those of the type
    fail_open: int = 0  # per cent, 0 for never
    proxy_protocol: bool = False
    agent: int = 0  # the port of the agents that are asked instead of the servers, 0 for none
    function: str = ""  # `module.function` that makes the probe, and what it is
    prober: Prober | None = field(default=None, compare=False)

    @property
    def asked(self) -> tuple[object, ...]:
        """What is asked of a server: as long as that is the same, what was found holds."""
        return (self.match, self.port, self.udp, self.kind, self.options, self.proxy_protocol,
                self.agent, self.function)


@dataclass(frozen=True, slots=True)
class HealthConf:
    """What a server says of checks. Times in ms."""

    checks: tuple[Spec, ...] = ()
    timeout: int = 5000


class Check(NamedTuple):
    """One check of a group: a health_check line, its server, and what is said."""

    spec: Spec
    server: ServerConf
    upstream: UpstreamConf
    key: str  # what its record is known by
    said: match.Match | None
    secure: Secure | None = None  # what is done for TLS

    def probe(self, loop: Loop, target: Target, timeout_ms: int,
              done: Callable[[Outcome], None]) -> health.Probe:
        """Make a probe of a server; the caller begins it."""
        prober = self.spec.prober
        if prober is not None:
            return prober.make(loop, self.server, target, timeout_ms, done)
        return probing.Probing(
            loop, target, self.dialogue(), timeout_ms, self.server.proxy.buffer_size, done,
            probes.ProbeError,
        )

    def dialogue(self) -> Dialogue:
        """Begin what is said to a server."""
        spec = self.spec
        if spec.agent:
            return agent.ask((self.said and self.said.send) or b"")
        if self.said is not None:
            if spec.udp and self.said.send is None and not self.said.hears:
                return probes.match(UDP_TEXT, None, None)
            return self.said.dialogue()
        kind = probes.KINDS.get(spec.kind)
        if kind is not None:
            make = kind.udp if spec.udp else kind.tcp
            assert make is not None
            return make(dict(spec.options))
        return probes.match(UDP_TEXT if spec.udp else b"", None, None)

    @property
    def hears(self) -> bool:
        """Whether an answer is expected."""
        if self.spec.agent:
            return True
        if self.said is not None:
            return self.said.hears
        return self.spec.kind in probes.KINDS or self.spec.prober is not None

    def can_ask(self, peer: Peer) -> bool:
        """Whether a peer can be asked: an agent is at a port of the peer's host."""
        return not self.spec.agent or isinstance(peer.sockaddr, tuple)


def merge(outer: Given, inner: Given) -> HealthConf:
    """Merge what two blocks gave: checks are a server's own."""
    timeout: int = {"timeout": 5000, **outer, **inner}["timeout"]
    return HealthConf(tuple(inner.get("checks", ())), timeout)


# -- reading a line ------------------------------------------------------------------------------


def _least(least: int, most: int = 0x7FFFFFFF) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = units.parse_number(text)
        if not least <= value <= most:
            raise ValueError(text)
        return value

    return parse


def _time(text: str) -> int:
    value = units.parse_time_msec(text)
    if value <= 0:
        raise ValueError(text)
    return value


def _kind(text: str) -> str:
    if text not in TYPES:
        raise ValueError(text)
    return text


def _percent(text: str) -> int:
    if not text.endswith("%"):
        raise ValueError(text)
    return _least(1, 99)(text[:-1])


_VALUES: Final[dict[str, Callable[[str], Any]]] = {
    "interval": _time, "jitter": units.parse_time_msec, "fails": _least(1), "passes": _least(1),
    "match": str, "py": str, "port": _least(1, 65535), "type": _kind, "fail_open": _percent,
    "agent": _least(1, 65535),
}
_WORDS: Final = frozenset(("mandatory", "persistent", "udp", "proxy_protocol"))
_OF_AGENTS: Final = frozenset(("agent", "interval", "jitter", "match"))
_OPTIONS: Final = frozenset(name for kind in probes.KINDS.values() for name in kind.options)


def add(scope: Scope, module: Module, st: Statement) -> None:
    """Read one health_check. Raises: ConfError"""
    found: dict[str, Any] = {}
    options: dict[str, str] = {}
    for arg in st.args:
        name, equals, text = arg.partition("=")
        try:
            if equals and name in _VALUES:
                found[name] = _VALUES[name](text)
            elif equals and name in _OPTIONS:
                options[name] = text
            elif not equals and arg in _WORDS:
                found[arg] = True
            else:
                raise ValueError(arg)
        except ValueError:
            raise errors.ConfError(f'invalid parameter "{arg}"') from None
    for name in sorted((found.keys() | options.keys()) - _OF_AGENTS) if "agent" in found else ():
        raise errors.ConfError(f'"{name}" cannot be used with "agent="')
    function = found.get("py", "")
    spec = Spec(
        agent=found.get("agent", 0),
        function=function, prober=_prober(scope, st, function) if function else None,
        text=" ".join("secret=…" if arg.startswith("secret=") else arg for arg in st.args),
        place=(st.file, st.line),
        interval=found.get("interval", 5000), jitter=found.get("jitter", 0),
        rule=health.Rule(found.get("fails", 1), found.get("passes", 1),
                         found.get("mandatory", False), found.get("persistent", False)),
        match=found.get("match", ""), port=found.get("port", 0), udp=found.get("udp", False),
        kind=found.get("type", ""), options=tuple(sorted(options.items())),
        fail_open=found.get("fail_open", 0), proxy_protocol=found.get("proxy_protocol", False),
    )
    scope.given_of(module).setdefault("checks", []).append(_settled(spec, scope))


def _prober(scope: Scope, st: Statement, word: str) -> Prober:
    made: Prober = scope.builder.data[health.PROBERS](scope, st, word)
    return made


def _settled(spec: Spec, scope: Scope) -> Spec:
    """Return a spec whose parameters fit together. Raises: ConfError"""
    if spec.rule.persistent and not spec.rule.mandatory:
        raise errors.ConfError('"persistent" requires "mandatory"')
    if spec.function and (spec.match or spec.kind in probes.KINDS):
        other = "match=" if spec.match else f"type={spec.kind}"
        raise errors.ConfError(f'"py=" cannot be used with "{other}"')
    if not spec.kind:
        if spec.options:
            raise errors.ConfError(f'"{spec.options[0][0]}=" requires "type="')
        return spec
    if spec.match and spec.kind in probes.KINDS:
        raise errors.ConfError(f'"match=" cannot be used with "type={spec.kind}"')
    udp = spec.udp
    kind = probes.KINDS.get(spec.kind)
    if kind is None:
        if spec.options:
            raise errors.ConfError(f'"type={spec.kind}" does not support "{spec.options[0][0]}="')
        if udp and spec.kind != "udp":
            raise errors.ConfError(f'"type={spec.kind}" does not support "udp"')
        udp = spec.kind == "udp"
    else:
        try:
            kind.check(dict(spec.options))
        except ValueError as error:
            raise errors.ConfError(f'invalid parameter of "type={spec.kind}": {error}') from None
        if udp and kind.udp is None:
            raise errors.ConfError(f'"type={spec.kind}" does not support "udp"')
        # the protocol's own transport; for those that have both, `udp` says
        udp = udp or kind.tcp is None
    if udp and spec.proxy_protocol:
        scope.warn('"proxy_protocol" of a UDP check goes in front of its first datagram')
    return replace(spec, udp=udp)


# -- when the block is read ----------------------------------------------------------------------


def check(conf: HealthConf, server: ServerConf, draft: StreamDraft) -> None:
    """See that a server's checks have something to check. Raises: UnplacedError"""
    if not conf.checks:
        return
    upstream: UpstreamConf | None = server.proxy.upstream
    file, line = conf.checks[0].place
    if upstream is None or not upstream.explicit:
        raise errors.UnplacedError(
            f'"health_check" requires "proxy_pass" to a named upstream in {file}:{line}'
        )
    upstream.wants_zone = True
    if not conf.timeout:
        raise errors.UnplacedError(f'"health_check_timeout" is zero in {file}:{line}')
    matches = draft.given.get("health", {}).get("_matches", {})
    for spec in conf.checks:
        file, line = spec.place
        if spec.match and spec.match not in matches:
            raise errors.UnplacedError(f'match "{spec.match}" is not found in {file}:{line}')
        if spec.agent and spec.match and matches[spec.match].hears:
            raise errors.UnplacedError(
                f'match "{spec.match}" has "expect", which the check of an agent does not take, '
                f"in {file}:{line}"
            )
        if spec.agent:
            _warn_of_agent(upstream, draft, f"in {file}:{line}")
        made: list[Check] = draft.data.setdefault("health", [])
        same = sum(one.spec.asked == spec.asked and one.upstream is upstream for one in made)
        key = "\0".join((upstream.name.lower(), *map(str, spec.asked), str(same)))
        one = Check(spec, server, upstream, key, matches.get(spec.match))
        made.append(one)
        if spec.udp and not one.hears:
            draft.warn('a UDP health check without "expect" finds out nothing but ICMP errors '
                       f"in {file}:{line}")


def _warn_of_agent(upstream: UpstreamConf, draft: StreamDraft, place: str) -> None:
    """Say what an agent cannot do for the servers of a group."""
    if not upstream.may & upstreams.MAY_SLOW_START:
        draft.warn(f'the method of upstream "{upstream.name}" takes no weight of an agent but 0 '
                   f"{place}")
    if any(family == inet.AF_UNIX for spec in upstream.servers for family, _, _ in spec.addrs):
        draft.warn(f'a server of upstream "{upstream.name}" is a UNIX-domain socket, '
                   f"which has no agent {place}")
