"""Run one load program: `python -m tests.bench.load NAME ARGUMENTS`."""

from __future__ import annotations

import json
import resource
import sys

from tests.bench.load import counted, quic, sessions, tls, udp


def main(name: str, *words: str) -> None:
    """Run a program by its name. Args: words are numbers"""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    numbers = [float(word) if "." in word else int(word) for word in words]
    result = PROGRAMS[name](*numbers)
    if result is not None:
        print(json.dumps(result), flush=True)


def _windows(port: int, clients: int, window: int, seconds: float) -> object:
    return udp.Windows(port, clients, window).run(seconds)


PROGRAMS = {
    "echo": udp.echo,
    "windows": _windows,
    "fire": udp.fire,
    "gso-echo": udp.gso_echo,
    "gso": udp.gso,
    "quic-gso": quic.serve,
    "quic": quic.load,
    "idle-tcp": sessions.idle_tcp,
    "idle-udp": sessions.idle_udp,
    "live-udp": sessions.live_udp,
    "paced": sessions.paced,
    "counted-requests": counted.requests,
    "counted-connections": counted.connections,
    "counted-datagrams": counted.datagrams,
    "counted-handshakes": counted.handshakes,
    "tls-resume": tls.resume,
}

if __name__ == "__main__":
    main(*sys.argv[1:])
