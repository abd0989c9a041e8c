"""ssl_preread: what a ClientHello asks for, and the server it selects."""

import pytest

from ngxstream.event import turn_budget
from tests.support.hellos import client_hello, made_hello
from tests.support.in_process import InProcess

SAY = '"$ssl_preread_protocol|$ssl_preread_server_name|$ssl_preread_alpn_protocols|$server_name"'


def said(data: bytes, pieces: int = 1, half_close: bool = False, conf: str = "") -> str:
    """Return what the server says to a client that sends something in pieces."""
    text = f"""stream {{ ssl_preread on; preread_timeout 20s; {conf}
        server {{ listen 127.0.0.1:@main@; return {SAY}; }}
        server {{ listen 127.0.0.1:@main@; server_name one.test; return {SAY}; }}
        server {{ listen 127.0.0.1:@main@; server_name *.two.test; return {SAY}; }} }}"""
    with InProcess(text) as served:
        client = served.connect()
        served.turn_until(lambda: served.sessions, "the session")
        size = -(-len(data) // pieces)
        for at in range(0, len(data), size):
            client.send(data[at : at + size])
            for _ in range(2):
                served.loop.turn(wait_ms=1)
        if half_close:
            client.shutdown(1)
        return served.read(client).decode()


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize(
    ("name", "server"),
    [("one.test", "one.test"), ("ONE.test", "one.test"), ("a.two.test", "*.two.test"), ("x", "")],
)
def test_the_name_selects_a_server(name: str, server: str, pieces: int) -> None:
    """SNI selects among the servers of the address, whole or in pieces; else the default."""
    expected = f"TLSv1.3|{name.lower() if name == 'ONE.test' else name}||{server}"
    answer = said(client_hello(name), pieces)
    assert expected.lower() == answer.lower()


def test_alpn_is_listed() -> None:
    """The client's protocols, joined by commas."""
    assert "TLSv1.3||h2,http/1.1|" == said(client_hello(alpn=("h2", "http/1.1")))


def test_protocol_is_the_highest_offered() -> None:
    """Without supported_versions the record's own version counts."""
    assert "TLSv1.2|||" == said(client_hello(highest="TLSv1_2"))


@pytest.mark.parametrize("data", [b"hello", b"GET / HTTP/1.0\r\n\r\n", b"\x16\x02\x00\x00\x00"])
def test_what_is_no_hello_goes_on(data: bytes) -> None:
    """Five bytes that begin no ClientHello decide: the default server, variables not found."""
    assert "|||" == said(data)


def test_too_few_bytes_wait_for_the_end() -> None:
    """Four bytes decide nothing; when the client closes the session is over."""
    assert "" == said(b"hell", half_close=True)


def test_a_hello_may_be_large() -> None:
    """Up to preread_buffer_size, in many segments."""
    data = client_hello("one.test")
    grown = (
        data[:3]
        + (len(data) - 5 + 9000).to_bytes(2, "big")
        + b"\x01"
        + (len(data) - 9 + 9000).to_bytes(3, "big")
    )
    # a large extension nobody knows, as post-quantum key shares are
    session_id = 43
    ciphers_at = session_id + 1 + data[session_id]
    ciphers = int.from_bytes(data[ciphers_at : ciphers_at + 2], "big")
    extensions_at = ciphers_at + 2 + ciphers + 2
    body = data[9:extensions_at]
    extensions = data[extensions_at + 2 :] + b"\xfa\xfa" + (8996).to_bytes(2, "big") + bytes(8996)
    grown += body + len(extensions).to_bytes(2, "big") + extensions
    assert "TLSv1.3|one.test||one.test" == said(grown, pieces=9)


def test_a_hello_larger_than_the_buffer_is_refused() -> None:
    """preread_buffer_size is the limit."""
    assert "" == said(client_hello("one.test"), conf="preread_buffer_size 100;")


def test_a_server_that_does_not_preread_asks_nothing() -> None:
    """`off` in the default server: no bytes are waited for."""
    text = f"stream {{ server {{ listen 127.0.0.1:@main@; return {SAY}; }} }}"
    with InProcess(text) as served:
        assert b"|||" == served.read(served.connect())


def test_the_log_follows_the_server() -> None:
    """After the choice a session logs where its server does."""
    text = """stream { ssl_preread on;
        server { listen 127.0.0.1:@main@; return x; }
        server { listen 127.0.0.1:@main@; server_name one.test; return y; } }"""
    with InProcess(text) as served:
        client = served.connect()
        client.send(client_hello("one.test"))
        assert b"y" == served.read(client)
        s = served.sessions[0]
        assert s.server is served.conf.servers[1]
        assert s.log is served.conf.servers[1].log


@pytest.mark.parametrize("size", [255, 256, 9000])
def test_a_name_over_255_bytes_is_none(size: int) -> None:
    """No host has a longer one."""
    name = ("a" * 49 + ".") * (size // 50) + "b" * (size % 50)
    shown = name if size == 255 else ""
    assert f"TLSv1.2|{shown}||" == said(made_hello(name.encode()))


NESTED = "^(a|aa|aaa|.a|..a)+$"


def test_many_names_made_to_take_long_are_looked_up_some_a_turn() -> None:
    """What their regexes take is spread over turns, and everybody is served."""
    conf = f"map $ssl_preread_server_name $x {{ default other; '~{NESTED}' match; }}"
    text = f"""stream {{ ssl_preread on; {conf}
        server {{ listen 127.0.0.1:@main@; return "$x"; }} }}"""
    with InProcess(text) as served:
        clients = [served.connect() for _ in range(40)]
        served.turn_until(lambda: len(served.sessions) == 40, "the sessions")
        for client in clients:
            client.send(made_hello(b"a" * 250 + b"!"))
        before = len(served.sessions)
        most = 0
        for _ in range(2000):
            live = len(served.loop.sessions)
            served.loop.turn(wait_ms=1)
            most = max(most, live - len(served.loop.sessions))
            if not served.loop.sessions:
                break
        assert 40 == before
        assert not served.loop.sessions
        assert 1 <= most < 30
        assert {b"other"} == {served.read(client) for client in clients}


def test_a_session_that_ends_while_it_is_put_off_does_not_go_on() -> None:
    """Its time for the first bytes may be over by then."""
    text = f"""stream {{ ssl_preread on; preread_timeout 1h;
        map $ssl_preread_server_name $x {{ default other; '~{NESTED}' match; }}
        server {{ listen 127.0.0.1:@main@; return "$x"; }} }}"""
    with InProcess(text) as served:
        client = served.connect()
        served.turn_until(lambda: served.sessions, "the session")
        client.send(made_hello(b"a"))
        served.loop.get(turn_budget.TurnBudget).has_share("somebody")
        served.loop.get(turn_budget.TurnBudget).charge(turn_budget.TURN_NS)
        (session,) = served.loop.sessions
        served.loop.turn(wait_ms=1000)  # the hello comes, and the session is put off
        assert served.loop.get(turn_budget.TurnBudget).is_busy
        session.finalize(500)
        for _ in range(4):
            served.loop.turn(wait_ms=1)
        assert not served.loop.sessions
        assert not served.loop.get(turn_budget.TurnBudget).is_busy
        assert b"" == served.read(client)


ACCESS = """stream {{ ssl_preread on; {block}
    server {{ listen 127.0.0.1:@main@; {first} return default; }}
    server {{ listen 127.0.0.1:@main@; server_name one.test; {named} return one; }} }}"""


@pytest.mark.parametrize(
    ("first", "named", "name", "expected"),
    [
        ("", "deny all;", "one.test", ""),
        ("", "deny all;", "two.test", "default"),
        ("", "allow 127.0.0.1; deny all;", "one.test", "one"),
        ("deny all;", "allow all;", "one.test", ""),
        ("allow 127.0.0.1;", "deny 127.0.0.0/8;", "one.test", ""),
    ],
)
def test_a_server_selected_by_name_has_its_say_about_access(
    first: str, named: str, name: str, expected: str
) -> None:
    """Rules of access are obeyed, those of the default server first."""
    with InProcess(ACCESS.format(block="", first=first, named=named)) as served:
        client = served.connect()
        served.turn_until(lambda: served.sessions, "the session")
        try:
            client.send(client_hello(name))
        except OSError:
            assert "deny" in first
        assert expected == served.read(client).decode()
        forbidden = [line for level, line in served.target.lines if level == "error"]
        assert bool(forbidden) == (expected == "")
        assert all("access forbidden by rule" in line for line in forbidden)
