"""Limits that two hosts share by a real Redis: sessions at a time, and how fast they begin."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ngxstream.stream import limit_sharing
from ngxstream.wire import resp
from tests.support import ports, processes, real_servers
from tests.support.clients import TcpClient
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.real_servers import Server
from tests.support.waiting import wait_until

AWAY = (r"store .* is away",)


def conf(store: str, back: str, zone: str, limit: str) -> str:
    """Return a configuration with a limit that hosts share."""
    return f"""worker_processes 1; events {{}} stream {{
        {zone} store={store};
        server {{ listen 127.0.0.1:@a@; proxy_pass {back}; {limit} }}
    }}"""


COUNTED = "limit_conn_zone all zone=z:64k", "limit_conn z 4; limit_conn_log_level info;"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Server]:
    """Run a Redis."""
    with real_servers.redis(tmp_path, "--save", "") as server:
        yield server


def passes(program: Proxy, stack: ExitStack) -> bool:
    """Begin a session, which goes on. Returns: whether it was let pass"""
    client = stack.enter_context(TcpClient(program.address("a")))
    client.send(b"?")
    try:
        return client.recv() == b"?"
    except OSError:
        return False


def test_sessions_of_all_hosts_are_counted(ngxstream: ProxyFactory, backends, redis) -> None:
    """Four at a time on both together; when some end, or their host dies, others may begin."""
    url = f"redis://127.0.0.1:{redis.port}"
    text = conf(url, backends.tcp().text, *COUNTED)
    one, other = ngxstream(text), ngxstream(text)
    wait_until(lambda: workers(redis) == 2, what="both know the store")
    with ExitStack() as here, ExitStack() as there:
        assert told(redis, one, here)
        assert told(redis, other, there)
        wait_until(lambda: not told(redis, other, there), what="three, or four, are there")
        # the first host was told last when it was alone
        wait_until(lambda: not told(redis, one, here), what="two, or three, are here")
        there.close()
        wait_until(lambda: passes(one, here), what="there is room again")
        wait_until(lambda: not passes(one, here), what="four are here")
        wait_until(lambda: total(redis) == 4, what="the store knows of these alone")


def told(redis: Server, program: Proxy, stack: ExitStack) -> bool:
    """Begin a session, and wait until the store was told. Returns: whether it was let pass"""
    before = total(redis)
    passed = passes(program, stack)
    if passed:
        wait_until(lambda: total(redis) > before, what="the store is told")
    return passed


def counts(redis: Server) -> list[int]:
    """Return what each worker has told."""
    words = ask(redis, "HVALS", "ngxstream:limit_conn_zone:z:all")
    return [int(one.partition(b":")[0]) for one in words if b":" in one]


def total(redis: Server) -> int:
    """Return how many sessions all have."""
    return sum(counts(redis))


def workers(redis: Server) -> int:
    """Return how many workers have the store count."""
    listed = bytes(ask(redis, "CLIENT", "LIST")[0])
    return sum(b"name=ngxstream" in line and (b"cmd=script" in line or b"cmd=evalsha" in line)
               for line in listed.splitlines())


def ask(redis: Server, *words: str) -> list[bytes]:
    """Send a command; return the elements of the answer."""
    parser = resp.Parser()
    with socket.create_connection(redis.address) as sock:
        sock.sendall(resp.command(word.encode() for word in words))
        found: list[list[bytes]] = []
        while not found:
            found = parser.feed(sock.recv(65536))
    return found[0] if isinstance(found[0], list) else found


def test_counts_of_a_host_that_died_are_void(ngxstream: ProxyFactory, backends, redis) -> None:
    """Each says until when it counts."""
    text = conf(f"redis://127.0.0.1:{redis.port}", backends.tcp().text, *COUNTED)
    one = ngxstream(text)
    name = "ngxstream:limit_conn_zone:z:all"
    now_ms = round(time.time() * 1000)
    ask(redis, "HSET", name, "aaaa:1", f"100:{now_ms - 1}", "bbbb:1", "nonsense")
    with ExitStack() as here:
        wait_until(lambda: passes(one, here), what="they do not count")
        wait_until(lambda: total(redis) == 1, what="they are gone")
        ask(redis, "HSET", name, "aaaa:1", f"100:{now_ms + 20_000}")
        wait_until(lambda: not passes(one, here), what="those of one that lives do")
    ask(redis, "HSET", name, "aaaa:1", f"100:{now_ms + 600_000}")  # the clock was put back
    with ExitStack() as here:
        wait_until(lambda: passes(one, here), what="those of another time do not")


def test_a_host_that_reloads_and_stops_leaves_no_counts(ngxstream: ProxyFactory, backends,
                                                        redis) -> None:
    """What its workers had is taken back when they leave, not when it would be void."""
    text = conf(f"redis://127.0.0.1:{redis.port}", backends.tcp().text, *COUNTED)
    one = ngxstream(text)
    with ExitStack() as here:
        wait_until(lambda: workers(redis) == 1, what="it knows the store")
        assert told(redis, one, here)
        one.stop()
        wait_until(lambda: total(redis) == 0, timeout=20, what="nothing is left")


def test_one_process_shares_after_a_reload(ngxstream: ProxyFactory, backends, redis) -> None:
    """Each configuration tells of its own sessions."""
    text = "master_process off; " + conf(
        f"redis://127.0.0.1:{redis.port}", backends.tcp().text, *COUNTED
    )
    one = ngxstream(text)
    wait_until(lambda: workers(redis) == 1, what="it knows the store")
    with ExitStack() as first, ExitStack() as second:
        assert told(redis, one, first)
        one.reload()
        wait_until(lambda: b"script|load:calls=2" in bytes(ask(redis, "INFO", "commandstats")[0]),
                   what="the next configuration serves")
        assert told(redis, one, second)
        assert [1, 1] == counts(redis)
        first.close()
        wait_until(lambda: counts(redis) == [1], what="the former's is over")


def level(redis: Server) -> int:
    """Return how many thousandths of a session the store knows of."""
    found = ask(redis, "HMGET", "ngxstream:limit_sess_zone:z:all", "level")[0]
    return int(found or 0)


def test_sessions_of_all_hosts_begin_at_one_rate(ngxstream: ProxyFactory, backends,
                                                 redis) -> None:
    """What one host has let pass, another knows of."""
    text = conf(
        f"redis://127.0.0.1:{redis.port}", backends.tcp().text,
        "limit_sess_zone all zone=z:64k rate=1r/m",
        "limit_sess zone=z burst=9 nodelay; limit_sess_log_level info;",
    )
    one, other = ngxstream(text), ngxstream(text)
    wait_until(lambda: workers(redis) == 2, what="both know the store")
    with ExitStack() as stack:
        wait_until(lambda: not passes(one, stack), what="one has what there is")
        wait_until(lambda: level(redis) > 7000, what="the store knows")
        passed = 0
        while passed < 10:
            before = level(redis)
            if not passes(other, stack):
                break
            passed += 1
            wait_until(lambda before=before: level(redis) > before, what="the other one tells")
        assert passed < 5


def test_without_the_store_each_host_limits_by_itself(ngxstream: ProxyFactory, backends,
                                                      tmp_path: Path) -> None:
    """And together again when it is back."""
    port = ports.free_port()
    url = f"redis://127.0.0.1:{port}?timeout=200ms"
    text = conf(url, backends.tcp().text, *COUNTED)
    one, other = ngxstream(text, expected=AWAY), ngxstream(text, expected=AWAY)
    with ExitStack() as here, ExitStack() as there:
        assert [True] * 4 + [False] == [passes(one, here) for _ in range(5)]
        assert [True] * 4 + [False] == [passes(other, there) for _ in range(5)]
        with real_servers.redis(tmp_path, "--save", "", port=port) as redis:
            wait_until(lambda: total(redis) == 8, what="all are told of")
            redis.process.send_signal(signal.SIGSTOP)
            there.close()
            one.wait_log("no reply in time")
            redis.process.send_signal(signal.SIGCONT)
            wait_until(lambda: total(redis) == 4, what="those that ended are taken back")


def test_who_asks_often_for_a_level_does_not_delay_it(redis) -> None:
    """At one a minute less than a thousandth leaks between two questions."""
    ask(redis, "EVAL", limit_sharing.POUR, "1", "k", "1", "5000")
    since = ask(redis, "HMGET", "k", "level", "at")
    now_ms = int(since[1])
    wait_until(lambda: clock_ms(redis) > now_ms + 60, what="something has leaked")
    assert [b"5000"] == since[:1]
    assert ask(redis, "EVAL", limit_sharing.POUR, "1", "k", "1", "0")[0] < 5000
    assert since == ask(redis, "HMGET", "k", "level", "at")


def clock_ms(redis: Server) -> int:
    """Return the time of the store."""
    seconds, micros = map(int, ask(redis, "TIME"))
    return seconds * 1000 + micros // 1000


def test_an_upgrade_is_another_host(ngxstream: ProxyFactory, backends, redis) -> None:
    """Sessions that go on at workers of the old binary count at the new one, as the store knows."""
    text = "daemon off; " + conf(f"redis://127.0.0.1:{redis.port}", backends.tcp().text, *COUNTED)
    program = ngxstream(text)
    wait_until(lambda: workers(redis) == 1, what="it knows the store")
    with ExitStack() as stack:
        for _ in range(4):
            assert told(redis, program, stack)
        old = program.pid
        program.signal(signal.SIGUSR2)
        wait_until(lambda: program.pid not in (0, old) and workers(redis) == 2, what="both know it")
        os.kill(old, signal.SIGQUIT)
        # what the new one lets pass before it has asked is told, and refused from then on
        wait_until(lambda: not passes(program, stack), what="the old one's sessions count")
        assert total(redis) >= 4
    wait_until(lambda: not processes.is_alive(old), what="the old one is gone")
    with ExitStack() as stack:
        wait_until(lambda: passes(program, stack), what="there is room again")
