"""The cases: what is done to a proxy while its UDP sessions go on. Each returns the account.

A case waits for states and for rounds of traffic, never for a time. It says nothing about what is
right: that is said in the tests, for each program.
"""

import dataclasses
import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.support import processes
from tests.support.accounting import Account
from tests.support.proxies import Proxy
from tests.support.udp_network import UdpNetwork
from tests.support.waiting import wait_until


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table."""

    title: str
    play: Callable[[UdpNetwork], Account]
    backends: int = 1
    host: str = "127.0.0.1"


def perform(case: Case, program: type[Proxy], folder: Path) -> Account:
    """Play a case with a program on a network of its own."""
    with UdpNetwork(program, folder, backends=case.backends, host=case.host) as network:
        return case.play(network)


# Reloads.


def _reload(network: UdpNetwork, proxy: Proxy, conf: str | None = None) -> None:
    network.mark("reload")
    proxy.reload(conf)
    network.mark("reloaded")


def _six_reloads(network: UdpNetwork) -> Account:
    proxy = network.serve(network.conf())
    network.clients(300, hz=20)
    for _ in range(6):
        network.rounds(4)
        _reload(network, proxy)
    network.rounds(4)
    return network.account()


def _other_numbers_of_workers(network: UdpNetwork) -> Account:
    proxy = network.serve(network.conf(workers=2))
    network.clients(300, hz=20)
    for workers in (4, 1):
        network.rounds(5)
        _reload(network, proxy, network.conf(workers))
    network.rounds(5)
    return network.account()


def _reloads_in_succession(network: UdpNetwork) -> Account:
    proxy = network.serve(network.conf(workers=2))
    network.clients(300, hz=20)
    for count in range(1, 6):
        network.mark("HUP")
        proxy.signal(signal.SIGHUP)
        proxy.wait_log(r"#\d+: reconfiguring$", count=count)  # or the signals would be one
    wait_until(lambda: len(proxy.worker_pids()) == 2, what="two workers serve, all others leave")
    network.mark("reloaded")
    network.rounds(10)
    return network.account()


def _another_group(network: UdpNetwork) -> Account:
    """The first reload gives the group another server, the second takes the group away."""

    def group(k: int) -> str:
        return network.conf(
            stream=f"upstream u {{ server {network.backend(k)}; }}", target="u"
        )

    proxy = network.serve(group(0))
    network.clients(100, hz=20)
    for conf in (group(1), network.conf(target=network.backend(2))):
        network.rounds(5)
        _reload(network, proxy, conf)
        network.clients(20, hz=20)
    network.rounds(5)
    return network.account()


def _no_more_listener(network: UdpNetwork) -> Account:
    """A reload takes the address away; known clients go on, twenty new ones try it."""
    proxy = network.serve(network.conf())
    network.clients(100, hz=20)
    network.rounds(5)
    _reload(network, proxy, network.conf(listen=("127.0.0.1:@other@",)))
    network.rounds(5)
    network.clients(20, hz=20, start=False).say("go")
    network.rounds(5)
    account = network.account()
    known = account.of(range(100)).lost
    return dataclasses.replace(account, remark=f"{known} lost of those who were there before")


def _ten_thousand(network: UdpNetwork) -> Account:
    proxy = network.serve(network.conf(connections=30000))
    network.clients(10_000, hz=0.5)
    _reload(network, proxy)
    network.rounds(1)
    account = network.account()
    early = [m for m in account.up.missing + account.down.missing if m.at < account.marks[0][0]]
    remark = f"{len(early)} lost while they began" if early else ""
    return dataclasses.replace(account, remark=remark)


def _slow_first_reply(network: UdpNetwork) -> Account:
    """As of a handshake: one datagram, a reload, and only then the answer."""
    proxy = network.serve(network.conf())
    network.backends.say("hold")
    crowd = network.clients(200, hz=20, start=False)
    crowd.say("go", 1)
    network.backends.wait(got=200)
    _reload(network, proxy)
    network.mark("the backend answers")
    network.backends.say("release")
    network.account()  # the answers are there, or lost
    crowd.say("go", 4)
    crowd.wait(idle=1)
    return network.account()


def _silent_clients(network: UdpNetwork) -> Account:
    """The clients said one thing; the backend goes on talking to them over two reloads."""
    proxy = network.serve(network.conf())
    crowd = network.clients(200, hz=20, start=False)
    crowd.say("go", 1)
    crowd.wait(answered=200)
    network.backends.say("speak", 20)
    for _ in range(2):
        _talk_on(network, 1000)
        _reload(network, proxy)
    _talk_on(network, 1000)
    return network.account()


def _talk_on(network: UdpNetwork, count: int) -> None:
    network.backends.wait(sent=network.backends.say("status")["sent"] + count)


def _one_question_one_answer(network: UdpNetwork) -> Account:
    proxy = network.serve(network.conf(server="proxy_responses 1;"))
    network.clients(300, hz=10)
    for _ in range(3):
        network.rounds(3)
        _reload(network, proxy)
    network.rounds(3)
    remark = "each question is a session of its own"
    return dataclasses.replace(network.account(), remark=remark)


def _bursts(network: UdpNetwork) -> Account:
    """Sixteen datagrams at a time, of two sizes: they are coalesced and cut again on the way."""
    proxy = network.serve(network.conf())
    network.clients(50, hz=5, burst=16)
    for workers in (3, 2):
        network.rounds(2)
        _reload(network, proxy, network.conf(workers))
    network.rounds(2)
    return network.account()


def _renewed(network: UdpNetwork) -> Account:
    """Sessions of three datagrams each: the fourth begins the client's next one."""
    proxy = network.serve(network.conf(server="proxy_requests 3;"))
    network.clients(100, hz=20)
    for _ in range(2):
        network.rounds(4)
        _reload(network, proxy)
    network.rounds(4)
    remark = "every third datagram ends a session"
    return dataclasses.replace(network.account(), remark=remark)


# Addresses.


def _ipv6(network: UdpNetwork) -> Account:
    proxy = network.serve(network.conf(listen=("[::1]:@main@",)))
    network.clients(200, hz=20)
    for workers in (3, 2):
        network.rounds(4)
        _reload(network, proxy, network.conf(workers, listen=("[::1]:@main@",)))
    network.rounds(4)
    return network.account()


def _wildcard(network: UdpNetwork) -> Account:
    """Clients use fifty addresses of the machine; they hear only what comes from these."""
    proxy = network.serve(network.conf(listen=("@main@",)))
    to = [(f"127.0.0.{i}", proxy.port("main")) for i in range(1, 51)]
    network.clients(200, hz=20, to=to)
    for _ in range(2):
        network.rounds(4)
        _reload(network, proxy)
    network.rounds(4)
    return network.account()


def _both_families(network: UdpNetwork) -> Account:
    """One wildcard socket of IPv6 that takes IPv4 too."""
    proxy = network.serve(network.conf(listen=("[::]:@main@ ipv6only=off",)))
    port = proxy.port("main")
    network.clients(100, hz=20, to=[(f"127.0.0.{i}", port) for i in range(1, 11)])
    network.clients(100, hz=20, to=[("::1", port)])
    for _ in range(2):
        network.rounds(4)
        _reload(network, proxy)
    network.rounds(4)
    return network.account()


# Upgrades.


def _workers(master: int) -> list[int]:
    """Return the children of a master that are no masters themselves."""
    children = processes.children(master)
    return [pid for pid in children if "master process" not in processes.title(pid)]


def _start_new_binary(network: UdpNetwork, proxy: Proxy) -> tuple[int, int]:
    """Send USR2; return the ids of both masters once the new one has its workers."""
    old = proxy.pid
    network.mark("USR2")
    os.kill(old, signal.SIGUSR2)
    wait_until(
        lambda: proxy.pid not in (0, old) and len(_workers(proxy.pid)) == 2,
        what=f"the new {proxy.name} has its workers",
    )
    network.mark("both run")
    return old, proxy.pid


def _leave(proxy: Proxy, pids: list[int]) -> None:
    wait_until(
        lambda: all(not processes.is_alive(pid) or proxy._is_leaving(pid) for pid in pids),
        what="the workers leave",
    )


def _upgrade_and_back(network: UdpNetwork) -> Account:
    """USR2 and WINCH; then HUP to the old master and QUIT to the new one."""
    proxy = network.serve(network.conf(main="daemon on; worker_rlimit_nofile 20000;"))
    network.clients(200, hz=20)
    network.rounds(4)
    first = _workers(proxy.pid)
    old, new = _start_new_binary(network, proxy)
    network.rounds(4)
    network.mark("WINCH to the old master")
    os.kill(old, signal.SIGWINCH)
    _leave(proxy, first)
    network.mark("its workers leave")
    network.rounds(4)
    second = _workers(new)
    network.mark("HUP to the old master")
    os.kill(old, signal.SIGHUP)
    wait_until(
        lambda: len(set(_workers(old)) - {new} - set(first)) == 2, what="the old master has workers"
    )
    network.mark("QUIT to the new master")
    os.kill(new, signal.SIGQUIT)
    _leave(proxy, second)
    network.mark("its workers leave")
    network.rounds(4)
    if network.is_ours:  # nginx's waits until the sessions that nobody reaches time out
        wait_until(lambda: proxy.pid == old, what="the old master has its pid file back")
    return network.account()


def _upgrade_for_good(network: UdpNetwork) -> Account:
    """USR2, then QUIT to the old master; ngxstream does it under `daemon off`."""
    daemon = "off" if network.is_ours else "on"  # nginx ignores USR2 under `daemon off`
    proxy = network.serve(network.conf(main=f"daemon {daemon}; worker_rlimit_nofile 20000;"))
    network.clients(200, hz=20)
    network.rounds(4)
    first = _workers(proxy.pid)
    old, new = _start_new_binary(network, proxy)
    network.rounds(4)
    network.mark("QUIT to the old master")
    os.kill(old, signal.SIGQUIT)
    _leave(proxy, first)
    network.mark("its workers leave")
    network.rounds(8)
    if network.is_ours:
        wait_until(lambda: not processes.is_alive(old), what="the old master is gone")
        assert proxy.pid == new
    return network.account()


# Crashes.


def _killed_worker(network: UdpNetwork) -> Account:
    """SIGKILL of one worker of four; its sessions are excused."""
    proxy = network.serve(network.conf(workers=4), expected=(r"exited on signal 9",))
    network.clients(200, hz=20)
    network.rounds(4)
    pids = proxy.worker_pids()
    victim = pids[1]
    owners = network.owners(pids)
    network.mark("SIGKILL of a worker")
    os.kill(victim, signal.SIGKILL)
    wait_until(
        lambda: len(set(proxy.worker_pids()) - {victim}) == 4, what="the worker is respawned"
    )
    network.mark("respawned")
    network.rounds(10)
    account = network.account()
    excused = frozenset(session for session, pid in owners.items() if pid == victim)
    return dataclasses.replace(
        account, excused=excused, remark=f"{len(excused)} sessions were the dead worker's"
    )


def _killed_while_leaving(network: UdpNetwork) -> Account:
    """A worker is stopped, so that it cannot leave; a reload; then SIGKILL. It is excused."""
    proxy = network.serve(network.conf(workers=3), expected=(r"exited on signal 9",))
    network.clients(150, hz=20)
    network.rounds(4)
    pids = proxy.worker_pids()
    victim = pids[1]
    owners = network.owners(pids)
    os.kill(victim, signal.SIGSTOP)
    network.mark("a worker is stopped; reload")
    proxy.signal(signal.SIGHUP)
    wait_until(
        lambda: len(set(processes.children(proxy.pid)) - set(pids)) == 3, what="new workers"
    )
    network.mark("SIGKILL of the stopped one")
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in proxy.all_worker_pids(), what="it is gone")
    network.rounds(10)
    account = network.account()
    excused = frozenset(session for session, pid in owners.items() if pid == victim)
    return dataclasses.replace(
        account, excused=excused, remark=f"{len(excused)} sessions were the dead worker's"
    )


def _killed_master(network: UdpNetwork) -> Account:
    """SIGKILL of the master, traffic through the orphans, a new master, twenty new clients."""
    proxy = network.serve(network.conf(workers=2))
    network.clients(100, hz=20)
    network.rounds(4)
    network.mark("SIGKILL of the master")
    os.kill(proxy.pid, signal.SIGKILL)
    proxy._running().wait()
    network.rounds(8)
    network.mark("a new master starts")
    proxy.start()
    network.mark("it has its workers")
    network.rounds(8)
    network.clients(20, hz=20)
    network.rounds(8)
    return network.account()


# Want of room.


def _flooded(network: UdpNetwork) -> Account:
    """A hundred clients talk, three thousand forged ones flood, fifty new ones come then."""
    proxy = network.serve(
        network.conf(workers=1, connections=512), expected=(r"worker_connections are not enough",)
    )
    network.clients(100, hz=10)
    flood = network.flood(hz=1000)
    network.mark("flood")
    flood.say("go", 3000)
    flood.wait(idle=1)
    network.mark("end of the flood")
    network.rounds(15)  # the flood's last sessions rest
    return _latecomers(network, proxy, r"\[alert\].*worker_connections are not enough")


def _latecomers(network: UdpNetwork, proxy: Proxy, alert: str) -> Account:
    network.clients(50, hz=10, start=False).say("go")
    network.rounds(10)
    account = network.account()
    unheard = sum(1 for session in account.unheard if session >= 100)
    served = f"{50 - unheard} of 50 latecomers served"
    alerts = Counter(line[:19] for line in proxy.error_log() if re.search(alert, line))
    most = max(alerts.values(), default=0)
    return dataclasses.replace(account, remark=f"{served}; at most {most} alerts a second")


def _without_descriptors(network: UdpNetwork) -> Account:
    """The same with 300 descriptors and room for connections."""
    conf = network.conf(workers=1, main="worker_rlimit_nofile 300;")
    proxy = network.serve(conf, expected=(r"Too many open files",))
    network.clients(100, hz=10)
    flood = network.flood(hz=1000)
    network.mark("flood")
    flood.say("go", 2000)
    flood.wait(idle=1)
    network.mark("end of the flood")
    network.rounds(15)
    return _latecomers(network, proxy, r"\[alert\].*Too many open files")


# Which worker.


def _one_client_many_workers(network: UdpNetwork) -> Account:
    network.serve(network.conf(workers=8, reuseport=False))
    network.clients(100, hz=40)
    network.rounds(40)
    account = network.account()
    ports = [len(paths) for paths in account.paths.values()]
    return dataclasses.replace(
        account, remark=f"a client has {min(ports)} to {max(ports)} upstream ports"
    )


def _spread(network: UdpNetwork) -> Account:
    proxy = network.serve(network.conf(workers=8))
    network.clients(1000, hz=1)
    busy = Counter(network.owners(proxy.worker_pids()).values())
    account = network.account()
    ratio = max(busy.values()) * 8 / 1000
    return dataclasses.replace(
        account, remark=f"the busiest of {len(busy)} workers has {ratio:.2f} times the mean"
    )


RELOADS = Case("300 sessions at 20 Hz, six reloads, 2 workers", _six_reloads)
WORKERS = Case("300 sessions at 20 Hz, reloads to 2, 4 and 1 workers", _other_numbers_of_workers)
SUCCESSION = Case("300 sessions at 20 Hz, five reloads in succession", _reloads_in_succession)
GROUP = Case("100 sessions, the upstream group changes, then goes", _another_group, backends=3)
LISTENER = Case("100 sessions, a reload takes their listening address away", _no_more_listener)
TEN_THOUSAND = Case("10 000 sessions at 0.5 Hz, one reload", _ten_thousand)
SLOW_REPLY = Case("200 sessions, the first reply comes after the reload", _slow_first_reply)
SILENT = Case("200 silent clients, the backend talks, two reloads", _silent_clients)
SHORT = Case("300 clients, `proxy_responses 1`, three reloads", _one_question_one_answer)
BURSTS = Case("50 sessions in bursts of 16, reloads to 3 and 2 workers", _bursts)
RENEWED = Case("100 clients, `proxy_requests 3`, two reloads", _renewed)
IPV6 = Case("200 sessions over IPv6, reloads to 3 and 2 workers", _ipv6, host="::1")
WILDCARD = Case("200 sessions to 50 addresses of a wildcard, two reloads", _wildcard)
FAMILIES = Case("200 sessions, IPv6 wildcard for both families, two reloads", _both_families)
AND_BACK = Case("200 sessions, upgrade by USR2, and back", _upgrade_and_back)
FOR_GOOD = Case("200 sessions, upgrade by USR2, for good", _upgrade_for_good)
KILLED = Case("200 sessions, SIGKILL of one worker of 4", _killed_worker)
LEAVING = Case("150 sessions, SIGKILL of a worker that should hand over", _killed_while_leaving)
ORPHANS = Case("100 sessions, SIGKILL of the master, then a new one", _killed_master)
FLOODED = Case("`worker_connections` used up by forged clients", _flooded)
DESCRIPTORS = Case("descriptors used up by forged clients", _without_descriptors)
ONE_CLIENT = Case("100 clients, 8 workers, no `reuseport`", _one_client_many_workers)
SPREAD = Case("1 000 clients over 8 workers", _spread)

ALL = [
    RELOADS, WORKERS, SUCCESSION, GROUP, LISTENER, TEN_THOUSAND, SLOW_REPLY, SILENT, SHORT,
    BURSTS, RENEWED, IPV6, WILDCARD, FAMILIES, AND_BACK, FOR_GOOD, KILLED, LEAVING, ORPHANS,
    FLOODED, DESCRIPTORS, ONE_CLIENT, SPREAD,
]
