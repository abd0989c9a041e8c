"""Datagrams that an address loses, counted in all and by reason."""

from ngxstream.core.facts import LISTENER, WORKERS, Counter, Fact, Facts
from ngxstream.core.shm_facts import Rows
from ngxstream.event import drops

ALL = Fact("all", LISTENER, "")
BECAUSE = Fact("because", "reason", "")


def test_an_address_counts_all_that_it_loses() -> None:
    """Whatever the reason, and also where nobody looks."""
    lost = drops.Drops()
    for reason in drops.REASONS:
        lost.drop(reason, 2)
    assert 2 * len(drops.REASONS) == lost.total
    assert len(set(drops.REASONS)) == len(drops.REASONS)


def test_reasons_are_counted_for_all_addresses_together() -> None:
    """Besides what each address counts."""
    facts = Facts([ALL, BECAUSE, Fact("other", WORKERS, "")])
    cells = {reason: facts.cell(BECAUSE, reason) for reason in drops.REASONS}
    one, two = (facts.cell(ALL, label) for label in ("one", "two"))
    facts.attach(Rows())
    for cell in (one, two):
        by_reason = {reason: Counter(its) for reason, its in cells.items()}
        lost = drops.DropsByReason(cell, by_reason)
        lost.drop(drops.HELD)
        lost.drop(drops.HEADER, 3)
    assert (4, 4) == (one.total, two.total)
    counted = {reason: cell.total for reason, cell in cells.items() if cell.total}
    assert {drops.HELD: 2, drops.HEADER: 6} == counted
