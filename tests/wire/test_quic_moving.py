"""proxy_quic in the running program: HTTP/3 of aioquic by clients whose addresses change.

QUIC_HANDSHAKES=1000 makes the long form of the first test, with a tenth as many changes.
"""

import asyncio
import contextlib
import importlib
import os
import re
import signal
import socket
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support import processes, quic, tools
from tests.support.backends import BackendFactory
from tests.support.certs import Authority
from tests.support.clients import UdpClient
from tests.support.forgetful import ForgetfulNat
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import PATIENCE, wait_until

NAMES = ("one.test", "two.test")
HANDSHAKES = int(os.environ.get("QUIC_HANDSHAKES", "40"))
AT_ONCE = 12
CONF = """worker_processes {workers}; daemon {daemon}; worker_rlimit_nofile 20000;
error_log logs/error.log info;
events {{ worker_connections 4096; }}
stream {{
    log_format f '$ssl_preread_server_name $upstream_addr $proxy_quic_migrations $proxy_quic_addr';
    access_log logs/access.log f;
    map $ssl_preread_server_name $backend {{
        one.test {one}; two.test {two}; default 127.0.0.1:9;
    }}
    server {{
        listen {listen}@quic@ udp; ssl_preread on; proxy_quic on; proxy_pass $backend;
        proxy_timeout {timeout};
    }}
}}
"""


@pytest.fixture(scope="module")
def h3() -> Any:
    """Give the client and servers, where aioquic is installed."""
    tools.require_module("aioquic", "interop")
    tools.require_ipv6()  # its client binds ::
    return importlib.import_module("tests.support.h3")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Give who signs the servers' certificates."""
    return Authority(Path(tmp_path_factory.mktemp("ca")))


def conf(servers: Any = None, *, workers: int = 1, daemon: str = "off", listen: str = "127.0.0.1:",
         timeout: str = "5s", **to: str) -> str:
    """Return the configuration for two servers."""
    ends = to or {name[:3]: f"127.0.0.1:{servers.ports[name]}" for name in NAMES}
    return CONF.format(workers=workers, daemon=daemon, listen=listen, timeout=timeout, **ends)


def upgrade(proxy: Proxy, workers: int) -> None:
    """Put another binary in the place of the one that serves."""
    old = proxy.pid
    os.kill(old, signal.SIGUSR2)

    def is_there() -> bool:
        found = [one for one in processes.children(proxy.pid)
                 if "worker process" in processes.title(one)]
        return proxy.pid not in (0, old) and len(found) == workers

    wait_until(is_there, what="the new master has workers")
    os.kill(old, signal.SIGQUIT)
    wait_until(lambda: not processes.is_alive(old), what="the old master is gone")


async def load(h3: Any, proxy: Proxy, authority: Authority, count: int,
               stories: dict[int, Any]) -> int:
    """Make so many connections, of which each tenth moves twice as it loads; AT_ONCE at a time.

    Args: stories: what happens to the program when so many are done. Returns: changes of address
    """
    places = asyncio.Semaphore(AT_ONCE)
    done = 0
    told: list[Any] = []

    async def one(number: int) -> int:
        nonlocal done
        is_large = not number % 10
        async with places:
            moved: int = await h3.download(
                proxy.address("quic"), NAMES[number % 2], 200_000 if is_large else 2_000,
                authority=authority, moves=(40_000, 110_000) if is_large else (),
                updates=bool(number % 20 == 10), version=("v1", "v2")[number // 2 % 2],
            )
        done += 1
        story = stories.get(done)
        if story is not None:
            told.append(asyncio.create_task(asyncio.to_thread(story)))
        return moved

    changes = await asyncio.gather(*map(one, range(count)))
    await asyncio.gather(*told)
    assert len(stories) == len(told)
    return sum(changes)


@pytest.mark.slow
def test_connections_go_on_over_reloads_and_an_upgrade_while_addresses_change(
    ngxstream: ProxyFactory, h3: Any, authority: Authority
) -> None:
    """Two names, four workers, two reloads and USR2: all bytes arrive, of all connections."""
    with h3.Servers(authority, *NAMES) as servers:
        proxy = ngxstream(conf(servers, workers=4, daemon="on", timeout="1m"))
        stories = {
            HANDSHAKES // 5: proxy.reload, HANDSHAKES * 2 // 5: proxy.reload,
            HANDSHAKES * 3 // 5: lambda: upgrade(proxy, 4),
        }
        began = time.monotonic()
        changes = asyncio.run(load(h3, proxy, authority, HANDSHAKES, stories))
        print(f"{HANDSHAKES} connections, {changes} changes, {time.monotonic() - began:.0f} s")
        assert HANDSHAKES // 10 * 2 == changes
        begun = re.compile(r"udp proxy .* connected to 127.0.0.1:(\d+)")
        to = [found[1] for found in map(begun.search, proxy.error_log()) if found]
    # each connection has had one session, with the server of its name
    assert {str(port): HANDSHAKES // 2 for port in servers.ports.values()} == Counter(to)


@pytest.mark.parametrize("listen", ["127.0.0.1:", "*:"], ids=["address", "wildcard"])
@pytest.mark.parametrize("retry", [False, True], ids=["plain", "retry"])
def test_a_download_goes_on_when_the_port_changes(
    ngxstream: ProxyFactory, h3: Any, authority: Authority, retry: bool, listen: str
) -> None:
    """After a Retry, with a hello of three datagrams, while keys change."""
    with h3.Servers(authority, *NAMES, retry=retry) as servers:
        proxy = ngxstream(conf(servers, workers=2, listen=listen, timeout="1s"))
        long = tuple(f"{n}".zfill(240) for n in range(4))

        async def both() -> list[int]:
            return await asyncio.gather(*(
                h3.download(
                    proxy.address("quic"), name, 300_000, authority=authority,
                    moves=(50_000, 150_000, 250_000), updates=True, alpn=long, is_large=True,
                ) for name in NAMES
            ))

        assert [3, 3] == asyncio.run(both())
        lines = proxy.wait_log("", count=2, name="logs/access.log")
    assert sorted(NAMES) == sorted(line.split()[0] for line in lines)


def test_early_data_comes_back_to_a_port_that_changes(
    ngxstream: ProxyFactory, h3: Any, authority: Authority
) -> None:
    """The request goes with the hello of a connection that resumes; its answer comes after it."""
    with h3.Servers(authority, *NAMES) as servers:
        proxy = ngxstream(conf(servers, workers=2, timeout="1s"))
        tickets: list[Any] = []

        async def twice(name: str) -> int:
            address = proxy.address("quic")
            await h3.download(address, name, 10, authority=authority, tickets=tickets)
            moved: int = await h3.download(
                address, name, 300_000, authority=authority, ticket=tickets[-1],
                moves=(50_000, 150_000),
            )
            return moved

        for name in NAMES:
            assert 2 == asyncio.run(twice(name))
        lines = proxy.wait_log("", count=4, name="logs/access.log")
    assert sorted(NAMES * 2) == sorted(line.split()[0] for line in lines)


@pytest.mark.slow
def test_a_browser_loads_on_when_a_nat_forgets_it(
    ngxstream: ProxyFactory, h3: Any, authority: Authority, tmp_path: Path
) -> None:
    """Chromium, whose QUIC is another one: all bytes come, by HTTP/3, of the server of the name."""
    program = tools.require("chromium")
    with h3.Servers(authority, *NAMES) as servers:
        proxy = ngxstream(conf(servers, workers=4))
        for name in NAMES:
            pin = servers.pins[name]
            with ForgetfulNat(proxy.address("quic"), (60_000, 250_000)) as nat:
                port = nat.address[1]
                page = subprocess.run(
                    [
                        program, "--headless=new", "--no-sandbox", "--disable-gpu",
                        "--no-first-run", "--disable-dev-shm-usage",
                        f"--user-data-dir={tmp_path / name}",
                        "--disable-background-networking", "--disable-component-update",
                        "--host-resolver-rules=MAP * 127.0.0.1", "--no-proxy-server",
                        f"--origin-to-force-quic-on={name}:{port}",
                        f"--ignore-certificate-errors-spki-list={pin}",
                        "--dump-dom", f"https://{name}:{port}/bytes/400000",
                    ],
                    capture_output=True, timeout=3 * PATIENCE, check=False,
                    env=os.environ | {"HOME": str(tmp_path)},
                ).stdout
            assert h3.payload(name, 400_000).strip() in page, page[:2000]
            assert 2 == nat.forgotten


# -- hostile, and unlucky --------------------------------------------------------------------------


class Connection:
    """A connection as a proxy sees it, with a backend that sends back what it gets."""

    def __init__(self, proxy: Proxy, number: int) -> None:
        self.front = proxy.address("quic")
        self.client = UdpClient(self.front)
        self.name = b"server%02d" % number
        self.first = quic.Client(destination=b"first-%02d" % number, source=b"cli")

    def shake(self) -> None:
        """Have its ids known: what the server echoes has a source id as if it were its own."""
        (hello,) = self.first.datagrams(quic.hello("one.test"))
        self.client.exchange(hello)
        self.client.exchange(quic.opaque(quic.HANDSHAKE, destination=self.first.destination,
                                         source=self.name))
        self.client.exchange(quic.short(self.name))


@pytest.fixture
def connection(ngxstream: ProxyFactory, backends: BackendFactory) -> Any:
    """Give a proxy of four workers, and a way to connect."""
    backend = backends.udp()
    proxy = ngxstream(conf(workers=4, timeout="1m", one=backend.text, two=backend.text),
                      expected=("exited on signal 9",))
    made: list[Connection] = []

    def connect() -> Connection:
        made.append(Connection(proxy, len(made)))
        return made[-1]

    connect.proxy, connect.backend = proxy, backend  # type: ignore[attr-defined]
    yield connect
    for one in made:
        one.client.sock.close()


def test_an_observer_of_ids_gets_three_times_what_it_sent(connection: Any) -> None:
    """From addresses of other hosts, whichever worker they come to; the client loses nothing."""
    one = connection()
    one.shake()
    sent = quic.short(one.name, size=100)
    for host in range(2, 10):
        with UdpClient(one.front, source=(f"127.0.0.{host}", 0), connected=False) as thief:
            for number in range(5):
                thief.send(sent)
                assert sent == one.client.recv()  # the server's answer to it
                answer = quic.short(one.name, bytes((number,)), 600)
                assert answer == one.client.exchange(answer)
            thief.sock.setblocking(False)
            got = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    got += len(thief.recv())
            assert got <= 3 * 5 * len(sent)


def test_ids_of_a_worker_that_died_are_nobody_s(connection: Any) -> None:
    """Its clients begin anew; those of the others go on, from other addresses too."""
    every = [connection() for _ in range(16)]
    for one in every:
        one.shake()
    proxy = connection.proxy
    pids = proxy.worker_pids()
    os.kill(pids[0], signal.SIGKILL)
    wait_until(lambda: len(set(proxy.worker_pids()) - {pids[0]}) == 4, what="it is replaced")
    begun = re.compile(r" (\d+)#\d+: \*\d+ udp client 127.0.0.1:(\d+) connected")
    owners = {int(found[2]): int(found[1]) for found in map(begun.search, proxy.error_log())
              if found}
    kept = [one for one in every if owners[one.client.sock.getsockname()[1]] != pids[0]]
    lost = [one for one in every if one not in kept]
    assert kept and lost
    with contextlib.ExitStack() as stack:
        for one in kept:
            moved = stack.enter_context(UdpClient(one.front))
            packet = quic.short(one.name, b"moved")
            assert packet == moved.exchange(packet)
        for one in lost:  # what bears the id of a session that is lost begins another one
            moved = stack.enter_context(UdpClient(one.front))
            moved.send(quic.short(one.name, b"moved"))
            text = f"udp client 127.0.0.1:{moved.sock.getsockname()[1]} connected"
            proxy.wait_log(text)
    assert len([line for line in proxy.error_log() if "has moved" in line]) <= len(kept)


def test_a_flood_of_new_ids_pushes_out_none_that_is_used(connection: Any) -> None:
    """Sessions of forged clients come and go; one that was there moves on."""
    one = connection()
    one.shake()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
        for number in range(2000):
            forged = quic.opaque(quic.INITIAL, 100, destination=b"forged%06d" % number)
            flood.sendto(forged, one.front)
    with UdpClient(one.front, timeout=0.2) as moved:
        packet = quic.short(one.name, b"moved")

        def is_answered() -> bool:  # the flood may fill the socket's buffer
            try:
                return packet == moved.exchange(packet)
            except TimeoutError:
                return False

        wait_until(is_answered, what="an answer")
