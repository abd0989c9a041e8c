"""Checks an MQTT client's CONNECT and rewrites its client identifier (MQTT 3.1.1 and 5.0)."""

import re
import struct

from ngxstream.scripting import HOLD, Filter, Hold

SITE = b"site-7-"
CONNECT = 0x10
ALLOWED = re.compile(rb"[0-9A-Za-z_-]{1,64}")


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a variable byte integer and where it ends. Raises: IndexError: more is to come"""
    value = 0
    for shift in (0, 7, 14, 21):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a length of more than four bytes")


class Connect(Filter):
    """Looks at the first packet of a client: `py_filter`."""

    is_past = False

    def from_client(self, data: bytes) -> bytes | Hold | None:
        """Return what the broker gets."""
        if self.is_past:
            return data
        try:
            size, start = varint(data, 1)
            if data[0] != CONNECT or not 10 <= size <= 4096:
                raise ValueError("no CONNECT")
            if len(data) < start + size:
                return HOLD
            self.is_past = True
            return self.rewritten(data[start : start + size]) + data[start + size :]
        except IndexError:
            return HOLD
        except (ValueError, struct.error) as error:
            self.session.close(f"refused: {error}")
            return None

    def rewritten(self, body: bytes) -> bytes:
        """Return a CONNECT with the client's name behind that of the site. Raises: ValueError"""
        if body[:6] != b"\x00\x04MQTT" or body[6] not in (4, 5):
            raise ValueError("neither MQTT 3.1.1 nor 5.0")
        at = 10  # behind name, level, flags and keep-alive
        if body[6] == 5:
            properties, at = varint(body, at)
            at += properties
        (length,) = struct.unpack_from(">H", body, at)
        name = body[at + 2 : at + 2 + length]
        if not ALLOWED.fullmatch(name):
            raise ValueError("a client identifier of other characters, or none")
        body = body[:at] + struct.pack(">H", len(SITE) + length) + SITE + body[at + 2 :]
        size = len(body)
        length = bytes((size,)) if size < 128 else bytes((0x80 | size & 0x7F, size >> 7))
        return bytes((CONNECT,)) + length + body
