"""The two matchers agree with each other, and with PCRE itself where its library is installed."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ngxstream.core import regex, regex_machine, regex_syntax
from tests.support import pcre as real
from tests.support.pcre_grammar import Grammar

SEEDS = range(6)
CASES = 700  # patterns of one seed


@pytest.fixture(scope="module")
def pcre() -> real.Pcre:
    """Load PCRE, or skip."""
    loaded = real.load()
    if loaded is None:
        pytest.skip("libpcre2-8 is not installed")
    if not (10, 40) <= loaded.version < (10, 43):
        pytest.skip("PCRE2 since 10.43, and before 10.40, reads some patterns otherwise")
    return loaded


PLAIN = ["a", "b", "c", "ab", ".", "[ab]", "[^a]", r"\w", r"\d", r"\n", "^", "$", r"\b", ""]
ODD = [
    r"\B", r"\A", r"\z", r"\Z", r"\s", r"\h", r"\v", r"\N", r"\R", "[[:alpha:]]", "[^[:upper:]]",
    "[]a]", r"[a\]]", r"[\d-]", "(?i)", "(?m)", "(?s)", "(?U)", "(?-i)", "(?x) ", "#", r"\Qa.b\E",
    r"\x61", r"\101", r"\1", r"\2", r"\g{-1}", "A", "{", "}", "a{1,", "(?#c)", "\u00e9", r"\K",
]  # fmt: skip
OPENINGS = ["(", "(", "(", "(?:", "(?:", "(?i:", "(?>", "(?=", "(?!", "(?<=", "(?<!", "(?<n>"]
QUANTIFIERS = [
    "*", "+", "?", "{2}", "{1,2}", "{0,3}", "{2,}", "{0}", "{1,3}", "{0,20}", "{1,19}", "{2,30}",
]  # fmt: skip


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
irregular = patterns(PLAIN, ["(", "(?:", "(?>", "(?=", "(?!", "(?<=", "(?<!"], ["", "", "?", "+"])
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


def compare(pcre: real.Pcre, pattern: bytes, texts: list[bytes], *, caseless: bool) -> str:
    """Compile and match with both; returns what came of it, or a difference.

    What PCRE compiles may be refused by name; what it refuses is refused in its words, but for
    patterns in which something else is refused by name.
    """
    try:
        expected = pcre.search(pattern, texts, caseless=caseless)
    except real.LimitError:
        return "given up"
    text = pattern.decode("utf-8", "surrogateescape")
    try:
        compiled = regex.compile(text, caseless=caseless)
    except regex.RegexError as error:
        by_name = error.reason.endswith("is not supported")
        if isinstance(expected, real.Refusal) and not by_name:
            said = expected.as_nginx_says(pattern)
            return "refused" if str(error) == said else f"{error} for {said}"
        return "by name" if by_name else f"refuses {text}: {error}"
    if isinstance(expected, real.Refusal):
        return f"compiles {text}, for {expected}"
    for subject, result in zip(texts, expected, strict=True):
        try:
            found = compiled.search(subject)
        except regex.MatchLimitError:
            return "given up"
        if found != result:
            return f"{text} finds {found} in {subject!r}, for {result}"
    return "the same"


@pytest.mark.parametrize("seed", SEEDS)
def test_all_of_pcre_s_syntax_is_read_as_pcre_reads_it(pcre: real.Pcre, seed: int) -> None:
    """Of patterns out of the manual's grammar, good and bad, each is compiled and matched alike."""
    outcomes = [
        compare(pcre, pattern, subjects, caseless=caseless)
        for pattern, caseless, subjects in Grammar(seed).cases(CASES, 5)
    ]
    expected = ("the same", "refused", "by name", "given up")
    assert [] == [outcome for outcome in outcomes if outcome not in expected]
    assert outcomes.count("the same") > CASES * 0.4
    assert outcomes.count("refused") > CASES * 0.3
    assert outcomes.count("by name") < CASES * 0.05
    assert outcomes.count("given up") < CASES * 0.02


def test_what_counts_far_is_too_large_where_pcre_finds_it_so(pcre: real.Pcre) -> None:
    """Counted groups and bytes are measured as PCRE measures them."""
    grammar = Grammar(11)
    outcomes = [
        compare(pcre, grammar.large().encode(), [grammar.subject(), b"a" * 50], caseless=False)
        for _ in range(200)
    ]
    expected = ("the same", "refused", "given up")
    assert [] == [outcome for outcome in outcomes if outcome not in expected]
    assert outcomes.count("refused") > 40
    assert outcomes.count("the same") > 40


@given(anything, subjects, st.booleans())
def test_patterns_match_as_in_pcre(
    pcre: real.Pcre, pattern: str, texts: list[bytes], caseless: bool
) -> None:
    """What is compiled finds what PCRE finds, with the same groups; the rest is refused."""
    outcome = compare(pcre, pattern.encode(), texts, caseless=caseless)
    assert outcome in ("the same", "refused", "by name", "given up")


@given(st.text("ab.*+?{}()[]|^$\\-:<>=!#,0123QERxkgPdwnzAZi'&JXpLCKG", max_size=14))
def test_what_pcre_refuses_is_refused(pcre: real.Pcre, pattern: str) -> None:
    """Any text is compiled only if PCRE compiles it, and refused only if PCRE does, or by name."""
    outcome = compare(pcre, pattern.encode(), [], caseless=False)
    assert outcome in ("the same", "refused", "by name")


def cut(text: bytes, slots: tuple[int, ...] | None) -> regex.Captures | None:
    """Cut the groups out of a subject."""
    if slots is None:
        return None
    pairs = zip(slots[::2], slots[1::2], strict=True)
    return tuple(None if start < 0 else text[start:end] for start, end in pairs)


@given(irregular, subjects)
def test_the_linear_matcher_finds_what_pcre_finds(
    pcre: real.Pcre, pattern: str, texts: list[bytes]
) -> None:
    """With lookarounds, atomic groups and possessive repeats too, whoever would match it."""
    refused = refusal(pattern)
    assume(refused is None)
    syntax = regex_syntax.parse(pattern.encode())
    machine = regex_machine.Machine(syntax.tree, syntax.groups)
    try:
        expected = pcre.search(pattern.encode(), texts, caseless=False)
    except real.LimitError:
        return
    assert expected == [cut(text, machine.search(text)) for text in texts]


@given(regular, subjects)
def test_the_linear_matcher_finds_what_re_finds(pattern: str, texts: list[bytes]) -> None:
    """On any regular pattern both matchers give the same match and the same groups."""
    assume(refusal(pattern) is None)  # too large, for PCRE as well
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
    assume(refusal(pattern) is None)  # too large, for PCRE as well
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
