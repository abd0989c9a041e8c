"""Changes of a group by several workers at once: none is lost, none is half made."""

from __future__ import annotations

import errno
import gc
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ngxstream.core import shm, state_files
from ngxstream.event.loop import Loop
from ngxstream.modules.upstream import changes, roster, state
from ngxstream.stream.api import ApiError
from tests.support import descriptors
from tests.support.engine import engine, run_until
from tests.support.forks import Held
from tests.support.groups import Steered
from tests.support.moving_clock import MovingClock
from tests.support.waiting import wait_until

PATH = "/stream/upstreams/u/servers"
Make = Callable[..., Steered]
EACH = 12


def insist(one: Steered, *words: Any) -> tuple[int, Any]:
    """Ask, and ask again where others held the lock for too long: the machine may be busy."""

    def asked() -> tuple[int, Any] | None:
        status, found = one.ask(*words)
        return None if status == 503 else (status, found)

    answer: tuple[int, Any] = wait_until(asked)
    return answer


def add(one: Steered, first: int) -> None:
    """Add EACH servers, one after the other, changing and removing some on the way."""
    for n in range(EACH):
        status, found = insist(one, "POST", PATH, {"server": f"127.0.0.1:{first + n}"})
        assert 201 == status, found
        assert 200 == insist(one, "PATCH", f"{PATH}/{found['id']}", {"weight": n + 1})[0]
        if n % 3 == 0:
            assert 200 == insist(one, "DELETE", f"{PATH}/{found['id']}")[0]


def wanted(*firsts: int) -> list[str]:
    """Return the servers that are left of those that add() made."""
    return [f"127.0.0.1:{first + n}" for first in firsts for n in range(EACH) if n % 3]


@pytest.mark.parametrize("kept", [False, True])
def test_workers_that_change_at_the_same_time_lose_nothing(
    steered: Make, tmp_path: Path, kept: bool
) -> None:
    """Each sees what the other did; so does the file."""
    path = tmp_path / "u.conf"
    one = steered(f"upstream u {{ zone z 64k; {f'state {path};' if kept else ''} }}")
    children = []
    for first in (100, 200):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with engine() as loop:
                    one.loop = loop
                    add(one, first)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    add(one, 300)
    assert [0, 0] == [os.waitpid(child, 0)[1] for child in children]
    assert sorted(wanted(100, 200, 300)) == sorted(one.servers())
    assert {n + 1 for n in range(EACH) if n % 3} == {
        peer.weight for peer in one.group().tier.peers
    }
    if kept:
        text = state.text_of(one.group().lines)
        assert text == path.read_bytes()
        assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize("step", ["put", "weigh", "release", "move"])
def test_a_worker_that_dies_in_a_change_leaves_all_or_nothing(
    steered: Make, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The others go on, and can change the group."""
    one = steered("upstream u { zone z 64k; server 127.0.0.1:1; server 127.0.0.1:2; }")
    group = one.group()
    body = [{"id": 0, "server": "127.0.0.1:9"}, {"server": "127.0.0.1:3", "weight": 2}]

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        target: Any = roster.Roster if step == "put" else type(group.table)
        monkeypatch.setattr(target, step, die)
        one.own("PUT", "/upstreams/u/servers", body)
        os._exit(1)
    assert signal.SIGKILL == os.waitpid(child, 0)[1]
    before = ["127.0.0.1:1", "127.0.0.1:2"]
    assert (before if step == "put" else ["127.0.0.1:9", "127.0.0.1:3"]) == one.servers()
    assert 201 == one.ask("POST", PATH, {"server": "127.0.0.1:4"})[0]
    assert "127.0.0.1:4" == one.servers()[-1]
    assert 200 == one.own("PUT", "/upstreams/u/servers", [])[0]


def test_who_waits_for_too_long_is_told(
    steered: Make, loop: Loop, clock: MovingClock, tmp_path: Path
) -> None:
    """Another worker that stands still in a change keeps nobody for ever; then it goes on."""
    one = steered("upstream u { zone z 64k; }")
    lock = one.group().table.zone.lock
    number = shm.CHANGING + one.group().index
    held = Held(lambda: lock.take(number))
    try:
        reply = one.reply(
            "POST", PATH, {"server": "127.0.0.1:1"},
            turn=lambda: clock.move(loop, changes.LOCK_MS // 4),
        )
    finally:
        held.kill()
    assert isinstance(reply, ApiError)
    assert (503, "Unavailable") == (reply.status, reply.code)
    assert 201 == one.ask("POST", PATH, {"server": "127.0.0.1:1"})[0]


def test_a_disk_that_takes_too_long_is_not_waited_for(
    steered: Make, loop: Loop, clock: MovingClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change is refused; what the disk does later is not taken."""
    path = tmp_path / "u.conf"
    one = steered(f"upstream u {{ zone z 64k; state {path}; }}")
    gate = threading.Event()
    write = state_files.write

    def slow(*args: Any) -> None:
        gate.wait()
        write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(state_files, "write", slow)
        reply = one.reply(
            "POST", PATH, {"server": "127.0.0.1:1"},
            turn=lambda: clock.move(loop, changes.DISK_MS // 4),
        )
        assert isinstance(reply, ApiError)
        assert "state file cannot be written: Connection timed out" == reply.text
    gate.set()
    assert 201 == one.ask("POST", PATH, {"server": "127.0.0.1:2"})[0]
    assert ["127.0.0.1:2"] == one.servers()
    assert "127.0.0.1:1" not in path.read_text()


def test_a_worker_that_is_leaving_changes_nothing(steered: Make, loop: Loop) -> None:
    """What it knows is a former configuration's."""
    one = steered("upstream u { zone z 64k; }")
    loop.exiting = True
    assert (503, "Unavailable") == one.ask("POST", PATH, {"server": "127.0.0.1:1"})


def test_changes_are_made_in_the_order_in_which_they_are_asked_for(
    steered: Make, loop: Loop, tmp_path: Path
) -> None:
    """Also where each has to wait for the disk."""
    one = steered(f"upstream u {{ zone z 64k; state {tmp_path / 'u.conf'}; }}")
    ends: list[Any] = []
    asked = loop.get(changes.Changes)
    for n in range(1, 6):
        line = roster.Line(-1, f"127.0.0.1:{n}", f"127.0.0.1:{n}")
        asked.ask(one.group(), lambda lines, line=line: [*lines, line], ends.append)
    run_until(loop, lambda: len(ends) == 5)
    assert [1, 2, 3, 4, 5] == [len(lines) for lines in ends]
    assert [f"127.0.0.1:{n}" for n in range(1, 6)] == one.servers()


def test_a_fault_of_ours_lets_the_next_change_through(steered: Make, loop: Loop) -> None:
    """It is told of, and the lock is free."""
    one = steered("upstream u { zone z 64k; }")
    ends: list[Any] = []

    def fail(_: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop.get(changes.Changes).ask(one.group(), fail, ends.append)
    assert [500] == [end.status for end in ends]
    assert 201 == one.ask("POST", PATH, {"server": "127.0.0.1:1"})[0]


def test_nothing_is_changed_while_another_configuration_reads_the_file(
    steered: Make, tmp_path: Path
) -> None:
    """It would be lost with this one; where the other is refused, this one is changed again."""
    path = tmp_path / "u.conf"
    one = steered(
        f"upstream u {{ zone z 64k; state {path}; }} upstream v {{ zone z; server 127.0.0.1:9; }}"
    )
    assert 201 == one.ask("POST", PATH, {"server": "127.0.0.1:1"})[0]
    before = path.read_bytes()
    one.stream.suspend()
    assert (503, "Unavailable") == one.ask("POST", PATH, {"server": "127.0.0.1:2"})
    assert before == path.read_bytes()
    assert ["127.0.0.1:1"] == one.servers()
    v = "/stream/upstreams/v/servers"
    assert 201 == one.ask("POST", v, {"server": "127.0.0.1:3"})[0], "no file keeps this one"
    one.stream.resume()
    assert 201 == one.ask("POST", PATH, {"server": "127.0.0.1:2"})[0]


def test_a_change_that_is_being_written_when_another_configuration_comes_is_undone(
    steered: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is as the other one may have read it, and nothing lies beside it."""
    path = tmp_path / "u.conf"
    one = steered(f"upstream u {{ zone z 64k; state {path}; }}")
    assert 201 == one.ask("POST", PATH, {"server": "127.0.0.1:1"})[0]
    before = path.read_bytes()
    write = state_files.write

    def late(*args: Any) -> None:
        write(*args)
        one.stream.suspend()

    with monkeypatch.context() as patch:
        patch.setattr(state_files, "write", late)
        assert (503, "Unavailable") == one.ask("POST", PATH, {"server": "127.0.0.1:2"})
    assert before == path.read_bytes()
    assert [path] == list(tmp_path.iterdir())
    one.stream.resume()
    assert ["127.0.0.1:1"] == one.servers()
    status, found = one.ask("POST", PATH, {"server": "127.0.0.1:2"})
    assert (201, 1) == (status, found["id"])


def test_the_master_waits_for_who_is_about_to_take_the_file_s_place(
    steered: Make, tmp_path: Path
) -> None:
    """Though not for one that stands still."""
    one = steered(f"upstream u {{ zone z 64k; state {tmp_path / 'u.conf'}; }}")
    group = one.group()
    seen: list[bool] = []
    take = group.table.zone.lock.soon

    def soon(number: int, patience_s: float) -> Any:
        seen.append(group.roster.is_closed)
        return take(number, patience_s)

    held = Held(lambda: group.table.zone.lock.take(group.lock))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shm.Lock, "soon", lambda _, number, patience_s: soon(number, patience_s))
            one.stream.suspend()
    finally:
        held.kill()
    assert [True] == seen


def test_a_configuration_that_was_refused_takes_no_rows_away(steered: Make, loop: Loop) -> None:
    """Where the zone is full, a new server gets none of a server that is there."""
    one = steered("upstream u { zone z 64k; } upstream v { zone z; server 127.0.0.1:9; }")
    table = one.group().table
    other = Steered(loop, "upstream u { zone z 64k; }", old=one)
    other.close(one)
    one.stream.resume()
    body = [{"server": f"127.0.0.1:{n}"} for n in range(1, table.capacity)]
    assert 200 == one.own("PUT", "/upstreams/u/servers", body)[0]
    other = Steered(loop, "upstream u { zone z 64k; }", old=one)
    other.close(one)
    one.stream.resume()
    assert (400, "UpstreamOutOfMemory") == one.ask("POST", PATH, {"server": "127.0.0.2:1"})
    assert table.capacity - 1 == len({line.id for line in one.group().lines})


def test_reloads_in_one_process_leave_no_descriptors(
    steered: Make, loop: Loop, tmp_path: Path
) -> None:
    """What waited for the disk goes with its configuration."""
    text = f"upstream u {{ zone z 64k; state {tmp_path / 'u.conf'}; }}"
    one = steered(text)
    counts = []
    for n in range(1, 5):
        assert 201 == one.ask("POST", PATH, {"server": f"127.0.0.1:{n}"})[0]
        new = steered(text, old=one)
        one.stream.stop_worker(loop)
        one = new
        # the folder is synced behind the answer, by a thread that may be at it still
        wait_until(lambda: not any(one.name == "offload" for one in threading.enumerate()))
        gc.collect()
        counts.append(descriptors.count())
    assert counts[1] == counts[-1]


def test_a_server_that_is_gone_when_its_addition_is_told_is_answered_so(
    steered: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another client may remove it at that moment, or a worker of another user spoil the list."""
    one = steered(f"upstream u {{ zone z 64k; state {tmp_path / 'u.conf'}; }}")
    publish = changes.Plan.publish

    def then_removed(plan: changes.Plan) -> None:
        publish(plan)
        with one.group().table.zone.lock:
            one.group().roster.put([])

    with monkeypatch.context() as patch:
        patch.setattr(changes.Plan, "publish", then_removed)
        assert (404, "UpstreamServerNotFound") == one.ask("POST", PATH, {"server": "127.0.0.1:1"})

    def spoiled(plan: changes.Plan) -> None:
        one.group().roster.put([])
        one.group().catch_up()

    with monkeypatch.context() as patch:
        patch.setattr(changes.Plan, "publish", spoiled)
        assert (500, "InternalError") == one.ask("POST", PATH, {"server": "127.0.0.1:1"})


@pytest.mark.parametrize("word", [-1, -(1 << 63), 1 << 16, (1 << 63) - 1])
def test_numbers_of_a_zone_that_make_no_sense_end_in_no_exception(
    steered: Make, loop: Loop, word: int
) -> None:
    """Another user's worker may have written them: changes are made or refused, and told."""
    for place in range(4):
        one = steered("upstream u { zone z 64k; server 127.0.0.1:1; }")
        one.group().table._state[place] = word
        assert one.ask("POST", PATH, {"server": "127.0.0.1:2"})[0] in (201, 400, 500)
        assert 200 == one.own("PUT", "/upstreams/u/servers", [{"server": "127.0.0.1:1"}])[0]
        one.group().table._state[place] = word
        one.stream.resume()
        Steered(loop, "upstream u { zone z 64k; server 127.0.0.1:1; }", old=one).close(one)
        assert one.group().table.zombies("u") >= 0
        usage = one.group().table.usage()
        assert 0 <= usage.used <= usage.used + usage.free == one.group().table.capacity


@pytest.mark.parametrize("method", ["", "hash k;", "hash k consistent;"])
def test_nobody_has_a_ring_of_a_billion_points_laid_out(steered: Make, method: str) -> None:
    """Neither a client, nor another user's worker: it would hold up all others."""
    one = steered(f"upstream u {{ zone z 64k; {method} server 127.0.0.1:1; server 127.0.0.1:2; }}")
    status, found = one.ask("PATCH", f"{PATH}/0", {"weight": 65_535})
    if "consistent" in method:
        assert (400, "UpstreamBadWeight") == (status, found)
        assert 200 == one.ask("PATCH", f"{PATH}/0", {"weight": 100})[0]
        new = {"server": "127.0.0.1:3", "weight": 101}
        assert (400, "UpstreamBadWeight") == one.ask("POST", PATH, new)
    else:
        assert 200 == status
    lines = one.group().lines
    one.group().roster.put([
        lines[0]._replace(weight=1 << 62).encode(), lines[1]._replace(weight=7).encode()
    ])
    assert ["127.0.0.1:2"] == one.servers()


def test_in_a_full_zone_a_server_takes_the_place_of_one_that_was_removed(steered: Make) -> None:
    """Of that alone."""
    one = steered("upstream u { zone z 64k; }")
    most = one.group().table.capacity
    body = [{"server": f"127.0.0.1:{n}"} for n in range(1, most + 1)]
    assert 200 == one.own("PUT", "/upstreams/u/servers", body)[0]
    for number in (7, most - 1):
        assert (400, "UpstreamOutOfMemory") == one.ask("POST", PATH, {"server": "127.0.0.2:1"})
        assert 200 == one.ask("DELETE", f"{PATH}/{number}")[0]
        status, found = one.ask("POST", PATH, {"server": f"127.0.0.3:{number}"})
        assert (201, number) == (status, found["id"])
    assert (400, "UpstreamOutOfMemory") == one.ask("POST", PATH, {"server": "127.0.0.2:1"})


def test_a_change_that_fails_takes_no_row(
    steered: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one of the zone is there for the next server."""
    one = steered(f"upstream u {{ zone z 64k; state {tmp_path / 'u.conf'}; }}")
    most = one.group().table.capacity
    body = [{"server": f"127.0.0.1:{n}"} for n in range(1, most)]
    assert 200 == one.own("PUT", "/upstreams/u/servers", body)[0]

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for target in ("write", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(state_files, target, refuse)
            assert (500, "StateNotWritten") == one.ask("POST", PATH, {"server": "127.0.0.2:1"})
    assert 201 == one.ask("POST", PATH, {"server": "127.0.0.3:1"})[0]
    assert (400, "UpstreamOutOfMemory") == one.ask("POST", PATH, {"server": "127.0.0.4:1"})
