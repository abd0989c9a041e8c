"""Why sessions ended, counted for each server zone."""

import re
from collections.abc import Iterator

import pytest

from ngxstream.modules.sessions import metrics
from ngxstream.stream import endings
from tests.support import backends as b
from tests.support.in_process import InProcess


class Counted(InProcess):
    """A stream block with an API, whose sessions are counted."""

    def ends(self) -> dict[tuple[str, str], int]:
        """Return what Prometheus is told that is not 0, by zone and reason."""
        for _ in range(3):
            self.loop.turn(wait_ms=0)
        self.loop.timers.expire(self.loop.now_ms + 1000, self.loop._guard)  # books are added up
        (family,) = metrics.metrics(self.loop, self.conf)
        assert ("ngxstream_session_ends_total", "counter") == family[:2]
        found = {}
        for suffix, value in family.samples:
            match = re.fullmatch(r'\{server_zone="(.*)",reason="([a-z_]+)"\}', suffix)
            assert match is not None
            if value:
                found[match[1], match[2]] = int(value)
        return found


@pytest.fixture
def counted() -> Iterator[Counted]:
    """Serve several ways to end; two servers are one zone."""
    with (
        b.TcpBackend() as echo,
        b.TcpBackend(b.greet(b"bye")) as greet,
        b.refusing_tcp() as refusing,
        Counted(
            "stream { server { listen 127.0.0.1:@api@; status_zone api; api; } "
            "server { listen 127.0.0.1:@a@; status_zone a; return x; } "
            "server { listen 127.0.0.1:@b@; status_zone a; deny all; return x; } "
            f"server {{ listen 127.0.0.1:@c@; status_zone c; proxy_pass {greet.text}; }} "
            f"server {{ listen 127.0.0.1:@d@; status_zone c; proxy_pass {echo.text}; }} "
            "server { listen 127.0.0.1:@e@; status_zone c; "
            f"proxy_pass {b.address_text(refusing)}; }} "
            f"server {{ listen 127.0.0.1:@f@; status_zone f; ssl_preread on; "
            f"proxy_pass {echo.text}; }} "
            "server { listen 127.0.0.1:@g@; status_zone g; set $to a.test:1; proxy_pass $to; } }"
        ) as served,
    ):
        yield served


def test_ends_are_counted_by_zone_and_reason(counted: Counted) -> None:
    """Whether there was a peer or not, whatever the status; each session once."""
    for number in (1, 1, 2, 3, 3, 3, 5, 7):
        counted.read(counted.connect(number))
    client = counted.connect(4)
    client.send(b"x")
    counted.turn_until(lambda: len(counted.sessions) == 9 and counted.sessions[8].content)
    client.close()
    early = counted.connect(6)
    early.close()
    counted.turn_until(lambda: all(s.status for s in counted.sessions))
    assert {
        ("a", "closed"): 2, ("a", "denied"): 1, ("c", "closed"): 4, ("c", "connect_failed"): 1,
        ("f", "closed"): 1, ("g", "resolve_failed"): 1,
    } == counted.ends()


def test_who_is_ended_before_there_was_a_peer_is_counted_too(counted: Counted) -> None:
    """By its server, as nobody else could."""
    counted.connect(6)
    counted.connect(4)
    counted.turn_until(lambda: len(counted.sessions) == 2)
    for s in counted.sessions:
        s.end(200, endings.API)
    assert {("c", "api"): 1, ("f", "api"): 1} == counted.ends()


def test_all_reasons_are_there_from_the_beginning(counted: Counted) -> None:
    """A counter that appears with its first event hides that from rate()."""
    (family,) = metrics.metrics(counted.loop, counted.conf)
    assert 5 * len(endings.ALL) == len(list(family.samples))


def test_nothing_is_told_where_nobody_looks() -> None:
    """Without an API there is no family with samples."""
    with Counted("stream { server { listen 127.0.0.1:@a@; status_zone a; return x; } }") as served:
        served.read(served.connect())
        assert {} == served.ends()
