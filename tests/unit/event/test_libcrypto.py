"""The libcrypto behind Python's ssl module: found and probed, or refused; sizes are checked."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.event import libcrypto, libssl
from tests.support import quic, tools

ROOT = Path(__file__).resolve().parents[3]
KEY, NONCE = bytes(range(16)), bytes(range(12))


@pytest.fixture(scope="module")
def aes() -> libcrypto.Aes:
    """Give one that all tests use, as all sessions of a worker do."""
    return libcrypto.Aes(libcrypto.load())


@given(data=st.binary(max_size=3000), associated=st.binary(min_size=1, max_size=100))
def test_what_was_sealed_is_opened(aes: libcrypto.Aes, data: bytes, associated: bytes) -> None:
    """An encoder of its own seals, whatever the sizes; the next message has nothing of it."""
    assert data == aes.open(KEY, NONCE, quic.seal(KEY, NONCE, data, associated), associated)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1200, libcrypto.MOST - libcrypto.TAG])
def test_any_size_up_to_the_largest_is_opened(aes: libcrypto.Aes, size: int) -> None:
    """Nothing but a tag, a part of a block, the largest datagram."""
    data = bytes(n & 0xFF for n in range(size))
    assert data == aes.open(KEY, NONCE, quic.seal(KEY, NONCE, data, b"a"), b"a")


@given(st.integers(0, 115), st.integers(1, 255))
def test_one_changed_byte_is_seen(aes: libcrypto.Aes, at: int, mask: int) -> None:
    """In ciphertext or tag: nothing is returned, and no error waits for who uses TLS next."""
    sealed = bytearray(quic.seal(KEY, NONCE, bytes(100), b"head"))
    sealed[at] ^= mask
    assert aes.open(KEY, NONCE, bytes(sealed), b"head") is None
    assert "" == libssl.load().reasons()


@pytest.mark.parametrize(
    ("key", "nonce", "associated"),
    [(bytes(16), NONCE, b"head"), (KEY, bytes(12), b"head"), (KEY, NONCE, b"heat")],
)
def test_other_keys_open_nothing(
    aes: libcrypto.Aes, key: bytes, nonce: bytes, associated: bytes
) -> None:
    """Key, nonce and header have to be those that it was sealed with."""
    sealed = quic.seal(KEY, NONCE, b"data", b"head")
    assert aes.open(key, nonce, sealed, associated) is None
    assert b"data" == aes.open(KEY, NONCE, sealed, b"head")


@pytest.mark.parametrize(
    ("key", "nonce", "sealed", "associated"),
    [
        (bytes(15), NONCE, bytes(30), b""),
        (bytes(32), NONCE, bytes(30), b""),
        (KEY, bytes(11), bytes(30), b""),
        (KEY, bytes(16), bytes(30), b""),
        (KEY, NONCE, bytes(15), b""),
        (KEY, NONCE, b"", b""),
        (KEY, NONCE, bytes(65_537), b""),
        (KEY, NONCE, bytes(30), bytes(65_537)),
    ],
)
def test_other_sizes_are_refused_before_the_library_sees_them(
    aes: libcrypto.Aes, key: bytes, nonce: bytes, sealed: bytes, associated: bytes
) -> None:
    """The library reads as many bytes as it is told of, and as a key has."""
    with pytest.raises(ValueError, match="of another size"):
        aes.open(key, nonce, sealed, associated)


@pytest.mark.parametrize(("key", "block"), [(bytes(15), bytes(16)), (bytes(16), bytes(17)),
                                            (bytes(32), bytes(16)), (bytes(16), b"")])
def test_a_block_of_another_size_is_refused(
    aes: libcrypto.Aes, key: bytes, block: bytes
) -> None:
    """One block is encrypted, no part of one and no more."""
    with pytest.raises(ValueError, match="of another size"):
        aes.encrypt_block(key, block)


def test_each_has_contexts_of_its_own(aes: libcrypto.Aes) -> None:
    """One that is gone takes nothing with it."""
    other = libcrypto.Aes(libcrypto.load())
    block = other.encrypt_block(KEY, bytes(16))
    del other
    assert block == aes.encrypt_block(KEY, bytes(16))


def test_a_library_without_the_functions_is_refused() -> None:
    """What has no EVP is not bound."""
    libc = next(
        line.split()[-1]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "libc.so" in line or "libc-" in line
    )
    with pytest.raises(AttributeError, match=r"\w+\(\) is missing"):
        libcrypto.Library(libc)


class Other(libcrypto.Library):
    """A library with another answer of one of its functions."""

    def __init__(self, name: str, answer: object) -> None:
        real = libcrypto.load()
        self.__dict__.update(real.__dict__)
        setattr(self, name, answer)


def test_the_buffer_holds_whatever_the_library_may_write(aes: libcrypto.Aes) -> None:
    """The largest message and a block behind it."""
    assert 65_536 + 16 <= len(aes._buffer)


@pytest.mark.parametrize("lacking", [None, 0, 1])
def test_contexts_are_given_back(lacking: int | None) -> None:
    """Both with the object, and the one that there is where the other cannot be made."""
    real = libcrypto.load()
    made: list[int] = []
    freed: list[int] = []

    def make() -> int | None:
        made.append(0 if len(made) == lacking else real.EVP_CIPHER_CTX_new())
        return made[-1] or None

    def free(context: int) -> None:
        freed.append(context)
        real.EVP_CIPHER_CTX_free(context)

    other = Other("EVP_CIPHER_CTX_new", make)
    other.EVP_CIPHER_CTX_free = free
    if lacking is None:
        assert libcrypto.Aes(other).encrypt_block(KEY, bytes(16))
    else:
        with pytest.raises(libcrypto.Unavailable, match="has no AES-128"):
            libcrypto.Aes(other)
    gc.collect()
    assert [context for context in made if context] == freed
    assert 2 == len(made)


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        ("EVP_CIPHER_CTX_new", lambda: None, "has no AES-128"),
        ("EVP_EncryptInit_ex", lambda *_: 0, "has no AES-128"),
        ("EVP_DecryptInit_ex", lambda *_: 0, "has no AES-128"),
        ("EVP_EncryptUpdate", lambda *_: 0, "does not encrypt"),
        ("EVP_EncryptUpdate", lambda *_: 1, "does not encrypt"),
        ("EVP_DecryptUpdate", lambda *_: 1, "not that of NIST"),
        ("EVP_DecryptFinal_ex", lambda *_: 1, "not that of NIST"),
        ("EVP_DecryptFinal_ex", lambda *_: 0, "not that of NIST"),
    ],
)
def test_a_library_that_answers_otherwise_is_refused(name: str, answer: object, said: str) -> None:
    """No cipher, no result, or one that opens what was forged."""
    with pytest.raises(libcrypto.Unavailable, match=said):
        libcrypto._probe(libcrypto.Aes(Other(name, answer)))


def test_a_failure_leaves_no_error_in_the_queue() -> None:
    """Whether this release records one or not: the next who uses TLS would take it for his own."""
    cleared: list[bool] = []
    other = Other("ERR_clear_error", lambda: cleared.append(True))
    assert libcrypto.Aes(other).open(KEY, NONCE, bytes(20), b"") is None
    assert 1 == len(cleared)
    other.EVP_EncryptUpdate = lambda *_: 0
    with pytest.raises(libcrypto.Unavailable):
        libcrypto.Aes(other).encrypt_block(KEY, bytes(16))
    assert 2 == len(cleared)


def test_another_cipher_is_refused() -> None:
    """The answers of the standards tell which one it is."""
    other = Other("EVP_aes_128_ecb", libcrypto.load().EVP_aes_128_gcm)
    with pytest.raises(libcrypto.Unavailable, match="not that of FIPS 197"):
        libcrypto._probe(libcrypto.Aes(other))


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_it_is_found_by_every_python(version: str) -> None:
    """The probe passes."""
    script = "from ngxstream.event import libcrypto\nlibcrypto.load()\nprint('ok')\n"
    ran = subprocess.run(
        [tools.other_python(version), "-c", script], cwd=ROOT, env={"PATH": os.environ["PATH"]},
        capture_output=True, text=True, check=False,
    )
    assert ("ok\n", 0) == (ran.stdout, ran.returncode), ran.stderr


@pytest.mark.refusal("ssl_preread")
def test_a_python_whose_libcrypto_is_out_of_reach_reads_no_quic() -> None:
    """It is said which server cannot be served, and why; what needs no AES is served."""
    script = (
        "import ssl\n"
        "ssl._ssl.__file__ = '/nonexistent/_ssl.so'\n"
        "from tests.support import in_process\n"
        "for text in ('ssl_preread on; server { listen 1 udp; return x; }',\n"
        "             'server { listen 1; listen 2 udp; ssl_preread on; return x; }',\n"
        "             'server { listen 1; ssl_preread on; return x; } '\n"
        "             'server { listen 1 udp; return x; }'):\n"
        "    print(in_process.build(f'stream {{ {text} }}').error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    first, second, third = ran.stdout.splitlines()
    said = (
        '"ssl_preread" is not supported in the udp server in /p/conf/nginx.conf:1: '
        "libcrypto of Python's ssl module cannot be used: /nonexistent/_ssl.so"
    )
    assert first.startswith(said), ran.stderr
    assert second.startswith(said)
    assert "" == third
