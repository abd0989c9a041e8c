"""Certificates chosen per connection: kept for as long as told, read again when they changed."""

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from ngxstream.event import libssl, libssl_context, libssl_facts, libssl_pem, tls_protocols
from ngxstream.stream import tls_certificates, tls_conf
from tests.support import certs


class Ground:
    """Files of two certificates, and connections to use them on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ca = certs.Authority(folder / "ca")
        self.one, self.two = ca.issue("one.test"), ca.issue("two.test")
        self.locked = ca.issue("locked.test", password="first word")
        self.changed = ca.issue("changed.test", password="other word")
        self.put(self.one)
        self.lib = libssl.load()
        self.context = libssl_context.Context(tls_protocols.DEFAULT, server_side=True)

    def put(self, pair: certs.Pair, name: str = "x") -> None:
        """Put a certificate and its key where they are read."""
        (self.folder / f"{name}.crt").write_bytes(pair.cert.read_bytes())
        (self.folder / f"{name}.key").write_bytes(pair.key.read_bytes())

    def certificates(
        self,
        options: tls_conf.CacheOptions | None,
        passwords: tuple[bytes, ...] | None = None,
    ) -> tls_certificates.Certificates:
        """Make what is tested."""
        prefix = f"{self.folder}/"
        return tls_certificates.Certificates(self.lib, prefix, passwords, options)

    def shown(
        self, certificates: tls_certificates.Certificates, now_ms: int, name: str = "x"
    ) -> bytes:
        """Use it on a connection and return the certificate's DER."""
        with self.connection() as pointer:
            certificates.use(pointer, f"{name}.crt".encode(), f"{name}.key".encode(), now_ms)
            assert b"EC256" == libssl_facts.own_key(self.lib, pointer)
            return libssl_pem.der_of(self.lib, self.lib.SSL_get_certificate(pointer))

    @contextlib.contextmanager
    def connection(self) -> Iterator[int]:
        """Give an SSL*."""
        pointer = self.lib.SSL_new(self.context.pointer)
        yield pointer
        self.lib.SSL_free(pointer)


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    """Give files and connections."""
    return Ground(tmp_path)


def der(pair: certs.Pair) -> bytes:
    """Return a certificate's DER."""
    return ssl.PEM_cert_to_DER_cert(pair.cert.read_text())


def test_without_a_cache_each_use_reads(ground: Ground) -> None:
    """A changed file is seen at once."""
    kept = ground.certificates(None)
    assert der(ground.one) == ground.shown(kept, 0)
    ground.put(ground.two)
    assert der(ground.two) == ground.shown(kept, 0)


def test_what_is_kept_is_looked_at_again_when_it_is_old(ground: Ground) -> None:
    """Within `valid` the file is not looked at; after it a changed one is read."""
    kept = ground.certificates(tls_conf.CacheOptions(8, inactive=1000, valid=60))
    assert der(ground.one) == ground.shown(kept, 0)
    ground.put(ground.two)
    assert der(ground.one) == ground.shown(kept, 60_000)
    assert der(ground.two) == ground.shown(kept, 60_001)


def test_an_unchanged_file_is_not_read_again(ground: Ground) -> None:
    """After `valid` a file of the same stamp stays as it was."""
    kept = ground.certificates(tls_conf.CacheOptions(8, inactive=1000, valid=1))
    ground.shown(kept, 0)
    first = kept._entries[False, f"{ground.folder}/x.crt"].value
    ground.shown(kept, 5000)
    assert first is kept._entries[False, f"{ground.folder}/x.crt"].value


def test_pairs_that_do_not_fit_are_both_read_again(ground: Ground) -> None:
    """A new certificate beside the old key is the trace of a change, not an error."""
    kept = ground.certificates(tls_conf.CacheOptions(8, inactive=1000, valid=60))
    ground.shown(kept, 0)
    ground.put(ground.two)
    kept._entries.pop((False, f"{ground.folder}/x.crt"))
    assert der(ground.two) == ground.shown(kept, 1)


def test_a_pair_whose_key_has_a_password_may_be_replaced_at_once(ground: Ground) -> None:
    """Such a key is not kept, so the next use finds that the certificate does not fit it."""
    passwords = (b"first word", b"other word")
    kept = ground.certificates(tls_conf.CacheOptions(8, inactive=1000, valid=60), passwords)
    ground.put(ground.locked)
    assert der(ground.locked) == ground.shown(kept, 0)
    ground.put(ground.changed)
    assert der(ground.changed) == ground.shown(kept, 1)
    assert der(ground.changed) == ground.shown(kept, 2)


def test_a_key_without_a_password_is_kept_beside_a_file_of_passwords(ground: Ground) -> None:
    """What counts is whether the key needed one."""
    kept = ground.certificates(tls_conf.CacheOptions(8, inactive=1000, valid=60), (b"a word",))
    assert der(ground.one) == ground.shown(kept, 0)
    ground.put(ground.two)
    assert der(ground.one) == ground.shown(kept, 1)


def test_a_key_with_a_password_in_the_text_itself_is_not_kept(ground: Ground) -> None:
    """A `data:` key is decrypted anew, as one in a file."""
    kept = ground.certificates(tls_conf.CacheOptions(8, inactive=1000, valid=60), (b"first word",))
    ground.put(ground.locked)
    key = f"data:{ground.locked.key.read_text()}"
    with ground.connection() as pointer:
        kept.use(pointer, b"x.crt", key.encode(), 0)
    assert [False] == [is_key for is_key, _ in kept._entries]


def test_no_more_are_kept_than_told(ground: Ground) -> None:
    """The least recently used goes; what was not used for `inactive` goes first."""
    for name in ("a", "b", "c"):
        ground.put(ground.one, name)
    kept = ground.certificates(tls_conf.CacheOptions(4, inactive=10, valid=60))
    for now, name in ((0, "a"), (1, "b"), (2, "a"), (3, "c")):
        ground.shown(kept, now, name)
    names = {Path(path).stem for _, path in kept._entries}
    assert {"a", "c"} == names
    ground.shown(kept, 20_000, "b")
    assert {"b"} == {Path(path).stem for _, path in kept._entries}


def test_a_missing_file_is_an_error_with_its_full_name(ground: Ground) -> None:
    """The complaint is nginx's."""
    kept = ground.certificates(None)
    with pytest.raises(libssl.SslError, match=f'cannot load certificate "{ground.folder}/no.crt"'):
        ground.shown(kept, 0, "no")
