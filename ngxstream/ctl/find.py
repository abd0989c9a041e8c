"""Where the API of the running program listens: read out of the configuration its master uses.

1. Told which configuration (-c, -p), it is that one. Otherwise the masters that run are looked for
   in /proc: that of the only one is taken, of several one has to be named. Where none runs it is
   the default one.
2. Of several servers with `api` the one is taken that can do the most for who asks: write=on before
   read-only, a Unix socket before an address, no TLS before TLS.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from ngxstream.core import errors, log
from ngxstream.ctl import tables
from ngxstream.ctl.client import UNREACHABLE, USAGE, CtlError
from ngxstream.process import options as opts
from ngxstream.process import pidfile
from ngxstream.process.cycle import Reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ngxstream.event.listen_options import ListenOptions

_TITLE: Final = re.compile(r"(?:nginx|ngxstream): master process (.+)", re.DOTALL)


class Found(NamedTuple):
    """An API. Args: url: as Client.of takes it; write: whether it has write=on"""

    url: str
    write: bool


def find(given: Sequence[str]) -> Found:
    """Return the API of a program. Args: given: -c and -p with their values, or nothing

    Raises: CtlError
    """
    words = list(given)
    where = ""
    if not words:
        masters = list(_masters())
        if len(masters) > 1:
            known = "; ".join(sorted(tables.clean(" ".join(one)) for one, _ in masters))
            raise CtlError(f"{len(masters)} masters run, say which by -c or --url: {known}", USAGE)
        if masters:
            words, where = masters[0]
    try:
        options = opts.Options(["ngxstream", *_absolute(words, where)])
        found = apis(options)
    except (errors.NgxError, opts.OptionError, OSError) as error:
        raise CtlError(f"the configuration cannot be read to find the API: {_text(error)}; "
                       "name it by --url or --socket", UNREACHABLE) from None
    if not found:
        raise CtlError(
            f'no server of "{options.conf_file}" has an `api`; add one, for example '
            "`server { listen 127.0.0.1:8080; api; }`, or name another by --url or --socket",
            UNREACHABLE,
        )
    return found[0]


def apis(options: opts.Options) -> list[Found]:
    """Return the APIs of a configuration, the best first. Raises: NgxError, OSError"""
    reading = Reading(options, log.Log([]))
    if reading.stream is None:
        return []
    found: list[tuple[tuple[bool, bool, bool], int, Found]] = []
    for listening in reading.stream.listenings:
        for address in (listening.default, *(listening.addresses or {}).values()):
            for server in address.servers:
                api = getattr(server, "api", None)
                if api is None or api.shared is None or address.options.proxy_protocol:
                    continue
                rank = (not api.write, address.options.family != socket.AF_UNIX,
                        bool(address.ssl))
                found.append((rank, len(found),
                              Found(_url(address.options, api.prefix), api.write)))
    return [one for _, _, one in sorted(found)]


def _url(options: ListenOptions, prefix: str) -> str:
    address = options.sockaddr
    if not isinstance(address, tuple):
        return f"unix:{os.fsdecode(address)}:{prefix}"
    host, port = str(address[0]), address[1]
    if options.wildcard:
        host = "::1" if options.family == socket.AF_INET6 else "127.0.0.1"
    if ":" in host:
        host = f"[{host}]"
    return f"{'https' if options.ssl else 'http'}://{host}:{port}{prefix}"


def _masters() -> Iterator[tuple[list[str], str]]:
    """Yield -c and -p of every master of ours that runs, and its working directory."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                title = file.read(1 << 16).decode("utf-8", "replace").rstrip("\0")
        except OSError:
            continue
        match = _TITLE.match(title.replace("\0", " "))
        if match is None or not pidfile.is_ours(int(name)):
            continue
        try:
            where = os.readlink(f"/proc/{name}/cwd")
        except OSError:
            where = ""
        yield _paths(match[1].split(" ")), where


def _paths(words: list[str]) -> list[str]:
    """Return what a command line says of -c and -p; values may be glued to their option."""
    found = []
    words = words[1:]
    while words:
        word = words.pop(0)
        if word[:2] in ("-c", "-p"):
            value = word[2:] or (words.pop(0) if words else "")
            if value:
                found += [word[:2], value]
    return found


def _absolute(words: list[str], where: str) -> list[str]:
    """Make the prefix of another process's command line absolute."""
    return [
        os.path.join(where, value) if name == "-p" and where else value
        for name, value in zip(["", *words], words, strict=False)
    ]


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
