"""The two matchers agree with each other, and with PCRE itself where its library is installed."""

import ctypes
import ctypes.util

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ngxstream.core import regex, regex_machine, regex_syntax

UNSET = ctypes.c_size_t(-1).value
PCRE2_CASELESS = 0x8


class Pcre:
    """The few calls of libpcre2-8 that nginx makes."""

    def __init__(self, path: str) -> None:
        self.lib = lib = ctypes.CDLL(path)
        lib.pcre2_compile_8.restype = ctypes.c_void_p
        lib.pcre2_compile_8.argtypes = [
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint32, ctypes.POINTER(ctypes.c_int),
            ctypes.POINTER(ctypes.c_size_t), ctypes.c_void_p,
        ]  # fmt: skip
        lib.pcre2_match_data_create_from_pattern_8.restype = ctypes.c_void_p
        lib.pcre2_match_data_create_from_pattern_8.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        lib.pcre2_match_8.argtypes = [
            ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_uint32,
            ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        lib.pcre2_get_ovector_pointer_8.restype = ctypes.POINTER(ctypes.c_size_t)
        lib.pcre2_get_ovector_pointer_8.argtypes = [ctypes.c_void_p]
        lib.pcre2_get_ovector_count_8.argtypes = [ctypes.c_void_p]
        lib.pcre2_match_data_free_8.argtypes = [ctypes.c_void_p]
        lib.pcre2_code_free_8.argtypes = [ctypes.c_void_p]

    def search(
        self, pattern: bytes, subjects: list[bytes], *, caseless: bool
    ) -> list[regex.Captures | None] | None:
        """Search all subjects; None if PCRE refuses the pattern."""
        error, at = ctypes.c_int(), ctypes.c_size_t()
        options = PCRE2_CASELESS if caseless else 0
        code = self.lib.pcre2_compile_8(pattern, len(pattern), options, error, at, None)
        if not code:
            return None
        data = self.lib.pcre2_match_data_create_from_pattern_8(code, None)
        found = [self._match(code, data, subject) for subject in subjects]
        self.lib.pcre2_match_data_free_8(data)
        self.lib.pcre2_code_free_8(code)
        return found

    def _match(self, code: int, data: int, subject: bytes) -> regex.Captures | None:
        result = self.lib.pcre2_match_8(code, subject, len(subject), 0, 0, data, None)
        if result < 0:
            assume(result == -1)  # anything else is PCRE's own limit
            return None
        offsets = self.lib.pcre2_get_ovector_pointer_8(data)
        groups = self.lib.pcre2_get_ovector_count_8(data)
        return tuple(
            None if offsets[2 * n] == UNSET else subject[offsets[2 * n] : offsets[2 * n + 1]]
            for n in range(groups)
        )


@pytest.fixture(scope="module")
def pcre() -> Pcre:
    """Load PCRE, or skip."""
    path = ctypes.util.find_library("pcre2-8")
    if path is None:
        pytest.skip("libpcre2-8 is not installed")
    return Pcre(path)


PLAIN = ["a", "b", "c", "ab", ".", "[ab]", "[^a]", r"\w", r"\d", r"\n", "^", "$", r"\b", ""]
ODD = [
    r"\B", r"\A", r"\z", r"\Z", r"\s", r"\h", r"\v", r"\N", r"\R", "[[:alpha:]]", "[^[:upper:]]",
    "[]a]", r"[a\]]", r"[\d-]", "(?i)", "(?m)", "(?s)", "(?U)", "(?-i)", "(?x) ", "#", r"\Qa.b\E",
    r"\x61", r"\101", r"\1", r"\2", r"\g{-1}", "A", "{", "}", "a{1,", "(?#c)", "\u00e9", r"\K",
]  # fmt: skip
OPENINGS = ["(", "(", "(", "(?:", "(?:", "(?i:", "(?>", "(?=", "(?!", "(?<=", "(?<!", "(?<n>"]
QUANTIFIERS = ["*", "+", "?", "{2}", "{1,2}", "{0,3}", "{2,}", "{0}", "{1,3}"]


def patterns(atoms: list[str], openings: list[str], modes: list[str]) -> st.SearchStrategy[str]:
    """Write patterns out of some of the syntax."""
    quantifiers = st.builds(str.__add__, st.sampled_from(QUANTIFIERS), st.sampled_from(modes))

    def grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        grouped = st.builds("{}{})".format, st.sampled_from(openings), inner)
        return st.one_of(
            st.builds(str.__add__, inner, inner),
            st.builds("{}|{}".format, inner, inner),
            grouped,
            st.builds("({}){}".format, inner, quantifiers),
            st.builds("(?:{}){}".format, inner, quantifiers),
            st.builds(str.__add__, st.sampled_from(["a", ".", r"\w", "[ab]"]), quantifiers),
        )

    return st.recursive(st.sampled_from(atoms), grow, max_leaves=8)


anything = patterns(PLAIN * 2 + ODD, OPENINGS, ["", "", "?", "+"])
regular = patterns(PLAIN, ["(", "(?:"], ["", "", "?"])
irregular = patterns(
    PLAIN, ["(", "(?:", "(?>", "(?=", "(?!", "(?<=", "(?<!"], ["", "", "?", "+"]
)
subjects = st.lists(
    st.text("aaabbcAB.\n 1#\u00e9", max_size=9).map(str.encode), min_size=4, max_size=8
)


def refusal(pattern: str, *, caseless: bool = False) -> str | None:
    """Compile: the message of the compiler's own error, or None."""
    try:
        regex.compile(pattern, caseless=caseless)
    except regex.RegexError as error:
        return str(error)
    return None


@given(anything, subjects, st.booleans())
def test_patterns_match_as_in_pcre(
    pcre: Pcre, pattern: str, texts: list[bytes], caseless: bool
) -> None:
    """What is compiled finds what PCRE finds, with the same groups; the rest is refused."""
    try:
        compiled = regex.compile(pattern, caseless=caseless)
    except regex.RegexError as error:
        assume("not supported" in error.reason)
        return
    expected = pcre.search(pattern.encode(), texts, caseless=caseless)
    assert expected is not None, "a pattern that PCRE refuses must not be compiled"
    assert expected == [compiled.search(text) for text in texts]


@given(st.text("ab.*+?{}()[]|^$\\-:<>=!#,0123QERxkgPdwnzAZi'&", max_size=14))
def test_what_pcre_refuses_is_refused(pcre: Pcre, pattern: str) -> None:
    """Any text is compiled only if PCRE compiles it, and refused only if PCRE does, or by name."""
    accepted = pcre.search(pattern.encode(), [], caseless=False) is not None
    refused = refusal(pattern)
    assert accepted if refused is None else not accepted or "not supported" in refused


def cut(text: bytes, slots: tuple[int, ...] | None) -> regex.Captures | None:
    """Cut the groups out of a subject."""
    if slots is None:
        return None
    pairs = zip(slots[::2], slots[1::2], strict=True)
    return tuple(None if start < 0 else text[start:end] for start, end in pairs)


@given(irregular, subjects)
def test_the_linear_matcher_finds_what_pcre_finds(
    pcre: Pcre, pattern: str, texts: list[bytes]
) -> None:
    """With lookarounds, atomic groups and possessive repeats too, whoever would match it."""
    refused = refusal(pattern)
    assume(refused is None)
    syntax = regex_syntax.parse(pattern.encode())
    machine = regex_machine.Machine(syntax.tree, syntax.groups)
    expected = pcre.search(pattern.encode(), texts, caseless=False)
    assert expected == [cut(text, machine.search(text)) for text in texts]


@given(regular, subjects)
def test_the_linear_matcher_finds_what_re_finds(pattern: str, texts: list[bytes]) -> None:
    """On any regular pattern both matchers give the same match and the same groups."""
    compiled = regex.compile(pattern)
    assume(compiled.engine == "re")
    syntax = regex_syntax.parse(pattern.encode())
    machine = regex_machine.Machine(syntax.tree, syntax.groups)
    for text in texts:
        slots = machine.search(text)
        assert compiled.search(text) == cut(text, slots)


@given(regular, st.sampled_from([b"a", b"b", b"ab", b"aab", b"1", b"\n"]), st.sampled_from(b"!1a"))
def test_no_repetitive_subject_takes_long(pattern: str, unit: bytes, last: int) -> None:
    """Whatever the pattern, a thousand bytes made to confuse it end, or are given up."""
    compiled = regex.compile(pattern)
    try:
        found = compiled.search((unit * 1000)[:1000] + bytes((last,)))
    except regex.MatchLimitError:
        return
    assert found is None or isinstance(found[0], bytes)


@given(st.text(max_size=20), st.booleans())
def test_any_text_is_compiled_or_refused(pattern: str, caseless: bool) -> None:
    """No text makes the compiler fail in another way than its own error."""
    refused = refusal(pattern, caseless=caseless)
    assert refused is None or refused.startswith("pcre2_compile() failed: ")
