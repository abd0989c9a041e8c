"""Sends all players of a match to one server, whatever address they come from."""

from collections.abc import Sequence

from ngxstream.scripting import Peer, Session, shared

ID = 8  # bytes at the beginning of each datagram

matches = shared("matches")  # match: name of its server


def choose(s: Session, peers: Sequence[Peer]) -> Peer | None:
    """Return the server of the match, for a new match the one with the fewest players."""
    if len(s.preread) < ID:
        return None  # a probe: any server
    match = s.preread[:ID].hex()
    emptiest = min(peers, key=lambda peer: peer.sessions)
    # two workers that see a new match at the same time agree here
    name = matches.setdefault(match, emptiest.name)
    for peer in peers:
        if peer.name == name:
            matches.touch(match)
            return peer
    matches[match] = emptiest.name  # its server is gone
    return emptiest
