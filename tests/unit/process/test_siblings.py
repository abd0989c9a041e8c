"""Workers without a master give back what those that die among them held."""

import os
import signal

import pytest

from ngxstream.core import shm
from ngxstream.core.log import Log
from ngxstream.core.shm_counts import Tally
from ngxstream.event.loop import Loop
from ngxstream.process import siblings
from ngxstream.process.siblings import Siblings
from tests.support import descriptors, processes
from tests.support.backends import BackendFactory, Conversation
from tests.support.clients import TcpClient
from tests.support.forks import Held, in_child, own_of
from tests.support.proxies import ProxyFactory
from tests.support.waiting import PATIENCE, wait_until


def turn_until_nothing_is_held(loop: Loop, tallies: list[Tally]) -> None:
    """Turn a loop until only this process counts."""

    def is_done() -> bool:
        loop.turn(10)
        return all(tally.total(0) == own_of(tally) for tally in tallies)

    wait_until(is_done, PATIENCE, "what the dead held is given back")


def test_the_end_of_another_process_is_seen_and_what_it_held_given_back() -> None:
    """In all zones, once, and no descriptor stays behind."""
    zones = [shm.Zone(name, 65536, "test") for name in "ab"]
    tallies = [Tally(zone, 1) for zone in zones]
    for tally in tallies:
        tally.add(0)
    children = [Held(lambda: [tally.add(0, 5) for tally in tallies]) for _ in range(3)]
    loop = Loop(Log([]))
    before = descriptors.count()
    Siblings(loop, zones)
    assert before + 3 == descriptors.count()
    children[0].kill()
    wait_until(lambda: loop.turn(10) or tallies[1].total(0) == 11, PATIENCE, "one is seen")
    assert [11, 11] == [tally.total(0) for tally in tallies]
    for child in children[1:]:
        child.kill()
    turn_until_nothing_is_held(loop, tallies)
    assert before == descriptors.count()


def test_who_died_before_anybody_looked_is_given_back_at_once() -> None:
    """A process that ended between the master and the first look is found by its ledger."""
    zone = shm.Zone("a", 65536, "test")
    tally = Tally(zone, 1)
    in_child(lambda: tally.add(0, 5), kill=True)
    Siblings(Loop(Log([])), [zone])
    assert 0 == tally.total(0)


def test_who_comes_later_is_watched_too() -> None:
    """A process that had no ledger when the others began to look has one at the next look."""
    zone = shm.Zone("a", 65536, "test")
    tally = Tally(zone, 1)
    loop = Loop(Log([]))
    watching = Siblings(loop, [zone])
    assert 1000 == siblings.LOOK_MS  # from one look to the next
    child = Held(lambda: tally.add(0, 5))
    watching.look()
    child.kill()
    turn_until_nothing_is_held(loop, [tally])


def test_what_it_held_is_given_back_when_its_end_is_seen() -> None:
    """It is given back at once, not at the next periodic look."""
    zone = shm.Zone("a", 65536, "test")
    tally = Tally(zone, 1)
    loop = Loop(Log([]))
    watching = Siblings(loop, [zone])
    child = Held(lambda: tally.add(0, 5))
    watching.look()
    child.kill()
    assert 5 == tally.total(0)
    watching._on_end(child.pid, 0)
    assert 0 == tally.total(0)


LIMITED = """
worker_processes 3;
events {{}}
stream {{
    limit_conn_zone all zone=z:64k;
    limit_conn z 12;
    server {{ listen 127.0.0.1:@a@; proxy_pass {backend}; }}
}}
"""


def stay(conversation: Conversation) -> None:
    """Say hello and stay until the client leaves."""
    conversation.send(b"!")
    conversation.recv_to_eof()


def fill(address: tuple[str, int], held: list[TcpClient]) -> None:
    """Connect until one is turned away."""
    while True:
        client = TcpClient(address)
        if client.recv(1) != b"!":
            client.close()
            return
        held.append(client)


def is_alive(client: TcpClient) -> bool:
    """Tell whether the other end is there."""
    client.sock.settimeout(0)
    try:
        return bool(client.recv(1))
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


@pytest.mark.effect("limit_conn")
def test_orphans_count_no_sessions_of_one_that_was_killed(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """After the master and then a worker were killed, the others let as many in as before."""
    backend = backends.tcp(stay)
    program = ngxstream(LIMITED.format(backend=backend.text), expected=("the master process",))
    address = program.address("a")
    workers = program.worker_pids()
    held: list[TcpClient] = []
    try:
        fill(address, held)
        assert 12 == len(held)
        os.kill(program.pid, signal.SIGKILL)
        program.wait_log("the master process is gone", count=3)
        victim = max(workers, key=lambda pid: len(processes.open_files(pid)))
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: not processes.is_alive(victim), PATIENCE, "it is gone")
        alive = [client for client in held if is_alive(client)]
        assert len(alive) < len(held)
        for client in set(held) - set(alive):
            client.close()
        held[:] = alive

        def is_full_again() -> bool:
            fill(address, held)
            return len(held) == 12

        wait_until(is_full_again, PATIENCE, "the places of the dead are free")
    finally:
        for client in held:
            client.close()
        program.kill()
