"""The setters that modules share: what each makes of its word, and what it says of a wrong one."""

from typing import Any

import pytest

from ngxstream.conf import directive as d
from ngxstream.conf import files, reader
from ngxstream.conf.builder import Builder
from ngxstream.conf.module import Module
from ngxstream.core import errors

SETTERS = {
    "flag": d.flag("it"), "msec": d.msec("it"), "sec": d.sec("it"), "size": d.size("it"),
    "offset": d.offset("it"), "num": d.num("it"), "string": d.string("it"),
    "strings": d.strings("it"), "pairs": d.pairs("it"), "enum": d.enum("it", {"a": 1, "b": 2}),
    "bitmask": d.bitmask("it", {"a": 1, "B": 2}), "refused": d.refuse("it cannot be"),
    "note": d.note,
}  # fmt: skip
MODULE = Module("m", tuple(
    d.Directive(name, d.MAIN, d.ONE_MORE, setter, "") for name, setter in SETTERS.items()
))


def given(text: str, warnings: list[str] | None = None) -> dict[str, Any]:
    """Return what a text says of the module."""
    said = [] if warnings is None else warnings
    builder = Builder([MODULE], prefix="/", conf_prefix="/", warn=lambda _, text: said.append(text))
    tree = reader.read("/n", conf_prefix="/", files=files.Memory({"/n": text.encode()}))
    return builder.build(tree.main.statements).given_of(MODULE)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("flag on;", True), ("flag OFF;", False), ("msec 2s;", 2000), ("sec 1m;", 60),
        ("size 2k;", 2048), ("offset 1g;", 1 << 30), ("num 12;", 12), ("string a;", "a"),
        ("strings a; strings b;", ["a", "b"]), ("pairs a b; pairs c d;", [("a", "b"), ("c", "d")]),
        ("enum B;", 2), ("bitmask a b;", 3), ("bitmask a; bitmask B;", 3),
    ],
)  # fmt: skip
def test_a_word_becomes_a_value(text: str, value: object) -> None:
    """In the unit that the field is of."""
    assert {"it": value} == given(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flag yes;", 'invalid value "yes" in "flag" directive, it must be "on" or "off"'),
        ("msec x;", '"msec" directive invalid value'),
        ("num x;", '"num" directive invalid number'),
        ("enum c;", 'invalid value "c"'),
        ("bitmask a c;", 'invalid value "c"'),
        ("refused x;", '"refused" directive is not supported: it cannot be'),
        *((f"{name} 1; {name} x;", f'"{name}" directive is duplicate')
          for name in ("msec", "sec", "size", "offset", "num", "string")),
        ("flag on; flag x;", '"flag" directive is duplicate'),
        ("enum a; enum x;", '"enum" directive is duplicate'),
    ],
)  # fmt: skip
def test_a_wrong_word_is_refused_in_nginx_s_words(text: str, message: str) -> None:
    """A second value is a duplicate before it is looked at."""
    with pytest.raises(errors.ConfError) as caught:
        given(text)
    assert f"{message} in /n:1" == str(caught.value)


def test_a_bit_that_is_set_twice_is_warned_of() -> None:
    """And set all the same."""
    warnings: list[str] = []
    assert {"it": 1} == given("bitmask a a;", warnings)
    assert ['duplicate value "a" in /n:1'] == warnings


def test_a_note_keeps_words_and_place() -> None:
    """For those who judge a block when it is whole."""
    noted = given("note a\n'b c';\nnote d;")[d.SAID]
    assert [("note", ("a", "b c"), "/n", 2), ("note", ("d",), "/n", 3)] == [
        tuple(said) for said in noted
    ]


@pytest.mark.parametrize(
    ("takes", "counts"),
    [(d.NOARGS, [0]), (d.TAKE12, [1, 2]), (d.TWO_MORE, [2, 3, 4]), (d.TAKE012, [0, 1, 2])],
)
def test_a_directive_takes_so_many_words(takes: d.Takes, counts: list[int]) -> None:
    """No fewer and no more."""
    assert counts == [count for count in range(5) if takes.accepts(count)]
