"""Cycles: built in nginx's order, beside the old one, committed or abandoned whole."""

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ngxstream.core import clock, errors, files, log, state_files
from ngxstream.event.splice import PipePool
from ngxstream.modules.upstream import dynamic
from ngxstream.process import cycle
from ngxstream.process import service as services
from ngxstream.process.options import Options
from tests.support import descriptors, ports, work

HEAD = "pid @@/p.pid; error_log @@/error.log notice;\n"
EVENTS = "events {}\n"


class World:
    """A prefix folder, and the cycles a test has made there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.console = log.Console("nginx")
        self.made: list[cycle.Cycle] = []
        self.opened: list[files.OpenFile] = []

    def write(self, text: str) -> None:
        """Write the configuration; @@ stands for the folder."""
        (self.folder / "nginx.conf").write_text(text.replace("@@", str(self.folder)))

    def options(self, *words: str) -> Options:
        """Return the options of a call in this folder."""
        return Options(["nginx", "-p", str(self.folder), "-c", "nginx.conf", "-e", "e.log", *words])

    def builtin(self) -> log.Log:
        """Return the log of start-up."""
        file = files.OpenFile(str(self.folder / "e.log"))
        file.open()
        self.opened.append(file)
        return log.Log([log.FileTarget(file, log.NOTICE, clock.Clock())], console=self.console)

    def build(self, text: str, *words: str) -> cycle.Cycle:
        """Build and commit a first cycle."""
        self.write(text)
        made = cycle.Cycle(self.options(*words), self.builtin())
        made.commit(None)
        self.console.close()
        self.made.append(made)
        return made

    def reload(self, old: cycle.Cycle, text: str) -> cycle.Cycle | None:
        """Build the next cycle of another text, as on HUP."""
        self.write(text)
        made = cycle.rebuild(old)
        if made is not None:
            made.commit(old)
            self.made.append(made)
        return made

    def said(self, name: str = "error.log") -> list[str]:
        """Return the lines of a log without time and process."""
        lines = (self.folder / name).read_text().splitlines()
        return [line.partition("[")[2].replace("] ", " ", 1).split(" ", 2) for line in lines]

    def close(self) -> None:
        """Let go of everything."""
        for made in self.made:
            for one in made.listenings:
                for sock in one.socks:
                    sock.close()
            made.retire([])
        self.made.clear()
        for file in self.opened:
            file.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Give a folder to configure in; standard error is not redirected for the tests after."""
    saved = os.dup(2)
    made = World(tmp_path)
    yield made
    made.close()
    os.dup2(saved, 2)
    os.close(saved)


def stream(*listens: str) -> str:
    """Return a stream block whose servers listen at these addresses."""
    servers = "".join(f"server {{ listen {listen}; return x; }}\n" for listen in listens)
    return f"stream {{\n{servers}}}\n"


def fds(one: cycle.Cycle) -> list[list[int]]:
    """Return the descriptors of every listening."""
    return [[sock.fileno() for sock in listening.socks] for listening in one.listenings]


def test_a_first_cycle_opens_what_it_says(world: World) -> None:
    """Addresses, logs and the number of processes are those of the configuration."""
    made = world.build(HEAD + "worker_processes 3;" + EVENTS + stream("127.0.0.1", "127.0.0.1 udp"))
    assert (1, 3) == (made.generation, made.workers)
    assert [1, 3] == [len(one.socks) for one in made.listenings]
    assert [["notice", 'using the "epoll" event method']] == [
        [level, text] for level, _, text in world.said()
    ]
    assert not (world.folder / "p.pid").exists()  # written by who daemonizes, not by the cycle


def test_without_a_master_one_process_serves(world: World) -> None:
    """`master_process off` is one socket for each address, whatever worker_processes says."""
    made = world.build(
        HEAD + "worker_processes 3; master_process off;" + EVENTS + stream("127.0.0.1 udp")
    )
    assert 1 == made.workers
    assert [1] == [len(one.socks) for one in made.listenings]


def test_a_configuration_without_stream_serves_nothing(world: World) -> None:
    """Only the events block is needed, as in nginx."""
    made = world.build(HEAD + EVENTS)
    assert made.stream is None
    assert [] == made.listenings


def test_directives_of_the_command_line_come_first(world: World) -> None:
    """-g is read before the file; a second one there is the duplicate."""
    world.write(HEAD + EVENTS + "worker_processes 2;")
    with pytest.raises(errors.ConfError) as caught:
        cycle.Cycle(world.options("-g", "worker_processes 5;"), world.builtin())
    assert '"worker_processes" directive is duplicate' == caught.value.message
    assert 3 == caught.value.line
    made = world.build(HEAD + EVENTS, "-g", "worker_processes 5;")
    assert 5 == made.workers


@pytest.mark.parametrize(
    ("text", "message", "after_syntax"),
    [
        (HEAD + "nonsense;", 'unknown directive "nonsense" in @@/nginx.conf:2', False),
        (HEAD, 'no "events" section in configuration', True),
        (
            HEAD + "events { worker_connections 2; }" + stream("127.0.0.1", "127.0.0.2"),
            "2 worker_connections are not enough for 2 listening sockets",
            True,
        ),
        (
            "pid @@/no/p.pid; error_log @@/no/error.log; events {}",
            'open() "@@/no/p.pid" failed (2: No such file or directory)',
            True,
        ),
        (
            "pid @@/p.pid; error_log @@/no/error.log; events {}" + stream("203.0.113.9:1"),
            'open() "@@/no/error.log" failed (2: No such file or directory)',
            True,
        ),
        (
            HEAD + EVENTS + stream("203.0.113.9:1"),
            "bind() to 203.0.113.9:1 failed (99: Cannot assign requested address)",
            True,
        ),
    ],
)
def test_faults_are_found_in_nginx_order(
    text: str, message: str, after_syntax: bool, world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each kind of fault ends the build, after `syntax is ok` if the reading was."""
    world.write(text)
    with pytest.raises(errors.NgxError) as caught:
        cycle.Cycle(world.options("-t"), world.builtin())
    assert message.replace("@@", str(world.folder)) == str(caught.value)
    ok = f"nginx: the configuration file {world.folder}/nginx.conf syntax is ok\n"
    assert (ok if after_syntax else "") == capfd.readouterr().err


def test_a_test_leaves_the_pid_file_as_it_is(world: World) -> None:
    """-t creates the pid file if there is none and never empties it."""
    path = world.folder / "p.pid"
    path.write_text("123\n")
    world.write(HEAD + EVENTS)
    cycle.Cycle(world.options("-tq"), world.builtin()).abandon(None)
    assert "123\n" == path.read_text()
    path.unlink()
    cycle.Cycle(world.options("-tq"), world.builtin()).abandon(None)
    assert "" == path.read_text()


def test_a_reload_keeps_what_both_have(world: World) -> None:
    """Shared addresses keep their sockets, removed ones are closed, numbers count on."""
    one, two, three = (ports.free_port() for _ in range(3))
    first = world.build(HEAD + EVENTS + stream(f"127.0.0.1:{one}", f"127.0.0.1:{two} udp"))
    tcp, udp = (one.socks[0] for one in first.listenings)
    serial = first.serial.next()
    text = HEAD + EVENTS + stream(f"127.0.0.1:{three}", f"127.0.0.1:{one}")
    second = world.reload(first, text)
    assert second is not None
    assert 2 == second.generation
    assert tcp is second.listenings[1].socks[0]
    assert [udp] == second.lingering[0].socks  # sessions may go on behind it
    second.release_lingering([first])
    assert -1 != udp.fileno()
    second.release_lingering([])
    assert -1 == udp.fileno()
    assert serial < second.serial.next()


REFUSED: list[tuple[str, Callable[[int], str]]] = [
    ("syntax", lambda taken: "nonsense"),
    ("no file", lambda taken: "include /no/such/file;"),
    ("log", lambda taken: EVENTS + stream("127.0.0.1") + "error_log /no/such/folder/x;"),
    (
        "zone",
        lambda taken: EVENTS + "stream { server { listen 127.0.0.1; limit_conn z 1; return x; } }",
    ),
    ("address", lambda taken: EVENTS + stream("127.0.0.1", "203.0.113.9:1", "127.0.0.2 udp")),
    ("pid file", lambda taken: "pid /no/such/folder/p; " + EVENTS + stream("127.0.0.1")),
]


@pytest.mark.parametrize(("kind", "text"), REFUSED, ids=[kind for kind, _ in REFUSED])
def test_a_refused_reload_changes_nothing(
    kind: str, text: Callable[[int], str], world: World
) -> None:
    """One [emerg] line in the old log; every descriptor that was open is, and no other."""
    port = ports.free_port()
    before_text = HEAD + EVENTS + stream(f"127.0.0.1:{port}", f"127.0.0.1:{port} udp")
    first = world.build(before_text)
    seen = len(world.said())
    gc.collect()  # what former tests have left is not closed meanwhile
    open_before = descriptors.numbers()
    sockets = fds(first)
    head = "" if kind == "pid file" else "pid @@/p.pid;"
    assert world.reload(first, head + text(port)) is None
    assert open_before == descriptors.numbers()
    assert sockets == fds(first)
    levels = [level for level, *_ in world.said()[seen:]]
    assert ["notice", "emerg"] == levels


def test_a_new_pid_file_replaces_the_old_one(world: World) -> None:
    """A reload that renames the pid file writes the new one and removes the old one."""
    first = world.build(HEAD + EVENTS)
    (world.folder / "p.pid").write_text(f"{os.getpid()}\n")
    text = HEAD.replace("p.pid", "q.pid") + EVENTS
    assert world.reload(first, text) is not None
    assert f"{os.getpid()}\n" == (world.folder / "q.pid").read_text()
    assert not (world.folder / "p.pid").exists()


def test_a_pid_file_that_is_spelled_another_way_stays(world: World) -> None:
    """A reload that names the same file through a link removes nothing."""
    first = world.build(HEAD + EVENTS)
    path = world.folder / "p.pid"
    path.write_text(f"{os.getpid()}\n")
    (world.folder / "link").symlink_to(world.folder)
    second = world.reload(first, HEAD.replace("@@/p.pid", "@@/link/p.pid") + EVENTS)
    assert second is not None
    assert f"{os.getpid()}\n" == path.read_text()


def test_an_abandoned_reload_takes_its_pid_file_back(world: World) -> None:
    """When a later step fails, the new pid file goes and the old one stays."""
    first = world.build(HEAD + EVENTS)
    (world.folder / "p.pid").write_text(f"{os.getpid()}\n")
    text = HEAD.replace("p.pid", "q.pid") + EVENTS + stream("203.0.113.9:1")
    assert world.reload(first, text) is None
    assert not (world.folder / "q.pid").exists()
    assert (world.folder / "p.pid").exists()


def test_zones_are_adopted_by_name_size_and_owner(world: World) -> None:
    """The same zone goes on; one of another size begins anew."""
    text = """
        stream {
            limit_conn_zone $remote_addr zone=same:64k;
            limit_conn_zone $remote_addr zone=grows:SIZE;
        }
    """
    first = world.build(HEAD + EVENTS + text.replace("SIZE", "64k"))
    before = {name: one.zone for name, one in first.zones.requests.items()}
    second = world.reload(first, HEAD + EVENTS + text.replace("SIZE", "128k"))
    assert second is not None
    after = {name: one.zone for name, one in second.zones.requests.items()}
    assert before["same"] is after["same"]
    assert before["grows"] is not after["grows"]
    assert before["grows"].lock.fd >= 0  # its workers live still
    first.retire([second])
    assert -1 == before["grows"].lock.fd
    assert after["same"].lock.fd >= 0


def test_logs_of_an_old_cycle_stay_open_until_it_retires(world: World) -> None:
    """Old workers' sessions go on logging; reopening concerns every cycle's files."""
    first = world.build(HEAD + EVENTS)
    second = world.reload(first, HEAD.replace("error.log", "other.log") + EVENTS)
    assert second is not None
    assert all(file.fd >= 0 for file in first.files)
    os.rename(world.folder / "error.log", world.folder / "error.log.1")
    first.reopen(second.log, None)
    first.log.error(log.NOTICE, "still here")
    assert ["still here"] == [text for _, _, text in world.said()]
    first.retire([second])
    assert all(file.fd == files.CLOSED for file in first.files)


def test_more_connections_than_descriptors_are_warned_of(world: World) -> None:
    """The limit of open files is compared with worker_connections, as nginx does."""
    text = HEAD + "events { worker_connections 99999999; }"
    world.build(text)
    limit = os.sysconf("SC_OPEN_MAX")
    expected = f"99999999 worker_connections exceed open file resource limit: {limit}"
    assert ["warn", expected] == [[a, c] for a, _, c in world.said()][-1]


def test_the_work_of_a_reload_grows_with_the_addresses(world: World) -> None:
    """Twice as many addresses, half of them given up, are twice the work of master and worker."""
    port = ports.free_udp_port()

    def addresses(n: int) -> str:
        listens = [f"127.9.0.{number}:{port} udp" for number in range(1, n)]
        return HEAD + "events { worker_connections 1000; }" + stream(*listens)

    def serve(n: int) -> None:
        old = world.build(addresses(n))
        new = world.reload(old, addresses(n // 2))
        assert new is not None
        loop = services.make_loop(new, 0)
        service = services.Service(new, loop, 0, former=[old])
        assert not service.close_lingering()
        new.release_lingering([])
        service.close_listeners()
        service.close_sockets()
        loop.get(PipePool).close()
        loop.poller.close()

    assert work.growth(serve, 50) < work.LINEAR


def test_telling_current_addresses_from_former_ones_is_no_walk(world: World) -> None:
    """A worker asks this of every datagram that may be another worker's."""
    old = world.build(HEAD + EVENTS + stream("127.0.0.1 udp"))
    loop = services.make_loop(old, 0)
    service = services.Service(old, loop, 0)
    (mine,) = old.listenings
    old.listenings = []
    assert service.is_current(mine)
    old.listenings = [mine]
    service.close_listeners()
    loop.get(PipePool).close()
    loop.poller.close()


def test_a_pid_file_is_named_as_the_system_sees_it(world: World) -> None:
    """A NUL byte ends the name, for whoever creates, reads, renames or removes the file."""
    made = world.build(HEAD.replace("@@/p.pid", '"@@/p.pid\0off"') + EVENTS)
    assert str(world.folder / "p.pid") == made.main.pid


EVERYTHING = """
pid @@/p.pid; error_log @@/error.log notice; env A=b; events {}
stream {
    resolver 127.0.0.1;
    upstream u { zone z 64k; hash $remote_addr consistent; server 127.0.0.1:1; server 127.0.0.1:2; }
    upstream v { least_conn; server 127.0.0.1:2; }
    map $remote_addr $x { default a; ~b c; }
    geo $g { default 1; 10.0.0.0/8 2; }
    split_clients $remote_addr $sp { 50% a; * b; }
    limit_conn_zone $remote_addr zone=lc:64k;
    log_format f $remote_addr;
    access_log @@/a f; access_log @@/$x f;
    server { listen 127.0.0.1:PORT; listen unix:@@/s; proxy_pass u; limit_conn lc 5; deny all; }
    server { listen 127.0.0.1:PORT udp; ssl_preread on; proxy_pass $ssl_preread_server_name:1; }
}
"""


def test_reloads_keep_nothing(world: World) -> None:
    """After many reloads there are as many objects, of every type, as after a few."""
    text = EVERYTHING.replace("PORT", str(ports.free_port()))
    serving = world.build(text)
    counts = []
    for _ in range(3):
        for _ in range(8):
            after = world.reload(serving, text)
            assert after is not None
            serving.retire([after])
            world.made.remove(serving)
            serving = after
        after = None
        gc.collect()
        counts.append(Counter(type(one) for one in gc.get_objects()))
    grown = counts[2] - counts[1]
    assert {} == {kind: count for kind, count in grown.items() if count >= 8}


def test_what_the_next_cycle_reads_is_not_changed_by_the_old_one(world: World) -> None:
    """From before it is read; the old one goes on where the new one is refused."""
    group = "upstream u { zone z 64k; state @@/u.conf; }"
    api = "server { listen unix:@@/api; api write=on; }"
    text = f"{HEAD}{EVENTS}stream {{ {group} {api} }}"
    old = world.build(text)

    def is_closed(one: cycle.Cycle) -> bool:
        assert one.stream is not None
        conf = one.stream.upstreams.first("u")
        assert conf is not None
        assert isinstance(conf.balancer, dynamic.Group)
        return conf.balancer.roster.is_closed

    seen: list[bool] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_files, "read", lambda *_: seen.append(is_closed(old)))
        assert world.reload(old, text.replace("zone z 64k", "zone z 1k")) is None
        new = world.reload(old, text)
    assert new is not None
    assert [True] * len(seen) == seen != []
    assert [True, False] == [is_closed(old), is_closed(new)]
    assert world.reload(new, "nonsense;") is None
    assert not is_closed(new)
