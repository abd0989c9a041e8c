"""Coroutines in tests: run on a loop that the test turns, and modules of users."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from ngxstream.event import opening, tasks
from ngxstream.event.loop import Loop
from ngxstream.scripting.context import Context
from tests.support.engine import run_until

AT_ONCE = struct.pack("ii", 1, 0)  # struct linger: close() resets


def start(loop: Loop, coroutine: Coroutine[Any, Any, Any], **around: Any) -> tasks.Task:
    """Start a coroutine. Args: around: of its Context"""
    context = Context(**{"slots": opening.Slots(loop, None), **around})
    task = tasks.Task(loop, coroutine, lambda _: None, None, context)
    task.start()
    return task


def result(loop: Loop, coroutine: Coroutine[Any, Any, Any], **around: Any) -> Any:
    """Run a coroutine to its end; return what it returns, or raise what it raises."""
    task = start(loop, coroutine, **around)
    run_until(loop, lambda: task.is_over)
    error, task.error = task.error, None
    if error is not None:
        raise error
    return task.result


def reset(sock: socket.socket) -> None:
    """Close a connection by a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
    sock.close()


def module(folder: Path, text: str, name: str = "app") -> str:
    """Write a module of a user's; return the directive that imports it."""
    path = folder / f"{name}.py"
    path.write_text(f"from ngxstream.scripting import *\n{text}")
    return f"py_import {name} from {path};"


Script = Callable[[socket.socket], None]
