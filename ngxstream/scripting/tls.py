"""TLS: what a function may ask of TLS towards a server, and the contexts that are made of it."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ngxstream.event import libssl, libssl_context, tls_client, tls_protocols

if TYPE_CHECKING:
    from ngxstream.event.libssl_context import Context
    from ngxstream.event.loop import Loop

MOST: Final = 64  # contexts that a worker keeps
DEPTH: Final = 100  # of a chain, as OpenSSL has it
PROTOCOLS: Final = tls_protocols.TLSV1_2 | tls_protocols.TLSV1_3


@dataclass(frozen=True, slots=True)
class TLS:
    """What connect() is to do for TLS.

    Attributes: verify: whether the server's certificate is verified; server_name: the name that it
    has to be for, and that is sent by SNI, instead of the host; ca_file: PEM file of authorities
    instead of the system's; certificate, key: PEM files, where the server asks for a certificate;
    alpn: protocols to offer. Files are read when a worker needs them first, with its rights.
    """

    verify: bool = True
    server_name: str | None = None
    ca_file: str | None = None
    certificate: str | None = None
    key: str | None = None
    alpn: tuple[str, ...] = ()


_Key = tuple[bool, str | None, str | None, str | None]


def contexts(_: Loop) -> dict[_Key, Context]:
    """Make the table of a worker's contexts."""
    return {}


def towards(loop: Loop, options: TLS, host: str, is_address: bool) -> tls_client.Secure:
    """Return what is done for TLS with a host. Args: is_address: so is what is verified

    Raises: OSError where a file cannot be used, ValueError
    """
    if options.key is not None and options.certificate is None:
        raise ValueError("a key without a certificate")
    name = (options.server_name or host).removesuffix(".")
    if not name or "\0" in name or not all(0 < len(one) < 256 for one in options.alpn):
        raise ValueError("names of TLS are neither empty nor too long")
    try:
        wire = name.encode("ascii")
        alpn = b"".join(bytes((len(one),)) + one.encode("ascii") for one in options.alpn)
    except UnicodeEncodeError:
        raise ValueError("names of TLS are ASCII") from None
    key = options.verify, options.ca_file, options.certificate, options.key
    known = loop.get(contexts)
    context = known.get(key)
    if context is None:
        context = _made(options)
        if len(known) >= MOST:
            del known[next(iter(known))]
        known[key] = context
    return tls_client.Secure(
        context, wire, sends_name=not is_address, verify=options.verify, alpn=alpn,
        has_address=is_address,
    )


def _made(options: TLS) -> Context:
    """Make a context. Raises: OSError"""
    try:
        context = libssl_context.Context(PROTOCOLS, server_side=False)
        context.set_ciphers("DEFAULT")
        if options.certificate is not None:
            context.add_certificate(options.certificate, options.key or options.certificate, None)
        if options.verify:
            context.verify_peer(DEPTH, ask=False)
            if options.ca_file is None:
                context.trust_system()
            else:
                context.trust(options.ca_file)
    except (libssl.SslError, libssl.Unavailable) as error:
        raise OSError(errno.EINVAL, error.message) from None
    return context
