"""py_balancer: who is offered, what is taken, and what becomes of a function that fails."""

from collections import Counter

import pytest

from tests.support.clients import UdpClient, tcp_exchange, udp_exchange
from tests.support.in_process import build
from tests.support.proxies import ProxyFactory
from tests.support.scripts import scripted

CHOICES = """
from ngxstream.scripting import Peer, Session

def last(s: Session, peers: list[Peer]) -> Peer:
    s.log.notice(f"offered {[(p.name.rpartition(':')[2], p.is_backup) for p in peers]}")
    return peers[-1]

def nobody(s, peers):
    return None

def by_port(s, peers):
    return peers[s.client.port % len(peers)]

def wrong(s, peers):
    return "127.0.0.1:1"

def raises(s, peers):
    raise ValueError("no\\nidea")

def hangs(s, peers):
    while True:
        pass

async def waits(s, peers):
    return None

def one(s):
    return None

def denies(s, peers):
    s.deny()
    return peers[0]

def closes(s, peers):
    s.close("on purpose")

def allows(s, peers):
    s.allow()
    return peers[-1]

kept = []

def stale(s, peers):
    kept.append(peers[0])
    return kept[0]
"""
CONF = """worker_processes %d;
events {}
stream {
    py_import m from m.py;
    py_time_limit 20ms;
    upstream u { %s }
    server { listen 127.0.0.1:@a@; return a; }
    server { listen 127.0.0.1:@b@; return b; }
    server { listen 127.0.0.1:@c@; return c; }
    server { listen 127.0.0.1:@d@ udp; return d; }
    server { listen 127.0.0.1:@e@ udp; return e; }
    server { listen 127.0.0.1:@tcp@; proxy_pass u; proxy_connect_timeout 2s; }
    server { listen 127.0.0.1:@udp@ udp; proxy_pass u; proxy_responses 1; }
}
"""
THREE = "server 127.0.0.1:@a@; server 127.0.0.1:@b@; server 127.0.0.1:@c@;"


@pytest.mark.effect("py_balancer")
@pytest.mark.parametrize("zone", ["", "zone z 64k; "])
def test_the_function_has_its_way(ngxstream: ProxyFactory, zone: str) -> None:
    """Over one address and another, with four workers, and in a zone."""
    running = scripted(ngxstream, CONF % (4, f"{zone}py_balancer m.last; {THREE}"), m=CHOICES)
    assert {b"c"} == {tcp_exchange(running.address("tcp")) for _ in range(8)}


def test_udp_sessions_are_balanced_likewise(ngxstream: ProxyFactory) -> None:
    """Each session is one call."""
    group = "py_balancer m.last; server 127.0.0.1:@d@; server 127.0.0.1:@e@;"
    running = scripted(ngxstream, CONF % (1, group), m=CHOICES)
    assert {b"e"} == {udp_exchange(running.address("udp"), b"?") for _ in range(5)}


def test_none_has_round_robin_choose(ngxstream: ProxyFactory) -> None:
    """In turn, by weight."""
    running = scripted(ngxstream, CONF % (1, f"py_balancer m.nobody; {THREE}"), m=CHOICES)
    found = Counter(tcp_exchange(running.address("tcp")) for _ in range(9))
    assert Counter({b"a": 3, b"b": 3, b"c": 3}) == found


def test_only_those_are_offered_that_may_be_used(ngxstream: ProxyFactory) -> None:
    """Neither one that is down, nor one that was tried; the backup when nobody else is left."""
    group = (
        "py_balancer m.last; server 127.0.0.1:@a@ backup; server 127.0.0.1:@b@ down;"
        "server 127.0.0.1:@none1@; server 127.0.0.1:@none2@;"
    )
    running = scripted(ngxstream, CONF % (1, group), m=CHOICES)
    assert b"a" == tcp_exchange(running.address("tcp"))
    offered = [line.partition(" while")[0] for line in running.messages("notice")]
    first, second = running.port("none1"), running.port("none2")
    assert [
        f"offered [('{first}', False), ('{second}', False)]",
        f"offered [('{first}', False)]",
        f"offered [('{running.port('a')}', True)]",
    ] == [line for line in offered if line.startswith("offered")]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("wrong", r'"m.wrong" failed: TypeError: it returned str, none of the peers it was given'),
        ("raises", r'"m.raises" failed: ValueError: no\\x0Aidea in .*/m.py:18 while'),
        (
            "hangs",
            r'"m.hangs" failed: TimeLimitError: .* more than (20 ms of CPU|200 ms of real) time in',
        ),
    ],
)
@pytest.mark.parametrize("zone", ["", "zone z 64k; "])
def test_a_function_that_fails_ends_its_session_alone(
    ngxstream: ProxyFactory, function: str, words: str, zone: str
) -> None:
    """With status 500 and one line; the next session is served by the same worker."""
    group = f"{zone}py_balancer m.{function}; {THREE}"
    conf = (CONF % (1, group)).replace(
        "stream {", "stream { log_format l '$status $session_end_reason'; access_log logs/a l;"
    )
    running = scripted(ngxstream, conf, m=CHOICES)
    for _ in range(2):
        assert b"" == tcp_exchange(running.address("tcp"))
    running.wait_log(words)
    assert b"a" == tcp_exchange(running.address("a"))
    assert "500 internal" in running.lines("logs/a")
    assert not [line for line in running.error_log() if "no live upstreams" in line]


@pytest.mark.parametrize("zone", ["", "zone z 64k; "])
@pytest.mark.parametrize(("function", "ending"), [
    ("denies", "403 denied"), ("closes", "200 script"),
])
def test_a_session_may_be_refused_here(
    ngxstream: ProxyFactory, function: str, ending: str, zone: str
) -> None:
    """What a function says of its session is not forgotten because it is asked for a server."""
    group = f"{zone}py_balancer m.{function}; {THREE}"
    conf = (CONF % (1, group)).replace(
        "stream {", "stream { log_format l '$status $session_end_reason'; access_log logs/a l;"
    )
    running = scripted(ngxstream, conf, m=CHOICES)
    assert b"" == tcp_exchange(running.address("tcp"))
    with UdpClient(running.address("udp")) as client:
        client.send(b"?")
        lines = running.wait_log(f"^{ending}$", name="logs/a", count=2)
    assert 2 == len(lines)
    assert not [line for line in running.error_log() if "no live upstreams" in line]


def test_who_is_allowed_goes_on(ngxstream: ProxyFactory) -> None:
    """There is nobody else to be asked."""
    group = f"py_balancer m.allows; {THREE}"
    running = scripted(ngxstream, CONF % (1, group), m=CHOICES)
    assert b"c" == tcp_exchange(running.address("tcp"))


def test_a_peer_of_another_call_is_refused(ngxstream: ProxyFactory) -> None:
    """A function returns one of those it was given now."""
    running = scripted(ngxstream, CONF % (1, f"py_balancer m.stale; {THREE}"), m=CHOICES)
    assert b"a" == tcp_exchange(running.address("tcp"))
    assert b"" == tcp_exchange(running.address("tcp"))
    running.wait_log("it returned Peer, none of the peers it was given")


def test_one_server_needs_no_choice(ngxstream: ProxyFactory) -> None:
    """The function is not called."""
    running = scripted(
        ngxstream, CONF % (1, "py_balancer m.raises; server 127.0.0.1:@a@;"), m=CHOICES
    )
    assert b"a" == tcp_exchange(running.address("tcp"))


@pytest.mark.refusal("py_balancer")
@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            "m.waits",
            'function "m.waits" cannot be a coroutine function: "py_balancer" does not wait in ',
        ),
        ("m.one", 'function "m.one" must take 2 arguments: too many positional arguments in '),
        ("m.none", 'function "m.none" not found: module \'m\' has no attribute \'none\' in '),
    ],
)
def test_a_function_that_cannot_be_called_is_refused(
    ngxstream: ProxyFactory, function: str, words: str
) -> None:
    """By -t, with file and line."""
    running = ngxstream(CONF % (1, f"py_balancer {function}; {THREE}"), start=False)
    (running.prefix / "conf/m.py").write_text(CHOICES)
    assert words in running.test().stderr
    assert "nginx.conf:6" in running.test().stderr


def test_slow_start_is_no_parameter_of_its_servers() -> None:
    """The function decides; as with hash and random."""
    text = "events {} stream { upstream u { py_balancer m.f; server 127.0.0.1:9 slow_start=1s; } }"
    assert 'balancing method does not support parameter "slow_start=1s"' in build(text).error
