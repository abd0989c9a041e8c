"""The handshake with an upstream server, and what a PROXY header says of the client's TLS.

Answers for ngx_stream_proxy_ssl_init_connection(), ngx_stream_proxy_ssl_handshake(),
ngx_stream_proxy_ssl_name() and ngx_stream_proxy_send_proxy_protocol() (ngx_stream_proxy_module.c),
and for the TLVs of ngx_proxy_protocol_v2_write() (ngx_proxy_protocol.c).
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import codes, log
from ngxstream.event import libssl, libssl_facts, tls, tracing
from ngxstream.modules.proxy import handler
from ngxstream.stream import endings
from ngxstream.wire import proxy_protocol

if TYPE_CHECKING:
    from ngxstream.modules.proxy.ssl_conf import ProxySslConf
    from ngxstream.modules.proxy.tcp import TcpProxy

_CTRL_SET_HOSTNAME: Final = 55


def begin(proxy: TcpProxy) -> None:
    """Begin TLS on an established connection; the proxy goes on at ready()."""
    if proxy.conf.proxy_protocol and not _send_header(proxy):
        return
    s = proxy.s
    try:
        shaking = proxy.shake()
    except libssl.SslError as error:
        s.log_error(log.ERR, error.message)
        s.end(codes.INTERNAL_SERVER_ERROR, endings.UPSTREAM_HANDSHAKE_FAILED)
        return
    proxy.deadline = proxy.loop.now_ms + proxy.conf.connect_timeout
    proxy.loop.timers.add(proxy)
    s.action = "SSL handshaking to upstream"
    proxy.loop.register(proxy.pc_fd, shaking.on_event)
    shaking.step()


def _send_header(proxy: TcpProxy) -> bool:
    """Send the PROXY header; tell whether it went. Source: ngx_stream_proxy_send_proxy_protocol"""
    s = proxy.s
    header = proxy.proxy_header()
    try:
        sent = proxy.pc.send(header)
    except BlockingIOError:
        sent = 0
    except OSError as error:
        s.log_error(handler.upstream_level(error), "send() failed", error.errno)
        s.end(codes.STREAM_OK, endings.of_upstream(error))
        return False
    assert proxy.state is not None
    proxy.state.bytes_sent = sent
    if sent != len(header):
        s.log_error(log.ERR, "could not send PROXY protocol header at once")
        s.end(codes.INTERNAL_SERVER_ERROR, endings.UPSTREAM_ERROR)
        return False
    return True


class Handshake:
    """One handshake with an upstream server."""

    __slots__ = ("proxy", "transport", "name")

    def __init__(self, proxy: TcpProxy) -> None:
        """Prepare it. Raises: SslError"""
        s = proxy.s
        conf: ProxySslConf = s.server.proxy_ssl
        self.proxy: TcpProxy | None = proxy
        transport = self.transport = tls.Transport(proxy.loop, conf.context, proxy.pc)
        proxy.pc = transport
        self.name = b""
        if conf.server_name or conf.verify:
            self._set_name(conf)
        if conf.alpn:
            self._set_alpn(conf)
        identity: Any = None
        if conf.certificates is not None:
            assert conf.certificate is not None
            assert conf.certificate_key is not None
            identity = conf.certificate.get(s), conf.certificate_key.get(s)
            if identity[0]:
                conf.certificates.use(transport.pointer, *identity, proxy.loop.now_ms)
        if conf.session_reuse:
            # groups have sessions of their own, as in nginx; who shows another certificate, or asks
            # for another name, is not the one resumed
            group = proxy.upstream.name
            key = transport.session_key = (group, proxy.peer_name, self.name, identity)
            session = conf.context.sessions.get(key)
            if session is not None:
                transport.lib.SSL_set_session(transport.pointer, session.pointer)
        if s.log.level >= log.DEBUG:
            tracing.trace_tls(transport, s.trace())

    def _set_name(self, conf: ProxySslConf) -> None:
        """Decide on the name; send it by SNI if it is one. Source: ngx_stream_proxy_ssl_name"""
        proxy = self.proxy
        assert proxy is not None
        name = conf.name.get(proxy.s) if conf.name is not None else _default_name(proxy)
        start = name.find(b"]") if name.startswith(b"[") else 0
        colon = name.find(b":", max(start, 0))
        if colon >= 0:
            name = name[:colon]
        self.name = name
        if not conf.server_name or not name or name.startswith(b"[") or _is_ipv4(name):
            return
        lib = self.transport.lib
        if not lib.SSL_ctrl(self.transport.pointer, _CTRL_SET_HOSTNAME, 0, name + b"\0"):
            text = name.decode("utf-8", "surrogateescape")
            raise lib.error(f'SSL_set_tlsext_host_name("{text}") failed')

    def _set_alpn(self, conf: ProxySslConf) -> None:
        """Offer protocols, none empty or too long. Source: ngx_stream_proxy_ssl_alpn"""
        proxy = self.proxy
        assert proxy is not None
        offered = b""
        for value in conf.alpn:
            protocol = value.get(proxy.s)
            if 0 < len(protocol) <= 255:
                offered += bytes((len(protocol),)) + protocol
        lib = self.transport.lib
        if offered and lib.SSL_set_alpn_protos(self.transport.pointer, offered, len(offered)):
            raise lib.error("SSL_set_alpn_protos() failed")

    def on_event(self, mask: int) -> None:
        """Go on shaking hands."""
        if self.proxy is not None and self.proxy.pc is self.transport:
            self.step()

    def on_fault(self) -> None:
        """End the session after an exception nobody expected."""
        if self.proxy is not None:
            self.proxy.on_fault()

    def step(self) -> None:
        """Go on with the handshake; at its end proxy. Source: ngx_stream_proxy_ssl_handshake"""
        code = self.transport.handshake()
        if code == codes.AGAIN:
            return
        proxy = self.proxy
        assert proxy is not None
        self.proxy = None
        if code == codes.ERROR:
            self.complain(proxy)
        else:
            said = self.complaint(proxy, proxy.s.server.proxy_ssl)
            if not said:
                proxy.ready()
                return
            proxy.s.log_error(log.ERR, said)
        self.transport.quiet = True
        self.transport.session_key = None
        proxy.next_upstream(endings.UPSTREAM_HANDSHAKE_FAILED)

    def complain(self, proxy: TcpProxy) -> None:
        """Say why the handshake failed."""
        message, number = self.transport.failure
        proxy.s.log_error(log.ERR, message, number)

    def complaint(self, proxy: TcpProxy, conf: ProxySslConf) -> str:
        """Return what is wrong with the certificate of a server, "" for nothing."""
        if not conf.verify:
            return ""
        lib, connection = self.transport.lib, self.transport.pointer
        code, text = libssl_facts.verify_result(lib, connection)
        if code != libssl_facts.VERIFY_OK:
            return f"upstream SSL certificate verify error: ({code}:{text})"
        if not libssl_facts.peer_matches(lib, connection, self.name):
            name = self.name.decode("utf-8", "surrogateescape")
            return f'upstream SSL certificate does not match "{name}"'
        return ""


def _default_name(proxy: TcpProxy) -> bytes:
    return proxy.upstream.name.encode("utf-8", "surrogateescape")


def _is_ipv4(name: bytes) -> bool:
    try:
        ipaddress.IPv4Address(name.decode("ascii"))
    except ValueError:
        return False
    return True


def leave_quietly(sock: Any) -> None:
    """Close a connection without close_notify, as not all data was sent on it.

    A close_notify would tell the peer that it has it all. Source: ngx_ssl_shutdown (c->buffered)
    """
    if type(sock) is tls.Transport:
        sock.quiet = True


def client_tlvs(transport: Any) -> bytes:
    """Return what a version 2 PROXY header says of TLS. Source: ngx_proxy_protocol_v2_write"""
    if type(transport) is not tls.Transport or not transport.pointer:
        return b""
    lib, connection = transport.lib, transport.pointer
    build = proxy_protocol.build_tlv
    name = libssl_facts.server_name(lib, connection)
    alpn = libssl_facts.alpn_protocol(lib, connection)
    tlvs = build(proxy_protocol.TLV_AUTHORITY, name) if name else b""
    if alpn:
        tlvs += build(proxy_protocol.TLV_ALPN, alpn)
    flags, verify = proxy_protocol.CLIENT_SSL, 1
    if libssl_facts.has_peer(lib, connection):
        flags |= proxy_protocol.CLIENT_CERT_SESS
        if not lib.SSL_session_reused(connection):
            flags |= proxy_protocol.CLIENT_CERT_CONN
        verify = libssl_facts.verify_result(lib, connection)[0]
    subs = b"".join(
        build(kind, value)
        for kind, value in (
            (proxy_protocol.TLV_SSL_VERSION, libssl_facts.protocol(lib, connection)),
            (proxy_protocol.TLV_SSL_CN, libssl_facts.common_name(lib, connection)),
            (proxy_protocol.TLV_SSL_CIPHER, libssl_facts.cipher(lib, connection)),
            (proxy_protocol.TLV_SSL_SIG_ALG, libssl_facts.own_signature(lib, connection)),
            (proxy_protocol.TLV_SSL_KEY_ALG, libssl_facts.own_key(lib, connection)),
        )
        if value
    )
    return tlvs + proxy_protocol.build_ssl_tlv(flags, verify, subs)
