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
from tests.support.udp_stage import Stage
from tests.support.waiting import wait_until


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table."""

    title: str
    play: Callable[[Stage], Account]
    backends: int = 1
    host: str = "127.0.0.1"


def perform(case: Case, program: type[Proxy], folder: Path) -> Account:
    """Play a case with a program on a stage of its own."""
    with Stage(program, folder, backends=case.backends, host=case.host) as stage:
        return case.play(stage)


# Reloads.


def _reload(stage: Stage, proxy: Proxy, conf: str | None = None) -> None:
    stage.mark("reload")
    proxy.reload(conf)
    stage.mark("reloaded")


def _six_reloads(stage: Stage) -> Account:
    proxy = stage.serve(stage.conf())
    stage.clients(300, hz=20)
    for _ in range(6):
        stage.rounds(4)
        _reload(stage, proxy)
    stage.rounds(4)
    return stage.account()


def _other_numbers_of_workers(stage: Stage) -> Account:
    proxy = stage.serve(stage.conf(workers=2))
    stage.clients(300, hz=20)
    for workers in (4, 1):
        stage.rounds(5)
        _reload(stage, proxy, stage.conf(workers))
    stage.rounds(5)
    return stage.account()


def _reloads_in_succession(stage: Stage) -> Account:
    proxy = stage.serve(stage.conf(workers=2))
    stage.clients(300, hz=20)
    for count in range(1, 6):
        stage.mark("HUP")
        proxy.signal(signal.SIGHUP)
        proxy.wait_log(r"#\d+: reconfiguring$", count=count)  # or the signals would be one
    wait_until(lambda: len(proxy.worker_pids()) == 2, what="two workers serve, all others leave")
    stage.mark("reloaded")
    stage.rounds(10)
    return stage.account()


def _another_group(stage: Stage) -> Account:
    """The first reload gives the group another server, the second takes the group away."""

    def group(k: int) -> str:
        return stage.conf(
            stream=f"upstream u {{ server {stage.backend(k)}; }}", target="u"
        )

    proxy = stage.serve(group(0))
    stage.clients(100, hz=20)
    for conf in (group(1), stage.conf(target=stage.backend(2))):
        stage.rounds(5)
        _reload(stage, proxy, conf)
        stage.clients(20, hz=20)
    stage.rounds(5)
    return stage.account()


def _no_more_listener(stage: Stage) -> Account:
    """A reload takes the address away; known clients go on, twenty new ones try it."""
    proxy = stage.serve(stage.conf())
    stage.clients(100, hz=20)
    stage.rounds(5)
    _reload(stage, proxy, stage.conf(listen=("127.0.0.1:@other@",)))
    stage.rounds(5)
    stage.clients(20, hz=20, start=False).say("go")
    stage.rounds(5)
    account = stage.account()
    known = account.of(range(100)).lost
    return dataclasses.replace(account, remark=f"{known} lost of those who were there before")


def _ten_thousand(stage: Stage) -> Account:
    proxy = stage.serve(stage.conf(connections=30000))
    stage.clients(10_000, hz=0.5)
    _reload(stage, proxy)
    stage.rounds(1)
    account = stage.account()
    early = [m for m in account.up.missing + account.down.missing if m.at < account.marks[0][0]]
    remark = f"{len(early)} lost while they began" if early else ""
    return dataclasses.replace(account, remark=remark)


def _slow_first_reply(stage: Stage) -> Account:
    """As of a handshake: one datagram, a reload, and only then the answer."""
    proxy = stage.serve(stage.conf())
    stage.backends.say("hold")
    crowd = stage.clients(200, hz=20, start=False)
    crowd.say("go", 1)
    stage.backends.wait(got=200)
    _reload(stage, proxy)
    stage.mark("the backend answers")
    stage.backends.say("release")
    stage.account()  # the answers are there, or lost
    crowd.say("go", 4)
    crowd.wait(idle=1)
    return stage.account()


def _silent_clients(stage: Stage) -> Account:
    """The clients said one thing; the backend goes on talking to them over two reloads."""
    proxy = stage.serve(stage.conf())
    crowd = stage.clients(200, hz=20, start=False)
    crowd.say("go", 1)
    crowd.wait(answered=200)
    stage.backends.say("speak", 20)
    for _ in range(2):
        _talk_on(stage, 1000)
        _reload(stage, proxy)
    _talk_on(stage, 1000)
    return stage.account()


def _talk_on(stage: Stage, count: int) -> None:
    stage.backends.wait(sent=stage.backends.say("status")["sent"] + count)


def _one_question_one_answer(stage: Stage) -> Account:
    proxy = stage.serve(stage.conf(server="proxy_responses 1;"))
    stage.clients(300, hz=10)
    for _ in range(3):
        stage.rounds(3)
        _reload(stage, proxy)
    stage.rounds(3)
    remark = "each question is a session of its own"
    return dataclasses.replace(stage.account(), remark=remark)


def _bursts(stage: Stage) -> Account:
    """Sixteen datagrams at a time, of two sizes: they are coalesced and cut again on the way."""
    proxy = stage.serve(stage.conf())
    stage.clients(50, hz=5, burst=16)
    for workers in (3, 2):
        stage.rounds(2)
        _reload(stage, proxy, stage.conf(workers))
    stage.rounds(2)
    return stage.account()


def _renewed(stage: Stage) -> Account:
    """Sessions of three datagrams each: the fourth begins the client's next one."""
    proxy = stage.serve(stage.conf(server="proxy_requests 3;"))
    stage.clients(100, hz=20)
    for _ in range(2):
        stage.rounds(4)
        _reload(stage, proxy)
    stage.rounds(4)
    remark = "every third datagram ends a session"
    return dataclasses.replace(stage.account(), remark=remark)


# Addresses.


def _ipv6(stage: Stage) -> Account:
    proxy = stage.serve(stage.conf(listen=("[::1]:@main@",)))
    stage.clients(200, hz=20)
    for workers in (3, 2):
        stage.rounds(4)
        _reload(stage, proxy, stage.conf(workers, listen=("[::1]:@main@",)))
    stage.rounds(4)
    return stage.account()


def _wildcard(stage: Stage) -> Account:
    """Clients use fifty addresses of the machine; they hear only what comes from these."""
    proxy = stage.serve(stage.conf(listen=("@main@",)))
    to = [(f"127.0.0.{i}", proxy.port("main")) for i in range(1, 51)]
    stage.clients(200, hz=20, to=to)
    for _ in range(2):
        stage.rounds(4)
        _reload(stage, proxy)
    stage.rounds(4)
    return stage.account()


def _both_families(stage: Stage) -> Account:
    """One wildcard socket of IPv6 that takes IPv4 too."""
    proxy = stage.serve(stage.conf(listen=("[::]:@main@ ipv6only=off",)))
    port = proxy.port("main")
    stage.clients(100, hz=20, to=[(f"127.0.0.{i}", port) for i in range(1, 11)])
    stage.clients(100, hz=20, to=[("::1", port)])
    for _ in range(2):
        stage.rounds(4)
        _reload(stage, proxy)
    stage.rounds(4)
    return stage.account()


# Upgrades.


def _workers(master: int) -> list[int]:
    """Return the children of a master that are no masters themselves."""
    children = processes.children(master)
    return [pid for pid in children if "master process" not in processes.title(pid)]


def _start_new_binary(stage: Stage, proxy: Proxy) -> tuple[int, int]:
    """Send USR2; return the ids of both masters once the new one has its workers."""
    old = proxy.pid
    stage.mark("USR2")
    os.kill(old, signal.SIGUSR2)
    wait_until(
        lambda: proxy.pid not in (0, old) and len(_workers(proxy.pid)) == 2,
        what=f"the new {proxy.name} has its workers",
    )
    stage.mark("both run")
    return old, proxy.pid


def _leave(proxy: Proxy, pids: list[int]) -> None:
    wait_until(
        lambda: all(not processes.is_alive(pid) or proxy._is_leaving(pid) for pid in pids),
        what="the workers leave",
    )


def _upgrade_and_back(stage: Stage) -> Account:
    """USR2 and WINCH; then HUP to the old master and QUIT to the new one."""
    proxy = stage.serve(stage.conf(main="daemon on; worker_rlimit_nofile 20000;"))
    stage.clients(200, hz=20)
    stage.rounds(4)
    first = _workers(proxy.pid)
    old, new = _start_new_binary(stage, proxy)
    stage.rounds(4)
    stage.mark("WINCH to the old master")
    os.kill(old, signal.SIGWINCH)
    _leave(proxy, first)
    stage.mark("its workers leave")
    stage.rounds(4)
    second = _workers(new)
    stage.mark("HUP to the old master")
    os.kill(old, signal.SIGHUP)
    wait_until(
        lambda: len(set(_workers(old)) - {new} - set(first)) == 2, what="the old master has workers"
    )
    stage.mark("QUIT to the new master")
    os.kill(new, signal.SIGQUIT)
    _leave(proxy, second)
    stage.mark("its workers leave")
    stage.rounds(4)
    if stage.is_ours:  # nginx's waits until the sessions that nobody reaches time out
        wait_until(lambda: proxy.pid == old, what="the old master has its pid file back")
    return stage.account()


def _upgrade_for_good(stage: Stage) -> Account:
    """USR2, then QUIT to the old master; ngxstream does it under `daemon off`."""
    daemon = "off" if stage.is_ours else "on"  # nginx ignores USR2 under `daemon off`
    proxy = stage.serve(stage.conf(main=f"daemon {daemon}; worker_rlimit_nofile 20000;"))
    stage.clients(200, hz=20)
    stage.rounds(4)
    first = _workers(proxy.pid)
    old, new = _start_new_binary(stage, proxy)
    stage.rounds(4)
    stage.mark("QUIT to the old master")
    os.kill(old, signal.SIGQUIT)
    _leave(proxy, first)
    stage.mark("its workers leave")
    stage.rounds(8)
    if stage.is_ours:
        wait_until(lambda: not processes.is_alive(old), what="the old master is gone")
        assert proxy.pid == new
    return stage.account()


# Crashes.


def _killed_worker(stage: Stage) -> Account:
    """SIGKILL of one worker of four; its sessions are excused."""
    proxy = stage.serve(stage.conf(workers=4), expected=(r"exited on signal 9",))
    stage.clients(200, hz=20)
    stage.rounds(4)
    pids = proxy.worker_pids()
    victim = pids[1]
    owners = stage.owners(pids)
    stage.mark("SIGKILL of a worker")
    os.kill(victim, signal.SIGKILL)
    wait_until(
        lambda: len(set(proxy.worker_pids()) - {victim}) == 4, what="the worker is respawned"
    )
    stage.mark("respawned")
    stage.rounds(10)
    account = stage.account()
    excused = frozenset(session for session, pid in owners.items() if pid == victim)
    return dataclasses.replace(
        account, excused=excused, remark=f"{len(excused)} sessions were the dead worker's"
    )


def _killed_while_leaving(stage: Stage) -> Account:
    """A worker is stopped, so that it cannot leave; a reload; then SIGKILL. It is excused."""
    proxy = stage.serve(stage.conf(workers=3), expected=(r"exited on signal 9",))
    stage.clients(150, hz=20)
    stage.rounds(4)
    pids = proxy.worker_pids()
    victim = pids[1]
    owners = stage.owners(pids)
    os.kill(victim, signal.SIGSTOP)
    stage.mark("a worker is stopped; reload")
    proxy.signal(signal.SIGHUP)
    wait_until(
        lambda: len(set(processes.children(proxy.pid)) - set(pids)) == 3, what="new workers"
    )
    stage.mark("SIGKILL of the stopped one")
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in proxy.all_worker_pids(), what="it is gone")
    stage.rounds(10)
    account = stage.account()
    excused = frozenset(session for session, pid in owners.items() if pid == victim)
    return dataclasses.replace(
        account, excused=excused, remark=f"{len(excused)} sessions were the dead worker's"
    )


def _killed_master(stage: Stage) -> Account:
    """SIGKILL of the master, traffic through the orphans, a new master, twenty new clients."""
    proxy = stage.serve(stage.conf(workers=2))
    stage.clients(100, hz=20)
    stage.rounds(4)
    stage.mark("SIGKILL of the master")
    os.kill(proxy.pid, signal.SIGKILL)
    proxy._running().wait()
    stage.rounds(8)
    stage.mark("a new master starts")
    proxy.start()
    stage.mark("it has its workers")
    stage.rounds(8)
    stage.clients(20, hz=20)
    stage.rounds(8)
    return stage.account()


# Want of room.


def _flooded(stage: Stage) -> Account:
    """A hundred clients talk, three thousand forged ones flood, fifty new ones come then."""
    proxy = stage.serve(
        stage.conf(workers=1, connections=512), expected=(r"worker_connections are not enough",)
    )
    stage.clients(100, hz=10)
    flood = stage.flood(hz=1000)
    stage.mark("flood")
    flood.say("go", 3000)
    flood.wait(idle=1)
    stage.mark("end of the flood")
    stage.rounds(15)  # the flood's last sessions rest
    return _latecomers(stage, proxy, r"\[alert\].*worker_connections are not enough")


def _latecomers(stage: Stage, proxy: Proxy, alert: str) -> Account:
    stage.clients(50, hz=10, start=False).say("go")
    stage.rounds(10)
    account = stage.account()
    unheard = sum(1 for session in account.unheard if session >= 100)
    served = f"{50 - unheard} of 50 latecomers served"
    alerts = Counter(line[:19] for line in proxy.error_log() if re.search(alert, line))
    most = max(alerts.values(), default=0)
    return dataclasses.replace(account, remark=f"{served}; at most {most} alerts a second")


def _without_descriptors(stage: Stage) -> Account:
    """The same with 300 descriptors and room for connections."""
    conf = stage.conf(workers=1, main="worker_rlimit_nofile 300;")
    proxy = stage.serve(conf, expected=(r"Too many open files",))
    stage.clients(100, hz=10)
    flood = stage.flood(hz=1000)
    stage.mark("flood")
    flood.say("go", 2000)
    flood.wait(idle=1)
    stage.mark("end of the flood")
    stage.rounds(15)
    return _latecomers(stage, proxy, r"\[alert\].*Too many open files")


# Which worker.


def _one_client_many_workers(stage: Stage) -> Account:
    stage.serve(stage.conf(workers=8, reuseport=False))
    stage.clients(100, hz=40)
    stage.rounds(40)
    account = stage.account()
    ports = [len(paths) for paths in account.paths.values()]
    return dataclasses.replace(
        account, remark=f"a client has {min(ports)} to {max(ports)} upstream ports"
    )


def _spread(stage: Stage) -> Account:
    proxy = stage.serve(stage.conf(workers=8))
    stage.clients(1000, hz=1)
    busy = Counter(stage.owners(proxy.worker_pids()).values())
    account = stage.account()
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
