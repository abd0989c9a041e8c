"""modules/proxy/udp_filtered.py: a filtered session that goes on in another process.

What it does in one is in tests/unit/modules/py/test_filters_udp.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ngxstream.modules.py import filters_udp
from ngxstream.scripting import running
from tests.support import as_worker
from tests.support.moving import World, has_datagram
from tests.support.udp_filters import IMPORTS

COUNTING = """
class F(Filter):
    def __init__(self, session):
        super().__init__(session)
        self.count = 0

    def from_client(self, data):
        self.count += 1
        return None if data == b"drop" else b"%d:" % self.count + data

    def from_upstream_batch(self, datagrams):
        return [data.upper() for data in datagrams]
"""
KEEPING = COUNTING + """
    def pack(self):
        return b"%d" % self.count

    def unpack(self, state):
        self.count = int(state)
"""


class Filtered:
    """Two workers and a session with a filter."""

    def __init__(self, folder: Path, code: str, server: str) -> None:
        (folder / "f.py").write_text(IMPORTS + code)
        stream = f"py_import f from {folder}/f.py;"
        self.world = World(folder, stream=stream, server=f"py_filter f.F; {server}")

    def send(self, *datagrams: bytes) -> None:
        """Send datagrams as the client."""
        for data in datagrams:
            self.world.client.sendto(data, self.world.address)

    def seen(self) -> tuple[bytes, Any]:
        """Return what the backend gets next, and where from."""
        self.world.turn(lambda: has_datagram(self.world.backend))
        found: tuple[bytes, Any] = self.world.backend.recvfrom(1 << 16)
        return found

    def got(self) -> bytes:
        """Return what the client gets next."""
        self.world.turn(lambda: has_datagram(self.world.client))
        return self.world.client.recv(1 << 16)

    def lines(self, word: str) -> list[str]:
        """Return the lines of a level."""
        self.world.turn(lambda: True)
        return [line for line in self.world.log.read_text().splitlines() if f"[{word}]" in line]


Make = Callable[..., Filtered]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Give a way to make one."""
    made: list[Filtered] = []

    def one(code: str, server: str = "") -> Filtered:
        made.append(Filtered(tmp_path, code, server))
        return made[0]

    with as_worker.undone():
        yield one
        world = made[0].world
        world.__exit__()
        for place in (world.old, world.new):
            running.limit_of(place.loop).close()


@pytest.mark.parametrize(("code", "expected"), [(KEEPING, b"3:c"), (COUNTING, b"1:c")])
def test_a_filter_is_made_anew_where_its_session_goes_on(
    make: Make, code: str, expected: bytes
) -> None:
    """With what it has packed; the server sees the same port, and answers pass it too."""
    one = make(code)
    one.send(b"drop")
    one.world.turn(lambda: one.world.old.loop.sessions)
    one.send(b"b")
    assert b"2:b" == one.seen()[0]
    one.world.hand_over()
    one.send(b"c")
    data, source = one.seen()
    assert expected == data
    one.world.backend.sendto(b"answer", source)
    assert b"ANSWER" == one.got()
    proxy: Any = one.world.new.only_session().content
    assert (3, 1, 1) == (proxy.requests, proxy.responses, proxy.spared)
    assert [] == one.lines("error") == one.lines("alert")


def test_the_first_is_known_where_it_goes_on(make: Make) -> None:
    """A datagram that was sent is not filtered again; one that was dropped has no header yet."""
    one = make(COUNTING, "proxy_protocol v2;")
    one.send(b"drop")
    one.world.turn(lambda: one.world.old.loop.sessions)
    one.world.hand_over()
    one.send(b"a", b"b")
    first, second = one.seen()[0], one.seen()[0]
    assert first.startswith(b"\r\n\r\n\0\r\nQUIT\n")
    assert first.endswith(b"1:a")
    assert b"2:b" == second


WAITING = """
waits = True
class F(Filter):
    async def from_client(self, data):
        if data == b"ok":
            return data
        while waits:
            await sleep(0.001)
        return data.upper()

    async def from_upstream(self, data):
        while waits:
            await sleep(0.001)
        return data.upper()
"""


def module_of(one: Filtered) -> dict[str, Any]:
    """Return the globals of the module."""
    hook = one.world.cycle.stream.servers[0].py.filter  # type: ignore[union-attr]
    names: dict[str, Any] = hook.call.from_client.__globals__
    return names


def test_what_a_coroutine_is_at_work_with_moves(make: Make) -> None:
    """And what waits behind it, in both directions; each comes out once."""
    one = make(WAITING)
    one.send(b"ok")
    _, source = one.seen()
    one.send(b"a", b"b", b"c")
    one.world.backend.sendto(b"x", source)
    one.world.backend.sendto(b"y", source)
    old: Any = one.world.old.only_session().content
    one.world.turn(lambda: (old.requests, old.responses) == (4, 2))
    one.world.hand_over()
    module_of(one)["waits"] = False
    assert [b"A", b"B", b"C"] == [one.seen()[0] for _ in range(3)]
    assert [b"X", b"Y"] == [one.got() for _ in range(2)]
    proxy: Any = one.world.new.only_session().content
    one.world.turn(lambda: not proxy.filtered.is_busy)
    assert (4, 2, 0) == (proxy.requests, proxy.responses, proxy.spared)
    assert not has_datagram(one.world.backend)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero in "),
        ("return 'text'", "TypeError: pack() returned more than 65536 bytes, or none"),
        ("return bytes(65537)", "TypeError: pack() returned more than 65536 bytes, or none"),
    ],
)
def test_a_session_goes_on_whose_filter_cannot_pack(make: Make, body: str, said: str) -> None:
    """It is told, and the filter begins with nothing."""
    one = make(COUNTING + f"\n    def pack(self):\n        {body}\n")
    one.send(b"a")
    assert b"1:a" == one.seen()[0]
    one.world.hand_over()
    one.send(b"b")
    assert b"1:b" == one.seen()[0]
    (line,) = one.lines("error")
    assert f'"f.F" failed: {said}' in line


@pytest.mark.parametrize("server", ["", "proxy_responses 3;"])
def test_a_filter_that_cannot_be_made_anew_ends_its_session(make: Make, server: str) -> None:
    """With one line; the client's next datagram begins another one."""
    one = make(COUNTING + "\n    def pack(self): return b'x'\n"
               "\n    def unpack(self, state): 1 / 0\n", server)
    one.send(b"a")
    assert b"1:a" == one.seen()[0]
    one.world.hand_over()
    one.world.turn(lambda: not one.world.new.loop.sessions)
    (line,) = one.lines("error")
    assert '"f.F" failed: ZeroDivisionError: division by zero in ' in line
    assert [] == one.lines("alert")
    one.send(b"b")
    assert b"1:b" == one.seen()[0]


def test_only_so_much_moves(make: Make) -> None:
    """What is over it is dropped: a datagram may be lost, an order is not changed."""
    one = make(WAITING, "py_buffer_size 1m;")
    one.send(b"ok")
    one.seen()
    sent = [b"%d" % n + bytes(30_000) for n in range(4)]
    one.send(*sent)
    old: Any = one.world.old.only_session().content
    one.world.turn(lambda: old.requests == 5)
    assert sum(map(len, sent[:2])) <= filters_udp.STATE < sum(map(len, sent[:3]))
    one.world.hand_over()
    module_of(one)["waits"] = False
    assert sent[:2] == [one.seen()[0] for _ in range(2)]
    one.send(b"more")
    assert b"MORE" == one.seen()[0]
