"""What the rows of a zone are known by: the upstream, the server line, the address."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING

from ngxstream.core import inet
from ngxstream.stream.upstream import Peer, ServerSpec, UpstreamConf

if TYPE_CHECKING:
    from ngxstream.modules.upstream.peer_table import PeerTable


def halves(key: bytes) -> tuple[int, int]:
    """Return what stands for a key in two cells."""
    data = hashlib.blake2b(key, digest_size=16).digest()
    high, low = data[:8], data[8:]
    return int.from_bytes(high, "little", signed=True), int.from_bytes(low, "little", signed=True)


def number_names(conf: UpstreamConf, table: PeerTable) -> None:
    """Give lines with names a row of their own, for the sake of its number."""
    count: Counter[str] = Counter()
    for spec in conf.servers:
        if spec.resolve:
            peer = mark_of(spec)
            spec.id = table.attach(peer, key_of(conf, peer, count[peer.name]), pin=True).row
            count[peer.name] += 1


def mark_of(spec: ServerSpec) -> Peer:
    """Return what stands for a line with a name where a peer is asked for."""
    return Peer(spec, inet.AF_UNIX, "", f"{spec.service}\0{spec.backup:d}")


def key_of(conf: UpstreamConf, peer: Peer, nth: int) -> bytes:
    """Return what a peer's row is known by. Args: nth: among those that look alike, from 0 on"""
    key = f"{conf.name.lower()}\0{peer.server}\0{peer.name}\0{nth}"
    return key.encode("utf-8", "surrogateescape")
