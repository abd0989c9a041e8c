"""Counts rejects by user name (RFC 2865) and drops the requests of those who have too many."""

import struct

from ngxstream.scripting import Filter, Session, shared

ACCESS_REQUEST, ACCESS_REJECT = 1, 3
USER_NAME = 1
HEADER = 20  # bytes
MOST = 3  # rejects

rejects = shared("rejects")  # user: how often he was rejected in the last minute


def user_name(packet: bytes) -> str:
    """Return the User-Name of a packet, "" for none. Raises: ValueError, IndexError"""
    (length,) = struct.unpack_from(">H", packet, 2)
    if not HEADER <= length <= len(packet):
        raise ValueError("a wrong length")
    at = HEADER
    while at < length:
        kind, size = packet[at], packet[at + 1]
        if size < 2:
            raise ValueError("a wrong attribute")
        if kind == USER_NAME:
            return packet[at + 2 : at + size].decode("utf-8", "replace").lower()
        at += size
    return ""


class Rejects(Filter):
    """One access point's requests and their answers: `py_filter`."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.users: dict[int, str] = {}  # by the identifier of a request, of which there are 256

    def from_client(self, data: bytes) -> bytes | None:
        """Return a request, None where the user has to wait or it is none."""
        try:
            user = user_name(data)
        except (ValueError, IndexError, struct.error):
            return None
        if data[0] == ACCESS_REQUEST and user:
            if rejects.get(user, 0) >= MOST:
                self.session.log.notice(f"{user} has to wait")
                return None
            self.users[data[1]] = user
        return data

    def from_upstream(self, data: bytes) -> bytes:
        """Return an answer, and count a reject."""
        user = self.users.pop(data[1], "") if len(data) >= HEADER else ""
        if user and data[0] == ACCESS_REJECT:
            rejects.incr(user)
        return data
