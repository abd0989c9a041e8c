"""Prints the generated pages of docs/, from the records and the marks of the tests.

`python -m tests.docs` writes them; tests/structure/test_docs_fresh.py fails when they are stale.
"""

import ast
import functools
from pathlib import Path

from ngxstream import modules
from ngxstream.conf import include
from ngxstream.conf.module import Module
from ngxstream.core.facts import WORKERS
from ngxstream.ctl import completion, manual
from ngxstream.ctl import main as ctl
from ngxstream.process import directives as process_directives
from ngxstream.stream import endings
from ngxstream.stream.module import StreamModule
from ngxstream.stream.variables import CHANGEABLE, NOCACHEABLE, PREFIX
from tests import api_reference, directives, editor_files, man_page, manual_pages, ways
from tests.support import njs_contracts

DOCS = Path(__file__).resolve().parents[1] / "docs"
COMMAND = "make docs"
CONTEXT_NAMES = manual_pages.CONTEXT_NAMES
# downwards
LAYERS = (
    "ctl", "process", "modules", "scripting", "stream", "conf", "event", "ipc", "wire", "core",
)


def all_modules() -> tuple[Module, ...]:
    """Return every module, in the order in which the judge asks them."""
    return (include.MODULE, *process_directives.MODULES, *modules.ALL)


def cell(text: str) -> str:
    """Escape what would end a cell of a table."""
    return text.replace("|", "\\|")


def described() -> list[manual_pages.Described]:
    """Return all directives with what the manual says of them."""
    return manual_pages.described(
        record for module in all_modules() for record in module.directives
    )


def directives_page() -> str:
    """Return docs/directives.md."""
    return manual_pages.index(described())


def man_page_of_directives() -> str:
    """Return docs/man/ngxstream.conf.5."""
    return man_page.page(described())


def vim_syntax() -> str:
    """Return conf/editors/vim/syntax/ngxstream.vim."""
    return editor_files.vim(described())


def textmate_grammar() -> str:
    """Return conf/editors/ngxstream.tmLanguage.json."""
    return editor_files.textmate(described())


def manual_page(topic: str) -> str:
    """Return a page of docs/manual/."""
    return manual_pages.page(topic, described())


def variables_page() -> str:
    """Return docs/variables.md."""
    lines = [
        "# Variables",
        "",
        f"Printed from the records the modules declare (`{COMMAND}`); do not edit.",
        "`map`, `geo`, `split_clients`, `set`, `keyval`, `py_set`, `py_var` and named captures of",
        "regular expressions define more. A value is computed once for each session, unless the",
        "table says that it is computed at each use.",
    ]
    for module in all_modules():
        if not isinstance(module, StreamModule) or not module.variables:
            continue
        lines += ["", f"## {module.name}", "", "| variable | value | |", "|---|---|---|"]
        for variable in module.variables:
            name = f"${variable.name}" + ("*NAME*" if variable.flags & PREFIX else "")
            notes = []
            if variable.flags & NOCACHEABLE:
                notes.append("computed at each use")
            if variable.flags & CHANGEABLE:
                notes.append("may be redefined")
            lines.append(f"| `{name}` | {cell(variable.doc)} | {', '.join(notes)} |")
    return "\n".join(lines) + "\n"


def facts_page() -> str:
    """Return docs/facts.md."""
    lines = [
        "# Counters (facts)",
        "",
        f"Printed from the records the modules declare (`{COMMAND}`); do not edit.",
        "Counters, and gauges, which can go down. Each is the sum over all workers. A counter of a",
        "listener, a zone or a server is kept over a reload if the new configuration has the same",
        "one. Servers are counted only if an `api` or a `status_zone` shows the counters. In the",
        "API and in /metrics they have the names that [status.md](status.md) explains.",
        "",
        "| fact | of | kind | what it counts |",
        "|---|---|---|---|",
    ]
    for module in all_modules():
        for fact in module.facts:
            kind = "gauge" if fact.is_gauge else "histogram" if fact.bounds else "counter"
            kind += "s" * bool(fact.words)
            scope = "all workers" if fact.scope == WORKERS else f"each {fact.scope}"
            lines.append(f"| `{fact.name}` | {scope} | {kind} | {cell(fact.doc)} |")
    return "\n".join(lines) + "\n"


def endings_page() -> str:
    """Return docs/endings.md."""
    lines = [
        "# Why sessions end",
        "",
        f"Printed from the list in ngxstream/stream/endings.py (`{COMMAND}`); do not edit.",
        "`$session_end_reason` is one of these words. `$session_ended_by` says who ended the",
        "session: the `client` or the `upstream` (the server), by closing, resetting, failing or",
        "being too slow; the `operator`, by a command; or the `proxy`, in all other cases. Both",
        "are empty before the session ends. A new release may add words at the end of the list.",
        "",
        "| reason | by | meaning |",
        "|---|---|---|",
    ]
    known = [one for one in vars(endings).values() if isinstance(one, endings.Ending)]
    for reason in endings.ALL:
        whose = sorted({one.who for one in known if one.reason is reason})
        by = ", ".join(f"`{who}`" for who in whose)
        lines.append(f"| `{reason.word}` | {by} | {cell(reason.doc)} |")
    return "\n".join(lines) + "\n"


def njs_page() -> str:
    """Return docs/scripting-njs.md."""
    lines = [
        "# What njs does, and what functions of Python do",
        "",
        f"Printed from the list in tests/support/njs_contracts.py (`{COMMAND}`); do not edit. Each",
        "row is done by nginx with njs and by ngxstream in",
        "[test_njs.py](../tests/differential/test_njs.py). A directive of njs is refused by name,",
        "with the `py_…` that takes its place.",
    ]
    for part, contracts in njs_contracts.PARTS.items():
        if contracts:
            lines += ["", f"## {part}", "", "| what | njs | ngxstream | why |", "|---|---|---|---|"]
        for one in contracts:
            cells = (one.what, one.does, one.differs or "the same", one.why)
            lines.append(f"| {' | '.join(map(cell, cells))} |")
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
        f"### {name}\n\n```text\n{ways.draw(ways.way(steps))}\n```\n"
        for name, steps in ways.WAYS.items()
    )
    return f"{before}<!-- ways -->\n{drawn}{end}{after}"


def ctl_manual() -> str:
    """Return docs/man/ngxstreamctl.8."""
    return manual.page(ctl.parser())


def bash_completion() -> str:
    """Return conf/completion/ngxstreamctl.bash."""
    return completion.script("bash", ctl.parser())


def zsh_completion() -> str:
    """Return conf/completion/_ngxstreamctl."""
    return completion.script("zsh", ctl.parser())


PAGES = {
    "man/ngxstreamctl.8": ctl_manual,
    "../conf/completion/ngxstreamctl.bash": bash_completion,
    "../conf/completion/_ngxstreamctl": zsh_completion,
    "api-reference.md": api_reference.page,
    "architecture.md": architecture_page,
    "directives.md": directives_page,
    "endings.md": endings_page,
    "scripting-njs.md": njs_page,
    "facts.md": facts_page,
    "man/ngxstream.conf.5": man_page_of_directives,
    "../conf/editors/vim/syntax/ngxstream.vim": vim_syntax,
    "../conf/editors/ngxstream.tmLanguage.json": textmate_grammar,
    "modules.md": modules_page,
    "variables.md": variables_page,
    "tests-of-directives.md": directives.page,
    **{
        f"manual/{topic}.md": functools.partial(manual_page, topic)
        for topic in manual_pages.TOPICS
    },
}


def main() -> None:
    """Write every page that has changed."""
    for name, page in PAGES.items():
        path = DOCS / name
        text = page()
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote docs/{name}")


if __name__ == "__main__":
    main()
