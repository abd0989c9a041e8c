"""Patterns are read whole, or refused with PCRE's reason: branches, items and quantifiers."""

import pytest

from ngxstream.core import regex, regex_syntax, regex_tree

NO_K = "\\K is not allowed in lookarounds (but see PCRE2_EXTRA_ALLOW_LOOKAROUND_BSK)"


def refusal(pattern: str) -> str:
    """Compile what must be refused and return the message."""
    with pytest.raises(regex.RegexError) as refused:
        regex.compile(pattern)
    return str(refused.value)


@pytest.mark.parametrize(
    ("quantifier", "low", "high", "mode"),
    [
        ("*", 0, None, "GREEDY"), ("+?", 1, None, "LAZY"), ("?+", 0, 1, "POSSESSIVE"),
        ("{3}", 3, 3, "GREEDY"), ("{3,}", 3, None, "GREEDY"), ("{3,4}?", 3, 4, "LAZY"),
    ],
)  # fmt: skip
def test_a_quantifier_has_bounds_and_a_mode(
    quantifier: str, low: int, high: int | None, mode: str
) -> None:
    """It repeats the last byte alone."""
    tree = regex_syntax.parse(f"ab{quantifier}".encode()).tree
    assert isinstance(tree, regex_tree.Sequence)
    repeat = tree.items[1]
    assert isinstance(repeat, regex_tree.Repeat)
    assert (low, high, regex_tree.Mode[mode]) == (repeat.low, repeat.high, repeat.mode)


@pytest.mark.parametrize("text", ["a{,3}", "a{ 1,3}", "a{x}", "a{", "{3"])
def test_braces_that_count_nothing_are_text(text: str) -> None:
    """As PCRE2 before 10.43 reads them, which is Debian's."""
    escaped = text.replace("{", "\\{")
    assert regex_syntax.parse(escaped.encode()) == regex_syntax.parse(text.encode())


def test_settings_before_a_pattern_change_nothing() -> None:
    """Of those that are known."""
    assert regex_syntax.parse(b"a") == regex_syntax.parse(b"(*NO_JIT)(*LF)a")


@pytest.mark.parametrize(
    ("pattern", "reason", "rest"),
    [
        ("(", "missing closing parenthesis", ""),
        ("a)b", "unmatched closing parenthesis", ")b"),
        ("[a", "missing terminating ] for character class", ""),
        ("[z-a]", "range out of order in character class", "a]"),
        (r"[a-\d]", "invalid range in character class", "]"),
        ("[[:foo:]]", "unknown POSIX class name", "foo:]]"),
        ("[:alpha:]", "POSIX named classes are supported only within a class", "[:alpha:]"),
        ("[[.a.]]", "POSIX collating elements are not supported", "[.a.]]"),
        ("*a", "quantifier does not follow a repeatable item", "*a"),
        ("a**", "quantifier does not follow a repeatable item", "*"),
        ("^*", "quantifier does not follow a repeatable item", "*"),
        ("a{3,2}", "numbers out of order in {} quantifier", "}"),
        ("a{65536}", "number too big in {} quantifier", "}"),
        ("\\", "\\ at end of pattern", ""),
        (r"\j", "unrecognized character follows \\", "j"),
        (r"a\u", "PCRE2 does not support \\F, \\L, \\l, \\N{name}, \\U, or \\u", ""),
        (r"\x{100}", "character code point value in \\x{} or \\o{} is too large", "}"),
        (r"(a)\2", "reference to non-existent subpattern", "2"),
        (r"(?<n>a)\k<m>", "reference to non-existent subpattern", "m>"),
        ("(?<1a>b)", "subpattern name must start with a non-digit", "1a>b)"),
        ("(?<n>a)(?<n>b)",
         "two named subpatterns have the same name (PCRE2_DUPNAMES not set)", "b)"),
        ("(?<=a*)b", "lookbehind assertion is not fixed length", "(?<=a*)b"),
        ("(?z)", "unrecognized character after (? or (?-", "z)"),
        ("(?#a", "missing ) after (?# comment", ""),
        (r"\p{foo}b", "unknown property after \\P or \\p", "b"),
        (r"\p{sc:Lu}", "unknown property after \\P or \\p", ""),
        (r"\p{Lu", "malformed \\P or \\p sequence", ""),
        (r"\p1", "malformed \\P or \\p sequence", ""),
        (r"\N{U+41}", "\\N{U+dddd} is supported only in Unicode (UTF) mode", "{U+41}"),
        ("a{6553600}", "number too big in {} quantifier", "00}"),
        ("(?:(?:ab){200}){200}", "regular expression is too large", ""),
        ("(?:a{65535}){65535}", "regular expression is too large", ""),
        ("(?-i-s)a", "invalid hyphen in option setting", "-s)a"),
        ("(?|(?<n>a)|(?<m>b))",
         "different names for subpatterns of the same number are not allowed", "b))"),
        ("(*foo:a)", "(*alpha_assertion) not recognized", ":a)"),
        ("(*UTF8)a", "(*VERB) not recognized or malformed", ")a"),
        ("(?C256)", "number after (?C is greater than 255", ")"),
        ("(a)(?(1)a|b|c)", "conditional subpattern contains more than two branches",
         "(?(1)a|b|c)"),
        ("(?(?a)b)", "assertion expected after (?( or (?(?C)", "(?a)b)"),
        (r"(?=\Ka)", NO_K, ""),
    ],
)  # fmt: skip
def test_an_error_is_told_as_nginx_tells_it(pattern: str, reason: str, rest: str) -> None:
    """Reason, pattern and the place in it, in nginx's words and PCRE's."""
    where = f' in "{pattern}" at "{rest}"' if rest else f' in "{pattern}"'
    assert f"pcre2_compile() failed: {reason}{where}" == refusal(pattern)


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("(?R)", "recursion"),
        ("(a(?1))", "recursion"),
        ("(?<n>a(?&n)?)", "recursion"),
        ("(?1)(a(?2))(b(?1))", "recursion"),
        ("(?:a(?(R)b|c))", "conditional (?(R)"),
        ("(?(VERSION>=10)a)", "conditional (?(VERSION"),
        ("(?*a)b", "(?*"),
        ("(*naplb:a)b", "(*naplb:"),
        ("(*UTF)a", "(*UTF)"),
        ("a(*SKIP)b", "(*SKIP)"),
        ("a(*ACCEPT)b", "(*ACCEPT)"),
        (r"(?:\1a|(b))+", "a reference to a group that is not closed"),
        (r"(a|b\1)+", "a reference to a group that is not closed"),
        (r"((a)\2)(?1)", "a reference in a group that is called"),
        (r"(?<=(a)\1)", "a reference in a lookbehind"),
        (r"(a)\K\1", r"a back reference in a pattern with \K or (?|"),
    ],
)
def test_what_only_pcre_can_do_is_refused_by_name(pattern: str, what: str) -> None:
    """Nothing is taken with another meaning: it is named and refused."""
    assert refusal(pattern).startswith(f"pcre2_compile() failed: {what} is not supported in ")
