"""The program: what the options ask for is said here, or handed to process/start
(nginx.c main, ngx_show_version_info).

Only what a call needs is read for it: -v and -h answer without the proxy's modules (lazy.py).
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from typing import Final

from ngxstream.process import lazy, places
from ngxstream.process import options as opts

with lazy.waiting():
    import ssl

    from ngxstream.process import start

USAGE: Final = """\
Usage: {program} [-?hvVtTq{letter}] [-s signal] [-p prefix]
       {blank} [-e filename] [-c filename] [-g directives]

Options:
  -?,-h         : this help
  -v            : show version and exit
  -V            : show version and configure options then exit
  -t            : test configuration and exit
  -T            : test configuration, dump it and exit
  -q            : suppress non-error messages during configuration testing
{network}  -s signal     : send signal to a master process: stop, quit, reopen, reload
  -p prefix     : set prefix path (default: {prefix})
  -e filename   : set error log file (default: {error_log})
  -c filename   : set configuration file (default: {conf})
  -g directives : set global directives out of configuration file
"""

# Printed under our own name only: nginx's -h has no such line.
NETWORK: Final = """\
  --format=json : with -t: print what was found as JSON, for editors and CI systems
  -N            : print the commands that set the network up for transparent proxy_bind, and exit
"""

# What scripts search in `nginx -V` to know what a build can do.
CONFIGURE: Final = (
    f"--prefix={places.PREFIX.rstrip('/')}", f"--conf-path={places.CONF_PATH}",
    f"--error-log-path={places.ERROR_LOG_PATH}", f"--pid-path={places.PID_PATH}",
    f"--lock-path={places.LOCK_PATH}", "--with-debug", "--with-stream",
    "--with-stream_geoip_module",
    "--with-stream_realip_module", "--with-stream_ssl_module", "--with-stream_ssl_preread_module",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code. Args: argv: those of the process if None"""
    argv = sys.argv if argv is None else argv
    try:
        options = opts.Options(argv)
    except opts.OptionError as error:
        _say(f"{opts.program_name(argv[0] if argv else '')}: {error}\n")
        return 1
    if options.show_version:
        _say(version_info(options))
        if not options.test:
            return 0
    collects = gc.isenabled()
    gc.disable()  # what is read and built here is kept: there is nothing to collect
    try:
        with lazy.waiting():
            return start.run(options)
    finally:
        if collects:
            gc.enable()


def program() -> int:
    """Run the program as a process of its own; return its exit code."""
    code = main()
    gc.freeze()  # or the interpreter looks for cycles in all of it before it ends
    return code


def version_info(options: opts.Options) -> str:
    """Return what -v, -h and -V print. Source: nginx.c ngx_show_version_info"""
    program = options.program
    text = f"{program} version: {options.version}\n"
    if options.show_help:
        text += USAGE.format(
            program=program, letter="" if program == opts.NGINX else "N",
            network="" if program == opts.NGINX else NETWORK, blank=" " * len(program),
            prefix=places.PREFIX, error_log=places.ERROR_LOG_PATH, conf=places.CONF_PATH,
        ) + "\n"
    if options.show_configure:
        text += (
            f"built by {sys.implementation.name} {sys.version}\n".replace("\n", " ").rstrip() + "\n"
            f"built with {ssl.OPENSSL_VERSION}\n"
            "TLS SNI support enabled\n"
            f"configure arguments: {' '.join(CONFIGURE)}\n"
        )
    return text


def _say(text: str) -> None:
    """Write to standard error at once, as nginx does for versions too."""
    try:
        os.write(2, text.encode("utf-8", "surrogateescape"))
    except OSError:
        return  # nobody is listening
