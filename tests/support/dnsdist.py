"""A dnsdist of the system, as a peer that speaks the PROXY protocol over UDP."""

import subprocess
from pathlib import Path
from typing import Self

from tests.support import dns, ports, processes, tools
from tests.support.waiting import PATIENCE, wait_until


class Dnsdist:
    """A dnsdist with one listening address, run by the Lua a test gives.

    Example::

        with Dnsdist('newServer({address="127.0.0.1:5300", useProxyProtocol=true})', tmp) as front:
            assert dig("www.example.com", "127.0.0.1", front.port).records
    """

    def __init__(self, lua: str, folder: Path, *, host: str = "127.0.0.1") -> None:
        """Start it and wait until its console would answer; ready() waits for a real answer."""
        self.port = ports.free_port()
        self.host = host
        number = 1 + sum(1 for _ in folder.glob("dnsdist-*.conf"))
        conf = folder / f"dnsdist-{number}.conf"
        self._log = folder / f"dnsdist-{number}.log"
        conf.write_text(f'setLocal("{host}:{self.port}")\nsetACL("0.0.0.0/0")\n{lua}\n')
        words = [tools.require("dnsdist"), "--supervised", "--disable-syslog", "-C", str(conf)]
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def ready(self, name: str, *extra: str) -> None:
        """Wait until a name is answered through it, with dig's further words."""

        def answers() -> bool:
            assert self._process.poll() is None, self.log()
            return bool(dns.dig(name, self.host, self.port, timeout=1, extra=extra))

        wait_until(answers, PATIENCE, "dnsdist answers")

    def log(self) -> str:
        """Return what it said."""
        return self._log.read_text(errors="replace")

    def close(self) -> None:
        """End it."""
        processes.kill_session(self._process.pid)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
