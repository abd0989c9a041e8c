"""Runs nginx and ngxstream through one interface, each in a prefix folder of its own.

How a configuration is written:

- As in a file of nginx's, without ``daemon``, ``pid``, ``user``, ``error_log`` and ``load_module``
  unless the test is about them: what is missing is put before it, on the same first line, so that
  line numbers in messages stay the test's own.
- ``@name@`` stands for a free port (TCP and UDP), one per name and instance; ``port("name")``
  tells which. The same text can so be run by both programs at once.
- Paths are relative to the prefix: logs/error.log, logs/access.log; the configuration itself is
  conf/nginx.conf.

Example::

    with Ngxstream("events {} stream { server { listen 127.0.0.1:@main@; return hi; } }", tmp) as p:
        assert b"hi" == clients.tcp_exchange(("127.0.0.1", p.port("main")))
"""

import atexit
import functools
import os
import re
import signal as signals
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.support import ports, processes, tools
from tests.support.waiting import PATIENCE, wait_until

ROOT = Path(__file__).resolve().parents[2]

LOG_LINE = re.compile(
    r"(?P<time>\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) \[(?P<level>\w+)\] "
    r"(?P<pid>\d+)#(?P<tid>\d+): (?:\*(?P<connection>\d+) )?(?P<message>.*)"
)
PLACEHOLDER = re.compile(r"@([a-z][a-z0-9_]*)@")


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One line of an error log; connection is 0 outside of a session."""

    time: str
    level: str
    pid: int
    connection: int
    message: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run of the program to its end left: exit code and text, as by ``-t``."""

    code: int
    stderr: str
    stdout: str


@functools.lru_cache(8)  # a wait asks for them in each poll, also of thousands of lines
def main_directives(text: str) -> Mapping[str, list[str]]:
    """Return the directives of the main context and their arguments; later ones win.

    Reads loosely: the text may be a configuration that is wrong on purpose.
    """
    found: dict[str, list[str]] = {}
    words: list[str] = []
    depth = 0
    for match in re.finditer(
        r"""(?m)#.*$|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^\s;{}]+|[;{}]""", text
    ):
        token = match[0]
        if token.startswith("#"):
            continue
        if token in ";{}":
            if depth == 0 and words:
                found[words[0]] = words[1:]
            words = []
            depth += {"{": 1, "}": -1}.get(token, 0)
        else:
            words.append(token.strip("\"'"))
    return found


class Proxy:
    """A running program and its folder; the two subclasses say which program.

    Use it as a context manager, or call start() and stop(). An end by the context manager fails
    the test if a line of level alert or a traceback was logged that ``expected`` does not name.
    """

    name = "proxy"

    def __init__(
        self,
        conf_text: str,
        tmp_path: Path,
        *,
        log_level: str = "info",
        netns: str | None = None,
        env: dict[str, str] | None = None,
        args: tuple[str, ...] = (),
        expected: tuple[str, ...] = (),
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        """Write the configuration; start nothing yet.

        Args: log_level of the error log that is added; netns the name of a namespace to run in;
        env is added to the environment; args to the command line of start(); expected are regular
        expressions for lines of level alert that the test provokes; pass_fds are descriptors that
        start() leaves to the program.
        """
        number = 1 + sum(1 for _ in tmp_path.glob(f"{self.name}-*"))
        self.prefix = tmp_path / f"{self.name}-{number}"
        self.conf_file = self.prefix / "conf" / "nginx.conf"
        self.expected = list(expected)
        self._log_level = log_level
        self._netns = netns
        self._env = env or {}
        self._args = args
        self._pass_fds = pass_fds
        self._ports: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._is_single = False  # what runs has no master
        self._scanned = 0  # bytes of the error log that were searched for leaving workers
        self._leaving: set[int] = set()
        for folder in ("conf", "logs"):
            (self.prefix / folder).mkdir(parents=True)
        # Workers may run under another user than the tests.
        for folder in (self.prefix, self.prefix / "logs"):
            folder.chmod(0o777)
        self.write(conf_text)

    # What differs between the programs.

    def command(self) -> list[str]:
        """Return the words that start the program, without any option."""
        raise NotImplementedError

    def _modules(self, conf_text: str) -> list[str]:
        """Return the load_module directives that the configuration needs."""
        raise NotImplementedError

    # The configuration.

    def write(self, conf_text: str) -> None:
        """Write the configuration; what runs does not notice before reload()."""
        self.conf_file.write_text(self.complete(conf_text))

    def complete(self, conf_text: str) -> str:
        """Return the text with ports filled in and the missing directives put before it."""
        given = main_directives(conf_text)
        added = {
            "daemon": "off",
            "pid": "logs/nginx.pid",
            "error_log": f"logs/error.log {self._log_level}",
        }
        if os.geteuid() == 0:
            added["user"] = "root"  # nobody could not enter the test's folder
        lines = self._modules(conf_text)
        lines += [f"{name} {value};" for name, value in added.items() if name not in given]
        return " ".join([*lines, self.fill(conf_text)])

    def fill(self, text: str) -> str:
        """Return a text with ports filled in."""
        return PLACEHOLDER.sub(lambda match: str(self.port(match[1])), text)

    def port(self, name: str) -> int:
        """Return the port that ``@name@`` stands for in this instance."""
        if name not in self._ports:
            self._ports[name] = ports.free_port()
        return self._ports[name]

    def address(self, name: str, host: str = "127.0.0.1") -> tuple[str, int]:
        """Return host and the port of ``@name@``."""
        return host, self.port(name)

    # Running to an end: -t, -v, -s …

    def run(self, *options: str, timeout: float = 60.0) -> Verdict:
        """Run the program with prefix, configuration and these options, and wait for its end."""
        done = subprocess.run(
            self._words(options),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            cwd=self.prefix,
            env=self._environment(),
            timeout=timeout,
            check=False,
        )
        return Verdict(done.returncode, done.stderr, done.stdout)

    def test(self, conf_text: str | None = None) -> Verdict:
        """Return what ``-t`` says, of the configuration written or of another."""
        if conf_text is not None:
            self.write(conf_text)
        return self.run("-t")

    def _words(self, options: tuple[str, ...]) -> list[str]:
        words = [*self.command(), "-p", str(self.prefix), "-c", "conf/nginx.conf"]
        words += ["-e", "logs/error.log", *options]
        if self._netns:
            words = [tools.require("ip"), "netns", "exec", self._netns, *words]
        return words

    def _environment(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(ROOT)} | self._env

    # Life.

    def start(self, timeout: float = PATIENCE) -> Self:
        """Start and return when the pid file is written and all workers serve.

        Raises: AssertionError with what the program said if it ends before that.
        """
        with open(self.prefix / "stderr", "ab") as stderr:
            self._process = subprocess.Popen(
                self._words(self._args),
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                cwd=self.prefix,
                env=self._environment(),
                start_new_session=True,
                pass_fds=self._pass_fds,
            )
        atexit.register(self.kill)
        given = main_directives(self.conf_file.read_text())
        self._is_single = given.get("master_process") == ["off"]
        try:
            wait_until(self._is_ready, timeout, f"{self.name} is ready")
        except BaseException:
            self.kill()
            raise
        return self

    def _is_ready(self) -> bool:
        process = self._running()
        code = process.poll()
        daemon = main_directives(self.conf_file.read_text())["daemon"] == ["on"]
        if code is not None and not (daemon and code == 0):
            said = self.stderr() + "\n".join(self.error_log()[-20:])
            raise AssertionError(f"{self.name} ended with code {code} at its start:\n{said}")
        pid = self.pid
        if not pid or not (daemon or pid == process.pid):
            return False
        return self._serving() >= self._workers_wanted()

    def _serving(self, besides: Iterable[int] = ()) -> int:
        """Return how many workers have made themselves what they are to be; they are named then."""
        pids = set(self.worker_pids()) - set(besides)
        return sum("worker process" in processes.title(pid) for pid in pids)

    def _workers_wanted(self) -> int:
        given = main_directives(self.conf_file.read_text())
        if given.get("master_process") == ["off"]:
            return 0
        number = given.get("worker_processes", ["1"])[0]
        return int(number) if number.isdigit() else os.cpu_count() or 1

    def stop(self, sig: int = signals.SIGTERM, timeout: float = PATIENCE) -> int:
        """End the program by a signal (TERM at once, QUIT in grace); return its exit code.

        A program that does not run any more is left alone. What is left of its processes after
        the timeout is killed, and that is an AssertionError.
        """
        process, pid = self._running(), self.pid
        if process.poll() is None:
            self._send(process.pid, sig)
        elif pid and processes.is_alive(pid):  # daemon on
            self._send(pid, sig)
        try:
            wait_until(
                lambda: process.poll() is not None and not (pid and processes.is_alive(pid)),
                timeout,
                f"{self.name} ends by signal {sig}",
            )
            self._wait_alone(process.pid, timeout)
        finally:
            self.kill()
        return process.returncode

    def _wait_alone(self, session: int, timeout: float) -> None:
        wait_until(
            lambda: not processes.session_members(session),
            timeout,
            f"no process of {self.name} outlives its master",
        )

    def kill(self) -> None:
        """Kill whatever is left of the program; may be called at any time, more than once."""
        atexit.unregister(self.kill)
        if self._process is None:
            return
        pid = self.pid
        processes.kill_session(self._process.pid)
        if pid and processes.is_alive(pid) and str(self.prefix) in processes.title(pid):
            processes.kill_session(os.getsid(pid))  # daemon on: a session of its own
        self._process.wait()

    def __enter__(self) -> Self:
        return self.start() if self._process is None else self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()

    def close(self) -> None:
        """Stop, then fail on alerts and tracebacks nobody expected."""
        if self._process is not None:
            self.stop()
        self.assert_healthy()

    def assert_healthy(self) -> None:
        """Fail if the error log or stderr holds an alert or a traceback nobody expected."""
        lines = self.error_log() + self.stderr().splitlines()
        bad = [
            line
            for line in lines
            if ("[alert]" in line or "Traceback" in line)
            and not any(re.search(pattern, line) for pattern in self.expected)
        ]
        assert not bad, f"{self.name} logged:\n" + "\n".join(bad + self.stderr().splitlines()[-30:])

    # A living program.

    @property
    def pid(self) -> int:
        """Process id of the master by the pid file; 0 if there is none."""
        name = main_directives(self.conf_file.read_text()).get("pid", ["logs/nginx.pid"])[0]
        try:
            text = (self.prefix / name).read_text().strip()
        except OSError:
            return 0
        return int(text) if text.isdigit() else 0

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} was not started"
        return self._process

    def is_running(self) -> bool:
        """Tell whether the master is alive."""
        return self._process is not None and processes.is_alive(self.pid or self._process.pid)

    def signal(self, sig: int) -> None:
        """Send a signal to the master, or to the single process."""
        self._send(self.pid or self._running().pid, sig)

    def _send(self, pid: int, sig: int) -> None:
        # A master has its signals blocked while it does not wait for them; sigsuspend() loses none.
        if self._is_single:
            processes.wake(pid, sig)
        else:
            os.kill(pid, sig)

    def worker_pids(self) -> list[int]:
        """Return the workers that serve, oldest first; not those that are shutting down."""
        return [pid for pid in self.all_worker_pids() if not self._is_leaving(pid)]

    def all_worker_pids(self) -> list[int]:
        """Return all workers, those that are shutting down included."""
        return processes.children(self.pid)

    def _is_leaving(self, pid: int) -> bool:
        if "shutting down" in processes.title(pid):
            return True
        self._scan()
        return pid in self._leaving

    def _scan(self) -> None:
        """Note which workers said that they are leaving, in what was logged since the last time."""
        if self._log_size() < self._scanned:
            self._scanned = 0  # a test moved the log away
        data = self._log_from(self._scanned)
        whole = data[: data.rfind(b"\n") + 1]
        self._scanned += len(whole)
        said = re.findall(rb"(?m)^\S+ \S+ \[notice\] (\d+)#\d+: gracefully shutting down$", whole)
        self._leaving.update(map(int, said))

    def _log_from(self, offset: int) -> bytes:
        """Return what the error log holds from a byte on."""
        try:
            with open(self.prefix / "logs/error.log", "rb") as log:
                log.seek(offset)
                return log.read()
        except FileNotFoundError:
            return b""

    def _log_size(self) -> int:
        path = self.prefix / "logs/error.log"
        return path.stat().st_size if path.exists() else 0

    def reload(
        self, conf_text: str | None = None, *, by_signal: bool = True, timeout: float = PATIENCE
    ) -> None:
        """Reload; return when the new workers serve and every old one is leaving or gone.

        Args: conf_text is written first; by_signal sends HUP, else ``-s reload`` is run.
        Raises: AssertionError if the new configuration is refused; see reload_refused().
        """
        if conf_text is not None:
            self.write(conf_text)
        old, seen = set(self.worker_pids()), self._log_size()
        self._ask_reload(by_signal)

        def is_done() -> bool:
            said = self._log_from(seen)
            refused = re.findall(rb"(?m)^.*\[emerg\].*$", said) if b"[emerg]" in said else []
            assert not refused, f"{self.name} refused to reload: {refused}"
            leaving = all(not processes.is_alive(pid) or self._is_leaving(pid) for pid in old)
            return self._serving(old) >= self._workers_wanted() and leaving

        wait_until(is_done, timeout, f"{self.name} has reloaded")

    def reload_refused(self, conf_text: str, timeout: float = PATIENCE) -> list[str]:
        """Reload by HUP with what must be refused; return the new lines of the error log."""
        self.write(conf_text)
        seen = len(self.error_log())
        self._ask_reload(by_signal=True)
        wait_until(
            lambda: any("[emerg]" in line for line in self.error_log()[seen:]),
            timeout,
            f"{self.name} refuses to reload",
        )
        return self.error_log()[seen:]

    def _ask_reload(self, by_signal: bool) -> None:
        if by_signal:
            self.signal(signals.SIGHUP)
            return
        verdict = self.run("-s", "reload")
        assert verdict.code == 0, f"{self.name} -s reload: {verdict.stderr}"

    # What it wrote.

    def lines(self, name: str) -> list[str]:
        """Return the whole lines of a file of the prefix, none if it does not exist."""
        try:
            text = (self.prefix / name).read_bytes().decode(errors="replace")
        except FileNotFoundError:
            return []
        return text.rpartition("\n")[0].split("\n") if "\n" in text else []

    def error_log(self) -> list[str]:
        """Return the lines of logs/error.log."""
        return self.lines("logs/error.log")

    def access_log(self, name: str = "logs/access.log") -> list[str]:
        """Return the lines of an access log."""
        return self.lines(name)

    def records(self, name: str = "logs/error.log") -> list[LogRecord]:
        """Return the lines of an error log taken apart; lines of another form are left out."""
        return list(parse_log(self.lines(name)))

    def messages(self, level: str = "", name: str = "logs/error.log") -> list[str]:
        """Return the messages of sessions (``*N``), of one level if given, without the prefix."""
        return [
            record.message
            for record in self.records(name)
            if record.connection and level in ("", record.level)
        ]

    def wait_log(
        self,
        pattern: str,
        *,
        count: int = 1,
        name: str = "logs/error.log",
        timeout: float = PATIENCE,
    ) -> list[str]:
        """Wait until that many lines match the regular expression; return all that do."""

        def matching() -> list[str]:
            found = [line for line in self.lines(name) if re.search(pattern, line)]
            return found if len(found) >= count else []

        return wait_until(matching, timeout, f"{count} line(s) like {pattern!r} in {name}")

    def stderr(self) -> str:
        """Return what the running program wrote to standard output and error so far."""
        path = self.prefix / "stderr"
        return path.read_bytes().decode(errors="replace") if path.exists() else ""


class Nginx(Proxy):
    """The distribution's nginx."""

    name = "nginx"

    def command(self) -> list[str]:
        """Return the path of an nginx that has the stream module."""
        return [tools.require_nginx()]

    def _modules(self, conf_text: str) -> list[str]:
        if "load_module" in main_directives(conf_text):
            return []
        program = tools.require_nginx()
        wanted = {"stream": r"\bstream\b", "stream_geoip": r"\bgeoip_(country|city|org)\b",
                  "stream_js": r"\bjs_import\b"}
        files = [
            tools.nginx_module(program, module)
            for module, pattern in wanted.items()
            if re.search(pattern, conf_text)
        ]
        return [f"load_module {file};" for file in files if file]


class Ngxstream(Proxy):
    """The program of this repository, by the interpreter that runs the tests."""

    name = "ngxstream"

    def command(self) -> list[str]:
        """Return the words that run the package of this tree."""
        return [sys.executable, "-m", "ngxstream"]

    def _modules(self, conf_text: str) -> list[str]:
        return []


def parse_log(lines: list[str]) -> Iterator[LogRecord]:
    """Take lines of an error log apart."""
    for line in lines:
        match = LOG_LINE.fullmatch(line)
        if match:
            yield LogRecord(
                match["time"],
                match["level"],
                int(match["pid"]),
                int(match["connection"] or 0),
                match["message"],
            )


PROGRAMS: dict[str, type[Proxy]] = {"nginx": Nginx, "ngxstream": Ngxstream}


class ProxyFactory:
    """Starts instances of one program for a test; all are stopped and judged at its end."""

    def __init__(self, program: type[Proxy], folder: Path) -> None:
        """Start none yet."""
        self.program = program
        self.name = program.name
        self._folder = folder
        self._made: list[Proxy] = []

    def __call__(self, conf_text: str, *, start: bool = True, **options: Any) -> Proxy:
        """Return a running instance; options are those of Proxy."""
        made = self.program(conf_text, self._folder, **options)
        self._made.append(made)
        return made.start() if start else made

    def finish(self) -> None:
        """Stop all; then fail on alerts and tracebacks nobody expected."""
        try:
            for made in self._made:
                if made.is_running():
                    made.stop()
        finally:
            for made in self._made:
                made.kill()
        for made in self._made:
            made.assert_healthy()
