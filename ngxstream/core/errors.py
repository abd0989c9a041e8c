"""The error tree: the class says whose fault it is, `level` how it is logged (ngx_log.h).

An [alert] means a fault of ours or of the kernel, never of a peer.
"""

import errno
import os
from typing import Final

COMMAND_LINE: Final = "command line"

# errnos that a peer or the way to it may cause: no fault of ours. Source: ngx_connection_error
REMOTE_FAULTS: Final = frozenset(
    (
        errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.ETIMEDOUT, errno.ECONNREFUSED,
        errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    )
)

_MAX_MESSAGE: Final = 1024  # NGX_MAX_CONF_ERRSTR: bytes of a configuration message before its place
_MAX_ERRNO: Final = 50  # of which an errno may claim the last


def strerror(err: int) -> str:
    """Spell an errno as nginx does: `(111: Connection refused)`. Source: ngx_log.c ngx_log_errno"""
    return f"({err}: {os.strerror(err)})"


def errno_of(cause: int | OSError | None) -> int | None:
    """Return the errno of an OSError, an errno as it is, None for none (or an OSError without)."""
    if isinstance(cause, OSError):
        return cause.errno
    return cause


class NgxError(Exception):
    """Root of every error ngxstream raises on purpose."""

    level: str = "error"

    def __init__(self, message: str | None = None, *, errno: int | OSError | None = None) -> None:
        """Args: message: without errno text or place; None for the docstring of the class"""
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

    Args: file: the path as nginx prints it, COMMAND_LINE for -g, None for no ` in FILE:LINE`; line:
    its 1-based number; None or 0 for ` in FILE` alone
    Source: ngx_conf_file.c ngx_conf_log_error
    """

    level = "emerg"

    def __init__(self, message: str, file: str | None = None, line: int | None = None, *,
                 errno: int | OSError | None = None) -> None:
        super().__init__(message, errno=errno)
        self.file: str | None = file
        self.line: int | None = line or None
        # the statement it is about, for who says more of it: words, context and its first line
        self.words: tuple[str, ...] = ()
        self.context = 0
        self.start_line = 0

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
        placed.words, placed.context, placed.start_line = self.words, self.context, self.start_line
        return placed


class UnplacedError(ConfError):
    """A configuration error that nginx reports without ` in FILE:LINE`: found after the block.

    It goes to the log as it is, as long as a line may be. Source: ngx_log.c ngx_log_error_core
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
    """Return message and errno text in the bytes nginx has for them. Source: ngx_conf_log_error"""
    text = message if err is None else f"{message} {strerror(err)}"
    if len(text) <= _MAX_MESSAGE // 4:
        return text
    raw = message.encode("utf-8", "surrogateescape")[:_MAX_MESSAGE]
    if err is not None:
        if len(raw) > _MAX_MESSAGE - _MAX_ERRNO:
            raw = raw[:_MAX_MESSAGE - _MAX_ERRNO] + b"..."
        raw = (raw + b" " + strerror(err).encode())[:_MAX_MESSAGE]
    return raw.decode("utf-8", "surrogateescape")


class ListenError(NgxError):
    """a listening socket could not be opened"""

    level = "emerg"


class PeerError(NgxError):
    """upstream server failed; the next one may be tried"""


class NoLivePeers(NgxError):
    """no live upstreams"""


class InternalError(NgxError):
    """something that cannot happen happened"""

    level = "alert"
