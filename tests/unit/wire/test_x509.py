"""Names in certificates: as the library prints them; any other bytes harm nothing."""

import ssl
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.wire import x509
from tests.support import certs

MORE = "subjectAltName=DNS:a.test,DNS:*.b.test,IP:192.0.2.1,IP:2001:db8::1,email:c@d,URI:http://e/,"
OTHERS = "otherName:1.2.3;UTF8:no,dirName:x\n[x]\nCN=no\n"


def element(tag: int, content: bytes) -> bytes:
    """Return an element of DER."""
    size = len(content)
    length = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2, "big")
    return bytes([tag]) + length + content


def certificate(names: bytes, oid: bytes = x509.SUBJECT_ALT_NAME) -> bytes:
    """Return what is looked at of a certificate with these names."""
    extension = element(x509.OID, oid) + element(4, element(0x30, names))
    extensions = element(0xA3, element(0x30, element(0x30, extension)))
    return element(0x30, element(0x30, element(2, b"\1") + extensions) + element(0x30, b""))


@pytest.fixture(scope="module")
def der(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Give a certificate with names of all kinds."""
    folder: Path = tmp_path_factory.mktemp("x509")
    key = certs.make_key(folder / "key")
    config = folder / "conf"
    config.write_text(f"[req]\ndistinguished_name=dn\nx509_extensions=v3\n[dn]\n[v3]\n{MORE}{OTHERS}")
    pem = certs.openssl("req", "-x509", "-new", "-key", str(key), "-subj", "/CN=x", "-config",
                        str(config))
    return ssl.PEM_cert_to_DER_cert(pem.decode())


def test_names_of_all_kinds_are_read(der: bytes) -> None:
    """In their order, but for those that no client looks for."""
    assert ["a.test", "*.b.test", "192.0.2.1", "2001:db8::1", "c@d", "http://e/"] == (
        x509.names(der)
    )


def test_a_certificate_without_names_has_none() -> None:
    """Nor has one with other extensions, or without any."""
    assert [] == x509.names(certificate(element(0x82, b"a"), b"\x55\x1d\x12"))
    assert [] == x509.names(element(0x30, element(0x30, element(2, b"\1"))))
    assert [] == x509.names(certificate(element(0x87, b"12345") + element(0xA0, b"1234")))
    assert [] == x509.names(b"\x30\x81\x00")


def test_more_names_than_anybody_reads_are_left_out() -> None:
    """There is an end to it."""
    assert x509.MOST == len(x509.names(certificate(element(0x82, b"a") * 5000)))


@pytest.mark.parametrize(
    "data",
    [b"", b"\x30", b"\x31\x00", b"\x30\x05", b"\x30\x80", b"\x30\x85\0\0\0\0\0", b"\x30\x82\1",
     b"\x3f\x01\x00", element(0x30, b"\x3f\x00"),
     element(0x30, element(0x30, element(2, b"\1") + b"\x02")),
     element(0x30, element(0x30, element(0xA3, b""))),
     element(0x30, element(0x30, element(0xA3, element(0x30, element(0x30, element(
         6, x509.SUBJECT_ALT_NAME))))))],
)
def test_what_is_no_certificate_is_refused(data: bytes) -> None:
    """Lengths that lie, tags that are not used, what is missing."""
    with pytest.raises(x509.DerError):
        x509.names(data)


@settings(max_examples=300)
@given(data=st.data())
def test_any_bytes_are_read_or_refused(data: st.DataObject, der: bytes) -> None:
    """Those of a certificate with some changed, or cut, or any at all."""
    raw = bytearray(data.draw(st.one_of(st.just(der), st.binary(max_size=60))))
    for _ in range(data.draw(st.integers(0, 3))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(0, len(raw))):]
    try:
        found = x509.names(bytes(raw))
    except x509.DerError:
        return
    assert all(isinstance(name, str) for name in found)
