"""What the written pages promise stands in the tree."""

import ast
import json
import re
from pathlib import Path

import pytest

from tests.support.pages import LANGUAGES, PAGES, blocks, page_id

ROOT = Path(__file__).resolve().parents[2]
INDEX = ROOT / "docs" / "README.md"
COLUMNS = ["what", "nginx", "ngxstream", "why", "test"]


def table_rows(path: Path) -> list[list[str]]:
    """Return the cells of every row of every table of a page, header rows included."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
    rules = re.compile(r"[|\s:-]+")
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if not rules.fullmatch(line)]
    return [[cell.strip() for cell in row] for row in rows]


def is_test(name: str) -> bool:
    """Tell whether ``path::function`` (or a path alone) is there."""
    path, _, function = name.partition("::")
    if not (ROOT / path).is_file():
        return False
    tree = ast.parse((ROOT / path).read_text())
    functions = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return not function or function in functions


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_links_lead_to_files_of_the_tree(path: Path) -> None:
    """Every relative link of a page has its file."""
    links = re.findall(r"\]\(([^)#]+)", path.read_text())
    broken = [link for link in links if "//" not in link and not (path.parent / link).exists()]
    assert [] == broken


def test_the_index_leads_to_every_page() -> None:
    """docs/README.md has all of docs/ and the READMEs below conf/; the README leads to it."""
    links = {(INDEX.parent / link).resolve()
             for link in re.findall(r"\]\(([^)#]+)", INDEX.read_text())}
    pages = [*PAGES, ROOT / "docs" / "CHANGES"]
    assert [] == [page_id(page) for page in pages if page not in {*links, INDEX}]
    assert "](docs/README.md)" in (ROOT / "README.md").read_text()


def test_every_example_is_listed() -> None:
    """conf/README.md leads to all configurations beside it."""
    links = set(re.findall(r"\]\(([^)#]+)", (ROOT / "conf" / "README.md").read_text()))
    assert set() == {path.name for path in (ROOT / "conf").glob("*.conf")} - links


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_links_to_headings_lead_to_one(path: Path) -> None:
    """What follows a `#` is a heading of that page, as its anchor is made of it."""
    text = path.read_text()
    for file, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text):
        target = (path.parent / file) if file else path
        headings = re.findall(r"(?m)^#+ (.*)$", target.read_text())
        anchors = {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}
        assert anchor in anchors, f"{file}#{anchor}"


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_blocks_say_what_they_are(path: Path) -> None:
    """Each has a language, and what could be executed is no text: see tests/support/pages.py."""
    for block in blocks(path):
        assert block.language in LANGUAGES, f"{block.place}: what language is {block.language!r}?"
        if block.language == "json":
            json.loads(block.text)
        if block.language == "text":
            assert not re.search(
                r"(?m)^(?:[$#] )?(?:ngxstream(?:ctl)?|curl|dig|make|python3?|pip|systemctl) [-\w]",
                block.text), block.place
            opened = re.search(r"(?m)^\s*(?:server|stream|upstream|events) [^|]*\{", block.text)
            assert not opened, block.place


def test_divergences_are_told_once() -> None:
    """No two rows are about the same thing: one of them would be forgotten."""
    rows = [row[0] for row in table_rows(ROOT / "docs" / "divergences.md") if row != COLUMNS]
    assert [] == sorted({what for what in rows if rows.count(what) > 1})


def test_divergences_have_their_reason_and_their_test() -> None:
    """Each row fills the columns; the tests it names exist."""
    rows = [row for row in table_rows(ROOT / "docs" / "divergences.md") if row != COLUMNS]
    assert rows
    for row in rows:
        assert len(COLUMNS) == len(row), row[0]
        assert all(row[:4]), row[0]
        named = re.findall(r"tests/[\w/.]+(?:::\w+)?", row[4])
        assert named, row[0]
        assert [] == [name for name in named if not is_test(name)], row[0]


def test_each_divergence_has_a_reason_of_its_own() -> None:
    """No reason is that of another row, or a reference to it."""
    rows = [row for row in table_rows(ROOT / "docs" / "divergences.md") if row != COLUMNS]
    reasons = [row[3] for row in rows]
    assert [] == [reason for reason in reasons if re.match(r"(the same|as above|see)\b", reason)]
    assert len(reasons) == len(set(reasons))


def test_every_folder_of_tests_is_explained() -> None:
    """The table of docs/architecture.md names the folders that there are."""
    told = {cell for row in table_rows(ROOT / "docs" / "architecture.md") for cell in row[:1]}
    folders = {f"`{path.parent.relative_to(ROOT)}/`" for path in ROOT.glob("tests/*/*.py")}
    assert set() == folders - told


def test_the_makefile_has_the_verbs_of_the_pages() -> None:
    """Each `make verb` that a page speaks of is a target."""
    makefile = (ROOT / "Makefile").read_text()
    spoken = {
        verb for page in PAGES for verb in re.findall(r"(?m)(?:`|^)make ([a-z]+)", page.read_text())
    }
    assert {"run", "test", "check", "install"} <= spoken
    assert [] == [verb for verb in sorted(spoken) if f"\n{verb}:" not in makefile]
