"""Functions that do nothing: what calling them costs. Imported by configurations of cases."""

from ngxstream.scripting import Filter, Peer, Session


def access(session: Session) -> None:
    """Say nothing of the session."""


def choose(session: Session, peers: list[Peer]) -> Peer:
    """Choose the first server."""
    return peers[0]


def value(session: Session) -> str:
    """Return a variable's value."""
    return "v"


class Single(Filter):
    """One call for each piece or datagram."""

    def from_client(self, data: bytes) -> bytes:
        """Return it."""
        return data

    def from_upstream(self, data: bytes) -> bytes:
        """Return it."""
        return data


class Batch(Filter):
    """One call for all datagrams of a turn."""

    def from_client_batch(self, datagrams: list[bytes]) -> list[bytes]:
        """Return them."""
        return datagrams

    def from_upstream_batch(self, datagrams: list[bytes]) -> list[bytes]:
        """Return them."""
        return datagrams
