"""The UDP listener of `listen … udp proxy_protocol`: clients behind a peer, told by PROXY headers.

nginx refuses this combination. One socket of a peer (a dnsdist, say) carries many clients, so a
session belongs to the peer's socket and the client together.

Which peers are trusted
---------------
* Only a peer that `set_real_ip_from` names. What others send is dropped, whatever is in it.
* `proxy_protocol`: every datagram begins with a version 2 header. One that does not is dropped:
  behind a peer with many clients nobody could say whose it is.
* `proxy_protocol=first`: the first datagram from a socket of the peer has the header, and the
  session that it begins has all that follows from there. What follows was written by the client,
  so a second header may be a forgery: believed when it says what the first one said; otherwise
  either the client lies or the peer has reused its port, and the session is over.
* LOCAL is the peer's own datagram: a health check, served under the peer's own address.

Every datagram that is dropped is counted under its reason; it is logged once a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import inet
from ngxstream.event import datagram, drops
from ngxstream.event.udp import Drained, UdpListener
from ngxstream.wire import proxy_protocol

if TYPE_CHECKING:
    from ngxstream.event.connection import Connection
    from ngxstream.event.listening import Listening
    from ngxstream.event.loop import Loop
    from ngxstream.event.udp import Begin
    from ngxstream.event.udp_clients import Sink
    from ngxstream.event.udp_held import OneHeld
    from ngxstream.wire.proxy_protocol import ProxyHeader

ERR: Final = 4
REMEMBERED: Final = 4096  # headers and peers; forgotten all at once when there are more

UNTRUSTED: Final = "its peer is not trusted"
MISSING: Final = "it has no PROXY protocol header"
TEXT: Final = "its PROXY protocol header is of version 1"
BROKEN: Final = "its PROXY protocol header is broken"
MISMATCH: Final = "its PROXY protocol header is not of a datagram over IP"
CHECKSUM: Final = "its PROXY protocol header has a wrong checksum"
CHANGED: Final = "a second PROXY protocol header names another client"
REASONS: Final = (UNTRUSTED, MISSING, TEXT, BROKEN, MISMATCH, CHECKSUM, CHANGED)

_LOCAL: Final = b"\0"  # tag of a peer's own datagrams


class RefusedError(Exception):
    """A datagram that is dropped; its text is one of REASONS."""


def read(view: memoryview) -> tuple[bytes, ProxyHeader]:
    """Read the header in front of a datagram.

    Returns: the tag of its client (equal for equal clients, see client_of) and the header
    Raises: RefusedError
    """
    head = bytes(view[:16])
    if not head.startswith(proxy_protocol.SIGNATURE):
        raise RefusedError(TEXT if head.startswith(b"PROXY ") else MISSING)
    try:
        header = proxy_protocol.parse_datagram(view, (proxy_protocol.DGRAM,))
    except proxy_protocol.BrokenHeader:
        raise RefusedError(BROKEN) from None
    if header.command == proxy_protocol.LOCAL:
        return _LOCAL, header
    if header.command != proxy_protocol.PROXY:
        raise RefusedError(BROKEN)
    if not header.has_client:
        raise RefusedError(MISMATCH)
    if proxy_protocol.verify_crc32c(view[: header.length]) is False:
        raise RefusedError(CHECKSUM)
    size = 12 if header.family == proxy_protocol.INET else 36
    return bytes(view[13:14]) + bytes(view[16 : 16 + size]), header


def header_of(tag: bytes) -> ProxyHeader:
    """Return the header a tag was made of, without TLVs."""
    if tag == _LOCAL:
        return proxy_protocol.ProxyHeader(2, proxy_protocol.LOCAL, 0, 0, 16)
    start = proxy_protocol.SIGNATURE + b"\x21" + tag[:1] + (len(tag) - 1).to_bytes(2, "big")
    return proxy_protocol.parse_datagram(start + tag[1:], (proxy_protocol.DGRAM,))


class ProxiedUdpListener(UdpListener):
    """One listening UDP socket whose peers say by headers who their clients are.

    The table's keys are (peer, length of local + local + tag): see event.udp_clients
    """

    __slots__ = (
        "believes",  # called with (peer, packed local address | None)
        "first",  # bool: only a session's first datagram has a header
        "refused",  # dict: reason -> datagrams dropped for it
        "_headers",  # dict: header bytes -> (tag, ProxyHeader)
        "_by_tag",  # dict: tag -> ProxyHeader
        "_trusted",  # dict: (peer's host, local) -> bool
        "_sole",  # dict: (peer, local) -> key of the peer's session, with `first`
        "_told_ms",
        "_new_headers",  # dict: key -> ProxyHeader, of clients whose sessions are to begin
    )

    def __init__(self, loop: Loop, listening: Listening, sock: Any, begin: Begin, *,
                 believes: Callable[[Any, bytes | None], bool],
                 table: dict[Any, Sink] | None = None, idle: bool = False,
                 lost: drops.Drops | None = None) -> None:
        """Args: believes: says whose headers are taken; the rest as of UdpListener"""
        self.believes = believes
        self.first = listening.options.proxy_protocol_first
        self.refused = dict.fromkeys(REASONS, 0)
        self._headers: dict[bytes, tuple[bytes, ProxyHeader]] = {}
        self._by_tag: dict[bytes, ProxyHeader] = {}
        self._trusted: dict[Any, bool] = {}
        self._sole: dict[Any, Any] = {}
        self._told_ms = -1000
        self._new_headers: dict[Any, ProxyHeader] = {}
        super().__init__(loop, listening, sock, begin, table=table, idle=idle, lost=lost)

    def choose(self) -> Callable[[int], None]:
        """Return what reads the socket."""
        return self.on_proxied

    def on_proxied(self, mask: int) -> None:
        """Drain datagrams and hand each to the session of its client."""
        receive = self.sock.recvmsg_into
        drained: Drained = {}
        slots = self.loop.slots
        limit = self._limit
        count = 0
        try:
            for slot in slots[:limit]:
                n, ancillary, _, peer = receive((slot,), datagram.ANCILLARY_SPACE)
                count += 1
                local, size = datagram.facts(ancillary)
                view = slot[:n]
                # coalesced only when a former owner of the socket left that on
                for part in datagram.split(view, size) if 0 < size < n else (view,):
                    self._sort(peer, local, part, drained)
        except BlockingIOError:
            self._limit = count or 1
        except OSError as error:
            self.on_error(error)
        else:
            self._limit = min(len(slots), limit * 2)
        self._hand_out(drained)

    def _sort(self, peer: Any, local: bytes | None, view: memoryview, drained: Drained) -> None:
        """Put one datagram to the others of its client, or drop it."""
        stray = self.stray
        if stray is not None:
            key = peer if local is None else (peer, local)
            if stray(self, key, peer, view):
                return
        try:
            key, header, payload = self._open(peer, local, view, drained)
        except RefusedError as error:
            self._refuse(str(error), peer)
            return
        if key not in self.table:
            self._remember(key, header)
            if self.first:  # what follows in this drain has no header: is it of a session?
                self.new.begin_for(key, [payload], 1)
                return
        drained.setdefault(key, []).append(payload)

    def _remember(self, key: Any, header: ProxyHeader) -> None:
        """Keep the header of a client whose session is to begin, all its TLVs included."""
        new = self._new_headers
        if len(new) > 2 * len(self._waiting) + REMEMBERED:
            self._new_headers = {at: new[at] for at in self._waiting if at in new}
        self._new_headers.setdefault(key, header)

    def begin_with(self, key: Any, view: memoryview) -> None:
        """Begin a session with one datagram."""
        if is_tagged(key):  # else it was known before a reload gave this address its peers
            header = self._new_headers.pop(key, None) or self._header(tag_of(key))
            self.new.admit(key, *self.parts(key), view, header)

    def parts(self, key: Any) -> tuple[Any, bytes | None]:
        """Return the peer's address and the packed local one of a key."""
        if not is_tagged(key):
            return super().parts(key)
        peer, data = key
        return peer, data[1 : 1 + data[0]] or None

    def _open(self, peer: Any, local: bytes | None, view: memoryview,
              drained: Drained) -> tuple[Any, ProxyHeader, memoryview]:
        """Return whose a datagram is: key, header and payload. Raises: RefusedError"""
        if not self._trusts(peer, local):
            raise RefusedError(UNTRUSTED)
        source = (peer, local)
        sole = self._sole.get(source)
        if sole is not None and sole not in self.table:
            del self._sole[source]
            sole = None
        has_header = bytes(view[:12]) == proxy_protocol.SIGNATURE
        if sole is not None and not has_header:
            tag = tag_of(sole)
            return sole, self._header(tag), view
        try:
            tag, header = self._parse(view)
        except RefusedError:
            if sole is not None:
                self._end(source, sole, drained)
                raise RefusedError(CHANGED) from None
            raise
        key = (peer, bytes((len(local or b""),)) + (local or b"") + tag)
        if self.first:
            if sole is not None and sole != key:
                self._end(source, sole, drained)
                raise RefusedError(CHANGED)
            if len(self._sole) > 2 * len(self.table) + REMEMBERED:
                self._sole = {at: own for at, own in self._sole.items() if own in self.table}
            self._sole[source] = key
        return key, header, view[header.length :]

    def _parse(self, view: memoryview) -> tuple[bytes, ProxyHeader]:
        """Read a header, or remember it: all datagrams of a client have the same one."""
        raw = bytes(view[: 16 + int.from_bytes(view[14:16], "big")])
        found = self._headers.get(raw)
        if found is None:
            found = read(view)
            if len(self._headers) >= REMEMBERED:
                self._headers.clear()
                self._by_tag.clear()
            self._headers[raw] = found
            self._by_tag[found[0]] = found[1]
        return found

    def _header(self, tag: bytes) -> ProxyHeader:
        """Return the header of a client that is known."""
        return self._by_tag.get(tag) or header_of(tag)

    def _trusts(self, peer: Any, local: bytes | None) -> bool:
        source = (peer[0] if isinstance(peer, tuple) else None, local)
        known = self._trusted.get(source)
        if known is None:
            if len(self._trusted) >= REMEMBERED:
                self._trusted.clear()
            known = self._trusted[source] = self.believes(peer, local)
        return known

    def _end(self, source: Any, key: Any, drained: Drained) -> None:
        """Send a peer's datagrams to its session no more; nobody can say whose they are."""
        del self._sole[source]
        before = drained.pop(key, None)
        if before is not None:
            self._hand_out({key: before})  # what came before in this drain is its own
        self.table.pop(key, None)

    def _refuse(self, reason: str, peer: Any) -> None:
        """Count a datagram that is dropped, and say so once a second."""
        self.refused[reason] += 1
        self.lost.drop(drops.HEADER)
        loop = self.loop
        if loop.now_ms - self._told_ms >= 1000 and loop.log.level >= ERR:
            self._told_ms = loop.now_ms
            loop.log.write(
                ERR,
                f"datagram from {inet.sock_ntop(peer or '')} dropped: {reason}, server: "
                f"{self.listening.options.text}, dropped so far: {self.lost.total}",
            )

    def enlist(self, c: Connection, sink: Sink) -> None:
        """Send a client's datagrams to a sink from now on; see UdpListener."""
        if self.first and is_tagged(c.key):  # it may come from another worker
            peer, data = c.key
            self._sole[peer, data[1 : 1 + data[0]] or None] = c.key
        super().enlist(c, sink)

    # -- what did not come straight from the socket ----------------------------------------------

    def _gather(self, held: Iterable[OneHeld]) -> Drained:
        """Sort datagrams that another worker read, or that were held, by client.

        With a tagged key somebody has read the header: data is what follows it.
        """
        drained: Drained = {}
        for key, peer, local, data in held:
            view = memoryview(data)
            if is_tagged(key):
                drained.setdefault(key, []).append(view)
            else:
                self._sort(peer, local, view, drained)
        return drained


def is_tagged(key: Any) -> bool:
    """Tell whether a table's key is one of a listener of this kind."""
    return (
        isinstance(key, tuple)
        and len(key) == 2
        and isinstance(key[1], bytes)
        and len(key[1]) not in (4, 16)
    )


def tag_of(key: Any) -> bytes:
    """Return the tag in a table's key."""
    data: bytes = key[1]
    return data[1 + data[0] :]
