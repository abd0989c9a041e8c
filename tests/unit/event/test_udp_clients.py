"""What a table of UDP clients knows them by, and the sink of a session that is not ready."""

from typing import Any

import pytest

from ngxstream.event import udp_clients

V4, V6 = ("192.0.2.1", 53), ("2001:db8::1", 53, 0, 0)


@pytest.mark.parametrize(
    ("key", "peer"),
    [(V4, V4), (V6, V6), ((V4, bytes(4)), V4), ((V6, bytes(16)), V6), ("/run/x", "/run/x"),
     (b"\0x", b"\0x"), (None, udp_clients.NOBODY)],
)  # fmt: skip
def test_answers_go_to_the_address_in_the_key(key: Any, peer: Any) -> None:
    """An unnamed Unix client has none: what is sent to NOBODY is refused."""
    assert peer == udp_clients.peer_of(key)


@pytest.mark.parametrize("local", [bytes(4), bytes(range(16))])
def test_the_local_address_is_behind_the_peer_s(local: bytes) -> None:
    """Alone, or with its length where a PROXY header follows."""
    assert local == udp_clients.local_of((V4, local))
    assert local == udp_clients.local_of((V4, bytes((len(local),)) + local + b"header"))


@pytest.mark.parametrize(
    ("key", "expected"),
    [(V4, ("127.0.0.9", 9)), ((V4, b"abcd"), (("127.0.0.9", 9), b"abcd")),
     ((V4, b"\4abcdtag"), (("127.0.0.9", 9), b"abcd")), ((V4, b"\0label"), ("127.0.0.9", 9))],
)  # fmt: skip
def test_a_client_that_moves_keeps_the_local_address(key: Any, expected: Any) -> None:
    """What told it from others at its former address is not taken along."""
    assert expected == udp_clients.moved(key, ("127.0.0.9", 9))


def test_datagrams_are_kept_for_a_session_that_is_not_ready() -> None:
    """As copies, up to a bound; what is over it is counted."""
    waiting = udp_clients.Waiting(None)  # type: ignore[arg-type]
    data = bytearray(b"abcdef")
    waiting.take_burst(memoryview(data), 4)
    data[:] = b"xxxxxx"
    assert [b"abcd", b"ef"] == waiting.kept
    waiting.take([memoryview(data)] * udp_clients.KEPT)
    assert (udp_clients.KEPT, 2) == (len(waiting.kept), waiting.dropped)
