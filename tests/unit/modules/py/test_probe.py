"""health_check py=: each way a probe of a function ends, and that nothing is left of it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ngxstream.core.log import Log
from ngxstream.event.loop import Loop
from ngxstream.event.probing import Outcome
from ngxstream.event.time_limit import TimeLimit
from ngxstream.modules.health.schedule import target_of
from tests.support.awaited import module
from tests.support.backends import BackendFactory, Conversation, silent
from tests.support.certs import Authority
from tests.support.engine import engine, run_until
from tests.support.in_process import LogTarget, build
from tests.support.proxies import ProxyFactory
from tests.support.waiting import wait_until

FUNCTIONS = """
seen = []

async def ping(stream):
    stream.write(b"ping")
    assert await stream.readexactly(4) == b"ping", "another answer"

async def udp_ping(sock):
    await sock.send(b"ping")
    return await sock.receive() == b"ping"

async def says_true(stream): return True
async def says_false(stream): return False
def plain(stream): pass
async def raises(stream): raise ValueError("not today")
async def hangs(stream):
    try:
        await sleep(1000)
    finally:
        seen.append(stream.is_closed)
async def burns(stream):
    while True: pass
async def leaves_open(stream):
    await connect("127.0.0.1", stream.peer.port)
async def scarce(stream): raise OSError(24, "Too many open files")
"""


class Lab:
    """The checks of one server, made one at a time."""

    def __init__(self, folder: Path, loop: Loop) -> None:
        self.folder = folder
        self.loop = loop
        self.outcomes: list[Outcome] = []
        self.check: Any = None

    def begin(self, address: str, words: str, more: str = "", timeout_ms: int = 20_000) -> Any:
        """Begin a probe of a server."""
        built = build(
            f"stream {{ {module(self.folder, FUNCTIONS)} "
            f"upstream u {{ zone u 64k; server {address}; }} "
            f"server {{ listen 127.0.0.1:1; proxy_pass u; {more} health_check {words}; }} }}"
        )
        assert built.conf is not None, built.error
        built.conf.use_main_log(Log([LogTarget()]), lambda _: Log([LogTarget()]))
        self.check = built.conf.data["health"][0].checks[0]
        upstream: Any = self.check.upstream
        (peer,) = upstream.balancer.tier.peers
        made = self.check.probe(
            self.loop, target_of(self.check, peer), timeout_ms, self.outcomes.append
        )
        made.begin()
        assert not self.outcomes, "done() is called in a later turn"
        return made

    def outcome(self, *args: Any, **more: Any) -> Outcome:
        """Make a probe of a server."""
        self.begin(*args, **more)
        run_until(self.loop, lambda: bool(self.outcomes))
        self.loop.turn(0)
        return self.outcomes.pop()

    @property
    def seen(self) -> list[Any]:
        """What functions have noted."""
        found: list[Any] = self.check.spec.prober.hook.call.__globals__["seen"]
        return found


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Give one whose slots are all there in the end."""
    with engine() as loop:
        yield Lab(tmp_path, loop)
        loop.turn(0)
        assert 512 == loop.free_connections
        loop.get(TimeLimit).close()


@pytest.mark.effect("health_check")
@pytest.mark.parametrize("name", ["ping", "says_true", "plain", "leaves_open"])
def test_a_server_is_well_when_the_function_returns(
    lab: Lab, backends: BackendFactory, name: str
) -> None:
    """Nothing, or True."""
    outcome = lab.outcome(backends.tcp().text, f"py=app.{name}")
    assert (True, "well") == (outcome.passed, outcome.text)


@pytest.mark.parametrize(("name", "text"), [
    ("says_false", "it returned False"),
    ("raises", "ValueError: not today in"),
    ("burns", "TimeLimitError: it takes more than"),
])
def test_it_is_not_when_it_raises_or_says_so(
    lab: Lab, backends: BackendFactory, name: str, text: str
) -> None:
    """The text is the exception's."""
    outcome = lab.outcome(backends.tcp().text, f"py=app.{name}", "py_time_limit 20ms;")
    assert outcome.passed is False
    assert outcome.text.startswith(text)


def test_an_answer_that_is_another_one_fails(lab: Lab, backends: BackendFactory) -> None:
    """As does an end before the answer."""

    def lies(conversation: Conversation) -> None:
        conversation.recv(4)
        conversation.send(b"gnip")

    outcome = lab.outcome(backends.tcp(lies).text, "py=app.ping")
    assert outcome.passed is False
    assert "AssertionError: another answer" in outcome.text
    outcome = lab.outcome(backends.tcp(lambda _: None).text, "py=app.ping")
    assert outcome.passed is False


def test_one_that_does_not_end_is_cancelled(lab: Lab, backends: BackendFactory) -> None:
    """With its `finally` blocks run."""
    outcome = lab.outcome(backends.tcp(silent).text, "py=app.hangs", timeout_ms=1000)
    assert (False, "no end of the probe in time") == (outcome.passed, outcome.text)
    assert [False] == lab.seen


def test_a_port_where_nobody_listens_fails(lab: Lab) -> None:
    """The function is not called."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        outcome = lab.outcome(f"127.0.0.1:{closed.getsockname()[1]}", "py=app.says_true")
    assert outcome.passed is False
    assert "ConnectionRefusedError" in outcome.text


def test_what_is_short_here_speaks_against_nobody(lab: Lab, backends: BackendFactory) -> None:
    """Descriptors that the function does not get are no failure of the server."""
    assert lab.outcome(backends.tcp().text, "py=app.scarce").passed is None


def test_a_probe_needs_a_slot(lab: Lab, backends: BackendFactory) -> None:
    """Before anything is opened."""
    lab.loop.free_connections = 0
    outcome = lab.outcome(backends.tcp().text, "py=app.ping")
    assert outcome.passed is None
    assert "worker_connections are not enough" in outcome.text
    lab.loop.free_connections = 512


def test_datagrams_are_sent_and_received(lab: Lab, backends: BackendFactory) -> None:
    """`udp` gives the function a DatagramSocket."""
    outcome = lab.outcome(backends.udp().text, "py=app.udp_ping udp")
    assert (True, "well") == (outcome.passed, outcome.text)


def test_a_probe_may_use_tls(lab: Lab, tmp_path: Path) -> None:
    """As other checks do; the end of the certificate is told."""
    pair = Authority(tmp_path / "ca").issue("a.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        accepted: list[socket.socket] = []

        def accept() -> bool:
            with suppress(BlockingIOError):
                accepted.append(server.accept()[0])
            return bool(accepted)

        lab.begin(f"127.0.0.1:{server.getsockname()[1]}", "py=app.ping type=tls")
        run_until(lab.loop, accept)
        (client,) = accepted
        with client:
            client.setblocking(False)
            wrapped = context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)

            def step() -> bool:
                try:
                    wrapped.do_handshake()
                    wrapped.send(wrapped.recv(4))
                except (ssl.SSLWantReadError, OSError):
                    pass
                return bool(lab.outcomes)

            run_until(lab.loop, step)
            wrapped.close()
    (outcome,) = lab.outcomes
    assert (True, 29) == (outcome.passed, outcome.days_left)


@pytest.mark.parametrize("turns", range(4))
def test_one_that_is_cancelled_tells_nothing(
    lab: Lab, backends: BackendFactory, turns: int
) -> None:
    """Wherever it is."""
    made = lab.begin(backends.tcp(silent).text, "py=app.ping")
    for _ in range(turns):
        lab.loop.turn(0)
    made.cancel()
    for _ in range(3):
        lab.loop.turn(0)
    assert [] == lab.outcomes


def test_a_fault_of_ours_speaks_against_nobody(lab: Lab, backends: BackendFactory) -> None:
    """As with other checks."""
    lab.begin(backends.tcp(silent).text, "py=app.hangs").on_fault()
    assert lab.outcomes[0].passed is None


@pytest.mark.refusal("health_check")
@pytest.mark.parametrize(("words", "error"), [
    ("py=app.none", 'function "app.none" not found'),
    ("py=other.ping", 'no "py_import" directives found for "other.ping"'),
    ("py=app.ping type=dns name=a.test", '"py=" cannot be used with "type=dns"'),
    ("py=app.ping match=m", '"py=" cannot be used with "match="'),
])
def test_what_does_not_fit_is_refused(tmp_path: Path, words: str, error: str) -> None:
    """When the configuration is read."""
    built = build(
        f"stream {{ {module(tmp_path, FUNCTIONS)} match m {{ expect x; }} "
        "upstream u { zone u 64k; server 127.0.0.1:1; } "
        f"server {{ listen 127.0.0.1:1; proxy_pass u; health_check {words}; }} }}"
    )
    assert error in built.error


Serve = Callable[..., Any]


def test_a_server_that_fails_is_left_out(
    ngxstream: ProxyFactory, backends: BackendFactory, tmp_path: Path
) -> None:
    """In the running program: one line says why, and it comes back."""
    server = backends.tcp()
    text = (tmp_path / "well")
    text.touch()
    imported = module(tmp_path, f"""
import os
async def check(stream):
    if not os.path.exists({str(text)!r}):
        raise RuntimeError("it is ill")
""")
    program = ngxstream(
        f"events {{}} stream {{ {imported} upstream u {{ zone u 64k; server {server.text}; }} "
        "server { listen 127.0.0.1:@in@; proxy_pass u; health_check interval=50ms py=app.check; } }"
    )
    wait_until(lambda: server.accepted)
    text.unlink()
    (line,) = program.wait_log("peer is unhealthy")
    assert "peer is unhealthy: RuntimeError: it is ill in" in line
    assert 'health check "interval=50ms py=app.check"' in line
    text.touch()
    program.wait_log("peer is healthy")
