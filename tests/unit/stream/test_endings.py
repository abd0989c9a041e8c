"""Why sessions end: each reason provoked at the running program, and read in its access log."""

import ast
import contextlib
import errno
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

import ngxstream
from ngxstream.stream import content, endings
from tests.support import backends as b
from tests.support import certs, hellos, ports
from tests.support.clients import TcpClient, UdpClient
from tests.support.in_process import InProcess
from tests.support.proxies import Ngxstream as Program
from tests.support.proxies import ProxyFactory
from tests.support.udp_in_process import UdpInProcess
from tests.support.waiting import wait_until

PACKAGE = Path(ngxstream.__file__).parent


# -- the source ------------------------------------------------------------------------------------

# who calls finalize() and not end(): status and content tell why
ORDINARY = {
    "event/loop.py Loop.end_sessions_of": "500 after a fault",
    "modules/api/serving.py Client._discard": "the status of the reply",
    "modules/api/serving.py Client._go_on_sending": "500 after a fault",
    "modules/api/serving.py Client._replied": "the status of the reply",
    "modules/api/serving.py Client.on_timeout": "lingering: the status of the reply",
    "modules/api/serving.py handle": "503: a limit",
    "modules/limit_sess.py _Turn.on_fault": "500 after a fault",
    "modules/proxy/lifetime.py _End.on_fault": "500 after a fault",
    "modules/proxy/tcp.py TcpProxy.finish": "TcpProxy.ending",
    "modules/proxy/tcp.py TcpProxy.on_write_error": "noted: the first failure tells",
    "modules/proxy/target.py _Resolving.on_fault": "500 after a fault",
    "modules/proxy/udp_exchange.py Exchange.on_timeout": "Exchange.ending",
    "modules/proxy/udp_exchange.py Exchange.settle": "Exchange.ending",
    "modules/py/access.py Waiting.on_fault": "500 after a fault",
    "modules/py/access.py Waiting.on_timeout": "500: a function waited too long",
    "modules/py/balancer.py _Asking._ask": "the status that the function has said",
    "modules/py/content.py Serving._over": "500, or the status that the function has said",
    "modules/py/content.py Serving.flush": "200: closed",
    "modules/py/content.py TcpServing._discard": "200: closed",
    "modules/py/content.py TcpServing._finish": "200: closed",
    "modules/py/content.py TcpServing.on_timeout": "lingering, 200: closed",
    "modules/py/content.py UdpServing._leave": "200: closed",
    "modules/py/filters_results.py fail": "500: a function failed",
    "modules/py/filters_results.py goes_on": "the status that the function has said",
    "modules/return_.py Returning.write": "200: closed",
    "modules/return_.py handle": "200: closed",
    "modules/limit_datagram.py Gate.on_fault": "500 after a fault",
    "modules/ssl/handshake.py Handshake._end": "_complain() says it",
    "stream/addresses.py ListeningConf.begin": "500 after a fault",
    "stream/content.py Content.on_fault": "500 after a fault",
    "stream/phases.py _PutOff.on_fault": "500 after a fault",
    "stream/phases.py check_generic": "403, 503, or the handler says it",
    "stream/phases.py run_content": "500: no handler",
    "stream/preread.py Preread.on_fault": "500 after a fault",
    "stream/preread.py _advance": "the handler's status, or look() says it",
    "stream/proxy_protocol.py HeaderReader.on_fault": "500 after a fault",
    "stream/session.py Session.end": "it was said",
    "stream/phases.py resume": "500 after a fault",
}

def finalizers(path: Path) -> Iterator[str]:
    """Yield the functions of a module that call finalize()."""
    where = str(path.relative_to(PACKAGE))

    def walk(node: ast.AST, owners: tuple[str, ...]) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            inner = owners
            if isinstance(child, ast.ClassDef | ast.FunctionDef):
                inner = (*owners, child.name)
            elif isinstance(child, ast.Attribute) and child.attr == "finalize":
                yield f"{where} {'.'.join(owners)}"
            yield from walk(child, inner)

    yield from walk(ast.parse(path.read_text()), ())


def test_who_ends_a_session_says_why_or_is_known_to_need_no_word() -> None:
    """A new call of finalize() is either end(), or stands in the table with what tells why."""
    assert set(ORDINARY) == {one for path in PACKAGE.rglob("*.py") for one in finalizers(path)}


# -- the list --------------------------------------------------------------------------------------

KNOWN = {name: one for name, one in vars(endings).items() if isinstance(one, endings.Ending)}


def test_reasons_have_their_place_for_a_number() -> None:
    """Counters are kept by it; words are fit for a label."""
    assert list(range(len(endings.ALL))) == [reason.number for reason in endings.ALL]
    assert all(reason.word.replace("_", "").isalpha() for reason in endings.ALL)
    assert len(endings.ALL) == len({reason.word for reason in endings.ALL})


def test_every_reason_is_one_that_sessions_end_by() -> None:
    """And each is somebody's doing."""
    assert set(endings.ALL) == {one.reason for one in KNOWN.values()}
    whose = {endings.CLIENT, endings.UPSTREAM, endings.PROXY, endings.OPERATOR}
    assert whose == {one.who for one in KNOWN.values()}


@pytest.mark.parametrize(
    ("status", "expected"),
    [(200, endings.CLOSED), (400, endings.PROTOCOL_ERROR), (403, endings.DENIED),
     (408, endings.CLIENT_TIMEOUT), (413, endings.PROTOCOL_ERROR),
     (500, endings.INTERNAL), (502, endings.CONNECT_FAILED), (503, endings.LIMIT),
     (599, endings.INTERNAL)],
)
def test_a_status_tells_where_nothing_was_said(status: int, expected: endings.Ending) -> None:
    """With a content of the usual kind and without one."""
    for one in (content.Content(), None):
        assert expected == endings.of(SimpleNamespace(status=status, content=one))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "client", "upstream"),
    [(errno.ECONNRESET, "client_rst", "upstream_rst"), (errno.EPIPE, "client_rst", "upstream_rst"),
     (errno.EPROTO, "client_error", "upstream_error"),
     (errno.ETIMEDOUT, "client_error", "upstream_error")],
)
def test_a_reset_is_told_from_other_failures(code: int, client: str, upstream: str) -> None:
    """By the errno."""
    error = OSError(code, "")
    assert client == endings.of_client(error).reason.word
    assert upstream == endings.of_upstream(error).reason.word


def test_what_is_scarce_is_told_from_what_is_wrong() -> None:
    """By the errno, and a kernel that gives up connecting has waited long enough."""
    assert endings.EXHAUSTED == endings.of_resources(errno.EMFILE)
    assert endings.INTERNAL == endings.of_resources(errno.EACCES)
    assert endings.CONNECT_TIMEOUT == endings.of_connect(errno.ETIMEDOUT)
    assert endings.CONNECT_FAILED == endings.of_connect(errno.ECONNREFUSED)


# -- the running program ---------------------------------------------------------------------------


class Stage:
    """What provocations need: addresses, clients that are kept until the end."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path) -> None:
        self._stack = stack
        self.program: Any = None
        authority = certs.Authority(folder / "ca")
        self.pair = authority.issue("a.test")
        self.backends = b.BackendFactory()
        stack.callback(self.backends.finish)
        full = stack.enter_context(socket.socket())  # its backlog takes nobody any more
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        self.names = {
            "full": b.address_text(full.getsockname()),
            "refusing": b.address_text(stack.enter_context(b.refusing_tcp())),
            "udp_refusing": b.address_text(b.refusing_udp()),
            "echo": self.backends.tcp(b.echo).text,
            "greet": self.backends.tcp(b.greet(b"bye")).text,
            "reset": self.backends.tcp(lambda one: (one.recv(), one.reset())).text,
            "half": self.backends.tcp(lambda one: one.recv_to_eof()).text,
            "tls_garbage": self.backends.tcp(self._tls_garbage).text,
            "udp_echo": self.backends.udp().text,
            "udp_silent": self.backends.udp(b.udp_silent).text,
            "ca": str(authority.cert),
        }

    def _tls_garbage(self, one: b.Conversation) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pair.cert, self.pair.key)
        with contextlib.suppress(OSError):
            shaken = context.wrap_socket(one.sock, server_side=True)
            shaken.recv(1)
            raw = socket.socket(fileno=shaken.detach())
            raw.sendall(b"no record at all" * 9)
            raw.recv(1)
            raw.close()

    def tcp(self, name: str) -> TcpClient:
        return self._stack.enter_context(TcpClient(self.program.address(name)))

    def udp(self, name: str) -> UdpClient:
        return self._stack.enter_context(UdpClient(self.program.address(name)))

    def tls(self, name: str) -> ssl.SSLSocket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return self._stack.enter_context(context.wrap_socket(self.tcp(name).sock))


def connects(stage: Stage, name: str) -> None:
    """Connect, and wait for what comes of it."""
    stage.tcp(name)


def sends(data: bytes) -> Callable[[Stage, str], None]:
    """Make a provocation: connect and send."""
    return lambda stage, name: stage.tcp(name).send(data)


def asks(stage: Stage, name: str) -> None:
    """Send a datagram."""
    stage.udp(name).send(b"x")


def exchanges(then: Callable[[TcpClient], object]) -> Callable[[Stage, str], None]:
    """Make a provocation: be answered, then do something."""

    def provoke(stage: Stage, name: str) -> None:
        client = stage.tcp(name)
        client.exchange(b"x")
        then(client)

    return provoke


def closes_tls(stage: Stage, name: str) -> None:
    """Be answered under TLS, and leave by close_notify."""
    client = stage.tls(name)
    client.sendall(b"x")
    client.recv(1)
    with contextlib.suppress(OSError):
        client.unwrap()
    client.close()


def breaks_tls(stage: Stage, name: str) -> None:
    """Be answered under TLS, then send what is no record."""
    client = stage.tls(name)
    client.sendall(b"x")
    client.recv(1)
    raw = stage._stack.enter_context(socket.socket(fileno=client.detach()))
    raw.sendall(b"no record at all" * 9)


def starts_tls(stage: Stage, name: str) -> None:
    """Shake hands and send; it may be refused at any point."""
    with contextlib.suppress(OSError):
        stage.tls(name).sendall(b"x")


def comes_twice(stage: Stage, name: str) -> None:
    """Have one session that stays while another one comes."""
    stage.tcp(name).exchange(b"x")
    stage.tcp(name).recv_to_eof()


class Case(NamedTuple):
    """One way to end. Args: listen: what follows the address; expected: reason, by, status"""

    expected: str
    server: str
    provoke: Callable[[Stage, str], None] = connects
    listen: str = ""


TLS = "ssl_certificate {cert}; ssl_certificate_key {key};"
PREREAD = "ssl_preread on; proxy_pass {echo};"
CASES = {
    "client_closes": Case("closed client 200", "proxy_pass {echo};", exchanges(TcpClient.close)),
    "upstream_closes": Case("closed upstream 200", "proxy_pass {greet};"),
    "half_closed": Case("closed upstream 200", "proxy_half_close on; proxy_pass {half};",
                        lambda stage, name: stage.tcp(name).half_close()),
    "is_returned": Case("closed proxy 200", "return hello;"),
    "returns_nothing": Case("closed proxy 200", 'return "";'),
    "client_resets": Case("client_rst client 200", "proxy_pass {echo};",
                          exchanges(TcpClient.reset)),
    "upstream_resets": Case("upstream_rst upstream 200", "proxy_pass {reset};", sends(b"x")),
    "refused": Case("connect_failed upstream 502", "proxy_pass {refusing};"),
    "connects_too_long": Case("connect_timeout upstream 502",
                              "proxy_connect_timeout 50ms; proxy_pass {full};"),
    "all_down": Case("no_live_upstreams upstream 502", "proxy_pass down;"),
    "no_port": Case("bad_target proxy 500", "set $to 127.0.0.1; proxy_pass $to;"),
    "no_url": Case("bad_target proxy 500", "set $to 127.0.0.1:x; proxy_pass $to;"),
    "passes_to_nobody": Case("bad_target proxy 200", "pass 127.0.0.1:1;"),
    "passes_nowhere": Case("bad_target proxy 500", "set $to x; pass $to;"),
    "no_resolver": Case("resolve_failed proxy 500", "set $to a.test:1; proxy_pass $to;"),
    "slow_header": Case("client_timeout client 200", "proxy_protocol_timeout 50ms; return x;",
                        listen="proxy_protocol"),
    "no_header": Case("protocol_error client 400", "return x;", sends(b"GET / HTTP/1.0\r\n\r\n"),
                      listen="proxy_protocol"),
    "says_nothing": Case("preread_timeout client 200", "preread_timeout 50ms; " + PREREAD),
    "says_too_much": Case("preread_full client 400", "preread_buffer_size 32; " + PREREAD,
                          sends(hellos.client_hello("a.test")[:64])),
    "leaves_early": Case("closed client 200", PREREAD,
                         lambda stage, name: stage.tcp(name).half_close()),
    "resets_early": Case("client_rst client 200", PREREAD,
                         lambda stage, name: stage.tcp(name).reset()),
    "idles": Case("idle proxy 200", "proxy_timeout 50ms; proxy_pass {echo};"),
    "is_denied": Case("denied proxy 403", "deny all; return x;"),
    "is_too_many": Case("limit proxy 503", "limit_conn ports 1; proxy_pass {echo};", comes_twice),
    "no_handler": Case("internal proxy 500", ""),
    "udp_is_answered": Case("responses_complete proxy 200",
                            "proxy_responses 1; proxy_pass {udp_echo};", asks, "udp"),
    "udp_asks_nothing": Case("responses_complete proxy 200",
                             "proxy_requests 1; proxy_responses 0; proxy_pass {udp_silent};",
                             asks, "udp"),
    "udp_idles": Case("idle proxy 200", "proxy_timeout 50ms; proxy_pass {udp_echo};", asks, "udp"),
    "udp_idles_before_all": Case(
        "idle proxy 200", "proxy_requests 2; proxy_responses 1; proxy_timeout 50ms; "
        "proxy_pass {udp_echo};", asks, "udp"),
    "udp_waits": Case("upstream_timeout upstream 502",
                      "proxy_responses 1; proxy_timeout 50ms; proxy_pass {udp_silent};", asks,
                      "udp"),
    "udp_is_refused": Case("connect_failed upstream 502", "proxy_pass {udp_refusing};", asks,
                           "udp"),
    "udp_is_denied": Case("denied proxy 403", "deny all; proxy_pass {udp_echo};", asks, "udp"),
    "udp_is_returned": Case("closed proxy 200", "return x;", asks, "udp"),
    "tls_closes": Case("closed client 200", TLS + "proxy_pass {echo};", closes_tls, "ssl"),
    "tls_breaks": Case("client_error client 200", TLS + "proxy_pass {echo};", breaks_tls, "ssl"),
    "tls_is_none": Case("tls_handshake_failed client 500", TLS + "return x;", sends(b"x" * 99),
                        "ssl"),
    "tls_is_slow": Case("client_timeout client 500", TLS + "ssl_handshake_timeout 50ms; return x;",
                        listen="ssl"),
    "tls_shows_nothing": Case(
        "denied proxy 500",
        TLS + "ssl_verify_client on; ssl_client_certificate {ca}; return x;", starts_tls, "ssl"),
    "tls_is_returned": Case("closed proxy 200", TLS + "return x;", starts_tls, "ssl"),
    "upstream_tls_is_none": Case("tls_handshake_failed upstream 502",
                                 "proxy_ssl on; proxy_pass {echo};"),
    "upstream_tls_breaks": Case("upstream_error upstream 200",
                                "proxy_ssl on; proxy_pass {tls_garbage};", sends(b"x")),
    "is_closed_by_script": Case("script proxy 200", "py_preread ends.early; return x;",
                                sends(b"x")),
    "told_to_leave": Case("shutdown operator 200", "proxy_pass {echo};",
                          exchanges(lambda client: None)),
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, set[str]]]:
    """Provoke everything at one program; give what its access log says, by case."""
    folder = tmp_path_factory.mktemp("ended")
    with contextlib.ExitStack() as stack:
        stage = Stage(stack, folder)
        filled = {"cert": stage.pair.cert, "key": stage.pair.key, **stage.names}
        servers = [
            f"server {{ listen 127.0.0.1:@{name}@ {case.listen}; server_name {name}; "
            f"{case.server.format(**filled)} }}"
            for name, case in CASES.items()
        ]
        factory = ProxyFactory(Program, folder)
        (folder / "ends.py").write_text("def early(s):\n    s.close('enough')\n")
        stage.program = program = factory(
            "worker_shutdown_timeout 50ms; events {} stream { log_format e '$server_name "
            "$session_end_reason $session_ended_by $status'; access_log logs/access.log e; "
            f"py_import ends from {folder}/ends.py; limit_conn_zone $server_port zone=ports:64k; "
            f"upstream down {{ server {stage.names['echo']} down; }} {' '.join(servers)} }}"
        )
        for name, case in CASES.items():
            case.provoke(stage, name)

        def found() -> dict[str, set[str]]:
            lines: dict[str, set[str]] = {}
            for line in program.access_log():
                name, _, said = line.partition(" ")
                lines.setdefault(name, set()).add(said)
            return lines

        wait_until(lambda: len(found()) == len(CASES) - 1, what=f"all but one of {set(CASES)}")
        before = found()
        program.signal(3)  # QUIT
        wait_until(lambda: "told_to_leave" in found(), what="the last one ends")
        yield {**found(), **before}
        factory.finish()


@pytest.mark.parametrize("name", CASES)
def test_the_access_log_tells_why_a_session_ended(name: str, ended: dict[str, set[str]]) -> None:
    """The reason, whose doing it was, and the status, over TCP, UDP and TLS."""
    assert {CASES[name].expected} == ended[name]


# -- what needs a worker of its own ----------------------------------------------------------------


def test_a_session_that_gives_way_says_so() -> None:
    """The one that idled when the slots were gone; its words stand in the log of its server."""
    listen = f"127.0.0.1:{ports.free_udp_port()} udp"
    text = f"stream {{ server {{ listen {listen}; proxy_pass %s; }} }}"
    with (
        b.UdpBackend(b.udp_silent) as backend,
        UdpInProcess(text % backend.text) as served,
        UdpClient(served.address()) as client,
    ):
        client.send(b"x")
        wait_until(lambda: (served.loop.turn(wait_ms=1), served.loop.sessions)[1])
        (s,) = served.loop.sessions
        s.content.give_way()
    assert endings.EVICTED == endings.of(s)


def test_a_session_without_a_slot_says_so() -> None:
    """A TCP session that has no second one."""
    text = "stream { server { listen 127.0.0.1:@a@; proxy_pass 127.0.0.1:9; } }"
    with InProcess(text) as served:
        served.loop.free_connections = 1
        served.read(served.connect())
        (s,) = served.sessions
    assert endings.EXHAUSTED == endings.of(s)


def test_before_its_end_a_session_has_no_reason() -> None:
    """Both variables are empty then."""
    text = "return '<$session_end_reason$session_ended_by>';"
    with InProcess(f"stream {{ server {{ listen 127.0.0.1:@a@; {text} }} }}") as served:
        assert b"<>" == served.read(served.connect())
