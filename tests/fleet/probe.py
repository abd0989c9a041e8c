"""A TCP server that greets, and a client that connects again and again and notes how that went.

`python -m tests.fleet.probe serve HOST` prints its port;
`python -m tests.fleet.probe connect HOST PORT` prints a line of JSON when its input ends.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time

GREETING = b"hello"
EVERY_S = 0.02
PATIENCE_S = 0.5


def serve(host: str) -> None:
    """Greet each connection, for ever."""
    with socket.create_server((host, 0), backlog=1024) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            client, _ = server.accept()
            with client:
                client.send(GREETING)


def attempt(address: tuple[str, int]) -> str:
    """Connect once; return what became of it."""
    try:
        with socket.create_connection(address, PATIENCE_S) as sock:
            return "served" if sock.recv(16) == GREETING else "closed"
    except TimeoutError:
        return "silent"
    except ConnectionError:
        return "refused"
    except OSError:
        return "unreachable"


def connect(host: str, port: int) -> None:
    """Connect until the input ends; then tell how often what happened, and the longest outage."""
    counts: dict[str, int] = {}
    last = time.monotonic()
    longest = 0.0
    print("{}", flush=True)
    while not select.select([0], [], [], EVERY_S)[0]:
        what = attempt((host, port))
        counts[what] = counts.get(what, 0) + 1
        now = time.monotonic()
        if what == "served":
            longest = max(longest, now - last)
            last = now
    longest = max(longest, time.monotonic() - last)
    print(json.dumps({"outage_s": round(longest, 2), **counts}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        connect(sys.argv[2], int(sys.argv[3]))
