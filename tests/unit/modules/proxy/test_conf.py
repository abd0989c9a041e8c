"""The proxy's settings: how blocks are merged, and what does not fit together."""

import pytest

from ngxstream.modules.proxy import conf
from ngxstream.stream.withdrawals import Withdrawals
from tests.support.engine import engine
from tests.support.in_process import build

SERVER = "stream {{ {outer} server {{ listen 127.0.0.1:1 {kind}; proxy_pass {back}; {inner} }} }}"


def proxy(outer: str = "", inner: str = "", back: str = "127.0.0.1:2") -> conf.ProxyConf:
    """Return the settings of one server."""
    made = build(SERVER.format(outer=outer, inner=inner, back=back, kind=""))
    assert made.conf is not None, made.error
    found: conf.ProxyConf = made.conf.servers[0].proxy
    return found


def test_nothing_said_is_nginx_s_default() -> None:
    """Without directives the settings are the defaults of nginx's documentation."""
    made = proxy()
    assert (60_000, 600_000, 16_384, True, 0, 0, False) == (
        made.connect_timeout, made.timeout, made.buffer_size, made.next_upstream,
        made.next_upstream_tries, made.proxy_protocol, made.half_close,
    )
    assert (conf.UNLIMITED, 0, False) == (made.responses, made.requests, made.is_rated)


def test_a_server_s_own_words_win() -> None:
    """Field by field; options of sockets are gathered from both blocks."""
    made = proxy("proxy_timeout 5s; proxy_connect_timeout 2s; proxy_socket_keepalive on;",
                 "proxy_timeout 1s; proxy_download_rate 10;")
    assert (1000, 2000, True, True) == (
        made.timeout, made.connect_timeout, made.options.keepalive, made.is_rated
    )


def test_a_target_with_variables_is_looked_up_by_each_session() -> None:
    """A proxy_pass without variables is an upstream made at configuration."""
    assert proxy().upstream is not None
    made = proxy(back="$remote_addr:53")
    assert (None, True) == (made.upstream, made.target is not None)


@pytest.mark.parametrize("name", ["downstream_buffer", "upstream_buffer"])
def test_the_old_names_of_the_buffer_are_warned_of(name: str) -> None:
    """They still set the buffer, with a warning."""
    made = build(SERVER.format(outer="", inner=f"proxy_{name} 4k;", back="127.0.0.1:2", kind=""))
    assert made.conf is not None, made.error
    assert 4096 == made.conf.servers[0].proxy.buffer_size
    (said,) = made.warnings
    assert said.startswith(f'[warn] the "proxy_{name}" directive is deprecated, use the "proxy_')


@pytest.mark.parametrize(
    ("inner", "error"),
    [
        ("proxy_pass 127.0.0.1:3;", '"proxy_pass" directive is duplicate'),
        ("proxy_protocol on; proxy_protocol_datagrams every;",
         '"proxy_protocol_datagrams every" needs "proxy_protocol v2"'),
    ],
)
def test_what_does_not_fit_together_is_refused(inner: str, error: str) -> None:
    """The error says which settings contradict each other."""
    made = build(SERVER.format(outer="", inner=inner, back="127.0.0.1:2", kind="udp"))
    assert made.error.startswith(error)


@pytest.mark.refusal("proxy_session_drop")
@pytest.mark.parametrize(("words", "error"), [
    ("proxy_session_drop maybe;", 'invalid value "maybe" in "proxy_session_drop" directive'),
    ("proxy_session_drop on; proxy_session_drop on;", '"proxy_session_drop" directive is duplicat'),
])
def test_a_session_drop_is_on_or_off(words: str, error: str) -> None:
    """Once, and nothing else."""
    made = build(SERVER.format(outer="", inner=words, back="127.0.0.1:2", kind=""))
    assert made.error.startswith(error)


RESOLVED = "a.test:1 resolve; resolver 127.0.0.1"


@pytest.mark.parametrize(("inside", "words", "watched"), [
    ("server 127.0.0.1:1;", "proxy_pass u; proxy_session_drop on;", 0),
    ("zone u 64k; server 127.0.0.1:1;", "proxy_pass u; proxy_session_drop on;", 0),
    ("zone u 64k; server 127.0.0.1:1;", "proxy_pass u; health_check; proxy_session_drop on;", 1),
    ("server 127.0.0.1:1;", "proxy_pass u; health_check;", 1),
    ("server 127.0.0.1:1;", "proxy_pass u; health_check; proxy_next_upstream off;", 0),
    ("server 127.0.0.1:1;", "proxy_pass u; health_check; proxy_next_upstream_tries 1;", 0),
    (f"zone u 64k; server {RESOLVED};", "proxy_pass u; proxy_session_drop on;", 1),
    (f"zone u 64k; server {RESOLVED};", "proxy_pass u;", 0),
    (f"zone u 64k; server {RESOLVED};", "proxy_pass $remote_addr; proxy_session_drop on;", 1),
])
def test_withdrawals_are_watched_where_anything_comes_of_them(
    inside: str, words: str, watched: int
) -> None:
    """A server may be withdrawn there, and sessions are ended or go on elsewhere for that."""
    made = build(
        f"stream {{ upstream u {{ {inside} }} server {{ listen 127.0.0.1:1; {words} }} }}"
    )
    assert made.conf is not None, made.error
    made.zones.build()
    with engine() as loop:
        made.conf.start_worker(loop)
        cells = [cell for cells in loop.get(Withdrawals)._cells.values() for cell in cells]
        made.conf.stop_worker(loop)
        assert {} == loop.get(Withdrawals)._cells
    assert watched == len(cells)
    made.zones.close()


def test_a_header_that_says_tcp_is_warned_of_over_udp() -> None:
    """Few receivers accept such a header."""
    made = build(SERVER.format(outer="", inner="proxy_protocol on;", back="127.0.0.1:2",
                               kind="udp"))
    assert made.warnings[0].startswith('[warn] "proxy_protocol on" says TCP in front of datagrams')
