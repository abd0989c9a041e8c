"""Clients that do not mean well: garbage, cuts at every byte of a handshake, slow bytes.

Served in this process, so that descriptors and memory can be counted from outside the loop.
"""

import contextlib
import gc
import os
import random
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import certs, descriptors
from tests.support.in_process import InProcess

QUIET = {"info", "notice", "debug"}
OVERSIZED = b"\x16\x03\x03\x7f\xff"  # of a record: 32767 bytes are to come, 18432 are allowed


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> certs.Pair:
    """Give a certificate."""
    return certs.Authority(tmp_path_factory.mktemp("ca")).issue("a.test")


def conf(pair: certs.Pair) -> str:
    """Return a configuration with two virtual servers on one address."""
    tls = f"ssl_certificate {pair.cert}; ssl_certificate_key {pair.key};"
    return (
        f"stream {{ {tls} ssl_session_cache shared:s:1m; "
        'server { listen 127.0.0.1:@main@ ssl; server_name a.test; return "$ssl_cipher"; } '
        "server { listen 127.0.0.1:@main@ ssl; server_name b.test; ssl_protocols TLSv1.2; "
        "ssl_reject_handshake on; return b; } }"
    )


class Attacked:
    """A served block and what was counted of it."""

    def __init__(self, served: InProcess) -> None:
        self.served = served
        self.slots = served.loop.free_connections

    def settle(self) -> None:
        """Turn until no session lives."""
        loop = self.served.loop
        self.served.turn_until(
            lambda: loop.free_connections == self.slots and not loop.posted, "all sessions' end"
        )
        assert 0 == loop.live
        self.served.sessions.clear()

    def complaints(self) -> list[tuple[str, str]]:
        """Return what was logged above info, and forget all of it."""
        lines = self.served.target.lines
        found = [line for line in lines if line[0] not in QUIET]
        lines.clear()
        return found


@pytest.fixture(scope="module")
def attacked(pair: certs.Pair) -> Iterator[Attacked]:
    """Give a served block."""
    with InProcess(conf(pair)) as served:
        yield Attacked(served)


def connect(served: InProcess) -> socket.socket:
    """Connect, never waiting."""
    client = socket.create_connection(served.address())
    client.setblocking(False)
    return client


def attempt(
    served: InProcess,
    cut: int,
    *,
    version: ssl.TLSVersion,
    name: str,
    reset: bool,
    piece: int = 1000,
) -> int:
    """Shake hands with the first `cut` bytes of what a good client would send, then leave.

    Args: piece is how many bytes it sends at a time
    Returns: how many bytes it sent
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    client = connect(served)
    sent, idle = 0, 0
    while sent < cut and idle < 4:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            break
        data = outgoing.read()[: cut - sent]
        idle = 0 if data else idle + 1
        try:
            for at in range(0, len(data), piece):
                client.sendall(data[at : at + piece])
                served.loop.turn(wait_ms=0)
            sent += len(data)
            served.loop.turn(wait_ms=0)
            if came := client.recv(65536):
                incoming.write(came)
                idle = 0
        except BlockingIOError:
            pass
        except OSError:
            break
    if reset:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    served.loop.turn(wait_ms=0)
    return sent


def throw(served: InProcess, data: bytes) -> None:
    """Send bytes of any kind and leave."""
    client = connect(served)
    try:
        client.send(data)
        served.loop.turn(wait_ms=0)
        served.loop.turn(wait_ms=0)
    except OSError:
        pass
    client.close()


@settings(max_examples=200)
@given(
    cut=st.integers(0, 1200),
    version=st.sampled_from([ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]),
    name=st.sampled_from(["a.test", "b.test", "nobody.test"]),
    reset=st.booleans(),
)
def test_a_handshake_may_be_cut_anywhere(attacked, cut, version, name, reset) -> None:
    """Whatever the client leaves out, its session ends and nothing is said above info."""
    attempt(attacked.served, cut, version=version, name=name, reset=reset)
    attacked.settle()
    assert [] == attacked.complaints()


HEADS = st.sampled_from(
    [
        b"",
        b"\x16\x03\x01",
        b"\x16\x03\x03\x40\x00",
        b"\x16\x03\x03\xff\xff",
        b"\x17\x03\x03",
        b"\x15\x03\x03\x00\x02",
        b"\x80\x2e\x01",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01",
        b"GET / HTTP/1.0\r\n",
    ]
)


@settings(max_examples=200)
@given(HEADS, st.binary(max_size=3000))
def test_garbage_ends_the_session(attacked, head: bytes, rest: bytes) -> None:
    """Bytes of any kind, oversized records among them, harm nobody."""
    throw(attacked.served, head + rest)
    attacked.settle()
    assert [] == attacked.complaints()


@settings(max_examples=100)
@given(st.integers(0, 600), st.integers(0, 255))
def test_a_hello_with_one_byte_changed(attacked, place: int, value: int) -> None:
    """A ClientHello that is nearly right is answered or refused, in peace."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="b.test")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = bytearray(outgoing.read())
    hello[place % len(hello)] = value
    throw(attacked.served, bytes(hello))
    attacked.settle()
    assert [] == attacked.complaints()


@pytest.mark.slow
def test_nothing_is_left_of_many_attempts(pair: certs.Pair) -> None:
    """Garbage, slow bytes, oversized records, cuts: descriptors and memory stay where they were."""
    chance = random.Random(7)
    with InProcess(conf(pair)) as served:
        attacked = Attacked(served)

        def attack(count: int) -> None:
            for number in range(count):
                kind = number % 4
                if kind == 0:
                    throw(served, chance.randbytes(chance.randrange(200)))
                elif kind == 1:
                    throw(served, OVERSIZED + bytes(chance.randrange(40_000)))
                else:
                    version = chance.choice([ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
                    attempt(served, chance.randrange(1000), version=version, name="a.test",
                            reset=chance.random() < 0.5,
                            piece=chance.choice([1000, 1000, 1000, 30]))  # fmt: skip
                if not number % 50:
                    attacked.settle()
                    assert [] == attacked.complaints()
            attacked.settle()
            assert [] == attacked.complaints()

        attack(1000)  # caches and arenas fill first
        gc.collect()  # what former tests have left is not closed meanwhile
        before, memory = descriptors.count(), resident()
        attack(6000)
        assert before == descriptors.count()
        assert resident() - memory < 6000 * 200


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_slow_bytes_shake_hands_in_the_end(attacked: Attacked) -> None:
    """One byte at a time is a handshake too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="a.test")
    client = connect(attacked.served)
    said = bytearray()

    def has_all() -> bool:
        with contextlib.suppress(ssl.SSLWantReadError):
            said.extend(tls.read(100))
        for byte in outgoing.read():
            client.send(bytes((byte,)))
            attacked.served.loop.turn(wait_ms=0)
        with contextlib.suppress(BlockingIOError):
            incoming.write(client.recv(65536))
        return said == b"TLS_AES_256_GCM_SHA384"

    attacked.served.turn_until(has_all, "the answer")
    client.close()
    attacked.settle()
