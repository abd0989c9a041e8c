"""StreamModule: what a module adds for the stream block (ngx_stream_module_t).

Its hooks, in the order in which they are called:
  prepare(builder)            before anything is read (Module)
  init(draft)                 once, after the block is read: what belongs to all servers
                              (init_main_conf). Raises: ConfError / UnplacedError
  check(conf, server, draft)  after a server's confs are merged: the validation that nginx does in
                              merge_srv_conf. Raises: ConfError / UnplacedError
  finish(draft)               once, after all servers are merged (postconfiguration)
  start_worker(stream, loop)  in each worker before its first turn: timers, sockets of its own
  retire_worker(stream, loop) in each worker that is told to leave in grace, and in one process that
                              serves by another configuration from now on: begin nothing new
  stop_worker(stream, loop)   in each worker before it leaves: flush what is buffered
  reopen(stream, loop)        in each worker on USR1
  suspend(stream)             in the master, before another configuration is read: workers of this
                              one stop changing what that will read. In a worker whose master died
  resume(stream)              in the master, when that one was refused
  hand_on(stream)             in the master, when it starts another binary: bytes that this one's
                              configuration is to begin with, of a schema (ipc/codec.py)
  take_up(stream, data)       in the master of that binary, before its workers: what hand_on() of
                              the other one returned. Raises: CodecError
`contents` are its kinds of contents and `keeps` is what else it keeps of sessions, each with how it
moves to another process or why it does not (stream/content.py). `endpoints`, `metrics` and
`questions` are what it shows while the program runs (stream/api.py, stream/asking.py). `explains`
says of its handlers, of phases and of content, what they would do with a session that nothing comes
of (stream/explaining.py): (handler, explanation).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ngxstream.conf.module import Module

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.stream.api import Endpoint, Metrics
    from ngxstream.stream.asking import Question
    from ngxstream.stream.content import ContentKind, Kept
    from ngxstream.stream.core import ServerConf, StreamConf, StreamDraft
    from ngxstream.stream.explaining import Explain
    from ngxstream.stream.session import Session
    from ngxstream.stream.variables import Variable


class PhaseHandler(NamedTuple):
    """A handler of one phase; it runs only at addresses where a server wants it.

    Args: run: run(session) returns a code of core/codes or a status >= 200; `wanted(server)` tells
    from the merged confs of a server whether the handler could do anything there; `again`: a
    server that is selected by name, after the handler's phase, has its own say too.
    """

    phase: int
    run: Callable[[Session], int]
    wanted: Callable[[ServerConf], bool]
    again: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class StreamModule(Module):
    """One feature of the stream block. See the head of this file for the hooks."""

    variables: tuple[Variable, ...] = ()
    handlers: tuple[PhaseHandler, ...] = ()
    init: Callable[[StreamDraft], None] | None = None
    check: Callable[[Any, ServerConf, StreamDraft], None] | None = None
    finish: Callable[[StreamDraft], None] | None = None
    start_worker: Callable[[StreamConf, Loop], None] | None = None
    retire_worker: Callable[[StreamConf, Loop], None] | None = None
    stop_worker: Callable[[StreamConf, Loop], None] | None = None
    reopen: Callable[[StreamConf, Loop], None] | None = None
    suspend: Callable[[StreamConf], None] | None = None
    resume: Callable[[StreamConf], None] | None = None
    hand_on: Callable[[StreamConf], bytes] | None = None
    take_up: Callable[[StreamConf, bytes], None] | None = None
    contents: tuple[ContentKind, ...] = ()
    keeps: tuple[Kept, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    metrics: Metrics | None = None
    questions: tuple[Question, ...] = ()
    explains: tuple[tuple[Callable[[Session], object], Explain], ...] = ()
