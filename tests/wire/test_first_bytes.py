"""The first bytes of a session over every poller: PROXY headers, preread, pass, return."""

import pytest

from tests.support import clients
from tests.support.backends import BackendFactory
from tests.support.hellos import client_hello, in_records
from tests.support.proxies import Proxy, ProxyFactory

every_poller = pytest.mark.parametrize("poller", ["epoll", "poll", "select"])
HELLO = client_hello("www.example.com", ("h2",))
HEADER = b"PROXY TCP4 192.0.2.1 198.51.100.1 1234 443\r\n"


def serve(ngxstream: ProxyFactory, poller: str, text: str) -> Proxy:
    """Serve a stream block over a poller."""
    return ngxstream(f"events {{ use {poller}; }} stream {{ {text} }}")


@every_poller
@pytest.mark.parametrize("size", [1, 7, 4096])
def test_header_and_hello_in_pieces(
    ngxstream: ProxyFactory, backends: BackendFactory, poller: str, size: int
) -> None:
    """However the first bytes are cut, the header is taken and the hello reaches the backend."""
    backend = backends.tcp()
    proxy = serve(
        ngxstream,
        poller,
        f"""log_format f "$proxy_protocol_addr $ssl_preread_server_name $bytes_received";
        access_log logs/access.log f;
        server {{ listen 127.0.0.1:@main@ proxy_protocol; ssl_preread on;
            proxy_pass {backend.text}; }}""",
    )
    flight = in_records(HELLO, 100)
    data = HEADER + flight
    with clients.TcpClient(proxy.address("main")) as client:
        client.sock.setsockopt(6, 1, 1)  # TCP_NODELAY: a piece is a segment
        for at in range(0, len(data), size):
            client.send(data[at : at + size])
        assert flight == client.recv_exactly(len(flight))
        assert b"more" == client.exchange(b"more")
    (line,) = proxy.wait_log("", name="logs/access.log")
    assert f"192.0.2.1 www.example.com {len(flight) + 4}" == line


@pytest.mark.effect("ssl_preread")
@every_poller
def test_hello_selects_where_to_pass(ngxstream: ProxyFactory, poller: str) -> None:
    """Peeked bytes go along with the connection; poll and select cannot peek and say so."""
    proxy = serve(
        ngxstream,
        poller,
        """map $ssl_preread_server_name $to { www.example.com 127.0.0.1:@there@; }
        server { listen 127.0.0.1:@main@; ssl_preread on; pass $to; }
        server { listen 127.0.0.1:@there@; ssl_preread on; return $ssl_preread_server_name; }""",
    )
    with clients.TcpClient(proxy.address("main")) as client:
        client.send(HELLO)
        try:
            answer = client.recv()
        except ConnectionResetError:
            answer = b""
    if poller == "epoll":
        assert b"www.example.com" == answer
    else:
        assert b"" == answer
        proxy.wait_log("cannot pass connection with preread data")


@pytest.mark.effect("return")
@every_poller
def test_a_large_text_is_returned(ngxstream: ProxyFactory, poller: str) -> None:
    """A client that reads slowly gets all of it."""
    texts = ["x" * 1000, *(f"$m{n}" * 10 for n in range(3))]
    maps = "".join(
        f'map $protocol $m{n} {{ default "{text}"; }}' for n, text in enumerate(texts)
    )
    proxy = serve(
        ngxstream, poller, maps + "server { listen 127.0.0.1:@main@; return $m3; }"
    )
    with clients.TcpClient(proxy.address("main"), rcvbuf=4096) as client:
        assert 1_000_000 == len(client.recv_to_eof())


@every_poller
def test_a_datagram_is_answered_by_a_text(ngxstream: ProxyFactory, poller: str) -> None:
    """Each datagram is a session of its own; preread waits for no more of what is not QUIC."""
    proxy = serve(
        ngxstream,
        poller,
        """ssl_preread on; access_log logs/access.log f;
        server { listen 127.0.0.1:@main@ udp; return "$protocol $bytes_received $remote_port"; }
        """.replace("access_log", 'log_format f "$status $bytes_sent"; access_log', 1),
    )
    for count in (1, 2, 3):
        with clients.UdpClient(proxy.address("main")) as client:
            client.send(b"x" * count)
            port = client.sock.getsockname()[1]
            assert f"UDP {count} {port}".encode() == client.recv()
    assert 3 == len(proxy.wait_log("200 ", count=3, name="logs/access.log"))


def test_a_datagram_cannot_be_passed(ngxstream: ProxyFactory) -> None:
    """The session ends with 500 and says why."""
    proxy = serve(
        ngxstream,
        "epoll",
        """log_format f "$status"; access_log logs/access.log f;
        server { listen 127.0.0.1:@main@ udp; pass 127.0.0.1:1; }""",
    )
    with clients.UdpClient(proxy.address("main")) as client:
        client.send(b"x")
        proxy.wait_log("cannot pass udp connection while passing connection to port, udp client:")
    assert ["500"] == proxy.wait_log("", name="logs/access.log")


@pytest.mark.effect("server_name")
def test_names_select_servers_by_sni(ngxstream: ProxyFactory, backends: BackendFactory) -> None:
    """Virtual servers of one address proxy to backends of their own."""
    named = {name: backends.tcp() for name in ("a.test", "*.b.test", "~^c(?<n>[0-9])")}
    servers = "".join(
        f"server {{ listen 127.0.0.1:@main@; server_name {name}; proxy_pass {backend.text}; }}"
        for name, backend in named.items()
    )
    proxy = serve(
        ngxstream,
        "epoll",
        f"""ssl_preread on; log_format f "$server_name $n"; access_log logs/access.log f;
        {servers} server {{ listen 127.0.0.1:@main@ default_server; return default; }}""",
    )
    for sent in ("a.test", "x.b.test", "c7"):
        with clients.TcpClient(proxy.address("main")) as client:
            hello = client_hello(sent)
            assert hello == client.exchange(hello)
    with clients.TcpClient(proxy.address("main")) as client:
        client.send(client_hello("nobody.test"))
        assert b"default" == client.recv()
    assert [1, 1, 1] == [backend.accepted for backend in named.values()]
    said = proxy.wait_log("", count=4, name="logs/access.log")
    assert {"a.test -", "*.b.test -", "~^c(?<n>[0-9]) 7", " -"} == set(said)
