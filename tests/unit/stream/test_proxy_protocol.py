"""Reading the PROXY protocol header of a client."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.wire import proxy_protocol
from tests.support.in_process import InProcess

TEXT = """stream {{ server {{ listen 127.0.0.1:@main@ proxy_protocol; {}
    return "$proxy_protocol_addr:$proxy_protocol_port $remote_addr"; }} }}"""


@pytest.fixture(scope="module")
def served() -> Iterator[InProcess]:
    """Serve a text that tells what the header said."""
    with InProcess(TEXT.format("")) as served:
        yield served


V1 = b"PROXY TCP4 192.0.2.1 198.51.100.1 1234 443\r\n"
V2 = proxy_protocol.build_v2(("192.0.2.2", 4321), ("198.51.100.1", 443))
SAID_V1 = b"192.0.2.1:1234 127.0.0.1"
SAID_V2 = b"192.0.2.2:4321 127.0.0.1"


def exchange(served: InProcess, *pieces: bytes, half_close: bool = False) -> tuple[bytes, int]:
    """Send pieces in turns of their own; return the answer and $status."""
    client = served.connect()
    seen = len(served.sessions)
    served.turn_until(lambda: len(served.sessions) > seen, "the session")
    s = served.sessions[-1]
    for piece in pieces:
        client.send(piece)
        for _ in range(2):
            served.loop.turn(wait_ms=1)
    if half_close:
        client.shutdown(1)
    answer = served.read(client)
    client.close()
    served.turn_until(lambda: s.status, "the end of the session")
    return answer, s.status


def logged(served: InProcess, *levels: str) -> list[str]:
    """Return and forget what was logged at some levels."""
    lines = [text for level, text in served.target.lines if level in levels]
    served.target.lines.clear()
    return lines


@pytest.mark.parametrize(("header", "expected"), [(V1, SAID_V1), (V2, SAID_V2)])
def test_a_whole_header_is_read(served: InProcess, header: bytes, expected: bytes) -> None:
    """A header that comes at once is taken, in either version."""
    assert (expected, 200) == exchange(served, header)


@pytest.mark.parametrize(("header", "expected"), [(V1, SAID_V1), (V2, SAID_V2)])
def test_a_header_may_come_byte_by_byte(served: InProcess, header: bytes, expected: bytes) -> None:
    """Where nginx refuses a split header, the pieces are put together."""
    pieces = [header[at : at + 1] for at in range(len(header))]
    assert (expected, 200) == exchange(served, *pieces)


@settings(max_examples=15)
@given(st.sampled_from([(V1, SAID_V1), (V2, SAID_V2)]), st.integers(0, 2**32))
def test_a_header_may_be_cut_anywhere(case: tuple[bytes, bytes], seed: int) -> None:
    """However a header is cut into segments, the session is the same."""
    header, expected = case
    rng = random.Random(seed)
    cuts = sorted(rng.sample(range(1, len(header)), 3))
    pieces = [header[a:b] for a, b in zip([0, *cuts], [*cuts, len(header)], strict=True)]
    with InProcess(TEXT.format("")) as served:
        assert (expected, 200) == exchange(served, *pieces)


def test_a_local_header_says_nothing(served: InProcess) -> None:
    """A health check's header is skipped and the connection is its own."""
    assert (b": 127.0.0.1", 200) == exchange(served, b"PROXY UNKNOWN\r\n")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GET / HTTP/1.0\r\n", 'broken header: "GET / HTTP/1.0"'),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n", "broken header: "),
        (proxy_protocol.SIGNATURE + b"\x31\x11\0\0", "unknown PROXY protocol version: 3"),
        (proxy_protocol.SIGNATURE + b"\x21\x11\xff\xff", "header is too large"),
    ],
)
def test_what_is_no_header_is_a_bad_request(served: InProcess, data: bytes, message: str) -> None:
    """The session ends with 400 and an error that names the trouble and the client."""
    logged(served)
    assert (b"", 400) == exchange(served, data)
    (line,) = logged(served, "error")
    assert message in line
    assert " while reading PROXY protocol, client: 127.0.0.1, server: 127.0.0.1:" in line


def test_an_end_before_the_header_is_a_bad_request(served: InProcess) -> None:
    """A client that closes without a word sent a broken header, as in nginx."""
    logged(served)
    assert (b"", 400) == exchange(served, half_close=True)
    (line,) = logged(served, "error")
    assert 'broken header: "" while' in line


def test_an_end_within_the_header_is_a_bad_request(served: InProcess) -> None:
    """What came of it is quoted."""
    logged(served)
    assert (b"", 400) == exchange(served, b"PROXY TCP4 1.2", half_close=True)
    (line,) = logged(served, "error")
    assert 'broken header: "PROXY TCP4 1.2" while' in line


@pytest.mark.effect("proxy_protocol_timeout")
@pytest.mark.parametrize("piece", [b"", b"PROXY TCP4"])
def test_a_slow_client_is_let_go(piece: bytes) -> None:
    """After proxy_protocol_timeout the session is over, with 200 and an info line."""
    with InProcess(TEXT.format("proxy_protocol_timeout 20ms;")) as hasty:
        client = hasty.connect()
        client.send(piece)
        assert b"" == hasty.read(client)
        assert 200 == hasty.sessions[0].status
        (line,) = [line for line in logged(hasty, "info") if "timed out" in line]
    assert "client timed out (110: Connection timed out) while reading PROXY protocol" in line


def test_a_reset_is_not_our_fault(served: InProcess) -> None:
    """A connection reset before its header is an info line and status 200."""
    logged(served)
    client = served.connect()
    seen = len(served.sessions)
    served.turn_until(lambda: len(served.sessions) > seen, "the session")
    client.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER 0: close() sends a RST
    client.close()
    served.turn_until(lambda: served.sessions[-1].status, "the end of the session")
    assert 200 == served.sessions[-1].status
    assert any("recv() failed (104: " in line for line in logged(served, "info"))


def test_bytes_behind_the_header_stay_for_the_session() -> None:
    """Payload that comes with the header is not lost, and header bytes are not counted."""
    text = """stream { server { listen 127.0.0.1:@main@ proxy_protocol; ssl_preread on;
        return "$proxy_protocol_addr $ssl_preread_protocol|$bytes_received"; } }"""
    with InProcess(text) as served:
        answer, _ = exchange(served, V1 + b"\x80\x2e\x01\x03\x01" + bytes(20))
    assert b"192.0.2.1 TLSv1|0" == answer


def test_a_session_ended_from_outside_leaves_no_timer() -> None:
    """worker_shutdown_timeout ends sessions that still wait for their header."""
    with InProcess(TEXT.format("")) as served:
        served.connect()
        served.turn_until(lambda: served.sessions, "the session")
        served.sessions[0].finalize(200)
        served.loop.turn(wait_ms=1)
        assert 0 == served.loop.live


def test_no_timer_is_left_behind(served: InProcess) -> None:
    """However sessions end, nothing of theirs keeps the loop waiting."""
    exchange(served, V1[:5], V1[5:])
    exchange(served, b"x")
    assert 0 == served.loop.live
