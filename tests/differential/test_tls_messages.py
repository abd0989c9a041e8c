"""What nginx -t says of certificates, keys and the rest of TLS, word for word."""

import os
from pathlib import Path

import pytest

from tests.support import certs, verdicts

NEWER = ("unknown directive", "directive is not allowed here")


class World:
    """Files that are right and files that are wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ca = certs.Authority(folder / "ca")
        one, two = ca.issue("one"), ca.issue("two")
        secret = ca.issue("secret", password="word")
        asked = ca.issue("asked", more="authorityInfoAccess=OCSP;URI:http://127.0.0.1:9/\n")
        self.files = {
            "cert": one.cert,
            "key": one.key,
            "asked": asked.cert,
            "askedkey": asked.key,
            "otherkey": two.key,
            "ca": ca.cert,
            "crl": ca.crl(),
            "secretcert": secret.cert,
            "secretkey": secret.key,
            "none": folder / "none.pem",
            "garbage": folder / "garbage.pem",
            "empty": folder / "empty.pem",
            "torn": folder / "torn.pem",
            "key48": folder / "key48",
            "key47": folder / "key47",
            "wrongwords": folder / "wrongwords",
            "longwords": folder / "longwords",
        }
        self.files["garbage"].write_text("nothing of use\n")
        self.files["empty"].write_text("")
        pem = one.cert.read_text()
        self.files["torn"].write_text(pem + pem[: len(pem) // 2])
        self.files["key48"].write_bytes(os.urandom(48))
        self.files["key47"].write_bytes(os.urandom(47))
        self.files["wrongwords"].write_text("no\nnever\n")
        self.files["longwords"].write_text("x" * 5000)

    def fill(self, text: str) -> str:
        """Put the files' names in the place of theirs."""
        for name, path in self.files.items():
            text = text.replace(f"%{name}%", str(path))
        return text


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Give the files."""
    return World(tmp_path_factory.mktemp("world"))


PAIR = "ssl_certificate %cert%; ssl_certificate_key %key%;"
LISTEN = "listen 127.0.0.1:9 ssl;"

IN_SERVER = {
    "all is well": f"{LISTEN} {PAIR}",
    "no certificate": LISTEN,
    "a certificate that is gone": f"{LISTEN} ssl_certificate %none%; ssl_certificate_key %key%;",
    "a certificate by a relative name": f"{LISTEN} ssl_certificate none; ssl_certificate_key none;",
    "a certificate of garbage": f"{LISTEN} ssl_certificate %garbage%; ssl_certificate_key %key%;",
    "an empty certificate": f"{LISTEN} ssl_certificate %empty%; ssl_certificate_key %key%;",
    "a torn chain": f"{LISTEN} ssl_certificate %torn%; ssl_certificate_key %key%;",
    "a folder for a certificate": f"{LISTEN} ssl_certificate /tmp; ssl_certificate_key %key%;",
    "a certificate in the text": f"{LISTEN} ssl_certificate data:abc; ssl_certificate_key %key%;",
    "a key that is not there": f"{LISTEN} ssl_certificate %cert%; ssl_certificate_key %none%;",
    "a key of garbage": f"{LISTEN} ssl_certificate %cert%; ssl_certificate_key %garbage%;",
    "another's key": f"{LISTEN} ssl_certificate %cert%; ssl_certificate_key %otherkey%;",
    "wrong passwords": (
        f"{LISTEN} ssl_certificate %secretcert%; ssl_certificate_key %secretkey%; "
        "ssl_password_file %wrongwords%;"
    ),
    "passwords that are not there": f"{LISTEN} {PAIR} ssl_password_file %none%;",
    "a password too long": f"{LISTEN} {PAIR} ssl_password_file %longwords%;",
    "a folder of passwords": f"{LISTEN} {PAIR} ssl_password_file /tmp;",
    "bad ciphers": f"{LISTEN} {PAIR} ssl_ciphers nosuch;",
    "a bad curve": f"{LISTEN} {PAIR} ssl_ecdh_curve nosuch;",
    "parameters that are not there": f"{LISTEN} {PAIR} ssl_dhparam %none%;",
    "parameters of garbage": f"{LISTEN} {PAIR} ssl_dhparam %garbage%;",
    "nobody to verify by": f"{LISTEN} {PAIR} ssl_verify_client optional_no_ca;",
    "a ticket key too short": f"{LISTEN} {PAIR} ssl_session_ticket_key %key47%;",
    "a ticket key that is not there": f"{LISTEN} {PAIR} ssl_session_ticket_key %none%;",
    "ticket keys": f"{LISTEN} {PAIR} ssl_session_ticket_key %key48%;",
    "a command nobody knows": f"{LISTEN} {PAIR} ssl_conf_command Nosuch thing;",
    "a command that fails": f"{LISTEN} {PAIR} ssl_conf_command Ciphersuites nosuch;",
    "certificates with variables": (
        f"{LISTEN} ssl_certificate /nowhere/$ssl_server_name; ssl_certificate_key /nowhere/$pid;"
    ),
    "certificates with unknown variables": (
        f"{LISTEN} ssl_certificate /nowhere/$nosuch; ssl_certificate_key /nowhere/$pid;"
    ),
    "proxy_ssl": "listen 127.0.0.1:9; proxy_ssl on;",
    "proxy_ssl, a certificate without a key": (
        "listen 127.0.0.1:9; proxy_ssl on; proxy_ssl_certificate %cert%;"
    ),
    "proxy_ssl, another's key": (
        "listen 127.0.0.1:9; proxy_ssl on; proxy_ssl_certificate %cert%; "
        "proxy_ssl_certificate_key %otherkey%;"
    ),
    "proxy_ssl, a certificate that is not there": (
        "listen 127.0.0.1:9; proxy_ssl on; proxy_ssl_certificate %none%; "
        "proxy_ssl_certificate_key %key%;"
    ),
    "proxy_ssl off, a certificate that is not there": (
        "listen 127.0.0.1:9; proxy_ssl_certificate %none%;"
    ),
    "proxy_ssl, nobody to verify by": (
        "listen 127.0.0.1:9; proxy_ssl on; proxy_ssl_verify on;"
    ),
    "proxy_ssl, bad ciphers": "listen 127.0.0.1:9; proxy_ssl on; proxy_ssl_ciphers nosuch;",
    "proxy_ssl, a command nobody knows": (
        "listen 127.0.0.1:9; proxy_ssl on; proxy_ssl_conf_command Nosuch thing;"
    ),
}


# nginx 1.22 has other words here: these are those of the sources of 1.31
SINCE = {
    "no certificate, the line of the server": (
        f"\n\n{LISTEN}\n",
        ('no "ssl_certificate" is defined for the "listen ... ssl" directive in '
        "/p/conf/nginx.conf:3"),
    ),
    "no key": (
        f"{LISTEN} ssl_certificate %cert%;",
        'no "ssl_certificate_key" is defined for certificate "%cert%"',
    ),
    "a key too few": (
        f"{LISTEN} {PAIR} ssl_certificate %ca%;",
        'no "ssl_certificate_key" is defined for certificate "%ca%"',
    ),
    "nobody to verify by": (
        f"{LISTEN} {PAIR} ssl_verify_client on;",
        "no ssl_client_certificate or ssl_trusted_certificate for ssl_verify_client",
    ),
    "authorities of garbage": (
        f"{LISTEN} {PAIR} ssl_verify_client on; ssl_client_certificate %garbage%;",
        ('cannot load certificate "%garbage%": PEM_read_bio_X509_AUX() failed (SSL: '
        "error:0480006C:PEM routines::no start line:Expecting: TRUSTED CERTIFICATE)"),
    ),
    "lists of garbage": (
        f"{LISTEN} {PAIR} ssl_crl %garbage%;",
        ('cannot load CRL "%garbage%": PEM_read_bio_X509_CRL() failed (SSL: '
        "error:0480006C:PEM routines::no start line:Expecting: X509 CRL)"),
    ),
    "certificates nobody listens with": (
        "listen 127.0.0.1:9; ssl_certificate %cert%;",
        'no "ssl_certificate_key" is defined for certificate "%cert%"',
    ),
    "a staple of garbage": (
        f"{LISTEN} {PAIR} ssl_stapling on; ssl_stapling_file %garbage%;",
        ('d2i_OCSP_RESPONSE_bio("%garbage%") failed (SSL: error:0680009B:asn1 encoding '
        "routines::too long error:06800066:asn1 encoding routines::bad object header "
        "error:0688010A:asn1 encoding routines::nested asn1 error:Type=OCSP_RESPONSE)"),
    ),
    "a responder to ask": (
        (f"{LISTEN} ssl_certificate %asked%; ssl_certificate_key %askedkey%; ssl_stapling on; "
        "ssl_trusted_certificate %ca%;"),
        ('"ssl_stapling" directive is not supported without "ssl_stapling_file": '
        "OCSP responders are not asked"),
    ),
}


@pytest.mark.parametrize("case", SINCE)
def test_newer_words(case: str, world: World) -> None:
    """What nginx 1.22 does not say yet is said as its sources do, or is ours to say."""
    server, words = SINCE[case]
    text = world.fill(f"\nstream {{\n server {{ {server} proxy_pass 127.0.0.1:9; }}\n}}")
    assert [f"[emerg] {world.fill(words)}"] == verdicts.we_say(text)


def test_a_staple_that_nobody_would_give_is_ignored_with_a_warning(world: World) -> None:
    """A certificate that names no responder, or whose issuer is unknown, gets nginx's warnings."""
    server = f"{LISTEN} {PAIR} ssl_stapling on;"
    text = world.fill(f"stream {{ server {{ {server} return x; }} }}")
    ignored = '[warn] "ssl_stapling" ignored, '
    where = world.fill('certificate "%cert%"')
    assert [f"{ignored}issuer certificate not found for {where}"] == verdicts.we_say(text)
    trusting = text.replace("return x;", world.fill("ssl_trusted_certificate %ca%; return x;"))
    assert [f"{ignored}no OCSP responder URL in the {where}"] == verdicts.we_say(trusting)


@pytest.mark.parametrize("case", IN_SERVER)
def test_nginx_says_the_same(case: str, world: World, tmp_path: Path) -> None:
    """Warnings and the first error, with words, reasons and place, are nginx's."""
    text = world.fill(
        f"\nstream {{\n server {{ {IN_SERVER[case]} proxy_pass 127.0.0.1:9; }}\n}}"
    )
    theirs = verdicts.nginx_says(text, tmp_path)
    if any(words in line for line in theirs for words in NEWER):
        pytest.skip(f"this nginx is too old: {theirs[-1]}")
    assert theirs == verdicts.we_say(text)
