"""The error_log directive in every context, and the Log that such directives make
(ngx_log.c ngx_log_set_log, ngx_log_set_levels, ngx_log_open_default).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ngxstream.conf import units
from ngxstream.core import clock as clocks
from ngxstream.core import errors, files, log, log_rate, log_ring, syslog

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.core.facts import Cell

# The classes of debugging messages; there is but one class here.
DEBUG_CLASSES: Final = frozenset(
    f"debug_{name}" for name in ("core", "alloc", "mutex", "event", "http", "mail", "stream")
)
STDERR: Final = "stderr"


@dataclass(frozen=True, slots=True)
class Spec:
    """One error_log directive: a threshold and one of four kinds of target."""

    level: int = log.ERR
    path: str | None = None  # absolute; "" for standard error
    syslog: syslog.SyslogConf | None = None
    memory: int = 0  # bytes of a ring
    place: str = ""  # FILE:LINE of the directive, for the ring's header
    rate: int = 0  # lines a second; 0 is no limit
    left_out: Cell | None = None


def add(scope: Scope, module: Module, st: Statement) -> None:
    """Read one error_log directive and append its Spec to given["error_log"].

    Raises: ConfError with nginx's words. Source: ngx_log.c ngx_log_set_log
    """
    value = st.args[0]
    path: str | None = None
    server: syslog.SyslogConf | None = None
    memory = 0
    if value in (STDERR, ""):
        path = ""
    elif value.startswith("memory:"):
        memory = _memory(value.removeprefix("memory:"), st.file)
    elif value.startswith("syslog:"):
        server = syslog.parse(value.removeprefix("syslog:"))
    else:
        path = scope.prefix_path(value)
    words, rate = _rate(st.args[1:])
    left_out = scope.builder.facts.cell(log_rate.LEFT_OUT, value) if rate else None
    place = f"{st.file}:{st.line}"
    spec = Spec(_level(words), path, server, memory, place, rate, left_out)
    scope.given_of(module).setdefault("error_log", []).append(spec)


def _memory(text: str, file: str) -> int:
    try:
        size = units.parse_size(text)
    except ValueError:
        size = 0
    if size < log.MemoryTarget.least(file):
        raise errors.ConfError(f'invalid buffer size "{text}"')
    return size


def _rate(words: list[str]) -> tuple[list[str], int]:
    """Return the words without `rate=N/s`, which is ours, and N; 0 without."""
    given = [word for word in words if word.startswith("rate=")]
    if not given:
        return words, 0
    text = given[0].removeprefix("rate=")
    try:
        rate = units.parse_number(text.removesuffix("/s"))
    except ValueError:
        rate = 0
    if len(given) > 1 or rate <= 0 or not text.endswith("/s"):
        raise errors.ConfError(f'invalid parameter "{given[-1]}"')
    return [word for word in words if word not in given], rate


def _level(words: Iterable[str]) -> int:
    """Return the threshold that the parameters name. Source: ngx_log.c ngx_log_set_levels"""
    level: int | None = None
    classes = False
    for word in words:
        if word in log.LEVELS:
            if level is not None or classes:
                raise errors.ConfError(f'duplicate log level "{word}"')
            level = log.LEVELS[word]
        elif word in DEBUG_CLASSES and level is None:
            classes = True
        else:
            raise errors.ConfError(f'invalid log level "{word}"')
    if classes:
        return log.DEBUG
    return log.ERR if level is None else level


def make_log(
    specs: Iterable[Spec], open_files: files.OpenFiles, *, clock: clocks.Clock | None = None,
    console: log.Console | None = None, main: log.Log | None = None,
    shown: log_ring.LogRing | None = None,
) -> log.Log:
    """Make the Log that error_log directives of one block describe.

    Its files are asked of `open_files`, which the cycle opens; `main` hears of syslog
    servers that do not take messages (by default the log itself); `shown` gets all lines, too
    """
    clock = clock or clocks.Clock()
    made = log.Log(clock=clock, console=console)
    targets: list[log.Target] = []
    for spec in specs:
        if spec.syslog is not None:
            peer = syslog.Syslog(spec.syslog, clock=clock)
            targets.append(syslog.SyslogTarget(peer, spec.level, main or made))
        elif spec.memory:
            targets.append(log.MemoryTarget(spec.memory, spec.place, spec.level))
        else:
            file = open_files.get(spec.path) if spec.path else open_files.stderr()
            targets.append(log.FileTarget(file, spec.level, clock))
        if spec.rate:
            rate = log_rate.Rate(spec.rate, clock, spec.left_out)
            targets[-1] = log_rate.RatedTarget(targets[-1], rate)
    if shown is not None:
        targets.append(shown.target(max((one.level for one in targets), default=log.WARN)))
    made.set_targets(targets)
    return made


def with_default(specs: tuple[Spec, ...], path: str) -> tuple[Spec, ...]:
    """Return the main context's specs, with a file at level error where none of them is a file.

    Args: path: that of -e, "" for standard error
    Source: ngx_log.c ngx_log_open_default
    """
    if any(spec.path is not None for spec in specs):
        return specs
    return (*specs, Spec(level=log.ERR, path=path))
