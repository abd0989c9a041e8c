"""The error tree: what went wrong, whose fault it is, and how loudly to say it (ngx_log.h).

An error knows four things besides its words. `kind` is what a counter would call it, `side` is
who is to blame, `retry` says whether trying somebody else may help, `level` is the error_log
level it deserves. `status`, where there is one, is the $status a session ends with.

An [alert] means a fault of ours or of the kernel, never of a peer.
"""

import errno
import os
from typing import ClassVar, Final

from ngxstream.core import codes

CONFIG: Final = "config"
CLIENT: Final = "client"
UPSTREAM: Final = "upstream"
SELF: Final = "self"

COMMAND_LINE: Final = "command line"

# errnos that a peer or the way to it may cause: no fault of ours. source: ngx_connection_error
REMOTE_FAULTS: Final = frozenset(
    (
        errno.ECONNRESET,
        errno.EPIPE,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.ECONNREFUSED,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
    )
)

_ROOM: Final = 1024        # NGX_MAX_CONF_ERRSTR: bytes of a configuration message before its place
_ERRNO_ROOM: Final = 50    # of which an errno may claim the last


def strerror(err: int) -> str:
    """Spell an errno as nginx does: `(111: Connection refused)`. source: ngx_log.c ngx_log_errno"""
    return f"({err}: {os.strerror(err)})"


def errno_of(cause: int | OSError | None) -> int | None:
    """Return the errno of an OSError, an errno as it is, None for none (or an OSError without)."""
    if isinstance(cause, OSError):
        return cause.errno
    return cause


class NgxError(Exception):
    """Root of every error ngxstream raises on purpose."""

    kind: ClassVar[str] = "error"
    side: ClassVar[str] = SELF
    level: str = "error"
    status: ClassVar[int | None] = None
    retry: bool = False

    def __init__(self, message: str | None = None, *,
                 errno: int | OSError | None = None) -> None:
        """shape: message without errno text or location; None takes the class docstring."""
        self.message: str = (self.__class__.__doc__ or "") if message is None else message
        self.errno: int | None = errno_of(errno)
        super().__init__(self.message)

    def __str__(self) -> str:
        """The line for error_log, errno text included."""
        if self.errno is None:
            return self.message
        return f"{self.message} {strerror(self.errno)}"

    def parts(self) -> tuple[str, int | None]:
        """Return what a log is given: the text, and an errno to be kept where the text is cut."""
        return self.message, self.errno


class ConfError(NgxError):
    """A configuration that cannot be used; its text is nginx's, byte for byte.

    shape: file is the path as nginx prints it (or COMMAND_LINE for -g), line its 1-based number;
    without a file there is no ` in FILE:LINE` suffix, without a line (None or 0) only ` in FILE`.
    source: ngx_conf_file.c ngx_conf_log_error
    """

    kind = "configuration"
    side = CONFIG
    level = "emerg"

    def __init__(self, message: str, file: str | None = None, line: int | None = None, *,
                 errno: int | OSError | None = None) -> None:
        super().__init__(message, errno=errno)
        self.file: str | None = file
        self.line: int | None = line or None

    def __str__(self) -> str:
        text = cut(self.message, self.errno)
        if self.file is None:
            return text
        if self.line is None:
            return f"{text} in {self.file}"
        return f"{text} in {self.file}:{self.line}"

    def parts(self) -> tuple[str, int | None]:
        """Return the whole text: its errno stands before the place."""
        return str(self), None

    def at(self, file: str, line: int | None) -> "ConfError":
        """Return this error with a location, unless it already names one."""
        if self.file is not None:
            return self
        placed = type(self)(self.message, file, line, errno=self.errno)
        placed.level = self.level
        return placed


class UnplacedError(ConfError):
    """A configuration error that nginx reports without ` in FILE:LINE`: found after the block.

    It goes to the log as it is, and has the room of a line. source: ngx_log.c ngx_log_error_core
    """

    def __str__(self) -> str:
        return NgxError.__str__(self)

    def parts(self) -> tuple[str, int | None]:
        """Return text and errno by themselves, as those of other errors."""
        return self.message, self.errno

    def at(self, file: str, line: int | None) -> "ConfError":
        """Return this error as it is: it has no place in the file."""
        return self


def cut(message: str, err: int | None = None) -> str:
    """Return message and errno text in the bytes nginx has for them. source: ngx_conf_log_error"""
    text = message if err is None else f"{message} {strerror(err)}"
    if len(text) <= _ROOM // 4:
        return text
    raw = message.encode("utf-8", "surrogateescape")[:_ROOM]
    if err is not None:
        if len(raw) > _ROOM - _ERRNO_ROOM:
            raw = raw[:_ROOM - _ERRNO_ROOM] + b"..."
        raw = (raw + b" " + strerror(err).encode())[:_ROOM]
    return raw.decode("utf-8", "surrogateescape")


class ListenError(NgxError):
    """a listening socket could not be opened"""

    kind = "listen"
    side = CONFIG
    level = "emerg"


class PeerError(NgxError):
    """upstream server failed"""

    kind = "peer"
    side = UPSTREAM
    status = codes.BAD_GATEWAY

    def __init__(self, message: str | None = None, *, retry: bool = True,
                 errno: int | OSError | None = None) -> None:
        """shape: retry says whether the next peer may be tried in this one's place."""
        super().__init__(message, errno=errno)
        self.retry: bool = retry


class NoLivePeers(NgxError):
    """no live upstreams"""

    kind = "no-live-peers"
    side = UPSTREAM
    status = codes.BAD_GATEWAY


class ClientError(NgxError):
    """client closed or broke the connection"""

    kind = "client"
    side = CLIENT
    level = "info"


class ProtocolError(NgxError):
    """client sent invalid data"""

    kind = "protocol"
    side = CLIENT
    status = codes.BAD_REQUEST


class InternalError(NgxError):
    """something that cannot happen happened"""

    kind = "internal"
    side = SELF
    level = "alert"
    status = codes.INTERNAL_SERVER_ERROR
