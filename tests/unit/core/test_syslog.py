"""Syslog: the parameter's words and the datagrams."""

import os
import re
import socket
import time
from pathlib import Path

import pytest

from ngxstream.core import clock, errors, log, syslog
from tests.support.clock import FakeClock
from tests.support.waiting import wait_until


@pytest.fixture
def server() -> socket.socket:  # type: ignore[misc]
    """Give a UDP socket that syslog messages come to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(20)
        yield sock


def address(sock: socket.socket) -> str:
    """Return a socket's address as a configuration writes it."""
    host, port = sock.getsockname()
    return f"{host}:{port}"


class Kept:
    """A log target that keeps its lines."""

    level = log.DEBUG
    on_stderr = False

    def __init__(self) -> None:
        """Keep none yet."""
        self.lines: list[bytes] = []

    def write(self, level: int, line: bytes) -> None:
        """Keep one."""
        self.lines.append(line)

    def with_level(self, level: int) -> "Kept":
        """Not asked for here."""
        return self


def test_all_parameters_are_read() -> None:
    """Server, facility, severity, tag and nohostname find their fields."""
    conf = syslog.parse("server=192.0.2.1:1514,facility=mail,severity=warn,tag=dns_1,nohostname")
    assert ("192.0.2.1", 1514) == conf.server.sockaddr
    assert (2, 4, "dns_1", True) == (conf.facility, conf.severity, conf.tag, conf.nohostname)


def test_defaults_are_nginx_s() -> None:
    """Port 514, local7, info, tag nginx."""
    conf = syslog.parse("server=192.0.2.1")
    assert ("192.0.2.1", 514) == conf.server.sockaddr
    assert (23, 6, "nginx", False) == (conf.facility, conf.severity, conf.tag, conf.nohostname)


def test_ipv6_and_unix_servers_are_read() -> None:
    """A bracketed address and a path are servers too."""
    assert socket.AF_INET6 == syslog.parse("server=[::1]:514").server.family
    assert "/dev/log" == syslog.parse("server=unix:/dev/log").server.sockaddr


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("", 'unknown syslog parameter ""'),
        ("facility=user", "no syslog server specified"),
        ("server=192.0.2.1,", 'unknown syslog parameter ""'),
        ("server=192.0.2.1,bogus", 'unknown syslog parameter "bogus"'),
        ("server=192.0.2.1,server=192.0.2.1", 'duplicate syslog "server"'),
        ("server=192.0.2.1,tag=a,tag=b", 'duplicate syslog "tag"'),
        ("server=192.0.2.1,severity=info,severity=info", 'duplicate syslog "severity"'),
        ("facility=foo,server=192.0.2.1", 'unknown syslog facility "foo"'),
        ("server=192.0.2.1,severity=err", 'unknown syslog severity "err"'),
        ("server=192.0.2.1,tag=a-b",
         'syslog "tag" only allows alphanumeric characters and underscore'),
        ("server=192.0.2.1,tag=" + "a" * 33, "syslog tag length exceeds 32"),
        ("server=", 'no host in syslog server ""'),
        ("server=192.0.2.1:0", 'invalid port in syslog server "192.0.2.1:0"'),
        ("server=unix:", 'no path in the unix domain socket in syslog server "unix:"'),
    ],
)
def test_what_is_wrong_is_said_in_nginx_s_words(parameters: str, message: str) -> None:
    """Each fault has the message that nginx -t prints."""
    with pytest.raises(errors.ConfError) as caught:
        syslog.parse(parameters)
    assert message == str(caught.value)


def test_an_access_message_has_header_and_no_line_feed(server: socket.socket) -> None:
    """Priority, time, host and tag precede the text."""
    conf = syslog.parse(f"server={address(server)},facility=mail,severity=warn,tag=t")
    watch = clock.Clock(FakeClock(1_000_000_000.0))
    peer = syslog.Syslog(conf, clock=watch, hostname="box")
    assert peer.send(b"hello")
    now = time.localtime(1_000_000_000)
    stamp = time.strftime("%H:%M:%S", now)
    expected = f"<20>Sep {now.tm_mday:2d} {stamp} box t: hello"
    assert expected.encode() == server.recv(4096)
    peer.close()


def test_an_error_line_has_the_severity_of_its_level(server: socket.socket) -> None:
    """The line keeps its own time and level; nohostname leaves the host out."""
    conf = syslog.parse(f"server={address(server)},nohostname")
    peer = syslog.Syslog(conf)
    made = log.Log([syslog.SyslogTarget(peer, log.INFO)])
    made.write(log.ERR, "connect() failed")
    got = server.recv(4096)
    pattern = (rb"<187>\w{3} [ \d]\d \d\d:\d\d:\d\d nginx: "
               rb"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[error\] \d+#\d+: connect\(\) failed")
    assert re.fullmatch(pattern, got), got
    peer.close()


def test_a_unix_socket_takes_messages(tmp_path: Path) -> None:
    """/dev/log and its like are datagram sockets in the file system."""
    path = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(20)
        peer = syslog.Syslog(syslog.parse(f"server=unix:{path}"), hostname="h")
        assert peer.send(b"x")
        assert sock.recv(4096).endswith(b" h nginx: x")
        peer.close()


def test_a_failure_is_told_once_a_second_and_the_socket_made_anew(tmp_path: Path) -> None:
    """A server that is not there costs one line a second and no exception."""
    path = tmp_path / "log"
    fake = FakeClock(100.0)
    kept = Kept()
    complaints = log.Log([kept])
    peer = syslog.Syslog(syslog.parse(f"server=unix:{path}"), clock=clock.Clock(fake))
    for _ in range(5):
        assert not peer.send(b"x", complaints=complaints)
    fake.advance(1.0)
    assert not peer.send(b"x", complaints=complaints)
    assert 2 == len(kept.lines)
    text = (
        "connect() failed (2: No such file or directory) while logging to syslog, "
        f"server: unix:{path}\n"
    )
    assert kept.lines[0].endswith(text.encode())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(20)
        assert peer.send(b"now")
        assert sock.recv(4096).endswith(b"now")
    peer.close()


def test_a_log_that_complains_to_itself_does_not_run_in_circles(tmp_path: Path) -> None:
    """The main log may be the very server that fails."""
    conf = syslog.parse(f"server=unix:{tmp_path}/none")
    made = log.Log()
    made.set_targets([syslog.SyslogTarget(syslog.Syslog(conf), log.INFO, made)])
    made.write(log.ERR, "x")


def test_a_refused_message_is_recovered_from(server: socket.socket) -> None:
    """After an ICMP refusal the next messages open a new socket."""
    where = server.getsockname()
    conf = syslog.parse(f"server={address(server)}")
    server.close()
    peer = syslog.Syslog(conf)
    wait_until(lambda: not peer.send(b"into the void"), what="the refusal is seen")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(where)
        again.settimeout(20)
        wait_until(lambda: peer.send(b"back"), what="a message is taken")
        assert again.recv(4096).endswith(b"back")
    peer.close()


def test_each_process_has_a_socket_of_its_own(server: socket.socket) -> None:
    """A worker's first message comes from a socket that the master does not have."""
    peer = syslog.Syslog(syslog.parse(f"server={address(server)}"))
    child = os.fork()
    if child == 0:
        os._exit(0 if peer.send(b"child") else 1)
    assert 0 == os.waitpid(child, 0)[1]
    peer.send(b"parent")
    first, second = (server.recvfrom(4096) for _ in range(2))
    assert first[0].endswith(b"child")
    assert second[0].endswith(b"parent")
    assert first[1] != second[1]
    peer.close()
