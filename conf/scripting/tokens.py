"""Checks a token in a client's first line with a service, and remembers the answer."""

import re

from ngxstream.scripting import HOLD, FetchError, Filter, Hold, Session, fetch, shared

SERVICE = "http://127.0.0.1:7402/check/"
LINE = re.compile(rb"TOKEN ([0-9A-Za-z._-]{1,256})\r?\n")

tokens = shared("tokens")  # token: status that the service answered with


async def check(s: Session) -> None:
    """Let the client pass if the service knows the token: `py_preread`."""
    while b"\n" not in s.preread:
        await s.more()
    found = LINE.match(s.preread)
    if not found:
        s.deny()
        return
    token = found[1].decode()
    status = tokens.get(token)
    if status is None:
        try:
            response = await fetch(SERVICE + token, timeout=2)
        except (FetchError, OSError) as error:
            s.log.error(f"the token service cannot be asked: {error}")
            s.deny()
            return
        status = tokens[token] = response.status
    if status != 200:
        s.deny()


class WithoutLine(Filter):
    """Takes the first line off: `py_filter`."""

    is_past = False

    def from_client(self, data: bytes) -> bytes | Hold:
        """Return what follows the line."""
        if self.is_past:
            return data
        _, line_end, rest = data.partition(b"\n")
        if not line_end:
            return HOLD
        self.is_past = True
        return rest
