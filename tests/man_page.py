"""Prints the man page ngxstream.conf(5) from the manual of the directives (manual_pages.py)."""

import re
import textwrap
from collections.abc import Iterable

from ngxstream import VERSION
from tests import manual_pages
from tests.manual_pages import Described

_HEAD = """\
.\\" Printed by `make docs` from the manual of the directives; do not edit.
.TH NGXSTREAM.CONF 5 "" "ngxstream {version}" "File formats"
.ad l
.nh
.SH NAME
ngxstream.conf \\- configuration of ngxstream: the stream block of an nginx.conf
.SH DESCRIPTION
.B ngxstream
reads the file that
.B \\-c
names, /etc/nginx/nginx.conf without it, in the language of nginx:
a directive is a name and its parameters, and ends in a semicolon or in a block
in braces.
A
.B #
begins a comment. A word with spaces, semicolons or braces stands in quotes.
.PP
What a block says holds for the blocks inside of it that say nothing else of it.
The contexts are
.BR main ,
outside of all blocks,
.BR events ,
.BR stream ,
.B server
and
.B upstream
inside of it.
.PP
.B "ngxstream \\-t"
judges a configuration, and says where it is wrong.
"""
_EXAMPLE = """\
events { worker_connections 4096; }

stream {
    upstream name_servers {
        server 192.0.2.1:53;
        server 192.0.2.2:53;
    }

    server {
        listen 53 udp;
        listen 53;
        proxy_pass name_servers;
        proxy_timeout 5s;
    }
}"""
_TAIL = """\
.SH SEE ALSO
.BR ngxstream (8),
.BR ngxstreamctl (8),
.BR nginx (8)
"""
_ESCAPES = (("\\", "\\e"), ("-", "\\-"), ("'", "\\(aq"), ("`", "\\(ga"), ("^", "\\(ha"),
            ("~", "\\(ti"), ("…", "..."), ("\u2013", "\\(en"))


def page(all_of_them: Iterable[Described]) -> str:
    """Return the page in roff."""
    every = list(all_of_them)
    lines = [_HEAD.format(version=VERSION).rstrip("\n")]
    lines += [".PP", "An example:", *_block(_EXAMPLE)]
    lines += [".SH VALUES"]
    for name, text in manual_pages.VALUES.items():
        if ":" not in name:
            lines += [".TP", rf"\fI{plain(name)}\fR", inline(text)]
    for topic, head in manual_pages.TOPICS.items():
        lines += [f".SH {head.title.upper()}", inline(head.text)]
        for one in every:
            if one.entry.topic == topic:
                lines += _directive(one)
    return "\n".join(lines) + "\n" + _TAIL


def _directive(one: Described) -> list[str]:
    entry = one.entry
    defaults = dict.fromkeys(record.default for record in one.records if record.default)
    lines = [f".SS {plain(one.title)}"]
    for at, syntax in enumerate(entry.syntax):
        lines += [".br"] if at else []
        lines.append(form(manual_pages.terminated(syntax)))
    shown = " or ".join(map(plain, defaults))
    lines += [".br", f"Context: {plain(manual_pages.contexts(one.contexts))}."
              + (rf" Default: \fB{shown}\fR." if shown else "")]
    lines += [".PP", inline(entry.text)]
    if entry.parameters:
        lines += _parameters(entry.parameters)
    if entry.items:
        lines += [".PP", "Inside the block:", *_parameters(entry.items)]
    if entry.example:
        lines += [".PP", "Example:", *_block(entry.example)]
    differs = manual_pages.differences(one.name)
    if differs:
        lines += [".PP", "Differs from nginx, as divergences.md says with reasons:"]
        for _, what in differs:
            lines += [r".IP \(bu 2", inline(what)]
    return lines


def _parameters(parameters: Iterable[manual_pages.Parameter]) -> list[str]:
    lines: list[str] = []
    for one in parameters:
        lines += [".TP", form(one.form).replace("\n", " "), inline(one.text)]
    return lines


def _block(text: str) -> list[str]:
    lines = [_leading(plain(line)) for line in text.splitlines()]
    return [".PP", ".RS 4", ".nf", *lines, ".fi", ".RE"]


def form(text: str) -> str:
    """Return a syntax: what is written as it stands in bold, values in italics."""
    parts = re.split(r"<([^<>]+)>", text)
    shown = "".join(rf"\f{'I' if at % 2 else 'B'}{plain(part)}\fR"
                    for at, part in enumerate(parts) if part)
    return _wrapped(shown.replace("[,", r"\:[,"))  # may be broken there


def inline(text: str) -> str:
    """Return a text of the manual, in which backticks are around what is bold."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(text.split()))
    parts = text.split("`")
    return _wrapped("".join(rf"\fB{plain(part)}\fR" if at % 2 else plain(part)
                            for at, part in enumerate(parts) if part))


def plain(text: str) -> str:
    """Return a text in which nothing means anything to roff."""
    for char, escape in _ESCAPES:
        text = text.replace(char, escape)
    return text


def _wrapped(text: str) -> str:
    """Return a text in lines, broken where it has spaces."""
    found = textwrap.wrap(text, 79, break_long_words=False, break_on_hyphens=False)
    return "\n".join(map(_leading, found))


def _leading(line: str) -> str:
    return rf"\&{line}" if line[:1] in (".", "'") or line.startswith("\\(aq") else line
