"""The URL of a store: each part, and what is none."""

import socket
from pathlib import Path

import pytest

from ngxstream.stream import stores
from ngxstream.stream.stores import StoreConf
from tests.support.certs import Authority
from tests.support.in_process import build


def conf(url: str) -> tuple[StoreConf | None, str]:
    """Return the store of a URL, or what is said against it."""
    built = build(f"""stream {{ keyval_zone zone=z:64k "store={url}";
        server {{ listen 127.0.0.1:9; return 1; }} }}""")
    if built.conf is None:
        return None, str(built.error)
    (store,) = built.conf.data[stores.NAME].values()
    return store, ""


def parsed(url: str) -> StoreConf:
    """Return the store of a URL."""
    store, error = conf(url)
    assert store is not None, error
    return store


def test_all_that_a_url_may_leave_out() -> None:
    """The port is Redis's, the database the first, keys begin with our name."""
    store = parsed("redis://127.0.0.1")
    options = store.options
    assert ["127.0.0.1:6379"] == [one.name for one in options.addresses]
    assert ("redis://127.0.0.1", b"", None, 0, "", None, 1000) == (
        options.text, options.user, options.password, options.db, options.service,
        options.secure, options.timeout_ms,
    )
    assert b"ngxstream" == store.prefix


def test_all_that_a_url_may_say() -> None:
    """Passwords may have any bytes; they are in no text."""
    store = parsed("redis://me:a%40b%3A@[::1]:7000/12?prefix=fleet%20a&timeout=250ms")
    options = store.options
    assert ("redis://[::1]:7000", b"me", b"a@b:", 12, 250, b"fleet a") == (
        options.text, options.user, options.password, options.db, options.timeout_ms, store.prefix
    )
    assert socket.AF_INET6 == options.addresses[0].family


def test_sentinels_are_a_list() -> None:
    """With the name of the service."""
    options = parsed("redis-sentinel://:p@127.0.0.1,127.0.0.2:27000/fleet/3").options
    assert ["127.0.0.1:26379", "127.0.0.2:27000"] == [one.name for one in options.addresses]
    assert ("fleet", b"p", 3, "redis-sentinel://127.0.0.1,127.0.0.2:27000/fleet") == (
        options.service, options.password, options.db, options.text
    )


def test_a_unix_socket_is_a_path() -> None:
    """With options behind it."""
    options = parsed("redis+unix:/run/redis.sock?timeout=2s").options
    assert (socket.AF_UNIX, "/run/redis.sock", 2000) == (
        options.addresses[0].family, options.addresses[0].sockaddr, options.timeout_ms
    )


def test_passwords_are_read_from_files(tmp_path: Path) -> None:
    """The first line of each."""
    (tmp_path / "one").write_text("first\nsecond\n")
    (tmp_path / "two").write_text("other")
    options = parsed(f"redis-sentinel://127.0.0.1/f?password_file={tmp_path}/one"
                     f"&sentinel_password_file={tmp_path}/two").options
    assert (b"first", b"other") == (options.password, options.sentinel_password)


def test_certificates_are_verified(tmp_path: Path) -> None:
    """By a file, or the system's; unless they are not to be."""
    authority = Authority(tmp_path / "ca")
    secure = parsed(f"rediss://127.0.0.1:7000?ca={authority.cert}&name=a.test").options.secure
    assert (True, b"a.test", False) == (secure.verify, secure.name, secure.has_address)
    secure = parsed(f"rediss://localhost:7000?ca={authority.cert}").options.secure
    assert (True, b"localhost", True) == (secure.verify, secure.name, secure.sends_name)
    secure = parsed("rediss://127.0.0.1?verify=off").options.secure
    assert (False, b"127.0.0.1", False) == (secure.verify, secure.name, secure.sends_name)


@pytest.mark.parametrize(("url", "why"), [
    ("http://127.0.0.1", "a URL of redis, rediss, redis-sentinel, rediss-sentinel or redis+unix"),
    ("127.0.0.1", "is expected"),
    ("redis:127.0.0.1", '"//" is missing'),
    ("redis://", "no host in"),
    ("redis://127.0.0.1:0", "invalid port in"),
    ("redis://127.0.0.1/x", '"x" is no number of a database'),
    ("redis://127.0.0.1/99999999999999999999", "is no number of a database"),
    ("redis://me@127.0.0.1", "a user without a password"),
    ("redis://127.0.0.1,127.0.0.2", "several hosts are those of Sentinels"),
    ("redis-sentinel://127.0.0.1", "the name of the service is missing"),
    ("redis://127.0.0.1?pool=3", 'unknown option "pool=3"'),
    ("redis://127.0.0.1?", 'unknown option ""'),
    ("redis://127.0.0.1?prefix=", 'unknown option "prefix="'),
    ("redis://127.0.0.1?prefix=a&prefix=b", 'option "prefix" is given twice'),
    ("redis://127.0.0.1?timeout=1ms", "a timeout is 10ms to 60s"),
    ("redis://127.0.0.1?timeout=soon", "a timeout is 10ms to 60s"),
    ("redis://:p@127.0.0.1?password_file=/x", "a password and a file of it"),
    ("redis://127.0.0.1?password_file=/nonexistent", 'open() "/nonexistent" failed'),
    ("rediss://127.0.0.1?verify=maybe", '"verify" is "on" or "off"'),
    ("rediss://127.0.0.1?ca=/nonexistent", "/nonexistent"),
    ("redis+unix:", "no path in the unix domain socket"),
])
def test_what_is_no_url_is_refused(url: str, why: str) -> None:
    """By what is wrong with it."""
    store, error = conf(url)
    assert store is None
    assert why in error


def test_a_refusal_names_no_password() -> None:
    """Logs are read by others."""
    assert "secret" not in conf("redis://me:secret@127.0.0.1:x")[1]


@pytest.mark.parametrize("url", [
    "redis://:hush/hush@127.0.0.1", "redis://:hush?hush@127.0.0.1", "redis://me:hush/1?hush@h",
    "rediss://:7hush?7hush@127.0.0.1/2", "redis-sentinel://:hush/hush@127.0.0.1/fleet",
])
def test_no_message_has_a_part_of_a_password(url: str) -> None:
    """One that is not written as a URL wants it is told of without it."""
    store, error = conf(url)
    assert store is None
    assert "%2F" in error
    assert "hush" not in error
