"""TLS towards servers: its settings, and the contexts that servers share."""

from pathlib import Path

import pytest

from tests.support.certs import Authority
from tests.support.in_process import CONF, Built, build


def served(*servers: str) -> Built:
    """Build servers with TLS to their backends."""
    text = "".join(
        f"server {{ listen 127.0.0.1:{n}; proxy_pass 127.0.0.1:9; proxy_ssl on; {words} }}"
        for n, words in enumerate(servers, 1)
    )
    return build(f"stream {{ {text} }}")


def test_servers_with_equal_settings_share_a_context() -> None:
    """A context is dear: certificates, ciphers and sessions hang on it."""
    made = served("", "", "proxy_ssl_session_reuse off;", "proxy_ssl_server_name on;")
    assert made.conf is not None, made.error
    one, same, other, named = [server.proxy_ssl.context for server in made.conf.servers]
    assert one is same
    assert one is named  # what a session says of itself is none of the context's
    assert one is not other


def test_without_proxy_ssl_there_is_no_context() -> None:
    """The other proxy_ssl_ directives alone do not make one."""
    made = build("stream { server { listen 127.0.0.1:1; proxy_pass 127.0.0.1:9; "
                 "proxy_ssl_verify on; } }")
    assert made.conf is not None, made.error
    assert made.conf.servers[0].proxy_ssl.context is None


@pytest.mark.parametrize(
    ("text", "is_warned"),
    [
        ("{server} proxy_ssl_verify on; }}", True),
        ("{server} proxy_ssl off; proxy_ssl_verify on; }}", True),
        ("{server} health_check; proxy_ssl_verify on; }}", True),
        ("{server} health_check type=tls; {trust} }}", False),
        ("{server} proxy_ssl_verify off; }}", False),
        ("proxy_ssl_verify on; {server} }}", False),  # others may have TLS
        ("proxy_ssl on; {server} {trust} }}", False),
    ],
)
def test_who_verifies_servers_and_has_no_tls_with_them_is_warned_of(
    text: str, is_warned: bool, tmp_path: Path
) -> None:
    """What is sent goes to whoever is there, as nginx's does without a message."""
    trusted = Authority(tmp_path).cert if "{trust}" in text else ""
    server = "server {{ listen 127.0.0.1:1; proxy_pass u;"
    trust = f"proxy_ssl_verify on; proxy_ssl_trusted_certificate {trusted};"
    text = text.replace("{server}", server).format(trust=trust)
    made = build(f"stream {{ upstream u {{ zone z 64k; server 127.0.0.1:9; }} {text} }}")
    assert made.conf is not None, made.error
    warning = f'"proxy_ssl_verify" has no effect without "proxy_ssl on" in {CONF}:1'
    assert is_warned == any(warning in line for line in made.warnings), made.warnings


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("proxy_ssl_verify on;", "no proxy_ssl_trusted_certificate for proxy_ssl_verify"),
        ("proxy_ssl_certificate a.pem;",
         'no "proxy_ssl_certificate_key" is defined for certificate "a.pem"'),
        ("proxy_ssl_certificate a.pem; proxy_ssl_certificate_key a.key;",
         'cannot load certificate "/p/conf/a.pem"'),
        ("proxy_ssl_ciphers NONE_SUCH;", 'SSL_CTX_set_cipher_list("NONE_SUCH") failed'),
        ("proxy_ssl_alpn " + "a" * 256 + ";", '"proxy_ssl_alpn" directive protocol too long'),
        ("proxy_ssl_alpn a; proxy_ssl_alpn b;", '"proxy_ssl_alpn" directive is duplicate'),
    ],
)
def test_what_cannot_be_served_is_refused(words: str, error: str) -> None:
    """When the configuration is read, not when a session comes."""
    assert served(words).error.startswith(error)


def test_a_certificate_with_variables_is_read_for_each_session() -> None:
    """So a file that is not there yet is no error of the configuration."""
    made = served("proxy_ssl_certificate $remote_addr.pem; proxy_ssl_certificate_key a.key;")
    assert made.conf is not None, made.error
    assert made.conf.servers[0].proxy_ssl.certificates is not None
