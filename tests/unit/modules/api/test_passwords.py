"""Forms of passwords: those of nginx, compared with what openssl and crypt(3) make."""

import ctypes
import subprocess
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.modules.api import passwords


def read(text: str) -> passwords.Secret:
    """Read a form, with crypt(3) of this system."""
    return passwords.read(text, passwords.Crypt())


def openssl(form: str, password: str) -> str:
    """Have openssl make a password's form."""
    made = subprocess.run(
        ["openssl", "passwd", form, "-salt", "abcdefgh", password],
        capture_output=True, text=True, check=True,
    )
    return made.stdout.strip()


def gensalt(prefix: bytes, cost: int = 0) -> Callable[[str], str]:
    """Return what makes a form of crypt(3)."""

    def make(password: str) -> str:
        library = ctypes.CDLL("libcrypt.so.1")
        library.crypt_gensalt.restype = library.crypt.restype = ctypes.c_char_p
        made: bytes = library.crypt(password.encode(), library.crypt_gensalt(prefix, cost, None, 0))
        return made.decode()

    return make


@pytest.mark.parametrize("form", ["-apr1", "-1", "-5", "-6"])
@pytest.mark.parametrize("password", ["s", "secret", "sécret " * 5])
def test_what_openssl_makes_is_known(form: str, password: str) -> None:
    """Of any length, and nothing else fits."""
    secret = read(openssl(form, password))
    assert passwords.fits(secret, password.encode())
    assert not passwords.fits(secret, password.encode() + b"x")
    assert not passwords.fits(secret, b"")
    assert (form != "-apr1") is (secret.crypt is not None)


@pytest.mark.parametrize("make", [gensalt(b"$y$", 1), gensalt(b"$2b$", 4), gensalt(b"")],
                         ids=["yescrypt", "bcrypt", "des"])
def test_what_the_system_makes_is_known(make: Callable[[str], str]) -> None:
    """By crypt(3)."""
    secret = read(make("secret"))
    assert secret.crypt is not None
    assert passwords.fits(secret, b"secret")
    assert not passwords.fits(secret, b"secreT")


@pytest.mark.parametrize(
    ("text", "password"),
    [
        ("{PLAIN}secret", b"secret"), ("{PLAIN}s\udce9", b"s\xe9"), ("{PLAIN}", b""),
        ("{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", b"secret"),
        ("{SSHA}+RFhsab2AfzZ0VfEdyknXtUT06RhYmNk", b"secret"),
        ("$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/", b"myPassword"),
    ],
)  # fmt: skip
def test_what_other_programs_make_is_known(text: str, password: bytes) -> None:
    """Apache's and LDAP's."""
    secret = read(text)
    assert secret.crypt is None
    assert passwords.fits(secret, password)
    assert not passwords.fits(secret, b"another")


@pytest.mark.parametrize(
    "text",
    ["", "secret", "{MD5}x", "{SHA}x", "{SHA}QQ==", "{SSHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "$apr1$",
     "$apr1$a$b", "$3$$8846f7eaee8fb117ad06bdd830b7586c", "$7$CU..../....a$b", "*", "!", "x" * 14,
     "$6$rounds=999999999$a$" + "b" * 86, "$2b$20$" + "b" * 53, "$y$jFT$a$" + "b" * 43],
)  # fmt: skip
def test_other_forms_are_refused(text: str) -> None:
    """Those that nobody knows, and those that take long."""
    with pytest.raises(passwords.FormError):
        read(text)


@given(st.text(max_size=40), st.binary(max_size=300))
def test_any_form_and_password(text: str, password: bytes) -> None:
    """A form is refused, or a password fits it or not."""
    for form in (text, f"{{PLAIN}}{text}", f"{{SHA}}{text}", f"$apr1${text}"):
        try:
            secret = read(form)
        except passwords.FormError:
            continue
        assert passwords.fits(secret, password) in (True, False)


def test_what_no_password_can_be_does_not_fit() -> None:
    """NUL would end it, and a long one would take long."""
    assert not passwords.fits(read("{PLAIN}a\0b"), b"a\0b")
    long = b"x" * 1000
    assert not passwords.fits(passwords.Secret(f"{{PLAIN}}{long.decode()}"), long)


def test_a_system_without_crypt_says_so() -> None:
    """Where the form needs it, and nowhere else."""
    passwords.read("{PLAIN}a", None)
    with pytest.raises(passwords.FormError, match="libcrypt"):
        passwords.read("$6$a$" + "b" * 86, None)
