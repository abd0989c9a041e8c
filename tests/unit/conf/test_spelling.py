"""What crossplane's lexer is given to read."""

import time

import pytest

from ngxstream.conf import spelling, tokens


def spelled(text: bytes) -> tuple[str, list[object]]:
    """Spell a text: the text for crossplane without its end, and what its references stand for."""
    made = spelling.spell(text)
    end = f" {spelling.MARK}{len(made.items) - 1}\n"
    assert made.text.decode().endswith(end)
    return made.text.decode().removesuffix(end), list(made.items[:-1])


@pytest.mark.parametrize(
    "text", [" a b;", ' a "b {;}#c";', ' "a" (b |c $d;', " a {\n b;\n} c {}", ' a "";']
)
def test_plain_words_are_written_as_they_are(text: str) -> None:
    """What both read alike goes to crossplane as it is, with its lines."""
    assert (text, []) == spelled(text.encode())


@pytest.mark.parametrize(
    ("word", "text", "quoted"),
    [
        (b"a}b", "a}b", False),
        (b"${a}b", "${a}b", False),
        (b"a\\;b", "a\\;b", False),
        (b"a\\tb", "a\tb", False),
        (b"a'b", "a'b", False),
        (b"'a\"b'", 'a"b', True),
        (b"'a\\'b'", "a'b", True),
        (b'"\xc3\xa9"', "é", True),
        (b"\xff", "\udcff", False),
        (b"a\x0bb", "a\x0bb", False),
        (b"\x010", "\x010", False),
        (b"content_by_lua_block", "content_by_lua_block", False),
    ],
)
def test_a_reference_stands_for_any_other_word(word: bytes, text: str, quoted: bool) -> None:
    """What crossplane would read differently is kept beside the text, as nginx reads it."""
    found = spelled(b"x " + word + b" y;")
    assert (" x \x010 y;", [spelling.Word(text, quoted)]) == found


def test_lines_stay_where_they_are() -> None:
    """Each word and what ends its statement stands in its own line, whatever is left out."""
    text = b"a # b\n\n'c\n\nd' e\\\nf\r\n{\n}\n#"
    assert " a\n\n \x010\n\n \x011\n\n {\n}\n" == spelled(text)[0]
    assert spelling.End(None, 9) == spelling.spell(text).items[-1]


def test_a_fault_ends_the_text() -> None:
    """What stands before it is there, and nothing behind it."""
    made = spelling.spell(b"a;\nb 'c'd;\ne;")
    assert " a; \x010\n" == made.text.decode()
    assert [spelling.End('unexpected "d"', 2)] == made.items


def test_a_long_list_is_one_reference() -> None:
    """Lines of a list are not given to crossplane, but their newlines are."""
    count = tokens.MIN_LINES
    text, items = spelled(b"a {\n" + b"b c;\n" * count + b"d;}")
    assert " a { \x010;" + "\n" * (1 + count) + " d;}" == text
    assert [spelling.List(1, [[], *[["b", "c"]] * count])] == items


HOSTILE = [
    *(b"a ", b"a;", b"a\\;", b'"a" ', b"a {", b"$", b"${", b"\\", b"#\n", b"a;\ninclude b;\n"),
    *(b"x_by_lua_block {", b"x_by_lua_block {[[", b"a 'b';\n", b"[", b"[=", b"\xff", b"a;\n\\a;\n"),
    b"a b;\n" * 63 + b"'c';\n",
]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_no_text_takes_long(piece: bytes) -> None:
    """A file of whatever repeats is spelled in a moment, where a square would be an hour."""
    started = time.process_time()
    text = piece * (200_000 // len(piece))
    spelling.spell(b"x_by_lua_block {" + text)
    spelling.spell(text)
    assert time.process_time() - started < 30
