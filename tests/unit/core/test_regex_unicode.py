"""Properties of Unicode mean to a byte what they mean to the code point of its number."""

import unicodedata

import pytest

from ngxstream.core import regex_chars, regex_unicode
from tests.support import pcre


def having(name: str) -> bytes:
    """List the bytes that have a property."""
    mask = regex_unicode.find(name)
    assert mask is not None
    return bytes(regex_chars.members(mask))


@pytest.mark.parametrize("name", ["Lu", "Ll", "Lo", "Nd", "No", "Zs", "Cc", "Cf", "Po", "Sk"])
def test_a_category_is_unicode_s(name: str) -> None:
    """Of 256 code points those are in it that Unicode puts there."""
    expected = bytes(byte for byte in range(256) if unicodedata.category(chr(byte)) == name)
    assert expected == having(name.lower())


def test_a_letter_stands_for_all_categories_that_begin_with_it() -> None:
    """N is Nd, Nl and No."""
    assert b"0123456789\xb2\xb3\xb9\xbc\xbd\xbe" == having("n")


def test_scripts_are_latin_common_or_not_here() -> None:
    """All others are known and have no byte."""
    assert having("latin") == having("latn") == having("scx:latin")
    assert 256 == len(having("latin")) + len(having("common"))
    assert b"" == having("greek") == having("sc=arabic")


def test_a_script_is_not_looked_for_among_other_properties() -> None:
    """sc: and scx: take scripts only, bc: classes of writing direction."""
    assert regex_unicode.find("sc:lu") is None
    assert regex_unicode.find("foo:latin") is None
    assert b"\n\r\x1c\x1d\x1e\x85" == having("bc:b") == having("bidib")


def test_what_nobody_knows_is_none() -> None:
    """A name that is none is told from a property that no byte has."""
    assert regex_unicode.find("foo") is None
    assert 0 == regex_unicode.find("han")


def test_every_name_means_to_pcre_what_it_means_here() -> None:
    """All names and their sets are those of the library, where it has the same Unicode."""
    real = pcre.load()
    if real is None:
        pytest.skip("libpcre2-8 is not installed")
    if not (10, 40) <= real.version < (10, 43):
        pytest.skip("this PCRE2 has another version of Unicode than 14")
    every = [bytes((byte,)) for byte in range(256)]
    names = sorted(regex_unicode._ALL)
    assert len(names) > 480
    for name in names:
        found = real.search(b"\\p{%b}" % name.encode(), every, caseless=False)
        assert isinstance(found, list), name
        assert having(name) == b"".join(every[at] for at in range(256) if found[at]), name
