"""conf/editors/ and docs/editors.md: Vim shows what -t finds, the step of a CI system marks it."""

import ast
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests import docs
from tests.support import tools

ROOT = Path(__file__).resolve().parents[2]
EDITORS = ROOT / "conf" / "editors"
BAD = """\
events {}
stream {
    server {
        listen 127.0.0.1:9999;
        allow 192.0.2.1/24;
        proxy_pas 127.0.0.1:1;
        return "a $remote_addr {{ x }}"; # js_import
    }
}
"""
LOW_BITS = "low address bits of 192.0.2.1/24 are meaningless"
UNKNOWN = 'unknown directive "proxy_pas"'
MEANT = 'did you mean "proxy_pass"?'
VIM = r"""
set nocompatible
set runtimepath^=@editors@/vim
let g:ngxstream_program = '@program@'
let g:ngxstream_options = '-e /dev/null -g "pid @folder@/pid;"'
filetype plugin on
syntax on
edit @folder@/bad.conf
setfiletype ngxstream
compiler ngxstream
silent make!
let found = []
for one in getqflist()
  call add(found, string([one.lnum, one.type, one.text]))
endfor
for [line, column] in [[1, 1], [4, 9], [6, 9], [7, 19], [7, 45]]
  call add(found, string(synIDattr(synID(line, column, 1), 'name')))
endfor
call writefile(found, '@folder@/out')
qa!
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Return a command that is this tree's program."""
    path = tmp_path / "bin" / "ngxstream"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m ngxstream "$@"\n')
    path.chmod(0o755)
    return path


def test_vim_shows_what_is_found(program: Path, tmp_path: Path) -> None:
    """:make fills the list of errors; names, variables and templates have their colours."""
    vim = tools.require("vim")
    (tmp_path / "bad.conf").write_text(BAD)
    script = VIM.replace("@editors@", str(EDITORS)).replace("@program@", str(program))
    (tmp_path / "run.vim").write_text(script.replace("@folder@", str(tmp_path)))
    subprocess.run([vim, "-u", "NONE", "-i", "NONE", "-es", "-S", "run.vim"], cwd=tmp_path,
                   stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60)
    lines = [ast.literal_eval(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [
        ["5", "W", LOW_BITS], ["6", "E", UNKNOWN], ["0", "I", MEANT],
    ] == [[str(line[0]), *line[1:]] for line in lines[:3]]
    assert ["ngxBlock", "ngxDirective", "", "ngxVariable", "ngxComment"] == lines[3:]


def test_the_step_of_a_ci_system_marks_lines(program: Path, tmp_path: Path) -> None:
    """What docs/editors.md has is executed: a warning and an error, and the code is 1."""
    page = (docs.DOCS / "editors.md").read_text()
    found = re.search(r"^  run: \|\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found is not None
    path = f"{program.parent}:{os.environ['PATH']}"
    for text, code, marks in (
        (BAD, 1, [
            f"::warning file=nginx.conf,line=5,col=15::{LOW_BITS}",
            f"::error file=nginx.conf,line=6,col=9::{UNKNOWN} {MEANT}",
        ]),
        ("events {}\n", 0, []),
    ):
        (tmp_path / "nginx.conf").write_text(text)
        done = subprocess.run(
            ["bash", "-e", "-c", textwrap.dedent(found[1])], cwd=tmp_path, check=False, timeout=60,
            env=os.environ | {"PATH": path}, capture_output=True, text=True,
        )
        assert (code, marks) == (done.returncode, [line.rstrip() for line in
                                                   done.stdout.splitlines()]), done.stderr


def test_the_grammar_knows_every_directive() -> None:
    """Its patterns are regular expressions, and match the names of the directives."""
    grammar = json.loads((EDITORS / "ngxstream.tmLanguage.json").read_text())
    patterns = [re.compile(one["match"]) for one in grammar["patterns"] if "match" in one]
    names = {record.name for module in docs.all_modules() for record in module.directives}
    missed = [name for name in names if not any(one.fullmatch(name) for one in patterns)]
    assert [] == missed


def test_the_object_of_the_page_is_what_the_program_prints() -> None:
    """The example in docs/editors.md has the keys of the schema."""
    page = (docs.DOCS / "editors.md").read_text()
    shown = json.loads(re.search(r"```json\n(.*?)```", page, re.DOTALL)[1])  # type: ignore[index]
    schema = json.loads((EDITORS / "findings.schema.json").read_text())
    assert set(schema["required"]) == set(shown)
    assert set(schema["properties"]["findings"]["items"]["required"]) == set(shown["findings"][0])
