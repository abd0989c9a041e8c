"""A namespace with a proxy in it, the backends behind it and crowds of clients before it.

Whatever happens to the proxy meanwhile, account() tells what became of every datagram::

    with UdpNetwork(Ngxstream, tmp_path) as network:
        proxy = network.serve(network.conf(workers=2))
        crowd = network.clients(300, hz=20)
        network.rounds(10)
        proxy.reload()
        network.rounds(10)
        assert {} == network.account().harm
"""

import dataclasses
import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from tests.support import accounting, processes
from tests.support.accounting import Account
from tests.support.netns import Namespaces
from tests.support.proxies import ROOT, Nginx, Proxy
from tests.support.waiting import wait_until

PATIENCE_S = 60.0
# Clients come from these: the kernel has ephemeral ports for each address anew.
SOURCES = [f"127.1.0.{i}" for i in range(1, 9)]
# A worker of nginx that has to leave at once while sessions live says so for each of them.
NGINX_ALERTS = [r"open socket #\d+ left in connection", r"aborting$"]
# When nothing was received for so long by anybody, and the workers had nothing to do, what is
# missing will not come any more. What loses nothing never waits for it; so it is long for the
# program that should not lose. Workers that hand ten thousand sessions over are busy for seconds
# where other programs have the processors, and the datagrams wait in them.
QUIET_S = {"nginx": 0.7, "ngxstream": 3.0}


class Player:
    """A process of tests.support.udp_crowd, and the words to it."""

    def __init__(self, net: Namespaces, kind: str, *, label: str = "udp", **options: Any) -> None:
        """Start it on a host of the network; it does nothing before it is told to."""
        self._process = net.popen(
            label,
            sys.executable,
            "-m",
            "tests.support.udp_crowd",
            kind,
            json.dumps(options),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        self.pid = self._process.pid
        self.introduction: list[Any] = self._line()["ready"]

    def _line(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"a player ended with code {self._process.wait()}"
        return json.loads(line)

    def say(self, word: str, *numbers: float) -> Any:
        """Say a word and return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join([word, *map(str, numbers)]) + "\n")
        self._process.stdin.flush()
        return self._line()

    def wait(self, **least: int) -> dict[str, int]:
        """Wait until the status reaches these numbers; return it."""

        def reached() -> dict[str, int] | None:
            status: dict[str, int] = self.say("status")
            return status if all(status[k] >= n for k, n in least.items()) else None

        found = wait_until(reached, PATIENCE_S, f"a player reaches {least}", every=0.03)
        assert found
        return found


class UdpNetwork:
    """One run of one program; close() ends everything that plays."""

    def __init__(
        self,
        program: type[Proxy],
        folder: Path,
        *,
        backends: int = 1,
        host: str = "127.0.0.1",
    ) -> None:
        """Make the namespace and start the backends, each on a port of its own at the host."""
        self.program = program
        self.name = program.name
        self.is_ours = program is not Nginx
        self.host = host
        self.marks: list[accounting.Mark] = []
        self.crowds: list[Player] = []
        self._folder = folder
        self._proxies: list[Proxy] = []
        with ExitStack() as stack:
            self.net = stack.enter_context(Namespaces())
            self.netns = self.net.add("udp")
            self.backends = Player(self.net, "backends", hosts=[host] * backends)
            stack.pop_all()

    # The proxy.

    def backend(self, k: int = 0) -> str:
        """Return the address of a backend, as a configuration has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.backends.introduction[k]}"

    def conf(
        self,
        workers: int = 2,
        *,
        listen: tuple[str, ...] = ("127.0.0.1:@main@",),
        stream: str = "",
        server: str = "",
        target: str = "",
        connections: int = 4096,
        main: str = "worker_rlimit_nofile 20000;",
        reuseport: bool = True,
    ) -> str:
        """Return a configuration: one UDP server before backend 0.

        Args: main, stream and server are further lines of these blocks, target is instead of the
        backend. nginx is given `reuseport` if that is not forbidden: without it the clients'
        datagrams scatter over its workers and nothing can be said about reloads. ngxstream, which
        does not need it, is never given it.
        """
        udp = "udp reuseport" if reuseport and not self.is_ours else "udp"
        listens = "".join(f"listen {one} {udp}; " for one in listen)
        return (
            f"worker_processes {workers}; {main} "
            f"events {{ worker_connections {connections}; }} "
            f"stream {{ {stream} server {{ {listens} {server} "
            f"proxy_pass {target or self.backend()}; }} }}"
        )

    def serve(self, conf: str, **options: Any) -> Proxy:
        """Start the program inside; it logs what nginx logs at notice."""
        given = {"netns": self.netns, "log_level": "notice"} | options
        proxy = self.program(conf, self._folder, **given)
        if not self.is_ours:
            proxy.expected += NGINX_ALERTS
        self._proxies.append(proxy)
        proxy.start(PATIENCE_S)
        return proxy

    def port_owners(self, pids: list[int]) -> dict[int, int]:
        """Return which of the processes has the socket bound to each local port.

        Ports that several of them have, such as a listener's, are left out.
        """
        inodes: dict[str, int] = {}
        for table in ("udp", "udp6"):
            with open(f"/proc/{self.backends.pid}/net/{table}") as file:
                next(file)
                for line in file:
                    words = line.split()
                    inodes[f"socket:[{words[9]}]"] = int(words[1].rpartition(":")[2], 16)
        found: dict[int, int] = {}
        shared: set[int] = set()
        for pid in pids:
            for link in set(processes.open_files(pid)):
                if link in inodes:
                    port = inodes[link]
                    shared.update({port} if found.get(port, pid) != pid else ())
                    found[port] = pid
        return {port: pid for port, pid in found.items() if port not in shared}

    def owners(self, pids: list[int]) -> dict[int, int]:
        """Return the process that has each session's upstream socket now."""
        ports = self.port_owners(pids)
        paths: dict[str, list[list[Any]]] = self.backends.say("journal")["paths"]
        return {
            int(session): ports[found[-1][3]]
            for session, found in paths.items()
            if found[-1][3] in ports
        }

    # Those who talk through it.

    def clients(
        self,
        count: int,
        hz: float,
        *,
        to: list[tuple[str, int]] | None = None,
        start: bool = True,
        burst: int = 1,
    ) -> Player:
        """Add a crowd, numbered on from the last one.

        Args: to are the addresses they use in turn, the first proxy's `@main@` if not given
        Returns: when each has had an answer, if they are to start
        """
        addresses = to or [self._proxies[0].address("main", self.host)]
        source = None if ":" in addresses[0][0] else SOURCES
        first = sum(len(crowd.introduction) for crowd in self.crowds)
        crowd = Player(
            self.net,
            "clients",
            to=addresses,
            count=count,
            hz=hz,
            first=first,
            source=source,
            burst=burst,
        )
        self.crowds.append(crowd)
        if start:
            crowd.say("go")
            crowd.wait(answered=count)
        return crowd

    def flood(self, hz: float) -> Player:
        """Make a flood of forged sources; it is not accounted for."""
        return Player(self.net, "flood", to=[self._proxies[0].address("main")], hz=hz)

    def mark(self, what: str) -> None:
        """Note what happens now, for the story."""
        self.marks.append((time.monotonic(), what))

    def rounds(self, count: int) -> None:
        """Wait until every crowd has taken so many further turns for each of its sessions."""
        goals = [
            crowd.say("status")["turns"] + count * len(crowd.introduction) for crowd in self.crowds
        ]
        for crowd, goal in zip(self.crowds, goals, strict=True):
            crowd.wait(turns=goal)

    def account(self) -> Account:
        """Stop the schedules, wait for what is on its way, and settle."""
        players = [*self.crowds, self.backends]
        for player in players:
            player.say("stop")
        workers = [pid for proxy in self._proxies for pid in proxy.worker_pids()]
        kept_waiting_s = max(map(processes.kept_waiting_s, workers), default=0.0)
        seen: list[list[int]] = []
        since = time.monotonic()

        def settled() -> bool:
            nonlocal since
            status = [player.say("status") for player in players]
            ups = sum(s["sent"] for s in status[:-1])
            downs = sum(s["got"] for s in status[:-1])
            if (ups, downs) == (status[-1]["got"], status[-1]["sent"]):
                return True
            now = [s["got"] for s in status]
            if [now] != seen or self._is_busy():
                seen[:] = [now]
                since = time.monotonic()
            return time.monotonic() - since > QUIET_S[self.name]

        wait_until(settled, PATIENCE_S, "the datagrams on their way have come", every=0.03)
        journals = [player.say("journal") for player in players]
        kernel = accounting.kernel_counts(self.backends.pid)
        account = accounting.account(journals[:-1], journals[-1], kernel, self.marks)
        return dataclasses.replace(account, kept_waiting_s=kept_waiting_s)

    def _is_busy(self) -> bool:
        workers = [pid for proxy in self._proxies for pid in proxy.all_worker_pids()]
        return not all(map(processes.is_waiting, workers))

    # The end.

    def close(self) -> None:
        """Stop the programs, and everything in the namespace; fail on alerts nobody expected."""
        try:
            for proxy in self._proxies:
                proxy.close()
        finally:
            self._leave()

    def _leave(self) -> None:
        for proxy in self._proxies:
            proxy.kill()
        self.net.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._leave()
