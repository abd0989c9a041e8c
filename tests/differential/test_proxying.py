"""The proxy beside nginx: what the client, the backends and the log saw of the same story.

Each test tells one story on both programs through `same()`; a story returns what it saw, and the
two accounts must be equal. Ports and the program's own name are the only things levelled out.
"""

import contextlib
import os
import re
import socket
import struct
import tempfile
import threading
from typing import Any

import pytest

from tests.support import backends as b
from tests.support.clients import TcpClient, UdpClient, tcp_exchange
from tests.support.proxies import Proxy
from tests.support.stories import HEAD, ended, said
from tests.support.waiting import wait_until


@pytest.mark.effect("upstream", "upstream/server", "proxy_pass")
def test_round_robin_order_with_weights(same, backends) -> None:
    """Weights 5, 1 and 1 are served a a b a c a a, over and over."""
    names = [backends.tcp(b.greet(name)) for name in (b"a", b"b", b"c")]

    def story(program: Proxy) -> Any:
        return [tcp_exchange(program.address("in")) for _ in range(21)]

    lines = "".join(f"server {s.text} weight={w}; " for s, w in zip(names, (5, 1, 1), strict=True))
    same(f"upstream u {{ {lines} }} server {{ listen 127.0.0.1:@in@; proxy_pass u; }}", story)


@pytest.mark.effect("upstream/server")
def test_udp_round_robin_order_with_weights_and_a_down_server(same, backends) -> None:
    """UDP sessions are spread as TCP ones are; a server that is down gets none."""
    names = [backends.udp(b.udp_tagged(name)) for name in ("a", "b", "c")]

    def story(program: Proxy) -> Any:
        seen = []
        for _ in range(12):
            with UdpClient(program.address("in")) as client:
                seen.append(client.exchange(b"x"))
        return seen

    options = ("weight=3", "weight=2", "down")
    lines = "".join(f"server {s.text} {o}; " for s, o in zip(names, options, strict=True))
    same(
        f"upstream u {{ {lines} }} "
        "server { listen 127.0.0.1:@in@ udp; proxy_pass u; proxy_responses 1; }",
        story,
    )


@pytest.mark.effect("proxy_next_upstream")
def test_next_upstream_after_a_refused_connection(same, backends) -> None:
    """A refused connect goes on to the next server, and the log says so in nginx's words."""
    good = backends.tcp(b.greet(b"good"))
    with b.refusing_tcp() as (host, port):

        def story(program: Proxy) -> Any:
            seen = [tcp_exchange(program.address("in")) for _ in range(4)]
            return seen, ended(program, 4), said(program, "error", "warn")

        same(
            f"upstream u {{ server {host}:{port} max_fails=2; server {good.text}; }} "
            "server { listen 127.0.0.1:@in@; proxy_pass u; }",
            story,
        )


@pytest.mark.effect("upstream/server")
def test_no_live_upstreams(same, backends) -> None:
    """When every server refused, the rest of their fail_timeout is 502 without an attempt."""
    with b.refusing_tcp() as (h1, p1), b.refusing_tcp() as (h2, p2):

        def story(program: Proxy) -> Any:
            seen = [tcp_exchange(program.address("in")) for _ in range(3)]
            return seen, ended(program, 3), said(program, "error", "warn")

        same(
            f"upstream u {{ server {h1}:{p1}; server {h2}:{p2}; }} "
            "server { listen 127.0.0.1:@in@; proxy_pass u; }",
            story,
        )


@pytest.mark.effect("upstream/server")
def test_a_server_comes_back_after_its_fail_timeout(same, backends) -> None:
    """max_fails disables a server for fail_timeout; then one session tries it again."""
    good = backends.tcp(b.greet(b"good"))
    with b.make_socket(socket.AF_INET, socket.SOCK_STREAM) as late:
        late.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        late.bind(("127.0.0.1", 0))
        port = late.getsockname()[1]

        def story(program: Proxy) -> Any:
            before = [tcp_exchange(program.address("in")) for _ in range(3)]
            with _serve(late):
                wait_until(
                    lambda: tcp_exchange(program.address("in")) == b"late", 30, "the server back"
                )
            return before

        same(
            f"upstream u {{ server 127.0.0.1:{port} max_fails=1 fail_timeout=2s; "
            f"server {good.text} backup; }} server {{ listen 127.0.0.1:@in@; proxy_pass u; }}",
            story,
        )


class _serve:  # noqa: N801 - reads as a verb
    """Let a bound socket listen and answer `late` while the ``with`` lasts."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.stop = False

    def __enter__(self) -> None:
        self.sock.listen(16)
        self.sock.settimeout(0.1)
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        while not self.stop:
            try:
                got, _ = self.sock.accept()
            except TimeoutError:
                continue
            with got:
                got.sendall(b"late")

    def __exit__(self, *_: object) -> None:
        self.stop = True
        self.thread.join()
        # a socket that stops listening refuses again
        self.sock.shutdown(socket.SHUT_RD)


@pytest.mark.effect("proxy_next_upstream", "proxy_next_upstream_tries")
def test_next_upstream_off_and_tries(same, backends) -> None:
    """proxy_next_upstream off, and a cap of tries, end the session with 502."""
    good = backends.tcp(b.greet(b"good"))
    with b.refusing_tcp() as (h1, p1), b.refusing_tcp() as (h2, p2):

        def story(program: Proxy) -> Any:
            seen = [tcp_exchange(program.address(name)) for name in ("off", "tries", "all")]
            return seen, ended(program, 3)

        servers = f"server {h1}:{p1} max_fails=0; server {h2}:{p2} max_fails=0; "
        same(
            f"upstream u {{ {servers} server {good.text}; }} upstream v {{ {servers} "
            f"server {good.text}; }} upstream w {{ {servers} server {good.text}; }} "
            "server { listen 127.0.0.1:@off@; proxy_pass u; proxy_next_upstream off; } "
            "server { listen 127.0.0.1:@tries@; proxy_pass v; proxy_next_upstream_tries 2; } "
            "server { listen 127.0.0.1:@all@; proxy_pass w; }",
            story,
        )


@pytest.mark.effect("upstream/server")
def test_max_conns_turns_sessions_away(same, backends) -> None:
    """A server at its max_conns takes no further session; with no other one it is 502."""
    echo = backends.tcp(b.echo)

    def story(program: Proxy) -> Any:
        with TcpClient(program.address("in")) as first:
            first.exchange(b"hold")
            turned = tcp_exchange(program.address("in"))
            lines = ended(program, 1)
        ended(program, 2)
        with TcpClient(program.address("in")) as again:
            back = again.exchange(b"again")
        return turned, lines, back, said(program, "error")

    same(
        f"upstream u {{ server {echo.text} max_conns=1; }} "
        "server { listen 127.0.0.1:@in@; proxy_pass u; }",
        story,
    )


@pytest.mark.effect("proxy_timeout")
def test_proxy_timeout_on_tcp(same, backends) -> None:
    """An idle TCP session ends after proxy_timeout with status 200 and a line at info."""
    echo = backends.tcp(b.echo)

    def story(program: Proxy) -> Any:
        with TcpClient(program.address("in")) as client:
            client.exchange(b"ping")
            rest = client.recv_to_eof()
        return rest, ended(program, 1), said(program, "info", "error")

    same(f"server {{ listen 127.0.0.1:@in@; proxy_pass {echo.text}; proxy_timeout 1s; }}", story)


@pytest.mark.effect("proxy_timeout")
def test_proxy_timeout_on_udp_with_a_missing_response(same, backends) -> None:
    """Silence where a response was owed is 502, an error line, and a failure of the peer."""
    silent = backends.udp(b.udp_silent)

    def story(program: Proxy) -> Any:
        with UdpClient(program.address("in")) as client:
            client.send(b"anyone?")
            lines = ended(program, 1)
        return lines, said(program, "error")

    same(
        f"server {{ listen 127.0.0.1:@in@ udp; proxy_pass {silent.text}; proxy_timeout 1s; "
        "proxy_responses 1; }",
        story,
    )


def test_proxy_timeout_on_udp_with_responses_unlimited(same, backends) -> None:
    """Without proxy_responses an idle UDP session ends well."""
    echo = backends.udp()

    def story(program: Proxy) -> Any:
        with UdpClient(program.address("in")) as client:
            answers = [client.exchange(b"%d" % i) for i in range(3)]
            lines = ended(program, 1)
        return answers, lines, said(program, "info", "error")

    same(
        f"server {{ listen 127.0.0.1:@in@ udp; proxy_pass {echo.text}; proxy_timeout 1s; }}", story
    )


@pytest.mark.effect("proxy_responses")
def test_proxy_responses_0(same, backends) -> None:
    """With no responses wanted a session ends with its first datagram."""
    silent = backends.udp(b.udp_silent)

    def story(program: Proxy) -> Any:
        before = len(silent.seen)
        with UdpClient(program.address("in")) as client:
            for i in range(3):
                client.send(b"%d" % i)
                silent.wait_seen(before + i + 1)
                ended(program, i + 1)
        return silent.datagrams[before:], ended(program, 3), said(program, "info", "error")

    same(
        f"server {{ listen 127.0.0.1:@in@ udp; proxy_pass {silent.text}; proxy_responses 0; }}",
        story,
    )


@pytest.mark.effect("proxy_responses")
@pytest.mark.parametrize("count", [1, 3])
def test_proxy_responses_n(count, same, backends) -> None:
    """A session is done when each datagram has had its responses, and a new one begins after."""
    many = backends.udp(b.udp_many(count))

    def story(program: Proxy) -> Any:
        seen = []
        with UdpClient(program.address("in")) as client:
            for i in range(3):
                client.send(b"q%d" % i)
                seen += [client.recv() for _ in range(count)]
                ended(program, i + 1)
        return seen, ended(program, 3), said(program, "info", "error")

    same(
        f"server {{ listen 127.0.0.1:@in@ udp; proxy_pass {many.text}; "
        f"proxy_responses {count}; }}",
        story,
    )


@pytest.mark.effect("proxy_requests")
def test_proxy_requests(same, backends) -> None:
    """After proxy_requests datagrams the next one begins a new session, on the next server."""
    names = [backends.udp(b.udp_tagged(name)) for name in ("a", "b")]

    def story(program: Proxy) -> Any:
        with UdpClient(program.address("in")) as client:
            seen = [client.exchange(b"%d" % i) for i in range(7)]
            lines = ended(program, 3)
        return seen, lines

    lines = "".join(f"server {s.text}; " for s in names)
    same(
        f"upstream u {{ {lines} }} server {{ listen 127.0.0.1:@in@ udp; proxy_pass u; "
        "proxy_requests 2; proxy_responses 1; proxy_timeout 20s; }",
        story,
    )


@pytest.mark.effect("proxy_half_close")
def test_half_close(same, backends) -> None:
    """proxy_half_close passes a FIN on and waits for the answer; without it the answer is lost."""
    late = backends.tcp(b.half_close(b"answer"))

    def story(program: Proxy) -> Any:
        on = tcp_exchange(program.address("on"), b"question", half_close=True)
        off = tcp_exchange(program.address("off"), b"question", half_close=True)
        return on, off, ended(program, 2)[0]

    same(
        f"server {{ listen 127.0.0.1:@on@; proxy_pass {late.text}; proxy_half_close on; }} "
        f"server {{ listen 127.0.0.1:@off@; proxy_pass {late.text}; }}",
        story,
    )


def test_a_zero_length_datagram(same, backends) -> None:
    """Empty datagrams are passed on and counted both ways."""
    echo = backends.udp()

    def story(program: Proxy) -> Any:
        before = len(echo.seen)
        with UdpClient(program.address("in")) as client:
            answers = [client.exchange(b""), client.exchange(b"x"), client.exchange(b"")]
            lines = ended(program, 1)
        return answers, echo.datagrams[before:], lines, said(program, "info")

    same(
        f"server {{ listen 127.0.0.1:@in@ udp; proxy_pass {echo.text}; proxy_timeout 1s; }}", story
    )


def test_a_client_s_reset_is_passed_over(same, backends) -> None:
    """A reset of the client is said at info and ends the session with 200."""
    echo = backends.tcp(b.echo)

    def story(program: Proxy) -> Any:
        client = TcpClient(program.address("in"))
        client.exchange(b"ping")
        client.reset()
        return ended(program, 1), said(program, "info", "error")

    same(f"server {{ listen 127.0.0.1:@in@; proxy_pass {echo.text}; }}", story)


def test_an_upstream_s_reset(same, backends) -> None:
    """A reset of the upstream is an error line, and the client sees the end of the stream."""
    rude = backends.tcp(b.reset)

    def story(program: Proxy) -> Any:
        rest = tcp_exchange(program.address("in"), b"ping")
        return rest, ended(program, 1), said(program, "error")

    same(f"server {{ listen 127.0.0.1:@in@; proxy_pass {rude.text}; }}", story)


def test_the_last_answer_survives_a_client_that_nobody_reads(same, backends) -> None:
    """A server answers and ends while the client's bytes are stuck: the answer comes whole."""
    stuck = threading.Event()

    def answer(conversation: b.Conversation) -> None:
        stuck.wait(20)
        conversation.send(b"enough")
        conversation.half_close()
        conversation.hold()

    server = backends.tcp(answer)

    def story(program: Proxy) -> Any:
        stuck.clear()
        with TcpClient(program.address("in")) as client:
            client.sock.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                while True:
                    client.sock.send(bytes(1 << 16))
            stuck.set()
            client.sock.settimeout(20)
            heard = b""
            with contextlib.suppress(ConnectionResetError):
                while data := client.recv():
                    heard += data
        return heard, [line.split()[0] for line in ended(program, 1)]

    same(f"server {{ listen 127.0.0.1:@in@; proxy_pass {server.text}; }}", story)


@pytest.mark.effect("proxy_bind")
def test_proxy_bind(same, backends) -> None:
    """proxy_bind gives the address upstream connections come from, also by a variable."""
    echo = backends.tcp(b.echo)
    udp = backends.udp()

    def story(program: Proxy) -> Any:
        seen = []
        for name in ("fixed", "variable"):
            with TcpClient(program.address(name), source=("127.0.0.9", 0)) as client:
                client.exchange(b"x")
                seen.append(echo.conversations[-1].peer[0])
        with UdpClient(program.address("udp")) as client:
            client.exchange(b"x")
        return seen, udp.seen[-1][1][0]

    same(
        f"server {{ listen 127.0.0.1:@fixed@; proxy_pass {echo.text}; proxy_bind 127.0.0.5; }} "
        f"server {{ listen 127.0.0.1:@variable@; proxy_pass {echo.text}; "
        "proxy_bind $remote_addr; } "
        f"server {{ listen 127.0.0.1:@udp@ udp; proxy_pass {udp.text}; proxy_bind 127.0.0.6; }}",
        story,
    )


@pytest.mark.effect("proxy_bind")
def test_a_bind_that_fails_is_500(same, backends) -> None:
    """A local address nobody has is a crit line and a 500, and says nothing of the peer."""
    echo = backends.tcp(b.echo)

    def story(program: Proxy) -> Any:
        rest = tcp_exchange(program.address("in"))
        return rest, ended(program, 1), said(program, "crit", "error")

    same(
        f"server {{ listen 127.0.0.1:@in@; proxy_pass {echo.text}; proxy_bind 192.0.2.77; }}",
        story,
    )


@pytest.mark.effect("proxy_protocol")
def test_proxy_protocol_v1_to_the_upstream(same, backends) -> None:
    """The header comes first, with the client's and the listener's addresses."""
    sink = backends.tcp(b.silent)

    def story(program: Proxy) -> Any:
        before = sink.accepted
        with TcpClient(program.address("in"), source=("127.0.0.3", 0)) as client:
            client.send(b"hello")
            name = client.name
        sink.wait_ended(before + 1)
        head, rest = bytes(sink.conversations[-1].received).split(b"\r\n")
        expected = b"PROXY TCP4 127.0.0.3 127.0.0.1 %d %d" % (name[1], program.port("in"))
        return head == expected, rest, re.sub(r"\d{4,}", "N", ended(program, 1)[0])

    same(
        f"server {{ listen 127.0.0.1:@in@; proxy_pass {sink.text}; proxy_protocol on; }}", story
    )


@pytest.mark.effect("proxy_download_rate")
def test_download_rate(same, backends) -> None:
    """A rate of 1000 gives 1000 bytes in the first second, and the rest in its time."""
    giver = backends.tcp(b.greet(bytes(2500)))

    def story(program: Proxy) -> Any:
        with TcpClient(program.address("in")) as client:
            first = client.recv_exactly(1000)
            rest = client.recv_to_eof()
        return len(first), len(rest), ended(program, 1)

    same(
        f"server {{ listen 127.0.0.1:@in@; proxy_pass {giver.text}; proxy_download_rate 1000; }}",
        story,
    )


@pytest.mark.effect("listen")
def test_unix_sockets_both_ways(same, backends) -> None:
    """A unix: listener and a unix: upstream serve streams; the log says unix:."""
    with tempfile.TemporaryDirectory() as folder:  # tmp_path may be too long for a socket
        os.chmod(folder, 0o777)
        echo = backends.tcp(b.tagged("u"), host=f"{folder}/up.sock")

        def story(program: Proxy) -> Any:
            with TcpClient(f"{folder}/in.sock") as client:
                answer = client.exchange(b"x", 3)
            lines = [line.replace(folder, "") for line in ended(program, 1)]
            logged = [line.replace(folder, "") for line in said(program, "info", "error")]
            return answer, lines, logged


        same(f"server {{ listen unix:{folder}/in.sock; proxy_pass {echo.text}; }}", story)


@pytest.mark.effect("listen")
def test_wildcard_udp_answers_from_the_address_used(same, backends) -> None:
    """A client that asks 127.0.0.7 is answered by 127.0.0.7."""
    echo = backends.udp()

    def story(program: Proxy) -> Any:
        seen = []
        for host in ("127.0.0.7", "127.0.0.8"):
            with UdpClient((host, program.port("in")), connected=False) as client:
                client.send(b"x")
                data, (source, _) = client.recv_from()
                seen.append((data, source))
        return seen

    same(f"server {{ listen @in@ udp; proxy_pass {echo.text}; proxy_timeout 1s; }}", story)


def test_large_datagrams(proxy, backends) -> None:
    """Datagrams of up to 65507 bytes pass whole both ways (nginx cuts what is not the first)."""
    echo = backends.udp(rcvbuf=1 << 20)
    if proxy.name == "nginx":
        pytest.skip("nginx cuts datagrams at proxy_buffer_size: a divergence")
    program = proxy(
        HEAD + f"server {{ listen 127.0.0.1:@in@ udp; proxy_pass {echo.text}; }} }}"
    )
    with UdpClient(program.address("in")) as client:
        for size in (65507, 16385, 1, 65507, 0, 40000):
            data = struct.pack("!I", size)[:size] + bytes(max(0, size - 4))
            assert data == client.exchange(data)
