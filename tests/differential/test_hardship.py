"""Backends and clients that misbehave: each has nginx's message and status, and harms nobody else.

A bystander's session is open while the trouble goes on, and is used again after it.
"""

import contextlib
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support import backends as b
from tests.support.clients import TcpClient, UdpClient, tcp_exchange
from tests.support.proxies import Proxy
from tests.support.stories import ended, said
from tests.support.waiting import wait_until

NOISE = bytes(range(256)) * 40


@contextlib.contextmanager
def deaf() -> Iterator[str]:
    """Give the address of a backend that never answers a SYN: its queue is full."""
    with b.TcpBackend(accepting=False, backlog=0) as backend, contextlib.ExitStack() as waiting:
        for _ in range(8):
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(backend.address)
        yield backend.text


@pytest.fixture
def bystander(same: Callable[..., None], backends: b.BackendFactory) -> Callable[..., None]:
    """Give ``bystander(conf, story)``: as same(), with a session beside that must not notice."""
    quiet = backends.tcp(b.tagged("quiet"))

    def tell(conf: str, story: Callable[[Proxy], Any], **options: Any) -> None:
        def both(program: Proxy) -> Any:
            with TcpClient(program.address("beside")) as beside:
                assert b"quiet:before" == beside.exchange(b"before", 12)
                account = story(program)
                assert b"quiet:after" == beside.exchange(b"after", 11)
            return account

        same(
            f"server {{ listen 127.0.0.1:@beside@; proxy_pass {quiet.text}; access_log off; }} "
            + conf,
            both,
            **options,
        )

    return tell


@pytest.mark.effect("proxy_connect_timeout", "proxy_next_upstream")
def test_a_backend_that_never_answers_the_syn(bystander, backends) -> None:
    """After proxy_connect_timeout the next server is tried; the log names the silent one."""
    good = backends.tcp(b.greet(b"good"))
    with deaf() as address:

        def story(program: Proxy) -> Any:
            return tcp_exchange(program.address("in")), ended(program, 1), said(program, "error")

        bystander(
            f"upstream u {{ server {address}; server {good.text}; }} server {{ "
            "listen 127.0.0.1:@in@; proxy_pass u; proxy_connect_timeout 300ms; }",
            story,
        )


@pytest.mark.effect("proxy_next_upstream_timeout")
def test_no_further_server_after_the_time_for_it(bystander, backends) -> None:
    """When proxy_next_upstream_timeout is over, a failed attempt is the last: 502."""
    good = backends.tcp(b.greet(b"good"))
    with deaf() as address:

        def story(program: Proxy) -> Any:
            return tcp_exchange(program.address("in")), ended(program, 1), said(program, "error")

        bystander(
            f"upstream u {{ server {address}; server {good.text}; }} server {{ "
            "listen 127.0.0.1:@in@; proxy_pass u; proxy_connect_timeout 300ms; "
            "proxy_next_upstream_timeout 100ms; }",
            story,
        )


def test_a_backend_that_is_down(bystander) -> None:
    """A refused connection without a next server is 502, and the client sees the end."""
    with b.refusing_tcp() as (host, port):

        def story(program: Proxy) -> Any:
            return tcp_exchange(program.address("in")), ended(program, 1), said(program, "error")

        bystander(f"server {{ listen 127.0.0.1:@in@; proxy_pass {host}:{port}; }}", story)


def test_a_backend_that_resets_in_the_middle(bystander, backends) -> None:
    """What came before a reset is delivered, then the client's connection ends."""

    def script(conversation: b.Conversation) -> None:
        conversation.recv_exactly(4)
        conversation.send(b"half")
        conversation.recv_exactly(4)  # the proxy has passed the first half on
        conversation.reset()

    rude = backends.tcp(script)

    def story(program: Proxy) -> Any:
        with TcpClient(program.address("in")) as client:
            first = client.exchange(b"ask1", 4)
            client.send(b"ask2")
            rest = client.recv_to_eof()
        return first, rest, ended(program, 1), said(program, "error")

    bystander(f"server {{ listen 127.0.0.1:@in@; proxy_pass {rude.text}; }}", story)


@pytest.mark.effect("proxy_timeout")
def test_a_backend_that_never_answers(bystander, backends) -> None:
    """Silence on both sides for proxy_timeout ends the session, with nginx's line."""
    mute = backends.tcp(b.silent)

    def story(program: Proxy) -> Any:
        rest = tcp_exchange(program.address("in"), b"anybody?")
        return rest, ended(program, 1), said(program, "info")[-3:-1]

    bystander(
        f"server {{ listen 127.0.0.1:@in@; proxy_pass {mute.text}; proxy_timeout 500ms; }}", story
    )


def test_garbage_is_payload(bystander, backends) -> None:
    """Any bytes pass both ways unchanged; the proxy has no opinion of them."""
    echo = backends.tcp()

    def story(program: Proxy) -> Any:
        with TcpClient(program.address("in")) as client:
            answer = client.exchange(NOISE)
        return answer == NOISE, ended(program, 1), said(program, "error", "warn")

    bystander(f"server {{ listen 127.0.0.1:@in@; proxy_pass {echo.text}; }}", story)


@pytest.mark.effect("proxy_half_close")
@pytest.mark.parametrize("half_close", ["on", "off"])
def test_a_backend_that_half_closes(half_close: str, bystander, backends) -> None:
    """With proxy_half_close a client may go on talking to a backend that has said all it will."""
    heard: list[bytes] = []

    def script(conversation: b.Conversation) -> None:
        conversation.send(b"bye")
        conversation.half_close()
        heard.append(conversation.recv_to_eof())

    backend = backends.tcp(script)

    def story(program: Proxy) -> Any:
        heard.clear()
        with TcpClient(program.address("in")) as client:
            answer = client.recv_to_eof()
            if half_close == "on":
                client.send(b"one more thing")
                client.half_close()
            wait_until(lambda: heard, what="the backend has read to the end")
        return answer, list(heard), ended(program, 1), said(program, "error")

    bystander(
        f"server {{ listen 127.0.0.1:@in@; proxy_pass {backend.text}; "
        f"proxy_half_close {half_close}; }}",
        story,
    )


def test_a_client_that_half_closes_at_once(bystander, backends) -> None:
    """A client that sends a FIN before anything else ends its session, in both programs alike."""
    echo = backends.tcp()

    def story(program: Proxy) -> Any:
        with TcpClient(program.address("in")) as client:
            client.half_close()
            rest = client.recv_to_eof()
        return rest, ended(program, 1), said(program, "error")

    bystander(f"server {{ listen 127.0.0.1:@in@; proxy_pass {echo.text}; }}", story)


def test_a_client_that_leaves_while_the_upstream_is_being_connected(bystander) -> None:
    """The attempt goes on without the client, up to its timeout: 502."""
    with deaf() as address:

        def story(program: Proxy) -> Any:
            client = TcpClient(program.address("in"))
            client.send(b"hello?")
            client.close()
            return ended(program, 1), said(program, "error")

        bystander(
            f"server {{ listen 127.0.0.1:@in@; proxy_pass {address}; "
            "proxy_connect_timeout 500ms; }",
            story,
        )


def test_a_client_that_resets_while_it_is_sent_to(bystander, backends) -> None:
    """A reset in the middle of a long answer ends that session alone: 200."""
    giver = backends.tcp(b.greet(bytes(8 << 20)))

    def story(program: Proxy) -> Any:
        client = TcpClient(program.address("in"), rcvbuf=4096)
        client.recv_exactly(1000)
        client.reset()
        lines = ended(program, 1)
        return [re.sub(r" \d+", " N", re.sub(r"^TCP (\d+).*", r"TCP \1", line)) for line in lines]

    bystander(f"server {{ listen 127.0.0.1:@in@; proxy_pass {giver.text}; }}", story)


def test_a_udp_backend_that_is_down(bystander) -> None:
    """ICMP port unreachable is nginx's error line; what it means for the session is ours: 502."""
    host, port = b.refusing_udp()

    def story(program: Proxy) -> Any:
        with UdpClient(program.address("in")) as client:
            client.send(b"anybody?")
            (line,) = ended(program, 1)
        assert line.startswith("UDP 502 8 0" if program.name == "ngxstream" else "UDP 200 8 0")
        return said(program, "error")

    bystander(
        f"server {{ listen 127.0.0.1:@in@ udp; proxy_pass {host}:{port}; proxy_responses 1; }}",
        story,
    )


def test_a_udp_backend_that_sends_more_than_asked_for(bystander, backends) -> None:
    """Datagrams beyond proxy_responses find no session any more and harm none."""
    many = backends.udp(b.udp_many(20))

    def story(program: Proxy) -> Any:
        with UdpClient(program.address("in")) as client:
            answer = client.exchange(b"x")
            status = ended(program, 1)[0].split()[1]
        return answer, status, said(program, "error", "crit")

    bystander(
        f"server {{ listen 127.0.0.1:@in@ udp; proxy_pass {many.text}; proxy_responses 1; }}",
        story,
    )


@pytest.mark.effect("proxy_bind")
def test_a_local_address_that_is_none(same, backends) -> None:
    """A variable that holds no address is told once, and any address is taken."""
    echo = backends.tcp()
    with b.refusing_tcp() as (host, port):

        def story(program: Proxy) -> Any:
            with TcpClient(program.address("in")) as client:
                answer = client.exchange(b"x")
            return answer, ended(program, 1), said(program, "error")

        same(
            f"map $pid $none {{ default nowhere; }} upstream u {{ server {host}:{port}; "
            f"server {echo.text}; }} server {{ listen 127.0.0.1:@in@; proxy_pass u; "
            "proxy_bind $none; }",
            story,
        )


@pytest.mark.effect("proxy_responses")
def test_no_answer_is_passed_on_that_was_not_asked_for(ngxstream, backends) -> None:
    """The session ends with the last answer that proxy_responses counts, whatever is queued."""
    many = backends.udp(b.udp_many(20))
    program = ngxstream(
        f"events {{}} stream {{ server {{ listen 127.0.0.1:@in@ udp; proxy_pass {many.text}; "
        "proxy_responses 3; } }"
    )
    for _ in range(20):
        with UdpClient(program.address("in")) as client:
            assert [b"1:x", b"2:x", b"3:x"] == [client.exchange(b"x"), client.recv(), client.recv()]
            assert [] == client.drain(0.02)


@pytest.mark.effect("proxy_upload_rate")
def test_upload_rate(same, backends) -> None:
    """A rate of 1000 gives the backend 1000 bytes first, and the rest in its time."""
    pieces: list[int] = []

    def script(conversation: b.Conversation) -> None:
        while data := conversation.recv():
            pieces.append(len(data))
        conversation.send(b"got it")

    sink = backends.tcp(script)

    def story(program: Proxy) -> Any:
        for tries in range(1, 9):
            pieces.clear()
            with TcpClient(program.address("in")) as client:
                client.send(bytes(2500))
                wait_until(lambda: sum(pieces) == 2500, what="all of it arrived")
                taken = list(pieces)
            line = ended(program, tries)[-1]
            if taken == [1000, 1000, 500]:  # whoever gets no CPU time for a second may send more
                break
        return taken, line

    same(
        f"server {{ listen 127.0.0.1:@in@; proxy_pass {sink.text}; proxy_upload_rate 1000; }}",
        story,
    )


@pytest.mark.effect("proxy_upload_rate", "proxy_download_rate")
def test_a_rate_that_is_no_size_is_told_and_not_obeyed(same, backends) -> None:
    """A variable rate that makes no sense is an error line, and the session is unlimited."""
    echo = backends.tcp()

    def story(program: Proxy) -> Any:
        with TcpClient(program.address("in")) as client:
            answer = client.exchange(b"x" * 5000)
        return len(answer), ended(program, 1), said(program, "error")

    same(
        f"map $pid $rate {{ default much; }} server {{ listen 127.0.0.1:@in@; "
        f"proxy_pass {echo.text}; proxy_upload_rate $rate; proxy_download_rate $rate; }}",
        story,
    )
