"""The events block: its directives and the conf they make (ngx_event.c, ngx_epoll_module.c)."""

from __future__ import annotations

import dataclasses
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ngxstream.conf import directive as d
from ngxstream.conf import units
from ngxstream.conf.directive import EVENTS, MAIN, Directive
from ngxstream.conf.module import Module
from ngxstream.core import errors, inet, ip

if TYPE_CHECKING:
    from ngxstream.conf.builder import Builder, Scope
    from ngxstream.conf.reader import Statement

SELECT_LIMIT: Final = 1024  # FD_SETSIZE
EPOLL: Final = "epoll"
EVENT_TYPES: Final = (EPOLL, "poll", "select")  # the latter two are ours


@dataclass(frozen=True, slots=True)
class DebugConnection:
    """Clients whose connections are logged at debug level."""

    unix: bool = False
    cidrs: tuple[ip.Cidr, ...] = ()

    def matches(self, sockaddr: inet.SockAddr) -> bool:
        """Tell whether a client is meant. Source: ngx_event_accept.c"""
        if inet.family_of(sockaddr) == inet.AF_UNIX:
            return self.unix
        packed = inet.packed(sockaddr)
        return any(packed in cidr for cidr in self.cidrs)

    def __bool__(self) -> bool:
        return self.unix or bool(self.cidrs)


@dataclass(frozen=True, slots=True)
class EventsConf:
    """What the events block said. Source: ngx_event_conf_t, ngx_epoll_conf_t"""

    worker_connections: int = 512
    use: str = EPOLL
    multi_accept: bool = False
    accept_mutex: bool = False
    accept_mutex_delay: int = 500  # ms
    epoll_events: int = 512
    worker_aio_requests: int = 32
    debug_connection: DebugConnection = DebugConnection()


def _events_block(scope: Scope, module: Module, st: Statement) -> None:
    builder = scope.builder
    if "events" in builder.data:
        raise errors.ConfError('"events" directive is duplicate')
    inner = type(scope)(builder, EVENTS, scope)
    builder.data["events"] = inner.given_of(MODULE)
    builder.walk_block(st, inner)


def _worker_connections(scope: Scope, module: Module, st: Statement) -> None:
    if "worker_connections" in scope.given_of(module):
        raise errors.ConfError('"worker_connections" directive is duplicate')
    try:
        value = units.parse_number(st.args[0])
    except ValueError:
        raise errors.ConfError(f'invalid number "{st.args[0]}"') from None
    d.put(scope, module, st, "worker_connections", value)


def _use(scope: Scope, module: Module, st: Statement) -> None:
    if "use" in scope.given_of(module):
        raise errors.ConfError('"use" directive is duplicate')
    if st.args[0] not in EVENT_TYPES:
        raise errors.ConfError(f'invalid event type "{st.args[0]}"')
    d.put(scope, module, st, "use", st.args[0])


def _debug_connection(scope: Scope, module: Module, st: Statement) -> None:
    given = scope.given_of(module)
    before: DebugConnection = given.get("debug_connection", DebugConnection())
    text = st.args[0]
    if text == "unix:":
        given["debug_connection"] = dataclasses.replace(before, unix=True)
        return
    try:
        cidr = ip.parse_cidr(text)
        found = [cidr]
        if cidr.low_bits:
            scope.warn(f"low address bits of {text} are meaningless")
    except ValueError:
        try:
            addrs = inet.resolve_host(text)
        except inet.UrlError as error:
            raise errors.ConfError(f'{error.reason} in debug_connection "{text}"') from None
        found = [
            ip.parse_cidr(host) for host, family in addrs
            if family in (socket.AF_INET, socket.AF_INET6)
        ]
    given["debug_connection"] = dataclasses.replace(before, cidrs=(*before.cidrs, *found))


DIRECTIVES: Final = (
    Directive("events", MAIN, d.BLOCK, _events_block, "The block of connection processing."),
    Directive("worker_connections", EVENTS, d.TAKE1, _worker_connections,
              "How many connections a worker may have, to clients and upstreams together.",
              default="512"),
    Directive("use", EVENTS, d.TAKE1, _use,
              "How the kernel is asked what is ready; poll and select are extensions of ours, "
              "select knows 1024 descriptors.", default="epoll"),
    Directive("multi_accept", EVENTS, d.FLAG, d.flag("multi_accept"),
              "Whether all waiting connections are accepted at once.", default="off"),
    Directive("accept_mutex", EVENTS, d.FLAG, d.flag("accept_mutex"),
              "Accepted; of the workers that wait for a client only one is woken anyway.",
              default="off"),
    Directive("accept_mutex_delay", EVENTS, d.TAKE1, d.msec("accept_mutex_delay"),
              "How long accepting pauses when descriptors have run out.", default="500ms"),
    Directive("debug_connection", EVENTS, d.TAKE1, _debug_connection,
              "Clients whose connections are logged at debug level."),
    Directive("epoll_events", EVENTS, d.TAKE1, d.num("epoll_events"),
              "How many events the kernel may report at once.", default="512"),
    Directive("worker_aio_requests", EVENTS, d.TAKE1, d.num("worker_aio_requests"),
              "Accepted; no file is read asynchronously here.", default="32"),
)

MODULE: Final = Module("events", DIRECTIVES, EventsConf)


def events_conf(builder: Builder, listenings: int) -> EventsConf:
    """Make the events conf. Args: listenings: how many listening sockets there are

    Raises: UnplacedError. Source: ngx_event.c ngx_event_init_conf, ngx_select_init
    """
    given = builder.data.get("events")
    if given is None:
        raise errors.UnplacedError('no "events" section in configuration')
    conf: EventsConf = MODULE.make_conf({}, given)
    # one for each listening socket, and one for the channel from the master
    if conf.worker_connections < listenings + 1:
        raise errors.UnplacedError(
            f"{conf.worker_connections} worker_connections are not enough "
            f"for {listenings} listening sockets"
        )
    if conf.use == "select" and conf.worker_connections > SELECT_LIMIT:
        raise errors.UnplacedError(
            f"the maximum number of files supported by select() is {SELECT_LIMIT}, "
            f"{conf.worker_connections} worker_connections are too many"
        )
    stream = builder.data.get("stream_conf")
    if stream is not None and conf.debug_connection:
        stream.use_debug_connection(conf.debug_connection.matches)
    return conf
