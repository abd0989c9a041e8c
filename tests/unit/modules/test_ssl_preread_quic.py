"""ssl_preread in a udp server: what a QUIC client asks for, the server it selects, and bounds."""

import contextlib
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.event import eviction, turn_budget
from ngxstream.modules import ssl_preread
from ngxstream.stream import explaining, preread
from ngxstream.wire import client_hello, quic_hello
from tests.support import ports, quic
from tests.support.udp_in_process import UdpInProcess

SAY = '"$ssl_preread_protocol|$ssl_preread_server_name|$ssl_preread_alpn_protocols|$server_name"'
NOTHING = "|||"
CLIENT = quic.Client()
LONG = quic.hello("one.test", size=3200)  # of three datagrams


class Place:
    """Servers of one UDP address, turned by hand, and a client."""

    def __init__(self, stack: ExitStack, text: str = "", *, conf: str = "") -> None:
        port = ports.free_udp_port()
        text = text or (
            "server { listen 127.0.0.1:@p@ udp; return SAY; }"
            "server { listen 127.0.0.1:@p@ udp; server_name one.test; return SAY; }"
            "server { listen 127.0.0.1:@p@ udp; server_name *.two.test; return SAY; }"
        )
        text = f"stream {{ ssl_preread on; {conf} {text} }}"
        text = text.replace("@p@", str(port)).replace("SAY", SAY)
        self.served = stack.enter_context(UdpInProcess(text))
        self.loop = self.served.loop
        self.stack = stack
        self.client = self.new_client()

    def new_client(self) -> socket.socket:
        """Return a client's socket."""
        made = self.stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made.connect(self.served.address())
        made.setblocking(False)
        return made

    def send(self, *datagrams: bytes, client: socket.socket | None = None) -> None:
        """Send datagrams, each in a turn of its own."""
        for datagram in datagrams:
            (client or self.client).send(datagram)
            for _ in range(3):
                self.loop.turn(0)

    def said(self, client: socket.socket | None = None) -> list[str]:
        """Return what a client was answered."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append((client or self.client).recv(2000).decode())
        return found

    def waiting(self) -> list[Any]:
        """Return the sessions that wait for more."""
        return [s for s in self.loop.sessions if isinstance(s.content, preread.Further)]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Close everything at the end."""
    with ExitStack() as made:
        yield made


@pytest.mark.parametrize("version", [quic.V1, quic.V2])
@pytest.mark.parametrize(
    ("name", "server"), [("one.test", "one.test"), ("a.two.test", "*.two.test"), ("x", "")]
)
def test_the_name_selects_a_server(stack: ExitStack, version: int, name: str, server: str) -> None:
    """Of a client of either version, from its first datagram."""
    place = Place(stack)
    place.send(*quic.Client(version).datagrams(quic.hello(name, ("h3", "hq"))))
    assert [f"TLSv1.3|{name}|h3,hq|{server}"] == place.said()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (0, 0, 2, 1)])
def test_a_hello_of_three_datagrams_is_waited_for(stack: ExitStack, order: tuple[int, ...]) -> None:
    """The default buffer is enough; the server gets all of it, and nothing before it is whole."""
    backend = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    backend.bind(("127.0.0.1", 0))
    backend.setblocking(False)
    place = Place(
        stack, "map $ssl_preread_server_name $to { one.test 127.0.0.1:PORT; } server { listen "
        "127.0.0.1:@p@ udp; proxy_pass $to; }".replace("PORT", str(backend.getsockname()[1])),
    )
    made = CLIENT.datagrams(LONG)
    datagrams = [made[n] for n in order]
    place.send(*datagrams[:-1])
    assert 1 == len(place.waiting())
    with pytest.raises(BlockingIOError):
        backend.recv(2000)
    place.send(datagrams[-1])
    assert datagrams == [backend.recv(2000) for _ in datagrams]
    (s,) = place.loop.sessions
    assert (sum(map(len, datagrams)), []) == (s.c.received, place.served.alerts())


@pytest.mark.parametrize(
    "datagram",
    [
        b"", b"x", b"hello" * 100, bytes(1200), quic.opaque(quic.HANDSHAKE, 1000),
        bytes.fromhex("c0babababa") + bytes(1195),
        quic.long_header(quic.RETRY, quic.V1, b"d", b"s") + bytes(40),
        CLIENT.initial(b"\x08stream"), CLIENT.initial(b"\x1c\0\0\0"),
        CLIENT.initial(quic.crypto(0, b"\2\0\0\1x")), CLIENT.datagrams(quic.hello())[0][:-3],
        CLIENT.initial(quic.crypto(0, b"\1\0") + quic.crypto(0, b"\1\1")),
    ],
)
def test_what_is_no_hello_goes_on_at_once(stack: ExitStack, datagram: bytes) -> None:
    """The default server, variables not found, and no word in the log."""
    place = Place(stack)
    place.send(datagram)
    assert [NOTHING] == place.said()
    assert [] == place.served.target.lines


def test_a_server_that_does_not_preread_reads_nothing(stack: ExitStack) -> None:
    """`off` in the default server: the hello is its business alone."""
    place = Place(stack, "server { listen 127.0.0.1:@p@ udp; ssl_preread off; return SAY; }")
    place.send(*CLIENT.datagrams(quic.hello()))
    assert [NOTHING] == place.said()
    assert 1 == len(place.served.built.conf.listenings[0].default.engine)  # type: ignore[union-attr]


def test_0_rtt_packets_may_overtake_the_first_packet(stack: ExitStack) -> None:
    """They wait for it, in bounds, and go on with it."""
    place = Place(stack)
    early = quic.opaque(quic.ZERO_RTT, 900)
    place.send(early)
    assert 1 == len(place.waiting())
    place.send(*CLIENT.datagrams(quic.hello()))
    assert "TLSv1.3|one.test|h3|one.test" == place.said()[0]
    other = place.new_client()
    place.send(*[early] * quic_hello.MAX_EARLY, client=other)
    assert [NOTHING] == place.said(other)[:1]


def test_a_client_that_never_completes_is_let_go_on(stack: ExitStack) -> None:
    """After so many datagrams, to the default server; no error."""
    place = Place(stack)
    first = CLIENT.datagrams(LONG)[0]
    place.send(*[first] * (quic_hello.MAX_DATAGRAMS - 1))
    assert [] == place.said()
    place.send(first)
    assert [NOTHING] == place.said()[:1]
    assert [] == place.served.target.lines


def test_a_client_that_sends_no_more_is_given_up(stack: ExitStack) -> None:
    """After preread_timeout; what was read is told in the log phase."""
    place = Place(stack, conf="preread_timeout 2s;")
    seen: list[bytes | None] = []
    conf = place.served.built.conf
    assert conf is not None
    refs = {one.name: one.get for one in ssl_preread.MODULE.variables}
    conf.listenings[0].default.log_handlers = (
        lambda s: seen.append(refs["ssl_preread_alpn_protocols"](s)) or 0,  # type: ignore[func-returns-value]
    )
    message = quic.hello("one.test", ("doq",))
    place.send(CLIENT.initial(quic.crypto(0, message[:-10])))
    place.loop.now_ms += 2100
    place.loop.timers.expire(place.loop.now_ms, lambda callback: None)
    assert [b"doq"] == seen
    assert (0, []) == (place.loop.live, place.said())


def test_a_buffer_too_small_for_the_hello_ends_the_session(stack: ExitStack) -> None:
    """preread_buffer_size is the administrator's, and its end is said as it is over TCP."""
    place = Place(stack, conf="preread_buffer_size 2k;")
    place.send(*CLIENT.datagrams(LONG)[:2])
    (line,) = place.served.target.lines
    assert "error" == line[0]
    assert line[1].partition(" ")[2].startswith("preread buffer full while prereading client data")
    assert 0 == place.loop.live


def test_a_flood_of_first_datagrams_holds_no_more_than_its_slots(stack: ExitStack) -> None:
    """Each forged source holds one slot and its datagram; after a second they give way."""
    place = Place(stack)
    loop = place.loop
    loop.free_connections = 20
    first = CLIENT.datagrams(LONG)[0]
    for _ in range(40):
        place.send(first, client=place.new_client())
    held = place.waiting()
    assert 18 <= len(held) <= 20
    assert all(s.content.size == len(first) for s in held)
    late = place.new_client()
    place.send(*CLIENT.datagrams(quic.hello()), client=late)
    assert [] == place.said(late)
    for s in held:
        s.content.active_ms -= 1100
    loop.get(eviction.Eviction)._looked_ms -= 1000
    place.send(*CLIENT.datagrams(quic.hello()), client=late)
    assert ["TLSv1.3|one.test|h3|one.test"] == place.said(late)


def test_what_hellos_take_is_charged_to_the_turn(stack: ExitStack) -> None:
    """Sessions that begin are put off to the next turns when hellos have used up this one."""
    place = Place(stack)
    budget = place.loop.get(turn_budget.TurnBudget)
    spent: list[int] = []
    place.served.built.conf.listenings[0].default.log_handlers = (  # type: ignore[union-attr]
        lambda s: spent.append(budget._spent) or 0,  # type: ignore[func-returns-value]
    )
    place.send(*CLIENT.datagrams(quic.hello()))
    assert spent[0] > 0


def test_rules_of_access_of_the_selected_server_are_obeyed(stack: ExitStack) -> None:
    """A client that asks for a name it may not reach is not answered."""
    place = Place(
        stack, "server { listen 127.0.0.1:@p@ udp; return SAY; } server { "
        "listen 127.0.0.1:@p@ udp; server_name one.test; deny all; return SAY; }",
    )
    place.send(*CLIENT.datagrams(quic.hello("one.test")))
    assert ([], 0) == (place.said(), place.loop.live)
    place.send(*CLIENT.datagrams(quic.hello("two.test")))
    assert ["TLSv1.3|two.test|h3|"] == place.said()


def test_a_name_over_255_bytes_is_none(stack: ExitStack) -> None:
    """As over TCP."""
    place = Place(stack)
    place.send(*CLIENT.datagrams(quic.hello("a" * 256)))
    assert ["TLSv1.3||h3|"] == place.said()


# -- in another process ----------------------------------------------------------------------------

KEPT = ssl_preread.MODULE.keeps[0]


class Session(SimpleNamespace):
    """As much of a session as has a module's scratch."""

    def __init__(self) -> None:
        super().__init__(ctx={})

    def module_ctx(self, key: str) -> Any:
        """Return a module's scratch."""
        return self.ctx.get(key)

    def set_module_ctx(self, key: str, value: Any) -> None:
        """Keep it."""
        self.ctx[key] = value


def shown(s: Any) -> list[bytes | None]:
    """Return the three variables."""
    return [one.get(s) for one in ssl_preread.MODULE.variables]


def test_the_values_move_with_the_session() -> None:
    """A session that goes on elsewhere has them there; one without a hello has none."""
    here, there = Session(), Session()
    hello = client_hello.ClientHello("TLSv1.3", b"one.test", b"h3", (1, 2))
    here.set_module_ctx(ssl_preread.KEY, hello)
    packed = KEPT.pack(here)  # type: ignore[misc,arg-type]
    KEPT.unpack(there, packed)  # type: ignore[misc,arg-type]
    assert [b"TLSv1.3", b"one.test", b"h3"] == shown(there) == shown(here)
    assert KEPT.pack(Session()) is None  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    "packed",
    [
        7, None, (), ("TLSv1.3", b"a"), ("TLSv1.3", "a", b"h3"), (b"TLSv1.3", b"a", b"h3"),
        ("TLSv1.3", b"a", b"h3", b""), ("TLSv1.9", b"a", b"h3"), ("TLSv1.3", b"a" * 256, b"h3"),
        ("TLSv1.3", b"a", b"h" * (quic_hello.MAX_HELLO + 1)), ("TLSv1.3", b"a", None),
    ],
)
def test_values_that_no_hello_has_are_refused(packed: object) -> None:
    """Another process may say anything."""
    s = Session()
    with pytest.raises((TypeError, ValueError)):
        KEPT.unpack(s, packed)  # type: ignore[misc,arg-type]
    assert [None] * 3 == shown(s)


# -- explained -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "server"), [(b"one.test", 1), (b"x", 0), (None, 0)])
def test_an_explanation_selects_the_server_as_a_hello_does(
    stack: ExitStack, name: bytes | None, server: int
) -> None:
    """The name that a QUIC client would ask for is given with the question."""
    place = Place(stack)
    conf = place.served.built.conf
    assert conf is not None
    found = explaining.explain(
        conf, place.loop, conf.listenings[0], ("127.0.0.7", 4711), place.served.address(), name
    )
    assert conf.servers[server] is found.s.server
