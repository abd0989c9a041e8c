"""Counts the commands that clients send to Redis, and refuses the dangerous ones."""

import json

from ngxstream.scripting import Filter, Session, shared

REFUSED = {b"FLUSHALL", b"FLUSHDB", b"SHUTDOWN", b"CONFIG", b"DEBUG"}
INSTEAD = b"*1\r\n$7\r\nREFUSED\r\n"  # the server says that it does not know it, in its turn
KNOWN = 64  # names that are counted by themselves
LONGEST = 1 << 20  # bytes of a command

commands = shared("commands")


def first_command(data: bytes) -> tuple[bytes, int] | None:
    """Return a command's name and its length in bytes, None where it is not whole.

    Raises: ValueError for what is no array of bulk strings, which is all that client libraries send
    """
    words, kind, left, at = [], b"*", 1, 0
    while left:
        line_end = data.find(b"\r\n", at)
        if line_end < 0:
            return None
        if data[at : at + 1] != kind:
            raise ValueError("neither an array nor a bulk string")
        number, at, left = int(data[at + 1 : line_end]), line_end + 2, left - 1
        if kind == b"*":
            kind, left = b"$", number
        else:
            words.append(data[at : at + number])
            at += number + 2
    return (words[0].upper() if words else b"", at) if at <= len(data) else None


class Commands(Filter):
    """One client's commands: `py_filter`."""

    rest = b""  # of a command that is not whole

    def from_client(self, data: bytes) -> list[bytes] | None:
        """Return what the server gets: whole commands."""
        sent, rest = [], self.rest + data
        try:
            while rest and (found := first_command(rest)):
                name, size = found
                text = name.decode("ascii", "replace")
                commands.incr(text if text in commands or len(commands) < KNOWN else "other")
                sent.append(INSTEAD if name in REFUSED else rest[:size])
                rest = rest[size:]
            if len(rest) > LONGEST:
                raise ValueError("too long")
        except ValueError as error:
            self.session.close(f"no command that is let through: {error}")
            return None
        self.rest = rest
        return sent


async def page(s: Session) -> None:
    """Show the counts: `py_content`."""
    await s.readuntil(b"\r\n\r\n", 4096)
    body = json.dumps(dict(sorted(commands.items())), indent=2).encode() + b"\n"
    head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    s.send_to_client(head.encode() + body)
