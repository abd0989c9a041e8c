"""The directives of the access log, their merging, and the log phase (ngx_stream_log_module.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ngxstream.conf import directive as d
from ngxstream.conf import units
from ngxstream.conf.directive import SERVER, STREAM, Directive
from ngxstream.core import codes, errors, log_rate, syslog
from ngxstream.modules.log import formats, open_cache, sinks
from ngxstream.stream import phases, values
from ngxstream.stream.api import COUNTER, Family, labels
from ngxstream.stream.content import Kept
from ngxstream.stream.module import PhaseHandler, StreamModule
from ngxstream.stream.variables import NOCACHEABLE, Variable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Given, Module
    from ngxstream.conf.reader import Statement
    from ngxstream.core.files import OpenFile
    from ngxstream.event.loop import Loop
    from ngxstream.stream.core import ServerConf, StreamConf, StreamDraft
    from ngxstream.stream.session import Session
    from ngxstream.stream.values import ComplexValue

NAME: Final = "access_log"  # of the module: `log` is what a server calls its error log
BOTH: Final = STREAM | SERVER

MOST_SAMPLE: Final = 1 << 31
GZIP_BUFFER: Final = 64 * 1024


class LogFile:
    """A file some access log goes to; every log of the same path shares it and its buffer."""

    __slots__ = ("buffer", "file")

    def __init__(self, file: OpenFile) -> None:
        self.file = file
        self.buffer: sinks.Buffer | None = None


class LogData:
    """What the logs of one stream block share."""

    __slots__ = ("caches", "files", "formats", "peers")

    def __init__(self) -> None:
        self.formats: list[formats.Format] = []
        self.files: dict[str, LogFile] = {}
        self.caches: list[open_cache.OpenLogCache] = []
        self.peers: list[syslog.Syslog] = []


class Spec:
    """One access_log directive; `target` says which kind it is."""

    __slots__ = ("_sink", "condition", "format", "parents", "sample", "target")

    def __init__(self, target: LogFile | ComplexValue | syslog.Syslog) -> None:
        self.target = target
        self.parents = 0  # how many `..` the configuration has in a path with variables
        self.format: formats.Format | None = None
        self.condition: ComplexValue | None = None
        self.sample: sinks.Sample | None = None
        self._sink: Any = None  # one for all servers that inherit the directive

    def taker(self, cache: open_cache.OpenLogCache | None) -> sinks.Take:
        """Return what takes the line of a session, once the whole block is read."""
        made = self.format
        assert made is not None
        target = self.target
        sink = self._sink
        if sink is None:
            if isinstance(target, syslog.Syslog):
                sink = sinks.SyslogSink(target, made)
            elif not isinstance(target, LogFile):
                sink = sinks.PathSink(target, made, self.parents)
            elif target.buffer is not None:
                sink = sinks.BufferedSink(target.buffer, made)
            else:
                sink = sinks.FileSink(target.file, made)
            self._sink = sink
        take = sink.taker(cache) if isinstance(sink, sinks.PathSink) else sink.take
        if self.sample is not None:
            take = self.sample.before(take)
        return take if self.condition is None else sinks.filtered(self.condition, take)


@dataclass(frozen=True, slots=True)
class LogConf:
    """The access logs of a server, in the order of the directives."""

    takers: tuple[sinks.Take, ...] = ()


def handle(s: Session) -> int:
    """Write the session to every log of its server. Source: ngx_stream_log_handler"""
    for take in s.server.access_log.takers:
        take(s)
    return codes.OK


def _is_wanted(server: ServerConf) -> bool:
    return bool(server.access_log.takers)


def _merge(outer: Given, inner: Given) -> LogConf:
    """Source: ngx_stream_log_merge_srv_conf"""
    cache = inner["cache"] if "cache" in inner else outer.get("cache")
    given = inner if inner.get("off") or inner.get("logs") else outer
    if given.get("off"):
        return LogConf()
    return LogConf(tuple(spec.taker(cache) for spec in given.get("logs", ())))


def _data(scope: Scope) -> LogData:
    draft: StreamDraft = scope.builder.data["stream"]
    data = draft.data.get(NAME)
    if data is None:
        data = draft.data[NAME] = LogData()
    assert isinstance(data, LogData)
    return data


def _log_format(scope: Scope, module: Module, st: Statement) -> None:
    """Source: ngx_stream_log_set_format"""
    data = _data(scope)
    name = st.args[0]
    if any(known.name == name for known in data.formats):
        raise errors.ConfError(f'duplicate "log_format" name "{name}"')
    table = scope.builder.data["stream"].variables
    data.formats.append(formats.compile_format(name, st.args[1:], table))


def _access_log(scope: Scope, module: Module, st: Statement) -> None:
    """Source: ngx_stream_log_set_log"""
    given = scope.given_of(module)
    args = st.args
    if args[0] == "off":
        given["off"] = True
        if len(args) > 1:
            raise errors.ConfError(f'invalid parameter "{args[1]}"')
        return
    data = _data(scope)
    spec = _spec(scope, data, args[0])
    given.setdefault("logs", []).append(spec)
    if len(args) == 1:
        raise errors.ConfError("log format is not specified")
    name = args[1].lower()
    spec.format = next((made for made in data.formats if made.name.lower() == name), None)
    if spec.format is None:
        raise errors.ConfError(f'unknown log format "{args[1]}"')
    size, flush_ms, gzip = _parameters(scope, spec, args[2:], args[0])
    if flush_ms and not size:
        shown = spec.target.text if isinstance(spec.target, values.ComplexValue) else args[0]
        raise errors.ConfError(f'no buffer is defined for access_log "{shown}"')
    if size:
        _buffer(spec, args[0], size, flush_ms, gzip)


def _spec(scope: Scope, data: LogData, word: str) -> Spec:
    """Find the target of a log."""
    if word.startswith("syslog:"):
        peer = syslog.Syslog(syslog.parse(word.removeprefix("syslog:")))
        data.peers.append(peer)
        return Spec(peer)
    builder = scope.builder
    path = scope.prefix_path(word) if word else ""
    if values.has_variables(word):
        spec = Spec(values.compile_value(path, builder.data["stream"].variables))
        outline = "".join("x" if mark else text for mark, text in values.split(path))
        spec.parents = outline.split("/").count("..")
        return spec
    known = data.files.get(path)
    if known is None:
        open_files = builder.data["files"]
        file = open_files.get(path) if path else open_files.stderr()
        known = data.files[path] = LogFile(file)
    return Spec(known)


def _parameters(
    scope: Scope, spec: Spec, words: list[str], log: str
) -> tuple[int, int, int]:
    """Return buffer size, flush time in milliseconds and gzip level, 0 where not given."""
    size = flush_ms = gzip = 0
    for word in words:
        name, equals, text = word.partition("=")
        if name == "buffer" and equals:
            size = _positive(units.parse_size, text, "buffer size")
        elif name == "flush" and equals:
            flush_ms = _positive(units.parse_time_msec, text, "flush time")
        elif name == "gzip":
            size = size or GZIP_BUFFER
            gzip = 1 if not equals else _positive(units.parse_number, text, "compression level", 9)
        elif name == "if" and equals:
            table = scope.builder.data["stream"].variables
            spec.condition = values.compile_value(text, table)
        elif name == "sample" and equals:
            spec.sample = _sample(scope, text, log)
        else:
            raise errors.ConfError(f'invalid parameter "{word}"')
    return size, flush_ms, gzip


def _positive(parse: Any, text: str, what: str, most: int | None = None) -> int:
    try:
        value = int(parse(text))
    except ValueError:
        value = 0
    if value == 0 or (most is not None and value > most):
        raise errors.ConfError(f'invalid {what} "{text}"')
    return value


def _sample(scope: Scope, text: str, log: str) -> sinks.Sample:
    """Read `N`, one of N sessions, or `N/s`, so many lines a second. It is ours."""
    is_rate = text.endswith("/s")
    number = _positive(units.parse_number, text.removesuffix("/s"), "sample", MOST_SAMPLE)
    cell = scope.builder.facts.cell(sinks.LEFT_OUT, log)
    return sinks.Sample(0 if is_rate else number, number if is_rate else 0, cell)


def _left_out(s: Session) -> bytes | None:
    found = s.module_ctx(sinks.LEFT_OUT_KEY)
    return None if found is None else b"%d" % found


def metrics(loop: Loop, stream: StreamConf) -> Iterator[Family]:
    """Yield what logs left out, where one does."""
    for fact in (sinks.LEFT_OUT, log_rate.LEFT_OUT):
        found = [
            (labels(log=cell.label), total)
            for cell, total in stream.facts.totals() if cell.fact is fact
        ]
        if found:
            yield Family(f"ngxstream_{fact.name}", COUNTER, fact.doc.rstrip("."), found)


def _buffer(spec: Spec, word: str, size: int, flush_ms: int, gzip: int) -> None:
    """Give a file its buffer; another log's has to be the same."""
    target = spec.target
    if isinstance(target, values.ComplexValue):
        raise errors.ConfError("buffered logs cannot have variables in name")
    if isinstance(target, syslog.Syslog):
        raise errors.ConfError("logs to syslog cannot be buffered")
    buffer = target.buffer
    if buffer is None:
        buffer = target.buffer = sinks.Buffer(target.file, size, flush_ms, gzip)
        target.file.flush = buffer.flush
    elif buffer.settings != (size, flush_ms, gzip):
        raise errors.ConfError(f'access_log "{word}" already defined with conflicting parameters')


def _open_log_file_cache(scope: Scope, module: Module, st: Statement) -> None:
    """Source: ngx_stream_log_open_file_cache"""
    given = scope.given_of(module)
    if "cache" in given:
        raise errors.ConfError(f'"{st.directive}" directive is duplicate')
    off = False
    found = {"max": 0, "inactive": 10, "min_uses": 1, "valid": 60}
    for word in st.args:
        name, equals, text = word.partition("=")
        if word == "off":
            off = True
            continue
        parse = units.parse_time_sec if name in ("inactive", "valid") else units.parse_number
        try:
            value = parse(text) if equals and name in found else -1
        except ValueError:
            value = -1
        if value < 0:
            raise errors.ConfError(f'invalid "open_log_file_cache" parameter "{word}"')
        found[name] = value
    if off:
        given["cache"] = None
        return
    if not found["max"]:
        raise errors.ConfError('"open_log_file_cache" must have "max" parameter')
    cache = open_cache.OpenLogCache(
        found["max"], found["inactive"], found["min_uses"], found["valid"]
    )
    _data(scope).caches.append(cache)
    given["cache"] = cache


def _flush(stream: StreamConf, loop: Loop) -> None:
    """Write what is buffered, and close what is kept open."""
    data: LogData | None = stream.data.get(NAME)
    if data is None:
        return
    for known in data.files.values():
        if known.buffer is not None:
            known.buffer.flush(loop.log)
    for cache in data.caches:
        cache.clear()
    for peer in data.peers:
        peer.close()  # the next line connects it again


DIRECTIVES: Final = (
    Directive("log_format", STREAM, d.TWO_MORE, _log_format, "What a line of an access log says."),
    Directive("access_log", BOTH, d.ONE_MORE, _access_log, "A log with a line for each session.",
              default="off"),
    Directive("open_log_file_cache", BOTH, d.TAKE14, _open_log_file_cache,
              "How many access logs whose paths hold variables are kept open.",
              default="off"),
)

MODULE = StreamModule(
    name=NAME,
    directives=DIRECTIVES,
    conf=LogConf,
    merge=_merge,
    handlers=(PhaseHandler(phases.LOG, handle, _is_wanted),),
    stop_worker=_flush,
    variables=(
        Variable("access_log_left_out", _left_out, NOCACHEABLE,
                 "How many sessions `sample` has left out since the log's last line, of a worker."),
    ),
    facts=(sinks.LEFT_OUT, log_rate.LEFT_OUT),
    keeps=(Kept(sinks.LEFT_OUT_KEY, stays="a session moves before it is logged"),),
    metrics=metrics,
    reopen=_flush,
)
