"""The manual's files: how they are read, and what is said of one that does not say enough."""

from pathlib import Path

import pytest

from ngxstream.conf import directive as d
from ngxstream.conf import manual
from ngxstream.conf.manual import Parameter

SET = d.string("x")
RECORDS = (
    d.Directive("speed", d.STREAM, d.TAKE12, SET, "How fast."),
    d.Directive("server", d.STREAM, d.BLOCK, SET, "A server."),
    d.Directive("server", d.UPSTREAM, d.ONE_MORE, SET, "A server of a group."),
    d.Directive("quiet", d.STREAM, d.FLAG, d.flag("quiet"), "Whether."),
    d.unsupported("engine", d.MAIN, d.TAKE1, "there is none"),
)
GOOD = """
topic = "pace"
[speed]
syntax = ["speed <rate> [burst=<number>]", "speed off"]
text = "How fast."
example = "speed 1k;"
see = ["limits.md"]
[speed.parameters]
"<rate>" = "Bytes."
"burst=<number>" = "More."
"off" = "None."
[server]
syntax = "server { ... }"
text = "One."
example = "server { }"
["upstream/server"]
syntax = "server <address>"
text = "One of a group."
example = "upstream u { server 1; }"
[quiet]
text = "Whether."
example = "quiet on;"
"""


def load(folder: Path, text: str) -> dict[str, manual.Entry]:
    """Read one file."""
    (folder / "pace.toml").write_text(text)
    return manual.load(RECORDS, folder)


def test_each_directive_has_its_entry(tmp_path: Path) -> None:
    """Two meanings of a name are told apart, a flag needs no syntax, a refused one no entry."""
    found = load(tmp_path, GOOD)
    assert ["speed", "server", "upstream/server", "quiet", "engine"] == list(found)
    speed = found["speed"]
    assert ("pace", ("limits.md",), frozenset({"burst", "off"})) == (
        speed.topic, speed.see, speed.words)
    assert ("quiet on | off",) == found["quiet"].syntax
    assert ("there is none.", "refused") == (found["engine"].text, found["engine"].topic)


@pytest.mark.parametrize(
    ("cut", "put", "said"),
    [
        ("[quiet]", "[loud]", 'there is no directive "loud"'),
        ('["upstream/server"]', "[server2]", 'there is no directive "server2"'),
        ('text = "How fast."', "", "[speed] has no text"),
        ('text = "Whether."\nexample', "shown", "[quiet] says ['shown']"),
        ('topic = "pace"', "topic", "pace.toml: "),
    ],
)
def test_a_file_that_says_something_else_is_refused(
    cut: str, put: str, said: str, tmp_path: Path
) -> None:
    """The error names the file and what is wrong there."""
    assert cut in GOOD
    with pytest.raises(manual.ManualError) as caught:
        load(tmp_path, GOOD.replace(cut, put, 1))
    assert said in str(caught.value)


def test_a_missing_entry_is_told_with_its_form(tmp_path: Path) -> None:
    """Whoever has declared a directive reads what to write, and where."""
    with pytest.raises(manual.ManualError) as caught:
        load(tmp_path, GOOD.partition('["upstream/server"]')[0])
    assert 'no entry for "upstream/server"' in str(caught.value)
    assert '["upstream/server".parameters]' in str(caught.value)


def test_two_entries_of_one_directive_are_refused(tmp_path: Path) -> None:
    """The second file is named."""
    (tmp_path / "other.toml").write_text('[quiet]\ntext = "x"\nexample = "y"\n')
    with pytest.raises(manual.ManualError, match=r'"quiet" has another entry in .*other\.toml'):
        load(tmp_path, GOOD)


@pytest.mark.parametrize(
    ("form", "words", "values"),
    [
        ("backlog=<number>", ("backlog",), ()),
        ("gzip[=<level>]", ("gzip",), ()),
        ("<file>", (), ()),
        ("on | leaf", ("on", "leaf"), ()),
        ("write=on|off", ("write",), ("on", "off")),
        ("proxy_protocol | proxy_protocol=every|first", ("proxy_protocol", "proxy_protocol"),
         ("every", "first")),
        ("shared:<name>:<size>", ("shared",), ()),
        ("workers=all|<number>", ("workers",), ()),
        ("default <value>", ("default",), ()),
    ],
)
def test_a_form_has_words_and_values(
    form: str, words: tuple[str, ...], values: tuple[str, ...]
) -> None:
    """What a parser takes is read out of the form."""
    assert (words, values) == (Parameter(form, "").words, Parameter(form, "").values)
