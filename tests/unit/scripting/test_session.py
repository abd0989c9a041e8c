"""Session: what functions read of one, and say of it."""


import pytest

from tests.support.clients import tcp_exchange, udp_exchange
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.scripts import scripted

ASKS = r"""
import ipaddress
from ngxstream.scripting import ScriptError, Session, SessionEndedError

def facts(s: Session) -> None:
    assert isinstance(s.client.ip, ipaddress.IPv4Address)
    s.variables["out"] = " ".join(map(str, (
        s.protocol, s.client.ip, s.local.port, s.number, s.status, repr(s.end_reason),
        repr(s.ended_by), s.bytes_received, s.bytes_sent, s.upstream, s.is_ended, s.preread,
        s.datagrams, 0 <= s.duration < 60, s.client.port == int(s.variables["remote_port"]),
    )))

def variables(s: Session) -> None:
    v = s.variables
    found = [v["protocol"], v["PROTOCOL"], v.get("upstream_addr"), v.get("gone", "none"),
             "protocol" in v, "gone" in v, v.raw("protocol"), v.raw("upstream_addr"),
             v["upstream_addr"], len(list(v)) == len(v), "remote_addr" in list(v)]
    for change in (lambda: v["gone"], lambda: v.__setitem__("gone", ""),
                   lambda: v.__setitem__("protocol", ""), lambda: v.__setitem__("out", 1),
                   lambda: v.__delitem__("remote_addr")):
        try:
            change()
        except (KeyError, TypeError) as error:
            found.append(type(error).__name__)
            assert isinstance(error, TypeError) or "no variable $gone" in str(error)
    v["out"] = b"\xff"
    found.append(ascii(v["out"]))
    v["out"] = "\udcfe"
    found.append(v.raw("out"))
    del v["out"]
    found.append(v.raw("out"))
    v["OUT"] = " ".join(map(str, found))

def state(s: Session) -> None:
    s.state.seen = [1]
    s.state.seen.append(2)

def state_again(s: Session) -> None:
    s.variables["out"] = f"{s.state.seen} {s.state is s.state}"

def logs(s: Session) -> None:
    for name in ("debug", "info", "notice", "warning", "error"):
        getattr(s.log, name)(f"at {name}\n\x1b[31m\u202e\ud800\udcff" + "x" * 2000)
    s.log.notice(42)

def last_word(s: Session) -> None:
    s.close("not this")
    s.allow()

def closes(s: Session) -> None:
    s.allow()
    s.close()

def closes_long(s: Session) -> None:
    s.close("\ud800\n" + "x" * 5000)

def sends(s: Session) -> None:
    s.send_to_client(b"hello ")
    for wrong in (lambda: s.send_to_client("text"), lambda: s.send_to_upstream(b"x")):
        try:
            wrong()
        except (TypeError, ScriptError) as error:
            s.log.notice(f"{type(error).__name__}: {error}")
    s.variables["out"] = "there"
"""
CONF = """events {}
stream {
    py_import m from m.py;
    py_var $out;
    log_format l "$status $session_end_reason $session_ended_by";
    access_log logs/access.log l;
    server { listen 127.0.0.1:@tcp@; return "$out"; %(lines)s }
    server { listen 127.0.0.1:@udp@ udp; return "$out"; %(lines)s }
}
"""


def serving(factory: ProxyFactory, lines: str) -> Proxy:
    """Start a program with a server for each protocol."""
    return scripted(factory, CONF % {"lines": lines}, m=ASKS)


def test_a_session_says_who_and_where_and_how(ngxstream: ProxyFactory) -> None:
    """Over TCP and UDP."""
    running = serving(ngxstream, "py_access m.facts;")
    port = running.port("tcp")
    assert (
        f"TCP 127.0.0.1 {port} 1 0 '' '' 0 0 None False b'' [] True True".encode()
        == tcp_exchange(running.address("tcp"))
    )
    port = running.port("udp")
    expected = f"UDP 127.0.0.1 {port} 2 0 '' '' 5 0 None False b'hello' [b'hello'] True True"
    assert expected.encode() == udp_exchange(running.address("udp"), b"hello")


def test_variables_are_a_mapping(ngxstream: ProxyFactory) -> None:
    """Of names to text; what cannot be written, or does not exist, is an error."""
    running = serving(ngxstream, "py_access m.variables;")
    assert (
        b"TCP TCP None none True False b'TCP' None  True True "
        b"KeyError KeyError TypeError TypeError TypeError '\\udcff' b'\\xfe' None"
        == tcp_exchange(running.address("tcp"))
    )


def test_functions_may_leave_word_for_others(ngxstream: ProxyFactory) -> None:
    """`state` is the session's."""
    running = serving(ngxstream, "py_access m.state; py_preread m.state_again;")
    assert b"[1, 2] True" == tcp_exchange(running.address("tcp"), b"x", size=11)


def test_what_functions_log_is_one_line_that_harms_nobody(ngxstream: ProxyFactory) -> None:
    """Escaped, cut, with the session's context, at its level."""
    running = serving(ngxstream, "py_access m.logs;")
    tcp_exchange(running.address("tcp"))
    records = [one for one in running.records() if "while running" in one.message]
    assert ["info", "notice", "warn", "error", "notice"] == [one.level for one in records]
    assert "42 while running py_access, client: 127.0.0.1, server: " in records[-1].message
    for one, name in zip(records, ("info", "notice", "warning", "error"), strict=False):
        assert one.message.startswith(rf"at {name}\x0A\x1B[31m\xE2\x80\xAE\ud800\udcffxxx")
        assert 1000 < len(one.message) < 1200


@pytest.mark.parametrize(
    ("name", "answer", "end", "said"),
    [
        ("last_word", b"", "200 closed proxy", None),
        ("closes", b"", "200 script proxy", "closed by a function while running py_access, cli"),
        ("closes_long", b"", "200 script proxy",
         r"closed by a function: \ud800\x0Axxx"),
    ],
)
def test_close_ends_a_session_unless_the_last_word_is_another(
    ngxstream: ProxyFactory, name: str, answer: bytes, end: str, said: str | None
) -> None:
    """With status 200; the reason is logged at level info, escaped and cut."""
    running = serving(ngxstream, f"py_access m.{name};")
    assert answer == tcp_exchange(running.address("tcp"))
    assert [end] == running.wait_log(".", name="logs/access.log")
    found = [one for one in running.messages("info") if one.startswith("closed by")]
    assert (said is not None) == bool(found)
    assert all(one.startswith(said or "") and len(one) < 1200 for one in found)


def test_something_can_be_sent_before_there_is_content(ngxstream: ProxyFactory) -> None:
    """To the client; there is no upstream yet."""
    running = serving(ngxstream, "py_access m.sends;")
    assert b"hello there" == tcp_exchange(running.address("tcp"))
    said = [one.partition(" while ")[0] for one in running.messages("notice")]
    assert ["TypeError: bytes are sent, not str", "ScriptError: there is no upstream yet"] == said
