"""What debug_connection and level debug show, beside a real nginx."""

import re
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import certs
from tests.support.backends import BackendFactory, echo, refusing_tcp
from tests.support.proxies import Proxy
from tests.support.waiting import wait_until

UDP = {"udp", "one_way", "long"}
# servers by the name of their port; in braces what is filled in
SERVERS = {
    "plain": "proxy_pass {tcp}; allow all;",
    "next": "proxy_pass least; proxy_next_upstream on;",
    "hash": "proxy_pass hash;",
    "ring": "proxy_pass ring;",
    "random": "proxy_pass random;",
    "random2": "proxy_pass random2;",
    "tls": "ssl_certificate {cert}; ssl_certificate_key {key}; proxy_pass {tcp};",
    "to_tls": "proxy_ssl on; proxy_pass 127.0.0.1:@tls@;",
    "from_proxy": "proxy_pass {tcp};",
    "to_proxy": "proxy_protocol on; proxy_pass {tcp};",
    "text": "return text;",
    "preread": "ssl_preread on; proxy_pass {tcp};",
    "rated": "proxy_upload_rate 1m; proxy_download_rate 1m; proxy_pass {tcp};",
    "name": "set $name nowhere.example; proxy_pass $name:80;",
    "udp": "proxy_responses 1; proxy_pass {udp};",
    "long": "proxy_pass {udp};",
    "one_way": "proxy_requests 1; proxy_responses 0; proxy_pass {udp};",
}
LISTEN = {"tls": " ssl", "from_proxy": " proxy_protocol", **dict.fromkeys(UDP, " udp")}
UPSTREAMS = {"least": "least_conn; server {gone};", "hash": "hash $remote_addr; server {tcp};",
             "ring": "hash $remote_addr consistent; server {tcp};",
             "random": "random; server {tcp};", "random2": "random two; server {tcp};"}
SENT = {"from_proxy": b"PROXY TCP4 192.0.2.1 192.0.2.2 11 22\r\nhello", "text": b""}


def configuration(folder: Path, backends: BackendFactory, gone: Any) -> str:
    """Return all kinds of sessions, each at a port of its own."""
    pair = certs.Authority(folder / "ca").issue("localhost")
    names = {"tcp": backends.tcp(echo).text, "udp": backends.udp().text, "cert": pair.cert,
             "key": pair.key, "gone": f"{gone[0]}:{gone[1]}"}

    def fill(text: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda match: str(names[match[1]]), text)

    upstreams = (f"upstream {name} {{ {fill(text)} server {names['tcp']}; }}"
                 for name, text in UPSTREAMS.items())
    servers = (f"server {{ listen 127.0.0.1:@{name}@{LISTEN.get(name, '')}; {fill(text)} }}"
               for name, text in SERVERS.items())
    return (f"events {{}} stream {{ resolver {names['udp']}; resolver_timeout 1s; "
            f"{' '.join(upstreams)} {' '.join(servers)} }}")


def answer(running: Proxy, name: str) -> bytes:
    """Return what a client of a kind of session is answered."""
    address = running.address(name)
    sent = SENT.get(name, b"hello")
    if name in UDP:
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.settimeout(20)
            client.sendto(sent, address)
            return b"" if name == "one_way" else client.recv(100)
    with socket.create_connection(address, 20) as client:
        if name == "tls":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with context.wrap_socket(client) as wrapped:
                wrapped.sendall(sent)
                return wrapped.recv(100)
        client.sendall(sent)
        try:
            data = client.recv(100)
            while name == "to_proxy" and not data.endswith(b"hello"):
                data += client.recv(100)
        except ConnectionResetError:
            return b"reset"
        return data if name != "to_proxy" else data.rpartition(b"\n")[2]


def shape(line: str) -> str:
    """Return a line of level debug without what differs from run to run."""
    text = re.sub(r"^\*\d+ ", "", line)
    text = re.sub(r'cipher: ".*"', "cipher", re.sub(r" #\d+$", "", text))
    return re.sub(r"-?\b[0-9A-F]*\d[0-9A-F]*\b", "N", text)


def debug_lines(running: Proxy) -> set[str]:
    """Return the shapes of all lines of level debug."""
    return {shape(one.message) for one in running.records() if one.level == "debug"}


def end_of_all(running: Proxy) -> bool:
    """Tell whether all TCP sessions are over."""
    count = sum("connected to 127.0.0.1" in line and "client" in line
                for line in running.error_log())
    ends = sum("finalize stream session" in line for line in running.error_log())
    return ends >= count - 1 > len(SERVERS) - 2  # one UDP session goes on


def test_what_is_told_at_level_debug_is_what_nginx_tells(
    both: Callable[..., tuple[Proxy, Proxy]], tmp_path: Path, backends: BackendFactory
) -> None:
    """Every line has nginx's words, and clients of each kind of session get what they get there."""
    with refusing_tcp() as gone:
        nginx, ours = both(configuration(tmp_path, backends, gone), log_level="debug")
        for name in SERVERS:
            assert answer(nginx, name) == answer(ours, name), name
        for running in (nginx, ours):
            wait_until(lambda running=running: end_of_all(running))
        lines = debug_lines(ours)
        assert set() == lines - debug_lines(nginx)
    told = "\n".join(lines)
    for words in (
        "accept on", "accept: ", "recvmsg on", "recvmsg: ", "generic phase", "get rr peer",
        "get least conn peer", "get hash peer", "get consistent hash peer", "get random peer",
        "get random2 peer", "free rr peer N N", "stream socket", "dgram socket", "connect to",
        "stream proxy next upstream", "event timer add", "event timer del", "recv: fd:N N of N",
        "send: fd:N N of N", "sendmsg: N of N", "SSL_do_handshake: N", "SSL_get_error: N",
        "SSL: TLSv1.N, cipher", "SSL_read: N", "SSL_write: N", "PROXY protocol src: ",
        "stream proxy add PROXY protocol header", "stream return text", "resolve: ",
        "resolver DNS response", "finalize stream session: N", "close stream connection: N",
        "close proxy upstream connection: N", "close stream proxy upstream connection: N",
    ):
        assert words in told


def test_level_debug_changes_nothing_for_clients(
    ngxstream: Callable[..., Proxy], tmp_path: Path, backends: BackendFactory
) -> None:
    """They get what they get at level info, where no line is of level debug."""
    with refusing_tcp() as gone:
        text = configuration(tmp_path, backends, gone)
        quiet, told = (ngxstream(text, log_level=level) for level in ("info", "debug"))
        for name in SERVERS:
            assert answer(quiet, name) == answer(told, name), name
    assert not quiet.messages("debug")
    assert told.messages("debug")


def test_a_session_that_is_told_of_moves_at_a_reload(
    ngxstream: Callable[..., Proxy], backends: BackendFactory
) -> None:
    """A UDP session goes on in the new worker, from the same port, and is told of there."""
    backend = backends.udp()
    text = ("events {} stream { server { listen 127.0.0.1:@main@ udp; "
            f"proxy_pass {backend.text}; }} }}")
    running = ngxstream(text, log_level="debug")
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(20)
        client.connect(running.address("main"))
        for data in (b"one", b"two"):
            client.send(data)
            assert data == client.recv(100)
            if data == b"one":
                running.reload()
        assert 1 == len(backend.sources)
    sent = [line for line in running.error_log() if "[debug]" in line and " send: fd:" in line]
    assert 2 == len({re.search(r"\] (\d+)#", line)[1] for line in sent})  # type: ignore[index]


@pytest.mark.effect("debug_connection")
def test_one_client_is_logged_in_full(proxy: Callable[..., Proxy]) -> None:
    """The log is at error, yet what one client does is there, and no word of the other's."""
    running = proxy(
        "events { debug_connection 127.0.0.2; }"
        " stream { server { listen 127.0.0.1:@main@; return hi; } }",
        log_level="error",
    )
    for host in ("127.0.0.3", "127.0.0.2"):
        address = running.address("main")
        with socket.create_connection(address, 20, source_address=(host, 0)) as sock:
            assert b"hi" == sock.recv(100)
    running.wait_log(r"\[debug\] .* close stream connection: ")
    lines = running.error_log()
    connected = [line for line in lines if " [info] " in line and " connected to " in line]
    assert 1 == len(connected)
    assert " client 127.0.0.2:" in connected[0]
    assert not any("127.0.0.3" in line for line in lines)
