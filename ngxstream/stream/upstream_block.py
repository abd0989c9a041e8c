"""The upstream block: its name, its servers, and the upstreams that proxy_pass implies.

Answers for ngx_stream_upstream.c.

1. An upstream may be used before it is defined: whoever comes first enters it, and the entry keeps
   the place of the first mention.
2. The order of the lines inside a block counts: a method binds the servers that follow it.
3. The balancers are made when the stream block is complete, and only then are the host names of
   proxy_pass resolved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ngxstream.conf import directive as d
from ngxstream.conf import units
from ngxstream.conf.directive import STREAM, UPSTREAM, Directive
from ngxstream.core import errors, inet
from ngxstream.stream import resolver_conf, upstream
from ngxstream.stream.module import StreamModule
from ngxstream.stream.rotation import RotatingRoundRobin
from ngxstream.stream.upstream import Balancer, ServerSpec, UpstreamConf, UpstreamTable

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Given, Module
    from ngxstream.conf.reader import Statement
    from ngxstream.stream.core import StreamDraft

NO_SERVERS = "no servers are inside upstream"

# -- the upstreams of a stream block -----------------------------------------------------------


def add_upstream(draft: StreamDraft, text: str) -> UpstreamConf:
    """Return the upstream that an address or name stands for, entering it if it is new.

    Its place is that of the statement being read; its `balancer` stands once the block is complete.

    Args: text: as proxy_pass takes it, without variables: NAME, HOST:PORT or unix:PATH
    Raises: ConfError
    Source: ngx_stream_upstream_add
    """
    try:
        url = inet.parse_url(text, no_resolve=True)
    except inet.UrlError as error:
        raise errors.ConfError(f'{error} in upstream "{text}"') from None
    known = _known(draft, url, explicit=False)
    if known is not None:
        return known
    conf = _enter(draft, url.host, url.port, explicit=False)
    conf.no_port = url.no_port
    if url.addrs and (url.port or url.family == inet.AF_UNIX):
        conf.servers = [ServerSpec(url.url, list(url.addrs))]
    return conf


def find_upstream(upstreams: UpstreamTable, url: inet.Url) -> UpstreamConf | None:
    """Find the upstream that an address known only at run time names.

    Source: ngx_stream_proxy_handler
    """
    found = upstreams.at(url.host, url.port)
    return upstreams.at(url.host, 0) if found is None and url.no_port else found


def make_balancers(draft: StreamDraft) -> None:
    """Make the balancer of every upstream. Raises: ConfError

    Source: ngx_stream_upstream_init_main_conf
    """
    for conf in draft.upstreams:
        if not conf.explicit and not conf.servers:
            _resolve(conf)
        conf.is_dynamic = conf.zone is not None and (bool(conf.state) or draft.is_steered)
        if not conf.servers and not conf.is_dynamic:
            raise errors.ConfError(NO_SERVERS, *conf.end)
        _check_resolving(conf, draft)
        make = conf.method or RotatingRoundRobin.make
        conf.balancer = make(conf)


def set_method(
    scope: Scope, may: int, make: Callable[[UpstreamConf], Balancer] = RotatingRoundRobin.make
) -> UpstreamConf:
    """Give the upstream being read a balancing method; the last one named wins.

    Args: may: what the servers that follow may say (upstream.MAY_*)
    Returns: the upstream, whose `method` may still be set when its parameters turn out well
    """
    conf: UpstreamConf = scope.owner
    if conf.method is not None:
        scope.warn("load balancing method redefined")
    conf.may = may
    conf.method = make
    return conf


def _known(draft: StreamDraft, url: inet.Url, explicit: bool) -> UpstreamConf | None:
    first = draft.upstreams.first(url.host)
    if first is None:
        return None
    # nginx compares with one after another; the first of a name decides, since a block is refused
    # behind an address with a port, and an address with a port behind a block
    if explicit and first.explicit:
        raise errors.ConfError(f'duplicate upstream "{url.host}"')
    if first.explicit and not url.no_port:
        raise errors.ConfError(f'upstream "{url.host}" may not have port {url.port}')
    if explicit and not first.no_port:
        raise errors.UnplacedError(
            f'upstream "{url.host}" may not have port {first.port} in {first.file}:{first.line}'
        )
    return draft.upstreams.at(url.host, url.port)


def _enter(draft: StreamDraft, name: str, port: int, explicit: bool) -> UpstreamConf:
    file, line = draft.builder.place
    conf = UpstreamConf(name, file, line, explicit)
    conf.port = port
    draft.upstreams.enter(conf)
    return conf


def _resolve(conf: UpstreamConf) -> None:
    place = f'in upstream "{conf.name}" in {conf.file}:{conf.line}'
    if not conf.port:
        raise errors.UnplacedError(f"no port {place}")
    try:
        url = inet.parse_url(f"{conf.name}:{conf.port}")
    except inet.UrlError as error:
        raise errors.UnplacedError(f"{error} {place}") from None
    conf.servers = [ServerSpec(url.url, list(url.addrs))]


def _check_resolving(conf: UpstreamConf, draft: StreamDraft) -> None:
    """Check what resolving at run time asks for. Source: ngx_stream_upstream_init_round_robin"""
    outer = draft.given.get("core", {})
    if conf.is_dynamic:
        _inherit_resolver(conf, outer)
    if not any(spec.resolve for spec in conf.servers):
        return
    place = f'upstream "{conf.name}" in {conf.file}:{conf.line}'
    if conf.zone is None:
        raise errors.UnplacedError(
            f"resolving names at run time requires {place} to be in shared memory"
        )
    if not conf.may & upstream.MAY_RESOLVE:
        raise errors.UnplacedError(
            f"load balancing method does not support resolving names at run time in {place}"
        )
    _inherit_resolver(conf, outer)
    if conf.resolver is None:
        raise errors.UnplacedError(f"no resolver defined to resolve names at run time in {place}")


def _inherit_resolver(conf: UpstreamConf, outer: Given) -> None:
    conf.resolver = conf.resolver or outer.get("resolver")
    if conf.resolver_timeout < 0:
        conf.resolver_timeout = outer.get("resolver_timeout", 30_000)


# -- directives --------------------------------------------------------------------------------


def _upstream_block(scope: Scope, module: Module, st: Statement) -> None:
    draft: StreamDraft = scope.owner
    name = st.args[0]
    conf = _known(draft, inet.Url(name, host=name, no_port=True), explicit=True)
    if conf is None:
        conf = _enter(draft, name, 0, explicit=True)
    conf.explicit = True
    conf.no_port = True
    inner = type(scope)(scope.builder, UPSTREAM, scope, conf)
    scope.builder.walk_block(st, inner)
    given = inner.given_of(module)
    conf.resolver = given.get("resolver")
    conf.resolver_timeout = given.get("resolver_timeout", -1)
    conf.end = scope.builder.place
    if conf.state and conf.zone is None:
        raise errors.ConfError(
            f'keeping the state of servers requires upstream "{name}" to be in shared memory'
        )
    if not conf.servers and conf.zone is None:  # else it may get some at run time: make_balancers
        raise errors.ConfError(NO_SERVERS)


def _resolver(scope: Scope, module: Module, st: Statement) -> None:
    d.put(scope, module, st, "resolver", None)  # a second one is refused before it is looked at
    scope.given_of(module)["resolver"] = resolver_conf.parse(scope, st)


def _server(scope: Scope, module: Module, st: Statement) -> None:
    """Read one server line. Source: ngx_stream_upstream_server"""
    conf: UpstreamConf = scope.owner
    if conf.state and st.file != conf.state:
        raise errors.ConfError('"server" directive is incompatible with "state"')
    spec = ServerSpec(st.args[0], [])
    for arg in st.args[1:]:
        _parameter(conf, spec, arg)
    name = spec.name
    if spec.service and not spec.resolve:
        raise errors.ConfError(f'service upstream "{name}" requires "resolve" parameter')
    try:
        url = inet.parse_url(name, no_resolve=bool(spec.resolve))
    except inet.UrlError as error:
        raise errors.ConfError(f'{error} in upstream "{name}"') from None
    if spec.service:
        if not url.no_port:
            raise errors.ConfError(f'service upstream "{name}" may not have port')
        if url.addrs:
            raise errors.ConfError(f'service upstream "{name}" requires domain name')
    elif url.no_port:
        raise errors.ConfError(f'no port in upstream "{name}"')
    spec.host = url.host
    spec.port = url.port
    spec.addrs = list(url.addrs)
    # an address needs no resolving: nginx drops the word there
    spec.resolve = url.host if spec.resolve and not url.addrs else ""
    conf.servers.append(spec)


def _number(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = units.parse_number(text)
        if value < least:
            raise ValueError(text)
        return value

    return parse


# name: (what the method must allow, parser)
_VALUES: dict[str, tuple[int, Callable[[str], int]]] = {
    "weight": (upstream.MAY_WEIGHT, _number(1)),
    "max_conns": (upstream.MAY_MAX_CONNS, _number(0)),
    "max_fails": (upstream.MAY_MAX_FAILS, _number(0)),
    "fail_timeout": (upstream.MAY_FAIL_TIMEOUT, units.parse_time_sec),
    "slow_start": (upstream.MAY_SLOW_START, units.parse_time_sec),
}
_WORDS = {"backup": upstream.MAY_BACKUP, "down": upstream.MAY_DOWN, "drain": upstream.MAY_DOWN}


def _parameter(conf: UpstreamConf, spec: ServerSpec, arg: str) -> None:
    name, equals, text = arg.partition("=")
    may = 0
    parse = None
    if equals and name in _VALUES:
        may, parse = _VALUES[name]
    elif not equals and name in _WORDS:
        may = _WORDS[name]
    if may & ~conf.may:
        raise errors.ConfError(f'balancing method does not support parameter "{arg}"')
    if parse is not None:
        try:
            setattr(spec, name, parse(text))
        except ValueError:
            raise errors.ConfError(f'invalid parameter "{arg}"') from None
    elif may:
        setattr(spec, name, True)
    elif arg == "resolve":
        spec.resolve = spec.name
    elif equals and name == "service":
        if not text:
            raise errors.ConfError("service is empty")
        spec.service = text
    else:
        raise errors.ConfError(f'invalid parameter "{arg}"')


MODULE = StreamModule(
    name="upstream",
    directives=(
        Directive("upstream", STREAM, d.BLOCK1, _upstream_block,
                  "A group of servers that sessions are balanced over."),
        Directive("server", UPSTREAM, d.ONE_MORE, _server,
                  "One server of the group: an address, or a name standing for several."),
        Directive("resolver", UPSTREAM, d.ONE_MORE, _resolver,
                  "DNS servers for the names of this group; else those of the stream block."),
        Directive("resolver_timeout", UPSTREAM, d.TAKE1, d.msec("resolver_timeout"),
                  "How long a name of this group may take to resolve.", default="30s"),
    ),
    init=make_balancers,
)
