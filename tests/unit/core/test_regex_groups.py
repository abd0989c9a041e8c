"""What stands in parentheses: options, lookarounds, verbs, callouts and conditions."""

import pytest

from ngxstream.core import regex_syntax, regex_tree
from ngxstream.core.regex_scan import RegexError


@pytest.mark.parametrize(
    ("pattern", "same"),
    [
        ("(?i)ab", "[aA][bB]"), ("(?i:a)b", "(?:[aA])b"), ("a(?i)b(?-i)c", "a[bB]c"),
        ("(?i)a(?^)b", "[aA]b"), ("(?s).", r"[\x00-\xff]"), ("(?U)a*", "a*?"), ("(?U)a*?", "a*"),
        ("(?n)(a)(?<x>b)", "(?:a)(?<x>b)"), ("(?im-i)a", "a"),
        ("(*pla:a)b", "(?=a)b"), ("(*negative_lookahead:a)b", "(?!a)b"), ("(*atomic:a)", "(?>a)"),
        ("(*sr:a)", "(?:a)"), ("(*asr:a)", "(?:(?>a))"), ("(*plb:a)b", "(?<=a)b"),
        ("a(?C)b", "ab"), ("a(?C255)b", "ab"), ("a(?C'x''y')b", "ab"), ("a(?C{x}}y})b", "ab"),
        ("(*MARK:x)a", "a"), ("(*:x)a", "a"), ("a(*F)", "a(*FAIL)"),
    ],
)  # fmt: skip
def test_two_spellings_are_read_alike(pattern: str, same: str) -> None:
    """Options are gone from the tree, and long names are the short ones."""
    one, other = (regex_syntax.parse(text.encode()).tree for text in (pattern, same))
    assert shape(other) == shape(one)


def shape(node: regex_tree.Node) -> object:
    """Return a tree without the groups that only hold one thing together."""
    while isinstance(node, regex_tree.Sequence) and len(node.items) == 1:
        node = node.items[0]
    if isinstance(node, regex_tree.Chars):
        return node.mask
    own = (getattr(node, name, None) for name in ("ahead", "negative", "low", "high", "mode"))
    return type(node).__name__, *own, *map(shape, regex_tree.parts(node))


def test_branches_may_number_their_groups_alike() -> None:
    """(?|…) begins each branch at the same number; what follows goes on behind the most."""
    assert 3 == regex_syntax.parse(b"(?|(a)(b)|(c))(d)").groups


def test_a_name_is_given_once_unless_j_allows_more() -> None:
    """Of one name the last group gives the value."""
    assert {"n": 2} == regex_syntax.parse(b"(?J)(?<n>a)|(?<n>b)").names
    with pytest.raises(RegexError, match="two named subpatterns have the same name"):
        regex_syntax.parse(b"(?<n>a)|(?<n>b)")


def test_a_condition_asks_a_group_or_an_assertion() -> None:
    """It has one branch or two; DEFINE has one, which is never matched where it stands."""
    asked = regex_syntax.parse(b"(?(?=a)ab|c)").tree
    assert shape(regex_syntax.parse(b"(?:(?=a)(?:ab)|(?!a)c)").tree) == shape(asked)
    numbered = regex_syntax.parse(b"(a)?(?(1)b)").tree
    found = [node for node in regex_tree.walk(numbered) if isinstance(node, regex_tree.Condition)]
    assert [((1,), regex_tree.EMPTY)] == [(node.groups, node.no) for node in found]


@pytest.mark.parametrize(
    ("pattern", "reason", "at"),
    [
        ("(?", "missing closing parenthesis", 2),
        ("(?q)", "unrecognized character after (? or (?-", 2),
        ("(?^-i)", "invalid hyphen in option setting", 3),
        ("(?Px)", "unrecognized character after (?P", 3),
        ("(*foo:a)", "(*alpha_assertion) not recognized", 5),
        ("(*FOO)", "(*VERB) not recognized or malformed", 5),
        ("(*MARK)", "(*MARK) must have an argument", 6),
        ("(?Cx)", "unrecognized string delimiter follows (?C", 3),
        ("(?C1", "closing parenthesis for (?C expected", 4),
        ("(?C'x", "missing terminating delimiter for callout with string argument", 3),
        ("(a)(?(1b)", "missing closing parenthesis for condition", 7),
        ("(?(DEFINE)a|b)", "DEFINE subpattern contains more than one branch", 3),
        ("(?(0)a)", "reference to non-existent subpattern", 4),
    ],
)
def test_an_error_is_pcre_s_and_at_its_place(pattern: str, reason: str, at: int) -> None:
    """The offset is where PCRE stopped."""
    with pytest.raises(RegexError) as refused:
        regex_syntax.parse(pattern.encode())
    assert (reason, at) == (refused.value.reason, refused.value.at)
