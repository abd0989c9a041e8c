"""The pages of the documentation, and the blocks of code in them.

A block has a language and an option, which is the file that the block is.

- ```nginx``` is judged by ``-t``, wrapped into a whole configuration where it is a part of one;
  with a path behind the language it is written to that file, whole.
- ```python``` (and any other language) with a path is written there.
- ```sh``` is executed. Each line of ```console``` that begins with ``$ `` is, and what stands below
  is what the command printed: ``…`` stands for any text, and alone on a line for any lines.
- ```text``` is nothing that could be executed: what a program writes, or a drawing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ngxstream.conf import directive as d
from tests.docs import all_modules
from tests.support.proxies import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")),
         *sorted((ROOT / "conf").rglob("*.md"))]
# json is parsed; of the others a file of that form is told about
LANGUAGES = {"nginx", "sh", "console", "python", "text", "json", "diff", "ini", "nft", "logrotate",
             "yaml", "toml", "vim", "apparmor", "dockerfile"}
# By name and by whether a block follows: `server` is a directive of two kinds.
CONTEXTS = {
    (record.name, record.takes.block): record.contexts
    for module in all_modules() for record in module.directives
}


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block: its language, the word behind it, its text and its first line's number."""

    page: str
    line: int
    language: str
    option: str
    text: str

    @property
    def place(self) -> str:
        """Where it stands, for people."""
        return f"{self.page}:{self.line}"


def page_id(path: Path) -> str:
    """Return a page's path inside the repository."""
    return str(path.relative_to(ROOT))


def blocks(path: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found: list[Block] = []
    lines = path.read_text().splitlines()
    start, fence, info = 0, "", ""
    for number, line in enumerate(lines, 1):
        mark = re.match(r" *(`{3,})(.*)", line)
        if not fence and mark:
            start, fence, info = number, mark[1], mark[2].strip()
        elif fence and mark and mark[1] == fence and not mark[2].strip():
            language, _, option = info.partition(" ")
            text = "\n".join(lines[start : number - 1]) + "\n"
            found.append(Block(page_id(path), start + 1, language, option.strip(), text))
            fence = ""
    assert not fence, f"{page_id(path)}:{start}: the block does not end"
    return found


def _top_level(text: str) -> list[tuple[str, bool]]:
    """Return the directives of the outermost level of a part of a configuration.

    Each with whether a block follows.
    """
    found: list[tuple[str, bool]] = []
    depth, name = 0, ""
    for token in re.findall(
        r"""#[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|(?:\$\{|[^\s;{}])+|[;{}]""", text
    ):
        if token.startswith("#"):
            continue
        if token in ";{}":
            if depth == 0 and name:
                found.append((name, token == "{"))
            depth += {"{": 1, "}": -1}.get(token, 0)
            name = ""
        elif depth == 0:
            name = name or token
    return found


def whole(text: str) -> str:
    """Return a configuration that holds a part of one where that may stand."""
    top = _top_level(text)
    names = {name for name, _ in top}
    common = -1
    for one in top:
        common &= CONTEXTS.get(one, -1)
    if not names & {"stream", "events"}:
        if common & d.STREAM:
            text = f"stream {{\n{text}}}\n"
        elif common & d.SERVER:
            listen = "" if "listen" in names else "listen 127.0.0.1:9999; "
            text = f"stream {{ server {{ {listen}\n{text}}} }}\n"
        elif common & d.UPSTREAM:
            text = f"stream {{ upstream group {{\n{text}}} }}\n"
        # else: of the main context
    return text if "events" in names else f"events {{}}\n{text}"


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a ``console`` block, and what the page shows below it."""

    script: str
    expected: list[str]


def commands(text: str) -> Iterator[Command]:
    """Return the commands of a ``console`` block."""
    pieces = re.split(r"(?m)^\$ ", text)
    assert not pieces[0], f"a console block begins with a command: {pieces[0]!r}"
    for piece in pieces[1:]:
        script, expected, continues = [], [], True
        for line in piece.splitlines():
            if continues:
                script.append(line.removeprefix("> "))
                continues = line.endswith("\\")
            else:
                expected.append(line)
        yield Command("\n".join(script), expected)


# What differs from run to run, and need not be given up for `…` in a page.
_VARYING = (
    (r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d", "TIME"),
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)?", "TIME"),
    (r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}", "TIME"),
    (r"\b\d+#\d+:", "PID:"),
    (r"\*\d+\b", "*N"),
    (r"^ *\d+-\d+(?=  )", "ID"),
    (r"port (?:3[2-9]|[4-6]\d)\d{3}\b", "port PORT"),
    (r"\b(pid |process |workers? )\d+\b", r"\1PID"),
    (r"(?<=[:\]])(?:3[2-9]|[4-6]\d)\d{3}\b", "PORT"),
)


def settled(line: str) -> str:
    """Return a line without what differs from run to run: times, process ids, clients' ports."""
    for pattern, word in _VARYING:
        line = re.sub(pattern, word, line)
    return line.rstrip()


def shows(expected: list[str], printed: str) -> bool:
    """Tell whether a command printed what a page shows."""
    pattern = ""
    for line in expected:
        if line.strip() == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*?".join(re.escape(part) for part in settled(line).split("…")) + "\n"
    said = "".join(settled(line) + "\n" for line in printed.splitlines())
    return re.fullmatch(pattern, said) is not None
