"""The reader against nginx itself: one text, the same first message at the same line."""

import random
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ngxstream.conf import reader
from ngxstream.core import errors
from tests.support import texts
from tests.support.nginx_says import NginxSays

# Enough of a judge to go on to the next syntax error: types{} takes any words, and an unknown
# directive behind it says that nothing was found in it.
KNOWN = {"main": ("events", "http"), "events": (), "http": ("types",)}


def judge(statements: list[reader.Statement], context: str = "main") -> None:
    """Raise what nginx would say first. Raises: ConfError"""
    for node in statements:
        if node.error is not None:
            raise node.error
        if context == "types":
            if node.block is not None:
                raise errors.ConfError('unexpected "{"', node.file, node.line)
            continue
        name = node.directive.partition("\0")[0]
        if name not in KNOWN[context]:
            raise errors.ConfError(f'unknown directive "{name}"', node.file, node.line)
        judge(node.block or [], name)


def ours(path: Path) -> str:
    """Return our first message, "" for none."""
    try:
        statements = reader.read(str(path), conf_prefix=f"{path.parent}/").main.statements
        judge(statements)
    except errors.ConfError as error:
        return str(error)
    if any(node.directive == "events" for node in statements):
        return ""
    return 'no "events" section in configuration'


PIECES = [
    b"a",
    b"b c",
    b" ",
    b"\n",
    b";",
    b";\n",
    b"{",
    b"}",
    b'"',
    b"'",
    b"\\",
    b"$",
    b"${",
    b"#",
    b"\t",
    b"\r",
    b"\r\n",
    b"(",
    b")",
    b"\x0b",
    b"\x0c",
    b"\xa0",
    b"\xc2\xa0",
    b"\xff",
    b"\xc3\xa9",
    b"\x85",
    b"\xe2\x80\xa8",
    b"\x1c",
    b"\x00",
    b"x y;\n",
    b'"q r"',
    b"'s t' ",
    b"\\n",
    b"\\t",
    b'\\"',
    b"\\\\",
    b"\xef\xbb\xbf",
    b"k v;\n" * 70,
    b"z" * 4090,
    b"w" * 5,
    b"x_by_lua_block",
]
NAMES = re.compile(b"include|http|geo|listen|_lua_block")
SOUP = st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join)
FRAMES = st.sampled_from(
    [
        (b"", b""),
        (b"events{}\nhttp{types{\n", b"\n}zz_end;\n}"),
        (b"events{}\nhttp{types{", b""),
    ]
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(soup=SOUP, frame=FRAMES)
def test_any_text_gets_nginx_s_message(
    soup: bytes, frame: tuple[bytes, bytes], tmp_path: Path
) -> None:
    """Whatever the text, message and line are nginx's."""
    # inside http such a block is read as an nginx with Lua reads it, which this one is not
    assume(not frame[0] or b"_by_lua_block" not in soup)
    nginx = NginxSays(tmp_path)
    said = nginx.of(frame[0] + soup + frame[1])
    assert said == ours(nginx.path)


@pytest.mark.parametrize("frame", [(b"", b""), (b"events{}\nhttp{types{\n", b"\n}zz_end;\n}")])
def test_generated_texts_get_nginx_s_message(frame: tuple[bytes, bytes], tmp_path: Path) -> None:
    """Texts of the grammar and against it, the same in each run, get nginx's message and line."""
    nginx = NginxSays(tmp_path)
    for text in texts.Texts(3).some(700, lua=False):
        # names of directives mean something beyond the grammar
        said = nginx.of(frame[0] + NAMES.sub(b"zz", text) + frame[1])
        assert said == ours(nginx.path), text


def test_generated_words_get_nginx_s_spelling(tmp_path: Path) -> None:
    """Words of the grammar, the same in each run, are read as nginx reads them."""
    nginx = NginxSays(tmp_path)
    made = texts.Texts(4)
    compared = 0
    for _ in range(400):
        word = made.word()
        raw = b"events { use " + word + b"\n; }"
        (nginx.path).write_bytes(raw)
        block = reader.read(str(nginx.path), conf_prefix="/").main.statements[0].block or []
        if [("use", 1, None)] != [(node.directive, len(node.args), node.block) for node in block]:
            continue
        compared += 1
        expected = f'invalid event type "{block[0].args[0]}" in {nginx.path}:{block[0].line}'
        assert nginx.of(raw) == expected, word
    assert compared > 220


def test_long_texts_get_nginx_s_message(tmp_path: Path) -> None:
    """The bounds of the buffer are nginx's, byte for byte, whatever stands around a parameter."""
    nginx = NginxSays(tmp_path)
    for size in range(4090, 4099):
        for form in (
            "%s;",
            "%s ;",
            "'%s';",
            "'%s' ;",
            '"%s"\n;',
            "#%s\n",
            "'%s') ;",
            "%s",
            "'%s",
            "'%s'",
            "\\;%s {",
            "${%s} ;",
            "'\\\\%s' x;",
        ):
            text = "events{}\nhttp{types{\n\n" + form % ("x" * size) + "zz_y;\n}zz_end;}"
            said = nginx.of(text.encode())
            assert said == ours(nginx.path), (form, size)


@pytest.mark.parametrize(
    "word",
    [
        r'"a\"b"',
        r"'a\'b'",
        r"a\"b",
        r"\"ab",
        r"a\\b",
        r"a\tb",
        r'"a\r\n"',
        r"a\.b",
        r"a\ b",
        r"a\;b",
        r"a\{b",
        "a\\\nb",
        r'"a\$b"',
        "a}b",
        'a"b"c',
        "a'b",
        "a#b",
        "${a}b",
        "x${a}",
        "$",
        "$${{",
        "a\x0bb",
        "a\xa0b",
        "é",
        '"{"',
        '";"',
        '"}"',
        '"#x"',
        '"a\rb"',
        r"~^\d+$",
        '""',
        "\\",
        r"'\x'",
        "x_by_lua_block",
    ],
)
def test_words_get_nginx_s_spelling(word: str, tmp_path: Path) -> None:
    """A word reads as nginx reads it, as directive and as argument."""
    nginx = NginxSays(tmp_path)
    for text in (f"{word} x;", f"events {{ use {word}\n; }}"):
        said = nginx.of(text.encode())
        file = reader.read(str(nginx.path), conf_prefix="/").main
        node = file.statements[0]
        if node.block:
            node = node.block[0]
        if node.directive == "use" and node.error is None:
            expected = f'invalid event type "{node.args[0]}" in {nginx.path}:{node.line}'
        else:
            expected = ours(nginx.path)
        assert said == expected


@pytest.mark.parametrize(
    "text",
    [
        "daemon off",
        "events {}",
        "}",
        ";",
        'env "b"c;',
        "env x",
        "zz;",
        "include no.conf;",
        "include *.none; zz;",
        "zz x\n\ny;",
        "env " + "x" * 5000 + "; zz;",
    ],
)
def test_the_command_line_gets_nginx_s_message(text: str, tmp_path: Path) -> None:
    """-g is read as nginx reads it."""
    nginx = NginxSays(tmp_path)
    said = nginx.of(b"events {}", globals_=text)
    source = reader.read_text(f"pid {tmp_path}/pid; {text}", conf_prefix=f"{tmp_path}/")
    for node in source.main.statements:
        if node.error is not None:
            assert said == str(node.error)
            return
        if node.directive == "zz":
            break
    assert said == 'unknown directive "zz" in command line'


def test_includes_are_found_as_nginx_finds_them(tmp_path: Path) -> None:
    """A pattern opens the same files in the same order as nginx does."""
    nginx = NginxSays(tmp_path)
    random_ = random.Random(7)
    (tmp_path / "d").mkdir()
    names = [
        "a",
        "b",
        "B",
        "ab",
        "a-b",
        ".h",
        "a]",
        "[x]",
        "é",
        "a*",
        "1",
        "10",
        "-",
        "!",
        "a.conf",
        "b.conf",
        "^",
    ]
    for name in names:
        (tmp_path / "d" / name).write_text("zz_" + name.encode().hex() + ";")
    letters = [
        "*",
        "?",
        "[",
        "]",
        "a",
        "b",
        "x",
        "-",
        "!",
        "^",
        ".",
        ".conf",
        "\\\\",
        "é",
        "[a-c]",
        "[!a]",
        "[[:digit:]]",
        "[[:upper:]]",
        "1",
    ]
    patterns = ["".join(random_.choices(letters, k=random_.randint(1, 4))) for _ in range(150)]
    for pattern in [*patterns, "*", ".*", "[!a]*", "[]a]*", "*]", "[[]x]", "\\\\[x]"]:
        said = nginx.of(f"include 'd/{pattern}'; zz_end;".encode())
        source = reader.read(str(nginx.path), conf_prefix=f"{tmp_path}/")
        first = source.main.statements[:2]
        if first[1].error is None and first[0].includes:
            found = first[0].includes[0]
            expected = f'unknown directive "{found.statements[0].directive}" in {found.path}:1'
        elif first[1].error is not None:
            expected = str(first[1].error)
        else:
            expected = f'unknown directive "zz_end" in {nginx.path}:1'
        assert said == expected, pattern
