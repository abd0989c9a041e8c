"""Families about servers of groups, as nginx-prometheus-exporter has them."""

from __future__ import annotations

from typing import Any

from ngxstream.modules.upstream import peer_metrics, peer_view, view
from ngxstream.stream.peer_facts import Books
from tests.support.busy_groups import Busy
from tests.support.in_process import InProcess
from tests.support.operations import families

TEXT = """stream {
    upstream u { zone z 64k; server 127.0.0.1:1 max_conns=3; server 127.0.0.1:2 down; }
    upstream v { server 127.0.0.1:1 drain; server 127.0.0.1:3; }
    server { listen 127.0.0.1:@api@; api; }
}"""
U1, U2, V1, V3 = (
    f'{{upstream="{name}",server="127.0.0.1:{n}"}}'
    for name, n in (("u", 1), ("u", 2), ("v", 1), ("v", 3))
)


def test_each_server_has_a_sample_in_each_family() -> None:
    """Its state as a number, limits, averages in ms, counters; and zombies of each group."""
    with InProcess(TEXT) as served:
        conf = peer_view.groups(served.conf)["v"]
        peer = next(iter(view.peers(conf))).peer
        books = served.loop.get(Books)
        book: Any = books.find(served.conf.servers[0], conf, peer, False, False)
        books.wait(book)
        book.begun, book.sent, book.received, book.failed, book.unavail = 5, 4, 3, 2, 1
        book.connect_ms.append(40)
        books.flush()
        found = families(served, "statistics")
        prefix = peer_metrics.PREFIX
        assert {U1: 1, U2: 3, V1: 2, V3: 1} == found[f"{prefix}state"]
        assert {U1: 3, U2: 0, V1: 0, V3: 0} == found[f"{prefix}limit"]
        for name, number in (("active", 5), ("connections", 5), ("sent", 4), ("received", 3),
                             ("fails", 2), ("unavail", 1), ("connect_time", 40),
                             ("first_byte_time", 0), ("response_time", 0),
                             ("health_checks_checks", 0), ("health_checks_fails", 0),
                             ("health_checks_unhealthy", 0)):
            assert {U1: 0, U2: 0, V1: number, V3: 0} == found[prefix + name]
        zombies = found["nginxplus_stream_upstream_zombies"]
        assert {'{upstream="u"}': 0, '{upstream="v"}': 0} == zombies
        assert {} == found[f"{prefix}ssl_handshakes"]  # nobody goes there by TLS


def test_the_states_have_the_exporter_s_numbers() -> None:
    """Which are its own."""
    assert {
        "up": 1, "draining": 2, "down": 3, "unavail": 4, "checking": 5, "unhealthy": 6
    } == peer_metrics.STATES


def test_prometheus_is_told_in_seconds() -> None:
    """Counts up to each bound, and the sum; of groups as a whole."""
    with Busy() as served:
        found = families(served, "statistics")
        name = "ngxstream_stream_upstream_connect_seconds"
        shown = {sample: n for sample, n in found[name].items() if "zoned" in sample}
        assert [0, 0, 2, 2, 2, 2, 3] == list(shown.values())[:7]
        assert 3 == shown['_bucket{upstream="zoned",le="+Inf"}']
        assert 3 == shown['_count{upstream="zoned"}']
        assert 0.076 == shown['_sum{upstream="zoned"}']
        assert 2 == shown['_bucket{upstream="zoned",le="0.005"}']
        zone = found["ngxstream_stream_server_zone_session_seconds"]
        assert 4 == zone['_count{server_zone="a \\"zone\\""}']
        datagrams = found["ngxstream_stream_server_zone_datagrams"]
        assert '_bucket{server_zone="b",le="1e+06"}' in datagrams


def test_prometheus_is_told_why_sessions_of_a_server_ended() -> None:
    """Of two of one address together, and only reasons that there were."""
    with Busy() as served:
        found = families(served, "statistics")["ngxstream_stream_upstream_server_ends_total"]
        assert {
            '{upstream="zoned",server="127.0.0.1:1",reason="closed"}': 1,
            '{upstream="zoned",server="127.0.0.1:1",reason="idle"}': 1,
            '{upstream="zoned",server="127.0.0.1:2",reason="closed"}': 1,
            '{upstream="zoned",server="127.0.0.1:2",reason="idle"}': 1,
            '{upstream="plain",server="127.0.0.1:1",reason="closed"}': 2,
            '{upstream="plain",server="127.0.0.1:1",reason="idle"}': 2,
        } == found
