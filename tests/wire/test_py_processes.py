"""Functions of users in the running program: workers that are held up, reloads, one process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ngxstream.event import time_limit
from tests.support import certs, proxies
from tests.support.clients import TcpClient, UdpClient, tcp_exchange
from tests.support.tls_clients import s_client
from tests.support.waiting import wait_until

Factory = proxies.ProxyFactory
Start = Callable[..., proxies.Proxy]
HEAD = "worker_processes 1; events {} "


@pytest.fixture
def start(ngxstream: Factory, tmp_path: Path) -> Start:
    """Give what starts the program with a module m; `@` in a text is the module's folder."""

    def make(source: str, text: str, head: str = HEAD, **options: object) -> proxies.Proxy:
        write(tmp_path, source)
        return ngxstream(complete(tmp_path, text, head), **options)

    return make


def write(folder: Path, source: str) -> None:
    """Write the module."""
    (folder / "m.py").write_text(source)


def complete(folder: Path, text: str, head: str = HEAD) -> str:
    """Return a configuration that imports the module."""
    return f"{head} stream {{ py_path {folder}; py_import m; {text} }}"


def ask(program: proxies.Proxy, name: str = "in") -> bytes:
    """Return what a client is told."""
    try:
        return tcp_exchange(program.address(name), b"")
    except ConnectionResetError:
        return b""


SERVER = "server { listen 127.0.0.1:@in@; py_access m.check; return hi; }"


@pytest.mark.effect("py_time_limit")
def test_a_worker_that_a_function_never_gives_back_is_replaced(
    start: Start, tmp_path: Path
) -> None:
    """The alert says where; the next client is served by another worker."""
    gate = tmp_path / "gate"
    source = ("import os\ndef swallows(depth):\n while True:\n  try:\n   while True:\n"
              "    swallows(depth - 1) if depth else 0\n  except BaseException: pass\n"
              f"def check(s):\n if not os.path.exists('{gate}'): swallows(20)\n s.allow()\n")
    program = start(source, f"py_time_limit 5ms; {SERVER}",
                    expected=("a function cannot be ended in ",))
    (before,) = program.worker_pids()
    assert b"" == ask(program)
    program.wait_log(r"a function cannot be ended in .*m\.py:\d+, the process exits")
    program.wait_log(f"worker process {before} exited with code {time_limit.EXIT_CODE}")
    gate.touch()
    assert b"hi" == ask(program)
    assert [before] != program.worker_pids()


def test_functions_that_take_too_long_leave_the_worker_and_no_line_of_signals(
    start: Start,
) -> None:
    """Each ends its own session; the timers' signals are not told, another's is."""
    program = start("def check(s):\n while True: pass\n", f"py_time_limit 5ms; {SERVER} "
                    "server { listen 127.0.0.1:@other@; return other; }")
    (before,) = program.worker_pids()
    for _ in range(5):
        assert b"" == ask(program)
        assert b"other" == ask(program, "other")
    for number in (signal.SIGPROF, signal.SIGALRM):
        os.kill(before, number)
    assert b"other" == ask(program, "other")
    assert [before] == program.worker_pids()
    failed = [line for line in program.error_log() if '"m.check" failed: TimeLimitError' in line]
    assert 5 == len(failed)
    assert not [line for line in program.error_log() if "SIGPROF" in line or "SIGALRM" in line]


@pytest.mark.parametrize("head", [HEAD, "master_process off; events {} "])
def test_new_sessions_have_the_new_code_and_old_ones_the_old(
    start: Start, tmp_path: Path, head: str
) -> None:
    """A coroutine that waits when the program reloads goes on with the module it began in."""
    gates = [tmp_path / "gate-old", tmp_path / "gate-new"]
    source = ("import os\nfrom ngxstream.scripting import sleep\n"
              "async def check(s):\n while not os.path.exists(GATE): await sleep(0.01)\n"
              " s.log.notice('said by ' + NAME + ' late ' + late())\n s.allow()\n"
              "def late():\n import m\n return m.NAME\n")
    program = start(f"{source}NAME, GATE = 'old', '{gates[0]}'\n", SERVER, head)
    with TcpClient(program.address("in")) as old:
        program.wait_log("connected to")
        write(tmp_path, f"{source}NAME, GATE = 'new', '{gates[1]}'\n")
        if "off" in head:
            program.signal(signal.SIGHUP)
            program.wait_log("reconfiguring")
            wait_until(lambda: asks_new(program, gates[1]))
        else:
            program.reload()
            assert asks_new(program, gates[1])
        gates[0].touch()
        assert b"hi" == old.recv_to_eof()
    latest = "new" if "off" in head else "old"
    program.wait_log(f"said by old late {latest}")
    assert not list(tmp_path.glob("__pycache__"))


def asks_new(program: proxies.Proxy, gate: Path) -> bool:
    """Have a new client served, and tell whether the new code did."""
    gate.touch()
    with TcpClient(program.address("in")) as client:
        def is_told() -> bool:
            return any("said by new late new" in line for line in program.error_log())
        if "master_process off" in program.conf_file.read_text():
            return wait_until(is_told) and b"hi" == client.recv_to_eof()
        return b"hi" == client.recv_to_eof() and is_told()


def test_a_reload_whose_import_fails_leaves_the_old_code(start: Start, tmp_path: Path) -> None:
    """The error has Python's words and the place; the same workers serve."""
    program = start("def check(s): s.allow()", SERVER)
    before = program.worker_pids()
    write(tmp_path, "def check(s): s.deny()\nraise ValueError('half done')")
    lines = program.reload_refused(complete(tmp_path, SERVER))
    text = f'cannot import "m": ValueError: half done in {tmp_path}/m.py:2 in '
    assert [True] == [text in line for line in lines if "[emerg]" in line]
    assert (b"hi", before) == (ask(program), program.worker_pids())


def test_a_udp_session_goes_on_over_a_reload_and_is_not_asked_again(
    start: Start, tmp_path: Path, backends
) -> None:
    """Who was let in stays in; a new client is asked by the new code."""
    server = ("server { listen 127.0.0.1:@in@ udp; py_access m.check; "
              f"proxy_pass {backends.udp().text}; }}")
    program = start("def check(s): s.allow()", server)
    with UdpClient(program.address("in")) as old, UdpClient(program.address("in")) as new:
        old.exchange(b"before")
        write(tmp_path, "def check(s): s.log.notice('asked'); s.deny()")
        program.reload()
        old.exchange(b"after")
        assert not [line for line in program.error_log() if "asked" in line]
        new.send(b"new")
        program.wait_log("asked")


MODULE = """
import os
from ngxstream.scripting import process, sleep
def note(*words):
    line = ' '.join(map(str, (process.role, process.worker, process.workers, *words))) + '\\n'
    fd = os.open(FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, line.encode())
    os.close(fd)
note('imported')
def on_load(): note('loaded')
def on_unload(): note('unloaded')
def check(s): s.allow()
async def tick():
    note('tick')
    try: await sleep(3600)
    finally: note('cancelled')
"""


def noted(path: Path) -> list[str]:
    """Return what the module has noted."""
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.effect("py_periodic")
def test_modules_are_told_of_every_process(start: Start, tmp_path: Path) -> None:
    """Imported once by the master, loaded in each worker, which calls on_unload() when it ends; a
    worker that dies is followed by one that goes on.
    """
    file = tmp_path / "noted"
    program = start(
        f"FILE = {str(file)!r}\n{MODULE}",
        f"py_periodic m.tick workers=one interval=1h; {SERVER}", "worker_processes 2; events {} ",
        expected=("exited on signal 9",),
    )
    wait_until(lambda: 4 == len(noted(file)))
    expected = ["master -1 0 imported", "worker 0 2 loaded", "worker 0 2 tick",
                "worker 1 2 loaded"]
    assert expected == sorted(noted(file))
    first = program.worker_pids()[0]
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: 6 == len(noted(file)))
    assert 2 == noted(file).count("worker 0 2 tick")
    program.stop(signal.SIGQUIT)
    ends = ["worker 0 2 cancelled", "worker 0 2 unloaded", "worker 1 2 unloaded"]
    assert ends == sorted(noted(file)[6:])


def test_one_process_stops_what_its_former_configuration_calls(
    start: Start, tmp_path: Path
) -> None:
    """At the reload, although a session of it goes on."""
    file = tmp_path / "noted"
    source = f"FILE = {str(file)!r}\n{MODULE.replace('await sleep(3600)', 'pass')}"
    program = start(f"{source}\nTAG = 'old'", f"py_periodic m.tick interval=10ms; {SERVER}",
                    "master_process off; events {} ")
    wait_until(lambda: "single 0 1 tick" in noted(file))
    program.write("events {} stream { server { listen 127.0.0.1:@in@; return hi; } }")
    program.signal(signal.SIGHUP)

    def is_quiet() -> bool:
        assert b"hi" == ask(program)
        before = len(noted(file))
        for _ in range(20):
            ask(program)
        return before == len(noted(file))

    program.wait_log("reconfiguring")
    wait_until(is_quiet)


@pytest.mark.parametrize("way", ["ssl", "ssl_preread"])
def test_the_function_of_a_server_that_is_selected_by_name_is_asked(
    start: Start, tmp_path: Path, way: str
) -> None:
    """After the name is known; the session waits for its coroutine, whatever the client sends."""
    authority = certs.Authority(tmp_path / "ca")
    pair = authority.issue("a.test", names=("b.test",))
    source = ("from ngxstream.scripting import sleep\n"
              "async def allow(s):\n await sleep(0.05)\n s.allow()\n"
              "async def deny(s):\n await sleep(0.05)\n s.log.notice('denies')\n s.deny()\n")
    tls = f"ssl_certificate {pair.cert}; ssl_certificate_key {pair.key};"
    inner = f"server {{ listen 127.0.0.1:@tls@ ssl; {tls} return <data>inner</data>; }}"
    if way == "ssl":
        servers = "".join(
            f"server {{ listen 127.0.0.1:@in@ ssl; server_name {name}.test; {tls} "
            f"py_access m.{verdict}; return <data>{name}</data>; }}"
            for name, verdict in (("a", "allow"), ("b", "deny"))
        )
    else:
        servers = inner + "".join(
            f"server {{ listen 127.0.0.1:@in@; server_name {name}.test; ssl_preread on; "
            f"py_access m.{verdict}; proxy_pass 127.0.0.1:@tls@; }}"
            for name, verdict in (("a", "allow"), ("b", "deny"))
        )
    program = start(source, servers)
    let_in = s_client(program.port("in"), name="a.test")
    assert (b"a" if way == "ssl" else b"inner") == let_in.data
    assert b"" == s_client(program.port("in"), name="b.test").data
    program.wait_log("denies")
