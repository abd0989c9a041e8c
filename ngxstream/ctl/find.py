"""Where the API of the running program listens: read out of the configuration its master uses.

1. Told which configuration (-c, -p), it is that one. Otherwise the masters that run are looked for
   in /proc: that of the only one is taken, of several one has to be named. Where none runs it is
   the default one. A master of another user than root and whoever asks counts only where there is
   no other: any process may have a master's title.
2. Of several servers with `api` the one is taken that can do the most for who asks: write=on before
   read-only, a Unix socket before an address, no TLS before TLS.
3. Nothing is read of a configuration but its `server` blocks. A program serves on while its file is
   being edited, while no name in it can be resolved, and who asks may not be allowed to read its
   keys; functions in Python are not loaded here.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from ngxstream.conf import reader
from ngxstream.core import errors
from ngxstream.ctl.client import UNREACHABLE, USAGE, CtlError
from ngxstream.process import options as opts
from ngxstream.process import pidfile
from ngxstream.stream import listen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ngxstream.conf.reader import Statement
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
    none = ""
    if not words:
        masters: dict[tuple[str, ...], list[int]] = {}  # during an upgrade two have the same
        for pid, options_, where in _masters():
            masters.setdefault(tuple(_absolute(options_, where)), []).append(pid)
        if len(masters) > 1:
            known = "; ".join(f"{', '.join(map(str, pids))} ({' '.join(one) or 'no options'})"
                              for one, pids in masters.items())
            raise CtlError(f"{len(masters)} programs run, say which by its -p and -c, or by --url: "
                           f"{known}", USAGE)
        if masters:
            words = list(*masters)
        else:
            none = "no master process runs here, and "
    try:
        options = opts.Options(["ngxstream", *words])
        found = apis(options)
    except (errors.NgxError, opts.OptionError, OSError) as error:
        raise CtlError(f"{none}the configuration cannot be read to find the API: {_text(error)}; "
                       "name it by --url or --socket", UNREACHABLE) from None
    if not found:
        raise CtlError(
            f'{none}no server of "{options.conf_file}" has an `api`; add one, for example '
            "`server { listen 127.0.0.1:8080; api; }`, or name another by --url or --socket",
            UNREACHABLE,
        )
    return found[0]


def apis(options: opts.Options) -> list[Found]:
    """Return the APIs of a configuration, the best first.

    Raises: NgxError for one that cannot be read, OSError
    """
    source = reader.read(options.conf_file, conf_prefix=options.conf_prefix)
    faults: list[errors.ConfError] = []
    listens: list[tuple[ListenOptions, Statement | None]] = []  # with the `api` of the server
    for stream in _named("stream", source.main.statements, faults):
        for server in _named("server", stream.block or (), faults):
            api = next(_named("api", server.block or (), faults), None)
            for st in _named("listen", server.block or (), faults):
                listens += [(one, api) for one in _addresses(st)]
    headed = {one.key for one, _ in listens if one.proxy_protocol}
    secure = {one.key for one, _ in listens if one.ssl}  # what one server says holds for the others
    found: list[tuple[tuple[bool, bool, bool], int, Found]] = []
    for one, api in listens:
        if api is None or one.key in headed or one.is_udp:
            continue
        write = "write=on" in api.args
        prefix = next((arg[7:] for arg in api.args if arg.startswith("prefix=")), "/api")
        is_secure = one.key in secure
        rank = (not write, one.family != socket.AF_UNIX, is_secure)
        found.append((rank, len(found), Found(_url(one, prefix, is_secure), write)))
    if not found and faults:
        raise faults[0]
    return [one for _, _, one in sorted(found)]


def _named(
    name: str, statements: Sequence[Statement], faults: list[errors.ConfError]
) -> Iterator[Statement]:
    """Yield the statements of a block that have a name, those of included files too."""
    for st in statements:
        if st.error is not None:
            faults.append(st.error)
        elif st.directive == name:
            yield st
        for file in st.includes or ():
            yield from _named(name, file.statements, faults)


class _Unheard:
    """Takes warnings about a `listen`, which the program itself has given."""

    def warn(self, message: str, level: str = "warn") -> None:
        """Say nothing."""


def _addresses(st: Statement) -> list[ListenOptions]:
    """Return what a `listen` names, nothing for one that the program would refuse."""
    try:
        return listen.parse(st.args, _Unheard()) if st.args else []
    except errors.NgxError:
        return []


def _url(options: ListenOptions, prefix: str, is_secure: bool) -> str:
    address = options.sockaddr
    if not isinstance(address, tuple):
        return f"unix:{os.fsdecode(address)}:{prefix}"
    host, port = str(address[0]), address[1]
    if options.wildcard:
        host = "::1" if options.family == socket.AF_INET6 else "127.0.0.1"
    if ":" in host:
        host = f"[{host}]"
    return f"{'https' if is_secure else 'http'}://{host}:{port}{prefix}"


def _masters() -> list[tuple[int, list[str], str]]:
    """Return pid, -c and -p of every master of ours that runs, and its working directory."""
    found = list(_running())
    believed = [one for one in found if one[0] in (0, os.geteuid())]
    return [one[1:] for one in believed or found]


def _running() -> Iterator[tuple[int, int, list[str], str]]:
    """Yield the user, and what _masters() returns, of all that look like a master."""
    for name in sorted(filter(str.isdigit, os.listdir("/proc")), key=int):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                title = file.read(1 << 16).decode("utf-8", "replace").rstrip("\0")
        except OSError:
            continue
        match = _TITLE.match(title.replace("\0", " "))
        if match is None or not pidfile.is_ours(int(name)):
            continue
        user = pidfile.user_of(int(name))
        if user < 0:
            continue
        try:
            where = os.readlink(f"/proc/{name}/cwd")
        except OSError:
            where = ""
        yield user, int(name), _paths(match[1].split(" ")), where


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
