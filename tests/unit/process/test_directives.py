"""The confs that the main and events contexts make; what is refused is compared with nginx in
test_cli.py.
"""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.conf import builder, directive, reader
from ngxstream.core import errors, ip
from ngxstream.process import directives, elsewhere, options
from tests.support import tools


class Judged:
    """A text that was read and judged."""

    def __init__(self, text: str) -> None:
        """Judge it. raises: ConfError"""
        self.warnings: list[str] = []
        self.builder = builder.Builder(
            directives.MODULES, prefix="/p/", conf_prefix="/p/conf/", elsewhere=elsewhere.NAMES,
            warn=lambda level, message: self.warnings.append(f"[{level}] {message}"),
        )
        self.scope = builder.Scope(self.builder, directive.MAIN)
        # blocks are not for -g, and here is no file
        reading = reader.read("/n.conf", conf_prefix="/", files=OneFile(text))
        self.builder.build(reading.main.statements, self.scope)

    def main(self) -> directives.MainConf:
        """Return the main conf."""
        return directives.main_conf(self.scope)

    def events(self, listenings: int = 0) -> directives.EventsConf:
        """Return the events conf."""
        return directives.events_conf(self.builder, listenings)


class OneFile:
    """A file system with one file."""

    def __init__(self, text: str) -> None:
        """Hold the text."""
        self.text = text

    def read(self, path: str) -> bytes:
        """Return it, whatever the path."""
        return self.text.encode()

    def names(self, directory: str) -> list[str]:
        """List nothing."""
        return []

    def exists(self, path: str) -> bool:
        """Everything is there."""
        return True


def test_nothing_said_is_nginx_s_default() -> None:
    """Facts of nginx's documentation, field by field."""
    main = Judged("events {}").main()
    assert (True, True, 1, 0, 0) == (
        main.daemon, main.master_process, main.worker_processes, main.worker_priority,
        main.worker_shutdown_timeout,
    )
    assert "/run/nginx.pid" == main.pid
    events = Judged("events {}").events()
    assert (512, "epoll", False, False, 500) == (
        events.worker_connections, events.use, events.multi_accept, events.accept_mutex,
        events.accept_mutex_delay,
    )


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("daemon off;", "daemon", False),
        ("master_process off;", "master_process", False),
        ("worker_processes 4;", "worker_processes", 4),
        ("worker_processes auto;", "worker_processes", os.sysconf("SC_NPROCESSORS_ONLN")),
        ("worker_priority -10;", "worker_priority", -10),
        ("worker_priority +10;", "worker_priority", 10),
        ("worker_priority 0; worker_priority 5;", "worker_priority", 5),
        ("worker_rlimit_nofile 100;", "worker_rlimit_nofile", 100),
        ("worker_rlimit_core 1g;", "worker_rlimit_core", 1 << 30),
        ("worker_shutdown_timeout 1m;", "worker_shutdown_timeout", 60_000),
        ("working_directory /tmp;", "working_directory", "/tmp"),
        ("timer_resolution 100ms;", "timer_resolution", 100),
        ("debug_points abort;", "debug_points", "abort"),
        ("pid logs/x.pid;", "pid", "/p/logs/x.pid"),
        ("pid /x.pid;", "pid", "/x.pid"),
        ('pid "";', "pid", options.PID_PATH),
        ('lock_file "";', "lock_file", options.LOCK_PATH),
        ("lock_file logs/l;", "lock_file", "/p/logs/l"),
        ("env A; env B=c;", "env", ("A", "B=c")),
    ],
)
def test_main_directives_find_their_fields(text: str, field: str, value: Any) -> None:
    """Each value is read in nginx's units; paths are relative to the prefix."""
    assert value == getattr(Judged(text).main(), field)


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("worker_connections 4096;", "worker_connections", 4096),
        ("use poll;", "use", "poll"),
        ("use select;", "use", "select"),
        ("multi_accept on;", "multi_accept", True),
        ("accept_mutex on;", "accept_mutex", True),
        ("accept_mutex_delay 1s;", "accept_mutex_delay", 1000),
        ("epoll_events 64;", "epoll_events", 64),
    ],
)
def test_events_directives_find_their_fields(text: str, field: str, value: Any) -> None:
    """Each value is read in nginx's units."""
    assert value == getattr(Judged(f"events {{ {text} }}").events(), field)


def test_error_logs_of_main_are_kept_in_order() -> None:
    """Several may be given, all receive."""
    specs = Judged("error_log a; error_log b info; events {}").main().error_log
    assert ["/p/a", "/p/b"] == [spec.path for spec in specs]


def test_select_has_its_limit() -> None:
    """More connections than select(2) has bits are refused, and told why."""
    with pytest.raises(errors.UnplacedError) as caught:
        Judged("events { use select; worker_connections 2000; }").events()
    assert str(caught.value).startswith("the maximum number of files supported by select() is 1024")


def test_listening_sockets_need_connections() -> None:
    """Each takes one, and one is for the channel."""
    judged = Judged("events { worker_connections 3; }")
    assert 3 == judged.events(2).worker_connections
    with pytest.raises(errors.UnplacedError) as caught:
        judged.events(3)
    assert "3 worker_connections are not enough for 3 listening sockets" == str(caught.value)


def test_an_ssl_engine_is_refused_by_name() -> None:
    """What changes security is never ignored."""
    with pytest.raises(errors.ConfError) as caught:
        Judged("ssl_engine rsax;")
    assert str(caught.value).startswith('"ssl_engine" directive is not supported: ')


def test_modules_need_not_be_loaded() -> None:
    """load_module before everything else is accepted, whatever it names."""
    assert Judged("load_module modules/ngx_stream_module.so; events {}").main().daemon


# -- user ------------------------------------------------------------------------------------------


def without_root(text: str) -> tuple[str, str]:
    """Return (user of the conf, warnings) as judged by a process without root."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.seteuid(65534)
        judged = Judged(text)
        os.write(write, json.dumps([str(judged.main().user), judged.warnings]).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with open(read) as file:
        user, warnings = json.load(file)
    return user, " ".join(warnings)


@pytest.mark.skipif(os.geteuid() != 0, reason="compares root with others")
def test_the_user_directive_is_for_root() -> None:
    """Somebody else's master warns, and its workers stay who they are."""
    user, warnings = without_root("user nosuch;")
    assert "None" == user
    assert (
        '[warn] the "user" directive makes sense only if the master process runs with super-user '
        "privileges, ignored in /n.conf:1"
    ) == warnings


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes users")
def test_the_default_user_is_nobody_with_the_system_s_group() -> None:
    """Whichever of nobody and nogroup there is."""
    user = Judged("events {}").main().user
    assert user
    assert "nobody" == user.name


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes users")
def test_the_group_may_be_named() -> None:
    """Without one it has the user's name."""
    assert directives.User("root", 0, 0) == Judged("user root;").main().user
    daemon = Judged("user root daemon;").main().user
    assert daemon
    assert (0, 1) == (daemon.uid, daemon.gid)


# -- affinity --------------------------------------------------------------------------------------


def test_masks_are_read_from_the_right() -> None:
    """The last digit is CPU 0; workers without a mask have the last one."""
    judged = Judged("worker_processes 3; worker_cpu_affinity 0101 0010;")
    affinity = judged.main().worker_cpu_affinity
    assert affinity
    expected = [{0, 2}, {1}, {1}]
    assert expected == [set(affinity.of(worker)) for worker in range(3)]
    assert 1 == len(judged.warnings)


def test_auto_gives_out_the_cpus_in_turn() -> None:
    """Each worker has one of the mask's, and the first again after the last."""
    affinity = Judged("worker_cpu_affinity auto 10110;").main().worker_cpu_affinity
    assert affinity
    expected = [{1}, {2}, {4}, {1}, {2}]
    assert expected == [set(affinity.of(worker)) for worker in range(5)]


@given(st.sets(st.integers(0, 40), min_size=1), st.integers(0, 100))
def test_auto_always_gives_one_of_the_mask(cpus: set[int], worker: int) -> None:
    """Whatever the mask and the worker."""
    mask = "".join("1" if cpu in cpus else "0" for cpu in range(40, -1, -1))
    affinity = Judged(f"worker_cpu_affinity auto {mask};").main().worker_cpu_affinity
    assert affinity
    (cpu,) = affinity.of(worker)
    assert cpu in cpus


# -- debug_connection ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("directive_", "sockaddr", "expected"),
    [
        ("10.0.0.0/8", ("10.1.2.3", 53), True),
        ("10.0.0.0/8", ("11.1.2.3", 53), False),
        ("10.0.0.1", ("10.0.0.1", 53), True),
        ("2001:db8::/32", ("2001:db8::7", 53, 0, 0), True),
        ("2001:db8::/32", ("10.0.0.1", 53), False),
        ("unix:", "/run/x.sock", True),
        ("unix:", "", True),
        ("10.0.0.0/8", "/run/x.sock", False),
        ("unix:", ("10.0.0.1", 53), False),
        ("localhost", ("127.0.0.1", 53), True),
    ],
)
def test_debug_connection_tells_who_is_meant(
    directive_: str, sockaddr: Any, expected: bool
) -> None:
    """Addresses, networks, names and unix: each match their own kind."""
    events = Judged(f"events {{ debug_connection {directive_}; }}").events()
    assert expected is events.debug_connection.matches(sockaddr)


def test_debug_connections_add_up() -> None:
    """Each directive adds clients."""
    events = Judged("events { debug_connection 10.0.0.1; debug_connection ::1; "
                    "debug_connection unix:; }").events()
    found = events.debug_connection
    assert (True, [ip.parse("10.0.0.1"), ip.parse("::1")]) == (
        found.unix, [cidr.packed for cidr in found.cidrs])
    assert found
    assert not Judged("events {}").events().debug_connection


# -- names of others -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["keepalive", "server_tokens", "ip_hash", "fastcgi_pass", "auth_http", "protocol",
             "http2", "ssl_reject_handshake", "stub_status"],
)
def test_http_and_mail_names_are_not_allowed_here(name: str) -> None:
    """They are known to nginx, outside of their blocks they are misplaced."""
    with pytest.raises(errors.ConfError) as caught:
        Judged(f"{name} x;")
    assert f'"{name}" directive is not allowed here in /n.conf:1' == str(caught.value)


@pytest.mark.parametrize(
    "name", ["api", "keyval_zone", "zone_sync", "js_import", "rtmp", "lua_code_cache", "state",
             "health_check", "preread_by_lua_block", "ssl", "status", "check"],
)
def test_plus_and_third_party_names_are_unknown(name: str) -> None:
    """As in nginx's open-source build."""
    with pytest.raises(errors.ConfError) as caught:
        Judged(f"{name} x;")
    assert f'unknown directive "{name}" in /n.conf:1' == str(caught.value)


# Known since versions that the distribution's nginx may not have reached.
NEWER = re.compile(
    "http2$|http3|quic|early_hints|keepalive_min_timeout|_inherit$|max_headers|sticky|least_time|"
    "trailers$|_cache$|_compression$|ech_file$"
)
MAIL = re.compile("auth_http|imap|pop3|smtp|protocol|starttls|xclient|proxy|timeout|max_errors|"
                  "http$|mail$|ssl_conf_command")


def test_names_of_http_are_what_nginx_calls_misplaced(tmp_path: Path) -> None:
    """A sample of the list, asked of the distribution's nginx."""
    names = [name for name in sorted(elsewhere.NAMES)
             if not NEWER.search(name) and not MAIL.match(name)]
    for name in names[::10]:
        (tmp_path / "n.conf").write_text(f"{name} x;")
        said = subprocess.run(
            [tools.require_nginx(), "-p", str(tmp_path), "-e", "stderr", "-c", "n.conf", "-t"],
            capture_output=True, text=True, check=False, timeout=60,
        ).stderr
        assert f'"{name}" directive is not allowed here' in said


def test_every_record_has_its_line_of_prose() -> None:
    """docs/directives.md is printed from the records."""
    for module in directives.MODULES:
        for record in module.directives:
            assert record.doc
            assert record.contexts in (directive.MAIN, directive.EVENTS)
