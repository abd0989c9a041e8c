"""Keys of session tickets as their files have them; sessions: modules/ssl/test_sessions.py."""

from ngxstream.event.libssl_sessions import TicketKey


def test_a_key_file_has_48_or_80_bytes() -> None:
    """Of 48 AES comes first, of 80 HMAC: as nginx reads them."""
    raw = bytes(range(80))
    short, long = TicketKey.parse(raw[:48]), TicketKey.parse(raw)
    assert (raw[:16], raw[16:32], raw[32:48]) == (short.name, short.aes, short.hmac)
    assert (raw[:16], raw[48:80], raw[16:48]) == (long.name, long.aes, long.hmac)
