"""Making the TLS context of a server from its conf, in the master, before privileges are dropped.

Answers for ngx_stream_ssl_merge_srv_conf() and ngx_stream_ssl_init() (ngx_stream_ssl_module.c);
what is wrong is found in nginx's order and said in its words.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import errors, files
from ngxstream.event import libssl, libssl_context, libssl_sessions
from ngxstream.modules.ssl import conf as c
from ngxstream.modules.ssl import handshake, sessions
from ngxstream.stream import tls_certificates, tls_conf, values

if TYPE_CHECKING:
    from ngxstream.event.libssl_context import Context
    from ngxstream.stream.addresses import AddressDraft
    from ngxstream.stream.core import ServerConf, StreamDraft

KEY: Final = "ssl"  # where the draft keeps the handshakes under way
LABEL: Final = b"STREAM"  # ngx_stream_ssl_sess_id_ctx


def check(conf: c.SslConf, server: ServerConf, draft: StreamDraft) -> None:
    """Make the context of a server that needs one. Raises: ConfError"""
    if server.given.get("ssl", {}).get("verify") == c.VERIFY_ON:
        _warn_of_open(server, draft)
    if conf.certificates is None:
        if not conf.reject_handshake:
            return
    elif len(conf.certificate_keys or ()) < len(conf.certificates):
        raise errors.UnplacedError(
            f'no "ssl_certificate_key" is defined for certificate "{conf.certificates[-1]}"'
        )
    tls_conf.require_library("ssl_certificate")
    try:
        context = _make(conf, draft)
    except libssl.SslError as error:
        raise tls_conf.unplaced(error) from None
    server.ssl = dataclasses.replace(conf, context=context)


def _warn_of_open(server: ServerConf, draft: StreamDraft) -> None:
    """Say where a server asks nobody for a certificate, as it has no TLS there; once."""
    for address in server.listens:
        if not address.options.ssl:
            draft.warn(f'"ssl_verify_client" has no effect at "{address.options.text}", which has '
                       f'no "ssl", in {server.file}:{server.line}')
            return


def finish(draft: StreamDraft) -> None:
    """Check the certificates of each `listen … ssl`. Source: ngx_stream_ssl_init"""
    listening = set()
    for address in draft.addresses:
        if not address.options.ssl:
            continue
        context = address.default_server.ssl.context
        if context is not None and context not in listening and _has_choice(address):
            listening.add(context)
            context.on_client_hello(handshake.hello_handler(pending(draft)))
            others = (server.ssl.context for server in address.servers)
            if any(other is not None and other.may_use_kernel() for other in others):
                context.read_by_record()  # a client begins here, and may go on there
        default: c.SslConf = address.default_server.ssl
        if default.certificates is not None:
            continue
        servers = address.servers if default.reject_handshake else [address.default_server]
        for server in servers:
            conf: c.SslConf = server.ssl
            if conf.certificates is None and not conf.reject_handshake:
                raise errors.UnplacedError(
                    'no "ssl_certificate" is defined for the "listen ... ssl" directive in '
                    f"{server.file}:{server.line}"
                )


def _has_choice(address: AddressDraft) -> bool:
    """Tell whether it matters to an address which name a client asks for."""
    if len(address.servers) > 1:
        return True
    server = address.default_server
    return server.ssl.reject_handshake or any(name.regex is not None for name in server.names)


def pending(draft: StreamDraft) -> handshake.Pending:
    """Return the table of the handshakes under way, one for the whole block."""
    found: handshake.Pending | None = draft.data.get(KEY)
    if found is None:
        found = draft.data[KEY] = {}
    return found


def _make(conf: c.SslConf, draft: StreamDraft) -> Context:
    prefix = draft.builder.conf_prefix
    context = libssl_context.Context(conf.protocols, server_side=True)
    underway = context.owner = pending(draft)
    if conf.alpn:
        context.set_alpn(conf.alpn)
    context.set_ciphers(conf.ciphers, conf.prefer_server_ciphers)
    _certificates(context, conf, draft, underway)
    trusted = _authorities(context, conf, prefix)
    if conf.crl:
        context.add_crl(tls_conf.file_name(prefix, conf.crl))
    if conf.dhparam:
        context.set_dhparam(tls_conf.file_name(prefix, conf.dhparam))
    context.set_curves(files.c_string(conf.ecdh_curve))
    _sessions(context, conf, prefix)
    if conf.stapling:
        _staple(context, conf, draft, trusted)
    if conf.conf_commands:
        context.run_commands(conf.conf_commands, prefix)
    return context


def _certificates(context: Context, conf: c.SslConf, draft: StreamDraft,
                  underway: handshake.Pending) -> None:
    """Load certificates, or choose them per client. Source: ngx_stream_ssl_compile_certificates"""
    names = conf.certificates or []
    keys = conf.certificate_keys or []
    prefix = draft.builder.conf_prefix
    pairs = list(zip(names, keys, strict=False))
    if any(values.has_variables(name) or values.has_variables(key) for name, key in pairs):
        table = draft.variables
        chosen = [
            (values.compile_value(name, table), values.compile_value(key, table))
            for name, key in pairs
        ]
        cache = tls_certificates.Certificates(
            context.lib, prefix, conf.passwords, conf.certificate_cache
        )
        context.on_certificate(handshake.certificate_handler(underway, chosen, cache))
        return
    for name, key in pairs:
        context.add_certificate(
            tls_conf.full_name(prefix, name), tls_conf.full_name(prefix, key), conf.passwords
        )


def _authorities(context: Context, conf: c.SslConf, prefix: str) -> Any:
    """Set how clients' certificates are verified. Returns: the trusted certificates"""
    if conf.verify:
        if conf.verify != c.VERIFY_NO_CA and not (
            conf.client_certificate or conf.trusted_certificate
        ):
            raise errors.UnplacedError(
                "no ssl_client_certificate or ssl_trusted_certificate for ssl_verify_client"
            )
        context.verify_peer(conf.verify_depth, ask=True)
        if conf.client_certificate:
            context.trust(tls_conf.file_name(prefix, conf.client_certificate), announce=True)
    context.verify_peer(conf.verify_depth, ask=False)
    if conf.trusted_certificate:
        return context.trust(tls_conf.file_name(prefix, conf.trusted_certificate))
    return None


def _sessions(context: Context, conf: c.SslConf, prefix: str) -> None:
    """Set how sessions are resumed. Source: ngx_ssl_session_cache, …_session_ticket_keys"""
    context.set_session_id_context(LABEL, conf.certificates or ())
    zone = conf.session_zone
    size: int | None = None
    store: sessions.ZoneStore | None = None
    if conf.session_cache == c.CACHE_OFF:
        mode = libssl_context.CACHE_OFF
    elif conf.session_cache == c.CACHE_NONE:
        mode = (
            libssl_context.CACHE_SERVER
            | libssl_context.CACHE_NO_AUTO_CLEAR
            | libssl_context.CACHE_NO_INTERNAL_STORE
        )
        size = 1
    else:
        mode = libssl_context.CACHE_SERVER
        if conf.session_cache == c.CACHE_NO_BUILTIN:
            mode |= libssl_context.CACHE_NO_INTERNAL
        elif conf.session_cache != c.CACHE_BUILTIN:
            size = conf.session_cache
        if zone is not None:
            store = sessions.ZoneStore(zone)
    context.set_session_cache(mode, size, conf.session_timeout)
    if store is not None:
        libssl_sessions.use_store(context, store)
    if not conf.session_tickets:
        context.set_options(libssl_context.NO_TICKET)
    libssl_sessions.limit_lifetime(context)
    if conf.session_ticket_keys is not None:
        keys = tuple(
            sessions.read_ticket_key(tls_conf.file_name(prefix, path))
            for path in conf.session_ticket_keys
        )
        if len(keys) == 1 and keys[0].is_the_library_s():
            libssl_sessions.use_one_ticket_key(context, keys[0])
        else:
            libssl_sessions.use_ticket_keys(context, lambda: keys)
    elif store is not None:
        libssl_sessions.use_ticket_keys(context, store.ticket_keys(conf.session_timeout))


def _staple(context: Context, conf: c.SslConf, draft: StreamDraft, trusted: Any) -> None:
    """Staple a file; refuse where nginx asks a responder. Source: ngx_ssl_stapling"""
    prefix = draft.builder.conf_prefix
    if conf.stapling_file:
        context.staple(tls_conf.file_name(prefix, conf.stapling_file))
        return
    for name, stack in zip(conf.certificates or (), context.leaves, strict=False):
        path = tls_conf.full_name(prefix, name)
        if not context.knows_issuer(stack, trusted):
            draft.warn(
                f'"ssl_stapling" ignored, issuer certificate not found for certificate "{path}"'
            )
        elif not conf.stapling_responder and not context.names_responder(stack):
            draft.warn(f'"ssl_stapling" ignored, no OCSP responder URL in the certificate "{path}"')
        else:
            raise errors.UnplacedError(
                '"ssl_stapling" directive is not supported without "ssl_stapling_file": '
                "OCSP responders are not asked"
            )
