"""The Module record of the `py_*` directives: each file of this package adds its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ngxstream.modules.py import (
    access,
    balancer,
    conf,
    content,
    dicts,
    filters,
    log,
    periodic,
    preread,
    probe,
    refused,
    variables,
    working,
)
from ngxstream.stream import health
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from ngxstream.conf.builder import Builder, Scope
    from ngxstream.conf.reader import Statement
    from ngxstream.event.loop import Loop
    from ngxstream.modules.py.conf import Scripts
    from ngxstream.modules.py.working import Working
    from ngxstream.stream.core import StreamConf, StreamDraft


def _prepare(builder: Builder) -> None:
    builder.data[conf.WORK] = _work
    builder.data[health.PROBERS] = _prober


def _prober(scope: Scope, st: Statement, word: str) -> probe.Prober:
    return probe.Prober(scope, st, word)


def _work(scripts: Scripts, loop: Loop) -> Working:
    return working.of(scripts, loop)


def _init(draft: StreamDraft) -> None:
    conf.init(draft, MODULE)
    variables.init(draft)


def _start_worker(stream: StreamConf, loop: Loop) -> None:
    if conf.DICTS in stream.data:
        dicts.start_worker(stream, loop)
    scripts: Scripts | None = stream.data.get(conf.NAME)
    if scripts is not None:
        working.begin(scripts, loop)


def _retire_worker(stream: StreamConf, loop: Loop) -> None:
    scripts: Scripts | None = stream.data.get(conf.NAME)
    if scripts is not None and scripts.worker is not None:
        scripts.worker.retire()


def _stop_worker(stream: StreamConf, loop: Loop) -> None:
    scripts: Scripts | None = stream.data.get(conf.NAME)
    if scripts is not None and scripts.worker is not None:
        scripts.worker.stop()
    if conf.DICTS in stream.data:
        dicts.stop_worker(stream, loop)


MODULE = StreamModule(
    name=conf.NAME,
    directives=(
        *access.DIRECTIVES, *balancer.DIRECTIVES, *conf.DIRECTIVES, *content.DIRECTIVES,
        *dicts.DIRECTIVES, *filters.DIRECTIVES, *log.DIRECTIVES, *periodic.DIRECTIVES,
        *preread.DIRECTIVES, *refused.DIRECTIVES, *variables.DIRECTIVES,
    ),
    conf=conf.PyConf,
    prepare=_prepare,
    init=_init,
    suspend=dicts.suspend,
    resume=dicts.resume,
    start_worker=_start_worker,
    retire_worker=_retire_worker,
    stop_worker=_stop_worker,
    handlers=(*access.HANDLERS, *log.HANDLERS, *preread.HANDLERS),
    keeps=(*access.KEEPS, *filters.KEEPS, *preread.KEEPS),
    explains=(*access.EXPLAINS, *content.EXPLAINS, *preread.EXPLAINS),
    contents=content.CONTENTS,
    check=filters.check,
)
