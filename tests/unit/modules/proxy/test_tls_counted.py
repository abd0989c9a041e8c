"""Handshakes with servers of groups: how they ended, as the API and Prometheus are told."""

from __future__ import annotations

from pathlib import Path

from tests.support import api_calls, certs, prometheus
from tests.support.backends import BackendFactory, silent
from tests.support.clients import TcpClient
from tests.support.proxies import ProxyFactory


def test_handshakes_with_servers_are_counted(
    ngxstream: ProxyFactory, backends: BackendFactory, tmp_path: Path
) -> None:
    """By how they ended, and of all together; a certificate that is refused besides."""
    authority = certs.Authority(tmp_path / "ca")
    pair = authority.issue("a.test")
    end = (f"ssl_certificate {pair.cert}; ssl_certificate_key {pair.key}; "
           "ssl_protocols TLSv1.2; return x;")
    deaf = backends.tcp(silent)
    program = ngxstream(f"""
        events {{}} stream {{ proxy_ssl on;
            server {{ listen 127.0.0.1:@end@ ssl; {end} }}
            server {{ listen 127.0.0.1:@plain@; return x; }}
            upstream good {{ server 127.0.0.1:@end@; }}
            upstream other {{ server 127.0.0.1:@end@; }}
            upstream new {{ server 127.0.0.1:@end@; }}
            upstream none {{ server 127.0.0.1:@plain@; }}
            upstream slow {{ server 127.0.0.1:{deaf.port}; }}
            server {{ listen 127.0.0.1:@a@; proxy_pass good; }}
            server {{ listen 127.0.0.1:@b@; proxy_pass other; proxy_ssl_verify on;
                      proxy_ssl_trusted_certificate {authority.cert}; proxy_ssl_name b.test; }}
            server {{ listen 127.0.0.1:@c@; proxy_pass new; proxy_ssl_protocols TLSv1.3; }}
            server {{ listen 127.0.0.1:@d@; proxy_pass none; }}
            server {{ listen 127.0.0.1:@e@; proxy_pass slow; proxy_connect_timeout 1; }}
            server {{ listen 127.0.0.1:@api@; api; }} }}
    """)
    for name in "aabcde":
        with TcpClient(program.address(name)) as client:
            assert (b"x" if name == "a" else b"") == client.recv_to_eof()
    found = {}
    for name, group in api_calls.get(program, "/api/9/stream/upstreams").items():
        (peer,) = group["peers"]
        refused = peer["ssl"].pop("verify_failures")
        counts = {**peer["ssl"], **refused}
        found[name] = {what: n for what, n in counts.items() if n}
    failed = "handshakes_failed"
    assert {
        "good": {"handshakes": 2, "session_reuses": 1},
        "other": {"handshakes": 1, "hostname_mismatch": 1},
        "new": {failed: 1, "no_common_protocol": 1},
        "none": {failed: 1},
        "slow": {failed: 1, "handshake_timeout": 1},
    } == found
    exported = prometheus.parsed(prometheus.fetch(f"http://127.0.0.1:{program.port('api')}/metrics"))
    name = f"nginxplus_stream_upstream_server_ssl_{failed}"
    key = prometheus.series(name, upstream="slow", server=f"127.0.0.1:{deaf.port}")
    assert 1 == exported[key]
