"""Virtual servers of one address: server_name, and the choice by the name a client asks for.

Answers for ngx_stream_core_server_name, ngx_stream_validate_host and
ngx_stream_find_virtual_server (ngx_stream_core_module.c), ngx_stream_server_names (ngx_stream.c).
"""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, Final, NamedTuple

from ngxstream.conf.directive import SAID
from ngxstream.core import errors
from ngxstream.core.codes import BUSY, DECLINED, OK
from ngxstream.core.hostnames import HostTable
from ngxstream.core.log import encode
from ngxstream.stream import phases
from ngxstream.stream.captures import Pattern

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.directive import Said
    from ngxstream.conf.reader import Statement
    from ngxstream.stream.addresses import AddressDraft
    from ngxstream.stream.core import ServerConf, StreamDraft
    from ngxstream.stream.session import Session
    from ngxstream.stream.variables import VariableTable


class ServerName(NamedTuple):
    """One name of a server: `text` in lower case, or a regex without its `~`."""

    text: str
    regex: Pattern | None = None


def add_names(scope: Scope, st: Statement) -> None:
    """Enter the names of one server_name line. Raises: ConfError

    Source: ngx_stream_core_server_name
    """
    server: ServerConf = scope.owner
    table = scope.builder.data["stream"].variables
    for text in st.args:
        start = text[:1]
        if (start == "*" and (len(text) < 3 or text[1] != ".")) or text == ".":
            raise errors.ConfError(f'server name "{text}" is invalid')
        if "/" in text:
            scope.warn(f'server name "{text}" has suspicious symbols')
        if text.lower() == "$hostname":
            server.names.append(ServerName(socket.gethostname().lower()))
        elif start == "~":
            server.names.append(_regex_name(text, table))
        else:
            server.names.append(ServerName(lower(text)))


def _regex_name(text: str, table: VariableTable) -> ServerName:
    if text == "~":
        raise errors.ConfError(f'empty regex in server name "{text}"')
    pattern = text[1:]
    caseless = any("A" <= char <= "Z" for char in pattern)
    return ServerName(pattern, Pattern(pattern, caseless, table))


def lower(text: str) -> str:
    """Lower-case the ASCII letters, as ngx_strlow does."""
    return encode(text).lower().decode("utf-8", "surrogateescape")


def default_name(server: ServerConf) -> None:
    """Give a server without names the empty one, and settle $server_name.

    Source: ngx_stream_core_merge_srv_conf
    """
    if not server.names:
        server.names.append(ServerName(""))
    first = server.names[0]
    if first.regex is not None:
        server.server_name = "~" + first.text
    else:
        server.server_name = first.text.removeprefix(".")


class Names:
    """The names of all servers of one address."""

    __slots__ = ("hosts", "regexes", "has_conflict")

    def __init__(self) -> None:
        self.has_conflict = False  # whether a name was ignored
        self.hosts: HostTable[ServerConf] = HostTable()
        self.regexes: list[tuple[Pattern, ServerConf]] = []

    def find(self, s: Session, host: bytes) -> ServerConf | None:
        """Return the server for a valid host; a regex leaves its captures in the session.

        Source: ngx_stream_find_virtual_server
        """
        server = self.hosts.find(host)
        if server is None and host:
            for regex, server_of_regex in self.regexes:
                matches = regex.match(s, host)
                if matches:
                    return server_of_regex
                if matches is None:
                    break
        return server


def compile_names(address: AddressDraft, draft: StreamDraft) -> Names | None:
    """Make the table of an address; None where no name can make a difference.

    Raises: UnplacedError. Source: ngx_stream_optimize_servers, ngx_stream_server_names
    """
    if len(address.servers) == 1 and not _captures(address.default_server):
        return None
    names = Names()
    for server in address.servers:
        for name in server.names:
            if name.regex is not None:
                names.regexes.append((name.regex, server))
                continue
            code = names.hosts.add(encode(name.text), server)
            if code == DECLINED:
                raise errors.UnplacedError(
                    f'invalid server name or wildcard "{name.text}" on {address.options.text}'
                )
            if code == BUSY:
                names.has_conflict = True
                draft.warn(
                    f'conflicting server name "{name.text}" on {address.options.text}, ignored'
                )
    return names


def _captures(server: ServerConf) -> bool:
    """Tell whether it makes a difference which name of a server matched.

    nginx remembers of a server's regexes only what the last one said.
    """
    regexes = [name.regex for name in server.names if name.regex is not None]
    return bool(regexes) and regexes[-1].groups > 0


MAX_HOST: Final = 255  # bytes. Source: RFC 1035 §2.3.4; TLSEXT_MAXLEN_host_name of OpenSSL

# RFC 3986: unreserved, sub-delims, and the `%` of an encoded byte
_HOST: Final = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[A-Za-z0-9._~!$&'()*+,;=%:-]*\]")
_PORT: Final = re.compile(rb":([0-9]*)")


def valid_host(name: bytes) -> bytes | None:
    """Return the host to look up for a name a client sent, None where it is no host.

    Returns: lower case, without a port or a trailing dot; no more than MAX_HOST bytes
    Source: ngx_stream_validate_host
    """
    if len(name) > MAX_HOST:
        return None
    found = _HOST.match(name)
    if found is None or b".." in found[0]:
        return None
    rest = name[found.end() :]
    if rest:
        port = _PORT.fullmatch(rest)
        if port is None or len(port[1]) > 5 or int(port[1] or b"0") > 65535:
            return None
    return found[0].removesuffix(b".").lower() or None


def select(s: Session, name: bytes) -> None:
    """Go on under the server a client asked for by name, if there is one at its address.

    Source: ngx_stream_ssl_preread_servername
    """
    names: Names | None = s.address.names
    if names is None:
        return
    host = valid_host(name)
    if host is None:
        return
    server = names.find(s, host)
    if server is not None:
        s.select_server(server)


def recheck(s: Session) -> int:
    """Ask the checks of a server that was selected by name; those of the default server are done.

    nginx asks none: its rules of access for a name would be ignored there.

    Returns: OK, or the status to end the session with.
    """
    server = s.server
    if server is not s.address.default_server:
        for check in server.rechecks:
            code = check(s)
            if code not in (OK, DECLINED):
                return code
    return OK


# -- what runs before a name is known ----------------------------------------------------------


def settle_early(draft: StreamDraft) -> None:
    """Find the checks to be asked again, and warn of what a name comes too late for."""
    for server in draft.servers:
        server.rechecks = tuple(
            entry.run
            for module in draft.modules
            for entry in module.handlers
            if entry.again and entry.wanted(server)
        )
    warned: set[tuple[str, int]] = set()
    for address in draft.addresses:
        default = address.default_server
        if not (address.options.ssl or default.ssl_preread.ssl_preread):
            continue
        for server in address.servers:
            if server is not default and any(name.text for name in server.names):
                _warn_of_early(draft, server, default, warned)


def _warn_of_early(
    draft: StreamDraft, server: ServerConf, default: ServerConf, warned: set[tuple[str, int]]
) -> None:
    for module in draft.modules:
        early = [entry for entry in module.handlers if entry.phase < phases.SSL]
        said = _said_of(draft, server, module.name) if early else []
        if not said or (module.name, server.index) in warned:
            continue
        of_default = _said_of(draft, default, module.name)
        if [one[:2] for one in said] == [one[:2] for one in of_default]:
            continue
        warned.add((module.name, server.index))
        first = said[0]
        name = server.server_name or server.names[0].text
        if any(entry.again for entry in early):
            fate = "is obeyed after the rules of the default server, nginx ignores it"
        else:
            fate = "has no effect, it is looked at before the name is known"
        draft.warn(
            f'"{first.directive}" of the server "{name}" in {server.file}:{server.line}, '
            f"which is selected by name, {fate} in {first.file}:{first.line}"
        )


def _said_of(draft: StreamDraft, server: ServerConf, module: str) -> list[Said]:
    """Return the statements of a module that are in force in a server."""
    own: list[Said] = server.given.get(module, {}).get(SAID, [])
    return own or draft.given.get(module, {}).get(SAID, [])
