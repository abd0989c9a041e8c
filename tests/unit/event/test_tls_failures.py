"""Why handshakes fail: the library's own codes are known by the words of NGINX Plus."""

import ctypes
import ssl

import pytest

from ngxstream.event import libssl, tls_failures

LIBRARY = libssl.load()
ERR_LIB_SSL = 20


def code_of(reason: int) -> int:
    """Return the error code of a reason of the SSL part."""
    return ERR_LIB_SSL << (23 if ssl.OPENSSL_VERSION_INFO >= (3,) else 24) | reason


def reason_of(reason: int) -> bytes | None:
    """Return the library's words for a reason of the SSL part."""
    words = ctypes.CDLL(ssl._ssl.__file__).ERR_reason_error_string  # type: ignore[attr-defined]
    words.restype, words.argtypes = ctypes.c_char_p, (ctypes.c_ulong,)
    found: bytes | None = words(code_of(reason))
    return found


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        (193, "no_common_cipher"), (258, "no_common_protocol"), (396, "no_common_protocol"),
        (1070, "no_common_protocol"), (1042, "peer_rejected_cert"), (1046, "peer_rejected_cert"),
        (1048, "peer_rejected_cert"), (267, ""), (1040, ""),
    ],
)
def test_a_reason_has_a_word(reason: int, word: str) -> None:
    """Or none, where nothing of the kind is counted."""
    message = f"SSL_do_handshake() failed (SSL: error:{code_of(reason):08X}:SSL::x)"
    assert word == tls_failures.of_handshake(LIBRARY, message)


def test_of_several_reasons_the_first_with_a_word_counts() -> None:
    """The library may say more than one thing."""
    codes = " ".join(f"error:{code_of(n):08X}:x" for n in (267, 193, 258))
    assert "no_common_cipher" == tls_failures.of_handshake(LIBRARY, codes)


@pytest.mark.parametrize(
    "message", ["", "peer closed connection in SSL handshake", "error:1:", "error:ZZZZZZZZ:x"]
)
def test_what_names_no_reason_has_none(message: str) -> None:
    """Such as an end of the stream."""
    assert "" == tls_failures.of_handshake(LIBRARY, message)


def test_numbers_are_those_of_this_library() -> None:
    """The words it has for them are what we take them for."""
    said = {
        number: reason_of(number)
        for number in (193, 258, 1042, 1070)
    }
    assert [b"no shared cipher", b"unsupported protocol"] == [said[193], said[258]]
    for number, words in ((1042, b"bad certificate"), (1070, b"protocol version")):
        assert (said[number] or b"").endswith(words)


@pytest.mark.parametrize(
    ("code", "word", "said"),
    [
        (9, "expired_cert", b"not yet valid"), (10, "expired_cert", b"expired"),
        (23, "revoked_cert", b"revoked"), (62, "hostname_mismatch", b"mismatch"),
        (18, "other", b"self"),
    ],
)
def test_a_certificate_is_refused_for_a_reason(code: int, word: str, said: bytes) -> None:
    """By the result of its verification; the library has the same words for it."""
    assert word == tls_failures.of_certificate(code)
    assert said in LIBRARY.X509_verify_cert_error_string(code).lower()
