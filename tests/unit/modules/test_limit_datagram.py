"""limit_datagram: what a key sends too much is dropped, and nothing else."""

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from ngxstream.core.shm_buckets import UNIT
from ngxstream.modules import limit_datagram
from ngxstream.stream.api import OWN
from tests.support import ports
from tests.support.in_process import InProcess, build
from tests.support.moving import World
from tests.support.operations import call, families
from tests.support.udp_in_process import UdpInProcess

SLOW = "limit_datagram_zone $binary_remote_addr zone=z:32k rate=1r/m;"


class Lab:
    """A UDP proxy, its client and its server, in this process."""

    def __init__(self, stream: str, server: str) -> None:
        """Serve. Args: stream, server: what stands in the two blocks"""
        self.back = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.back.bind(("127.0.0.1", 0))
        self.back.setblocking(False)
        self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.client.bind(("127.0.0.1", 0))
        self.served = UdpInProcess(
            f"stream {{ {stream} server {{ listen 127.0.0.1:{ports.free_port()} udp; {server} "
            f"proxy_pass 127.0.0.1:{self.back.getsockname()[1]}; }} }}"
        )

    def send(self, *datagrams: bytes, by: socket.socket | None = None) -> list[bytes]:
        """Send datagrams that come together, and return what the server got of them."""
        for data in datagrams:
            (by or self.client).sendto(data, self.served.address())
        for _ in range(2 * len(datagrams) + 4):
            self.served.loop.turn(wait_ms=1)
        found = []
        try:
            while True:
                found.append(self.back.recv(100))
        except BlockingIOError:
            return found

    def zone(self, name: str = "z") -> Any:
        """Return a zone."""
        assert self.served.built.conf is not None
        return self.served.built.conf.data["limit_datagram"][name]

    def level(self, name: str = "z") -> int:
        """Return what a zone has of the client."""
        zone = self.zone(name)
        level: int = zone.table.level(
            socket.inet_aton("127.0.0.1"), zone.rate, self.served.loop.now_ms
        )
        return level

    def close(self) -> None:
        """End it all."""
        self.served.close()
        self.client.close()
        self.back.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def said(served: Any) -> list[str]:
    """Return the lines about limits."""
    return [message for _, message in served.target.lines if "limiting" in message]


@pytest.mark.effect("limit_datagram", "limit_datagram_zone", "limit_datagram_log_level")
def test_what_is_beyond_the_burst_is_dropped() -> None:
    """Of datagrams that come together the first ones pass, and the zone has a line."""
    with Lab(SLOW, "limit_datagram zone=z burst=3; limit_datagram_log_level warn;") as lab:
        assert [b"1", b"2", b"3", b"4"] == lab.send(*(b"%d" % n for n in range(1, 7)))
        assert [] == lab.send(b"7")
        (line,) = said(lab.served)
        assert 'limiting datagrams, dropped: ' in line
        assert ' by zone "z" while proxying connection, udp client' in line
        (s,) = lab.served.loop.sessions
        assert limit_datagram.MODULE.variables[0].get(s) == b"REJECTED"
        assert s.c.received == 4  # what is dropped was not taken


def test_a_client_beyond_its_limit_begins_no_session() -> None:
    """Its datagram is dropped with status 503, and all its sessions count as one key."""
    with Lab(SLOW, "limit_datagram zone=z burst=1;") as lab, socket.socket(
        socket.AF_INET, socket.SOCK_DGRAM
    ) as other:
        assert [b"1", b"2"] == lab.send(b"1", b"2", b"3")
        assert [] == lab.send(b"4", by=other)
        assert len(lab.served.loop.sessions) == 1


@pytest.mark.effect("limit_datagram_dry_run")
def test_a_dry_run_drops_nothing() -> None:
    """It counts and logs."""
    with Lab(SLOW, "limit_datagram zone=z burst=0; limit_datagram_dry_run on;") as lab:
        assert [b"1", b"2", b"3"] == lab.send(b"1", b"2", b"3")
        (s,) = lab.served.loop.sessions
        assert limit_datagram.MODULE.variables[0].get(s) == b"REJECTED_DRY_RUN"
        assert "limiting datagrams, dry run, dropped: " in said(lab.served)[0]


def test_what_one_limit_drops_is_not_counted_by_those_before_it() -> None:
    """Their buckets are as they were."""
    stream = SLOW + "limit_datagram_zone $binary_remote_addr zone=wide:32k rate=1r/m;"
    server = "limit_datagram zone=wide burst=9; limit_datagram zone=z burst=1;"
    with Lab(stream, server) as lab:
        assert [b"1", b"2"] == lab.send(b"1", b"2", b"3", b"4")
        assert 2 * UNIT - UNIT // 10 < lab.level("wide") <= 2 * UNIT
        assert 2 * UNIT - UNIT // 10 < lab.level() <= 2 * UNIT


def test_all_that_one_limit_drops_is_given_back_to_those_before_it() -> None:
    """Of however many that came together; in a dry run nothing is dropped, nor given back."""
    stream = f"{SLOW} limit_datagram_zone all zone=w:32k rate=1r/m;"
    for dry, level in (("", 3), ("limit_datagram_dry_run on;", 9)):
        with Lab(stream, f"limit_datagram zone=z burst=50; limit_datagram zone=w burst=2; "
                         f"{dry}") as lab:
            lab.send(b"0")
            one = limit_datagram.Held((socket.inet_aton("127.0.0.1"), b"all"))
            (s,) = lab.served.loop.sessions
            conf = s.address.default_server.limit_datagram
            passed = limit_datagram.admit(s, conf, one, 8)
            assert passed == (8 if dry else 2)
            assert (level - 1) * UNIT < lab.level() <= level * UNIT


def test_a_datagram_is_counted_once_where_sessions_are_short() -> None:
    """What a session gives back begins the next one, which counts it."""
    with Lab(SLOW, "proxy_requests 2; limit_datagram zone=z burst=8;") as lab:
        assert 7 == len(lab.send(*(b"%d" % n for n in range(7))))
        assert 7 * UNIT - UNIT // 10 < lab.level() <= 7 * UNIT


def test_an_empty_key_is_not_counted() -> None:
    """And has no gate before its session."""
    none = "map $remote_addr $none { default ''; } "
    stream = none + SLOW.replace("$binary_remote_addr", "$none")
    with Lab(stream, "limit_datagram zone=z burst=0;") as lab:
        assert 5 == len(lab.send(*(b"%d" % n for n in range(5))))
        (s,) = lab.served.loop.sessions
        assert lab.served.listeners[0].table[s.c.key] is s.content
        assert limit_datagram.MODULE.variables[0].get(s) is None


def test_without_a_limit_nothing_stands_before_a_session() -> None:
    """An unused limit costs nothing: neither a step nor a handler."""
    server = "server { listen 127.0.0.1:9 udp; proxy_pass 127.0.0.1:8; }"
    built = build(f"stream {{ {SLOW} {server} }}")
    assert built.conf is not None
    assert () == built.conf.servers[0].proxy.steps
    assert 1 == len(built.conf.listenings[0].default.engine)


def test_the_usual_burst_is_a_tenth_of_a_second() -> None:
    """Of the zone's rate, wherever it stands."""
    zone: Any = SimpleNamespace(rate=60 * 500)
    assert 51 * UNIT == limit_datagram.Limit(zone, None).most
    assert UNIT == limit_datagram.Limit(zone, 0).most


class Taker:
    """A sink that says what it got, and wants only so many."""

    def __init__(self, wants: int) -> None:
        self.c = object()
        self.wants = wants
        self.got: list[Any] = []

    def take(self, views: list[memoryview]) -> list[memoryview]:
        """Take some."""
        self.got += [bytes(view) for view in views[: self.wants]]
        return views[self.wants :]

    def take_burst(self, view: memoryview, size: int) -> None:
        """Take all."""
        self.got.append((bytes(view), size))


@pytest.mark.parametrize(
    ("burst", "got"),
    [(0, []), (1, [b"aa"]), (2, [(b"aabb", 2)]), (3, [(b"aabbc", 2)]), (9, [(b"aabbc", 2)])],
)
def test_a_coalesced_message_is_cut_at_the_limit(burst: int, got: list[Any]) -> None:
    """What passes stays coalesced."""
    with Lab(SLOW, f"limit_datagram zone=z burst={burst};") as lab:
        lab.send(b"0")
        (s,) = lab.served.loop.sessions
        taker: Any = Taker(9)
        limit_datagram.gate(s, taker).take_burst(memoryview(b"aabbc"), 2)
        assert got == taker.got


def test_what_comes_from_another_process_is_looked_at() -> None:
    """It may be of another user's."""
    with Lab(SLOW, "limit_datagram zone=z burst=1;") as lab:
        lab.send(b"1")
        (s,) = lab.served.loop.sessions
        (kept,) = limit_datagram.MODULE.keeps
        assert kept.pack is not None
        assert kept.unpack is not None
        status, keys = kept.pack(s)
        kept.unpack(s, (limit_datagram.REJECTED, tuple(keys)))
        assert limit_datagram.MODULE.variables[0].get(s) == b"REJECTED"
        for odd in (
            (b"ODD", keys), (status, []), (status, [b""]), (status, [7]), (status, [b"x" * 65_536]),
            (status, keys * 2), 7, (status,),
        ):
            with pytest.raises((TypeError, ValueError)):
                kept.unpack(s, odd)


def test_tcp_is_not_concerned(tmp_path: Path) -> None:
    """A server may have both; and what was counted is shown."""
    (tmp_path / "logs").mkdir()
    text = (
        f"stream {{ {SLOW} log_format f '[$limit_datagram_status]'; access_log logs/a.log f; "
        "limit_datagram zone=z burst=0; server { listen 127.0.0.1:@a@; return text; } }"
    )
    with InProcess(text, prefix=f"{tmp_path}/") as served:
        assert [b"text"] * 2 == [served.read(served.connect()) for _ in range(2)]
        assert "[-]\n[-]\n" == (tmp_path / "logs/a.log").read_text()
        names = ("passed", "rejected", "rejected_dry_run")
        shown = call(served, "GET", "/limit_datagram/z", tree=OWN)
        assert dict.fromkeys(names, 0) == {name: shown[name] for name in names}
        assert {f"ngxstream_stream_limit_datagram_{name}" for name in names} == set(
            families(served, "limit_datagram")
        )


ZONE = "limit_datagram_zone $remote_addr"
JUDGED = "stream {{ {0} server {{ listen 127.0.0.1:9 udp; {1} return x; }} }}"


@pytest.mark.refusal(
    "limit_datagram", "limit_datagram_zone", "limit_datagram_log_level", "limit_datagram_dry_run"
)
@pytest.mark.parametrize(
    ("stream", "server", "words"),
    [
        (f"{ZONE} zone=z:32k rate=0r/s;", "", 'invalid rate "rate=0r/s"'),
        (f"{ZONE} zone=z:32k rate=5k;", "", 'invalid rate "rate=5k"'),
        (f"{ZONE} rate=5r/s rate=5r/s;", "", '"limit_datagram_zone" must have "zone" parameter'),
        (SLOW, "limit_datagram zone=z burst=-1;", 'invalid burst value "burst=-1"'),
        (SLOW, "limit_datagram zone=z nodelay;", 'invalid parameter "nodelay"'),
        (SLOW, "limit_datagram burst=2;", '"limit_datagram" must have "zone" parameter'),
        (SLOW, "limit_datagram zone=z; limit_datagram zone=z;", "directive is duplicate"),
        (SLOW, "limit_datagram_log_level debug;", 'invalid value "debug"'),
        (SLOW, "limit_datagram_dry_run maybe;", 'it must be "on" or "off"'),
    ],
)
def test_nonsense_is_refused(stream: str, server: str, words: str) -> None:
    """With the words that limit_sess has."""
    assert words in build(JUDGED.format(stream, server)).error


def test_a_session_that_moves_is_counted_on(tmp_path: Path) -> None:
    """In the same bucket, by the key it began with, and once."""
    zone_line = "limit_datagram_zone $remote_port zone=z:32k rate=1r/m;"
    with World(tmp_path, stream=zone_line, server="limit_datagram zone=z burst=3;") as world:
        world.exchange(b"one")
        world.exchange(b"two")
        world.hand_over()
        s = world.new.only_session()
        (limit,) = s.server.limit_datagram.limits
        key = str(world.client.getsockname()[1]).encode()
        assert s.module_ctx(limit_datagram.NAME).keys == (key,)
        world.exchange(b"three")
        zone = limit.zone
        assert 3 * UNIT - UNIT // 10 < zone.table.level(key, zone.rate, s.loop.now_ms) <= 3 * UNIT
        world.exchange(b"four")
        world.client.sendto(b"five", world.address)
        world.turn(lambda: s.module_ctx(limit_datagram.NAME).status == limit_datagram.REJECTED)
