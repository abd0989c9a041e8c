"""The libssl behind Python's ssl module: found where that is, or refused; exact in its words."""

import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from ngxstream.event import libssl, libssl_context, libssl_pem, tls_protocols
from tests.support import certs, tools

ROOT = Path(__file__).resolve().parents[3]


def test_the_library_is_the_one_behind_ssl() -> None:
    """It is of the same version, and what it is asked for it does."""
    lib = libssl.load()
    assert ssl.OPENSSL_VERSION_NUMBER == lib.OpenSSL_version_num()
    pointer = lib.SSL_CTX_new(lib.TLS_client_method())
    assert 0 == lib.SSL_CTX_set_cipher_list(pointer, b"none")
    lib.SSL_CTX_free(pointer)
    assert "no cipher match" in lib.reasons()


def test_another_library_of_the_same_functions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that the ssl module does not use may have bugs that its administrator has mended."""
    monkeypatch.setattr(ssl, "OPENSSL_VERSION_NUMBER", ssl.OPENSSL_VERSION_NUMBER + 16)
    with pytest.raises(libssl.Unavailable, match="not the one that Python's ssl module uses"):
        libssl.load.__wrapped__()


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_it_is_found_by_every_python(version: str) -> None:
    """The probe passes, and both sizes of ticket keys can be used."""
    python = tools.other_python(version)
    script = (
        "from ngxstream.event import libssl_context as c, libssl_sessions as s, tls_protocols\n"
        "context = c.Context(tls_protocols.DEFAULT, server_side=True)\n"
        "for size in 48, 80:\n"
        "    key = s.TicketKey.parse(bytes(size))\n"
        "    s.use_ticket_keys(context, lambda: (key,))\n"
        "print('ok')\n"
    )
    ran = subprocess.run(
        [python, "-c", script], cwd=ROOT, env={"PATH": os.environ["PATH"]}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert ("ok\n", 0) == (ran.stdout, ran.returncode), ran.stderr


def test_a_library_without_the_functions_is_refused() -> None:
    """What has no SSL_CTX_ctrl is not bound."""
    libc = next(
        line.split()[-1]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "libc.so" in line or "libc-" in line
    )
    with pytest.raises(AttributeError, match=r"SSL_\w+\(\) is missing"):
        libssl.Library(libc)


def test_a_python_whose_libssl_is_out_of_reach_serves_no_tls(tmp_path: Path) -> None:
    """The configuration says which directive cannot be served, and why."""
    script = (
        "import ssl\n"
        "ssl._ssl.__file__ = '/nonexistent/_ssl.so'\n"
        "from tests.support import in_process\n"
        "print(in_process.build('stream { server { listen 1 ssl; ssl_certificate a; '\n"
        "                 'ssl_certificate_key b; return x; } }').error)\n"
        "print(in_process.build('stream { server { listen 1; proxy_pass 127.0.0.1:1; '\n"
        "                 'proxy_ssl on; } }').error)\n"
        "print(in_process.build('stream { server { listen 1; return x; } }').error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    first, second, third = ran.stdout.splitlines()
    why = "is not supported: libssl of Python's ssl module cannot be used: /nonexistent/_ssl.so"
    assert first.startswith(f'"ssl_certificate" {why}'), ran.stderr
    assert second.startswith(f'"proxy_ssl" {why}')
    assert "" == third


def test_reasons_empty_the_queue(tmp_path: Path) -> None:
    """A failure is told in the library's words, once."""
    lib = libssl.load()
    path = tmp_path / "none.pem"
    with pytest.raises(libssl.SslError) as failed:
        libssl_pem.read_certificates(lib, str(path))
    said = failed.value.message
    assert said.startswith(f'cannot load certificate "{path}": BIO_new_file() failed (SSL: error:')
    assert f"calling fopen({path}, r)" in said
    assert "" == lib.reasons()


def test_a_key_with_the_wrong_password_is_not_read(tmp_path: Path) -> None:
    """No password, or none that fits, is an error and asks nobody."""
    lib = libssl.load()
    key = certs.make_key(tmp_path / "key", password="right")
    for passwords in ((), (b"wrong", b"worse")):
        with pytest.raises(libssl.SslError, match=r"PEM_read_bio_PrivateKey\(\) failed"):
            libssl_pem.read_key(lib, str(key), passwords)
    assert libssl_pem.read_key(lib, str(key), (b"wrong", b"right")).pointer


@pytest.mark.parametrize("scheme", ["engine:", "store:"])
def test_keys_from_elsewhere_are_refused_by_name(scheme: str) -> None:
    """Engines and stores are not asked."""
    words = f'loading "{scheme}..." certificate keys is not supported'
    with pytest.raises(libssl.SslError, match=words):
        libssl_pem.read_key(libssl.load(), scheme + "x:y", None)


def test_contexts_are_freed_with_what_they_hold(tmp_path: Path) -> None:
    """Making and dropping contexts does not grow the process."""
    ca = certs.Authority(tmp_path / "ca")
    pair = ca.issue("a.test")

    def make() -> None:
        context = libssl_context.Context(tls_protocols.DEFAULT, server_side=True)
        context.add_certificate(str(pair.cert), str(pair.key), None)
        context.trust(str(ca.cert), announce=True)
        context.set_session_id_context(b"STREAM", ())

    for _ in range(100):
        make()
    before = resident()
    for _ in range(400):
        make()
    assert resident() - before < 2 << 20


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
