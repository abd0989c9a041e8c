"""The parameters of `listen`: words of the directive to one ListenOptions for each address.

Answers for ngx_stream_core_listen (src/stream/ngx_stream_core_module.c).
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ngxstream.conf import units
from ngxstream.core import errors, inet
from ngxstream.event.listening import ListenOptions

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope

_INT_MAX: Final = 2**31 - 1  # what the kernel takes; nginx's ints wrap around there

# The parameters UDP cannot have, in the order in which nginx looks for them.
_NOT_UDP: Final = (
    "fastopen",
    "backlog",
    "deferred",
    "multipath",
    "ssl",
    "keepalive",
)
_NAMES: Final = {"keepalive": "so_keepalive"}  # where the field is called otherwise

_FLAGS: Final[dict[str, dict[str, Any]]] = {
    "default_server": {"default_server": True},
    "udp": {"socktype": socket.SOCK_DGRAM},
    "bind": {"set": True, "bind": True},
    "deferred": {"deferred": True, "set": True, "bind": True},
    "reuseport": {"reuseport": True, "set": True, "bind": True},
    "multipath": {"multipath": True, "set": True, "bind": True},
    "ssl": {"ssl": True},
    "proxy_protocol": {"proxy_protocol": True},
    # of our own; a header in front of every datagram is the default
    "proxy_protocol=every": {"proxy_protocol": True, "proxy_protocol_first": False},
    "proxy_protocol=first": {"proxy_protocol": True, "proxy_protocol_first": True},
}


def parse(args: list[str], scope: Scope) -> list[ListenOptions]:
    """Return the options of every address that a `listen` names.

    shape: args are the words after `listen`
    raises: ConfError with nginx's words
    """
    try:
        url = inet.parse_url(args[0], listen=True)
    except inet.UrlError as error:
        raise errors.ConfError(f'{error.reason} in "{args[0]}" of the "listen" directive') from None
    given: dict[str, Any] = {"socktype": socket.SOCK_STREAM}
    for word in args[1:]:
        _parameter(word, given, scope)
    if given["socktype"] == socket.SOCK_DGRAM:
        _refuse_on_udp(given)
    elif "proxy_protocol_first" in given:
        word = next(word for word in args if word.startswith("proxy_protocol="))
        raise errors.ConfError(f'invalid parameter "{word}"')
    found: dict[Any, ListenOptions] = {}
    for family, sockaddr, text in url.addrs:
        wildcard = inet.is_wildcard(sockaddr)
        options = ListenOptions(
            family=family, sockaddr=sockaddr, text=text, wildcard=wildcard, **given
        )
        found.setdefault(options.key, options)
    return list(found.values())


def _refuse_on_udp(given: dict[str, Any]) -> None:
    for field in _NOT_UDP:
        if field in given:
            name = _NAMES.get(field, field)
            raise errors.ConfError(
                f'"listen" directive "{name}" parameter is incompatible with "udp"'
            )


def _parameter(word: str, given: dict[str, Any], scope: Scope) -> None:
    """Enter what one parameter says. raises: ConfError"""
    flag = _FLAGS.get(word)
    if flag is not None:
        given.update(flag)
        return
    if word.startswith("accept_filter="):
        scope.warn(f'accept filters "{word}" are not supported on this platform, ignored', "emerg")
        return
    name, _, value = word.partition("=")
    parse_value = _VALUES.get(name)
    # nginx looks at `ipv6only=o` before it complains of the flag
    if parse_value is None or "=" not in word or (name == "ipv6only" and value[:1] != "o"):
        raise errors.ConfError(f'invalid parameter "{word}"')
    field, parsed = parse_value(word, value)
    given[field] = parsed
    given["set"] = given["bind"] = True


def _number(field: str, least: int) -> Callable[[str, str], tuple[str, int]]:
    def parse_value(word: str, value: str) -> tuple[str, int]:
        try:
            number = units.parse_number(value)
        except ValueError:
            number = -1
        if number < least:
            raise errors.ConfError(f'invalid {field} "{word}"')
        return field, min(number, _INT_MAX)

    return parse_value


def _size(field: str) -> Callable[[str, str], tuple[str, int]]:
    def parse_value(word: str, value: str) -> tuple[str, int]:
        try:
            size = units.parse_size(value)
        except ValueError:
            raise errors.ConfError(f'invalid {field} "{word}"') from None
        return field, min(size, _INT_MAX)

    return parse_value


def _ipv6only(word: str, value: str) -> tuple[str, bool]:
    if value not in ("on", "off"):
        raise errors.ConfError(f'invalid ipv6only flags "{value}"')
    return "ipv6only", value == "on"


def _keepalive(word: str, value: str) -> tuple[str, str | tuple[int, int, int]]:
    """Parse on, off or [idle]:[interval]:[count]."""
    if value in ("on", "off"):
        return "keepalive", value
    idle, _, rest = value.partition(":")
    interval, _, count = rest.partition(":")
    try:
        numbers = (
            units.parse_time_sec(idle) if idle else 0,
            units.parse_time_sec(interval) if interval else 0,
            units.parse_number(count) if count else 0,
        )
    except ValueError:
        numbers = (0, 0, 0)
    if not any(numbers):
        raise errors.ConfError(f'invalid so_keepalive value: "{value}"')
    idle_s, interval_s, probes = (min(number, _INT_MAX) for number in numbers)
    return "keepalive", (idle_s, interval_s, probes)


_VALUES: Final[dict[str, Callable[[str, str], tuple[str, Any]]]] = {
    "fastopen": _number("fastopen", 0),
    "backlog": _number("backlog", 1),
    "rcvbuf": _size("rcvbuf"),
    "sndbuf": _size("sndbuf"),
    "ipv6only": _ipv6only,
    "so_keepalive": _keepalive,
}
