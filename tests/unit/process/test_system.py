"""What a process asks of the system about itself."""

import ctypes
import dataclasses
import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ngxstream
from ngxstream.core import clock, files, log
from ngxstream.process import directives, system
from tests.support import processes, tools

ROOT = Path(ngxstream.__file__).parents[1]


class Kept:
    """A log target that keeps its lines."""

    level = log.DEBUG
    on_stderr = False

    def __init__(self) -> None:
        """Keep none yet."""
        self.lines: list[str] = []

    def write(self, level: int, line: bytes) -> None:
        """Keep one, without time and process."""
        self.lines.append(f"[{log.NAMES[level]}] " + line.decode().partition(": ")[2].rstrip())

    def with_level(self, level: int) -> "Kept":
        """Not asked for here."""
        return self


def in_child(work: Callable[[], Any]) -> Any:
    """Return what work returns in a forked process, or the text of what it raises."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = work()
        except Exception as error:  # noqa: BLE001 - it is told to the parent
            answer = f"{type(error).__name__}: {error}"
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    with open(read, "rb") as file:
        answer = json.loads(file.read())
    os.waitpid(child, 0)
    return answer


def worker(conf: directives.MainConf, then: Callable[[], Any], number: int = 0) -> Any:
    """Return (what then() returns in a worker of that configuration, what it logged)."""

    def work() -> Any:
        kept = Kept()
        system.init_worker(conf, number, log.Log([kept]))
        return [then(), kept.lines]

    return in_child(work)


# -- environment -----------------------------------------------------------------------------------


@pytest.mark.effect("env")
@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([], {"TZ": "UTC"}),
        (["HOME"], {"HOME": "/root", "TZ": "UTC"}),
        (["A=b=c", "NONE"], {"A": "b=c", "TZ": "UTC"}),
        (["TZ=CET"], {"TZ": "CET"}),
        (["HOME=/x", "HOME"], {"HOME": "/x", "TZ": "UTC"}),
        (["=x"], {"TZ": "UTC"}),
    ],
)
def test_the_environment_is_what_env_leaves(wanted: list[str], expected: dict[str, str]) -> None:
    """TZ stays unless it is set; names are kept, values given."""
    inherited = {"TZ": "UTC", "HOME": "/root", "SECRET": "x"}
    assert expected == system.environment(wanted, inherited)


@given(
    st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))),
    st.dictionaries(st.text(), st.text()),
)
def test_nothing_unasked_for_survives(wanted: list[str], inherited: dict[str, str]) -> None:
    """Every name in the result was asked for, or is TZ."""
    names = {word.partition("=")[0] for word in wanted} | {"TZ"}
    assert set(system.environment(wanted, inherited)) <= names


@pytest.mark.effect("env")
def test_set_environment_reaches_libc() -> None:
    """A worker's C library, and what it executes, sees the same."""

    def work() -> Any:
        os.environ.update(TZ="UTC", GONE="x")
        system.set_environment(["KEPT=1"])
        libc = ctypes.CDLL(None)
        libc.getenv.restype = ctypes.c_char_p
        return [dict(os.environ), libc.getenv(b"GONE") is None, libc.getenv(b"KEPT") == b"1"]

    assert [{"KEPT": "1", "TZ": "UTC"}, True, True] == in_child(work)


# -- worker ----------------------------------------------------------------------------------------


def test_a_worker_s_limits_are_soft_and_hard() -> None:
    """worker_rlimit_nofile and worker_rlimit_core set both."""
    conf = directives.MainConf(worker_rlimit_nofile=100, worker_rlimit_core=4096)
    limits = [resource.RLIMIT_NOFILE, resource.RLIMIT_CORE]
    said = worker(conf, lambda: [resource.getrlimit(limit) for limit in limits])
    assert [[[100, 100], [4096, 4096]], []] == said


def test_a_limit_the_kernel_refuses_is_an_alert_and_no_end() -> None:
    """The worker goes on with the limit it has."""
    conf = directives.MainConf(worker_rlimit_nofile=1 << 62)
    _, lines = worker(conf, lambda: None)
    (line,) = lines
    words = f"[alert] setrlimit(RLIMIT_NOFILE, {1 << 62}) failed (1: Operation not permitted)"
    assert words == line


def test_a_worker_s_priority_is_set() -> None:
    """Every user may raise the nice value."""
    said = worker(
        directives.MainConf(worker_priority=7), lambda: os.getpriority(os.PRIO_PROCESS, 0)
    )
    assert [7, []] == said


def test_a_worker_is_bound_to_its_cpus() -> None:
    """One notice for each CPU."""
    cpu = min(os.sched_getaffinity(0))
    affinity = directives.Affinity(auto=False, masks=(frozenset((cpu,)),))
    said = worker(
        directives.MainConf(worker_cpu_affinity=affinity), lambda: sorted(os.sched_getaffinity(0))
    )
    assert [[cpu], [f"[notice] sched_setaffinity(): using cpu #{cpu}"]] == said


def test_cpus_the_machine_does_not_have_are_an_alert() -> None:
    """The kernel's EINVAL is logged, the worker serves."""
    affinity = directives.Affinity(auto=False, masks=(frozenset((1000,)),))
    _, lines = worker(directives.MainConf(worker_cpu_affinity=affinity), lambda: None)
    assert "[alert] sched_setaffinity() failed (22: Invalid argument)" == lines[-1]


def test_a_worker_changes_its_directory(tmp_path: Path) -> None:
    """working_directory is where core files go."""
    said = worker(directives.MainConf(working_directory=str(tmp_path)), os.getcwd)
    assert [str(tmp_path), []] == said


def test_a_directory_that_is_not_there_is_fatal(tmp_path: Path) -> None:
    """The worker does not start."""
    said = worker(directives.MainConf(working_directory=f"{tmp_path}/gone"), os.getcwd)
    expected = f'WorkerInitError: chdir("{tmp_path}/gone") failed (2: No such file or directory)'
    assert expected == said


def identity() -> list[Any]:
    """Return user, groups, and whether the process may dump core (and be read in /proc)."""
    libc = ctypes.CDLL(None)
    return [os.getresuid(), os.getresgid(), sorted(os.getgroups()), libc.prctl(3, 0, 0, 0, 0)]


NOBODY = directives.User("nobody", 65534, 65534)


def test_a_worker_gives_root_up_for_good() -> None:
    """Real, effective and saved ids, and root's groups, are gone; it may still dump core."""
    tools.require_root()
    said = worker(directives.MainConf(user=NOBODY), identity)
    assert [[[65534] * 3, [65534] * 3, [65534], 1], []] == said


def test_a_group_that_cannot_be_taken_is_fatal() -> None:
    """A worker must not run with rights it was told to give up."""
    tools.require_root()
    user = dataclasses.replace(NOBODY, gid=2**32 - 1)
    said = worker(directives.MainConf(user=user), identity)
    assert "WorkerInitError: setgid(4294967295) failed (22: Invalid argument)" == said


@pytest.mark.parametrize(
    ("kept", "bits"),
    [(("CAP_NET_RAW",), 1 << 13), (("CAP_NET_RAW", "CAP_NET_BIND_SERVICE"), 1 << 13 | 1 << 10)],
    ids=["raw", "raw and low ports"],
)
def test_capabilities_may_be_kept(kept: tuple[str, ...], bits: int) -> None:
    """Transparent proxying leaves what it needs, permitted and effective, and nothing else."""
    tools.require_root()

    def work() -> Any:
        conf = directives.MainConf(user=NOBODY)
        system.init_worker(conf, 0, log.Log(), capabilities=kept)
        with open("/proc/self/status") as file:
            return [line.split() for line in file if line.startswith(("CapEff", "CapPrm"))]

    mask = f"{bits:016x}"
    assert [["CapPrm:", mask], ["CapEff:", mask]] == in_child(work)


# -- background ------------------------------------------------------------------------------------


def test_a_daemon_has_a_session_of_its_own(tmp_path: Path) -> None:
    """The parent ends with 0; the child has no terminal, umask 0 and /dev/null as its input."""
    path = tmp_path / "answer"
    code = (
        "import json, os, sys; from ngxstream.process import system; parent = os.getpid();"
        "detaching = system.daemonize();"
        "mask = os.umask(0); links = [os.readlink(f'/proc/self/fd/{n}') for n in (0, 1)];"
        "answer = json.dumps([os.getsid(0) == os.getpid() != parent, mask, links]);"
        f"open({str(path)!r} + '.new', 'w').write(answer);"
        f"os.rename({str(path)!r} + '.new', {str(path)!r}); system.detach(detaching)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    assert 0 == done.returncode
    assert [True, 0, ["/dev/null", "/dev/null"]] == json.loads(path.read_text())


def test_a_daemon_that_fails_to_begin_is_noticed() -> None:
    """The parent waits, and ends with 1 if the child ends before it has begun."""
    code = "import os; from ngxstream.process import system; system.daemonize(); os._exit(0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False)
    assert 1 == done.returncode


def test_standard_error_goes_to_the_error_log(tmp_path: Path) -> None:
    """What a library prints ends up where the operator looks."""
    path = tmp_path / "error.log"

    def work() -> None:
        table = files.OpenFiles()
        target = log.FileTarget(table.get(str(path)), log.ERR, clock.Clock())
        table.open_all()
        system.redirect_stderr(log.Log([target]), table)
        os.write(2, b"from a library\n")

    in_child(work)
    assert "from a library\n" == path.read_text()


def test_standard_error_stays_where_somebody_logs_to_it(tmp_path: Path) -> None:
    """An error_log stderr, of whatever block, keeps the descriptor."""
    path = tmp_path / "error.log"

    def work() -> None:
        table = files.OpenFiles()
        target = log.FileTarget(table.get(str(path)), log.ERR, clock.Clock())
        table.stderr()
        table.open_all()
        read, write = os.pipe()
        os.dup2(write, 2)
        system.redirect_stderr(log.Log([target]), table)
        os.write(2, b"watched\n")
        assert os.read(read, 100) == b"watched\n"

    assert in_child(work) is None
    assert "" == path.read_text()


# -- title -----------------------------------------------------------------------------------------

TITLED = (
    "import os, sys; from ngxstream.process import system; title = system.Title('nginx');"
    "title.set(sys.argv[1]); print(os.environ['PROBE'], flush=True); sys.stdin.readline();"
    "title.set('short'); print(flush=True); sys.stdin.read()"
)


@pytest.mark.parametrize("text", ["worker process", "master process " + "long " * 200, "café"])
def test_ps_shows_the_title(text: str) -> None:
    """Longer than the arguments were, shorter than before: ps shows exactly the title."""
    with subprocess.Popen(
        [sys.executable, "-c", TITLED, text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
        env={**os.environ, "PROBE": "untouched", "ROOM": "x" * 2000},
    ) as process:
        assert process.stdin
        assert process.stdout
        assert "untouched\n" == process.stdout.readline()
        assert f"nginx: {text}".strip() == processes.title(process.pid)
        assert "nginx\n" == Path(f"/proc/{process.pid}/comm").read_text()
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        assert "nginx: short" == processes.title(process.pid)
        process.stdin.close()


def test_a_title_survives_what_children_do() -> None:
    """A fork shows its parent's title until it sets its own."""
    code = (
        "import os, sys; from ngxstream.process import system; title = system.Title('ngxstream');"
        "title.set('master process'); child = os.fork();"
        "child or (title.set('worker process'), print(flush=True), sys.stdin.read(), os._exit(0));"
        "print(child, flush=True); os.waitpid(child, 0)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    ) as process:
        assert process.stdout
        words = [process.stdout.readline().strip() for _ in range(2)]
        child = int("".join(words))
        assert "ngxstream: master process" == processes.title(process.pid)
        assert "ngxstream: worker process" == processes.title(child)
        process.communicate()


def test_start_up_says_what_runs_on_what() -> None:
    """Four notices, as nginx has them."""
    kept = Kept()
    system.os_status(log.Log([kept]), "nginx/1.31.5")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert "[notice] nginx/1.31.5" == kept.lines[0]
    assert kept.lines[1].startswith("[notice] built by ")
    assert f"[notice] OS: Linux {os.uname().release}" == kept.lines[2]
    assert f"[notice] getrlimit(RLIMIT_NOFILE): {soft}:{hard}" == kept.lines[3]


def resident_kb() -> int:
    """Return how much of this process is in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def freed_between() -> list[int]:
    """Take 20 MB in pieces from the heap, free all but the last; trim. Return what it came to."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    pieces = [libc.malloc(ctypes.c_size_t(8192)) for _ in range(2560)]
    for piece in pieces:
        ctypes.memset(piece, 1, 8192)
    for piece in pieces[:-1]:
        libc.free(ctypes.c_void_p(piece))
    before = resident_kb()
    system.trim_memory()
    return [before, resident_kb()]


def test_memory_that_is_free_is_given_back() -> None:
    """What is free below a piece in use goes back to the system as well."""
    (before, after), lines = worker(directives.MainConf(), freed_between)
    assert [] == lines
    assert before - after > 15_000


@pytest.mark.parametrize("number", system.SCARCE)
def test_what_is_scarce_is_said_in_a_sentence(number: int) -> None:
    """The sentence has the system's words at its end, and is not fatal: others may give back."""
    error = system.ScarceError.of(OSError(number, "x"))
    assert f"no {system.SCARCE[number]} ({number}: {os.strerror(number)})" == str(error)


def test_other_errors_are_not_taken_for_scarcity() -> None:
    """What nobody expects keeps its traceback."""
    assert system.ScarceError.of(PermissionError(errno.EPERM, "x")) is None
    assert system.ScarceError.of(OSError()) is None
