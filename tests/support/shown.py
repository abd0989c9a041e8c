"""Operations of the API called without HTTP, and sessions that were never accepted."""

import json
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from ngxstream.event.loop import Loop
from ngxstream.stream.api import ApiError, Encoded, Endpoint, Items, Members, Reply, Request
from ngxstream.stream.asking import Asking
from ngxstream.stream.content import RELAYING, Content, Shown
from ngxstream.stream.core import StreamConf


def plain(value: Any) -> Any:
    """Return a reply's value with all that is made while it is sent."""
    if isinstance(value, Items):
        return [plain(one) for one in value.values]
    if isinstance(value, Encoded):
        return json.loads("".join(value.pieces))
    if isinstance(value, Members):
        return {name: plain(one) for name, one in value.pairs}
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return value


class Caller:
    """Calls operations as the API does."""

    def __init__(
        self, endpoints: Iterable[Endpoint], loop: Loop, stream: StreamConf,
        turn_until: Callable[[Callable[[], Any]], Any], number: int = -1,
    ) -> None:
        """Args: number: $connection of the client who asks"""
        self._operations = {
            (method, one.path): operation
            for one in endpoints
            for method, operation in one.operations.items()
        }
        self._loop = loop
        self._stream = stream
        self._turn_until = turn_until
        self._s: Any = SimpleNamespace(loop=loop, c=SimpleNamespace(number=number))
        loop.get(Asking).stream = stream

    def __call__(self, method: str, place: str, args: dict[str, str] | None = None,
                 body: Any = None, **path: str) -> Any:
        """Return the value of the reply, or its status without one. Raises: ApiError"""
        replies: list[Reply | ApiError] = []
        request = Request(
            self._s, self._stream, method, path, args or {}, {}, body, True, replies.append
        )
        reply: Any = self._operations[method, place].run(request)
        if reply is None:
            self._turn_until(lambda: replies)
            (reply,) = replies
        if isinstance(reply, ApiError):
            raise reply
        return reply.status if reply.value is None else plain(reply.value)


class Made(Content):
    """The content of a made-up session."""

    def __init__(self, shown: Shown) -> None:
        self.told = shown

    def shown(self) -> Shown:
        """Return what it was made of."""
        return self.told

    def counts(self) -> tuple[int, int, int, int]:
        """Return some."""
        return 1, 2, 3, 4


class MadeSession:
    """A session that has what is shown of one, and no sockets."""

    def __init__(self, loop: Any, number: int, **told: Any) -> None:
        """Args: told: of sockaddr, is_udp, start_ms, text, label, shown"""
        self.loop = loop
        self.c = SimpleNamespace(
            number=number, is_udp=told.get("is_udp", False), received=0, sent=0,
            sockaddr=told.get("sockaddr", ("192.0.2.1", 1000 + number)),
        )
        self.status = 0
        self.start_ms = told.get("start_ms", 0)
        self.address = SimpleNamespace(text=told.get("text", "127.0.0.1:53"))
        self.server = SimpleNamespace(watched=SimpleNamespace(label=told.get("label", "zone")))
        self.log = SimpleNamespace(clock=SimpleNamespace(now=lambda: 1_700_000_000.0))
        self.content: Any = Made(told.get("shown", Shown(RELAYING)))
        self.ending: Any = None
        self.ctx = told.get("ctx")

    def module_ctx(self, name: str) -> Any:
        """Return what it was given."""
        return self.ctx

    def log_error(self, *_: object) -> None:
        """Write nothing."""

    def end(self, status: int, ending: Any) -> None:
        """End."""
        self.status = status
        self.ending = ending
