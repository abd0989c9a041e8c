"""Peers: the servers among which a function of `py_balancer` chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ngxstream.scripting.addresses import Address

if TYPE_CHECKING:
    from ngxstream.stream import upstream


class Peer:
    """One server of an upstream that can be used now.

    A Peer is valid during the call that got it. Its values are read when they are used.
    """

    __slots__ = ("_is_backup", "_peer")

    def __init__(self, peer: upstream.Peer, is_backup: bool) -> None:
        """Made by ngxstream alone."""
        self._peer = peer
        self._is_backup = is_backup

    @property
    def name(self) -> str:
        """The address as logs have it, `192.0.2.1:53`."""
        return self._peer.name

    @property
    def address(self) -> Address:
        """The address."""
        return Address(self._peer.sockaddr)

    @property
    def server(self) -> str:
        """What the `server` line names: an address, or a name that was resolved."""
        return self._peer.server

    @property
    def weight(self) -> int:
        """The weight in the configuration."""
        return self._peer.weight

    @property
    def sessions(self) -> int:
        """How many sessions it has now; those of all workers if the upstream has a `zone`."""
        return self._peer.state.conns

    @property
    def max_conns(self) -> int:
        """The greatest number of sessions that it may have, 0 for no limit."""
        return self._peer.max_conns

    @property
    def fails(self) -> int:
        """The number of failures that count for `max_fails` now."""
        return self._peer.state.fails

    @property
    def is_backup(self) -> bool:
        """Whether it is a backup; backups are offered when no other server can be used."""
        return self._is_backup

    def __repr__(self) -> str:
        return f"<Peer {self.name}>"
