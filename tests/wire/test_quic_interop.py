"""HTTP/3 of aioquic, client and servers, through one UDP port by name: whole handshakes."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from ngxstream.event import libcrypto
from ngxstream.wire import client_hello, quic_hello, reader
from tests.support import tools
from tests.support.certs import Authority
from tests.support.proxies import Proxy, ProxyFactory

NAMES = ("one.test", "two.test")
CONF = """worker_processes {workers}; events {{}}
stream {{
    log_format f '$ssl_preread_protocol $ssl_preread_server_name $ssl_preread_alpn_protocols '
                 '$upstream_addr $bytes_received';
    access_log logs/access.log f;
    map $ssl_preread_server_name $backend {{
        one.test 127.0.0.1:{one}; two.test 127.0.0.1:{two}; default 127.0.0.1:9;
    }}
    server {{ listen 127.0.0.1:@quic@ udp; ssl_preread on; proxy_pass $backend; proxy_timeout 1s; }}
}}
"""


@pytest.fixture(scope="module")
def h3() -> Any:
    """Give the client and servers, where aioquic is installed."""
    tools.require_module("aioquic", "interop")
    tools.require_ipv6()  # its client binds ::
    return importlib.import_module("tests.support.h3")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Give who signs the servers' certificates."""
    return Authority(Path(tmp_path_factory.mktemp("ca")))


def serve(ngxstream: ProxyFactory, servers: Any, workers: int = 1) -> Proxy:
    """Serve both names on one port."""
    one, two = (servers.ports[name] for name in NAMES)
    return ngxstream(CONF.format(workers=workers, one=one, two=two))


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("workers", [1, 4])
def test_each_name_has_its_server(
    ngxstream: ProxyFactory, h3: Any, authority: Authority, workers: int, version: str
) -> None:
    """A handshake with the certificate of the name, a request and its answer, by both versions."""
    with h3.Servers(authority, *NAMES) as servers:
        proxy = serve(ngxstream, servers, workers)
        for number in range(2):
            for name in NAMES:
                told = h3.get(
                    proxy.address("quic"), name, f"/{number}", authority=authority, version=version
                )
                assert f"{name}/{number}" == told.body
                assert h3.VERSIONS[version] == told.version
        lines = proxy.wait_log("", count=4, name="logs/access.log")
    said = sorted(line.rpartition(" ")[0] for line in lines)
    assert said == sorted(
        f"TLSv1.3 {name} h3 127.0.0.1:{servers.ports[name]}" for name in NAMES * 2
    )
    proxy.assert_healthy()


LONG = tuple(f"{n}".zfill(240) for n in range(8))  # protocols
FLIGHTS = [
    pytest.param((), False, 1, id="one datagram"), pytest.param((), True, 2, id="two datagrams"),
    pytest.param(LONG[:4], True, 3, id="three datagrams"),
    pytest.param(LONG, True, 4, id="four datagrams"),
]


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize(("alpn", "is_large", "count"), FLIGHTS)
def test_a_hello_is_whole_with_its_last_datagram(
    h3: Any, alpn: tuple[str, ...], is_large: bool, count: int, version: str
) -> None:
    """In the order in which they are sent, or the other way round."""
    flight = h3.first_flight(
        h3.configuration_of("one.test", version=version, alpn=alpn, is_large=is_large)
    )
    assert count == len(flight)
    for datagrams in (flight, flight[::-1]):
        hellos = quic_hello.Hellos(libcrypto.Aes(libcrypto.load()))
        *before, hello = [hellos.feed(datagram) for datagram in datagrams]
        assert [reader.NEED_MORE] * (count - 1) == before
        assert isinstance(hello, client_hello.ClientHello)
        assert ("TLSv1.3", b"one.test") == (hello.protocol, hello.server_name)
        assert ",".join(("h3", *alpn)).encode() == hello.alpn


@pytest.mark.parametrize(("alpn", "is_large", "count"), FLIGHTS[1:])
def test_a_hello_of_several_datagrams_finds_its_server(
    ngxstream: ProxyFactory, h3: Any, authority: Authority, alpn: tuple[str, ...], is_large: bool,
    count: int,
) -> None:
    """Large transport parameters, and a long list of protocols besides."""
    with h3.Servers(authority, *NAMES) as servers:
        proxy = serve(ngxstream, servers)
        for name in NAMES:
            told = h3.get(
                proxy.address("quic"), name, "/large", authority=authority, alpn=alpn,
                is_large=is_large,
            )
            assert f"{name}/large" == told.body
        lines = proxy.wait_log("", count=2, name="logs/access.log")
    assert {",".join(("h3", *alpn))} == {line.split()[2] for line in lines}
    proxy.assert_healthy()


def test_a_retry_of_the_server_s_is_passed_on(
    ngxstream: ProxyFactory, h3: Any, authority: Authority
) -> None:
    """The client's second Initial packet has a token, and comes to the same server."""
    with h3.Servers(authority, *NAMES, retry=True) as servers:
        proxy = serve(ngxstream, servers)
        for name in NAMES:
            told = h3.get(proxy.address("quic"), name, "/retry", authority=authority)
            assert (f"{name}/retry", True) == (told.body, told.had_retry)
        assert 2 == len(proxy.wait_log("", count=2, name="logs/access.log"))
    proxy.assert_healthy()


@pytest.mark.parametrize("is_large", [False, True], ids=["one datagram", "two datagrams"])
def test_early_data_comes_to_the_server_of_the_name(
    ngxstream: ProxyFactory, h3: Any, authority: Authority, is_large: bool
) -> None:
    """The second connection resumes the first one's session; its request goes with the hello."""
    with h3.Servers(authority, *NAMES) as servers:
        proxy = serve(ngxstream, servers)
        for name in NAMES:
            first = h3.get(proxy.address("quic"), name, "/first", authority=authority)
            assert (False, False) == (first.was_resumed, first.early_data)
            second = h3.get(
                proxy.address("quic"), name, "/early", authority=authority,
                ticket=first.tickets[-1], is_large=is_large,
            )
            assert f"{name}/early" == second.body
            assert (True, True) == (second.was_resumed, second.early_data)
    proxy.assert_healthy()


def test_a_name_that_nobody_has_is_the_default_s(
    ngxstream: ProxyFactory, h3: Any, authority: Authority
) -> None:
    """There its certificate is not the one that the client wants."""
    with h3.Servers(authority, *NAMES) as servers:
        one = servers.ports["one.test"]
        proxy = ngxstream(CONF.replace("default 127.0.0.1:9", "default 127.0.0.1:{one}").format(
            workers=1, one=one, two=servers.ports["two.test"]
        ))
        with pytest.raises(ConnectionError):
            h3.get(proxy.address("quic"), "three.test", "/", authority=authority)
        (line,) = proxy.wait_log("", name="logs/access.log")
    assert line.startswith(f"TLSv1.3 three.test h3 127.0.0.1:{one} ")
