"""py_log: what a function hears of a session that has ended, and that it changes nothing."""

from pathlib import Path

import pytest

from tests.support.backends import BackendFactory, refusing_tcp
from tests.support.clients import TcpClient, UdpClient, tcp_exchange
from tests.support.in_process import build
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.scripts import scripted

ENDS = """
from ngxstream.scripting import ScriptError, Session

def tells(s: Session) -> None:
    s.log.notice(f"{s.status} {s.end_reason} {s.ended_by} {s.bytes_received} {s.bytes_sent} "
                 f"{0 <= s.duration < 60} {s.upstream} {s.is_ended} {s.protocol}")

def tries(s: Session) -> None:
    for method in ("allow", "decline", "deny", "close"):
        refused(s, getattr(s, method))
    refused(s, lambda: s.send_to_client(b"x"))
    refused(s, lambda: s.send_to_upstream(b"x"))

def refused(s, function):
    try:
        function()
    except ScriptError as error:
        s.log.notice(f"{type(error).__name__}")

kept = []

def keeps(s: Session) -> None:
    kept.append(s)
    try:
        kept[0].status
    except ScriptError as error:
        s.log.notice(f"{type(error).__name__} {kept[0].is_ended}")

def raises(s): raise ValueError("no\\nidea")

def hangs(s):
    while True: pass

def leaves(s): raise SystemExit(3)

def closes(s): s.close()

async def waits(s): pass
"""
CONF = """worker_processes %d;
events {}
stream {
    py_import m from m.py;
    py_time_limit 20ms;
    log_format l $status;
    access_log logs/access.log l;
    server { listen 127.0.0.1:@main@%s; %s }
    server { listen 127.0.0.1:@other@; return other; }
}
"""


def serving(
    factory: ProxyFactory, lines: str, *, udp: bool = False, workers: int = 1
) -> Proxy:
    """Start a program with one server."""
    return scripted(factory, CONF % (workers, " udp" if udp else "", lines), m=ENDS)


def heard(running: Proxy) -> str:
    """Return the only thing that the function has logged."""
    (line,) = running.wait_log(r"\[notice\] .* while running py_log, ")
    return line.partition(" while ")[0].partition("*")[2].partition(" ")[2]


@pytest.mark.effect("py_log")
@pytest.mark.parametrize("workers", [1, 4])
def test_it_hears_how_a_session_has_ended(
    ngxstream: ProxyFactory, backends: BackendFactory, workers: int
) -> None:
    """Status, reason, bytes, time, server: as access_log has them."""
    server = backends.tcp()
    running = serving(ngxstream, f"py_log m.tells; proxy_pass {server.text};", workers=workers)
    with TcpClient(running.address("main")) as client:
        client.exchange(b"hello")
    assert f"200 closed client 5 5 True {server.text} True TCP" == heard(running)


def test_a_udp_session_is_heard_of_too(ngxstream: ProxyFactory, backends: BackendFactory) -> None:
    """At its end."""
    server = backends.udp()
    lines = f"py_log m.tells; proxy_pass {server.text}; proxy_responses 1;"
    running = serving(ngxstream, lines, udp=True)
    with UdpClient(running.address("main")) as client:
        client.exchange(b"hello")
    assert f"200 responses_complete proxy 5 5 True {server.text} True UDP" == heard(running)


def test_so_is_one_that_never_got_anywhere(ngxstream: ProxyFactory) -> None:
    """It was denied, or its server refused."""
    running = serving(ngxstream, "py_log m.tells; deny all; return x;")
    assert b"" == tcp_exchange(running.address("main"))
    assert "403 denied proxy 0 0 True None True TCP" == heard(running)
    with refusing_tcp() as address:
        place = f"{address[0]}:{address[1]}"
        running = serving(ngxstream, f"py_log m.tells; proxy_pass {place};")
        assert b"" == tcp_exchange(running.address("main"))
        assert f"502 connect_failed upstream 0 0 True {place} True TCP" == heard(running)


def test_nothing_can_be_done_any_more(ngxstream: ProxyFactory) -> None:
    """Neither sent nor said."""
    running = serving(ngxstream, "py_log m.tries; return x;")
    assert b"x" == tcp_exchange(running.address("main"))
    lines = running.wait_log("SessionEndedError", count=6)
    assert 6 == len(lines)


def test_a_session_that_is_kept_has_nothing_behind_it(ngxstream: ProxyFactory) -> None:
    """Later on it is an error to ask."""
    running = serving(ngxstream, "py_log m.keeps; return x;")
    for _ in range(2):
        assert b"x" == tcp_exchange(running.address("main"))
    assert "SessionEndedError True" == heard(running)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("raises", r"ValueError: no\x0Aidea in "),
        ("hangs", "TimeLimitError: it takes more than 20"),
        ("leaves", "SystemExit: 3 in "),
        ("closes", "SessionEndedError"),
    ],
)
def test_what_it_raises_changes_nothing(ngxstream: ProxyFactory, name: str, said: str) -> None:
    """The session has ended as it has; one line tells of the fault."""
    running = serving(ngxstream, f"py_log m.{name}; return x;")
    for _ in range(2):
        assert b"x" == tcp_exchange(running.address("main"))
    lines = running.wait_log("failed", count=2)
    assert 2 == len(lines)
    assert f'"m.{name}" failed: {said}' in lines[0]
    assert ["200", "200"] == running.wait_log(".", count=2, name="logs/access.log")
    assert b"other" == tcp_exchange(running.address("other"))


@pytest.mark.refusal("py_log")
@pytest.mark.parametrize(
    ("use", "words"),
    [
        ("py_log;", 'invalid number of arguments in "py_log" directive'),
        ("py_log m.tells; py_log m.raises;", '"py_log" directive is duplicate'),
        ("py_log m.gone;", "function \"m.gone\" not found: module 'm' has no attribute 'gone'"),
        ("py_log m.waits;",
         'function "m.waits" cannot be a coroutine function: "py_log" does not wait'),
    ],
)
def test_a_bad_use_is_refused(tmp_path: Path, use: str, words: str) -> None:
    """When the configuration is read."""
    (tmp_path / "m.py").write_text(ENDS)
    text = f"stream {{ py_import m from {tmp_path}/m.py; server {{ listen 127.0.0.1:9; {use} }} }}"
    assert build(text).error.startswith(words)
