"""Logging to a syslog server: the `syslog:` parameter of error_log and access_log, and the
datagrams it makes (ngx_syslog.c).

A message is one datagram, `<PRI>Mon DD HH:MM:SS HOSTNAME TAG: TEXT`, without a line feed. The
socket is connected when the first message goes out, in each process for itself, and again after a
failure. Nothing here waits or raises: what a server does not take is lost.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ngxstream.core import clock as clocks
from ngxstream.core import errors, inet, log

if TYPE_CHECKING:
    from ngxstream.core.log import Log

FACILITIES: Final = (
    "kern", "user", "mail", "daemon", "auth", "intern", "lpr", "news", "uucp", "clock", "authpriv",
    "ftp", "ntp", "audit", "alert", "cron", "local0", "local1", "local2", "local3", "local4",
    "local5", "local6", "local7",
)
SEVERITIES: Final = ("emerg", "alert", "crit", "error", "warn", "notice", "info", "debug")

PORT: Final = 514
LOCAL7: Final = FACILITIES.index("local7")
INFO: Final = SEVERITIES.index("info")
MAX_TAG: Final = 32
_TAG: Final = re.compile(r"[A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class SyslogConf:
    """A `syslog:` parameter, read."""

    server: inet.Addr
    facility: int = LOCAL7
    severity: int = INFO  # of access logs; an error_log line has that of its level
    tag: str = "nginx"
    nohostname: bool = False


def parse(parameters: str) -> SyslogConf:
    """Read what follows `syslog:`. Blocks while the system resolves a name.

    Raises: ConfError with nginx's words
    Source: ngx_syslog.c ngx_syslog_parse_args
    """
    given: dict[str, inet.Addr | int | str | bool] = {}
    for word in parameters.split(","):
        name, _, value = word.partition("=")
        if word == "nohostname":
            given["nohostname"] = True
            continue
        if name not in ("server", "facility", "severity", "tag") or "=" not in word:
            raise errors.ConfError(f'unknown syslog parameter "{word}"')
        if name in given:
            raise errors.ConfError(f'duplicate syslog "{name}"')
        if name == "server":
            try:
                given[name] = inet.parse_url(value, PORT).addrs[0]
            except inet.UrlError as error:
                raise errors.ConfError(f'{error.reason} in syslog server "{value}"') from None
        elif name == "tag":
            given[name] = _tag(value)
        else:
            known = FACILITIES if name == "facility" else SEVERITIES
            if value not in known:
                raise errors.ConfError(f'unknown syslog {name} "{value}"')
            given[name] = known.index(value)
    if "server" not in given:
        raise errors.ConfError("no syslog server specified")
    return SyslogConf(**given)  # type: ignore[arg-type]


def _tag(value: str) -> str:
    # RFC 3164 §4.1.3: alphanumeric, at most 32 characters
    if len(value.encode("utf-8", "surrogateescape")) > MAX_TAG:
        raise errors.ConfError("syslog tag length exceeds 32")
    if _TAG.fullmatch(value) is None:
        raise errors.ConfError('syslog "tag" only allows alphanumeric characters and underscore')
    return value


class Syslog:
    """A syslog server as one configuration and process sees it."""

    __slots__ = (
        "conf",
        "clock",
        "hostname",   # str
        "_socket",    # socket.socket | None: connected, never blocking
        "_complained",  # int: second of the latest complaint; one a second is enough
    )

    def __init__(self, conf: SyslogConf, *, clock: clocks.Clock | None = None,
                 hostname: str | None = None) -> None:
        """Args: hostname: the machine's if empty. Nothing is connected yet."""
        self.conf = conf
        self.clock = clock or clocks.Clock()
        self.hostname = socket.gethostname() if hostname is None else hostname
        self._socket: socket.socket | None = None
        self._complained = -1

    def send(self, text: bytes, severity: int | None = None, complaints: Log | None = None) -> bool:
        """Send one message; tell whether the kernel took it.

        Args: text: without line feed; severity: an index into SEVERITIES, by default that of
        the configuration; failures are said to `complaints`, once a second
        Source: ngx_syslog.c ngx_syslog_send
        """
        conf = self.conf
        pri = conf.facility * 8 + (conf.severity if severity is None else severity)
        host = "" if conf.nohostname else f"{self.hostname} "
        header = f"<{pri}>{self.clock.syslog_time()} {host}{conf.tag}: "
        step = "socket"
        try:
            sock = self._socket
            if sock is None:
                sock = self._socket = socket.socket(conf.server.family, socket.SOCK_DGRAM)
                sock.setblocking(False)
                step = "connect"
                sock.connect(conf.server.sockaddr)
            step = "send"
            sock.send(log.encode(header) + text)
        except BlockingIOError:
            return False
        except OSError as error:
            self.close()
            self._complain(complaints, f"{step}() failed", error)
            return False
        return True

    def close(self) -> None:
        """Close the socket; the next message makes another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _complain(self, complaints: Log | None, text: str, error: OSError) -> None:
        second = self.clock.second()
        if complaints is None or self._complained == second:
            return
        self._complained = second  # before writing: the complaint may come this way again
        complaints.write(log.ERR, f"{text} {errors.strerror(error.errno or 0)} "
                         f"while logging to syslog, server: {self.conf.server.name}")


class SyslogTarget:
    """A syslog server as a target of an error log; the severity is the line's level.

    Source: ngx_syslog.c ngx_syslog_writer
    """

    __slots__ = ("level", "peer", "complaints")

    def __init__(self, peer: Syslog, level: int, complaints: Log | None = None) -> None:
        """Args: complaints: where failures to send are logged, the main log mostly."""
        self.peer = peer
        self.level = level
        self.complaints = complaints

    @property
    def on_stderr(self) -> bool:
        """Never."""
        return False

    def write(self, level: int, line: bytes) -> None:
        """Send one line, its own time and level included, without the line feed."""
        self.peer.send(line[:-1], max(level - 1, 0), self.complaints)

    def with_level(self, level: int) -> SyslogTarget:
        """Return the same server with another threshold."""
        return SyslogTarget(self.peer, level, self.complaints)
