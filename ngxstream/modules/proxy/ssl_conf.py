"""The conf, directives and contexts of TLS towards upstream servers.

Answers for the proxy_ssl_* commands, ngx_stream_proxy_merge_ssl() and ngx_stream_proxy_set_ssl()
of ngx_stream_proxy_module.c.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ngxstream.conf import directive as d
from ngxstream.conf.directive import SERVER, STREAM, Directive
from ngxstream.core import errors
from ngxstream.core.log import encode
from ngxstream.event import libssl, libssl_context, tls_protocols
from ngxstream.stream import tls_certificates, tls_conf, values
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.event.libssl_context import Context
    from ngxstream.stream.core import ServerConf, StreamDraft
    from ngxstream.stream.values import ComplexValue

BOTH: Final = STREAM | SERVER
KEY: Final = "proxy_ssl"  # where the draft keeps the contexts that servers share


@dataclass(frozen=True, slots=True)
class ProxySslConf:
    """TLS settings towards upstream servers. Source: ngx_stream_proxy_merge_srv_conf"""

    ssl: bool = False
    session_reuse: bool = True
    protocols: int = tls_protocols.DEFAULT
    ciphers: str = "DEFAULT"
    name: ComplexValue | None = None
    server_name: bool = False
    alpn: tuple[ComplexValue, ...] = ()
    verify: bool = False
    verify_depth: int = 1
    trusted_certificate: str = ""
    crl: str = ""
    certificate: ComplexValue | None = None
    certificate_key: ComplexValue | None = None
    certificate_cache: tls_conf.CacheOptions | None = None
    passwords: tuple[bytes, ...] | None = None
    conf_commands: list[tuple[str, str]] | None = None
    # made when the block is complete
    context: Any = None  # libssl_context.Context
    certificates: Any = None  # tls_certificates.Certificates of names with variables


def _alpn(scope: Scope, module: Module, st: Statement) -> None:
    """Read proxy_ssl_alpn. Source: ngx_stream_proxy_ssl_alpn_set_slot"""
    given = scope.given_of(module)
    if "alpn" in given:
        raise errors.ConfError(f'"{st.directive}" directive is duplicate')
    table = scope.builder.data["stream"].variables
    protocols = []
    for word in st.args:
        protocol = values.compile_value(word, table)
        if protocol.constant is not None and len(encode(word)) > tls_conf.LONGEST_PROTOCOL:
            raise errors.ConfError(f'"{st.directive}" directive protocol too long')
        protocols.append(protocol)
    given["alpn"] = tuple(protocols)


def check(conf: ProxySslConf, server: ServerConf, draft: StreamDraft) -> None:
    """Make the context of a server with `proxy_ssl on`, or share another's. Raises: ConfError"""
    if not conf.ssl:
        _warn_of_trust(server, draft)
        return
    tls_conf.require_library("proxy_ssl")
    shared: dict[Any, Context] = draft.data.setdefault(KEY, {})
    certificate, certificate_key = conf.certificate, conf.certificate_key
    key = (
        conf.protocols, conf.ciphers, certificate and certificate.text,
        certificate_key and certificate_key.text, conf.passwords, conf.verify,
        conf.verify_depth, conf.trusted_certificate, conf.crl, conf.session_reuse,
        tuple(conf.conf_commands or ()),
    )  # fmt: skip
    context = shared.get(key)
    if context is None:
        try:
            context = shared[key] = _make(conf, draft.builder.conf_prefix)
        except libssl.SslError as error:
            raise tls_conf.unplaced(error) from None
    certificates = None
    if _is_chosen(conf):
        certificates = tls_certificates.Certificates(
            context.lib, draft.builder.conf_prefix, conf.passwords, conf.certificate_cache
        )
    server.proxy_ssl = dataclasses.replace(conf, context=context, certificates=certificates)


def _warn_of_trust(server: ServerConf, draft: StreamDraft) -> None:
    """Say where a server is to verify others and has no TLS with them; nginx is silent."""
    checks = server.given.get("health", {}).get("checks", ())  # these may have TLS of their own
    if server.given.get("proxy_ssl", {}).get("verify") and all(one.kind != "tls" for one in checks):
        draft.warn('"proxy_ssl_verify" has no effect without "proxy_ssl on" '
                   f"in {server.file}:{server.line}")


def _is_chosen(conf: ProxySslConf) -> bool:
    """Tell whether the certificate is another for each session."""
    certificate, key = conf.certificate, conf.certificate_key
    if certificate is None or key is None or not certificate.text:
        return False
    return certificate.constant is None or key.constant is None


def _make(conf: ProxySslConf, prefix: str) -> Context:
    """Make a context. Raises: SslError, UnplacedError. Source: ngx_stream_proxy_set_ssl"""
    context = libssl_context.Context(conf.protocols, server_side=False)
    context.set_ciphers(conf.ciphers)
    if conf.certificate is not None and conf.certificate.text:
        name = conf.certificate.text
        if conf.certificate_key is None:
            raise errors.UnplacedError(
                f'no "proxy_ssl_certificate_key" is defined for certificate "{name}"'
            )
        if not _is_chosen(conf):
            context.add_certificate(
                tls_conf.full_name(prefix, name),
                tls_conf.full_name(prefix, conf.certificate_key.text),
                conf.passwords,
            )
    tls_conf.verify_servers(context, conf, prefix)
    return context


DIRECTIVES: Final = (
    Directive("proxy_ssl", BOTH, d.FLAG, d.flag("ssl"),
              "TLS on the connections to upstream servers (TCP).", default="off"),
    Directive("proxy_ssl_session_reuse", BOTH, d.FLAG, d.flag("session_reuse"),
              "Whether sessions with upstream servers are resumed.", default="on"),
    Directive("proxy_ssl_protocols", BOTH, d.ONE_MORE,
              d.bitmask("protocols", tls_conf.PROTOCOLS), "Versions of TLS towards servers.",
              default="TLSv1.2 TLSv1.3"),
    Directive("proxy_ssl_ciphers", BOTH, d.TAKE1, d.string("ciphers"),
              "Ciphers of TLS 1.2 and below, as OpenSSL writes them.", default="DEFAULT"),
    Directive("proxy_ssl_name", BOTH, d.TAKE1, values.value("name"),
              "Name to verify and to send by SNI, instead of proxy_pass's."),
    Directive("proxy_ssl_server_name", BOTH, d.FLAG, d.flag("server_name"),
              "Whether the name is sent (SNI).", default="off"),
    Directive("proxy_ssl_alpn", BOTH, d.ONE_MORE, _alpn,
              "Protocols to offer by ALPN."),
    Directive("proxy_ssl_verify", BOTH, d.FLAG, d.flag("verify"),
              "Whether upstream servers' certificates are verified.", default="off"),
    Directive("proxy_ssl_verify_depth", BOTH, d.TAKE1, d.num("verify_depth"),
              "How many certificates may stand between a server's and the authority.", default="1"),
    Directive("proxy_ssl_trusted_certificate", BOTH, d.TAKE1, d.string("trusted_certificate"),
              "Authorities of upstream servers' certificates."),
    Directive("proxy_ssl_crl", BOTH, d.TAKE1, d.string("crl"),
              "PEM file of revoked certificates."),
    Directive("proxy_ssl_certificate", BOTH, d.TAKE1, values.value("certificate"),
              "Certificate to show to upstream servers; variables allowed."),
    Directive("proxy_ssl_certificate_key", BOTH, d.TAKE1, values.value("certificate_key"),
              "Key of that certificate; variables allowed."),
    Directive("proxy_ssl_certificate_cache", BOTH, d.TAKE13,
              tls_conf.certificate_cache("certificate_cache"),
              "How certificates named with variables are kept.", default="off"),
    Directive("proxy_ssl_password_file", BOTH, d.TAKE1, tls_conf.password_file("passwords"),
              "Passwords of encrypted keys, one a line."),
    Directive("proxy_ssl_conf_command", BOTH, d.TAKE2, d.pairs("conf_commands"),
              "A configuration command of OpenSSL."),
)

MODULE = StreamModule(name="proxy_ssl", directives=DIRECTIVES, conf=ProxySslConf, check=check)
