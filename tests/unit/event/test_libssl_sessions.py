"""Keys of session tickets as their files have them; sessions: modules/ssl/test_sessions.py."""

import ctypes

from ngxstream.event import libssl_context, libssl_sessions, tls_protocols
from ngxstream.event.libssl_sessions import TicketKey


def test_a_key_file_has_48_or_80_bytes() -> None:
    """Of 48 AES comes first, of 80 HMAC: as nginx reads them."""
    raw = bytes(range(80))
    short, long = TicketKey.parse(raw[:48]), TicketKey.parse(raw)
    assert (raw[:16], raw[16:32], raw[32:48]) == (short.name, short.aes, short.hmac)
    assert (raw[:16], raw[48:80], raw[16:48]) == (long.name, long.aes, long.hmac)


def test_the_library_seals_by_one_key_of_80_bytes_itself() -> None:
    """It takes name, HMAC key and AES key as the file has them, and has no use for 48 bytes."""
    context = libssl_context.Context(tls_protocols.DEFAULT, server_side=True)
    raw = bytes(range(80))
    key = TicketKey.parse(raw)
    assert key.is_the_library_s()
    assert not TicketKey.parse(raw[:48]).is_the_library_s()
    libssl_sessions.use_one_ticket_key(context, key)
    taken = ctypes.create_string_buffer(80)
    get_ticket_keys = 58  # SSL_CTRL_GET_TLSEXT_TICKET_KEYS
    assert context.lib.SSL_CTX_ctrl(context.pointer, get_ticket_keys, 80, taken)
    assert raw == taken.raw
