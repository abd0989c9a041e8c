"""How long one answer of the API holds the loop of its worker.

    python -m tests.bench.api_answer [GROUPS PEERS] [PATH ...]

Serves so many groups of so many peers each in this process (200 of 50), asks for each path once,
and prints the CPU time of the turns of the loop meanwhile. What else the machine does matters
little to that.
"""

import gc
import sys
import time

from ngxstream.event.loop import Loop
from tests.support import http_replies
from tests.support.in_process import InProcess

PATHS = ("/api/9/stream/upstreams/", "/api/ngxstream/1/upstreams", "/metrics", "/dashboard.html")


def measure(served: InProcess, path: str) -> str:
    """Ask for a path and return a line about the turns."""
    client = served.connect()
    client.sendall(http_replies.request(path, Connection="close"))
    size, turns, is_over = 0, [], False
    while not is_over:
        before = time.thread_time_ns()
        Loop.turn(served.loop, 1)  # without the poison of the tests' own loop
        turns.append(time.thread_time_ns() - before)
        try:
            while not is_over:
                piece = client.recv(1 << 20)
                size += len(piece)
                is_over = not piece
        except BlockingIOError:
            continue
    turns.sort()
    busy = [one for one in turns if one > 50_000]
    return (
        f"{path:34}{size:>10} bytes {sum(turns) / 1e6:8.1f} ms CPU in {len(busy):>5} turns, "
        f"longest {turns[-1] / 1e6:.2f} ms, median {busy[len(busy) // 2] / 1e6 if busy else 0:.2f}"
    )


def main() -> None:
    """Measure what the command line says."""
    words = sys.argv[1:]
    groups, peers = 200, 50
    if words[:1] and words[0].isdigit():
        groups, peers = int(words.pop(0)), int(words.pop(0))
    text = "".join(
        f"upstream u{g} {{ zone u{g} 256k; "
        + "".join(f"server 10.{g % 250}.{n // 250}.{n % 250 + 1}:80;" for n in range(peers))
        + "} "
        for g in range(groups)
    )
    with InProcess(f"stream {{ {text} server {{ listen 127.0.0.1:@api@; api; }} }}") as served:
        gc.collect()
        gc.disable()  # as in a worker
        for path in words or PATHS:
            print(measure(served, path), flush=True)


if __name__ == "__main__":
    main()
