"""Certificates, keys and lists as the library reads them, from files and from `data:`."""

import ssl
from pathlib import Path

import pytest

from ngxstream.event import libssl, libssl_pem
from tests.support import certs


@pytest.fixture(scope="module")
def lib() -> libssl.Library:
    """Give the library."""
    return libssl.load()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> certs.Pair:
    """Give a certificate and its key."""
    return certs.Authority(tmp_path_factory.mktemp("ca")).issue("a.test")


def test_a_file_holds_a_certificate_and_its_chain(lib: libssl.Library, pair: certs.Pair) -> None:
    """In their order; from `data:` it is the same."""
    pems = pair.cert.read_text().split("-----BEGIN CERTIFICATE-----")[1:]
    expected = [ssl.PEM_cert_to_DER_cert("-----BEGIN CERTIFICATE-----" + pem) for pem in pems]
    for name in (str(pair.cert), "data:" + pair.cert.read_text()):
        stack = libssl_pem.read_certificates(lib, name)
        assert expected == [libssl_pem.der_of(lib, one) for one in stack.pointers]


@pytest.mark.parametrize(
    ("name", "error"),
    [("/none.pem", "BIO_new_file() failed"), ("data:x", "PEM_read_bio_X509_AUX() failed")],
)
def test_what_is_no_certificate_is_named(lib: libssl.Library, name: str, error: str) -> None:
    """With the call that failed, and the library's reasons behind it."""
    with pytest.raises(libssl.SslError) as caught:
        libssl_pem.read_certificates(lib, name)
    assert caught.value.message.startswith(f'cannot load certificate "{name}": {error} (SSL:')


def test_each_password_is_tried(lib: libssl.Library, tmp_path: Path) -> None:
    """In their order, until one opens the key."""
    path = str(certs.make_key(tmp_path / "a.key", password="third"))
    assert libssl_pem.read_key(lib, path, (b"first", b"second", b"third")).pointer
    with pytest.raises(libssl.SslError, match=r"PEM_read_bio_PrivateKey\(\) failed"):
        libssl_pem.read_key(lib, path, (b"first",))


@pytest.mark.parametrize("scheme", ["engine:", "store:"])
def test_keys_that_others_keep_are_refused_by_name(lib: libssl.Library, scheme: str) -> None:
    """Engines and stores cannot be reached."""
    with pytest.raises(libssl.SslError, match="certificate keys is not supported"):
        libssl_pem.read_key(lib, f"{scheme}x", ())


def test_a_list_of_revoked_certificates_is_not_empty(lib: libssl.Library, pair: certs.Pair) -> None:
    """A file without one is an error."""
    with pytest.raises(libssl.SslError, match="cannot load CRL"):
        libssl_pem.read_crls(lib, str(pair.cert))
