"""The conf that the main context makes; what is refused is compared with nginx in test_cli.py."""

import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.conf import directive
from ngxstream.core import errors
from ngxstream.process import directives, places
from tests.support.judged import Judged


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
        ('pid "";', "pid", places.PID_PATH),
        ('lock_file "";', "lock_file", places.LOCK_PATH),
        ("lock_file logs/l;", "lock_file", "/p/logs/l"),
        ("env A; env B=c;", "env", ("A", "B=c")),
    ],
)
def test_main_directives_find_their_fields(text: str, field: str, value: Any) -> None:
    """Each value is read in nginx's units; paths are relative to the prefix."""
    assert value == getattr(Judged(text).main(), field)


def test_error_logs_of_main_are_kept_in_order() -> None:
    """Several may be given, all receive."""
    specs = Judged("error_log a; error_log b info; events {}").main().error_log
    assert ["/p/a", "/p/b"] == [spec.path for spec in specs]


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
    """Without a group in `user` the group has the user's name."""
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
    """Any mask and any worker will do."""
    mask = "".join("1" if cpu in cpus else "0" for cpu in range(40, -1, -1))
    affinity = Judged(f"worker_cpu_affinity auto {mask};").main().worker_cpu_affinity
    assert affinity
    (cpu,) = affinity.of(worker)
    assert cpu in cpus


def test_every_record_has_its_line_of_prose() -> None:
    """docs/directives.md is printed from the records."""
    for module in directives.MODULES:
        for record in module.directives:
            assert record.doc
            assert record.contexts in (directive.MAIN, directive.EVENTS)
