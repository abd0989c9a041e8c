"""One listening socket: bound by the rules of its kind, and tuned."""

import socket
import stat
from pathlib import Path

import pytest

from ngxstream.core import errors
from ngxstream.core.log import Log
from ngxstream.event import bound, listen_socket
from ngxstream.event.listening import ListenOptions
from tests.support.in_process import LogTarget

TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM


def options(kind: int, address: tuple[str, int] | str = ("127.0.0.1", 0), **more) -> ListenOptions:
    """Return the options of an address."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    text = f"unix:{address}" if isinstance(address, str) else f"{address[0]}:{address[1]}"
    return ListenOptions(family, kind, address, text, **more)


def bind(sock: socket.socket, wanted: ListenOptions, first=None, **more: bool) -> None:
    """Bind as the only process."""
    listen_socket.bind(sock, wanted, first, bound.Neighbours(), **more)


def test_an_address_in_use_is_told_from_other_failures() -> None:
    """The one may pass; the other is said at once."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = options(TCP, taken.getsockname())
        with listen_socket.make(wanted) as sock, pytest.raises(listen_socket.InUseError):
            bind(sock, wanted)
    foreign = options(TCP, ("192.0.2.1", 1))
    words = r"bind\(\) to 192\.0\.2\.1:1 failed \(99:"
    with listen_socket.make(foreign) as sock, pytest.raises(errors.ListenError, match=words):
        bind(sock, foreign)


def test_sockets_of_a_group_share_an_address() -> None:
    """The first is alone at its address before others may join."""
    wanted = options(UDP)
    with listen_socket.make(wanted) as first, listen_socket.make(wanted) as second:
        bind(first, wanted)
        listen_socket.allow_joining(first, wanted)
        bind(second, wanted, first)
        assert first.getsockname() == second.getsockname()


def test_everybody_may_connect_to_a_path(tmp_path: Path) -> None:
    """A test of the configuration leaves none behind."""
    path = tmp_path / "s"
    with listen_socket.make(options(TCP, str(path))) as sock:
        bind(sock, options(TCP, str(path)))
        assert 0o666 == stat.S_IMODE(path.stat().st_mode)
    path.unlink()
    with listen_socket.make(options(TCP, str(path))) as sock:
        bind(sock, options(TCP, str(path)), test=True)
        assert not path.exists()


@pytest.mark.parametrize(("path", "expected"), [("\0x", True), (b"\0x", True), ("/x", False)])
def test_an_abstract_name_is_no_path(path: str | bytes, expected: bool) -> None:
    """It begins with a NUL byte."""
    assert expected is listen_socket.is_abstract(path)


def test_a_socket_is_tuned_as_its_line_says() -> None:
    """What nobody said is left to the system."""
    target = LogTarget()
    wanted = options(TCP, nodelay=True, keepalive=(10, 0, 3), deferred=True)
    with listen_socket.make(wanted) as sock:
        listen_socket.tune(sock, wanted, None, Log([target]))
        found = [sock.getsockopt(*option) for option in (
            (socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
            (socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT),
        )]
    assert ([1, 1, 10, 3, 1], []) == (found, target.lines)


def test_what_cannot_be_set_is_an_alert_and_lived_with() -> None:
    """The address is served all the same."""
    target = LogTarget()
    wanted = options(TCP, keepalive=(1 << 20, 0, 0))
    with listen_socket.make(wanted) as sock:
        listen_socket.tune(sock, wanted, None, Log([target]))
    ((level, text),) = target.lines
    assert "alert" == level
    assert text.startswith(f"setsockopt(TCP_KEEPIDLE, {1 << 20}) 127.0.0.1:0 failed, ignored (22:")
