"""Facts of the running program: what all workers counted, over reloads and deaths of workers."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support import processes
from tests.support.clients import UdpClient
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import wait_until

SERVER = "server {{ listen 127.0.0.1:@{}@ udp proxy_protocol; return {}; }} "
CLIENTS = 40  # by chance all are one worker's once in 2 ** 39 runs


def conf(workers: int, *names: str) -> str:
    """Return a configuration with listeners that believe nobody, of these names."""
    servers = "".join(SERVER.format(name, name) for name in names)
    return (
        f"worker_processes {workers}; events {{}} stream {{ set_real_ip_from 192.0.2.1; "
        f"{servers} }}"
    )


class Strangers:
    """Clients whose datagrams are all dropped; the log tells how many that were."""

    def __init__(self, program: Proxy, stack: ExitStack, name: str = "in") -> None:
        self.program = program
        address = program.address(name)
        self.text = f"server: {address[0]}:{address[1]}, dropped so far: "
        self.clients = [stack.enter_context(UdpClient(address)) for _ in range(CLIENTS)]
        self.sent = 0
        self.known = 0
        self.known = len(self.told())

    def told(self) -> list[int]:
        """Return the numbers in the log."""
        lines = self.program.error_log()
        found = [int(line.rpartition(" ")[2]) for line in lines if self.text in line]
        return found[self.known :]

    def who_told(self) -> set[int]:
        """Return the workers that wrote them."""
        lines = (line for line in self.program.error_log() if self.text in line)
        return {int(re.findall(r"(\d+)#", line)[0]) for line in lines}

    def check(self) -> None:
        """Send from all of them; the log comes to tell the number of all that were ever sent."""
        for client in self.clients:
            client.send(b"x")
            self.sent += 1
        wait_until(self._is_told, every=0.05)  # a worker writes a line in a second, if any

    def _is_told(self) -> bool:
        latest = max(self.told(), default=0)
        assert latest <= self.sent  # never twice
        if latest == self.sent:
            return True
        self.clients[self.sent % CLIENTS].send(b"y")
        self.sent += 1
        return False


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Close what a test opened."""
    with ExitStack() as opened:
        yield opened


def test_drops_are_told_of_all_workers_whatever_becomes_of_them(
    ngxstream: ProxyFactory, stack: ExitStack
) -> None:
    """Two workers, reloads to more and fewer, kill -9: the number in the log is that of all."""
    program = ngxstream(conf(2, "in"), expected=(r"exited on signal 9", "is not trusted"))
    strangers = Strangers(program, stack)
    strangers.check()
    assert set(program.worker_pids()) == strangers.who_told()
    for workers in (2, 3, 1, 2):
        before = program.worker_pids()
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda before=before: set(before) != set(program.worker_pids())
                   and len(before) == len(program.worker_pids()))
        strangers.check()
        program.reload(conf(workers, "in", "other"))
        strangers.check()
    other = Strangers(program, stack, "other")
    other.check()
    strangers.check()


def test_a_listener_that_was_gone_begins_at_0(ngxstream: ProxyFactory, stack: ExitStack) -> None:
    """When nobody knows it any more it is another one; the one that stayed counts on."""

    def logging(number: int, *names: str) -> str:
        return conf(2, *names).replace("stream {", f"stream {{ error_log logs/{number}.log;")

    program = ngxstream(logging(1, "in", "other"), expected=("is not trusted",))
    both = [Strangers(program, stack, name) for name in ("in", "other")]
    for strangers in both:
        strangers.check()
    for number in (2, 3):  # its socket may be there until the first one has settled
        program.reload(logging(number, "in"))
        # closed when the master has let go of the configuration
        wait_until(lambda n=number: not any(
            f"/{n - 1}.log" in path for path in processes.open_files(program.pid)
        ))
        both[0].check()
    program.reload(conf(2, "other", "in"))
    again = Strangers(program, stack, "other")
    again.check()
    both[0].check()


def test_one_process_for_all_counts_on(ngxstream: ProxyFactory, stack: ExitStack) -> None:
    """Without a master, over a reload."""
    program = ngxstream("master_process off; " + conf(1, "in"), expected=("is not trusted",))
    strangers = Strangers(program, stack)
    strangers.check()
    program.reload("master_process off; " + conf(1, "more", "in"))
    strangers.check()
    more = Strangers(program, stack, "more")
    more.check()
