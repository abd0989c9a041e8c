"""The hand-over: what both sides know, and what a hostile worker can do to it."""

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.event import steering
from ngxstream.event.listen_options import ListenOptions
from ngxstream.event.listening import Listening
from ngxstream.ipc.codec import CodecError
from ngxstream.process import handover, mailbox
from tests.support import clients, descriptors, processes, strangers, tools
from tests.support.backends import BackendFactory
from tests.support.proxies import ProxyFactory
from tests.support.strangers import NOBODY


def test_a_plan_comes_out_as_it_went_in() -> None:
    """With the mailboxes; a descriptor that is none is closed with all others."""
    keys = [
        (socket.SOCK_DGRAM, socket.AF_INET, ("127.0.0.1", 53)),
        (socket.SOCK_DGRAM, socket.AF_UNIX, "/run/sock"),
    ]
    box = mailbox.Mailbox()
    packed = handover.Plan([box.writer], keys, [7, 8]).pack()
    for others in ([], [os.dup(0), os.dup(0)]):
        with pytest.raises(CodecError, match="a plan of 1 workers with"):
            handover.Plan.unpack(packed, others)
    plan = handover.Plan.unpack(packed, [os.dup(box.writer.fileno())])
    assert (frozenset(keys), (7, 8), 1) == (plan.keys, plan.pids, plan.workers)
    plan.writers[0].close()
    before = descriptors.count()
    packed = handover.Plan([box.writer] * 3, keys, [7, 8]).pack()
    fds = [os.dup(box.writer.fileno()), os.dup(0), os.dup(box.writer.fileno())]
    with pytest.raises(CodecError):
        handover.Plan.unpack(packed, fds)
    assert before == descriptors.count()
    box.close()


@given(
    st.integers(1, 20), st.integers(1, 20), st.integers(1, 65535), st.booleans(), st.integers(0, 5)
)
def test_every_worker_names_the_same_owner(steered, workers, port, current, most) -> None:
    """An owner is a worker, and one that reads the socket which the kernel steers to."""
    options = ListenOptions(
        family=socket.AF_INET, socktype=socket.SOCK_DGRAM, sockaddr=("127.0.0.1", port), text="a"
    )
    listening = Listening(options)
    listening.steered = steered
    listening.most = most
    listening.socks = list(range(min(workers, most or workers) if current else steered))
    peer = ("192.0.2.7", port)
    owner = handover.owner_of(listening, peer, workers, current=current)
    assert 0 <= owner < workers
    spread = listening.spread(workers) if current else steered
    group = steering.owner_of(socket.AF_INET, peer, spread)
    assert group in listening.for_worker(owner, workers)


# -- real processes --------------------------------------------------------------------------------


USERS = """
user {user} nogroup; worker_processes 2; events {{}} stream {{
    server {{ listen 127.0.0.1:@udp@ udp; proxy_pass {udp}; }}
    server {{ listen 127.0.0.1:@tcp@; proxy_pass {tcp}; }}
}}
"""


def test_a_former_worker_has_no_power_over_another_user_s(
    ngxstream: ProxyFactory, backends: BackendFactory, tmp_path: Path
) -> None:
    """After a reload that changed the user it says what it likes: nothing runs, nothing is lost."""
    tools.require_root()
    strangers.let_in(tmp_path)
    udp, tcp = backends.udp(), backends.tcp()

    def conf(user: str) -> str:
        return USERS.format(user=user, udp=udp.text, tcp=tcp.text)

    running = ngxstream(conf("nobody"), expected=("alert",))
    crowd = [clients.UdpClient(running.address("udp")) for _ in range(10)]
    held = [clients.TcpClient(running.address("tcp")) for _ in range(8)]  # they keep the old ones
    for client in (*crowd, *held):
        assert b"one" == client.exchange(b"one")
    former = running.worker_pids()
    running.write(conf("daemon"))
    running.reload()
    for client in crowd:
        assert b"two" == client.exchange(b"two")
    sources = set(udp.sources)
    stolen = [
        sock for pid in former if processes.is_alive(pid) for sock in strangers.ports_of(pid)
    ]
    assert stolen
    canary = tmp_path / "executed"
    strangers.run_as(NOBODY, lambda: strangers.attack(stolen, str(canary)))
    for sock in stolen:
        sock.close()
    running.wait_log("a worker's message was refused")
    for client in (*crowd, *held):
        assert b"three" == client.exchange(b"three")
    assert sources == set(udp.sources)
    for client in (*crowd, *held):
        client.close()
    assert not canary.exists()
    assert not [line for line in running.error_log() if "unexpected exception" in line]
