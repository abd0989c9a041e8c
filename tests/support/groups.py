"""Groups of servers that change at run time: a configuration, a loop, and its API without HTTP."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ngxstream.event.loop import Loop
from ngxstream.modules.upstream import dynamic
from ngxstream.stream.api import OWN, PLUS, ApiError, Items, Members, Operation, Reply, Request
from ngxstream.stream.upstream import UpstreamConf
from tests.support.balancing import Clock, session
from tests.support.engine import run_until
from tests.support.in_process import Built, build

API = "server { listen 127.0.0.1:1; api write=on; }"


def plain(value: Any) -> Any:
    """Return the value of a reply as a client decodes it."""
    if isinstance(value, Items):
        return [plain(one) for one in value.values]
    if isinstance(value, Members):
        return {name: plain(one) for name, one in value.pairs}
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return value


class Steered:
    """A stream block whose groups can be changed, in one process."""

    def __init__(self, loop: Loop, text: str, *, old: Steered | None = None,
                 steer: str = API, prefix: str = "/p/") -> None:
        """Args: text: what stands in the block; old: the configuration before this one"""
        self.loop = loop
        self.built: Built = build(f"stream {{ {steer} {text} }}", prefix=prefix)
        assert self.built.conf is not None, self.built.error
        self.built.zones.build(None if old is None else old.built.zones)
        self.stream = self.built.conf

    def start(self) -> None:
        """Be a worker from now on."""
        self.stream.start_worker(self.loop)

    def close(self, keep: Steered | None = None) -> None:
        """Be none any more, and let go of the zones."""
        self.stream.stop_worker(self.loop)
        self.built.zones.close(None if keep is None else keep.built.zones)

    def conf(self, name: str = "u") -> UpstreamConf:
        """Return a group."""
        conf = self.stream.upstreams.first(name)
        assert conf is not None
        return conf

    def group(self, name: str = "u") -> dynamic.Group:
        """Return the balancer of a group that may change."""
        group = self.conf(name).balancer
        assert isinstance(group, dynamic.Group)
        return group

    def servers(self, name: str = "u") -> list[str]:
        """Return the primaries that a session would be balanced over now."""
        conf = self.conf(name)
        assert conf.balancer is not None
        conf.balancer.select(session(Clock()))
        return [peer.name for peer in conf.balancer.tier.peers]

    def backups(self, name: str = "u") -> list[str]:
        """Return the backups."""
        self.servers(name)
        tier = self.group(name).tier.backup
        return [] if tier is None else [peer.name for peer in tier.peers]

    def ask(self, method: str, path: str, body: Any = None, tree: str = PLUS,
            turn: Callable[[], None] | None = None, **headers: str) -> tuple[int, Any]:
        """Ask for an operation and wait for its reply. Returns: status, and value or error code"""
        reply = self.reply(method, path, body, tree, turn, **headers)
        if isinstance(reply, ApiError):
            return reply.status, reply.code
        return reply.status, plain(reply.value)

    def reply(self, method: str, path: str, body: Any = None, tree: str = PLUS,
              turn: Callable[[], None] | None = None, **headers: str) -> Reply | ApiError:
        """Ask for an operation and wait for its reply. Args: turn: is called at each turn"""
        came: list[Reply | ApiError] = []
        path, _, query = path.partition("?")
        operation, found = self.operation(method, path, tree)
        args = dict(part.split("=") for part in query.split("&") if part)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        s: Any = SimpleNamespace(loop=self.loop)
        request = Request(s, self.stream, method, found, args, named, body, True, came.append)
        try:
            reply = operation.run(request)
        except ApiError as error:
            return error
        if reply is not None:
            return reply

        def is_done() -> bool:
            if turn is not None:
                turn()
            return bool(came)

        run_until(self.loop, is_done)
        assert 1 == len(came)
        return came[0]

    def operation(self, method: str, path: str, tree: str) -> tuple[Operation, dict[str, str]]:
        """Find what serves a path."""
        words = path.split("/")
        for module in self.stream.modules:
            for endpoint in module.endpoints:
                names = endpoint.path.split("/")
                if endpoint.tree == tree and len(names) == len(words) and all(
                    name == word or name[:1] == "{" for name, word in zip(names, words, strict=True)
                ) and method in endpoint.operations:
                    return endpoint.operations[method], {
                        name.strip("{}"): word
                        for name, word in zip(names, words, strict=True) if name[:1] == "{"
                    }
        raise AssertionError(f"{method} {path} is not served")

    def own(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Ask for an operation of ngxstream's own tree."""
        return self.ask(method, path, body, OWN, **headers)
