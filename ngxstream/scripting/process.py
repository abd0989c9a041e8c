"""The process that a module runs in: `from ngxstream.scripting import process`.

A module is executed by `ngxstream -t`, and by the master with the rights it was started with; its
functions are called by workers. These names tell which it is, when it is imported and later:

    if process.role == process.WORKER: ...

- role: TEST while a configuration is only tested, MASTER where the master reads it, WORKER
  in a worker, SINGLE in the one process of `master_process off` once it serves
- worker: the number of this worker, from 0; -1 where it is none
- workers: how many workers there are; 0 where that is not known yet
- prefix, file: the prefix (-p), and the path of the configuration file (-c)
- version: ngxstream's own

Assigning to them changes nothing but what modules see. The one place of the package with names
that change: what one imports is all that there is before a first call.
"""

from __future__ import annotations

from typing import Final

import ngxstream

TEST: Final = "test"
MASTER: Final = "master"
WORKER: Final = "worker"
SINGLE: Final = "single"

role: str = TEST
worker: int = -1
workers: int = 0
prefix: str = ""
file: str = ""
version: Final[str] = ngxstream.VERSION


def read(role_: str, prefix_: str, file_: str) -> None:
    """Say that a configuration is read. Called by ngxstream alone."""
    global role, prefix, file  # noqa: PLW0603 - see the head
    if role not in (WORKER, SINGLE):
        role = role_
    prefix, file = prefix_, file_


def serve(role_: str, number: int, count: int) -> None:
    """Say that this process serves. Called by ngxstream alone."""
    global role, worker, workers
    role, worker, workers = role_, number, count
