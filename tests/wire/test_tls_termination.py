"""TLS towards clients: what each ssl_* directive does, as openssl and curl see it."""

import contextlib
import os
import re
import signal
import subprocess
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import pytest

from ngxstream.modules.ssl import variables
from tests.support import certs, proxies, tls_clients, tools
from tests.support.clients import TcpClient
from tests.support.tls_clients import s_client
from tests.support.waiting import PATIENCE, wait_until

Factory = proxies.ProxyFactory


class World:
    """An authority and what it has issued, made once for all tests of this file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = certs.Authority(folder / "ca")
        self.a = self.ca.issue("a.test", names=("*.a.test",))
        self.b = self.ca.issue("b.test")
        self.rsa = self.ca.issue("a.test", kind="rsa", file="rsa")
        self.client = self.ca.issue("client", subject="/O=Org, Inc/CN=client")
        self.other_ca = certs.Authority(folder / "other", "another authority")
        self.stranger = self.other_ca.issue("stranger")

    @property
    def pair(self) -> str:
        """The directives of the certificate for a.test."""
        return f"ssl_certificate {self.a.cert}; ssl_certificate_key {self.a.key};"

    def as_client(self, pair: certs.Pair) -> tuple[str, ...]:
        """Return s_client's options to show a certificate."""
        return "-cert", str(pair.cert), "-key", str(pair.key)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Give the certificates."""
    return World(tmp_path_factory.mktemp("world"))


VERIFY = "$ssl_client_verify|$ssl_client_s_dn"
NEWER = (
    "unknown directive|unknown .* variable|directive is not allowed here"
    "|no ssl_client_certificate for ssl_verify_client"  # a trusted one does since 1.27
)


@pytest.fixture
def serve(proxy: Factory, tmp_path: Path) -> Callable[..., proxies.Proxy]:
    """Give ``serve(directives)``: one TLS server that returns what it is told of the client.

    The test runs on nginx too, and skips there what nginx's version does not know.
    """

    def start(
        directives: str, *, says: str = "", more: str = "", **options: object
    ) -> proxies.Proxy:
        conf = (
            "events {} stream { ssl_protocols TLSv1.2 TLSv1.3; "
            "log_format l '$status $ssl_protocol'; access_log logs/access.log l; "
            f"server {{ listen 127.0.0.1:@main@ ssl; {directives} "
            f'return "<data>{says}</data>"; }} {more} }}'
        )
        if proxy.name == "nginx":
            said = proxies.Nginx(conf, tmp_path).test().stderr
            if re.search(NEWER, said):
                pytest.skip(f"this nginx is too old: {said.splitlines()[0]}")
        return proxy(conf, **options)

    return start


def info_lines(proxy: proxies.Proxy, words: str) -> list[str]:
    """Wait for a line of level info with these words; return all of them."""
    found: list[str] = []

    def look() -> bool:
        found[:] = [line for line in proxy.error_log() if words in line]
        return bool(found)

    wait_until(look, PATIENCE, f"a line with {words}")
    assert all("[info]" in line for line in found), found
    return found


@pytest.mark.effect("ssl_certificate", "ssl_certificate_key")
def test_a_client_sees_the_certificate_and_verifies_it(serve, world: World) -> None:
    """openssl verifies the chain and the name, and reads what is returned."""
    proxy = serve(world.pair, says="$ssl_protocol $ssl_cipher $ssl_server_name")
    talk = s_client(
        proxy.port("main"), "-CAfile", str(world.ca.cert), "-verify_return_error",
        "-verify_hostname", "x.a.test", name="x.a.test",
    )  # fmt: skip
    assert b"TLSv1.3 TLS_AES_256_GCM_SHA384 x.a.test" == talk.data
    assert "Verification: OK" in talk.said


def test_curl_fetches_through_termination(ngxstream: Factory, world: World) -> None:
    """curl over TLS gets what a plain HTTP answer behind the proxy says."""
    proxy = ngxstream(
        f"events {{}} stream {{ {world.pair} "
        "server { listen 127.0.0.1:@main@ ssl; proxy_pass 127.0.0.1:@inner@; } "
        "server { listen 127.0.0.1:@inner@; "
        'return "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"; } }'
    )
    url = f"https://a.test:{proxy.port('main')}/"
    ran = subprocess.run(
        [tools.require("curl"), "-sS", "--cacert", str(world.ca.cert), "--connect-to",
         f"a.test::127.0.0.1:{proxy.port('main')}", url],
        capture_output=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert b"hello" == ran.stdout, ran.stderr


@pytest.mark.parametrize(("version", "option"), [("TLSv1.2", "-tls1_2"), ("TLSv1.3", "-tls1_3")])
def test_ecdsa_and_rsa_certificates_stand_side_by_side(
    serve, world: World, version: str, option: str
) -> None:
    """A client that signs with RSA only gets the RSA certificate, another the ECDSA one."""
    both = f"ssl_certificate {world.rsa.cert}; ssl_certificate_key {world.rsa.key};"
    proxy = serve(world.pair + both, says="$ssl_protocol")
    for sigalgs, kind in (("ECDSA+SHA256", "EC"), ("RSA-PSS+SHA256:RSA+SHA256", "RSA")):
        talk = s_client(proxy.port("main"), option, "-sigalgs", sigalgs)
        assert version.encode() == talk.data
        shown = certs.openssl("x509", "-noout", "-text", stdin=talk.said.encode()).decode()
        assert ("id-ecPublicKey" if kind == "EC" else "rsaEncryption") in shown


@pytest.mark.effect("ssl_protocols")
def test_protocols_decide_the_version(serve, world: World) -> None:
    """A server of TLS 1.2 alone speaks it; one of 1.3 alone refuses a client of 1.2."""
    proxy = serve(
        world.pair + "ssl_protocols TLSv1.2;",
        more=f"server {{ listen 127.0.0.1:@new@ ssl; {world.pair} ssl_protocols TLSv1.3; "
        "return <data</data>>; }",
    )
    assert "TLSv1.2" == s_client(proxy.port("main")).protocol
    assert "" == s_client(proxy.port("new"), "-tls1_2").protocol
    assert "unsupported protocol" in info_lines(proxy, "SSL_do_handshake() failed")[0]


def test_old_versions_are_served_where_openssl_still_has_them(serve, world: World) -> None:
    """TLS 1.0 and 1.1 work with the security level that OpenSSL 3 wants for them."""
    proxy = serve(
        world.pair + "ssl_protocols TLSv1 TLSv1.1; ssl_ciphers ALL:@SECLEVEL=0;",
        says="$ssl_protocol",
    )
    for option, version in (("-tls1", b"TLSv1"), ("-tls1_1", b"TLSv1.1")):
        talk = s_client(proxy.port("main"), option, "-cipher", "ALL:@SECLEVEL=0")
        assert version == talk.data, talk.said


@pytest.mark.effect("ssl_ciphers", "ssl_prefer_server_ciphers")
def test_ciphers_and_whose_order_counts(serve, world: World) -> None:
    """The client's order decides, unless ssl_prefer_server_ciphers is on."""
    order = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384"
    reverse = "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256"
    common = f"{world.pair} ssl_ciphers {order};"
    proxy = serve(
        common,
        more=f"server {{ listen 127.0.0.1:@ours@ ssl; {common} ssl_prefer_server_ciphers on; "
        "return <data</data>>; }",
    )
    words = ("-tls1_2", "-cipher", reverse)
    assert "ECDHE-ECDSA-AES256-GCM-SHA384" == s_client(proxy.port("main"), *words).cipher
    assert "ECDHE-ECDSA-AES128-GCM-SHA256" == s_client(proxy.port("ours"), *words).cipher
    none = s_client(proxy.port("main"), "-tls1_2", "-cipher", "AES128-SHA")
    assert "" == none.cipher
    assert "no shared cipher" in info_lines(proxy, "SSL_do_handshake() failed")[0]


@pytest.mark.effect("ssl_ecdh_curve")
def test_curves_limit_the_key_exchange(serve, world: World) -> None:
    """The group is one of the server's list."""
    proxy = serve(
        world.pair + "ssl_ecdh_curve secp384r1:X25519;", says="$ssl_curve $ssl_curves"
    )
    talk = s_client(proxy.port("main"), "-groups", "P-256:P-384:X25519")
    assert b"secp384r1 prime256v1:secp384r1:X25519" == talk.data


@pytest.mark.effect("ssl_dhparam")
def test_dhparam_allows_finite_fields(serve, world: World, tmp_path: Path) -> None:
    """A DHE cipher works with the parameters of the file, and has their size."""
    file = tmp_path / "dh.pem"
    certs.openssl("genpkey", "-genparam", "-algorithm", "DH", "-pkeyopt", "group:ffdhe2048",
                  "-out", str(file))  # fmt: skip
    pem = file.read_text()
    assert "PARAMETERS" in pem
    both = f"ssl_certificate {world.rsa.cert}; ssl_certificate_key {world.rsa.key};"
    proxy = serve(f"{both} ssl_dhparam {file}; ssl_protocols TLSv1.2;", says="$ssl_cipher")
    talk = s_client(proxy.port("main"), "-cipher", "DHE-RSA-AES128-GCM-SHA256")
    assert b"DHE-RSA-AES128-GCM-SHA256" == talk.data
    assert "DH, 2048 bits" in talk.fact(r"(?:Server|Peer) Temp Key: (.*)")


@pytest.mark.effect("ssl_password_file")
def test_encrypted_keys_are_opened(ngxstream: Factory, world: World, tmp_path: Path) -> None:
    """Each password of the file is tried."""
    secret = world.ca.issue("secret.test", password="third one")
    file = tmp_path / "passwords"
    file.write_text("first\r\n\nsecond\nthird one")
    proxy = ngxstream(
        f"events {{}} stream {{ ssl_password_file {file}; server {{ "
        f"listen 127.0.0.1:@main@ ssl; ssl_certificate {secret.cert}; "
        f"ssl_certificate_key {secret.key}; return <data>ok</data>; }} }}"
    )
    assert b"ok" == s_client(proxy.port("main")).data


def test_a_key_may_stand_in_the_configuration(serve, world: World) -> None:
    """`data:` keys and certificates are read from the text itself."""
    pem, key = world.a.cert.read_text(), world.a.key.read_text()
    proxy = serve(f'ssl_certificate "data:{pem}"; ssl_certificate_key "data:{key}";', says="ok")
    assert b"ok" == s_client(proxy.port("main")).data


@pytest.mark.effect("ssl_certificate_cache")
def test_names_of_certificates_may_hold_variables(
    ngxstream: Factory, world: World, tmp_path: Path
) -> None:
    """The certificate is chosen by SNI; with a cache it is read once, until it is too old."""
    files = tmp_path / "files"
    files.mkdir()

    def put(name: str, pair: certs.Pair) -> None:
        (files / f"{name}.crt").write_bytes(pair.cert.read_bytes())
        (files / f"{name}.key").write_bytes(pair.key.read_bytes())

    put("a.test", world.a)
    put("b.test", world.b)
    chosen = (
        f"ssl_certificate {files}/$ssl_server_name.crt; "
        f"ssl_certificate_key {files}/$ssl_server_name.key; return <data</data>>;"
    )
    proxy = ngxstream(
        f"events {{}} stream {{ server {{ listen 127.0.0.1:@main@ ssl; {chosen} }} "
        f"server {{ listen 127.0.0.1:@kept@ ssl; ssl_certificate_cache max=8; {chosen} }} }}"
    )
    for port in ("main", "kept"):
        for name in ("a.test", "b.test"):
            assert f"CN={name}" == s_client(proxy.port(port), name=name).subject
    put("a.test", world.b)
    assert "CN=b.test" == s_client(proxy.port("main"), name="a.test").subject
    assert "CN=a.test" == s_client(proxy.port("kept"), name="a.test").subject
    assert "" == s_client(proxy.port("main"), name="nobody.test").subject
    wait_until(lambda: any("nobody" in line for line in proxy.error_log()), PATIENCE, "the line")
    complaint = next(line for line in proxy.error_log() if "nobody" in line)
    assert f'cannot load certificate "{files}/nobody.test.crt": BIO_new_file() failed' in complaint
    assert "[error]" in complaint


def test_sni_selects_the_virtual_server_and_its_protocols(ngxstream: Factory, world: World) -> None:
    """Certificate, versions and content are those of the server asked for, else the default's."""
    b = f"ssl_certificate {world.b.cert}; ssl_certificate_key {world.b.key};"
    proxy = ngxstream(
        f"events {{}} stream {{ server {{ listen 127.0.0.1:@main@ ssl; {world.pair} "
        "server_name a.test *.a.test; return <data>a:$server_name</data>; } "
        f"server {{ listen 127.0.0.1:@main@ ssl; {b} server_name b.test ~^(?<w>\\w+)\\.re$; "
        "ssl_protocols TLSv1.2; return <data>b:$w</data>; } }"
    )
    port = proxy.port("main")
    for name, data, subject, version in (
        ("b.test", b"b:", "CN=b.test", "TLSv1.2"),
        ("x.a.test", b"a:a.test", "CN=a.test", "TLSv1.3"),
        ("foo.re", b"b:foo", "CN=b.test", "TLSv1.2"),
        ("nobody.test", b"a:a.test", "CN=a.test", "TLSv1.3"),
        ("", b"a:a.test", "CN=a.test", "TLSv1.3"),
    ):
        talk = s_client(port, name=name)
        assert (data, subject, version) == (talk.data, talk.subject, talk.protocol)


def test_sni_selects_whether_a_client_certificate_is_wanted(serve, world: World) -> None:
    """A server asked for by name asks its clients for one though the default does not."""
    proxy = serve(
        f"{world.pair} server_name a.test;",
        says=VERIFY,
        more=f"server {{ listen 127.0.0.1:@main@ ssl; server_name b.test; {world.pair} "
        f"ssl_verify_client on; ssl_client_certificate {world.ca.cert}; "
        f'return "<data>{VERIFY}</data>"; }}',
    )
    port, known = proxy.port("main"), world.as_client(world.client)
    assert b"NONE|" == s_client(port, *known, name="a.test").data
    assert b"SUCCESS|O=Org\\, Inc,CN=client" == s_client(port, *known, name="b.test").data
    assert b"" == s_client(port, name="b.test").data
    info_lines(proxy, "client sent no required SSL certificate")
    assert b"" == s_client(port, *world.as_client(world.stranger), name="b.test").data
    info_lines(proxy, "client SSL certificate verify error")


@pytest.mark.effect("ssl_reject_handshake")
def test_a_server_may_refuse_every_handshake(ngxstream: Factory, world: World) -> None:
    """The default server without a certificate refuses; a named one serves."""
    proxy = ngxstream(
        "events {} stream { server { listen 127.0.0.1:@main@ ssl; ssl_reject_handshake on; "
        f"return <data</data>>; }} server {{ listen 127.0.0.1:@main@ ssl; server_name b.test; "
        f"ssl_certificate {world.b.cert}; ssl_certificate_key {world.b.key}; "
        "return <data>b</data>; } }"
    )
    assert b"b" == s_client(proxy.port("main"), name="b.test").data
    talk = s_client(proxy.port("main"), name="a.test")
    assert "SSL alert number 112" in talk.said
    assert len(info_lines(proxy, "handshake rejected while SSL handshaking")) == 1


def test_a_refused_handshake_is_logged_with_every_variable(
    ngxstream: Factory, world: World
) -> None:
    """What was not agreed upon is logged as a dash; the worker lives on."""
    names = " ".join(f"${variable.name}" for variable in variables.VARIABLES)
    proxy = ngxstream(
        f"events {{}} stream {{ log_format l '$status $pid {names}'; access_log logs/access.log l; "
        "server { listen 127.0.0.1:@main@ ssl; ssl_reject_handshake on; return a; } }"
    )
    for _ in range(2):
        assert "SSL alert number 112" in s_client(proxy.port("main"), "-tls1_3").said
    path = proxy.prefix / "logs/access.log"
    wait_until(lambda: path.read_text().count("\n") == 2, PATIENCE, "two lines")
    first, second = (line.split() for line in path.read_text().splitlines())
    assert first == second  # the worker too
    facts = dict(zip(("status", "pid", *names.split()), first, strict=True))
    assert ("500", "NONE") == tuple(
        facts[name] for name in ("status", "$ssl_client_verify")
    )
    assert {"-"} == {value for name, value in facts.items() if name.startswith("$ssl_client_s")}
    assert facts["$ssl_curve"] == "-"


@pytest.mark.effect("ssl_alpn")
def test_alpn_takes_the_first_of_ours_or_refuses(serve, world: World) -> None:
    """Our order decides; no overlap is a fatal alert; no offer is none of our business."""
    proxy = serve(world.pair + "ssl_alpn h2 foo;", says="$ssl_alpn_protocol.")
    port = proxy.port("main")
    assert b"h2." == s_client(port, "-alpn", "foo,h2").data
    assert b"." == s_client(port).data
    assert "SSL alert number 120" in s_client(port, "-alpn", "bar").said
    assert "no application protocol" in info_lines(proxy, "SSL_do_handshake() failed")[0]


@pytest.mark.effect("ssl_verify_client", "ssl_client_certificate")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_client_certificates(serve, world: World, version: str) -> None:
    """on wants one of ours, optional none or one of ours, optional_no_ca anybody's."""
    ca = f"ssl_client_certificate {world.ca.cert};"
    servers = " ".join(
        f"server {{ listen 127.0.0.1:@{name}@ ssl; {world.pair} ssl_verify_client {mode}; "
        f'{ca if name != "free" else ""} return "<data>{VERIFY}</data>"; }}'
        for name, mode in (("on", "on"), ("some", "optional"), ("free", "optional_no_ca"))
    )
    proxy = serve(world.pair, more=servers)
    good = world.as_client(world.client)
    bad = world.as_client(world.stranger)
    ok = b"SUCCESS|O=Org\\, Inc,CN=client"
    none = b"NONE|"
    lacking = b"FAILED:unable to verify the first certificate|CN=stranger"
    expected = {
        "on": (ok, b"", b""),
        "some": (ok, none, b""),
        "free": (b"FAILED:unable to verify the first certificate|O=Org\\, Inc,CN=client",
                 none, lacking),
    }  # fmt: skip
    for name, answers in expected.items():
        got = tuple(
            s_client(proxy.port(name), version, *words).data for words in (good, (), bad)
        )
        assert answers == got, name
    lines = info_lines(proxy, "client SSL certificate verify error")
    assert "(21:unable to verify the first certificate)" in lines[0]
    info_lines(proxy, "client sent no required SSL certificate")


def test_authorities_are_named_to_clients_unless_only_trusted(serve, world: World) -> None:
    """ssl_client_certificate is announced, ssl_trusted_certificate is not; both count."""
    proxy = serve(
        f"{world.pair} ssl_verify_client on; ssl_client_certificate {world.ca.cert};",
        more=f"server {{ listen 127.0.0.1:@quiet@ ssl; {world.pair} ssl_verify_client on; "
        f'ssl_trusted_certificate {world.ca.cert}; return "<data>{VERIFY}</data>"; }}',
    )
    good = world.as_client(world.client)
    named = s_client(proxy.port("main"), *good).said.partition(
        "Acceptable client certificate CA names"
    )[2]
    assert re.search(r"\nCN ?= ?test authority\n", named)
    talk = s_client(proxy.port("quiet"), *good)
    assert "No client certificate CA names sent" in talk.said
    assert talk.data.startswith(b"SUCCESS")


@pytest.mark.effect("ssl_trusted_certificate", "ssl_verify_depth")
def test_the_depth_of_chains_is_limited(serve, world: World, tmp_path: Path) -> None:
    """A chain over two intermediates is too long for the default depth of one."""
    chain = world.ca
    ca_bits = "keyUsage=keyCertSign,cRLSign\n"
    one = chain.issue("one", is_authority=True, more=ca_bits)
    below = certs.Authority(tmp_path / "below", "unused")
    below.cert.write_bytes(one.cert.read_bytes())
    below.key.write_bytes(one.key.read_bytes())
    two = below.issue("two", is_authority=True, more=ca_bits)
    last = certs.Authority(tmp_path / "last", "unused too")
    last.cert.write_bytes(two.cert.read_bytes())
    last.key.write_bytes(two.key.read_bytes())
    leaf = last.issue("leaf")
    both = tmp_path / "chain.pem"
    both.write_bytes(two.cert.read_bytes() + one.cert.read_bytes())
    words = (*world.as_client(leaf), "-cert_chain", str(both))
    verify = f"{world.pair} ssl_verify_client on; ssl_trusted_certificate {world.ca.cert};"
    proxy = serve(
        verify,
        more=f"server {{ listen 127.0.0.1:@deep@ ssl; {verify} ssl_verify_depth 3; "
        f'return "<data>{VERIFY}</data>"; }}',
    )
    assert b"SUCCESS|CN=leaf" == s_client(proxy.port("deep"), *words).data
    assert b"" == s_client(proxy.port("main"), *words).data
    info_lines(proxy, "client SSL certificate verify error")


@pytest.mark.effect("ssl_crl")
def test_revoked_clients_are_refused(serve, world: World) -> None:
    """A certificate on the list fails, another of the same authority does not."""
    revoked = world.ca.issue("revoked")
    world.ca.revoke(revoked)
    proxy = serve(
        f"{world.pair} ssl_verify_client on; ssl_client_certificate {world.ca.cert}; "
        f"ssl_crl {world.ca.crl()};",
        says=VERIFY,
    )
    port = proxy.port("main")
    assert s_client(port, *world.as_client(world.client)).data.startswith(b"SUCCESS")
    assert b"" == s_client(port, *world.as_client(revoked)).data
    assert "(23:certificate revoked)" in info_lines(proxy, "verify error")[0]


@pytest.mark.effect("ssl_handshake_timeout")
def test_a_slow_handshake_is_cut_off(serve, world: World) -> None:
    """A client that says nothing is let go, with status 500 and no word of it."""
    proxy = serve(world.pair + "ssl_handshake_timeout 200ms;")
    with TcpClient(proxy.address("main")) as client:
        client.send(b"\x16\x03\x01")
        assert b"" == client.recv_to_eof()
    wait_until(proxy.access_log, PATIENCE, "the access log")
    assert "500" == proxy.access_log()[0].split()[0]


@pytest.mark.effect("ssl_conf_command")
def test_conf_commands_reach_the_library(serve, world: World) -> None:
    """Ciphersuites of TLS 1.3 have no directive of their own."""
    proxy = serve(
        world.pair + "ssl_conf_command Ciphersuites TLS_CHACHA20_POLY1305_SHA256;",
        says="$ssl_cipher",
    )
    assert b"TLS_CHACHA20_POLY1305_SHA256" == s_client(proxy.port("main")).data


@pytest.mark.effect("ssl_stapling", "ssl_stapling_file")
def test_a_staple_is_sent_to_who_asks(serve, world: World, tmp_path: Path) -> None:
    """The OCSP response of the file goes out with the certificate."""
    staple = tmp_path / "staple.der"
    request = tmp_path / "request.der"
    certs.openssl("ocsp", "-issuer", str(world.ca.cert), "-cert", str(world.a.cert), "-reqout",
                  str(request))  # fmt: skip
    certs.openssl(
        "ocsp", "-index", str(world.ca.folder / "index.txt"), "-rsigner", str(world.ca.cert),
        "-rkey", str(world.ca.key), "-CA", str(world.ca.cert), "-reqin", str(request),
        "-respout", str(staple), "-ndays", "1",
    )  # fmt: skip
    proxy = serve(f"{world.pair} ssl_stapling on; ssl_stapling_file {staple};")
    port = proxy.port("main")
    assert "OCSP Response Status: successful" in s_client(port, "-status").said
    assert "OCSP Response Status" not in s_client(port).said


def test_every_fact_of_a_client_certificate_is_a_variable(serve, world: World) -> None:
    """The variables say what openssl says of the same certificate."""
    names = ("serial", "fingerprint", "i_dn", "v_start", "v_end", "v_remain")
    says = "|".join(f"$ssl_client_{name}" for name in names)
    proxy = serve(
        f"{world.pair} ssl_verify_client on; ssl_client_certificate {world.ca.cert};",
        says=f"{says}|$ssl_client_raw_cert|$ssl_client_cert|$ssl_client_escaped_cert",
    )
    talk = s_client(proxy.port("main"), *world.as_client(world.client))
    *facts, raw, tabbed, escaped = talk.data.split(b"|")
    serial, finger, issuer, start, end, remain = facts
    pem = world.client.cert.read_bytes()

    def ask(*words: str) -> bytes:
        return certs.openssl("x509", "-noout", *words, stdin=pem).partition(b"=")[2].strip()

    assert ask("-serial") == serial
    assert ask("-fingerprint", "-sha1").replace(b":", b"").lower() == finger
    assert b"CN=test authority" == issuer
    assert (ask("-startdate"), ask("-enddate")) == (start, end)
    assert remain in (b"29", b"30")
    assert pem == raw
    assert raw[:-1].replace(b"\n", b"\n\t") == tabbed
    assert raw == urllib.parse.unquote_to_bytes(escaped)
    assert escaped.startswith(b"-----BEGIN%20CERTIFICATE-----%0A")


def test_offers_of_the_client_are_variables(serve, world: World) -> None:
    """Ciphers, groups and signature algorithms are told in the client's order."""
    proxy = serve(world.pair, says="$ssl_ciphers|$ssl_curves|$ssl_sigalgs|$ssl_session_reused")
    talk = s_client(
        proxy.port("main"), "-ciphersuites", "TLS_AES_128_GCM_SHA256", "-cipher",
        "ECDHE-ECDSA-AES128-GCM-SHA256", "-groups", "X25519:P-256", "-sigalgs",
        "ECDSA+SHA256:ECDSA+SHA384",
    )  # fmt: skip
    ciphers, *others = talk.data.split(b"|")
    assert [b"X25519:prime256v1", b"0x0403:0x0503", b"."] == others
    # a client of OpenSSL 3.4 and later says that by an extension
    ciphers = ciphers.removesuffix(b":TLS_EMPTY_RENEGOTIATION_INFO_SCSV")
    assert b"TLS_AES_128_GCM_SHA256:ECDHE-ECDSA-AES128-GCM-SHA256" == ciphers


def test_a_plain_session_has_no_facts(ngxstream: Factory) -> None:
    """Off TLS the variables are not found."""
    proxy = ngxstream(
        "events {} stream { log_format l '$ssl_protocol $ssl_cipher $ssl_session_reused'; "
        "access_log logs/access.log l; server { listen 127.0.0.1:@main@; return x; } }"
    )
    with TcpClient(proxy.address("main")) as client:
        assert b"x" == client.recv_to_eof()
    wait_until(proxy.access_log, PATIENCE, "the access log")
    assert ["- - -"] == proxy.access_log()


def test_renegotiation_is_refused(serve, world: World) -> None:
    """A client of TLS 1.2 that asks for a new handshake gets none."""
    proxy = serve(
        world.pair,
        more=f"server {{ listen 127.0.0.1:@echo@ ssl; {world.pair} proxy_pass 127.0.0.1:@sink@; }} "
        "server { listen 127.0.0.1:@sink@; preread_timeout 2s; ssl_preread on; return x; }",
    )
    talk = s_client(proxy.port("echo"), "-tls1_2", send=b"R\n", commands=True)
    assert re.search("no renegotiation|NO_RENEGOTIATION", talk.said), talk.said


def test_plain_bytes_on_a_tls_port_reach_nobody(ngxstream: Factory, world: World) -> None:
    """An HTTP request is answered with an alert or nothing, and never proxied on."""
    proxy = ngxstream(
        f"events {{}} stream {{ log_format l '$status $upstream_addr.'; "
        f"access_log logs/access.log l; server {{ listen 127.0.0.1:@main@ ssl; {world.pair} "
        "proxy_pass 127.0.0.1:9; } }"
    )
    with TcpClient(proxy.address("main")) as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        # OpenSSL 3.5 leaves bytes unread: then the close is a reset
        with contextlib.suppress(ConnectionResetError):
            client.recv_to_eof()
    assert "http request" in info_lines(proxy, "SSL_do_handshake() failed")[0]
    wait_until(proxy.access_log, PATIENCE, "the access log")
    assert ["500 -."] == proxy.access_log()


def test_certificates_are_read_before_rights_are_dropped(
    ngxstream: Factory, world: World, tmp_path: Path
) -> None:
    """A key that only the super-user may read serves under `user nobody`."""
    tools.require_root()
    key = tmp_path / "private.key"
    key.write_bytes(world.a.key.read_bytes())
    os.chmod(key, 0o400)
    proxy = ngxstream(
        f"user nobody nogroup; events {{}} stream {{ server {{ listen 127.0.0.1:@main@ ssl; "
        f"ssl_certificate {world.a.cert}; ssl_certificate_key {key}; return <data>ok</data>; }} }}"
    )
    assert b"ok" == s_client(proxy.port("main")).data


def test_a_reload_with_a_broken_certificate_changes_nothing(
    ngxstream: Factory, world: World, tmp_path: Path
) -> None:
    """The old certificate serves on until the new one is whole."""
    pem = tmp_path / "cert.pem"
    pem.write_bytes(world.a.cert.read_bytes())
    proxy = ngxstream(
        f"events {{}} stream {{ server {{ listen 127.0.0.1:@main@ ssl; ssl_certificate {pem}; "
        f"ssl_certificate_key {world.a.key}; return <data</data>>; }} }}"
    )
    pem.write_text("no certificate\n")
    proxy.signal(signal.SIGHUP)
    words = f'cannot load certificate "{pem}": PEM_read_bio_X509_AUX() failed'
    wait_until(lambda: any(words in line for line in proxy.error_log()), PATIENCE, "the complaint")
    assert "CN=a.test" == s_client(proxy.port("main")).subject


def test_a_terminated_stream_can_be_looked_into(ngxstream: Factory, world: World) -> None:
    """ssl_preread inside of TLS reads the inner ClientHello and passes it on whole."""
    proxy = ngxstream(
        f"events {{}} stream {{ log_format l '$ssl_preread_server_name'; {world.pair} "
        "server { listen 127.0.0.1:@main@ ssl; ssl_preread on; "
        "proxy_pass 127.0.0.1:@inner@; access_log logs/access.log l; } "
        "server { listen 127.0.0.1:@inner@ ssl; return inner; } }"
    )
    outer = proxy.port("main")
    with tls_clients.bridge(outer) as inner_port:
        assert b"inner" in s_client(inner_port, name="inner.test").said.encode()
    wait_until(proxy.access_log, PATIENCE, "the access log")
    assert ["inner.test"] == proxy.access_log()



def test_a_server_chosen_by_name_has_its_say_about_access(
    ngxstream: Factory, world: World
) -> None:
    """After the handshake its rules are obeyed, before anything else is read."""
    proxy = ngxstream(
        f"events {{}} stream {{ log_format l '$status'; access_log logs/access.log l; {world.pair} "
        "server { listen 127.0.0.1:@main@ ssl; return <data>a</data>; } server { "
        "listen 127.0.0.1:@main@ ssl; server_name b.test; deny all; return <data>b</data>; } }"
    )
    assert b"a" == s_client(proxy.port("main"), name="a.test").data
    assert b"" == s_client(proxy.port("main"), name="b.test").data
    assert ["200", "403"] == proxy.wait_log("", count=2, name="logs/access.log")
    assert proxy.wait_log(r"access forbidden by rule while SSL handshaking")
    assert '"deny" of the server "b.test"' in proxy.test().stderr
