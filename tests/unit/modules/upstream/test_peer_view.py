"""How servers are gathered: test_statistics.py sees what becomes of it."""

from __future__ import annotations

import pytest

from ngxstream.modules.upstream import peer_view
from tests.support.in_process import build


@pytest.mark.parametrize(("line", "method"), [
    ("", "round_robin"), ("least_conn;", "least_conn"), ("hash $remote_addr;", "hash"),
    ("hash $remote_addr consistent;", "hash"), ("random;", "random"), ("random two;", "random"),
    ("least_time connect;", "least_time"), ("zone z 64k; least_conn;", "least_conn"),
])
def test_the_method_is_named_by_its_directive(line: str, method: str) -> None:
    """Whatever debug lines call it."""
    built = build(f"stream {{ upstream u {{ {line} server 127.0.0.1:1; }} }}")
    assert built.conf is not None, built.error
    built.zones.build()
    assert method == peer_view.method_of(built.conf.upstreams[0])


@pytest.mark.parametrize(("target", "name"), [
    ("127.0.0.1:9", "127.0.0.1:9"), ("unix:/tmp/x", "unix:/tmp/x"), ("u", "u"),
])
def test_an_address_is_a_group_of_its_own(target: str, name: str) -> None:
    """By the text of proxy_pass."""
    built = build(
        "stream { upstream u { server 127.0.0.1:1; } "
        f"server {{ listen 127.0.0.1:2; proxy_pass {target}; }} }}"
    )
    assert built.conf is not None, built.error
    assert name == peer_view.name_of(built.conf.upstreams[-1])


def test_without_facts_all_counts_are_0() -> None:
    """Of a group that nobody has counted."""
    built = build("stream { upstream u { server 127.0.0.1:1; } }")
    assert built.conf is not None, built.error
    conf = built.conf.upstreams[0]
    shown = list(peer_view.view.peers(conf))
    assert [[0] * 5] == peer_view.counted_of(conf, 0, shown)
    assert [0] == [one.active for one in peer_view.look(conf, shown, 0)]
