"""pass: hand an accepted connection to another listening socket of this configuration
(ngx_stream_pass_module.c).

The connection goes on as a session of that socket's server, as if it had been accepted there. The
session that passed it on is forgotten without an access log line; what it held (a place in a
limit_conn zone) is given back when the connection ends.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ngxstream.conf.directive import SERVER, TAKE1, Directive
from ngxstream.core import errors, inet
from ngxstream.core.codes import INTERNAL_SERVER_ERROR, OK, STREAM_OK
from ngxstream.core.log import ERR
from ngxstream.stream import core_facts, endings, explaining, values
from ngxstream.stream.explaining import Answer
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.stream.addresses import ListeningConf
    from ngxstream.stream.core import StreamConf, StreamDraft
    from ngxstream.stream.explaining import Explanation
    from ngxstream.stream.session import Session
    from ngxstream.stream.values import ComplexValue

MAX_PASSES: Final = 10
KEY: Final = "pass_"  # where the draft keeps the block's Targets


class Targets:
    """The listening sockets of a stream block; filled when the block is complete."""

    __slots__ = ("hand_over", "listenings")

    def __init__(self) -> None:
        self.listenings: tuple[ListeningConf, ...] = ()
        self.hand_over = _hand_over

    def fill(self, conf: StreamConf) -> None:
        """Take them from a finished block."""
        self.listenings = conf.listenings
        if any(server.watched for server in conf.servers):
            self.hand_over = _hand_over_counted

    def find(self, addr: inet.Addr) -> ListeningConf | None:
        """Return the first TCP socket an address leads to. Source: ngx_stream_pass_match"""
        for listening in self.listenings:
            options = listening.options
            if options.socktype == socket.SOCK_DGRAM or options.family != addr.family:
                continue
            if options.wildcard:
                if inet.port_of(options.sockaddr) == inet.port_of(addr.sockaddr):
                    return listening
            elif inet.sock_ntop(options.sockaddr) == inet.sock_ntop(addr.sockaddr):
                return listening
        return None


@dataclass(frozen=True, slots=True)
class PassConf:
    """Where to pass connections. Args: addr, value: one of them is set"""

    targets: Targets | None = None
    addr: inet.Addr | None = None
    value: ComplexValue | None = None


def handle(s: Session) -> None:
    """Pass the connection on: the content handler. Source: ngx_stream_pass_handler"""
    s.action = "passing connection to port"
    conf: PassConf = s.server.pass_
    try:
        addr = _address(s, conf)
    except _Refused as refused:
        s.log_error(ERR, str(refused))
        s.end(INTERNAL_SERVER_ERROR, endings.BAD_TARGET)
        return
    assert conf.targets is not None
    listening = conf.targets.find(addr)
    if listening is None:
        s.log_error(ERR, f'port not found for "{addr.name}"')
        s.end(STREAM_OK, endings.BAD_TARGET)
        return
    s.c.local = addr.sockaddr
    conf.targets.hand_over(s, listening)


class _Refused(Exception):
    """A connection that cannot be passed; the text is nginx's."""


def _address(s: Session, conf: PassConf) -> inet.Addr:
    c = s.c
    if c.is_udp:
        raise _Refused("cannot pass udp connection")
    if s.preread:
        raise _Refused("cannot pass connection with preread data")
    addr = conf.addr
    if addr is None:
        assert conf.value is not None
        text = conf.value.get(s).decode("utf-8", "surrogateescape")
        try:
            url = inet.parse_url(text, no_resolve=True)
        except inet.UrlError as error:
            raise _Refused(f'{error.reason} in pass "{text}"') from None
        if not url.addrs:
            raise _Refused(f'no addresses in pass "{text}"')
        if url.no_port:
            raise _Refused(f'no port in pass "{text}"')
        addr = url.addrs[0]
    c.passes += 1
    if c.passes > MAX_PASSES:
        raise _Refused("stream pass cycle")
    return addr


def _explain(s: Session, explanation: Explanation) -> Answer:
    """Say where the connection would go on, and explain that."""
    conf: PassConf = s.server.pass_
    try:
        addr = _address(s, conf)
    except _Refused as refused:
        return Answer(INTERNAL_SERVER_ERROR, str(refused))
    assert conf.targets is not None
    listening = conf.targets.find(addr)
    if listening is None:
        explanation.end(explaining.FAILED, f'port not found for "{addr.name}"', STREAM_OK)
        return Answer(OK, f'port not found for "{addr.name}"')
    s.c.local = addr.sockaddr
    explanation.next = listening
    return Answer(OK, f"goes on at {listening.options.text}")


def _hand_over(s: Session, listening: ListeningConf) -> None:
    """Begin a new session at another socket."""
    cleanups = s.abandon()
    try:
        after = listening.begin(s.c, s.loop)
    except Exception:
        s.loop.call_all(reversed(cleanups))
        raise
    if after.status:  # over already
        s.loop.call_all(reversed(cleanups))
        return
    for cleanup in cleanups:
        after.add_cleanup(cleanup)


def _hand_over_counted(s: Session, listening: ListeningConf) -> None:
    """Do the same where sessions are counted."""
    if s.address.is_watched:
        core_facts.passed_on(s)
    _hand_over(s, listening)


def _pass(scope: Scope, module: Module, st: Statement) -> None:
    given = scope.given_of(module)
    if given:
        raise errors.ConfError('"pass" directive is duplicate')
    scope.owner.serve_by(handle, scope, st, slots=2)
    draft: StreamDraft = scope.builder.data["stream"]
    given["targets"] = _targets(draft)
    value = values.compile_value(st.args[0], draft.variables)
    if value.constant is None:
        given["value"] = value
        return
    text = st.args[0]
    try:
        url = inet.parse_url(text, no_resolve=True)
    except inet.UrlError as error:
        raise errors.ConfError(f'{error.reason} in "{text}" of the "pass" directive') from None
    if not url.addrs:
        raise errors.ConfError('"pass" directive has no addresses')
    if url.no_port:
        raise errors.ConfError('"pass" directive has no port')
    given["addr"] = url.addrs[0]


def _targets(draft: StreamDraft) -> Targets:
    targets: Targets | None = draft.data.get(KEY)
    if targets is None:
        targets = draft.data[KEY] = Targets()
        draft.finished.append(targets.fill)
    return targets


MODULE = StreamModule(
    name="pass_",
    directives=(
        Directive("pass", SERVER, TAKE1, _pass,
                  "Hands connections to another listening socket of this configuration."),
    ),
    conf=PassConf,
    explains=((handle, _explain),),
)
