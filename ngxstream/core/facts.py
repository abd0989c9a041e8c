"""Facts: counters that features declare beside their directives, added up over all workers.

1. A module declares a fact once (Module.facts), with a name that no other has.
2. Who is to count it, a listener or a server perhaps, asks for a cell while the configuration is
   read. Equal labels mean one cell, also after a reload. What nobody asks for costs nothing.
3. The worker counts by `loop.cells[cell.at] += 1` (some 60 ns; an attribute is 20), or by a
   Counter where a loop or a configuration is out of reach. Totals are for logs and status pages.

Source: nginx has ngx_stat_accepted and the like; NGINX Plus has zones of its status API.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from ngxstream.core import errors

if TYPE_CHECKING:
    from ngxstream.core.shm_facts import Number, Rows

# what a cell's label names
WORKERS: Final = "workers"  # nothing: one cell for all there is
LISTENER: Final = "listener"  # a listening address, as logs have it
SERVER: Final = "server"  # a group of servers
ZONE: Final = "zone"  # a shared memory zone


class Fact(NamedTuple):
    """One fact. A gauge goes up and down, a counter only up; `doc` is a line for docs/facts.md."""

    name: str
    scope: str
    doc: str
    is_gauge: bool = False


class Cell:
    """A fact of one listener, server or zone as one configuration knows it."""

    __slots__ = ("_number", "at", "fact", "label", "rows")

    def __init__(self, fact: Fact, label: str) -> None:
        self.fact = fact
        self.label = label
        self.at = 0  # its place in every row; 0, where nobody looks, before there are rows
        self.rows: Rows | None = None
        self._number: Number | None = None

    def attach(self, rows: Rows | None) -> None:
        """Take the place that is this fact's; None leaves it, to others if nobody else has it."""
        self._number, self.at = None, 0
        if rows is not None:
            self._number = rows.number((self.fact, self.label), is_gauge=self.fact.is_gauge)
            self.at = self._number.at
        self.rows = rows if self.at else None

    @property
    def total(self) -> int:
        """What all processes have counted."""
        return self.rows.totals(self.at, 1)[0] if self.rows else 0


class Counter:
    """A cell in the hands of one process. One that is made of nothing counts for itself alone."""

    __slots__ = ("_at", "_cell", "_cells")

    def __init__(self, cell: Cell | None = None) -> None:
        """Raises: OSError where this process can have no row"""
        self._cell = cell if cell and cell.rows else None
        self._cells = cell.rows.cells if cell and cell.rows else private()
        self._at = cell.at if self._cell and cell else 0

    def add(self, amount: int = 1) -> None:
        """Count."""
        self._cells[self._at] += amount

    @property
    def own(self) -> int:
        """What this process has counted."""
        return self._cells[self._at]

    @property
    def total(self) -> int:
        """What all processes have."""
        return self._cell.total if self._cell else self.own


class Facts:
    """The facts of one configuration, and who counts them."""

    __slots__ = ("_cells", "_rows", "declared")

    def __init__(self, declared: Iterable[Fact]) -> None:
        """Raises: InternalError where two have one name"""
        self.declared: dict[str, Fact] = {}
        self._cells: dict[tuple[str, str], Cell] = {}
        self._rows: Rows | None = None
        for fact in declared:
            if self.declared.setdefault(fact.name, fact) is not fact:
                raise errors.InternalError(f'the fact "{fact.name}" is declared twice')
            if fact.scope == WORKERS:
                self.cell(fact)

    def cell(self, fact: Fact, label: str = "") -> Cell:
        """Have a fact counted. For the master, before it forks.

        Args: label: of whom, by the fact's scope. Raises: InternalError
        """
        if self.declared.get(fact.name) != fact:
            raise errors.InternalError(f'the fact "{fact.name}" is declared by no module')
        found = self._cells.get((fact.name, label))
        if found is None:
            found = self._cells[fact.name, label] = Cell(fact, label)
            if self._rows is not None:
                found.attach(self._rows)
        return found

    def attach(self, rows: Rows | None) -> None:
        """Count in these rows, or nowhere when no worker does. For the master, before it forks."""
        self._rows = rows
        for cell in self._cells.values():
            cell.attach(rows)

    def counter(self, fact: Fact, label: str = "") -> Counter:
        """Return a fact to count, by a worker for all if its cell was asked for. Raises: OSError"""
        return Counter(self._cells.get((fact.name, label)))

    def totals(self) -> list[tuple[Cell, int]]:
        """Return what all workers have counted, in the order in which it was asked for."""
        counted = [0] if self._rows is None else self._rows.totals()
        return [(cell, counted[cell.at]) for cell in self._cells.values()]


def private() -> memoryview[int]:
    """Return a row that no other process sees, of nobody's cell alone."""
    return memoryview(bytearray(8)).cast("q")
