"""What the API says of workers."""

import json
import os
import signal

from ngxstream.event import drops
from ngxstream.process import status_workers
from ngxstream.process import worker_facts as w
from tests.support import api_calls, families, forks, processes
from tests.support.api_calls import OWN, PLUS, delete, get
from tests.support.clients import TcpClient, UdpClient, tcp_exchange
from tests.support.proxies import ProxyFactory
from tests.support.waiting import wait_until
from tests.unit.process.test_status import conf, served, world

__all__ = ["served", "world"]

ECHO = "server { listen 127.0.0.1:@a@; proxy_pass 127.0.0.1:@b@; } "
HOLD = "server { listen 127.0.0.1:@b@; ssl_preread on; preread_timeout 60s; return x; }"


def test_workers_are_listed_as_nginx_plus_does(ngxstream: ProxyFactory) -> None:
    """An array by number; one by itself; what is no worker's number is not found."""
    program = ngxstream(conf(head="worker_processes 3;"))
    said = get(program, f"{PLUS}/workers/")
    assert [0, 1, 2] == [one["id"] for one in said]
    assert program.worker_pids() == sorted(one["pid"] for one in said)
    assert {"accepted", "dropped", "active", "idle"} == set(said[0]["connections"])
    assert {"requests": {"total": 0, "current": 0}} == said[0]["http"]
    assert said[1]["pid"] == get(program, f"{PLUS}/workers/1/?fields=pid")["pid"]
    assert [{"id": n} for n in range(3)] == get(program, f"{PLUS}/workers?fields=id")
    for path in ("3", "x", "-1", "01"):
        status, _, body = api_calls.call(program, f"{PLUS}/workers/{path}")
        assert (404, True) == (status, b'"WorkerNotFound"' in body)
    assert 204 == delete(program, f"{PLUS}/workers/2/")
    assert 204 == delete(program, f"{PLUS}/workers")
    assert 404 == delete(program, f"{PLUS}/workers/3")


def test_clients_of_each_worker_are_counted_until_somebody_begins_anew(
    ngxstream: ProxyFactory,
) -> None:
    """All of them together are what /connections says; one alone can begin anew."""
    program = ngxstream(conf("server { listen 127.0.0.1:@a@; return a; }", "worker_processes 2;"))
    for _ in range(8):
        assert b"a" == tcp_exchange(program.address("a"))

    def accepted() -> list[int]:
        return [one["connections"]["accepted"] for one in get(program, f"{PLUS}/workers")]

    wait_until(lambda: 9 <= sum(accepted()))  # they are counted within a moment
    assert sum(accepted()) <= get(program, f"{PLUS}/connections")["accepted"]
    busy = max((0, 1), key=lambda n: accepted()[n])
    other = accepted()[1 - busy]
    assert 204 == delete(program, f"{PLUS}/workers/{busy}")
    assert accepted()[busy] <= 4
    assert other <= accepted()[1 - busy]
    assert 204 == delete(program, f"{PLUS}/workers")
    assert sum(accepted()) <= 4


def test_workers_that_were_started_anew_are_counted(ngxstream: ProxyFactory) -> None:
    """Until somebody begins anew; the one that is new has the number of the dead one."""
    program = ngxstream(conf(head="worker_processes 2;"), expected=(r"exited on signal 9",))
    assert {"respawned": 0} == get(program, f"{PLUS}/processes")
    before = get(program, f"{PLUS}/workers")
    os.kill(before[1]["pid"], signal.SIGKILL)
    wait_until(lambda: get(program, f"{PLUS}/processes") == {"respawned": 1})
    now = wait_until(lambda: len(said := get(program, f"{PLUS}/workers")) == 2 and said)
    assert before[0]["pid"] == now[0]["pid"]
    assert 1 == now[1]["id"]
    assert before[1]["pid"] != now[1]["pid"]
    assert 204 == delete(program, f"{PLUS}/processes")
    assert {"respawned": 0} == get(program, f"{PLUS}/processes")
    program.reload()
    assert {"respawned": 0} == get(program, f"{PLUS}/processes")


def test_a_master_that_is_gone_is_told_of(ngxstream: ProxyFactory) -> None:
    """Its workers say so; clients are served, so /healthz stays good."""
    program = ngxstream(conf(head="worker_processes 2;"))
    master = program.pid
    assert {"pid": master, "state": "running"} == get(program, f"{OWN}/workers")["master"]
    orphans = program.worker_pids()
    os.kill(master, signal.SIGKILL)
    wait_until(lambda: get(program, f"{OWN}/workers")["master"]["state"] == "gone")
    assert {"pid": master, "state": "gone"} == get(program, f"{OWN}/workers")["master"]
    assert master == get(program, f"{PLUS}/nginx")["ppid"]  # who started the worker
    assert b"\nngxstream_master_up 0\n" in api_calls.call(program, "/metrics")[2]
    assert 200 == api_calls.call(program, "/healthz")[0]
    for pid in orphans:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(map(processes.is_alive, orphans)))


def test_a_worker_that_stands_still_is_told_of(ngxstream: ProxyFactory) -> None:
    """By its pid, until its loop goes on; it is listed all the same."""
    program = ngxstream(conf(head="worker_processes 2;"))
    assert [] == get(program, f"{OWN}/workers")["silent"]
    stuck = program.worker_pids()[1]
    os.kill(stuck, signal.SIGSTOP)
    try:
        wait_until(lambda: get(program, f"{OWN}/workers")["silent"] == [stuck])
        assert b"\nngxstream_workers_silent 1\n" in api_calls.call(program, "/metrics")[2]
        assert 2 == len(get(program, f"{OWN}/workers")["workers"])
    finally:
        os.kill(stuck, signal.SIGCONT)
    wait_until(lambda: get(program, f"{OWN}/workers")["silent"] == [])


def test_without_master_process_there_is_none(ngxstream: ProxyFactory) -> None:
    """The only process is not an orphan's."""
    program = ngxstream(conf(head="master_process off;"))
    assert {"pid": None, "state": "none"} == get(program, f"{OWN}/workers")["master"]
    assert b"\nngxstream_master_up 1\n" in api_calls.call(program, "/metrics")[2]


def test_a_worker_that_leaves_is_shown_until_its_last_session_ends(ngxstream: ProxyFactory) -> None:
    """With its generation and its sessions; NGINX Plus's list has those that serve."""
    program = ngxstream(conf(HOLD))
    (old,) = get(program, f"{OWN}/workers")["workers"]
    with TcpClient(program.address("b")):
        wait_until(lambda: get(program, f"{OWN}/workers")["workers"][0]["sessions"]["tcp"] == 2)
        program.reload()
        new, left = wait_until(lambda: len(said := workers(program)) == 2 and said)
        assert ("serving", 2, 0) == (new["state"], new["generation"], new["id"])
        assert ("leaving", 1, old["pid"]) == (left["state"], left["generation"], left["pid"])
        assert 1 == left["sessions"]["tcp"] == left["connections"]["active"]
        assert [new["pid"]] == [one["pid"] for one in get(program, f"{PLUS}/workers")]
    wait_until(lambda: [new["pid"]] == [one["pid"] for one in workers(program)])
    wait_until(lambda: not processes.is_alive(old["pid"]))


def workers(program):
    """Return what is said of all workers."""
    return get(program, f"{OWN}/workers")["workers"]


def test_what_a_worker_has_is_shown(ngxstream: ProxyFactory, backends) -> None:
    """Its sessions of both kinds, its turns, its memory, how late its loop was."""
    server = f"server {{ listen 127.0.0.1:@u@ udp; proxy_pass {backends.udp().text}; }}"
    program = ngxstream(conf(server))
    with UdpClient(program.address("u")) as client:
        client.send(b"x")
        client.recv()
        (said,) = wait_until(lambda: workers(program)[0]["sessions"]["udp"] == 1
                             and workers(program))
    assert {"tcp": 1, "udp": 1} == said["sessions"]
    assert said["turns"] > 0
    assert said["memory_bytes"] > 1 << 20
    assert 0 <= said["loop_delay_ms"]["p50"] <= said["loop_delay_ms"]["p99"]
    assert said["loop_delay_ms"]["p99"] <= said["loop_delay_ms"]["max"]
    drops = said["udp"].pop("drops")
    assert {"gro": False, "gso": True, "held": 0, "queued": 0, "evicted": 0, "drains": 1,
            "datagrams": 1} == said["udp"]
    assert {0} == set(drops.values())


def test_drops_are_shown_by_reason(ngxstream: ProxyFactory) -> None:
    """Those that this program decides upon, and those of the kernel."""
    program = ngxstream(conf(
        "server { listen 127.0.0.1:@u@ udp proxy_protocol; return x; }"
    ))
    with UdpClient(program.address("u")) as client:
        for _ in range(3):
            client.send(b"no header")
        drops = wait_until(lambda: workers(program)[0]["udp"]["drops"]["proxy_protocol"] == 3
                           and workers(program)[0]["udp"]["drops"])
    assert {"proxy_protocol": 3} == {reason: n for reason, n in drops.items() if n}
    assert "kernel" in drops


# -- metrics ---------------------------------------------------------------------------------------


def test_prometheus_is_told_of_workers(served: families.Served) -> None:
    """By the names of the exporter, and ours; how late loops were is a histogram in seconds."""
    cells = status_workers.cells_of(served.cycle)
    assert cells is not None
    row = served.loop.cells
    for place, count in ((0, 7), (3, 2), (len(w.LABELS) - 1, 1)):
        row[cells.delays[place].at] += count
    row[cells.delay_sum.at] += 6020
    row[cells.drops[drops.HELD].at] += 4
    said = served.samples(status_workers.MODULE)
    pid = os.getpid()
    names = ("accepted", "dropped", "active", "idle")
    assert dict.fromkeys(
        (f'nginxplus_worker_connection_{name}{{id="0",pid="{pid}"}}' for name in names), 0
    ).items() <= said.items()
    assert {
        'ngxstream_loop_delay_seconds_bucket{le="0.001"}': 7,
        'ngxstream_loop_delay_seconds_bucket{le="0.01"}': 9,
        'ngxstream_loop_delay_seconds_bucket{le="5"}': 9,
        'ngxstream_loop_delay_seconds_bucket{le="+Inf"}': 10,
        "ngxstream_loop_delay_seconds_sum": 6.02, "ngxstream_loop_delay_seconds_count": 10,
        'ngxstream_datagrams_dropped_total{reason="held"}': 4,
        'ngxstream_datagrams_dropped_total{reason="kernel"}': 0,
        "ngxstream_worker_respawns_total": 0, "ngxstream_udp_sessions": 0,
    }.items() <= said.items()
    assert said[f'ngxstream_worker_memory_bytes{{id="0",pid="{pid}"}}'] > 1 << 20


def test_a_worker_that_has_stopped_is_none(served: families.Served) -> None:
    """It tells no more of itself."""
    stream = served.cycle.stream
    assert stream is not None
    assert [os.getpid()] == [row.pid for row in status_workers.Workers(served.loop, stream).rows]
    served.service.stop()
    assert [] == status_workers.Workers(served.loop, stream).rows


def test_what_another_worker_has_spoiled_is_not_believed(served: families.Served) -> None:
    """Any numbers in its row and in what was reset: nothing fails, nothing is below 0."""
    cells = status_workers.cells_of(served.cycle)
    assert cells is not None
    board = served.cycle.board
    assert board is not None

    def spoil() -> None:
        row = served.cycle.rows.cells
        for n, cell in enumerate(cells.gauges.values()):
            row[cell.at] = (-1 << 63, -1, (1 << 63) - 1)[n % 3]
        row[cells.gauges[w.STATE].at] = w.SERVING
        board.bases._words[0] = -1 << 63
        board.bases._words[1] = os.getpid()
        board.bases._words[2] = (1 << 63) - 1

    held = forks.Held(spoil)
    try:
        workers = status_workers.Workers(served.loop, served.cycle.stream)
        assert {held.pid, os.getpid()} == {row.pid for row in workers.rows}
        for row in workers.rows:
            assert json.dumps(status_workers._ours(workers, row))
            assert min(workers.connections(row).values()) == 0
        assert served.samples(status_workers.MODULE)
    finally:
        held.kill()
