"""Resumption: by tickets and by ids, over workers, reloads and time, as s_client shows it."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import crossplane
import pytest

from tests.support import certs, proxies, tools
from tests.support.backends import BackendFactory, Conversation
from tests.support.tls_clients import s_client
from tests.support.waiting import PATIENCE, wait_until

Factory = proxies.ProxyFactory
VERSIONS = pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the directives of a certificate."""
    ca = certs.Authority(tmp_path_factory.mktemp("ca"))
    made = ca.issue("a.test")
    return f"ssl_certificate {made.cert}; ssl_certificate_key {made.key};"


def conf(server: str, workers: int = 4) -> str:
    """Return a configuration whose server says whether and by which worker it resumed."""
    return (
        f"worker_processes {workers}; events {{}} stream {{ "
        "ssl_protocols TLSv1.2 TLSv1.3; log_format l '$pid $ssl_session_reused'; "
        f"access_log logs/access.log l; server {{ listen 127.0.0.1:@main@ ssl reuseport; {server} "
        'return "<data>$ssl_session_reused$pid</data>"; } }'
    )


class Client:
    """A client with one session in a file."""

    def __init__(self, port: int, folder: Path, *options: str) -> None:
        self.port = port
        self.file = folder / "session.pem"
        self.options = options

    def begin(self) -> None:
        """Make a session and keep it."""
        talk = s_client(self.port, *self.options, "-sess_out", str(self.file))
        assert b"." == talk.data[:1], talk.said

    def resumes(self) -> bool:
        """Come back with the session; tell whether it was resumed, on both sides' word."""
        talk = s_client(self.port, *self.options, "-sess_in", str(self.file))
        assert talk.is_reused == (talk.data[:1] == b"r"), talk.said
        return talk.is_reused


def assert_all_workers_resume(proxy: proxies.Proxy, client: Client) -> None:
    """Come back until every worker has served; each time the session is resumed."""
    deadline = time.monotonic() + PATIENCE
    seen: set[bytes] = set()
    while len(seen) < 2 and time.monotonic() < deadline:
        for _ in range(8):
            talk = s_client(client.port, *client.options, "-sess_in", str(client.file))
            assert b"r" == talk.data[:1], talk.said
            seen.add(talk.data[1:])
    assert len(seen) >= 2


@pytest.mark.effect("ssl_session_tickets")
@VERSIONS
def test_tickets_are_resumed_by_every_worker(
    ngxstream: Factory, pair: str, tmp_path: Path, version: str
) -> None:
    """Without any directive a ticket of one worker opens at the others."""
    proxy = ngxstream(conf(pair))
    client = Client(proxy.port("main"), tmp_path, version)
    client.begin()
    assert_all_workers_resume(proxy, client)


@VERSIONS
def test_s_time_comes_back_with_one_session_to_all_workers(
    ngxstream: Factory, backends: BackendFactory, pair: str, version: str
) -> None:
    """Every connection of `openssl s_time -reuse` but its first is resumed, by each worker."""

    def answer(conversation: Conversation) -> None:
        conversation.recv()  # a session of TLS 1.3 comes with the answer: the client has to read it
        conversation.send(b"HTTP/1.0 200 OK\r\n\r\n")

    back = backends.tcp(answer)
    proxy = ngxstream(conf(pair).replace('return "<data>$ssl_session_reused$pid</data>"',
                                         f"proxy_pass {back.text}"))  # fmt: skip
    words = [tools.require("openssl"), "s_time", "-connect", f"127.0.0.1:{proxy.port('main')}"]
    served: dict[str, list[str]] = {}
    deadline = time.monotonic() + PATIENCE
    while len(served) < 4 and time.monotonic() < deadline:
        ran = subprocess.run(
            [*words, version, "-reuse", "-www", "/", "-time", "1"],
            capture_output=True, text=True, check=True, timeout=PATIENCE,
        )  # fmt: skip
        found = re.search(r"starting\n(\S*)\n", ran.stdout)
        assert found is not None, ran.stdout + ran.stderr
        assert {"r"} == set(found[1]), ran.stdout
        for line in (proxy.prefix / "logs/access.log").read_text().splitlines():
            pid, reused = line.split()
            served.setdefault(pid, []).append(reused)
    assert 4 == len(served)
    assert all("r" in marks for marks in served.values()), served


@VERSIONS
def test_without_tickets_nothing_is_resumed(
    proxy: Factory, pair: str, tmp_path: Path, version: str
) -> None:
    """ssl_session_tickets off and no cache: every handshake is a full one, in nginx too."""
    running = proxy(conf(f"{pair} ssl_session_tickets off;", workers=1))
    client = Client(running.port("main"), tmp_path, version)
    client.begin()
    assert not client.resumes()


@pytest.mark.effect("ssl_session_cache")
@VERSIONS
def test_a_shared_cache_serves_all_workers(
    ngxstream: Factory, pair: str, tmp_path: Path, version: str
) -> None:
    """Sessions without tickets lie in the zone and are found by every worker."""
    proxy = ngxstream(conf(f"{pair} ssl_session_tickets off; ssl_session_cache shared:s:1m;"))
    client = Client(proxy.port("main"), tmp_path, version)
    client.begin()
    if version == "-tls1_2":
        assert_all_workers_resume(proxy, client)
    else:
        assert client.resumes()


@VERSIONS
def test_a_shared_cache_outlives_a_reload(
    ngxstream: Factory, pair: str, tmp_path: Path, version: str
) -> None:
    """The zone and the ticket keys in it stay: what came before the reload is resumed after it."""
    text = conf(f"{pair} ssl_session_cache shared:s:1m;", workers=2)
    running = ngxstream(text)
    client = Client(running.port("main"), tmp_path, version)
    client.begin()
    running.reload(text + " # again")
    assert client.resumes()


def test_a_builtin_cache_serves_its_worker(proxy: Factory, pair: str, tmp_path: Path) -> None:
    """With one worker a builtin cache is enough."""
    running = proxy(
        conf(f"{pair} ssl_session_tickets off; ssl_session_cache builtin:100;", workers=1)
    )
    client = Client(running.port("main"), tmp_path, "-tls1_2")
    client.begin()
    assert client.resumes()


@pytest.mark.effect("ssl_session_ticket_key")
@pytest.mark.parametrize("size", [48, 80])
@VERSIONS
def test_ticket_keys_outlive_a_reload_and_rotate(
    proxy: Factory, pair: str, tmp_path: Path, version: str, size: int
) -> None:
    """Sealed under one key, opened after a reload, after a rotation, and not once it is gone."""
    keys = [tmp_path / f"key{number}" for number in range(3)]
    for key in keys:
        key.write_bytes(os.urandom(size))

    def with_keys(*numbers: int) -> str:
        lines = " ".join(f"ssl_session_ticket_key {keys[number]};" for number in numbers)
        return conf(f"{pair} {lines}")

    running = proxy(with_keys(0))
    client = Client(running.port("main"), tmp_path, version)
    client.begin()
    assert client.resumes()
    running.reload(with_keys(0) + " # again")
    assert client.resumes()
    running.reload(with_keys(1, 0))
    assert client.resumes()
    running.reload(with_keys(2, 1))
    assert not client.resumes()


@VERSIONS
def test_tickets_of_nginx_are_opened(
    ngxstream: Factory, pair: str, tmp_path: Path, version: str
) -> None:
    """With the same key and certificate nginx and we open each other's tickets."""
    key = tmp_path / "key"
    key.write_bytes(os.urandom(80))
    text = conf(f"{pair} ssl_session_ticket_key {key};", workers=1)
    ours = ngxstream(text)
    with proxies.Nginx(text, tmp_path) as nginx:
        for first, second in ((ours, nginx), (nginx, ours)):
            client = Client(first.port("main"), tmp_path, version)
            client.begin()
            client.port = second.port("main")
            assert client.resumes()


@pytest.mark.effect("ssl_session_timeout")
@pytest.mark.parametrize("how", ["tickets", "cache"])
def test_sessions_end(ngxstream: Factory, pair: str, tmp_path: Path, how: str) -> None:
    """After ssl_session_timeout a session is not resumed, even one renewed again and again."""
    store = "ssl_session_tickets off; ssl_session_cache shared:s:1m;" if how == "cache" else ""
    proxy = ngxstream(conf(f"{pair} {store} ssl_session_timeout 3s;", workers=1))
    version = "-tls1_2" if how == "cache" else "-tls1_3"
    client = Client(proxy.port("main"), tmp_path, version)
    client.begin()
    made = time.monotonic()  # or before it
    resumed_late = []

    def has_ended() -> bool:
        asked = time.monotonic()  # or later
        talk = s_client(
            client.port, version, "-sess_in", str(client.file), "-sess_out", str(client.file)
        )
        if talk.is_reused and asked - made > 4.5:
            resumed_late.append(talk)
        return not talk.is_reused

    wait_until(has_ended, PATIENCE, "the end of the session")
    assert [] == resumed_late


@VERSIONS
def test_a_session_is_bound_to_the_certificate(
    ngxstream: Factory, pair: str, tmp_path: Path, version: str
) -> None:
    """After the certificate has changed, an old ticket under the same key opens nothing."""
    key = tmp_path / "key"
    key.write_bytes(os.urandom(80))
    other = certs.Authority(tmp_path / "ca").issue("a.test")
    one = conf(f"{pair} ssl_session_ticket_key {key};", workers=1)
    two = conf(
        f"ssl_certificate {other.cert}; ssl_certificate_key {other.key}; "
        f"ssl_session_ticket_key {key};",
        workers=1,
    )
    proxy = ngxstream(one)
    client = Client(proxy.port("main"), tmp_path, version)
    client.begin()
    proxy.reload(two)
    assert not client.resumes()


@pytest.mark.parametrize("python", ["3.12", "3.13"])
@VERSIONS
def test_other_pythons_bind_sessions_to_the_certificate(
    pair: str, tmp_path: Path, version: str, python: str
) -> None:
    """By every Python that is here a ticket is taken back, and not for another certificate."""
    interpreter = tools.other_python(python)

    class Other(proxies.Ngxstream):
        """The program by another interpreter."""

        def command(self) -> list[str]:
            return [interpreter, "-m", "ngxstream"]

    key = tmp_path / "key"
    key.write_bytes(os.urandom(80))
    other = certs.Authority(tmp_path / "ca").issue("a.test")
    # crossplane is of Python alone: one installation serves all
    beside = {"PYTHONPATH": f"{proxies.ROOT}:{Path(crossplane.__file__).parents[1]}"}
    with Other(
        conf(f"{pair} ssl_session_ticket_key {key};", workers=1), tmp_path, env=beside
    ) as running:
        client = Client(running.port("main"), tmp_path, version)
        client.begin()
        assert client.resumes()
        running.reload(
            conf(
                f"ssl_certificate {other.cert}; ssl_certificate_key {other.key}; "
                f"ssl_session_ticket_key {key};",
                workers=1,
            )
        )
        assert not client.resumes()


def test_a_client_known_at_one_server_is_not_known_at_another(
    ngxstream: Factory, pair: str, tmp_path: Path
) -> None:
    """A session made under one name is refused where another server wants a certificate."""
    ca = certs.Authority(tmp_path / "ca")
    guest = ca.issue("guest")
    verify = f"ssl_verify_client on; ssl_client_certificate {ca.cert};"
    proxy = ngxstream(
        f"events {{}} stream {{ {pair} {verify} "
        "server { listen 127.0.0.1:@main@ ssl; server_name a.test; "
        'return "<data>a$ssl_session_reused</data>"; } '
        "server { listen 127.0.0.1:@main@ ssl; server_name b.test; "
        'return "<data>b$ssl_session_reused</data>"; } }'
    )
    port, session = proxy.port("main"), tmp_path / "s.pem"
    shown = ("-tls1_2", "-cert", str(guest.cert), "-key", str(guest.key))
    assert b"a." == s_client(port, *shown, "-sess_out", str(session)).data
    assert b"ar" == s_client(port, "-tls1_2", "-sess_in", str(session)).data
    other = s_client(port, "-tls1_2", "-sess_in", str(session), name="b.test")
    assert b"br" != other.data
    assert not re.search("<data>b", other.said)


def test_early_data_is_not_taken(proxy: Factory, pair: str, tmp_path: Path) -> None:
    """A ticket says that none may be sent, and one who comes with some is resumed without it."""
    early = tmp_path / "early"
    early.write_bytes(b"GET / HTTP/1.0\r\n\r\n")
    client = Client(proxy(conf(pair)).port("main"), tmp_path, "-tls1_3")
    client.begin()
    talk = s_client(client.port, "-tls1_3", "-sess_in", str(client.file), "-early_data", str(early))
    assert talk.is_reused, talk.said
    assert "Early data was not sent" in talk.said
