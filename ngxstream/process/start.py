"""From the command line to a tested, signalled or serving configuration (nginx.c main).

Every error up to here ends the program with exit code 1; it is said on standard error under the
program's name, and in the log that was given with -e.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
from typing import TYPE_CHECKING

from ngxstream.conf import dump, tokens
from ngxstream.conf import files as conf_files
from ngxstream.core import clock as clocks
from ngxstream.core import errors, files, log
from ngxstream.event import inherited
from ngxstream.process import (
    board,
    cycle,
    findings,
    first_steps,
    lazy,
    master,
    netcheck,
    netsetup,
    notify,
    pidfile,
    rendezvous,
    signals,
    system,
    upgrade,
    verdict,
)
from ngxstream.process.places import PID_PATH

if TYPE_CHECKING:
    from ngxstream.process.directives import MainConf
    from ngxstream.process.options import Options


def run(options: Options) -> int:
    """Do what the options say; return the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ^C prints no traceback
    collector = findings.Collector(options.program) if options.format else None
    builtin = builtin_log(options, collector or log.Console(options.program))
    for text in options.ignored:
        builtin.error(log.WARN, f'"-g {text}" is ignored: only the last "-g" is obeyed')
    try:
        if options.test:
            code = test(options, builtin)
            if collector is not None:
                _write_out(collector.json(options, passed=not code))
            return code
        if options.network:
            return print_network(options, builtin)
        if options.signal:
            return send_signal(options, builtin)
        return serve(options, builtin)
    except errors.NgxError as error:
        complain(error, builtin, options)
        point_out(options, builtin)
        if not (options.test or options.signal):
            notify.Notifier(os.environ).status(f"[{error.level}] {error}")
    except Exception:  # noqa: BLE001 - a fault of ours is a log line too
        builtin.write(log.ALERT, log.unexpected())
    finally:
        close_files(builtin)
    return 1


def builtin_log(options: Options, console: log.Console) -> log.Log:
    """Open the log of start-up: that of -e, or standard error where it cannot be opened.

    Source: ngx_log.c ngx_log_init
    """
    clock = clocks.Clock()
    table = files.OpenFiles()
    file = table.stderr()
    if options.error_log:
        file = table.get(options.error_log)
        try:
            file.open()
        except errors.ConfError as error:
            console.say(f"[alert] could not open error log file: {error}")
            file = table.stderr()
    target = log.FileTarget(file, log.NOTICE, clock)
    return log.Log([target], clock=clock, console=console)


def close_files(builtin: log.Log) -> None:
    """Let go of the log of start-up; standard error stays."""
    for target in builtin.targets:
        if isinstance(target, log.FileTarget):
            target.file.close()


def complain(error: errors.NgxError, to: log.Log, options: Options) -> None:
    """Log what ended the start, at the level of the error; who watches is told where to look."""
    to.error(log.LEVELS[error.level], *error.parts())
    hint = findings.advise(error, options)
    if isinstance(to.console, findings.Collector):
        to.console.blame(error, hint)
    elif hint and to.console is not None and not options.quiet:
        to.console.say(f"[notice] {hint}")


def point_out(options: Options, to: log.Log) -> None:
    """Print the commands that make what a host without nginx lacks, if that is what ended it."""
    commands = first_steps.missing(options)
    if commands and to.console is not None:
        to.console.say("[notice] this host lacks what nginx's packages make; so do these commands:")
        for command in commands:
            to.console.say(f"[notice]     {command}")


def test(options: Options, builtin: log.Log) -> int:
    """Build the configuration and let it go: -t, -T."""
    console = builtin.console
    assert console is not None
    try:
        built = cycle.Cycle(options, builtin)
    except errors.NgxError as error:
        complain(error, builtin, options)
        console.say(f"configuration file {options.conf_file} test failed")
        point_out(options, builtin)
        return 1
    built.check()
    for text in netcheck.warnings(built.stream):
        builtin.error(log.WARN, text)  # for the terminal, whatever level `error_log` has
    if not options.quiet:
        console.say(f"configuration file {options.conf_file} test is successful")
    if options.dump:
        _write_out(dump.dump(*built.reading.sources))
    built.abandon(None)
    return 0


def print_network(options: Options, builtin: log.Log) -> int:
    """Print what the configuration needs of the network: -N. Raises: ConfError"""
    reading = cycle.Reading(options, builtin)
    _write_out(log.encode(netsetup.script(reading.stream, options.conf_file)))
    return 0


def send_signal(options: Options, builtin: log.Log) -> int:
    """Find the master by its pid file and signal it: -s. A broken configuration stops us here.

    A reload is waited for: what the master finds wrong is said here, and the exit code is 1. Where
    it can be asked so, the configuration is checked once, by the master.
    Raises: NgxError. Source: ngx_cycle.c ngx_signal_process
    """
    number = signals.COMMANDS[options.signal]
    asked = number == signals.RECONFIGURE
    path = stated_pid(options) if asked else ""
    request = verdict.Request(pidfile.find(path), path) if pidfile.names_master(path) else None
    is_judged = request is not None and request.is_heard
    if not is_judged:
        main = cycle.Reading(options, builtin).main
        path = main.pid
    builtin.write(log.NOTICE, "signal process started")
    if not asked and (code := tell_orphans(main, options, builtin)) is not None:
        return code
    pid = pidfile.find(path)
    if asked and not is_judged:
        request = verdict.Request(pid, path)
    console = builtin.console
    assert console is not None
    try:
        pidfile.send(pid, number)
    except errors.NgxError:
        serving = [] if is_judged else rendezvous.Survivors().pids(main, options)
        if serving:
            console.say("[notice] the master process is gone, its worker processes serve on: "
                        f"{', '.join(map(str, serving))}; a start takes over from them")
        raise
    return 0 if request is None or request.wait(console.say) else 1


def stated_pid(options: Options) -> str:
    """Return where the pid file is, "" where that takes more than a look at one file."""
    name, depth = "", 0
    try:
        raw = conf_files.Disk().read(options.conf_file)
        text = tokens.Tokens(raw if b"pid" in raw or b"include" in raw else b"")
        while not (name or options.directives) and (end := text.read()):
            words = [word.raw for word in text.words]
            if end == b"}":
                depth -= 1
            elif depth:
                depth += end == b"{"
            elif end == b"{" and words[0] in (b"events", b"stream"):  # others have other grammars
                depth = 1
            elif end == b"{" or words[0] == b"include" or (words[0] == b"pid" and len(words) != 2):
                return ""
            elif words[0] == b"pid":
                name = tokens.unescaped(words[1])
    except (OSError, tokens.FaultError):
        return ""
    path = os.path.join(options.prefix, files.c_string(name) or PID_PATH)
    return "" if options.directives else path


def tell_orphans(main: MainConf, options: Options, builtin: log.Log) -> int | None:
    """Tell the workers of a master that is dead. Returns: the exit code, None for nobody told"""
    word = options.signal
    command = rendezvous.COMMANDS.get(word)
    masters = main.pid, pidfile.oldbin(main.pid)
    if command is None or any(map(pidfile.names_master, masters)):
        return None
    told, deaf = rendezvous.Survivors().order(main, options, command)
    if told:
        text = f"{word}: worker processes that outlived their master: {', '.join(map(str, told))}"
        builtin.write(log.NOTICE, text)
        assert builtin.console is not None
        builtin.console.say(f"[notice] {text}")
    if deaf:
        text = f"{word}: these worker processes do not hear it: {', '.join(map(str, deaf))}"
        builtin.error(log.ERR, text)
    return int(bool(deaf)) if told or deaf else None


def serve(options: Options, builtin: log.Log) -> int:
    """Build the configuration and serve by it, in the background if it says so.

    Raises: NgxError, while somebody still watches. Source: nginx.c main
    """
    lazy.end()
    lazy.load_all(netcheck, findings)  # of what is no service
    title = system.Title(options.program)
    value = os.environ.get(inherited.VARIABLE)
    came = [] if value is None else inherited.adopt(inherited.numbers(value, builtin), builtin)
    inherited.mark_lent(came, os.environ)
    came += inherited.adopt(inherited.lent(os.environ, builtin), builtin, lent=True)
    survivors = rendezvous.Survivors()
    orphaned = survivors.collect if value is None else None
    load = board.Load()
    built = cycle.Cycle(options, builtin, inherited=came, orphaned=orphaned)
    try:
        pidfile.check(built.main.pid)
    except errors.NgxError:
        built.abandon(None)
        raise
    link = upgrade.Link.of_environment()
    said = None if link is None else link.latest(upgrade.WAIT_S)
    if said is None:
        built.commit(None)
    else:
        known = [record.generation for record in said.records]
        built.generation = max(known, default=0) + upgrade.STEP
        built.commit(None, [key for record in said.records for key in record.steered])
        built.take_up(said.states)
    system.os_status(built.log, options.version)
    master.block_signals()
    detaching = None
    if built.main.daemon and value is None:  # who was given sockets is in the background already
        detaching = system.daemonize()
    pidfile.create(built.main.pid, os.getpid())
    if detaching is not None:
        system.detach(detaching)
    system.redirect_stderr(built.log, built.files)
    close_files(builtin)
    assert builtin.console is not None
    builtin.console.close()
    daemonized = built.main.daemon or value is not None
    gc.enable()
    return master.serve(built, title, survivors, daemonized=daemonized, link=link, load=load)


def _write_out(data: bytes) -> None:
    """Write to standard output. Raises: UnplacedError, where nginx leaves part out in silence"""
    try:
        if sys.stdout is None:  # was closed before we began
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except OSError:
            # what could not be written shall not be tried again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise
    except BrokenPipeError:
        pass  # the reader has seen enough
    except OSError as error:
        raise errors.UnplacedError("write() to standard output failed", errno=error) from None
