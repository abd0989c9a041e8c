"""UDP sessions whose every datagram bears the client's header."""

from typing import Any

import pytest

from ngxstream.modules.proxy import headed
from ngxstream.modules.proxy.udp import UdpProxy


class Sock:
    """A socket that notes its datagrams."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def sendmsg(self, parts: list[bytes], control: list[Any]) -> int:
        """Note a message of several datagrams."""
        self.sent += [bytes(part) for part in parts]
        return sum(map(len, parts))


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a session that has its header and a socket."""
    made: Any = headed.HeadedUdpProxy.__new__(headed.HeadedUdpProxy)
    made.header, made.pc, made.gso, made.queue = b"H:", Sock(), True, None
    made.state = type("State", (), {"bytes_sent": 0})()
    monkeypatch.setattr(UdpProxy, "send", lambda self, data: self.pc.sent.append(bytes(data)))
    return made


def test_the_header_is_in_front_of_each_datagram(session: Any) -> None:
    """So the first one needs none of its own."""
    assert (b"", b"H:a") == (session.proxy_header(), session.whole(b"a"))
    session.send(memoryview(b"a"))
    assert [b"H:a"] == session.pc.sent


def test_datagrams_of_one_size_go_in_one_message(session: Any) -> None:
    """In their order, each behind the header; what was sent is counted."""
    data = [b"aa", b"bb", b"cc", b"d", b"eeee"]
    session.send_many([memoryview(each) for each in data])
    assert [b"H:" + each for each in data] == session.pc.sent
    assert session.state.bytes_sent


def test_a_burst_is_cut_up(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's message has one header to offer, and each datagram needs it."""
    taken: list[bytes] = []
    monkeypatch.setattr(headed.Headed, "take", lambda self, views: taken.extend(map(bytes, views)),
                        raising=False)
    session.take_burst(memoryview(b"aabbc"), 2)
    assert [b"aa", b"bb", b"c"] == taken
