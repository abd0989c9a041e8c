"""The probe of the API: whom it asks, what it tells of each, and what it refuses."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.modules.health import by_hand
from ngxstream.stream.api import ApiError, Reply, Request
from tests.support.in_process import InProcess

CONF = """stream {
    match hello { send "\\x00hi\\r\\n"; expect "hello w"; }
    match word { expect ~* "W.R"; }
    upstream u { server 127.0.0.1:@a@; server 127.0.0.1:@b@ backup; }
    upstream bare { server 127.0.0.1:1; }
    upstream many { MANY }
    server { listen 127.0.0.1:@s@; proxy_pass u; health_check match=hello; CHECK }
    server { listen 127.0.0.1:@t@; proxy_pass bare; }
    server { listen 127.0.0.1:@v@; proxy_pass many; health_check; }
}""".replace("MANY", " ".join(f"server 127.0.0.1:{n};" for n in range(1, 35)))


class Lab:
    """A configuration and what its two servers say."""

    def __init__(self, check: str = "") -> None:
        self.served = InProcess(CONF.replace("CHECK", check))
        self.replies: list[Any] = []
        self.socks = [socket.create_server(("127.0.0.1", self.served.port(one))) for one in "ab"]

    def begin(self, name: str = "u", **args: str) -> None:
        """Ask for a probe. Raises: ApiError"""
        s: Any = SimpleNamespace(loop=self.served.loop)
        request = Request(s, self.served.conf, "POST", {"name": name}, args, {}, None, True,
                          self.replies.append)
        assert by_hand.ENDPOINTS[0].operations["POST"].run(request) is None

    def result(self) -> list[dict[str, Any]]:
        """Return the probes of the reply."""
        self.served.turn_until(lambda: self.replies)
        (reply,) = self.replies
        assert isinstance(reply, Reply)
        for one in reply.value["probes"]:
            assert one.pop("took_ms") >= 0
            assert set(one) | {"took_ms"} == set(
                by_hand.RESULT["properties"]["probes"]["items"]["required"]
            )
        return reply.value["probes"]

    def answer(self, number: int, text: bytes) -> None:
        """Have a server answer the next connection."""
        sock, _ = self.socks[number].accept()
        self.served.clients.append(sock)
        sock.sendall(text)

    def close(self) -> None:
        """Close all."""
        for sock in self.socks:
            sock.close()
        self.served.close()


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Give a lab."""
    made = Lab()
    yield made
    made.close()


def test_what_was_said_and_where_it_parts_is_told(lab: Lab) -> None:
    """Of each server, the backups too."""
    lab.begin()
    lab.answer(0, b"hello world\n")
    lab.answer(1, b"hello\xff")
    one, other = lab.result()
    assert one == {
        "check": "match=hello", "id": 0, "peer": f"127.0.0.1:{lab.served.port('a')}",
        "passed": True, "why": "well", "sent": r"\x00hi\r\n", "received": r"hello world\n",
        "expected": '"hello w"', "parts_at": None, "certificate_days_left": None,
    }
    assert (other["passed"], other["parts_at"]) == (False, 5)
    assert other["received"] == r"hello\xff"
    assert other["why"] == r'expected "hello w", got "hello\xff"'


def test_one_server_is_chosen_by_address_or_id(lab: Lab) -> None:
    """No other is asked."""
    for peer in ("1", f"127.0.0.1:{lab.served.port('b')}"):
        lab.begin(peer=peer)
        lab.answer(1, b"no")
        (one,) = lab.result()
        assert (one["id"], one["passed"], one["parts_at"]) == (1, False, 0)
        lab.replies.clear()


def test_states_stay_as_they_are(lab: Lab) -> None:
    """What is found by hand is told, and nothing else comes of it."""
    lab.begin(peer="0")
    lab.answer(0, b"no")
    lab.result()
    group = lab.served.conf.data["health"][0]
    (peer, _) = by_hand.group.peers_of(group.upstream)
    assert not peer.state.status
    assert not any(group.records[0].target(0)[n] for n in (2, 3, 4, 5))


@pytest.mark.parametrize(
    ("name", "args", "status", "code"),
    [
        ("x", {}, 404, "UpstreamNotFound"),
        ("bare", {}, 404, "HealthCheckNotFound"),
        ("u", {"peer": "7"}, 404, "UpstreamServerNotFound"),
        ("many", {}, 400, "ProbeTooMany"),
    ],
)
def test_what_cannot_be_probed_is_refused(
    lab: Lab, name: str, args: dict[str, str], status: int, code: str
) -> None:
    """With its code."""
    with pytest.raises(ApiError) as found:
        lab.begin(name, **args)
    assert (found.value.status, found.value.code) == (status, code)
    assert code in by_hand.ENDPOINTS[0].operations["POST"].errors


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        ("health_check match=word;", "~ W.R"),
        ("health_check type=redis;", "what redis servers answer"),
        ("health_check;", "a connection"),
        ("health_check type=tls;", "a TLS handshake"),
        ("health_check udp;", "no ICMP message"),
        ("health_check type=radius secret=abc;", "what radius servers answer"),
    ],
)
def test_what_is_expected_is_told_of_every_check(check: str, expected: str) -> None:
    """And no secret."""
    lab = Lab(check)
    try:
        checks = lab.served.conf.data["health"][0].checks
        assert [by_hand.expected(one) for one in checks] == ['"hello w"', expected]
        assert "abc" not in checks[1].spec.text
    finally:
        lab.close()


@pytest.mark.parametrize(
    ("bind", "local"),
    [("127.0.0.9", "127.0.0.9"), ("127.0.0.9:7", "127.0.0.9"), ("$remote_addr", "127.0.0.1"),
     ("[::1]", "127.0.0.1"), ("off", "127.0.0.1")],
)
def test_a_check_comes_from_where_sessions_come_from(bind: str, local: str) -> None:
    """By any port; where that is another one for each session, from anywhere."""
    lab = Lab(f"proxy_bind {bind};")
    try:
        lab.begin(peer="0")
        sock, client = lab.socks[0].accept()
        lab.served.clients.append(sock)
        sock.sendall(b"hello world")
        assert lab.result()[0]["passed"]
        assert client[0] == local
    finally:
        lab.close()


def test_bytes_are_spelled() -> None:
    """As a configuration would have them."""
    assert by_hand.spelled(b"a'\"\\\0\xff\n") == r"""a'"\\\x00\xff\n"""
    assert by_hand.spelled(b"'") == "'"
    assert by_hand.spelled(b'"') == '"'
    assert by_hand.spelled(b"") == ""
