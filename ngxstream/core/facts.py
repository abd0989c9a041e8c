"""Facts: counters that features declare beside their directives, added up over all workers.

1. A module declares a fact once (Module.facts), with a name that no other has.
2. Who is to count it, a listener or a server perhaps, asks for a cell while the configuration is
   read. Equal labels mean one cell, also after a reload. What nobody asks for costs nothing.
3. The worker counts by `loop.cells[cell.at] += 1` (some 60 ns; an attribute is 20), or by a
   Counter where a loop or a configuration is out of reach. Totals are for logs and status pages.
4. What is counted of each of many things, the servers of a group say, has a block: a row of cells
   for each of them, `loop.cells[block.row(n) + block.place(FACT)] += 1`.
5. A fact with bounds is a histogram: how often a number was up to each of them, and above all, and
   the sum of the numbers. One with words is a cell for each of them.

Source: nginx has ngx_stat_accepted and the like; NGINX Plus has zones of its status API.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from ngxstream.core import errors, shm
from ngxstream.core.shm_facts import NOBODY

if TYPE_CHECKING:
    from ngxstream.core.shm_facts import Number, Rows

# what a cell's label names
WORKERS: Final = "workers"  # nothing: one cell for all there is
LISTENER: Final = "listener"  # a listening address, as logs have it
SERVER: Final = "server"  # a group of servers
ZONE: Final = "zone"  # a shared memory zone


NEAR: Final = 1000  # cells that are read for nothing rather than by a call more


class Fact(NamedTuple):
    """One fact. A gauge goes up and down, a counter only up; `doc` is a line for docs/facts.md.

    Only facts of blocks have bounds, of a histogram, in rising order, or words.
    """

    name: str
    scope: str
    doc: str
    is_gauge: bool = False
    bounds: tuple[int, ...] = ()
    words: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """How many cells it takes."""
        return len(self.bounds) + 2 if self.bounds else max(1, len(self.words))


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

    def reset(self) -> None:
        """Have a counter begin at 0, whatever was counted; a gauge stays. Raises: of shm.DAMAGE"""
        if self.rows and not self.fact.is_gauge:
            self.rows.reset(self.at, 1)


class Block:
    """Facts of each of many things of one label, as one configuration knows them: a row for each.

    One block has counters alone or gauges alone.
    """

    __slots__ = ("_due", "_number", "at", "count", "facts", "label", "places", "rows", "width")

    def __init__(self, facts: tuple[Fact, ...], label: str, count: int) -> None:
        """Args: count: of things. Raises: InternalError"""
        self.facts = facts
        self.label = label
        self.count = count
        self.places: dict[Fact, int] = {}
        self.width = 0
        for fact in facts:
            self.places[fact] = self.width
            self.width += fact.width
        if self.width > NOBODY or len({fact.is_gauge for fact in facts}) != 1:
            raise errors.InternalError("facts that cannot be in one block")
        self.at = 0  # of the first row; 0, as all rows then, where there are none
        self.rows: Rows | None = None
        self._number: Number | None = None
        self._due: set[int] = set()  # what is to begin at 0 as soon as there are rows

    def attach(self, rows: Rows | None) -> None:
        """Take the place that these facts have; None leaves it, to others if nobody else has it.

        Where there is no room for all things, the first of them are counted.
        """
        self._number, self.at = None, 0
        while rows is not None and self.count and not self.at:
            key = (self.facts, self.label)
            number = rows.number(key, self.count * self.width, is_gauge=self.facts[0].is_gauge)
            self._number, self.at = number, number.at
            if not self.at:
                self.count //= 2
        self.rows = rows if self.at else None
        if rows is not None:
            due, self._due = self._due, set()
            for n in due:
                with contextlib.suppress(*shm.DAMAGE):  # it goes on from what it was
                    self.reset(n)

    def place(self, fact: Fact) -> int:
        """Return the first cell of a fact within a row."""
        return self.places[fact]

    def row(self, n: int) -> int:
        """Return the number of the first cell of a thing's row."""
        return self.at + n * self.width if self.at and 0 <= n < self.count else 0

    def totals(self, first: int = 0, count: int = 1) -> list[int]:
        """Return what all processes have counted, of so many things from one on, row by row."""
        known = max(min(self.count - first, count), 0) if self.rows else 0
        found = [0] * ((count - known) * self.width)
        if self.rows and known:
            found[:0] = self.rows.totals(self.at + first * self.width, known * self.width)
        return found

    def reset(self, n: int, count: int = 1) -> None:
        """Have the counters of so many things begin at 0. Raises: one of shm.DAMAGE"""
        count = min(self.count - n, count)
        if self.rows is None:
            self._due.update(range(n, n + count))
        elif count > 0 and not self.facts[0].is_gauge:
            self.rows.reset(self.at + n * self.width, count * self.width)


def rows_at(rows: Rows, places: Sequence[int], width: int) -> list[list[int]]:
    """Return what all processes have counted in rows of a width; near ones are read together.

    Args: places: of their first cells; 0 is a row of nobody, of which nothing is known
    """
    count = len(places)
    if count and places[0] and places == [*range(places[0], places[0] + count * width, width)]:
        counted = rows.totals(places[0], count * width)  # hot: all rows of a zone, one by one
        return [counted[at : at + width] for at in range(0, count * width, width)]
    found: dict[int, list[int]] = {0: [0] * width}
    run: list[int] = []
    for at in [*sorted({*places} - {0}), -1]:
        if run and (at < 0 or at - run[-1] - width > NEAR):
            first = run[0]
            counted = rows.totals(first, run[-1] + width - first)
            for one in run:
                found[one] = counted[one - first : one - first + width]
            run = []
        run.append(at)
    return [found[at] for at in places]


def totals_of(cells: Sequence[Cell]) -> list[int]:
    """Return what all processes have counted in cells of one configuration."""
    rows = next((cell.rows for cell in cells if cell.rows is not None), None)
    if rows is None:
        return [0] * len(cells)
    return [row[0] for row in rows_at(rows, [cell.at for cell in cells], 1)]


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

    __slots__ = ("_blocks", "_cells", "_rows", "declared")

    def __init__(self, declared: Iterable[Fact]) -> None:
        """Raises: InternalError where two have one name"""
        self.declared: dict[str, Fact] = {}
        self._cells: dict[tuple[str, str], Cell] = {}
        self._blocks: dict[tuple[tuple[Fact, ...], str], Block] = {}
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
        self._check(fact)
        found = self._cells.get((fact.name, label))
        if found is None:
            found = self._cells[fact.name, label] = Cell(fact, label)
            if self._rows is not None:
                found.attach(self._rows)
        return found

    def block(self, facts: tuple[Fact, ...], label: str, count: int) -> Block:
        """Have facts of so many things counted. For the master, before it forks.

        Args: label: of what they belong to; who asks again, for as many, has the same block. After
        a reload it counts on if the facts and the count are the same. Raises: InternalError
        """
        for fact in facts:
            self._check(fact)
        found = self._blocks.get((facts, label))
        if found is None or found.count != count:
            found = self._blocks[facts, label] = Block(facts, label, count)
            if self._rows is not None:
                found.attach(self._rows)
        return found

    def _check(self, fact: Fact) -> None:
        if self.declared.get(fact.name) != fact:
            raise errors.InternalError(f'the fact "{fact.name}" is declared by no module')

    def attach(self, rows: Rows | None) -> None:
        """Count in these rows, or nowhere when no worker does. For the master, before it forks."""
        self._rows = rows
        for cell in self._cells.values():
            cell.attach(rows)
        for block in self._blocks.values():
            block.attach(rows)

    def counter(self, fact: Fact, label: str = "") -> Counter:
        """Return a fact to count, by a worker for all if its cell was asked for. Raises: OSError"""
        return Counter(self.known(fact, label))

    def known(self, fact: Fact, label: str = "") -> Cell | None:
        """Return a cell that was asked for, None for another."""
        return self._cells.get((fact.name, label))

    def totals(self) -> list[tuple[Cell, int]]:
        """Return what all workers have counted, in the order in which it was asked for."""
        counted = [0] if self._rows is None else self._rows.totals()
        return [(cell, counted[cell.at]) for cell in self._cells.values()]


def private() -> memoryview[int]:
    """Return a row that no other process sees, of nobody's cells alone."""
    return memoryview(bytearray(8 * NOBODY)).cast("q")
