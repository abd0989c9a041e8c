"""Runs scenarios on both programs and tells what clients, backends and logs saw, to be compared.

Many scenarios are served by one configuration, each by server blocks, upstreams and logs of its
own, and several are under way at once; within a scenario one thing is done after the other.
"""

import contextlib
import re
import socket
import ssl
import string
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from tests.support import backends as b
from tests.support import generated_scenarios as generated
from tests.support import proxies
from tests.support.stories import levelled
from tests.support.waiting import PATIENCE, wait_until

HEAD: Final = "worker_processes 1; worker_rlimit_nofile 8192; events { worker_connections 4096; } "
AT_ONCE: Final = 8
END: Final = b"!\n"  # of what a client or a backend has to say
LAST: Final = b" this and no more" + END  # whose stream is about to end
BIG: Final = 150_000
SOON_MS: Final = 500
Account = dict[str, Any]
# What both programs have words for, and not the same: pattern, words to compare, why.
KNOWN: Final = (
    (
        re.compile(r"(broken header:).*"), r"\1",
        "nginx 1.22 quotes all that came, line ends too, and does not say whose it is",
    ),
    (
        re.compile(
            r"^((?:connect\(\) failed|upstream timed out|upstream server temporarily disabled"
            r"|upstream SSL certificate).*?)(?: while (?:proxying connection|connecting to upstream"
            r"|SSL handshaking to upstream))?,(.*from/to client:)\d+"
        ), r"\1,\2N",
        "a server's failure and the client's bytes come at once: either may be looked at first",
    ),
    (
        re.compile(r"(temporarily disabled, udp .* upstream:0/)\d+"), r"\1N",
        "of sessions whose time is over at once, any may be the one that a server fails for",
    ),
)  # fmt: skip
# Lines that are not compared, and why.
PASSED_OVER: Final = (
    (re.compile(r"SSL_read\(\) failed \(104:"), "docs/divergences.md: a reset of TLS is told of"),
    (
        re.compile(r"recv\(\) failed \(104: .* client:\w+/0, bytes from/to upstream:0/\d+$"),
        "a reset while a server is being connected to: seen when that is done",
    ),
    (
        re.compile(r"recv\(\) failed \(104: .* while prereading"),
        "since 1.25.5 the bytes before a reset are peeked at, which does not come to the reset",
    ),
    (re.compile(r"SSL_shutdown\(\) failed"), "depends on what has arrived meanwhile"),
)


def masked(data: bytes) -> bytes:
    """Return what a backend got, the ports in a PROXY protocol header and long runs left out."""
    data = re.sub(rb"(PROXY TCP[46] \S+ \S+) \d+ \d+\r\n", rb"\1 P P\r\n", data)
    return re.sub(rb"(.)\1{30,}", lambda m: b"<%s * %d>" % (m[1], len(m[0])), data)


class Backend:
    """A backend of a scenario, and what it got."""

    def __init__(self, proto: str, kind: str, name: str, prepared: "Prepared") -> None:
        """Serve; name is what it calls itself in its answers."""
        self.kind = kind
        self._name = name.encode()
        self._prepared = prepared
        self._stack = contextlib.ExitStack()
        self.tcp: b.TcpBackend | None = None
        self.udp: b.UdpBackend | None = None
        kind = kind.removeprefix("banner ")
        if proto == "udp":
            count = generated.UDP_ANSWERS[kind]
            self.udp = b.UdpBackend(
                lambda data, _: [b"%s %d %d" % (self._name, n, len(data)) for n in range(count)]
            )
            self._stack.enter_context(self.udp)
            self.address = self.udp.address
        elif kind == "refusing":
            self.address = self._stack.enter_context(b.refusing_tcp())
        elif kind == "deaf":
            deaf = self._stack.enter_context(b.TcpBackend(accepting=False, backlog=0))
            for _ in range(8):  # its queue is full: it never answers a SYN
                sock = self._stack.enter_context(socket.socket())
                sock.setblocking(False)
                sock.connect_ex(deaf.address)
            self.address = deaf.address
        else:
            self.tcp = self._stack.enter_context(b.TcpBackend(self._serve))
            self.address = self.tcp.address
        self.clear()

    def clear(self) -> None:
        """Forget what came."""
        self.done = 0  # TCP connections that are over
        if self.tcp:
            self.tcp.conversations.clear()
        if self.udp:
            self.udp.seen.clear()

    @property
    def seen(self) -> int:
        """How many connections or datagrams came."""
        return self.tcp.accepted if self.tcp else len(self.udp.seen) if self.udp else 0

    def account(self) -> Any:
        """Return what came, each datagram and each connection from its first byte to its last."""
        if self.udp:
            return sorted((masked(data), source[0]) for data, source in self.udp.seen)
        if self.tcp:
            return sorted((masked(bytes(c.received)), c.peer[0]) for c in self.tcp.conversations)
        return None

    def close(self) -> None:
        """Serve no more."""
        self._stack.close()

    # What kinds of TCP backends do.

    def _serve(self, c: b.Conversation) -> None:
        try:
            getattr(self, f"_{self.kind.removeprefix('banner ')}")(c)
        finally:
            self.done += 1

    def _line(self, c: b.Conversation) -> bytes:
        """Read what a client has to say; b"" at the end of the stream."""
        line = b""
        while not line.endswith(END):
            piece = c.recv()
            if not piece:
                return b""
            line += piece
        return line

    def _echo(self, c: b.Conversation, more: bytes = b"") -> None:
        if self.kind.startswith("banner"):
            c.send(self._name + b" ready" + END)
        number = 0
        while self._line(c):
            number += 1
            c.send(b"%s %d %s" % (self._name, number, more) + END)

    def _big(self, c: b.Conversation) -> None:
        self._echo(c, bytes(BIG))

    def _closer(self, c: b.Conversation) -> None:
        if self.kind.startswith("banner"):
            c.send(self._name + b" closes" + LAST)
            c.half_close()
            c.recv_to_eof()
        else:
            self._line(c)

    def _last(self, c: b.Conversation) -> None:
        self._line(c)
        c.send(self._name + b" says" + LAST)

    def _resetter(self, c: b.Conversation) -> None:
        self._line(c)
        c.reset()

    def _held(self, c: b.Conversation) -> None:
        while not (self._prepared.released.wait(0.05) or c.stopping.is_set()):
            pass
        self._echo(c)

    def _eof(self, c: b.Conversation) -> None:
        self._echo(c)
        if c.saw_eof:
            c.send(self._name + b" bye" + END)

    def _mute(self, c: b.Conversation) -> None:
        if self.kind.startswith("banner"):
            c.send(self._name + b" says no more" + END)
        c.recv_to_eof()

    def _tls(self, c: b.Conversation) -> None:
        names: list[str] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certs = self._prepared.certs
        context.load_cert_chain(certs / "a.test.crt", certs / "a.test.key")
        context.sni_callback = lambda _, name, __: names.append(name)
        got = b""
        c.sock.settimeout(PATIENCE)
        line = b""
        peek = c.sock.recv(1, socket.MSG_PEEK)
        if peek == b"P":  # a PROXY protocol header comes in front of TLS
            while not line.endswith(b"\n"):
                line += c.sock.recv(1)
        c.received += line
        with context.wrap_socket(c.sock, server_side=True) as tls:
            c.received += b"[%s]" % " ".join(map(str, names)).encode()
            while data := tls.recv(65536):
                c.received += data
                got += data
                if got.endswith(END):
                    tls.sendall(self._name + b" by TLS" + END)


@dataclass(slots=True)
class Talker:
    """A client that is under way."""

    sock: Any
    got: bytearray = field(default_factory=bytearray)
    is_over: bool = False
    is_broken: bool = False  # a send has failed

    def until_end(self, *, of_line: bool) -> bool:
        """Read to the end of a line, or of the stream; tell whether the stream goes on."""
        had = len(self.got)
        while not (of_line and len(self.got) > had and self.got.endswith(END)):
            try:
                data = self.sock.recv(65536)
            except (ssl.SSLEOFError, ConnectionError):
                data = b""
            if not data:
                self.is_over = True
                return False
            self.got += data
            of_line = of_line and not self.got.endswith(LAST)
        return True


class TlsSocket(ssl.SSLSocket):
    """A TLS client's socket that is closed if it finds itself reset before the handshake."""

    def getpeername(self) -> Any:
        """Return the server's address."""
        try:
            return super().getpeername()
        except OSError as error:
            self.close()
            raise ConnectionResetError from error


class Prepared:
    """One scenario: its backends, and its runs on either program."""

    def __init__(self, scenario: generated.Scenario, number: int, certs: Path) -> None:
        """Start the backends."""
        self.scenario = scenario
        self.number = number
        self.certs = certs
        self.released = threading.Event()
        self.backends = [
            Backend(proto, kind, f"B{place}", self)
            for place, (proto, kind) in enumerate(scenario.backends)
        ]

    def conf(self, soon_ms: int) -> str:
        """Return the configuration."""
        text = self.scenario.conf
        for place in reversed(range(len(self.backends))):
            text = text.replace(f"%B{place}", b.address_text(self.backends[place].address))
        text = text.replace("%N", str(self.number)).replace("%T", f"{soon_ms}ms")
        return text.replace("%C", str(self.certs))

    def run(self, program: proxies.Proxy) -> Account:
        """Do what the clients do, and return what was seen of it."""
        return ScenarioRun(self, program).account()

    def close(self) -> None:
        """Close the backends."""
        for backend in self.backends:
            backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ScenarioRun:
    """One run of a scenario on one program."""

    def __init__(self, prepared: Prepared, program: proxies.Proxy) -> None:
        """Run it."""
        self._prepared = prepared
        self._program = program
        self._scenario = prepared.scenario
        self._talkers: dict[int, Talker] = {}
        self._ended = [0] * len(prepared.scenario.servers)
        self.stuck = ""
        prepared.released.clear()
        for backend in prepared.backends:
            backend.clear()
        try:
            for step in self._scenario.steps:
                getattr(self, f"_{step.verb}")(step)
            for talker in self._talkers.values():
                talker.sock.close()
            wait_until(self._all_ended, PATIENCE, "every session has ended")
            wait_until(self._all_heard, PATIENCE, "backends have read to the end")
        except (AssertionError, TimeoutError) as error:
            self.stuck = f"{step}: {error!r}"
            for talker in self._talkers.values():
                talker.sock.close()

    def _log(self, server: int) -> list[str]:
        return self._program.lines(f"logs/a{self._prepared.number}_{server}.log")

    def _count(self, pattern: bytes, name: str) -> int:
        """Count what matches in a log, without taking it apart."""
        try:
            return len(re.findall(pattern, (self._program.prefix / "logs" / name).read_bytes()))
        except FileNotFoundError:
            return 0

    def _lines(self, server: int) -> int:
        return self._count(rb"\n", f"a{self._prepared.number}_{server}.log")

    def _records(self) -> Iterable[proxies.LogRecord]:
        return self._program.records(f"logs/e{self._prepared.number}.log")

    def _all_ended(self) -> bool:
        begun = self._count(rb"\bclient \S+ connected to .*\n", f"e{self._prepared.number}.log")
        return begun == sum(map(self._lines, range(len(self._scenario.servers))))

    def _all_heard(self) -> bool:
        """Tell whether each backend has accepted what was connected to it, and done with it."""
        name = f"e{self._prepared.number}.log"
        return all(
            backend.done == backend.seen
            and backend.done >= self._count(rb" connected to \S+:%d\n" % backend.address[1], name)
            for backend in self._prepared.backends
            if backend.tcp
        )

    def _seen(self) -> int:
        return sum(backend.seen for backend in self._prepared.backends)

    def _refused(self, server: int) -> int:
        """Count sessions of a server that came to no backend."""
        return self._count(rb"(?m)^(?!200 )\d+ .*\n", f"a{self._prepared.number}_{server}.log")

    def _address(self, server: int) -> tuple[str, int]:
        name = f"s{self._prepared.number}_{server}"
        return self._program.address(name, self._scenario.servers[server].host)

    # Steps of TCP clients.

    def _open(self, step: generated.Step) -> None:
        client = self._scenario.clients[step.client]
        server = self._scenario.servers[client.server]
        sock = socket.socket(b.family_of(client.source))
        self._talkers[step.client] = talker = Talker(sock)
        sock.settimeout(PATIENCE)
        sock.bind((client.source, 0))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        before = self._seen(), self._lines(client.server)
        sock.connect(self._address(client.server))
        with contextlib.suppress(ConnectionError):
            for piece in client.lead:
                sock.sendall(piece)
        if server.is_tls and client.tls != "plain":
            self._handshake(step.client, client)
        if talker.is_over:
            pass
        elif server.speaks == "return" and (client.is_whole or client.tls):
            if client.tls == "plain":
                return
            talker.until_end(of_line=False)
        elif server.speaks == "server" and (client.is_whole or client.tls not in ("", "plain")):
            talker.until_end(of_line=True)
        elif client.is_whole and not server.is_tls:
            wait_until(
                lambda: (self._seen(), self._lines(client.server)) != before,
                PATIENCE, "a backend or the log has seen the client",
            )  # fmt: skip
        self._settle(step.client)

    def _handshake(self, number: int, client: generated.Client) -> None:
        talker = self._talkers[number]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.sslsocket_class = TlsSocket
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion[client.tls]
        try:
            talker.sock = context.wrap_socket(talker.sock, server_hostname="a.test")
        except (ssl.SSLError, ConnectionError):
            talker.got += b"[no handshake]"
            talker.is_over = True
            self._logged(number)  # the socket is closed already

    def _say(self, step: generated.Step) -> None:
        talker = self._talkers[step.client]
        if talker.is_over:
            return
        text = string.ascii_letters[step.client].encode()
        sock = talker.sock
        try:
            if not talker.is_broken:  # a TLS library takes no other write after half a one
                for piece in step.sizes:
                    self._send(sock, text * piece)
                self._send(sock, END)
        except (ConnectionError, ssl.SSLEOFError):
            talker.is_broken = True
        self._prepared.released.set()
        server = self._scenario.clients[step.client].server
        if not self._scenario.servers[server].is_mute:
            talker.until_end(of_line=True)
        self._settle(step.client)

    def _send(self, sock: Any, data: bytes) -> None:
        """Send all; who is held reads as soon as the way to it is full."""
        view = memoryview(data)
        sock.settimeout(0.1)
        try:
            while view:
                try:
                    view = view[sock.send(view) :]
                except TimeoutError:
                    self._prepared.released.set()
        finally:
            sock.settimeout(PATIENCE)

    def _leave(self, number: int) -> Talker:
        """Return a client that is about to end; nobody waits for it any more."""
        self._prepared.released.set()
        return self._talkers[number]

    def _settle(self, number: int) -> None:
        """Close a client whose stream has ended, and wait for the line of its session."""
        talker = self._talkers[number]
        if not talker.is_over or talker.sock.fileno() < 0:
            return
        talker.sock.close()
        self._logged(number)

    def _logged(self, number: int) -> None:
        server = self._scenario.clients[number].server
        self._ended[server] += 1
        count = self._ended[server]
        wait_until(lambda: self._lines(server) >= count, PATIENCE, f"{count} sessions logged")

    def _close(self, step: generated.Step) -> None:
        talker = self._leave(step.client)
        if not talker.is_over:
            talker.sock.close()
            talker.is_over = True
            self._logged(step.client)

    def _reset(self, step: generated.Step) -> None:
        talker = self._leave(step.client)
        if not talker.is_over:
            talker.sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
            )
            self._close(step)

    def _half(self, step: generated.Step) -> None:
        talker = self._leave(step.client)
        if not talker.is_over:
            with contextlib.suppress(OSError):  # a TLS socket's own would go on without TLS
                socket.socket.shutdown(talker.sock, socket.SHUT_WR)
            self._wait(step)

    def _wait(self, step: generated.Step) -> None:
        talker = self._leave(step.client)
        if not talker.is_over:
            talker.until_end(of_line=False)
            self._settle(step.client)

    # Of UDP clients.

    def _ask(self, step: generated.Step) -> None:
        client = self._scenario.clients[step.client]
        server = self._scenario.servers[client.server]
        if step.client not in self._talkers:
            sock = socket.socket(b.family_of(client.source), socket.SOCK_DGRAM)
            self._talkers[step.client] = Talker(sock)
            sock.settimeout(PATIENCE)
            sock.bind((client.source, 0))
            sock.connect(self._address(client.server))
        talker = self._talkers[step.client]
        before = self._seen() + self._refused(client.server)
        asked = [len(backend.udp.seen) if backend.udp else 0 for backend in self._prepared.backends]
        refused = self._refused(client.server)
        logged = self._lines(client.server) + len(step.sizes)
        for size in step.sizes:
            talker.sock.send(string.ascii_letters[step.client].encode() * size)
        if server.speaks == "return":
            got = len(step.sizes)
            wait_until(lambda: self._lines(client.server) >= logged, PATIENCE, "it is logged")
            got -= self._refused(client.server) - refused
        else:
            wait_until(
                lambda: self._seen() + self._refused(client.server) >= before + len(step.sizes),
                PATIENCE, "backends have seen what was sent",
            )  # fmt: skip
            got = 0
            for backend, had in zip(self._prepared.backends, asked, strict=True):
                if backend.udp and server.responses:
                    more = len(backend.udp.seen) - had
                    got += more * generated.UDP_ANSWERS[backend.kind]
        answers = sorted(talker.sock.recv(65536) for _ in range(got))
        talker.got += repr(answers).encode()

    # What was seen.

    def account(self) -> Account:
        """Return what clients, backends and logs saw, ports and times levelled out."""
        scenario = self._scenario
        return {
            "stuck": self.stuck,
            "clients": {
                n: (masked(bytes(t.got)), t.is_over) for n, t in sorted(self._talkers.items())
            },
            "backends": [backend.account() for backend in self._prepared.backends],
            "access": [
                sorted(map(self._level, self._log(place))) for place in range(len(scenario.servers))
            ],
            "errors": sorted(self._errors()),
        }

    def _errors(self) -> Iterable[str]:
        """Give what was logged of sessions, without what is known to differ."""
        for record in self._records():
            text = self._level(record.message)
            if record.connection and not any(pattern.search(text) for pattern, _ in PASSED_OVER):
                if any(server.is_preread for server in self._scenario.servers):
                    text = re.sub(r"(?<=from/to client:)\d+", "N", text)  # see UNCOUNTED
                yield f"[{record.level}] {text}"

    def _level(self, text: str) -> str:
        for pattern, words, _ in KNOWN:
            text = pattern.sub(words, text)
        for place, backend in enumerate(self._prepared.backends):
            text = re.sub(rf"(?<=127\.0\.0\.1:){backend.address[1]}\b", f"B{place}", text)
        for place in range(len(self._scenario.servers)):
            text = re.sub(rf"\b{self._address(place)[1]}\b", f"S{place}", text)
        return re.sub(r"(?<![\d.])\d+\.\d{3}(?![\d.])", "T", levelled(text))


def run(
    seeds: Iterable[int], folder: Path, certs: Path, soon_ms: int = SOON_MS
) -> dict[int, dict[str, Account]]:
    """Run the scenarios of these seeds. Returns: by seed, what each program made of it."""
    with contextlib.ExitStack() as stack:
        all_prepared = [
            stack.enter_context(Prepared(generated.make(seed), number, certs))
            for number, seed in enumerate(seeds)
        ]
        servers = "\n".join(prepared.conf(soon_ms) for prepared in all_prepared)
        text = HEAD + "stream { " + servers + " }"
        programs = {
            name: stack.enter_context(program(text, folder))
            for name, program in proxies.PROGRAMS.items()
        }

        def run_one(prepared: Prepared) -> tuple[int, dict[str, Account]]:
            return prepared.scenario.seed, {
                name: prepared.run(program) for name, program in programs.items()
            }

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return dict(pool.map(run_one, all_prepared))
