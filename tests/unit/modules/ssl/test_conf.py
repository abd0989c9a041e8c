"""TLS towards clients: how its directives are read."""

import pytest

from ngxstream.modules.ssl import conf
from tests.support.in_process import CONF, build


def given(words: str) -> conf.SslConf | str:
    """Return the settings of a server that speaks no TLS, or the error."""
    made = build(f"stream {{ server {{ listen 127.0.0.1:1; return x; {words} }} }}")
    return made.error if made.conf is None else made.conf.servers[0].ssl


def read(words: str) -> conf.SslConf:
    """Return the settings."""
    made = given(words)
    assert isinstance(made, conf.SslConf), made
    return made


def test_nothing_said_is_nginx_s_default() -> None:
    """Without directives the settings are the defaults of nginx's documentation."""
    made = read("")
    assert (60_000, 300, "HIGH:!aNULL:!MD5", "auto", 1, True) == (
        made.handshake_timeout, made.session_timeout, made.ciphers, made.ecdh_curve,
        made.verify_depth, made.session_tickets,
    )
    assert (conf.VERIFY_OFF, conf.CACHE_NONE) == (made.verify, made.session_cache)


@pytest.mark.parametrize(
    ("words", "cache"),
    [("off", conf.CACHE_OFF), ("none", conf.CACHE_NONE), ("builtin", conf.CACHE_BUILTIN),
     ("builtin:100", 100), ("shared:S:1m", conf.CACHE_NO_BUILTIN),
     ("builtin:5 shared:S:1m", 5)],
)
def test_a_session_cache_is_of_one_worker_or_of_all(words: str, cache: int) -> None:
    """Or of both; a zone has a name and a size."""
    made = read(f"ssl_session_cache {words};")
    assert cache == made.session_cache
    zone = made.session_zone
    assert ("S", 1 << 20) == (zone.name, zone.size) if zone else "shared" not in words


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("ssl_session_cache much;", 'invalid session cache "much"'),
        ("ssl_session_cache builtin:x;", 'invalid session cache "builtin:x"'),
        ("ssl_session_cache shared:S;", 'invalid session cache "shared:S"'),
        ("ssl_session_cache shared:S:1;", 'session cache "shared:S:1" is too small'),
        ("ssl_alpn " + "a" * 256 + ";", '"ssl_alpn" directive protocol too long'),
        ("ssl_alpn a; ssl_alpn b;", '"ssl_alpn" directive is duplicate'),
    ],
)
def test_what_is_no_value_is_refused(words: str, error: str) -> None:
    """The messages are nginx's."""
    assert str(given(words)).startswith(error)


def test_protocols_of_alpn_are_kept_as_they_go_over_the_wire() -> None:
    """Each name stands behind a byte with its length."""
    assert b"\2h2\3dot" == read("ssl_alpn h2 dot;").alpn


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("server {{ listen 127.0.0.1:1; {on} return x; }}", "127.0.0.1:1"),
        ("server {{ listen 127.0.0.1:1 udp; {on} return x; }}", "127.0.0.1:1"),
        ("{on} server {{ listen 127.0.0.1:1; return x; }}", ""),  # that of others may have TLS
        ("server {{ listen 127.0.0.1:1; ssl_verify_client optional_no_ca; return x; }}", ""),
    ],
)
def test_a_server_that_asks_for_certificates_and_has_no_tls_is_warned_of(
    text: str, at: str
) -> None:
    """It lets everybody in, as nginx's does without a message."""
    warning = f'"ssl_verify_client" has no effect at "{at}", which has no "ssl", in {CONF}:1'
    said = build(f"stream {{{{ {text} }}}}".format(on="ssl_verify_client on;")).warnings
    assert bool(at) == any(warning in line for line in said)
