"""connect(), connect_udp(), connect_unix() and resolve(): the network for functions."""

from __future__ import annotations

import errno
import functools
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ngxstream.event import connect as connect_
from ngxstream.event import names, opening, tasks
from ngxstream.event.probing import Target
from ngxstream.scripting import context, tls
from ngxstream.scripting.errors import ResolveError
from ngxstream.scripting.streams import DatagramSocket, Stream
from ngxstream.scripting.waiting import timeout as limit
from ngxstream.wire import dns

if TYPE_CHECKING:
    from ngxstream.event.resolver import Answer, Resolver, Waiter
    from ngxstream.scripting.tls import TLS

IP = ipaddress.IPv4Address | ipaddress.IPv6Address
T = TypeVar("T")

TIMEOUT: Final = 30.0  # seconds
DGRAM: Final = int(socket.SOCK_DGRAM)
_NAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})")
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)


class _Ask(tasks.Suspension):
    """Waits for an answer of the server's `resolver`."""

    __slots__ = ("_name", "_resolver", "_timeout_ms", "_waiter")

    def __init__(self, resolver: Resolver, name: str, timeout_ms: int) -> None:
        self._resolver = resolver
        self._name = name
        self._timeout_ms = timeout_ms
        self._waiter: Waiter | None = None

    def begin(self, task: tasks.Task) -> None:
        """Ask."""
        done: Callable[[Answer], None] = functools.partial(task.wake, self)
        self._waiter = self._resolver.lookup(self._name, self._timeout_ms, done)

    def end(self) -> None:
        """Wait no more."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.cancel()


async def resolve(name: str, *, timeout: float | None = TIMEOUT) -> list[IP]:
    """Look up a name.

    By the `resolver` of the server, where there is one (its answers are kept as their TTLs say);
    else as the system does it (/etc/hosts, its DNS servers), in a thread. Returns: its addresses,
    IPv4Address and IPv6Address, one at least; that of an address is itself

    Raises: ResolveError (an OSError) where it has none; TimeoutError; ValueError for no name
    """
    literal = _literal(name)
    if literal is not None:
        return [literal]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a host (others than ASCII are written by IDNA)")
    task: tasks.Task = await tasks.CurrentTask()
    around = context.of(task)
    async with limit(timeout):
        if around.resolver is None:
            found = await _by_system(name)
        else:
            found = await _by_resolver(
                around.resolver.on(task.loop), name, around.resolver_timeout
            )
    addresses = [ipaddress.ip_address(host) for host in found]
    if not addresses:
        raise ResolveError(f'"{name}" has no addresses')
    return addresses


async def _by_resolver(resolver: Resolver, name: str, timeout_ms: int) -> list[str]:
    answer: Answer = await _Ask(resolver, name, timeout_ms)
    if answer.code == dns.TIMEDOUT:
        raise TimeoutError(errno.ETIMEDOUT, f'"{name}" could not be resolved in time')
    if answer.code:
        raise ResolveError(f'"{name}" could not be resolved ({dns.strerror(answer.code)})')
    return [one.host for one in answer.addresses]


async def _by_system(name: str) -> list[str]:
    try:
        found: list[tuple[int, str]] = await names.Lookup(name.encode("ascii"))
    except socket.gaierror as error:
        raise ResolveError(f'"{name}" could not be resolved: {error.strerror}') from None
    return [host for family, host in found if family in _FAMILIES]


def _literal(host: str) -> IP | None:
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except (ValueError, AttributeError, TypeError):
        return None


def _checked(port: int) -> int:
    if not isinstance(port, int) or not 0 < port < 65_536:
        raise ValueError(f"{port!r} is no port")
    return port


async def connect(host: str, port: int, *, tls: bool | TLS = False,
                  timeout: float | None = TIMEOUT) -> Stream:
    """Connect to a host by TCP, or by TLS.

    Of a name with several addresses each is tried in turn, within the time there is.

    Args: host: a name or an address; tls: True for TLS whose certificate is verified by the
    system's authorities and has to be for `host`, or a TLS with other wishes; timeout: seconds for
    all of it, name and handshake included, None for no limit

    Raises: OSError (ConnectionRefusedError, ResolveError, CertificateError…), TimeoutError,
    ValueError
    """
    _checked(port)
    async with limit(timeout):
        task: tasks.Task = await tasks.CurrentTask()
        around = context.of(task)
        secure = _secure(task, tls, host)
        opened = await _first(
            await resolve(host, timeout=None), timeout,
            lambda family, found: opening.connection(
                task, Target(family, (str(found), port), f"{host}:{port}", connect_.STREAM,
                             secure=secure),
                around.buffer_size, around.slots,
            ),
        )
    return Stream(opened)


async def connect_udp(host: str, port: int, *, timeout: float | None = TIMEOUT) -> DatagramSocket:
    """Make a UDP socket that is connected to a host; nothing is sent. Raises: as connect()"""
    _checked(port)
    async with limit(timeout):
        task: tasks.Task = await tasks.CurrentTask()
        around = context.of(task)
        opened = await _first(
            await resolve(host, timeout=None), timeout,
            lambda family, found: opening.connection(
                task, Target(family, (str(found), port), f"{host}:{port}", DGRAM),
                around.buffer_size, around.slots,
            ),
        )
    return DatagramSocket(opened)


async def connect_unix(path: str, *, timeout: float | None = TIMEOUT) -> Stream:
    """Connect to a Unix socket. Raises: OSError, TimeoutError, ValueError"""
    if not path or "\0" in path or len(path.encode("utf-8", "surrogateescape")) > 107:
        raise ValueError(f"{path!r} is no path of a socket")
    async with limit(timeout):
        task: tasks.Task = await tasks.CurrentTask()
        around = context.of(task)
        to = Target(connect_.UNIX, path, f"unix:{path}", connect_.STREAM)
        opened = await opening.connection(task, to, around.buffer_size, around.slots)
    return Stream(opened)


async def _first(found: list[IP], seconds: float | None,
                 attempt: Callable[[int, IP], Awaitable[T]]) -> T:
    """Return what the first attempt makes that does not fail. Raises: OSError, of the last one"""
    last: OSError | None = None
    for n, address in enumerate(found):
        family = int(socket.AF_INET if address.version == 4 else socket.AF_INET6)
        left = len(found) - n
        share = None if seconds is None or left == 1 else seconds / (left + n)
        try:
            async with limit(share):
                return await attempt(family, address)
        except opening.CertificateError:
            raise
        except OSError as error:
            last = error
    try:
        assert last is not None
        raise last
    finally:
        last = None  # its traceback leads back here


def _secure(task: tasks.Task, asked: bool | TLS, host: str) -> Any:
    """Return what is done for TLS, None for nothing. Raises: OSError, ValueError"""
    if asked is False:
        return None
    options = tls.TLS() if asked is True else asked
    return tls.towards(task.loop, options, host, _literal(options.server_name or host) is not None)
