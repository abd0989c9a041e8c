"""The parameters of `listen`: words of the directive to one ListenOptions for each address.

Answers for ngx_stream_core_listen (src/stream/ngx_stream_core_module.c).
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final, Protocol

from ngxstream.conf import units
from ngxstream.core import errors, inet
from ngxstream.event.listen_options import ListenOptions

_INT_MAX: Final = 2**31 - 1

Given = dict[str, Any]  # what the parameters said so far, by field of ListenOptions

# The parameters UDP cannot have, in the order in which nginx looks for them.
_NOT_UDP: Final = ("fastopen", "backlog", "deferred", "multipath", "ssl", "keepalive")
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


class Warned(Protocol):
    """Who hears of what is ignored: the scope that the directive stands in."""

    def warn(self, message: str, level: str = "warn") -> None:
        """Hear of it."""


def parse(args: list[str], scope: Warned) -> list[ListenOptions]:
    """Return the options of every address that a `listen` names.

    Args: args: the words after `listen`. Raises: ConfError with nginx's words
    """
    try:
        url = inet.parse_url(args[0], listen=True)
    except inet.UrlError as error:
        raise errors.ConfError(f'{error.reason} in "{args[0]}" of the "listen" directive') from None
    given: Given = {"socktype": socket.SOCK_STREAM}
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


def _refuse_on_udp(given: Given) -> None:
    for field in _NOT_UDP:
        if field in given:
            name = _NAMES.get(field, field)
            raise errors.ConfError(
                f'"listen" directive "{name}" parameter is incompatible with "udp"'
            )


def _parameter(word: str, given: Given, scope: Warned) -> None:
    """Enter what one parameter says. Raises: ConfError"""
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
    field, parsed = parse_value(word, value, given)
    given[field] = parsed
    given["set"] = given["bind"] = True


def _as_int(number: int) -> int:
    """Return what a C int keeps of a number.

    nginx compares that with its error mark, -1, and gives what is left to the kernel, which takes
    a negative size or backlog for its largest.
    """
    return ((number + 2**31) & 0xFFFF_FFFF) - 2**31


def _for_kernel(number: int) -> int:
    return _INT_MAX if number < 0 else number


def _number(field: str, *, may_be_zero: bool) -> Callable[[str, str, Given], tuple[str, int]]:
    def parse_value(word: str, value: str, given: Given) -> tuple[str, int]:
        try:
            number = _as_int(units.parse_number(value))
        except ValueError:
            number = -1
        if number == -1 or (number == 0 and not may_be_zero):
            raise errors.ConfError(f'invalid {field} "{word}"')
        return field, _for_kernel(number)

    return parse_value


def _size(field: str) -> Callable[[str, str, Given], tuple[str, int]]:
    def parse_value(word: str, value: str, given: Given) -> tuple[str, int]:
        try:
            size = _as_int(units.parse_size(value))
        except ValueError:
            size = -1
        if size == -1:
            raise errors.ConfError(f'invalid {field} "{word}"')
        return field, _for_kernel(size)

    return parse_value


def _ipv6only(word: str, value: str, given: Given) -> tuple[str, bool]:
    if value not in ("on", "off"):
        raise errors.ConfError(f'invalid ipv6only flags "{value}"')
    return "ipv6only", value == "on"


def _keepalive(word: str, value: str, given: Given) -> tuple[str, str | tuple[int, int, int]]:
    """Parse on, off or [idle]:[interval]:[count]; what is left out is as a word before it said."""
    former = given.get("keepalive")
    if value == "off" or (value == "on" and not isinstance(former, tuple)):
        return "keepalive", value
    numbers = list(former) if isinstance(former, tuple) else [0, 0, 0]
    if value != "on":
        idle, _, rest = value.partition(":")
        interval, _, count = rest.partition(":")
        parse_time = units.parse_time_sec
        for n, (text, parse_one) in enumerate(
            ((idle, parse_time), (interval, parse_time), (count, units.parse_number))
        ):
            if text:
                try:
                    numbers[n] = _as_int(parse_one(text))
                except ValueError:
                    numbers[n] = -1
    if -1 in numbers or not any(numbers):
        raise errors.ConfError(f'invalid so_keepalive value: "{value}"')
    idle_s, interval_s, probes = map(_for_kernel, numbers)
    return "keepalive", (idle_s, interval_s, probes)


_VALUES: Final[dict[str, Callable[[str, str, Given], tuple[str, Any]]]] = {
    "fastopen": _number("fastopen", may_be_zero=True),
    "backlog": _number("backlog", may_be_zero=False), "rcvbuf": _size("rcvbuf"),
    "sndbuf": _size("sndbuf"), "ipv6only": _ipv6only, "so_keepalive": _keepalive,
}
