"""Pairs of a keyval_zone that two hosts share by a real Redis, killed, slow or full."""

import os
import random
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ngxstream.wire import resp
from tests.support import ports, real_servers
from tests.support.api_calls import call, get
from tests.support.certs import Authority
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.real_servers import Server
from tests.support.waiting import wait_until

ZONE = "/api/9/stream/keyvals/z"
AWAY = (r"store .* is away",)


def conf(store: str, more: str = "", size: str = "64k", workers: int = 2) -> str:
    """Return a configuration whose pairs are in a store."""
    return f"""worker_processes {workers}; events {{}} stream {{
        keyval_zone zone=z:{size} store={store} {more};
        keyval $remote_addr $value zone=z;
        server {{ listen 127.0.0.1:@api@; api write=on; }}
    }}"""


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Server]:
    """Run a Redis."""
    with real_servers.redis(tmp_path, "--save", "") as server:
        yield server


def pairs(program: Proxy) -> object:
    """Return the pairs of a host."""
    return get(program, ZONE)


def comes(program: Proxy, wanted: object) -> None:
    """Wait until a host has these pairs."""
    wait_until(lambda: pairs(program) == wanted, what=f"{wanted} of {pairs(program)}")


def changes(program: Proxy, method: str, body: object) -> None:
    """Change pairs, as soon as the store can be used."""
    wait_until(lambda: call(program, ZONE, method, body)[0] in (201, 204), what="the store")


def cli(server: Server) -> Callable[..., bytes]:
    """Return what sends a command to a Redis by hand."""
    def run(*words: str) -> bytes:
        with socket.create_connection(server.address) as sock:
            sock.sendall(b"*%d\r\n" % len(words) + b"".join(
                b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words
            ))
            return sock.recv(65536)

    return run


def test_hosts_have_the_same_pairs(ngxstream: ProxyFactory, redis: Server) -> None:
    """What is changed on one host, or in the store by hand, is seen on both; times to live too."""
    url = f"redis://127.0.0.1:{redis.port}"
    one, other = ngxstream(conf(url, "timeout=1h")), ngxstream(conf(url, "timeout=1h"))
    changes(one, "POST", {"a": "first"})
    assert {"a": "first"} == pairs(one)
    comes(other, {"a": "first"})
    assert 409 == call(other, ZONE, "POST", {"a": "mine"})[0]
    changes(other, "PATCH", {"a": "second"})
    comes(one, {"a": "second"})
    assert 404 == call(one, ZONE, "PATCH", {"b": "nothing"})[0]
    run = cli(redis)
    assert b"+OK\r\n" == run("SET", "ngxstream:keyval:z:b", "by hand", "PX", "600000")
    comes(one, {"a": "second", "b": "by hand"})
    comes(other, {"a": "second", "b": "by hand"})
    assert 204 == call(one, ZONE, "PATCH", {"b": {"expire": 300}})[0]
    comes(other, {"a": "second"})
    assert 204 == call(one, ZONE, "PATCH", {"a": None})[0]
    assert {} == pairs(one)
    comes(other, {})
    assert 201 == call(other, ZONE, "POST", {f"k{n}": "v" for n in range(300)})[0]
    wait_until(lambda: len(dict(get(one, ZONE))) == 300, what="all pairs")
    assert b"+OK\r\n" == run("FLUSHALL")
    comes(one, {})
    comes(other, {})


def test_pairs_of_a_host_that_begins_later(ngxstream: ProxyFactory, redis: Server) -> None:
    """It reads all there are; a reload and the death of the copying worker change nothing."""
    url = f"redis://127.0.0.1:{redis.port}/3?prefix=fleet*"
    run = cli(redis)
    one = ngxstream(conf(url, size="2m"), expected=(r"exited on signal 9",))
    changes(one, "POST", {f"k{n}": f"v{n}" for n in range(1500)})
    other = ngxstream(conf(url, size="2m"))
    wait_until(lambda: len(dict(get(other, ZONE))) == 1500, what="all pairs")
    assert b":1500" in run("INFO", "keyspace") or b"keys=1500" in run("INFO", "keyspace")
    one.reload()
    for pid in one.worker_pids():
        os.kill(pid, signal.SIGKILL)
    one.wait_log("exited on signal 9", count=2)
    changes(other, "PATCH", {"k7": "again"})
    wait_until(lambda: dict(get(one, ZONE))["k7"] == "again", what="the change")
    changes(other, "DELETE", None)
    comes(one, {})


def test_a_store_that_is_killed(ngxstream: ProxyFactory, tmp_path: Path) -> None:
    """Pairs stay as known last, nothing can be changed; what the store has in the end counts."""
    port = ports.free_port()
    url = f"redis://127.0.0.1:{port}?timeout=300ms"
    one = ngxstream(conf(url), expected=AWAY)
    with real_servers.redis(tmp_path, "--save", "", port=port):
        changes(one, "POST", {"a": "first"})
    wait_until(lambda: call(one, ZONE, "PATCH", {"a": "no"})[0] == 503, what="it is noticed")
    assert {"a": "first"} == pairs(one)
    with real_servers.redis(tmp_path, "--save", "", port=port) as server:
        cli(server)("SET", "ngxstream:keyval:z:c", "third")
        comes(one, {"c": "third"})
        one.wait_log("is back after")


def test_a_store_that_does_not_answer(ngxstream: ProxyFactory, redis: Server) -> None:
    """It is away after the timeout, and used when it goes on."""
    url = f"redis://127.0.0.1:{redis.port}?timeout=200ms"
    one = ngxstream(conf(url), expected=AWAY)
    changes(one, "POST", {"a": "first"})
    redis.process.send_signal(signal.SIGSTOP)
    try:
        assert 503 == call(one, ZONE, "PATCH", {"a": "never"})[0]
        assert {"a": "first"} == pairs(one)
    finally:
        redis.process.send_signal(signal.SIGCONT)
    changes(one, "PATCH", {"a": "second"})
    comes(one, {"a": "second"})


def test_a_store_that_is_full(ngxstream: ProxyFactory, redis: Server) -> None:
    """What it says is the answer, and nothing was changed."""
    run = cli(redis)
    one = ngxstream(conf(f"redis://127.0.0.1:{redis.port}"))
    changes(one, "POST", {"a": "first"})
    run("CONFIG", "SET", "maxmemory", "1")
    status, _, body = call(one, ZONE, "POST", {"b": "second"})
    assert 507 == status
    assert "OOM" in str(body)
    assert {"a": "first"} == pairs(one)


def test_a_password_of_a_file(ngxstream: ProxyFactory, tmp_path: Path) -> None:
    """It is asked for, and a wrong one is told of; neither is in the log."""
    (tmp_path / "secret").write_text("very secret\n")
    with real_servers.redis(tmp_path, "--save", "", "--requirepass", "very secret") as redis:
        url = f"redis://127.0.0.1:{redis.port}"
        one = ngxstream(conf(f"{url}?password_file={tmp_path}/secret"))
        changes(one, "POST", {"a": "first"})
        other = ngxstream(conf(f"redis://:wrong%21@127.0.0.1:{redis.port}"), expected=AWAY)
        other.wait_log('HELLO failed: "WRONGPASS')
        assert not any("wrong" in line.lower().replace("wrongpass", "")
                       for line in other.error_log())
        bare = ngxstream(conf(url), expected=AWAY)
        bare.wait_log('HELLO failed: "NOAUTH')


def test_a_store_by_tls_and_a_unix_socket(ngxstream: ProxyFactory, tmp_path: Path) -> None:
    """The certificate is verified; a Unix socket needs none."""
    authority = Authority(tmp_path / "ca")
    pair = authority.issue("store.test")
    port, path = ports.free_port(), tmp_path / "redis.sock"
    with real_servers.redis(
        tmp_path, "--save", "", "--tls-port", str(port), "--tls-cert-file", str(pair.cert),
        "--tls-key-file", str(pair.key), "--tls-ca-cert-file", str(authority.cert),
        "--tls-auth-clients", "no", "--unixsocket", str(path),
    ):
        url = f"rediss://127.0.0.1:{port}?ca={authority.cert}"
        one = ngxstream(conf(f"{url}&name=store.test"))
        changes(one, "POST", {"a": "first"})
        other = ngxstream(conf(f"redis+unix:{path}"))
        comes(other, {"a": "first"})
        stranger = ngxstream(conf(f"{url}&name=another.test"), expected=AWAY)
        stranger.wait_log("does not match")
        untrusting = ngxstream(conf(f"rediss://127.0.0.1:{port}?name=store.test"), expected=AWAY)
        untrusting.wait_log("certificate verify")


def test_a_store_that_fails_over(ngxstream: ProxyFactory, tmp_path: Path) -> None:
    """Sentinel says who the master is; what the new one has is what all hosts have."""
    for name in ("one", "two", "watch"):
        (tmp_path / name).mkdir()
    fast = ("--save", "", "--repl-diskless-sync-delay", "0")
    with (
        real_servers.redis(tmp_path / "one", *fast) as first,
        real_servers.redis(
            tmp_path / "two", *fast, "--replicaof", "127.0.0.1", str(first.port)
        ) as second,
        real_servers.sentinel(tmp_path / "watch", "fleet", first.port) as sentinel,
    ):
        wait_until(lambda: b"master_link_status:up" in cli(second)("INFO", "replication"),
                   what="the replica follows")
        one = ngxstream(
            conf(f"redis-sentinel://127.0.0.1:{sentinel.port}/fleet?timeout=300ms"),
            expected=AWAY,
        )
        changes(one, "POST", {"a": "first"})
        wait_until(lambda: b"first" in cli(second)("GET", "ngxstream:keyval:z:a"),
                   what="the replica has it")
        first.stop()
        wait_until(lambda: call(one, ZONE, "PATCH", {"a": "second"})[0] == 204,
                   timeout=60, what="the new master takes it")
        assert b"second" in cli(second)("GET", "ngxstream:keyval:z:a")


@pytest.mark.parametrize("seed", range(int(os.environ.get("NGXSTREAM_STORE_PLAYS", "1"))))
def test_whatever_happens_all_have_what_the_store_has(
    ngxstream: ProxyFactory, tmp_path: Path, seed: int
) -> None:
    """Two hosts and a hand write, while the store is killed, paused and started anew."""
    chance = random.Random(seed)
    port = ports.free_port()
    url = f"redis://127.0.0.1:{port}?timeout=150ms"
    keys = [f"k{n}" for n in range(12)]
    saved = ("--appendonly", "yes", "--appendfsync", "no", "--save", "")
    with ExitStack() as stack:
        server = stack.enter_context(real_servers.redis(tmp_path, *saved, port=port))
        hosts = [ngxstream(conf(url), expected=AWAY) for _ in range(2)]
        for step in range(160):
            key, value = chance.choice(keys), f"v{step}"
            match chance.randrange(24):
                case 0:
                    server.stop()
                    server = stack.enter_context(real_servers.redis(
                        tmp_path, *(saved if chance.random() < 0.7 else ("--save", "")), port=port
                    ))
                case 1:
                    server.process.send_signal(signal.SIGSTOP)
                    call(hosts[0], ZONE, "PATCH", {key: value})
                    server.process.send_signal(signal.SIGCONT)
                case 2:
                    chance.choice(hosts).reload()
                case 3:
                    cli(server)("FLUSHALL")
                case n if n < 8:
                    cli(server)("SET", f"ngxstream:keyval:z:{key}", value)
                case n if n < 10:
                    cli(server)("DEL", f"ngxstream:keyval:z:{key}")
                case _:
                    method, body = chance.choice([
                        ("POST", {key: value}), ("PATCH", {key: value}), ("PATCH", {key: None}),
                    ])
                    status = call(chance.choice(hosts), ZONE, method, body)[0]
                    assert status in (201, 204, 404, 409, 503), status
        names = [f"ngxstream:keyval:z:{key}" for key in keys]
        wait_until(lambda: b"LOADING" not in cli(server)("MGET", *names), what="it has its data")
        (values,) = resp.Parser().feed(cli(server)("MGET", *names))
        wanted = {key: value.decode() for key, value in zip(keys, values, strict=True)
                  if value is not None}
        for host in hosts:
            comes(host, wanted)
