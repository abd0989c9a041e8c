"""DNS servers and a DNS client of the system: dnsmasq and dig.

``Dnsmasq`` answers from records that a test can change while it runs; ``dig`` asks and returns what
was answered. Both can live inside a network namespace.
"""

import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.support import ports, processes, tools
from tests.support.waiting import PATIENCE, wait_until


def _inside(netns: str | None) -> list[str]:
    return [tools.require("ip"), "netns", "exec", netns] if netns else []


@dataclass(frozen=True, slots=True)
class DigAnswer:
    """What dig printed: status is NOERROR, NXDOMAIN …, or empty if no answer came."""

    status: str
    records: list[str]  # data of the answer section, sorted: addresses, "10 5 53 host." for SRV
    text: str  # everything dig printed

    def __bool__(self) -> bool:
        """True when a server answered, whatever it said."""
        return bool(self.status)


def dig(
    name: str,
    server: str,
    port: int = 53,
    kind: str = "A",
    *,
    tcp: bool = False,
    tries: int = 1,
    timeout: int = 10,
    netns: str | None = None,
    extra: Sequence[str] = (),
) -> DigAnswer:
    """Ask one question by dig; an answer that is false means that none came in time.

    Args: timeout in whole seconds per try; extra are further words, such as ``+bufsize=4096``.
    """
    words = [*_inside(netns), tools.require("dig"), f"@{server}", "-p", str(port), name, kind]
    words += [f"+tries={tries}", f"+time={timeout}", "+tcp" if tcp else "+notcp", "+ignore", *extra]
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
    )
    status = re.search(r"status: (\w+)", done.stdout)
    answers = re.search(r";; ANSWER SECTION:\n(.*?)\n\n", done.stdout, re.DOTALL)
    lines = answers[1].splitlines() if answers else []
    records = sorted(" ".join(line.split()[4:]) for line in lines)
    return DigAnswer(status[1] if status else "", records, done.stdout + done.stderr)


class Dnsmasq:
    """A dnsmasq that knows only the records given.

    Example::

        with Dnsmasq({"www.example.com": ["192.0.2.1", "2001:db8::1"]}, folder=tmp_path) as server:
            assert ["192.0.2.1"] == dig("www.example.com", *server.address).records
    """

    def __init__(
        self,
        records: Mapping[str, Sequence[str]],
        *,
        folder: Path,
        host: str = "127.0.0.1",
        port: int = 0,
        srv: Sequence[str] = (),
        ttl: int = 0,
        netns: str | None = None,
        options: Sequence[str] = (),
    ) -> None:
        """Start and wait until it answers.

        Args: records map a name to IPv4 and IPv6 addresses; srv are values of dnsmasq's --srv-host
        (``_dns._udp.example.com,target,port,priority,weight``); port 0 picks a free one; ttl of
        the answers in seconds.
        """
        self.address = (host, port or ports.free_port())
        self._netns = netns
        number = 1 + sum(1 for _ in folder.glob("dnsmasq-*.hosts"))
        self._hosts = folder / f"dnsmasq-{number}.hosts"
        self._log = folder / f"dnsmasq-{number}.log"
        self._write(records)
        words = [
            *_inside(netns),
            tools.require("dnsmasq"),
            *("--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"),
            *("--bind-interfaces", f"--listen-address={host}", f"--port={self.address[1]}"),
            # No interface filter of its own: without it dnsmasq adds the loopback and may clash.
            *("--except-interface=lo",) * (not _is_loopback(host)),
            f"--addn-hosts={self._hosts}",
            *(f"--srv-host={value}" for value in srv),
            *(f"--local-ttl={ttl}", "--local=/#/", "--log-queries", "--log-facility=-"),
            *("--pid-file=", "--no-ping", f"--user={_user()}"),
            *options,
        ]
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            wait_until(self._is_ready, PATIENCE, "dnsmasq answers")
        except BaseException:
            self.close()
            raise

    @property
    def port(self) -> int:
        """The port it is bound to, for UDP and TCP."""
        return self.address[1]

    @property
    def text(self) -> str:
        """The address as a configuration writes it."""
        host, port = self.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def queries(self, pattern: str = "") -> list[str]:
        """Return the names asked for so far, once per query, that match the expression."""
        asked = re.findall(r"query\[\w+\] (\S+) from", self._log.read_text(errors="replace"))
        return [name for name in asked if name != PROBE and re.search(pattern, name)]

    def update(self, records: Mapping[str, Sequence[str]]) -> None:
        """Replace the addresses; return when the server has read them."""
        seen = self._times_read()
        self._write(records)
        os.kill(self._process.pid, signal.SIGHUP)
        wait_until(lambda: self._times_read() > seen, PATIENCE, "dnsmasq has read its records")

    def pause(self) -> None:
        """Make it silent: it holds its socket and answers nothing until resume()."""
        os.kill(self._process.pid, signal.SIGSTOP)
        wait_until(lambda: processes.state(self._process.pid) == "T", PATIENCE, "dnsmasq stops")

    def resume(self) -> None:
        """Let it answer again, first what came while it was silent."""
        os.kill(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it."""
        processes.kill_session(self._process.pid)
        self._process.wait()

    def _write(self, records: Mapping[str, Sequence[str]]) -> None:
        lines = [f"{address} {name}\n" for name, found in records.items() for address in found]
        self._hosts.write_text("".join(lines))
        self._hosts.chmod(0o644)

    def _times_read(self) -> int:
        return self._log.read_text(errors="replace").count(f"read {self._hosts}")

    def _is_ready(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"dnsmasq ended: {self._log.read_text(errors='replace')}")
        host, port = self.address
        return bool(dig(PROBE, host, port, timeout=1, netns=self._netns))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


PROBE = "is-it-ready.invalid"


def _is_loopback(host: str) -> bool:
    return host.startswith("127.") or host == "::1"


def _user() -> str:
    """Return the user to stay: dnsmasq started by root would change to one of its own."""
    return "root" if os.geteuid() == 0 else ""
