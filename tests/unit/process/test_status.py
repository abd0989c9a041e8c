"""What the API says of the program: what serves since when, reloads, log lines."""

import json
import platform
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest

from ngxstream import NGINX_VERSION, VERSION
from ngxstream.core import clock, log
from ngxstream.event.loop import Loop
from ngxstream.process import directives, status
from ngxstream.process.board import Load
from ngxstream.stream import api
from tests.support import api_calls, families, ports, processes
from tests.support.api_calls import OWN, PLUS, get
from tests.support.backends import BackendFactory
from tests.support.clients import TcpClient, UdpClient, tcp_exchange
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import wait_until
from tests.unit.process.test_cycle import EVENTS, HEAD, World, world

__all__ = ["world"]

API = "server { listen 127.0.0.1:@api@; api write=on; }"
CONF = f"error_log logs/error.log notice; events {{}} stream {{ {API} MORE }}"


def conf(more: str = "", head: str = "") -> str:
    """Return a configuration with an api."""
    return head + CONF.replace("MORE", more)


def lines(program: Proxy, **args: object) -> list[dict[str, object]]:
    """Return lines of the log."""
    query = "&".join(f"{name}={quote(str(value))}" for name, value in args.items())
    found: list[dict[str, object]] = get(program, f"{OWN}/log?{query}")["lines"]
    return found


# -- what serves -----------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["", "master_process off;"])
def test_the_program_says_what_it_is(ngxstream: ProxyFactory, head: str) -> None:
    """Version, worker, master and times, or only the fields that are asked for."""
    before_ms = int(time.time() * 1000)
    program = ngxstream(conf(head=head))
    said = get(program, f"{PLUS}/nginx")
    loaded_ms, now_ms = (
        clock.parse_rfc3339(said.pop(name)) for name in ("load_timestamp", "timestamp")
    )
    assert before_ms <= loaded_ms <= now_ms <= int(time.time() * 1000)
    worker = program.pid if head else program.worker_pids()[0]
    assert {
        "version": NGINX_VERSION, "build": f"ngxstream-{VERSION}", "address": "127.0.0.1",
        "generation": 1, "pid": worker, "ppid": processes.parent(worker),
    } == said
    assert {"pid": worker} == get(program, f"{PLUS}/nginx/?fields=pid,nothing")
    assert get(program, f"{PLUS}/nginx").keys() == get(program, f"{PLUS}/nginx?fields=").keys()


def test_there_is_no_license(ngxstream: ProxyFactory) -> None:
    """Who asks hears that there is nothing, and no index names it."""
    program = ngxstream(conf())
    status_, _, body = api_calls.call(program, f"{PLUS}/license")
    assert (404, "PathNotFound") == (status_, json.loads(body)["error"]["code"])
    assert "license" not in get(program, f"{PLUS}/")


# -- reloads ---------------------------------------------------------------------------------------


def test_reloads_are_told_also_those_that_were_refused(ngxstream: ProxyFactory) -> None:
    """The latest first, each with its verdict and the errors or warnings; and counted."""
    program = ngxstream(conf(), expected=(r"chdir\(",))
    first = get(program, f"{OWN}/reloads")
    assert (1, str(program.prefix / "conf/nginx.conf")) == (
        first["configuration"]["generation"], first["configuration"]["file"]
    )
    assert [("ok", "", 1)] == verdicts(first)
    program.reload_refused(conf("nonsense;"))
    program.reload(conf(head="worker_processes 3; worker_cpu_affinity 1 1;"))
    program.reload_refused("working_directory /no/such/folder;" + conf())
    said = get(program, f"{OWN}/reloads")
    (failed, late, third), (accepted, warned, second) = verdicts(said)[:2]
    assert ("failed", "ok", 2, 2) == (failed, accepted, third, second)
    assert "the reload is refused, a new worker process cannot begin: chdir(" in late
    assert '[warn] the number of "worker_processes" is not equal to the number of' in warned
    failed, text, generation = verdicts(said)[2]
    assert ("failed", 1) == (failed, generation)
    assert text.startswith('[emerg] unknown directive "nonsense" in ')
    assert verdicts(first) == verdicts(said)[3:]
    times = [clock.parse_rfc3339(load["time"]) for load in said["reloads"]]
    assert sorted(times, reverse=True) == times


def verdicts(said: dict) -> list[tuple[str, str, int]]:
    """Return verdict, message and generation of each load."""
    return [(one["verdict"], one["message"], one["generation"]) for one in said["reloads"]]


def test_the_first_reload_with_an_api_begins_the_history(ngxstream: ProxyFactory) -> None:
    """What was before is not known; without an api nothing is."""
    program = ngxstream(conf().replace("api write=on;", "return x;"))
    program.reload(conf())
    assert [("ok", "", 2)] == verdicts(get(program, f"{OWN}/reloads"))
    program.reload(conf().replace("api write=on;", "return x;"))
    assert b"x" == tcp_exchange(program.address("api"))
    program.reload(conf())
    assert [("ok", "", 4)] == verdicts(get(program, f"{OWN}/reloads"))


@pytest.mark.parametrize("head", ["worker_processes 2;", "master_process off;"])
def test_sessions_that_a_reload_carried_over_are_counted(
    ngxstream: ProxyFactory, backends: BackendFactory, head: str
) -> None:
    """UDP sessions, for the reload that they lived through."""
    server = f"server {{ listen 127.0.0.1:@udp@ udp; proxy_pass {backends.udp().text}; }}"
    program = ngxstream(conf(server, head))
    clients = [UdpClient(program.address("udp")) for _ in range(5)]
    for client in clients:
        client.send(b"x")
        client.recv()
    program.reload()
    wait_until(lambda: carried(program) == [5, 0])
    program.reload_refused(conf("nonsense;"))
    program.reload(conf(server, head))
    wait_until(lambda: carried(program) == [5, 0, 5, 0])
    for client in clients:
        client.close()


def carried(program: Proxy) -> list[int]:
    """Return how many sessions each reload has carried over."""
    return [one["sessions_carried"] for one in get(program, f"{OWN}/reloads")["reloads"]]


# -- log lines -------------------------------------------------------------------------------------


def test_lines_of_all_logs_and_processes_are_shown(ngxstream: ProxyFactory) -> None:
    """At the levels that are configured for each, whatever the file; the latest last."""
    program = ngxstream(conf(
        "server { listen 127.0.0.1:@a@; error_log logs/a.log info; return a; }"
        "server { listen 127.0.0.1:@b@; return b; }", "worker_processes 2;",
    ))
    for name in ("a", "b"):
        tcp_exchange(program.address(name))
    (line,) = wait_until(lambda: lines(program, contains="CONNECTED to"))
    assert line["text"] == program.lines("logs/a.log")[0].split("*", 1)[1].split(" ", 1)[1]
    assert "info" == line["level"]
    assert line["pid"] in program.worker_pids()
    assert isinstance(line["connection"], int)
    (start,) = lines(program, contains="start worker processes")
    assert (program.pid, None, "notice") == (start["pid"], start["connection"], start["level"])
    assert lines(program, level="warn") == []
    everything = lines(program)
    later = [one for one in everything if one["id"] > start["id"]]
    assert later == lines(program, after=start["id"])
    assert everything[-2:] == lines(program, limit=2)
    assert [] == lines(program, since="2999-01-01T00:00:00Z")
    assert everything == lines(program, since=everything[0]["time"])


def test_arguments_that_make_no_sense_are_refused(ngxstream: ProxyFactory) -> None:
    """With a code, and the name of the argument."""
    program = ngxstream(conf())
    for query in ("level=x", "limit=0", "limit=1001", "limit=x", "since=now", "after=-1"):
        status, _, body = api_calls.call(program, f"{OWN}/log?{query}")
        error = json.loads(body)["error"]
        text = f'invalid "{query.partition("=")[0]}" value'
        assert (400, "BadArgument", text) == (status, error["code"], error["text"])


def test_lines_outlive_whoever_wrote_them(ngxstream: ProxyFactory) -> None:
    """Those of a worker that was killed, and those of configurations before."""
    program = ngxstream(conf(
        "server { listen 127.0.0.1:@a@; error_log logs/a.log info; return a; }"
    ))
    with TcpClient(program.address("a")) as client:
        assert b"a" == client.recv()
    (before,) = wait_until(lambda: lines(program, contains="connected to"))
    program.reload()
    assert [before] == lines(program, contains="connected to")


def test_text_that_clients_choose_is_escaped(ngxstream: ProxyFactory) -> None:
    """As it is in the file: no control character reaches who reads it."""
    program = ngxstream(conf("log_format x 'x'; map $ssl_preread_server_name $y { default y; }"))
    (program.prefix / "conf" / "x\x1b[31m\u202e").write_text("nonsense;")
    program.reload_refused(conf('include "x\x1b[31m\u202e";'))
    (line,) = lines(program, level="emerg")
    assert r"x\x1B[31m\xE2\x80\xAE" in str(line["text"])
    assert r"x\x1B[31m\xE2\x80\xAE" in verdicts(get(program, f"{OWN}/reloads"))[0][1]


def test_nothing_is_set_up_without_an_api(ngxstream: ProxyFactory) -> None:
    """No memory is shared for lines and loads."""
    program = ngxstream("events {} stream { server { listen 127.0.0.1:@a@; return x; } }")
    opened = [path for pid in (program.pid, *program.worker_pids())
              for path in processes.open_files(pid)]
    assert [] == [path for path in opened if "log lines" in path or "loads" in path]


# -- metrics ---------------------------------------------------------------------------------------


@pytest.fixture
def served(world: World) -> Iterator[families.Served]:
    """Give a cycle that is served, and shown."""
    text = "stream { server { listen 127.0.0.1:%d; api; } }" % ports.free_port()  # noqa: UP031
    made = families.Served(world.build(HEAD + EVENTS + text))
    yield made
    made.close()


def test_prometheus_is_told_of_the_program(served: families.Served) -> None:
    """What it is, since when it serves, and how reloads went; the first load is none."""
    cycle = served.cycle
    python = platform.python_version()
    for accepted in (True, True, False, True):
        Load(cycle).record(cycle, accepted=accepted, message="")
    cycle.facts.counter(directives.ADOPTED).add(5)
    said = served.samples(status.MODULE)
    assert 1 == said[f'ngxstream_build_info{{version="{VERSION}",python="{python}"}}']
    loaded_s = said.pop("ngxstream_configuration_loaded_timestamp_seconds")
    assert loaded_s == status.loaded_ms(cycle) / 1000
    assert 0 <= said["ngxstream_configuration_age_seconds"] < 60
    assert {
        'ngxstream_reloads_total{verdict="ok"}': 2, 'ngxstream_reloads_total{verdict="failed"}': 1,
        "ngxstream_handover_sessions_adopted_total": 5,
        "ngxstream_handover_sessions_failed_total": 0, "ngxstream_log_lines_lost_total": 0,
        "ngxstream_master_up": 1,
    }.items() <= said.items()


def test_a_load_that_is_not_recorded_yet_is_that_of_the_cycle(served: families.Served) -> None:
    """Workers serve a moment before it is."""
    cycle = served.cycle
    assert cycle.board is not None
    assert cycle.built_ms == status.loaded_ms(cycle)
    cycle.board.history.add(1000, 7, 1, 0, accepted=True, message="")
    assert 1007 == status.loaded_ms(cycle)
    cycle.board.history.add(5000, 7, 1, 0, accepted=False, message="")
    assert 1007 == status.loaded_ms(cycle)
    cycle.generation = 2
    assert cycle.built_ms == status.loaded_ms(cycle)


def test_the_age_of_a_configuration_is_in_seconds(served: families.Served) -> None:
    """Since it was loaded; a clock that was set back makes it no less than 0."""
    cycle = served.cycle
    assert cycle.board is not None
    (get_reloads,) = (one for one in status.ENDPOINTS if one.path == "/reloads")
    s: Any = SimpleNamespace(loop=served.loop)
    stream: Any = cycle.stream
    ages = []
    for ago_ms in (90_500, -90_500):
        time_ms = int(time.time() * 1000) - ago_ms
        cycle.board.history.add(time_ms, 0, 1, 0, accepted=True, message="")
        request = api.Request(s, stream, "GET", {}, {}, {}, None, False, print)
        reply = get_reloads.operations["GET"].run(request)
        assert reply is not None
        ages.append(reply.value["configuration"]["age_s"])
    assert 90 <= ages[0] < 150
    assert 0 == ages[1]


def test_a_process_that_is_not_ours_knows_nothing() -> None:
    """A stream block may be served without one, by tests."""
    with pytest.raises(api.ApiError, match="nothing is known"):
        status.cycle_of(Loop(log.Log()))
