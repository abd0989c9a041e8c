"""The URL of a store.

    redis://[[user]:password@]host[:port][/db][?option=value&…]
    rediss://…                      the same by TLS
    redis-sentinel://[[user]:password@]host[:port][,host[:port]…]/service[/db][?…]
    rediss-sentinel://…
    redis+unix:/path[?…]

Options: `prefix=` of all keys, `timeout=` of a reply, `password_file=`, `sentinel_password_file=`,
`ca=` a file of authorities instead of the system's, `name=` that the certificate has to be for,
`verify=off`. What has a special meaning in a URL is written as %XX.
"""

from __future__ import annotations

import urllib.parse
from typing import TYPE_CHECKING, Final

from ngxstream.conf import units
from ngxstream.core import files, inet
from ngxstream.event import libssl, libssl_context, tls_client, tls_protocols
from ngxstream.event.store import StoreOptions
from ngxstream.stream import tls_conf

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope

PORT: Final = 6379
SENTINEL_PORT: Final = 26379
TIMEOUT_MS: Final = 1000
PREFIX: Final = "ngxstream"
MOST_DB: Final = 1 << 20
DEPTH: Final = 100  # of a chain of certificates, as OpenSSL has it
PROTOCOLS: Final = tls_protocols.TLSV1_2 | tls_protocols.TLSV1_3
SCHEMES: Final = ("redis", "rediss", "redis-sentinel", "rediss-sentinel", "redis+unix")
OPTIONS: Final = (
    "prefix", "timeout", "password_file", "sentinel_password_file", "ca", "name", "verify",
)


def without_password(url: str) -> str:
    """Return a URL as logs may have it."""
    scheme, slashes, rest = url.partition("://")
    head, at, tail = rest.rpartition("@")
    return f"{scheme}{slashes}{tail}" if at and slashes else f"{scheme}{slashes}{head}{tail}"


def parse(scope: Scope, url: str) -> tuple[StoreOptions, bytes]:
    """Read a URL. Returns: how the store is reached, and what its keys begin with

    Blocks while the system resolves a name. Raises: ValueError, ConfError
    """
    scheme, colon, rest = url.partition(":")
    if not colon or scheme not in SCHEMES:
        raise ValueError("a URL of redis, rediss, redis-sentinel, rediss-sentinel or redis+unix "
                         "is expected")
    behind = rest.removeprefix("//").replace("?", "/").partition("/")[2]
    if scheme != "redis+unix" and "@" in behind:
        raise ValueError('"@", "/" and "?" are written as %40, %2F and %3F')  # and not repeated
    rest, question, query = rest.partition("?")
    options = _query(query) if question else {}
    user, password, service, db = b"", None, "", 0
    if scheme == "redis+unix":
        addresses = _resolved(f"unix:{rest}", 0)
    else:
        if not rest.startswith("//"):
            raise ValueError('"//" is missing')
        authority, _, path = rest[2:].partition("/")
        login, at, hosts = authority.rpartition("@")
        if at:
            user, password = _login(login)
        if scheme.endswith("-sentinel"):
            service, _, path = path.partition("/")
            service = urllib.parse.unquote(service)
            if not service:
                raise ValueError("the name of the service is missing")
        if path:
            db = _db(path)
        port = SENTINEL_PORT if service else PORT
        addresses = tuple(one for host in hosts.split(",") for one in _resolved(host, port))
        if "," in hosts and not service:
            raise ValueError("several hosts are those of Sentinels")
    password = _password(scope, options, "password_file", password)
    text = f"{scheme}:{rest if scheme == 'redis+unix' else '//' + hosts}"
    text += f"/{service}" if service else ""
    secure = _secure(scope, options, hosts) if scheme.startswith("rediss") else None
    sentinel_password = _password(scope, options, "sentinel_password_file", None)
    return StoreOptions(
        text, addresses, service, user, password, sentinel_password, db, secure,
        _timeout(options.get("timeout")), (0, 0, 0, 0),
    ), files.c_string(options.get("prefix", PREFIX)).encode()


def _query(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for one in query.split("&"):
        name, equals, value = one.partition("=")
        if name not in OPTIONS or not equals or not value:
            raise ValueError(f'unknown option "{one}"')
        if name in options:
            raise ValueError(f'option "{name}" is given twice')
        options[name] = urllib.parse.unquote(value, errors="strict")
    if options.get("verify", "on") not in ("on", "off"):
        raise ValueError('"verify" is "on" or "off"')
    return options


def _login(login: str) -> tuple[bytes, bytes]:
    """Return user and password of what stands before the `@`."""
    user, colon, password = login.partition(":")
    if not colon:
        raise ValueError("a user without a password")
    unquote = urllib.parse.unquote_to_bytes
    return unquote(user), unquote(password)


def _db(path: str) -> int:
    if not path.isascii() or not path.isdigit() or int(path[:10]) > MOST_DB:
        raise ValueError(f'"{path}" is no number of a database')
    return int(path)


def _resolved(host: str, port: int) -> tuple[inet.Addr, ...]:
    try:
        found = inet.parse_url(host, port).addrs
    except inet.UrlError as error:
        raise ValueError(f'{error.reason} in "{host}"') from None
    if not found:
        raise ValueError(f'no host in "{host}"')
    return tuple(found)


def _timeout(text: str | None) -> int:
    if text is None:
        return TIMEOUT_MS
    try:
        timeout_ms = units.parse_time_msec(text)
    except ValueError:
        timeout_ms = 0
    if not 10 <= timeout_ms <= 60_000:
        raise ValueError("a timeout is 10ms to 60s")
    return timeout_ms


def _password(scope: Scope, options: dict[str, str], option: str,
              given: bytes | None) -> bytes | None:
    """Return the password of a file, or the given one. Raises: ConfError"""
    if option not in options:
        return given
    if given is not None:
        raise ValueError("a password and a file of it")
    return tls_conf.read_passwords(scope.conf_path(options[option]))[0]


def _secure(scope: Scope, options: dict[str, str], hosts: str) -> tls_client.Secure:
    """Make the TLS of a store. Raises: ValueError, ConfError"""
    tls_conf.require_library("store=rediss:")
    name = options.get("name") or hosts.partition(",")[0]
    if "name" not in options:
        literal = inet.parse_addr_port(name)
        name = inet.address_text(literal.sockaddr) if literal else name.rpartition(":")[0] or name
    verify = options.get("verify", "on") == "on"
    try:
        context = libssl_context.Context(PROTOCOLS, server_side=False)
        context.set_ciphers("DEFAULT")
        if verify:
            context.verify_peer(DEPTH, ask=False)
            if "ca" in options:
                context.trust(scope.conf_path(options["ca"]))
            else:
                context.trust_system()
    except libssl.SslError as error:
        raise tls_conf.unplaced(error) from None
    is_address = inet.parse_addr_port(name) is not None
    try:
        wire = name.encode("ascii")
    except UnicodeEncodeError:
        raise ValueError("a name of TLS is ASCII") from None
    return tls_client.Secure(
        context, wire, sends_name=not is_address, verify=verify, has_address=is_address,
    )
