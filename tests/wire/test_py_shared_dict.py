"""Shared dicts: one for all workers, kept over a reload, over a restart where a file says so."""

import json
import re

import pytest

from tests.support.clients import tcp_exchange
from tests.support.proxies import ProxyFactory
from tests.support.scripts import scripted, write
from tests.support.waiting import wait_until

COUNT = """
from ngxstream.scripting import Session, shared

hits = shared("hits")

def count(s: Session) -> None:
    hits.incr("all")
    s.variables["count"] = str(hits["all"])
"""
CONF = """worker_processes 4;
user root;
events {}
stream {
    py_import m from m.py;
    py_shared_dict_zone zone=hits:64k type=number%s;
    set $count 0;
    server { listen 127.0.0.1:@main@; py_access m.count; return $count; }
}
"""
CONF = CONF.replace("    set $count 0;\n", "").replace("py_access", "set $count 0; py_access")


def test_all_workers_have_one_dict(ngxstream: ProxyFactory) -> None:
    """No addition is lost, and the number goes on after a reload with new code."""
    running = scripted(ngxstream, CONF % "", m=COUNT)
    seen = sorted(int(tcp_exchange(running.address("main"))) for _ in range(40))
    assert list(range(1, 41)) == seen
    write(running, m=COUNT.replace('incr("all")', 'incr("all", 1000)'))
    running.reload()
    assert b"1040" == tcp_exchange(running.address("main"))


def test_a_zone_of_another_type_begins_anew(ngxstream: ProxyFactory) -> None:
    """A reload that changes the type makes new memory."""
    conf = CONF % ""
    running = scripted(ngxstream, conf, m=COUNT)
    assert b"1" == tcp_exchange(running.address("main"))
    text = COUNT.replace('hits.incr("all")', 'hits.setdefault("all", "text")')
    write(running, m=text)
    running.reload(conf.replace("type=number", "type=string"))
    assert b"text" == tcp_exchange(running.address("main"))


@pytest.mark.root
def test_a_file_keeps_the_pairs(ngxstream: ProxyFactory) -> None:
    """It is written while workers run, and read at the next start; a broken one is refused."""
    running = scripted(ngxstream, CONF % " state=hits.json", m=COUNT)
    assert b"1" == tcp_exchange(running.address("main"))
    file = running.prefix / "hits.json"
    wait_until(lambda: file.exists() and json.loads(file.read_text()) == {"all": "1"})
    running.stop()
    running.start()
    assert b"2" == tcp_exchange(running.address("main"))
    running.stop()
    file.write_text('{"all": "many"}')
    assert re.search(
        r'\[emerg\] invalid state file ".*hits.json": invalid value of key "all" in .*:6',
        running.test().stderr,
    )
