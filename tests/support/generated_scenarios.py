"""Running scenarios made by chance: servers, backends and what clients do; one for each seed.

``make(seed)`` is always the same for a seed. What comes of a scenario does not depend on how fast
anything is: a client waits for an answer, or for a line of the log, before the next step is taken.

In the configuration stand for what is known at run time only: ``%N`` the scenario's number, ``%B0``
a backend's address, ``%T`` a time that is over soon, ``%C`` the folder of the certificates.
"""

import itertools
import random
from dataclasses import dataclass
from typing import Final

from tests.support import hellos

SOURCES: Final = ("127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.3")
TCP_KINDS: Final = {  # what tests.support.scenario_runs makes of them -> how often
    "echo": 10, "closer": 1, "last": 1, "resetter": 1, "refusing": 3, "deaf": 0.4, "held": 1.5,
    "big": 1.5, "eof": 1,
}  # fmt: skip
UDP_ANSWERS: Final = {"mute": 0, "echo": 1, "twice": 2}
LOGGED: Final = (
    "$remote_addr", "$protocol", "$r_%N", "$bytes_sent", "$session_time",
    "$upstream_addr", "$upstream_bytes_sent", "$upstream_bytes_received", "$upstream_connect_time",
    "$upstream_first_byte_time", "$upstream_session_time", "$server_addr", "$server_port",
    "$proxy_protocol_addr", "$proxy_protocol_port", "$proxy_protocol_server_addr",
    "$proxy_protocol_server_port", "$realip_remote_addr", "$ssl_preread_server_name",
    "$ssl_preread_protocol", "$ssl_preread_alpn_protocols", "$ssl_protocol", "$ssl_cipher",
    "$ssl_server_name", "$ssl_session_reused", "$limit_conn_status", "$m_%N", "$p_%N", "$g_%N",
)  # fmt: skip
UNCOUNTED: Final = ("$r_%N",)  # before 1.25.5 without what ssl_preread has looked at
V2: Final = b"\r\n\r\n\0\r\nQUIT\n"
HEADERS: Final = {
    "v1": b"PROXY TCP4 10.1.2.3 192.0.2.9 4711 80\r\n",
    "v1-six": b"PROXY TCP6 2001:db8::1 2001:db8::2 4711 80\r\n",
    "unknown": b"PROXY UNKNOWN\r\n",
    "v2": V2 + b"\x21\x11\0\x0c" + bytes((10, 1, 2, 4, 192, 0, 2, 9)) + b"\x12\x67\0\x50",
    "v2-local": V2 + b"\x20\0\0\0",
    "v2-tlv": V2 + b"\x21\x11\0\x13" + bytes((10, 1, 2, 5, 192, 0, 2, 9)) + b"\x12\x67\0\x50"
    + b"\x04\0\4abcd",
    "broken": b"PROXY TCP4 10.1.2.3 192.0.2.9 99999999 80\r\n",
    "none": b"",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Server:
    """What a client has to know of a server block."""

    proto: str
    is_tls: bool = False
    speaks: str = "client"  # who begins: "client", "server" (banner), "return"
    responses: int = -1  # of proxy_responses
    is_mute: bool = False  # a backend may leave a client without an answer
    is_preread: bool = False
    host: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Client:
    """Whom a client talks to, from where, and what it sends first."""

    server: int
    source: str
    lead: tuple[bytes, ...] = ()
    is_whole: bool = True  # the lead is all that a server needs before it takes a backend
    tls: str = ""  # highest version of TLS, "plain" for none where there should be


@dataclass(frozen=True, slots=True)
class Step:
    """What a client does next; sizes are those of the pieces it sends."""

    client: int
    verb: str
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Scenario:
    """The whole."""

    seed: int
    conf: str
    backends: tuple[tuple[str, str], ...]  # protocol, kind
    servers: tuple[Server, ...]
    clients: tuple[Client, ...]
    steps: tuple[Step, ...]


class Maker:
    """One scenario being made."""

    def __init__(self, seed: int) -> None:
        """Begin. Args: seed: tells one scenario from another."""
        self.seed = seed
        self.dice = random.Random(f"scenario {seed}")
        self.top: list[str] = []
        self.blocks: list[str] = []
        self.backends: list[tuple[str, str]] = []
        self.servers: list[Server] = []
        self.clients: list[Client] = []
        self.steps: list[Step] = []
        self.host = ""  # of the server being made, as a configuration has it

    def chance(self, share: float) -> bool:
        """Say yes to a share of all calls."""
        return self.dice.random() < share

    def maybe(self, share: float, *texts: str) -> str:
        """Return one of the texts, or none of them."""
        return self.dice.choice(texts) + " " if self.chance(share) else ""

    def make(self) -> Scenario:
        """Make all of it."""
        self.top += [
            "map $remote_addr $m_%N { default other; 127.0.0.2 two; ~^10\\.(\\d+) ten-$1; }",
            'split_clients "$remote_addr" $p_%N { 30% few; 33.4% some; * many; }',
            # nobody knows how much of a client has come when a server refuses
            "map $status $r_%N { 502 -; default $bytes_received; }",
            "geo $g_%N { default far; 127.0.0.0/8 here; 127.0.0.3 near; }",
            "limit_conn_zone $remote_addr zone=z_%N:64k;",
        ]  # fmt: skip
        chosen = self.dice.sample(LOGGED, 10)
        escape = self.dice.choice(("", "escape=json ", "escape=none "))
        self.top.append(f"log_format f_%N {escape}'$status {' '.join(chosen)}';")
        chosen = [name for name in chosen if name not in UNCOUNTED]
        self.top.append(f"log_format r_%N {escape}'$status {' '.join(chosen)}';")
        for index in range(self.dice.choice((1, 1, 2, 3))):
            self.host = self.dice.choice(("[::1]", *["127.0.0.1"] * 6))
            (self.udp if self.chance(0.3) else self.tcp)(index)
        self.dice.shuffle(self.blocks)
        return Scenario(
            self.seed, "\n".join(self.top + self.blocks), tuple(self.backends),
            tuple(self.servers), tuple(self.clients), tuple(self.steps),
        )  # fmt: skip

    # Parts of a configuration.

    def upstream(self, name: str, proto: str, kinds: list[str]) -> None:
        """Write an upstream block, with a backend for each kind."""
        rows = []
        hashed = self.maybe(
            0.3, "least_conn;", "hash $remote_addr;", "hash $m_%N consistent;", "hash $g_%N;",
        )  # fmt: skip
        for place, kind in enumerate(kinds):
            parameters = self.maybe(0.3, "weight=2", "weight=3")
            parameters += self.maybe(0.2, "max_fails=0", "max_fails=2", "fail_timeout=1m")
            parameters += self.maybe(0.1, "max_conns=1")
            if place and not hashed.startswith("hash"):
                parameters += self.maybe(0.15, "backup")
            elif place:
                parameters += self.maybe(0.1, "down")
            rows.append(f"server %B{len(self.backends)} {parameters};")
            self.backends.append((proto, kind))
        zone = self.maybe(0.3, f"zone {name} 64k;")
        self.top.append(f"upstream {name} {{ {zone}{hashed}{' '.join(rows)} }}")

    def access(self, mode: str = "") -> str:
        """Write rules of access, and limits but for TLS: docs/divergences.md says what differs."""
        limits = 0 if "tls" in mode else 0.2
        return self.maybe(
            0.25, "deny 127.0.0.2;", "allow 127.0.0.1; deny all;", "allow 127.0.0.0/8; deny all;",
            "deny 10.0.0.0/8; allow all;", "deny all;",
        ) + self.maybe(
            limits, "limit_conn z_%N 1;", "limit_conn z_%N 1; limit_conn_log_level warn;",
            "limit_conn z_%N 1; limit_conn_dry_run on;", "limit_conn z_%N 2;",
        ) + self.maybe(0.1, "set $s_%N \"x$remote_addr\";")  # fmt: skip

    def block(self, index: int, listen: str, body: str) -> None:
        """Write a server block."""
        log = "r_%N" if "ssl_preread on" in body else "f_%N"
        self.blocks.append(
            f"server {{ listen {self.host}:@s%N_{index}@ {listen}; error_log logs/e%N.log info; "
            f"access_log logs/a%N_{index}.log {log}; {body} }}"
        )

    def source(self) -> str:
        """Return an address for a client of the server being made."""
        return "::1" if self.host == "[::1]" else self.dice.choice(SOURCES)

    def proxied(self, index: int, proto: str, kinds: list[list[str]]) -> str:
        """Write upstreams, one for each list of kinds, and proxy_pass."""
        names = [f"u_%N_{index}_{number}" for number in range(len(kinds))]
        for name, its in zip(names, kinds, strict=True):
            self.upstream(name, proto, its)
        if len(names) == 1 and len(kinds[0]) == 1 and self.chance(0.3):
            self.top.pop()
            return f"proxy_pass %B{len(self.backends) - 1}; "
        if len(names) == 1:
            return f"proxy_pass {names[0]}; "
        source = self.dice.choice(("$ssl_preread_server_name", "$remote_addr", "$p_%N"))
        keys = {"$ssl_preread_server_name": "b.test", "$remote_addr": "127.0.0.2", "$p_%N": "few"}
        self.top.append(
            f"map {source} $t_%N_{index} {{ default {names[0]}; {keys[source]} {names[1]}; }}"
        )
        return f"proxy_pass $t_%N_{index}; "

    # A server and its clients.

    def tcp(self, index: int) -> None:
        """Make a TCP server."""
        d = self.dice
        before = len(self.backends)
        mode = d.choice(("", "", "", "header", "tls", "preread", "preread", "header tls"))
        is_short = self.chance(0.25)
        listen = ("proxy_protocol " if "header" in mode else "") + ("ssl " if "tls" in mode else "")
        listen += self.maybe(0.1, "backlog=64", "so_keepalive=on", "reuseport")
        body = self.access(mode)
        if "header" in mode:
            body += self.maybe(0.6, "set_real_ip_from 127.0.0.1;", "set_real_ip_from 127.0.0.0/8;")
        if "tls" in mode:
            body += "ssl_certificate %C/a.test.crt; ssl_certificate_key %C/a.test.key; "
            protocols = d.choice(("TLSv1.2", "TLSv1.3", "TLSv1.2 TLSv1.3", "TLSv1.2 TLSv1.3"))
            body += f"ssl_protocols {protocols}; "
        if mode == "preread":
            body += "ssl_preread on; preread_timeout %T; " + self.maybe(
                0.2, "preread_buffer_size 64;", "preread_buffer_size 200;"
            )
        speaks = "client"
        if self.chance(0.12):
            body += f"return '{d.choice(('hello', '$remote_addr $m_%N', '$status,$p_%N'))}'; "
            speaks = "return"
        else:
            if self.chance(0.2) and mode != "preread":
                speaks = "server"
            body += self.content(index, speaks, is_short=is_short)
        is_mute = any(kind.endswith("mute") for _, kind in self.backends[before:])
        self.servers.append(
            Server(
                "tcp", "tls" in mode, speaks, is_mute=is_mute, is_preread=mode == "preread",
                host=self.host.strip("[]"),
            )
        )
        self.block(index, listen, body)
        self.tcp_clients(index, mode, speaks, is_short=is_short)

    def content(self, index: int, speaks: str, *, is_short: bool) -> str:
        """Write what makes a TCP server a proxy."""
        d = self.dice
        weights = dict(TCP_KINDS)
        if speaks == "server":
            weights |= {"last": 0, "resetter": 0, "held": 0}
        if is_short and self.chance(0.4):
            weights = {"mute": 3, "refusing": 1}
        is_tls = speaks == "client" and self.chance(0.12)
        if is_tls:
            weights = {"tls": 5, "refusing": 1}

        def kinds() -> list[str]:
            count = d.choice((1, 1, 2, 2, 3))
            return [
                ("banner " if speaks == "server" else "") + kind
                for kind in d.choices(list(weights), list(weights.values()), k=count)
            ]

        body = self.proxied(index, "tcp", [kinds() for _ in range(2 if self.chance(0.25) else 1)])
        body += f"proxy_timeout {'%T' if is_short else '10m'}; proxy_connect_timeout %T; "
        if is_tls:
            body += f"proxy_ssl on; proxy_ssl_name {d.choice(('a.test', 'b.test', '$m_%N'))}; "
            body += "proxy_ssl_protocols TLSv1.2 TLSv1.3; "
            body += self.maybe(0.5, "proxy_ssl_server_name on;")
            body += self.maybe(
                0.4, "proxy_ssl_verify on; proxy_ssl_trusted_certificate %C/ca.pem;"
            )
        body += self.maybe(0.3, "proxy_next_upstream off;", "proxy_next_upstream_tries 2;")
        body += self.maybe(0.2, "proxy_protocol on;")
        body += self.maybe(0.2, "proxy_half_close on;")
        body += self.maybe(0.2, "proxy_buffer_size 1k;", "proxy_buffer_size 32k;")
        body += self.maybe(0.1, "proxy_bind 127.0.0.9;", "proxy_bind $remote_addr;")
        if self.host == "[::1]":  # its backends are reached over IPv4
            body = body.replace("proxy_bind $remote_addr;", "proxy_bind 127.0.0.9;")
        return body + self.maybe(0.1, "proxy_socket_keepalive on;", "proxy_upload_rate 100m;")

    def tcp_clients(self, index: int, mode: str, speaks: str, *, is_short: bool) -> None:
        """Make the clients of a TCP server, one after the other or some at once."""
        d = self.dice
        first = len(self.clients)
        count = d.choice((1, 2, 2, 3, 4))
        for _ in range(count):
            lead: tuple[bytes, ...] = ()
            is_whole, tls = True, ""
            if "header" in mode:
                kind = d.choice(("v1", "v1", "v2", "v2", *HEADERS))
                is_whole = kind != "none"
                lead = (HEADERS[kind],) if is_whole else ()
            if "tls" in mode:
                tls = d.choice(("TLSv1_2", "TLSv1_3", "TLSv1_3", "TLSv1_3", "plain"))
                is_whole = False
            if mode == "preread":
                lead, is_whole = self.preread_lead()
            self.clients.append(Client(index, self.source(), lead, is_whole, tls))
        plans = [self.plan(first + n, is_short=is_short) for n in range(count)]
        if is_short or self.chance(0.6):
            self.steps += [step for plan in plans for step in plan]
            return
        while any(plans):  # at once
            self.steps.append(d.choice([plan for plan in plans if plan]).pop(0))

    def preread_lead(self) -> tuple[tuple[bytes, ...], bool]:
        """Make what a client of ssl_preread sends first, and tell whether that is enough."""
        d = self.dice
        name = d.choice((b"a.test", b"b.test", b"b.test", b"c.test", b"B.TEST"))
        hello = hellos.made_hello(name)
        kind = d.choice(("whole", "whole", "whole", "cut", "half", "text", "none"))
        if kind == "whole":
            return (hello,), True
        if kind == "cut":
            at = d.randrange(1, len(hello))
            return (hello[:at], hello[at:]), True
        if kind == "half":
            return (hello[: d.randrange(1, len(hello))],), False
        return ((b"GET / HTTP/1.0\r\n",), True) if kind == "text" else ((), False)

    def plan(self, client: int, *, is_short: bool) -> list[Step]:
        """Make what one client does from its first step to its last."""
        d = self.dice
        its = self.clients[client]
        server = self.servers[its.server]
        steps = [Step(client, "open")]
        verbs = ["close", "close", "half"]
        # whether what was sent before a reset arrives is a matter of luck unless it was answered
        verbs += [] if server.is_mute else ["reset"]
        if server.is_preread and its.lead and not its.is_whole:
            verbs += ["wait"]  # half a hello: what follows would be the rest of it
        elif server.speaks != "return":
            for _ in range(d.choice((0, 1, 1, 2, 3))):
                # a TLS server makes nothing of fewer bytes than a record's header has
                size = d.choice((10 if its.tls == "plain" else 1, 10, 100, 1000, 5000, 100_000))
                cuts = sorted(d.randrange(size + 1) for _ in range(d.choice((0, 0, 1, 3))))
                edges = [0, *cuts, size]
                sizes = [b - a for a, b in itertools.pairwise(edges)]
                steps.append(Step(client, "say", tuple(sizes)))
        # without a word the time for a header or a handshake would be waited for
        if is_short and (len(steps) > 1 or its.is_whole or its.tls not in ("", "plain")):
            verbs += ["wait"] * 3
        return [*steps, Step(client, d.choice(verbs))]

    def udp(self, index: int) -> None:
        """Make a UDP server."""
        d = self.dice
        body = self.access()
        responses, answers = -1, 0
        speaks = "client"
        if self.chance(0.15):
            body += "return '$remote_addr $m_%N'; "
            speaks = "return"
        else:
            responses = d.choice((-1, -1, 0, 1, 1, 2))
            most = 2 if responses < 1 else responses
            kinds = [kind for kind, count in UDP_ANSWERS.items() if count <= most]
            weights = [5 if kind == "echo" else 2 for kind in kinds]
            chosen = d.choices(kinds, weights, k=d.choice((1, 1, 2, 3)))
            answers = max(UDP_ANSWERS[kind] for kind in chosen)
            body += self.proxied(index, "udp", [chosen])
            if "least_conn" in self.top[-1] or "max_conns" in self.top[-1]:
                answers = 0  # how many sessions there are when a datagram comes: a matter of luck
            body += f"proxy_responses {responses}; " if responses >= 0 else ""
            body += "proxy_timeout %T; " + self.maybe(0.2, "proxy_protocol on;")
            body += self.maybe(0.1, "proxy_bind 127.0.0.9;")
        requests = d.choice((0, 0, 1, 2)) if speaks == "client" else 0
        body += f"proxy_requests {requests}; " if requests else ""
        host = self.host.strip("[]")
        self.servers.append(Server("udp", speaks=speaks, responses=responses, host=host))
        self.block(index, "udp " + self.maybe(0.2, "reuseport", "rcvbuf=512k"), body)
        # where a session may end between two datagrams, each is answered before the next is sent
        most = 3 if speaks == "client" and (responses == -1 or requests == 1) and answers else 1
        first = len(self.clients)
        for _ in range(d.choice((1, 2, 3))):
            self.clients.append(Client(index, self.source()))
        for _ in range(d.choice((1, 2, 3, 5))):
            sizes = tuple(d.choice((0, 1, 50, 512, 1400)) for _ in range(d.randint(1, most)))
            self.steps.append(Step(d.randrange(first, len(self.clients)), "ask", sizes))


def make(seed: int) -> Scenario:
    """Make the scenario of a seed."""
    return Maker(seed).make()
