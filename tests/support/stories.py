"""One story told on nginx and on ngxstream: what client, backends and log saw, to be compared.

A test takes the fixture ``same`` (tests/conftest.py) and calls ``same(conf, story)``; the story
is given the running program and returns its account. Ports are levelled out.
"""

import re
from collections.abc import Callable
from typing import Any

from tests.support.proxies import Proxy
from tests.support.waiting import PATIENCE, wait_until

HEAD = (
    "worker_processes 1; events { worker_connections 256; } stream { "
    "log_format f '$protocol $status $bytes_received $bytes_sent $upstream_bytes_sent "
    "$upstream_bytes_received $upstream_addr'; access_log logs/access.log f; "
)
Story = Callable[[Proxy], Any]


def levelled(text: str) -> str:
    """Return a log text with every port replaced: each program has its own."""
    return re.sub(r"(?<=[0-9\]]):\d{2,5}\b", ":PORT", text)


def said(program: Proxy, *levels: str) -> list[str]:
    """Return what sessions logged at these levels, ports levelled out."""
    return [levelled(r.message) for r in program.records() if r.connection and r.level in levels]


def ended(program: Proxy, count: int) -> list[str]:
    """Wait for that many lines in the access log and return them, ports levelled out."""
    wait_until(lambda: len(program.access_log()) >= count, PATIENCE, f"{count} sessions logged")
    return [levelled(line) for line in program.access_log()]
