"""Facts of a connection: before there is a session, and where nothing can be imported any more."""

import subprocess
import sys
from pathlib import Path

import pytest

from ngxstream.event import libssl_facts

ROOT = Path(__file__).resolve().parents[3]


def test_a_connection_without_a_session_has_empty_facts() -> None:
    """What a handshake that never came about has not agreed upon is not asked of nothing.

    In a program of its own: a library that reads behind a null pointer ends it.
    """
    script = (
        "from ngxstream.event import libssl_context, libssl_facts as facts, tls_protocols\n"
        "context = libssl_context.Context(tls_protocols.DEFAULT, server_side=True)\n"
        "lib = context.lib\n"
        "pointer = lib.SSL_new(context.pointer)\n"
        "names = ('ciphers', 'curve', 'curves', 'sigalg', 'client_sigalg', 'sigalgs',\n"
        "         'session_id', 'server_name', 'alpn_protocol', 'raw_certificate',\n"
        "         'certificate', 'escaped_certificate', 'subject', 'issuer', 'serial',\n"
        "         'fingerprint', 'not_before', 'not_after', 'days_left', 'common_name')\n"
        "print({getattr(facts, name)(lib, pointer) for name in names})\n"
        "print(facts.cipher(lib, pointer), facts.session_reused(lib, pointer),\n"
        "      facts.client_verify(lib, pointer), facts.session_name(lib, pointer))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ("{b''}\nb'(NONE)' b'.' b'NONE' None\n", 0) == (ran.stdout, ran.returncode), ran.stderr


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (b"Jan  1 00:00:00 1970 GMT", 0),
        (b"Feb 29 12:34:56 2028 GMT", 1835440496),
        (b"Dec 31 23:59:59 2049 GMT", 2524607999),
        (b"Bad time value", None),
        (b"", None),
    ],
)
def test_moments_are_read_as_openssl_prints_them(moment: bytes, expected: int | None) -> None:
    """A moment is a number of seconds; what is none has none."""
    assert expected == libssl_facts.seconds_of(moment)


def test_facts_are_told_where_no_module_can_be_imported() -> None:
    """A worker's user may have no way to the folder Python is in."""
    script = (
        "import sys\n"
        "from ngxstream.event import libssl_facts as facts\n"
        "sys.meta_path.clear()\n"
        "print(facts.seconds_of(b'Dec  9 01:02:03 2030 GMT'))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ("1923008523\n", 0) == (ran.stdout, ran.returncode), ran.stderr
