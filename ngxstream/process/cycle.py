"""A cycle: one configuration and everything it owns, built beside the old one and then committed
or abandoned whole.

Answers for ngx_init_cycle (src/core/ngx_cycle.c). Its steps are in the order of nginx's checks:

1. -g and the file are read and checked; -t says "syntax is ok".
2. The main and events contexts are completed ("no events section", too few connections).
3. The pid file, if its name is new; the logs are opened; zones are made or adopted; addresses
   are bound or adopted. Whatever fails here undoes all of it and leaves the old cycle as it was.
4. prepare() makes the sockets ready for workers beside those of the old cycle. When they have
   begun, settle() takes what cannot be undone: what only the old cycle listened at, standard
   error. When they cannot, withdraw() leaves the old cycle as it was. commit() is both at once,
   where no old workers serve.

What only the old cycle had is let go of in two steps: its addresses when the new one is settled,
its logs and zones by retire(), when the last worker that uses them has left.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from ngxstream import modules
from ngxstream.conf import builder, directive, error_log, reader
from ngxstream.conf import files as conf_files
from ngxstream.core import errors, files, log, shm, shm_facts, shm_zones
from ngxstream.event import listening
from ngxstream.event.inherited import merge
from ngxstream.process import (
    board,
    certificates,
    directives,
    elsewhere,
    events,
    lazy,
    pidfile,
    status,
    status_workers,
    system,
    writable,
)
from ngxstream.stream import core_facts

if TYPE_CHECKING:
    from ngxstream.core.inet import ListenKey
    from ngxstream.event.listening import Listening
    from ngxstream.process.options import Options
    from ngxstream.stream.core import StreamConf

MODULES: Final = (
    *directives.MODULES, status.MODULE, status_workers.MODULE, certificates.MODULE, *modules.ALL
)


class Reading:
    """A configuration that was read and checked, nothing of it opened: enough for -s and -T.

    Raises: ConfError with nginx's words
    """

    __slots__ = (
        "sources",  # list[reader.Source]: of -g, if given, and of the file
        "main",  # directives.MainConf
        "events",  # events.EventsConf
        "stream",  # StreamConf | None
        "zones",  # shm_zones.ZoneTable, not built
        "files",  # files.OpenFiles, not opened
        "facts",  # facts.Facts, nothing is counted
        "capabilities",  # frozenset[str]: what a worker that gives root up keeps
    )

    def __init__(
        self, options: Options, to: log.Log, texts: Mapping[str, bytes] | None = None
    ) -> None:
        """Args: texts: stand for the files. Warnings go to the log at once."""
        where = None if texts is None else conf_files.Memory(texts)

        def warn(level: str, message: str) -> None:
            to.error(log.LEVELS[level], message)

        building = builder.Builder(
            MODULES, prefix=options.prefix, conf_prefix=options.conf_prefix, warn=warn,
            elsewhere=elsewhere.NAMES,
        )
        is_tried = options.test or options.network or bool(options.signal)
        building.data["process"] = "test" if is_tried else "master", options.conf_file
        building.data["signals"] = bool(options.signal)  # no function of users will be called
        self.zones = building.data["zones"] = shm_zones.ZoneTable()
        self.files = building.data["files"] = files.OpenFiles()
        self.facts = building.facts
        self.sources: list[reader.Source] = []
        scope = builder.Scope(building, directive.MAIN)
        if options.directives:
            given = reader.read_text(
                options.directives, conf_prefix=options.conf_prefix, files=where
            )
            self.sources.append(given)
            building.build(given.main.statements, scope)
        source = reader.read(options.conf_file, conf_prefix=options.conf_prefix, files=where)
        self.sources.append(source)
        building.build(source.main.statements, scope)
        if options.test and not options.quiet and to.console is not None:
            to.console.say(f"the configuration file {options.conf_file} syntax is ok")
        self.main = directives.main_conf(scope)
        writable.warn_of_folders(building, self.main.user)
        self.stream: StreamConf | None = building.data.get("stream_conf")
        listenings = self.stream.listenings if self.stream is not None else ()
        self.events = events.events_conf(building, len(listenings))
        self.capabilities = frozenset(building.data.get("capabilities", ()))


class Cycle:
    """One configuration being served. Old ones stay referenced while their workers live."""

    __slots__ = (
        "generation",  # int: 1 for the first of a master, then counted up
        "built_ms",  # int: when that began, since 1970
        "options",  # Options
        "reading",  # Reading
        "main",  # directives.MainConf
        "events",  # events.EventsConf
        "stream",  # StreamConf | None
        "log",  # log.Log: the main error_log
        "files",  # files.OpenFiles
        "zones",  # shm_zones.ZoneTable
        "listenings",  # list[Listening], in the order of stream.listenings
        "lingering",  # list[Listening]: UDP addresses of former cycles whose sessions go on
        "inherited",  # Sequence[Listening]: what came with the process; only the first cycle's
        "serial",  # shm.Serial: connection numbers, one for all cycles of a master
        "facts",  # facts.Facts
        "rows",  # shm_facts.Rows: what they count in, one for all cycles of a master
        "board",  # board.Board | None: what an `api` shows of the program
        "workers",  # int: processes that serve (1 without a master)
        "takes_over",  # bool: workers of a dead master are to hand their UDP clients over
        "refused",  # int: cycles that had workers for a moment, and were to follow this one
        "_new_pid",  # str: pid file made for this cycle, "" for none
    )

    def __init__(
        self, options: Options, to: log.Log, old: Cycle | None = None,
        inherited: Sequence[Listening] = (),
        orphaned: Callable[[Cycle], list[Listening]] | None = None,
    ) -> None:
        """Build a cycle beside `old` (or out of nothing) in the order of ngx_init_cycle.

        Args: to: hears of warnings and of bind(); inherited: sockets that came with the
        process; orphaned: orphaned(cycle) finds those of workers whose master died
        Raises: ConfError, ListenError; nothing is left of the new cycle then
        """
        self.generation: int = old.generation + 1 + old.refused if old is not None else 1
        self.refused: int = 0
        self.built_ms = int(to.clock.now() * 1000)
        self.options = options
        reading = self.reading = Reading(options, to)
        self.main = reading.main
        self.events = reading.events
        self.stream = reading.stream
        if self.stream is None and not options.test:  # where nginx is silent, -t is too
            to.error(log.WARN, 'no "stream" block in configuration, nothing is served')
        self.zones = reading.zones
        self.files = reading.files
        self.facts = reading.facts
        self.serial: shm.Serial = old.serial if old is not None else shm.Serial()
        self.rows: shm_facts.Rows = old.rows if old is not None else shm_facts.Rows()
        self.board: board.Board | None = None
        if self.stream is not None and self.stream.is_shown and not options.test:
            before = old.board if old is not None else None
            self.board = before or board.Board(to.clock)
        self.workers = max(1, self.main.worker_processes) if self.main.master_process else 1
        self.inherited = inherited
        self.listenings: list[Listening] = []
        self.lingering: list[Listening] = []
        self.takes_over = False
        self._new_pid = ""
        self.log = self._make_logs(to)
        try:
            self._make_pid_file(old)
            self.files.open_all()
            self.zones.build(old.zones if old is not None else None)
            self.facts.attach(self.rows)
            if orphaned is not None:
                inherited = self.inherited = merge(orphaned(self), inherited)
            self.listenings = listening.open_all(
                [conf.options for conf in self.stream.listenings] if self.stream else [],
                [*old.lingering, *old.listenings] if old is not None else inherited,
                workers=self.workers,
                log=self.log if old is None else to,
                test=options.test,
            )
        except errors.NgxError:
            self.abandon(old)
            raise

    @classmethod
    def revive(
        cls, beside: Cycle, generation: int, texts: Mapping[str, bytes],
        steered: Mapping[ListenKey, int],
    ) -> Cycle:
        """Make a cycle that was another master's, for the sake of its UDP sessions.

        Args: beside: the cycle that serves, whose sockets it has; texts: its files, steered
        the workers of each address. Raises: NgxError
        """
        self = cls.__new__(cls)
        self.generation = generation
        self.refused = 0
        self.built_ms = beside.built_ms
        self.options = beside.options
        quiet = log.Log([], clock=beside.log.clock)  # what there is to say was said
        reading = self.reading = Reading(beside.options, quiet, texts)
        self.main = reading.main
        self.events = reading.events
        self.stream = reading.stream
        self.zones = reading.zones
        self.files = reading.files
        self.facts = reading.facts
        self.serial = beside.serial
        self.rows = beside.rows
        self.board = beside.board
        self.workers = max(1, self.main.worker_processes)
        self.inherited = ()
        self.takes_over = False
        self.lingering = []
        self._new_pid = ""
        self.log = self._make_logs(beside.log)
        self.files.open_all()
        self.zones.build(beside.zones)
        self.facts.attach(self.rows)
        known = {one.options.key: one for one in (*beside.listenings, *beside.lingering)}
        self.listenings = []
        for conf in self.stream.listenings if self.stream is not None else ():
            key = conf.options.key
            listening_ = listening.Listening(conf.options, known.get(key))
            listening_.steered = steered.get(key, 0)
            listening_.previous = None
            self.listenings.append(listening_)
        return self

    @property
    def adopted(self) -> int:
        """How many UDP sessions workers have taken over from others, so far."""
        return self.facts.cell(directives.ADOPTED).total

    def _make_logs(self, to: log.Log) -> log.Log:
        """Make the logs of the main context and of the servers; their files are opened later."""
        clock, console = to.clock, to.console
        specs = error_log.with_default(self.main.error_log, self.options.error_log)
        shown = self.board.lines if self.board is not None else None
        main = error_log.make_log(specs, self.files, clock=clock, console=console, shown=shown)
        if self.stream is not None:

            def make(own: tuple[error_log.Spec, ...]) -> log.Log:
                return error_log.make_log(
                    own, self.files, clock=clock, console=console, main=main, shown=shown
                )

            self.stream.use_main_log(main, make)
        return main

    def _make_pid_file(self, old: Cycle | None) -> None:
        """Create the pid file where -t and a reload that renames it do. Raises: UnplacedError

        Source: ngx_create_pidfile
        """
        path = self.main.pid
        if self.options.test:
            pidfile.create(path, None)
        elif old is not None and not pidfile.is_same(old.main.pid, path):
            pidfile.check(path)
            pidfile.create(path, os.getpid())
            self._new_pid = path

    def commit(self, old: Cycle | None, lingering: Iterable[ListenKey] = ()) -> None:
        """Make this the cycle that serves; what only the old one listened at is closed.

        Args: lingering: keys of inherited UDP addresses that sessions of others live by
        """
        self.prepare(old, lingering)
        self.settle(old)

    def prepare(self, old: Cycle | None, lingering: Iterable[ListenKey] = ()) -> None:
        """Make everything ready for workers; those of the old cycle go on. Args: as commit"""
        lazy.load_scripting()
        handed_over = (
            self.takes_over or bool(lingering) or (old is not None and old.main.master_process)
        )
        listening.configure(self.listenings, workers=self.workers, log=self.log, defer=handed_over)
        self._announce()
        wanted = set(lingering)
        kept = {id(sock) for one in self.listenings for sock in one.socks}
        self.lingering = [
            one for one in self._before(old)
            if one.options.is_udp
            and (old is not None or one.options.key in wanted)
            and not any(id(sock) in kept for sock in one.socks)
        ]
        for one in self.lingering:
            self.facts.cell(core_facts.DROPPED, core_facts.label_of(one.options))

    def _before(self, old: Cycle | None) -> list[Listening]:
        """Return what was listened at before this cycle."""
        return list(self.inherited) if old is None else [*old.lingering, *old.listenings]

    def settle(self, old: Cycle | None) -> None:
        """Let go of what only the old cycle had, and of the way back to it."""
        self.redirect_stderr()
        lingering = {id(one) for one in self.lingering}
        gone = [one for one in self._before(old) if id(one) not in lingering]
        listening.release(gone, self.listenings, log=self.log)
        listening.settle(self.listenings)
        self.inherited = ()
        if old is not None and self._new_pid:
            self._remove_pid_file(old.main.pid)
        self._new_pid = ""

    def withdraw(self, old: Cycle) -> None:
        """Undo prepare() and close what this cycle opened; logs and zones stay until retire()."""
        listening.restore(self.listenings, log=old.log)
        listening.abandon(self.listenings)
        if self._new_pid:
            self._remove_pid_file(self._new_pid)
            self._new_pid = ""

    def forget(self, old: Cycle) -> None:
        """Close a worker's copies of the sockets that only the old cycle has."""
        kept = {id(s) for one in (*self.listenings, *self.lingering) for s in one.socks}
        for one in self._before(old):
            for sock in one.socks:
                if id(sock) not in kept:
                    sock.close()

    def release_lingering(self, needed: Iterable[Cycle]) -> None:
        """Close the addresses of former cycles that no session of `needed` was accepted at."""
        used = {id(sock) for cycle in needed for one in cycle.listenings for sock in one.socks}
        gone: list[Listening] = []
        left: list[Listening] = []
        for one in self.lingering:
            (left if any(id(sock) in used for sock in one.socks) else gone).append(one)
        self.lingering = left
        listening.release(gone, self.listenings, log=self.log)

    def suspend(self) -> None:
        """Have workers change nothing that the next configuration reads, which begins with it."""
        if self.stream is not None:
            self.stream.suspend()

    def resume(self) -> None:
        """Let them go on: this is the configuration that serves."""
        if self.stream is not None:
            self.stream.resume()

    def take_up(self, states: Mapping[str, bytes]) -> None:
        """Begin with what another binary's master has handed on, as far as it is understood."""
        for fault in self.stream.take_up(states) if self.stream is not None else ():
            self.log.error(log.WARN, f"what the other binary handed on is not understood: {fault}")

    def check(self) -> None:
        """Do what is left for -t once the build succeeded. Source: ngx_event_module_init"""
        self._check_limit()

    def abandon(self, old: Cycle | None) -> None:
        """Undo the build; the old cycle has everything it had."""
        listening.abandon(self.listenings)
        self.facts.attach(None)
        self.zones.close(keep=old.zones if old is not None else None)
        self.files.close_all()
        if self._new_pid:
            self._remove_pid_file(self._new_pid)
            self._new_pid = ""

    def retire(self, others: Iterable[Cycle]) -> None:
        """Let go of logs and zones: no worker of this cycle is left.

        Args: others: all cycles that still have workers
        """
        self.facts.attach(None)
        kept = {id(zone) for other in others for zone in other.zones.zones()}
        for zone in self.zones.zones():
            if id(zone) not in kept:
                zone.close()
        self.files.close_all()

    def reopen(self, to: log.Log, owner: int | None) -> None:
        """Open all logs anew. Args: owner: the uid they are given to, if any"""
        self.files.reopen_all(to, owner)
        self.redirect_stderr()

    def _announce(self) -> None:
        self.log.error(log.NOTICE, f'using the "{self.events.use}" event method')
        self._check_limit()

    def _check_limit(self) -> None:
        """Warn of more connections than there may be descriptors. Source: ngx_event_module_init"""
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        connections = self.events.worker_connections
        own = self.main.worker_rlimit_nofile
        if (
            limit not in (-1, resource.RLIM_INFINITY)
            and connections > limit
            and (own is None or connections > own)
        ):
            self.log.error(
                log.WARN,
                f"{connections} worker_connections exceed open file resource limit: {limit}",
            )

    def redirect_stderr(self) -> None:
        """Let standard error be the error log, unless somebody is watching it still."""
        console = self.log.console
        if console is None or not console.is_open:
            system.redirect_stderr(self.log, self.files)

    def _remove_pid_file(self, path: str) -> None:
        error = pidfile.remove(path)
        if error is not None:
            self.log.error(log.ALERT, f'unlink() "{path}" failed', error)


def rebuild(old: Cycle, to: log.Log | None = None) -> Cycle | None:
    """Build the next cycle, to be committed; None when the old one has to go on.

    A refusal is in the old cycle's log, in nginx's words and at its level. Args: to: writes there
    """
    if to is None:
        to = old.log
    to.error(log.NOTICE, "reconfiguring")
    old.suspend()
    new = None
    try:
        new = Cycle(old.options, to, old)
    except errors.NgxError as error:
        to.error(log.LEVELS[error.level], *error.parts())
    finally:
        if new is None:
            old.resume()
    return new
