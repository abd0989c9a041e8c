"""Blocks whose statements are no directives, as that of map: each goes to the block's owner."""

import pytest

from ngxstream.conf import files, items, reader
from ngxstream.conf.builder import Builder
from ngxstream.core import errors


def walked(text: str, *, includes: bool = True, **others: str) -> tuple[list[list[str]], object]:
    """Walk the block `b { text }`; return each statement's words, and the place afterwards."""
    raw = {f"/{name}": body.encode() for name, body in others.items()}
    contents = files.Memory({"/n": f"b {{ {text}\n}}".encode(), **raw})
    tree = reader.read("/n", conf_prefix="/", files=contents)
    builder = Builder([], prefix="/", conf_prefix="/", warn=lambda *_: None)
    seen: list[list[str]] = []
    items.walk(builder, tree.main.statements[0], lambda st: seen.append([st.directive, *st.args]),
               includes=includes)
    return seen, builder.place


def test_each_statement_is_handed_on_in_order() -> None:
    """What is included stands in its place; messages after the block name its closing line."""
    seen, place = walked("a 1; include x; c;", x="b 2;\n'd e' 3;")
    assert [["a", "1"], ["b", "2"], ["d e", "3"], ["c"]] == seen
    assert ("/n", 2) == place


def test_include_may_be_a_word_like_any_other() -> None:
    """Where the owner says so."""
    assert [["include", "x"]] == walked("include x;", includes=False, x="b;")[0]


def test_a_block_inside_is_refused() -> None:
    """As nginx does."""
    with pytest.raises(errors.ConfError, match=r'unexpected "\{"'):
        walked("a { }")


def test_a_fault_is_raised_where_it_is_reached() -> None:
    """What stands before it has been handed on."""
    with pytest.raises(errors.ConfError) as caught:
        walked("include x;", x="a;\n}")
    assert 'unexpected "}" in /x:2' == str(caught.value)
