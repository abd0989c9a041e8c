"""How large a configuration or a load has been run, and what it costs: the table of docs/sizes.md.

`python -m tests.bench.sizes` measures all of it within some minutes, `-k WORD` some of it.
Everything listens on the loopback.
"""

import argparse
import contextlib
import os
import re
import resource
import selectors
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support import processes
from tests.support.proxies import Ngxstream
from tests.support.waiting import wait_until

DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
TICKS = os.sysconf("SC_CLK_TCK")
HEAD = f"worker_rlimit_nofile {DESCRIPTORS}; events {{ worker_connections {DESCRIPTORS}; }} "
SERVER = "server { listen 127.0.0.1:@main@; proxy_pass 127.0.0.1:9; } "


def many(count: int, line: str) -> str:
    """Return a line so many times, each with its number; `{a}` are three numbers of an address."""
    return "\n".join(
        line.format(n=n, a=f"{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}") for n in range(count))


CONFIGURATIONS: dict[str, tuple[int, Callable[[int], str]]] = {
    "one server and nothing else": (1, lambda n: SERVER),
    "listening TCP ports (a range)": (10_000, lambda n: (
        f"server {{ listen 127.0.0.1:20000-{20000 + n - 1}; return 1; }}")),
    "listening UDP ports (a range)": (10_000, lambda n: (
        f"server {{ listen 127.0.0.1:20000-{20000 + n - 1} udp; return 1; }}")),
    "`server` blocks, a port each": (10_000, lambda n: many(
        n, "server {{ listen 127.{a}:9000; proxy_pass 127.0.0.1:9; }}")),
    "`server_name`s at one TLS address": (10_000, lambda n: many(
        n, "server {{ listen 127.0.0.1:9000; ssl_preread on; server_name h{n}.example.com;"
           " proxy_pass 127.0.0.1:9; }}")),
    "servers of one `upstream`": (10_000, lambda n: (
        f"upstream one {{ zone one 8m; {many(n, 'server 10.{a}:80;')} }}"
        "server { listen 127.0.0.1:@main@; proxy_pass one; }")),
    "`upstream` groups, a server each": (10_000, lambda n: many(
        n, "upstream g{n} {{ server 10.{a}:80; }}") + SERVER),
    "entries of a `map`": (1_000_000, lambda n: (
        f"map $remote_addr $v {{ {many(n, 'key{n}.example.com value{n};')} }}{SERVER}")),
    "networks of a `geo`": (1_000_000, lambda n: (
        f"geo $v {{ {many(n, '10.{a}/32 value{n};')} }}{SERVER}")),
}

SESSIONS = (("TCP", 9_000, socket.SOCK_STREAM), ("UDP", 18_000, socket.SOCK_DGRAM))


def spaced(count: int) -> str:
    """Return a number with a space before each three digits."""
    return f"{count:,}".replace(",", " ")


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process, with that of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def pss_mb(pid: int) -> float:
    """Return the memory of a process, its part of what it shares with others included."""
    found = re.search(r"(?m)^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text())
    assert found
    return int(found[1]) / 1024


def configuration(count: int, make: Callable[[int], str], folder: Path) -> str:
    """Return the cells of a configuration: -t, start, reload, memory of master and worker."""
    program = Ngxstream(f"{HEAD} stream {{ include all.conf; }}", folder, log_level="error")
    (program.conf_file.parent / "all.conf").write_text(program.fill(make(count)))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    verdict = program.run("-t", timeout=300)
    assert verdict.code == 0, verdict.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    tested = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    with program.start(timeout=300):
        started = cpu_s(program.pid) + sum(map(cpu_s, program.worker_pids()))
        memory = [pss_mb(program.pid), pss_mb(program.worker_pids()[0])]
        program.reload(timeout=300)
        reloaded = cpu_s(program.pid) + sum(map(cpu_s, program.worker_pids())) - started
    return (f"{tested:.2f} s | {started:.2f} s | {reloaded:.2f} s "
            f"| {memory[0]:.0f} MB | {memory[1]:.0f} MB")


@contextlib.contextmanager
def echo(kind: int) -> Iterator[tuple[str, int]]:
    """Answer what comes, in a process of its own, until the block ends."""
    server = socket.socket(type=kind)
    server.bind(("127.0.0.1", 0))
    if kind == socket.SOCK_STREAM:
        server.listen(4096)
    pid = os.fork()
    if pid == 0:
        _answer(server)
    try:
        yield server.getsockname()
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        server.close()


def _answer(server: socket.socket) -> None:
    with selectors.EpollSelector() as poller:
        poller.register(server, selectors.EVENT_READ)
        while True:
            for key, _ in poller.select():
                if server.type == socket.SOCK_DGRAM:
                    data, peer = server.recvfrom(100)
                    server.sendto(data, peer)
                elif key.fileobj is server:
                    poller.register(server.accept()[0], selectors.EVENT_READ)
                elif isinstance(key.fileobj, socket.socket):
                    key.fileobj.send(key.fileobj.recv(100))


def sessions(count: int, kind: int, folder: Path) -> str:
    """Return the cells of so many sessions that have exchanged a message and stay."""
    udp = "udp rcvbuf=4m" if kind == socket.SOCK_DGRAM else "backlog=4096"
    with echo(kind) as (host, port), contextlib.ExitStack() as stack:
        text = (f"{HEAD} stream {{ server {{ listen 127.0.0.1:@main@ {udp}; proxy_timeout 1h;"
                f" proxy_pass {host}:{port}; }} }}")
        program = stack.enter_context(Ngxstream(text, folder, log_level="error"))
        (worker,) = program.worker_pids()
        memory, cpu = pss_mb(worker), cpu_s(worker)
        for number in range(count):
            client = stack.enter_context(socket.socket(type=kind))
            client.settimeout(60)
            client.bind((f"127.2.{number >> 14 & 255}.{1 + (number >> 6 & 255) % 250}", 0))
            client.connect(program.address("main"))
            client.send(b"hello")
            assert client.recv(100) == b"hello"
        spent = cpu_s(worker) - cpu
        grown = pss_mb(worker) - memory
        wait_until(lambda: program.is_running() and processes.is_alive(worker))
        return f"{grown:.0f} MB | {spent:.1f} s"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-k", default="", help="only what has this word in its name")
    word = parser.parse_args().k
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    print("| what | number | `-t` | start | reload | master | worker |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name, (count, make) in CONFIGURATIONS.items():
        if word in name:
            with tempfile.TemporaryDirectory() as folder:
                cells = configuration(count, make, Path(folder))
            print(f"| {name} | {spaced(count)} | {cells} |", flush=True)
    print("\n| sessions of one worker | number | its memory grows by | its CPU time |")
    print("|---|--:|--:|--:|")
    for name, count, kind in SESSIONS:
        if word in name:
            with tempfile.TemporaryDirectory() as folder:
                cells = sessions(count, kind, Path(folder))
            print(f"| {name}, idle | {spaced(count)} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
