"""UDP servers of a stream block served inside the test's process, on a loop it turns by hand."""

import socket
from typing import Any, Self

from ngxstream.core import log
from ngxstream.event import datagram, listening, udp, udp_answers
from ngxstream.event.client_sockets import ClientSockets
from ngxstream.event.loop import PoisoningLoop
from ngxstream.event.recycle import SocketPool
from ngxstream.event.udp_proxied import ProxiedUdpListener
from ngxstream.modules.proxy import quic_conf, udp_one_way
from ngxstream.modules.proxy.udp_one_way import shared_sockets
from tests.support import in_process


class UdpInProcess:
    """A stream block whose addresses are all UDP, at 127.0.0.1, wildcards or unix sockets."""

    def __init__(
        self, text: str, *, gro: bool = False, connections: int = 4096, level: int = log.WARN
    ) -> None:
        """Build and listen. Args: gro switches coalescing on as a former owner might have"""
        built = in_process.build(text)
        assert built.conf is not None, built.error
        built.zones.build()
        self.built = built
        self.target = in_process.LogTarget(level)
        self.log = log.Log([self.target])
        self.loop = PoisoningLoop(self.log, connections=connections)
        built.conf.use_main_log(self.log, lambda specs: self.log)
        self.listeners: list[udp.UdpListener] = []
        for conf in built.conf.listenings:
            options = conf.options
            sock = socket.SocketType(options.family, socket.SOCK_DGRAM)
            sock.bind(options.sockaddr)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
            if options.wildcard:
                sock.setsockopt(socket.IPPROTO_IP, udp_answers.IP_PKTINFO, 1)
            if gro:
                datagram.set_gro(sock, True)
            opened: Any = listening.Listening(options)
            listener = (
                udp.UdpListener(self.loop, opened, sock, conf.begin)
                if conf.believes is None
                else ProxiedUdpListener(self.loop, opened, sock, conf.begin, believes=conf.believes)
            )
            finder = quic_conf.finder(conf, self.loop)
            if finder is not None:
                listener.find_by(finder)
            forward = udp_one_way.forwarder(conf, self.loop)
            if forward is not None:
                listener.forward_by(forward)
            self.listeners.append(listener)

    def address(self, number: int = 0) -> Any:
        """Return where clients reach the listener of that number."""
        if self.listeners[number].family == socket.AF_UNIX:
            return self.listeners[number].sock.getsockname()
        return "127.0.0.1", self.listeners[number].sock.getsockname()[1]

    def alerts(self) -> list[str]:
        """Return the messages of level alert."""
        return [message for level, message in self.target.lines if level == "alert"]

    def close(self) -> None:
        """End the sessions; close what listens, the loop and the zones."""
        for s in list(self.loop.sessions):
            s.finalize(200)
        self.loop.turn(wait_ms=0)
        for listener in self.listeners:
            listener.sock.close()
        self.loop.get(SocketPool).close()
        self.loop.get(ClientSockets).close()
        for sock in self.loop.get(shared_sockets).values():
            sock.close()
        self.loop.poller.close()
        self.built.zones.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
