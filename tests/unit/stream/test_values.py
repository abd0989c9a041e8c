"""Complex values: cutting, compiling, captures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core import errors
from ngxstream.stream import values, variables
from ngxstream.stream.variables import PURE, Variable
from tests.support.sessions import FakeSession


def value_of(text: str, s: FakeSession | None = None) -> bytes:
    """Compile and evaluate a text in which $x is X and $none is not found."""
    table = variables.VariableTable(
        [Variable("x", lambda s: b"X", PURE), Variable("none", lambda s: None)]
    )
    value = values.compile_value(text, table)
    table.link()
    return value.get(s or FakeSession())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", b""),
        ("plain", b"plain"),
        ("$x", b"X"),
        ("${x}", b"X"),
        ("a${x}b", b"aXb"),
        ("$x.$x", b"X.X"),
        ("$x}", b"X}"),
        ("{$x}", b"{X}"),
        ("<$none>", b"<>"),
        ("$none", b""),
        ("é$x", "éX".encode()),
        ("\udcff$x", b"\xffX"),
    ],
)
def test_a_value_is_evaluated(text: str, expected: bytes) -> None:
    """Variables are replaced; not found is empty; other bytes stay."""
    assert expected == value_of(text)


def test_captures_are_digits_after_a_dollar() -> None:
    """`$1`..`$9` are captures of the latest match, `$12` is `$1` and a 2; `${1}` is a name."""
    s = FakeSession(captures=(b"whole", b"one", None, b"three"))
    assert b"one-one2--three-" == value_of("$1-$12-$2-$3-$9", s)
    with pytest.raises(errors.UnplacedError, match=r'^unknown "1" variable$'):
        value_of("${1}")


def test_captures_before_any_match_are_empty() -> None:
    """A session without a match has no captures."""
    assert b"[]" == value_of("[$1]")


def test_a_text_without_variables_is_a_constant() -> None:
    """The constant is known at once, without linking."""
    value = values.compile_value("text", variables.VariableTable([]))
    assert b"text" == value.constant == value.get(FakeSession())


def test_an_unlinked_value_says_so() -> None:
    """Evaluating before the block is complete is a fault of ours."""
    value = values.compile_value("$x", variables.VariableTable([]))
    with pytest.raises(errors.InternalError):
        value.get(FakeSession())


@given(st.text(alphabet="ab${}_19. é", max_size=20))
def test_cutting_loses_nothing(text: str) -> None:
    """The pieces of any text put together again are the text, or it is refused with a message."""
    try:
        pieces = values.split(text)
    except errors.ConfError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert "$" in text
        assert said.startswith(("invalid variable name", "the closing bracket in"))
        return
    braced = {"": "{}", "$": "${}", "1": "${}"}
    plain = "".join(braced[mark].format(piece) for mark, piece in pieces)
    assert text.replace("${", "$").replace("}", "") == plain.replace("}", "")
