"""The conf and directives of TLS towards clients (the command table of ngx_stream_ssl_module.c)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ngxstream.conf import directive as d
from ngxstream.conf import units
from ngxstream.conf.directive import SERVER, STREAM, Directive
from ngxstream.core import errors, shm
from ngxstream.core.log import encode
from ngxstream.event import tls_protocols
from ngxstream.modules.ssl import sessions
from ngxstream.stream import tls_conf

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.core.shm_zones import ZoneRequest

BOTH: Final = STREAM | SERVER
ZONE_TAG: Final = "ssl"

# ssl_verify_client
VERIFY_OFF: Final = 0
VERIFY_ON: Final = 1
VERIFY_OPTIONAL: Final = 2
VERIFY_NO_CA: Final = 3

# ssl_session_cache, without a number of sessions
CACHE_OFF: Final = -1
CACHE_NONE: Final = -2
CACHE_BUILTIN: Final = -3
CACHE_NO_BUILTIN: Final = -4


@dataclass(frozen=True, slots=True)
class SslConf:
    """TLS settings, in ms (session_timeout: s). Source: ngx_stream_ssl_merge_srv_conf"""

    handshake_timeout: int = 60_000
    certificates: list[str] | None = None
    certificate_keys: list[str] | None = None
    certificate_cache: tls_conf.CacheOptions | None = None
    passwords: tuple[bytes, ...] | None = None
    dhparam: str = ""
    ecdh_curve: str = "auto"
    protocols: int = tls_protocols.DEFAULT
    ciphers: str = "HIGH:!aNULL:!MD5"
    verify: int = VERIFY_OFF
    verify_depth: int = 1
    client_certificate: str = ""
    trusted_certificate: str = ""
    prefer_server_ciphers: bool = False
    session_cache: int = CACHE_NONE  # one of CACHE_*, or a number of sessions
    session_zone: ZoneRequest | None = None
    session_tickets: bool = True
    session_ticket_keys: list[str] | None = None
    session_timeout: int = 300
    crl: str = ""
    ocsp: bool = False
    ocsp_responder: str = ""
    ocsp_cache: str = ""
    stapling: bool = False
    stapling_file: str = ""
    stapling_responder: str = ""
    stapling_verify: bool = False
    conf_commands: list[tuple[str, str]] | None = None
    reject_handshake: bool = False
    certificate_compression: bool = False
    alpn: bytes = b""
    context: Any = None  # libssl_context.Context, made when the block is complete


def _session_cache(scope: Scope, module: Module, st: Statement) -> None:
    """Read ssl_session_cache. Source: ngx_stream_ssl_session_cache"""
    given = scope.given_of(module)
    for word in st.args:
        kind, _, rest = word.partition(":")
        if word == "off":
            given["session_cache"] = CACHE_OFF
        elif word == "none":
            given["session_cache"] = CACHE_NONE
        elif word == "builtin":
            given["session_cache"] = CACHE_BUILTIN
        elif kind == "builtin" and rest:
            try:
                given["session_cache"] = units.parse_number(rest)
            except ValueError:
                raise errors.ConfError(f'invalid session cache "{word}"') from None
        elif kind == "shared" and rest:
            name, size = _zone(word, rest, "session cache")
            request = scope.builder.data["zones"].request(name, size, ZONE_TAG)
            request.init = sessions.init_zone
            request.usage = functools.partial(sessions.usage_of, request)
            given["session_zone"] = request
        else:
            raise errors.ConfError(f'invalid session cache "{word}"')
    if "session_zone" in given and "session_cache" not in given:
        given["session_cache"] = CACHE_NO_BUILTIN


def _zone(word: str, text: str, what: str) -> tuple[str, int]:
    """Read NAME:SIZE. Raises: ConfError"""
    name, colon, size_text = text.partition(":")
    try:
        size = units.parse_size(size_text) if name and colon else -1
    except ValueError:
        size = -1
    if size < 0:
        raise errors.ConfError(f'invalid {what} "{word}"')
    if size < shm.LEAST:
        raise errors.ConfError(f'{what} "{word}" is too small')
    return name, size


def _alpn(scope: Scope, module: Module, st: Statement) -> None:
    """Read ssl_alpn. Source: ngx_stream_ssl_alpn"""
    given = scope.given_of(module)
    if "alpn" in given:
        raise errors.ConfError(f'"{st.directive}" directive is duplicate')
    protocols = [encode(word) for word in st.args]
    if any(len(protocol) > tls_conf.LONGEST_PROTOCOL for protocol in protocols):
        raise errors.ConfError(f'"{st.directive}" directive protocol too long')
    given["alpn"] = b"".join(bytes((len(protocol),)) + protocol for protocol in protocols)


def _ocsp_cache(scope: Scope, module: Module, st: Statement) -> None:
    """Check ssl_ocsp_cache, which is not used: no ssl_ocsp. Source: ngx_stream_ssl_ocsp_cache"""
    given = scope.given_of(module)
    if "ocsp_cache" in given:
        raise errors.ConfError(f'"{st.directive}" directive is duplicate')
    word = st.args[0]
    if word != "off":
        kind, _, rest = word.partition(":")
        if kind != "shared" or not rest:
            raise errors.ConfError(f'invalid OCSP cache "{word}"')
        _zone(word, rest, "OCSP cache")
    given["ocsp_cache"] = word


def _refused_on(setter: d.Setter, field: str, why: str) -> d.Setter:
    """Make a setter that takes `off` and refuses everything else by name."""

    def set_or_refuse(scope: Scope, module: Module, st: Statement) -> None:
        setter(scope, module, st)
        if scope.given_of(module)[field]:
            raise errors.ConfError(f'"{st.directive}" directive is not supported: {why}')

    return set_or_refuse


NO_OCSP: Final = "nobody is asked about certificates over OCSP; use ssl_crl"
NO_COMPRESSION: Final = "Python's libssl does not compress certificates"
NO_ECH: Final = "Python's libssl knows no Encrypted Client Hello"

DIRECTIVES: Final = (
    Directive("ssl_handshake_timeout", BOTH, d.TAKE1, d.msec("handshake_timeout"),
              "How long a client's handshake may take.", default="60s"),
    Directive("ssl_certificate", BOTH, d.TAKE1, d.strings("certificates"),
              "PEM file (or data:PEM) of a certificate and its chain; variables allowed."),
    Directive("ssl_certificate_key", BOTH, d.TAKE1, d.strings("certificate_keys"),
              "PEM file (or data:PEM) of a certificate's private key; variables allowed."),
    Directive("ssl_certificate_cache", BOTH, d.TAKE13,
              tls_conf.certificate_cache("certificate_cache"),
              "How certificates named with variables are kept.", default="off"),
    Directive("ssl_password_file", BOTH, d.TAKE1, tls_conf.password_file("passwords"),
              "Passwords of encrypted keys, one a line."),
    d.unsupported("ssl_ech_file", BOTH, d.TAKE1, NO_ECH),
    Directive("ssl_certificate_compression", BOTH, d.FLAG,
              _refused_on(d.flag("certificate_compression"), "certificate_compression",
                          NO_COMPRESSION),
              "Only off: certificates are not compressed.", default="off"),
    Directive("ssl_dhparam", BOTH, d.TAKE1, d.string("dhparam"),
              "PEM file of parameters for ephemeral Diffie-Hellman."),
    Directive("ssl_ecdh_curve", BOTH, d.TAKE1, d.string("ecdh_curve"),
              "Groups of the key exchange, joined by colons.", default="auto"),
    Directive("ssl_protocols", BOTH, d.ONE_MORE, d.bitmask("protocols", tls_conf.PROTOCOLS),
              "Versions of TLS that clients may use.",
              default="TLSv1.2 TLSv1.3"),
    Directive("ssl_ciphers", BOTH, d.TAKE1, d.string("ciphers"),
              "Ciphers of TLS 1.2 and below, as OpenSSL writes them.",
              default="HIGH:!aNULL:!MD5"),
    Directive("ssl_verify_client", BOTH, d.TAKE1,
              d.enum("verify", {"off": VERIFY_OFF, "on": VERIFY_ON, "optional": VERIFY_OPTIONAL,
                                "optional_no_ca": VERIFY_NO_CA}),
              "Whether clients need a certificate.", default="off"),
    Directive("ssl_verify_depth", BOTH, d.TAKE1, d.num("verify_depth"),
              "How many certificates may stand between a client's and the authority.", default="1"),
    Directive("ssl_client_certificate", BOTH, d.TAKE1, d.string("client_certificate"),
              "Authorities of clients' certificates, named to clients."),
    Directive("ssl_trusted_certificate", BOTH, d.TAKE1, d.string("trusted_certificate"),
              "Authorities of clients' certificates, not named to clients."),
    Directive("ssl_prefer_server_ciphers", BOTH, d.FLAG, d.flag("prefer_server_ciphers"),
              "Whether the order of ssl_ciphers counts, or the client's.", default="off"),
    Directive("ssl_session_cache", BOTH, d.TAKE12, _session_cache,
              "Where sessions are kept; shared ones are known to all workers.", default="none"),
    Directive("ssl_session_tickets", BOTH, d.FLAG, d.flag("session_tickets"),
              "Whether clients may keep sessions in encrypted tickets.", default="on"),
    Directive("ssl_session_ticket_key", BOTH, d.TAKE1, d.strings("session_ticket_keys"),
              "File of 48 or 80 bytes that tickets are encrypted with; further ones only decrypt."),
    Directive("ssl_session_timeout", BOTH, d.TAKE1, d.sec("session_timeout"),
              "How long a session may be resumed.", default="5m"),
    Directive("ssl_crl", BOTH, d.TAKE1, d.string("crl"),
              "PEM file of revoked certificates."),
    Directive("ssl_ocsp", BOTH, d.TAKE1,
              _refused_on(d.enum("ocsp", {"off": False, "on": True, "leaf": True}), "ocsp",
                          NO_OCSP),
              "Only off: clients' certificates are not checked over OCSP.", default="off"),
    Directive("ssl_ocsp_responder", BOTH, d.TAKE1, d.string("ocsp_responder"),
              "Accepted; no OCSP responder is asked."),
    Directive("ssl_ocsp_cache", BOTH, d.TAKE1, _ocsp_cache,
              "Accepted; no OCSP responder is asked.",
              default="off"),
    Directive("ssl_stapling", BOTH, d.FLAG, d.flag("stapling"),
              "Whether clients are sent the OCSP response of ssl_stapling_file.", default="off"),
    Directive("ssl_stapling_file", BOTH, d.TAKE1, d.string("stapling_file"),
              "File of an OCSP response in DER."),
    Directive("ssl_stapling_responder", BOTH, d.TAKE1, d.string("stapling_responder"),
              "Accepted; no OCSP responder is asked."),
    Directive("ssl_stapling_verify", BOTH, d.FLAG, d.flag("stapling_verify"),
              "Accepted; no OCSP responder is asked.", default="off"),
    Directive("ssl_conf_command", BOTH, d.TAKE2, d.pairs("conf_commands"),
              "A configuration command of OpenSSL."),
    Directive("ssl_reject_handshake", BOTH, d.FLAG, d.flag("reject_handshake"),
              "Whether handshakes for this server are refused.", default="off"),
    Directive("ssl_alpn", BOTH, d.ONE_MORE, _alpn,
              "Protocols to choose from by ALPN, best first."),
)
