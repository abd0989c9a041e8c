"""The command line, held to a real nginx: same words, same exit codes."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import ngxstream
from ngxstream.process import cli
from tests.support import processes, tools
from tests.support.waiting import wait_until

Run = Callable[..., "Said"]


class Said(NamedTuple):
    """What a run of the program left; dates and process ids are taken out."""

    code: int
    stderr: str
    stdout: str


def normal(text: str) -> str:
    """Return a text without what differs from run to run, and without the hints that are ours."""
    text = re.sub(r"(?m)^ngxstream: \[notice\] .*\n", "", text)
    text = re.sub(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d", "TIME", text)
    return re.sub(r"\d+#\d+", "PID", text).replace("ngxstream: ", "nginx: ")


class Programs:
    """nginx and ours, run on one folder, one after the other."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        """Make the folders that paths of the tests lead to."""
        self.folder = folder
        self.capture = capture
        self.file = folder / "conf" / "nginx.conf"
        for name in ("conf", "logs"):
            (folder / name).mkdir()

    def words(self, options: tuple[str, ...]) -> list[str]:
        """Return the options that lead into the folder, then those of the test."""
        return ["-p", str(self.folder), "-e", "logs/e.log", "-c", "conf/nginx.conf", *options]

    def clear(self) -> None:
        """Remove what a run has left."""
        for path in (self.folder / "logs").iterdir():
            path.unlink()

    def nginx(self, *options: str) -> Said:
        """Run the distribution's nginx."""
        self.clear()
        done = subprocess.run(
            [tools.require_nginx(), *self.words(options)],
            capture_output=True, text=True, check=False, timeout=60, errors="replace",
        )
        return Said(done.returncode, normal(done.stderr), done.stdout)

    def ours(self, *options: str, name: str = "/usr/sbin/ngxstream") -> Said:
        """Run ours, in this process."""
        self.clear()
        self.capture.readouterr()
        code = cli.main([name, *self.words(options)])
        said = self.capture.readouterr()
        return Said(code, normal(said.err), said.out)


@pytest.fixture
def programs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Programs]:
    """Give both programs."""
    before = signal.getsignal(signal.SIGINT)
    yield Programs(tmp_path, capfd)
    signal.signal(signal.SIGINT, before)


PID = "pid logs/nginx.pid; "
EVENTS = PID + "events {} "
ONES = "1" * 1025

MAIN = """
worker_processes 0; | worker_processes -1; | worker_processes auto; | worker_processes AUTO;
worker_processes 1; worker_processes 2; | worker_processes x; | worker_processes "";
worker_processes 2 3; | worker_processes 99999999999999999999;
worker_priority x; | worker_priority -5; | worker_priority +5; | worker_priority -;
worker_priority 5; worker_priority 6; | worker_priority --5;
worker_cpu_affinity 01 2; | worker_cpu_affinity 01; worker_cpu_affinity 01;
worker_cpu_affinity auto; | worker_cpu_affinity auto 01 10; | worker_cpu_affinity auto 0x1;
worker_cpu_affinity 01 auto; | worker_processes 3; worker_cpu_affinity 01 10;
worker_processes 1; worker_cpu_affinity 01 10; | worker_cpu_affinity "";
worker_cpu_affinity "0001 0010"; | worker_cpu_affinity ONES;
worker_rlimit_nofile x; | worker_rlimit_nofile 10; | worker_rlimit_core 1g;
worker_rlimit_core 1x; | worker_shutdown_timeout 1y;
worker_shutdown_timeout 1s; worker_shutdown_timeout 2s; | working_directory /nonexistent;
user nosuch; | user nosuch nogroup; | user nobody nosuchgroup; | user root; user root;
user root nogroup x; | pid a; | lock_file x; lock_file y; | daemon maybe; | daemon;
daemon off; daemon off; | daemon OFF; | daemon on off; | master_process x;
env A; env A; env B=c; | env =x; | env; | timer_resolution 100ms; | timer_resolution x;
debug_points stop; | debug_points x; | debug_points STOP; | debug_points stop; debug_points abort;
pcre_jit on; | pcre_jit x; | thread_pool a; | thread_pool a threads=2; | thread_pool a threads=0;
thread_pool a threads=x; | thread_pool a max_queue=3; | thread_pool a threads=2 max_queue=x;
thread_pool a threads=2 foo=1; | thread_pool a threads=2; thread_pool a threads=3;
google_perftools_profiles x; | load_module late.so; | keepalive 3; | server_tokens off;
zone_sync; | include /nonexistent; | worker_connections 3; | use epoll; | events {}
ip_hash; | types {} | foo; | foo {} | http | }
error_log logs/x bogus; | error_log logs/x info warn; | error_log logs/x debug_core info;
error_log logs/x info debug_core; | error_log logs/x debug_core debug_event;
error_log logs/x INFO; | error_log stderr bad; | error_log memory:1k; | error_log memory:;
error_log memory:4z; | error_log memory:32k debug; | error_log ""; | error_log; | error_log off;
error_log syslog:; | error_log syslog:server=127.0.0.1 x; | error_log syslog:server=127.0.0.1:0;
error_log /nonexistent/x; | error_log logs/x; error_log logs/x info;
"""

IN_EVENTS = """
worker_connections x; | worker_connections 0; | worker_connections 1; | worker_connections -1;
worker_connections 10; worker_connections 20; | use epoll; | use kqueue; | use EPOLL;
use epoll; use epoll; | multi_accept on; | multi_accept 1; | accept_mutex on;
accept_mutex_delay x; | debug_connection 127.0.0.1; | debug_connection 10.0.0.1/8;
debug_connection localhost; | debug_connection unix:; | debug_connection unix:/x;
debug_connection 1.2.3.4/99; | debug_connection foo/8; | debug_connection "";
debug_connection 1.2.3.4 2; | worker_aio_requests x; | epoll_events 3; | epoll_events x;
poll_foo; | connections 5; | daemon on; | events {} | foo; | include /nonexistent;
epoll_events 3; epoll_events 4; | worker_connections 99999999;
"""


def cases(text: str) -> list[str]:
    """Return the configurations of a table above."""
    return [case.strip().replace("ONES", ONES) for case in re.split(r"\||\n", text) if case.strip()]


@pytest.mark.parametrize("directives", cases(MAIN), ids=lambda text: text[:40])
def test_main_directives_are_judged_as_by_nginx(programs: Programs, directives: str) -> None:
    """-t says of each what nginx -t says."""
    programs.file.write_text(EVENTS + directives)
    assert programs.nginx("-t") == programs.ours("-t")


@pytest.mark.parametrize("directives", cases(IN_EVENTS), ids=lambda text: text[:40])
def test_events_directives_are_judged_as_by_nginx(programs: Programs, directives: str) -> None:
    """-t says of each what nginx -t says."""
    programs.file.write_text(f"{PID} events {{ {directives} }}")
    assert programs.nginx("-t") == programs.ours("-t")


@pytest.mark.parametrize(
    "text",
    [
        "",
        PID,
        f"{PID} events 1 {{}}",
        f"{PID} events;",
        "events {",
        f"{PID} events {{}} load_module x;",
        "pid /nonexistent/x; events {}",
        f"{PID} error_log stderr info; worker_processes 1; worker_cpu_affinity 0 1; events {{}}",
        f"# a comment\n{PID}\nevents {{\n  worker_connections\n  x;\n}}\n",
    ],
)
def test_files_are_judged_as_by_nginx(programs: Programs, text: str) -> None:
    """-t says of each file what nginx -t says."""
    programs.file.write_text(text)
    assert programs.nginx("-t") == programs.ours("-t")


@pytest.mark.parametrize(
    "options",
    [
        ("-tq",), ("-T",), ("-T", "-q"), ("-qT",), ("-t", "-"),
        ("-x",), ("-tz",), ("foo",), ("-t", "foo"), ("--",), ("-t", ""),
        ("-s",), ("-tqs",), ("-c",), ("-p",), ("-e",), ("-g",), ("-sfoo",), ("-s", "bogus"),
        ("-s", "stop"), ("-s", "quit"), ("-s", "reopen"), ("-sreload",),
        ("-t", "-s", "stop"),
        ("-t", "-g", "foo"), ("-t", "-gfoo;"), ("-t", "-g", "stream {}"), ("-t", "-g", "pid a;"),
        ("-t", "-g", "daemon off; daemon on;"), ("-t", "-g", "include nope;"), ("-t", "-g", '"x'),
        ("-t", "-g", "user nobody nogroup;;"), ("-t", "-g", ""),
        ("-t", "-e", "stderr"), ("-t", "-e", "/nonexistent/x"),
        ("-t", "-c", "nope"), ("-T", "-c", "nope"), ("-t", "-c", "/tmp"), ("-t", "-c", ""),
        ("-c", "nope"), ("-s", "stop", "-c", "nope"), ("-g", "foo;"), ("-e", "stderr", "-cnope"),
    ],
    ids=" ".join,
)
def test_options_are_followed_as_by_nginx(programs: Programs, options: tuple[str, ...]) -> None:
    """Grouped, glued, wrong or missing: texts and exit codes agree."""
    programs.file.write_text(EVENTS)
    assert programs.nginx(*options) == programs.ours(*options)


WARNED = 'nginx: [warn] "-g foo;" is ignored: only the last "-g" is obeyed\n'


@pytest.mark.parametrize("last", ["daemon off;", "bogus;", "", "foo;"])
@pytest.mark.parametrize("how", ["-t", "-tq", "-sstop"])
def test_what_an_earlier_g_said_is_lost_aloud(programs: Programs, how: str, last: str) -> None:
    """The last -g counts and its verdict is nginx's, which is silent about the ones before."""
    programs.file.write_text(EVENTS)
    options = (how, "-g", "foo;", "-g", last)
    theirs = programs.nginx(*options)
    assert theirs._replace(stderr=WARNED + theirs.stderr) == programs.ours(*options)


@pytest.mark.parametrize("pid", ["abc", "", "\n", "12 34", "999999999\r\n", "-5", "0x10"])
def test_a_bad_pid_file_is_told_as_by_nginx(programs: Programs, pid: str) -> None:
    """-s says what is wrong with the number, or that there is no such process."""
    programs.file.write_text("pid conf/pid; events {}")
    (programs.folder / "conf" / "pid").write_bytes(pid.encode())
    assert programs.nginx("-s", "quit") == programs.ours("-s", "quit")


@pytest.mark.parametrize("options", [("-t",), ("-s", "stop")])
def test_a_refusal_is_logged_as_by_nginx(programs: Programs, options: tuple[str, ...]) -> None:
    """What is said on standard error stands in the log of -e too, dated."""
    programs.file.write_text(EVENTS + "foo;")
    programs.nginx(*options)
    theirs = normal((programs.folder / "logs" / "e.log").read_text())
    programs.ours(*options)
    ours = normal((programs.folder / "logs" / "e.log").read_text())
    assert 'TIME [emerg] PID: unknown directive "foo"' in theirs
    assert theirs == ours


def test_a_test_creates_the_pid_file_and_leaves_what_is_in_it(programs: Programs) -> None:
    """-t touches the file as nginx does and never empties it."""
    programs.file.write_text("pid conf/pid; error_log conf/log; events {}")
    assert 0 == programs.ours("-t").code
    assert "" == (programs.folder / "conf" / "pid").read_text()
    (programs.folder / "conf" / "pid").write_text("1\n")
    assert 0 == programs.ours("-t").code
    assert "1\n" == (programs.folder / "conf" / "pid").read_text()
    assert (programs.folder / "conf" / "log").exists()


def test_a_process_that_is_not_ours_gets_no_signal(programs: Programs) -> None:
    """-s refuses, and says whose the process in the pid file is."""
    programs.file.write_text("pid conf/pid; events {}")
    with subprocess.Popen(["sleep", "600"]) as stranger:
        wait_until(lambda: processes.title(stranger.pid) == "sleep 600", what="it was executed")
        (programs.folder / "conf" / "pid").write_text(f"{stranger.pid}\n")
        said = programs.ours("-s", "stop")
        assert stranger.poll() is None
        stranger.kill()
    assert 1 == said.code
    assert f'{stranger.pid} "sleep 600"' in said.stderr
    assert said.stderr.startswith("nginx: [error] no signal sent")


# -- versions --------------------------------------------------------------------------------------


def test_help_is_nginx_s_page(programs: Programs) -> None:
    """-h prints nginx's usage, line for line, under the name nginx."""
    def page(said: Said) -> list[str]:
        text = re.sub(r"nginx/[\d.]+", "VERSION", said.stderr)
        return re.sub(r"\(default: [^)]*\)", "(default)", text).splitlines()

    ours = programs.ours("-h", name="/usr/local/bin/nginx")
    assert page(programs.nginx("-h")) == page(ours)
    assert 0 == ours.code


def test_our_own_help_has_one_more_option(programs: Programs) -> None:
    """Under our own name -h tells of -N as well."""
    own = programs.ours("-h").stderr.splitlines()
    (line,) = [line for line in own if line.startswith("  -N ")]
    assert "print the commands" in line
    assert any("[-?hvVtTqN]" in line for line in own)


def test_the_version_is_said_under_our_own_name(programs: Programs) -> None:
    """-v is one line on standard error."""
    expected = f"ngxstream version: ngxstream/{ngxstream.VERSION}\n"
    assert Said(0, expected, "") == programs.ours("-v")


def test_the_version_is_nginx_s_through_a_link_of_that_name(programs: Programs) -> None:
    """Scripts that read `nginx -v` find the version we answer as."""
    expected = f"nginx version: nginx/{ngxstream.NGINX_VERSION}\n"
    assert Said(0, expected, "") == programs.ours("-v", name="/usr/sbin/nginx")


def test_configure_arguments_are_what_tools_search(programs: Programs) -> None:
    """-V names TLS, its library and the modules in nginx's dialect."""
    said = programs.ours("-V", name="nginx").stderr.splitlines()
    assert f"nginx version: nginx/{ngxstream.NGINX_VERSION}" == said[0]
    assert said[1].startswith("built by ")
    assert said[2].startswith("built with OpenSSL ")
    assert "TLS SNI support enabled" == said[3]
    assert re.fullmatch(r"configure arguments:( --\S+)+", said[4])
    words = said[4].split()
    assert {"--with-stream", "--with-stream_ssl_module", "--with-stream_ssl_preread_module",
            "--with-stream_realip_module", "--conf-path=/etc/nginx/nginx.conf",
            "--pid-path=/run/nginx.pid",
            "--error-log-path=/var/log/nginx/error.log"} <= set(words)
    assert 5 == len(said)


def test_version_and_test_go_together(programs: Programs) -> None:
    """-v -t prints the version, then tests."""
    programs.file.write_text(EVENTS)
    said = programs.ours("-vt")
    assert 0 == said.code
    assert 3 == len(said.stderr.splitlines())


def test_we_speak_under_the_name_of_the_link(
    programs: Programs, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every message carries the name the program is called by."""
    programs.file.write_text("foo;")
    cli.main(["/usr/sbin/nginx", *programs.words(("-t",))])
    as_nginx = capfd.readouterr().err
    cli.main(["ngxstream", *programs.words(("-t",))])
    as_ngxstream = capfd.readouterr().err
    assert as_nginx.startswith('nginx: [emerg] unknown directive "foo"')
    assert as_ngxstream == as_nginx.replace("nginx: ", "ngxstream: ")


def test_python_m_counts_as_ngxstream() -> None:
    """The package can be run without being installed."""
    done = subprocess.run(
        [sys.executable, "-m", "ngxstream", "-v"], capture_output=True, text=True, check=True,
        cwd=Path(ngxstream.__file__).parents[1], timeout=60,
    )
    assert f"ngxstream version: ngxstream/{ngxstream.VERSION}\n" == done.stderr


def test_a_version_costs_none_of_the_proxy_s_modules() -> None:
    """-v executes neither the configuration's nor the loop's modules."""
    code = (
        "import sys; from ngxstream.process import cli; cli.main(['ngxstream', '-v']);"
        "print(sorted(name for name, module in sys.modules.items() if name.startswith('ngxstream')"
        " and type(module).__name__ != '_Waiting'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(ngxstream.__file__).parents[1], timeout=60,
    )
    expected = ["ngxstream", "ngxstream.process", "ngxstream.process.cli",
                "ngxstream.process.lazy", "ngxstream.process.options",
                "ngxstream.process.places"]
    assert str(expected) == done.stdout.strip()


def test_a_dump_is_every_file_once(programs: Programs) -> None:
    """-T prints main file and includes as nginx does, byte for byte."""
    (programs.folder / "conf" / "a.conf").write_text("# no line feed\nworker_priority 1;")
    programs.file.write_text(f"{EVENTS}\ninclude *.conf.none;\ninclude a.conf;\n")
    said = programs.ours("-T")
    assert programs.nginx("-T") == said
    assert 2 == said.stdout.count("# configuration file ")


def test_a_dump_that_cannot_be_written_is_an_error(programs: Programs) -> None:
    """A full disk under -T is said, where nginx leaves the rest out in silence."""
    programs.file.write_text(EVENTS)
    for program, code in (([tools.require_nginx()], 0), ([sys.executable, "-m", "ngxstream"], 1)):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [*program, *programs.words(("-Tq",))], stdout=full, stderr=subprocess.PIPE,
                text=True, check=False, timeout=60, cwd=Path(ngxstream.__file__).parents[1],
            )  # fmt: skip
        assert code == done.returncode
    words = "write() to standard output failed (28: No space left on device)"
    assert f"ngxstream: [emerg] {words}\n" == done.stderr


def test_a_dump_to_nowhere_is_an_error(programs: Programs) -> None:
    """Standard output may have been closed; nothing else is written to then."""
    programs.file.write_text(EVENTS)
    words = [sys.executable, "-m", "ngxstream", *programs.words(("-Tq",))]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *words], stderr=subprocess.PIPE, text=True,
        check=False, timeout=60, cwd=Path(ngxstream.__file__).parents[1],
    )
    said = "ngxstream: [emerg] write() to standard output failed (9: Bad file descriptor)\n"
    assert (1, said) == (done.returncode, done.stderr)


def test_a_pid_file_of_another_program_is_never_taken(programs: Programs) -> None:
    """A start beside a real nginx, or anything that lives, says whose the pid file is."""
    programs.file.write_text("pid conf/pid; daemon off; events {}")
    with subprocess.Popen(["sleep", "600"]) as stranger:
        wait_until(lambda: processes.title(stranger.pid) == "sleep 600", what="it was executed")
        (programs.folder / "conf" / "pid").write_text(f"{stranger.pid}\n")
        said = programs.ours()
        stranger.kill()
    assert 1 == said.code
    assert f"that is not nginx: {stranger.pid} " in said.stderr
    assert f"{stranger.pid}\n" == (programs.folder / "conf" / "pid").read_text()
