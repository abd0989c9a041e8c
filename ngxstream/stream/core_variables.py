"""The variables of the session itself: addresses, bytes, times, the PROXY header.

Answers for ngx_stream_core_variables in ngx_stream_variables.c, and for the session times and
$status of ngx_stream_handler.c's sessions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ngxstream import NGINX_VERSION
from ngxstream.core import inet
from ngxstream.core.log import ERR, encode
from ngxstream.stream import endings, upstream_variables
from ngxstream.stream.variables import NOCACHEABLE, PLAIN, PREFIX, PURE, Variable
from ngxstream.wire import proxy_protocol

if TYPE_CHECKING:
    from ngxstream.stream.session import Session

VERSION = NGINX_VERSION.encode("ascii")


# -- addresses -------------------------------------------------------------------------------


def _binary_remote_addr(s: Session) -> bytes:
    sockaddr = s.c.sockaddr
    return inet.packed(sockaddr) or encode(inet.address_text(sockaddr))


def _remote_addr(s: Session) -> bytes:
    c = s.c
    if c.family == inet.AF_INET:  # hot: here and below, what most lines of a log have
        host: Any = c.sockaddr[0]
        return host.encode("ascii")  # type: ignore[no-any-return]
    return encode(inet.address_text(c.sockaddr))


def _remote_port(s: Session) -> bytes:
    return _port(inet.port_of(s.c.sockaddr))


def _server_addr(s: Session) -> bytes:
    return encode(inet.address_text(s.c.local_sockaddr()))


def _server_port(s: Session) -> bytes:
    c = s.c
    return _port(inet.port_of(c.local or c.local_sockaddr()))


def _port(port: int) -> bytes:
    """Spell a port; 0 is none, and so has a unix socket."""
    return b"%d" % port if port else b""


def _server_name(s: Session) -> bytes:
    return encode(s.server.server_name)


# -- the session -----------------------------------------------------------------------------


def _protocol(s: Session) -> bytes:
    return b"UDP" if s.c.is_udp else b"TCP"


def _connection(s: Session) -> bytes:
    return b"%d" % s.c.number


def _bytes_received(s: Session) -> bytes:
    return b"%d" % s.c.received


def _bytes_sent(s: Session) -> bytes:
    return b"%d" % s.c.sent


def _session_time(s: Session) -> bytes:
    ms = s.loop.now_ms - s.start_ms
    return b"%d.%03d" % divmod(max(ms, 0), 1000)


def _status(s: Session) -> bytes:
    return b"%03d" % s.status


def _end_reason(s: Session) -> bytes | None:
    return endings.of(s).reason.word.encode("ascii") if s.status else None


def _ended_by(s: Session) -> bytes | None:
    return endings.of(s).who.encode("ascii") if s.status else None


# -- the worker and its clock ------------------------------------------------------------------


def _msec(s: Session) -> bytes:
    return b"%d.%03d" % divmod(int(s.log.clock.now() * 1000), 1000)


def _time_iso8601(s: Session) -> bytes:
    return s.log.clock.iso8601_time()


def _time_local(s: Session) -> bytes:
    return s.log.clock.local_time()


def _hostname(s: Session) -> bytes:
    return s.loop.hostname


def _pid(s: Session) -> bytes:
    return b"%d" % s.loop.pid


def _nginx_version(s: Session) -> bytes:
    return VERSION


# -- the PROXY protocol header of the client -----------------------------------------------------


def _header(s: Session) -> proxy_protocol.ProxyHeader | None:
    header = s.proxy_protocol
    return header if header is not None and header.has_client else None


def _proxy_protocol_addr(s: Session) -> bytes | None:
    header = _header(s)
    return None if header is None else header.src_addr.encode("ascii")


def _proxy_protocol_port(s: Session) -> bytes | None:
    header = _header(s)
    return None if header is None else _port(header.src_port)


def _proxy_protocol_server_addr(s: Session) -> bytes | None:
    header = _header(s)
    return None if header is None else header.dst_addr.encode("ascii")


def _proxy_protocol_server_port(s: Session) -> bytes | None:
    header = _header(s)
    return None if header is None else _port(header.dst_port)


def _proxy_protocol_tlv(s: Session, name: str) -> bytes | None:
    """Return the value of a TLV by the name that follows `proxy_protocol_tlv_`.

    Source: ngx_stream_variable_proxy_protocol_tlv
    """
    header = _header(s)
    if header is None:
        return None
    try:
        return proxy_protocol.find_tlv(header.tlvs, name)
    except proxy_protocol.ShortTlv:
        return None
    except proxy_protocol.TlvError as error:
        s.log_error(ERR, str(error))
        return None


def _proxy_protocol_dropped(s: Session) -> bytes | None:
    """Return how many datagrams were dropped at `listen … udp proxy_protocol` for their header."""
    refused = getattr(s.c.table, "refused", None)
    return None if refused is None else b"%d" % sum(refused.values())


VARIABLES = (
    Variable("binary_remote_addr", _binary_remote_addr, PURE,
             "Address of the client as 4 or 16 bytes; the text `unix:` for a unix client."),
    Variable("remote_addr", _remote_addr, PURE, "Address of the client."),
    Variable("remote_port", _remote_port, PURE | PLAIN,
             "Port of the client; empty for a unix client."),
    Variable("server_addr", _server_addr, 0, "Address the client connected to."),
    Variable("server_port", _server_port, PLAIN, "Port the client connected to."),
    Variable("server_name", _server_name, PURE, "First name of the selected server."),
    Variable("protocol", _protocol, PURE | PLAIN, "`TCP` or `UDP`."),
    Variable("connection", _connection, PURE | PLAIN, "Serial number of the client's connection."),
    Variable("bytes_received", _bytes_received, PLAIN, "Bytes read from the client."),
    Variable("bytes_sent", _bytes_sent, PLAIN, "Bytes sent to the client."),
    Variable("session_time", _session_time, NOCACHEABLE | PLAIN,
             "Time since the session began, in seconds with milliseconds."),
    Variable("status", _status, NOCACHEABLE | PLAIN,
             "How the session ended: 200, 400, 403, 500, 502 or 503; 000 before its end."),
    Variable("session_end_reason", _end_reason, NOCACHEABLE | PLAIN,
             "Why the session ended, a word of [endings.md](endings.md); none before its end."),
    Variable("session_ended_by", _ended_by, NOCACHEABLE | PLAIN,
             "Whose doing that was: `client`, `upstream`, `proxy` or `operator`."),
    Variable("msec", _msec, NOCACHEABLE | PLAIN,
             "Current time in seconds since the epoch, with milliseconds."),
    Variable("time_iso8601", _time_iso8601, NOCACHEABLE | PLAIN, "Local time as ISO 8601 has it."),
    Variable("time_local", _time_local, NOCACHEABLE | PLAIN,
             "Local time as the Common Log Format has it."),
    Variable("hostname", _hostname, PURE, "Host name of the machine, in lower case."),
    Variable("pid", _pid, PURE | PLAIN, "Process id of the worker."),
    Variable("nginx_version", _nginx_version, PURE | PLAIN,
             "The version of nginx whose language this is."),
    Variable("proxy_protocol_addr", _proxy_protocol_addr, 0,
             "Address of the client in its PROXY protocol header."),
    Variable("proxy_protocol_port", _proxy_protocol_port, 0,
             "Port of the client in its PROXY protocol header."),
    Variable("proxy_protocol_server_addr", _proxy_protocol_server_addr, 0,
             "Address of the server in the client's PROXY protocol header."),
    Variable("proxy_protocol_server_port", _proxy_protocol_server_port, 0,
             "Port of the server in the client's PROXY protocol header."),
    Variable("proxy_protocol_dropped", _proxy_protocol_dropped, NOCACHEABLE,
             "Datagrams dropped so far at the listening socket, without a trusted header."),
    Variable("proxy_protocol_tlv_", _proxy_protocol_tlv, PREFIX,
             "A TLV of the client's PROXY protocol header, by name or as `0x` and its type."),
    *upstream_variables.VARIABLES,
)
