"""Starts ngxstream as a service manager does that has opened its sockets (sd_listen_fds(3))."""

import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.proxies import Ngxstream

# Puts the descriptors that it is given where the protocol wants them and becomes the service.
LAUNCHER = """
import os, sys
fds, words = sys.argv[1], sys.argv[2:]
held = [os.dup(int(fd)) for fd in fds.split(",") if fd]
for number, fd in enumerate(os.dup2(fd, 100 + n, False) for n, fd in enumerate(held)):
    os.dup2(fd, 3 + number)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(held)))
os.execv(words[0], words)
"""


class Activated(Ngxstream):
    """ngxstream with sockets that the test has opened and keeps, as a service manager would."""

    def __init__(
        self, conf_text: str, tmp_path: Path, socks: Sequence[socket.socket], **options: Any
    ) -> None:
        """Args: socks in the order of their descriptors"""
        fds = tuple(sock.fileno() for sock in socks)
        self._launcher = [sys.executable, "-c", LAUNCHER, ",".join(map(str, fds))]
        super().__init__(conf_text, tmp_path, pass_fds=fds, **options)

    def command(self) -> list[str]:
        """Return the words that start the program, without any option."""
        return [*self._launcher, *super().command()]

    def run(self, *options: str, timeout: float = 60.0) -> Any:
        """Run the program to its end without the sockets, as an operator does."""
        launcher, self._launcher = self._launcher, []
        try:
            return super().run(*options, timeout=timeout)
        finally:
            self._launcher = launcher
