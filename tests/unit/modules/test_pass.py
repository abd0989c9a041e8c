"""pass: an accepted connection goes on at another listening socket."""

import pytest

from tests.support import in_process
from tests.support.in_process import InProcess


def serve(text: str) -> InProcess:
    """Serve some servers."""
    return InProcess(f"stream {{ {text} }}")


def errors(served: InProcess) -> list[str]:
    """Return the messages of level error without their context."""
    lines = [text for level, text in served.target.lines if level == "error"]
    return [line.split(" while ")[0].split(" ", 1)[1] for line in lines]


TARGET = 'server { listen 127.0.0.1:@there@; return "there $server_port"; }'


@pytest.mark.effect("pass")
@pytest.mark.parametrize("address", ["127.0.0.1:@there@", "127.0.0.1:$port"])
def test_the_connection_goes_on_there(address: str) -> None:
    """The other server answers, at its own address; constants and variables will do."""
    text = f"""map $protocol $port {{ default @there@; }}
        server {{ listen 127.0.0.1:@main@; pass {address}; }} {TARGET}"""
    with serve(text) as served:
        assert f"there {served.port('there')}".encode() == served.read(served.connect())
        assert [] == errors(served)
        assert 0 == served.loop.live


def test_a_wildcard_socket_takes_any_address_of_its_port() -> None:
    """The address chosen is the local one from then on."""
    text = """server { listen 127.0.0.1:@main@; pass 127.0.0.9:@there@; }
        server { listen 0.0.0.0:@there@; return $server_addr; }"""
    with serve(text) as served:
        assert b"127.0.0.9" == served.read(served.connect())


def test_an_exact_socket_takes_its_own_address_only() -> None:
    """Another address of the port is not found; the client is let go with 200."""
    text = f"server {{ listen 127.0.0.1:@main@; pass 127.0.0.9:@there@; }} {TARGET}"
    with serve(text) as served:
        assert b"" == served.read(served.connect())
        assert [f'port not found for "127.0.0.9:{served.port("there")}"'] == errors(served)
        assert 200 == served.sessions[0].status


def test_the_address_picks_the_server_of_a_shared_socket() -> None:
    """Of several addresses on one wildcard socket the one passed to has the word."""
    text = """server { listen 127.0.0.1:@main@; pass 127.0.0.9:@there@; }
        server { listen 127.0.0.9:@there@; return nine; }
        server { listen 0.0.0.0:@there@; return any; }"""
    with serve(text) as served:
        assert b"nine" == served.read(served.connect())


@pytest.mark.effect("pass")
def test_the_peeked_hello_is_there_for_the_next() -> None:
    """ssl_preread looks without taking: the socket passed to sees the bytes again."""
    text = """server { listen 127.0.0.1:@main@; ssl_preread on; pass 127.0.0.1:@there@; }
        server { listen 127.0.0.1:@there@; ssl_preread on; return $ssl_preread_protocol; }"""
    with serve(text) as served:
        client = served.connect()
        served.turn_until(lambda: served.sessions, "the session")
        client.send(b"\x80\x2e\x01\x03\x01" + bytes(20))
        assert b"TLSv1" == served.read(client)


def test_a_circle_ends() -> None:
    """After ten passes the connection is dropped with 500."""
    with serve("server { listen 127.0.0.1:@main@; pass 127.0.0.1:@main@; }") as served:
        assert b"" == served.read(served.connect())
        assert ["stream pass cycle"] == errors(served)


def test_every_pass_is_told_but_once_ended() -> None:
    """Each session says that the client connected; nothing is left of those passed on."""
    text = f"server {{ listen 127.0.0.1:@main@; pass 127.0.0.1:@there@; }} {TARGET}"
    with serve(text) as served:
        served.read(served.connect())
        told = [text for level, text in served.target.lines if "connected to" in text]
        assert 2 == len(told)


def test_cleanups_wait_for_the_end_of_the_connection() -> None:
    """A place in a limit_conn zone is held by the connection, not by the session passed on."""
    text = """limit_conn_zone $binary_remote_addr zone=z:1m;
        server { listen 127.0.0.1:@main@; limit_conn z 1; pass 127.0.0.1:@there@; }
        server { listen 127.0.0.1:@there@; ssl_preread on; return there; }"""
    with serve(text) as served:
        first, second = served.connect(), served.connect()
        assert b"" == served.read(second)
        first.send(b"hello, no TLS")
        assert b"there" == served.read(first)
        third = served.connect()
        third.send(b"hello, no TLS")
        assert b"there" == served.read(third)


@pytest.mark.parametrize("fails", ["there", "at once"])
def test_a_place_is_given_back_when_a_fault_ends_what_was_passed(fails: str) -> None:
    """What the first session took is given back whatever raises where it goes on."""
    text = """limit_conn_zone $binary_remote_addr zone=z:1m;
        server { listen 127.0.0.1:@main@; limit_conn z 1; pass 127.0.0.1:@there@; }
        server { listen 127.0.0.1:@there@; return there; }"""
    with serve(text) as served:
        (there,) = [
            conf for conf in served.conf.listenings
            if conf.options.sockaddr[1] == served.port("there")
        ]
        begin = there.begin if fails == "at once" else there.default.begin

        def fail(*_: object) -> None:
            raise ValueError("no good")

        if fails == "at once":
            there.is_debugged = fail
        else:
            there.default.begin = fail
        assert b"" == served.read(served.connect())
        assert 1 == len([text for level, text in served.target.lines if level == "alert"])
        if fails == "at once":
            there.is_debugged = None
        else:
            there.default.begin = begin
        assert b"there" == served.read(served.connect())
        assert (0, set()) == (served.loop.live, served.loop.sessions)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("localhost:80", 'no addresses in pass "localhost:80"'),
        ("127.0.0.1", 'no port in pass "127.0.0.1"'),
        ("127.0.0.1:x", 'invalid port in pass "127.0.0.1:x"'),
        ("", 'no host in pass ""'),
    ],
)
def test_a_variable_that_is_no_address(value: str, message: str) -> None:
    """The session ends with 500 and nginx's words."""
    text = f"""map $protocol $to {{ default "{value}"; }}
        server {{ listen 127.0.0.1:@main@; pass $to; }}"""
    with serve(text) as served:
        assert b"" == served.read(served.connect())
        assert [message] == errors(served)
        assert 500 == served.sessions[0].status


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pass 127.0.0.1;", '"pass" directive has no port'),
        ("pass localhost:80;", '"pass" directive has no addresses'),
        ("pass 127.0.0.1:x;", 'invalid port in "127.0.0.1:x" of the "pass" directive'),
        ("pass 127.0.0.1:1; pass 127.0.0.1:2;", '"pass" directive is duplicate'),
        ("pass $;", "invalid variable name"),
        ("pass a b;", 'invalid number of arguments in "pass" directive'),
    ],
)
def test_odd_addresses_are_refused(text: str, expected: str) -> None:
    """The messages are nginx's."""
    built = in_process.build(f"stream {{ server {{ listen 9; {text} }} }}")
    assert f"{expected} in {in_process.CONF}:1" == built.error
