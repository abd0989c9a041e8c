"""Real nginx and ngxstream send the same clients to the same servers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import backends as kit
from tests.support.backends import BackendFactory, address_text
from tests.support.clients import TcpClient
from tests.support.proxies import Proxy

Pair = tuple[Proxy, Proxy]
Both = Callable[..., Pair]

SERVERS = 10
KEYS = [f"127.{n % 7 + 1}.{n * 37 % 251}.{n % 253 + 1}" for n in range(1000)]
WEIGHTS = [1, 2, 1, 3, 1, 1, 2, 1, 1, 5]


def asked(proxy: Proxy, port: str, source: str = "127.0.0.1") -> bytes:
    """Connect from an address; return the number of the backend that answered."""
    with TcpClient(proxy.address(port), source=(source, 0)) as client:
        return client.recv_to_eof()


def servers(backends: BackendFactory, words: list[str]) -> str:
    """Start numbered backends; return server lines with these words after each address."""
    lines = []
    for number, word in enumerate(words):
        backend = backends.tcp(kit.greet(b"%d" % number))
        lines.append(f"server {backend.text} {word};")
    return " ".join(lines)


def conf(upstreams: dict[str, str]) -> str:
    """Write a configuration of one worker with a listener for each upstream."""
    blocks = [
        f"upstream {name} {{ {lines} }} server {{ listen 127.0.0.1:@{name}@; proxy_pass {name}; }}"
        for name, lines in upstreams.items()
    ]
    return f"worker_processes 1; events {{ }} stream {{ {' '.join(blocks)} }}"


@pytest.mark.effect("hash")
@pytest.mark.slow
@pytest.mark.parametrize("method", ["plain", "consistent"])
def test_a_thousand_keys_find_the_same_of_ten_servers(
    both: Both, backends: BackendFactory, method: str
) -> None:
    """Each of 1000 client addresses is hashed to the same of 10 servers, weights and all."""
    lines = servers(backends, [f"weight={weight}" for weight in WEIGHTS])
    word = "consistent" if method == "consistent" else ""
    text = conf({"group": f"hash $remote_addr {word}; {lines}"})
    nginx, ours = both(text)
    expected = [asked(nginx, "group", key) for key in KEYS]
    assert expected == [asked(ours, "group", key) for key in KEYS]
    assert {b"%d" % n for n in range(SERVERS)} == set(expected)


@contextmanager
def dead_and_living(backends: BackendFactory, dead: set[int]) -> Iterator[str]:
    """Give the lines of ten servers of which some refuse; none is ever disabled."""
    lines = []
    with kit.refusing_tcp() as refusing:
        for number, weight in enumerate(WEIGHTS):
            if number in dead:
                text = address_text(refusing)
            else:
                text = backends.tcp(kit.greet(b"%d" % number)).text
            lines.append(f"server {text} weight={weight} max_fails=0;")
        yield " ".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["plain", "consistent"])
def test_keys_of_a_dead_server_find_the_same_other_one(
    both: Both, backends: BackendFactory, method: str
) -> None:
    """Keys whose server refuses are rehashed, or go on round the ring, to the same server."""
    word = "consistent" if method == "consistent" else ""
    with dead_and_living(backends, {9}) as lines:
        nginx, ours = both(conf({"group": f"hash $remote_addr {word}; {lines}"}))
        keys = KEYS[:300]
        expected = [asked(nginx, "group", key) for key in keys]
        assert expected == [asked(ours, "group", key) for key in keys]
        assert b"" not in expected


def test_keys_of_servers_that_are_down_find_the_same_other_one(
    both: Both, backends: BackendFactory
) -> None:
    """With most servers down the keys are rehashed often, and round robin helps in the end."""
    down = ["down" if n not in (3, 7) else "" for n in range(SERVERS)]
    lines = servers(backends, down)
    nginx, ours = both(conf({"plain": f"hash $remote_addr; {lines}",
                             "ring": f"hash $remote_addr consistent; {lines}"}))
    for name in ("plain", "ring"):
        expected = [asked(nginx, name, key) for key in KEYS[:200]]
        assert expected == [asked(ours, name, key) for key in KEYS[:200]]


def test_unix_sockets_are_on_the_ring(both: Both, backends: BackendFactory, tmp_path: Path) -> None:
    """Servers at unix: paths own the same points in both programs."""
    lines = []
    for number in range(3):
        path = str(tmp_path / f"{number}.sock")
        backends.tcp(kit.greet(b"%d" % number), host=path)
        lines.append(f"server unix:{path} weight={number + 1};")
    nginx, ours = both(conf({"group": f"hash $remote_addr consistent; {' '.join(lines)}"}))
    expected = [asked(nginx, "group", key) for key in KEYS[:100]]
    assert expected == [asked(ours, "group", key) for key in KEYS[:100]]
    assert {b"0", b"1", b"2"} == set(expected)


@pytest.mark.parametrize(
    "words",
    [
        ["weight=5", "", ""],
        ["", "", ""],
        ["weight=3", "weight=7", "weight=2", "down"],
        ["", "weight=2", "backup"],
        ["down", "backup", "backup weight=2"],
    ],
)
def test_round_robin_takes_the_same_turns(
    both: Both, backends: BackendFactory, words: list[str]
) -> None:
    """Clients one after the other go to the same servers in the same order."""
    nginx, ours = both(conf({"group": servers(backends, words)}))
    expected = [asked(nginx, "group") for _ in range(30)]
    assert expected == [asked(ours, "group") for _ in range(30)]


def test_turns_around_a_server_that_refuses(both: Both, backends: BackendFactory) -> None:
    """A server that refuses is passed over, disabled, and the order of the others is the same."""
    with kit.refusing_tcp() as refusing:
        lines = servers(backends, ["weight=2", "", "weight=3"])
        lines = f"server {address_text(refusing)} weight=4 max_fails=2 fail_timeout=1h; {lines}"
        nginx, ours = both(conf({"group": lines}))
        expected = [asked(nginx, "group") for _ in range(40)]
        assert expected == [asked(ours, "group") for _ in range(40)]
        warnings = [
            sum("upstream server temporarily disabled" in line for line in proxy.error_log())
            for proxy in (nginx, ours)
        ]
        assert [1, 1] == warnings


def test_all_servers_refuse(both: Both) -> None:
    """Once every server is disabled, clients are closed at once with `no live upstreams`."""
    with kit.refusing_tcp() as one, kit.refusing_tcp() as two:
        lines = f"server {address_text(one)}; server {address_text(two)};"
        said = []
        for proxy in both(conf({"group": lines})):
            assert [b"", b""] == [asked(proxy, "group") for _ in range(2)]
            # a client sees the end before its lines are in the file
            lines = proxy.wait_log(r"\[(error|warn)\]", count=len(said[0]) if said else 1)
            said.append([line.split("] ", 1)[1].split(",")[0].split(" ", 2)[2] for line in lines])
        assert said[0] == said[1]


@pytest.mark.effect("least_conn")
def test_least_conn_fills_servers_in_the_same_order(both: Both, backends: BackendFactory) -> None:
    """Clients that stay are spread over the servers in the same order, weights and all."""
    made = [backends.tcp(hello(b"%d" % number)) for number in range(3)]
    lines = " ".join(
        f"server {backend.text} weight={weight};"
        for backend, weight in zip(made, (1, 3, 2), strict=True)
    )
    orders = []
    for proxy in both(conf({"group": f"least_conn; {lines}"})):
        clients = []
        order = []
        for _ in range(18):
            client = TcpClient(proxy.address("group"))
            clients.append(client)
            order.append(client.recv(1))
        for client in clients:
            client.close()
        orders.append(order)
    assert orders[0] == orders[1]
    assert [3, 9, 6] == [orders[0].count(b"%d" % number) for number in range(3)]


def hello(data: bytes) -> kit.Script:
    """Send the bytes and stay until the client leaves."""

    def script(conversation: kit.Conversation) -> None:
        conversation.send(data)
        conversation.recv_to_eof()

    return script


def test_max_conns_is_the_same_limit(both: Both, backends: BackendFactory) -> None:
    """Clients beyond max_conns of all servers are turned away, the others are not."""
    made = [backends.tcp(hello(b"%d" % number)) for number in range(2)]
    lines = f"server {made[0].text} max_conns=2; server {made[1].text} max_conns=1;"
    results = []
    for proxy in both(conf({"group": lines})):
        clients = []
        got = []
        for _ in range(5):
            client = TcpClient(proxy.address("group"))
            clients.append(client)
            got.append(client.recv(1))
        for client in clients:
            client.close()
        results.append(got)
    assert results[0] == results[1]
    assert 2 == results[0].count(b"")


@pytest.mark.effect("random")
def test_random_leaves_no_server_out(backends: BackendFactory, both: Both) -> None:
    """Both programs use every server of a random group."""
    lines = servers(backends, [""] * 3)
    for proxy in both(conf({"group": f"random; {lines}"})):
        assert {b"0", b"1", b"2"} == {asked(proxy, "group") for _ in range(60)}


@pytest.mark.effect("zone")
@pytest.mark.parametrize("method", ["", "least_conn;"])
def test_workers_that_share_a_zone_take_turns_alike(
    both: Both, backends: BackendFactory, method: str
) -> None:
    """Whoever of three workers gets a client: weights, servers that refuse, and a backup."""
    with kit.refusing_tcp() as refusing:
        dead = address_text(refusing)
        alive = servers(backends, [f"weight={weight}" for weight in WEIGHTS])
        ups = {
            "many": f"zone many 64k; {method} {alive}",
            "failing": f"zone failing 64k; {method} {alive} server {dead} weight=3 max_fails=3;"
                       f" server {dead} weight=2;",
            "left": f"zone left 64k; {method} server {dead}; server {dead} weight=2;"
                    f" server {dead} max_fails=2; {alive.replace(';', ' backup;')}",
        }
        text = conf(ups).replace("worker_processes 1", "worker_processes 3")
        nginx, ours = both(text)
        for group in ups:
            expected = [asked(nginx, group) for _ in range(60)]
            assert expected == [asked(ours, group) for _ in range(60)], group


@pytest.mark.effect("zone")
def test_who_sees_the_end_of_a_session_finds_its_server_free(
    both: Both, backends: BackendFactory
) -> None:
    """Also where another of three workers gets the next client."""
    text = conf({
        "one": f"zone one 64k; {servers(backends, ['max_conns=1'])} server 192.0.2.1:9 down;",
        "two": f"zone two 64k; {servers(backends, ['max_conns=1'] * 2)}",
    }).replace("worker_processes 1", "worker_processes 3")
    for proxy in both(text):
        assert [b"0"] * 100 == [asked(proxy, "one") for _ in range(100)]
        assert [b"0", b"1"] * 50 == [asked(proxy, "two") for _ in range(100)]
