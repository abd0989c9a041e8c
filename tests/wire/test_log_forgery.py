"""What a stranger sends is quoted in the error log and can do nothing there."""

import contextlib

from tests.support.clients import TcpClient
from tests.support.hellos import client_hello
from tests.support.proxies import ProxyFactory
from tests.support.waiting import wait_until

CONF = """
events {} stream {
    error_log logs/error.log info;
    server { listen 127.0.0.1:@hellos@; ssl_preread on;
             proxy_pass $ssl_preread_server_name:@hellos@; }
    server { listen 127.0.0.1:@headers@ proxy_protocol; return fine; }
    server { listen 127.0.0.1:@tlvs@ proxy_protocol; proxy_pass $proxy_protocol_tlv_0xe0:1; }
}
"""
FORGED = b"x\x1b[31m\x07\r\n2026/01/01 00:00:00 [notice] 1#1: \xff\xe2\x80\xaeforged\x7f"
SHOWN = (
    r"x\x1B[31m\x07\x0D\x0A2026/01/01 00:00:00 [notice] 1#1: \xFF\xE2\x80\xAEforged\x7F"
)


def test_what_clients_send_is_quoted_as_one_line_of_text(ngxstream: ProxyFactory) -> None:
    """Names, headers and values of TLVs with an escape, a bell and a line feed in them."""
    program = ngxstream(CONF)
    proper = "a" * (len(FORGED) - 2) + ".b"
    tlv = b"\xe0" + len(FORGED).to_bytes(2, "big") + FORGED
    body = bytes((127, 0, 0, 1)) * 2 + bytes(4) + tlv
    header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + len(body).to_bytes(2, "big") + body
    for place, data in (
        ("hellos", client_hello(proper).replace(proper.encode(), FORGED)),
        ("headers", b"PROXY " + FORGED.replace(b"\r\n", b"") + b"\r\n"),
        ("tlvs", header),
    ):
        with TcpClient(program.address(place)) as client:
            client.send(data)
            with contextlib.suppress(ConnectionResetError):  # not all of it was read
                client.recv_to_eof()
    path = program.prefix / "logs" / "error.log"

    def quoted() -> list[str]:
        return [line for line in path.read_text().split("\n") if "forged" in line]

    wait_until(lambda: len(quoted()) == 3, what="three lines quote the clients")
    text = path.read_bytes().decode()
    assert all(line.isprintable() for line in text.split("\n"))
    assert 2 == text.count(SHOWN)
    assert SHOWN.replace(r"\x0D\x0A", "") in text
    assert not any(line.startswith("2026/01/01") for line in text.split("\n"))
