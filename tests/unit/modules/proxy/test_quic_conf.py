"""The directive proxy_quic: what it takes, and where sessions are looked for by ids then."""

from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.core import shm
from ngxstream.event.udp_ids import ClientIds
from ngxstream.modules.proxy import quic_conf
from tests.support.in_process import build


@pytest.mark.refusal("proxy_quic")
@pytest.mark.parametrize(("words", "listen", "expected"), [
    ("proxy_quic maybe;", "", 'it must be "on" or "off"'),
    ("proxy_quic on prefix=3;", "", 'invalid parameter "prefix=3"'),
    ("proxy_quic on prefix=21;", "", 'invalid parameter "prefix=21"'),
    ("proxy_quic on prefix=x;", "", 'invalid parameter "prefix=x"'),
    ("proxy_quic on ids=4;", "", 'invalid parameter "ids=4"'),
    ("proxy_quic off any_host;", "", 'invalid parameter "any_host"'),
    ("proxy_quic on any_host any_host;", "", 'invalid parameter "any_host"'),
    ("proxy_quic off prefix=8;", "", 'invalid parameter "prefix=8"'),
    ("proxy_quic on; proxy_quic off;", "", '"proxy_quic" directive is duplicate'),
    ("proxy_quic on; proxy_requests 3;", "", '"proxy_requests" and "proxy_responses" end'),
    ("proxy_quic on; proxy_responses 1;", "", '"proxy_requests" and "proxy_responses" end'),
    ("proxy_quic on; set_real_ip_from 127.0.0.1;", "proxy_protocol", "by PROXY protocol"),
])
def test_what_cannot_be_is_refused(words: str, listen: str, expected: str) -> None:
    """With a word about what does not fit."""
    server = f"listen 127.0.0.1:1 udp {listen}; {words} proxy_pass 1.1.1.1:1;"
    assert expected in build(f"stream {{ server {{ {server} }} }}").error


def stream(text: str) -> Any:
    """Return a stream block, with its zones."""
    built = build(f"stream {{ {text} }}")
    assert built.conf is not None, built.error
    built.zones.build()
    return built


UDP = "listen 127.0.0.1:1 udp; proxy_pass 1.1.1.1:1;"


def test_a_server_may_do_without_what_the_block_says() -> None:
    """And where no server has it, no session is looked for by ids."""
    loop: Any = SimpleNamespace(get=lambda make: SimpleNamespace(find=make))
    for text, expected in (
        (f"proxy_quic on prefix=6; server {{ {UDP} }}", True),
        (f"proxy_quic on; server {{ {UDP} proxy_quic off; }}", False),
        (f"server {{ {UDP} }}", False),
        ("proxy_quic on; server { listen unix:/tmp/s udp; proxy_pass 1.1.1.1:1; }", False),
    ):
        conf = stream(text).conf
        assert expected == (quic_conf.finder(conf.listenings[0], loop) is not None)
    (server,) = stream(f"proxy_quic on prefix=6; server {{ {UDP} }}").conf.servers
    assert 6 == server.proxy.quic.prefix


def test_workers_share_the_ids_where_there_are_several() -> None:
    """In a zone that another configuration goes on with; a single one needs none."""
    built = stream(f"proxy_quic on; server {{ {UDP} }}")
    for workers in (1, 2):
        loop: Any = SimpleNamespace(workers=workers)
        ids = ClientIds(loop)
        loop.get = lambda make, ids=ids: ids
        quic_conf.start_worker(built.conf, loop)
        assert (workers > 1) == (ids.shared is not None)
    zone = shm.Zone("z", shm.LEAST, "t")
    cells: Any = ()
    first, second = quic_conf.Shared(cells), quic_conf.Shared(cells)
    first.attach(zone, fresh=True)
    second.attach(zone, fresh=False)
    assert first.table is second.table


def test_what_is_counted_is_shown() -> None:
    """To Prometheus, where a server has it; elsewhere there is nothing to show."""
    server = f"server {{ {UDP} }} server {{ listen 127.0.0.1:2; api; }}"
    loop: Any = None
    assert [] == list(quic_conf.metrics(loop, stream(server).conf))
    shown = quic_conf.metrics(loop, stream(f"proxy_quic on; {server}").conf)
    assert [
        f"ngxstream_stream_quic_{name}_total" for name in ("migrations", "paths", "ids_refused")
    ] == [family.name for family in shown]
