"""limit_conn: counting, refusing, giving back."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ngxstream.core import errors, shm
from ngxstream.modules import limit_conn
from tests.support.in_process import InProcess, build
from tests.support.operations import call, families

CONF = """stream {
    log_format f '$limit_conn_status $status';
    access_log logs/a.log f;
    %s
    server { listen 127.0.0.1:@a@; %s proxy_pass 127.0.0.1:%d; }
}"""


class Limited:
    """A server whose sessions last until their client goes."""

    def __init__(self, folder: Path, stream: str, server: str) -> None:
        """Args: stream and server are what stands in the two blocks."""
        self.backend = socket.create_server(("127.0.0.1", 0))
        (folder / "logs").mkdir()
        self.log = folder / "logs" / "a.log"
        port = self.backend.getsockname()[1]
        self.served = InProcess(CONF % (stream, server, port), prefix=f"{folder}/")

    def connect(self) -> socket.socket:
        """Connect and wait until the session is there and has got as far as it gets."""
        before = len(self.served.sessions)
        client = self.served.connect()
        self.served.turn_until(
            lambda: len(self.served.sessions) > before
            and (self.served.sessions[-1].content is not None or self.served.sessions[-1].status),
            "the session",
        )
        return client

    def leave(self, client: socket.socket, session: int) -> None:
        """Close a client and wait for the end of its session."""
        client.close()
        self.served.turn_until(lambda: self.served.sessions[session].status, "the session's end")

    def statuses(self) -> list[int]:
        """Return the status of each session, 0 while it lasts."""
        return [s.status for s in self.served.sessions]

    def logged(self) -> list[str]:
        """Return the lines of the access log."""
        return self.log.read_text().splitlines()

    def total(self, zone: str, key: bytes) -> int:
        """Return how much a zone counts for a key."""
        found = self.served.conf.data["limit_conn"][zone].table.total(key)
        assert isinstance(found, int)
        return found

    def close(self) -> None:
        """Close what listens."""
        self.served.close()
        self.backend.close()


ZONE = "limit_conn_zone $remote_addr zone=z:64k; limit_conn_zone $server_addr zone=y:64k;"
KEY = b"127.0.0.1"


@pytest.fixture
def made(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Limited]:
    """Give a server with the limits that the test is marked with."""
    limited = Limited(tmp_path, ZONE, request.param)
    yield limited
    limited.close()


def error_lines(made: Limited) -> list[tuple[str, str]]:
    """Return level and message of what is no information."""
    cut = made.served.target.lines
    return [(level, text.split(" while ")[0]) for level, text in cut if level != "info"]


@pytest.mark.parametrize("made", ["limit_conn z 2;"], indirect=True)
def test_a_session_over_the_limit_is_refused(made: Limited) -> None:
    """The third session of a client is refused with 503; when one ends, another may come."""
    first, second, third = made.connect(), made.connect(), made.connect()
    assert [0, 0, 503] == made.statuses()
    assert [("error", '*5 limiting connections by zone "z"')] == error_lines(made)
    assert ["REJECTED 503"] == made.logged()
    made.leave(first, 0)
    fourth = made.connect()
    assert [200, 0, 503, 0] == made.statuses()
    assert 2 == made.total("z", KEY)
    made.leave(second, 1)
    made.leave(fourth, 3)
    third.close()
    assert 0 == made.total("z", KEY)
    assert ["REJECTED 503", "PASSED 200", "PASSED 200", "PASSED 200"] == made.logged()
    assert {"limit_conn_passed": 3, "limit_conn_rejected": 1} == made.served.facts("z")


@pytest.mark.parametrize(
    "made", ["limit_conn z 1; limit_conn_dry_run on; limit_conn_log_level warn;"], indirect=True
)
def test_a_dry_run_refuses_nobody(made: Limited) -> None:
    """Over the limit the session goes on, uncounted, and the log says what would have been."""
    first, second = made.connect(), made.connect()
    assert [0, 0] == made.statuses()
    assert [("warn", '*3 limiting connections, dry run, by zone "z"')] == error_lines(made)
    assert 1 == made.total("z", KEY)
    made.leave(second, 1)
    assert ["REJECTED_DRY_RUN 200"] == made.logged()
    assert {"limit_conn_passed": 1, "limit_conn_rejected_dry_run": 1} == made.served.facts("z")
    assert 1 == made.total("z", KEY)
    made.leave(first, 0)
    assert 0 == made.total("z", KEY)


@pytest.mark.parametrize("made", ["limit_conn z 5; limit_conn y 1;"], indirect=True)
def test_a_refusal_gives_back_what_came_before(made: Limited) -> None:
    """A session that one limit refuses is not counted by those it passed."""
    clients = made.connect(), made.connect()
    assert [0, 503] == made.statuses()
    assert (1, 1) == (made.total("z", KEY), made.total("y", KEY))
    made.leave(clients[0], 0)
    assert (0, 0) == (made.total("z", KEY), made.total("y", KEY))
    clients[1].close()


@pytest.mark.parametrize("made", ["limit_conn z 1;"], indirect=True)
def test_a_full_zone_refuses(made: Limited) -> None:
    """Where a zone has no room for another key its session is refused, and that is critical."""
    table = made.served.conf.data["limit_conn"]["z"].table
    first = table.acquire(b"first", 1)
    count = 0
    while table.acquire(b"%d" % count, 1):
        count += 1
    client = made.connect()
    assert [503] == made.statuses()
    expected = ("crit", 'ngx_slab_alloc() failed: no memory in limit_conn_zone "z"')
    assert [expected] == error_lines(made)
    assert ["REJECTED 503"] == made.logged()
    client.close()
    table.release(first)
    made.connect().close()
    assert [503, 0] == made.statuses()


@pytest.mark.parametrize("made", ["limit_conn z 2; limit_conn y 1;"], indirect=True)
def test_what_a_session_has_taken_goes_with_it(made: Limited) -> None:
    """Where it goes on it is counted, limit or not, and until it ends there."""
    (kept,) = limit_conn.MODULE.keeps
    pack, unpack = kept.pack, kept.unpack
    assert pack is not None
    assert unpack is not None
    first, second = made.connect(), made.connect()
    holds, refused = made.served.sessions
    packed = pack(holds)
    assert (b"PASSED", [("z", KEY), ("y", b"127.0.0.1")]) == packed
    assert [] == pack(refused)[1]
    unpack(made.served.sessions[0], packed)
    assert (2, 2) == (made.total("z", KEY), made.total("y", KEY))
    made.leave(first, 0)
    assert (0, 0) == (made.total("z", KEY), made.total("y", KEY))
    second.close()


KEYS = {
    "an empty key": ("", [0, 0], []),
    "a key of 255 bytes": ("k" * 255, [0, 503], ["error"]),
    "a key of 256 bytes": ("k" * 256, [0, 0], ["error", "error"]),
}


@pytest.mark.parametrize("name", KEYS)
def test_keys_out_of_bounds_are_not_limited(name: str, tmp_path: Path) -> None:
    """An empty key limits nobody, and a key over 255 bytes is complained of."""
    key, statuses, levels = KEYS[name]
    stream = f'map "" $key {{ default "{key}"; }} limit_conn_zone $key zone=z:64k;'
    limited = Limited(tmp_path, stream, "limit_conn z 1;")
    clients = limited.connect(), limited.connect()
    assert statuses == limited.statuses()
    assert levels == [level for level, _ in error_lines(limited)]
    if len(key) > 255:
        expected = f'*1 the value of the "$key" key is more than 255 bytes: "{key}"'
        assert expected == error_lines(limited)[0][1]
    for client in clients:
        client.close()
    limited.close()


def zone_conf(key: str, size: str = "64k") -> str:
    """Return a configuration with one zone."""
    return (
        f"stream {{ limit_conn_zone {key} zone=z:{size}; "
        "server { listen 127.0.0.1:9; limit_conn z 1; return 1; } }"
    )


def test_counts_survive_a_reload() -> None:
    """A new configuration with the same zone goes on with the counts of the old one."""
    old, new = build(zone_conf("$remote_addr")), build(zone_conf("$remote_addr"))
    assert old.conf is not None
    assert new.conf is not None
    old.zones.build()
    old.conf.data["limit_conn"]["z"].table.acquire(KEY, 5)
    new.zones.build(old.zones)
    assert 1 == new.conf.data["limit_conn"]["z"].table.total(KEY)
    new.zones.close()


def test_a_zone_of_another_size_begins_anew() -> None:
    """With another size there is nothing to go on with."""
    old, new = build(zone_conf("$remote_addr")), build(zone_conf("$remote_addr", "128k"))
    assert old.conf is not None
    assert new.conf is not None
    old.zones.build()
    old.conf.data["limit_conn"]["z"].table.acquire(KEY, 5)
    new.zones.build(old.zones)
    assert 0 == new.conf.data["limit_conn"]["z"].table.total(KEY)
    new.zones.close()
    old.zones.close()


def test_a_zone_cannot_change_its_key() -> None:
    """The same zone by another key refuses the new configuration."""
    old, new = build(zone_conf("$remote_addr")), build(zone_conf("$server_addr"))
    old.zones.build()
    with pytest.raises(errors.UnplacedError) as caught:
        new.zones.build(old.zones)
    expected = (
        'limit_conn_zone "z" uses the "$server_addr" key '
        'while previously it used the "$remote_addr" key'
    )
    assert expected == str(caught.value)
    new.zones.close(keep=old.zones)
    old.zones.close()


def test_the_smallest_zone_is_nginx_s() -> None:
    """A zone of eight pages is accepted."""
    assert "" == build(zone_conf("$pid", f"{shm.LEAST // 1024}k")).error


def test_what_a_zone_has_counted_is_shown() -> None:
    """To the API, which may have it begin at 0 again, and to Prometheus."""
    zones = "/stream/limit_conns"
    with InProcess("""stream { limit_conn_zone $remote_addr zone=a:64k;
        limit_conn_zone $remote_addr zone=b:64k;
        server { listen 127.0.0.1:@a@; limit_conn a 1; ssl_preread on; return x; } }""") as served:
        clients = [served.connect() for _ in range(3)]
        served.turn_until(lambda: sum(bool(s.status) for s in served.sessions) == 2)
        a = {"passed": 1, "rejected": 2, "rejected_dry_run": 0}
        none = dict.fromkeys(a, 0)
        assert {"a": a, "b": none} == call(served, "GET", zones)
        assert {"rejected": 2} == call(served, "GET", f"{zones}/a", fields="rejected")
        found = families(served, "limit_conn")
        prefix = "nginxplus_stream_limit_connection_"
        assert {prefix + name for name in a} == set(found)
        assert {'{zone="a"}': 2, '{zone="b"}': 0} == found[prefix + "rejected"]
        assert 204 == call(served, "DELETE", f"{zones}/a")
        assert none == call(served, "GET", f"{zones}/a")
        assert "LimitConnNotFound" == call(served, "GET", f"{zones}/c")
        for client in clients:
            client.close()
