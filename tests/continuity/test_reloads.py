"""Reloads: ngxstream loses and moves nothing; what nginx does beside it is a fact too."""

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.continuity import cases
from tests.continuity.conftest import Performance
from tests.support import udp_crowd
from tests.support.udp_network import UdpNetwork
from tests.support.waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.root, pytest.mark.slow]

SAME_FOR_ALL = [
    cases.RELOADS,
    cases.WORKERS,
    cases.SUCCESSION,
    cases.BURSTS,
    cases.IPV6,
    cases.WILDCARD,
    cases.FAMILIES,
]


@pytest.mark.parametrize("case", SAME_FOR_ALL, ids=lambda case: case.title)
def test_sessions_go_on_over_reloads(performance: Performance, case: cases.Case) -> None:
    """Every datagram arrives and every session keeps its port; nginx gives each a new one."""
    account = performance(case)
    if performance.is_ours:
        assert {} == account.harm, account.story()
    else:
        assert list(account.sessions) == account.moved


def test_sessions_go_on_when_their_group_changes_or_goes(performance: Performance) -> None:
    """Sessions stay with the server they began with; those that begin later have the new one."""
    account = performance(cases.GROUP)
    now = [account.paths[session][-1].backend for session in account.sessions]
    if performance.is_ours:
        assert {} == account.harm, account.story()
        assert [0] * 100 + [1] * 20 + [2] * 20 == now
    else:
        assert [2] * 140 == now
        assert list(range(120)) == account.moved


def test_known_clients_go_on_when_their_listening_address_goes(performance: Performance) -> None:
    """They are served as before, strangers are not; nginx serves neither."""
    account = performance(cases.LISTENER)
    known = account.of(range(100))
    assert list(range(100, 120)) == account.unheard
    if performance.is_ours:
        assert {} == known.harm, account.story()
    else:
        assert known.up.lost >= 100


def test_ten_thousand_sessions_go_on(performance: Performance) -> None:
    """All of them keep their ports, and no socket runs over while they change hands.

    Unless the machine has no time: the clients send late then, or a worker, whose socket holds the
    datagrams of a tenth of a second, waits for a processor for longer than that.
    """
    account = performance(cases.TEN_THOUSAND)
    if performance.is_ours:
        reload_at = account.marks[0][0]
        after = [m for m in account.up.missing + account.down.missing if m.at >= reload_at]
        assert {} == account.harm, account.story()
        had_no_time = account.late_turns or account.kept_waiting_s > 0.1
        assert [] == after or had_no_time, account.story()
    else:
        assert len(account.moved) > 5000


def test_an_answer_that_comes_after_the_reload_reaches_its_client(
    performance: Performance,
) -> None:
    """The first answer of a slow backend arrives; nginx loses all of them."""
    account = performance(cases.SLOW_REPLY)
    if performance.is_ours:
        assert {} == account.harm, account.story()
    else:
        assert account.down.lost >= 200
        assert list(account.sessions) == account.moved


def test_silent_clients_go_on_hearing_their_backend(performance: Performance) -> None:
    """What a backend says unasked arrives over reloads; nginx's clients hear no more."""
    account = performance(cases.SILENT)
    if performance.is_ours:
        assert {} == account.harm, account.story()
    else:
        assert account.down.lost > 1000


@pytest.mark.parametrize("case", [cases.SHORT, cases.RENEWED], ids=lambda case: case.title)
def test_no_question_of_a_short_session_goes_unanswered(
    performance: Performance, case: cases.Case
) -> None:
    """Sessions that end while workers change, for the next one to begin, lose nothing either."""
    account = performance(case)
    assert (0, 0) == (account.up.doubled, account.down.doubled)
    if performance.is_ours:
        assert 0 == account.ours, account.story()


def test_a_session_ends_by_the_settings_it_began_with(network: UdpNetwork) -> None:
    """After a reload it has its old timeout and its old log, and counts from its beginning."""

    def conf(log: str, timeout: str) -> str:
        return network.conf(
            stream="log_format counts '$bytes_received $bytes_sent'; "
            f"access_log logs/{log} counts;",
            server=f"proxy_timeout {timeout};",
        )

    proxy = network.serve(conf("first.log", "2s"))
    crowd = network.clients(50, hz=20)
    for workers_come in range(2):
        network.rounds(3 + workers_come)
        proxy.reload(conf("second.log", "1h"))
    network.rounds(3)
    account = network.account()
    assert {} == account.harm, account.story()
    wait_until(lambda: len(proxy.access_log("logs/first.log")) >= 50, what="all sessions ended")
    journal = crowd.say("journal")
    expected = sorted(
        f"{_size(session, len(sent))} {_size(session, len(got))}"
        for session, (sent, got) in enumerate(zip(journal["sent"], journal["got"], strict=True))
    )
    assert expected == sorted(proxy.access_log("logs/first.log"))
    assert [] == proxy.access_log("logs/second.log")


def test_a_server_s_sessions_are_counted_on(network: UdpNetwork) -> None:
    """Sessions from before a reload fill `max_conns` after it, and make room when they end."""
    conf = network.conf(
        stream=f"upstream u {{ zone u 128k; server {network.backend()} max_conns=20; }}",
        target="u",
        server="proxy_timeout 2s;",
    )
    proxy = network.serve(conf)
    network.clients(20, hz=20)
    proxy.reload()
    network.rounds(2)
    network.clients(5, hz=20, start=False).say("go")
    network.rounds(4)
    account = network.account()
    assert [20, 21, 22, 23, 24] == account.unheard
    assert {} == account.of(range(20)).harm, account.story()
    late = network.crowds[1]
    wait_until(
        lambda: late.say("go", 1) and late.say("status")["answered"] == 5,
        what="the idle sessions have ended and others are served",
        every=0.3,
    )


def test_unix_clients_go_on_over_reloads(network: UdpNetwork, tmp_path: Path) -> None:
    """Clients of a Unix datagram socket, which one worker owns, keep their ports too."""
    path = tmp_path / "proxy.sock"
    proxy = network.serve(network.conf(listen=(f"unix:{path}",)))
    with ExitStack() as stack:
        clients = [stack.enter_context(_unix_client(tmp_path / f"{i}", path)) for i in range(5)]

        def ask(number: int) -> None:
            for session, sock in enumerate(clients):
                sock.send(udp_crowd.encode(udp_crowd.UP, session, number))
            answers = [udp_crowd.decode(udp_crowd.DOWN, sock.recv(4096)) for sock in clients]
            assert [(session, number) for session in range(5)] == answers

        ask(0)
        for number, workers in enumerate((3, 1, 2), 1):
            proxy.reload(network.conf(workers, listen=(f"unix:{path}",)))
            ask(number)
    paths = network.backends.say("journal")["paths"]
    assert [1] * 5 == [len(paths[str(session)]) for session in range(5)]


def _unix_client(path: Path, to: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))
    path.chmod(0o777)
    sock.connect(str(to))
    sock.settimeout(PATIENCE)
    return sock


def _size(session: int, count: int) -> int:
    return sum(len(udp_crowd.encode(udp_crowd.UP, session, number)) for number in range(count))
