"""TLS of checks: as the sessions of their server have it (`proxy_ssl on`), or of `type=tls` alone.

Names and certificates with variables are of a session, and no check has one: the name is then what
it is without the directive, and no certificate is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ngxstream.core.log import encode
from ngxstream.event import libssl, libssl_context, tls_client
from ngxstream.stream import tls_conf

if TYPE_CHECKING:
    from ngxstream.event.libssl_context import Context
    from ngxstream.stream.core import ServerConf, StreamDraft


def made(kind: str, server: ServerConf, draft: StreamDraft) -> tls_client.Secure | None:
    """Return what a check by TCP does for TLS, None for nothing.

    Args: kind: what the check's `type=` says. Raises: UnplacedError
    """
    conf: Any = server.proxy_ssl
    if not conf.ssl and kind != "tls":
        return None
    context = conf.context if conf.ssl else _own_context(conf, draft)
    name = conf.name.constant if conf.name is not None else None
    if name is None and conf.ssl:
        name = encode(server.proxy.upstream.name)
    alpn = b"".join(
        bytes((len(one.constant),)) + one.constant
        for one in conf.alpn if one.constant is not None and 0 < len(one.constant) <= 255
    )
    return tls_client.Secure(context, name, conf.server_name or not conf.ssl, conf.verify, alpn)


def _own_context(conf: Any, draft: StreamDraft) -> Context:
    """Make the context of a check of a server that does not use TLS. Raises: UnplacedError"""
    tls_conf.require_library("type=tls")
    prefix = draft.builder.conf_prefix
    try:
        context = libssl_context.Context(conf.protocols, server_side=False)
        context.set_ciphers(conf.ciphers)
        certificate, key = conf.certificate, conf.certificate_key
        if certificate is not None and key is not None and certificate.constant and key.constant:
            context.add_certificate(
                tls_conf.full_name(prefix, certificate.text),
                tls_conf.full_name(prefix, key.text), conf.passwords,
            )
        tls_conf.verify_servers(context, conf, prefix)
    except libssl.SslError as error:
        raise tls_conf.unplaced(error) from None
    return context
