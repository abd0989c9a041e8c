"""The verdict on a reload: asked for by `-s reload`, told by the master."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core import log
from ngxstream.ipc import port
from ngxstream.process import start, verdict
from ngxstream.process.options import Options
from ngxstream.process.places import PID_PATH
from tests.support import descriptors, processes, strangers, tools
from tests.support.proxies import PROGRAMS, ROOT, Proxy, ProxyFactory
from tests.support.waiting import PATIENCE, wait_until

CONF = "events {} stream { server { listen 127.0.0.1:@main@; return old; } }"
SINGLE = "master_process off;"
both_modes = pytest.mark.parametrize("head", ["", SINGLE], ids=["master", "single"])


class Notes:
    """A log target that keeps its lines."""

    level = log.DEBUG
    on_stderr = False

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def write(self, level: int, line: bytes) -> None:
        self.lines.append(line)

    def with_level(self, level: int) -> "Notes":
        return self


@pytest.fixture
def pid_path(tmp_path: Path) -> str:
    """Give the path of a pid file that names this process."""
    path = tmp_path / "nginx.pid"
    path.write_text(f"{os.getpid()}\n")
    return str(path)


@pytest.fixture
def server(pid_path: str) -> Iterator[verdict.Server]:
    """Give a server beside that pid file."""
    made = verdict.Server(log.Log(), pid_path)
    yield made
    made.close()


def ask(pid_path: str, patience_s: float = PATIENCE) -> verdict.Request:
    """Connect to the server beside a pid file."""
    return verdict.Request(os.getpid(), pid_path, patience_s)


def hear(request: verdict.Request) -> tuple[bool, list[str]]:
    """Return what a request comes to, and what it says on the way."""
    said: list[str] = []
    return request.wait(said.append), said


# -- real processes --------------------------------------------------------------------------------


@both_modes
def test_a_reload_that_works_is_waited_for(head: str, ngxstream: ProxyFactory) -> None:
    """`-s reload` returns 0 and says nothing once the new configuration has been taken."""
    running = ngxstream(head + CONF)
    running.write(head + CONF.replace("old", "new"))
    before = running.all_worker_pids()
    told = running.run("-s", "reload")
    assert (0, "") == (told.code, told.stderr)
    said = "\n".join(running.error_log())
    assert "reconfiguring" in said
    if not head:
        assert set(running.worker_pids()) - set(before)


@both_modes
def test_a_refused_reload_fails_with_the_reason(head: str, ngxstream: ProxyFactory) -> None:
    """An address in use is found by the master only, and said where the reload was asked for."""
    running = ngxstream(head + CONF)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        running.write(
            head + f"events {{}} stream {{ server {{ listen {address}; return new; }} }}"
        )
        told = running.run("-s", "reload")
    failed = f"ngxstream: [emerg] bind() to {address} failed (98: Address already in use)\n"
    assert (1, failed + "ngxstream: [emerg] still could not bind()\n") == (
        told.code, told.stderr,
    )
    assert running.is_running()


@both_modes
def test_a_path_that_was_removed_is_made_anew(head: str, ngxstream: ProxyFactory) -> None:
    """Whoever tidies a folder up hides one verdict, not all of them."""
    running = ngxstream(head + CONF)
    path = running.prefix / "logs/nginx.pid.reload"
    wait_until(path.exists)
    path.unlink()
    assert 0 == running.run("-s", "reload").code
    wait_until(path.exists)
    nowhere = "stream { server { listen 192.0.2.1:9; return x; }"
    running.write(head + CONF.replace("stream {", nowhere, 1))
    told = running.run("-s", "reload")
    assert 1 == told.code
    assert "Cannot assign requested address" in told.stderr


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=list(PROGRAMS))
def test_nginx_hides_what_the_master_finds(program: type[Proxy], tmp_path: Path) -> None:
    """A log folder that is not there: nginx reports success, ngxstream fails."""
    with program(CONF, tmp_path) as running:
        running.write(CONF.replace("stream {", "stream { access_log missing/a.log combined; ")
                      .replace("stream {", "stream { log_format combined $status;"))
        code = running.run("-s", "reload").code
        running.wait_log(r'\[emerg\] .*open\(\) ".*missing/a.log" failed')
    assert {"nginx": 0, "ngxstream": 1}[program.name] == code


TEXT = "stream { server { listen 127.0.0.1:@main@; return new; } }"
JUDGED = {
    "sound": f"events {{}} {TEXT}",
    "with a warning": f"worker_processes 3; worker_cpu_affinity 01 10; events {{}} {TEXT}",
    "warning and fault": f"worker_processes 3; worker_cpu_affinity 01 10; {TEXT}",
    "unknown": f"events {{}} {TEXT}\nfoo bar;",
    "unfinished": f"events {{}} {TEXT[:-1]}",
    "one brace too many": f"events {{}} {TEXT} }}",
    "no events": TEXT,
    "a bad value": f"events {{}} {TEXT} worker_processes x;",
    "a second pid": f"pid logs/nginx.pid; events {{}} {TEXT} pid b;",
    "no file to include": f"events {{}} include nope; {TEXT}",
    "a file too late": f"events {{}} {TEXT} include nope;",
    "no port": "events {} stream { server { listen x:y; return new; } }",
    "empty": " ",
}


@pytest.mark.parametrize("name", JUDGED)
def test_a_configuration_is_judged_once_in_nginx_s_words(
    name: str, both: Callable[..., tuple[Proxy, Proxy]]
) -> None:
    """`-s reload` leaves it to the master, and says and returns what nginx's does by itself."""
    said = []
    for running in both("worker_processes 2; " + CONF):
        running.write(JUDGED[name])
        done = running.run("-s", "reload")
        text = done.stderr.replace(str(running.prefix), "PREFIX").replace("ngxstream:", "nginx:")
        said.append((done.code, text.replace("ngxstream-1", "nginx-1")))
    nginx, ours = said
    assert nginx == ours
    assert any("reconfiguring" in line for line in running.error_log())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("pid a;", "PREFIX/a"),
        ('events { pid x; } "pid" a\\"; http {', 'PREFIX/a"'),
        ("pid /a;", "/a"),
        ("events { } # no word of it", PID_PATH),
        ('pid ""; events { pid x; } stream { server { } }', PID_PATH),
        ("include a; pid b;", ""),
        ("http { } pid a;", ""),
        ("pid a b;", ""),
        ("pid;", ""),
        ("pid", ""),
        ("pid {", ""),
        (None, ""),
    ],
)
def test_where_the_pid_file_is_may_need_a_closer_look(
    text: str | None, found: str, tmp_path: Path
) -> None:
    """What is found at first sight is what the whole configuration says; or nothing is."""
    if text is not None:
        (tmp_path / "c").write_text(text)
    options = ["ngxstream", "-p", str(tmp_path), "-c", "c"]
    assert found.replace("PREFIX", str(tmp_path)) == start.stated_pid(Options(options))
    assert "" == start.stated_pid(Options([*options, "-g", "pid x;"]))


def test_two_who_ask_at_once_are_both_told(ngxstream: ProxyFactory) -> None:
    """Signals that merge into one are answered all."""
    running = ngxstream(CONF)
    running.write(CONF.replace("old", "new"))
    words = [*running.command(), "-p", str(running.prefix), "-c", "conf/nginx.conf",
             "-e", "logs/error.log", "-s", "reload"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    asking = [subprocess.Popen(words, cwd=running.prefix, env=env) for _ in range(4)]
    assert [0] * 4 == [one.wait(PATIENCE * 2) for one in asking]


def test_the_address_dies_with_the_master(ngxstream: ProxyFactory) -> None:
    """Workers do not keep it: who asks a master that is gone does not wait for an answer."""
    running = ngxstream(CONF)
    master, (worker,) = running.pid, running.worker_pids()
    os.kill(master, 9)
    wait_until(lambda: not processes.is_alive(master))
    assert processes.is_alive(worker)
    path = str(running.prefix / "logs/nginx.pid")
    assert (True, []) == hear(verdict.Request(master, path))
    running.kill()


# -- the protocol ----------------------------------------------------------------------------------


def test_whoever_connected_before_is_told(server: verdict.Server, pid_path: str) -> None:
    """All who have connected by the time of the reading hear the same verdict."""
    asking = [ask(pid_path) for _ in range(3)]
    server.admit()
    server.refuse("[emerg] one\n[emerg] two")
    expected = (False, ["[emerg] one", "[emerg] two"])
    assert [expected] * 3 == [hear(one) for one in asking]


def test_whoever_connects_later_waits_for_the_next_verdict(
    server: verdict.Server, pid_path: str
) -> None:
    """A verdict is about what was read after the question."""
    early = ask(pid_path)
    server.admit()
    late = ask(pid_path)
    server.refuse("[emerg] first")
    server.admit()
    server.accept()
    assert [(False, ["[emerg] first"]), (True, [])] == [hear(early), hear(late)]


def test_a_master_without_descriptors_goes_on(server: verdict.Server, pid_path: str) -> None:
    """A client that cannot be accepted now gets the next verdict; the master does not wait."""
    early, late = ask(pid_path), ask(pid_path)
    with descriptors.none_left():
        server.admit()
        server.accept()
    server.admit()
    server.refuse("[emerg] second")
    assert [(False, ["[emerg] second"])] * 2 == [hear(early), hear(late)]


def test_without_a_server_nobody_waits(pid_path: str) -> None:
    """There is nobody to ask: as far as anybody knows all is well."""
    assert (True, []) == hear(ask(pid_path))


def test_a_master_that_ends_is_a_failure(server: verdict.Server, pid_path: str) -> None:
    """The end of the connection without a verdict is said."""
    asking = ask(pid_path)
    server.admit()
    server.close()
    said = ["[emerg] the master process ended before it reloaded"]
    assert (False, said) == hear(asking)


def test_no_answer_is_a_failure(server: verdict.Server, pid_path: str) -> None:
    """Who waited long enough says so, and does not claim success."""
    said = ["[emerg] the master process did not say within 0.01s whether it reloads"]
    assert (False, said) == hear(ask(pid_path, 0.01))


def test_an_impostor_at_the_path_is_not_believed(pid_path: str) -> None:
    """Another process at a master's path gets no question, and a master takes the path back."""
    listener: list[socket.socket] = []

    def pretend() -> None:
        listener.append(port.listen(verdict.path_of(pid_path), 1))

    with strangers.lingering_as(os.geteuid(), pretend):
        assert (True, []) == hear(ask(pid_path))
        server = verdict.Server(log.Log(), pid_path)
        request = ask(pid_path)
        server.admit()
        server.refuse("[emerg] no")
        assert (False, ["[emerg] no"]) == hear(request)
        server.close()


def test_where_nothing_can_be_listened_at_the_log_says_so(tmp_path: Path) -> None:
    """A folder in the way: reloads work, and nobody is told."""
    (tmp_path / "pid").write_text("1\n")
    (tmp_path / "pid.reload").mkdir()
    taken = Notes()
    server = verdict.Server(log.Log([taken]), str(tmp_path / "pid"))
    server.admit()
    assert 1 == len(taken.lines)
    assert b"-s reload will not be told how it went" in taken.lines[0]
    server.close()
    assert (tmp_path / "pid.reload").is_dir()


def test_a_file_of_somebody_s_is_left_alone(tmp_path: Path) -> None:
    """What is no socket is not removed for the sake of one, nor later."""
    (tmp_path / "pid").write_text("1\n")
    (tmp_path / "pid.reload").write_text("kept")
    taken = Notes()
    verdict.Server(log.Log([taken]), str(tmp_path / "pid")).close()
    assert "kept" == (tmp_path / "pid.reload").read_text()
    assert b"Address already in use" in taken.lines[0]


def test_a_pid_file_that_is_none_has_no_server(tmp_path: Path) -> None:
    """Beside /dev/null nothing is made."""
    server = verdict.Server(log.Log(), "/dev/null")
    assert not Path("/dev/null.reload").exists()
    server.close()


def test_a_long_path_is_listened_at(tmp_path: Path) -> None:
    """A socket address has 108 bytes; a path may have more."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    path = folder / "nginx.pid"
    path.write_text(f"{os.getpid()}\n")
    server = verdict.Server(log.Log(), str(path))
    request = ask(str(path))
    server.admit()
    server.accept()
    assert (True, []) == hear(request)
    server.close()
    assert ["nginx.pid"] == os.listdir(folder)


def test_a_server_moves_with_its_pid_file(server: verdict.Server, tmp_path: Path) -> None:
    """A reload may rename it; those who had connected are told all the same."""
    early = ask(str(tmp_path / "nginx.pid"))
    server.admit()
    (tmp_path / "other.pid").write_text(f"{os.getpid()}\n")
    server.move(str(tmp_path / "other.pid"))
    late = ask(str(tmp_path / "other.pid"))
    server.admit()
    server.refuse("[emerg] both")
    assert [(False, ["[emerg] both"])] * 2 == [hear(early), hear(late)]
    assert not (tmp_path / "nginx.pid.reload").exists()


def test_a_path_is_its_master_s(ngxstream: ProxyFactory) -> None:
    """It stands beside the pid file, for the owner alone, and goes with the master."""
    running = ngxstream(CONF)
    path = running.prefix / "logs/nginx.pid.reload"
    assert 0o600 == path.stat().st_mode & 0o777
    running.stop()
    assert not path.exists()


def test_an_upgrade_moves_the_path(ngxstream: ProxyFactory) -> None:
    """Who asks is told by the master that the pid file names: the new one, or the old one again."""
    running = ngxstream(CONF)
    old = running.pid
    os.kill(old, signal.SIGUSR2)
    wait_until(lambda: running.pid not in (0, old) and len(running.worker_pids()) == 1)
    new = running.pid
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        running.write(f"events {{}} stream {{ server {{ listen {address}; return new; }} }}")
        assert "still could not bind()" in running.run("-s", "reload").stderr
        os.kill(new, signal.SIGTERM)
        wait_until(lambda: running.pid == old)
        assert "still could not bind()" in running.run("-s", "reload").stderr


def test_two_masters_do_not_take_each_other_s_path_away(server: verdict.Server, pid_path: str):
    """The older one of an upgrade leaves, and the newer one is asked."""
    newer = verdict.Server(log.Log(), pid_path)
    server.close()
    request = ask(pid_path)
    newer.admit()
    newer.refuse("[emerg] newer")
    assert (False, ["[emerg] newer"]) == hear(request)
    newer.close()
    assert not os.path.lexists(verdict.path_of(pid_path))


# -- strangers -------------------------------------------------------------------------------------


def test_strangers_find_no_place_in_the_backlog(ngxstream: ProxyFactory) -> None:
    """However many connections another local user tries, a refused reload fails."""
    tools.require_root()
    running = ngxstream(CONF)
    master, path = running.pid, running.prefix / "logs/nginx.pid.reload"
    crowd: list[socket.socket] = []

    def crowd_in() -> None:
        # both where it listens and where releases before this one did
        inode = os.stat("/proc/self/ns/pid").st_ino
        for address in (str(path), f"\0ngxstream/{inode}/{master}/verdict"):
            for _ in range(100):
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                sock.setblocking(False)
                with contextlib.suppress(OSError):
                    sock.connect(address)
                    crowd.append(sock)

    strangers.let_in(running.prefix)
    with strangers.lingering_as(strangers.NOBODY, crowd_in):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            running.write(f"events {{}} stream {{ server {{ listen {address}; return new; }} }}")
            told = running.run("-s", "reload")
        assert 1 == told.code
        assert "still could not bind()" in told.stderr


def test_a_stranger_is_not_answered(server: verdict.Server, pid_path: str, tmp_path: Path) -> None:
    """One who came by another way than the path's mode allows is sent away."""
    tools.require_root()
    path = verdict.path_of(pid_path)
    os.chmod(path, 0o666)  # what a careless operator may do
    strangers.let_in(tmp_path)
    request = ask(pid_path)
    asking: list[socket.socket] = []
    with strangers.lingering_as(strangers.NOBODY, lambda: asking.append(port.connect(path))):
        server.admit()
        assert 1 == len(server._waiting)
        server.accept()
    assert (True, []) == hear(request)


def test_a_full_backlog_is_waited_for(server: verdict.Server, pid_path: str) -> None:
    """Who finds no place tries again; as soon as there is one the verdict is asked for."""
    crowd = [ask(pid_path) for _ in range(verdict.BACKLOG + 1)]
    admitting = threading.Timer(0.2, server.admit)
    admitting.start()
    late = ask(pid_path)
    admitting.join()
    server.admit()
    server.refuse("[emerg] no")
    assert {(False, "[emerg] no")} == {
        (code, *said) for code, said in map(hear, [*crowd, late])
    }


def test_a_backlog_that_stays_full_is_a_failure(server: verdict.Server, pid_path: str) -> None:
    """Busy is somebody: no success is claimed, and no signal was sent."""
    crowd = [ask(pid_path) for _ in range(verdict.BACKLOG + 1)]
    with pytest.raises(verdict.BusyError, match="it was not asked"):
        ask(pid_path, 0.2)
    server.close()
    assert {False} == {hear(one)[0] for one in crowd}


# -- what was wrong --------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(log.EMERG, log.DEBUG), st.text(max_size=40)), max_size=8))
def test_what_was_wrong_is_heard_and_still_written(lines: list[tuple[int, str]]) -> None:
    """Everything is written; what is worse than a warning is remembered once each, in order."""
    notes = Notes()
    collector = verdict.Collector(log.Log([notes]))
    for level, text in lines:
        collector.error(level, text)
    assert len(lines) == len(notes.lines)
    kept = [f"[{log.NAMES[level]}] {text}" for level, text in lines if level < log.WARN]
    assert "\n".join(dict.fromkeys(kept)) == collector.text


def test_a_thousand_reasons_are_told_in_a_few_lines() -> None:
    """Five tries at a range of ports in use: the first lines, that there are more, the last one."""
    collector = verdict.Collector(log.Log([Notes()]))
    for _ in range(5):
        for number in range(1000):
            collector.error(log.EMERG, f"bind() to 127.0.0.1:{20000 + number} failed")
    collector.error(log.EMERG, "still could not bind()")
    told = collector.text.split("\n")
    assert verdict.MAX_COMPLAINTS + 2 == len(told)
    assert "[emerg] bind() to 127.0.0.1:20000 failed" == told[0]
    assert ["[notice] the error log says more", "[emerg] still could not bind()"] == told[-2:]


def test_long_reasons_keep_their_end(server: verdict.Server, pid_path: str) -> None:
    """Reasons as long as lines of the log may be fit into the answer, the last one too."""
    collector = verdict.Collector(log.Log([Notes()]))
    for number in range(100):
        collector.error(log.EMERG, f"{number} " + "x" * (log.MAX_LINE - 100))
    collector.error(log.EMERG, "last")
    asking = verdict.Request(os.getpid(), pid_path)
    server.admit()
    server.refuse(collector.text)
    good, said = hear(asking)
    assert not good
    assert "[emerg] last" == said[-1]
