"""What the directives of both sides of TLS have in common: how their values are read.

Answers for the setters of ngx_stream_ssl_module.c and the proxy_ssl_* ones of
ngx_stream_proxy_module.c, and ngx_ssl_read_password_file() (ngx_event_openssl.c).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ngxstream.conf import units
from ngxstream.core import errors, files
from ngxstream.core.log import encode
from ngxstream.event import libssl, tls_protocols

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.directive import Setter
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.event.libssl_context import Context

PROTOCOLS: Final = {
    "SSLv2": tls_protocols.SSLV2, "SSLv3": tls_protocols.SSLV3, "TLSv1": tls_protocols.TLSV1,
    "TLSv1.1": tls_protocols.TLSV1_1, "TLSv1.2": tls_protocols.TLSV1_2,
    "TLSv1.3": tls_protocols.TLSV1_3,
}
LONGEST_PASSWORD_LINE: Final = 4096  # NGX_SSL_PASSWORD_BUFFER_SIZE
LONGEST_PROTOCOL: Final = 255
MAX_MESSAGE: Final = 1024  # bytes of a message of OpenSSL's: NGX_MAX_CONF_ERRSTR


class CacheOptions(NamedTuple):
    """What *_certificate_cache says; times in seconds."""

    most: int
    inactive: int = 10
    valid: int = 60


def certificate_cache(field: str) -> Setter:
    """Make the setter of a certificate cache; `off` is None.

    Source: ngx_stream_ssl_certificate_cache
    """

    def set_cache(scope: Scope, module: Module, st: Statement) -> None:
        given = scope.given_of(module)
        if field in given:
            raise errors.ConfError(f'"{st.directive}" directive is duplicate')
        numbers = {"max": 0, "inactive": 10, "valid": 60}
        off = False
        for word in st.args:
            if word == "off":
                off = True
                continue
            try:
                name, number = _cache_number(word)
            except ValueError:
                raise errors.ConfError(f'invalid parameter "{word}"') from None
            numbers[name] = number
        if off:
            given[field] = None
            return
        if not numbers["max"]:
            raise errors.ConfError(f'"{st.directive}" must have the "max" parameter')
        given[field] = CacheOptions(numbers["max"], numbers["inactive"], numbers["valid"])

    return set_cache


def _cache_number(word: str) -> tuple[str, int]:
    """Read one parameter of a cache. Raises: ValueError"""
    name, _, value = word.partition("=")
    if name in ("inactive", "valid"):
        return name, units.parse_time_sec(value)
    if name != "max" or units.parse_number(value) <= 0:
        raise ValueError(word)
    return name, units.parse_number(value)


def password_file(field: str) -> Setter:
    """Make the setter of the passwords of encrypted keys, one a line (tuple[bytes, ...])."""

    def set_passwords(scope: Scope, module: Module, st: Statement) -> None:
        given = scope.given_of(module)
        if field in given:
            raise errors.ConfError(f'"{st.directive}" directive is duplicate')
        given[field] = read_passwords(scope.conf_path(st.args[0]))

    return set_passwords


def read_passwords(path: str) -> tuple[bytes, ...]:
    """Return the lines of a file of passwords, one at least. Raises: ConfError"""
    try:
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")
    except OSError as error:
        call = "read()" if error.errno == 21 else "open()"  # EISDIR
        raise errors.ConfError(f'{call} "{path}" failed', errno=error) from None
    if any(len(line) >= LONGEST_PASSWORD_LINE for line in lines):
        raise errors.ConfError(f'too long line in "{path}"')
    return tuple(line.removesuffix(b"\r") for line in lines if line.removesuffix(b"\r")) or (b"",)


def full_name(prefix: str, name: str) -> str:
    """Make the name of a certificate or key absolute; `data:` and the like stay as they are.

    Source: ngx_event_openssl_cache.c ngx_ssl_cache_init_key
    """
    if name.startswith(("data:", "engine:", "store:")):
        return name
    return file_name(prefix, name)


def file_name(prefix: str, name: str) -> str:
    """Make the name of a file absolute, as the C library reads it. Source: ngx_conf_full_name"""
    return os.path.join(prefix, files.c_string(name))


def verify_servers(context: Context, conf: Any, prefix: str) -> None:
    """Have a context verify servers, and obey commands, as `proxy_ssl_*` say.

    Args: conf: has verify, verify_depth, trusted_certificate, crl, conf_commands; prefix: of files
    Raises: UnplacedError, SslError
    """
    if conf.verify:
        if not conf.trusted_certificate:
            raise errors.UnplacedError("no proxy_ssl_trusted_certificate for proxy_ssl_verify")
        context.verify_peer(conf.verify_depth, ask=False)
        context.trust(file_name(prefix, conf.trusted_certificate))
        if conf.crl:
            context.add_crl(file_name(prefix, conf.crl))
    if conf.conf_commands:
        context.run_commands(conf.conf_commands, prefix)


def require_library(what: str) -> libssl.Library:
    """Return the library, or say that `what` cannot be served. Raises: UnplacedError"""
    try:
        return libssl.load()
    except libssl.Unavailable as error:
        raise errors.UnplacedError(f'"{what}" is not supported: {error.message}') from None


def unplaced(error: libssl.SslError) -> errors.UnplacedError:
    """Make a configuration error of a failed call: nginx names no place for these.

    Source: ngx_event_openssl.c ngx_ssl_error
    """
    text = error.message
    raw = encode(text)
    if len(raw) > MAX_MESSAGE:  # the bracket behind the reasons is kept
        text = raw[: MAX_MESSAGE - 1].decode("utf-8", "surrogateescape") + ")"
    return errors.UnplacedError(text)
