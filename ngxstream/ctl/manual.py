"""The man page ngxstreamctl(8), printed from the parser."""

from __future__ import annotations

import argparse
from typing import Final

from ngxstream import VERSION
from ngxstream.ctl import completion

_HEAD: Final = """\
.TH NGXSTREAMCTL 8 "" "ngxstream {version}" "System administration"
.SH NAME
ngxstreamctl \\- see and steer a running ngxstream
.SH SYNOPSIS
.B ngxstreamctl
[\\fIoptions\\fR] \\fIcommand\\fR [\\fIarguments\\fR]
.SH DESCRIPTION
.B ngxstreamctl
asks the API of a running ngxstream, a server of its stream block with the directive
.BR api ,
and prints the reply: tables for people, JSON with
.BR \\-\\-json .
What changes something wants
.B api write=on
there.
.PP
Without
.BR \\-\\-url ", " \\-\\-socket " or " \\-c
the API is looked for in the configuration of the master that runs; of several, one has to be
named.
.SH OPTIONS
They may stand before the command or behind it.
"""
_TAIL: Final = """\
.SH EXIT STATUS
.TP
.B 0
It is done.
.TP
.B 1
The API refused: there is no such thing, or it cannot be done.
.TP
.B 2
The command line is wrong.
.TP
.B 3
No API was found, or nobody answers there.
.TP
.B 4
Who asks may not, or the API is read-only.
.SH ENVIRONMENT
.TP
.B NGXSTREAMCTL_URL
Address of the API, as for
.BR \\-\\-url .
.TP
.B NGXSTREAMCTL_PASSWORD
Password for
.BR \\-\\-user .
.SH EXAMPLES
.nf
ngxstreamctl status
ngxstreamctl \\-\\-socket /run/ngxstream/api.sock upstreams backend
ngxstreamctl drain backend 10.0.0.1:53
ngxstreamctl sessions \\-\\-client 192.0.2.0/24 \\-\\-min\\-age 1h
ngxstreamctl \\-\\-json servers
.fi
"""


def page(parser: argparse.ArgumentParser) -> str:
    """Return the page in roff."""
    parts = [_HEAD.format(version=VERSION), *map(_option, completion.options(parser))]
    parts.append(".SH COMMANDS\n")
    for name, (doc, under) in completion.subparsers(parser).items():
        words = " ".join(_usage(one) for one in completion.positionals(under))
        parts.append(f".SS {_plain(name)} {words}\n{_plain(_sentence(doc))}\n")
        parts += [_option(one) for one in (*completion.positionals(under),
                                           *completion.options(under)) if one.dest != "help"]
    return "".join([*parts, _TAIL])


def _option(one: argparse.Action) -> str:
    names = ", ".join(rf"\fB{_plain(name)}\fR" for name in one.option_strings)
    if not names:
        return f".TP\n{_usage(one)}\n{_plain(_sentence(one.help or one.dest))}\n"
    value = rf" \fI{_plain(one.dest.upper())}\fR" if one.nargs is None else ""
    return f".TP\n{names}{value}\n{_plain(_sentence(one.help or ''))}\n"


def _usage(one: argparse.Action) -> str:
    name = rf"\fI{_plain(one.dest.upper())}\fR"
    if one.nargs == "*":
        return f"[{name} ...]"
    return f"[{name}]" if one.nargs == "?" else name


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _plain(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", r"\-").replace("'", r"\(aq")
