"""A NAT in a thread: it forgets its client, who then comes from another port and hears nothing at
the former one.
"""

import contextlib
import select
import socket
import threading
from typing import Any, Self

from tests.support.waiting import PATIENCE


class ForgetfulNat:
    """One client's way to an address; after so many bytes of answers it forgets, each time."""

    def __init__(self, to: tuple[str, int], at: tuple[int, ...]) -> None:
        """Args: to: where it leads; at: bytes to the client, after which its next datagram comes
        from another port
        """
        self.address: Any = None  # where clients send to
        self.forgotten = 0  # how often it has forgotten
        self._to = to
        self._at = list(at)
        self._inside = self._bound()
        self.address = self._inside.getsockname()
        self._outside = self._bound()
        self._wake, self._end = socket.socketpair()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @staticmethod
    def _bound() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind(("127.0.0.1", 0))
        return sock

    def _run(self) -> None:
        client = None
        answered = 0
        while True:
            ready, _, _ = select.select((self._inside, self._outside, self._end), (), ())
            if self._end in ready:
                return
            with contextlib.suppress(ConnectionError):
                if self._inside in ready:
                    data, client = self._inside.recvfrom(65_536)
                    if self._at and answered >= self._at[0]:
                        self._at.pop(0)
                        former, self._outside = self._outside, self._bound()
                        former.close()
                        self.forgotten += 1
                    self._outside.sendto(data, self._to)
                elif client is not None:
                    data = self._outside.recv(65_536)
                    answered += len(data)
                    self._inside.sendto(data, client)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._wake.send(b"x")
        self._thread.join(PATIENCE)
        for sock in (self._inside, self._outside, self._wake, self._end):
            sock.close()
