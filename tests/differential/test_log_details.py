"""Lines of the error log that depend on what has ended already, and values of a hello in parts."""

import re
import socket
import ssl

import pytest

from tests.support import certs, hellos
from tests.support.clients import TcpClient
from tests.support.ports import free_port


def messages(program, pattern: str, count: int = 1) -> list[str]:
    """Return the messages that match once there are so many, without numbers and ports."""
    program.wait_log(pattern, count=count)
    found = [line for line in program.error_log() if re.search(pattern, line)]
    plain = [re.sub(r"^.*?(\[\w+\]) \d+#\d+: (\*\d+ )?", r"\1 ", line) for line in found]
    return [re.sub(r"(127\.0\.0\.1|resolver: 127\.0\.0\.1):\d+", r"\1:P", line) for line in plain]


def test_an_upstream_that_is_closed_was_sent_nothing(both, backends) -> None:
    """What is said while the access log is written counts no bytes to the upstream."""

    def answer(conversation) -> None:
        conversation.sock.recv(1)
        conversation.sock.sendall(b"abc")

    backend = backends.tcp(answer)
    pair = both(
        "events {} stream { log_format f $status; access_log /nosuch/$remote_addr f; "
        f"server {{ listen 127.0.0.1:@main@; proxy_pass {backend.text}; }} }}"
    )
    said = []
    for program in pair:
        client = TcpClient(program.address("main"))
        client.send(b"x")
        assert b"abc" == client.recv_exactly(3)
        assert b"" == client.recv_to_eof()
        client.close()
        said.append(messages(program, "/nosuch/127.0.0.1"))
    nginx, ours = said
    assert nginx == ours
    assert ours[0].endswith("bytes from/to client:1/3, bytes from/to upstream:3/0")


def test_bytes_that_come_with_the_end_of_a_tls_session_are_told(both, tmp_path) -> None:
    """Data of a client that is sent a text is nobody's; the end of the session says so."""
    pair_ = certs.Authority(tmp_path / "ca").issue("a.test")
    programs = both(
        "events {} stream { ssl_protocols TLSv1.3; server { listen 127.0.0.1:@main@ ssl; "
        f"return text; ssl_certificate {pair_.cert}; ssl_certificate_key {pair_.key}; }} }}"
    )
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    # what a client of 1.3 sends behind its last handshake message comes with that
    said = []
    for program in programs:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname="a.test")
        with socket.create_connection(program.address("main")) as sock:
            sock.settimeout(20)
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    if outgoing.pending:
                        sock.sendall(outgoing.read())
                    incoming.write(sock.recv(65536))
            tls.write(b"data nobody reads")
            sock.sendall(outgoing.read())
            said.append(messages(program, r"SSL_shutdown\(\) failed"))
    nginx, ours = said
    assert [line.replace("[crit]", "[info]") for line in nginx] == ours  # the client's doing


@pytest.mark.parametrize("ending", ["fin", "timeout"])
def test_a_hello_of_which_some_records_came_is_known_so_far(ending: str, both) -> None:
    """The variables tell of what whole records said before the end or preread_timeout."""
    hello = hellos.in_records(hellos.made_hello(b"some.name.test"), RECORD)
    pair = both(
        "events {} stream { preread_timeout 300ms; ssl_preread on; "
        "log_format f '$status|$ssl_preread_protocol|$ssl_preread_server_name|'; "
        "access_log logs/access.log f; server { listen 127.0.0.1:@main@; return x; } }"
    )
    said: list[list[str]] = []
    for program in pair:
        waiting = []
        for number, size in enumerate(range(1, len(hello), RECORD + 5), 1):
            client = TcpClient(program.address("main"))
            client.send(hello[:size])
            waiting.append(client)
            if ending == "fin":
                client.half_close()
            # one after another: the lines are in their order
            program.wait_log("", count=number, name="logs/access.log")
        said.append(program.access_log())
        for client in waiting:
            client.close()
    assert said[0] == said[1]
    assert {"200||", "200|TLSv1.2|"} <= {line[:-1].rpartition("|")[0] + "|" for line in said[1]}


RECORD = 20  # bytes of the message in each record


def test_a_resolver_that_is_dead_is_told_of(both) -> None:
    """Each question has a socket of its own here, so that it is the response that fails."""
    dead = free_port()
    pair = both(
        f"events {{}} stream {{ resolver 127.0.0.1:{dead}; resolver_timeout 1s; "
        "map $remote_addr $there { default gone.test; } "
        "server { listen 127.0.0.1:@main@; proxy_pass $there:9; } }"
    )
    said = []
    for program in pair:
        client = TcpClient(program.address("main"))
        assert b"" == client.recv_to_eof()
        client.close()
        said.append(messages(program, "failed.* while resolving"))
    nginx, ours = said
    words = "failed (111: Connection refused) while resolving, resolver: 127.0.0.1:P"
    assert f"[error] send() {words}" in nginx
    assert {f"[error] recv() {words}"} == set(ours)
