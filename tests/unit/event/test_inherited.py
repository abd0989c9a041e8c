"""Inherited sockets: found by number, recognised by address, taken over by a configuration."""

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core import log
from ngxstream.event import inherited, listening
from ngxstream.event.listen_options import ListenOptions
from ngxstream.event.listening import Listening


class Lines:
    """A log target that keeps (level name, message)."""

    level = log.DEBUG
    on_stderr = False

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def write(self, level: int, line: bytes) -> None:
        """Keep one line."""
        text = line.decode().rstrip("\n")
        self.said.append((log.NAMES[level], text.split("#", 1)[1].split(": ", 1)[1]))

    def with_level(self, level: int) -> "Lines":
        """Want everything at any level."""
        return self


VALUES = [
    ("", [], ""),
    ("3;4;17;", [3, 4, 17], ""),
    ("3:4;", [3, 4], ""),
    ("3;x;5;", [3], '"x;5;" in NGINX environment variable, ignoring the rest of the variable'),
    ("3;;5;", [3], '";5;" in NGINX environment variable, ignoring the rest of the variable'),
    ("3;4", [3], '"4" in NGINX environment variable, ignoring'),
]


@pytest.mark.parametrize(("value", "fds", "complaint"), VALUES)
def test_the_variable_is_read_as_nginx_does(value: str, fds: list[int], complaint: str) -> None:
    """Numbers end in ; or :, and the first bad one ends the list with an [emerg]."""
    lines = Lines()
    assert fds == inherited.numbers(value, log.Log([lines]))
    expected = [("notice", f'using inherited sockets from "{value}"')]
    if complaint:
        expected.append(("emerg", f"invalid socket number {complaint}"))
    assert expected == lines.said


@given(st.lists(st.integers(min_value=0, max_value=99999), max_size=20))
def test_what_is_written_is_read_back(fds: list[int]) -> None:
    """Every list of descriptors survives the variable."""
    value = "".join(f"{fd};" for fd in fds)
    assert fds == inherited.numbers(value, log.Log())


def test_sockets_are_recognised_by_address(tmp_path: Path) -> None:
    """TCP, UDP groups, IPv6 and Unix sockets become the Listenings they were."""
    path = str(tmp_path / "s")
    wanted = [
        ListenOptions(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0), "127.0.0.1:0"),
        ListenOptions(socket.AF_INET6, socket.SOCK_DGRAM, ("::1", 0, 0, 0), "[::1]:0"),
        ListenOptions(socket.AF_UNIX, socket.SOCK_STREAM, path, f"unix:{path}"),
    ]
    before = listening.open_all(wanted, [], workers=3, log=log.Log())
    value = inherited.value_of(before)
    fds = [os.dup(fd) for fd in inherited.numbers(value, log.Log())]
    after = inherited.adopt(fds, log.Log())
    assert [1, 3, 1] == [len(one.socks) for one in after]
    for old, new in zip(before, after, strict=True):
        names = [sock.getsockname() for sock in old.socks]
        assert names == [sock.getsockname() for sock in new.socks]
        assert not any(os.get_inheritable(sock.fileno()) for sock in new.socks)
    port = after[0].socks[0].getsockname()[1]
    assert (f"127.0.0.1:{port}", f"unix:{path}") == (after[0].options.text, after[2].options.text)
    close(before)
    close(after)


def close(listenings: list[Listening]) -> None:
    """Close all sockets."""
    listening.close_all(listenings, unlink=True, log=log.Log())


def test_a_configuration_takes_over_what_it_names() -> None:
    """A matching address keeps the inherited socket; the others are closed once it is meant."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    came = inherited.adopt([os.dup(sock.fileno()) for sock in held], log.Log())
    name = held[0].getsockname()
    wanted = ListenOptions(socket.AF_INET, socket.SOCK_STREAM, name, f"{name[0]}:{name[1]}")
    kept = came[0].socks[0]
    (new,) = made = listening.open_all([wanted], came, workers=1, log=log.Log())
    listening.release(came, made, log=log.Log())
    assert [kept] == new.socks
    assert -1 == came[1].socks[0].fileno()
    close(made)
    for sock in held:
        sock.close()


def test_descriptors_that_are_no_sockets_are_left_alone() -> None:
    """A file is said to be none, and stays open."""
    lines = Lines()
    fd = os.open(os.devnull, os.O_RDONLY)
    assert [] == inherited.adopt([fd], log.Log([lines]))
    said = f"getsockname() of the inherited socket #{fd} failed"
    assert [("crit", f"{said} (88: Socket operation on non-socket)")] == lines.said
    os.close(fd)
    assert [] == inherited.adopt([fd], log.Log([lines]))
    assert ("crit", f"{said} (9: Bad file descriptor)") == lines.said[-1]


# -- what another process gives --------------------------------------------------------------------


def sockets() -> dict[str, socket.socket]:
    """Return sockets of all kinds that are worth telling apart."""
    made = {
        "listens": socket.create_server(("127.0.0.1", 0)),
        "dgram": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "unbound stream": socket.socket(),
        "unbound dgram": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "unbound unix": socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
        "connected dgram": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "packets": socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET),
        "netlink": socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    }
    made["dgram"].bind(("127.0.0.1", 0))
    made["connected dgram"].connect(made["dgram"].getsockname())
    made["connected"] = socket.create_connection(made["listens"].getsockname())
    return made


def test_only_listening_and_bound_sockets_are_taken() -> None:
    """Whatever else a descriptor is has its reason, and stays open: it is the caller's."""
    own = (os.geteuid(),)
    made = sockets()
    said = {name: inherited.fault_of(sock.fileno(), own) for name, sock in made.items()}
    assert {
        "listens": "",
        "dgram": "",
        "connected": "a stream socket that does not listen",
        "unbound stream": "a stream socket that does not listen",
        "unbound dgram": "a socket that is not bound",
        "unbound unix": "a socket that is not bound",
        "connected dgram": "a datagram socket that is connected",
        "packets": "a socket of an unsupported type",
        "netlink": "a socket of an unsupported protocol family",
    } == said
    for sock in made.values():
        sock.getsockname()
        sock.close()


def test_what_is_no_socket_is_not_taken(tmp_path: Path) -> None:
    """A file, and a descriptor that is not open."""
    fd = os.open("/etc/passwd", os.O_RDONLY)
    assert "a descriptor that is no socket" == inherited.fault_of(fd, (os.geteuid(),))
    os.close(fd)
    assert "not open" in inherited.fault_of(fd, (os.geteuid(),))


def test_a_socket_that_somebody_else_has_made_is_not_taken() -> None:
    """The kernel knows who made it."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        uid = os.geteuid()
        said = inherited.fault_of(sock.fileno(), (uid + 1,))
        assert f"a socket that user {uid} has made" == said
