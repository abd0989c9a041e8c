"""Virtual servers of one address: server_name, and the choice by the name a client asks for.

Answers for ngx_stream_core_server_name, ngx_stream_validate_host and
ngx_stream_find_virtual_server (ngx_stream_core_module.c), ngx_stream_server_names (ngx_stream.c).
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, NamedTuple

from ngxstream.core import errors
from ngxstream.core.codes import BUSY, DECLINED
from ngxstream.core.hostnames import HostTable
from ngxstream.stream.captures import Pattern

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.reader import Statement
    from ngxstream.stream.core import AddressDraft, ServerConf, StreamDraft
    from ngxstream.stream.session import Session


class ServerName(NamedTuple):
    """One name of a server. shape: `text` in lower case, or a regex without its `~`."""

    text: str
    regex: Pattern | None = None


def add_names(scope: Scope, st: Statement) -> None:
    """Enter the names of one server_name line. raises: ConfError

    source: ngx_stream_core_server_name
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


def _regex_name(text: str, table) -> ServerName:
    if text == "~":
        raise errors.ConfError(f'empty regex in server name "{text}"')
    pattern = text[1:]
    caseless = any("A" <= char <= "Z" for char in pattern)
    return ServerName(pattern, Pattern(pattern, caseless, table))


def lower(text: str) -> str:
    """Lower-case the ASCII letters, as ngx_strlow does."""
    return text.encode("utf-8", "surrogateescape").lower().decode("utf-8", "surrogateescape")


def default_name(server: ServerConf) -> None:
    """Give a server without names the empty one, and settle $server_name.

    source: ngx_stream_core_merge_srv_conf
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

    __slots__ = ("hosts", "regexes")

    def __init__(self) -> None:
        self.hosts: HostTable[ServerConf] = HostTable()
        self.regexes: list[tuple[Pattern, ServerConf]] = []

    def find(self, s: Session, host: bytes) -> ServerConf | None:
        """Return the server for a valid host; a regex leaves its captures in the session.

        source: ngx_stream_find_virtual_server
        """
        server = self.hosts.find(host)
        if server is None and host:
            for regex, server_of_regex in self.regexes:
                if regex.match(s, host):
                    return server_of_regex
        return server


def compile_names(address: AddressDraft, draft: StreamDraft) -> Names | None:
    """Make the table of an address; None where no name can make a difference.

    raises: UnplacedError. source: ngx_stream_optimize_servers, ngx_stream_server_names
    """
    only = address.default_server
    if len(address.servers) == 1 and not (
        # nginx remembers only whether the last regex of the server captures
        [name.regex.groups for name in only.names if name.regex is not None][-1:] or [0]
    )[0]:
        return None
    names = Names()
    for server in address.servers:
        for name in server.names:
            if name.regex is not None:
                names.regexes.append((name.regex, server))
                continue
            code = names.hosts.add(name.text.encode("utf-8", "surrogateescape"), server)
            if code == DECLINED:
                raise errors.UnplacedError(
                    f'invalid server name or wildcard "{name.text}" on {address.options.text}'
                )
            if code == BUSY:
                draft.warn(
                    f'conflicting server name "{name.text}" on {address.options.text}, ignored'
                )
    return names


# What nginx 1.29 and later let through (facts on host validation): anything else is no host.
HOST_BYTES = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=%"
)


def valid_host(name: bytes) -> bytes | None:
    """Return the host to look up for a name a client sent, or None where it is not one.

    shape: lower case, without a trailing dot or a port
    source: ngx_stream_validate_host
    """
    if name[:1] == b"[":
        end = name.find(b"]")
        if end < 0:
            return None
        host, rest = name[: end + 1], name[end + 1 :]
        if rest and rest[:1] != b":":
            return None
        return host.lower()
    host = name.partition(b":")[0]
    if b".." in name or not HOST_BYTES.issuperset(host):
        return None
    host = host.removesuffix(b".")
    return host.lower() or None
