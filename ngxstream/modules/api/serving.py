"""A client of the API: its requests are read, answered one after another, and written out.

1. Everything a client sets going runs in Slices, so that sessions wait no longer than a slice.
2. Nothing is read while a reply is under way, and of a reply no more is made than a
   piece ahead of what the client has taken (sending.py).
3. Each state has an end in time: HEADER_MS, BODY_MS, IDLE_MS, ANSWER_MS for a whole reply and
   STALL_MS between two writes, LINGER_MS.
"""

from __future__ import annotations

import errno
from collections.abc import Generator
from time import monotonic_ns
from typing import TYPE_CHECKING

from ngxstream.core.codes import INTERNAL_SERVER_ERROR, SERVICE_UNAVAILABLE, STREAM_OK
from ngxstream.core.log import INFO
from ngxstream.modules.api import answering, refusals, sending, states, users
from ngxstream.modules.api.channel import Channel
from ngxstream.stream import endings
from ngxstream.stream.api import ApiError, Reply
from ngxstream.wire import http, http_reply

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.modules.api.answering import Route
    from ngxstream.modules.api.conf import ApiConf
    from ngxstream.modules.api.sending import Sending
    from ngxstream.stream.session import Session


Work = Generator[None, None, Reply | None]


class Clients:
    """How many clients of the API a worker has: `loop.get(Clients)`."""

    __slots__ = ("count",)

    def __init__(self, loop: Loop) -> None:
        self.count = 0


def handle(s: Session) -> None:
    """Begin to serve a client: the content handler."""
    if s.loop.get(Clients).count >= states.MAX_CLIENTS + states.MAX_REFUSED:
        s.finalize(SERVICE_UNAVAILABLE)  # or a flood of them would take the worker's connections
        return
    client = s.content = Client(s)
    client.start()


class Client(Channel):
    """One connection."""

    __slots__ = (
        "conf",  # ApiConf
        "parser",
        "rest",  # bytes that were read and are not fed to it
        "clients",
        "state",
        "does_fit",  # bool | None: what came of states.CHECKING
        "status",  # int: how the session ends
        "number",  # int: of the request
        "head",  # Head | None: of the request that is answered
        "route",  # Route | None: of it
        "reply",  # Reply | None: that came and is not begun
        "work",  # Work | None: what leads to it
        "sending",  # Sending | None: the reply that is written
        "is_last",  # bool: the connection ends behind this reply
        "is_unread",  # bool: its request was not read whole
        "until",  # int: ms, when the reply, or being idle, has to be over
    )

    def __init__(self, s: Session) -> None:
        super().__init__(s)
        self.conf: ApiConf = s.server.api
        self.parser = http.Parser()
        self.rest = b""
        self.clients = s.loop.get(Clients)
        self.state = states.IDLE
        self.does_fit: bool | None = None
        self.status = STREAM_OK
        self.number = 0
        self.head: http.Head | None = None
        self.route: Route | None = None
        self.reply: Reply | None = None
        self.work: Work | None = None
        self.sending: Sending | None = None
        self.is_last = False
        self.is_unread = False
        self.until = 0
        self.clients.count += 1

    def start(self) -> None:
        """Read what the client sends, from now on."""
        s = self.s
        s.action = states.PARTS[http.LINE]
        if s.preread:
            s.c.received += len(s.preread)
            self.rest, s.preread = bytes(s.preread), b""
        self.open()
        if self.clients.count > states.MAX_CLIENTS:
            self.is_unread = True
            self._refuse(503, "too many clients")
        else:
            self.wait(states.HEADER_MS)
        self.schedule()

    # -- turns ---------------------------------------------------------------------------------

    @property
    def is_deaf(self) -> bool:
        """Whether nothing is read for now."""
        return bool(self.out) or self.state in (states.CHECKING, states.RUNNING)

    def step(self, over: int) -> bool:
        """Take one step. Args: over: ns, when the slice is. Returns: whether there may be more"""
        state = self.state
        begun = self.sending
        if begun is not None:
            if begun.is_done:
                self._replied(begun.keeps)
            else:
                self._go_on_sending(begun, over)
            return True
        if state == states.RUNNING:
            if self.work is not None:
                self._go_on_working(self.work, over)
                return True
            reply, self.reply = self.reply, None
            if reply is not None:
                self._send(reply, over)
            return reply is not None
        if state == states.LINGERING:
            return self._discard()
        if state == states.CHECKING:
            return self._go_on_identified()
        return self._read()

    # -- reading -------------------------------------------------------------------------------

    def _read(self) -> bool:
        parser = self.parser
        try:
            event = parser.next()
        except http.HttpError as error:
            self._refuse_bytes(error)
            return True
        if isinstance(event, http.Head):
            self._on_head(event)
        elif isinstance(event, http.Body):
            self._on_body(event.data)
        else:
            if self.state == states.IDLE and not parser.is_idle:
                self.state = states.HEADER
                if self.number:
                    self.wait(states.HEADER_MS)
            return self._receive()
        return True

    def _receive(self) -> bool:
        data = self.rest or self.recv()
        if data:  # one-byte chunks take 0.3 ms for each kilobyte (2026-11)
            self.parser.feed(data[: states.PORTION])
            self.rest = data[states.PORTION :]
        elif data is not None:
            s = self.s
            if not self.parser.is_idle or self.state == states.BODY:
                s.action = states.PARTS[self.parser.part]
                s.log_error(INFO, "client prematurely closed connection")
            s.end(STREAM_OK, endings.CLOSED_BY_CLIENT)
        return bool(data)

    def _on_head(self, head: http.Head) -> None:
        self.number += 1
        self.head = head
        self.state = states.BODY
        self.is_unread = head.length != 0  # until it is accepted
        self.wait(states.BODY_MS)  # the time of being idle would be over in the midst of it
        try:
            fits = answering.identify(self.s, self.conf, head, self._on_identified)
        except ApiError as error:
            self._reply_soon(refusals.refusal(error))
            return
        if fits is None:
            self.state = states.CHECKING
            self.does_fit = None
            self.wait(states.ANSWER_MS)
        else:
            self._accept(head, fits)

    def _on_identified(self, does_fit: bool) -> None:
        self.does_fit = does_fit
        self.schedule()

    def _go_on_identified(self) -> bool:
        head, does_fit = self.head, self.does_fit
        if head is None or does_fit is None:
            return False
        self.state = states.BODY
        self._accept(head, does_fit)
        return True

    def _accept(self, head: http.Head, does_fit: bool) -> None:
        """Go on with a request whose head is whole, and its client known."""
        try:
            if not does_fit:
                raise users.challenge()
            self.route = answering.route(self.conf, head)
        except ApiError as error:
            self._reply_soon(refusals.refusal(error))
            return
        self.is_unread = False
        if head.length != 0:
            if self.route.placed.operation.takes is None:
                self.parser.limit_body(states.SMALL_BODY)
            if head.expects:
                self.out = http_reply.CONTINUE
            self.wait(states.BODY_MS)

    def _on_body(self, data: bytes) -> None:
        head, route = self.head, self.route
        if self.state != states.BODY:
            return  # of a request that was refused, which had none
        assert head is not None and route is not None
        self.state = states.RUNNING
        self.until = self.s.loop.now_ms + states.ANSWER_MS
        self.wait(states.ANSWER_MS)
        self.work = answering.run(
            self.s, self.conf, head, route, data, answering.Responder(self.take, self.number)
        )

    def _go_on_working(self, work: Work, over: int) -> None:
        try:
            while True:
                next(work)
                if monotonic_ns() >= over:
                    return
        except StopIteration as stop:
            self.work = None
            if self.reply is None:
                self.reply = stop.value

    def take(self, number: int, reply: Reply) -> None:
        """Take the reply to a request of that number, if it is still wanted."""
        if number == self.number and self.state == states.RUNNING and self.reply is None:
            self.reply = reply
            self.schedule()

    def _refuse_bytes(self, error: http.HttpError) -> None:
        s = self.s
        s.action = states.PARTS[error.part]
        s.log_error(INFO, f"client sent {error.text}".replace("sent intended", "intended"))
        self.is_unread = True
        code = "BodyReadError" if error.part == http.BODY and error.status == 400 else ""
        self._refuse(error.status, error.text, code)

    def _refuse(self, status: int, text: str, code: str = "") -> None:
        """Answer what is no request, and end."""
        self.head = None
        self.status = status
        self.is_last = True
        self._reply_soon(refusals.error_reply(status, code, text))

    def _reply_soon(self, reply: Reply) -> None:
        self.state = states.RUNNING
        self.until = self.s.loop.now_ms + states.ANSWER_MS
        self.reply = reply

    # -- writing -------------------------------------------------------------------------------

    def _send(self, reply: Reply, over: int) -> None:
        """Begin to write a reply."""
        head = self.head
        self.state = states.SENDING
        self.s.action = states.ACTIONS[states.SENDING]
        keeps = head is not None and head.keep_alive and not self.is_unread and not self.is_last
        loop = self.s.loop
        begun = sending.Sending(reply, head, keeps and not loop.exiting)
        try:
            self.out = begun.begin(over)
        except Exception:
            loop.fault(None)
            begun = sending.Sending(refusals.failure(), head, keeps=False)
            self.out = begun.begin(over)
        self.sending = begun
        self.on_sent()

    def _go_on_sending(self, begun: Sending, over: int) -> None:
        try:
            self.out = begun.go_on(over)
        except Exception:  # the client sees that the reply is not whole
            self.s.loop.fault(None)
            self.s.finalize(INTERNAL_SERVER_ERROR)

    def on_sent(self) -> None:
        """Give the client time for the next bytes of a reply."""
        if self.state == states.SENDING:
            self.wait(min(states.STALL_MS, self.until - self.s.loop.now_ms))

    def _replied(self, keeps: bool) -> None:
        """Go on behind a reply that is written."""
        s = self.s
        s.action = states.ACTIONS[states.IDLE]
        self.head = self.route = self.sending = None
        if keeps:
            self.state = states.IDLE
            self.until = s.loop.now_ms + states.IDLE_MS
            self.wait(states.LOOK_MS)
        elif self.is_unread or self.recv():  # closing would throw the reply away
            self.state = states.LINGERING
            self.wait(states.LINGER_MS)
            self.say_end()
        elif not s.status:
            s.finalize(self.status)

    def _discard(self) -> bool:
        data = self.recv()
        if data == b"":
            self.s.finalize(self.status)
        return bool(data)

    # -- time ----------------------------------------------------------------------------------

    def on_timeout(self) -> None:
        """End: the client took too long."""
        s, state = self.s, self.state
        if state == states.LINGERING:
            s.finalize(self.status)
        elif state == states.IDLE and self.number:
            if s.loop.exiting or s.loop.now_ms >= self.until:
                s.end(STREAM_OK, endings.IDLE)
            else:
                self.wait(min(states.LOOK_MS, self.until - s.loop.now_ms))
        elif state in (states.IDLE, states.HEADER, states.BODY):
            s.action = states.PARTS[self.parser.part]
            s.log_error(INFO, "client timed out", errno.ETIMEDOUT)
            if self.parser.is_idle:  # nothing was asked for
                s.end(408, endings.CLIENT_TIMEOUT)
                return
            self.is_unread = True
            self._refuse(408, "request timed out")
            self.schedule()
        elif state in (states.CHECKING, states.RUNNING):
            self.work = None
            self.is_last = True
            self._reply_soon(refusals.error_reply(504, "", "no answer in time"))
            self.schedule()
        else:
            s.action = states.ACTIONS[state]
            s.log_error(INFO, "client timed out", errno.ETIMEDOUT)
            s.end(408, endings.CLIENT_TIMEOUT)

    def close(self) -> None:
        """Let go of everything."""
        super().close()
        self.clients.count -= 1
        begun, self.sending = self.sending, None
        self.reply = self.route = self.work = None
        if begun is not None:
            begun.close()
