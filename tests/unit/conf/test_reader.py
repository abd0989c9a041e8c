"""The statement tree: words, lines, faults in place, includes."""

from pathlib import Path

import pytest

from ngxstream.conf import files, reader
from tests.support import descriptors

MAIN = "/c/nginx.conf"


def read(text: str | bytes, **others: str | bytes) -> reader.Source:
    """Read a main file and the files named a_b.conf for a_b= beside it, from memory."""
    contents = {MAIN: text, **{f"/c/{name}.conf": body for name, body in others.items()}}
    raw = {
        path: body if isinstance(body, bytes) else body.encode() for path, body in contents.items()
    }
    return reader.read(MAIN, conf_prefix="/c/", files=files.Memory(raw))


def outline(statements: list[reader.Statement]) -> list[object]:
    """Return words and nested blocks of a tree, faults as their message."""
    lines: list[object] = []
    for st in statements:
        if st.error is not None:
            lines.append(str(st.error))
            continue
        lines.append([st.directive, *st.args])
        if st.block is not None:
            lines.append(outline(st.block))
        lines.extend({file.path: outline(file.statements)} for file in st.includes or ())
    return lines


def top(text: str | bytes, **others: str | bytes) -> list[object]:
    """Return the outline of a configuration."""
    return outline(read(text, **others).main.statements)


def test_statements_and_blocks_nest() -> None:
    """Words make statements, braces make blocks."""
    assert [
        ["worker_processes", "2"],
        ["events"],
        [],
        ["stream"],
        [["server"], [["listen", "53", "udp"], ["return", "x y"]]],
    ] == top('worker_processes 2; events {} stream { server { listen 53 udp; return "x y"; } }')


def test_a_statement_knows_its_lines() -> None:
    """A statement is reported at its terminator and knows where it starts and ends."""
    stream = read("# note\nstream\n{\n  log_format\n    a 'b\nc'\n  ;\n}\n").main.statements[0]
    assert (2, 3, 8) == (stream.start_line, stream.line, stream.end_line)
    assert stream.block is not None
    inner = stream.block[0]
    assert (4, 7, 7) == (inner.start_line, inner.line, inner.end_line)
    assert MAIN == inner.file
    assert "b\nc" == inner.args[1]


def test_quoting_is_kept() -> None:
    """A statement knows which of its words were quoted; an empty string is a word."""
    st = read("""log_format "a" b '' "c d";""").main.statements[0]
    assert ["a", "b", "", "c d"] == st.args
    assert [False, True, False, True, True] == st.quoted


@pytest.mark.parametrize(
    ("written", "word"),
    [
        (r'"a\"b"', 'a"b'),
        (r"'a\'b'", "a'b"),
        (r'"a\'b"', "a'b"),
        (r"a\"b", 'a"b'),
        (r"\"ab", '"ab'),
        (r"a\\b", r"a\b"),
        (r"a\tb", "a\tb"),
        (r'"a\r\n"', "a\r\n"),
        (r"a\.b", r"a\.b"),
        (r"a\ b", r"a\ b"),
        (r"a\;b", r"a\;b"),
        (r"a\{b", r"a\{b"),
        ("a\\\nb", "a\\\nb"),
        (r'"a\$b"', r"a\$b"),
        ("a}b", "a}b"),
        ('a"b"c', 'a"b"c'),
        ("a'b", "a'b"),
        ("a#b", "a#b"),
        ("${a}b", "${a}b"),
        ("x${a}", "x${a}"),
        ("$", "$"),
        ("$${{", "$${{"),
        ("a\x0bb", "a\x0bb"),
        ("a\x0cb", "a\x0cb"),
        ("a\xa0b", "a\xa0b"),
        ("a\u2028b", "a\u2028b"),
        ("é", "é"),
        ('"{"', "{"),
        ('";"', ";"),
        ('"}"', "}"),
        ('"#x"', "#x"),
        ('"a\x85b"', "a\x85b"),
        ('"a\rb"', "a\rb"),
        ("~^\\d+$", "~^\\d+$"),
        ("(a|b)", "(a|b)"),
        ("content_by_lua_block", "content_by_lua_block"),
    ],
)
def test_words_are_nginx_s(written: str, word: str) -> None:
    """Escapes, quotes in words, braces after $ and odd white space are read as nginx reads them."""
    assert [["x", word, "z"], ["y"]] == top(f"x {written} z; y;")


def test_a_parenthesis_may_follow_a_quote() -> None:
    """A closing parenthesis right behind a quoted word begins a new word."""
    assert [["if", "(a", "b", ")c"]] == top('if (a "b")c;')


def test_bytes_survive() -> None:
    """Bytes that are no UTF-8 come through every word as surrogates."""
    raw = b"\xff\xfe"
    word = raw.decode("utf-8", "surrogateescape")
    assert [["a", word, word + '"']] == top(b'a \xff\xfe "\xff\xfe\\"";')


def test_a_byte_order_mark_is_part_of_the_first_word() -> None:
    """nginx knows no BOM."""
    assert [["\ufeffevents"], []] == top("\ufeffevents {}")


def test_carriage_returns_are_white_space() -> None:
    """A file with DOS line ends reads the same, and its lines are counted once."""
    source = read('a b;\r\nc\r\n"d\r\n";\r\n')
    assert [["a", "b"], ["c", "d\r\n"]] == outline(source.main.statements)
    assert 4 == source.main.statements[1].line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a;;", [["a"], f'unexpected ";" in {MAIN}:1']),
        (";", [f'unexpected ";" in {MAIN}:1']),
        ("a {\n{ } }", [["a"], [f'unexpected "{{" in {MAIN}:2']]),
        ("a { listen 80 }\nb;", [["a"], [f'unexpected "}}" in {MAIN}:1']]),
        ("a;\n}", [["a"], f'unexpected "}}" in {MAIN}:2']),
        ("b a\n}", [f'unexpected "}}" in {MAIN}:2']),
        ('a "b"c;', [f'unexpected "c" in {MAIN}:1']),
        ('a "b"};', [f'unexpected "}}" in {MAIN}:1']),
        ('a "b"#;', [f'unexpected "#" in {MAIN}:1']),
        ("x; a \"b\n\"'c';", [["x"], f'unexpected "\'" in {MAIN}:2']),
        ("a {\nb;\n\n", [["a"], [["b"], f'unexpected end of file, expecting "}}" in {MAIN}:4']]),
        ("a", [f'unexpected end of file, expecting ";" or "}}" in {MAIN}:1']),
        (
            "a { b; c",
            [["a"], [["b"], f'unexpected end of file, expecting ";" or "}}" in {MAIN}:1']],
        ),
        ('a "b;\n', [f'unexpected end of file, expecting ";" or "}}" in {MAIN}:2']),
        ("a \\", [f'unexpected end of file, expecting ";" or "}}" in {MAIN}:1']),
        ("a b;#", [["a", "b"]]),
        ("# a", []),
        ("", []),
        ("\n \t", []),
        ("a ${x", [f'unexpected end of file, expecting ";" or "}}" in {MAIN}:1']),
        (b'a "b"\xff;', [f'unexpected "\udcff" in {MAIN}:1']),
    ],
)
def test_faults_stand_where_reading_stopped(text: str | bytes, expected: list[object]) -> None:
    """What nginx refuses is the last node of its block; what stands before it is there."""
    assert expected == top(text)


LONG = 'too long parameter "'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a " + "x" * 4095 + ";y;", ""),
        ("a " + "x" * 4095 + " ;y;", f'{LONG}xxxxxxxxxx..." started in {MAIN}:1'),
        ("\na " + "x" * 4096 + ";y;", f'{LONG}xxxxxxxxxx..." started in {MAIN}:2'),
        ("a '" + "x" * 4094 + "';y;", ""),
        ("a '" + "x" * 4094 + "' ;y;", f'{LONG}xxxxxxxxxx..." started in {MAIN}:1'),
        ("a '" + "x" * 4095 + "';y;", f'{LONG}xxxxxxxxxx..." started in {MAIN}:1'),
        (
            "a '" + "x" * 4096 + "';y;",
            f'too long parameter, probably missing terminating "\'" character in {MAIN}:1',
        ),
        (
            'a;\nb "c;\n' + "d e;\n" * 1000,
            f'too long parameter, probably missing terminating """ character in {MAIN}:2',
        ),
        ("#" + "x" * 4094 + "\na;", ""),
        ("#" + "x" * 4095 + "\na;", f'{LONG}#xxxxxxxxx..." started in {MAIN}:1'),
        ("a " + "x" * 4096, f'unexpected end of file, expecting ";" or "}}" in {MAIN}:1'),
    ],
    ids=lambda text: str(len(text)),
)
def test_the_buffer_bounds_a_parameter(text: str, fault: str) -> None:
    """A parameter must leave nginx's 4096-byte buffer; only what is at its end decides."""
    error = reader.fault_in(read(text).main.statements)
    assert fault == ("" if error is None else str(error))


def test_long_lists_read_like_short_ones() -> None:
    """A run of plain lines gives the same statements, lines and flags as each line by itself."""
    lines = [f"  10.0.{n}.0/24\tv{n} ;" if n % 3 else f"word{n};" for n in range(200)]
    text = "\n".join(["geo {", "default x;", *lines, "last y;", "}", "end;"])
    block = read(text).main.statements[0].block
    assert block is not None
    expected = [["default", "x"], *(line.replace(";", "").split() for line in lines), ["last", "y"]]
    assert expected == outline(block)
    assert list(range(2, 204)) == [st.line for st in block]
    assert list(range(2, 204)) == [st.start_line for st in block]
    assert all(st.quoted == [False] * (1 + len(st.args)) for st in block)
    assert 205 == read(text).main.statements[1].line


@pytest.mark.parametrize("before", ['a "', "a", "a\\", "a 'x' y", "# x\na b"])
def test_a_list_inside_something_else_is_no_list(before: str) -> None:
    """Plain lines in a quoted string or an unfinished directive are what nginx takes them for."""
    text = f"{before}\n" + "b c;\n" * 100
    plain = read(text.replace("b c;", "b c; #")).main.statements
    lifted = read(text).main.statements
    if before == 'a "':
        assert [f'unexpected end of file, expecting ";" or "}}" in {MAIN}:102'] == outline(lifted)
    else:
        assert outline(plain) == outline(lifted)
        assert [st.line for st in plain] == [st.line for st in lifted]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("return ${a}; x;", [["return", "${a}"], ["x"]]),
        ("proxy_pass ${name}:80; x;", [["proxy_pass", "${name}:80"], ["x"]]),
        ("set $x a${b}c; x;", [["set", "$x", "a${b}c"], ["x"]]),
        ("return ${a} ${b}; x { y ${c}; }", [["return", "${a}", "${b}"], ["x"], [["y", "${c}"]]]),
    ],
)
def test_a_word_with_braces_ends_where_its_blank_or_semicolon_is(
    text: str, expected: list[object]
) -> None:
    """A variable in braces takes nothing of what follows its word."""
    assert expected == top(text)


def test_no_directive_is_swallowed_by_the_one_before_it() -> None:
    """Every directive behind a word with braces is there, on whichever line it stands."""
    assert [
        ["log_format", "f", "${remote_addr}-x"],
        ["deny", "all"],
        ["log_format", "g", "y"],
    ] == top("log_format f ${remote_addr}-x; deny all; log_format g y;")


def test_braces_without_a_name_end_with_the_file() -> None:
    """A text that ends inside a variable is refused in nginx's words."""
    assert [f'unexpected end of file, expecting ";" or "}}" in {MAIN}:1'] == top("${")


@pytest.mark.parametrize("lines", [0, 1, 63, 64, 65, 200])
@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ('default "127.0.0.1:81";', [["default", "127.0.0.1:81"]]),
        ("server 10.0.0.1:80 weight=5;", [["server", "10.0.0.1:80", "weight=5"]]),
        ("a $b;", [["a", "$b"]]),
        ("a ${b}c;", [["a", "${b}c"]]),
        ("a b c d e;", [["a", "b", "c", "d", "e"]]),
        ("a\n b;", [["a", "b"]]),
        ("a b; c d;", [["a", "b"], ["c", "d"]]),
        ("a b ; # c", [["a", "b"]]),
        ("# a b;", []),
        ("a\\;b c;", [["a\\;b", "c"]]),
        ("é ü;", [["é", "ü"]]),
        ("a\x0bb c;", [["a\x0bb", "c"]]),
    ],
    ids=lambda value: repr(value) if isinstance(value, str) else "",
)
def test_an_odd_line_after_plain_ones_is_cut_like_any_other(
    lines: int, odd: str, words: list[object]
) -> None:
    """However many plain lines precede, a line is read as it is read alone."""
    plain = "".join(f"h{n}.test 10.0.0.1:80;\n" for n in range(lines))
    before = [[f"h{n}.test", "10.0.0.1:80"] for n in range(lines)]
    block = read(f"map {{\n{plain}{odd}\n{plain}z;\n}}\n").main.statements[0].block
    assert block is not None
    assert [*before, *words, *before, ["z"]] == outline(block)
    assert 2 + 2 * lines + 1 + odd.count("\n") == block[-1].line


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a b;\n" * 70 + "a;;\n", f'unexpected ";" in {MAIN}:71'),
        ("a b;\n" * 70 + ";\n" + "a;\n" * 70, f'unexpected ";" in {MAIN}:71'),
        ("a b;\n" * 70 + " a\n", f'unexpected end of file, expecting ";" or "}}" in {MAIN}:72'),
        ("a b;\n" * 70 + "}\n", f'unexpected "}}" in {MAIN}:71'),
        (
            "a b;\n" * 70 + f"a {'x' * 4096} b;\n" + "a b;\n" * 70,
            f'too long parameter "xxxxxxxxxx..." started in {MAIN}:71',
        ),
    ],
    ids=["two semicolons", "a lone semicolon", "unfinished", "closed", "too long"],
)
def test_what_is_wrong_after_plain_lines_is_found(text: str, fault: str) -> None:
    """A fault behind a run of plain lines is reported at its own line."""
    found = reader.fault_in(read(text).main.statements)
    assert fault == str(found)


def test_an_include_after_plain_lines_is_opened() -> None:
    """An include inside a run of plain lines is read in its place."""
    source = read("a b;\n" * 70 + "include s.conf;\n" + "a b;\n" * 70, s="c;")
    assert ["/c/nginx.conf", "/c/s.conf"] == [file.path for file in source.files]
    included = source.main.statements[70].includes
    assert included is not None
    assert 141 == len(source.main.statements)
    assert [["c"]] == outline(included[0].statements)


def test_deep_nesting_is_read() -> None:
    """The depth of blocks is bounded by nothing but memory."""
    depth = 5000
    error = reader.fault_in(read("a {" * depth).main.statements)
    assert f'unexpected end of file, expecting "}}" in {MAIN}:1' == str(error)
    assert reader.fault_in(read("a {" * depth + "}" * depth).main.statements) is None


# -- include ------------------------------------------------------------------------------------


def test_includes_are_read_in_place() -> None:
    """An include holds the files it names, relative to the folder of the main file."""
    source = read("a; include sub.conf; b;", sub='include "/c/leaf.conf";', leaf="c d;")
    assert [
        ["a"],
        ["include", "sub.conf"],
        {"/c/sub.conf": [["include", "/c/leaf.conf"], {"/c/leaf.conf": [["c", "d"]]}]},
        ["b"],
    ] == outline(source.main.statements)
    assert [MAIN, "/c/sub.conf", "/c/leaf.conf"] == [file.path for file in source.files]


def test_an_include_matches_files_sorted() -> None:
    """A pattern opens its matches in the order of their bytes; none is fine."""
    source = read("include *_x.conf; include none/*;", b_x="b;", a_x="a;", C_x="c;")
    assert ["/c/C_x.conf", "/c/a_x.conf", "/c/b_x.conf"] == [file.path for file in source.files][1:]
    assert [] == source.main.statements[1].includes


def test_a_missing_include_is_a_fault_behind_it() -> None:
    """A file that is not there is reported at the include; nothing after it is read."""
    assert [
        ["stream"],
        [
            ["include", "no.conf"],
            f'open() "/c/no.conf" failed (2: No such file or directory) in {MAIN}:2',
        ],
    ] == top("stream {\ninclude no.conf; b; } c;")[:2]


def test_a_fault_in_an_included_file_names_that_file() -> None:
    """A syntax error is reported in the file it is in; a block does not cross files."""
    assert [
        ["a"],
        [["include", "sub.conf"], {"/c/sub.conf": ['unexpected "}" in /c/sub.conf:1']}],
    ] == top("a { include sub.conf; }", sub="}")


@pytest.mark.parametrize("text", ["include a b;", "include;", "include x {}"])
def test_an_include_of_the_wrong_form_opens_nothing(text: str) -> None:
    """Arity and form of an include are for whoever judges it."""
    st = read(text).main.statements[0]
    assert "include" == st.directive
    assert st.includes is None


def test_cycles_are_named() -> None:
    """A file that includes itself, at whatever remove, is told so."""
    assert [
        ["include", "a.conf"],
        {
            "/c/a.conf": [
                ["include", "*.conf"],
                '"/c/a.conf" includes itself (/c/a.conf -> /c/a.conf) in /c/a.conf:1',
            ]
        },
    ] == top("include a.conf;", a="include *.conf;")
    source = read("include a.conf;", a="\ninclude b.conf;", b="include /c/a.conf;")
    fault = source.files[2].statements[1]
    assert (
        '"/c/a.conf" includes itself (/c/a.conf -> /c/b.conf -> /c/a.conf) in /c/b.conf:1'
        == str(fault.error)
    )


@pytest.mark.parametrize("count", [reader.MOST_NESTED, reader.MOST_NESTED + 1, 200, 400])
def test_files_that_include_each_other_in_a_long_chain(count: int) -> None:
    """All of them are read, or it is told where one stops; Python's stack ends none in silence."""
    chain = {f"f{n}": f"include f{n + 1}.conf;" for n in range(1, count)}
    source = read("include f1.conf;", **chain, **{f"f{count}": "last 1;"})
    if count == reader.MOST_NESTED:
        assert ["last"] == [st.directive for st in source.files[-1].statements]
        return
    fault = source.files[-1].statements[-1].error
    name = f"f{reader.MOST_NESTED}.conf"
    assert (
        f'"/c/f{reader.MOST_NESTED + 1}.conf" is included too deep, behind '
        f"{reader.MOST_NESTED} files in /c/{name}:1" == str(fault)
    )


def test_one_file_may_be_included_twice() -> None:
    """Two includes of a file share its statements, and -T shows it once."""
    source = read("a { include s.conf; } b { include s.conf; }", s="x y;")
    blocks = [st.block for st in source.main.statements]
    assert blocks[0] is not None
    assert blocks[1] is not None
    assert outline(blocks[0]) == outline(blocks[1])
    assert 2 == len(source.files)


def test_blocks_of_others_open_nothing() -> None:
    """Includes in http and mail are not opened; their braces still count."""
    assert [
        ["http"],
        [["include", "mime.types"], ["server"], [["include", "x"]]],
        ["mail"],
        [["include", "y"]],
        ["stream"],
        [],
    ] == top("http { include mime.types; server { include x; } } mail { include y; } stream {}")
    error = reader.fault_in(read("http { server { listen 80 } }").main.statements)
    assert f'unexpected "}}" in {MAIN}:1' == str(error)


LUA = """http { server {
   # access_by_lua_block { don't
   content_by_lua_block {
     -- don't { open
     local s = "}" .. '{' .. [[ } ]] .. "\\""  --[[ } ]]
     if s then return { a = 1 } end
   }
   set_by_lua_block $x{return "it's"}
   deny all;
} }
stream {
}
"""


def test_lua_blocks_are_words_by_lua_s_rules() -> None:
    """The code of a Lua block is one word, whatever braces and quotes it holds; lines go on."""
    http, stream = read(LUA).main.statements
    assert (12, 11) == (stream.end_line, stream.start_line)
    assert http.block is not None
    block = http.block[0].block
    assert block is not None
    assert ["content_by_lua_block", "set_by_lua_block", "deny"] == [st.directive for st in block]
    assert [3, 8, 9] == [st.line for st in block]
    code = LUA[LUA.index("\n     -- don't") : LUA.index("}\n   set_")]
    assert [[code], ["$x", 'return "it\'s"'], ["all"]] == [st.args for st in block]


@pytest.mark.parametrize(
    ("code", "closes"),
    [
        ("x = '\\", False),
        ('x = "\\', False),
        ("x = '\\' }' }", True),
        ('x = "a\\\\" }', True),
        ("x = [==[ ]] } ]=] } ]==] }", True),
        ("--[=[ } ]=] }", True),
        ("--[=[ } ]] ", False),
        ("-- }\n }", True),
        ("-- }", False),
        ("x = [ }", True),
        ("x = 'a\n }", True),
        ("x = {{}} }", True),
    ],
)
def test_lua_strings_and_comments_hide_braces(code: str, closes: bool) -> None:
    """Code ends at the brace that Lua reads as the block's own, or is no Lua block."""
    found = top(f"content_by_lua_block {{{code};y;")
    if closes:
        line = 1 + code.count("\n")
        block = ["content_by_lua_block", code[:-1]]
        assert [block, f'unexpected ";" in {MAIN}:{line}'] == found
    else:
        assert [["content_by_lua_block"]] == found[:1]


@pytest.mark.parametrize(
    "text",
    [
        "a 'content_by_lua_block { x }' y;",
        "a x_by_lua_block { b; }",
        "x_by_lua_block { b;",
        "# x\n; x_by_lua_block {\n b\n }",
        "a '\n# x_by_lua_block { b; }\n';",
        "x_by_lua_block;",
    ],
)
def test_what_only_looks_like_lua_is_read_as_words(text: str) -> None:
    """A name inside a string, or a block without end, is what nginx takes it for."""
    plain = outline(read(text.replace("_by_lua_block", "_by_lua_blocc")).main.statements)
    assert repr(plain).replace("blocc", "block") == repr(top(text))


def test_a_geo_block_includes_one_file_by_name() -> None:
    """The include of a geo block is no pattern, nor is one in the file it names."""
    assert [
        ["geo", "$a"],
        [
            ["include", "*.conf"],
            f'open() "/c/*.conf" failed (2: No such file or directory) in {MAIN}:1',
        ],
    ] == top("geo $a { include *.conf; }", x="a b;")
    found = top("geo $a { include s.conf; }", s="include [x].conf;")
    assert [
        ["include", "[x].conf"],
        'open() "/c/[x].conf" failed (2: No such file or directory) in /c/s.conf:1',
    ] == found[1][1]["/c/s.conf"]  # type: ignore[index]


# -- files --------------------------------------------------------------------------------------


def test_a_missing_main_file_is_an_error_without_place() -> None:
    """The main file is opened from nowhere."""
    with pytest.raises(reader.errors.ConfError) as raised:
        reader.read("/c/none.conf", conf_prefix="/c/", files=files.Memory({}))
    assert 'open() "/c/none.conf" failed (2: No such file or directory)' == str(raised.value)


def test_a_folder_cannot_be_read(tmp_path: Path) -> None:
    """A folder opens but does not read: [crit], and no place, in nginx's words."""
    with pytest.raises(reader.errors.ConfError) as raised:
        reader.read(str(tmp_path), conf_prefix="/")
    assert f'pread() "{tmp_path}" failed (21: Is a directory)' == str(raised.value)
    assert "crit" == raised.value.level
    main = tmp_path / "nginx.conf"
    main.write_text('include "";')
    fault = reader.read(str(main), conf_prefix=f"{tmp_path}/").main.statements[1]
    assert f'pread() "{tmp_path}/" failed (21: Is a directory)' == str(fault.error)


def test_disk_and_memory_read_alike(tmp_path: Path) -> None:
    """A configuration on disk and the same files in memory give the same tree."""
    (tmp_path / "d").mkdir()
    bodies = {
        "nginx.conf": "a; include d/*.conf;",
        "d/b.conf": "b;",
        "d/a.conf": "c {",
        "d/.h.conf": "h;",
    }
    for name, body in bodies.items():
        (tmp_path / name).write_text(body)
    main, prefix = str(tmp_path / "nginx.conf"), f"{tmp_path}/"
    memory = files.Memory({str(tmp_path / name): body.encode() for name, body in bodies.items()})
    from_disk = reader.read(main, conf_prefix=prefix)
    from_memory = reader.read(main, conf_prefix=prefix, files=memory)
    assert outline(from_memory.main.statements) == outline(from_disk.main.statements)
    assert [file.path for file in from_memory.files] == [file.path for file in from_disk.files]
    assert 3 == len(from_disk.files)


def test_reading_leaves_no_descriptor_open() -> None:
    """Whatever way a reading ends, its descriptors are closed."""
    before = descriptors.count()
    for text in ("a;", "a {", "}", 'a "b"c;', "include x;", "a\n" + "b;\n" * 100):
        read(text)
    assert before == descriptors.count()


# -- the command line ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("daemon off; user x y;", [["daemon", "off"], ["user", "x", "y"]]),
        ("", []),
        ("daemon off", ['unexpected end of parameter, expecting ";" in command line']),
        (
            "a; events {}",
            [["a"], "block directives are not supported in -g option in command line"],
        ),
        ("}", ['unexpected "}" in command line']),
        (";", ['unexpected ";" in command line']),
        ('a "b"c;', ['unexpected "c" in command line']),
        (
            "include no;",
            [
                ["include", "no"],
                'open() "/c/no" failed (2: No such file or directory) in command line',
            ],
        ),
        ("a " + "x" * 5000 + ";", [["a", "x" * 5000]]),
    ],
)
def test_the_command_line_is_read(text: str, expected: list[object]) -> None:
    """-g takes directives without blocks, and speaks of the command line."""
    source = reader.read_text(text, conf_prefix="/c/", files=files.Memory({}))
    assert expected == outline(source.main.statements)


def test_the_command_line_has_no_line() -> None:
    """A statement of -g is in `command line`, line 0, so messages name no line."""
    st = reader.read_text("a\nb;").main.statements[0]
    assert ("command line", 0, 0) == (st.file, st.line, st.start_line)
    assert "x in command line" == str(reader.errors.ConfError("x", st.file, st.line))
