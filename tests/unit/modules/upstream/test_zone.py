"""zone: all workers see the same peers, a killed one leaves no counts, a reload forgets nothing."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.core import errors, shm
from ngxstream.modules.upstream import peer_table, zone
from ngxstream.stream.upstream import UpstreamConf, UpstreamState
from tests.support.balancing import (
    SPEC,
    STEP,
    Clock,
    has_primary,
    numbered,
    play,
    session,
    take,
)
from tests.support.in_process import Built, build

SIZE = "zone z 32k;"


@contextmanager
def built(block: str, old: Built | None = None) -> Iterator[tuple[Built, UpstreamConf]]:
    """Build an upstream of this inside, and its zones as a cycle does after an older one."""
    made = build(f"stream {{ upstream u {{ {block} }} }}")
    assert made.conf is not None, made.error
    made.zones.build(None if old is None else old.zones)
    try:
        yield made, made.conf.upstreams[0]
    finally:
        made.zones.close(keep=None if old is None else old.zones)


def share(conf: UpstreamConf) -> None:
    """Put an upstream into a zone of its own."""
    table = peer_table.PeerTable(shm.Zone("z", 32768, "upstream"))
    table.next_configuration()
    zone.share(conf, table)


@pytest.mark.parametrize("method", ["round_robin", "least_conn", "hash", "consistent"])
@given(specs=st.lists(SPEC, min_size=1, max_size=5).filter(has_primary),
       steps=st.lists(STEP, max_size=25))
@settings(max_examples=30)
def test_shared_peers_are_balanced_by_the_same_rules(
    method: str, specs: list[dict[str, Any]], steps: list[tuple[str, int]]
) -> None:
    """Each method chooses among peers in shared memory as among its own."""
    play(specs, steps, method, lambda number: b"k%d" % (number % 4), share)


# -- several processes -------------------------------------------------------------------------


class Worker:
    """A forked process that does what it is told, one order at a time, and answers in text."""

    def __init__(self, obey: Callable[[str], str]) -> None:
        ours, theirs = os.pipe(), os.pipe()
        self.orders, self.answers = ours[1], theirs[0]
        self.pid = os.fork()
        if self.pid == 0:
            try:
                while order := os.read(ours[0], 100):
                    os.write(theirs[1], obey(order.decode()).encode() or b"-")
            finally:
                os._exit(1)
        os.close(ours[0])
        os.close(theirs[1])

    def do(self, order: str) -> str:
        """Have an order obeyed; return the answer."""
        os.write(self.orders, order.encode())
        return os.read(self.answers, 100).decode()

    def kill(self) -> int:
        """End the process by SIGKILL; return its pid."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.orders)
        os.close(self.answers)
        return self.pid


@contextmanager
def workers(count: int, conf: UpstreamConf) -> Iterator[list[Worker]]:
    """Fork workers that know the orders get, fail, free and conns."""
    clock = Clock()
    balancer: Any = conf.balancer
    held: list[Any] = []

    def obey(order: str) -> str:
        if order == "get":
            selection = balancer.select(session(clock))
            try:
                peer = selection.get()
            except errors.NoLivePeers:
                return "none"
            held.append((selection, peer))
            return str(peer.sockaddr[1])
        if order in ("fail", "free"):
            selection, peer = held.pop()
            selection.free(peer, order == "fail", UpstreamState(clock.now_ms))
            return "done"
        return " ".join(str(peer.state.conns) for peer in balancer.tier.peers)

    made = [Worker(obey) for _ in range(count)]
    try:
        yield made
    finally:
        for worker in made:
            if worker.orders >= 0:
                worker.kill()


TWO = "server 127.0.0.1:1; server 127.0.0.1:2;"


def test_workers_take_turns_together() -> None:
    """Round robin goes on from one worker to the next."""
    with built(SIZE + TWO) as (_, conf), workers(2, conf) as (one, two):
        assert ["1", "2", "1", "2"] == [w.do("get") for w in (one, two, two, one)]


def test_a_failure_in_one_worker_is_known_to_all() -> None:
    """A server that failed in one worker is out for the others too."""
    with built(SIZE + TWO) as (_, conf), workers(2, conf) as (one, two):
        one.do("get")
        one.do("fail")
        assert ["2", "2", "2"] == [two.do("get") for _ in range(3)]


@pytest.mark.parametrize("method", ["", "least_conn;", "random;", "random two;", "hash k;",
                                    "hash k consistent;", "least_time connect inflight;"])
def test_max_conns_holds_over_all_workers(method: str) -> None:
    """The sessions of all workers together stay within max_conns, whatever the method."""
    lines = f"{SIZE} {method} server 127.0.0.1:1 max_conns=2; server 127.0.0.1:2 max_conns=1;"
    with built(lines) as (_, conf), workers(3, conf) as group:
        got = [group[n % 3].do("get") for n in range(6)]
        assert {"1": 2, "2": 1, "none": 3} == Counter(got)
        group[0].do("free")
        assert "none" != group[1].do("get")


def test_the_only_server_is_shared_too() -> None:
    """max_conns of a single server counts the sessions of all workers."""
    with built(SIZE + "server 127.0.0.1:1 max_conns=2;") as (_, conf), workers(2, conf) as group:
        assert ["1", "1", "none"] == [group[n % 2].do("get") for n in range(3)]


def test_a_killed_worker_gives_its_sessions_back() -> None:
    """What a worker held when it was killed is free once the master has reaped it."""
    with built(SIZE + TWO) as (made, conf), workers(3, conf) as group:
        for n in range(9):
            group[n % 3].do("get")
        pid = group[0].kill()
        group[0].orders = -1
        assert "5 4" == group[1].do("conns")
        assert shm.reclaim(made.zones.zones(), pid, lambda text: None)
        left = [int(count) for count in group[1].do("conns").split()]
        assert 6 == sum(left)
        for worker in group[1:]:
            for _ in range(3):
                worker.do("free")
        assert "0 0" == group[1].do("conns")


def test_sessions_come_and_go_in_four_workers_without_a_lost_count() -> None:
    """Four processes that take and give back as fast as they can leave every count at zero."""
    with built(SIZE + TWO) as (_, conf):
        children = []
        for _ in range(4):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    clock = Clock()
                    balancer: Any = conf.balancer
                    for n in range(2000):
                        clock.now_ms += 1000
                        selection = balancer.select(session(clock))
                        with suppress(errors.NoLivePeers):
                            selection.free(selection.get(), n % 50 == 0)
                    code = 0
                finally:
                    os._exit(code)
            children.append(child)
        codes = [os.waitpid(child, 0)[1] for child in children]
        tier = conf.balancer.tier  # type: ignore[union-attr]
        assert ([0] * 4, [0, 0]) == (codes, [peer.state.conns for peer in tier.peers])


@pytest.mark.parametrize("lines", ["", SIZE])
@pytest.mark.parametrize("servers", [
    "server 127.0.0.1:1 max_conns=1;",
    "server 127.0.0.1:1;",
    "server 127.0.0.1:1 max_conns=1; server 127.0.0.1:2 backup;",
])
def test_what_begins_and_ends_at_once_is_counted_nowhere(lines: str, servers: str) -> None:
    """A peer that was chosen once has no more sessions then, and a full one is not chosen."""
    with built(lines + servers) as (_, conf):
        balancer: Any = conf.balancer
        peers = balancer.tier.peers
        for _ in range(3):
            assert peers[0] is balancer.select(session(Clock())).get_once()
            assert 0 == peers[0].state.conns
        held = balancer.select(session(Clock()))
        held.get()
        once = balancer.select(session(Clock())).get_once
        if "backup" in servers:
            assert "127.0.0.1:2" == once().name
        elif "max_conns" in servers:
            with pytest.raises(errors.NoLivePeers):
                once()
        else:
            once()
        assert 1 == peers[0].state.conns


def test_a_session_that_leaves_for_another_worker_is_counted_there_only() -> None:
    """It gives back what it holds here, and what it waits for, whatever others hold."""
    with built(SIZE + "least_time connect inflight;" + TWO) as (_, conf):
        balancer: Any = conf.balancer
        selections = [balancer.select(session(Clock())) for _ in range(4)]
        taken = [selection.get() for selection in selections]
        for selection, peer in zip(selections, taken, strict=True):
            selection.leave(peer)
        assert [(0, 0), (0, 0)] == [(p.state.conns, p.state.waiting) for p in balancer.tier.peers]


# -- reload ------------------------------------------------------------------------------------


def fail(conf: UpstreamConf, times: int = 1) -> None:
    """Let sessions fail on the servers they get."""
    balancer: Any = conf.balancer
    for _ in range(times):
        selection = balancer.select(session(Clock()))
        selection.free(selection.get(), True)


def fails(conf: UpstreamConf) -> dict[str, int]:
    """Return the failures of each peer by name."""
    tier: Any = conf.balancer.tier  # type: ignore[union-attr]
    return {peer.name: peer.state.fails for peer in tier.peers}


def test_a_reload_keeps_how_the_same_servers_fare() -> None:
    """Servers of the new configuration that the old one had keep failures and sessions."""
    with built(SIZE + TWO) as (old, before):
        fail(before)
        take(before.balancer.select(session(Clock())))  # type: ignore[union-attr]
        lines = SIZE + "server 127.0.0.1:3; server 127.0.0.1:1; server 127.0.0.1:2 weight=5;"
        with built(lines, old) as (_, after):
            expected = {"127.0.0.1:3": 0, "127.0.0.1:1": 1, "127.0.0.1:2": 0}
            assert expected == fails(after)
            conns = [peer.state.conns for peer in after.balancer.tier.peers]  # type: ignore[union-attr]
            assert [0, 0, 1] == conns


def test_a_new_weight_counts_at_once_though_old_workers_go_on() -> None:
    """After a reload with another weight the old workers' arithmetic does not spoil the new."""
    with built(SIZE + "server 127.0.0.1:1 weight=9; server 127.0.0.1:2;") as (old, before), \
            built(SIZE + TWO, old) as (_, after):
        fail(before)
        for _ in range(50):  # old workers let the weight grow back to 9
            take(before.balancer.select(session(Clock(2_000_000))))  # type: ignore[union-attr]
        tier: Any = after.balancer.tier  # type: ignore[union-attr]
        assert [1, 1] == [peer.state.effective_weight for peer in tier.peers]


def test_without_a_zone_a_reload_begins_anew() -> None:
    """Peers that are not shared are new with every configuration, as in nginx."""
    with built(TWO) as (old, before):
        fail(before)
        with built(TWO, old) as (_, after):
            assert {"127.0.0.1:1": 0, "127.0.0.1:2": 0} == fails(after)


def test_another_size_is_another_zone() -> None:
    """A zone whose size changes is made anew."""
    with built(SIZE + TWO) as (old, before):
        fail(before)
        with built("zone z 64k;" + TWO, old) as (_, after):
            assert {"127.0.0.1:1": 0, "127.0.0.1:2": 0} == fails(after)


def test_rows_of_servers_that_went_are_used_again() -> None:
    """Reloads with ever new servers do not fill a zone up; servers with sessions keep their row."""
    def lines(start: int) -> str:
        return SIZE + " ".join(f"server 127.0.0.1:{start + n};" for n in range(100))

    with built(lines(1)) as (first, conf):
        assert 1 == take(conf.balancer.select(session(Clock())))  # type: ignore[union-attr]
        old = first
        for start in (201, 401, 601):
            with built(lines(start), old) as (old, _):
                pass
        with built(lines(1), old) as (_, last):
            tier: Any = last.balancer.tier  # type: ignore[union-attr]
            assert [1, *[0] * 99] == [peer.state.conns for peer in tier.peers]


def test_two_upstreams_share_a_zone() -> None:
    """Equal servers of two upstreams in one zone fare each for itself."""
    made = build(
        f"stream {{ upstream a {{ zone z 64k; {TWO} }} upstream b {{ zone z; {TWO} }} }}"
    )
    made.zones.build()
    assert made.conf is not None
    a, b = made.conf.upstreams
    fail(a)
    assert (1, 0) == (sum(fails(a).values()), sum(fails(b).values()))
    made.zones.close()


def test_the_same_address_twice_is_two_peers() -> None:
    """Two server lines of one address have a row each."""
    with built(SIZE + "server 127.0.0.1:1; server 127.0.0.1:1;") as (_, conf):
        tier: Any = conf.balancer.tier  # type: ignore[union-attr]
        take(conf.balancer.select(session(Clock())))  # type: ignore[union-attr]
        assert [1, 0] == [peer.state.conns for peer in tier.peers]


# -- configuration -----------------------------------------------------------------------------


def test_a_zone_too_small_for_its_servers_is_refused() -> None:
    """More servers than the zone has room for is nginx's `no memory`."""
    made = build(f"stream {{ upstream u {{ {SIZE} {numbered([{}] * 129)} }} }}")
    with pytest.raises(errors.ConfError) as raised:
        made.zones.build()
    assert 'ngx_slab_alloc() failed: no memory in upstream zone "z"' == str(raised.value)
    made.zones.close()


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ('zone "" 64k;', 'invalid zone name ""'),
        ("zone z 64q;", 'invalid zone size "64q"'),
        ("zone z 31k;", 'zone "z" is too small'),
        ("zone z 1 2;", 'invalid number of arguments in "zone" directive'),
        ("zone z 32k; zone z 64k;",
         'the size 65536 of shared memory zone "z" conflicts with already declared size 32768'),
    ],
)
def test_zone_is_judged_as_in_nginx(lines: str, error: str) -> None:
    """What nginx refuses is refused in its words."""
    made = build(f"stream {{ upstream u {{ {lines} {TWO} }} }}")
    assert f"{error} in /p/conf/nginx.conf:1" == made.error


def test_a_zone_nobody_gave_a_size_is_refused_at_last() -> None:
    """A zone without a size must have one elsewhere."""
    made = build(f"stream {{ upstream u {{ zone z; {TWO} }} }}")
    assert "" == made.error
    with pytest.raises(errors.ConfError) as raised:
        made.zones.build()
    assert 'zero size shared memory zone "z"' == str(raised.value)


def test_resolving_needs_a_zone() -> None:
    """`resolve` is taken with a zone only."""
    made = build("stream { upstream u { server name:1 resolve; } }")
    assert (
        'resolving names at run time requires upstream "u" in /p/conf/nginx.conf:1'
        " to be in shared memory" == made.error
    )


@pytest.mark.parametrize("failed", [False, True])
def test_a_session_that_ends_is_counted_off_once(failed: bool) -> None:
    """Well or badly: the others of the same peer stay counted."""
    with built("zone z 32k; server 127.0.0.1:1; server 127.0.0.1:2 backup;") as (_, conf):
        balancer: Any = conf.balancer
        clock = Clock()
        selections = [balancer.select(session(clock)) for _ in range(3)]
        peers = [selection.get() for selection in selections]
        assert 3 == peers[0].state.conns
        selections[0].free(peers[0], failed)
        assert 2 == peers[1].state.conns


@pytest.mark.parametrize(
    ("lines", "late"),
    [
        (TWO, True),
        ("hash k;" + TWO, True),
        ("random;" + TWO, True),
        ("least_conn;" + TWO, False),
        ("least_time connect;" + TWO, False),
        ("random two;" + TWO, False),
        ("server 127.0.0.1:1 max_conns=9; server 127.0.0.1:2 max_conns=9;", False),
        ("server 127.0.0.1:1;", False),
    ],
)
def test_other_workers_see_late_what_nobody_chooses_by(lines: str, late: bool) -> None:
    """Sessions that ended are given back at the end of the turn where the count decides nothing."""
    with built(SIZE + lines) as (_, conf):
        balancer: Any = conf.balancer
        clock = Clock(turns=True)
        tally = conf.zone.zone.data.tallies["conns"]  # type: ignore[union-attr]
        ended = [balancer.select(session(clock)) for _ in range(3)]
        for selection, peer in [(selection, selection.get()) for selection in ended]:
            selection.free(peer, False)
        rows = [peer.state.row for peer in balancer.tier.peers]
        assert [0] * len(rows) == [peer.state.conns for peer in balancer.tier.peers]
        assert 3 * late == sum(tally.total(row) for row in rows)
        clock.turn()
        assert 0 == sum(tally.total(row) for row in rows)


def test_a_session_that_begins_takes_the_place_of_one_that_ended() -> None:
    """Whatever ends and begins within a turn, the count is right at its end, and there already."""
    with built(SIZE + TWO) as (_, conf):
        balancer: Any = conf.balancer
        clock = Clock(turns=True)
        for _ in range(7):
            selection = balancer.select(session(clock))
            selection.free(selection.get(), False)
        held = [balancer.select(session(clock)) for _ in range(3)]
        taken = Counter(selection.get().name for selection in held)
        for _ in range(2):
            counted = {peer.name: peer.state.conns for peer in balancer.tier.peers}
            assert taken == counted
            clock.turn()
        tally = conf.zone.zone.data.tallies["conns"]  # type: ignore[union-attr]
        rows = [peer.state.row for peer in balancer.tier.peers]
        assert 3 == sum(tally.total(row) for row in rows)


def test_what_a_killed_worker_owes_is_given_back() -> None:
    """A worker that dies before the end of the turn in which a session ended leaves no count."""
    with built(SIZE + TWO) as (made, conf):
        balancer: Any = conf.balancer
        pid = os.fork()
        if pid == 0:
            clock = Clock(turns=True)
            selections = [balancer.select(session(clock)) for _ in range(4)]
            for selection, peer in [(each, each.get()) for each in selections]:
                selection.free(peer, False)
            os._exit(0)
        os.waitpid(pid, 0)
        assert [2, 2] == [peer.state.conns for peer in balancer.tier.peers]
        assert shm.reclaim(made.zones.zones(), pid, lambda text: None)
        assert [0, 0] == [peer.state.conns for peer in balancer.tier.peers]


@pytest.mark.parametrize(
    "method", ["", "least_conn;", "hash k;", "random two;", "least_time connect;"]
)
@pytest.mark.parametrize("word", [(1 << 63) - 1, -(1 << 63), 1 << 31, -1])
def test_cells_that_another_process_has_spoiled_end_in_no_exception(method: str, word: int) -> None:
    """Sessions go on: a server is chosen, or there is none."""
    for place in range(peer_table.CELLS):
        built = build(f"""stream {{
            upstream u {{
                zone z 64k; {method} server 127.0.0.1:1 max_fails=2; server 127.0.0.1:2;
                server 127.0.0.1:3 max_conns=2;
            }}
            server {{ listen 127.0.0.1:1; proxy_pass u; }}
        }}""")
        assert built.conf is not None
        built.zones.build()
        conf = built.conf.upstreams.first("u")
        assert conf is not None
        assert conf.balancer is not None
        for peer in conf.balancer.tier.peers:
            peer.state.cells[place] = word
        for failed in (True, False):
            selection = conf.balancer.select(session(Clock()))
            try:
                peer = selection.get()
            except errors.NoLivePeers:
                continue
            selection.free(peer, failed)
        built.zones.close()


def test_who_is_removed_or_set_down_is_dropped_and_nobody_else() -> None:
    """In every process that has the peer; one that comes to the row later is not."""
    with built(f"{SIZE} server 127.0.0.1:1; server 127.0.0.1:2;") as (_, conf):
        one, two = peers = conf.balancer.tier.peers  # type: ignore[union-attr]
        table = conf.zone.zone.data  # type: ignore[union-attr]
        assert [False, False] == [peer.state.is_dropped for peer in peers]
        before = conf.withdrawals[0]  # type: ignore[index]
        with table.zone.lock:
            table.release(one.state.row, "u")
        assert [True, False] == [peer.state.is_dropped for peer in peers]
        assert [True, False] == [peer.state.is_withdrawn for peer in peers]
        assert before + 1 == conf.withdrawals[0]  # type: ignore[index]
        assert not table.state(one, one.state.row).is_dropped
        two.state.note_withdrawal()
        assert before + 2 == conf.withdrawals[0]  # type: ignore[index]
        assert not two.state.is_withdrawn


@given(word=st.integers(-(1 << 63), (1 << 63) - 1))
def test_counts_of_withdrawals_that_another_process_has_spoiled_are_counts(word: int) -> None:
    """Whatever they say: dropping goes on."""
    with built(f"{SIZE} server 127.0.0.1:1; server 127.0.0.1:2;") as (_, conf):
        one, _two = conf.balancer.tier.peers  # type: ignore[union-attr]
        table = conf.zone.zone.data  # type: ignore[union-attr]
        table.withdrawals[0] = table._drops[one.state.row] = word
        table.drop(one.state.row)
        assert word != table.drops(one.state.row)
        assert word != conf.withdrawals[0]  # type: ignore[index]
