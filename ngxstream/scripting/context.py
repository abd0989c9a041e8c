"""What a task has around it: where names are asked for, and whose slots its sockets take.

Not part of the public interface. Whoever starts a task gives it one (Task.context).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ngxstream.event import opening

if TYPE_CHECKING:
    from ngxstream.event.tasks import Task
    from ngxstream.stream.resolver_conf import ResolverConf


@dataclass(frozen=True, slots=True)
class Context:
    """Of the tasks of one session, or of a worker.

    Args: resolver_timeout: ms; buffer_size: what may wait to be sent on a connection, bytes
    """

    slots: opening.Slots
    resolver: ResolverConf | None = None
    resolver_timeout: int = 30_000
    buffer_size: int = 65_536


def of(task: Task) -> Context:
    """Return that of a task."""
    found: Context | None = task.context
    return Context(opening.Slots(task.loop, None)) if found is None else found
