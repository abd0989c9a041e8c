"""ClientHellos of a real TLS client, as bytes."""

import ssl


def client_hello(name: str = "", alpn: tuple[str, ...] = (), highest: str = "TLSv1_3") -> bytes:
    """Return the first flight of a client; highest names a member of ssl.TLSVersion."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.maximum_version = ssl.TLSVersion[highest]
    if alpn:
        context.set_alpn_protocols(list(alpn))
    sent = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name or None)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return sent.read()
    raise AssertionError("nobody answered the hello")


def in_records(hello: bytes, size: int) -> bytes:
    """Cut the message of a hello into records of another size."""
    pieces = [hello[at : at + size] for at in range(5, len(hello), size)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def made_hello(name: bytes) -> bytes:
    """Write a ClientHello of TLS 1.2 that asks for a name, which need be none a client would send.

    The name and the rest must fit into one record.
    """
    sni = b"\0" + len(name).to_bytes(2, "big") + name
    sni = len(sni).to_bytes(2, "big") + sni
    extensions = b"\0\0" + len(sni).to_bytes(2, "big") + sni
    body = b"\3\3" + bytes(32) + b"\0" + b"\0\2\xc0\x2f" + b"\1\0"
    body += len(extensions).to_bytes(2, "big") + extensions
    message = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + len(message).to_bytes(2, "big") + message
