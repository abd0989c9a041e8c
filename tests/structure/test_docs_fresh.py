"""The printed pages say what the code says, and the code knows every directive of nginx's."""

import csv
from pathlib import Path

import pytest

from ngxstream.stream.module import StreamModule
from tests import docs

HERE = Path(__file__).parent


@pytest.mark.parametrize("name", docs.PAGES)
def test_a_printed_page_is_fresh(name: str) -> None:
    """A page in docs/ is what `make docs` would print now."""
    assert docs.PAGES[name]() == (docs.DOCS / name).read_text()


def test_every_layer_has_its_modules_printed() -> None:
    """docs/modules.md leaves no folder of the package out."""
    folders = {path.parent.name for path in docs.DOCS.parent.glob("ngxstream/*/__init__.py")}
    assert folders == set(docs.LAYERS)


def test_every_directive_says_what_it_is_for() -> None:
    """Each record has a context and one line of prose, which ends like a sentence."""
    for module in docs.all_modules():
        for record in module.directives:
            assert record.contexts, record.name
            assert record.doc.strip(), record.name


def test_every_variable_says_what_it_holds() -> None:
    """Each variable has its line for docs/variables.md."""
    for module in docs.all_modules():
        if isinstance(module, StreamModule):
            assert [] == [v.name for v in module.variables if not v.doc.strip()]


def test_every_directive_of_nginx_s_stream_modules_is_known() -> None:
    """What nginx's open-source stream modules know is known by name here, in its contexts."""
    known: dict[str, int] = {}
    for module in docs.all_modules():
        for record in module.directives:
            known[record.name] = known.get(record.name, 0) | record.contexts
    bits = {name: bit for bit, name in docs.CONTEXT_NAMES.items()}
    with open(HERE / "nginx_directives.tsv", encoding="utf-8") as table:
        for row in csv.DictReader(table, delimiter="\t"):
            wanted = sum(bits[name] for name in row["contexts"].split(","))
            assert wanted == known.get(row["directive"], 0) & wanted, row["directive"]
