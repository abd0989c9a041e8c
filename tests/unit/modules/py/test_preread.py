"""py_preread: what functions see, when they go on, and what becomes of clients meanwhile."""

import contextlib
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest

from ngxstream.event.turn_budget import TURN_NS, TurnBudget
from ngxstream.stream import explaining
from tests.support import certs, processes
from tests.support.backends import BackendFactory
from tests.support.clients import TcpClient, UdpClient
from tests.support.in_process import InProcess, build
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.scripts import scripted
from tests.support.waiting import wait_until

LOOKS = """
from ngxstream.scripting import MORE, CancelledError, Session, sleep

calls = 0

def told(s: Session) -> int:
    s.log.notice(f"shown {s.preread!r} of {s.datagrams!r}")
    return sum(map(len, s.datagrams)) or len(s.preread)

def plain(s: Session):
    if told(s) < 4:
        return MORE
    s.variables["seen"] = s.preread[:4] or "?"

async def waits(s: Session) -> None:
    while told(s) < 4:
        await s.more()
    s.variables["seen"] = s.preread[:4]

async def waits_between(s: Session) -> None:
    while told(s) < 4:
        await s.more()
        await sleep(0.001)
    s.variables["seen"] = s.preread[:4]

async def looks_late(s: Session) -> None:
    s.log.notice("begun")
    await until_told(s)
    while told(s) < 4:
        await s.more()
    s.variables["seen"] = s.preread[:4]

async def takes_three(s: Session) -> None:
    s.log.notice("begun")
    try:
        await until_told(s)
    except CancelledError:
        s.log.notice("cancelled")
        raise
    while len(s.datagrams) < 3:
        await s.more()
    s.log.notice("all " + b"".join(s.datagrams).decode())

async def until_told(s: Session) -> None:
    while not open_gate():
        await sleep(0.005)

def open_gate() -> bool:
    import os
    return os.path.exists(os.path.join(os.path.dirname(__file__), "gate"))

async def for_ever(s: Session) -> None:
    try:
        s.log.notice("begun")
        while True:
            await sleep(3600)
    except CancelledError:
        s.log.notice(f"cancelled, ended: {s.is_ended}")
        raise
    finally:
        s.log.notice("left")

def verdict(s: Session):
    if not s.preread:
        return MORE
    word = s.preread.decode()
    if word == "more":
        s.deny()
        s.log.notice("denied for now")
        return MORE
    if word == "more and less":
        return None
    if word == "both":
        s.deny()
        s.allow()
    elif word == "close":
        s.close("enough\\nof it")
    elif word == "raise":
        s.close("not this")
        raise ValueError("no\\nidea")
    elif word == "hang":
        while True:
            pass
    elif word == "wrong":
        return False
    elif word == "coroutine":
        return waits(s)
    else:
        getattr(s, word)()

async def async_verdict(s: Session):
    await s.more()
    await sleep(0)
    return verdict(s)

async def refuses(s: Session) -> None:
    await s.more()

def nothing(s: Session) -> None:
    pass

def denies(s: Session) -> None:
    s.deny()
"""
CONF = """worker_processes %(workers)d;
events { use %(method)s; }
stream {
    py_import m from m.py;
    py_var $seen nothing;
    log_format l "$status $session_end_reason $session_ended_by";
    access_log logs/access.log l;
    preread_buffer_size 64;
    py_time_limit 20ms;
    server { listen 127.0.0.1:@tcp@; py_preread m.%(name)s; return $seen; }
    server { listen 127.0.0.1:@tls@ ssl; py_preread m.%(name)s; return $seen;
        ssl_certificate %(cert)s; ssl_certificate_key %(key)s; }
}
"""
ONE = """%(head)s
events {}
stream {
    py_import m from m.py;
    py_var $seen;
    log_format l "$status $session_end_reason $session_ended_by";
    access_log logs/access.log l;
    py_time_limit 20ms;
    server { listen 127.0.0.1:@main@%(udp)s; %(lines)s }
}
"""


def serving(
    factory: ProxyFactory, lines: str, *, udp: bool = False, head: str = "", **options: Any
) -> Proxy:
    """Start a program with one server."""
    words = {"lines": lines, "udp": " udp" if udp else "", "head": head}
    return scripted(lambda conf, **more: factory(conf, **more, **options), ONE % words, m=LOOKS)  # type: ignore[arg-type,return-value]


def secured(address: Any, name: str | None = None) -> TcpClient:
    """Connect with TLS."""
    client = TcpClient(address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    client.sock = context.wrap_socket(client.sock, server_hostname=name)
    return client


def rest(client: TcpClient) -> bytes:
    """Return what comes to the end; a server that leaves bytes unread resets the connection."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv():
            data += piece
    return data


def exchange(address: Any, data: bytes) -> bytes:
    """Send something and return the answer."""
    with TcpClient(address) as client:
        client.send(data)
        return rest(client)


@pytest.mark.effect("py_preread")
@pytest.mark.parametrize(("workers", "method"), [(1, "epoll"), (4, "epoll"), (1, "poll")])
@pytest.mark.parametrize("name", ["plain", "waits", "waits_between", "looks_late"])
def test_a_function_sees_all_that_has_come_so_far(
    ngxstream: ProxyFactory, tmp_path: Path, workers: int, method: str, name: str
) -> None:
    """Over TCP and TLS, plain and as a coroutine, by every poller; nothing is taken away."""
    pair = certs.Authority(tmp_path / "ca").issue("localhost")
    words = {"workers": workers, "method": method, "name": name, "cert": pair.cert, "key": pair.key}
    running = scripted(ngxstream, CONF % words, m=LOOKS)
    for number, (connect, port) in enumerate(((TcpClient, "tcp"), (secured, "tls")), 1):
        gate = running.prefix / "conf" / "gate"
        gate.unlink(missing_ok=True)
        with connect(running.address(port)) as client:
            client.send(b"ab")
            word = "begun" if name == "looks_late" else "shown b'ab'"
            running.wait_log(word, count=number)
            client.send(b"cdef")
            gate.touch()
            assert b"abcd" == rest(client)
        assert "shown b'abcdef' of []" in running.messages("notice")[-1]


@pytest.mark.effect("py_preread")
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("name", ["plain", "waits", "takes_three"])
def test_datagrams_are_seen_one_by_one_and_none_is_lost(
    ngxstream: ProxyFactory, backends: BackendFactory, workers: int, name: str
) -> None:
    """Those that come while it waits for something else go to the server behind the others."""
    server = backends.udp()
    running = serving(ngxstream, f"py_preread m.{name}; proxy_pass {server.text};", udp=True,
                      head=f"worker_processes {workers};")
    with UdpClient(running.address("main")) as client:
        client.send(b"ab")
        running.wait_log("begun" if name == "takes_three" else r"shown b'ab' of \[b'ab'\]")
        client.send(b"cd")
        client.send(b"ef")
        (running.prefix / "conf" / "gate").touch()
        assert [b"ab", b"cd", b"ef"] == server.wait_seen(3)
        assert [b"ab", b"cd", b"ef"] == [client.recv() for _ in range(3)]
    assert 1 == len(server.sources)


def test_a_udp_client_that_is_looked_at_outlives_a_reload(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """A new worker looks at him from the start, with all that he sent; the coroutine here ends."""
    server = backends.udp()
    lines = f"py_preread m.takes_three; proxy_pass {server.text};"
    running = serving(ngxstream, lines, udp=True)
    with UdpClient(running.address("main")) as client:
        client.send(b"ab")
        running.wait_log("begun")
        client.send(b"cd")
        running.reload()
        running.wait_log("begun", count=2)
        client.send(b"ef")
        (running.prefix / "conf" / "gate").touch()
        assert [b"ab", b"cd", b"ef"] == server.wait_seen(3)
        assert [b"ab", b"cd", b"ef"] == [client.recv() for _ in range(3)]
    assert 1 == len(server.sources)
    assert 1 == len(running.wait_log("cancelled"))
    assert 1 == len(running.wait_log("all abcdef"))


@pytest.mark.parametrize("name", ["verdict", "async_verdict"])
@pytest.mark.parametrize(
    ("word", "answer", "end"),
    [
        ("allow", b"in", "200 closed proxy"),
        ("both", b"in", "200 closed proxy"),
        ("decline", b"in", "200 closed proxy"),
        ("deny", b"", "403 denied proxy"),
        ("close", b"", "200 script proxy"),
        ("raise", b"", "500 internal proxy"),
        ("hang", b"", "500 internal proxy"),
        ("wrong", b"", "500 internal proxy"),
    ],
)
def test_what_it_says_is_done(
    ngxstream: ProxyFactory, name: str, word: str, answer: bytes, end: str
) -> None:
    """The last word counts; what fails lets nobody in."""
    running = serving(ngxstream, f"py_preread m.{name}; return in;")
    assert answer == exchange(running.address("main"), word.encode())
    assert [end] == running.wait_log(".", name="logs/access.log")
    messages = running.messages("error")
    wrong = "failed: TypeError: a py_preread function returns None or MORE, not "
    said = {
        "raise": f'"m.{name}" failed: ValueError: no\\x0Aidea in ',
        "hang": f'"m.{name}" failed: TimeLimitError: it takes more than 20',
        "wrong": f'"m.{name}" {wrong}bool',
    }.get(word)
    assert (said is not None) == len(messages)
    assert all(message.startswith(said or "") for message in messages)
    assert b"in" == exchange(running.address("main"), b"allow")


def test_a_function_may_return_a_coroutine(ngxstream: ProxyFactory) -> None:
    """As decorated ones do; a coroutine may not."""
    running = serving(ngxstream, "py_preread m.verdict; return $seen;")
    assert b"coro" == exchange(running.address("main"), b"coroutine")
    running = serving(ngxstream, "py_preread m.async_verdict; return $seen;")
    assert b"" == exchange(running.address("main"), b"coroutine")
    (message,) = running.messages("error")
    assert "TypeError: a py_preread function returns None or MORE, not coroutine" in message


def test_a_reason_to_close_is_logged_escaped(ngxstream: ProxyFactory) -> None:
    """At level info, once."""
    running = serving(ngxstream, "py_preread m.verdict; return in;")
    assert b"" == exchange(running.address("main"), b"close")
    (line,) = running.wait_log("closed by a function")
    assert "[info]" in line
    assert r"closed by a function: enough\x0Aof it while running py_preread, client" in line


def test_more_takes_back_what_was_said(ngxstream: ProxyFactory) -> None:
    """A function that says deny() and returns MORE is asked again, and may say nothing then."""
    running = serving(ngxstream, "py_preread m.verdict; return in;")
    with TcpClient(running.address("main")) as client:
        client.send(b"more")
        running.wait_log("denied for now")
        client.send(b" and less")
        assert b"in" == rest(client)


def test_nothing_new_is_no_reason_to_call(ngxstream: ProxyFactory) -> None:
    """The end of what the client sends, say, where the function waits for more."""
    running = serving(ngxstream, "py_preread m.plain; return in;")
    with TcpClient(running.address("main")) as client:
        client.send(b"ab")
        running.wait_log("shown")
        client.half_close()
        assert b"" == rest(client)
    assert ["200 closed client"] == running.wait_log(".", name="logs/access.log")
    assert 1 == len(running.wait_log("shown"))


def test_the_other_handlers_of_the_phase_are_asked_afterwards(ngxstream: ProxyFactory) -> None:
    """ssl_preread sees the same bytes, unless the function allows the session."""
    lines = 'ssl_preread on; py_preread m.%s; return "[$ssl_preread_protocol]";'
    running = serving(ngxstream, lines % "nothing")
    assert b"[]" == exchange(running.address("main"), b"no TLS at all, in 20 bytes")


@pytest.mark.parametrize("name", ["plain", "waits", "for_ever"])
@pytest.mark.parametrize("udp", [False, True])
def test_the_time_of_the_phase_is_for_all_of_it(
    ngxstream: ProxyFactory, name: str, udp: bool
) -> None:
    """preread_timeout ends a session that waits for data or for something else."""
    running = serving(ngxstream, f"py_preread m.{name}; preread_timeout 200ms; return in;", udp=udp)
    if udp:
        with UdpClient(running.address("main")) as client:
            client.send(b"ab")
            running.wait_log(".", name="logs/access.log")
    else:
        assert b"" == exchange(running.address("main"), b"ab")
    assert ["200 preread_timeout client"] == running.wait_log(".", name="logs/access.log")
    if name == "for_ever":
        assert [
            "cancelled, ended: True", "left"
        ] == [m.partition(" while")[0] for m in running.messages("notice")[1:]]


@pytest.mark.parametrize("name", ["plain", "waits"])
def test_a_full_buffer_that_is_not_enough_is_a_bad_request(
    ngxstream: ProxyFactory, name: str
) -> None:
    """As with nginx's own handlers."""
    running = serving(ngxstream, f"py_preread m.{name}; preread_buffer_size 3; return in;")
    assert b"" == exchange(running.address("main"), b"abc")
    assert ["400 preread_full client"] == running.wait_log(".", name="logs/access.log")
    assert "preread buffer full" in running.messages("error")[0]


@pytest.mark.parametrize(
    ("sent", "resets", "end"),
    [(b"", False, "200 closed client"), (b"ab", True, "200 client_rst client")],
)
def test_a_client_that_leaves_cancels_the_coroutine(
    ngxstream: ProxyFactory, sent: bytes, resets: bool, end: str
) -> None:
    """It ends without a word, or resets the connection: `finally` runs."""
    running = serving(ngxstream, "py_preread m.for_ever; return in;")
    client = TcpClient(running.address("main"))
    client.send(sent)
    running.wait_log("begun")
    client.reset() if resets else client.close()
    running.wait_log("left")
    assert [end] == running.wait_log(".", name="logs/access.log")


def test_who_ends_his_direction_is_still_answered(ngxstream: ProxyFactory) -> None:
    """What he sent before is enough."""
    running = serving(ngxstream, "py_preread m.looks_late; return $seen;")
    with TcpClient(running.address("main")) as client:
        client.send(b"abcd")
        client.half_close()
        running.wait_log("begun")
        (running.prefix / "conf" / "gate").touch()
        assert b"abcd" == rest(client)


def test_a_server_without_functions_beside_one_that_has_some(
    ngxstream: ProxyFactory, tmp_path: Path
) -> None:
    """At one address, told apart by the name: each has its own."""
    pair = certs.Authority(tmp_path / "ca").issue("localhost")
    conf = f"""events {{}} stream {{ py_import m from m.py; ssl_certificate {pair.cert};
        ssl_certificate_key {pair.key};
        server {{ listen 127.0.0.1:@main@ ssl; server_name a; return a; }}
        server {{ listen 127.0.0.1:@main@ ssl; server_name b; return b;
            py_access m.nothing; py_preread m.denies; py_log m.nothing; }} }}"""
    running = scripted(ngxstream, conf, m=LOOKS)
    with secured(running.address("main"), "a") as client:
        assert b"a" == rest(client)
    with secured(running.address("main"), "b") as client:
        client.send(b"x")
        assert b"" == rest(client)


def test_more_is_for_the_preread_phase(ngxstream: ProxyFactory) -> None:
    """Elsewhere it is an error that says so, and nobody is let in."""
    running = serving(ngxstream, "py_access m.refuses; return in;")
    assert b"" == exchange(running.address("main"), b"ab")
    said = "ScriptError: more() is for coroutines of py_preread in "
    assert said in running.wait_log("failed")[0]


def test_thousands_leave_nothing_behind(ngxstream: ProxyFactory) -> None:
    """Descriptors and memory are flat over clients that wait, fail and leave."""
    running = serving(
        ngxstream, "py_preread m.async_verdict; return in;", head="worker_rlimit_nofile 1024;",
        log_level="crit",
    )
    (worker,) = running.worker_pids()
    words = (b"allow", b"deny", b"raise", b"close", b"")

    def some(count: int) -> None:
        for n in range(count):
            with TcpClient(running.address("main")) as client:
                client.send(words[n % 5])
                if n % 5 != 4:
                    rest(client)

    def resident() -> int:
        status = Path(f"/proc/{worker}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    some(500)
    wait_until(lambda: len(sockets(worker)) < 10, what="the sessions' end")
    before = resident()
    some(1500)
    wait_until(lambda: len(sockets(worker)) < 10, what="the sessions' end")
    assert resident() < before + 1024  # KiB


def sockets(pid: int) -> list[str]:
    """Return the sockets that a process has open."""
    return [link for link in processes.open_files(pid) if link.startswith("socket:")]


@pytest.mark.refusal("py_preread")
@pytest.mark.parametrize(
    ("use", "words"),
    [
        ("py_preread;", 'invalid number of arguments in "py_preread" directive'),
        ("py_preread m.plain; py_preread m.waits;", '"py_preread" directive is duplicate'),
        ("py_preread plain;", '"plain" is no "module.function"'),
        ("py_preread n.plain;", 'no "py_import" directives found for "n.plain"'),
        ("py_preread m.gone;", "function \"m.gone\" not found: module 'm' has no attribute 'gone'"),
        ("py_preread m.two;", 'function "m.two" must take 1 argument: '),
    ],
)
def test_a_bad_use_is_refused(tmp_path: Path, use: str, words: str) -> None:
    """When the configuration is read."""
    (tmp_path / "m.py").write_text(f"{LOOKS}\ndef two(s, t): pass\n")
    text = f"stream {{ py_import m from {tmp_path}/m.py; server {{ listen 127.0.0.1:9; {use} }} }}"
    assert words in build(text).error


def test_unix_sockets_have_it_too(ngxstream: ProxyFactory, tmp_path: Path) -> None:
    """The bytes of a client without an address."""
    conf = ONE % {"lines": "py_preread m.plain; return $protocol;", "udp": "", "head": ""}
    conf = conf.replace("127.0.0.1:@main@", f"unix:{tmp_path}/s")
    running = scripted(ngxstream, conf, m=LOOKS)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/s")
        client.sendall(b"abcd")
        assert b"TCP" == client.recv(100)
    assert running.wait_log("shown b'abcd'")


def test_an_explanation_names_the_functions_and_calls_none(tmp_path: Path) -> None:
    """Neither those of phases nor those of variables."""
    (tmp_path / "m.py").write_text("def f(s): raise ValueError\n")
    text = (f"stream {{ py_import m from {tmp_path}/m.py; py_set $v m.f; py_var $w a; "
            "server { listen 127.0.0.1:@a@; py_access m.f; py_preread m.f; py_log m.f; "
            'return "$v$w"; } }')
    with InProcess(text) as served:
        local = served.address()
        listening = explaining.find(served.conf, False, local)
        assert listening is not None
        client = ("192.0.2.1", 5)
        found = explaining.explain(served.conf, served.loop, listening, client, local, None)
        told = {one["phase"]: one["why"] for one in found.phases}
        why = "m.f would be called, which nobody can foresee"
        assert (why, why) == (told["access"], told["preread"])
        assert ("returned", None, "a") == (
            found.verdict, found.variables()["v"], found.variables()["w"]
        )
        assert [] == served.target.lines


def test_a_tls_client_that_says_goodbye_is_still_proxied(
    ngxstream: ProxyFactory, backends: BackendFactory, tmp_path: Path
) -> None:
    """Its close_notify was read while the function waited for something else."""
    pair = certs.Authority(tmp_path / "ca").issue("localhost")
    server = backends.tcp()
    lines = (f"py_preread m.looks_late; ssl_certificate {pair.cert}; proxy_half_close on; "
             f"ssl_certificate_key {pair.key}; proxy_pass {server.text};")
    conf = ONE % {"lines": lines, "udp": " ssl", "head": ""}
    running = scripted(ngxstream, conf, m=LOOKS)
    with secured(running.address("main")) as client:
        client.send(b"abcd")
        running.wait_log("begun")
        closing = threading.Thread(target=quietly, args=(client.sock.unwrap,))  # type: ignore[attr-defined]
        closing.start()
        (running.prefix / "conf" / "gate").touch()
        running.wait_log(".", name="logs/access.log")
        closing.join()
    assert b"abcd" == server.received
    assert ["200 closed upstream"] == running.wait_log(".", name="logs/access.log")


def quietly(function: Any) -> None:
    """Call something that may fail."""
    with contextlib.suppress(OSError):
        function()


def test_a_client_who_sends_while_put_off_is_connected_once(tmp_path: Path) -> None:
    """Others use up the turn in which it sends, and it sends again before it is let in."""
    (tmp_path / "looks.py").write_text(LOOKS)
    with contextlib.ExitStack() as stack:
        back = stack.enter_context(contextlib.closing(socket.create_server(("127.0.0.1", 0))))
        back.setblocking(False)
        served = stack.enter_context(InProcess(
            f"stream {{ py_import looks from {tmp_path}/looks.py; py_var $seen; "
            "server { listen 127.0.0.1:@a@; py_preread looks.plain; "
            f"proxy_pass 127.0.0.1:{back.getsockname()[1]}; }} }}"
        ))
        client = served.connect()
        served.turn_until(lambda: served.sessions)
        budget = served.loop.get(TurnBudget)
        for piece in (b"a", b"bcd"):
            client.send(piece)
            budget.has_share(None)
            budget.charge(TURN_NS)
            served.loop.turn(100)
        client.send(b"ef")
        found: list[socket.socket] = []

        def accepted() -> bool:
            with contextlib.suppress(BlockingIOError):
                found.append(stack.enter_context(contextlib.closing(back.accept()[0])))
            return bool(found) and not budget.is_busy

        served.turn_until(accepted)
        for _ in range(4):
            served.loop.turn(0)
            accepted()
        assert 1 == len(found)
