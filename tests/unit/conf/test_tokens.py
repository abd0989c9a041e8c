"""nginx's grammar: what ends a word and a statement, and what is no statement."""

import pytest

from ngxstream.conf import tokens


def statements(text: bytes, *, parameter: bool = False) -> list[list[object]]:
    """Read a text: words, what ended them and the line, for each statement; the fault last."""
    reading = tokens.Tokens(text, parameter=parameter)
    found: list[list[object]] = []
    try:
        while end := reading.read():
            found.append([*(word.raw for word in reading.words), end, reading.line])
    except tokens.FaultError as fault:
        found.append([fault.message, fault.line])
    return found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"a b;", [b"a", b"b"]),
        (b"a\tb\r\nc ;", [b"a", b"b", b"c"]),
        (b"a\x0bb\x0cc\xa0\x85\x1c;", [b"a\x0bb\x0cc\xa0\x85\x1c"]),
        (b"a}b}#c'd\"e;", [b"a}b}#c'd\"e"]),
        (b"a\\ b\\;\\{\\\\ c;", [b"a\\ b\\;\\{\\\\", b"c"]),
        (b"${a}b x${c};", [b"${a}b", b"x${c}"]),
        (b"$${{ ${;", [b"$${{", b"${"]),
        (b"'a;{}#\n' \"b'\\\"\" '';", [b"a;{}#\n", b"b'\\\"", b""]),
        (b"'${' b;", [b"${", b"b"]),
        (b"if (a 'b')c;", [b"if", b"(a", b"b", b")c"]),
        (b"a #b;\n c;", [b"a", b"c"]),
        (b"# a;\n#\nb;", [b"b"]),
        (b"\x01 \x00;", [b"\x01", b"\x00"]),
    ],
)
def test_a_word_ends_where_nginx_ends_it(text: bytes, words: list[bytes]) -> None:
    """Blanks, quotes, backslashes and braces behind $ mean what they mean to nginx."""
    assert [[*words, b";"]] == [found[:-1] for found in statements(text)]


def test_a_statement_ends_with_a_semicolon_or_a_brace() -> None:
    """Statements come one by one, with the line of what ended them; } is one by itself."""
    text = b"a {\nb 'c\n' {d;}}\n}\n"
    assert [
        [b"a", b"{", 1],
        [b"b", b"c\n", b"{", 3],
        [b"d", b";", 3],
        [b"}", 3],
        [b"}", 3],
        [b"}", 4],
    ] == statements(text)


def test_a_word_knows_its_line_and_its_quotes() -> None:
    """A word's line is that of its first byte."""
    reading = tokens.Tokens(b"a\n'b\n\n' \\\nc\n\"d\"\n;")
    assert b";" == reading.read()
    assert [
        (b"a", 1, False),
        (b"b\n\n", 2, True),
        (b"\\\nc", 4, False),
        (b"d", 6, True),
    ] == reading.words
    assert 7 == reading.line


UNFINISHED = 'unexpected end of file, expecting ";" or "}"'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"\n;", ['unexpected ";"', 2]),
        (b"\n{", ['unexpected "{"', 2]),
        (b"a\n}", ['unexpected "}"', 2]),
        (b"'a'b", ['unexpected "b"', 1]),
        (b"'a'}", ['unexpected "}"', 1]),
        (b"'a'\"", ['unexpected """', 1]),
        (b"'a'\x0b", ['unexpected "\x0b"', 1]),
        (b"a\n", [UNFINISHED, 2]),
        (b"a\n'b\n", [UNFINISHED, 3]),
        (b"'b'", [UNFINISHED, 1]),
        (b"\\", [UNFINISHED, 1]),
        (b"'\\", [UNFINISHED, 1]),
        (b"${", [UNFINISHED, 1]),
        (b"a # b", [UNFINISHED, 1]),
    ],
)
def test_what_is_no_statement_is_told_in_nginx_s_words(text: bytes, fault: list[object]) -> None:
    """Reading stops with nginx's message and the line it names."""
    assert [fault] == statements(text)


def test_a_parameter_is_bounded_by_nothing_and_ends_in_words_of_its_own() -> None:
    """What -g says is in memory whole."""
    long = b"x" * 5000
    assert [[b"a", long, b";", 1]] == statements(b"a " + long + b" ;", parameter=True)[:1]
    expected = 'unexpected end of parameter, expecting ";"'
    assert [[expected, 1]] == statements(b"a", parameter=True)


def taken(text: bytes) -> tuple[int, int, bytes]:
    """Take lines from a text's beginning: how many, the line reached, what is left."""
    reading = tokens.Tokens(text)
    lines = reading.take_lines()
    return len(lines), reading.line, reading.text[reading.pos:]


LINES = b"a $b=c\td ;\r\n" * tokens.MIN_LINES


def test_enough_plain_lines_are_taken_at_once() -> None:
    """As many plain lines as follow each other are taken, if they are enough."""
    reading = tokens.Tokens(LINES + b"\ne;\n'f';")
    assert [["a", "$b=c", "d"]] * tokens.MIN_LINES + [[], ["e"]] == reading.take_lines()
    assert b"'f';" == reading.text[reading.pos:]
    assert tokens.MIN_LINES + 3 == reading.line
    assert (0, 1, LINES[12:]) == taken(LINES[12:])


@pytest.mark.parametrize(
    "odd",
    [
        *(b"a;;", b"a; b;", b";", b" ; ", b"a", b"a #b;", b"include b;", b"'a';", b"a {", b"}"),
        *(b"\\a;", b"a\x0bb;", b"\xc3\xa9;", b"${a};", b"a " + b"b" * 4094 + b";"),
    ],
)  # fmt: skip
def test_an_odd_line_is_not_taken_with_plain_ones(odd: bytes) -> None:
    """The lines before it are taken, and it is left to be read by the word."""
    rest = odd + b"\n" + LINES
    assert (tokens.MIN_LINES, tokens.MIN_LINES + 1, rest) == taken(LINES + rest)


def test_lines_are_taken_again_behind_an_odd_one() -> None:
    """An odd line among many costs no more than itself."""
    reading = tokens.Tokens(LINES + b"a b; c;\n" + LINES)
    assert tokens.MIN_LINES == len(reading.take_lines())
    assert [] == reading.take_lines()
    assert [b";", b";"] == [reading.read(), reading.read()]
    assert [[]] + [["a", "$b=c", "d"]] * tokens.MIN_LINES == reading.take_lines()
    assert 2 * tokens.MIN_LINES + 2 == reading.line
    assert b"" == reading.read()
