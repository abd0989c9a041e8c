"""Prints the manual of the directives (ngxstream/conf/manual.py): its pages, and the index.

docs/directives.md lists all directives; docs/manual/ has a page for each topic.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ngxstream.conf import directive as d
from ngxstream.conf import manual
from ngxstream.conf.directive import Directive
from ngxstream.conf.manual import Entry, Parameter

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "make docs"
CONTEXT_NAMES = {
    d.MAIN: "main", d.EVENTS: "events", d.STREAM: "stream", d.SERVER: "server",
    d.UPSTREAM: "upstream",
}


class Topic(NamedTuple):
    """A page of the manual."""

    title: str
    text: str


TOPICS = {
    "main": Topic("The program", "Processes, users, files: the main context."),
    "events": Topic("Connections", "The events block."),
    "stream": Topic("Servers and listeners", "What is served, and where clients are accepted."),
    "proxy": Topic("Proxying", "How sessions are sent on to servers."),
    "proxy-tls": Topic("TLS to servers", "Certificates and protocols towards servers."),
    "upstream": Topic("Groups of servers", "The upstream block, and how a server is chosen."),
    "health": Topic("Health checks", "Whether servers serve."),
    "tls": Topic("TLS to clients", "Termination of TLS, and names without termination."),
    "access": Topic("Access and limits", "Who may come in, and how much one client may take."),
    "variables": Topic("Variables", "Values that are looked up, and set."),
    "logs": Topic("Access logs", "A line for each session."),
    "api": Topic("The API", "What the program shows of itself."),
    "scripting": Topic("Functions in Python", "What functions of yours decide and change."),
    "refused": Topic("Refused by name", "Directives that are known, and not served."),
}
# What `<name>` stands for, where the directive does not say it itself.
VALUES = {
    "time": "a time: a number with a unit, `ms`, `s` (if there is none), `m`, `h`, `d`, `w`, `M` "
            "(30 days), or several of them from the largest down, such as `1h30m`",
    "size": "bytes: a number, with `k` (1024) or `m` (1024 k) if wanted",
    "number": "a whole number",
    "file": "the path of a file; a relative one begins at the folder of the main configuration "
            "file, that of a log, a pid file or a state file at the prefix (option `-p`)",
    "path": "an absolute path",
    "address": "an IP address or a host name, with a port where the directive takes one",
    "port": "a number from 1 to 65535",
    "name": "a word",
    "name:size": "a word and a size",
    "level": "a level of the error log: `debug`, `info`, `notice`, `warn`, `error`, `crit`, "
             "`alert` or `emerg`",
    "protocol": "the name of a protocol as TLS knows it, such as `h2`",
    "ciphers": "a list of ciphers in OpenSSL's spelling",
    "module": "a module of Python",
    "function": "a function in it",
    "value": "text; may contain variables where the directive says so",
    "string": "text with variables",
    "url": "a URL",
    "target": "where to write: see the parameters",
    "kind": "one of the kinds below",
    "group": "a name that OpenSSL knows, such as `X25519`",
    "network": "a network, or a range of addresses",
    "host": "an IP address or a host name",
    "regex": "a regular expression, as PCRE has them",
    "text": "bytes, `\\xHH` for any of them",
    "idle": "a time", "interval": "a time", "count": "a number",
    "code": "a word of the DNS, such as NOERROR", "type": "a type of the DNS, such as A",
    "uri": "a path, or an address",
    "condition": "text with variables", "share": "a number, with decimals",
}


class Described(NamedTuple):
    """A directive: its entry, and the records it is declared by."""

    entry: Entry
    records: tuple[Directive, ...]

    @property
    def name(self) -> str:
        """Return its name."""
        return self.records[0].name

    @property
    def anchor(self) -> str:
        """Return what a link to it ends in."""
        return anchor(self.title)

    @property
    def title(self) -> str:
        """Return its heading: its name, and its block where the name means two things."""
        block, _, name = self.entry.key.rpartition("/")
        return f"{name} ({block})" if block else name

    @property
    def contexts(self) -> int:
        """Return where it may stand."""
        bits = 0
        for record in self.records:
            bits |= record.contexts
        return bits


def whole_example(key: str, entry: Entry) -> str:
    """Return a whole configuration around the example of an entry."""
    text = entry.example
    if entry.topic not in ("main", "events") and key != "stream":
        text = f"stream {{\n{text}\n}}"
    return text if "events" in text else f"{text}\nevents {{}}\n"


def described(records: Iterable[Directive]) -> list[Described]:
    """Return all directives with what the manual says of them, in the order of the topics."""
    every = list(records)
    entries = manual.load(every)
    order = list(TOPICS)
    found = [
        Described(entry, tuple(one for one in every if manual.key_of(one, every) == key))
        for key, entry in entries.items()
    ]
    return sorted(found, key=lambda one: (order.index(one.entry.topic), one.name, one.entry.key))


def contexts(bits: int) -> str:
    """Name the contexts of a directive."""
    return ", ".join(name for bit, name in CONTEXT_NAMES.items() if bits & bit)


def cell(text: str) -> str:
    """Escape what would end a cell of a table."""
    return text.replace("|", "\\|")


def form(text: str) -> str:
    """Return a syntax or the form of a parameter in Markdown: `<x>` is a value, in italics."""
    parts = re.split(r"<([^<>]+)>", text)
    shown = [f"*{part}*" if at % 2 else f"`{part}`" if part.strip() else part
             for at, part in enumerate(parts)]
    return "".join(shown)


def terminated(syntax: str) -> str:
    """Return a syntax with the semicolon that a line without a block has."""
    return syntax if syntax.endswith("}") else f"{syntax};"


def differences(name: str) -> list[tuple[str, str]]:
    """Return (section, what) of each row of docs/divergences.md that names a directive first."""
    found = []
    section = ""
    pattern = re.compile(rf"`{re.escape(name)}\b(?![-_])")
    for line in (ROOT / "docs" / "divergences.md").read_text().splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif line.startswith("| "):
            what = re.split(r"(?<!\\)\|", line)[1].strip()
            if pattern.search(what):
                found.append((section, what.replace("\\|", "|")))
    return found


def anchor(title: str) -> str:
    """Return the anchor that a heading has."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def _parameters(title: str, parameters: Iterable[Parameter]) -> list[str]:
    rows = [f"| {cell(form(one.form))} | {cell(one.text)} |" for one in parameters]
    return ["", f"| {title} | |", "|---|---|", *rows] if rows else []


def page(topic: str, all_of_them: Iterable[Described]) -> str:
    """Return a page of docs/manual/."""
    head = TOPICS[topic]
    lines = [
        f"# {head.title}",
        "",
        f"{head.text} All directives, and the units of values: [directives.md](../directives.md).",
        f"Printed from the TOML files beside the modules (`{COMMAND}`); do not edit.",
    ]
    for one in all_of_them:
        if one.entry.topic == topic:
            lines += _section(one)
    return "\n".join(lines) + "\n"


def _section(one: Described) -> list[str]:
    entry = one.entry
    defaults = dict.fromkeys(record.default for record in one.records if record.default)
    lines = ["", f"## {one.title}", ""]
    lines += [f"{form(terminated(syntax))}  " for syntax in entry.syntax]
    shown = " or ".join(f"`{default}`" for default in defaults) or "—"
    lines += [f"default: {shown}; context: {contexts(one.contexts)}", ""]
    lines += [" ".join(entry.text.split())]
    lines += _parameters("parameter", entry.parameters)
    lines += _parameters("inside the block", entry.items)
    if entry.example:
        lines += ["", "```nginx", entry.example, "```"]
    if any(record.extension for record in one.records) and not one.records[0].refused:
        lines += ["", "nginx does not know it."]
    differs = differences(one.name)
    if differs:
        lines += ["", "Differs from nginx:", ""]
        lines += [f"- {what} ([{section}](../divergences.md#{anchor(section)}))"
                  for section, what in differs]
    if entry.see:
        lines += ["", "See " + ", ".join(f"[{name}](../{name})" for name in entry.see) + "."]
    return lines


def index(all_of_them: Iterable[Described]) -> str:
    """Return docs/directives.md."""
    every = list(all_of_them)
    lines = [
        "# Directives",
        "",
        f"Printed from the records and the manual beside them (`{COMMAND}`); do not edit. Each",
        "name leads to its place in the manual: syntax, parameters, example, differences.",
    ]
    for topic, head in TOPICS.items():
        lines += ["", f"## {head.title}", "", "| directive | contexts | default | |"]
        lines += ["|---|---|---|---|"]
        for one in every:
            if one.entry.topic == topic:
                record = one.records[0]
                doc = f"Refused: {record.refused}" if record.refused else record.doc
                default = f"`{cell(record.default)}`" if record.default else ""
                mark = " (ours)" if record.extension else ""
                lines.append(
                    f"| [`{one.name}`](manual/{topic}.md#{one.anchor}){mark} "
                    f"| {contexts(one.contexts)} | {default} | {cell(doc)} |"
                )
    lines += ["", "## Values", "", "| in a syntax | stands for |", "|---|---|"]
    lines += [f"| *{name}* | {cell(text)} |" for name, text in VALUES.items() if ":" not in name]
    return "\n".join(lines) + "\n"
