"""TLS towards upstream servers: what each proxy_ssl_* directive does, as s_server, nginx and our
own termination see it.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import certs, clients, proxies
from tests.support.backends import BackendFactory, silent
from tests.support.tls_clients import s_server
from tests.support.waiting import PATIENCE, wait_until

Factory = proxies.ProxyFactory
SAYS = "$ssl_protocol|$ssl_cipher|$ssl_server_name|$ssl_client_verify|$ssl_client_s_dn"
NEWER = "unknown directive|directive is not allowed here|unknown .* variable"


class World:
    """An authority and what it has issued."""

    def __init__(self, folder: Path) -> None:
        self.ca = certs.Authority(folder / "ca")
        self.server = self.ca.issue("a.test")
        self.client = self.ca.issue("client")
        self.other_ca = certs.Authority(folder / "other", "another authority")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Give the certificates."""
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def proxied(
    proxy: Factory, ngxstream: Factory, world: World, tmp_path: Path
) -> Callable[..., tuple[proxies.Proxy, proxies.Proxy]]:
    """Give ``proxied(directives)``: a program that proxies to a TLS server of ours.

    The test runs on nginx too, and skips there what nginx's version does not know.
    """

    def start(
        directives: str, *, says: str = SAYS, server: str = "", listen: str = "", more: str = ""
    ) -> tuple[proxies.Proxy, proxies.Proxy]:
        upstream = ngxstream(
            f"worker_processes 1; events {{}} stream {{ server {{ "
            f"listen 127.0.0.1:@tls@ ssl {listen}; "
            f"ssl_certificate {world.server.cert}; ssl_certificate_key {world.server.key}; "
            f'{server} return "{says}"; }} }}',
            start=False,
        )
        conf = (
            "events {} stream { proxy_ssl_protocols TLSv1.2 TLSv1.3; "
            "log_format l '$status $upstream_addr $upstream_bytes_sent $upstream_bytes_received'; "
            "access_log logs/access.log l; "
            f"server {{ listen 127.0.0.1:@main@; proxy_pass 127.0.0.1:{upstream.port('tls')}; "
            f"proxy_ssl on; {directives} }} {more} }}"
        )
        if proxy.name == "nginx":
            said = proxies.Nginx(conf, tmp_path).test().stderr
            if re.search(NEWER, said):
                pytest.skip(f"this nginx is too old: {said.splitlines()[0]}")
        upstream.start()
        return proxy(conf), upstream

    return start


def fetch(proxy: proxies.Proxy, name: str = "main") -> bytes:
    """Connect in the clear and return all that comes."""
    with clients.TcpClient(proxy.address(name)) as client:
        return client.recv_to_eof()


def error_line(proxy: proxies.Proxy, words: str) -> str:
    """Wait for an error with these words and return it."""
    found: list[str] = []

    def look() -> bool:
        found[:] = [line for line in proxy.error_log() if words in line]
        return bool(found)

    wait_until(look, PATIENCE, f"a line with {words}")
    assert "[error]" in found[0]
    return found[0]


@pytest.mark.effect("proxy_ssl")
def test_plain_bytes_go_on_under_tls(proxied) -> None:
    """The upstream server sees TLS without a name and without a certificate."""
    proxy, _ = proxied("")
    assert b"TLSv1.3|TLS_AES_256_GCM_SHA384||NONE|" == fetch(proxy)
    wait_until(proxy.access_log, PATIENCE, "the access log")
    assert proxy.access_log()[0].endswith(f" 0 {len('TLSv1.3|TLS_AES_256_GCM_SHA384||NONE|')}")


@pytest.mark.effect("proxy_ssl_protocols", "proxy_ssl_ciphers")
def test_protocols_and_ciphers_are_offered_as_told(proxied) -> None:
    """TLS 1.2 with one cipher is what the server gets."""
    proxy, _ = proxied(
        "proxy_ssl_protocols TLSv1.2; proxy_ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256;"
    )
    assert fetch(proxy).startswith(b"TLSv1.2|ECDHE-ECDSA-AES128-GCM-SHA256|")


@pytest.mark.effect("proxy_ssl_name", "proxy_ssl_server_name")
def test_the_name_is_sent_only_if_asked_for(proxied) -> None:
    """SNI carries proxy_ssl_name without its port; never an address."""
    proxy, _up = proxied("proxy_ssl_server_name on; proxy_ssl_name a.test:443;")
    assert b"a.test" == fetch(proxy).split(b"|")[2]
    plain, _ = proxied("proxy_ssl_server_name on;")
    assert b"" == fetch(plain).split(b"|")[2]


@pytest.mark.effect("proxy_ssl_alpn")
def test_protocols_are_offered_by_alpn(proxied) -> None:
    """Values may hold variables; empty ones are left out."""
    proxy, _ = proxied(
        "proxy_ssl_alpn $nothing h2 foo;",
        says="$ssl_alpn_protocol.",
        server="ssl_alpn foo h2;",
        more="map $remote_addr $nothing { default ''; }",
    )
    assert b"foo." == fetch(proxy)


@pytest.mark.effect("proxy_ssl_verify", "proxy_ssl_trusted_certificate")
def test_the_server_is_verified(proxied, world: World) -> None:
    """A good certificate passes; another name or another authority is the peer's failure."""
    trust = f"proxy_ssl_verify on; proxy_ssl_trusted_certificate {world.ca.cert};"
    good, _ = proxied(f"{trust} proxy_ssl_name a.test;")
    assert fetch(good).startswith(b"TLSv1.3|")
    named, _ = proxied(f"{trust} proxy_ssl_name b.test;")
    assert b"" == fetch(named)
    line = error_line(named, 'upstream SSL certificate does not match "b.test"')
    assert " while SSL handshaking to upstream, client: 127.0.0.1" in line
    stranger, up = proxied(
        f"proxy_ssl_verify on; proxy_ssl_trusted_certificate {world.other_ca.cert}; "
        "proxy_ssl_name a.test;"
    )
    assert b"" == fetch(stranger)
    error_line(stranger, "upstream SSL certificate verify error: (")
    wait_until(stranger.access_log, PATIENCE, "the access log")
    assert stranger.access_log()[0].startswith(f"502 127.0.0.1:{up.port('tls')} ")


@pytest.mark.effect("proxy_ssl_crl")
def test_a_revoked_server_is_refused(proxied, world: World) -> None:
    """The list is looked into."""
    crl = world.ca.crl()
    empty = crl.with_name("empty.crl")
    empty.write_bytes(crl.read_bytes())
    revoked = world.ca.issue("revoked.test")
    world.ca.revoke(revoked)
    verify = (
        f"proxy_ssl_verify on; proxy_ssl_trusted_certificate {world.ca.cert}; "
        "proxy_ssl_name revoked.test;"
    )
    server = f"ssl_certificate_cache off; ssl_certificate {revoked.cert};"
    key = f"ssl_certificate_key {revoked.key}; ssl_protocols TLSv1.2;"
    # the first certificate of a kind of key gives way to the second
    good, _ = proxied(f"{verify} proxy_ssl_crl {empty};", server=server + key)
    assert fetch(good).startswith(b"TLSv1.2|")
    bad, _ = proxied(f"{verify} proxy_ssl_crl {world.ca.crl()};", server=server + key)
    assert b"" == fetch(bad)
    assert "(23:certificate revoked)" in error_line(bad, "verify error")


@pytest.mark.effect("proxy_ssl_verify_depth")
def test_the_depth_of_the_servers_chain_is_limited(proxied, world: World, tmp_path: Path) -> None:
    """With a depth of 0 not even the authority may sign the server's certificate's signer."""
    ca_bits = "keyUsage=keyCertSign,cRLSign\n"
    one = world.ca.issue("one", is_authority=True, more=ca_bits, file=f"one-{tmp_path.name}")
    below = certs.Authority(tmp_path / "below", "unused")
    below.cert.write_bytes(one.cert.read_bytes())
    below.key.write_bytes(one.key.read_bytes())
    leaf = below.issue("leaf.test", kind="rsa")
    chain = tmp_path / "chain.pem"
    chain.write_bytes(leaf.cert.read_bytes() + one.cert.read_bytes())
    server = (
        f"ssl_certificate {chain}; ssl_certificate_key {leaf.key}; ssl_protocols TLSv1.2; "
        "ssl_ciphers ECDHE-RSA-AES128-GCM-SHA256;"
    )
    verify = (
        f"proxy_ssl_verify on; proxy_ssl_trusted_certificate {world.ca.cert}; "
        "proxy_ssl_name leaf.test;"
    )
    good, _ = proxied(f"{verify} proxy_ssl_verify_depth 1;", server=server)
    assert fetch(good).startswith(b"TLSv1.2|")
    bad, _ = proxied(f"{verify} proxy_ssl_verify_depth 0;", server=server)
    assert b"" == fetch(bad)
    error_line(bad, "upstream SSL certificate verify error")


@pytest.mark.effect(
    "proxy_ssl_certificate", "proxy_ssl_certificate_key", "proxy_ssl_password_file"
)
def test_a_certificate_is_shown(proxied, world: World, tmp_path: Path) -> None:
    """The server verifies the certificate of the configuration, whose key is encrypted."""
    secret = world.ca.issue("secret", password="word", file=f"secret-{tmp_path.name}")
    passwords = tmp_path / "passwords"
    passwords.write_text("wrong\nword\n")
    proxy, _ = proxied(
        f"proxy_ssl_certificate {secret.cert}; proxy_ssl_certificate_key {secret.key}; "
        f"proxy_ssl_password_file {passwords};",
        server=f"ssl_verify_client on; ssl_client_certificate {world.ca.cert};",
    )
    assert b"|SUCCESS|CN=secret" == fetch(proxy)[-len(b"|SUCCESS|CN=secret") :]


@pytest.mark.effect("proxy_ssl_certificate_cache")
def test_the_certificate_may_be_another_for_each_session(
    ngxstream: Factory, world: World, tmp_path: Path
) -> None:
    """Names with variables are read when they are wanted, and kept if a cache is there."""
    for name, pair in (("x", world.client), ("y", world.server)):
        (tmp_path / f"{name}.crt").write_bytes(pair.cert.read_bytes())
        (tmp_path / f"{name}.key").write_bytes(pair.key.read_bytes())
    chosen = (
        f"proxy_ssl on; proxy_ssl_certificate {tmp_path}/$w.crt; "
        f"proxy_ssl_certificate_key {tmp_path}/$w.key; proxy_pass 127.0.0.1:@tls@;"
    )
    proxy = ngxstream(
        "events {} stream { server { listen 127.0.0.1:@tls@ ssl; ssl_verify_client optional; "
        f"ssl_client_certificate {world.ca.cert}; ssl_certificate {world.server.cert}; "
        f"ssl_certificate_key {world.server.key}; return $ssl_client_s_dn; }} "
        f"server {{ listen 127.0.0.1:@x@; set $w x; {chosen} }} "
        f"server {{ listen 127.0.0.1:@y@; set $w y; {chosen} }} "
        "server { listen 127.0.0.1:@kept@; set $w y; proxy_ssl_certificate_cache max=4 valid=1d; "
        f"{chosen} }} }}"
    )
    seen = [fetch(proxy, name) for name in ("x", "y", "kept")]
    assert [b"CN=client", b"CN=a.test", b"CN=a.test"] == seen
    for kind in ("crt", "key"):
        (tmp_path / f"y.{kind}").write_bytes((tmp_path / f"x.{kind}").read_bytes())
    assert b"CN=a.test" == fetch(proxy, "kept")
    # an earlier session was sealed for y's former certificate; a new name asks for a new one
    (tmp_path / "x.crt").unlink()
    assert b"" == fetch(proxy, "x")
    error_line(proxy, f'cannot load certificate "{tmp_path}/x.crt": BIO_new_file() failed')


@pytest.mark.effect("proxy_ssl_conf_command")
def test_conf_commands_reach_the_library(proxied) -> None:
    """Ciphersuites of TLS 1.3 have no directive of their own."""
    proxy, _ = proxied("proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;")
    assert b"TLS_AES_128_GCM_SHA256" == fetch(proxy).split(b"|")[1]


@pytest.mark.effect("proxy_ssl_session_reuse")
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_sessions_are_resumed_unless_told_not_to(proxied, version: str) -> None:
    """The second connection to a peer is a resumption."""
    only = f"proxy_ssl_protocols {version};"
    proxy, _ = proxied(only, says="$ssl_session_reused")
    assert b".rr" == b"".join(fetch(proxy) for _ in range(3))
    fresh, _ = proxied(f"{only} proxy_ssl_session_reuse off;", says="$ssl_session_reused")
    assert b"..." == b"".join(fetch(fresh) for _ in range(3))


def tells_reuse(ngxstream: Factory, world: World) -> proxies.Proxy:
    """Start a TLS server that says `r` to a session it knows, `.` to another one."""
    return ngxstream(
        "worker_processes 1; events {} stream { server { listen 127.0.0.1:@tls@ ssl; "
        f"ssl_certificate {world.server.cert}; ssl_certificate_key {world.server.key}; "
        'return "$ssl_session_reused"; } }'
    )


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_groups_of_one_server_have_sessions_of_their_own(
    proxy: Factory, ngxstream: Factory, world: World, version: str
) -> None:
    """A session made for one group is not resumed for another, though both name one address."""
    backend = tells_reuse(ngxstream, world)
    groups = "".join(f"upstream u{n} {{ server 127.0.0.1:{backend.port('tls')}; }} " for n in "12")
    servers = "".join(
        f"server {{ listen 127.0.0.1:@in{n}@; proxy_pass u{n}; proxy_ssl on; "
        f"proxy_ssl_protocols {version}; }} "
        for n in "12"
    )
    program = proxy(f"worker_processes 1; events {{}} stream {{ {groups} {servers} }}")
    order = ("in1", "in2", "in1", "in2")
    assert b"..rr" == b"".join(fetch(program, name) for name in order)


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_a_session_made_without_verification_is_not_taken_where_it_is_wanted(
    proxy: Factory, ngxstream: Factory, world: World, version: str
) -> None:
    """A server whose certificate nobody looked at is refused where somebody does."""
    backend = tells_reuse(ngxstream, world)
    common = f"proxy_pass u; proxy_ssl on; proxy_ssl_name a.test; proxy_ssl_protocols {version};"
    program = proxy(
        "worker_processes 1; events {} stream { "
        f"upstream u {{ server 127.0.0.1:{backend.port('tls')}; }} "
        f"server {{ listen 127.0.0.1:@lax@; {common} }} "
        f"server {{ listen 127.0.0.1:@strict@; {common} proxy_ssl_verify on; "
        f"proxy_ssl_trusted_certificate {world.other_ca.cert}; }} }}"
    )
    assert b".r" == fetch(program, "lax") + fetch(program, "lax")
    assert b"" == fetch(program, "strict")
    assert "certificate verify error" in error_line(program, "upstream SSL certificate")


@pytest.mark.parametrize("version", ["on", "v2"])
def test_the_proxy_header_goes_before_tls(ngxstream: Factory, world: World, version: str) -> None:
    """The upstream server reads the client's address, then shakes hands."""
    proxy = ngxstream(
        f"events {{}} stream {{ log_format l '$upstream_bytes_sent'; "
        "server { listen 127.0.0.1:@tls@ ssl proxy_protocol; "
        f"ssl_certificate {world.server.cert}; ssl_certificate_key {world.server.key}; "
        'return "$proxy_protocol_addr:$proxy_protocol_port"; } '
        "server { listen 127.0.0.1:@main@; proxy_pass 127.0.0.1:@tls@; proxy_ssl on; "
        f"proxy_protocol {version}; access_log logs/access.log l; }} }}"
    )
    with clients.TcpClient(proxy.address("main")) as client:
        assert f"127.0.0.1:{client.name[1]}".encode() == client.recv_to_eof()
    wait_until(proxy.access_log, PATIENCE, "the access log")
    assert int(proxy.access_log()[0]) > 28


def test_a_version_2_header_tells_of_the_clients_tls(ngxstream: Factory, world: World) -> None:
    """Name, protocol, version, cipher and the certificate's facts come as TLVs."""
    tlvs = ("authority", "alpn", "ssl_version", "ssl_cipher", "ssl_sig_alg", "ssl_key_alg",
            "ssl_cn", "ssl_verify")  # fmt: skip
    says = "|".join(f"$proxy_protocol_tlv_{name}" for name in tlvs)
    proxy = ngxstream(
        "events {} stream { server { listen 127.0.0.1:@inner@ proxy_protocol; "
        f'return "{says}"; }} '
        f"server {{ listen 127.0.0.1:@main@ ssl; ssl_alpn h2; ssl_verify_client optional; "
        f"ssl_client_certificate {world.ca.cert}; "
        f"ssl_certificate {world.server.cert}; ssl_certificate_key {world.server.key}; "
        "proxy_pass 127.0.0.1:@inner@; proxy_protocol v2; } "
        f"server {{ listen 127.0.0.1:@far@; proxy_pass 127.0.0.1:@main@; proxy_ssl on; "
        f"proxy_ssl_certificate {world.client.cert}; "
        f"proxy_ssl_certificate_key {world.client.key}; proxy_ssl_alpn h2; "
        "proxy_ssl_server_name on; proxy_ssl_name a.test; } "
        "server { listen 127.0.0.1:@bare@; proxy_pass 127.0.0.1:@main@; proxy_ssl on; } }"
    )
    common = "TLSv1.3|TLS_AES_256_GCM_SHA384|ecdsa-with-SHA256|EC256"
    assert f"a.test|h2|{common}|client|0".encode() == fetch(proxy, "far")
    assert f"||{common}||1".encode() == fetch(proxy, "bare")


def test_bytes_flow_both_ways_under_tls_on_both_sides(
    ngxstream: Factory, backends: BackendFactory, world: World
) -> None:
    """TLS in, TLS out, TLS in again: an echo of a megabyte comes back as it was sent."""
    echo = backends.tcp()
    pair = f"ssl_certificate {world.server.cert}; ssl_certificate_key {world.server.key};"
    proxy = ngxstream(
        f"events {{}} stream {{ {pair} "
        f"server {{ listen 127.0.0.1:@last@ ssl; proxy_pass 127.0.0.1:{echo.port}; }} "
        "server { listen 127.0.0.1:@mid@ ssl; proxy_pass 127.0.0.1:@last@; proxy_ssl on; } "
        "server { listen 127.0.0.1:@main@; proxy_pass 127.0.0.1:@mid@; proxy_ssl on; } }"
    )
    data = bytes(range(256)) * 4096
    with clients.TcpClient(proxy.address("main")) as client:
        for start in range(0, len(data), 65536):
            piece = data[start : start + 65536]
            assert piece == client.exchange(piece)


def test_s_server_takes_the_connection(ngxstream: Factory, world: World, tmp_path: Path) -> None:
    """openssl at the other end reads what the client says."""
    words = ("-cert", str(world.server.cert), "-key", str(world.server.key), "-quiet")
    words = tuple(word for word in words if word != "-quiet")
    with s_server(tmp_path, *words) as port:
        proxy = ngxstream(
            f"events {{}} stream {{ server {{ listen 127.0.0.1:@main@; "
            f"proxy_pass 127.0.0.1:{port}; proxy_ssl on; }} }}"
        )
        with clients.TcpClient(proxy.address("main")) as client:
            client.send(b"hello from the client\n")
            heard = tmp_path / "heard"
            wait_until(
                lambda: b"hello from the client" in heard.read_bytes(), PATIENCE, "the words"
            )


def test_a_server_without_tls_is_the_peers_failure(
    ngxstream: Factory, backends: BackendFactory
) -> None:
    """A plain answer to the ClientHello is an error, and the next server is tried."""
    proxy = ngxstream(
        "events {} stream { log_format l '$status $upstream_addr'; access_log logs/access.log l; "
        "upstream u { server 127.0.0.1:@plain@; } "
        "server { listen 127.0.0.1:@plain@; return 'not TLS at all'; } "
        "server { listen 127.0.0.1:@main@; proxy_pass u; proxy_ssl on; } }"
    )
    assert b"" == fetch(proxy)
    line = error_line(proxy, "SSL_do_handshake() failed (SSL: error:0A00010B:SSL routines::wrong")
    assert "while SSL handshaking to upstream" in line


def test_a_silent_server_is_given_up(ngxstream: Factory, backends: BackendFactory) -> None:
    """proxy_connect_timeout is for the handshake too."""
    mute = backends.tcp(silent)
    proxy = ngxstream(
        "events {} stream { log_format l '$status'; access_log logs/access.log l; server { "
        f"listen 127.0.0.1:@main@; proxy_pass {mute.text}; proxy_ssl on; "
        "proxy_connect_timeout 300ms; } }"
    )
    assert b"" == fetch(proxy)
    line = error_line(proxy, "upstream timed out (110: Connection timed out)")
    assert "while SSL handshaking to upstream" in line
    wait_until(lambda: proxy.access_log() == ["502"], PATIENCE, "the access log")
