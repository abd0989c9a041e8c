"""How sessions begin, on nginx and here: PROXY headers, real addresses, preread, set, return.

nginx 1.22 stands beside; what is newer than it is left to the unit tests.
"""

import contextlib
import re
from collections.abc import Callable

import pytest

from ngxstream.wire import proxy_protocol
from tests.support import clients
from tests.support.backends import BackendFactory
from tests.support.hellos import client_hello, in_records
from tests.support.proxies import Proxy

Pair = tuple[Proxy, Proxy]
Both = Callable[..., Pair]


def ask(proxy: Proxy, name: str, data: bytes = b"", *, half_close: bool = False) -> bytes:
    """Send at once and return all of the answer, whether it ends by FIN or RST."""
    with clients.TcpClient(proxy.address(name)) as client:
        if data:
            client.send(data)
        if half_close:
            with contextlib.suppress(OSError):  # the answer may have come with a RST behind it
                client.half_close()
        answer = bytearray()
        try:
            while piece := client.recv():
                answer += piece
        except ConnectionResetError:
            pass
        own = str(client.name[1])
        there = str(proxy.port(name))
    return bytes(answer).replace(own.encode(), b"OWN").replace(there.encode(), b"THERE")


def complaints(proxy: Proxy) -> list[str]:
    """Return what sessions complained of, ports taken out."""
    said = proxy.messages("error") + proxy.messages("warn")
    return [re.sub(r"(127\.0\.0\.1|\[::1\]):\d+", r"\1:PORT", message) for message in said]


def statuses(proxy: Proxy, count: int) -> list[str]:
    """Wait for that many access log lines and return them."""
    return proxy.wait_log("", count=count, name="logs/access.log")


V1 = b"PROXY TCP4 192.0.2.1 198.51.100.1 1234 443\r\n"
V1_6 = b"PROXY TCP6 2001:db8::1 2001:db8::2 1234 443\r\n"
MARK = proxy_protocol.SIGNATURE
V2 = proxy_protocol.build_v2(("192.0.2.2", 4321), ("198.51.100.1", 443))
V2_6 = proxy_protocol.build_v2(("2001:db8::3", 4321, 0, 0), ("2001:db8::4", 443, 0, 0))

HEADERS = {
    "v1": V1,
    "v1, IPv6": V1_6,
    "v1, unknown": b"PROXY UNKNOWN\r\n",
    "v1, unknown with words": b"PROXY UNKNOWN a b c\r\n",
    "v1, odd address": b"PROXY TCP4 999.999.999.999 1.2.3.4 1 2\r\n",
    "v1, hex address in IPv4": b"PROXY TCP4 abc 1.2.3.4 1 2\r\n",
    "v1, name for an address": b"PROXY TCP4 host 1.2.3.4 1 2\r\n",
    "v1, port 0": b"PROXY TCP4 1.2.3.4 5.6.7.8 0 0\r\n",
    "v1, port 65535": b"PROXY TCP4 1.2.3.4 5.6.7.8 65535 65535\r\n",
    "v1, port 65536": b"PROXY TCP4 1.2.3.4 5.6.7.8 65536 1\r\n",
    "v1, no port": b"PROXY TCP4 1.2.3.4 5.6.7.8\r\n",
    "v1, odd port": b"PROXY TCP4 1.2.3.4 5.6.7.8 x 1\r\n",
    "v1, two spaces": b"PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
    "v1, LF alone": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
    "v1, UDP": b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
    "v1, lower case": b"proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    "v1, TCP5": b"PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n",
    "v2": V2,
    "v2, IPv6": V2_6,
    "v2, local": MARK + b"\x20\x00\x00\x00",
    "v2, local with addresses": MARK + b"\x20\x11\x00\x0c" + bytes(12),
    "v2, datagram": MARK + b"\x21\x12\x00\x0c" + bytes(12),
    "v2, unspecified": MARK + b"\x21\x00\x00\x00",
    "v2, version 1": MARK + b"\x11\x11\x00\x0c" + bytes(12),
    "v2, version 3": MARK + b"\x31\x11\x00\x0c" + bytes(12),
    "v2, with TLVs": proxy_protocol.build_v2(
        ("192.0.2.3", 1), ("192.0.2.4", 2), tlvs=proxy_protocol.build_tlv(1, b"h2")
    ),
    "no header": b"GET / HTTP/1.0\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x00\x05hello",
}


def test_whole_headers_are_read_alike(both: Both) -> None:
    """A header that comes at once gives the same variables, addresses, statuses and errors."""
    pair = both(
        """events {} stream {
        log_format f "$status $proxy_protocol_addr $proxy_protocol_port "
            "$proxy_protocol_server_addr $proxy_protocol_server_port $remote_addr "
            "$realip_remote_addr $bytes_received";
        access_log logs/access.log f;
        server { listen 127.0.0.1:@main@ proxy_protocol; set_real_ip_from 127.0.0.0/8;
            return "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr "; }
        }"""
    )
    for name, header in HEADERS.items():
        answers = [ask(proxy, "main", header) for proxy in pair]
        assert answers[0] == answers[1], name
    nginx, ours = (statuses(proxy, len(HEADERS)) for proxy in pair)
    assert dict(zip(HEADERS, nginx, strict=True)) == dict(zip(HEADERS, ours, strict=True))
    # nginx 1.22 quotes all that came, line ends included; later ones the first line. What a
    # terminal would not print we escape.
    quoted = [
        [re.split(r'[\r\n]|" while', line)[0] for line in complaints(proxy) if "hello" not in line]
        for proxy in pair
    ]
    assert quoted[0] == quoted[1]


def test_missing_headers_end_alike(both: Both) -> None:
    """A client that closes without a header, or sends none in time."""
    pair = both(
        """events {} stream { log_format f "$status"; access_log logs/access.log f;
        server { listen 127.0.0.1:@main@ proxy_protocol; return x; }
        server { listen 127.0.0.1:@hasty@ proxy_protocol; proxy_protocol_timeout 100ms; return x; }
        }""",
        log_level="info",
    )
    for proxy in pair:
        assert b"" == ask(proxy, "main", half_close=True)
        assert b"" == ask(proxy, "hasty")
        proxy.wait_log("client timed out")
    nginx, ours = (statuses(proxy, 2) for proxy in pair)
    assert nginx == ours
    for level in ("error", "info"):
        said = [
            [re.sub(r"127\.0\.0\.1:\d+", "ADDR", text) for text in proxy.messages(level)]
            for proxy in pair
        ]
        assert said[0] == said[1]


TRUST = {
    "nobody": "",
    "the peer": "set_real_ip_from 127.0.0.1;",
    "its network": "set_real_ip_from 127.0.0.0/8;",
    "another": "set_real_ip_from 10.0.0.0/8;",
    "everybody": "set_real_ip_from 0.0.0.0/0;",
    "IPv6": "set_real_ip_from ::/0;",
    "unix": "set_real_ip_from unix:;",
    "one of several": "set_real_ip_from 10.0.0.1; set_real_ip_from 127.0.0.1;",
}


@pytest.mark.effect("set_real_ip_from")
def test_trust_is_given_alike(both: Both) -> None:
    """The same peers are believed, over the same inheritance."""
    servers = "\n".join(
        f"server {{ listen 127.0.0.1:@t{chr(97 + n)}@ proxy_protocol; {conf} "
        'return "$remote_addr $remote_port $realip_remote_addr $realip_remote_port"; }'
        for n, conf in enumerate(TRUST.values())
    )
    pair = both(f"events {{}} stream {{ set_real_ip_from 127.0.0.2; {servers} }}")
    for n, name in enumerate(TRUST):
        for header in (V1, V1_6, V2, V2_6, b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n"):
            answers = [ask(proxy, f"t{chr(97 + n)}", header) for proxy in pair]
            assert answers[0] == answers[1], (name, header)


HELLO = client_hello("www.example.com", ("h2", "http/1.1"))
SPLIT = in_records(HELLO, 50)
FLIGHTS = {
    "a hello": HELLO,
    "a hello without SNI": client_hello(""),
    "TLS 1.2": client_hello("a.b", highest="TLSv1_2"),
    "split records": SPLIT,
    "cut hello": HELLO[:100],
    "cut record header": HELLO[:4],
    "nothing": b"",
    "five bytes": b"hello",
    "four bytes": b"hell",
    "SSLv2": b"\x80\x2e\x01\x03\x01" + bytes(20),
    "old SSLv2": b"\x80\x2e\x01\x00\x02" + bytes(20),
    "alert": b"\x15\x03\x01\x00\x02\x01\x00",
    "server hello": b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
    "odd version": b"\x16\x02\x01\x00\x04\x01\x00\x00\x00",
    "empty records": b"\x16\x03\x01\x00\x00" * 3 + HELLO,
    "more than the buffer": b"\x16\x03\x01\x3f\xff\x01\x00\x3f\xf0" + bytes(2000),
    "a hello and more": HELLO + b"more",
}


@pytest.mark.effect("ssl_preread")
def test_hellos_are_read_alike(both: Both) -> None:
    """The same bytes give the same variables, statuses and errors, whole and closed behind."""
    pair = both(
        """events {} stream {
        log_format f "$status [$ssl_preread_protocol] [$ssl_preread_server_name] "
            "[$ssl_preread_alpn_protocols] $bytes_received $bytes_sent";
        access_log logs/access.log f;
        server { listen 127.0.0.1:@main@; ssl_preread on; preread_buffer_size 1k;
            return "$ssl_preread_protocol $ssl_preread_server_name $ssl_preread_alpn_protocols"; }
        }"""
    )
    for count, (name, flight) in enumerate(FLIGHTS.items(), 1):
        answers = [ask(proxy, "main", flight, half_close=True) for proxy in pair]
        assert answers[0] == answers[1], name
        for proxy in pair:
            statuses(proxy, count)
    nginx, ours = (statuses(proxy, len(FLIGHTS)) for proxy in pair)
    assert dict(zip(FLIGHTS, nginx, strict=True)) == dict(zip(FLIGHTS, ours, strict=True))
    assert complaints(pair[0]) == complaints(pair[1])


def test_peeked_bytes_reach_the_backend_once(both: Both, backends: BackendFactory) -> None:
    """What preread looked at is proxied, whole and once, and counted as received."""
    backend = backends.tcp()
    pair = both(
        f"""events {{}} stream {{
        log_format f "$status $ssl_preread_server_name $bytes_sent";
        log_format received "$bytes_received";
        access_log logs/access.log f;
        access_log logs/received.log received;
        server {{ listen 127.0.0.1:@main@; ssl_preread on; proxy_pass {backend.text}; }}
        }}"""
    )
    for proxy in pair:
        for count, flight in enumerate((HELLO, SPLIT, b"hello"), 1):
            with clients.TcpClient(proxy.address("main")) as client:
                assert flight == client.exchange(flight)
                assert b"more" == client.exchange(b"more")
            statuses(proxy, count)
    nginx, ours = (statuses(proxy, 3) for proxy in pair)
    assert nginx == ours
    assert 6 == backend.accepted
    # nginx counts the first flight since 1.25.5, when it began to peek
    expected = [str(len(flight) + 4) for flight in (HELLO, SPLIT, b"hello")]
    assert expected == pair[1].wait_log("", count=3, name="logs/received.log")


@pytest.mark.effect("preread_timeout")
def test_slow_clients_are_let_go_alike(both: Both) -> None:
    """After preread_timeout: no answer, status 200, variables of what was seen so far."""
    pair = both(
        """events {} stream {
        log_format f "$status [$ssl_preread_protocol] [$ssl_preread_server_name]";
        access_log logs/access.log f;
        server { listen 127.0.0.1:@main@; ssl_preread on; preread_timeout 300ms; return x; }
        }"""
    )
    for proxy in pair:
        for count, data in enumerate((b"", b"abc", HELLO[:60]), 1):
            assert b"" == ask(proxy, "main", data)
            statuses(proxy, count)
    nginx, ours = (statuses(proxy, 3) for proxy in pair)
    assert nginx == ours
    assert complaints(pair[0]) == complaints(pair[1])


def test_variables_are_evaluated_alike(both: Both) -> None:
    """set, map, volatile and captures give the same text."""
    pair = both(
        r"""events {} stream {
        map $remote_addr $plain { default "p$connection"; }
        map $remote_addr $fresh { volatile; default "f$connection"; }
        map $arg $captured { ~^(?<head>.)(.*)$ "$head-$2-$1"; default none; }
        map $captured $loop_a { default "a$loop_b"; }
        map $captured $loop_b { default "b$loop_a"; }
        map $protocol $unset { default ""; }
        server { listen 127.0.0.1:@one@; set $arg xyz; set $late "$captured/$head/$1/$3";
            return "$late|$plain|$fresh|$upstream_addr|$status|$bytes_sent|$unset|$head"; }
        server { listen 127.0.0.1:@two@; set $plain set; set $fresh set;
            return "$plain $fresh $arg [$late] $head"; }
        server { listen 127.0.0.1:@three@; return "$loop_a"; }
        server { listen 127.0.0.1:@four@; set $arg ""; set $arg "${arg}1"; set $arg "${arg}2";
            return "$captured $REMOTE_ADDR ${Server_Addr}:$server_port $protocol"; }
        server { listen 127.0.0.1:@five@; return ""; }
        }"""
    )
    for name in ("one", "two", "four", "five"):
        answers = [ask(proxy, name) for proxy in pair]
        assert answers[0] == answers[1], name


def test_unix_clients_look_alike(both: Both) -> None:
    """A unix socket has no addresses to speak of."""
    pair = both(
        """events {} stream { log_format f "$status $remote_addr [$remote_port] [$server_port]";
        access_log logs/access.log f;
        server { listen unix:logs/x.sock;
            return "$remote_addr|$remote_port|$server_port|$protocol"; }
        }""".replace("unix:logs", "unix:@@/logs"),
        start=False,
    )
    answers = []
    for proxy in pair:
        proxy.write(proxy.conf_file.read_text().replace("@@", str(proxy.prefix)))
        proxy.start()
        answers.append(clients.tcp_exchange(str(proxy.prefix / "logs/x.sock")))
    assert answers[0] == answers[1]
    nginx, ours = (statuses(proxy, 1) for proxy in pair)
    assert nginx == ours
