"""limit_sess: who begins too often waits or is refused, and nobody else."""

import contextlib
import re
import socket
from pathlib import Path

import pytest

from ngxstream.core import errors, shm
from ngxstream.core.shm_buckets import UNIT
from ngxstream.modules import limit_sess
from ngxstream.stream.api import OWN
from tests.support import ports
from tests.support.in_process import InProcess, build
from tests.support.operations import call, families
from tests.support.udp_in_process import UdpInProcess
from tests.support.waiting import wait_until

CONF = """stream {
    log_format f '$limit_sess_status $status $session_end_reason';
    access_log logs/a.log f;
    %s
    server { listen 127.0.0.1:@a@; %s return text; }
}"""
SLOW = "limit_sess_zone $binary_remote_addr zone=z:32k rate=1r/m;"


def serve(folder: Path, stream: str, server: str) -> InProcess:
    """Serve one server. Args: stream, server: what stands in the two blocks"""
    (folder / "logs").mkdir()
    return InProcess(CONF % (stream, server), prefix=f"{folder}/")


def ask(served: InProcess) -> bytes:
    """Return what a new TCP client gets."""
    return served.read(served.connect())


def said(served: InProcess, words: str) -> list[str]:
    """Return the lines of the error log with these words."""
    return [message for _, message in served.target.lines if words in message]


def logged(folder: Path) -> list[str]:
    """Return the lines of the access log."""
    return (folder / "logs/a.log").read_text().splitlines()


@pytest.mark.effect("limit_sess", "limit_sess_zone")
def test_beyond_the_burst_sessions_are_refused(tmp_path: Path) -> None:
    """With status 503 and a line as nginx has for requests; the first ones pass."""
    with serve(tmp_path, SLOW, "limit_sess zone=z burst=2 nodelay;") as served:
        assert [b"text"] * 3 + [b""] == [ask(served) for _ in range(4)]
        assert ["PASSED 200 closed"] * 3 + ["REJECTED 503 limit"] == logged(tmp_path)
        (line,) = said(served, "limiting")
        words = r'\*4 limiting sessions, excess: (3\.000|2\.9\d\d) by zone "z" while .* client: 127'
        assert re.match(words, line)


def test_without_a_burst_one_passes_at_a_time(tmp_path: Path) -> None:
    """The bucket holds one session."""
    with serve(tmp_path, SLOW, "limit_sess zone=z;") as served:
        assert [b"text", b""] == [ask(served) for _ in range(2)]


def test_within_the_burst_sessions_wait_for_their_turn(tmp_path: Path) -> None:
    """Each as long as those before it need; whoever leaves meanwhile leaves nothing behind."""
    zone = "limit_sess_zone $binary_remote_addr zone=z:32k rate=20r/s;"
    with serve(tmp_path, zone, "limit_sess zone=z burst=5;") as served:
        assert [b"text"] * 4 == [ask(served) for _ in range(4)]
        # three of them by the rate, of 50 ms each, however late this machine began them
        assert served.loop.now_ms - served.sessions[0].start_ms >= 140
        assert "DELAYED 200 closed" == logged(tmp_path)[-1]
        assert said(served, "delaying session, excess: ")
        assert served.loop.live == 0


def test_of_a_burst_some_need_not_wait(tmp_path: Path) -> None:
    """`delay=` says how many."""
    with serve(tmp_path, SLOW, "limit_sess zone=z burst=5 delay=2;") as served:
        assert [b"text"] * 3 == [ask(served) for _ in range(3)]
        client = served.connect()
        served.turn_until(lambda: len(served.sessions) == 4, "the fourth")
        served.turn_until(lambda: served.sessions[3].module_ctx(limit_sess.WAITING), "its waiting")
        served.loop.sessions.copy().pop().finalize(500)
        client.close()
        assert served.loop.live == 0
        assert "DELAYED 500" in logged(tmp_path)[-1]


@pytest.mark.effect("limit_sess_dry_run", "limit_sess_log_level")
def test_a_dry_run_refuses_nobody(tmp_path: Path) -> None:
    """It counts and logs, at the level that is wanted."""
    server = "limit_sess zone=z; limit_sess_dry_run on; limit_sess_log_level notice;"
    with serve(tmp_path, SLOW, server) as served:
        assert [b"text"] * 2 == [ask(served) for _ in range(2)]
        assert "REJECTED_DRY_RUN 200 closed" == logged(tmp_path)[-1]
        assert said(served, "limiting sessions, dry run, excess: ")


def test_keys_are_counted_by_themselves(tmp_path: Path) -> None:
    """And an empty one is not counted."""
    odd = "map $remote_port $odd { ~[13579]$ odd; default ''; }"
    stream = f"{odd} limit_sess_zone $odd zone=z:32k rate=1r/m;"
    with serve(tmp_path, stream, "limit_sess zone=z;") as served:
        found: dict[bool, list[bytes]] = {False: [], True: []}
        while min(map(len, found.values())) < 3:
            client = served.connect()
            found[bool(client.getsockname()[1] % 2)].append(served.read(client))
        assert [b"text", b"", b""] == found[True][:3]
        assert {b"text"} == set(found[False])


def test_what_is_refused_by_one_limit_is_not_counted_by_another(tmp_path: Path) -> None:
    """The buckets of the limits before it are as they were."""
    stream = SLOW + "limit_sess_zone $server_port zone=all:32k rate=1r/m;"
    with serve(tmp_path, stream, "limit_sess zone=all burst=5 nodelay; limit_sess zone=z;") as s:
        assert [b"text", b"", b"", b""] == [ask(s) for _ in range(4)]
        zone = s.conf.data["limit_sess"]["all"]
        port = str(s.port("a")).encode()
        assert zone.table.level(port, zone.rate, s.loop.now_ms) <= UNIT


def test_a_udp_client_waits_with_all_it_has_sent() -> None:
    """Each of its datagrams begins a session here, one behind the other."""
    port = ports.free_port()
    served = UdpInProcess(
        "stream { limit_sess_zone $binary_remote_addr zone=z:32k rate=20r/s; server { "
        f"listen 127.0.0.1:{port} udp; limit_sess zone=z burst=5; return text; }} }}"
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(served.address())
        client.settimeout(0.001)
        for _ in range(3):
            client.send(b"?")
        answers: list[bytes] = []

        def has_all() -> bool:
            served.loop.turn(wait_ms=5)
            with contextlib.suppress(TimeoutError):
                answers.append(client.recv(100))
            return len(answers) == 3

        wait_until(has_all)
    assert [b"text"] * 3 == answers
    assert served.loop.live == 0
    served.close()


def test_what_limits_did_is_shown(tmp_path: Path) -> None:
    """By the API and in metrics, by zone."""
    with serve(tmp_path, SLOW, "limit_sess zone=z;") as served:
        for _ in range(3):
            ask(served)
        shown = call(served, "GET", "/limit_sess/z", tree=OWN)
        assert {"passed": 1, "delayed": 0, "rejected": 2} == {
            name: shown[name] for name in ("passed", "delayed", "rejected")
        }
        counted = families(served, "limit_sess")
        assert counted["ngxstream_stream_limit_sess_rejected"] == {'{zone="z"}': 2}


def test_a_zone_is_kept_over_a_reload_while_its_key_stays() -> None:
    """Another key needs another name, as with limit_conn_zone."""
    zone = "limit_sess_zone %s zone=z:32k rate=%s;"
    draft = f"stream {{ {zone} server {{ listen 127.0.0.1:9; return x; }} }}"
    old = build(draft % ("$remote_addr", "5r/s"))
    old.zones.build()
    new = build(draft % ("$remote_addr", "50r/s"))
    new.zones.build(old.zones)
    assert new.conf is not None
    assert old.conf is not None
    assert new.conf.data["limit_sess"]["z"].table is old.conf.data["limit_sess"]["z"].table
    assert 3000 == new.conf.data["limit_sess"]["z"].rate
    other = build(draft % ("$remote_port", "5r/s"))
    words = 'limit_sess "z" uses the "$remote_port" key while previously it used the "$remote_addr"'
    with pytest.raises(errors.UnplacedError, match=words.replace("$", "[$]")):
        other.zones.build(old.zones)
    assert shm.LEAST == 32_768


ZONE = "limit_sess_zone $pid"
JUDGED = CONF.replace("@a@", "9")


@pytest.mark.refusal("limit_sess", "limit_sess_zone", "limit_sess_log_level", "limit_sess_dry_run")
@pytest.mark.parametrize(
    ("stream", "server", "words"),
    [
        (f"{ZONE} zone=z:32k rate=0r/s;", "", 'invalid rate "rate=0r/s"'),
        (f"{ZONE} zone=z:32k rate=5;", "", 'invalid rate "rate=5"'),
        (f"{ZONE} zone=z:32k rate=-1r/m;", "", 'invalid rate "rate=-1r/m"'),
        (f"{ZONE} zone=z:x rate=5r/s;", "", 'invalid zone size "zone=z:x"'),
        (f"{ZONE} zone=z:1k rate=5r/s;", "", 'zone "zone=z:1k" is too small'),
        (f"{ZONE} rate=5r/s rate=5r/s;", "", '"limit_sess_zone" must have "zone" parameter'),
        (f"{ZONE} zone=z:32k zone=z:32k;", "", '"limit_sess_zone" must have "rate" parameter'),
        (f"{ZONE} zone=z:32k burst=5;", "", 'invalid parameter "burst=5"'),
        (f"{SLOW} {SLOW}", "", 'limit_sess_zone "z" is already bound to key "$binary_remote_addr"'),
        (SLOW, "limit_sess zone=z burst=0;", 'invalid burst value "burst=0"'),
        (SLOW, "limit_sess zone=z delay=x;", 'invalid delay value "delay=x"'),
        (SLOW, "limit_sess z;", 'invalid parameter "z"'),
        (SLOW, "limit_sess nodelay;", '"limit_sess" must have "zone" parameter'),
        (SLOW, "limit_sess zone=z; limit_sess zone=z;", '"limit_sess" directive is duplicate'),
        (SLOW, "limit_sess_log_level debug;", 'invalid value "debug"'),
        (SLOW, "limit_sess_dry_run maybe;", 'it must be "on" or "off"'),
    ],
)
def test_nonsense_is_refused(stream: str, server: str, words: str) -> None:
    """With nginx's words for limit_req where it has such."""
    assert words in build(JUDGED % (stream, server)).error


def test_a_zone_that_nobody_declares_is_refused() -> None:
    """As nginx does: there is no size for it."""
    built = build(JUDGED % ("", "limit_sess zone=z;"))
    assert not built.error
    with pytest.raises(errors.ConfError, match='zero size shared memory zone "z"'):
        built.zones.build()
