"""limit_bandwidth: sessions of a key have one rate together, over TCP and UDP."""

import contextlib
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ngxstream.core.shm_buckets import UNIT
from ngxstream.modules import limit_bandwidth
from ngxstream.stream import shared_rate
from ngxstream.stream.api import OWN
from tests.support import ports
from tests.support.in_process import InProcess, build
from tests.support.moving import World
from tests.support.operations import call, families
from tests.support.udp_in_process import UdpInProcess
from tests.support.waiting import wait_until

ZONE = "limit_bandwidth_zone $binary_remote_addr zone=z:32k rate=40k;"
SLOW = "limit_bandwidth_zone $binary_remote_addr zone=z:32k rate=1;"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Close everything at the end."""
    with ExitStack() as made:
        yield made


def said(served: Any) -> list[str]:
    """Return the lines about limits."""
    return [message for _, message in served.target.lines if "limiting" in message]


class Tcp:
    """A TCP proxy in this process, and a server by hand."""

    def __init__(self, stack: ExitStack, folder: Path, stream: str, server: str) -> None:
        (folder / "logs").mkdir()
        self.folder = folder
        self.back = stack.enter_context(socket.socket())
        self.back.bind(("127.0.0.1", 0))
        self.back.listen()
        self.stack = stack
        text = (
            f"stream {{ {stream} log_format f '$limit_bandwidth_status'; access_log logs/a.log f; "
            f"server {{ listen 127.0.0.1:@a@; {server} "
            f"proxy_pass 127.0.0.1:{self.back.getsockname()[1]}; }} }}"
        )
        self.served = stack.enter_context(InProcess(text, prefix=f"{folder}/"))

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Return a client and its connection at the server."""
        client = self.served.connect()
        many = len(self.served.sessions)
        self.served.turn_until(
            lambda: len(self.served.sessions) > many and self.served.sessions[-1].content
            and self.served.sessions[-1].content.connected, "the session",  # type: ignore[attr-defined]
        )
        there = self.stack.enter_context(self.back.accept()[0])
        there.setblocking(False)
        return client, there

    def drain(self, *to: socket.socket, until: int) -> int:
        """Read until so many bytes have come in all; return how long that took, ms."""
        start = self.served.loop.now_ms
        got = 0

        def is_all() -> bool:
            nonlocal got
            for one in to:
                with contextlib.suppress(BlockingIOError):
                    got += len(one.recv(65_536))
            return got >= until

        self.served.turn_until(is_all, "the bytes")
        return self.served.loop.now_ms - start

    def status(self) -> list[str]:
        """End the sessions and return what they log."""
        for s in self.served.sessions:
            s.finalize(200)
        return (self.folder / "logs/a.log").read_text().splitlines()


@pytest.mark.effect("limit_bandwidth", "limit_bandwidth_zone", "limit_bandwidth_log_level")
def test_two_uploads_of_a_client_share_a_rate(stack: ExitStack, tmp_path: Path) -> None:
    """What is beyond it waits in the client's kernel, and all of it arrives."""
    server = "limit_bandwidth upload zone=z burst=4k; limit_bandwidth_log_level notice;"
    lab = Tcp(stack, tmp_path, ZONE, server)
    (one, there), (two, also) = lab.pair(), lab.pair()
    for client in (one, two):
        assert 10_000 == client.send(bytes(10_000))
    took_ms = lab.drain(there, also, until=20_000)
    assert took_ms >= (20_000 - 4096) * 1000 // 40_960 - 100
    assert "DELAYED" in lab.status()
    lines = said(lab.served)
    assert re.search(r'limiting bandwidth, delaying upload by zone "z" while proxying', lines[0])
    assert 1 <= len(lines) <= 2


def test_downloads_are_limited_by_themselves(stack: ExitStack, tmp_path: Path) -> None:
    """What a client sends is not counted; one zone for both directions is shared by them."""
    lab = Tcp(stack, tmp_path, ZONE, "limit_bandwidth download zone=z burst=4k;")
    client, there = lab.pair()
    client.send(bytes(30_000))
    lab.drain(there, until=30_000)
    zone = lab.served.conf.data["limit_bandwidth"]["z"]
    assert 0 == zone.table.level(socket.inet_aton("127.0.0.1"), zone.rate, lab.served.loop.now_ms)
    there.send(bytes(12_000))
    took_ms = lab.drain(client, until=12_000)
    assert took_ms >= (12_000 - 4096) * 1000 // 40_960 - 100


def test_one_zone_may_have_both_directions(stack: ExitStack, tmp_path: Path) -> None:
    """They share its rate."""
    server = "limit_bandwidth upload zone=z burst=4k; limit_bandwidth download zone=z burst=4k;"
    lab = Tcp(stack, tmp_path, ZONE, server)
    client, there = lab.pair()
    client.send(bytes(10_000))
    there.send(bytes(10_000))
    took_ms = lab.drain(client, there, until=20_000)
    assert took_ms >= (20_000 - 2 * 4096) * 1000 // 40_960 - 100


@pytest.mark.effect("limit_bandwidth_dry_run")
def test_a_dry_run_delays_nobody(stack: ExitStack, tmp_path: Path) -> None:
    """It counts; with the session's own rate, that holds."""
    server = "limit_bandwidth upload zone=z; limit_bandwidth_dry_run on;"
    lab = Tcp(stack, tmp_path, SLOW, server)
    client, there = lab.pair()
    client.send(bytes(10_000))
    lab.drain(there, until=10_000)
    client.send(b"more")
    lab.drain(there, until=4)
    assert ["DELAYED_DRY_RUN"] == lab.status()
    shown = call(lab.served, "GET", "/limit_bandwidth/z", tree=OWN)
    names = ("bytes", "delayed", "rejected", "delayed_dry_run")
    assert [10_004, 0, 0, 1] == [shown[name] for name in names]
    found = families(lab.served, "limit_bandwidth")
    assert {f"ngxstream_stream_limit_bandwidth_{name}" for name in names} == set(found)


class Udp:
    """A UDP proxy in this process, its client and its server."""

    def __init__(self, stack: ExitStack, stream: str, server: str) -> None:
        self.back = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.back.bind(("127.0.0.1", 0))
        self.back.setblocking(False)
        self.client = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.client.bind(("127.0.0.1", 0))
        self.client.setblocking(False)
        self.served = stack.enter_context(UdpInProcess(
            f"stream {{ {stream} server {{ listen 127.0.0.1:{ports.free_port()} udp; {server} "
            f"proxy_pass 127.0.0.1:{self.back.getsockname()[1]}; }} }}"
        ))
        self.client.connect(self.served.address())

    def read(self, sock: socket.socket, until: int) -> list[bytes]:
        """Turn until so many datagrams have come."""
        found: list[bytes] = []

        def is_all() -> bool:
            self.served.loop.turn(wait_ms=2)
            with contextlib.suppress(BlockingIOError):
                while True:
                    found.append(sock.recv(65_536))
            return len(found) >= until

        wait_until(is_all, every=0)
        return found

    def session(self) -> Any:
        """Return the only session."""
        (s,) = self.served.loop.sessions
        return s


def test_datagrams_wait_for_the_rate(stack: ExitStack) -> None:
    """In order, in both directions."""
    lab = Udp(stack, ZONE, "limit_bandwidth upload zone=z burst=2k;")
    start = lab.served.loop.now_ms
    sent = [b"%04d" % n * 250 for n in range(12)]
    for data in sent:
        lab.client.send(data)
    assert sent == lab.read(lab.back, 12)
    assert lab.served.loop.now_ms - start >= (11_000 - 2048) * 1000 // 40_960 - 100
    assert b"DELAYED" == limit_bandwidth.MODULE.variables[0].get(lab.session())


def test_answers_wait_for_the_rate(stack: ExitStack) -> None:
    """In the kernel, until their turn comes."""
    lab = Udp(stack, ZONE, "limit_bandwidth download zone=z burst=2k;")
    lab.client.send(b"?")
    lab.read(lab.back, 1)
    to = lab.session().content.pc.getsockname()
    start = lab.served.loop.now_ms
    sent = [b"%04d" % n * 250 for n in range(12)]
    for data in sent:
        lab.back.sendto(data, to)
    assert sent == lab.read(lab.client, 12)
    assert lab.served.loop.now_ms - start >= (11_000 - 2048) * 1000 // 40_960 - 100
    zone = lab.session().server.limit_bandwidth.limits[0].zone
    level = zone.table.level(socket.inet_aton("127.0.0.1"), zone.rate, lab.served.loop.now_ms)
    assert level > 0  # the last one is counted at once


def test_a_key_with_nothing_left_begins_no_session(stack: ExitStack) -> None:
    """Its datagram is dropped with status 503; what waits is bounded."""
    lab = Udp(stack, SLOW, "limit_bandwidth upload zone=z burst=1k;")
    lab.client.send(bytes(2000))
    lab.read(lab.back, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.sendto(b"?", lab.served.address())
        wait_until(lambda: lab.served.loop.turn(wait_ms=2) or said(lab.served), every=0)
    assert "limiting bandwidth, rejecting datagrams by zone" in said(lab.served)[0]
    s = lab.session()
    rates = s.content.rates
    for _ in range(300):
        rates.take([memoryview(b"again")])
    assert 256 == len(rates.delayed)
    assert 44 == s.content.dropped
    assert b"REJECTED" == limit_bandwidth.MODULE.variables[0].get(s)


def test_a_session_s_own_rate_holds_too(stack: ExitStack) -> None:
    """The narrower one decides."""
    server = "proxy_upload_rate 1; proxy_download_rate 2k; limit_bandwidth upload zone=z;"
    lab = Udp(stack, ZONE, server)
    lab.client.send(b"?")
    lab.read(lab.back, 1)
    rates = lab.session().content.rates
    assert isinstance(rates.upload, shared_rate.Several)
    assert rates.download.rate == 2048
    assert rates.pack()[0] == rates.upload.start_s > 0


def test_what_comes_from_another_process_is_looked_at(stack: ExitStack) -> None:
    """It may be of another user's; what it has moved is not counted again."""
    lab = Udp(stack, ZONE, "limit_bandwidth upload zone=z; limit_bandwidth download zone=z;")
    lab.client.send(b"?")
    lab.read(lab.back, 1)
    s = lab.session()
    (kept,) = limit_bandwidth.MODULE.keeps
    assert kept.pack is not None
    assert kept.unpack is not None
    status, keys = kept.pack(s)
    kept.unpack(s, (1, tuple(keys)))
    assert b"DELAYED" == limit_bandwidth.MODULE.variables[0].get(s)
    for odd in ((9, keys), (b"x", keys), (status, keys[:1]), (status, [b"", b"x"]), 7, (status,)):
        with pytest.raises((TypeError, ValueError)):
            kept.unpack(s, odd)
    zone = s.server.limit_bandwidth.limits[0].zone
    rates = s.content.rates
    rates.unpack((None, None, 1 << 40))
    assert rates.upload.allowance(s.loop.now_ms, 1 << 40) > 0
    assert zone.table.level(keys[0], zone.rate, s.loop.now_ms) <= UNIT


JUDGED = "stream {{ {0} server {{ listen 127.0.0.1:9; {1} proxy_pass 127.0.0.1:8; }} }}"
BARE = "limit_bandwidth_zone $remote_addr"


@pytest.mark.refusal(
    "limit_bandwidth", "limit_bandwidth_zone", "limit_bandwidth_log_level",
    "limit_bandwidth_dry_run",
)
@pytest.mark.parametrize(
    ("stream", "server", "words"),
    [
        (f"{BARE} zone=z:32k rate=0;", "", 'invalid rate "rate=0"'),
        (f"{BARE} zone=z:32k rate=5r/s;", "", 'invalid rate "rate=5r/s"'),
        (f"{BARE} zone=z:32k burst=5;", "", 'invalid parameter "burst=5"'),
        (ZONE, "limit_bandwidth both zone=z;", 'invalid direction "both"'),
        (ZONE, "limit_bandwidth upload zone=z burst=0;", 'invalid burst value "burst=0"'),
        (ZONE, "limit_bandwidth upload zone=z nodelay;", 'invalid parameter "nodelay"'),
        (ZONE, "limit_bandwidth upload burst=1;", '"limit_bandwidth" must have "zone" parameter'),
        (ZONE, "limit_bandwidth upload zone=z; limit_bandwidth upload zone=z;", "is duplicate"),
        (ZONE, "limit_bandwidth_log_level debug;", 'invalid value "debug"'),
        (ZONE, "limit_bandwidth_dry_run maybe;", 'it must be "on" or "off"'),
    ],
)
def test_nonsense_is_refused(stream: str, server: str, words: str) -> None:
    """As for other limits."""
    assert words in build(JUDGED.format(stream, server)).error


def test_without_a_limit_a_session_has_no_limiter() -> None:
    """An unused zone costs nothing."""
    built = build(JUDGED.format(ZONE, ""))
    assert built.conf is not None
    (server,) = built.conf.servers
    assert (False, None) == (server.proxy.is_rated, server.bandwidth)
    assert 1 == len(built.conf.listenings[0].default.engine)


def test_a_session_that_moves_is_counted_on(tmp_path: Path) -> None:
    """What it has moved is in the bucket already, and is not poured again."""
    zone_line = "limit_bandwidth_zone $remote_port zone=z:32k rate=1;"
    lines = "limit_bandwidth upload zone=z burst=1m; limit_bandwidth download zone=z burst=1m;"
    with World(tmp_path, stream=zone_line, server=lines) as world:
        for _ in range(3):
            world.exchange(bytes(1000))
        world.hand_over()
        s = world.new.only_session()
        zone = s.server.limit_bandwidth.limits[0].zone
        key = str(world.client.getsockname()[1]).encode()

        def poured() -> int:
            level: int = zone.table.level(key, zone.rate, s.loop.now_ms)
            return round(level / UNIT, -2)

        assert s.module_ctx(limit_bandwidth.NAME).keys == (key, key)
        assert 6000 == poured()
        world.exchange(bytes(1000))
        assert 8000 == poured()
