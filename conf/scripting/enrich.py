"""Writes the sender's address at the end of each syslog message."""

from ngxstream.scripting import Filter, Session

LONGEST = 2048  # bytes of a message that any receiver takes (RFC 5424, 6.1)


class WithClient(Filter):
    """One sender's messages: `py_filter`."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.suffix = f" client={session.client.ip}".encode()

    def from_client_batch(self, datagrams: list[bytes]) -> list[bytes]:
        """Return the messages as the server gets them; what is no syslog is dropped."""
        room = LONGEST - len(self.suffix)
        return [
            data.rstrip(b"\r\n\0")[:room] + self.suffix
            for data in datagrams
            if data.startswith(b"<") and b">" in data[:5]
        ]
