"""Ledgers: chunks that processes own, grow into, and leave behind."""

import itertools
import os
import resource

import pytest

from ngxstream.core import shm, shm_ledger
from ngxstream.core.shm_ledger import (
    CHUNK,
    GROUP,
    PAGE,
    WORD,
    Ledger,
    Ledgers,
)
from tests.support.forks import in_child

ENTRIES = CHUNK // WORD - 1
GROUP_BYTES = PAGE + GROUP * CHUNK


def ledgers() -> Ledgers:
    """Return new ones."""
    return Ledgers("test", shm.Lock("test"))


def memory_of(made: Ledgers) -> int:
    """Return the bytes that the file takes."""
    return os.fstat(made._fd).st_blocks * 512


def test_chunks_do_not_overlap_each_other_or_their_owners() -> None:
    """Every address of every chunk is one process's, over several groups."""
    made = ledgers()
    pids = range(1, 2 * GROUP + 2)
    chunks = [made.claim(pid) for pid in pids]
    assert [PAGE, PAGE + CHUNK] == chunks[:2]
    assert chunks == sorted(set(chunks))
    for before, after in itertools.pairwise(chunks):
        expected = PAGE if after // GROUP_BYTES > before // GROUP_BYTES else 0
        assert CHUNK + expected == after - before
    assert set(pids) == made.owners()
    assert [[chunk] for chunk in chunks] == [made.chunks_of(pid) for pid in pids]


def test_a_file_that_somebody_made_longer_is_not_read() -> None:
    """A worker has the file and may be hostile: who reclaims does not read without end."""
    made = ledgers()
    first = made.claim(1)
    os.ftruncate(made._fd, 1 << 60)
    second = made.claim(2)
    assert [{1, 2}, [first], [second]] == [made.owners(), made.chunks_of(1), made.chunks_of(2)]


def test_there_is_an_end_to_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all have owners there is no room for another, and the others' stay readable."""
    monkeypatch.setattr(shm_ledger, "GROUPS", 1)
    made = ledgers()
    for pid in range(1, GROUP + 1):
        made.claim(pid)
    with pytest.raises(OSError, match="No space left"):
        made.claim(GROUP + 1)
    assert set(range(1, GROUP + 1)) == made.owners()


def test_the_file_takes_memory_where_something_was_written() -> None:
    """A thousand processes that hold little take little."""
    made = ledgers()
    for pid in range(1, 101):
        ledger = Ledger(made, pid)
        view, at, *_ = ledger.take()
        view[at] = 7
    assert memory_of(made) <= 101 * PAGE


def test_a_freed_chunk_is_empty_and_the_first_to_be_given_again() -> None:
    """What the dead wrote is gone with them, and so is the memory it took."""
    made = ledgers()
    chunks = [made.claim(pid) for pid in (1, 2, 3)]
    before = memory_of(made)
    ledger = Ledger(made, 2)
    for _ in range(5000):
        view, at, *_ = ledger.take()
        view[at] = 7
    own = made.chunks_of(2)
    assert 5000 == sum(len(made.held(chunk)) for chunk in own)
    for chunk in own:
        made.free(chunk)
    assert before == memory_of(made)
    assert {1, 3} == made.owners()
    assert chunks[1] == made.claim(4)
    assert [] == made.held(chunks[1])


def test_a_ledger_grows_beyond_a_chunk() -> None:
    """A process may hold more than a chunk has entries for, and all of it is found."""
    made = ledgers()
    Ledger(made, 1)
    ledger = Ledger(made, 2)
    for number in range(1, 2 * ENTRIES + 2):
        view, at, address, _ = ledger.take()
        view[at] = number
        if number == ENTRIES:
            assert 1 == len(made.chunks_of(2))
        if number % 1000 == 1:
            assert number.to_bytes(8, "little") == os.pread(made._fd, 8, address)
    chunks = made.chunks_of(2)
    assert 3 == len(chunks)
    words = [word for chunk in chunks for _, word in made.held(chunk)]
    assert list(range(1, 2 * ENTRIES + 2)) == words
    assert 1 == len(made.chunks_of(1))


def test_an_entry_given_back_is_taken_again() -> None:
    """A ledger is as long as the most its process ever held, not as all it ever held."""
    made = ledgers()
    ledger = Ledger(made, 1)
    for number in range(3 * ENTRIES):
        entry = ledger.take()
        assert 0 == entry[0][entry[1]]
        if number % 100:
            entry[3].append(entry)
    assert 1 == len(made.chunks_of(1))
    assert 3 * ENTRIES // 100 + 2 >= ledger._view[0]


def test_two_processes_claim_at_once() -> None:
    """Chunks that are claimed at the same time are different ones."""
    made = ledgers()
    children = []
    for _ in range(4):
        child = os.fork()
        if not child:
            for _ in range(50):
                made.claim(os.getpid())
            os._exit(0)
        children.append(child)
    assert [0] * 4 == [os.waitpid(child, 0)[1] for child in children]
    assert [50] * 4 == [len(made.chunks_of(child)) for child in children]


def test_a_chunk_is_freed_without_a_descriptor_to_spare() -> None:
    """Where it cannot be mapped, a chunk whose entries were emptied is given to others anyway."""
    made = ledgers()
    ledger = Ledger(made, 7)
    view, at, address, _ = ledger.take()
    view[at] = 1
    made.write(address, 0)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        (chunk,) = made.chunks_of(7)
        made.free(chunk)

    in_child(work)
    assert set() == made.owners()
    assert [] == made.held(made.claim(8))


def test_a_word_is_eight_bytes_wherever_it_is() -> None:
    """Addresses of words are multiples of their size: a store is never seen half."""
    made = ledgers()
    assert 0 == (PAGE | CHUNK | GROUP_BYTES) % WORD
    _, at, address, _ = Ledger(made, 1).take()
    assert (1, 0) == (at, address % WORD)
    assert shm_ledger.PAGE + WORD == address


def test_nobody_can_make_the_file_shorter() -> None:
    """A process that is not trusted cannot take the memory away under another's mapping."""
    made = ledgers()
    made.claim(1)
    with pytest.raises(PermissionError):
        os.ftruncate(made._fd, 0)
