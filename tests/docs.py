"""Prints the generated pages of docs/, from the records and the marks of the tests.

`python -m tests.docs` writes them; tests/structure/test_docs_fresh.py fails when they are stale.
"""

import ast
from pathlib import Path

from ngxstream import modules
from ngxstream.conf import directive as d
from ngxstream.conf import include
from ngxstream.conf.directive import Directive, Takes
from ngxstream.conf.module import Module
from ngxstream.core.facts import WORKERS
from ngxstream.process import directives as process_directives
from ngxstream.stream.module import StreamModule
from ngxstream.stream.variables import CHANGEABLE, NOCACHEABLE, PREFIX
from tests import directives, ways

DOCS = Path(__file__).resolve().parents[1] / "docs"
COMMAND = "make docs"
CONTEXT_NAMES = {
    d.MAIN: "main", d.EVENTS: "events", d.STREAM: "stream", d.SERVER: "server",
    d.UPSTREAM: "upstream",
}
LAYERS = ("process", "modules", "stream", "conf", "event", "ipc", "wire", "core")  # downwards


def all_modules() -> tuple[Module, ...]:
    """Return every module, in the order in which the judge asks them."""
    return (include.MODULE, *process_directives.MODULES, *modules.ALL)


def arity(takes: Takes) -> str:
    """Spell how many arguments a directive takes."""
    if takes.flag:
        return "on \\| off"
    if takes.most is None:
        count = f"{takes.least} or more"
    elif takes.least == takes.most:
        count = str(takes.least)
    else:
        count = f"{takes.least} to {takes.most}"
    return f"{count}, block" if takes.block else count


def contexts(bits: int) -> str:
    """Name the contexts of a directive."""
    return ", ".join(name for bit, name in CONTEXT_NAMES.items() if bits & bit)


def cell(text: str) -> str:
    """Escape what would end a cell of a table."""
    return text.replace("|", "\\|")


def row(record: Directive) -> str:
    """Return a directive's line of the table."""
    mark = " (ours)" if record.extension else ""
    doc = f"Refused: {record.refused}" if record.refused else record.doc
    default = f"`{record.default}`" if record.default else ""
    takes = f"`{cell(record.syntax)}`" if record.syntax else arity(record.takes)
    return (
        f"| `{record.name}`{mark} | {contexts(record.contexts)} | {takes} "
        f"| {cell(default)} | {cell(doc)} |"
    )


def directives_page() -> str:
    """Return docs/directives.md."""
    lines = [
        "# Directives",
        "",
        f"Printed from the records the parser judges by (`{COMMAND}`); do not edit.",
        "What is said of arity and context is what `-t` enforces.",
    ]
    for module in all_modules():
        if not module.directives:
            continue
        lines += [
            "",
            f"## {module.name}",
            "",
            "| directive | contexts | arguments | default | |",
            "|---|---|---|---|---|",
        ]
        lines += [row(record) for record in sorted(module.directives, key=lambda r: r.name)]
    return "\n".join(lines) + "\n"


def variables_page() -> str:
    """Return docs/variables.md."""
    lines = [
        "# Variables",
        "",
        f"Printed from the records the modules declare (`{COMMAND}`); do not edit.",
        "`map`, `geo`, `split_clients`, `set` and named captures define more.",
        "A value is computed once for each session unless it is said to be asked anew each time.",
    ]
    for module in all_modules():
        if not isinstance(module, StreamModule) or not module.variables:
            continue
        lines += ["", f"## {module.name}", "", "| variable | | |", "|---|---|---|"]
        for variable in module.variables:
            name = f"${variable.name}" + ("*NAME*" if variable.flags & PREFIX else "")
            notes = []
            if variable.flags & NOCACHEABLE:
                notes.append("anew each time")
            if variable.flags & CHANGEABLE:
                notes.append("may be redefined")
            lines.append(f"| `{name}` | {cell(variable.doc)} | {', '.join(notes)} |")
    return "\n".join(lines) + "\n"


def facts_page() -> str:
    """Return docs/facts.md."""
    lines = [
        "# Facts",
        "",
        f"Printed from the records the modules declare (`{COMMAND}`); do not edit.",
        "Counters and gauges (which go down too) that are added up over all workers. One of a",
        "listener, a zone or a server goes on over a reload that has it too;",
        "servers are counted where something reads it.",
        "",
        "| fact | of | | |",
        "|---|---|---|---|",
    ]
    for module in all_modules():
        for fact in module.facts:
            kind = "gauge" if fact.is_gauge else "counter"
            scope = "all workers" if fact.scope == WORKERS else f"each {fact.scope}"
            lines.append(f"| `{fact.name}` | {scope} | {kind} | {cell(fact.doc)} |")
    return "\n".join(lines) + "\n"


def sentence(path: Path) -> str:
    """Return the first sentence of a module's docstring, on one line."""
    said = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(said.split("\n\n")[0].split())


def modules_page() -> str:
    """Return docs/modules.md."""
    lines = [
        "# The modules",
        "",
        f"Printed from the first sentence of each module (`{COMMAND}`); do not edit.",
        "The layers are those of [architecture.md](architecture.md), from the top down.",
    ]
    for layer in LAYERS:
        lines += ["", f"## {layer}/", "", "| module | |", "|---|---|"]
        folder = DOCS.parent / "ngxstream" / layer
        for path in sorted(folder.rglob("*.py")):
            if path.name != "__init__.py":
                link = path.relative_to(DOCS.parent)
                name = path.relative_to(folder)
                lines.append(f"| [{name}](../{link}) | {cell(sentence(path))} |")
    return "\n".join(lines) + "\n"


def architecture_page() -> str:
    """Return docs/architecture.md: as it is, but for the ways, which are drawn anew."""
    text = (DOCS / "architecture.md").read_text()
    before, _, rest = text.partition("<!-- ways -->\n")
    _, end, after = rest.partition("<!-- end of ways -->")
    drawn = "\n".join(
        f"### {name}\n\n```\n{ways.draw(ways.way(steps))}\n```\n"
        for name, steps in ways.WAYS.items()
    )
    return f"{before}<!-- ways -->\n{drawn}{end}{after}"


PAGES = {
    "architecture.md": architecture_page,
    "directives.md": directives_page,
    "facts.md": facts_page,
    "modules.md": modules_page,
    "variables.md": variables_page,
    "tests-of-directives.md": directives.page,
}


def main() -> None:
    """Write every page that has changed."""
    for name, page in PAGES.items():
        path = DOCS / name
        text = page()
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote docs/{name}")


if __name__ == "__main__":
    main()
