"""The ssl phase: a client's handshake, the choice of its server, the check of its certificate.

Answers for ngx_stream_ssl_handler(), ngx_stream_ssl_servername() and
ngx_stream_ssl_certificate() (ngx_stream_ssl_module.c).

1. Nothing of a session gets past this phase at an address with `ssl` before its handshake is done
   and its certificate has been looked at.
2. What a client does wrong is logged at info; the session ends with 500.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from ngxstream.core import codes, log
from ngxstream.event import libssl, libssl_context, libssl_facts, libssl_sessions, tls, tracing
from ngxstream.event.poller import READABLE
from ngxstream.event.turn_budget import TurnBudget
from ngxstream.modules.ssl import conf as c
from ngxstream.stream import endings, phases, servers
from ngxstream.stream.content import HANDSHAKE, Content, Shown
from ngxstream.stream.explaining import Answer

if TYPE_CHECKING:
    from ngxstream.stream.explaining import Explanation
    from ngxstream.stream.session import Session
    from ngxstream.stream.tls_certificates import Certificates
    from ngxstream.stream.values import ComplexValue

_ALERT_UNRECOGNIZED_NAME: Final = 112
_ALERT_INTERNAL_ERROR: Final = 80
# self-signed and unknown authorities. Source: ngx_ssl_verify_error_optional
_NO_CA_ERRORS: Final = frozenset((18, 19, 20, 21))


def handler_of(make: type[Handshake]) -> phases.Handler:
    """Return the handler of the phase. Args: make: makes a client's handshake"""

    def handle(s: Session) -> int:
        """Do the handshake, then check the client's certificate. Source: ngx_stream_ssl_handler"""
        if not s.address.ssl:
            return codes.OK
        if type(s.c.sock) is not tls.Transport:
            context = s.server.ssl.context
            if context is None:
                return codes.ERROR
            try:
                return make(s, context).start()
            except libssl.SslError as error:  # there is no memory for one more
                s.log_error(log.ALERT, error.message)
                return codes.ERROR
        return make.admit(s, s.c.sock)

    return handle


def explain(s: Session, explanation: Explanation) -> Answer:
    """Select the server of a name; the handshake itself is taken to succeed."""
    if not s.address.ssl:
        return Answer(codes.OK, "no TLS at this address")
    if s.server.ssl.context is None:
        return Answer(codes.ERROR, "there is no certificate")
    if explanation.name:
        servers.select(s, explanation.name)
    if s.server.ssl.reject_handshake:
        return Answer(codes.ERROR, "ssl_reject_handshake")
    return explanation.recheck()


class Handshake(Content):
    """One client's handshake while it lasts; the content of its session for so long."""

    __slots__ = ("s", "transport", "is_rejected", "underway", "deadline", "tick")

    def __init__(self, s: Session, context: libssl_context.Context) -> None:
        """Put the client's socket under TLS. Raises: SslError"""
        self.s = s
        self.is_rejected = False
        self.deadline = 0
        self.tick = 0
        c = s.c
        s.set_nodelay()
        transport = c.sock = tls.Transport(s.loop, context, c.sock)
        if s.log.level >= log.DEBUG:
            tracing.trace_tls(transport, s.trace())
        self.transport: tls.Transport | None = transport
        underway = self.underway = context.owner
        underway[transport.pointer] = self

    def start(self) -> int:
        """Begin. Returns: what a phase handler says"""
        s, transport = self.s, self.transport
        assert transport is not None
        loop, fd = s.loop, s.c.fd
        s.action = "SSL handshaking"
        code = transport.handshake()  # a client sends first: mostly its hello is here by now
        if code == codes.AGAIN:
            s.content = self
            self.deadline = loop.now_ms + s.server.ssl.handshake_timeout
            loop.timers.add(self)
            loop.register(fd, self.on_event)
            return code
        self._leave()
        if code == codes.ERROR:
            self.complain(transport)
        else:
            code = self.admit(s, transport)
        return code

    def on_event(self, mask: int) -> None:
        """Continue the handshake."""
        transport = self.transport
        if transport is None or not (mask & READABLE or transport.wants_write):
            return
        budget = self.s.loop.get(TurnBudget)
        if budget.is_busy:  # a name may be expensive to look up
            budget.put_off(self.s, self.go_on)
            return
        code = transport.handshake()
        if code != codes.AGAIN:
            self._end(transport, code)

    def go_on(self) -> None:
        """Continue the handshake in a later turn, after others had used one up."""
        transport = self.transport
        if transport is not None and self.s.loop.get(TurnBudget).let_in(self.s, self.go_on):
            code = transport.handshake()
            if code != codes.AGAIN:
                self._end(transport, code)

    def _end(self, transport: tls.Transport, code: int) -> None:
        """Go on after the handshake."""
        s = self.s
        self._leave()
        if code == codes.ERROR:
            self.complain(transport)
            s.finalize(codes.INTERNAL_SERVER_ERROR)
            return
        s.content = None
        phases.run(s)

    @staticmethod
    def admit(s: Session, transport: tls.Transport) -> int:
        """Check a client whose handshake is done. Returns: OK, or how the session ends"""
        if s.log.level >= log.INFO:
            transport.complain = partial(s.log_error, log.INFO)
        code = _check_client(s, transport) if s.server.ssl.verify else codes.OK
        return servers.recheck(s) if code == codes.OK else code

    def complain(self, transport: tls.Transport) -> None:
        """Say why the handshake failed."""
        message, number = transport.failure
        if self.is_rejected:
            message, number = "handshake rejected", None
        self.s.log_error(log.INFO, message, number)
        self.s.ending = endings.CLIENT_HANDSHAKE_FAILED

    def on_timeout(self) -> None:
        """End the session: ssl_handshake_timeout is over. nginx says nothing either."""
        self.s.end(codes.INTERNAL_SERVER_ERROR, endings.CLIENT_TIMEOUT)

    def shown(self) -> Shown:
        """Return what is to be told of it."""
        return Shown(HANDSHAKE)

    def close(self) -> None:
        """Drop all references: the session ends."""
        self._leave()

    def _leave(self) -> None:
        transport, self.transport = self.transport, None
        if transport is not None:
            self.underway.pop(transport.pointer, None)
            self.s.loop.timers.remove(self)


Pending = dict[int, Handshake]


def _check_client(s: Session, transport: tls.Transport) -> int:
    """Check the client's certificate. Returns: OK or ERROR"""
    lib, connection = transport.lib, transport.pointer
    mode = s.server.ssl.verify
    code, text = libssl_facts.verify_result(lib, connection)
    said = ""
    if code != libssl_facts.VERIFY_OK and (mode != c.VERIFY_NO_CA or code not in _NO_CA_ERRORS):
        said = f"client SSL certificate verify error: ({code}:{text})"
    elif mode == c.VERIFY_ON and not libssl_facts.has_peer(lib, connection):
        said = "client sent no required SSL certificate"
    else:
        # who was known at one server is not known at another. Source: ngx_stream_ssl_servername
        former = libssl_facts.session_name(lib, connection)
        if former is not None and transport.asked_name not in (None, former):
            said = "handshake rejected"
    if not said:
        return codes.OK
    s.log_error(log.INFO, said)
    s.ending = endings.DENIED
    libssl_sessions.forget(transport.context, connection)
    return codes.ERROR


def hello_handler(underway: Pending) -> libssl_context.HelloHandler:
    """Make what selects the virtual server a ClientHello asks for."""

    def select(connection: int, name: bytes | None) -> int:
        shaking = underway.get(connection)
        if shaking is None:  # cannot happen: each handshake is listed
            return _ALERT_INTERNAL_ERROR
        s = shaking.s
        assert shaking.transport is not None
        shaking.transport.asked_name = name
        if name and s.address.names is not None:
            before = s.server
            servers.select(s, name)
            server = s.server
            context = server.ssl.context
            if server is not before and context is not None:
                libssl_context.switch(context.lib, connection, context)
        if s.server.ssl.reject_handshake:
            shaking.is_rejected = True
            return _ALERT_UNRECOGNIZED_NAME
        return 0

    return select


def certificate_handler(underway: Pending, chosen: list[tuple[ComplexValue, ComplexValue]],
                        certificates: Certificates) -> Callable[[int], bool]:
    """Make what loads the certificates whose names have variables in them."""

    def load(connection: int) -> bool:
        shaking = underway.get(connection)
        if shaking is None:
            return False
        s = shaking.s
        try:
            for name, key in chosen:
                certificates.use(connection, name.get(s), key.get(s), s.loop.now_ms)
        except libssl.SslError as error:
            s.log_error(log.ERR, error.message)
            return False
        return True

    return load
