"""crossplane's payload form: its shape, and what crossplane's builder makes of it."""

import string
import subprocess
import sys
from pathlib import Path

import crossplane
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ngxstream.conf import files, reader
from tests.support import payload

MAIN = "/c/nginx.conf"


def read(text: str, **others: str) -> reader.Source:
    """Read a main file and others beside it, from memory."""
    contents = {MAIN: text} | {f"/c/{name}.conf": body for name, body in others.items()}
    raw = {path: body.encode() for path, body in contents.items()}
    return reader.read(MAIN, conf_prefix="/c/", files=files.Memory(raw))


def words(statements: list[reader.Statement]) -> list[object]:
    """Return a tree as nested lists of words."""
    return [
        [node.directive, node.args, None if node.block is None else words(node.block)]
        for node in statements
    ]


def test_the_payload_is_what_crossplane_parses(tmp_path: Path) -> None:
    """On a configuration both read alike, the payload equals crossplane's own."""
    main = tmp_path / "nginx.conf"
    main.write_text(
        "worker_processes 2;\nevents { worker_connections\n 64; }\n"
        "stream {\n  include *.inc;\n  server { listen 53 udp; return 'a b'; }\n}\n"
    )
    (tmp_path / "b.inc").write_text("upstream b { server 127.0.0.1:1 weight=2; }\n")
    (tmp_path / "a.inc").write_text("log_format x '$status';\n")
    theirs = crossplane.parse(str(main), check_ctx=False, check_args=False)
    ours = payload.payload(reader.read(str(main), conf_prefix=f"{tmp_path}/"))
    assert theirs == ours


def test_a_fault_is_an_error_of_its_file() -> None:
    """A configuration with a fault has status failed, and says where."""
    made = payload.payload(read("a;\ninclude x.conf; b;", x="c;\n}"))
    message = 'unexpected "}" in /c/x.conf:2'
    assert "failed" == made["status"]
    assert [{"file": "/c/x.conf", "error": message, "line": 2}] == made["errors"]
    assert ["ok", "failed"] == [entry["status"] for entry in made["config"]]
    assert [{"error": message, "line": 2}] == made["config"][1]["errors"]


PRINTABLE = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z"))
    | st.sampled_from(" \t\n\r\\\\\"'$${}{};")
    | st.sampled_from(string.ascii_letters),
    max_size=12,
).filter(lambda word: not word.startswith("#") and word != "include" and "\ufeff" not in word)


@given(
    st.lists(
        st.tuples(PRINTABLE.filter(lambda w: w not in ("if", "")), st.lists(PRINTABLE, max_size=3)),
        max_size=4,
    )
)
@example([("a", ["\\", "\\n", "a\\\\b", "\\.", '"', "it's", "${x", "x$", "a}b", ""])])
def test_crossplane_builds_the_same_words(statements: list[tuple[str, list[str]]]) -> None:
    """A configuration built from the payload reads as the same words, whatever they are."""
    nodes = [reader.Statement(name, args, [], MAIN, 1, 1) for name, args in statements]
    block = reader.Statement("stream", [], [False], MAIN, 1, 1)
    block.block = nodes
    main = reader.ConfFile(MAIN, b"", [block])
    made = payload.payload(reader.Source(main, [main]))
    built = crossplane.build(made["config"][0]["parsed"])
    assert words([block]) == words(read(built).main.statements)


@pytest.mark.parametrize("number", range(3))
def test_worked_examples_come_through_the_builder(number: int, tmp_path: Path) -> None:
    """Escapes, quotes, regular expressions and braces in words survive parse, build and read."""
    text = (
        'stream { log_format f "a\\tb \\"q\\" $status" \'c d\'; }\n',
        "stream { map $a $b { default ''; ~^\\d+\\.x$ 1; \"~^a{1,3}\" 2; 'it\\'s' 3; } }\n",
        'stream { server { listen unix:/a\\ b; return "x\\\\n\\n"; set $x ${a}b; } }\n',
    )[number]
    first = read(text)
    out = tmp_path / "built.conf"
    out.write_text(crossplane.build(payload.payload(first)["config"][0]["parsed"]))
    again = reader.read(str(out), conf_prefix="/")
    assert words(first.main.statements) == words(again.main.statements)


def test_crossplane_s_own_tools_read_what_is_built(tmp_path: Path) -> None:
    """crossplane's command line parses the built configuration without complaint."""
    out = tmp_path / "nginx.conf"
    text = "events {}\nstream { server { listen 12345 udp; return 'a b'; } }\n"
    out.write_text(crossplane.build(payload.payload(read(text))["config"][0]["parsed"]))
    ran = subprocess.run(
        [sys.executable, "-m", "crossplane", "parse", "--strict", str(out)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert 0 == ran.returncode, ran.stderr
    assert '"status":"ok"' in ran.stdout.replace(" ", "")
