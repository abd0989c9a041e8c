"""An include stands in every block, and what it brings is judged where it stands."""

import pytest

from tests.support.clients import tcp_exchange
from tests.support.proxies import ProxyFactory

MAIN = "include conf.d/*.main; events { include events; } stream { include conf.d/?.stream; }"
FILES = {
    "events": "worker_connections 64;",
    "servers": "server 127.0.0.1:@in@ down; server 127.0.0.1:@back@;",
    "server": "listen 127.0.0.1:@in@; proxy_pass u;",
    "conf.d/a.main": "worker_processes\n1;",
    "conf.d/.hidden.main": "nonsense",
    "conf.d/1.stream": "upstream u { include servers; }",
    "conf.d/2.stream": "server { include server; }\n"
    "server { listen 127.0.0.1:@back@; return $v; }",
    "conf.d/3.stream": "map $protocol $v { include map; }",
    "map": "TCP first;",
}


@pytest.mark.effect("include")
def test_files_are_read_in_every_block(proxy: ProxyFactory) -> None:
    """What is said in files, one in the other, by name or pattern, is what is served."""
    program = proxy(MAIN, start=False)
    (program.conf_file.parent / "conf.d").mkdir()
    for name, text in FILES.items():
        (program.conf_file.parent / name).write_text(program.fill(text))
    program.start()
    assert b"first" == tcp_exchange(program.address("in"))


def test_a_directive_is_judged_by_the_block_it_is_included_in(proxy: ProxyFactory) -> None:
    """One file may be right in one block and wrong in another; its own place is named."""
    text = "events { } stream { include timeout; server { include timeout; include timeout; } }"
    program = proxy(text, start=False)
    (program.conf_file.parent / "timeout").write_text("\nproxy_timeout 1s;\n")
    verdict = program.test()
    assert 1 == verdict.code
    assert f'"proxy_timeout" directive is duplicate in {program.conf_file.parent}/timeout:2' in (
        verdict.stderr
    )
