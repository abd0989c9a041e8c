"""A store that a test answers for: a server that speaks RESP in a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ngxstream.core import inet
from ngxstream.core.log import Log
from ngxstream.event.loop import Loop
from ngxstream.event.store import Store, StoreOptions
from ngxstream.wire.resp import Parser
from tests.support.backends import Conversation, Script
from tests.support.in_process import LogTarget

HELLO = b"%1\r\n+server\r\n+redis\r\n"
OK = b"+OK\r\n"

Answer = Callable[[list[bytes]], bytes]


def usual(words: list[bytes]) -> bytes:
    """Answer what is said at the beginning, and PING."""
    match words[0]:
        case b"HELLO":
            return HELLO
        case b"PING":
            return b"+PONG\r\n"
        case b"ROLE":
            return b"*1\r\n+master\r\n"
    return OK


def speaking(answer: Answer, seen: list[list[bytes]] | None = None) -> Script:
    """Return a script of a backend that answers each command; None ends the connection."""

    def script(conversation: Conversation) -> None:
        parser = Parser()
        while data := conversation.recv():
            for words in parser.feed(data):
                if seen is not None:
                    seen.append(words)
                said: bytes | None = answer(words)
                if said is None:
                    return
                conversation.send(said)

    return script


def options(*ports: int, **more: Any) -> StoreOptions:
    """Return how stores on this host are reached."""
    addresses = tuple(
        inet.Addr(inet.AF_INET, ("127.0.0.1", port), f"127.0.0.1:{port}") for port in ports
    )
    given = StoreOptions("test", addresses, "", b"", None, None, 0, None, 1000, (0, 0, 0, 0))
    return given._replace(**more)


class Watcher:
    """Notes what a store tells its listeners."""

    def __init__(self, store: Store) -> None:
        self.seen: list[Any] = []
        store.listeners.append(self)

    def on_up(self) -> None:
        """Note it."""
        self.seen.append("up")

    def on_down(self) -> None:
        """Note it."""
        self.seen.append("down")

    def on_push(self, push: Any) -> None:
        """Note it."""
        self.seen.append(push)


def lines(loop: Loop) -> Iterable[str]:
    """Return what the loop has logged, by a log of remembering()."""
    target: Any = loop.log.targets[0]
    return [text for _, text in target.lines]


def remembering() -> Log:
    """Return a log that keeps its lines."""
    return Log([LogTarget()])


def encoded(value: Any) -> bytes:
    """Return a value as a server sends it."""
    if value is None:
        return b"_\r\n"
    if isinstance(value, bytes):
        return b"$%d\r\n%s\r\n" % (len(value), value)
    if isinstance(value, int):
        return b":%d\r\n" % value
    return b"*%d\r\n%s" % (len(value), b"".join(map(encoded, value)))


class Pairs:
    """What a store does with pairs: as much of it as a keyval_zone asks for.

    Attributes: pairs: value and ms to live (-1 for ever) by key; strange: what is answered to
    commands of a name instead; push: is sent before the next answer
    """

    def __init__(self) -> None:
        self.pairs: dict[bytes, tuple[bytes, int]] = {}
        self.strange: dict[bytes, bytes] = {}
        self.push = b""
        self.seen: list[list[bytes]] = []

    def invalidate(self, *keys: bytes) -> None:
        """Say that keys have changed; without any, that all have."""
        self.push += b">2\r\n+invalidate\r\n" + encoded(list(keys) or None)

    def answer(self, words: list[bytes]) -> bytes:
        """Answer a command."""
        self.seen.append(words)
        push, self.push = self.push, b""
        return push + (self.strange.get(words[0]) or self._usual(words))

    def _usual(self, words: list[bytes]) -> bytes:
        pairs = self.pairs
        match words:
            case [b"SCAN", cursor, b"MATCH", pattern, *_]:
                prefix = pattern[:-1].replace(b"\\", b"")
                keys = sorted(key for key in pairs if key.startswith(prefix))
                at = int(cursor)
                following = at + 2 if at + 2 < len(keys) else 0
                return encoded([b"%d" % following, keys[at : at + 2]])
            case [b"MGET", *keys]:
                return encoded([pairs[key][0] if key in pairs else None for key in keys])
            case [b"PTTL", key]:
                return encoded(pairs[key][1] if key in pairs else -2)
            case [b"UNLINK", *keys]:
                return encoded(sum(pairs.pop(key, None) is not None for key in keys))
            case [b"SET", key, value, condition, *more]:
                if (key in pairs) != (condition == b"XX"):
                    return encoded(None)
                pairs[key] = value, int(more[1]) if more else -1
                return OK
            case [(b"PEXPIRE" | b"PERSIST") as name, key, *more]:
                if key not in pairs:
                    return encoded(0)
                pairs[key] = pairs[key][0], int(more[0]) if name == b"PEXPIRE" else -1
                return encoded(1)
        return usual(words)
