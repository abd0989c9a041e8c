"""Statements are judged where they stand; blocks of other protocols are passed over aloud."""

import pytest

from ngxstream.conf import builder, files, reader
from ngxstream.conf import directive as d
from ngxstream.conf.module import Module
from ngxstream.core import errors
from tests.support.clients import tcp_exchange
from tests.support.proxies import ProxyFactory

STREAM = "stream { server { listen 127.0.0.1:@in@; return x; } }"
HTTP = "http { server { listen 127.0.0.1:9; location / { proxy_pass http://u; } } }"


def said(verdict) -> list[str]:
    """Return what a test of the configuration says, without the place."""
    return [line.partition(" in /")[0] for line in verdict.stderr.splitlines()]


@pytest.mark.effect("http", "mail")
@pytest.mark.parametrize("name", ["http", "mail"])
def test_a_block_of_another_protocol_is_skipped_aloud(name: str, ngxstream: ProxyFactory) -> None:
    """Whatever stands in http{} or mail{}, there is one warning, and stream{} is served."""
    text = f"events {{}} {HTTP.replace('http', name, 1)} {STREAM}"
    program = ngxstream(text)
    assert b"x" == tcp_exchange(program.address("in"))
    verdict = program.test()
    assert 0 == verdict.code
    warnings = [line for line in said(verdict) if "[warn]" in line]
    assert [f'ngxstream: [warn] "{name}" block is skipped: only "stream" is served'] == warnings


def test_a_skipped_block_must_end(ngxstream: ProxyFactory) -> None:
    """What is skipped is still read: a brace that is missing is found."""
    verdict = ngxstream(f"events {{}} {STREAM} http {{ server {{ }}", start=False).test()
    assert 1 == verdict.code
    assert 'ngxstream: [emerg] unexpected end of file, expecting "}"' in said(verdict)


def test_blocks_that_do_not_belong_to_main_are_not_skipped(ngxstream: ProxyFactory) -> None:
    """http{} inside stream{} is an error."""
    verdict = ngxstream("events {} stream { http { } }", start=False).test()
    assert 1 == verdict.code
    assert 'ngxstream: [emerg] "http" directive is not allowed here' in said(verdict)


REFUSED = 'ngxstream: [emerg] "stream" directive is not allowed here'


@pytest.mark.parametrize("where", ["{}", "server {{ {} }}", "server {{ location / {{ {} }} }}"])
def test_a_stream_block_inside_of_http_is_refused(where: str, ngxstream: ProxyFactory) -> None:
    """A stream block that would serve nothing is no part of what is skipped."""
    text = f"events {{}} http {{ {where.format(STREAM)} }}"
    verdict = ngxstream(text, start=False).test()
    assert (1, REFUSED) == (verdict.code, said(verdict)[0])


def test_a_stream_block_in_a_file_that_http_includes_is_refused(ngxstream: ProxyFactory) -> None:
    """The slip of conf.d is found, and the message names the file; a cycle of files ends."""
    conf = "events {} http { include mime.types; include conf.d/*.conf; }"
    program = ngxstream(conf, start=False)
    folder = program.conf_file.parent / "conf.d"
    folder.mkdir()
    (folder / "a.conf").write_text("server { access_log /x/stream; include conf.d/a.conf; }")
    (folder / "b.conf").write_text("# first\nstream { server { listen 9; return x; } }")
    verdict = program.test()
    place = f" in {folder}/b.conf:2"
    assert (1, REFUSED + place) == (verdict.code, verdict.stderr.splitlines()[0])
    (folder / "b.conf").unlink()
    assert 0 == program.test().code


def test_who_starts_without_a_stream_block_is_warned(ngxstream: ProxyFactory) -> None:
    """Nothing is served, and the log says so."""
    program = ngxstream("events {}")
    said = 'no "stream" block in configuration, nothing is served'
    assert any("[warn]" in line and line.endswith(said) for line in program.error_log())


def refuse_at_end(scope: builder.Scope, module: Module, st: reader.Statement) -> None:
    """Judge a block and refuse it when it is closed."""
    inner = builder.Scope(scope.builder, d.STREAM, scope)
    scope.builder.walk_block(st, inner)
    inner.warn("one more word")
    raise errors.ConfError("a block without sense")


def nothing(scope: builder.Scope, module: Module, st: reader.Statement) -> None:
    """Take a directive."""


ANY = Module("any", (
    d.Directive("block", d.MAIN, d.BLOCK, refuse_at_end, ""),
    d.Directive("word", d.STREAM, d.NOARGS, nothing, ""),
))  # fmt: skip


@pytest.mark.parametrize(
    "inside", ["", "word;", "word\n;\n", "\ninclude words;", "word;\n" * 100, "'word';#}\n"]
)
def test_what_is_found_at_the_end_of_a_block_names_its_closing_line(inside: str) -> None:
    """Neither the line where the block began nor that of what stood last in it is named."""
    text = f"\nblock\n{{\n{inside}\n\n}}\n"
    held = files.Memory({"/c/a": text.encode(), "/c/words": b"word;\n\n\nword;"})
    read = reader.read("/c/a", conf_prefix="/c/", files=held)
    warned: list[str] = []
    judge = builder.Builder(
        [ANY], prefix="/c/", conf_prefix="/c/", warn=lambda _, text: warned.append(text))
    with pytest.raises(errors.ConfError) as raised:
        judge.build(read.main.statements)
    line = text.count("\n")
    assert f"a block without sense in /c/a:{line}" == str(raised.value)
    assert [f"one more word in /c/a:{line}"] == warned
