"""The ledger of datagrams: whatever is done to them on the way is in it."""

from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import accounting, udp_crowd
from tests.support.accounting import Account, Kernel

counts = st.integers(0, 8)
fates = st.sampled_from(["through", "through", "through", "lost", "doubled"])


def settle(
    got_up: list[list[int]], got_down: list[list[int]], sent: list[int], **options: Any
) -> Account:
    """Return the account of sessions that sent so many datagrams each way.

    Number n was sent n seconds after the beginning, and arrived at 100 s.
    """
    times = [[float(n) for n in range(count)] for count in sent]
    came_up, came_down = ([[100.0] * len(n) for n in got] for got in (got_up, got_down))
    clients = {"first": 0, "sent": times, "got": got_down, "came": came_down}
    clients |= {"mangled": 0, "skipped": 0}
    backends: Mapping[str, Any] = {
        "sent": {str(i): t for i, t in enumerate(times)},
        "got": {str(i): numbers for i, numbers in enumerate(got_up)},
        "came": {str(i): at for i, at in enumerate(came_up)},
        "paths": {str(i): [[0.0, 0, "127.0.0.1", 1000 + i]] for i in range(len(sent))},
        "mangled": 0,
    }
    return accounting.account([clients], backends, **options)


@settings(max_examples=100)
@given(st.lists(st.lists(fates, max_size=12), min_size=1, max_size=5), st.randoms())
def test_each_datagram_s_fate_is_in_the_account(plan: list[list[str]], random: Any) -> None:
    """Any mixture of losses and doubles, in any order of arrival, is told exactly."""
    arrived = []
    for session in plan:
        numbers = [n for n, fate in enumerate(session) if fate != "lost"]
        numbers += [n for n, fate in enumerate(session) if fate == "doubled"]
        random.shuffle(numbers)
        arrived.append(numbers)
    whole = [list(range(len(session))) for session in plan]
    account = settle(arrived, whole, [len(session) for session in plan])
    lost = {
        (i, n) for i, session in enumerate(plan) for n, fate in enumerate(session) if fate == "lost"
    }
    assert lost == {(m.session, m.number) for m in account.up.missing}
    assert sum(session.count("doubled") for session in plan) == account.up.doubled
    assert account.up.sent == account.up.got + len(lost)
    assert (0, 0, 0) == (account.down.lost, account.down.doubled, account.mangled)


def test_nothing_wrong_is_no_harm() -> None:
    """Two sessions whose datagrams all came do no harm."""
    assert {} == settle([[0, 1], [0]], [[0, 1], [0]], [2, 1]).harm


def test_what_came_after_a_later_one_is_late() -> None:
    """A datagram overtaken by two others counts once; a double of an old one is no late one."""
    account = settle([[1, 2, 0, 3, 1]], [[0, 1, 2, 3]], [4])
    assert (1, 1) == (account.up.late, account.up.doubled)


def test_the_longest_way_is_told() -> None:
    """A datagram sent at 1 s that came at 100 s was under way for 99; lost ones do not count."""
    account = settle([[1]], [[2]], [3])
    assert (99.0, 98.0) == (account.up.longest_s, account.down.longest_s)


def test_the_kernel_s_losses_are_kept_apart() -> None:
    """Of three lost datagrams two were the kernel's: one is the proxy's."""
    account = settle([[0], [0]], [[0, 1], [0]], [2, 3], kernel=Kernel(buffers=1, device=1))
    assert (5, 2) == (account.lost, account.kernel.lost)
    assert {"lost by the proxy": 3} == account.harm


def test_a_number_nobody_sent_is_mangled() -> None:
    """A backend that heard number 7 of a session of one datagram heard nonsense."""
    account = settle([[0, 7]], [[0]], [1])
    assert {"mangled": 1} == account.harm


def test_a_second_port_is_a_move() -> None:
    """A session has moved when its backend received it from two ports; story() says so."""
    account = settle([[0]], [[0]], [1])
    path = account.paths[0][0]
    again = accounting.Path(path.at + 1, path.backend, path.host, path.port + 1)
    moved = Account(account.sessions, account.up, account.down, {0: (path, again)})
    assert [0] == moved.moved
    assert "moved: 1 of 1 sessions" in moved.story()


def test_a_part_of_the_account_is_that_of_its_sessions() -> None:
    """What others lost is not in it."""
    account = settle([[0], []], [[0], [0]], [1, 1])
    assert {} == account.of([0]).harm
    assert {"lost by the proxy": 1} == account.of([1]).harm


@given(st.binary(max_size=200), st.integers(0, 2**32 - 1), counts)
def test_only_whole_datagrams_are_known(noise: bytes, session: int, number: int) -> None:
    """What encode() made is decoded; cut, glued, turned round or foreign datagrams are not."""
    data = udp_crowd.encode(udp_crowd.UP, session, number)
    assert (session, number) == udp_crowd.decode(udp_crowd.UP, data)
    assert udp_crowd.decode(udp_crowd.DOWN, data) is None
    for wrong in (data[:-1], data + data, data[1:], noise):
        assert udp_crowd.decode(udp_crowd.UP, wrong) is None
