"""What the written pages promise stands in the tree."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COLUMNS = ["what", "nginx", "ngxstream", "why", "test"]


def page_id(path: Path) -> str:
    """Return a page's path inside the repository."""
    return str(path.relative_to(ROOT))


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
