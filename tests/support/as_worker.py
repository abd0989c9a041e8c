"""Functions of users in the test's own process: what a worker changes of its process is undone."""

import gc
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ngxstream.scripting import process


@contextmanager
def undone() -> Iterator[None]:
    """Serve configurations with functions within, as a worker does."""
    before = (sys.unraisablehook, warnings.showwarning, list(sys.meta_path), gc.get_threshold())
    told = process.role, process.worker, process.workers
    callbacks = list(gc.callbacks)
    try:
        yield
    finally:
        sys.unraisablehook, warnings.showwarning = before[:2]
        sys.meta_path[:] = before[2]
        gc.set_threshold(*before[3])
        gc.callbacks[:] = callbacks
        gc.unfreeze()
        process.serve(*told)
