"""proxy_connect on_data: who says nothing costs no server anything."""

import ssl
from pathlib import Path

import pytest

from tests.support.backends import BackendFactory
from tests.support.certs import Authority
from tests.support.clients import TcpClient, UdpClient
from tests.support.in_process import build
from tests.support.proxies import ProxyFactory

LOGGED = "log_format f '$status $session_end_reason $upstream_addr'; access_log logs/a.log f;"


@pytest.mark.effect("proxy_connect")
@pytest.mark.parametrize("poller", ["epoll", "poll", "select"])
def test_a_client_is_connected_when_it_has_spoken(
    ngxstream: ProxyFactory, backends: BackendFactory, poller: str
) -> None:
    """One that leaves without a word, or says nothing for too long, has no server."""
    backend = backends.tcp()
    running = ngxstream(
        f"events {{ use {poller}; }} stream {{ {LOGGED} preread_timeout 300ms; "
        f"proxy_connect on_data; "
        f"server {{ listen 127.0.0.1:@in@; proxy_pass {backend.text}; }} }}"
    )
    with TcpClient(running.address("in")) as silent, TcpClient(running.address("in")) as leaving:
        leaving.half_close()
        assert b"" == leaving.recv_to_eof()
        assert b"" == silent.recv_to_eof()
    assert backend.accepted == 0
    with TcpClient(running.address("in")) as client:
        assert b"hello" == client.exchange(b"hello")
        assert b"more" == client.exchange(b"more")
    assert backend.accepted == 1
    lines = running.wait_log(backend.text, name="logs/a.log")
    assert len(lines) == 1
    silent_ones = {"200 closed -", "200 preread_timeout -"}
    assert silent_ones == set(running.access_log("logs/a.log")) - set(lines)


def test_neither_tls_nor_a_proxy_header_is_a_word(
    ngxstream: ProxyFactory, backends: BackendFactory, tmp_path: Path
) -> None:
    """What counts is what the server would get."""
    backend = backends.tcp()
    pair = Authority(tmp_path / "ca").issue("a.test")
    running = ngxstream(
        f"events {{}} stream {{ {LOGGED} preread_timeout 300ms; proxy_connect on_data; "
        f"server {{ listen 127.0.0.1:@in@ ssl proxy_protocol; proxy_pass {backend.text}; "
        f"ssl_certificate {pair.cert}; ssl_certificate_key {pair.key}; }} }}"
    )
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for words in (b"", b"hello"):
        with TcpClient(running.address("in")) as client:
            client.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")
            with context.wrap_socket(client.sock) as inside:
                if words:
                    inside.sendall(words)
                assert words == inside.recv(100)
        assert backend.accepted == bool(words)


def test_a_function_that_lets_it_pass_has_no_say(
    ngxstream: ProxyFactory, backends: BackendFactory, tmp_path: Path
) -> None:
    """Nor has ssl_preread, which is content with what is no hello."""
    backend = backends.tcp()
    (tmp_path / "say.py").write_text("async def now(s):\n    s.allow()\n")
    running = ngxstream(
        f"events {{}} stream {{ {LOGGED} preread_timeout 300ms; proxy_connect on_data; "
        f"py_path {tmp_path}; py_import say; "
        f"server {{ listen 127.0.0.1:@in@; py_preread say.now; proxy_pass {backend.text}; }}"
        f"server {{ listen 127.0.0.1:@pre@; ssl_preread on; proxy_pass {backend.text}; }} }}"
    )
    with TcpClient(running.address("in")) as client:
        assert b"" == client.recv_to_eof()
    assert backend.accepted == 0
    for name in ("in", "pre"):
        with TcpClient(running.address(name)) as client:
            assert b"hello" == client.exchange(b"hello")
    assert backend.accepted == 2


def test_a_datagram_is_a_word(ngxstream: ProxyFactory, backends: BackendFactory) -> None:
    """Of a UDP client there is always one."""
    running = ngxstream(
        f"events {{}} stream {{ proxy_connect on_data; server {{ listen 127.0.0.1:@in@ udp; "
        f"proxy_pass {backends.udp().text}; }} }}"
    )
    with UdpClient(running.address("in")) as client:
        assert b"hello" == client.exchange(b"hello")


@pytest.mark.refusal("proxy_connect")
def test_nonsense_is_refused() -> None:
    """There are two words."""
    text = "stream { server { listen 9; proxy_connect later; proxy_pass 127.0.0.1:9; } }"
    assert 'invalid value "later"' in build(text).error


def test_who_is_not_proxied_does_not_wait(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """Nor a UDP client whose first datagram is empty; where the server is a variable one does."""
    backend, udp = backends.tcp(), backends.udp()
    running = ngxstream(
        f"events {{}} stream {{ preread_timeout 30s; proxy_connect on_data; "
        f"map 1 $to {{ default {backend.text}; }} "
        f"server {{ listen 127.0.0.1:@said@; return hello; }}"
        f"server {{ listen 127.0.0.1:@udp@ udp; proxy_pass {udp.text}; }}"
        f"server {{ listen 127.0.0.1:@to@; proxy_pass $to; }} }}"
    )
    with TcpClient(running.address("said")) as client:
        assert b"hello" == client.recv_to_eof()
    with UdpClient(running.address("udp")) as one:
        one.send(b"")
        assert b"" == one.recv()
    with TcpClient(running.address("to")) as quiet, TcpClient(running.address("to")) as client:
        assert b"?" == client.exchange(b"?")
        assert backend.accepted == 1
        assert quiet
