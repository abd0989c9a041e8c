"""Patterns are read as PCRE reads them, matched in bounded time, or refused by name."""

import contextlib

import pytest

from ngxstream.core import regex, regex_machine, regex_risk, regex_syntax
from tests.support.work import lines_run


def search(pattern: str, subject: bytes, *, caseless: bool = False) -> regex.Captures | None:
    """Compile and search at once."""
    return regex.compile(pattern, caseless=caseless).search(subject)


def refusal(pattern: str) -> str:
    """Compile what must be refused and return the message."""
    with pytest.raises(regex.RegexError) as refused:
        regex.compile(pattern)
    return str(refused.value)


# --- what a caller gets ---------------------------------------------------------------------


def test_a_match_gives_its_text_and_its_groups() -> None:
    """Number 0 is the whole match; a group that took no part is None."""
    assert (b"b.c", b"b", None, b"c") == search(r"(b)(x)?\.(c)", b"a.b.c")


def test_no_match_gives_none() -> None:
    """A search without a match is None, not an empty match."""
    assert search("x", b"abc") is None


def test_names_and_numbers_of_groups_are_known() -> None:
    """All three spellings of a named group give its number; plain groups count too."""
    compiled = regex.compile(r"(?<one>a)(b)(?P<three>c)(?'four'd)(?:e)")
    assert ({"one": 1, "three": 3, "four": 4}, 4) == (compiled.names, compiled.groups)
    assert (b"abcde", b"a", b"b", b"c", b"d") == compiled.search(b"abcde")


def test_caseless_means_ascii_letters() -> None:
    """Case is folded for letters of ASCII, in sets and their complements too."""
    assert (b"WWW.K",) == search(r"www\.[k-m]", b"WWW.K", caseless=True)
    assert search("[^k]", b"K", caseless=True) is None
    assert search("é", "É".encode(), caseless=True) is None


def test_patterns_and_subjects_are_bytes() -> None:
    """A letter outside ASCII is the bytes that spell it; a dot is one byte."""
    assert ("é".encode(),) == search("^é$", "é".encode())
    assert ("é".encode(),) == search("^..$", "é".encode())
    assert (b"\xff",) == search("\udcff", b"\xff")


# --- spelling -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        (r"\h+", b"x\t \xa0\n", b"\t \xa0"),
        (r"\H+", b" ab ", b"ab"),
        (r"\v+", b"a\n\x0b\x0c\r\x85b", b"\n\x0b\x0c\r\x85"),
        (r"\V+", b"\nab\n", b"ab"),
        (r"a\Rb", b"a\r\nb", b"a\r\nb"),
        (r"\R", b"\r\n", b"\r\n"),
        (r"\N+", b"ab\n", b"ab"),
        (r"[[:alpha:]]+", b"1ab2", b"ab"),
        (r"[[:^alpha:][:upper:]]+", b"a1B2c", b"1B2"),
        (r"[[:punct:]]+", b"a-._b", b"-._"),
        (r"[]a]+", b"x]a]x", b"]a]"),
        (r"[^]a]+", b"]xya", b"xy"),
        (r"[a\]b]+", b"xa]bx", b"a]b"),
        (r"[\d.-]+", b"a1.2-3b", b"1.2-3"),
        (r"[\Qa-c]\E]+", b"b-]ac", b"-]ac"),
        (r"[a-\x63]+", b"xabcx", b"abc"),
        (r"[\b]", b"\x08", b"\x08"),
        (r"\Qa.b*\E+", b"a.b**", b"a.b**"),
        (r"\Q(", b"(", b"("),
        (r"a\Eb", b"ab", b"ab"),
        (r"\x41\x{42}\103\o{104}\e\cA\a\f\t", b"ABCD\x1b\x01\x07\x0c\t", b"ABCD\x1b\x01\x07\x0c\t"),
        (r"\xg", b"\x00g", b"\x00g"),
        (r"\0\01\18", b"\x00\x01\x018", b"\x00\x01\x018"),
        (r"\<\_\-\/", b"<_-/", b"<_-/"),
        (r"a{1,x}b{,c]}", b"a{1,x}b{,c]}", b"a{1,x}b{,c]}"),
        (r"^ab$", b"ab\n", b"ab"),
        (r"^ab\Z", b"ab\n", b"ab"),
        (r"\Aab\z", b"ab", b"ab"),
        (r"(?m)^b$", b"a\nb\nc", b"b"),
        (r"(?s)a.b", b"a\nb", b"a\nb"),
        (r"a(?i)b|c", b"C", b"C"),
        (r"(?:(?i)a)b", b"Ab", b"Ab"),
        (r"(?i:a)b", b"Ab", b"Ab"),
        (r"(?i)a(?-i)b", b"Ab", b"Ab"),
        (r"(?x) a \  b # comment", b"a b", b"a b"),
        (r"(?x) a + ? b", b"aab", b"aab"),
        (r"a(?#comment)+", b"aaa", b"aaa"),
        (r"(?U)a+", b"aaa", b"a"),
        (r"(?U)a+?", b"aaa", b"aaa"),
        (r"(?n)(a)(?<n>b)", b"ab", b"ab"),
        (r"(?^)a", b"a", b"a"),
        (r"a++b", b"aab", b"aab"),
        (r"(?>a|ab)c", b"abc", None),
        (r"(?=ab)a", b"acab", b"a"),
        (r"(?<=a|bc)d", b"bcd", b"d"),
        (r"(?<!a|bc)d", b"ad.d", b"d"),
        (r"(a)\1", b"aa", b"aa"),
        (r"(?<n>a)\k<n>\k{n}\k'n'\g{n}(?P=n)", b"aaaaaa", b"aaaaaa"),
        (r"(a)(b)\g1\g{2}\g{-1}", b"ababb", b"ababb"),
        (r"(?i)(a)\1", b"aA", b"aA"),
        (r"\B", b"", b""),
        (r"\bab\b", b"x ab", b"ab"),
        (r"a{2}", b"aaa", b"aa"),
        (r"(?:^)*a", b"ba", b"a"),
        # what Python's own possessive repeats got wrong, 3.11.2 or others
        (r"(?:[a-z]|\$(?!\{))*+", b"b${x}", b"b"),
        (r"(?:[a-z]|\$(?!\{))++", b"b${x}", b"b"),
        (r"(?:[a-z]|\$(?!\{)){1,5}+", b"b${x}", b"b"),
        (r"(?>(?:[a-z]|\$(?!\{))*)\$", b"b${x}", b"b$"),
        (r"(?:ab?c)*+a", b"acabcab", b"acabca"),
        (r"(?:ab?c)?+a", b"aba", b"a"),
        (r"^(?:\w+\.){2,}+com", b"a.b.com", b"a.b.com"),
        (r"((x)|y|z)*+", b"xyz", b"xyz"),
        # properties of Unicode are those of the code point that a byte is
        (r"\p{N}+", b"a1\xb2\xbcb", b"1\xb2\xbc"),
        (r"\pL+", b"1a\xe9\xaa\xb51", b"a\xe9\xaa\xb5"),
        (r"\PL+", b"a1 b", b"1 "),
        (r"\P{Lu}+", b"Aa1B", b"a1"),
        (r"\p{^Lu}+", b"Aa1B", b"a1"),
        (r"[\p{Lu}\d]+", b"aB1c", b"B1"),
        (r"[^\p{L}]+", b"a1-b", b"1-"),
        (r"(?i)\p{Lu}+", b"abAB", b"AB"),
        (r"(?i)[\p{Lu}x]+", b"aBXxa", b"BXx"),
        (r"\p{ script_extensions = LATIN }+", b"1a\xe9", b"a\xe9"),
        (r"\p{Greek}", b"abc\xe1", None),
        (r"^\X\X$", b"\r\na", b"\r\na"),
        (r"^\X{3}$", b"e\xcc\x81", b"e\xcc\x81"),
        # PCRE2 before 10.43 takes these for text
        (r"^a{,3}$", b"a{,3}", b"a{,3}"),
        (r"^a{ 1 }$", b"a{ 1 }", b"a{ 1 }"),
        (r"^a{1, 2}$", b"a{1, 2}", b"a{1, 2}"),
        (r"(?xx)[a b]+", b"a b", b"a"),
        (r"(?x)[a b]+", b"a b", b"a b"),
        (r"(?xx)(?-xx) [a b]+", b"a b", b" b"),
        ("(?x)a\udc85b", b"ab", b"ab"),
        (r"a+(?#lazy)?", b"aaa", b"a"),
        (r"(?=a)*b", b"ab", b"b"),
        (r"(?=a)+b", b"ab", None),
        (r"(?!a){3}.", b"ab", b"b"),
        (r"(?<=a)?b", b"b", b"b"),
        (r"\Ga", b"ba", None),
        (r"a\Kb", b"ab", b"b"),
        (r"\W[[:<:]]*\w+[[:>:]]", b"x ab c", b" ab"),
        (r"(?|(a)|(b))c", b"bc", b"bc"),
        (r"(?C)a(?C12)b(?C'x''y')", b"ab", b"ab"),
        (r"a(*FAIL)|b", b"ab", b"b"),
        (r"(*:mark)a(*MARK:x)b", b"ab", b"ab"),
        (r"(*NO_JIT)(*LF)a", b"a", b"a"),
        (r"(*pla:b)\w(*negative_lookahead:a)", b"ab", b"b"),
        (r"(*atomic:a|ab)c", b"abc", None),
        (r"(*sr:a|\xe9)+", b"a\xe9", b"a\xe9"),
        (r"(a)?(?(1)b|c)", b"xc", b"c"),
        (r"(a)?(?(1)b|c)", b"ab", b"ab"),
        (r"(?(?=a)ab|.)", b"ab", b"ab"),
        (r"^(?(?!a)b|ac)$", b"ac", b"ac"),
        (
            r"(?(DEFINE)(?<octet>25[0-5]|2[0-4]\d|1?\d?\d))^(?&octet)(?:\.(?&octet)){3}$",
            b"10.0.0.255",
            b"10.0.0.255",
        ),
        (
            r"(?(DEFINE)(?<octet>25[0-5]|2[0-4]\d|1?\d?\d))^(?&octet)(?:\.(?&octet)){3}$",
            b"10.0.0.256",
            None,
        ),
        (
            r"(sens|respons)e and (?1)ibility",
            b"sense and responsibility",
            b"sense and responsibility",
        ),
        (r"^(a)?\1b|b$", b"b", b"b"),
        (r"\1(a)|b", b"aab", b"b"),
        (r"(a)(?<=\1)b", b"ab", b"ab"),
        (r"a\g{+1}(b)|c", b"abc", b"c"),
        # counted far, but not too far for PCRE
        (r"^x{65535}$", b"x" * 65535, b"x" * 65535),
        (r"^(a{255}){255}$", b"a" * 65024, None),
        (r"^(?:a{100}){100}$", b"a" * 10000, b"a" * 10000),
        (r"^(?:a{0,1000}){1000}$", b"a" * 300, b"a" * 300),
        (r"(?:a{0,1000}?){1000}b", b"aab", b"aab"),
    ],
)
def test_pcre_spelling_keeps_its_meaning(
    pattern: str, subject: bytes, expected: bytes | None
) -> None:
    """Each spelling matches what PCRE matches with it."""
    found = search(pattern, subject)
    assert expected == (None if found is None else found[0])


@pytest.mark.parametrize(
    ("pattern", "subject"),
    [
        (r"^ab\z", b"ab\n"),
        (r"a.b", b"a\nb"),
        (r"(?m)^$", b"a\n"),
        (r"(?i)a(?-i)b", b"AB"),
        (r"\w", "é".encode()),
        (r"\d", "٣".encode()),
        (r"a++a", b"aaa"),
        (r"(?n)(a)\x62", b"a"),
    ],
)
def test_pcre_spelling_matches_no_more(pattern: str, subject: bytes) -> None:
    """What PCRE does not match does not match."""
    assert search(pattern, subject) is None


def test_captures_of_a_possessive_repeat_are_the_last_ones() -> None:
    """Those of the last repetition; Python's own possessive repeats raise SystemError there."""
    assert (b"xyz", b"z", b"x") == search("((x)|y|z)*+", b"xyz")
    assert (b"xyz", b"z", b"x") == search("((x)|y|z){3}+", b"xyz")
    assert (b"aba", b"a", b"b") == search("(?:(a)|(b))++", b"aba")


def test_a_literal_space_outside_class_ends_extended_comments() -> None:
    """Under (?x) a comment ends with its line."""
    assert (b"ab",) == search("(?x)a # no b here\nb", b"ab")


@pytest.mark.parametrize("pattern", [r"(a+)+\1$", r"(a|a)*(b)\2$"])
def test_a_pattern_that_no_matcher_can_bound_is_refused(pattern: str) -> None:
    """Exponential, and with something the linear matcher does not know: not in this server."""
    assert "could take exponential time is not supported" in refusal(pattern)


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        (r"(?=b)(\w+\s?)*$", b"ab c", (b"b c", b"c")),
        (r"(?>(a|a)*)b", b"aab", (b"aab", b"a")),
        (r"(?>(a|a)*)ab", b"aab", None),
        (r"(?<=x|yz)(a+)+$", b"xaa", (b"aa", b"aa")),
        (r"(?<=x|yz)(a+)+$", b"yzaa", (b"aa", b"aa")),
        (r"(?<=x|yz)(a+)+$", b"zaa", None),
        (r"(?<!x|yz)(a+)+$", b"xaa", (b"a", b"a")),
        (r"^(?!(a+)+b)(\w+)+$", b"aac", (b"aac", None, b"aac")),
        (r"^(?!(a+)+b)(\w+)+$", b"aab", None),
        (r"(?=(a+)+b)(\w)+$", b"aab", (b"aab", b"aa", b"b")),
        (r"((a+)+)++b", b"aab", (b"aab", b"aa", b"aa")),
        (r"((a+)+)++a", b"aaa", None),
        (r"^(?:(?=(?:a|a|b)*c)a)+c$", b"aac", (b"aac",)),
        (r"(?<!ab)(c+)+$", b"c", (b"c", b"c")),
        (r"(?:(?!(a)b)a|ab)(c+)*$", b"ab", (b"ab", None, None)),
    ],
)
def test_lookarounds_and_atomic_groups_are_known_to_the_linear_matcher(
    pattern: str, subject: bytes, expected: regex.Captures | None
) -> None:
    """What could run away with re is matched by the other, as PCRE would."""
    compiled = regex.compile(pattern)
    assert "machine" == compiled.engine
    assert expected == compiled.search(subject)


def test_of_groups_with_one_name_the_last_gives_its_value() -> None:
    """As nginx sets the variable for one after another: the last one stays, matched or not."""
    compiled = regex.compile("(?J)(?<n>a)|(?<n>b)")
    assert {"n": 2} == compiled.names
    assert (b"a", b"a", None) == compiled.search(b"a")


def test_a_name_given_twice_refers_to_the_first_of_its_groups_that_matched() -> None:
    """What the others matched is not looked at."""
    pattern = "(?J)(?:(?<n>a)|(?<n>b))\\k<n>"
    assert (b"aa", b"a", None) == search(pattern, b"aba aa")
    assert (b"bb", None, b"b") == search(pattern, b"abab bb")


def test_a_number_given_twice_is_of_the_branch_that_matched() -> None:
    """Groups in the branches of (?| share their numbers, and those behind it go on."""
    assert (b"cda", b"c", b"d", b"a") == search("(?|(a)|(c)(d))(a)", b"cda")
    assert (b"aa", b"a", None, b"a") == search("(?|(a)|(c)(d))(a)", b"aa")


def test_a_lookaround_that_is_repeated_captures() -> None:
    """It is tried before it is done without."""
    assert (b"b", b"b") == search("(?=(b))*b", b"b")
    assert (b"b", None) == search("(?=(b))*?b", b"b")


def test_groups_of_what_is_called_do_not_capture() -> None:
    """A call leaves the captures as they were."""
    assert (b"ab", b"a", b"a") == search("((a|b))(?1)", b"ab")


def test_a_message_is_cut_as_nginx_cuts_it() -> None:
    """A long pattern is not given in full twice."""
    said = refusal("(" + "a" * 2000)
    assert 1024 == len(said)
    assert said.startswith('pcre2_compile() failed: missing closing parenthesis in "(aaa')


def test_deep_nesting_is_refused_and_not_a_crash() -> None:
    """250 groups in each other compile, more are refused as PCRE words it."""
    assert (b"a",) == search("(?:" * 250 + "a" + ")" * 250, b"a")
    assert (b"a",) + (b"a",) * 250 == search("(" * 250 + "a" + ")" * 250, b"a")
    assert "parentheses are too deeply nested" in refusal("(?:" * 251 + "a" + ")" * 251)
    assert "parentheses are too deeply nested" in refusal("(?:" * 3000 + "a" + ")" * 3000)


def test_a_pattern_too_large_for_the_linear_matcher_is_refused() -> None:
    """Counted repeats are written out, within limits: PCRE's own come first."""
    assert "regular expression is too large" in refusal("(?:(?:a|a){200}){200}")
    calls = "".join(f"(?<n{n}>(?&n{n - 1}){{9}})" for n in range(1, 6))
    assert "regular expression is too large" in refusal(f"(?<n0>(a|a)*){calls}")


# --- bounded time ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "engine"),
    [
        (r"^(?<sub>.+)\.example\.(com|net)$", "re"),
        (r"^([a-z0-9-]+\.)+example\.com$", "re"),
        (r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$", "re"),
        (r"^(?!www\.)(.+)\.example\.com$", "re"),
        (r"^(\d{1,3}\.){3}\d{1,3}$", "re"),
        (r"^([^.]+)\.\1\.example\.com$", "re"),
        (r"^(a|b)*$", "re"),
        (r"\.example\.com$", "re"),
        (r"foo.*bar", "re, then machine"),
        (r"^.*foo.*bar.*baz$", "re, then machine"),
        (r"(a+)+$", "machine"),
        (r"(.*a){20}$", "machine"),
        (r"^(\w+\s?)*$", "machine"),
        (r"^(a|a)*$", "machine"),
        (r"(x+x+)+y", "machine"),
        (r"^(?:(?:|)a)*b", "machine"),
        (r"((a?)*b)*c", "machine"),
        ("a?" * 30 + "a" * 30, "machine"),
        (".{0,8}" * 8 + "x", "machine"),
    ],
)
def test_the_matcher_is_chosen_by_what_a_subject_could_do(pattern: str, engine: str) -> None:
    """Ordinary patterns go to re; those that can run away go to the linear matcher."""
    assert engine == regex.compile(pattern).engine


@pytest.mark.parametrize("size", [30, 253])
@pytest.mark.parametrize(
    "pattern",
    [r"(a+)+$", r"(.*a){20}$", r"^(\w+\s?)*$", r"(a|a)*$", r"(a*)*$", "a?" * 30 + "a" * 30 + "$"],
)
def test_a_hostile_subject_ends(pattern: str, size: int) -> None:
    """What would keep a backtracking matcher busy for ages finds no match and comes back."""
    compiled = regex.compile("^" + pattern if pattern[0] == "(" else pattern)
    assert compiled.search(b"a" * size + b"!") is None
    assert compiled.search(b"a" * size) is not None


def test_a_long_subject_of_a_square_pattern_goes_to_the_linear_matcher() -> None:
    """re is not asked to try a long subject from every place."""
    compiled = regex.compile("foo(.*)bar")
    assert compiled.search(b"foo" * 300) is None
    assert (b"foo1bar", b"1") == compiled.search(b"-" * 3000 + b"foo1bar" + b"-" * 3000)


@pytest.mark.parametrize(
    ("pattern", "size"),
    [("a", 65537), ("(a+)+$", 65537), ("(?=a)a*b", 5000)],
)
def test_a_subject_beyond_all_limits_is_not_tried(pattern: str, size: int) -> None:
    """The match is given up with the words nginx has for PCRE's own limit."""
    with pytest.raises(regex.MatchLimitError, match=r"pcre2_match\(\) failed: -47"):
        regex.compile(pattern).search(b"a" * size)


def test_the_linear_matcher_gives_up_before_it_takes_long() -> None:
    """Even linear time is bounded: a large program on a large subject is given up."""
    compiled = regex.compile("(.*a){20}$")

    def search() -> None:
        with pytest.raises(regex.MatchLimitError):
            compiled.search(b"a" * 60000 + b"!")

    assert lines_run(search) < 16 * regex_machine.MAX_STEPS


@pytest.mark.parametrize(
    "body", ["(?=(a+)+b)", "(?!(a+)+b)", "(?<=(?:a|a)b)", "(?>(a|a)*)c", "a{900}"]
)
def test_what_is_matched_apart_is_counted_too(body: str) -> None:
    """A lookaround at every place of a long subject is as bounded as anything else."""
    compiled = regex.compile(f"(?:(?:{body})x|(y+)+z|a)*!$")
    assert "machine" == compiled.engine

    def search() -> None:
        with contextlib.suppress(regex.MatchLimitError):
            compiled.search(b"a" * 5000)

    assert lines_run(search) < 20 * regex_machine.MAX_STEPS


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("((a)*)*", b"a", (b"a", b"", b"a")),
        ("((a)*)*", b"aab", (b"aa", b"", b"a")),
        ("(b?a?)+", b"ab", (b"ab", b"")),
        ("(?:(b?a?)+)*c", b"bc", (b"bc", b"")),
    ],
)
def test_a_repetition_that_matches_nothing_is_told_from_one_that_has_not_yet(
    pattern: str, subject: bytes, expected: regex.Captures
) -> None:
    """The same place of the pattern and the subject is tried again in another repetition."""
    syntax = regex_syntax.parse(pattern.encode(), caseless=False)
    slots = regex_machine.Machine(syntax.tree, syntax.groups).search(subject)
    assert slots is not None
    assert expected == tuple(
        subject[start:end] for start, end in zip(slots[::2], slots[1::2], strict=True)
    )


WAYS = [r"a?" * 8 + "b", "[ab]?" * 8 + "c", r"^(?:a|b|ab)*c$", r"((a|b|c|d)|(e))*z", r"a*a*b"]


@pytest.mark.parametrize("pattern", [*WAYS, r"(?=a)a*b", r"(\w+)\.\1$", "foo.*bar", r"^.*a.*b.*c$"])
def test_re_is_not_given_a_subject_that_could_take_it_long(pattern: str) -> None:
    """Steps are bounded by the length: many ways to read the same bytes make it shorter."""
    syntax = regex_syntax.parse(pattern.encode(), caseless=False)
    risk = regex_risk.assess(syntax.tree)
    compiled = regex.compile(pattern)
    for size in (100, 255, 1000, 5000, 60_000):
        given_up = []

        def search(size: int = size, given_up: list[bool] = given_up) -> None:
            try:
                compiled.search(b"a" * size)
            except regex.MatchLimitError:
                given_up.append(True)

        by_machine = lines_run(search) > 50  # re runs no lines of Python
        steps = risk.factor * size**risk.degree
        assert given_up or by_machine or steps <= regex.STEPS_ALONE, size


@pytest.mark.parametrize("pattern", [*WAYS, r"(a+)+$", r"^[a-z0-9-]+\.example\.com$", "^a$"])
def test_a_quick_subject_is_one_that_cannot_take_long(pattern: str) -> None:
    """Up to that length nobody measures the time."""
    compiled = regex.compile(pattern)
    risk = regex_risk.assess(regex_syntax.parse(pattern.encode(), caseless=False).tree)
    if compiled.engine == "machine":
        assert 0 == compiled.quick
    else:
        assert risk.factor * compiled.quick**risk.degree <= regex.FEW_STEPS * max(1, risk.degree)
