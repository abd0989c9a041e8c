"""How values of TLS directives are read, on either side."""

from pathlib import Path

import pytest

from ngxstream.core import errors
from ngxstream.event import libssl
from ngxstream.stream import tls_conf
from tests.support.in_process import build

SERVER = "stream {{ server {{ listen 127.0.0.1:1; proxy_pass 127.0.0.1:2; {} }} }}"


def caches(text: str) -> object:
    """Return what proxy_ssl_certificate_cache makes of its words."""
    made = build(SERVER.format(f"proxy_ssl_certificate_cache {text};"))
    assert made.conf is not None, made.error
    return made.conf.servers[0].proxy_ssl.certificate_cache


def test_a_cache_has_a_size_and_two_times() -> None:
    """Of which nginx has defaults; `off` is none at all."""
    assert tls_conf.CacheOptions(5) == caches("max=5")
    assert tls_conf.CacheOptions(5, 20, 60) == caches("inactive=20s max=5 valid=1m")
    assert caches("max=5 off") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("max=0", 'invalid parameter "max=0"'),
        ("much=5", 'invalid parameter "much=5"'),
        ("max=5 valid=x", 'invalid parameter "valid=x"'),
        ("valid=5", '"proxy_ssl_certificate_cache" must have the "max" parameter'),
    ],
)
def test_a_cache_without_a_size_is_refused(text: str, reason: str) -> None:
    """And whatever is no parameter of one."""
    error = build(SERVER.format(f"proxy_ssl_certificate_cache {text};")).error
    assert f"{reason} in /p/conf/nginx.conf:1" == error


def passwords(path: Path) -> object:
    """Return what proxy_ssl_password_file makes of a file."""
    made = build(SERVER.format(f"proxy_ssl_password_file {path};"))
    return made.conf.servers[0].proxy_ssl.passwords if made.conf else made.error


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"one\r\ntwo\n\n three", (b"one", b"two", b" three")), (b"", (b"",)), (b"\n\n", (b"",))],
)
def test_passwords_stand_one_in_a_line(
    data: bytes, expected: tuple[bytes, ...], tmp_path: Path
) -> None:
    """Line ends of either kind; empty lines are none."""
    (tmp_path / "pass").write_bytes(data)
    assert expected == passwords(tmp_path / "pass")


def test_a_password_file_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    """Not there, no file, or a line that is too long: in nginx's words."""
    (tmp_path / "long").write_bytes(b"x" * tls_conf.LONGEST_PASSWORD_LINE)
    said = [str(passwords(path)) for path in (tmp_path / "none", tmp_path, tmp_path / "long")]
    assert [f'open() "{tmp_path}/none" failed', f'read() "{tmp_path}" failed',
            f'too long line in "{tmp_path}/long"'] == [text.split(" (")[0].split(" in /p")[0]
                                                      for text in said]


def test_names_of_files_are_made_absolute_and_others_left() -> None:
    """As the C library reads them: up to a NUL byte."""
    names = ["a.pem", "/a.pem", "data:a", "engine:a", "store:a", "a\0b"]
    assert ["/c/a.pem", "/a.pem", *names[2:5], "/c/a"] == [
        tls_conf.full_name("/c/", name) for name in names
    ]


def test_a_long_message_of_the_library_keeps_its_bracket() -> None:
    """Cut to what nginx has room for; it has no place in the file."""
    error = libssl.SslError("x" * 3000)
    made = tls_conf.unplaced(error)
    assert isinstance(made, errors.UnplacedError)
    assert (tls_conf.MAX_MESSAGE, ")") == (len(made.message), made.message[-1])
