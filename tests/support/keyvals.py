"""What tests of keyval share: operations of the API called without HTTP."""

from types import SimpleNamespace
from typing import Any

from ngxstream.core.clock import monotonic_ms
from ngxstream.modules.keyval import endpoints
from ngxstream.stream.api import ApiError, Items, Members, Reply, Request
from ngxstream.stream.core import StreamConf

ALL = "/stream/keyvals"
ONE = "/stream/keyvals/{zone}"


class FakeLoop:
    """The time, and what was posted."""

    def __init__(self) -> None:
        self.now_ms = monotonic_ms()
        self.posted: list[Any] = []

    def get(self, make: Any) -> Any:
        """Give what a call is added to, and is kept by."""
        return SimpleNamespace(add=self.posted.append)


def plain(value: Any) -> Any:
    """Return a value with all that is made while it is sent."""
    if isinstance(value, Members):
        return {name: plain(inner) for name, inner in value.pairs}
    if isinstance(value, Items):
        return [plain(inner) for inner in value.values]
    return value


class Api:
    """The keyvals of a configuration, asked and changed."""

    def __init__(self, stream: StreamConf, loop: Any = None) -> None:
        self.stream = stream
        self.loop = loop or FakeLoop()
        self.replies: list[Reply | ApiError] = []
        self.operations = {one.path: one.operations for one in endpoints.ENDPOINTS}

    def ask(self, method: str, zone: str | None, body: Any = None, **args: str) -> Any:
        """Return status and value, or status, code and text of an error; None if it comes later."""
        path = {} if zone is None else {"zone": zone}
        s: Any = SimpleNamespace(loop=self.loop)
        request = Request(
            s, self.stream, method, path, args, {}, body, True, self.replies.append
        )
        operation = self.operations[ALL if zone is None else ONE][method]
        try:
            reply = operation.run(request)
        except ApiError as error:
            refused = error.status, error.code, error.text
            return refused if error.code in (*operation.errors, "InternalError") else "undeclared"
        if reply is None:
            return None
        assert reply.status == operation.success
        return reply.status, plain(reply.value)
